//! `windlass version`.

use std::process::ExitCode;

/// The Kubernetes API that is served.
pub const KUBERNETES: &str = "v1.36";

/// One line: Windlass and the API it serves.
pub fn long() -> &'static str {
    concat!(env!("CARGO_PKG_VERSION"), " (Kubernetes API v1.36)")
}

/// Prints the version.
pub fn run() -> anyhow::Result<ExitCode> {
    println!("windlass {} (Kubernetes API {KUBERNETES})", env!("CARGO_PKG_VERSION"));
    Ok(ExitCode::SUCCESS)
}
