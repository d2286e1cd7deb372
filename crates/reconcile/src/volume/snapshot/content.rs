//! What becomes of contents: the controller's part, the node's, and volumes that are made of them.

use jiff::Timestamp;
use k8s_openapi::api::core::v1::PersistentVolumeClaim;
use serde_json::json;

use super::super::{LOCAL_PATH, annotation, capacity};
use super::{
    BEING_DELETED, CONTENT, ContentStatus, DELETE, MANAGED_BY, SnapshotError, VolumeSnapshot, VolumeSnapshotContent,
    holds, is_ready, managed_by, parse_handle, points_back, set_finalizers,
};
use crate::plan::{Plan, SNAPSHOT_CONTENTS, name, terminating};

/// Whether the data of a content that is being deleted may go: its snapshot goes, or there was none.
fn may_go(content: &VolumeSnapshotContent) -> bool {
    let unbound = content.spec.volume_snapshot_ref.uid.as_deref().is_none_or(str::is_empty);
    let imported = content.spec.source.snapshot_handle.is_some();
    terminating(&content.metadata) && (imported && unbound || annotation(&content.metadata, BEING_DELETED).is_some())
}

/// The status by which a node says that it has nothing of a snapshot any more.
pub fn nothing_left() -> ContentStatus {
    ContentStatus { ready_to_use: Some(false), ..Default::default() }
}

/// Decides for one content, given its snapshot if that exists.
pub fn plan_content(content: &VolumeSnapshotContent, snapshot: Option<&VolumeSnapshot>, now: Timestamp) -> Plan {
    let mut plan = Plan::default();
    if content.spec.driver != LOCAL_PATH {
        return plan;
    }
    let (meta, source) = (&content.metadata, &content.spec.source);
    if terminating(meta) {
        let kept = content.spec.deletion_policy != DELETE || managed_by(content).is_none();
        let gone = content.status.as_ref() == Some(&nothing_left());
        let nobodys = snapshot.is_none_or(|s| !points_back(content, s));
        if holds(meta, CONTENT) && (may_go(content) && (kept || gone) || kept && nobodys) {
            let all = meta.finalizers.iter().flatten().map(String::as_str);
            set_finalizers(SNAPSHOT_CONTENTS, meta, &all.filter(|f| *f != CONTENT).collect::<Vec<_>>(), &mut plan);
        }
        return plan;
    }
    let imported = source.snapshot_handle.as_deref();
    let why = match (imported, &source.volume_handle) {
        (Some(handle), None) if parse_handle(handle).is_none() => {
            format!("snapshotHandle {handle:?} of driver {LOCAL_PATH} is not of the form NODE/NAME")
        }
        (Some(_), Some(_)) | (None, None) => {
            "Exactly one of VolumeHandle and SnapshotHandle should be specified".to_owned()
        }
        _ => String::new(),
    };
    if !why.is_empty() {
        refuse(content, why, now, &mut plan);
        return plan;
    }
    let node = imported.and_then(parse_handle).map(|(node, _)| node).filter(|n| managed_by(content) != Some(*n));
    let bound = content.spec.volume_snapshot_ref.uid.as_deref().is_some_and(|u| !u.is_empty());
    let guard = bound && !holds(meta, CONTENT);
    if node.is_some() || guard {
        let mut m = json!({"uid": meta.uid, "resourceVersion": meta.resource_version});
        if let Some(node) = node {
            m["labels"] = json!({MANAGED_BY: node});
        }
        if guard {
            let all = meta.finalizers.iter().flatten().map(String::as_str).chain([CONTENT]);
            m["finalizers"] = all.collect();
        }
        plan.patch(SNAPSHOT_CONTENTS, meta, json!({"metadata": m}));
    }
    plan
}

fn refuse(content: &VolumeSnapshotContent, why: String, now: Timestamp, plan: &mut Plan) {
    let status = failed(content, &why, now);
    if status.as_ref() != content.status.as_ref()
        && let Some(status) = status
    {
        plan.set_status(SNAPSHOT_CONTENTS, &content.metadata, content.status.as_ref(), &status);
        plan.event(SNAPSHOT_CONTENTS, &content.metadata, "Warning", "ContentValidationError", why);
    }
}

