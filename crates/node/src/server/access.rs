//! Who else may ask the node: whoever the API server knows by a token or certificate and allows what is asked, as a
//! kubelet with webhook authentication and authorization does. `nodes/metrics`, `nodes/stats`, `nodes/log`, `nodes/pods`
//! and `nodes/proxy` are what is asked about.

use std::collections::BTreeMap;
use std::collections::HashMap;
use std::hash::Hash;
use std::time::Duration;

use http::{HeaderMap, Method, StatusCode, header};
use k8s_openapi::api::authentication::v1::{TokenReview, TokenReviewSpec};
use k8s_openapi::api::authorization::v1::{ResourceAttributes, SubjectAccessReview, SubjectAccessReviewSpec};
use kube::api::{Api, PostParams};
use parking_lot::Mutex;
use sha2::{Digest, Sha256};
use tokio::time::Instant;

use super::auth::Identity;
use super::refusal::Refusal;

/// How long answers of the API server are believed: the kubelet's defaults.
const TOKEN_TTL: Duration = Duration::from_secs(120);
const ALLOWED_TTL: Duration = Duration::from_secs(300);
const DENIED_TTL: Duration = Duration::from_secs(30);
/// Answers remembered at most.
const ANSWERS_MAX: usize = 1024;
/// How long the API server may take.
const PATIENCE: Duration = Duration::from_secs(10);

/// Somebody the API server knows.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct User {
    /// Name.
    pub name: String,
    /// UID, if it has one.
    pub uid: Option<String>,
    /// Groups.
    pub groups: Vec<String>,
    extra: BTreeMap<String, Vec<String>>,
}

impl User {
    /// Somebody known by a certificate.
    pub fn of_certificate(name: String, mut groups: Vec<String>) -> Self {
        groups.push("system:authenticated".to_owned());
        User { name, uid: None, groups, extra: BTreeMap::new() }
    }
}

/// Answers with their ends.
struct Memory<K, V>(Mutex<HashMap<K, (V, Instant)>>);

impl<K: Eq + Hash, V: Clone> Memory<K, V> {
    fn new() -> Self {
        Memory(Mutex::new(HashMap::new()))
    }

    fn get(&self, key: &K) -> Option<V> {
        self.0.lock().get(key).filter(|(_, end)| *end > Instant::now()).map(|(value, _)| value.clone())
    }

    fn put(&self, key: K, value: V, ttl: Duration) {
        let (mut all, now) = (self.0.lock(), Instant::now());
        if all.len() >= ANSWERS_MAX {
            all.retain(|_, (_, end)| *end > now);
        }
        if all.len() >= ANSWERS_MAX {
            all.clear();
        }
        all.insert(key, (value, now + ttl));
    }
}

/// Asks the API server, and remembers what it said.
pub struct Access {
    client: kube::Client,
    node: String,
    tokens: Memory<[u8; 32], User>,
    answers: Memory<(User, &'static str, &'static str), bool>,
}

/// The parts of the node that a path is about, the finest first: being allowed one of them is enough.
fn subresources(path: &str) -> &'static [&'static str] {
    let first = path.trim_start_matches('/').split('/').next().unwrap_or_default();
    match first {
        "stats" => &["stats"],
        "metrics" => &["metrics"],
        "logs" => &["log"],
        "pods" | "runningpods" => &["pods", "proxy"],
        _ => &["proxy"],
    }
}

fn verb(method: &Method) -> &'static str {
    match *method {
        Method::POST => "create",
        Method::PUT => "update",
        Method::PATCH => "patch",
        Method::DELETE => "delete",
        _ => "get",
    }
}

impl Access {
    /// For the node of that name.
    pub fn new(client: kube::Client, node: &str) -> Self {
        Access { client, node: node.to_owned(), tokens: Memory::new(), answers: Memory::new() }
    }

    /// Whether a request may be served.
    ///
    /// # Errors
    /// 401 for a stranger, 403 for somebody who may not, 500 when the API server does not say.
    pub async fn check(
        &self,
        identity: &Identity,
        headers: &HeaderMap,
        method: &Method,
        path: &str,
    ) -> Result<(), Refusal> {
        let user = match identity {
            Identity::Trusted => return Ok(()),
            Identity::Stranger(user) => user.clone(),
            Identity::Nobody => self.bearer(headers).await?,
        };
        let (verb, parts) = (verb(method), subresources(path));
        for part in parts {
            if self.allowed(&user, verb, part).await? {
                return Ok(());
            }
        }
        let message = format!(
            "Forbidden (user={}, verb={verb}, resource=nodes, subresource(s)=[{}])",
            user.name,
            parts.join(" ")
        );
        Err(Refusal::new(StatusCode::FORBIDDEN, message))
    }

