//! An API server in miniature that extends a cluster: it serves one kind from memory over TLS, takes from the cluster who may
//! pass on requests in the name of users, and asks it what they may do.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use anyhow::{Context as _, Result};
use bytes::Bytes;
use http::request::Parts;
use http::{Method, Request, Response};
use http_body_util::{BodyExt as _, Full, Limited};
use hyper::body::Incoming;
use hyper_util::rt::TokioIo;
use k8s_openapi::api::authorization::v1::{ResourceAttributes, SubjectAccessReview, SubjectAccessReviewSpec};
use k8s_openapi::api::core::v1::ConfigMap;
use kube::api::PostParams;
use kube::{Api, Client};
use serde_json::{Value, json};
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::TlsAcceptor;
use tokio_rustls::rustls::pki_types::pem::PemObject as _;
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer};
use tokio_rustls::rustls::server::WebPkiClientVerifier;
use tokio_rustls::rustls::{RootCertStore, ServerConfig, crypto};

/// Says that this process is to be the server.
pub const ASKED: &str = "E2E_AGGREGATED";
pub const GROUP: &str = "shipping.example.com";
pub const VERSION: &str = "v1alpha1";
/// The folder of its certificate and key.
pub const CERTIFICATE: &str = "/tls";
pub const PORT: u16 = 8443;

const BODY_MAX: usize = 1 << 20;

/// Serves until it is killed, if the environment says that this process is the server.
pub fn serve_if_asked() -> Option<Result<()>> {
    std::env::var_os(ASKED)?;
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build();
    Some(runtime.map_err(Into::into).and_then(|runtime| runtime.block_on(serve())))
}

#[derive(Default)]
struct Objects {
    revision: u64,
    /// By namespace and name.
    all: BTreeMap<(String, String), Value>,
}

struct Server {
    client: Client,
    /// Common names of those who may speak for users.
    allowed: Vec<String>,
    user_headers: Vec<String>,
    group_headers: Vec<String>,
    objects: Mutex<Objects>,
}

/// Whom a request is made for.
struct User {
    name: String,
    groups: Vec<String>,
}

/// What a path names.
struct Target {
    namespace: String,
    name: String,
}

type Reply = Response<Full<Bytes>>;

async fn serve() -> Result<()> {
    let client = Client::try_from(kube::Config::incluster()?)?;
    let maps: Api<ConfigMap> = Api::namespaced(client.clone(), "kube-system");
    let map = maps.get("extension-apiserver-authentication").await?.data.context("the ConfigMap has data")?;
    let list = |key: &str| -> Result<Vec<String>> {
        Ok(serde_json::from_str(map.get(key).with_context(|| format!("it has {key}"))?)?)
    };
    let server = Arc::new(Server {
        client,
        allowed: list("requestheader-allowed-names")?,
        user_headers: list("requestheader-username-headers")?,
        group_headers: list("requestheader-group-headers")?,
        objects: Mutex::default(),
    });
    let tls = acceptor(map.get("requestheader-client-ca-file").context("it has an authority")?)?;
    let listener = TcpListener::bind(("0.0.0.0", PORT)).await?;
    loop {
        let (stream, _) = listener.accept().await?;
        tokio::spawn(connection(server.clone(), tls.clone(), stream));
    }
}

/// With its own certificate; clients may show one, which must then be of that authority.
fn acceptor(authority: &str) -> Result<TlsAcceptor> {
    let provider = Arc::new(crypto::ring::default_provider());
    let mut roots = RootCertStore::empty();
    for certificate in CertificateDer::pem_slice_iter(authority.as_bytes()) {
        roots.add(certificate?)?;
    }
    let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider.clone());
    let folder = Path::new(CERTIFICATE);
    let chain = CertificateDer::pem_file_iter(folder.join("tls.crt"))?.collect::<Result<Vec<_>, _>>()?;
    let config = ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()?
        .with_client_cert_verifier(verifier.allow_unauthenticated().build()?)
        .with_single_cert(chain, PrivateKeyDer::from_pem_file(folder.join("tls.key"))?)?;
    Ok(TlsAcceptor::from(Arc::new(config)))
}

