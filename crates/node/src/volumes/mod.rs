//! The volumes of a pod on this host.

pub(crate) mod atomic;
pub(crate) mod block;
pub(crate) mod claim;
mod disk;
mod driver;
pub(crate) mod env_files;
pub(crate) mod hostpath;
pub(crate) mod image;
pub(crate) mod mounts;
mod nfs;
pub(crate) mod ownership;
pub(crate) mod payload;
pub(crate) mod snapshot;
pub(crate) mod stats;
pub(crate) mod subpath;
pub(crate) mod token;
pub(crate) mod usage;

use std::collections::BTreeMap;
use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use api::quantity::Quantity;
use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Container, EmptyDirVolumeSource, NFSVolumeSource, PersistentVolume, Pod, Volume};
use kube::api::Api;
use reconcile::ephemeralvolume;
use reconcile::pod::Failure;
use tokio::sync::Mutex;

use crate::context::Context;
use crate::huge_pages;
use crate::objects::{Content, Key, Kind};
use crate::paths::PodId;
use crate::spec::container::Source;
use crate::spec::downward::Facts;
use crate::spec::expand::expand;
use crate::spec::{ConfigError, Lookup};
use ownership::Owner;

/// A volume that is set up.
#[derive(Debug, Clone)]
struct Mounted {
    path: PathBuf,
    read_only: bool,
    inert: bool,
    /// It is a device.
    block: bool,
    /// Whose driver is asked how full it is.
    driver: Option<crate::csi::Volume>,
}

#[derive(Default)]
struct State {
    mounted: BTreeMap<String, Mounted>,
    tokens: token::Tokens,
    /// When a driver wants to be asked again.
    again_at: Option<Timestamp>,
}

/// The volumes of one pod.
pub(crate) struct Volumes {
    ctx: Arc<Context>,
    id: PodId,
    state: Mutex<State>,
}

/// Why a volume is not there, in the words of a `FailedMount` event.
fn failed(volume: &str, why: impl std::fmt::Display) -> Failure {
    Failure::new("FailedMount", format!("MountVolume.SetUp failed for volume {volume:?} : {why}"))
}

/// Files of secrets and tokens live in memory; this bounds them (a secret has at most 1 MiB, updates hold two copies).
const PAYLOAD_TMPFS: &str = "size=64m,mode=0755";

fn fs_group(pod: &Pod) -> Option<u32> {
    let group = pod.spec.as_ref()?.security_context.as_ref()?.fs_group?;
    u32::try_from(group).ok()
}

impl Volumes {
    pub(crate) fn new(ctx: Arc<Context>, id: PodId) -> Self {
        Volumes { ctx, id, state: Mutex::default() }
    }

    /// Sets up all volumes; done before, it brings the written ones up to date.
    pub(crate) async fn mount(&self, pod: &Pod, facts: &Facts<'_>, objects: &Lookup) -> Result<(), Failure> {
        let mut state = self.state.lock().await;
        state.again_at = None;
        for v in pod.spec.iter().flat_map(|s| s.volumes.iter().flatten()) {
            let mounted = if payload::is_payload(v) {
                self.payload(&mut state.tokens, v, facts, objects).await?
            } else {
                let (mounted, again_at) = self.other(pod, v, objects).await?;
                state.again_at = state.again_at.into_iter().chain(again_at).min();
                mounted
            };
            state.mounted.insert(v.name.clone(), mounted);
        }
        Ok(())
    }

    /// When a token is to be renewed, or a driver to be asked again.
    pub(crate) async fn renew_at(&self) -> Option<Timestamp> {
        let state = self.state.lock().await;
        state.tokens.renew_at().into_iter().chain(state.again_at).min()
    }

