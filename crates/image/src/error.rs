//! What can go wrong with images, worded for the person who asked.

use std::io;
use std::path::{Path, PathBuf};

use crate::digest::Digest;

/// Why an operation on images failed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ImageError {
    /// The text is no image reference.
    #[error("invalid reference {reference:?}: {reason}")]
    InvalidReference {
        /// The text given.
        reference: String,
        /// The rule it breaks.
        reason: &'static str,
    },
    /// The text is no sha256 digest.
    #[error("{digest:?} is not a sha256 digest")]
    BadDigest {
        /// The text given.
        digest: String,
    },
    /// The store has no such image.
    #[error("no such image: {0}")]
    NotFound(String),
    /// The id prefix fits several images.
    #[error("image id {0:?} is ambiguous")]
    Ambiguous(String),
    /// The registry refused, or hides that the repository does not exist (worded as Docker does).
    #[error("{action} access denied for {repository}, repository does not exist or may require 'docker login'")]
    AccessDenied {
        /// `pull` or `push`.
        action: &'static str,
        /// The repository, in its familiar form.
        repository: String,
    },
    /// The registry does not know these credentials.
    #[error("{registry} refused the credentials: {message}")]
    Unauthorized {
        /// Host of the registry or of its token service.
        registry: String,
        /// What it said.
        message: String,
    },
    /// The credentials could not be read or fetched.
    #[error("credentials for {registry}: {message}")]
    Credentials {
        /// Host of the registry.
        registry: String,
        /// What went wrong; never holds a secret.
        message: String,
    },
    /// The repository has no such tag or digest.
    #[error("manifest for {0} not found: manifest unknown")]
    ManifestUnknown(String),
    /// The image exists, but not for this machine.
    #[error("no image for {platform} in {reference}; it has {available}")]
    NoPlatform {
        /// The reference asked for.
        reference: String,
        /// What this host runs, e.g. `linux/amd64`.
        platform: String,
        /// What there is, comma-separated.
        available: String,
    },
    /// No signature of a key that was asked for is over it.
    #[error("{image} ({digest}) is not signed as it must be: {reason}")]
    Unsigned {
        /// The name, in its familiar form.
        image: String,
        /// What it means.
        digest: Digest,
        /// What was found instead.
        reason: String,
    },
    /// A media type that is not a container image, or one too old to verify.
    #[error("{what} has the unsupported media type {media_type:?}")]
    UnsupportedMediaType {
        /// What has it.
        what: String,
        /// The type.
        media_type: String,
    },
    /// The bytes are not those asked for.
    #[error("{what}: expected digest {expected}, got {actual}")]
    DigestMismatch {
        /// What was read.
        what: String,
        /// What it must be.
        expected: Digest,
        /// What it was.
        actual: Digest,
    },
    /// More than the configured limit.
    #[error("{what} exceeds the limit of {limit} ({unit})")]
    TooLarge {
        /// What is too large.
        what: String,
        /// The limit.
        limit: u64,
        /// Of what: `bytes`, `entries`, `layers`.
        unit: &'static str,
    },
    /// The registry answered with an error.
    #[error("{url}: {status}: {message}")]
    Registry {
        /// What was asked, without query.
        url: String,
        /// HTTP status.
        status: u16,
        /// Its message, shortened.
        message: String,
    },
    /// The registry could not be reached, or the connection broke.
    #[error("{url}: {message}")]
    Network {
        /// What was asked, without query.
        url: String,
        /// The chain of causes.
        message: String,
    },
    /// The connection ended before the content did; what came is kept and the next pull goes on from there.
    #[error("{what}: connection ended after {received} of {expected} bytes")]
    Interrupted {
        /// The content.
        what: String,
        /// Bytes received, earlier attempts included.
        received: u64,
        /// Bytes announced.
        expected: u64,
    },
    /// A document of the registry or an archive does not say what it must.
    #[error("{what}: {reason}")]
    BadDocument {
        /// Which document.
        what: String,
        /// What is wrong with it.
        reason: String,
    },
    /// An archive is damaged or tries what an image must not.
    #[error("bad archive {what}: {reason}")]
    BadArchive {
        /// The archive or layer, and the entry.
        what: String,
        /// What is wrong with it.
        reason: String,
    },
    /// The content is gone from the store; pull the image again.
    #[error("{what} {digest} is missing from the image store; pull or load the image again")]
    MissingContent {
        /// `layer` or `blob`.
        what: &'static str,
        /// Which.
        digest: Digest,
    },
    /// It is used and stays.
    #[error("conflict: {what} is in use: {by}")]
    InUse {
        /// The image or snapshot.
        what: String,
        /// Who uses it.
        by: String,
    },
    /// A key or name breaks the rules of the store.
    #[error("invalid {what} {value:?}: {reason}")]
    InvalidName {
        /// What kind of name.
        what: &'static str,
        /// The name given.
        value: String,
        /// The rule it breaks.
        reason: &'static str,
    },
    /// The disk is full.
    #[error("no space left on the device that holds {}", .0.display())]
    NoSpace(PathBuf),
    /// A system call failed.
    #[error("{action} {}: {source}", .path.display())]
    Io {
        /// What was being done, e.g. `open`.
        action: &'static str,
        /// To what.
        path: PathBuf,
        /// What the kernel said.
        source: io::Error,
    },
    /// A background thread of the store ended abnormally.
    #[error("{0} was cut short")]
    Aborted(&'static str),
}

impl ImageError {
    /// Whether trying again may help with nothing else changed.
    pub fn is_transient(&self) -> bool {
        match self {
            ImageError::Network { .. } | ImageError::Interrupted { .. } => true,
            ImageError::Registry { status, .. } => matches!(status, 408 | 429 | 500..=599),
            _ => false,
        }
    }

    pub(crate) fn archive(what: impl Into<String>, reason: impl Into<String>) -> Self {
        ImageError::BadArchive { what: what.into(), reason: reason.into() }
    }

    pub(crate) fn document(what: impl Into<String>, reason: impl ToString) -> Self {
        ImageError::BadDocument { what: what.into(), reason: reason.to_string() }
    }
}

/// Result of the crate.
pub type Result<T, E = ImageError> = std::result::Result<T, E>;

/// Turns an I/O error into one that says where it happened; a full disk has its own name.
pub(crate) fn io_error(action: &'static str, path: &Path) -> impl FnOnce(io::Error) -> ImageError {
    let path = path.to_path_buf();
    move |source| match source.kind() {
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => ImageError::NoSpace(path),
        _ => ImageError::Io { action, path, source },
    }
}

/// The same for system calls made through nix.
pub(crate) fn sys_error(action: &'static str, path: &Path) -> impl FnOnce(nix::Error) -> ImageError {
    let wrap = io_error(action, path);
    move |errno| wrap(io::Error::from(errno))
}
