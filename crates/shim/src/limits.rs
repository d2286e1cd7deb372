//! How many files may be open. Server and agent hold a descriptor for each connection, pod and stream, and take all that they
//! may; their containers get the limit that was there before, since programs that close every possible descriptor, or that use
//! select(2), suffer from a high one.

use std::sync::OnceLock;

use nix::sys::resource::{Resource, getrlimit, rlim_t, setrlimit};

/// Says to a child of the server, and to a launcher, which soft limit containers get.
pub const VARIABLE: &str = "WINDLASS_CONTAINER_NOFILE";

/// The soft limit that this process was started with, or that it was told of.
static GIVEN: OnceLock<rlim_t> = OnceLock::new();

/// Raises the soft limit of this process to the hard one (getrlimit(2)), and remembers what it was for containers.
///
/// # Errors
/// When the kernel refuses; then everything is as it was.
pub fn raise_open_files() -> std::io::Result<()> {
    let (soft, hard) = getrlimit(Resource::RLIMIT_NOFILE)?;
    let told = std::env::var(VARIABLE).ok().and_then(|text| text.parse().ok());
    let _ = GIVEN.set(told.unwrap_or(soft));
    Ok(setrlimit(Resource::RLIMIT_NOFILE, hard, hard)?)
}

/// What containers get, when this process has another limit than it was started with.
pub fn of_containers() -> Option<String> {
    GIVEN.get().map(ToString::to_string)
}

/// In a launcher: takes the limit that it was told, for itself and all that it forks.
pub(crate) fn take() {
    let told = std::env::var(VARIABLE).ok().and_then(|text| text.parse::<rlim_t>().ok());
    if let (Some(soft), Ok((_, hard))) = (told, getrlimit(Resource::RLIMIT_NOFILE)) {
        let _ = setrlimit(Resource::RLIMIT_NOFILE, soft.min(hard), hard);
    }
}