    async fn payload(
        &self,
        tokens: &mut token::Tokens,
        v: &Volume,
        facts: &Facts<'_>,
        objects: &Lookup,
    ) -> Result<Mounted, Failure> {
        let wishes = payload::wishes(v);
        // Wishes of the pod's other volumes are kept too: `fulfil` forgets what is not wished for.
        let all: Vec<_> =
            facts.pod.spec.iter().flat_map(|s| s.volumes.iter().flatten()).flat_map(payload::wishes).collect();
        let issued = if wishes.is_empty() {
            BTreeMap::new()
        } else {
            let client = self.ctx.client();
            tokens
                .fulfil(&client, facts.pod, &all)
                .await
                .map_err(|e| failed(&v.name, format!("failed to fetch token: {e}")))?
        };
        let files = payload::of_volume(v, facts, objects, &issued).map_err(|e| failed(&v.name, e))?;
        let path = self.ctx.paths.volume(&self.id.uid, &v.name);
        let owner = Owner { group: fs_group(facts.pod), read_only: true };
        let in_memory = v.secret.is_some() || v.projected.is_some();
        let at = path.clone();
        blocking(&v.name, move || {
            std::fs::create_dir_all(&at)?;
            if in_memory {
                mounts::tmpfs(&at, PAYLOAD_TMPFS)?;
            }
            std::fs::set_permissions(&at, std::fs::Permissions::from_mode(0o755))?;
            owner.folder(&at)?;
            atomic::write(&at, &files, &owner).map(drop)
        })
        .await?;
        Ok(Mounted { path, read_only: true, inert: false, block: false, driver: None })
    }

    async fn other(&self, pod: &Pod, v: &Volume, objects: &Lookup) -> Result<(Mounted, Option<Timestamp>), Failure> {
        if let Some(e) = &v.empty_dir {
            return Ok((self.empty_dir(pod, v, e).await?, None));
        }
        if let Some(h) = &v.host_path {
            let (named, kind) = (PathBuf::from(&h.path), h.type_.clone().unwrap_or_default());
            let csi = self.ctx.csi.clone();
            let path = blocking(&v.name, move || {
                let path = csi.host_path(&named)?;
                hostpath::check(&path, &kind).map(|()| path)
            })
            .await?;
            return Ok((Mounted { path, read_only: false, inert: false, block: false, driver: None }, None));
        }
        if let Some(i) = &v.image {
            return Ok((self.image(pod, v, i, objects).await?, None));
        }
        if let Some(n) = &v.nfs {
            return Ok((self.nfs(v, n, &[]).await?, None));
        }
        if let Some(c) = &v.csi {
            return self.inline(pod, v, c).await;
        }
        if let Some(c) = &v.persistent_volume_claim {
            let (mounted, again_at) = self.claim(pod, v, &c.claim_name, objects).await?;
            self.tell_of(&v.name, &c.claim_name, &mounted);
            return Ok((Mounted { read_only: c.read_only == Some(true) || mounted.read_only, ..mounted }, again_at));
        }
        if v.ephemeral.is_some() {
            let claim = ephemeralvolume::claim_name(&self.id.name, &v.name);
            let (mounted, again_at) = self.claim(pod, v, &claim, objects).await?;
            self.tell_of(&v.name, &claim, &mounted);
            return Ok((mounted, again_at));
        }
        Err(failed(&v.name, "its source is not supported by this node"))
    }

    async fn empty_dir(&self, pod: &Pod, v: &Volume, e: &EmptyDirVolumeSource) -> Result<Mounted, Failure> {
        let path = self.ctx.paths.volume(&self.id.uid, &v.name);
        let medium = e.medium.as_deref().unwrap_or_default();
        let memory = medium == "Memory";
        let pages = match huge_pages::is_medium(medium) {
            true => Some(huge_pages::size_for(medium, pod).map_err(|why| failed(&v.name, &why))?),
            false => None,
        };
        let limit =
            e.size_limit.as_ref().and_then(|q| Quantity::parse(&q.0).ok()).map(Quantity::value).filter(|b| *b > 0);
        let options = limit.map_or("mode=0777".to_owned(), |bytes| format!("mode=0777,size={bytes}"));
        let owner = Owner { group: fs_group(pod), read_only: false };
        let at = path.clone();
        blocking(&v.name, move || {
            let fresh = !at.exists();
            std::fs::create_dir_all(&at)?;
            let mounted = (memory || pages.is_some()) && !mounts::is_mounted(&at)?;
            match pages.filter(|_| mounted) {
                Some(size) => mounts::huge_pages(&at, size)?,
                None if mounted => mounts::tmpfs(&at, &options)?,
                None => {}
            }
            // Only once: afterwards the folder is the containers'.
            if fresh || mounted {
                std::fs::set_permissions(&at, std::fs::Permissions::from_mode(0o777))?;
                owner.folder(&at)?;
            }
            Ok(())
        })
        .await?;
        Ok(Mounted { path, read_only: false, inert: false, block: false, driver: None })
    }

