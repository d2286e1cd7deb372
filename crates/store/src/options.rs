//! What can be set, with defaults for one small server.

use std::time::Duration;

use crate::{DEFAULT_MAX_VALUE_BYTES, WatchLimits};

/// Settings of a store.
#[derive(Debug, Clone)]
pub struct Options {
    /// Largest value in bytes. All values of one transaction together may have four times as many.
    pub max_value_bytes: usize,
    /// Memory for pages of the file, in bytes. Small on purpose: the API server's watch cache holds what is read often.
    pub cache_bytes: usize,
    /// How many calls may wait for the writer; further callers wait before they are queued.
    pub queue: usize,
    /// How much may wait for one watcher.
    pub watch: WatchLimits,
    /// When history is dropped by itself; `None` keeps it until [`Store::compact`](crate::Store::compact) is called.
    pub auto_compact: Option<AutoCompact>,
}

impl Default for Options {
    fn default() -> Self {
        Options {
            max_value_bytes: DEFAULT_MAX_VALUE_BYTES,
            cache_bytes: 8 << 20,
            queue: 256,
            watch: WatchLimits::default(),
            auto_compact: Some(AutoCompact::default()),
        }
    }
}

/// Drops history of its own accord. What is younger than `every` stays, and so do the last `keep_revisions`.
#[derive(Debug, Clone, Copy)]
pub struct AutoCompact {
    /// How often; history between one and two times as old is dropped. Kubernetes has etcd do it every 5 minutes.
    pub every: Duration,
    /// How many revisions stay in any case.
    pub keep_revisions: u64,
}

impl Default for AutoCompact {
    fn default() -> Self {
        AutoCompact { every: Duration::from_secs(300), keep_revisions: 1000 }
    }
}
