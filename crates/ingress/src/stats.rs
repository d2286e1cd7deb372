//! What the server counts.

use std::sync::atomic::{AtomicU64, Ordering};

/// Counters since the server was bound, and a few that go up and down.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct StatsSnapshot {
    /// Connections of clients accepted.
    pub connections: u64,
    /// Of these, open now.
    pub connections_open: u64,
    /// TLS handshakes that failed.
    pub tls_failures: u64,
    /// Requests taken.
    pub requests: u64,
    /// Answers by hundreds of their status: index 2 counts 200 to 299. Index 0 is unused.
    pub by_class: [u64; 6],
    /// Requests for which no rule had a backend.
    pub unrouted: u64,
    /// Requests whose backend had no endpoint.
    pub without_endpoint: u64,
    /// Tries after the first one.
    pub retries: u64,
    /// Connections to endpoints that could not be made.
    pub connect_failures: u64,
    /// Connections to endpoints that were made.
    pub connects: u64,
    /// Requests sent over a connection that was there already.
    pub reused: u64,
    /// Connections that were upgraded, to WebSocket for one.
    pub upgrades: u64,
    /// Of these, open now.
    pub upgrades_open: u64,
}

macro_rules! stats {
    ($($name:ident),*) => {
        #[derive(Debug, Default)]
        pub(crate) struct Stats { $(pub $name: Counter,)* pub by_class: [Counter; 6] }

        impl Stats {
            pub fn snapshot(&self) -> StatsSnapshot {
                StatsSnapshot { $($name: self.$name.get(),)* by_class: std::array::from_fn(|i| self.by_class[i].get()) }
            }
        }
    };
}

stats!(
    connections,
    connections_open,
    tls_failures,
    requests,
    unrouted,
    without_endpoint,
    retries,
    connect_failures,
    connects,
    reused,
    upgrades,
    upgrades_open
);

/// A number that any thread may change.
#[derive(Debug, Default)]
pub(crate) struct Counter(AtomicU64);

impl Counter {
    pub fn add(&self) {
        self.0.fetch_add(1, Ordering::Relaxed);
    }

    pub fn subtract(&self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }

    pub fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }

    /// Counts one up until the guard is dropped.
    pub fn hold(&self) -> Held<'_> {
        self.add();
        Held(self)
    }
}

pub(crate) struct Held<'a>(&'a Counter);

impl Drop for Held<'_> {
    fn drop(&mut self) {
        self.0.subtract();
    }
}
