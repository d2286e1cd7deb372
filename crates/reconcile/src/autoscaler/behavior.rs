//! `behavior`: how fast a target may grow and shrink, and how long a recommendation is remembered (autoscaling/v2).

use jiff::Timestamp;
use k8s_openapi::api::autoscaling::v2::{HPAScalingPolicy, HPAScalingRules, HorizontalPodAutoscaler};

/// Most remembered recommendations and changes of one target: an hour at one each 15 s, with room.
const REMEMBERED_MAX: usize = 512;
/// Longest window and period that the API allows, in seconds.
const WINDOW_MAX: i64 = 3600;

/// What was recommended and done before; lost with the process, and then built up anew (as in Kubernetes).
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct History {
    recommendations: Vec<(Timestamp, i32)>,
    /// Changes of the size, growing ones positive.
    changes: Vec<(Timestamp, i32)>,
}

impl History {
    /// Notes a change of the size.
    pub(super) fn changed(&mut self, now: Timestamp, by: i32) {
        self.changes.push((now, by));
        forget(&mut self.changes, now);
    }

    fn within(&self, now: Timestamp, seconds: i32) -> impl Iterator<Item = i32> + '_ {
        let recent = move |t: &Timestamp| now.as_second() - t.as_second() < i64::from(seconds);
        self.recommendations.iter().filter(move |(t, _)| recent(t)).map(|(_, n)| *n)
    }

    /// How much was added and taken away in the last seconds.
    fn moved(&self, now: Timestamp, seconds: i32) -> (i32, i32) {
        let recent = self.changes.iter().filter(|(t, _)| now.as_second() - t.as_second() < i64::from(seconds));
        recent.fold((0, 0), |(up, down), (_, n)| if *n > 0 { (up + n, down) } else { (up, down - n) })
    }
}

fn forget(list: &mut Vec<(Timestamp, i32)>, now: Timestamp) {
    list.retain(|(t, _)| now.as_second() - t.as_second() <= WINDOW_MAX);
    if list.len() > REMEMBERED_MAX {
        list.drain(..list.len() - REMEMBERED_MAX);
    }
}

/// The rules of one direction, with what Kubernetes assumes for what is not said.
struct Rules<'a> {
    window: i32,
    select: &'a str,
    policies: Vec<HPAScalingPolicy>,
}

fn policy(type_: &str, value: i32) -> HPAScalingPolicy {
    HPAScalingPolicy { type_: type_.into(), value, period_seconds: 15 }
}

fn rules<'a>(given: Option<&'a HPAScalingRules>, window: i32, policies: Vec<HPAScalingPolicy>) -> Rules<'a> {
    let own = given.and_then(|r| r.policies.clone()).filter(|p| !p.is_empty());
    Rules {
        window: given.and_then(|r| r.stabilization_window_seconds).unwrap_or(window),
        select: given.and_then(|r| r.select_policy.as_deref()).unwrap_or("Max"),
        policies: own.unwrap_or(policies),
    }
}

fn directions(hpa: &HorizontalPodAutoscaler) -> (Rules<'_>, Rules<'_>) {
    let behavior = hpa.spec.behavior.as_ref();
    let up = rules(behavior.and_then(|b| b.scale_up.as_ref()), 0, vec![policy("Pods", 4), policy("Percent", 100)]);
    let down = rules(behavior.and_then(|b| b.scale_down.as_ref()), 300, vec![policy("Percent", 100)]);
    (up, down)
}

/// What came of a recommendation.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Limited {
    /// The size to have now.
    pub replicas: i32,
    /// Reason and message of `AbleToScale`.
    pub able: (&'static str, &'static str),
    /// Reason and message of `ScalingLimited`, when it is.
    pub limit: Option<(&'static str, &'static str)>,
}

/// Applies windows, rates and bounds to what the metrics ask for.
pub(super) fn limit(
    hpa: &HorizontalPodAutoscaler,
    (current, desired, least, most): (i32, i32, i32, i32),
    history: &mut History,
    now: Timestamp,
) -> Limited {
    let (up, down) = directions(hpa);
    let lowest = history.within(now, up.window).fold(desired, i32::min);
    let highest = history.within(now, down.window).fold(desired, i32::max);
    history.recommendations.push((now, desired));
    forget(&mut history.recommendations, now);
    let stable = current.max(lowest).min(highest.max(lowest));
    let able = if stable > desired {
        (
            "ScaleDownStabilized",
            "recent recommendations were higher than current one, applying the highest recent recommendation",
        )
    } else if stable < desired {
        (
            "ScaleUpStabilized",
            "recent recommendations were lower than current one, applying the lowest recent recommendation",
        )
    } else {
        ("ReadyForNewScale", "recommended size matches current size")
    };
    let (replicas, limit) = if stable > current {
        let rate = fastest_up(&up, current, history, now);
        let fast = ("ScaleUpLimit", "the desired replica count is increasing faster than the maximum scale rate");
        let many = ("TooManyReplicas", "the desired replica count is more than the maximum replica count");
        let (top, why) = if rate < most { (rate, fast) } else { (most, many) };
        if stable > top { (top, Some(why)) } else { (stable, None) }
    } else {
        let rate = if stable < current { fastest_down(&down, current, history, now) } else { current };
        let fast = ("ScaleDownLimit", "the desired replica count is decreasing faster than the maximum scale rate");
        let few = ("TooFewReplicas", "the desired replica count is less than the minimum replica count");
        let (floor, why) = if rate > least { (rate, fast) } else { (least, few) };
        if stable < floor { (floor, Some(why)) } else { (stable, None) }
    };
    // Bounds hold also for what no rate applied to.
    let limit = if replicas == most && desired > most {
        Some(("TooManyReplicas", "the desired replica count is more than the maximum replica count"))
    } else if replicas == least && desired < least {
        Some(("TooFewReplicas", "the desired replica count is less than the minimum replica count"))
    } else {
        limit
    };
    Limited { replicas: replicas.clamp(least, most.max(least)), able, limit }
}

fn fastest_up(rules: &Rules<'_>, current: i32, history: &History, now: Timestamp) -> i32 {
    let to = rules.policies.iter().map(|p| {
        let (added, taken) = history.moved(now, p.period_seconds);
        let start = i64::from(current - added + taken);
        let value = i64::from(p.value);
        let top = if p.type_ == "Pods" { start + value } else { (start * (100 + value) + 99).div_euclid(100) };
        i32::try_from(top).unwrap_or(i32::MAX)
    });
    let chosen = match rules.select {
        "Disabled" => None,
        "Min" => to.min(),
        _ => to.max(),
    };
    chosen.unwrap_or(current).max(current)
}

fn fastest_down(rules: &Rules<'_>, current: i32, history: &History, now: Timestamp) -> i32 {
    let to = rules.policies.iter().map(|p| {
        let (added, taken) = history.moved(now, p.period_seconds);
        let start = i64::from(current + taken - added);
        let value = i64::from(p.value);
        let floor = if p.type_ == "Pods" { start - value } else { start * (100 - value) / 100 };
        i32::try_from(floor).unwrap_or(0)
    });
    let chosen = match rules.select {
        "Disabled" => None,
        "Min" => to.max(),
        _ => to.min(),
    };
    chosen.unwrap_or(current).min(current)
}
