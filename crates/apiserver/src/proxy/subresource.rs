//! `nodes/NAME/proxy`, `pods/NAME/proxy` and `services/NAME/proxy`: HTTP to what the object is, through this server.
//!
//! NAME is `NAME`, `NAME:PORT` or `SCHEME:NAME:PORT`; what follows `proxy` is the path there.

use std::net::{IpAddr, SocketAddr};

use api::kinds::registry;
use api::status::ApiError;
use http::{Method, Response, StatusCode};
use serde_json::{Value, json};

use super::onward::{Onward, Rewrite, bad_gateway};
use crate::admission::{Admission, Operation, Warnings};
use crate::authn::UserInfo;
use crate::handlers::Scope;
use crate::handlers::write::Writer;
use crate::http::body::Body;
use crate::http::path::ResourcePath;
use crate::http::respond::Reply;
use crate::outbound::service::{self, Found, is_global_unicast};
use crate::outbound::{Dial, Host};
use crate::server::ApiServer;

/// Whether the request is for a proxy of this server.
pub(crate) fn is(path: &ResourcePath) -> bool {
    kind(path).is_some()
}

/// The kind of the options in reviews of admission.
fn kind(path: &ResourcePath) -> Option<&'static str> {
    if !path.group.is_empty() || path.version != "v1" || path.subresource != "proxy" {
        return None;
    }
    match (path.resource.as_str(), path.namespace.is_empty()) {
        ("nodes", true) => Some("NodeProxyOptions"),
        ("pods", false) => Some("PodProxyOptions"),
        ("services", false) => Some("ServiceProxyOptions"),
        _ => None,
    }
}

/// A name with its scheme and port, as the path has them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Id<'a> {
    https: bool,
    name: &'a str,
    /// Empty when there is none.
    port: &'a str,
}

impl<'a> Id<'a> {
    /// `None` for anything but the three forms.
    fn parse(id: &'a str) -> Option<Self> {
        let parts: Vec<&str> = id.split(':').collect();
        let (scheme, name, port) = match parts[..] {
            [name] => ("", name, ""),
            [name, port] => ("", name, port),
            [scheme, name, port] => (scheme, name, port),
            _ => return None,
        };
        let valid = matches!(scheme, "" | "http" | "https") && !name.is_empty();
        valid.then_some(Id { https: scheme == "https", name, port })
    }
}

/// Where a request goes.
struct Way {
    dial: Dial,
    /// `ADDRESS:PORT`, as links may have it.
    host: String,
}

/// Answers a request for a proxy, of a user who may make it.
///
/// # Errors
/// 400 for a name that is none, 404 for an object that is not there, 503 when it has no address or does not answer, and what
/// admission says.
pub(crate) async fn serve(mut onward: Onward, path: &ResourcePath, warnings: &Warnings) -> Result<Reply, ApiError> {
    let server = onward.server.clone();
    let what = path.resource.trim_end_matches('s');
    let id = Id::parse(&path.name)
        .ok_or_else(|| ApiError::bad_request(format!("invalid {what} request {:?}", path.name)))?;
    server.caches.consistent().await?;
    let user = onward.user.clone();
    admit(&server, &user, path, id, warnings).await?;
    let way = match what {
        "node" => node(&server, id)?,
        "pod" => pod(&server, &path.namespace, id)?,
        _ => service(&server, &path.namespace, id, &path.name)?,
    };
    let query = onward.uri.query().map(|q| format!("?{q}")).unwrap_or_default();
    let whole = onward.uri.path().to_owned();
    if path.rest.is_empty() && !onward.wants_upgrade() && matches!(onward.method, Method::GET | Method::HEAD) {
        // Relative links of the page would lead past the proxy.
        let mut reply = Response::new(Body::Empty);
        *reply.status_mut() = StatusCode::MOVED_PERMANENTLY;
        let location = format!("{whole}/{query}").parse().map_err(ApiError::internal)?;
        reply.headers_mut().insert(http::header::LOCATION, location);
        return Ok(reply);
    }
    let target = format!("{}{query}", if path.rest.is_empty() { "/" } else { &path.rest });
    let rewrite = Rewrite {
        prefix: whole.strip_suffix(path.rest.as_str()).unwrap_or(&whole).to_owned(),
        backend: way.host.clone(),
        asked: onward.asked().to_owned(),
        pages: true,
    };
    let host = if onward.asked().is_empty() { way.host } else { onward.asked().to_owned() };
    onward.place = Some(server.streams.clone().try_acquire_owned().map_err(|_| crate::flow::too_many())?);
    let (request, pending) = onward.prepare(&target, &host)?;
    let unreachable = |why: String| ApiError::service_unavailable(format!("error trying to reach service: {why}"));
    let mut connection = way.dial.open().await.map_err(|e| unreachable(base::chain(&e)))?;
    let answer = connection.send_request(request).await.map_err(|e| unreachable(base::chain(&e)))?;
    pending.answer(answer, &rewrite).await
}

