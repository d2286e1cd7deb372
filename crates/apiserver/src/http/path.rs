//! What a URL and a method ask for: the attributes that authorization and routing go by.

use std::borrow::Cow;

use http::Method;

/// The parts of a request's path.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Target {
    /// `/api`, `/healthz` and everything else that is not a resource.
    Path(String),
    /// A resource.
    Resource(ResourcePath),
}

/// A path below `/api/v1` or `/apis/GROUP/VERSION`.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ResourcePath {
    /// API group; empty for core.
    pub group: String,
    /// Version.
    pub version: String,
    /// Namespace; empty for cluster-scoped resources and for all namespaces.
    pub namespace: String,
    /// Plural of the resource.
    pub resource: String,
    /// Name of the object; empty for the collection.
    pub name: String,
    /// Subresource; empty for the object itself.
    pub subresource: String,
    /// What follows the subresource, as it came: empty, or with its leading slash. Only what is passed on has it.
    pub rest: String,
    /// The old `/watch/` form of a path.
    pub watch: bool,
}

impl ResourcePath {
    /// Whether there are more segments than a resource of this server has.
    pub fn is_deeper(&self) -> bool {
        self.rest.bytes().any(|b| b != b'/')
    }
}

/// Splits a path. `None`: not well-formed percent encoding.
pub fn parse(path: &str) -> Option<Target> {
    let segments: Vec<&str> = path.split('/').filter(|s| !s.is_empty()).collect();
    let (group, version, rest) = match segments.as_slice() {
        ["api", version, rest @ ..] if !rest.is_empty() => ("", *version, rest),
        ["apis", group, version, rest @ ..] if !rest.is_empty() => (*group, *version, rest),
        _ => return Some(Target::Path(path.to_owned())),
    };
    let mut out = ResourcePath { group: decode(group)?, version: decode(version)?, ..ResourcePath::default() };
    let mut rest = rest;
    if let ["watch", tail @ ..] = rest
        && !tail.is_empty()
    {
        out.watch = true;
        rest = tail;
    }
    match rest {
        // The namespace itself, and its subresources.
        ["namespaces"] | ["namespaces", _] | ["namespaces", _, "status" | "finalize"] => {}
        ["namespaces", namespace, tail @ ..] => {
            out.namespace = decode(namespace)?;
            rest = tail;
        }
        _ => {}
    }
    let mut parts = rest.iter();
    out.resource = decode(parts.next()?)?;
    out.name = parts.next().map_or(Some(String::new()), |s| decode(s))?;
    out.subresource = parts.next().map_or(Some(String::new()), |s| decode(s))?;
    if !out.subresource.is_empty() {
        out.rest = after(path, segments.len() - parts.len()).to_owned();
    }
    if out.resource == "namespaces" {
        out.namespace.clone_from(&out.name);
    }
    Some(Target::Resource(out))
}

/// What is left of a path after so many segments.
fn after(path: &str, segments: usize) -> &str {
    let mut rest = path;
    for _ in 0..segments {
        rest = rest.trim_start_matches('/');
        rest = &rest[rest.find('/').unwrap_or(rest.len())..];
    }
    rest
}

fn decode(segment: &str) -> Option<String> {
    if !segment.contains('%') {
        return Some(segment.to_owned());
    }
    // Only what form decoding leaves alone may differ: a plus in a path is a plus.
    let escaped = segment.replace('+', "%2B");
    let pair: Vec<(Cow<'_, str>, Cow<'_, str>)> = url::form_urlencoded::parse(escaped.as_bytes()).collect();
    match pair.as_slice() {
        [(key, value)] if value.is_empty() && !key.contains(['/', '\u{fffd}', '\0']) => Some(key.clone().into_owned()),
        _ => None,
    }
}

/// What is done with a resource.
pub fn verb(method: &Method, path: &ResourcePath, watch: bool) -> Option<&'static str> {
    let collection = path.name.is_empty();
    Some(match *method {
        Method::GET | Method::HEAD if watch && path.subresource.is_empty() || path.watch => "watch",
        Method::GET | Method::HEAD if collection => "list",
        Method::GET | Method::HEAD => "get",
        Method::POST => "create",
        Method::PUT => "update",
        Method::PATCH => "patch",
        Method::DELETE if collection => "deletecollection",
        Method::DELETE => "delete",
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn resource(path: &str) -> ResourcePath {
        match parse(path) {
            Some(Target::Resource(r)) => r,
            other => panic!("{path}: {other:?}"),
        }
    }

    #[test]
    fn resources_namespaces_and_subresources_are_told_apart() {
        let pod = resource("/api/v1/namespaces/default/pods/web/log");
        assert_eq!((pod.namespace.as_str(), pod.resource.as_str()), ("default", "pods"));
        assert_eq!((pod.name.as_str(), pod.subresource.as_str()), ("web", "log"));
        let ns = resource("/api/v1/namespaces/status");
        assert_eq!((ns.resource.as_str(), ns.name.as_str()), ("namespaces", "status"));
        let finalize = resource("/api/v1/namespaces/x/finalize");
        assert_eq!((finalize.name.as_str(), finalize.subresource.as_str()), ("x", "finalize"));
        let apps = resource("/apis/apps/v1/namespaces/x/deployments");
        assert_eq!((apps.group.as_str(), apps.namespace.as_str(), apps.name.as_str()), ("apps", "x", ""));
        assert_eq!(resource("/api/v1/watch/namespaces/x/pods").namespace, "x");
        assert!(resource("/api/v1/watch/pods").watch);
    }

    #[test]
    fn other_paths_are_not_resources() {
        for path in ["/", "/api", "/api/v1", "/apis", "/apis/apps", "/apis/apps/v1", "/openapi/v3/apis/apps/v1"] {
            assert_eq!(parse(path), Some(Target::Path(path.into())));
        }
    }

    #[test]
    fn a_hidden_slash_is_refused_and_what_is_too_deep_is_seen() {
        assert_eq!(parse("/api/v1/namespaces/x%2Fy/pods"), None);
        assert!(resource("/api/v1/namespaces/x/pods/a/b/c").is_deeper());
        assert!(!resource("/api/v1/namespaces/x/pods/a/log/").is_deeper());
        assert_eq!(resource("/api/v1/namespaces/x/pods/a%3Ab").name, "a:b");
    }

    #[test]
    fn what_follows_a_proxy_stays_as_it_came() {
        for (path, rest) in [
            ("/api/v1/namespaces/x/pods/a/proxy", ""),
            ("/api/v1/namespaces/x/pods/a/proxy/", "/"),
            ("/api/v1/namespaces/x/services/https:a:80/proxy/b%2Fc//d/", "/b%2Fc//d/"),
            ("/api/v1/nodes/n/proxy/pods", "/pods"),
            ("/apis/sub.example/v1/namespaces/x/machines/m/port/80/tcp", "/80/tcp"),
        ] {
            assert_eq!(resource(path).rest, rest, "{path}");
        }
    }
}
