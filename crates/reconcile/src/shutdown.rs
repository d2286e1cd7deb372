//! The order in which a node that goes down ends its pods (KEP-2000, KEP-2712): by priority, the lowest first, each group
//! with a time of its own.

use std::str::FromStr;

use k8s_openapi::api::core::v1::Pod;

use crate::pod::SYSTEM_CRITICAL;

/// How long pods of at least that priority have, up to the next higher one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Period {
    /// The least priority.
    pub priority: i32,
    /// Seconds.
    pub seconds: u32,
}

/// `PRIORITY=SECONDS`.
impl FromStr for Period {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let parts = text.split_once('=');
        let parsed = parts.and_then(|(p, s)| Some(Period { priority: p.parse().ok()?, seconds: s.parse().ok()? }));
        parsed.ok_or_else(|| format!("{text:?} is not PRIORITY=SECONDS"))
    }
}

/// The periods of a configuration, the lowest priority first: `by_priority`, or from the time for all pods and the part of
/// it that is kept for critical ones. None: the node goes down without asking.
///
/// # Errors
/// More time is kept for critical pods than there is; a priority is listed twice.
pub fn periods(total: u32, critical: u32, by_priority: &[Period]) -> Result<Vec<Period>, String> {
    if by_priority.is_empty() {
        let Some(others) = total.checked_sub(critical) else {
            return Err(format!("critical pods cannot have {critical} s of {total} s"));
        };
        let both =
            vec![Period { priority: 0, seconds: others }, Period { priority: SYSTEM_CRITICAL, seconds: critical }];
        return Ok(if total == 0 { Vec::new() } else { both });
    }
    if total > 0 || critical > 0 {
        return Err("times by priority stand alone: there can be no other time beside them".to_owned());
    }
    let mut list = by_priority.to_vec();
    list.sort_by_key(|p| p.priority);
    match list.windows(2).find(|w| w[0].priority == w[1].priority) {
        Some(w) => Err(format!("priority {} has two times", w[0].priority)),
        None => Ok(list),
    }
}

/// The pods of each period, in order. One whose priority is below all of them is of the first.
pub fn groups<T: AsRef<Pod>>(periods: &[Period], pods: impl IntoIterator<Item = T>) -> Vec<(Period, Vec<T>)> {
    let mut groups: Vec<(Period, Vec<T>)> = periods.iter().map(|p| (*p, Vec::new())).collect();
    for pod in pods {
        let priority = pod.as_ref().spec.as_ref().and_then(|s| s.priority).unwrap_or(0);
        let at = periods.partition_point(|p| p.priority <= priority).saturating_sub(1);
        if let Some((_, group)) = groups.get_mut(at) {
            group.push(pod);
        }
    }
    groups
}

/// Seconds that a pod of a group has: what it asks for, and no more than the group's.
pub fn grace_seconds(period: Period, pod: &Pod) -> i64 {
    crate::pod::grace_seconds(pod).min(i64::from(period.seconds))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;
    use std::sync::Arc;

    fn list(text: &str) -> Vec<Period> {
        text.split_whitespace().map(|t| t.parse().expect("a period")).collect()
    }

    #[test]
    fn the_time_is_split_between_all_pods_and_critical_ones() {
        for (total, critical, expected) in [(0, 0, ""), (30, 10, "0=20 2000000000=10"), (30, 30, "0=0 2000000000=30")] {
            assert_eq!(periods(total, critical, &[]).expect("periods"), list(expected));
        }
        assert!(periods(10, 20, &[]).is_err());
    }

    #[test]
    fn times_by_priority_stand_alone_and_in_order() {
        assert_eq!(periods(0, 0, &list("1000=20 -5=1 10=9")).expect("periods"), list("-5=1 10=9 1000=20"));
        assert!(periods(30, 0, &list("0=1")).is_err());
        assert!(periods(0, 0, &list("1=1 1=2")).is_err());
        assert!("1".parse::<Period>().is_err() && "1=-1".parse::<Period>().is_err());
    }

    #[test]
    fn a_pod_belongs_to_the_nearest_priority_below_its_own() {
        let pod = |priority: i32| -> Arc<Pod> {
            Arc::new(serde_json::from_value(json!({"spec": {"containers": [], "priority": priority}})).expect("a pod"))
        };
        let all = [-10, 9, 10, 11, 999, 1000, 1001, i32::MAX].map(pod);
        let groups = groups(&list("10=1 1000=2"), all);
        let told: Vec<Vec<i32>> =
            groups.iter().map(|(_, pods)| pods.iter().filter_map(|p| p.spec.as_ref()?.priority).collect()).collect();
        assert_eq!(told, [vec![-10, 9, 10, 11, 999], vec![1000, 1001, i32::MAX]]);
    }

    #[test]
    fn no_pod_has_more_than_its_group() {
        let pod = |seconds: i64| -> Pod {
            serde_json::from_value(json!({"spec": {"containers": [], "terminationGracePeriodSeconds": seconds}}))
                .expect("a pod")
        };
        let period = Period { priority: 0, seconds: 10 };
        assert_eq!([5, 10, 600].map(|s| grace_seconds(period, &pod(s))), [5, 10, 10]);
    }
}
