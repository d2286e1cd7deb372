//! One group-version that a Service serves.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use api::status::ApiError;
use bytes::Bytes;
use http::header::{ACCEPT, HOST, LOCATION};
use http::{HeaderMap, HeaderName, HeaderValue, Method, Request, Response, StatusCode, Uri};
use http_body_util::{BodyExt as _, Limited};
use hyper::body::Incoming;
use hyper::client::conn::http1::SendRequest;
use parking_lot::Mutex;
use rustls::ClientConfig;
use rustls_pki_types::ServerName;
use serde_json::Value;
use tokio_util::sync::CancellationToken;

use super::spec;
use crate::authn::UserInfo;
use crate::http::body::RequestBody;
use crate::http::respond::{self, Reply};
use crate::outbound::service::Found;
use crate::outbound::{Dial, Host, Trust, client_config};
use crate::pki::KeyCert;
use crate::proxy::onward::{Onward, Rewrite, empty};

/// Open connections kept for the next request.
const IDLE_MAX: usize = 16;
/// Endpoints that are tried when one does not accept a connection.
const TRIES: usize = 3;
/// Longest document about itself that a backend is asked for, bytes.
const DOCUMENT_MAX: usize = 8 << 20;
/// How long a backend has for such a document.
const DOCUMENT: Duration = Duration::from_secs(5);

type Idle = (Host, SendRequest<RequestBody>);

/// What is known of a backend.
#[derive(Debug, Clone, Default)]
pub(crate) struct State {
    /// Requests are passed on.
    pub available: bool,
    /// Whether the last look at it succeeded.
    pub fresh: bool,
    /// Its resources, in the form of aggregated discovery; null before it has told them.
    pub resources: Arc<Value>,
    /// Where its OpenAPI v3 document is, with the hash of the content.
    pub openapi_v3: Option<String>,
    /// Its OpenAPI v2 document.
    pub openapi_v2: Option<Arc<Value>>,
    /// `spec.groupPriorityMinimum` and `spec.versionPriority`.
    pub priorities: (i64, i64),
}

/// Who serves a group-version.
pub(crate) struct Backend {
    /// Of the APIService.
    pub name: String,
    pub group: String,
    pub version: String,
    pub namespace: String,
    pub service: String,
    pub port: u64,
    bundle: String,
    insecure: bool,
    tls: Result<Arc<ClientConfig>, String>,
    idle: Mutex<Vec<Idle>>,
    state: Mutex<State>,
    end: CancellationToken,
}

/// As whom this server itself asks.
pub(crate) fn aggregator() -> UserInfo {
    UserInfo { name: "system:kube-aggregator".into(), groups: vec![crate::pki::MASTERS.into()], ..UserInfo::default() }
}

impl Backend {
    /// Of an APIService with a Service; `own` is what this server shows.
    pub fn new(object: &Value, own: &KeyCert) -> Self {
        let text = |v: &Value| v.as_str().unwrap_or("").to_owned();
        let service = spec(object, "service");
        let (bundle, insecure) = (text(spec(object, "caBundle")), spec(object, "insecureSkipTLSVerify") == true);
        let backend = Backend {
            name: api::meta::name(object).to_owned(),
            group: text(spec(object, "group")),
            version: text(spec(object, "version")),
            namespace: text(&service["namespace"]),
            service: text(&service["name"]),
            port: service["port"].as_u64().unwrap_or(443),
            tls: tls(&bundle, insecure, own),
            bundle,
            insecure,
            idle: Mutex::default(),
            state: Mutex::default(),
            end: CancellationToken::new(),
        };
        backend.ranks(object);
        backend
    }

    /// Whether it is the one that this object describes.
    pub fn is_of(&self, object: &Value) -> bool {
        let (service, text) = (spec(object, "service"), |v: &Value| v.as_str().unwrap_or("").to_owned());
        self.name == api::meta::name(object)
            && self.namespace == text(&service["namespace"])
            && self.service == text(&service["name"])
            && self.port == service["port"].as_u64().unwrap_or(443)
            && self.bundle == text(spec(object, "caBundle"))
            && self.insecure == (spec(object, "insecureSkipTLSVerify") == true)
    }

    /// Takes over the priorities; whether they changed.
    pub fn ranks(&self, object: &Value) -> bool {
        let number = |key| spec(object, key).as_i64().unwrap_or(0);
        let priorities = (number("groupPriorityMinimum"), number("versionPriority"));
        std::mem::replace(&mut self.state.lock().priorities, priorities) != priorities
    }

    /// Cancelled when the APIService is gone, or leads elsewhere.
    pub fn ended(&self) -> CancellationToken {
        self.end.clone()
    }

