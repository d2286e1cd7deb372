//! What the agent works with, and how the engine is made into it.

use std::path::Path;
use std::sync::Arc;

use engine::Engine;
use engine::image::{Auth, Digest, Held, ImageError, ImageInfo, PublicKey, Reference};
use futures::future::BoxFuture;
use net::Network;
use reconcile::imagegc::Image;

use crate::images::{Credentials, ImageFailure, Images, Present};
use crate::mirror::Docker;
use crate::runtime::Runtime;

/// Start of the keys of mounted images in the image store; those of containers have another.
const MOUNT_PREFIX: &str = "v-";

/// The parts of a node below the agent.
#[derive(Clone)]
pub struct Parts {
    /// Runs containers.
    pub runtime: Arc<dyn Runtime>,
    /// Has images.
    pub images: Arc<dyn Images>,
    /// Forwards to Services; `None` leaves that to somebody else.
    pub network: Option<Network>,
    /// Has containers that are none of a pod; `None` where nobody has.
    pub docker: Option<Arc<dyn Docker>>,
}

impl Parts {
    /// With Docker's containers, which get pods that stand for them.
    pub fn with_docker(self, docker: Arc<dyn Docker>) -> Self {
        Parts { docker: Some(docker), ..self }
    }

    /// Those of an engine.
    pub fn of(engine: Arc<Engine>) -> Self {
        let network = Some(engine.network().clone());
        Parts { images: Arc::new(EngineImages(engine.clone())), network, runtime: engine, docker: None }
    }
}

struct EngineImages(Arc<Engine>);

fn failure(error: ImageError) -> ImageFailure {
    ImageFailure::Pull(base::chain(&error))
}

fn auth(way: &Credentials) -> Option<Auth> {
    match way {
        Credentials::Anonymous => None,
        Credentials::Basic { username, password } => {
            Some(Auth::Basic { username: username.clone(), password: password.clone() })
        }
    }
}

/// What the agent wants to know of an image known as `reference`.
fn present(reference: &str, info: ImageInfo) -> Present {
    let name: Option<Reference> = reference.parse().ok();
    let repository = name.map(|n| n.repository());
    let own = |digest: &&String| repository.as_ref().is_some_and(|r| digest.starts_with(&format!("{r}@")));
    let by_digest = info.repo_digests.iter().find(own).or_else(|| info.repo_digests.first());
    Present {
        // By its own digest: the name may mean another image by the time the container is made.
        reference: info.id.to_string(),
        image_id: by_digest.cloned().unwrap_or_else(|| info.id.to_string()),
        size_bytes: info.size_bytes,
        names: info.repo_digests.iter().chain(&info.references).cloned().collect(),
    }
}

impl Images for EngineImages {
    fn get<'a>(&'a self, reference: &'a str) -> BoxFuture<'a, Result<Option<Present>, ImageFailure>> {
        Box::pin(async move {
            let (engine, name) = (self.0.clone(), reference.to_owned());
            let found = tokio::task::spawn_blocking(move || engine.images().get(&name)).await;
            let found = found.map_err(|e| ImageFailure::Pull(e.to_string()))?.map_err(failure)?;
            Ok(found.map(|info| present(reference, info)))
        })
    }

