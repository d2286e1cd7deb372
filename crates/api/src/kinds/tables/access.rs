//! Access, admission and extension of the API.

use super::*;

// allow-long: a table with one entry for each kind.
pub(super) fn kinds() -> Vec<KindInfo> {
    vec![
        KindInfo {
            categories: &["api-extensions"],
            namespaced: false,
            has_generation: true,
            ..kind!("admissionregistration.k8s.io" "v1" "MutatingAdmissionPolicy" "mutatingadmissionpolicies" "mutatingadmissionpolicy", c::MUTATING_POLICY, adm::MUTATING_POLICY)
        },
        KindInfo {
            categories: &["api-extensions"],
            namespaced: false,
            has_generation: true,
            ..kind!("admissionregistration.k8s.io" "v1" "MutatingAdmissionPolicyBinding" "mutatingadmissionpolicybindings" "mutatingadmissionpolicybinding", c::POLICY_BINDING, adm::MUTATING_BINDING)
        },
        KindInfo {
            categories: &["api-extensions"],
            namespaced: false,
            has_generation: true,
            ..kind!("admissionregistration.k8s.io" "v1" "MutatingWebhookConfiguration" "mutatingwebhookconfigurations" "mutatingwebhookconfiguration", c::WEBHOOKS, adm::MUTATING_WEBHOOKS)
        },
        KindInfo {
            categories: &["api-extensions"],
            namespaced: false,
            has_status: true,
            has_generation: true,
            ..kind!("admissionregistration.k8s.io" "v1" "ValidatingAdmissionPolicy" "validatingadmissionpolicies" "validatingadmissionpolicy", c::VALIDATING_POLICY, adm::VALIDATING_POLICY)
        },
        KindInfo {
            categories: &["api-extensions"],
            namespaced: false,
            has_generation: true,
            ..kind!("admissionregistration.k8s.io" "v1" "ValidatingAdmissionPolicyBinding" "validatingadmissionpolicybindings" "validatingadmissionpolicybinding", c::POLICY_BINDING, adm::VALIDATING_BINDING)
        },
        KindInfo {
            categories: &["api-extensions"],
            namespaced: false,
            has_generation: true,
            ..kind!("admissionregistration.k8s.io" "v1" "ValidatingWebhookConfiguration" "validatingwebhookconfigurations" "validatingwebhookconfiguration", c::WEBHOOKS, adm::VALIDATING_WEBHOOKS)
        },
        KindInfo {
            short_names: &["crd", "crds"],
            categories: &["api-extensions"],
            namespaced: false,
            has_status: true,
            has_generation: true,
            ..kind!("apiextensions.k8s.io" "v1" "CustomResourceDefinition" "customresourcedefinitions" "customresourcedefinition", c::CREATED_AT, crate::crd::HOOKS)
        },
        KindInfo {
            categories: &["api-extensions"],
            namespaced: false,
            has_status: true,
            name_rule: NameRule::PathSegment,
            ..kind!("apiregistration.k8s.io" "v1" "APIService" "apiservices" "apiservice", c::API_SERVICE, extension::API_SERVICE)
        },
        KindInfo {
            short_names: &["csr"],
            name_rule: NameRule::PathSegment,
            namespaced: false,
            has_status: true,
            subresources: APPROVAL,
            ..kind!("certificates.k8s.io" "v1" "CertificateSigningRequest" "certificatesigningrequests" "certificatesigningrequest", c::SIGNING_REQUEST, certificates::SIGNING_REQUEST)
        },
        KindInfo {
            namespaced: false,
            has_status: true,
            has_generation: true,
            ..kind!("flowcontrol.apiserver.k8s.io" "v1" "FlowSchema" "flowschemas" "flowschema", c::FLOW_SCHEMA, flowcontrol::FLOW_SCHEMA)
        },
        KindInfo {
            namespaced: false,
            has_status: true,
            has_generation: true,
            ..kind!("flowcontrol.apiserver.k8s.io" "v1" "PriorityLevelConfiguration" "prioritylevelconfigurations" "prioritylevelconfiguration", c::PRIORITY_LEVEL, flowcontrol::PRIORITY_LEVEL)
        },
        KindInfo {
            namespaced: false,
            name_rule: NameRule::PathSegment,
            create_on_update: true,
            ..kind!("rbac.authorization.k8s.io" "v1" "ClusterRole" "clusterroles" "clusterrole", c::CREATED_AT, rbac::CLUSTER_ROLE)
        },
        KindInfo {
            namespaced: false,
            name_rule: NameRule::PathSegment,
            create_on_update: true,
            ..kind!("rbac.authorization.k8s.io" "v1" "ClusterRoleBinding" "clusterrolebindings" "clusterrolebinding", c::ROLE_BINDING, rbac::CLUSTER_ROLE_BINDING)
        },
        KindInfo {
            name_rule: NameRule::PathSegment,
            create_on_update: true,
            ..kind!("rbac.authorization.k8s.io" "v1" "Role" "roles" "role", c::CREATED_AT, rbac::ROLE)
        },
        KindInfo {
            name_rule: NameRule::PathSegment,
            create_on_update: true,
            ..kind!("rbac.authorization.k8s.io" "v1" "RoleBinding" "rolebindings" "rolebinding", c::ROLE_BINDING, rbac::ROLE_BINDING)
        },
    ]
}
