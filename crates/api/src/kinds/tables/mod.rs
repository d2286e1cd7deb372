//! The list of built-in kinds.

use super::{
    Columns, Hooks, KindInfo, NameRule, ScalePaths, Subresource, admission as adm, apps, autoscaling, certificates,
    classes, core as core_kinds, cronjob, csi, daemonset, devices, event, extension, flowcontrol, job, netpol,
    network as net, pod, policy, quota, rbac, replication, service, storage as volumes,
};
use crate::table::columns as c;

mod access;
mod core;
mod network;
mod scheduling;
mod storage;
mod workloads;

const ALL_VERBS: &[&str] = &["create", "delete", "deletecollection", "get", "list", "patch", "update", "watch"];
/// Namespaces cannot be deleted as a collection.
const NO_COLLECTION: &[&str] = &["create", "delete", "get", "list", "patch", "update", "watch"];

const REPLICAS: ScalePaths = ScalePaths {
    spec_replicas: &["spec", "replicas"],
    status_replicas: &["status", "replicas"],
    selector: &["spec", "selector"],
};

const fn base(
    [group, version, kind, list_kind, plural, singular]: [&'static str; 6],
    columns: Columns,
    hooks: Hooks,
) -> KindInfo {
    KindInfo {
        group,
        version,
        kind,
        list_kind,
        plural,
        singular,
        short_names: &[],
        categories: &[],
        namespaced: true,
        has_status: false,
        scale: None,
        verbs: ALL_VERBS,
        subresources: &[],
        storage_group: group,
        storage_version: version,
        name_rule: NameRule::Subdomain,
        create_on_update: false,
        has_generation: false,
        status_on_create: false,
        default_orphan: false,
        ttl_s: None,
        hooks,
        columns,
        custom: None,
    }
}

const fn sub(name: &'static str, kind: &'static str, verbs: &'static [&'static str]) -> Subresource {
    Subresource { name, kind, group: "", version: "v1", verbs }
}

const POD_SUBRESOURCES: &[Subresource] = &[
    sub("attach", "PodAttachOptions", &["create", "get"]),
    sub("binding", "Binding", &["create"]),
    sub("ephemeralcontainers", "Pod", &["get", "patch", "update"]),
    Subresource { name: "eviction", kind: "Eviction", group: "policy", version: "v1", verbs: &["create"] },
    sub("exec", "PodExecOptions", &["create", "get"]),
    sub("log", "Pod", &["get"]),
    sub("portforward", "PodPortForwardOptions", &["create", "get"]),
    sub("resize", "Pod", &["get", "patch", "update"]),
    sub("proxy", "PodProxyOptions", PROXY_VERBS),
];

/// Every method is passed on.
const PROXY_VERBS: &[&str] = &["create", "delete", "get", "patch", "update"];
const NODE_SUBRESOURCES: &[Subresource] = &[sub("proxy", "NodeProxyOptions", PROXY_VERBS)];
const SERVICE_SUBRESOURCES: &[Subresource] = &[sub("proxy", "ServiceProxyOptions", PROXY_VERBS)];

const FINALIZE: &[Subresource] = &[sub("finalize", "Namespace", &["update"])];

const TOKEN: &[Subresource] = &[Subresource {
    name: "token",
    kind: "TokenRequest",
    group: "authentication.k8s.io",
    version: "v1",
    verbs: &["create"],
}];

/// How long events are kept after their last write: Kubernetes' own default of one hour.
const EVENT_TTL_S: u64 = 3600;

const APPROVAL: &[Subresource] = &[Subresource {
    name: "approval",
    kind: "CertificateSigningRequest",
    group: "certificates.k8s.io",
    version: "v1",
    verbs: &["get", "patch", "update"],
}];

/// `kind!(GROUP VERSION KIND PLURAL SINGULAR, columns, hooks)`: what nearly all kinds have in common.
macro_rules! kind {
    ($group:literal $version:literal $kind:literal $plural:literal $singular:literal, $columns:expr, $hooks:expr) => {
        base([$group, $version, $kind, concat!($kind, "List"), $plural, $singular], $columns, $hooks)
    };
}
use kind;

/// Every kind, core first, then by group; within a group the preferred version first.
pub(super) fn all() -> Vec<KindInfo> {
    let areas =
        [core::kinds(), workloads::kinds(), network::kinds(), storage::kinds(), access::kinds(), scheduling::kinds()];
    let mut kinds: Vec<KindInfo> = areas.into_iter().flatten().collect();
    kinds.sort_by_key(|k| k.group);
    kinds
}
