//! Who may do what. Everything that is not allowed by a rule is refused.

use crate::authn::UserInfo;
use crate::cache::Caches;

mod feed;
mod node;
mod rbac;
pub mod rules;

pub use rbac::Rbac;

/// What is asked for.
#[derive(Debug, Clone, Copy)]
pub struct Attributes<'a> {
    /// Who asks.
    pub user: &'a UserInfo,
    /// `get`, `list`, `create`, ...; for paths the HTTP method in lower case.
    pub verb: &'a str,
    /// API group.
    pub group: &'a str,
    /// Plural of the resource; empty when `path` is asked for.
    pub resource: &'a str,
    /// Subresource.
    pub subresource: &'a str,
    /// Namespace; empty for cluster-scoped resources and all namespaces.
    pub namespace: &'a str,
    /// Name of the object; empty for collections and creations.
    pub name: &'a str,
    /// The `spec.nodeName` that the field selector of a list or watch demands; empty when it demands none.
    pub node: &'a str,
    /// Path of a request that is not for a resource.
    pub path: &'a str,
}

impl<'a> Attributes<'a> {
    /// Nothing yet, asked for by the user.
    pub fn blank(user: &'a UserInfo) -> Self {
        Attributes {
            user,
            verb: "",
            group: "",
            resource: "",
            subresource: "",
            namespace: "",
            name: "",
            node: "",
            path: "",
        }
    }

    /// `pods/log`, or `pods`.
    pub fn full_resource(&self) -> String {
        if self.subresource.is_empty() {
            self.resource.to_owned()
        } else {
            format!("{}/{}", self.resource, self.subresource)
        }
    }

    /// Kubernetes' sentence for a refusal, without what it is said of.
    pub fn refusal(&self) -> String {
        let user = &self.user.name;
        if self.resource.is_empty() {
            return format!("User {user:?} cannot {} path {:?}", self.verb, self.path);
        }
        let what = format!(
            "User {user:?} cannot {} resource {:?} in API group {:?}",
            self.verb,
            self.full_resource(),
            self.group
        );
        match self.namespace {
            "" => format!("{what} at the cluster scope"),
            namespace => format!("{what} in the namespace {namespace:?}"),
        }
    }
}

/// What an authorizer says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Decision {
    /// Go ahead; nobody else is asked.
    Allow,
    /// Another may allow it.
    NoOpinion,
}

/// Decides on requests. The server asks a list of them; the first that allows settles it.
pub trait Authorizer: Send + Sync + 'static {
    /// Whether the request is allowed. Reads caches only: it must not block.
    fn decide(&self, attributes: &Attributes<'_>, caches: &Caches) -> Decision;

    /// A sentence on why it decides so, if there is one.
    fn reason(&self, attributes: &Attributes<'_>, caches: &Caches) -> Option<String> {
        let _ = (attributes, caches);
        None
    }
}

/// `system:masters` may do everything.
pub struct Masters;

impl Authorizer for Masters {
    fn decide(&self, attributes: &Attributes<'_>, _: &Caches) -> Decision {
        if attributes.user.in_group(crate::pki::MASTERS) { Decision::Allow } else { Decision::NoOpinion }
    }
}

/// The authorizers of a server, in the order in which they are asked.
#[derive(Default)]
pub struct Chain {
    /// Roles and bindings; also asked for the rules themselves.
    pub rbac: Rbac,
    node: node::Node,
}

impl Chain {
    fn all(&self) -> [&dyn Authorizer; 3] {
        [&Masters, &self.node, &self.rbac]
    }

    /// Why the request is allowed or refused, as far as there is more to say: empty, or a sentence of each authorizer.
    pub fn reason(&self, attributes: &Attributes<'_>, caches: &Caches) -> String {
        let mut reasons = Vec::new();
        for authorizer in self.all() {
            let reason = authorizer.reason(attributes, caches);
            if authorizer.decide(attributes, caches) == Decision::Allow {
                return reason.unwrap_or_default();
            }
            reasons.extend(reason);
        }
        reasons.join("\n")
    }
}

/// The authorizers of a server.
pub fn default_chain() -> Chain {
    Chain::default()
}

/// Asks the chain.
pub fn allowed(chain: &Chain, attributes: &Attributes<'_>, caches: &Caches) -> bool {
    chain.all().iter().any(|a| a.decide(attributes, caches) == Decision::Allow)
}

/// Kubernetes' whole sentence for a refusal, with the reasons.
pub fn refusal(chain: &Chain, attributes: &Attributes<'_>, caches: &Caches) -> String {
    let reason = chain.reason(attributes, caches);
    let refusal = attributes.refusal();
    if reason.is_empty() { refusal } else { format!("{refusal}: {reason}") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn refusals_are_worded_as_kubernetes_words_them() {
        let user = UserInfo::new("x", &[]);
        let mut a = Attributes {
            user: &user,
            verb: "list",
            resource: "pods",
            namespace: "default",
            ..Attributes::blank(&user)
        };
        let want = r#"User "x" cannot list resource "pods" in API group "" in the namespace "default""#;
        assert_eq!(a.refusal(), want);
        a.namespace = "";
        assert!(a.refusal().ends_with("at the cluster scope"));
        (a.subresource, a.group, a.resource) = ("scale", "apps", "deployments");
        assert!(a.refusal().contains(r#"resource "deployments/scale" in API group "apps""#));
        (a.resource, a.path, a.verb) = ("", "/metrics", "get");
        assert_eq!(a.refusal(), r#"User "x" cannot get path "/metrics""#);
    }
}
