//! Nobody grants what he does not have: the checks on writes of roles and bindings. The way around them is the verb
//! `escalate` on roles, and `bind` on the role that a binding refers to.

use std::sync::Arc;

use api::kinds::KindInfo;
use api::status::ApiError;
use serde_json::Value;

use crate::authn::UserInfo;
use crate::authz::rules::{Rule, missing, quoted, show_missing};
use crate::authz::{self, Attributes, Chain};
use crate::cache::Caches;
use crate::pki::MASTERS;

const GROUP: &str = "rbac.authorization.k8s.io";

/// Who writes, and what is known of rights.
pub(super) struct Rights<'a> {
    pub user: &'a UserInfo,
    pub chain: &'a Chain,
    pub caches: &'a Caches,
}

/// Checks a new role or binding, or (with `old`) a changed one. Other kinds pass.
///
/// # Errors
/// 403 with the rights that the writer would grant without having them; 404 for a binding to a role that does not exist.
pub(super) fn check(rights: &Rights<'_>, kind: &KindInfo, object: &Value, old: Option<&Value>) -> Result<(), ApiError> {
    if kind.group != GROUP || rights.user.in_group(MASTERS) || old.is_some_and(|old| only_collected(object, old)) {
        return Ok(());
    }
    match kind.kind {
        "Role" | "ClusterRole" => rights.role(kind, object, old),
        "RoleBinding" | "ClusterRoleBinding" => rights.binding(kind, object),
        _ => Ok(()),
    }
}

/// Whether nothing changes but what the garbage collector needs to delete the object.
fn only_collected(new: &Value, old: &Value) -> bool {
    let bare = |object: &Value| {
        let mut object = object.clone();
        if let Some(metadata) = object["metadata"].as_object_mut() {
            for key in ["ownerReferences", "finalizers", "resourceVersion", "managedFields"] {
                metadata.remove(key);
            }
        }
        object
    };
    bare(new) == bare(old)
}

fn collects(role: &Value) -> bool {
    role["aggregationRule"]["clusterRoleSelectors"].as_array().is_some_and(|s| !s.is_empty())
}

impl Rights<'_> {
    /// Whether the writer has a right beyond that to write.
    pub fn allow(&self, asked: &Attributes<'_>) -> bool {
        authz::allowed(self.chain, asked, self.caches)
    }

    fn may(&self, verb: &str, resource: &str, namespace: &str, name: &str) -> bool {
        self.allow(&Attributes { verb, group: GROUP, resource, namespace, name, ..Attributes::blank(self.user) })
    }

    fn role(&self, kind: &KindInfo, object: &Value, old: Option<&Value>) -> Result<(), ApiError> {
        let (namespace, name) = (api::meta::namespace(object), api::meta::name(object));
        // The name of one to be made is not in its URL, by which Kubernetes decides.
        let asked = if old.is_some() { name } else { "" };
        if self.may("escalate", kind.plural, namespace, asked) {
            return Ok(());
        }
        self.holds(namespace, &Rule::all_of(object)).map_err(|why| forbidden(kind, object, &why))?;
        // It may collect anything, so only who may do everything can set it.
        if kind.kind == "ClusterRole" && (collects(object) || old.is_some_and(collects)) {
            let all = || vec!["*".to_owned()];
            let everything = [
                Rule { verbs: all(), groups: all(), resources: all(), ..Rule::default() },
                Rule { verbs: all(), urls: all(), ..Rule::default() },
            ];
            let why = "must have cluster-admin privileges to use the aggregationRule";
            self.holds("", &everything).map_err(|_| forbidden(kind, object, why))?;
        }
        Ok(())
    }

    fn binding(&self, kind: &KindInfo, object: &Value) -> Result<(), ApiError> {
        let namespace = api::meta::namespace(object);
        let text = |key: &str| object["roleRef"][key].as_str().unwrap_or("");
        let (role_kind, role) = (text("kind"), text("name"));
        let plural = match role_kind {
            "ClusterRole" => "clusterroles",
            "Role" => "roles",
            // Validation says what is wrong with it.
            _ => return Ok(()),
        };
        if self.may("bind", plural, namespace, role) {
            return Ok(());
        }
        let rules = self.chain.rbac.rules_of(namespace, role_kind, role, self.caches);
        let rules: Arc<[Rule]> =
            rules.map_err(|_| ApiError::not_found(&role_kind.to_ascii_lowercase(), GROUP, role))?;
        self.holds(namespace, &rules).map_err(|why| forbidden(kind, object, &why))
    }

    /// # Errors
    /// The sentence on what of the rules the user does not hold.
    fn holds(&self, namespace: &str, wanted: &[Rule]) -> Result<(), String> {
        let (held, errors) = self.chain.rbac.rules_for(self.user, namespace, self.caches);
        let missing = missing(held.iter().flat_map(|rules| rules.iter()), wanted);
        if missing.is_empty() {
            return Ok(());
        }
        let mut why = format!(
            "user {:?} (groups={}) is attempting to grant RBAC permissions not currently held:\n{}",
            self.user.name,
            quoted(&self.user.groups),
            show_missing(&missing)
        );
        if !errors.is_empty() {
            why.push_str(&format!("; resolution errors: [{}]", errors.join(", ")));
        }
        Err(why)
    }
}

fn forbidden(kind: &KindInfo, object: &Value, why: &str) -> ApiError {
    ApiError::forbidden(kind.plural, kind.group, api::meta::name(object), why)
}
