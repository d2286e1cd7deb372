//! Waiting for a log to grow: inotify on its directory, which also tells of rotation.

use std::io;
use std::path::Path;

use nix::sys::inotify::{AddWatchFlags, InitFlags, Inotify};
use tokio::io::AsyncReadExt;
use tokio::net::unix::pipe;

/// Events taken at once; what they say does not matter.
const EVENTS: usize = 4 << 10;

/// Changes in a directory.
pub struct DirWatch(pipe::Receiver);

impl DirWatch {
    /// From now on.
    ///
    /// # Errors
    /// There is no such directory, or the kernel's limit on watches is reached.
    pub fn new(dir: &Path) -> io::Result<Self> {
        let inotify = Inotify::init(InitFlags::IN_NONBLOCK | InitFlags::IN_CLOEXEC)?;
        let changes = AddWatchFlags::IN_MODIFY
            | AddWatchFlags::IN_CREATE
            | AddWatchFlags::IN_MOVED_TO
            | AddWatchFlags::IN_DELETE
            | AddWatchFlags::IN_DELETE_SELF;
        inotify.add_watch(dir, changes)?;
        // No pipe, but read like one: bytes when there are any, and the descriptor does not block.
        Ok(DirWatch(pipe::Receiver::from_owned_fd_unchecked(inotify.into())?))
    }

    /// Waits for a change since the last call. What changed does not matter: the log is looked at again.
    ///
    /// # Errors
    /// The kernel refuses to say.
    pub async fn changed(&mut self) -> io::Result<()> {
        let mut events = [0; EVENTS];
        match self.0.read(&mut events).await? {
            0 => Err(io::ErrorKind::UnexpectedEof.into()),
            _ => Ok(()),
        }
    }
}
