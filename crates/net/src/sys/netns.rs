//! Work in another network namespace.

use std::fs::File;
use std::io::Error;
use std::path::Path;

use nix::sched::{CloneFlags, setns};

use crate::NetError;

/// Does something in the namespace pinned at `path`: a thread of its own enters it and ends, so that no thread of the caller
/// ever changes namespace. What it opens there stays there.
pub(crate) fn within<T: Send + 'static>(path: &Path, work: impl FnOnce() -> T + Send + 'static) -> Result<T, NetError> {
    let failed = |source: Error| NetError::Netns { path: path.to_path_buf(), source };
    let namespace = File::open(path).map_err(failed)?;
    let worker = std::thread::Builder::new()
        .name("netns".into())
        .spawn(move || {
            setns(&namespace, CloneFlags::CLONE_NEWNET).map_err(Error::from)?;
            Ok(work())
        })
        .map_err(failed)?;
    worker.join().map_err(|_| NetError::WorkerLost)?.map_err(failed)
}
