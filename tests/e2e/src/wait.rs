//! Waiting for what no watch tells: a port that answers, a file that changes, a process that is gone.

use std::time::{Duration, Instant};

use anyhow::{Context, Result};

/// How often a condition outside the API is looked at.
const LOOK_EVERY: Duration = Duration::from_millis(50);

/// A limit on a machine that is slower than most by `WINDLASS_E2E_SLOW` times, as an emulated one is.
pub fn patient(limit: Duration) -> Duration {
    let times = std::env::var("WINDLASS_E2E_SLOW").ok().and_then(|t| t.parse::<u32>().ok());
    limit * times.unwrap_or(1).clamp(1, 20)
}

/// Tries until it succeeds; after `limit` its last error is the error.
pub fn eventually<T>(limit: Duration, what: &str, mut attempt: impl FnMut() -> Result<T>) -> Result<T> {
    let limit = patient(limit);
    let deadline = Instant::now() + limit;
    loop {
        match attempt() {
            Ok(value) => return Ok(value),
            Err(error) if Instant::now() >= deadline => {
                return Err(error).with_context(|| format!("{what}: not within {} s", limit.as_secs()));
            }
            Err(_) => std::thread::sleep(LOOK_EVERY),
        }
    }
}
