//! Volumes of drivers that speak the Container Storage Interface, and that register the way they do with a kubelet
//! (<https://github.com/container-storage-interface/spec>, KEP-557 for volumes that a pod describes itself).
//!
//! A driver's pod mounts folders below `/var/lib/kubelet`, which on this host is `kubelet` in the instance's data directory.
//! What is staged and published stands in a record in each volume's folder: the next agent needs nothing else.

mod attached;
mod csinode;
mod driver;
mod plugins;
mod proto;
mod record;
mod request;
mod root;
mod tokens;

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Weak};

use futures::StreamExt;
use futures::stream::BoxStream;
use k8s_openapi::api::core::v1::{PersistentVolume, Pod, Secret};
use k8s_openapi::api::storage::v1::CSIDriver;
use kube::api::Api;
use parking_lot::Mutex;
use tokio::sync::watch;

pub(crate) use attached::report;
pub(crate) use plugins::run;
pub(crate) use request::Volume;

use crate::volumes::mounts;
use crate::volumes::ownership::Owner;
use crate::volumes::stats::Fill;
use driver::{Driver, Session};
use proto::{AskStats, CapacityRange, Expand, Publish, RpcKind, Stage, Stats, Texts, Undo, Unit};
use record::Record;
use root::Root;

/// Where a volume is mounted in its folder of the pod, and in the one that pods share.
const MOUNT: &str = "mount";
const STAGED: &str = "globalmount";

/// Drivers by name.
type Drivers = Arc<BTreeMap<String, Driver>>;
/// One operation on a volume at a time: a driver and a handle.
type Locks = HashMap<(String, String), Weak<tokio::sync::Mutex<()>>>;

/// A volume that is there.
pub(crate) struct Published {
    pub(crate) path: PathBuf,
    /// Containers may not write, whatever the driver's own mount allows: that a mount is read-only is not propagated.
    pub(crate) read_only: bool,
    /// The driver wants to be asked again from time to time.
    pub(crate) again: bool,
}

/// Who asks for a volume.
pub(crate) struct Asker<'a> {
    pub(crate) pod: &'a Pod,
    pub(crate) group: Option<u32>,
    pub(crate) on_mismatch: bool,
}

/// The drivers of this node and their volumes.
pub(crate) struct Csi {
    root: Root,
    node: String,
    client: kube::Client,
    drivers: watch::Sender<Drivers>,
    attaching: watch::Sender<attached::State>,
    locks: Mutex<Locks>,
    /// Pods that are no more and whose volumes could not be taken away yet.
    left: Mutex<BTreeSet<String>>,
}

fn text(error: impl std::fmt::Display) -> String {
    error.to_string()
}

async fn blocking<T: Send + 'static>(work: impl FnOnce() -> io::Result<T> + Send + 'static) -> Result<T, String> {
    tokio::task::spawn_blocking(work).await.map_err(text)?.map_err(text)
}

impl Csi {
    pub(crate) fn new(folder: PathBuf, node: &str, client: kube::Client) -> Self {
        Csi {
            root: Root::new(folder),
            node: node.to_owned(),
            client,
            drivers: watch::Sender::default(),
            attaching: watch::Sender::default(),
            locks: Mutex::default(),
            left: Mutex::default(),
        }
    }

    /// Where a path of a manifest is on this host. What is below the kubelet's folder is shared with the containers that
    /// have it.
    pub(crate) fn host_path(&self, path: &Path) -> io::Result<PathBuf> {
        let (own, view) = self.root.on_host(path);
        if view == root::View::Kubelet {
            self.root.make()?;
            self.root.share()?;
        }
        Ok(own)
    }

