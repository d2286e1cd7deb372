//! Who may do what. Everything that is not allowed by a rule is refused.

use crate::authn::UserInfo;
use crate::cache::Caches;

mod node;

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
    /// Path of a request that is not for a resource.
    pub path: &'a str,
}

impl Attributes<'_> {
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
}

/// `system:masters` may do everything.
pub struct Masters;

impl Authorizer for Masters {
    fn decide(&self, attributes: &Attributes<'_>, _: &Caches) -> Decision {
        if attributes.user.in_group(crate::pki::MASTERS) { Decision::Allow } else { Decision::NoOpinion }
    }
}

/// What everybody who has been recognised may: find out what is served and who they are.
pub struct Everyone;

impl Authorizer for Everyone {
    fn decide(&self, a: &Attributes<'_>, _: &Caches) -> Decision {
        let allowed = match a.resource {
            "" => {
                matches!(a.verb, "get" | "head")
                    && (["/api", "/apis", "/version", "/healthz", "/livez", "/readyz", "/"].contains(&a.path)
                        || [
                            "/api/",
                            "/apis/",
                            "/openapi/",
                            "/healthz/",
                            "/livez/",
                            "/readyz/",
                            "/.well-known/",
                            "/openid/",
                        ]
                        .iter()
                        .any(|p| a.path.starts_with(p)))
            }
            "selfsubjectreviews" => a.group == "authentication.k8s.io" && a.verb == "create",
            "selfsubjectaccessreviews" | "selfsubjectrulesreviews" => {
                a.group == "authorization.k8s.io" && a.verb == "create"
            }
            _ => false,
        };
        if allowed && a.user.in_group(crate::authn::AUTHENTICATED) { Decision::Allow } else { Decision::NoOpinion }
    }
}

/// The authorizers of a server, in the order in which they are asked.
pub fn default_chain() -> Vec<Box<dyn Authorizer>> {
    vec![Box::new(Masters), Box::new(Everyone), Box::new(node::Node)]
}

/// Asks the chain.
pub fn allowed(chain: &[Box<dyn Authorizer>], attributes: &Attributes<'_>, caches: &Caches) -> bool {
    chain.iter().any(|a| a.decide(attributes, caches) == Decision::Allow)
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
            group: "",
            resource: "pods",
            subresource: "",
            namespace: "default",
            name: "",
            path: "",
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
