//! How long to wait before trying again. Pure: the caller does the waiting, and gives a seed for the jitter.

use std::time::Duration;

use rand::rngs::SmallRng;
use rand::{Rng, SeedableRng};

/// Doubling delays from `base` to `cap`, each shortened by up to half so that many who fail together do not come back
/// together. The same seed gives the same delays.
#[derive(Debug, Clone)]
pub struct Backoff {
    base: Duration,
    cap: Duration,
    failures: u32,
    jitter: Option<SmallRng>,
}

impl Backoff {
    /// Delays of `base`, twice `base`, … up to `cap`, with jitter from the seed.
    pub fn new(base: Duration, cap: Duration, seed: u64) -> Self {
        Backoff { base, cap, failures: 0, jitter: Some(SmallRng::seed_from_u64(seed)) }
    }

    /// The same delays without jitter, for where users expect the exact numbers (a container's restart delay).
    pub fn exact(base: Duration, cap: Duration) -> Self {
        Backoff { base, cap, failures: 0, jitter: None }
    }

    /// The delay after one more failure.
    pub fn next_delay(&mut self) -> Duration {
        let full = delay(self.base, self.cap, self.failures);
        self.failures = self.failures.saturating_add(1);
        match &mut self.jitter {
            Some(rng) => full.mul_f64(rng.random_range(0.5..=1.0)),
            None => full,
        }
    }

    /// Begins again from `base`, after a success.
    pub fn reset(&mut self) {
        self.failures = 0;
    }

    /// How many failures since the last success.
    pub fn failures(&self) -> u32 {
        self.failures
    }
}

/// `base * 2^failures`, at most `cap`: the delay after so many earlier failures, for callers who count themselves.
pub fn delay(base: Duration, cap: Duration, failures: u32) -> Duration {
    let factor = 1u32.checked_shl(failures).unwrap_or(u32::MAX);
    base.saturating_mul(factor).min(cap)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const fn secs(s: u64) -> Duration {
        Duration::from_secs(s)
    }

    #[test]
    fn exact_delays_double_up_to_the_cap_and_begin_again() {
        let mut backoff = Backoff::exact(secs(10), secs(300));
        let delays: Vec<_> = (0..7).map(|_| backoff.next_delay().as_secs()).collect();
        assert_eq!(delays, [10, 20, 40, 80, 160, 300, 300]);
        backoff.reset();
        assert_eq!(backoff.next_delay(), secs(10));
    }

    proptest! {
        #[test]
        fn jitter_stays_between_half_and_full(seed: u64, failures in 0u32..200) {
            let mut backoff = Backoff::new(secs(1), secs(60), seed);
            for n in 0..failures {
                let full = delay(secs(1), secs(60), n);
                let got = backoff.next_delay();
                prop_assert!(got >= full / 2 && got <= full, "{got:?} of {full:?}");
            }
        }

        #[test]
        fn the_same_seed_gives_the_same_delays(seed: u64) {
            let (mut a, mut b) = (Backoff::new(secs(1), secs(9), seed), Backoff::new(secs(1), secs(9), seed));
            prop_assert!((0..10).all(|_| a.next_delay() == b.next_delay()));
        }
    }
}
