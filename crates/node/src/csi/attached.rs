//! Volumes that somebody else attaches to this node. The Node's status is where both sides meet: the node says which volumes it
//! uses, the controller which are attached. A volume is mounted only after the controller, knowing that it is used, still says
//! that it is attached; it is detached only after the node has said that it is used no more.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use base::backoff::Backoff;
use base::rt::Drain;
use k8s_openapi::api::core::v1::Node;
use k8s_openapi::api::storage::v1::{CSIDriver, VolumeAttachment};
use kube::api::{Api, Patch, PatchParams};
use reconcile::volume::attach::{attachment_name, unique_name};
use serde_json::json;
use tokio::sync::watch;
use tokio::time::Instant;

use super::proto::Texts;
use super::record::{self, Record};
use super::request::Volume;
use super::root::Root;
use super::{Csi, blocking};

/// An attacher that is quick is waited for in place; after this long the pod is tried again when the volume is attached.
const WAIT: Duration = Duration::from_secs(3);
/// A status that could not be written is written again, at the longest after this.
const RETRY_MAX: Duration = Duration::from_secs(30);

/// What both sides have said. Names are those of volumes in the status of a node.
#[derive(Debug, Default)]
pub(super) struct State {
    /// Volumes that this node uses or is about to.
    in_use: BTreeSet<String>,
    /// Those of them of which the API server knows.
    reported: BTreeSet<String>,
    attached: BTreeSet<String>,
    /// What the Node says that is used, as it was last seen, and its revision then.
    told: BTreeSet<String>,
    revision: u64,
    /// Pods that wait, by UID, for these.
    awaited: BTreeMap<String, BTreeSet<String>>,
}

impl State {
    fn may_mount(&self, name: &str) -> bool {
        self.reported.contains(name) && self.attached.contains(name)
    }

    fn has_come(&self, uid: &str) -> bool {
        self.awaited.get(uid).is_some_and(|names| names.iter().any(|n| self.may_mount(n)))
    }

    /// What is to be written, if something is. From now on nobody relies on what it will not say.
    fn begin_report(&mut self) -> Option<BTreeSet<String>> {
        if self.in_use == self.told && self.in_use == self.reported {
            return None;
        }
        self.reported = self.reported.intersection(&self.in_use).cloned().collect();
        Some(self.in_use.clone())
    }

    /// Takes in the Node as the answer to a report of these, or as somebody has changed it.
    fn take_in(&mut self, node: &Node, reported: Option<BTreeSet<String>>) {
        let revision = node.metadata.resource_version.as_deref().and_then(|v| v.parse().ok()).unwrap_or(0);
        if revision < self.revision {
            return; // A watch tells of it later than the answer did.
        }
        self.revision = revision;
        let status = node.status.as_ref();
        self.told = status.iter().flat_map(|s| s.volumes_in_use.iter().flatten()).cloned().collect();
        self.attached =
            status.iter().flat_map(|s| s.volumes_attached.iter().flatten()).map(|v| v.name.clone()).collect();
        match reported {
            Some(names) => self.reported = names.intersection(&self.told).cloned().collect(),
            None => self.reported = self.reported.intersection(&self.told).cloned().collect(),
        }
    }
}

/// The names of volumes that records of this node say are in use.
fn recorded(root: &Root) -> std::io::Result<BTreeSet<String>> {
    let mut names = BTreeSet::new();
    let mut folders: Vec<PathBuf> = Vec::new();
    for pod in record::folders(&root.pods())? {
        let uid = pod.file_name().map(|n| n.to_string_lossy().into_owned()).unwrap_or_default();
        folders.extend(record::folders(&root.volumes(&uid))?);
    }
    for driver in record::folders(&root.stagings())? {
        folders.extend(record::folders(&driver)?);
    }
    for folder in folders {
        if let Some(record) = record::read(&folder)?.filter(|r| r.attached) {
            names.insert(name_of(&record));
        }
    }
    Ok(names)
}

fn name_of(record: &Record) -> String {
    unique_name(&record.driver_name, &record.volume_handle)
}

/// Whether a volume must be attached before it is mounted (`attachRequired`, which is so unless the driver says otherwise).
pub(super) fn is_required(volume: &Volume, declared: Option<&CSIDriver>) -> bool {
    !volume.ephemeral && declared.is_none_or(|d| d.spec.attach_required != Some(false))
}

