//! The audit log: who asked for what, and what came of it (audit.k8s.io/v1, KEP-22).

use std::net::IpAddr;
use std::path::PathBuf;
use std::sync::Arc;

use bytes::{Bytes, BytesMut};
use futures::StreamExt as _;
use http::header::{CONTENT_TYPE, USER_AGENT};
use http::{HeaderMap, HeaderValue, request};
use jiff::Timestamp;
use parking_lot::Mutex;
use serde_json::{Value, json};

use crate::admission::Note;
use crate::authn::{Sender, UserInfo};
use crate::http::body::Body;
use crate::http::decode;
use crate::http::path::{ResourcePath, Target};
use crate::http::respond::{Reply, Style};

mod file;
mod policy;

use file::LogFile;
use policy::{About, Level, Policy, Stage, Verdict};

/// Bytes of an object that is recorded; of a larger one it is recorded that it was left out.
const OBJECT_MAX: usize = 3 << 20;
/// Characters of a user agent or URI that are recorded.
const TEXT_MAX: usize = 4096;

/// Settings of the audit log.
#[derive(Debug, Clone)]
pub struct AuditConfig {
    /// The `Policy`, YAML or JSON.
    pub policy: PathBuf,
    /// The file that events are appended to.
    pub log: PathBuf,
    /// Bytes after which it is put aside.
    pub max_bytes: u64,
    /// How many of those put aside are kept.
    pub max_backups: usize,
}

