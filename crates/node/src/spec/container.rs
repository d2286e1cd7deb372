//! What the runtime is asked for to make one container.

use std::path::PathBuf;

use engine::runtime::{ContainerSpec, Mount, Propagation, Resources};
use k8s_openapi::api::core::v1::{Container, VolumeMount};
use sha2::{Digest, Sha256};

use super::downward::Facts;
use super::expand::expand;
use super::{ConfigError, security};
use crate::volumes::block::Device;

/// Label that keeps the image as the pod named it; the runtime is given the one it was resolved to.
pub(crate) const IMAGE_LABEL: &str = "windlass.dev/image";
/// Label that keeps the host's path of the termination message.
pub(crate) const TERMINATION_LABEL: &str = "windlass.dev/termination-message";
/// Where a container leaves its last words when it does not say otherwise.
const TERMINATION_PATH: &str = "/dev/termination-log";

/// The id of a run of a container: the same for the same pod, name and attempt, so that making it twice makes it once.
pub(crate) fn id(uid: &str, name: &str, attempt: u32) -> String {
    let mut hash = Sha256::new();
    for part in [uid, name, &attempt.to_string()] {
        hash.update(part.as_bytes());
        hash.update([0]);
    }
    hash.finalize().iter().map(|b| format!("{b:02x}")).collect()
}

/// Where one volume mount of a container is found on the host.
pub(crate) struct Source {
    pub(crate) path: PathBuf,
    pub(crate) read_only: bool,
    /// It is an image: nothing in it is run.
    pub(crate) inert: bool,
}

/// Whether nothing below the mount may be written either (KEP-3857). `IfPossible` always is: the runtime can do it.
fn recursive(m: &VolumeMount) -> bool {
    matches!(m.recursive_read_only.as_deref(), Some("Enabled" | "IfPossible"))
}

/// What goes into a container besides its spec.
pub(crate) struct Parts<'a> {
    pub(crate) attempt: u32,
    /// The image as the runtime knows it.
    pub(crate) image: String,
    pub(crate) env: Vec<(String, String)>,
    /// One for each of the container's volume mounts, in order.
    pub(crate) sources: Vec<Source>,
    /// One for each of its volume devices, in order.
    pub(crate) devices: Vec<Device>,
    pub(crate) log_path: PathBuf,
    pub(crate) log_max_size: u64,
    pub(crate) log_max_files: u32,
    pub(crate) termination_log: PathBuf,
    pub(crate) profiles: &'a std::path::Path,
    /// The container whose processes it sees.
    pub(crate) pid_of: Option<String>,
    pub(crate) resources: Resources,
}

fn propagation(m: &VolumeMount) -> Propagation {
    match m.mount_propagation.as_deref() {
        Some("HostToContainer") => Propagation::HostToContainer,
        Some("Bidirectional") => Propagation::Bidirectional,
        _ => Propagation::Private,
    }
}

fn mounts(c: &Container, parts: &Parts<'_>) -> Vec<Mount> {
    let mut mounts: Vec<Mount> = c
        .volume_mounts
        .iter()
        .flatten()
        .zip(&parts.sources)
        .map(|(m, source)| Mount {
            source: source.path.clone(),
            target: PathBuf::from(&m.mount_path),
            read_only: source.read_only || m.read_only == Some(true),
            inert: source.inert,
            recursive_read_only: m.read_only == Some(true) && recursive(m),
            propagation: propagation(m),
        })
        .collect();
    // The node of a device is bound where it is to be seen; what may be done with it, the device rules say.
    mounts.extend(c.volume_devices.iter().flatten().zip(&parts.devices).map(|(d, device)| Mount {
        source: device.path.clone(),
        target: PathBuf::from(&d.device_path),
        read_only: false,
        inert: false,
        recursive_read_only: false,
        propagation: Propagation::Private,
    }));
    // A mount below another one must come after it.
    mounts.sort_by_key(|m| m.target.components().count());
    mounts.push(Mount {
        source: parts.termination_log.clone(),
        target: PathBuf::from(termination_path(c)),
        read_only: false,
        recursive_read_only: false,
        inert: false,
        propagation: Propagation::Private,
    });
    mounts
}

fn termination_path(c: &Container) -> &str {
    c.termination_message_path.as_deref().filter(|p| !p.is_empty()).unwrap_or(TERMINATION_PATH)
}

/// The spec of a container.
pub(crate) fn spec(c: &Container, facts: &Facts<'_>, parts: Parts<'_>) -> Result<ContainerSpec, ConfigError> {
    let pod = facts.pod;
    let uid = pod.metadata.uid.clone().unwrap_or_default();
    let lookup = |name: &str| parts.env.iter().find(|(k, _)| k == name).map(|(_, v)| v.clone());
    let expanded = |list: &Option<Vec<String>>| -> Vec<String> {
        list.iter().flatten().map(|word| expand(word, lookup)).collect()
    };
    let mut labels = super::sandbox::labels(pod);
    labels.push(("io.kubernetes.container.name".to_owned(), c.name.clone()));
    labels.push((IMAGE_LABEL.to_owned(), c.image.clone().unwrap_or_default()));
    labels.push((TERMINATION_LABEL.to_owned(), parts.termination_log.to_string_lossy().into_owned()));
    Ok(ContainerSpec {
        id: id(&uid, &c.name, parts.attempt),
        sandbox_id: uid,
        name: c.name.clone(),
        attempt: parts.attempt,
        command: expanded(&c.command),
        args: expanded(&c.args),
        working_dir: c.working_dir.clone().filter(|d| !d.is_empty()),
        mounts: mounts(c, &parts),
        devices: parts.devices.iter().map(|d| d.rule).collect(),
        resources: parts.resources,
        security: security::of_container(pod, c, parts.profiles)?,
        pid_of: parts.pid_of,
        stop_signal: c.lifecycle.as_ref().and_then(|l| l.stop_signal.clone()).filter(|s| !s.is_empty()),
        tty: c.tty == Some(true),
        stdin: c.stdin == Some(true),
        stdin_once: c.stdin_once == Some(true),
        log_path: parts.log_path,
        log_max_size: parts.log_max_size,
        log_max_files: parts.log_max_files,
        image: parts.image,
        env: parts.env,
        labels,
        extra: engine::runtime::Extra::default(),
    })
}