    /// Ends its task and lets its connections go.
    pub fn end(&self) {
        self.end.cancel();
        self.idle.lock().clear();
    }

    /// What is known of it.
    pub fn state(&self) -> State {
        self.state.lock().clone()
    }

    /// Changes what is known; whether that shows in documents.
    pub fn learn(&self, change: impl FnOnce(&mut State)) -> bool {
        let mut state = self.state.lock();
        let before = state.clone();
        change(&mut state);
        before.fresh != state.fresh
            || before.resources != state.resources
            || before.openapi_v3 != state.openapi_v3
            || before.openapi_v2.as_ref().map(Arc::as_ptr) != state.openapi_v2.as_ref().map(Arc::as_ptr)
    }

    /// `/apis/GROUP/VERSION`.
    pub fn root(&self) -> String {
        match self.group.as_str() {
            "" => format!("/api/{}", self.version),
            group => format!("/apis/{group}/{}", self.version),
        }
    }

    fn dial(&self, host: Host) -> Result<Dial, String> {
        let name = format!("{}.{}.svc", self.service, self.namespace);
        let name = ServerName::try_from(name).map_err(|e| e.to_string())?;
        Ok(Dial { host, tls: Some((self.tls.clone()?, name)) })
    }

    /// Passes a request on, in the name of its user. What goes wrong on the way is told in plain text, as Kubernetes does.
    pub async fn serve(&self, mut onward: Onward) -> Result<Reply, ApiError> {
        let server = onward.server.clone();
        let refused = |code, words: &str| Ok(respond::text(code, format!("{words}\n")));
        if !self.state.lock().available {
            return refused(StatusCode::SERVICE_UNAVAILABLE, "service unavailable");
        }
        if let Err(error) = &self.tls {
            return refused(StatusCode::INTERNAL_SERVER_ERROR, error);
        }
        let found = Found::look(&server.caches, &self.namespace, &self.service);
        let places = found.ok_or("no such service".to_owned()).and_then(|found| found.places(self.port));
        let Ok(places) = places else { return refused(StatusCode::SERVICE_UNAVAILABLE, "service unavailable") };
        let target = onward.uri.path_and_query().map_or("/", |t| t.as_str()).to_owned();
        let rewrite = Rewrite {
            prefix: String::new(),
            backend: places.first().map(Host::to_string).unwrap_or_default(),
            asked: onward.asked().to_owned(),
            pages: false,
        };
        let user = onward.user.clone();
        // A stream has its connection for itself.
        let lasting = onward.place.is_some();
        onward.headers.remove(HOST);
        let (mut request, pending) = onward.prepare(&target, &rewrite.backend)?;
        vouch(request.headers_mut(), &user);
        match self.send(request, &places, lasting).await {
            // A client that followed would take this server's word for an address of somebody else's.
            Ok(answer) if answer.status().is_redirection() && answer.headers().contains_key(LOCATION) => {
                let words = "the backend attempted to redirect this request, which is not permitted";
                refused(StatusCode::BAD_GATEWAY, words)
            }
            Ok(answer) => pending.answer(answer, &rewrite).await,
            Err(why) => {
                let words = format!("error trying to reach service: {why}");
                refused(StatusCode::SERVICE_UNAVAILABLE, &words)
            }
        }
    }

    async fn send(
        &self,
        mut request: Request<RequestBody>,
        places: &[Host],
        lasting: bool,
    ) -> Result<Response<Incoming>, String> {
        let kept = {
            let mut idle = self.idle.lock();
            // What is closed, or leads to an endpoint that is none any more, is of no use.
            idle.retain(|(host, c)| !c.is_closed() && places.contains(host));
            // One whose last answer is still being read would make this request wait for it.
            let ready = idle.iter().position(|(_, c)| c.is_ready()).filter(|_| !lasting);
            ready.map(|at| idle.swap_remove(at))
        };
        if let Some((host, mut kept)) = kept {
            match kept.try_send_request(request).await {
                Ok(answer) => {
                    self.keep(host, kept);
                    return Ok(answer);
                }
                // It may have been closed meanwhile: then, and only then, a new one is tried.
                Err(mut error) => match error.take_message() {
                    Some(unsent) => request = unsent,
                    None => return Err(base::chain(&error.into_error())),
                },
            }
        }
        let mut failed = String::new();
        for host in places.iter().take(TRIES) {
            match self.dial(host.clone())?.open().await {
                Ok(mut connection) => {
                    let answer = connection.send_request(request).await.map_err(|e| base::chain(&e))?;
                    if !lasting {
                        self.keep(host.clone(), connection);
                    }
                    return Ok(answer);
                }
                Err(error) => failed = base::chain(&error),
            }
        }
        Err(failed)
    }

