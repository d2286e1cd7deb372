//! Logs: one JSON object per line on standard error.

use tracing_subscriber::EnvFilter;

/// Starts logging; `RUST_LOG` filters, `info` by default. A second call does nothing.
pub fn init() {
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new("info"));
    // Only a test starts it twice.
    let _ = tracing_subscriber::fmt()
        .json()
        .flatten_event(true)
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .try_init();
}