    async fn bearer(&self, headers: &HeaderMap) -> Result<User, Refusal> {
        let unknown = || Refusal::new(StatusCode::UNAUTHORIZED, "Unauthorized");
        let header = headers.get(header::AUTHORIZATION).and_then(|v| v.to_str().ok()).ok_or_else(unknown)?;
        let (scheme, token) = header.split_once(' ').ok_or_else(unknown)?;
        let token = token.trim();
        if !scheme.eq_ignore_ascii_case("bearer") || token.is_empty() {
            return Err(unknown());
        }
        let key: [u8; 32] = Sha256::digest(token.as_bytes()).into();
        if let Some(user) = self.tokens.get(&key) {
            return Ok(user);
        }
        let spec = TokenReviewSpec { token: token.to_owned(), ..TokenReviewSpec::default() };
        let review = TokenReview { spec, ..TokenReview::default() };
        let answer = self.ask(Api::<TokenReview>::all(self.client.clone()), &review).await?;
        let status = answer.status.filter(|s| s.authenticated == Some(true)).ok_or_else(unknown)?;
        let info = status.user.ok_or_else(unknown)?;
        let user = User {
            name: info.username.unwrap_or_default(),
            uid: info.uid,
            groups: info.groups.unwrap_or_default(),
            extra: info.extra.unwrap_or_default(),
        };
        self.tokens.put(key, user.clone(), TOKEN_TTL);
        Ok(user)
    }

    async fn allowed(&self, user: &User, verb: &'static str, part: &'static str) -> Result<bool, Refusal> {
        let key = (user.clone(), verb, part);
        if let Some(known) = self.answers.get(&key) {
            return Ok(known);
        }
        let attributes = ResourceAttributes {
            verb: Some(verb.to_owned()),
            version: Some("v1".to_owned()),
            resource: Some("nodes".to_owned()),
            subresource: Some(part.to_owned()),
            name: Some(self.node.clone()),
            ..ResourceAttributes::default()
        };
        let spec = SubjectAccessReviewSpec {
            user: Some(user.name.clone()),
            uid: user.uid.clone(),
            groups: Some(user.groups.clone()),
            extra: Some(user.extra.clone()),
            resource_attributes: Some(attributes),
            ..SubjectAccessReviewSpec::default()
        };
        let review = SubjectAccessReview { spec, ..SubjectAccessReview::default() };
        let answer = self.ask(Api::<SubjectAccessReview>::all(self.client.clone()), &review).await?;
        let allowed = answer.status.is_some_and(|s| s.allowed);
        self.answers.put(key, allowed, if allowed { ALLOWED_TTL } else { DENIED_TTL });
        Ok(allowed)
    }

    async fn ask<K>(&self, api: Api<K>, review: &K) -> Result<K, Refusal>
    where
        K: serde::Serialize + serde::de::DeserializeOwned + Clone + std::fmt::Debug,
    {
        match tokio::time::timeout(PATIENCE, api.create(&PostParams::default(), review)).await {
            Ok(Ok(answer)) => Ok(answer),
            Ok(Err(error)) => Err(Refusal::fault(format!("Authorization error: {error}"))),
            Err(_) => Err(Refusal::fault("Authorization error: the API server does not answer")),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_is_about_a_part_of_the_node() {
        for (path, parts) in [
            ("/metrics/resource", &["metrics"][..]),
            ("/stats/summary", &["stats"]),
            ("/pods", &["pods", "proxy"]),
            ("/exec/ns/p/c", &["proxy"]),
            ("/containerLogs/ns/p/c", &["proxy"]),
            ("/metricsx", &["proxy"]),
        ] {
            assert_eq!(subresources(path), parts, "{path}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn answers_are_forgotten_and_bounded() {
        let memory = Memory::new();
        memory.put(0, true, Duration::from_secs(1));
        assert_eq!(memory.get(&0), Some(true));
        tokio::time::advance(Duration::from_secs(2)).await;
        assert_eq!(memory.get(&0), None);
        (0..3000).for_each(|n| memory.put(n, true, Duration::from_secs(1)));
        assert!(memory.0.lock().len() <= ANSWERS_MAX);
    }
}