    fn pull<'a>(
        &'a self,
        reference: &'a str,
        digest: Option<&'a str>,
        credentials: &'a [Credentials],
    ) -> BoxFuture<'a, Result<Present, ImageFailure>> {
        Box::pin(async move {
            let mut last = ImageFailure::Pull("no way to ask for it".to_owned());
            let digest = digest.map(str::parse::<Digest>).transpose().map_err(failure)?;
            let images = self.0.images();
            for way in credentials {
                let pulled = match &digest {
                    Some(digest) => images.pull_exactly(reference, digest, auth(way), &()).await,
                    None => images.pull(reference, auth(way), &()).await,
                };
                match pulled {
                    Ok(info) => return Ok(present(reference, info)),
                    Err(error) => last = failure(error),
                }
            }
            Err(last)
        })
    }

    fn verify<'a>(
        &'a self,
        reference: &'a str,
        keys: &'a [String],
        credentials: &'a [Credentials],
    ) -> BoxFuture<'a, Result<String, ImageFailure>> {
        Box::pin(async move {
            let read = keys.iter().map(|text| PublicKey::read_all(text)).collect::<Result<Vec<_>, _>>();
            let keys = read.map_err(|e| ImageFailure::Signature(format!("the keys of who signs: {e}")))?.concat();
            let mut last = ImageFailure::Pull("no way to ask for it".to_owned());
            for way in credentials {
                match self.0.images().verify(reference, &keys, auth(way)).await {
                    Ok(signed) => return Ok(signed.digest.to_string()),
                    Err(error @ ImageError::Unsigned { .. }) => {
                        return Err(ImageFailure::Signature(base::chain(&error)));
                    }
                    Err(error) => last = failure(error),
                }
            }
            Err(last)
        })
    }

    fn mount<'a>(
        &'a self,
        reference: &'a str,
        key: &'a str,
        target: &'a Path,
    ) -> BoxFuture<'a, Result<(), ImageFailure>> {
        let (engine, reference, target) = (self.0.clone(), reference.to_owned(), target.to_path_buf());
        let key = format!("{MOUNT_PREFIX}{key}");
        Box::pin(async move {
            let mounted = tokio::task::spawn_blocking(move || {
                let images = engine.images();
                let info = images.get(&reference).map_err(failure)?;
                let info = info.ok_or_else(|| ImageFailure::Pull(format!("image {reference} is not there")))?;
                let layers = images.snapshot(&key, &info).map_err(failure)?;
                if crate::volumes::mounts::is_mounted(&target).map_err(|e| ImageFailure::Pull(e.to_string()))? {
                    return Ok(());
                }
                layers.mount(&target).map_err(failure)
            });
            mounted.await.map_err(|e| ImageFailure::Pull(e.to_string()))?
        })
    }

    fn forget<'a>(&'a self, keep: &'a (dyn Fn(&str) -> bool + Send + Sync)) -> BoxFuture<'a, Result<(), ImageFailure>> {
        Box::pin(async move {
            let images = self.0.images();
            for snapshot in images.snapshots().map_err(failure)? {
                if snapshot.strip_prefix(MOUNT_PREFIX).is_some_and(|key| !keep(key)) {
                    images.remove_snapshot(&snapshot).map_err(failure)?;
                }
            }
            Ok(())
        })
    }

    fn list(&self) -> BoxFuture<'_, Vec<Present>> {
        let engine = self.0.clone();
        Box::pin(async move {
            let all = tokio::task::spawn_blocking(move || engine.images().list().unwrap_or_default()).await;
            all.unwrap_or_default().into_iter().map(|info| present("", info)).collect()
        })
    }

    fn held<'a>(&'a self, named: &'a [String]) -> BoxFuture<'a, Result<Vec<Image>, ImageFailure>> {
        let (engine, named) = (self.0.clone(), named.to_vec());
        Box::pin(async move {
            let look = move || (engine.images().held(&named), engine.images_in_use());
            let (held, in_use) =
                tokio::task::spawn_blocking(look).await.map_err(|e| ImageFailure::Pull(e.to_string()))?;
            let image = |h: Held| Image { used: h.used || in_use.contains(&h.id), id: h.id.to_string(), kept: h.local };
            Ok(held.map_err(failure)?.into_iter().map(image).collect())
        })
    }

    fn remove<'a>(&'a self, id: &'a str) -> BoxFuture<'a, Result<u64, ImageFailure>> {
        let (engine, id) = (self.0.clone(), id.to_owned());
        Box::pin(async move {
            let remove = move || engine.images().remove(&id, &engine.images_in_use());
            let removed = tokio::task::spawn_blocking(remove).await;
            Ok(removed.map_err(|e| ImageFailure::Pull(e.to_string()))?.map_err(failure)?.freed_bytes)
        })
    }

    fn registry_of(&self, reference: &str) -> Option<(String, String)> {
        let name: Reference = reference.parse().ok()?;
        Some((name.registry().to_owned(), name.path().to_owned()))
    }
}
