//! What a pod's volume means to a driver: pure, from the objects of the API to the messages of CSI.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::{CSIVolumeSource, PersistentVolume, Pod, SecretReference};
use k8s_openapi::api::storage::v1::CSIDriver;

use super::proto::{Access, AccessMode, AccessType, Empty, MountVolume, Texts, VolumeCapability};
use super::root::hash;

/// A secret: namespace and name.
pub(super) type Secret = (String, String);

/// A volume that a driver is to provide.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Volume {
    /// Its folder in the pod's: the name of the persistent volume, or that of the pod's volume.
    pub(super) name: String,
    pub(super) driver: String,
    pub(super) handle: String,
    /// It lives and ends with its pod.
    pub(super) ephemeral: bool,
    pub(super) read_only: bool,
    /// It is a device, not a file system.
    pub(super) block: bool,
    pub(super) fs_type: String,
    pub(super) attributes: BTreeMap<String, String>,
    pub(super) access_modes: Vec<String>,
    pub(super) mount_options: Vec<String>,
    pub(super) publish_secret: Option<Secret>,
    pub(super) stage_secret: Option<Secret>,
    pub(super) expand_secret: Option<Secret>,
}

fn secret(reference: Option<&SecretReference>) -> Option<Secret> {
    let reference = reference?;
    Some((reference.namespace.clone()?, reference.name.clone()?))
}

impl Volume {
    /// The volume that a pod describes itself.
    pub(crate) fn inline(pod: &Pod, name: &str, source: &CSIVolumeSource) -> Self {
        let uid = pod.metadata.uid.as_deref().unwrap_or_default();
        let namespace = pod.metadata.namespace.clone().unwrap_or_default();
        Volume {
            name: name.to_owned(),
            driver: source.driver.clone(),
            handle: format!("csi-{}", hash(&[uid, name])),
            ephemeral: true,
            read_only: source.read_only == Some(true),
            fs_type: source.fs_type.clone().unwrap_or_default(),
            attributes: source.volume_attributes.clone().unwrap_or_default(),
            access_modes: vec!["ReadWriteOnce".to_owned()],
            publish_secret: source.node_publish_secret_ref.as_ref().map(|s| (namespace, s.name.clone())),
            ..Volume::default()
        }
    }

    /// The volume behind a claim, when a driver provides it.
    pub(crate) fn persistent(pv: &PersistentVolume, read_only: bool) -> Option<Self> {
        let spec = pv.spec.as_ref()?;
        let source = spec.csi.as_ref()?;
        Some(Volume {
            name: pv.metadata.name.clone().unwrap_or_default(),
            driver: source.driver.clone(),
            handle: source.volume_handle.clone(),
            ephemeral: false,
            read_only: read_only || source.read_only == Some(true),
            block: spec.volume_mode.as_deref() == Some("Block"),
            fs_type: source.fs_type.clone().unwrap_or_default(),
            attributes: source.volume_attributes.clone().unwrap_or_default(),
            access_modes: spec.access_modes.clone().unwrap_or_default(),
            mount_options: spec.mount_options.clone().unwrap_or_default(),
            publish_secret: secret(source.node_publish_secret_ref.as_ref()),
            stage_secret: secret(source.node_stage_secret_ref.as_ref()),
            expand_secret: secret(source.node_expand_secret_ref.as_ref()),
        })
    }

    /// Whether it is a device.
    pub(crate) fn is_block(&self) -> bool {
        self.block
    }

