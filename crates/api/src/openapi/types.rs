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
    "", "v1", "ComponentStatus" => k::api::core::v1::ComponentStatus;
    "", "v1", "ConfigMap" => k::api::core::v1::ConfigMap;
    "", "v1", "Endpoints" => k::api::core::v1::Endpoints;
    "", "v1", "Event" => k::api::core::v1::Event;
    "", "v1", "LimitRange" => k::api::core::v1::LimitRange;
    "", "v1", "Namespace" => k::api::core::v1::Namespace;
    "", "v1", "Node" => k::api::core::v1::Node;
    "", "v1", "PersistentVolume" => k::api::core::v1::PersistentVolume;
    "", "v1", "PersistentVolumeClaim" => k::api::core::v1::PersistentVolumeClaim;
    "", "v1", "Pod" => k::api::core::v1::Pod;
    "", "v1", "PodTemplate" => k::api::core::v1::PodTemplate;
    "", "v1", "ReplicationController" => k::api::core::v1::ReplicationController;
    "", "v1", "ResourceQuota" => k::api::core::v1::ResourceQuota;
    "", "v1", "Secret" => k::api::core::v1::Secret;
    "", "v1", "Service" => k::api::core::v1::Service;
    "", "v1", "ServiceAccount" => k::api::core::v1::ServiceAccount;
    "admissionregistration.k8s.io", "v1", "MutatingAdmissionPolicy" => k::api::admissionregistration::v1::MutatingAdmissionPolicy;
    "admissionregistration.k8s.io", "v1", "MutatingAdmissionPolicyBinding" => k::api::admissionregistration::v1::MutatingAdmissionPolicyBinding;
    "admissionregistration.k8s.io", "v1", "MutatingWebhookConfiguration" => k::api::admissionregistration::v1::MutatingWebhookConfiguration;
    "admissionregistration.k8s.io", "v1", "ValidatingAdmissionPolicy" => k::api::admissionregistration::v1::ValidatingAdmissionPolicy;
    "admissionregistration.k8s.io", "v1", "ValidatingAdmissionPolicyBinding" => k::api::admissionregistration::v1::ValidatingAdmissionPolicyBinding;
    "admissionregistration.k8s.io", "v1", "ValidatingWebhookConfiguration" => k::api::admissionregistration::v1::ValidatingWebhookConfiguration;
    "apiextensions.k8s.io", "v1", "CustomResourceDefinition" => k::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
    "apiregistration.k8s.io", "v1", "APIService" => k::kube_aggregator::pkg::apis::apiregistration::v1::APIService;
    "apps", "v1", "ControllerRevision" => k::api::apps::v1::ControllerRevision;
    "apps", "v1", "DaemonSet" => k::api::apps::v1::DaemonSet;
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
    "autoscaling", "v1", "HorizontalPodAutoscaler" => k::api::autoscaling::v1::HorizontalPodAutoscaler;
    "autoscaling", "v1", "Scale" => k::api::autoscaling::v1::Scale;
    "autoscaling", "v2", "HorizontalPodAutoscaler" => k::api::autoscaling::v2::HorizontalPodAutoscaler;
    "batch", "v1", "CronJob" => k::api::batch::v1::CronJob;
    "batch", "v1", "Job" => k::api::batch::v1::Job;
    "certificates.k8s.io", "v1", "CertificateSigningRequest" => k::api::certificates::v1::CertificateSigningRequest;
    "coordination.k8s.io", "v1", "Lease" => k::api::coordination::v1::Lease;
    "discovery.k8s.io", "v1", "EndpointSlice" => k::api::discovery::v1::EndpointSlice;
    "events.k8s.io", "v1", "Event" => k::api::events::v1::Event;
    "flowcontrol.apiserver.k8s.io", "v1", "FlowSchema" => k::api::flowcontrol::v1::FlowSchema;
    "flowcontrol.apiserver.k8s.io", "v1", "PriorityLevelConfiguration" => k::api::flowcontrol::v1::PriorityLevelConfiguration;
    "networking.k8s.io", "v1", "IPAddress" => k::api::networking::v1::IPAddress;
    "networking.k8s.io", "v1", "Ingress" => k::api::networking::v1::Ingress;
    "networking.k8s.io", "v1", "IngressClass" => k::api::networking::v1::IngressClass;
    "networking.k8s.io", "v1", "NetworkPolicy" => k::api::networking::v1::NetworkPolicy;
    "networking.k8s.io", "v1", "ServiceCIDR" => k::api::networking::v1::ServiceCIDR;
    "node.k8s.io", "v1", "RuntimeClass" => k::api::node::v1::RuntimeClass;
    "policy", "v1", "Eviction" => k::api::policy::v1::Eviction;
    "policy", "v1", "PodDisruptionBudget" => k::api::policy::v1::PodDisruptionBudget;
    "rbac.authorization.k8s.io", "v1", "ClusterRole" => k::api::rbac::v1::ClusterRole;
    "rbac.authorization.k8s.io", "v1", "ClusterRoleBinding" => k::api::rbac::v1::ClusterRoleBinding;
    "rbac.authorization.k8s.io", "v1", "Role" => k::api::rbac::v1::Role;
    "rbac.authorization.k8s.io", "v1", "RoleBinding" => k::api::rbac::v1::RoleBinding;
    "resource.k8s.io", "v1", "DeviceClass" => k::api::resource::v1::DeviceClass;
    "resource.k8s.io", "v1", "ResourceClaim" => k::api::resource::v1::ResourceClaim;
    "resource.k8s.io", "v1", "ResourceClaimTemplate" => k::api::resource::v1::ResourceClaimTemplate;
    "resource.k8s.io", "v1", "ResourceSlice" => k::api::resource::v1::ResourceSlice;
    "scheduling.k8s.io", "v1", "PriorityClass" => k::api::scheduling::v1::PriorityClass;
    "storage.k8s.io", "v1", "CSIDriver" => k::api::storage::v1::CSIDriver;
    "storage.k8s.io", "v1", "CSINode" => k::api::storage::v1::CSINode;
    "storage.k8s.io", "v1", "CSIStorageCapacity" => k::api::storage::v1::CSIStorageCapacity;
    "storage.k8s.io", "v1", "StorageClass" => k::api::storage::v1::StorageClass;
    "storage.k8s.io", "v1", "VolumeAttachment" => k::api::storage::v1::VolumeAttachment;
    "storage.k8s.io", "v1", "VolumeAttributesClass" => k::api::storage::v1::VolumeAttributesClass;
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

/// Types of the paths above groups, which stand in the Swagger 2.0 document only.
pub(super) const ABOVE: &[Add] = &[
    add::<k::apimachinery::pkg::apis::meta::v1::APIGroup>,
    add::<k::apimachinery::pkg::apis::meta::v1::APIGroupList>,
    add::<k::apimachinery::pkg::apis::meta::v1::APIVersions>,
    add::<k::apimachinery::pkg::version::Info>,
];
