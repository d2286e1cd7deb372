//! From group, version and kind to the typed schema.

use k8s_openapi as k;
use schemars::SchemaGenerator;

/// Adds the schema of a kind and all it refers to; gives its definition name.
pub(super) type Add = fn(&mut SchemaGenerator) -> String;

fn add<T: schemars::JsonSchema>(generator: &mut SchemaGenerator) -> String {
    generator.subschema_for::<T>();
    T::schema_name().into_owned()
}

macro_rules! table {
    ($($group:literal, $version:literal, $kind:literal => $ty:ty;)*) => {
        &[$(($group, $version, $kind, add::<$ty>)),*]
    };
}

/// Every kind that stands in a document: stored ones, and those exchanged with subresources and questions.
pub(super) const KINDS: &[(&str, &str, &str, Add)] = table! {
    "", "v1", "Binding" => k::api::core::v1::Binding;
    "", "v1", "ConfigMap" => k::api::core::v1::ConfigMap;
    "", "v1", "Endpoints" => k::api::core::v1::Endpoints;
    "", "v1", "Event" => k::api::core::v1::Event;
    "", "v1", "Namespace" => k::api::core::v1::Namespace;
    "", "v1", "Node" => k::api::core::v1::Node;
    "", "v1", "PersistentVolume" => k::api::core::v1::PersistentVolume;
    "", "v1", "PersistentVolumeClaim" => k::api::core::v1::PersistentVolumeClaim;
    "", "v1", "Pod" => k::api::core::v1::Pod;
    "", "v1", "Secret" => k::api::core::v1::Secret;
    "", "v1", "Service" => k::api::core::v1::Service;
    "", "v1", "ServiceAccount" => k::api::core::v1::ServiceAccount;
    "apps", "v1", "ControllerRevision" => k::api::apps::v1::ControllerRevision;
    "apps", "v1", "Deployment" => k::api::apps::v1::Deployment;
    "apps", "v1", "ReplicaSet" => k::api::apps::v1::ReplicaSet;
    "apps", "v1", "StatefulSet" => k::api::apps::v1::StatefulSet;
    "authentication.k8s.io", "v1", "SelfSubjectReview" => k::api::authentication::v1::SelfSubjectReview;
    "authentication.k8s.io", "v1", "TokenRequest" => k::api::authentication::v1::TokenRequest;
    "authentication.k8s.io", "v1", "TokenReview" => k::api::authentication::v1::TokenReview;
    "authorization.k8s.io", "v1", "LocalSubjectAccessReview" => k::api::authorization::v1::LocalSubjectAccessReview;
    "authorization.k8s.io", "v1", "SelfSubjectAccessReview" => k::api::authorization::v1::SelfSubjectAccessReview;
    "authorization.k8s.io", "v1", "SelfSubjectRulesReview" => k::api::authorization::v1::SelfSubjectRulesReview;
    "authorization.k8s.io", "v1", "SubjectAccessReview" => k::api::authorization::v1::SubjectAccessReview;
    "autoscaling", "v1", "Scale" => k::api::autoscaling::v1::Scale;
    "batch", "v1", "Job" => k::api::batch::v1::Job;
    "coordination.k8s.io", "v1", "Lease" => k::api::coordination::v1::Lease;
    "discovery.k8s.io", "v1", "EndpointSlice" => k::api::discovery::v1::EndpointSlice;
    "events.k8s.io", "v1", "Event" => k::api::events::v1::Event;
    "networking.k8s.io", "v1", "Ingress" => k::api::networking::v1::Ingress;
    "networking.k8s.io", "v1", "IngressClass" => k::api::networking::v1::IngressClass;
    "policy", "v1", "Eviction" => k::api::policy::v1::Eviction;
    "storage.k8s.io", "v1", "StorageClass" => k::api::storage::v1::StorageClass;
};

/// The schema of a kind.
pub(super) fn find(group: &str, version: &str, kind: &str) -> Option<Add> {
    KINDS.iter().find(|(g, v, k, _)| *g == group && *v == version && *k == kind).map(|(.., add)| *add)
}

/// Types every document refers to in its operations.
pub(super) const COMMON: &[Add] = &[
    add::<k::apimachinery::pkg::apis::meta::v1::Status>,
    add::<k::apimachinery::pkg::apis::meta::v1::DeleteOptions>,
    add::<k::apimachinery::pkg::apis::meta::v1::ListMeta>,
    add::<k::apimachinery::pkg::apis::meta::v1::ObjectMeta>,
    add::<k::apimachinery::pkg::apis::meta::v1::APIResourceList>,
];