    async fn claim(
        &self,
        pod: &Pod,
        v: &Volume,
        claim: &str,
        objects: &Lookup,
    ) -> Result<(Mounted, Option<Timestamp>), Failure> {
        let key = Key { kind: Kind::Claim, namespace: self.id.namespace.clone(), name: claim.to_owned() };
        let (name, resized) = match objects.get(&key).cloned().flatten().as_deref() {
            Some(Content::Claim { owner, .. })
                if v.ephemeral.is_some() && owner.as_deref() != Some(self.id.uid.as_str()) =>
            {
                return Err(failed(&v.name, ephemeralvolume::foreign(&pod.metadata, claim)));
            }
            Some(Content::Claim { volume: Some(name), bound: true, resized, .. }) => (name.clone(), *resized),
            Some(_) => return Err(failed(&v.name, format!("persistentvolumeclaim {claim:?} is not bound"))),
            None => return Err(failed(&v.name, format!("persistentvolumeclaim {claim:?} not found"))),
        };
        let api: Api<PersistentVolume> = Api::all(self.ctx.client());
        let pv = api.get(&name).await.map_err(|e| failed(&v.name, format!("get persistentvolume {name:?}: {e}")))?;
        let block = block::is_device(&pv);
        block::check_use(pod, &v.name, block).map_err(|e| failed(&v.name, e))?;
        if pv.spec.as_ref().is_some_and(|s| s.csi.is_some()) {
            return self.provided(pod, v, &pv, claim, resized).await;
        }
        if let Some(source) = pv.spec.as_ref().and_then(|s| s.nfs.as_ref()).filter(|_| !block) {
            let options = pv.spec.as_ref().and_then(|s| s.mount_options.clone()).unwrap_or_default();
            return Ok((self.nfs(v, source, &options).await?, None));
        }
        let ctx = self.ctx.clone();
        let owner = Owner { group: fs_group(pod), read_only: false };
        let security = pod.spec.as_ref().and_then(|s| s.security_context.as_ref());
        let on_mismatch = security.and_then(|s| s.fs_group_change_policy.as_deref()) == Some("OnRootMismatch");
        let (at, uid) = (pv.clone(), self.id.uid.clone());
        let path = blocking(&v.name, move || {
            let found = claim::locate(&ctx, &at, &uid).map_err(io::Error::other)?;
            if found.owned && !block {
                owner.tree(&found.path, on_mismatch)?;
            }
            if resized {
                claim::grow(&ctx, &at).map_err(io::Error::other)?;
            }
            Ok(found.path)
        })
        .await?;
        if resized {
            self.has_grown(&pv, claim).await.map_err(|e| driver::resize_failed(&v.name, e))?;
        }
        Ok((Mounted { path, read_only: false, inert: false, block, driver: None }, None))
    }

    async fn nfs(&self, v: &Volume, source: &NFSVolumeSource, options: &[String]) -> Result<Mounted, Failure> {
        let export = nfs::Export::of(source, options).map_err(|e| failed(&v.name, e))?;
        let path = self.ctx.paths.volume(&self.id.uid, &v.name);
        export.mount(&path).await.map_err(|e| failed(&v.name, e))?;
        Ok(Mounted { path, read_only: source.read_only == Some(true), inert: false, block: false, driver: None })
    }

    /// Lets the volume behind a claim be looked at.
    fn tell_of(&self, name: &str, claim: &str, mounted: &Mounted) {
        let volume = stats::Claimed {
            name: name.to_owned(),
            claim: claim.to_owned(),
            path: mounted.path.clone(),
            block: mounted.block,
            driver: mounted.driver.clone(),
        };
        self.ctx.volume_stats.add(&self.id.uid, volume);
    }

    /// Where a volume is, once it is set up.
    pub(crate) async fn path_of(&self, name: &str) -> Option<PathBuf> {
        self.state.lock().await.mounted.get(name).map(|m| m.path.clone())
    }

