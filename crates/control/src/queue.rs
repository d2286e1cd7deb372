//! A queue of keys. A key is in it at most once; a key that is added while it is worked on comes again afterwards; a key is
//! never worked on twice at the same time. The number of keys is bounded by the number of objects.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet, VecDeque};
use std::hash::Hash;
use std::time::Duration;

use parking_lot::Mutex;
use tokio::sync::Notify;
use tokio::time::Instant;

/// First and longest wait after a failed pass.
const RETRY_FIRST: Duration = Duration::from_millis(10);
const RETRY_MAX: Duration = Duration::from_secs(60);

/// See the module.
#[derive(Debug)]
pub struct Queue<K> {
    inner: Mutex<Inner<K>>,
    wake: Notify,
}

#[derive(Debug)]
struct Inner<K> {
    ready: VecDeque<K>,
    queued: HashSet<K>,
    working: HashSet<K>,
    again: HashSet<K>,
    later: BTreeSet<(Instant, K)>,
    deadlines: BTreeMap<K, Instant>,
    failures: HashMap<K, u32>,
}

impl<K: Clone + Eq + Hash + Ord> Queue<K> {
    /// An empty queue.
    pub fn new() -> Self {
        Queue {
            inner: Mutex::new(Inner {
                ready: VecDeque::new(),
                queued: HashSet::new(),
                working: HashSet::new(),
                again: HashSet::new(),
                later: BTreeSet::new(),
                deadlines: BTreeMap::new(),
                failures: HashMap::new(),
            }),
            wake: Notify::new(),
        }
    }

    /// Asks for a pass over the key.
    pub fn add(&self, key: K) {
        let mut q = self.inner.lock();
        if q.working.contains(&key) {
            q.again.insert(key);
            return;
        }
        if q.queued.insert(key.clone()) {
            q.ready.push_back(key);
            drop(q);
            self.wake.notify_one();
        }
    }

    /// Asks for a pass in a while; an earlier wish for the same key stands.
    pub fn add_after(&self, key: K, wait: Duration) {
        let at = Instant::now() + wait;
        let mut q = self.inner.lock();
        match q.deadlines.get(&key) {
            Some(&earlier) if earlier <= at => return,
            Some(&later) => {
                q.later.remove(&(later, key.clone()));
            }
            None => {}
        }
        q.deadlines.insert(key.clone(), at);
        q.later.insert((at, key));
        drop(q);
        self.wake.notify_one();
    }

    /// What waits for its time comes at once: that time was reckoned by a clock that was set since.
    pub fn hasten(&self) {
        let now = Instant::now();
        let mut q = self.inner.lock();
        for (_, key) in std::mem::take(&mut q.later) {
            q.deadlines.insert(key.clone(), now);
            q.later.insert((now, key));
        }
        drop(q);
        self.wake.notify_one();
    }

    /// The next key to work on. Call [`Queue::done`] with it afterwards.
    pub async fn next(&self) -> K {
        loop {
            let notified = self.wake.notified();
            let (key, until) = self.take();
            if let Some(key) = key {
                return key;
            }
            match until {
                Some(at) => {
                    tokio::select! {
                        () = notified => {}
                        () = tokio::time::sleep_until(at) => {}
                    }
                }
                None => notified.await,
            }
        }
    }

    fn take(&self) -> (Option<K>, Option<Instant>) {
        let mut q = self.inner.lock();
        let now = Instant::now();
        while let Some((at, key)) = q.later.first().cloned() {
            if at > now {
                break;
            }
            q.later.remove(&(at, key.clone()));
            q.deadlines.remove(&key);
            if q.working.contains(&key) {
                q.again.insert(key);
            } else if q.queued.insert(key.clone()) {
                q.ready.push_back(key);
            }
        }
        let key = q.ready.pop_front();
        if let Some(k) = &key {
            q.queued.remove(k);
            q.working.insert(k.clone());
            if !q.ready.is_empty() {
                self.wake.notify_one(); // another worker may take the next
            }
        }
        (key, q.later.first().map(|(at, _)| *at))
    }

    /// Ends the work on a key. A failed pass is tried again after a growing wait.
    pub fn done(&self, key: K, failed: bool) {
        let mut q = self.inner.lock();
        q.working.remove(&key);
        let again = q.again.remove(&key);
        if !failed {
            q.failures.remove(&key);
        }
        if again && q.queued.insert(key.clone()) {
            q.ready.push_back(key.clone());
            self.wake.notify_one();
        }
        if !failed {
            return;
        }
        let n = q.failures.entry(key.clone()).or_default();
        *n = (*n + 1).min(16);
        let wait = RETRY_FIRST.saturating_mul(1 << (*n - 1)).min(RETRY_MAX);
        drop(q);
        self.add_after(key, wait);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_key_added_twice_comes_once() {
        let q = Queue::new();
        q.add(1);
        q.add(1);
        assert_eq!(q.next().await, 1);
        q.done(1, false);
        assert!(tokio::time::timeout(Duration::from_secs(5), q.next()).await.is_err());
    }

    #[tokio::test(start_paused = true)]
    async fn a_key_added_while_worked_on_comes_again_afterwards() {
        let q = Queue::new();
        q.add(1);
        assert_eq!(q.next().await, 1);
        q.add(1);
        assert!(tokio::time::timeout(Duration::from_secs(5), q.next()).await.is_err());
        q.done(1, false);
        assert_eq!(q.next().await, 1);
    }

    #[tokio::test(start_paused = true)]
    async fn what_waits_comes_at_once_when_the_clock_was_set() {
        let q = Queue::new();
        q.add_after(1, Duration::from_secs(1800));
        assert!(tokio::time::timeout(Duration::from_secs(5), q.next()).await.is_err());
        q.hasten();
        assert_eq!(tokio::time::timeout(Duration::from_secs(5), q.next()).await, Ok(1));
        q.done(1, false);
        q.add_after(1, Duration::from_secs(60));
        assert!(tokio::time::timeout(Duration::from_secs(59), q.next()).await.is_err());
    }

    #[tokio::test(start_paused = true)]
    async fn failures_wait_longer_each_time() {
        let q = Queue::new();
        q.add(1);
        let mut waits = Vec::new();
        for _ in 0..4 {
            let before = Instant::now();
            let key = q.next().await;
            waits.push(before.elapsed().as_millis());
            q.done(key, true);
        }
        assert_eq!(waits, [0, 10, 20, 40]);
    }

    #[tokio::test(start_paused = true)]
    async fn the_earlier_deadline_wins() {
        let q = Queue::new();
        q.add_after(1, Duration::from_secs(60));
        q.add_after(1, Duration::from_secs(5));
        q.add_after(1, Duration::from_secs(30));
        let before = Instant::now();
        assert_eq!(q.next().await, 1);
        assert_eq!(before.elapsed().as_secs(), 5);
    }
}
