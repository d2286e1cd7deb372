//! Transient faults are tried again, a bounded number of times, ever more slowly.

use std::time::Duration;

use crate::error::{ImageError, Result};

const BASE: Duration = Duration::from_millis(250);
const CAP: Duration = Duration::from_secs(8);

/// Attempts in all, as a multiple of those without progress: a server that drips does not hold a pull for ever.
const TOTAL_FACTOR: u32 = 20;

pub(crate) struct Retry {
    left: u32,
    total: u32,
    attempts: u32,
    backoff: base::backoff::Backoff,
}

impl Retry {
    pub(crate) fn new(attempts: u32) -> Self {
        let seed = u64::from(std::process::id());
        let attempts = attempts.max(1);
        let total = attempts.saturating_mul(TOTAL_FACTOR);
        Retry { left: attempts, total, attempts, backoff: base::backoff::Backoff::new(BASE, CAP, seed) }
    }

    /// Something moved, so the faults so far do not count.
    pub(crate) fn progressed(&mut self) {
        self.left = self.attempts;
        self.backoff.reset();
    }

    /// Waits before the next attempt, or gives the error back when there is none.
    pub(crate) async fn after(&mut self, error: ImageError) -> Result<()> {
        self.left = self.left.saturating_sub(1);
        self.total = self.total.saturating_sub(1);
        if self.left == 0 || self.total == 0 || !error.is_transient() {
            return Err(error);
        }
        tracing::debug!(%error, "trying again");
        tokio::time::sleep(self.backoff.next_delay()).await;
        Ok(())
    }
}