fn backoff() -> Backoff {
    Backoff::exact(Duration::from_millis(200), RETRY_MAX)
}

/// Keeps the Node's status in line with the volumes in use until the agent drains.
pub(crate) async fn report(csi: Arc<Csi>, mut own: watch::Receiver<Arc<Node>>, drain: Drain) {
    let mut wait = backoff();
    // Nothing is said before it is known what a former agent has left: a volume that is not named may be detached.
    loop {
        let root = csi.root.clone();
        match blocking(move || recorded(&root)).await {
            Ok(names) => {
                csi.attaching.send_modify(|s| s.in_use.extend(names));
                break;
            }
            Err(error) => tracing::warn!(error, "records of volumes not read"),
        }
        tokio::select! {
            () = tokio::time::sleep(wait.next_delay()) => {}
            () = drain.cancelled() => return,
        }
    }
    wait = backoff();
    let mut changes = csi.attaching.subscribe();
    let mut retry: Option<Instant> = None;
    let first = own.borrow_and_update().clone();
    csi.attaching.send_modify(|s| s.take_in(&first, None));
    loop {
        changes.mark_unchanged();
        if retry.is_none_or(|at| at <= Instant::now()) {
            retry = match csi.report_once().await {
                Ok(()) => {
                    wait = backoff();
                    None
                }
                Err(error) => {
                    tracing::warn!(%error, "volumes in use not written to the node's status");
                    Some(Instant::now() + wait.next_delay())
                }
            };
        }
        let later = retry.unwrap_or_else(|| Instant::now() + Duration::from_secs(86_400));
        tokio::select! {
            changed = changes.changed() => if changed.is_err() { return },
            changed = own.changed() => {
                if changed.is_err() {
                    return;
                }
                let node = own.borrow_and_update().clone();
                csi.attaching.send_modify(|s| s.take_in(&node, None));
            }
            () = tokio::time::sleep_until(later) => {}
            () = drain.cancelled() => return,
        }
    }
}

impl Csi {
    async fn report_once(&self) -> Result<(), kube::Error> {
        let mut names = None;
        self.attaching.send_if_modified(|s| {
            names = s.begin_report();
            false
        });
        let Some(names) = names else { return Ok(()) };
        let list = if names.is_empty() { json!(null) } else { json!(names) };
        let patch = Patch::Merge(json!({"status": {"volumesInUse": list}}));
        let api = Api::<Node>::all(self.client.clone());
        let node = api.patch_status(&self.node, &PatchParams::default(), &patch).await?;
        self.attaching.send_modify(|s| s.take_in(&node, Some(names)));
        Ok(())
    }

    /// What the attacher tells the node of a volume; an error while it is not attached.
    pub(super) async fn attached(&self, uid: &str, volume: &Volume) -> Result<Texts, String> {
        let name = unique_name(&volume.driver, &volume.handle);
        self.attaching.send_modify(|s| {
            s.in_use.insert(name.clone());
        });
        let mut state = self.attaching.subscribe();
        let come = tokio::time::timeout(WAIT, state.wait_for(|s| s.may_mount(&name))).await.is_ok();
        let id = attachment_name(&volume.driver, &volume.handle, &self.node);
        let api = Api::<VolumeAttachment>::all(self.client.clone());
        let found = api
            .get_opt(&id)
            .await
            .map_err(|e| format!("volume {} has GET error for volume attachment {id}: {e}", volume.handle))?;
        let leaving = found.as_ref().is_some_and(|a| a.metadata.deletion_timestamp.is_some());
        match found.and_then(|a| a.status) {
            Some(status) if come && status.attached && !leaving => {
                Ok(status.attachment_metadata.into_iter().flatten().collect())
            }
            Some(status) if !come => {
                self.await_attached(uid, name);
                let why = status.attach_error.and_then(|e| e.message);
                let why = why.unwrap_or_else(|| format!("volume {} is not attached yet", volume.handle));
                Err(format!("volume attachment {id}: {why}"))
            }
            _ => {
                self.await_attached(uid, name);
                Err(format!("volume {} is not attached for volume attachment {id}", volume.handle))
            }
        }
    }

