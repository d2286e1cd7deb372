//! Access, admission and extension of the API.

use super::*;

// allow-long: a table with one entry for each kind.
pub(super) fn kinds() -> Vec<KindInfo> {
    vec![
        KindInfo {
            categories: &["api-extensions"],
            namespaced: false,
            has_generation: true,
            ..kind!("admissionregistration.k8s.io" "v1" "MutatingAdmissionPolicy" "mutatingadmissionpolicies" "mutatingadmissionpolicy", c::PLAIN, Hooks::NONE)
        },
        KindInfo {
            categories: &["api-extensions"],
            namespaced: false,
            has_generation: true,
            ..kind!("admissionregistration.k8s.io" "v1" "MutatingAdmissionPolicyBinding" "mutatingadmissionpolicybindings" "mutatingadmissionpolicybinding", c::PLAIN, Hooks::NONE)
        },
        KindInfo {
            categories: &["api-extensions"],
            namespaced: false,
            has_generation: true,
            ..kind!("admissionregistration.k8s.io" "v1" "MutatingWebhookConfiguration" "mutatingwebhookconfigurations" "mutatingwebhookconfiguration", c::PLAIN, Hooks::NONE)
        },
        KindInfo {
            categories: &["api-extensions"],
            namespaced: false,
            has_status: true,
            has_generation: true,
            ..kind!("admissionregistration.k8s.io" "v1" "ValidatingAdmissionPolicy" "validatingadmissionpolicies" "validatingadmissionpolicy", c::PLAIN, Hooks::NONE)
        },
        KindInfo {
            categories: &["api-extensions"],
            namespaced: false,
            has_generation: true,
            ..kind!("admissionregistration.k8s.io" "v1" "ValidatingAdmissionPolicyBinding" "validatingadmissionpolicybindings" "validatingadmissionpolicybinding", c::PLAIN, Hooks::NONE)
        },
        KindInfo {
            categories: &["api-extensions"],
            namespaced: false,
            has_generation: true,
            ..kind!("admissionregistration.k8s.io" "v1" "ValidatingWebhookConfiguration" "validatingwebhookconfigurations" "validatingwebhookconfiguration", c::PLAIN, Hooks::NONE)
        },
        KindInfo {
            short_names: &["crd", "crds"],
            categories: &["api-extensions"],
            namespaced: false,
            has_status: true,
            has_generation: true,
            ..kind!("apiextensions.k8s.io" "v1" "CustomResourceDefinition" "customresourcedefinitions" "customresourcedefinition", c::PLAIN, crate::crd::HOOKS)
        },
        KindInfo {
            categories: &["api-extensions"],
            namespaced: false,
            has_status: true,
            ..kind!("apiregistration.k8s.io" "v1" "APIService" "apiservices" "apiservice", c::PLAIN, Hooks::NONE)
        },
        KindInfo {
            short_names: &["csr"],
            namespaced: false,
            has_status: true,
            subresources: APPROVAL,
            ..kind!("certificates.k8s.io" "v1" "CertificateSigningRequest" "certificatesigningrequests" "certificatesigningrequest", c::PLAIN, Hooks::NONE)
        },
        KindInfo {
            namespaced: false,
            has_status: true,
            has_generation: true,
            ..kind!("flowcontrol.apiserver.k8s.io" "v1" "FlowSchema" "flowschemas" "flowschema", c::PLAIN, Hooks::NONE)
        },
        KindInfo {
            namespaced: false,
            has_status: true,
            has_generation: true,
            ..kind!("flowcontrol.apiserver.k8s.io" "v1" "PriorityLevelConfiguration" "prioritylevelconfigurations" "prioritylevelconfiguration", c::PLAIN, Hooks::NONE)
        },
        KindInfo {
            namespaced: false,
            name_rule: NameRule::PathSegment,
            ..kind!("rbac.authorization.k8s.io" "v1" "ClusterRole" "clusterroles" "clusterrole", c::PLAIN, Hooks::NONE)
        },
        KindInfo {
            namespaced: false,
            name_rule: NameRule::PathSegment,
            ..kind!("rbac.authorization.k8s.io" "v1" "ClusterRoleBinding" "clusterrolebindings" "clusterrolebinding", c::PLAIN, Hooks::NONE)
        },
        KindInfo {
            name_rule: NameRule::PathSegment,
            ..kind!("rbac.authorization.k8s.io" "v1" "Role" "roles" "role", c::PLAIN, Hooks::NONE)
        },
        KindInfo {
            name_rule: NameRule::PathSegment,
            ..kind!("rbac.authorization.k8s.io" "v1" "RoleBinding" "rolebindings" "rolebinding", c::PLAIN, Hooks::NONE)
        },
    ]
}
