//! The kernel tells when tasks wait for memory (pressure stall information, Documentation/accounting/psi.rst).

use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;

use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

const FILE: &str = "/proc/pressure/memory";
/// Some task waited for 150 ms of 2 s; the shortest window that needs no privilege. The kernel takes the last byte for the end.
const TRIGGER: &[u8] = b"some 150000 2000000\0";

/// Tells of such waits; of none on kernels that do not.
pub(super) struct Stalls(Option<AsyncFd<File>>);

impl Stalls {
    pub(super) fn none() -> Self {
        Stalls(None)
    }

    /// Within a runtime.
    pub(super) fn watch() -> Self {
        let watched = open();
        if let Err(error) = &watched {
            tracing::debug!(%error, "the kernel does not tell when tasks wait for memory");
        }
        Stalls(watched.ok())
    }

    /// Waits for the next one.
    pub(super) async fn next(&self) {
        let Some(file) = &self.0 else { return std::future::pending().await };
        match file.ready(Interest::PRIORITY).await {
            Ok(mut ready) => ready.clear_ready(),
            Err(_) => std::future::pending().await,
        }
    }
}

fn open() -> io::Result<AsyncFd<File>> {
    let mut file = OpenOptions::new().read(true).write(true).custom_flags(nix::libc::O_NONBLOCK).open(FILE)?;
    file.write_all(TRIGGER)?;
    #[expect(deprecated, reason = "its successor is unsafe; a file owns its descriptor, as that asks for")]
    let watched = AsyncFd::with_interest(file, Interest::PRIORITY);
    watched
}
