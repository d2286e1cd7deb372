//! What a build needs of whoever can run containers.

use std::net::IpAddr;
use std::path::PathBuf;

use tokio::sync::watch;

use crate::dockerfile::Network;

/// Something mounted for one command.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum RunMount {
    /// A file or folder of the host.
    Bind {
        /// On the host, without links.
        source: PathBuf,
        /// In the container.
        target: PathBuf,
        /// No writes.
        read_only: bool,
    },
    /// Memory.
    Tmpfs {
        /// In the container.
        target: PathBuf,
        /// Limit in bytes.
        size: Option<u64>,
    },
}

impl RunMount {
    /// Where it is in the container.
    pub fn target(&self) -> &PathBuf {
        match self {
            RunMount::Bind { target, .. } | RunMount::Tmpfs { target, .. } => target,
        }
    }
}

/// A command to run in a file system.
#[derive(Debug, Clone)]
pub struct RunSpec {
    /// The mounted root file system; what is written to it is the result.
    pub rootfs: PathBuf,
    /// Program and arguments.
    pub args: Vec<String>,
    /// Environment, names once.
    pub env: Vec<(String, String)>,
    /// Working directory; exists.
    pub working_dir: String,
    /// `user[:group]` as the image has it; empty is root.
    pub user: String,
    /// Mounts, in order.
    pub mounts: Vec<RunMount>,
    /// Which network.
    pub network: Network,
    /// Further lines of `/etc/hosts`.
    pub hosts: Vec<(String, IpAddr)>,
    /// With all rights on the host.
    pub insecure: bool,
}

/// Standard output or error.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stream {
    /// Output.
    Out,
    /// Error.
    Err,
}

/// Receives what a command prints, as it comes.
pub type Sink<'a> = &'a (dyn Fn(Stream, &[u8]) + Send + Sync);

/// Resolves when the build is to end; never when nobody can say so any more.
pub async fn canceled(mut cancel: watch::Receiver<bool>) {
    if cancel.wait_for(|ends| *ends).await.is_err() {
        std::future::pending::<()>().await;
    }
}

/// Runs commands in file systems.
pub trait Runner: Send + Sync {
    /// Runs a command to its end and says its exit code. Blocks; never called on a thread of an async runtime. Nothing of it
    /// may be left when it returns, and it ends early when `cancel` becomes true.
    ///
    /// # Errors
    /// Why it could not be run, in one line.
    fn run(&self, spec: &RunSpec, output: Sink<'_>, cancel: watch::Receiver<bool>) -> Result<i32, String>;
}
