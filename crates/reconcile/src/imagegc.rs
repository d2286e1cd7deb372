//! Images that nobody uses: which go when the disk fills, and which when nobody used them for long. The rules and words are
//! the kubelet's (pkg/kubelet/images). An image that could not be pulled again is never one of them.
//!
//! Times are since the agent's start, from a clock that nobody sets.

use std::collections::BTreeMap;
use std::time::Duration;

/// When images go.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Policy {
    /// Percent of the disk in use from which on images go; 100: never.
    pub high: u8,
    /// Down to which they go.
    pub low: u8,
    /// An image that came later than this stays.
    pub least_age: Duration,
    /// One that nobody used for longer goes, however empty the disk is; zero: it stays.
    pub most_age: Duration,
}

impl Default for Policy {
    /// The kubelet's.
    fn default() -> Self {
        Policy { high: 85, low: 80, least_age: Duration::from_secs(120), most_age: Duration::ZERO }
    }
}

impl Policy {
    /// Whether it can be meant so.
    ///
    /// # Errors
    /// In the kubelet's words.
    pub fn check(&self) -> Result<(), String> {
        let Policy { high, low, least_age, most_age } = self;
        let (high_flag, low_flag) = (
            "imageGCHighThresholdPercent (--image-gc-high-threshold)",
            "imageGCLowThresholdPercent (--image-gc-low-threshold)",
        );
        for (flag, value) in [(high_flag, high), (low_flag, low)] {
            if *value > 100 {
                return Err(format!("invalid configuration: {flag} {value} must be between 0 and 100, inclusive"));
            }
        }
        if low >= high {
            return Err(format!("invalid configuration: {low_flag} {low} must be less than {high_flag} {high}"));
        }
        if !most_age.is_zero() && most_age <= least_age {
            let (most, least) = (most_age.as_secs(), least_age.as_secs());
            return Err(format!(
                "invalid configuration: imageMaximumGCAge {most}s must be greater than imageMinimumGCAge {least}s"
            ));
        }
        Ok(())
    }

    /// Bytes to win back on a disk of `capacity` of which so many are not in use; `None` when there is no need.
    pub fn needs(&self, capacity: u64, available: u64) -> Option<u64> {
        let (capacity, available) = (u128::from(capacity), u128::from(available.min(capacity)));
        if capacity == 0 || self.high >= 100 {
            return None;
        }
        let used = 100 - available * 100 / capacity;
        let wanted = capacity * u128::from(100 - self.low) / 100;
        let missing = u64::try_from(wanted.saturating_sub(available)).unwrap_or(u64::MAX);
        (used >= u128::from(self.high)).then_some(missing)
    }
}

/// An image of the node.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Image {
    /// Its id.
    pub id: String,
    /// A container or a volume has it, or a pod of this node names it.
    pub used: bool,
    /// It, or one of its names, is in no registry that is known: it could not be pulled again.
    pub kept: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Record {
    /// `None` before the first time that it was seen in use.
    used: Option<Duration>,
    since: Duration,
}

/// When images came and were last used.
#[derive(Debug, Clone, Default)]
pub struct Records(BTreeMap<String, Record>);

impl Records {
    /// Takes in which images there are.
    pub fn note(&mut self, images: &[Image], now: Duration) {
        self.0.retain(|id, _| images.iter().any(|i| i.id == *id));
        for image in images {
            let record = self.0.entry(image.id.clone()).or_insert(Record { used: None, since: now });
            if image.used {
                record.used = Some(now);
            }
        }
    }