    /// Whether the driver takes part in volumes of this kind at all.
    pub(super) fn mode_allowed(&self, driver: Option<&CSIDriver>) -> Result<(), String> {
        let mode = if self.ephemeral { "Ephemeral" } else { "Persistent" };
        let known = driver.and_then(|d| d.spec.volume_lifecycle_modes.as_ref()).filter(|m| !m.is_empty());
        match known {
            Some(modes) if modes.iter().any(|m| m == mode) => Ok(()),
            Some(modes) => {
                Err(format!("volume mode {mode:?} not supported by driver {} (only supports {modes:?})", self.driver))
            }
            None if !self.ephemeral => Ok(()),
            None if driver.is_none() => {
                Err(format!("volume mode {mode:?} not supported by driver {} (no CSIDriver object)", self.driver))
            }
            None => Err(format!(
                "volume mode {mode:?} not supported by driver {} (only supports [\"Persistent\"])",
                self.driver
            )),
        }
    }

    /// How it is used, as CSI says it. `narrow`: the driver tells one writer on a node from several.
    pub(super) fn capability(&self, group: Option<u32>, narrow: bool) -> VolumeCapability {
        let mount = MountVolume {
            fs_type: self.fs_type.clone(),
            flags: self.mount_options.clone(),
            group: group.map(|g| g.to_string()).unwrap_or_default(),
        };
        let mode = match (self.access_modes.first().map(String::as_str), narrow) {
            (Some("ReadOnlyMany"), _) => Access::MultiNodeReaderOnly,
            (Some("ReadWriteMany"), _) => Access::MultiNodeMultiWriter,
            (Some("ReadWriteOncePod"), true) => Access::SingleNodeSingleWriter,
            (_, true) => Access::SingleNodeMultiWriter,
            (_, false) => Access::SingleNodeWriter,
        };
        let access = if self.block { AccessType::Block(Empty {}) } else { AccessType::Mount(mount) };
        VolumeCapability { access: Some(access), mode: Some(AccessMode { mode: mode.into() }) }
    }

    /// What the driver is told of the volume, and of the pod if it wants to know.
    pub(super) fn context(&self, driver: Option<&CSIDriver>, pod: &Pod) -> Texts {
        let mut context: Texts = self.attributes.clone().into_iter().collect();
        if driver.and_then(|d| d.spec.pod_info_on_mount) == Some(true) {
            let m = &pod.metadata;
            let account = pod.spec.as_ref().and_then(|s| s.service_account_name.clone()).unwrap_or_default();
            for (key, value) in [
                ("pod.name", m.name.clone().unwrap_or_default()),
                ("pod.namespace", m.namespace.clone().unwrap_or_default()),
                ("pod.uid", m.uid.clone().unwrap_or_default()),
                ("serviceAccount.name", account),
                ("ephemeral", self.ephemeral.to_string()),
            ] {
                context.insert(format!("csi.storage.k8s.io/{key}"), value);
            }
        }
        context
    }