    /// Keeps a connection for the next request; it takes one when the answer to this one has been read.
    fn keep(&self, host: Host, connection: SendRequest<RequestBody>) {
        let mut idle = self.idle.lock();
        if idle.len() < IDLE_MAX && !self.end.is_cancelled() {
            idle.push((host, connection));
        }
    }

    /// Asks one endpoint for a document about itself, in this server's own name.
    ///
    /// # Errors
    /// A sentence on what went wrong, with the address.
    pub async fn ask(&self, host: &Host, path: &str) -> Result<Bytes, String> {
        let url = format!("https://{host}{path}");
        let failing = |why: String| format!("failing or missing response from {url}: {why}");
        let asked = async {
            let mut connection = self.dial(host.clone())?.open().await.map_err(|e| base::chain(&e))?;
            let mut request = Request::new(empty());
            *request.method_mut() = Method::GET;
            *request.uri_mut() = path.parse::<Uri>().map_err(|e| e.to_string())?;
            let authority = HeaderValue::from_str(&host.to_string()).map_err(|e| e.to_string())?;
            request.headers_mut().insert(HOST, authority);
            request.headers_mut().insert(ACCEPT, HeaderValue::from_static("application/json"));
            vouch(request.headers_mut(), &aggregator());
            let answer = connection.send_request(request).await.map_err(|e| base::chain(&e))?;
            let (parts, body) = answer.into_parts();
            if !(200..400).contains(&parts.status.as_u16()) || parts.status.is_redirection() {
                return Err(format!("bad status from {url}: {}", parts.status.as_u16()));
            }
            let body = Limited::new(body, DOCUMENT_MAX).collect().await.map_err(|e| base::chain(&*e))?;
            Ok(body.to_bytes())
        };
        match tokio::time::timeout(DOCUMENT, asked).await {
            Ok(result) => result.map_err(failing),
            Err(_) => Err(failing("timed out".to_owned())),
        }
    }
}

fn tls(bundle: &str, insecure: bool, own: &KeyCert) -> Result<Arc<ClientConfig>, String> {
    let trust = if insecure { Trust::Anybody } else { Trust::of_bundle(bundle)? };
    client_config(trust, Some(own)).map_err(|e| base::chain(&e))
}

/// Says in headers who the user is (`--requestheader-username-headers` and its like).
fn vouch(headers: &mut HeaderMap, user: &UserInfo) {
    let mut add = |name: &str, value: &str| {
        // Control characters cannot be said: without its name a user is nobody there, without a group it has fewer rights.
        if let (Ok(name), Ok(value)) = (name.parse::<HeaderName>(), HeaderValue::from_bytes(value.as_bytes())) {
            headers.append(name, value);
        }
    };
    add("x-remote-user", &user.name);
    if !user.uid.is_empty() {
        add("x-remote-uid", &user.uid);
    }
    for group in &user.groups {
        add("x-remote-group", group);
    }
    extra(&user.extra, &mut add);
}

fn extra(extra: &BTreeMap<String, Vec<String>>, add: &mut impl FnMut(&str, &str)) {
    for (key, values) in extra {
        let name = format!("x-remote-extra-{}", escape(key));
        for value in values {
            add(&name, value);
        }
    }
}

/// What may not be in the name of a header is percent-encoded.
fn escape(key: &str) -> String {
    let mut out = String::new();
    for byte in key.bytes() {
        match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' => out.push(char::from(byte)),
            b'!' | b'#' | b'$' | b'&' | b'\'' | b'*' | b'+' | b'-' | b'.' | b'^' | b'_' | b'`' | b'|' | b'~' => {
                out.push(char::from(byte));
            }
            _ => out.push_str(&format!("%{byte:02X}")),
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_user_is_told_in_headers() {
        let mut user = UserInfo::new("ann", &["devs"]);
        user.extra.insert("example.org/scopes".into(), vec!["a".into(), "b".into()]);
        let mut headers = HeaderMap::new();
        vouch(&mut headers, &user);
        let all = |name: &str| headers.get_all(name).iter().map(|v| v.to_str().unwrap()).collect::<Vec<_>>();
        assert_eq!(all("x-remote-user"), ["ann"]);
        assert_eq!(all("x-remote-group"), ["devs", "system:authenticated"]);
        assert_eq!(all("x-remote-extra-example.org%2fscopes"), ["a", "b"]);
        assert!(!headers.contains_key("x-remote-uid"));
    }
}
