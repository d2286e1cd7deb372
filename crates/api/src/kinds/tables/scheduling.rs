//! Runtime and scheduling classes, devices.

use super::*;

// allow-long: a table with one entry for each kind.
pub(super) fn kinds() -> Vec<KindInfo> {
    vec![
        KindInfo {
            namespaced: false,
            create_on_update: true,
            ..kind!("node.k8s.io" "v1" "RuntimeClass" "runtimeclasses" "runtimeclass", c::RUNTIME_CLASS, classes::RUNTIME_CLASS)
        },
        KindInfo {
            namespaced: false,
            has_generation: true,
            ..kind!("resource.k8s.io" "v1" "DeviceClass" "deviceclasses" "deviceclass", c::PLAIN, devices::CLASS)
        },
        KindInfo {
            has_status: true,
            ..kind!("resource.k8s.io" "v1" "ResourceClaim" "resourceclaims" "resourceclaim", c::CLAIM, devices::CLAIM)
        },
        kind!("resource.k8s.io" "v1" "ResourceClaimTemplate" "resourceclaimtemplates" "resourceclaimtemplate", c::PLAIN, devices::CLAIM_TEMPLATE),
        KindInfo {
            namespaced: false,
            has_generation: true,
            ..kind!("resource.k8s.io" "v1" "ResourceSlice" "resourceslices" "resourceslice", c::SLICE, devices::SLICE)
        },
        KindInfo {
            short_names: &["pc"],
            namespaced: false,
            has_generation: true,
            ..kind!("scheduling.k8s.io" "v1" "PriorityClass" "priorityclasses" "priorityclass", c::PRIORITY_CLASS, classes::PRIORITY_CLASS)
        },
    ]
}
