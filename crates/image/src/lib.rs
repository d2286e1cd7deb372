//! Images on one host: a content store that several processes share, pull and push, archives, and the overlay
//! snapshots containers run on.
//!
//! Everything is named by digest and checked against it before it is used. Content arrives in `tmp/` or `ingest/` and
//! becomes visible whole, by rename, after it is on disk; images and references follow. Removing waits for nobody:
//! while content is being added it is put off. See [`layout`](self) for the folders.
//!
//! The registry client is our own, over reqwest: it bounds every body, resumes a blob by range, and words errors as
//! Docker does.

mod auth;
mod built;
mod cached;
mod compress;
mod content;
mod diff;
mod digest;
mod download;
mod error;
pub mod fuzz;
mod gc;
mod import;
mod ingest;
mod layout;
mod load;
mod manifest;
mod progress;
mod pull;
mod push;
mod reference;
mod registry;
mod remote;
mod retry;
mod save;
mod sbom;
mod sign;
mod snapshot;
mod store;
mod unpack;
mod upstream;

pub use auth::Auth;
pub use built::{BuiltLayer, Compression, Hold, LayerSource, is_archive};
pub use cached::CachedStep;
pub use digest::Digest;
pub use download::Download;
pub use error::{ImageError, Result};
pub use gc::{DiskUsage, Held, Removed};
pub use import::ImportConfig;
pub use oci_spec;
pub use progress::{Progress, ProgressEvent};
pub use reference::{DEFAULT_REGISTRY, Reference};
pub use remote::{Found, RemoteImage};
pub use save::ArchiveFormat;
pub use sign::{KeyError, KeyPair, PublicKey, Signed, SigningKey};
pub use snapshot::RootFs;
pub use store::{ImageInfo, ImageStore, Options};
pub use upstream::{Upstream, UpstreamBlob, UpstreamManifest};
