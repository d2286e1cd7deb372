//! Which of the host's user and group ids belong to which sandbox with a user namespace of its own.

use std::collections::{BTreeMap, BTreeSet};

use parking_lot::Mutex;
use shim::users::RANGE;

use crate::runtime::RuntimeError;

/// Ranges from the second on, up to where a signed id would turn negative: the first is the host's own users.
const SLOTS: u32 = (1 << 31) / RANGE - 1;

/// The ranges in use. The sandboxes' records say the same on the disk, and are what a start reads.
#[derive(Default)]
pub struct Ranges {
    /// First id, by sandbox.
    taken: Mutex<BTreeMap<String, u32>>,
}

impl Ranges {
    /// Takes a range for a sandbox of an instance; the one that it has, if it has one.
    ///
    /// # Errors
    /// When every range is taken.
    pub fn take(&self, instance: &str, sandbox: &str) -> Result<u32, RuntimeError> {
        let mut taken = self.taken.lock();
        if let Some(base) = taken.get(sandbox) {
            return Ok(*base);
        }
        let used: BTreeSet<u32> = taken.values().copied().collect();
        let base = choose(instance, sandbox, &used).ok_or_else(|| RuntimeError::Failed {
            operation: "make user namespace",
            message: format!("all {SLOTS} ranges of {RANGE} ids are taken"),
        })?;
        taken.insert(sandbox.to_owned(), base);
        Ok(base)
    }

    /// What a sandbox from before a restart has.
    pub fn keep(&self, sandbox: &str, base: u32) {
        self.taken.lock().insert(sandbox.to_owned(), base);
    }

    /// The sandbox is no more.
    pub fn free(&self, sandbox: &str) {
        self.taken.lock().remove(sandbox);
    }
}

/// The first free range from one on that follows from the names: two instances on a host know nothing of each other, and a
/// range that was just freed should not be the next one given.
fn choose(instance: &str, sandbox: &str, used: &BTreeSet<u32>) -> Option<u32> {
    // FNV-1a: the same on every build, unlike the library's hasher.
    let bytes = instance.bytes().chain([0]).chain(sandbox.bytes());
    let hash = bytes.fold(0xcbf2_9ce4_8422_2325_u64, |h, b| (h ^ u64::from(b)).wrapping_mul(0x0100_0000_01b3));
    let first = (hash ^ (hash >> 32)) as u32 % SLOTS;
    let slots = (0..SLOTS).map(|n| (first + n) % SLOTS + 1);
    slots.map(|slot| slot * RANGE).find(|base| !used.contains(base))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_two_sandboxes_share_an_id_and_none_has_one_of_the_hosts() {
        let ranges = Ranges::default();
        let mut seen = BTreeSet::new();
        for n in 0..2_000 {
            let base = ranges.take("i", &format!("pod-{n}")).unwrap();
            assert!(base >= RANGE && base % RANGE == 0 && base.checked_add(RANGE).is_some_and(|end| end <= 1 << 31));
            assert!(seen.insert(base), "{base} twice");
            assert_eq!(ranges.take("i", &format!("pod-{n}")).unwrap(), base);
        }
    }

    #[test]
    fn a_range_is_free_again_after_its_sandbox_and_kept_over_a_restart() {
        let used: BTreeSet<u32> = (1..=SLOTS).map(|s| s * RANGE).collect();
        assert_eq!(choose("i", "p", &used), None);
        let one_left: BTreeSet<u32> = used.iter().copied().filter(|b| *b != 7 * RANGE).collect();
        assert_eq!(choose("i", "p", &one_left), Some(7 * RANGE));
        let ranges = Ranges::default();
        let base = ranges.take("i", "p").unwrap();
        ranges.free("p");
        assert_eq!(ranges.take("i", "p").unwrap(), base);
        let after = Ranges::default();
        after.keep("other", base);
        assert_ne!(after.take("i", "p").unwrap(), base);
    }
}
