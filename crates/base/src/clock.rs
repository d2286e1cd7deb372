//! Noticing that the host's clock was set. Waits go by the monotonic clock and do not mind; what compares two times of day,
//! one from before, has to know.

use std::time::{Duration, Instant};

use jiff::{SignedDuration, Timestamp};

/// What the two clocks may differ by between two looks: ntpd slews by at most 0.5 ms a second (adjtime(3)), and the process
/// may be held up between reading one clock and the other.
const SLACK: SignedDuration = SignedDuration::from_secs(2);
/// How often those who wait for hours look whether the clock was set meanwhile. timerfd_create(2) could tell, but a container
/// of this process may have a clock that no kernel sets.
pub const LOOK_EVERY: Duration = Duration::from_secs(5);

/// The clock at the last look.
#[derive(Debug, Clone, Copy)]
pub struct Steady {
    wall: Timestamp,
    at: Instant,
}

impl Default for Steady {
    fn default() -> Self {
        Steady { wall: Timestamp::now(), at: Instant::now() }
    }
}

impl Steady {
    /// The time of day, and by how much the clock was set since the last look, if it was.
    pub fn look(&mut self) -> (Timestamp, Option<SignedDuration>) {
        let now = Timestamp::now();
        (now, self.take(now, Instant::now()))
    }

    fn take(&mut self, wall: Timestamp, at: Instant) -> Option<SignedDuration> {
        let passed = SignedDuration::try_from(at.saturating_duration_since(self.at)).unwrap_or(SignedDuration::MAX);
        let set = wall.duration_since(self.wall).saturating_sub(passed);
        *self = Steady { wall, at };
        (set.abs() > SLACK).then_some(set)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_clock_that_was_set_is_told_and_only_once() {
        let (start, at) = (Timestamp::from_second(1_800_000_000).unwrap(), Instant::now());
        let mut steady = Steady { wall: start, at };
        let wall = |s: i64| start + SignedDuration::from_secs(s);
        let mono = |s: u64| at + Duration::from_secs(s);
        assert_eq!(steady.take(wall(100), mono(100)), None);
        assert_eq!(steady.take(wall(201), mono(200)), None, "slewed");
        assert_eq!(steady.take(wall(3_811), mono(210)), Some(SignedDuration::from_secs(3_600)));
        assert_eq!(steady.take(wall(3_821), mono(220)), None);
        assert_eq!(steady.take(wall(231), mono(230)), Some(SignedDuration::from_secs(-3_600)));
        assert_eq!(steady.take(wall(241), mono(240)), None);
    }
}
