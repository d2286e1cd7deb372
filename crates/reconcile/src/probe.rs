//! When to probe a container and what its results mean: thresholds, delays, and the hold after a failure that gets the
//! container killed. The rules are those of the kubelet's prober.

use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::core::v1 as core;

/// What a probe decides.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Kind {
    /// Until it succeeds the other two do not run and the container has not started; its failure kills.
    Startup,
    /// Its success makes the container ready.
    Readiness,
    /// Its failure kills.
    Liveness,
}

impl Kind {
    /// As the events name it.
    pub fn title(self) -> &'static str {
        match self {
            Kind::Startup => "Startup",
            Kind::Readiness => "Readiness",
            Kind::Liveness => "Liveness",
        }
    }
}

/// One answer of a probe.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// Healthy.
    Success,
    /// Unhealthy, or no answer in time.
    Failure,
    /// The probe could not be made (the runtime failed); it counts for nothing.
    Unknown,
}

/// How often, and how many in a row.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Settings {
    /// From the start of the container to the first probe.
    pub initial_delay: SignedDuration,
    /// Between probes.
    pub period: SignedDuration,
    /// Longest wait for one answer.
    pub timeout: SignedDuration,
    /// Successes in a row that make it succeed.
    pub success_threshold: u32,
    /// Failures in a row that make it fail.
    pub failure_threshold: u32,
}

impl Settings {
    /// The settings of a probe, absent ones at the API's defaults (delay 0, period 10 s, timeout 1 s, thresholds 1 and 3).
    pub fn of(probe: &core::Probe) -> Self {
        let seconds = |v: Option<i32>, default: i32, least: i32| {
            SignedDuration::from_secs(i64::from(v.unwrap_or(default).max(least)))
        };
        let count = |v: Option<i32>, default: i32| v.unwrap_or(default).max(1).unsigned_abs();
        Settings {
            initial_delay: seconds(probe.initial_delay_seconds, 0, 0),
            period: seconds(probe.period_seconds, 10, 1),
            timeout: seconds(probe.timeout_seconds, 1, 1),
            success_threshold: count(probe.success_threshold, 1),
            failure_threshold: count(probe.failure_threshold, 3),
        }
    }
}

/// One probe of one run of a container.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Tracker {
    verdict: Option<bool>,
    last: Option<bool>,
    run: u32,
    last_at: Option<Timestamp>,
}

impl Tracker {
    /// A probe whose verdict is known from before the agent restarted: the same run of the container was probed then.
    pub fn adopted(verdict: bool) -> Self {
        Tracker { verdict: Some(verdict), ..Tracker::default() }
    }

    /// The verdict: `None` until a threshold was reached once.
    pub fn verdict(&self) -> Option<bool> {
        self.verdict
    }

    /// When the next probe is due, for a container that started then.
    pub fn due_at(&self, settings: &Settings, started_at: Timestamp) -> Timestamp {
        match self.last_at {
            Some(last) => later(last, settings.period),
            None => later(started_at, settings.initial_delay),
        }
    }

    /// The clock was set.
    pub(crate) fn shift(&mut self, by: SignedDuration) {
        self.last_at = self.last_at.map(|at| later(at, by));
    }

    /// Takes one answer and returns the verdict if this answer changed it.
    pub fn record(&mut self, settings: &Settings, outcome: Outcome, at: Timestamp) -> Option<bool> {
        self.last_at = Some(at);
        let good = match outcome {
            Outcome::Success => true,
            Outcome::Failure => false,
            Outcome::Unknown => return None,
        };
        if self.last == Some(good) {
            self.run = self.run.saturating_add(1);
        } else {
            self.last = Some(good);
            self.run = 1;
        }
        let threshold = if good { settings.success_threshold } else { settings.failure_threshold };
        if self.run < threshold || self.verdict == Some(good) {
            return None;
        }
        self.verdict = Some(good);
        Some(good)
    }
}

/// `at + by`, stopping at the end of time.
pub(crate) fn later(at: Timestamp, by: SignedDuration) -> Timestamp {
    at.checked_add(by).unwrap_or(Timestamp::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn settings(success: u32, failure: u32) -> Settings {
        Settings {
            initial_delay: SignedDuration::from_secs(3),
            period: SignedDuration::from_secs(10),
            timeout: SignedDuration::from_secs(1),
            success_threshold: success,
            failure_threshold: failure,
        }
    }

    fn at(s: i64) -> Timestamp {
        Timestamp::from_second(1_700_000_000 + s).expect("in range")
    }

    #[test]
    fn first_probe_waits_for_the_initial_delay_and_then_for_the_period() {
        let s = settings(1, 3);
        let mut t = Tracker::default();
        assert_eq!(t.due_at(&s, at(0)), at(3));
        t.record(&s, Outcome::Failure, at(4));
        assert_eq!(t.due_at(&s, at(0)), at(14));
    }

    #[test]
    fn an_unknown_answer_changes_nothing_but_the_time() {
        let s = settings(1, 1);
        let mut t = Tracker::default();
        assert_eq!(t.record(&s, Outcome::Unknown, at(4)), None);
        assert_eq!(t.verdict(), None);
        assert_eq!(t.due_at(&s, at(0)), at(14));
    }

    proptest! {
        /// The verdict flips exactly when a run of equal answers reaches its threshold.
        #[test]
        fn verdict_follows_runs(answers in proptest::collection::vec(any::<bool>(), 0..60), ok in 1u32..4, bad in 1u32..4) {
            let s = settings(ok, bad);
            let mut t = Tracker::default();
            let (mut expected, mut run, mut last) = (None, 0u32, None);
            for (i, good) in answers.into_iter().enumerate() {
                run = if last == Some(good) { run + 1 } else { 1 };
                last = Some(good);
                if run >= if good { ok } else { bad } { expected = Some(good); }
                let before = t.verdict();
                let changed = t.record(&s, if good { Outcome::Success } else { Outcome::Failure }, at(i as i64));
                prop_assert_eq!(t.verdict(), expected);
                prop_assert_eq!(changed.is_some(), before != expected);
            }
        }
    }
}
