//! Changes in folders of logs (inotify(7)), by one descriptor for all: a user has only so many (128, unless the host says
//! otherwise), and clients that follow logs may be more.

use std::collections::HashMap;
use std::io;
use std::os::fd::AsFd;
use std::path::Path;
use std::sync::Arc;

use base::rt::Tasks;
use nix::sys::inotify::{AddWatchFlags, InitFlags, Inotify, WatchDescriptor};
use parking_lot::Mutex;
use tokio::io::AsyncReadExt;
use tokio::net::unix::pipe;
use tokio::sync::watch;

/// Bytes of an event before its name.
const HEAD: usize = 16;

/// Watches folders.
#[derive(Clone)]
pub struct Watches(Arc<Shared>);

struct Shared {
    inotify: Inotify,
    /// Who is told of which, and how many they are.
    folders: Mutex<HashMap<WatchDescriptor, (watch::Sender<()>, usize)>>,
}

impl Watches {
    /// Begins to watch, until the tasks are told to drain.
    ///
    /// # Errors
    /// When the kernel gives no descriptor.
    pub fn new(tasks: &Tasks) -> io::Result<Self> {
        let inotify = Inotify::init(InitFlags::IN_NONBLOCK | InitFlags::IN_CLOEXEC)?;
        // No pipe, but read like one.
        let events = pipe::Receiver::from_owned_fd_unchecked(inotify.as_fd().try_clone_to_owned()?)?;
        let shared = Arc::new(Shared { inotify, folders: Mutex::default() });
        let (of, drain) = (shared.clone(), tasks.drain());
        tasks.spawn("docker log watches", async move {
            tokio::select! {
                result = of.tell(events) => if let Err(error) = result {
                    tracing::error!(%error, "logs are no longer watched");
                },
                () = drain.cancelled() => {}
            }
        });
        Ok(Watches(shared))
    }

    /// Watches a folder until the watch is dropped.
    ///
    /// # Errors
    /// When the folder is not there, or there are too many.
    pub fn folder(&self, dir: &Path) -> io::Result<Watch> {
        let changes = AddWatchFlags::IN_MODIFY | AddWatchFlags::IN_CREATE | AddWatchFlags::IN_MOVED_TO;
        // Under the lock: a folder that is watched already has the descriptor that another may be giving back.
        let mut folders = self.0.folders.lock();
        let descriptor = self.0.inotify.add_watch(dir, changes | AddWatchFlags::IN_DELETE_SELF)?;
        let (tell, users) = folders.entry(descriptor).or_insert_with(|| (watch::channel(()).0, 0));
        *users += 1;
        Ok(Watch { told: tell.subscribe(), descriptor, shared: self.0.clone() })
    }
}

impl Shared {
    async fn tell(&self, mut events: pipe::Receiver) -> io::Result<()> {
        let mut buffer = [0; 4096];
        loop {
            let n = events.read(&mut buffer).await?;
            let folders = self.folders.lock();
            let mut rest = &buffer[..n];
            // The kernel gives whole events only: four numbers, and a name of the length that the last one says.
            while let Some((head, more)) = rest.split_at_checked(HEAD) {
                let number = |at: usize| head[at..at + 4].try_into().map_or(0, i32::from_ne_bytes);
                let (folder, name) = (number(0), usize::try_from(number(12)).unwrap_or(0));
                rest = more.get(name..).unwrap_or_default();
                // Below zero: some were lost, and may have been about any of them.
                for (_, (tell, _)) in folders.iter().filter(|(wd, _)| folder < 0 || wd.as_raw() == folder) {
                    tell.send_replace(());
                }
            }
        }
    }
}

/// A folder that is watched.
pub struct Watch {
    told: watch::Receiver<()>,
    descriptor: WatchDescriptor,
    shared: Arc<Shared>,
}

impl Watch {
    /// Waits for a change since the last one, or since the beginning.
    ///
    /// # Errors
    /// When nothing is watched any more.
    pub async fn changed(&mut self) -> io::Result<()> {
        self.told.changed().await.map_err(io::Error::other)
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        let mut folders = self.shared.folders.lock();
        let Some((_, users)) = folders.get_mut(&self.descriptor) else { return };
        *users -= 1;
        if *users == 0 {
            folders.remove(&self.descriptor);
            // Gone with its folder, perhaps.
            let _ = self.shared.inotify.rm_watch(self.descriptor);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn many_watch_a_folder_by_one_descriptor() {
        let dir = tempfile::tempdir().unwrap();
        let tasks = Tasks::new(base::rt::Drain::new());
        let watches = Watches::new(&tasks).unwrap();
        let mut all: Vec<Watch> = (0..300).map(|_| watches.folder(dir.path()).unwrap()).collect();
        std::fs::write(dir.path().join("log"), "line").unwrap();
        for watch in &mut all {
            watch.changed().await.unwrap();
        }
        drop(all);
        assert!(watches.0.folders.lock().is_empty());
        // A folder of the same place is another one.
        let mut again = watches.folder(dir.path()).unwrap();
        std::fs::write(dir.path().join("log"), "line").unwrap();
        again.changed().await.unwrap();
    }
}