    /// Whether the node gives the files to the pod's group, which the driver does not do.
    pub(super) fn takes_group(&self, driver: Option<&CSIDriver>) -> bool {
        let policy = driver.and_then(|d| d.spec.fs_group_policy.as_deref());
        let once = self.access_modes.iter().any(|m| m == "ReadWriteOnce");
        match policy {
            _ if self.read_only || self.block => false,
            Some("None") => false,
            Some("File") => true,
            _ => !self.fs_type.is_empty() && once,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    fn driver(spec: Value) -> CSIDriver {
        serde_json::from_value(json!({"metadata": {"name": "d"}, "spec": spec})).expect("a driver")
    }

    fn pod() -> Pod {
        let meta = json!({"name": "p", "namespace": "ns", "uid": "u"});
        serde_json::from_value(json!({"metadata": meta, "spec": {"containers": [], "serviceAccountName": "sa"}}))
            .expect("a pod")
    }

    fn persistent(more: Value) -> Volume {
        let mut spec =
            json!({"accessModes": ["ReadWriteOnce"], "csi": {"driver": "d", "volumeHandle": "h", "fsType": "ext4"}});
        for (key, value) in more.as_object().expect("an object") {
            spec[key] = value.clone();
        }
        let pv = serde_json::from_value(json!({"metadata": {"name": "pv"}, "spec": spec})).expect("a volume");
        Volume::persistent(&pv, false).expect("of a driver")
    }

    #[test]
    fn a_driver_is_asked_only_for_the_modes_it_declares() {
        let inline = Volume::inline(&pod(), "v", &CSIVolumeSource { driver: "d".into(), ..Default::default() });
        let both = driver(json!({"volumeLifecycleModes": ["Persistent", "Ephemeral"]}));
        let persistent_only = driver(json!({}));
        assert!(inline.mode_allowed(Some(&both)).is_ok());
        assert!(inline.mode_allowed(Some(&persistent_only)).is_err());
        assert!(inline.mode_allowed(None).expect_err("refused").contains("no CSIDriver object"));
        assert!(persistent(json!({})).mode_allowed(None).is_ok());
        let only = driver(json!({"volumeLifecycleModes": ["Ephemeral"]}));
        assert!(persistent(json!({})).mode_allowed(Some(&only)).is_err());
    }

    #[test]
    fn groups_are_given_as_the_policy_says() {
        let group =
            |policy: &str, more: Value| persistent(more).takes_group(Some(&driver(json!({"fsGroupPolicy": policy}))));
        let many = || json!({"accessModes": ["ReadWriteMany"]});
        let bare = || json!({"csi": {"driver": "d", "volumeHandle": "h"}});
        assert!(group("ReadWriteOnceWithFSType", json!({})) && persistent(json!({})).takes_group(None));
        assert!(!group("ReadWriteOnceWithFSType", many()) && !group("ReadWriteOnceWithFSType", bare()));
        assert!(group("File", many()) && group("File", bare()));
        assert!(!group("None", json!({})));
        assert!(!group("File", json!({"csi": {"driver": "d", "volumeHandle": "h", "readOnly": true}})));
    }

    #[test]
    fn a_device_is_asked_for_as_one() {
        let access = |mode: &str| persistent(json!({"volumeMode": mode})).capability(Some(7), false).access;
        assert_eq!(access("Block"), Some(AccessType::Block(Empty {})));
        let mount = MountVolume { fs_type: "ext4".into(), group: "7".into(), flags: Vec::new() };
        assert_eq!(access("Filesystem"), Some(AccessType::Mount(mount)));
        assert!(!persistent(json!({"volumeMode": "Block"})).takes_group(None));
    }

    #[test]
    fn access_modes_are_said_as_narrowly_as_the_driver_understands() {
        let mode = |of: &str, narrow: bool| {
            persistent(json!({"accessModes": [of]})).capability(None, narrow).mode.expect("a mode").mode()
        };
        assert_eq!(mode("ReadWriteOnce", false), Access::SingleNodeWriter);
        assert_eq!(mode("ReadWriteOnce", true), Access::SingleNodeMultiWriter);
        assert_eq!(mode("ReadWriteOncePod", true), Access::SingleNodeSingleWriter);
        assert_eq!(mode("ReadWriteOncePod", false), Access::SingleNodeWriter);
        assert_eq!(mode("ReadWriteMany", true), Access::MultiNodeMultiWriter);
        assert_eq!(mode("ReadOnlyMany", false), Access::MultiNodeReaderOnly);
    }

    #[test]
    fn a_driver_learns_of_the_pod_only_if_it_asks() {
        let volume = persistent(json!({"csi": {"driver": "d", "volumeHandle": "h", "volumeAttributes": {"k": "v"}}}));
        assert_eq!(volume.context(None, &pod()), Texts::from([("k".to_owned(), "v".to_owned())]));
        let told = volume.context(Some(&driver(json!({"podInfoOnMount": true}))), &pod());
        assert_eq!(told["csi.storage.k8s.io/pod.name"], "p");
        assert_eq!(told["csi.storage.k8s.io/serviceAccount.name"], "sa");
        assert_eq!((told["csi.storage.k8s.io/ephemeral"].as_str(), told["k"].as_str()), ("false", "v"));
    }
}