/// The status of a content that tells what went wrong; none if it does already.
pub fn failed(content: &VolumeSnapshotContent, why: &str, now: Timestamp) -> Option<ContentStatus> {
    let mut status = content.status.clone().unwrap_or_default();
    if status.error.as_ref().and_then(|e| e.message.as_deref()) == Some(why) {
        return None;
    }
    status.ready_to_use = Some(false);
    status.error = Some(SnapshotError { time: Some(crate::pods::time(now)), message: Some(why.to_owned()) });
    Some(status)
}

/// What a node has to do for a content.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Work<'a> {
    /// Take a snapshot of this volume, under this name.
    Take {
        /// The name of the PersistentVolume.
        volume: &'a str,
        /// The name of the snapshot.
        snapshot: &'a str,
    },
    /// Look whether there is a snapshot of this name.
    Find(&'a str),
    /// Remove the snapshot of this name.
    Remove(&'a str),
}

/// What the node of that name has to do for a content, if anything.
pub fn work<'a>(content: &'a VolumeSnapshotContent, node: &str) -> Option<Work<'a>> {
    if content.spec.driver != LOCAL_PATH || managed_by(content) != Some(node) {
        return None;
    }
    let source = &content.spec.source;
    let imported = source.snapshot_handle.as_deref().and_then(parse_handle).filter(|(n, _)| *n == node);
    let snapshot = match (imported, &source.volume_handle) {
        (Some((_, snapshot)), None) => snapshot,
        (None, Some(_)) => name(&content.metadata),
        _ => return None,
    };
    if terminating(&content.metadata) {
        let wanted = content.spec.deletion_policy == DELETE && may_go(content);
        return (wanted && content.status.as_ref() != Some(&nothing_left())).then_some(Work::Remove(snapshot));
    }
    if content.status.as_ref().and_then(|s| s.ready_to_use) == Some(true) {
        return None;
    }
    Some(match &source.volume_handle {
        Some(volume) => Work::Take { volume, snapshot },
        None => Work::Find(snapshot),
    })
}

/// Node and name of the snapshot that a claim's volume is to be made of; an error says why it cannot be.
pub(in crate::volume) fn origin<'a>(
    claim: &PersistentVolumeClaim,
    wanted: &str,
    snapshot: Option<&VolumeSnapshot>,
    content: Option<&'a VolumeSnapshotContent>,
) -> Result<(&'a str, &'a str), String> {
    let snapshot = snapshot.ok_or_else(|| format!("error getting snapshot {wanted} from api server: not found"))?;
    if terminating(&snapshot.metadata) {
        return Err(format!("snapshot {wanted} is currently being deleted"));
    }
    if !is_ready(snapshot) {
        return Err(format!("snapshot {wanted} is not currently ready to use"));
    }
    let content = content.filter(|c| points_back(c, snapshot));
    let content = content.ok_or_else(|| format!("snapshot {wanted} is not bound to its content"))?;
    if content.spec.driver != LOCAL_PATH {
        return Err(format!("snapshot {wanted} is of driver {}, not of {LOCAL_PATH}", content.spec.driver));
    }
    let status = content.status.as_ref();
    let handle = status.and_then(|s| s.snapshot_handle.as_deref()).and_then(parse_handle);
    let handle = handle.ok_or_else(|| format!("snapshot {wanted} is not currently ready to use"))?;
    let spec = claim.spec.as_ref();
    if spec.and_then(|s| s.volume_mode.as_deref()) == Some("Block") {
        return Err(format!("snapshot {wanted} is of files and cannot become a volume of mode Block"));
    }
    let size = capacity(spec.and_then(|s| s.resources.as_ref()?.requests.as_ref()));
    let least = status.and_then(|s| s.restore_size).unwrap_or(0);
    if size < least {
        return Err(format!(
            "requested volume size {size} is less than the size {least} for the source snapshot {wanted}"
        ));
    }
    Ok(handle)
}
