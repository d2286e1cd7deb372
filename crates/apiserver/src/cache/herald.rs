//! How watches learn that there is something new.
//!
//! Waking a watch costs more than the change it is woken for: a task is scheduled, a TLS record sealed, a system call made,
//! and the same again at the client. One update that a hundred watches wait for is told at once; of a burst of updates,
//! however, each wake-up is to carry several, or the machine is busy with nothing but waking. So changes are told at most
//! once in the time it takes to serve all who listen; what comes in between waits for the next time, in the ring.

use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use tokio::sync::watch;
use tokio::time::Instant;

/// Between two announcements, for each listener: several times what it costs to serve one (some 15 µs here and as much at
/// the client), so that watches of one kind leave most of a processor to what makes the changes.
const PER_LISTENER: Duration = Duration::from_micros(100);
/// Up to so many listeners hear everything at once.
const FEW: usize = 24;
/// No change waits longer than this, however many listen.
const MOST: Duration = Duration::from_millis(20);

/// Announces positions, not too often. The position itself is always the newest, for those who just look.
#[derive(Debug, Default)]
pub(super) struct Herald {
    position: watch::Sender<u64>,
    pace: Mutex<Pace>,
}

#[derive(Debug, Default)]
struct Pace {
    /// When the last announcement was made.
    told: Option<Instant>,
    /// Whether the next one is on its way.
    waiting: bool,
}

impl Herald {
    /// Hears of positions.
    pub fn subscribe(&self) -> watch::Receiver<u64> {
        self.position.subscribe()
    }

    /// Whether so many listen that they are told of changes together.
    pub fn has_many(&self) -> bool {
        self.position.receiver_count() > FEW
    }

    /// Announces a position now.
    pub fn tell(&self, position: u64) {
        *self.pace.lock() = Pace { told: Some(Instant::now()), waiting: false };
        self.position.send_replace(position);
    }

    /// Announces a position now, or together with others within [`MOST`].
    pub fn announce(self: &Arc<Self>, position: u64) {
        let pause = pause(self.position.receiver_count());
        if pause.is_zero() {
            self.position.send_replace(position);
            return;
        }
        let mut pace = self.pace.lock();
        let now = Instant::now();
        let due = pace.told.map(|told| told + pause).filter(|due| *due > now);
        if due.is_none() && !pace.waiting {
            pace.told = Some(now);
            drop(pace);
            self.position.send_replace(position);
            return;
        }
        // Known to those who look, and not told yet.
        self.position.send_if_modified(|newest| {
            *newest = position;
            false
        });
        if std::mem::replace(&mut pace.waiting, true) {
            return;
        }
        drop(pace);
        // Ends by itself within [`MOST`]; there is never more than one for a kind, but for the moment after a `tell`.
        let herald = self.clone();
        tokio::spawn(async move {
            tokio::time::sleep_until(due.unwrap_or(now)).await;
            let mut pace = herald.pace.lock();
            if std::mem::replace(&mut pace.waiting, false) {
                pace.told = Some(Instant::now());
                drop(pace);
                herald.position.send_modify(|_| {});
            }
        });
    }
}

/// How long after an announcement to so many listeners the next one may be made.
fn pause(listeners: usize) -> Duration {
    if listeners <= FEW {
        return Duration::ZERO;
    }
    PER_LISTENER.saturating_mul(u32::try_from(listeners).unwrap_or(u32::MAX)).min(MOST)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_pause_grows_with_the_listeners_and_ends() {
        for (listeners, want_us) in [(0, 0), (24, 0), (25, 2500), (100, 10_000), (200, 20_000), (100_000, 20_000)] {
            assert_eq!(pause(listeners), Duration::from_micros(want_us), "{listeners}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn few_hear_everything_at_once() {
        let herald = Arc::new(Herald::default());
        let mut one = herald.subscribe();
        for position in 1..=3 {
            herald.announce(position);
            assert!(one.has_changed().unwrap());
            assert_eq!(*one.borrow_and_update(), position);
        }
    }

    #[tokio::test(start_paused = true)]
    async fn many_hear_the_first_at_once_and_a_burst_in_one() {
        let herald = Arc::new(Herald::default());
        let mut all: Vec<_> = (0..100).map(|_| herald.subscribe()).collect();
        herald.announce(1);
        assert!(all.iter_mut().all(|r| *r.borrow_and_update() == 1));
        for position in 2..=50 {
            herald.announce(position);
        }
        assert!(all.iter().all(|r| !r.has_changed().unwrap()));
        assert_eq!(*herald.subscribe().borrow(), 50, "who looks sees the newest");
        let started = Instant::now();
        all[0].changed().await.unwrap();
        assert!(started.elapsed() <= MOST);
        assert!(all.iter_mut().all(|r| *r.borrow_and_update() == 50));
        // After a quiet time the next one is told at once again.
        tokio::time::advance(MOST).await;
        herald.announce(51);
        assert!(all.iter_mut().all(|r| *r.borrow_and_update() == 51));
    }

    #[tokio::test(start_paused = true)]
    async fn a_hundred_watches_of_a_thousand_quick_updates_are_woken_a_few_dozen_times() {
        let herald = Arc::new(Herald::default());
        let mut all: Vec<_> = (0..100).map(|_| herald.subscribe()).collect();
        let mut one = all.swap_remove(0);
        let listener = tokio::spawn(async move {
            let mut wakes = 0;
            while *one.borrow_and_update() < 1000 {
                one.changed().await.unwrap();
                wakes += 1;
            }
            wakes
        });
        for position in 1..=1000 {
            herald.announce(position);
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        let wakes = listener.await.unwrap();
        assert!((50..=101).contains(&wakes), "{wakes}");
    }

    #[tokio::test(start_paused = true)]
    async fn what_is_told_at_once_is_not_taken_back() {
        let herald = Arc::new(Herald::default());
        let all: Vec<_> = (0..100).map(|_| herald.subscribe()).collect();
        herald.announce(1);
        herald.announce(2);
        herald.tell(7);
        tokio::time::sleep(MOST).await;
        assert_eq!(*all[0].borrow(), 7);
    }
}
