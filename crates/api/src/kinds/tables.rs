//! The list of built-in kinds.

use super::{
    Columns, Hooks, KindInfo, NameRule, ScalePaths, Subresource, apps, core, event, job, network, pod, service, storage,
};
use crate::table::columns as c;

const ALL_VERBS: &[&str] = &["create", "delete", "deletecollection", "get", "list", "patch", "update", "watch"];
/// Namespaces cannot be deleted as a collection.
const NO_COLLECTION: &[&str] = &["create", "delete", "get", "list", "patch", "update", "watch"];

const REPLICAS: ScalePaths = ScalePaths {
    spec_replicas: &["spec", "replicas"],
    status_replicas: &["status", "replicas"],
    selector: &["spec", "selector"],
};

const fn base(
    group: &'static str,
    version: &'static str,
    kind: &'static str,
    list_kind: &'static str,
    plural: &'static str,
    singular: &'static str,
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
    }
}

const fn sub(name: &'static str, kind: &'static str, verbs: &'static [&'static str]) -> Subresource {
    Subresource { name, kind, group: "", version: "v1", verbs }
}

const POD_SUBRESOURCES: &[Subresource] = &[
    sub("attach", "PodAttachOptions", &["create", "get"]),
    sub("binding", "Binding", &["create"]),
    Subresource { name: "eviction", kind: "Eviction", group: "policy", version: "v1", verbs: &["create"] },
    sub("exec", "PodExecOptions", &["create", "get"]),
    sub("log", "Pod", &["get"]),
    sub("portforward", "PodPortForwardOptions", &["create", "get"]),
];

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

/// Every kind, core first, then by group.
pub(super) fn all() -> Vec<KindInfo> {
    let mut kinds = core();
    kinds.extend(apps());
    kinds.extend(others());
    kinds
}

// allow-long: a table with one entry for each kind.
fn core() -> Vec<KindInfo> {
    vec![
        KindInfo {
            short_names: &["cm"],
            ..base("", "v1", "ConfigMap", "ConfigMapList", "configmaps", "configmap", c::CONFIG_MAP, core::CONFIG_MAP)
        },
        KindInfo {
            short_names: &["ep"],
            create_on_update: true,
            ..base("", "v1", "Endpoints", "EndpointsList", "endpoints", "endpoints", c::ENDPOINTS, network::ENDPOINTS)
        },
        KindInfo {
            short_names: &["ev"],
            create_on_update: true,
            ttl_s: Some(EVENT_TTL_S),
            ..base("", "v1", "Event", "EventList", "events", "event", c::EVENT, event::CORE)
        },
        KindInfo {
            short_names: &["ns"],
            namespaced: false,
            has_status: true,
            verbs: NO_COLLECTION,
            name_rule: NameRule::Label,
            subresources: FINALIZE,
            ..base("", "v1", "Namespace", "NamespaceList", "namespaces", "namespace", c::NAMESPACE, core::NAMESPACE)
        },
        KindInfo {
            short_names: &["no"],
            status_on_create: true,
            namespaced: false,
            has_status: true,
            ..base("", "v1", "Node", "NodeList", "nodes", "node", c::NODE, core::NODE)
        },
        KindInfo {
            short_names: &["pvc"],
            has_status: true,
            ..base(
                "",
                "v1",
                "PersistentVolumeClaim",
                "PersistentVolumeClaimList",
                "persistentvolumeclaims",
                "persistentvolumeclaim",
                c::PVC,
                storage::CLAIM,
            )
        },
        KindInfo {
            short_names: &["pv"],
            namespaced: false,
            has_status: true,
            ..base(
                "",
                "v1",
                "PersistentVolume",
                "PersistentVolumeList",
                "persistentvolumes",
                "persistentvolume",
                c::PV,
                storage::VOLUME,
            )
        },
        KindInfo {
            short_names: &["po"],
            categories: &["all"],
            has_status: true,
            has_generation: true,
            subresources: POD_SUBRESOURCES,
            ..base("", "v1", "Pod", "PodList", "pods", "pod", c::POD, pod::HOOKS)
        },
        base("", "v1", "Secret", "SecretList", "secrets", "secret", c::SECRET, core::SECRET),
        KindInfo {
            short_names: &["sa"],
            subresources: TOKEN,
            ..base(
                "",
                "v1",
                "ServiceAccount",
                "ServiceAccountList",
                "serviceaccounts",
                "serviceaccount",
                c::SERVICE_ACCOUNT,
                Hooks::NONE,
            )
        },
        KindInfo {
            short_names: &["svc"],
            categories: &["all"],
            has_status: true,
            create_on_update: true,
            name_rule: NameRule::Label1035,
            ..base("", "v1", "Service", "ServiceList", "services", "service", c::SERVICE, service::HOOKS)
        },
    ]
}