    /// Tells when drivers come and go, and when a volume that the pod waits for is attached.
    pub(crate) fn changes(&self, uid: &str) -> BoxStream<'static, ()> {
        let next = |mut drivers: watch::Receiver<Drivers>| async move {
            drivers.changed().await.ok()?;
            Some(((), drivers))
        };
        let drivers = futures::stream::unfold(self.drivers.subscribe(), next);
        let come = |(attaching, uid): (watch::Sender<attached::State>, String)| async move {
            Csi::has_come(&attaching, &uid).await;
            Some(((), (attaching, uid)))
        };
        let attached = futures::stream::unfold((self.attaching.clone(), uid.to_owned()), come);
        futures::stream::select(drivers, attached).boxed()
    }

    fn driver(&self, name: &str) -> Result<Driver, String> {
        let found = self.drivers.borrow().get(name).cloned();
        found.ok_or_else(|| format!("driver name {name} not found in the list of registered CSI drivers"))
    }

    fn lock(&self, driver: &str, handle: &str) -> Arc<tokio::sync::Mutex<()>> {
        let mut locks = self.locks.lock();
        let key = (driver.to_owned(), handle.to_owned());
        if let Some(lock) = locks.get(&key).and_then(Weak::upgrade) {
            return lock;
        }
        locks.retain(|_, lock| lock.strong_count() > 0);
        let lock = Arc::default();
        locks.insert(key, Arc::downgrade(&lock));
        lock
    }

    async fn secret(&self, reference: Option<&(String, String)>) -> Result<Texts, String> {
        let Some((namespace, name)) = reference else { return Ok(Texts::new()) };
        let secret = Api::<Secret>::namespaced(self.client.clone(), namespace).get(name).await;
        let secret = secret.map_err(|e| format!("fetching secret {namespace}/{name} failed: {e}"))?;
        let data = secret.data.unwrap_or_default().into_iter();
        Ok(data.map(|(key, value)| (key, String::from_utf8_lossy(&value.0).into_owned())).collect())
    }

    /// Makes a volume be there for a pod. Done before, it does nothing, unless the driver wants to be asked again.
    pub(crate) async fn publish(&self, who: &Asker<'_>, volume: &Volume) -> Result<Published, String> {
        let lock = self.lock(&volume.driver, &volume.handle);
        let _turn = lock.lock().await;
        let uid = who.pod.metadata.uid.clone().unwrap_or_default();
        let folder = self.root.volumes(&uid).join(&volume.name);
        let path = folder.join(MOUNT);
        let there = is_there(&folder, MOUNT).await?;
        let driver = match self.driver(&volume.driver) {
            // It runs on without its driver, which may be about to register again.
            Err(_) if there => return Ok(Published { path, read_only: volume.read_only, again: false }),
            found => found?,
        };
        let declared = Api::<CSIDriver>::all(self.client.clone()).get_opt(&volume.driver).await;
        let declared = declared.map_err(|e| format!("get csidriver {}: {e}", volume.driver))?;
        volume.mode_allowed(declared.as_ref())?;
        let again = declared.as_ref().and_then(|d| d.spec.requires_republish) == Some(true);
        if there && !again {
            return Ok(Published { path, read_only: volume.read_only, again });
        }
        let session = driver.open().await.map_err(text)?;
        let attached = attached::is_required(volume, declared.as_ref());
        let record = Record {
            driver_name: volume.driver.clone(),
            volume_handle: volume.handle.clone(),
            ephemeral: volume.ephemeral,
            mounted: there,
            attached,
            unasked: false,
        };
        let publish_context = self.come(&uid, &folder, &record, volume).await?;
        // A driver that can mount for a group does so; otherwise the files are given to it below.
        let group = who.group.filter(|_| session.can(RpcKind::MountGroup));
        let stages = !volume.ephemeral && session.can(RpcKind::StageUnstage);
        let staged = if stages {
            Some(self.stage(&driver, &session, volume, &publish_context, group, attached).await?)
        } else {
            None
        };
        let mut secrets = self.secret(volume.publish_secret.as_ref()).await?;
        let mut context = volume.context(declared.as_ref(), who.pod);
        if let Some((key, value)) = tokens::of_pod(&self.client, who.pod, declared.as_ref()).await? {
            let secretly = declared.as_ref().and_then(|d| d.spec.service_account_token_in_secrets) == Some(true);
            if secretly { &mut secrets } else { &mut context }.insert(key, value);
        }
        let request = Publish {
            volume_id: volume.handle.clone(),
            publish_context,
            staging_path: staged.map(|s| self.root.seen(&s, driver.view)).unwrap_or_default(),
            target_path: self.root.seen(&path, driver.view),
            capability: Some(volume.capability(group, session.can(RpcKind::SingleNodeMultiWriter))),
            read_only: volume.read_only,
            secrets,
            volume_context: context,
        };
        session.publish(&request).await.map_err(text)?;
        let owner = Owner { group: who.group, read_only: false };
        let give = !there && group.is_none() && volume.takes_group(declared.as_ref());
        let (at, on_mismatch, target) = (folder, who.on_mismatch, path.clone());
        blocking(move || {
            if give {
                owner.tree(&target, on_mismatch)?;
            }
            record::write(&at, &Record { mounted: mounts::is_mounted(&target)?, ..record })
        })
        .await?;
        Ok(Published { path, read_only: volume.read_only, again })
    }

    /// Waits for the volume to be attached, if it must be; says what its attacher tells of it. From now on the folder says that
    /// the volume is in use.
    async fn come(&self, uid: &str, folder: &Path, record: &Record, volume: &Volume) -> Result<Texts, String> {
        let mut told = Texts::new();
        let at = folder.to_path_buf();
        if record.attached {
            let (at, first) = (at.clone(), Record { unasked: true, ..record.clone() });
            blocking(move || if record::read(&at)?.is_none() { record::write(&at, &first) } else { Ok(()) }).await?;
            told = self.attached(uid, volume).await?;
        }
        let record = record.clone();
        blocking(move || record::write(&at, &record)).await?;
        Ok(told)
    }

    /// Makes a volume be there for all pods of the node; says where.
    async fn stage(
        &self,
        driver: &Driver,
        session: &Session,
        volume: &Volume,
        publish_context: &Texts,
        group: Option<u32>,
        attached: bool,
    ) -> Result<PathBuf, String> {
        let folder = self.root.staging(&volume.driver, &volume.handle);
        let path = folder.join(STAGED);
        if is_there(&folder, STAGED).await? {
            return Ok(path);
        }
        let record = Record {
            driver_name: volume.driver.clone(),
            volume_handle: volume.handle.clone(),
            attached,
            ..Record::default()
        };
        let (at, target, first) = (folder.clone(), path.clone(), record.clone());
        blocking(move || {
            record::write(&at, &first)?;
            std::fs::create_dir_all(&target)
        })
        .await?;
        let request = Stage {
            volume_id: volume.handle.clone(),
            publish_context: publish_context.clone(),
            staging_path: self.root.seen(&path, driver.view),
            capability: Some(volume.capability(group, session.can(RpcKind::SingleNodeMultiWriter))),
            secrets: self.secret(volume.stage_secret.as_ref()).await?,
            volume_context: volume.attributes.clone().into_iter().collect(),
        };
        session.stage(&request).await.map_err(text)?;
        let target = path.clone();
        blocking(move || record::write(&folder, &Record { mounted: mounts::is_mounted(&target)?, ..record })).await?;
        Ok(path)
    }

    /// Tells the driver that a volume has grown, so that its file system grows too. The size it has then, bytes.
    pub(crate) async fn expand(&self, uid: &str, volume: &Volume, bytes: i64) -> Result<i64, String> {
        let driver = self.driver(&volume.driver)?;
        let lock = self.lock(&volume.driver, &volume.handle);
        let _turn = lock.lock().await;
        let session = driver.open().await.map_err(text)?;
        if !session.can(RpcKind::Expand) {
            return Ok(bytes);
        }
        let path = self.root.volumes(uid).join(&volume.name).join(MOUNT);
        let staged = session.can(RpcKind::StageUnstage);
        let staging = self.root.staging(&volume.driver, &volume.handle).join(STAGED);
        let request = Expand {
            volume_id: volume.handle.clone(),
            volume_path: self.root.seen(&path, driver.view),
            range: Some(CapacityRange { required: bytes, limit: 0 }),
            staging_path: if staged { self.root.seen(&staging, driver.view) } else { String::new() },
            capability: Some(volume.capability(None, session.can(RpcKind::SingleNodeMultiWriter))),
            secrets: self.secret(volume.expand_secret.as_ref()).await?,
        };
        let answer = session.expand(&request).await.map_err(text)?;
        Ok(if answer.capacity > 0 { answer.capacity } else { bytes })
    }

    /// How full a pod's volume is, where its driver can say.
    pub(crate) async fn fill(&self, uid: &str, volume: &Volume) -> Result<Option<Fill>, String> {
        let driver = self.driver(&volume.driver)?;
        let session = driver.open().await.map_err(text)?;
        if !session.can(RpcKind::Stats) {
            return Ok(None);
        }
        let path = self.root.volumes(uid).join(&volume.name).join(MOUNT);
        let staging = self.root.staging(&volume.driver, &volume.handle).join(STAGED);
        let staged = session.can(RpcKind::StageUnstage);
        let request = AskStats {
            volume_id: volume.handle.clone(),
            volume_path: self.root.seen(&path, driver.view),
            staging_path: if staged { self.root.seen(&staging, driver.view) } else { String::new() },
        };
        session.stats(&request).await.map(|stats| Some(filled(&stats))).map_err(text)
    }

    /// Takes a pod's volumes away.
    pub(crate) async fn unpublish_all(&self, uid: &str) -> Result<(), String> {
        let folder = self.root.volumes(uid);
        for volume in blocking(move || record::folders(&folder)).await? {
            self.unpublish(uid, &volume).await?;
        }
        // The pod's folder, from the inside out: each is empty, or not ours to remove.
        let mut folder = self.root.volumes(uid);
        while folder.starts_with(self.root.pods()) && folder != self.root.pods() {
            let _kept = std::fs::remove_dir(&folder);
            folder.pop();
        }
        self.left.lock().remove(uid);
        Ok(())
    }

    async fn unpublish(&self, uid: &str, folder: &Path) -> Result<(), String> {
        let at = folder.to_path_buf();
        let Some(record) = blocking(move || record::read(&at)).await? else {
            let at = folder.to_path_buf();
            return blocking(move || record::remove(&at, MOUNT)).await;
        };
        let lock = self.lock(&record.driver_name, &record.volume_handle);
        let _turn = lock.lock().await;
        let used = self.used_by_others(uid, &record).await?;
        if !record.unasked {
            let driver = self.driver(&record.driver_name)?;
            let session = driver.open().await.map_err(text)?;
            let path = self.root.seen(&folder.join(MOUNT), driver.view);
            session.unpublish(&Undo { volume_id: record.volume_handle.clone(), path }).await.map_err(text)?;
            let at = folder.join(MOUNT);
            blocking(move || mounts::unmount_below(&at)).await?;
            // The record stays until the last step is done, which is then tried again.
            if !record.ephemeral && !used {
                self.unstage(&driver, &session, &record).await?;
            }
        }
        let at = folder.to_path_buf();
        blocking(move || record::remove(&at, MOUNT)).await?;
        self.let_go(uid, &record, used);
        Ok(())
    }

    /// Whether a pod other than this one has the volume.
    async fn used_by_others(&self, uid: &str, record: &Record) -> Result<bool, String> {
        let (root, uid) = (self.root.clone(), uid.to_owned());
        let (driver, handle) = (record.driver_name.clone(), record.volume_handle.clone());
        blocking(move || {
            for pod in record::folders(&root.pods())? {
                let other = pod.file_name().map(|n| n.to_string_lossy().into_owned()).unwrap_or_default();
                if other == uid {
                    continue;
                }
                for volume in record::folders(&root.volumes(&other))? {
                    let found = record::read(&volume)?;
                    if found.is_some_and(|r| r.driver_name == driver && r.volume_handle == handle) {
                        return Ok(true);
                    }
                }
            }
            Ok(false)
        })
        .await
    }

    async fn unstage(&self, driver: &Driver, session: &Session, record: &Record) -> Result<(), String> {
        let folder = self.root.staging(&record.driver_name, &record.volume_handle);
        let at = folder.clone();
        if blocking(move || record::read(&at)).await?.is_none() {
            return Ok(());
        }
        let path = self.root.seen(&folder.join(STAGED), driver.view);
        session.unstage(&Undo { volume_id: record.volume_handle.clone(), path }).await.map_err(text)?;
        blocking(move || record::remove(&folder, STAGED)).await
    }

    /// Takes away the volumes of pods that are not among these; those that cannot be are tried again when a driver registers.
    pub(crate) async fn sweep(&self, wanted: &BTreeSet<String>) {
        let folder = self.root.pods();
        let pods = blocking(move || record::folders(&folder)).await.unwrap_or_default();
        let uids = pods.iter().filter_map(|p| Some(p.file_name()?.to_str()?.to_owned()));
        self.left.lock().extend(uids.filter(|uid| !wanted.contains(uid)));
        self.retry_left().await;
    }

    async fn retry_left(&self) {
        let left: Vec<String> = self.left.lock().iter().cloned().collect();
        for uid in left {
            if let Err(error) = self.unpublish_all(&uid).await {
                tracing::warn!(pod = uid, error, "volumes of a former pod not taken away");
            }
        }
    }
}

