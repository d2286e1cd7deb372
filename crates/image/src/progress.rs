//! What a pull or push tells while it runs.

use crate::digest::Digest;

/// One step of a pull or push.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum ProgressEvent {
    /// The reference is this manifest.
    Resolved {
        /// Digest the registry answered for the reference.
        digest: Digest,
        /// How many layers it has.
        layers: usize,
    },
    /// The layer is here already (pull) or there already (push).
    Exists {
        /// The layer's blob.
        digest: Digest,
    },
    /// Bytes of a layer moved.
    Transfer {
        /// The layer's blob.
        digest: Digest,
        /// Bytes so far, those of an interrupted earlier attempt included.
        done: u64,
        /// Bytes in all.
        total: u64,
    },
    /// An attempt failed and will be repeated.
    Retry {
        /// The layer's blob.
        digest: Digest,
        /// Why.
        reason: String,
    },
    /// The layer arrived and is being unpacked.
    Unpacking {
        /// The layer's blob.
        digest: Digest,
    },
    /// The layer is in place.
    Done {
        /// The layer's blob.
        digest: Digest,
    },
}

/// Receives the steps; called from several tasks, must not block.
pub trait Progress: Send + Sync {
    /// One step happened.
    fn event(&self, event: ProgressEvent);
}

/// Tells nobody.
impl Progress for () {
    fn event(&self, _: ProgressEvent) {}
}

impl<F: Fn(ProgressEvent) + Send + Sync> Progress for F {
    fn event(&self, event: ProgressEvent) {
        self(event);
    }
}