// allow-long: a table with one entry for each kind.
fn apps() -> Vec<KindInfo> {
    vec![
        base(
            "apps",
            "v1",
            "ControllerRevision",
            "ControllerRevisionList",
            "controllerrevisions",
            "controllerrevision",
            c::CONTROLLER_REVISION,
            apps::CONTROLLER_REVISION,
        ),
        KindInfo {
            short_names: &["deploy"],
            categories: &["all"],
            has_status: true,
            has_generation: true,
            scale: Some(REPLICAS),
            ..base(
                "apps",
                "v1",
                "Deployment",
                "DeploymentList",
                "deployments",
                "deployment",
                c::DEPLOYMENT,
                apps::DEPLOYMENT,
            )
        },
        KindInfo {
            short_names: &["rs"],
            categories: &["all"],
            has_status: true,
            has_generation: true,
            scale: Some(REPLICAS),
            ..base(
                "apps",
                "v1",
                "ReplicaSet",
                "ReplicaSetList",
                "replicasets",
                "replicaset",
                c::REPLICA_SET,
                apps::REPLICA_SET,
            )
        },
        KindInfo {
            short_names: &["sts"],
            categories: &["all"],
            has_status: true,
            has_generation: true,
            scale: Some(REPLICAS),
            ..base(
                "apps",
                "v1",
                "StatefulSet",
                "StatefulSetList",
                "statefulsets",
                "statefulset",
                c::STATEFUL_SET,
                apps::STATEFUL_SET,
            )
        },
        KindInfo {
            categories: &["all"],
            has_status: true,
            has_generation: true,
            default_orphan: true,
            ..base("batch", "v1", "Job", "JobList", "jobs", "job", c::JOB, job::HOOKS)
        },
    ]
}

// allow-long: a table with one entry for each kind.
fn others() -> Vec<KindInfo> {
    vec![
        KindInfo {
            create_on_update: true,
            ..base("coordination.k8s.io", "v1", "Lease", "LeaseList", "leases", "lease", c::LEASE, network::LEASE)
        },
        KindInfo {
            has_generation: true,
            ..base(
                "discovery.k8s.io",
                "v1",
                "EndpointSlice",
                "EndpointSliceList",
                "endpointslices",
                "endpointslice",
                c::ENDPOINT_SLICE,
                network::ENDPOINT_SLICE,
            )
        },
        KindInfo {
            short_names: &["ev"],
            create_on_update: true,
            ttl_s: Some(EVENT_TTL_S),
            storage_group: "",
            storage_version: "v1",
            ..base("events.k8s.io", "v1", "Event", "EventList", "events", "event", c::EVENT, event::EVENTS)
        },
        KindInfo {
            namespaced: false,
            has_generation: true,
            ..base(
                "networking.k8s.io",
                "v1",
                "IngressClass",
                "IngressClassList",
                "ingressclasses",
                "ingressclass",
                c::INGRESS_CLASS,
                network::INGRESS_CLASS,
            )
        },
        KindInfo {
            short_names: &["ing"],
            has_status: true,
            has_generation: true,
            ..base(
                "networking.k8s.io",
                "v1",
                "Ingress",
                "IngressList",
                "ingresses",
                "ingress",
                c::INGRESS,
                network::INGRESS,
            )
        },
        KindInfo {
            short_names: &["sc"],
            namespaced: false,
            ..base(
                "storage.k8s.io",
                "v1",
                "StorageClass",
                "StorageClassList",
                "storageclasses",
                "storageclass",
                c::STORAGE_CLASS,
                storage::CLASS,
            )
        },
    ]
}