/// Why auditing cannot begin.
#[derive(Debug, thiserror::Error)]
pub enum AuditError {
    /// The policy cannot be read.
    #[error("read audit policy {0:?}")]
    Read(PathBuf, #[source] std::io::Error),
    /// It is not a policy.
    #[error("audit policy {0:?}: {1}")]
    Policy(PathBuf, String),
    /// The log cannot be opened.
    #[error("open audit log {0:?}")]
    Open(PathBuf, #[source] std::io::Error),
}

/// Policy and log.
pub struct Audit {
    policy: Policy,
    log: LogFile,
}

impl Audit {
    /// Reads the policy and opens the log.
    ///
    /// # Errors
    /// See [`AuditError`].
    pub fn open(config: &AuditConfig) -> Result<Arc<Self>, AuditError> {
        let text = std::fs::read_to_string(&config.policy).map_err(|e| AuditError::Read(config.policy.clone(), e))?;
        let policy = Policy::parse(&text).map_err(|why| AuditError::Policy(config.policy.clone(), why))?;
        let log = LogFile::open(&config.log, config.max_bytes, config.max_backups)
            .map_err(|e| AuditError::Open(config.log.clone(), e))?;
        Ok(Arc::new(Audit { policy, log }))
    }
}

/// What is recorded of one request. Without an audit log, or when the policy says so, nothing happens.
#[derive(Clone, Default)]
pub struct Trail(Option<Arc<Record>>);

struct Record {
    audit: Arc<Audit>,
    /// What every event of the request begins with.
    base: Value,
    content_type: Option<HeaderValue>,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    verdict: Option<Verdict>,
    /// Whether the answer goes on for long.
    long: bool,
    impersonated: Option<Value>,
    /// What allowed that, if it was a constrained right.
    constraint: String,
    annotations: serde_json::Map<String, Value>,
    request: Option<Bytes>,
    response: BytesMut,
    response_too_large: bool,
    status: Option<Value>,
    code: u16,
}

fn text(value: &str) -> String {
    value.chars().take(TEXT_MAX).collect()
}

fn stamp(at: Timestamp) -> String {
    at.strftime("%Y-%m-%dT%H:%M:%S.%6fZ").to_string()
}

impl Trail {
    /// A request has come.
    pub fn begin(audit: Option<&Arc<Audit>>, parts: &request::Parts, sender: &Sender) -> Self {
        let Some(audit) = audit else { return Trail(None) };
        let mut ips: Vec<String> = Vec::new();
        // What proxies on the way say comes first, as Kubernetes lists it.
        for header in parts.headers.get_all("x-forwarded-for") {
            let forwarded = header.to_str().unwrap_or("").split(',').take(16);
            ips.extend(forwarded.filter_map(|ip| ip.trim().parse::<IpAddr>().ok()).map(|ip| ip.to_string()));
        }
        if let Sender::Connection { from, .. } = sender {
            ips.push(from.ip().to_string());
        }
        let agent = parts.headers.get(USER_AGENT).and_then(|v| v.to_str().ok()).unwrap_or("");
        let uri = parts.uri.path_and_query().map_or("", |p| p.as_str());
        let base = json!({
            "kind": "Event",
            "apiVersion": "audit.k8s.io/v1",
            "auditID": uuid::Uuid::new_v4().to_string(),
            "requestURI": text(uri),
            "sourceIPs": ips,
            "userAgent": text(agent),
            "requestReceivedTimestamp": stamp(Timestamp::now()),
        });
        let content_type = parts.headers.get(CONTENT_TYPE).cloned();
        let state = Mutex::default();
        Trail(Some(Arc::new(Record { audit: audit.clone(), base, content_type, state })))
    }

    /// It is known who asks (`None`: that nobody can be told) for what. Settles how much is recorded.
    pub fn known(self, user: Option<&UserInfo>, verb: &str, target: Option<&Target>, path: &str) -> Self {
        let Some(record) = &self.0 else { return self };
        let nobody = UserInfo::default();
        let resource = match target {
            Some(Target::Resource(resource)) => Some(resource),
            _ => None,
        };
        let about = match resource {
            Some(r) => About {
                verb,
                group: &r.group,
                resource: &r.resource,
                subresource: &r.subresource,
                namespace: &r.namespace,
                name: &r.name,
                path,
            },
            None => About { verb, path, ..About::default() },
        };
        let verdict = record.audit.policy.verdict(user.unwrap_or(&nobody), &about);
        if verdict.level == Level::None {
            return Trail(None);
        }
        let mut base = record.base.clone();
        base["level"] = verdict.level.as_str().into();
        base["verb"] = verb.into();
        base["user"] = user.map_or_else(|| json!({}), UserInfo::to_json);
        if let Some(resource) = resource {
            base["objectRef"] = reference(resource);
        }
        let long = verb == "watch" || matches!(about.subresource, "exec" | "attach" | "portforward" | "proxy" | "log");
        let record = Record {
            audit: record.audit.clone(),
            base,
            content_type: record.content_type.clone(),
            state: Mutex::new(State { verdict: Some(verdict), long, ..State::default() }),
        };
        record.write(Stage::RequestReceived);
        Trail(Some(Arc::new(record)))
    }

    /// Whether anything is recorded.
    pub fn is_on(&self) -> bool {
        self.0.is_some()
    }

    /// The request is made as another user, which a right of constrained impersonation allowed unless it is empty.
    pub fn acts_as(&self, user: &UserInfo, constraint: &str) {
        if let Some(record) = &self.0 {
            let mut state = record.state.lock();
            state.impersonated = Some(user.to_json());
            constraint.clone_into(&mut state.constraint);
        }
    }

    /// What the authorizers said.
    pub fn decided(&self, allowed: bool, reason: &str) {
        let Some(record) = &self.0 else { return };
        let annotations = &mut record.state.lock().annotations;
        let decision = if allowed { "allow" } else { "forbid" };
        annotations.insert("authorization.k8s.io/decision".into(), decision.into());
        annotations.insert("authorization.k8s.io/reason".into(), reason.into());
    }

    /// What admission notes. What repeats the content of the request is for events that have it.
    pub fn annotate(&self, notes: Vec<Note>) {
        let Some(record) = &self.0 else { return };
        let content = record.level() >= Level::Request;
        let annotations = &mut record.state.lock().annotations;
        for note in notes.into_iter().filter(|n| content || !n.content) {
            annotations.entry(note.key).or_insert_with(|| note.value.into());
        }
    }

    /// The body of the request.
    pub fn request(&self, bytes: &Bytes) {
        if let Some(record) = &self.0
            && record.level() >= Level::Request
        {
            record.state.lock().request = Some(bytes.clone());
        }
    }

    /// How the answer is written: one that is recorded must be readable here.
    pub fn style(&self, style: Style) -> Style {
        match &self.0 {
            Some(record) if record.level() == Level::RequestResponse => {
                Style { gzip: false, protobuf: false, yaml: false, ..style }
            }
            _ => style,
        }
    }

    /// The request has failed.
    pub fn failed(&self, error: &api::status::ApiError) {
        if let Some(record) = &self.0 {
            record.state.lock().status = Some(error.to_status());
        }
    }

    /// The answer begins. Its end is recorded when its body has been sent, or dropped.
    pub fn answered(&self, reply: Reply) -> Reply {
        let Some(record) = &self.0 else { return reply };
        let (parts, body) = reply.into_parts();
        let long = {
            let mut state = record.state.lock();
            state.code = parts.status.as_u16();
            state.long
        };
        if long && parts.status.as_u16() < 400 {
            record.write(Stage::ResponseStarted);
        }
        let whole = record.level() == Level::RequestResponse && !long;
        let end = End(record.clone());
        let body = match body {
            Body::Stream(stream) if whole => {
                let record = record.clone();
                let body = Body::stream(stream.inspect(move |piece| record.response(piece)));
                Body::Held(Box::new(body), Some(Box::new(end)))
            }
            Body::Full(bytes) => {
                if whole {
                    record.response(&bytes);
                }
                drop(end);
                Body::Full(bytes)
            }
            Body::Empty => {
                drop(end);
                Body::Empty
            }
            other => Body::Held(Box::new(other), Some(Box::new(end))),
        };
        Reply::from_parts(parts, body)
    }
}

/// Records the end of the answer when it is dropped.
struct End(Arc<Record>);

impl Drop for End {
    fn drop(&mut self) {
        self.0.write(Stage::ResponseComplete);
    }
}

fn reference(path: &ResourcePath) -> Value {
    let mut out = json!({"resource": path.resource, "apiVersion": path.version});
    let fields = [
        ("apiGroup", &path.group),
        ("namespace", &path.namespace),
        ("name", &path.name),
        ("subresource", &path.subresource),
    ];
    for (key, value) in fields.into_iter().filter(|(_, value)| !value.is_empty()) {
        out[key] = value.as_str().into();
    }
    out
}

impl Record {
    fn level(&self) -> Level {
        self.state.lock().verdict.as_ref().map_or(Level::None, |v| v.level)
    }

    fn response(&self, piece: &Bytes) {
        let mut state = self.state.lock();
        if state.response.len() + piece.len() > OBJECT_MAX {
            state.response_too_large = true;
            state.response = BytesMut::new();
        } else if !state.response_too_large {
            state.response.extend_from_slice(piece);
        }
    }

    fn write(&self, stage: Stage) {
        let state = self.state.lock();
        let Some(verdict) = state.verdict.as_ref().filter(|v| !v.omit.contains(&stage)) else { return };
        let mut event = self.base.clone();
        event["stage"] = stage.as_str().into();
        event["stageTimestamp"] = stamp(Timestamp::now()).into();
        if let Some(user) = &state.impersonated {
            event["impersonatedUser"] = user.clone();
        }
        if !state.constraint.is_empty() {
            event["authenticationMetadata"] = json!({"impersonationConstraint": state.constraint});
        }
        let mut annotations = state.annotations.clone();
        if stage != Stage::RequestReceived {
            let mut status = state.status.clone().unwrap_or_else(|| json!({"metadata": {}}));
            if let Some(status) = status.as_object_mut() {
                status.retain(|key, _| key != "kind" && key != "apiVersion");
                status.insert("code".into(), state.code.into());
            }
            event["responseStatus"] = status;
        }
        if stage == Stage::ResponseComplete && verdict.level >= Level::Request {
            let mut put = |key: &str, object: Option<Value>| {
                if let Some(mut object) = object {
                    if verdict.omit_managed_fields {
                        without_managed_fields(&mut object);
                    }
                    event[key] = object;
                }
            };
            put("requestObject", state.request.as_ref().and_then(|bytes| self.object(bytes)));
            if !state.response.is_empty() {
                put("responseObject", serde_json::from_slice(&state.response).ok());
            }
            if state.response_too_large {
                let why = format!("left out: larger than {OBJECT_MAX} bytes");
                annotations.insert("windlass.dev/response-object".into(), why.into());
            }
        }
        if !annotations.is_empty() {
            event["annotations"] = annotations.into();
        }
        drop(state);
        self.audit.log.line(event.to_string().into_bytes());
    }

    /// The object in a request, in whatever form it came.
    fn object(&self, bytes: &Bytes) -> Option<Value> {
        if bytes.is_empty() {
            return None;
        }
        if let Ok(value) = serde_json::from_slice(bytes) {
            return Some(value);
        }
        let mut headers = HeaderMap::new();
        headers.insert(CONTENT_TYPE, self.content_type.clone()?);
        decode::object(&headers, bytes).ok().map(|decoded| decoded.value)
    }
}

fn without_managed_fields(object: &mut Value) {
    if let Some(metadata) = object.get_mut("metadata").and_then(Value::as_object_mut) {
        metadata.remove("managedFields");
    }
    for item in object.get_mut("items").and_then(Value::as_array_mut).into_iter().flatten() {
        without_managed_fields(item);
    }
}
