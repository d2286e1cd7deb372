//! Storage.

use super::*;

// allow-long: a table with one entry for each kind.
pub(super) fn kinds() -> Vec<KindInfo> {
    vec![
        KindInfo {
            short_names: &["sc"],
            namespaced: false,
            ..kind!("storage.k8s.io" "v1" "StorageClass" "storageclasses" "storageclass", c::STORAGE_CLASS, volumes::CLASS)
        },
        KindInfo {
            namespaced: false,
            ..kind!("storage.k8s.io" "v1" "CSIDriver" "csidrivers" "csidriver", c::CSI_DRIVER, csi::DRIVER)
        },
        KindInfo {
            namespaced: false,
            ..kind!("storage.k8s.io" "v1" "CSINode" "csinodes" "csinode", c::CSI_NODE, csi::NODE)
        },
        kind!("storage.k8s.io" "v1" "CSIStorageCapacity" "csistoragecapacities" "csistoragecapacity", c::CSI_CAPACITY, csi::CAPACITY),
        KindInfo {
            namespaced: false,
            has_status: true,
            ..kind!("storage.k8s.io" "v1" "VolumeAttachment" "volumeattachments" "volumeattachment", c::ATTACHMENT, csi::ATTACHMENT)
        },
        KindInfo {
            short_names: &["vac"],
            namespaced: false,
            ..kind!("storage.k8s.io" "v1" "VolumeAttributesClass" "volumeattributesclasses" "volumeattributesclass", c::ATTRIBUTES_CLASS, csi::ATTRIBUTES_CLASS)
        },
    ]
}
