//! The core group.

use super::*;

// allow-long: a table with one entry for each kind.
pub(super) fn kinds() -> Vec<KindInfo> {
    vec![
        KindInfo {
            short_names: &["cm"],
            ..kind!("" "v1" "ConfigMap" "configmaps" "configmap", c::CONFIG_MAP, core_kinds::CONFIG_MAP)
        },
        KindInfo {
            short_names: &["ep"],
            create_on_update: true,
            ..kind!("" "v1" "Endpoints" "endpoints" "endpoints", c::ENDPOINTS, net::ENDPOINTS)
        },
        KindInfo {
            short_names: &["ev"],
            create_on_update: true,
            ttl_s: Some(EVENT_TTL_S),
            ..kind!("" "v1" "Event" "events" "event", c::EVENT, event::CORE)
        },
        KindInfo {
            short_names: &["ns"],
            namespaced: false,
            has_status: true,
            verbs: NO_COLLECTION,
            name_rule: NameRule::Label,
            subresources: FINALIZE,
            ..kind!("" "v1" "Namespace" "namespaces" "namespace", c::NAMESPACE, core_kinds::NAMESPACE)
        },
        KindInfo {
            short_names: &["no"],
            status_on_create: true,
            namespaced: false,
            has_status: true,
            subresources: NODE_SUBRESOURCES,
            ..kind!("" "v1" "Node" "nodes" "node", c::NODE, core_kinds::NODE)
        },
        KindInfo {
            short_names: &["pvc"],
            has_status: true,
            ..kind!("" "v1" "PersistentVolumeClaim" "persistentvolumeclaims" "persistentvolumeclaim", c::PVC, volumes::CLAIM)
        },
        KindInfo {
            short_names: &["pv"],
            namespaced: false,
            has_status: true,
            ..kind!("" "v1" "PersistentVolume" "persistentvolumes" "persistentvolume", c::PV, volumes::VOLUME)
        },
        KindInfo {
            short_names: &["po"],
            categories: &["all"],
            has_status: true,
            has_generation: true,
            subresources: POD_SUBRESOURCES,
            ..kind!("" "v1" "Pod" "pods" "pod", c::POD, pod::HOOKS)
        },
        kind!("" "v1" "Secret" "secrets" "secret", c::SECRET, core_kinds::SECRET),
        KindInfo {
            short_names: &["sa"],
            subresources: TOKEN,
            ..kind!("" "v1" "ServiceAccount" "serviceaccounts" "serviceaccount", c::SERVICE_ACCOUNT, core_kinds::SERVICE_ACCOUNT)
        },
        KindInfo {
            short_names: &["svc"],
            categories: &["all"],
            has_status: true,
            create_on_update: true,
            name_rule: NameRule::Label1035,
            subresources: SERVICE_SUBRESOURCES,
            ..kind!("" "v1" "Service" "services" "service", c::SERVICE, service::HOOKS)
        },
        KindInfo {
            short_names: &["limits"],
            create_on_update: true,
            ..kind!("" "v1" "LimitRange" "limitranges" "limitrange", c::CREATED_AT, quota::LIMIT_RANGE)
        },
        KindInfo {
            has_generation: true,
            ..kind!("" "v1" "PodTemplate" "podtemplates" "podtemplate", c::POD_TEMPLATE, replication::POD_TEMPLATE)
        },
        KindInfo {
            short_names: &["rc"],
            categories: &["all"],
            has_status: true,
            has_generation: true,
            default_orphan: true,
            scale: Some(REPLICAS),
            ..kind!("" "v1" "ReplicationController" "replicationcontrollers" "replicationcontroller", c::REPLICATION_CONTROLLER, replication::CONTROLLER)
        },
        KindInfo {
            short_names: &["quota"],
            has_status: true,
            ..kind!("" "v1" "ResourceQuota" "resourcequotas" "resourcequota", c::RESOURCE_QUOTA, quota::RESOURCE_QUOTA)
        },
    ]
}