/// The size a volume is said to have, bytes.
pub(crate) fn capacity(pv: &PersistentVolume) -> Option<i64> {
    let storage = pv.spec.as_ref()?.capacity.as_ref()?.get("storage")?;
    api::quantity::Quantity::parse(&storage.0).ok().map(api::quantity::Quantity::value)
}

fn filled(stats: &Stats) -> Fill {
    let known = |n: i64| u64::try_from(n).ok();
    let mut fill = Fill::default();
    for usage in &stats.usage {
        match usage.unit() {
            Unit::Bytes => {
                fill.capacity_bytes = known(usage.total);
                fill.available_bytes = known(usage.available);
                fill.used_bytes = known(usage.used);
            }
            Unit::Inodes => {
                fill.inodes = known(usage.total);
                fill.inodes_free = known(usage.available);
                fill.inodes_used = known(usage.used);
            }
            Unit::Unknown => {}
        }
    }
    fill
}

/// Whether the driver has mounted the volume of a folder, and the mount is still there.
async fn is_there(folder: &Path, mount_point: &'static str) -> Result<bool, String> {
    let folder = folder.to_path_buf();
    blocking(move || {
        let mounted = record::read(&folder)?.is_some_and(|r| r.mounted);
        Ok(mounted && mounts::is_mounted(&folder.join(mount_point))?)
    })
    .await
}