    fn await_attached(&self, uid: &str, name: String) {
        self.attaching.send_modify(|s| {
            s.awaited.entry(uid.to_owned()).or_default().insert(name);
        });
    }

    /// The node uses a volume no more; nor does the pod wait for it.
    pub(super) fn let_go(&self, uid: &str, record: &Record, used: bool) {
        let name = name_of(record);
        self.attaching.send_if_modified(|s| {
            let waited = s.awaited.remove(uid).is_some();
            (!used && s.in_use.remove(&name)) || waited
        });
    }

    /// Comes when a volume that the pod waits for is attached.
    pub(super) async fn has_come(attaching: &watch::Sender<State>, uid: &str) {
        let mut state = attaching.subscribe();
        // The sender lives in the argument: it cannot be gone.
        let _come = state.wait_for(|s| s.has_come(uid)).await.map(drop);
        attaching.send_if_modified(|s| {
            s.awaited.remove(uid);
            false
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(list: &[&str]) -> BTreeSet<String> {
        list.iter().map(|n| (*n).to_owned()).collect()
    }

    fn node(revision: u64, in_use: &[&str], attached: &[&str]) -> Node {
        let attached: Vec<_> = attached.iter().map(|n| json!({"name": n, "devicePath": ""})).collect();
        serde_json::from_value(json!({"metadata": {"resourceVersion": revision.to_string()},
            "status": {"volumesInUse": in_use, "volumesAttached": attached}}))
        .expect("a node")
    }

    #[test]
    fn a_volume_is_mounted_only_when_it_is_attached_after_the_node_has_said_that_it_is_used() {
        let mut state = State::default();
        state.take_in(&node(1, &[], &["a"]), None);
        state.in_use = names(&["a"]);
        assert!(!state.may_mount("a"), "the controller does not know that it is used");
        let report = state.begin_report().expect("there is something to say");
        state.take_in(&node(2, &["a"], &["a"]), Some(report));
        assert!(state.may_mount("a") && state.begin_report().is_none());
        // It is not used for a moment; while that is being said, somebody uses it again.
        state.in_use.clear();
        let report = state.begin_report().expect("it is used no more");
        state.in_use = names(&["a"]);
        assert!(!state.may_mount("a"), "the controller may be about to detach it");
        state.take_in(&node(3, &[], &["a"]), Some(report));
        assert!(!state.may_mount("a"));
        let report = state.begin_report().expect("it is used again");
        state.take_in(&node(5, &["a"], &[]), Some(report));
        assert!(!state.may_mount("a"), "it was detached meanwhile");
        state.take_in(&node(4, &[], &["a"]), None);
        assert!(!state.may_mount("a"), "a watch that lags");
        state.take_in(&node(6, &["a"], &["a"]), None);
        assert!(state.may_mount("a"));
        // Somebody has made the node's object anew.
        state.take_in(&node(7, &[], &["a"]), None);
        assert!(!state.may_mount("a") && state.begin_report().is_some());
    }

    #[test]
    fn pods_wait_for_their_own_volumes() {
        let mut state = State { awaited: BTreeMap::from([("p".into(), names(&["a", "b"]))]), ..State::default() };
        state.reported = names(&["b", "c"]);
        state.attached = names(&["a", "c"]);
        assert!(!state.has_come("p"));
        state.attached = names(&["b"]);
        assert!(state.has_come("p") && !state.has_come("other"));
    }

    #[test]
    fn what_is_in_use_is_found_again() {
        let dir = tempfile::tempdir().expect("dir");
        let root = Root::new(dir.path().to_path_buf());
        assert!(recorded(&root).expect("read").is_empty());
        let record = |handle: &str, attached: bool| Record {
            driver_name: "d".into(),
            volume_handle: handle.into(),
            attached,
            ..Record::default()
        };
        record::write(&root.volumes("u").join("one"), &record("h1", true)).expect("written");
        record::write(&root.volumes("u").join("two"), &record("h2", false)).expect("written");
        record::write(&root.staging("d", "h3"), &record("h3", true)).expect("written");
        let expected = ["kubernetes.io/csi/d^h1", "kubernetes.io/csi/d^h3"];
        assert_eq!(recorded(&root).expect("read"), names(&expected));
    }
}