async fn connection(server: Arc<Server>, tls: TlsAcceptor, stream: TcpStream) {
    let Ok(stream) = tls.accept(stream).await else { return };
    let shown = stream.get_ref().1.peer_certificates().and_then(|c| c.first()).and_then(common_name);
    let trusted = shown.is_some_and(|name| server.allowed.is_empty() || server.allowed.contains(&name));
    let service = hyper::service::service_fn(move |request| {
        let server = server.clone();
        async move { Ok::<_, Infallible>(server.answer(trusted, request).await) }
    });
    let _ended = hyper::server::conn::http1::Builder::new().serve_connection(TokioIo::new(stream), service).await;
}

fn common_name(certificate: &CertificateDer<'_>) -> Option<String> {
    let (_, parsed) = x509_parser::parse_x509_certificate(certificate).ok()?;
    let name = parsed.subject().iter_common_name().next()?.as_str().ok()?.to_owned();
    Some(name)
}

fn reply(code: u16, value: &Value) -> Reply {
    let mut reply = Response::new(Full::from(value.to_string()));
    *reply.status_mut() = http::StatusCode::from_u16(code).unwrap_or_default();
    reply.headers_mut().insert("content-type", http::HeaderValue::from_static("application/json"));
    reply
}

fn refuse(code: u16, reason: &str, message: &str) -> Reply {
    let status = json!({"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure",
        "message": message, "reason": reason, "code": code});
    reply(code, &status)
}

fn discovery(path: &str) -> Option<Value> {
    let version = json!({"groupVersion": format!("{GROUP}/{VERSION}"), "version": VERSION});
    let group = json!({"name": GROUP, "versions": [version], "preferredVersion": version});
    let with = |kind: &str, more: Value| e2e::merge(json!({"kind": kind, "apiVersion": "v1"}), more);
    let verbs = json!(["create", "delete", "get", "list", "patch"]);
    let parcels =
        json!({"name": "parcels", "singularName": "parcel", "namespaced": true, "kind": "Parcel", "verbs": verbs});
    match path.trim_start_matches("/apis").trim_matches('/') {
        "" if path.starts_with("/apis") => Some(with("APIGroupList", json!({"groups": [group]}))),
        GROUP => Some(with("APIGroup", group)),
        own if own == format!("{GROUP}/{VERSION}") => {
            Some(with("APIResourceList", json!({"groupVersion": own, "resources": [parcels]})))
        }
        _ => None,
    }
}

fn target(path: &str) -> Option<Target> {
    let rest = path.strip_prefix(&format!("/apis/{GROUP}/{VERSION}/"))?;
    let (namespace, name) = match rest.split('/').collect::<Vec<_>>()[..] {
        ["parcels"] => ("", ""),
        ["namespaces", namespace, "parcels"] => (namespace, ""),
        ["namespaces", namespace, "parcels", name] => (namespace, name),
        _ => return None,
    };
    Some(Target { namespace: namespace.into(), name: name.into() })
}

impl Server {
    fn objects(&self) -> MutexGuard<'_, Objects> {
        self.objects.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn user(&self, trusted: bool, parts: &Parts) -> Option<User> {
        let values = |names: &[String]| -> Vec<String> {
            let all = names.iter().flat_map(|name| parts.headers.get_all(name));
            all.filter_map(|v| v.to_str().ok()).map(str::to_owned).collect()
        };
        let name = values(&self.user_headers).into_iter().next().filter(|_| trusted)?;
        Some(User { name, groups: values(&self.group_headers) })
    }

    async fn answer(&self, trusted: bool, request: Request<Incoming>) -> Reply {
        let (parts, body) = request.into_parts();
        let Some(user) = self.user(trusted, &parts) else {
            return refuse(401, "Unauthorized", "parcels are for those whom the cluster knows");
        };
        let path = parts.uri.path();
        if let Some(document) = discovery(path) {
            return reply(200, &document);
        }
        let Some(target) = target(path) else { return refuse(404, "NotFound", "there are parcels only") };
        let Ok(body) = Limited::new(body, BODY_MAX).collect().await else {
            return refuse(413, "RequestEntityTooLarge", "the body is too long");
        };
        let sent: Value = serde_json::from_slice(&body.to_bytes()).unwrap_or_default();
        let verb = match (parts.method.clone(), target.name.is_empty()) {
            (Method::POST, true) => "create",
            (Method::GET, true) => "list",
            (Method::GET, false) => "get",
            (Method::PATCH, false) => "patch",
            (Method::DELETE, false) => "delete",
            _ => return refuse(405, "MethodNotAllowed", "parcels have no such verb"),
        };
        // Beside what the cluster checks for everybody, a right that only this server knows of.
        let further = (verb == "patch" && sent["spec"].get("insured").is_some()).then_some("insure");
        for verb in [Some(verb), further].into_iter().flatten() {
            match self.may(&user, verb, &target).await {
                Ok(true) => {}
                Ok(false) => return refuse(403, "Forbidden", &format!("{} may not {verb} parcels", user.name)),
                Err(error) => return refuse(500, "InternalError", &format!("{error:#}")),
            }
        }
        let selected = parts.uri.query().unwrap_or_default().split('&').find_map(|q| q.strip_prefix("fieldSelector="));
        let selected = selected.and_then(|s| s.strip_prefix("metadata.name%3D"));
        self.objects().carry_out(verb, &target, sent, &user, selected)
    }

