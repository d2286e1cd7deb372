//! The Docker Engine API over the engine, on a unix socket and, with TLS on both sides, on a port: what the stock `docker` CLI and Docker's client libraries speak.
//!
//! ```text
//! docker ── docker.sock ── route ── handlers ── life: one start, end or removal of a container at a time
//!                                      │            └── engine: a sandbox with one container, while it runs
//!                                      └── record: what is known of a container, on disk, also when it does not run
//! ```
//!
//! Invariants: a container that does not run has nothing in the engine but its file system; a record is on disk before its
//! container runs; what cannot be obeyed is refused by its name, and what is not there answers 501. What is of a swarm, its manager
//! answers ([`swarm::Manager`]).

mod buildkit;
mod containers;
mod events;
mod face;
mod fault;
pub mod fuzz;
mod http;
mod images;
mod logging;
mod networks;
mod outside;
mod query;
mod remote;
mod route;
mod server;
pub mod swarm;
mod system;
mod volumes;

use std::fmt;
use std::io;
use std::path::{Path, PathBuf};

use base::instance::Instance;

pub use outside::Refused;
pub use remote::{Remote, RemoteError};
pub use server::Docker;

/// Start of the keys of containers' file systems in the image store.
const ROOT_PREFIX: &str = "d-";
/// The newest version of the API that is spoken.
pub(crate) const API_MAX: Version = Version(1, 50);
/// The oldest.
pub(crate) const API_MIN: Version = Version(1, 41);

/// A version of the API.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Version(pub u16, pub u16);

impl fmt::Display for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.0, self.1)
    }
}

/// Why the Docker API is not served.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ServeError {
    /// A file or folder of it cannot be used.
    #[error("cannot use {}", path.display())]
    Io {
        /// Which.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
}

/// File beside a volume's data that names the claim of the cluster it is of.
const CLAIMED: &str = "claimed";

/// Notes that a volume's files are those of a claim, so that nobody removes them here; `None` takes the note away.
///
/// # Errors
/// When the disk refuses.
pub fn claim_volume(instance: &Instance, volume: &str, claim: Option<&str>) -> io::Result<()> {
    let folder = volumes_dir(instance).join(volume);
    match claim {
        Some(claim) => containers::record::put(&folder, CLAIMED, claim.as_bytes()),
        None => match std::fs::remove_file(folder.join(CLAIMED)) {
            Err(e) if e.kind() != io::ErrorKind::NotFound => Err(e),
            _ => Ok(()),
        },
    }
}

/// Where the API is served.
pub fn socket_path(instance: &Instance) -> PathBuf {
    instance.run_dir().join("docker.sock")
}

fn containers_dir(instance: &Instance) -> PathBuf {
    instance.data_dir().join("docker").join("containers")
}

fn networks_dir(instance: &Instance) -> PathBuf {
    instance.data_dir().join("docker").join("networks")
}

fn volumes_dir(instance: &Instance) -> PathBuf {
    instance.data_dir().join("docker").join("volumes")
}

fn mounts_dir(instance: &Instance) -> PathBuf {
    instance.run_dir().join("docker-mounts")
}

/// This host's architecture, in Docker's words.
pub(crate) fn architecture() -> &'static str {
    match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    }
}

/// Unmounts what a face that was killed had mounted for a copy.
fn unmount_all(instance: &Instance) {
    for entry in std::fs::read_dir(mounts_dir(instance)).into_iter().flatten().flatten() {
        if image::RootFs::unmount(&entry.path()).is_ok() {
            let _ = std::fs::remove_dir(entry.path());
        }
    }
}

/// Removes all containers of an instance whose engine does not run and has been taken down: their records, logs and file
/// systems. Named volumes, networks and images stay: they are data.
///
/// # Errors
/// When the disk refuses.
pub fn destroy(instance: &Instance) -> Result<(), ServeError> {
    let at = |path: &Path| {
        let path = path.to_path_buf();
        move |source: io::Error| ServeError::Io { path: path.clone(), source }
    };
    unmount_all(instance);
    let images = instance.data_dir().join("images");
    if images.exists() {
        let failed = |e: image::ImageError| at(&images)(io::Error::other(base::chain(&e)));
        let store = image::ImageStore::open(&images).map_err(failed)?;
        for key in store.snapshots().map_err(failed)?.iter().filter(|k| k.starts_with(ROOT_PREFIX)) {
            store.remove_snapshot(key).map_err(failed)?;
        }
    }
    let containers = containers_dir(instance);
    match std::fs::remove_dir_all(&containers) {
        Err(e) if e.kind() != io::ErrorKind::NotFound => Err(at(&containers)(e)),
        _ => Ok(()),
    }
}
