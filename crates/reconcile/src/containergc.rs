//! Dead containers: how many stay, for who wants to know why they ended. The rules are the kubelet's
//! (pkg/kubelet/kuberuntime/kuberuntime_gc.go): at most so many of each container of a pod, and at most so many of all.
//!
//! The last run of a container stays as long as its pod may still need it, whatever the limits say: it tells whether and
//! when the container runs again.

use std::collections::BTreeMap;

use jiff::{SignedDuration, Timestamp};

use crate::probe::later;

/// How many dead containers stay.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Policy {
    /// Of the node; `None` for as many as there are.
    pub most: Option<usize>,
    /// Of each container of a pod; `None` for as many as there are.
    pub most_of_each: Option<usize>,
    /// One that ended later than this ago stays.
    pub least_age: SignedDuration,
}

impl Default for Policy {
    /// The kubelet's.
    fn default() -> Self {
        Policy { most: None, most_of_each: Some(1), least_age: SignedDuration::ZERO }
    }
}

/// A container that ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Dead {
    /// Its id.
    pub id: String,
    /// The UID of its pod, and its name there.
    pub of: (String, String),
    /// When it ended.
    pub ended: Timestamp,
    /// It is the last run of its container, in a pod that is not over.
    pub needed: bool,
}

/// Those that go.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Excess {
    /// Their ids, the oldest of each container first.
    pub ids: Vec<String>,
    /// When one that is too young now is old enough.
    pub again: Option<Timestamp>,
}

/// Decides which of the dead containers go.
pub fn excess(dead: Vec<Dead>, policy: &Policy, now: Timestamp) -> Excess {
    let mut out = Excess::default();
    let mut each: BTreeMap<(String, String), Vec<Dead>> = BTreeMap::new();
    for one in dead {
        let old = later(one.ended, policy.least_age);
        if old > now {
            out.again = Some(out.again.map_or(old, |at| at.min(old)));
            continue;
        }
        each.entry(one.of.clone()).or_default().push(one);
    }
    for list in each.values_mut() {
        list.sort_by(|a, b| (b.needed, b.ended, &b.id).cmp(&(a.needed, a.ended, &a.id)));
        if let Some(most) = policy.most_of_each {
            cut(list, most, &mut out.ids);
        }
    }
    let count = |each: &BTreeMap<_, Vec<Dead>>| each.values().map(Vec::len).sum::<usize>();
    let Some(most) = policy.most.filter(|most| count(&each) > *most) else { return out };
    // Fairly first: as many of each as there is room for, one at least.
    let fair = (most / each.len().max(1)).max(1);
    each.values_mut().for_each(|list| cut(list, fair, &mut out.ids));
    let mut left: Vec<Dead> = each.into_values().flatten().collect();
    left.sort_by(|a, b| (b.needed, b.ended, &b.id).cmp(&(a.needed, a.ended, &a.id)));
    cut(&mut left, most, &mut out.ids);
    out
}

/// Leaves the first `most` of a list that begins with what is needed and goes on with the youngest.
fn cut(list: &mut Vec<Dead>, most: usize, gone: &mut Vec<String>) {
    while list.len() > most && list.last().is_some_and(|last| !last.needed) {
        gone.extend(list.pop().map(|last| last.id));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(second).expect("a time")
    }

    fn dead(id: &str, pod: &str, ended: i64, needed: bool) -> Dead {
        Dead { id: id.to_owned(), of: (pod.to_owned(), "main".to_owned()), ended: at(ended), needed }
    }

    fn policy(most: Option<usize>, most_of_each: Option<usize>, least_age: i64) -> Policy {
        Policy { most, most_of_each, least_age: SignedDuration::from_secs(least_age) }
    }

    #[test]
    fn of_each_container_the_youngest_stay() {
        let all = vec![dead("a1", "a", 1, false), dead("a3", "a", 3, false), dead("a2", "a", 2, false)];
        let ids = |most: Option<usize>| excess(all.clone(), &policy(None, most, 0), at(10)).ids;
        assert_eq!(ids(Some(1)), ["a1", "a2"]);
        assert_eq!(ids(Some(2)), ["a1"]);
        assert_eq!(ids(Some(0)), ["a1", "a2", "a3"]);
        assert_eq!(ids(None), [""; 0]);
    }

    #[test]
    fn what_a_pod_needs_stays_whatever_the_limits_say() {
        let all = vec![dead("old", "a", 1, false), dead("last", "a", 2, true)];
        assert_eq!(excess(all, &policy(Some(0), Some(0), 0), at(10)).ids, ["old"]);
    }

    #[test]
    fn the_young_stay_until_they_are_old_enough() {
        let all = vec![dead("a", "a", 1, false), dead("b", "a", 5, false), dead("c", "a", 6, false)];
        let found = excess(all, &policy(None, Some(0), 10), at(11));
        assert_eq!(found, Excess { ids: vec!["a".to_owned()], again: Some(at(15)) });
    }

    #[test]
    fn a_limit_of_the_node_is_shared_fairly_and_then_by_age() {
        let all = vec![
            dead("a1", "a", 1, false),
            dead("a2", "a", 2, false),
            dead("a3", "a", 3, false),
            dead("b", "b", 4, false),
            dead("c", "c", 5, false),
        ];
        let ids = |most| excess(all.clone(), &policy(Some(most), None, 0), at(10)).ids;
        assert_eq!(ids(5), [""; 0]);
        assert_eq!(ids(4), ["a1", "a2"], "one of each has room");
        assert_eq!(ids(3), ["a1", "a2"]);
        assert_eq!(ids(2), ["a1", "a2", "a3"], "then the oldest go");
        assert_eq!(ids(0), ["a1", "a2", "a3", "b", "c"]);
    }

    proptest! {
        #[test]
        fn limits_are_kept_and_nothing_goes_without_one(
            all in prop::collection::vec((0u8..4, 0i64..50), 0..30),
            most in prop::option::of(0usize..12),
            each in prop::option::of(0usize..5),
            least in 0i64..20,
        ) {
            let all: Vec<Dead> =
                all.iter().enumerate().map(|(n, (pod, t))| dead(&n.to_string(), &pod.to_string(), *t, false)).collect();
            let found = excess(all.clone(), &policy(most, each, least), at(50));
            let left: Vec<&Dead> = all.iter().filter(|d| !found.ids.contains(&d.id)).collect();
            let old = |d: &&&Dead| d.ended <= at(50 - least);
            prop_assert!(most.is_none_or(|most| left.iter().filter(old).count() <= most));
            let of_each = (0u8..4).all(|pod| {
                let of = left.iter().filter(old).filter(|d| d.of.0 == pod.to_string()).count();
                each.is_none_or(|each| of <= each)
            });
            prop_assert!(of_each);
            prop_assert!(found.ids.iter().all(|id| all.iter().any(|d| d.id == *id && old(&&d))));
            prop_assert!(most.is_some() || each.is_some() || found.ids.is_empty());
        }
    }
}