    /// Those that may go, first who was not used for the longest time.
    fn idle<'a>(&self, images: &'a [Image]) -> Vec<(&'a Image, Record)> {
        let free = images.iter().filter(|i| !i.used && !i.kept);
        let mut idle: Vec<_> = free.filter_map(|i| Some((i, *self.0.get(&i.id)?))).collect();
        idle.sort_by(|(a, x), (b, y)| (x, &a.id).cmp(&(y, &b.id)));
        idle
    }

    /// In the order in which they go until there is room again. Noted before.
    pub fn for_room(&self, images: &[Image], policy: &Policy, now: Duration) -> Vec<String> {
        let old = |r: &Record| now.saturating_sub(r.since) >= policy.least_age;
        self.idle(images).into_iter().filter(|(_, r)| old(r)).map(|(i, _)| i.id.clone()).collect()
    }

    /// Those that nobody used for too long. Of what was before the agent's start it does not know: it begins to count then.
    pub fn for_age(&self, images: &[Image], policy: &Policy, now: Duration) -> Vec<String> {
        if policy.most_age.is_zero() {
            return Vec::new();
        }
        let old = |r: &Record| now.saturating_sub(r.used.unwrap_or(r.since).max(r.since)) > policy.most_age;
        self.idle(images).into_iter().filter(|(_, r)| old(r)).map(|(i, _)| i.id.clone()).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn image(id: &str, used: bool, kept: bool) -> Image {
        Image { id: id.to_owned(), used, kept }
    }

    fn at(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    #[test]
    fn a_disk_is_emptied_from_the_high_threshold_to_the_low_one() {
        let policy = Policy::default();
        assert_eq!(policy.needs(1000, 160), None);
        assert_eq!(policy.needs(1000, 151), Some(49), "84.9 % are 85 as the kubelet rounds");
        assert_eq!(policy.needs(1000, 150), Some(50));
        assert_eq!(policy.needs(1000, 0), Some(200));
        assert_eq!(policy.needs(0, 0), None);
        assert_eq!(Policy { high: 100, ..policy }.needs(1000, 0), None, "it is off");
    }

    #[test]
    fn what_cannot_be_meant_is_refused_in_the_kubelets_words() {
        let with = |high, low| Policy { high, low, ..Policy::default() }.check().expect_err("refused");
        assert!(with(101, 80).contains("imageGCHighThresholdPercent (--image-gc-high-threshold) 101 must be between"));
        assert!(with(80, 80).contains("80 must be less than imageGCHighThresholdPercent"));
        let ages = Policy { most_age: at(60), ..Policy::default() };
        assert!(ages.check().expect_err("refused").contains("imageMaximumGCAge 60s must be greater"));
        assert_eq!(Policy::default().check(), Ok(()));
    }

    #[test]
    fn the_least_recently_used_go_first_and_young_used_and_kept_ones_stay() {
        let mut records = Records::default();
        let first = [image("old", true, false), image("older", true, false), image("never", false, false)];
        records.note(&first[..2], at(0));
        records.note(&[image("old", true, false), first[1].clone(), first[2].clone()], at(10));
        let now = [
            image("old", true, false),
            image("older", false, false),
            image("never", false, false),
            image("own", false, true),
            image("young", false, false),
        ];
        records.note(&now[..4], at(20));
        let now = [image("old", false, false), now[1].clone(), now[2].clone(), now[3].clone(), now[4].clone()];
        records.note(&now, at(200));
        let policy = Policy::default();
        assert_eq!(records.for_room(&now, &policy, at(200)), ["never", "older", "old"]);
        assert_eq!(records.for_room(&now, &policy, at(125)), ["older", "old"], "one came 115 s ago");
        assert_eq!(records.for_age(&now, &policy, at(9999)), [""; 0], "off");
        let aged = Policy { most_age: at(185), ..policy };
        assert_eq!(records.for_age(&now, &aged, at(200)), ["never", "older"]);
    }

    proptest! {
        #[test]
        fn what_is_used_or_kept_never_goes(
            looks in prop::collection::vec(prop::collection::vec((0u8..6, any::<bool>(), any::<bool>()), 0..6), 1..6),
            least in 0u64..30,
            most in 0u64..60,
        ) {
            let mut records = Records::default();
            let policy = Policy { least_age: at(least), most_age: at(most), ..Policy::default() };
            for (n, look) in looks.iter().enumerate() {
                let mut images: Vec<Image> = look.iter().map(|(id, u, k)| image(&id.to_string(), *u, *k)).collect();
                images.sort_by(|a, b| a.id.cmp(&b.id));
                images.dedup_by(|a, b| a.id == b.id);
                let now = at(10 * n as u64);
                records.note(&images, now);
                for id in records.for_room(&images, &policy, now).into_iter().chain(records.for_age(&images, &policy, now)) {
                    let found = images.iter().find(|i| i.id == id).expect("one that is there");
                    prop_assert!(!found.used && !found.kept);
                }
            }
        }
    }
}