    /// Where the volume mounts of a container are found, in their order; subpaths are bound for it.
    pub(crate) async fn sources(&self, c: &Container, env: &[(String, String)]) -> Result<Vec<Source>, ConfigError> {
        let state = self.state.lock().await;
        let mut sources = Vec::new();
        for (index, m) in c.volume_mounts.iter().flatten().enumerate() {
            let mounted = state.mounted.get(&m.name);
            let mounted = mounted.ok_or_else(|| ConfigError::new(format!("volume {:?} is not mounted", m.name)))?;
            let lookup = |name: &str| env.iter().find(|(k, _)| k == name).map(|(_, v)| v.clone());
            let subpath = match (&m.sub_path, &m.sub_path_expr) {
                (Some(p), _) if !p.is_empty() => Some(p.clone()),
                (_, Some(e)) if !e.is_empty() => Some(expand(e, lookup)),
                _ => None,
            };
            let path = match subpath {
                None => mounted.path.clone(),
                Some(subpath) => {
                    let target = self.ctx.paths.subpaths(&self.id.uid, &c.name).join(index.to_string());
                    bind_subpath(&mounted.path, &subpath, &target).await.map_err(|e| {
                        let message = format!(
                            "failed to prepare subPath for volumeMount {:?} of container {:?}: {e}",
                            m.name, c.name
                        );
                        ConfigError(message)
                    })?;
                    target
                }
            };
            sources.push(Source { path, read_only: mounted.read_only, inert: mounted.inert });
        }
        Ok(sources)
    }

    /// The devices of a container, in the order in which it names them.
    pub(crate) async fn devices(&self, c: &Container) -> Result<Vec<block::Device>, ConfigError> {
        let state = self.state.lock().await;
        let mut devices = Vec::new();
        for d in c.volume_devices.iter().flatten() {
            let found = state.mounted.get(&d.name).filter(|m| m.block);
            let found = found.ok_or_else(|| ConfigError::new(format!("volume {:?} is no device", d.name)))?;
            let device = block::Device::at(&found.path, found.read_only);
            devices.push(device.map_err(|e| ConfigError::new(format!("device of volume {:?}: {e}", d.name)))?);
        }
        Ok(devices)
    }

    /// Takes all away, and the pod's folder with it.
    pub(crate) async fn unmount(&self) -> Result<(), Failure> {
        let mut state = self.state.lock().await;
        self.ctx.volume_stats.forget(&self.id.uid);
        let folder = self.ctx.paths.pod(&self.id.uid);
        // What lies over volumes goes first, then what their drivers made. Termination messages stay until the pod is removed.
        remove(folder.join("subpaths")).await?;
        self.ctx.csi.unpublish_all(&self.id.uid).await.map_err(|e| Failure::new("FailedUnmount", e))?;
        remove(folder.join("volumes")).await?;
        let (local, uid) = (self.ctx.paths.local_volumes(), self.id.uid.clone());
        let released = tokio::task::spawn_blocking(move || {
            disk::release(&local, |user| user == uid).and_then(|()| block::release(&local, |user| user == uid))
        });
        let released = released.await;
        let released = released.unwrap_or_else(|e| Err(io::Error::other(e)));
        released.map_err(|e| Failure::new("FailedUnmount", e.to_string()))?;
        *state = State::default();
        image::forget(&self.ctx, &self.id.uid).await
    }
}

/// Has local volumes forget pods that are no more.
pub(crate) fn forget_users(ctx: &Context, wanted: &std::collections::BTreeSet<String>) -> io::Result<()> {
    let (local, gone) = (ctx.paths.local_volumes(), |user: &str| !wanted.contains(user));
    disk::release(&local, gone).and_then(|()| block::release(&local, gone))
}

async fn remove(folder: PathBuf) -> Result<(), Failure> {
    let fault = |why: String| Failure::new("FailedUnmount", why);
    let gone = tokio::task::spawn_blocking(move || mounts::remove_tree(&folder)).await;
    gone.map_err(|e| fault(e.to_string()))?.map_err(|e| fault(e.to_string()))
}

async fn bind_subpath(volume: &Path, subpath: &str, target: &Path) -> io::Result<()> {
    let (volume, subpath, target) = (volume.to_path_buf(), subpath.to_owned(), target.to_path_buf());
    tokio::task::spawn_blocking(move || subpath::bind(&volume, &subpath, &target)).await.map_err(io::Error::other)?
}

async fn blocking<T, F>(volume: &str, work: F) -> Result<T, Failure>
where
    T: Send + 'static,
    F: FnOnce() -> io::Result<T> + Send + 'static,
{
    match tokio::task::spawn_blocking(work).await {
        Ok(Ok(value)) => Ok(value),
        Ok(Err(e)) => Err(failed(volume, e)),
        Err(e) => Err(failed(volume, e)),
    }
}