async fn admit(
    server: &ApiServer,
    user: &UserInfo,
    path: &ResourcePath,
    id: Id<'_>,
    warnings: &Warnings,
) -> Result<(), ApiError> {
    let kind = registry().by_resource("", "v1", &path.resource).ok_or_else(ApiError::path_not_found)?;
    let scope = Scope { kind, cache: server.caches.of(kind), namespace: &path.namespace, name: id.name };
    let writer = Writer { server, user, manager: "", dry_run: false, now: jiff::Timestamp::now(), warnings };
    let admission = Admission::new(&writer, &scope, Operation::Connect, "proxy");
    let rest = path.rest.trim_start_matches('/');
    let mut options = json!({"kind": self::kind(path), "apiVersion": "v1", "path": rest});
    let before = options.clone();
    admission.mutate(&mut options, &Value::Null).await?;
    if options != before {
        return Err(ApiError::internal("an admission webhook changed the options of a proxy, which is not supported"));
    }
    admission.validate(&options, &Value::Null).await
}

/// A way without a check of certificates: what runs in a pod has seldom one that names its address, and Kubernetes does not
/// check it either.
fn plain(address: SocketAddr, https: bool) -> Result<Way, ApiError> {
    let tls = match https {
        true => Some((tls::unchecked().map_err(|e| ApiError::internal(base::chain(&e)))?, address.ip().into())),
        false => None,
    };
    Ok(Way { dial: Dial { host: Host::Address(address), tls }, host: address.to_string() })
}

fn allowed(server: &ApiServer, ip: IpAddr) -> bool {
    is_global_unicast(ip) || server.config.loopback_backends && ip.is_loopback()
}

fn node(server: &ApiServer, id: Id<'_>) -> Result<Way, ApiError> {
    let kubelet = super::address(&server.caches, id.name)?;
    if id.port.is_empty() || id.port.parse() == Ok(kubelet.port()) {
        return Ok(Way { dial: server.kubelets.dial(kubelet), host: kubelet.to_string() });
    }
    let port = id.port.parse().map_err(|_| bad_port("node", id))?;
    if !allowed(server, kubelet.ip()) {
        return Err(ApiError::bad_request("address not allowed"));
    }
    plain(SocketAddr::new(kubelet.ip(), port), id.https)
}

fn bad_port(what: &str, id: Id<'_>) -> ApiError {
    ApiError::bad_request(format!("invalid {what} request: {:?} is not a port", id.port))
}

fn pod(server: &ApiServer, namespace: &str, id: Id<'_>) -> Result<Way, ApiError> {
    let entry = server.caches.core("pods").get(&format!("{namespace}/{}", id.name));
    let pod = entry.ok_or_else(|| ApiError::not_found("pods", "", id.name))?.value();
    let ip = service::addresses(&pod).first().copied().filter(|&ip| allowed(server, ip));
    let ip = ip.ok_or_else(|| ApiError::bad_request("address not allowed"))?;
    let port = if id.port.is_empty() {
        let containers = pod["spec"]["containers"].as_array().into_iter().flatten();
        let first = containers.filter_map(|c| c["ports"][0]["containerPort"].as_u64()).next();
        first.and_then(|p| u16::try_from(p).ok()).unwrap_or(if id.https { 443 } else { 80 })
    } else {
        id.port.parse().map_err(|_| bad_port("pod", id))?
    };
    plain(SocketAddr::new(ip, port), id.https)
}

fn service(server: &ApiServer, namespace: &str, id: Id<'_>, whole: &str) -> Result<Way, ApiError> {
    let found = Found::look(&server.caches, namespace, id.name);
    let found = found.ok_or_else(|| ApiError::not_found("services", "", id.name))?;
    let port = match id.port.parse::<u64>() {
        Ok(number) => found.port_name(number).ok_or_else(|| {
            ApiError::service_unavailable(format!("no service port {number} found for service {:?}", id.name))
        })?,
        Err(_) => id.port,
    };
    let none = || ApiError::service_unavailable(format!("no endpoints available for service {whole:?}"));
    let ready = found.ready(port);
    // Whoever may write slices must not be able to send this server anywhere.
    let endpoint = ready.iter().find(|e| service::is_of_pod(&server.caches, namespace, e)).ok_or_else(none)?;
    if !allowed(server, endpoint.address.ip()) {
        return Err(bad_gateway("address not allowed"));
    }
    plain(endpoint.address, id.https)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_carry_scheme_and_port() {
        let id = |text| Id::parse(text).map(|id| (id.https, id.name, id.port));
        assert_eq!(id("web"), Some((false, "web", "")));
        assert_eq!(id("web:80"), Some((false, "web", "80")));
        assert_eq!(id("http:web:80"), Some((false, "web", "80")));
        assert_eq!(id("https:web:"), Some((true, "web", "")));
        for bad in ["", ":80", "ftp:web:80", "https::80", "a:b:c:d"] {
            assert_eq!(id(bad), None, "{bad}");
        }
    }

    #[test]
    fn proxies_are_of_three_kinds() {
        let path = |resource: &str, namespace: &str| ResourcePath {
            version: "v1".into(),
            resource: resource.into(),
            namespace: namespace.into(),
            name: "x".into(),
            subresource: "proxy".into(),
            ..ResourcePath::default()
        };
        assert!(is(&path("nodes", "")) && is(&path("pods", "n")) && is(&path("services", "n")));
        assert!(!is(&path("pods", "")) && !is(&path("configmaps", "n")));
        assert!(!is(&ResourcePath { group: "apps".into(), ..path("pods", "n") }));
    }
}
