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

/// The shares of the sandboxes of each class. As large as the list of sandboxes.
#[derive(Default)]
pub struct Weights(Mutex<BTreeMap<String, BTreeMap<String, u64>>>);

impl Weights {
    /// Notes what a sandbox in `class` (a cgroup below the root of each tree) asks for, `None` for one that runs no more, and
    /// writes what the class weighs now. Blocks for a write, under the lock: a later sum is never overwritten by an earlier.
    ///
    /// # Errors
    /// The kernel's. A class or a controller that is not there is none.
    pub fn note(&self, class: &str, sandbox: &str, shares: Option<u64>) -> io::Result<()> {
        let mut classes = self.0.lock();
        let members = classes.entry(class.to_owned()).or_default();
        let changed = match shares {
            Some(shares) => members.insert(sandbox.to_owned(), shares) != Some(shares),
            None => members.remove(sandbox).is_some(),
        };
        if !changed {
            return Ok(());
        }
        match write(class, together(members.values().copied())) {
            Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(()),
            other => other,
        }
    }
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
    fn a_class_weighs_what_its_members_ask_for() {
        assert_eq!(together([].into_iter()), 2);
        assert_eq!(together([2, 2, 2].into_iter()), 2, "they ask for nothing");
        assert_eq!(together([512, 2, 1024].into_iter()), 1536);
        assert_eq!(together([u64::MAX, 7].into_iter()), 262_144);
    }
}