    /// Whether the cluster says that a user may.
    async fn may(&self, user: &User, verb: &str, target: &Target) -> Result<bool> {
        let some = |text: &str| Some(text.to_owned());
        let attributes = ResourceAttributes {
            group: some(GROUP),
            version: some(VERSION),
            resource: some("parcels"),
            verb: some(verb),
            namespace: some(&target.namespace),
            name: some(&target.name),
            ..ResourceAttributes::default()
        };
        let spec = SubjectAccessReviewSpec {
            user: some(&user.name),
            groups: Some(user.groups.clone()),
            resource_attributes: Some(attributes),
            ..SubjectAccessReviewSpec::default()
        };
        let review = SubjectAccessReview { spec, ..SubjectAccessReview::default() };
        let reviews: Api<SubjectAccessReview> = Api::all(self.client.clone());
        let answer = reviews.create(&PostParams::default(), &review).await?;
        Ok(answer.status.is_some_and(|s| s.allowed))
    }
}

impl Objects {
    fn carry_out(&mut self, verb: &str, target: &Target, sent: Value, user: &User, selected: Option<&str>) -> Reply {
        let key = (target.namespace.clone(), target.name.clone());
        if verb != "create" && !target.name.is_empty() && !self.all.contains_key(&key) {
            return refuse(404, "NotFound", &format!("parcels.{GROUP} \"{}\" not found", target.name));
        }
        match verb {
            "create" => self.create(&target.namespace, sent, user),
            "list" => {
                let wanted = |(ns, name): &(String, String)| {
                    (target.namespace.is_empty() || *ns == target.namespace) && selected.is_none_or(|s| s == name)
                };
                let items: Vec<&Value> = self.all.iter().filter(|(k, _)| wanted(k)).map(|(_, v)| v).collect();
                let metadata = json!({"resourceVersion": self.revision.to_string()});
                let kinds = json!({"kind": "ParcelList", "apiVersion": format!("{GROUP}/{VERSION}")});
                reply(200, &e2e::merge(kinds, json!({"metadata": metadata, "items": items})))
            }
            "patch" => {
                self.revision += 1;
                let revision = json!({"metadata": {"resourceVersion": self.revision.to_string()}});
                let old = self.all.get(&key).cloned().unwrap_or_default();
                let new = e2e::merge(e2e::merge(old, sent), revision);
                self.all.insert(key, new.clone());
                reply(200, &new)
            }
            "delete" => reply(200, &self.all.remove(&key).unwrap_or_default()),
            _ => reply(200, self.all.get(&key).unwrap_or(&Value::Null)),
        }
    }

    fn create(&mut self, namespace: &str, sent: Value, user: &User) -> Reply {
        let Some(name) = sent["metadata"]["name"].as_str().map(str::to_owned) else {
            return refuse(422, "Invalid", "a parcel has a name");
        };
        let key = (namespace.to_owned(), name);
        if self.all.contains_key(&key) {
            return refuse(409, "AlreadyExists", &format!("parcels.{GROUP} \"{}\" already exists", key.1));
        }
        self.revision += 1;
        let metadata = json!({
            "namespace": namespace, "uid": format!("00000000-0000-4000-8000-{:012}", self.revision),
            "resourceVersion": self.revision.to_string(), "creationTimestamp": "2026-01-01T00:00:00Z",
        });
        let new =
            e2e::merge(sent, json!({"metadata": metadata, "status": {"sender": user.name, "groups": user.groups}}));
        self.all.insert(key, new.clone());
        reply(201, &new)
    }
}
