//! Exit codes: 0 done; 1 the operation failed; 2 the command line is wrong (clap's own); 3 this host or moment cannot run
//! it (not root, port taken, kernel too old, no space, no such instance); 130 interrupted. Documented in docs/cli.md.

use std::process::ExitCode;

/// The operation was tried and failed.
pub const FAILED: u8 = 1;
/// The host is not fit, or the instance is not there: nothing was tried.
pub const UNFIT: u8 = 3;

/// A finding about the host or instance with its remedy; ends the process with [`UNFIT`].
#[derive(Debug, thiserror::Error)]
#[error("{problem}\n  fix: {fix}")]
pub struct Unfit {
    /// One sentence: what is in the way.
    pub problem: String,
    /// One sentence: what to do about it.
    pub fix: String,
}

impl Unfit {
    /// An error made of the problem and its fix.
    pub fn error(problem: impl Into<String>, fix: impl Into<String>) -> anyhow::Error {
        anyhow::Error::new(Unfit { problem: problem.into(), fix: fix.into() })
    }
}

/// Prints the error chain once, on standard error, and picks the exit code.
pub fn report(error: &anyhow::Error) -> ExitCode {
    let code = if error.downcast_ref::<Unfit>().is_some() { UNFIT } else { FAILED };
    eprintln!("windlass: {error:#}");
    ExitCode::from(code)
}
