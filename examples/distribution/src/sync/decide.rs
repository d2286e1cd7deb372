//! What follows from an attempt. Pure: no clock, no randomness of its own.

use std::time::Duration;

/// How patient the sync is.
#[derive(Debug, Clone, Copy)]
pub struct Policy {
    /// First wait.
    pub base: Duration,
    /// Longest wait.
    pub cap: Duration,
    /// Attempts before giving up.
    pub max_attempts: u32,
}

/// What the ERP made of an attempt.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    /// It took the order.
    Recorded,
    /// It had the order already.
    Duplicate,
    /// It may take it later.
    Failed(String),
    /// It will never take it.
    Refused(String),
}

/// What to do with the event.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Next {
    /// Nothing more.
    Done,
    /// Try again.
    Retry {
        /// After this time.
        after: Duration,
        /// Why it failed.
        error: String,
    },
    /// Give up until a person replays it.
    Dead {
        /// Why.
        error: String,
    },
}

/// What an answer means. Refusals are those that say the order itself is at fault.
pub fn classify(status: u16) -> Outcome {
    match status {
        201 => Outcome::Recorded,
        200 => Outcome::Duplicate,
        // Not our order's fault: credentials, timeouts, "too early", rate limits.
        401 | 403 | 407 | 408 | 425 | 429 => Outcome::Failed(format!("ERP answered {status}")),
        // An address that is wrong now may be right after a roll-out.
        404 | 405 => Outcome::Failed(format!("ERP answered {status}")),
        400..=499 => Outcome::Refused(format!("ERP refused the order: {status}")),
        _ => Outcome::Failed(format!("ERP answered {status}")),
    }
}

/// What follows; `attempts` counts this one, `random` is in 0..1.
pub fn decide(outcome: &Outcome, attempts: u32, policy: Policy, random: f64) -> Next {
    match outcome {
        Outcome::Recorded | Outcome::Duplicate => Next::Done,
        Outcome::Refused(error) => Next::Dead { error: error.clone() },
        Outcome::Failed(error) if attempts >= policy.max_attempts => {
            Next::Dead { error: format!("{error} ({attempts} attempts)") }
        }
        Outcome::Failed(error) => Next::Retry { after: backoff(attempts, policy, random), error: error.clone() },
    }
}

/// Doubling from `base` to `cap`; half of it fixed, half random, so that events that failed together come back apart.
fn backoff(attempts: u32, policy: Policy, random: f64) -> Duration {
    let doublings = attempts.saturating_sub(1).min(31);
    let full = policy.base.saturating_mul(1 << doublings).min(policy.cap);
    full / 2 + (full / 2).mul_f64(random.clamp(0.0, 1.0))
}

#[cfg(test)]
mod tests {
    use super::*;

    const POLICY: Policy = Policy { base: Duration::from_millis(100), cap: Duration::from_secs(10), max_attempts: 5 };

    fn failed() -> Outcome {
        Outcome::Failed("x".into())
    }

    #[test]
    fn an_event_the_erp_has_is_done_whether_or_not_it_had_it_before() {
        assert_eq!(decide(&classify(201), 1, POLICY, 0.5), Next::Done);
        assert_eq!(decide(&classify(200), 99, POLICY, 0.5), Next::Done);
    }

    #[test]
    fn only_what_is_the_orders_own_fault_is_given_up_at_once() {
        for status in [400, 409, 413, 422] {
            assert!(matches!(decide(&classify(status), 1, POLICY, 0.0), Next::Dead { .. }), "{status}");
        }
        for status in [301, 401, 404, 408, 429, 500, 502, 503, 504] {
            assert!(matches!(decide(&classify(status), 1, POLICY, 0.0), Next::Retry { .. }), "{status}");
        }
    }

    #[test]
    fn the_last_attempt_ends_in_a_dead_letter() {
        assert!(matches!(decide(&failed(), 4, POLICY, 0.0), Next::Retry { .. }));
        assert!(matches!(decide(&failed(), 5, POLICY, 0.0), Next::Dead { .. }));
        assert!(matches!(decide(&failed(), u32::MAX, POLICY, 0.0), Next::Dead { .. }));
    }

    proptest::proptest! {
        #[test]
        fn waits_grow_stay_below_the_cap_and_never_vanish(attempts in 1u32..200, random in 0.0f64..=1.0) {
            let wait = backoff(attempts, POLICY, random);
            assert!(wait <= POLICY.cap && wait >= POLICY.base / 2);
            assert!(backoff(attempts + 1, POLICY, random) >= wait);
        }
    }
}
