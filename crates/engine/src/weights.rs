//! What the classes of pods weigh against one another. A class (`burstable`, `besteffort`) is a cgroup with pods in it, and
//! the kernel shares out processor time level by level: without a weight of its own a class would get as much as one pod that
//! asks for one CPU, whatever the pods in it ask for together.

use std::collections::BTreeMap;
use std::io;

use parking_lot::Mutex;

/// Bounds of `cpu.shares` (cgroups v1).
const SHARES_MIN: u64 = 2;
const SHARES_MAX: u64 = 262_144;
/// Bounds of `cpu.weight` (cgroups v2).
const WEIGHT_MIN: u64 = 1;
const WEIGHT_MAX: u64 = 10_000;

/// What a sandbox asks for of what is shared out level by level.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Asked {
    /// Processor time; `None` among sandboxes that are no class: each weighs by itself there.
    pub shares: Option<u64>,
    /// Memory that is never taken back, and such that is taken back last, bytes.
    pub memory: (u64, u64),
}

/// What the sandboxes of each class ask for. As large as the list of sandboxes.
#[derive(Default)]
pub struct Weights(Mutex<BTreeMap<String, BTreeMap<String, Asked>>>);

impl Weights {
    /// Notes what a sandbox in `class` (a cgroup below the root of each tree) asks for, `None` for one that runs no more, and
    /// writes what the class has now. Blocks for writes, under the lock: a later sum is never overwritten by an earlier.
    ///
    /// # Errors
    /// The kernel's. A class or a controller that is not there is none.
    pub fn note(&self, class: &str, sandbox: &str, asked: Option<Asked>) -> io::Result<()> {
        let mut classes = self.0.lock();
        let members = classes.entry(class.to_owned()).or_default();
        let before = memory(members.values());
        let old = match asked {
            Some(asked) => members.insert(sandbox.to_owned(), asked),
            None => members.remove(sandbox),
        };
        if old == asked {
            return Ok(());
        }
        let shares: Vec<u64> = members.values().filter_map(|asked| asked.shares).collect();
        let weighs = !shares.is_empty() || old.is_some_and(|asked| asked.shares.is_some());
        let weighed = if weighs { write(class, together(shares.into_iter())) } else { Ok(()) };
        let now = memory(members.values());
        let kept = if now == before { Ok(()) } else { keep(class, now) };
        match weighed.and(kept) {
            Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(()),
            other => other,
        }
    }
}

/// The memory of a class: what is kept of a cgroup is kept only as far as of the one above it (Documentation/admin-guide/
/// cgroup-v2.rst, `memory.min`).
fn memory<'a>(members: impl Iterator<Item = &'a Asked>) -> (u64, u64) {
    members.fold((0, 0), |(min, low), asked| {
        (u64::saturating_add(min, asked.memory.0), u64::saturating_add(low, asked.memory.1))
    })
}

/// Cgroups v1 have nothing of the kind.
fn keep(class: &str, (min, low): (u64, u64)) -> io::Result<()> {
    let Some(dir) = shim::cgroup::dir_of("memory", class).filter(|_| shim::cgroup::is_unified()) else { return Ok(()) };
    std::fs::write(dir.join("memory.min"), min.to_string())?;
    std::fs::write(dir.join("memory.low"), low.to_string())
}

/// The shares of a class: those of its members that ask for any. The least there is for one that asks for none, as the class
/// of pods without requests, so that it runs on what the others leave.
fn together(members: impl Iterator<Item = u64>) -> u64 {
    let asked = members.filter(|shares| *shares > SHARES_MIN).fold(0, u64::saturating_add);
    asked.clamp(SHARES_MIN, SHARES_MAX)
}

fn write(class: &str, shares: u64) -> io::Result<()> {
    let Some(dir) = shim::cgroup::dir_of("cpu", class) else { return Ok(()) };
    match shim::cgroup::is_unified() {
        true => std::fs::write(dir.join("cpu.weight"), weight_of(shares).to_string()),
        false => std::fs::write(dir.join("cpu.shares"), shares.to_string()),
    }
}

/// The `cpu.weight` of v1 shares: the curve of the OCI runtimes, which has 1024 shares at the default of 100 and the ends of
/// both ranges at each other (opencontainers/cgroups, `ConvertCPUSharesToCgroupV2Value`).
#[allow(clippy::cast_precision_loss, clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "1 to 262144")]
pub fn weight_of(shares: u64) -> u64 {
    if shares <= SHARES_MIN {
        return WEIGHT_MIN;
    }
    if shares >= SHARES_MAX {
        return WEIGHT_MAX;
    }
    let log = (shares as f64).log2();
    let weight = 10f64.powf((log * log + 125.0 * log) / 612.0 - 7.0 / 34.0).ceil();
    (weight as u64).clamp(WEIGHT_MIN, WEIGHT_MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shares_and_weights_meet_at_both_ends_and_at_their_defaults() {
        let wanted = [(0, 1), (2, 1), (102, 17), (1024, 100), (262_144, 10_000), (1 << 40, 10_000)];
        assert_eq!(wanted.map(|(shares, _)| (shares, weight_of(shares))), wanted);
        assert!((2..262_144).step_by(97).all(|s| weight_of(s) <= weight_of(s + 97)));
    }

    #[test]
    fn a_class_keeps_what_its_members_keep() {
        let asked = |min, low| Asked { shares: None, memory: (min, low) };
        assert_eq!(memory([asked(1, 0), asked(2, 5), asked(0, 7)].iter()), (3, 12));
        assert_eq!(memory([asked(u64::MAX, 0), asked(1, 0)].iter()), (u64::MAX, 0));
    }

    #[test]
    fn a_class_weighs_what_its_members_ask_for() {
        assert_eq!(together([].into_iter()), 2);
        assert_eq!(together([2, 2, 2].into_iter()), 2, "they ask for nothing");
        assert_eq!(together([512, 2, 1024].into_iter()), 1536);
        assert_eq!(together([u64::MAX, 7].into_iter()), 262_144);
    }
}
