//! Images as the agent needs them: present or pulled. The store behind it is the engine's; tests use a fake.

use std::collections::{HashMap, HashSet};
use std::path::Path;
use std::sync::Arc;

use futures::future::{BoxFuture, FutureExt, Shared};
use parking_lot::Mutex;
use reconcile::imagegc::Image;

/// Credentials for a registry.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Credentials {
    /// None.
    Anonymous,
    /// Basic authentication.
    Basic {
        /// User.
        username: String,
        /// Password or token.
        password: String,
    },
}

/// An image the node has.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Present {
    /// What to give to the runtime.
    pub reference: String,
    /// Digest reference for `status.imageID`.
    pub image_id: String,
    /// Size, bytes.
    pub size_bytes: u64,
    /// Names it goes by.
    pub names: Vec<String>,
}

/// Why an image is not there.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ImageFailure {
    /// The name is not one.
    #[error("{0}")]
    InvalidName(String),
    /// The registry or the store failed.
    #[error("{0}")]
    Pull(String),
    /// Nobody who must have has signed it.
    #[error("{0}")]
    Signature(String),
}

/// The image store of the node.
pub trait Images: Send + Sync + 'static {
    /// The image of that name, if it is on the node.
    fn get<'a>(&'a self, reference: &'a str) -> BoxFuture<'a, Result<Option<Present>, ImageFailure>>;
    /// Pulls it; what has that digest, if one is given. Each of the credentials is tried in turn.
    fn pull<'a>(
        &'a self,
        reference: &'a str,
        digest: Option<&'a str>,
        credentials: &'a [Credentials],
    ) -> BoxFuture<'a, Result<Present, ImageFailure>>;
    /// Asks the registry whether what a name means there was signed with one of the keys (PEM), and says its digest. Each of the credentials is tried in turn.
    fn verify<'a>(
        &'a self,
        reference: &'a str,
        keys: &'a [String],
        credentials: &'a [Credentials],
    ) -> BoxFuture<'a, Result<String, ImageFailure>>;
    /// Mounts an image that is present, by its [`Present::reference`], on a folder that exists; mounted before is fine. The
    /// key is the mount's own, of the characters of file names.
    fn mount<'a>(
        &'a self,
        reference: &'a str,
        key: &'a str,
        target: &'a Path,
    ) -> BoxFuture<'a, Result<(), ImageFailure>>;
    /// Forgets mounts, which must have been unmounted, whose key does not satisfy `keep`.
    fn forget<'a>(&'a self, keep: &'a (dyn Fn(&str) -> bool + Send + Sync)) -> BoxFuture<'a, Result<(), ImageFailure>>;
    /// All images, for the node's status.
    fn list(&self) -> BoxFuture<'_, Vec<Present>>;
    /// All images, and whether they may go; those of these names are in use.
    fn held<'a>(&'a self, named: &'a [String]) -> BoxFuture<'a, Result<Vec<Image>, ImageFailure>>;
    /// Removes an image that nobody uses, with all its names. Answers the bytes won back.
    fn remove<'a>(&'a self, id: &'a str) -> BoxFuture<'a, Result<u64, ImageFailure>>;
    /// The registry a reference leads to, e.g. `docker.io` or `registry:5000`, with the path of the repository.
    fn registry_of(&self, reference: &str) -> Option<(String, String)>;
}

/// Name, digest if one is wanted, credentials.
type Asked = (String, Option<String>, Vec<Credentials>);
type Pull = Shared<BoxFuture<'static, Result<Present, ImageFailure>>>;

/// Pulls, one at a time for the same image and credentials: who comes later waits for the same pull.
pub(crate) struct Puller {
    images: Arc<dyn Images>,
    running: Mutex<HashMap<Asked, Pull>>,
    /// Digests that were verified, with the keys: a container that starts again needs no registry.
    verified: Mutex<HashSet<(String, Vec<String>)>>,
    slots: Arc<tokio::sync::Semaphore>,
}

/// Pulls at the same time on one node. More only share the same link and disk.
const PULLS_AT_ONCE: usize = 4;

/// Digests that are known to be signed; then all are asked for anew.
const VERIFIED_MAX: usize = 4096;

/// Waits for a pull; when the last waiter goes away, the pull goes too.
struct Waiter<'a> {
    puller: &'a Puller,
    pull: Option<Pull>,
}

impl Drop for Waiter<'_> {
    fn drop(&mut self) {
        self.pull = None;
        self.puller.prune();
    }
}

impl Puller {
    pub(crate) fn new(images: Arc<dyn Images>) -> Self {
        Puller {
            images,
            running: Mutex::default(),
            verified: Mutex::default(),
            slots: Arc::new(tokio::sync::Semaphore::new(PULLS_AT_ONCE)),
        }
    }

    pub(crate) fn images(&self) -> &Arc<dyn Images> {
        &self.images
    }

    pub(crate) async fn pull(
        &self,
        reference: &str,
        digest: Option<String>,
        credentials: Vec<Credentials>,
    ) -> Result<Present, ImageFailure> {
        let key = (reference.to_owned(), digest, credentials);
        let pull = {
            let mut running = self.running.lock();
            match running.get(&key).filter(|p| p.peek().is_none()) {
                Some(pull) => pull.clone(),
                None => {
                    let pull = self.start(key.clone());
                    running.insert(key, pull.clone());
                    pull
                }
            }
        };
        let mut waiter = Waiter { puller: self, pull: Some(pull) };
        match waiter.pull.as_mut() {
            Some(pull) => pull.await,
            None => Err(ImageFailure::Pull("the pull was given up".to_owned())),
        }
    }

    /// What [`Images::verify`] says of a name.
    pub(crate) async fn verify(
        &self,
        reference: &str,
        keys: &[String],
        credentials: &[Credentials],
    ) -> Result<String, ImageFailure> {
        let digest = self.images.verify(reference, keys, credentials).await?;
        self.remember(&digest, keys);
        Ok(digest)
    }

    /// Whether a digest of a repository (`registry/path@sha256:…`) is signed. Of each digest the registry is asked once.
    pub(crate) async fn verify_digest(
        &self,
        reference: &str,
        keys: &[String],
        credentials: &[Credentials],
    ) -> Result<(), ImageFailure> {
        let (_, digest) = reference.split_once('@').unwrap_or_default();
        if self.verified.lock().contains(&(digest.to_owned(), keys.to_vec())) {
            return Ok(());
        }
        self.verify(reference, keys, credentials).await.map(drop)
    }

    fn remember(&self, digest: &str, keys: &[String]) {
        let mut verified = self.verified.lock();
        if verified.len() >= VERIFIED_MAX {
            verified.clear();
        }
        verified.insert((digest.to_owned(), keys.to_vec()));
    }

    /// Forgets pulls that are over or that nobody waits for.
    fn prune(&self) {
        let mut over = Vec::new();
        let mut running = self.running.lock();
        running.retain(|_, p| {
            let wanted = p.peek().is_none() && p.strong_count().is_some_and(|n| n > 1);
            if !wanted {
                over.push(p.clone());
            }
            wanted
        });
        // Their futures are dropped outside the lock.
        drop(running);
    }

    fn start(&self, (reference, digest, credentials): Asked) -> Pull {
        let (images, slots) = (self.images.clone(), self.slots.clone());
        async move {
            let _slot = slots.acquire_owned().await.map_err(|e| ImageFailure::Pull(e.to_string()))?;
            images.pull(&reference, digest.as_deref(), &credentials).await
        }
        .boxed()
        .shared()
    }
}
