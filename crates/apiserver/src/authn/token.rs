//! Service account tokens: signed by this cluster's key, bound to an account and, when asked for, to a Pod, Secret or
//! Node, and worthless as soon as what they are bound to is gone.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use jsonwebtoken::{Algorithm, DecodingKey, EncodingKey, Header, Validation};
use parking_lot::Mutex;
use serde::{Deserialize, Serialize};

use super::{AUTHENTICATED, SERVICE_ACCOUNT_PREFIX, UserInfo};
use crate::cache::Caches;
use crate::pki::Pki;

/// Signatures remembered as good; the map is emptied when it is full.
const REMEMBERED: usize = 4096;

/// Why a token is not accepted. Callers outside learn only that it is not.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum TokenError {
    /// Not a token of this cluster, or expired.
    #[error("token is malformed, expired, or not signed by this cluster")]
    Invalid,
    /// It is meant for somebody else.
    #[error("token audiences {0:?} are not among those asked for")]
    Audience(Vec<String>),
    /// What it is bound to is gone or has been replaced.
    #[error("{0} of the token no longer exists")]
    Unbound(&'static str),
    /// The signing key does not work.
    #[error("token cannot be signed")]
    Sign,
}

/// Name and uid of something a token is bound to.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct BoundRef {
    /// The name.
    pub name: String,
    /// The uid.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub uid: String,
}

/// The private claim of Kubernetes tokens.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Kubernetes {
    /// Namespace of the account.
    pub namespace: String,
    /// The account.
    pub serviceaccount: BoundRef,
    /// The Pod it is bound to.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pod: Option<BoundRef>,
    /// The Secret it is bound to.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub secret: Option<BoundRef>,
    /// The Node it is bound to, or on which its Pod runs.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub node: Option<BoundRef>,
}

/// Everything a token says.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Claims {
    /// For whom it is.
    pub aud: Vec<String>,
    /// When it ends, in seconds since 1970.
    pub exp: u64,
    /// When it was made.
    pub iat: u64,
    /// Who made it.
    pub iss: String,
    /// Which one it is.
    pub jti: String,
    /// The account and what else it is bound to.
    #[serde(rename = "kubernetes.io")]
    pub kubernetes: Kubernetes,
    /// When it begins.
    pub nbf: u64,
    /// The user name.
    pub sub: String,
}

/// Makes and checks tokens.
pub struct Tokens {
    issuer: String,
    audience: String,
    sign: EncodingKey,
    verify: DecodingKey,
    remembered: Mutex<HashMap<[u8; 32], Arc<Claims>>>,
}

impl Tokens {
    /// With the cluster's key. The issuer is also the default audience.
    ///
    /// # Errors
    /// The key cannot be used for signing.
    pub fn new(pki: &Pki, cluster_domain: &str) -> Result<Self, TokenError> {
        let issuer = format!("https://kubernetes.default.svc.{cluster_domain}");
        Ok(Tokens {
            audience: issuer.clone(),
            issuer,
            sign: EncodingKey::from_ec_pem(pki.service_account_key_pem().as_bytes()).map_err(|_| TokenError::Sign)?,
            verify: DecodingKey::from_ec_pem(pki.service_account_public_pem().as_bytes())
                .map_err(|_| TokenError::Sign)?,
            remembered: Mutex::default(),
        })
    }

    /// Who signs.
    pub fn issuer(&self) -> &str {
        &self.issuer
    }

    /// Whom tokens address that name nobody.
    pub fn default_audience(&self) -> &str {
        &self.audience
    }

    /// Signs a token for so many seconds from `now` (seconds since 1970).
    ///
    /// # Errors
    /// The key does not work.
    pub fn issue(
        &self,
        kubernetes: Kubernetes,
        audiences: Vec<String>,
        now: u64,
        ttl_s: u64,
    ) -> Result<String, TokenError> {
        let claims = Claims {
            aud: audiences,
            exp: now + ttl_s,
            iat: now,
            iss: self.issuer.clone(),
            jti: uuid::Uuid::new_v4().to_string(),
            nbf: now,
            sub: format!("{SERVICE_ACCOUNT_PREFIX}{}:{}", kubernetes.namespace, kubernetes.serviceaccount.name),
            kubernetes,
        };
        jsonwebtoken::encode(&Header::new(Algorithm::ES256), &claims, &self.sign).map_err(|_| TokenError::Sign)
    }

    /// Checks signature, times and audience (`None`: this API server), and that the account and what else the token is
    /// bound to are still the same ones.
    ///
    /// # Errors
    /// Says which of these fails.
    pub fn check(
        &self,
        caches: &Caches,
        token: &str,
        audiences: Option<&[String]>,
    ) -> Result<Arc<UserInfo>, TokenError> {
        let claims = self.verified(token)?;
        let meant = match audiences {
            Some(wanted) => claims.aud.iter().any(|a| wanted.contains(a)),
            None => claims.aud.contains(&self.audience),
        };
        if !meant {
            return Err(TokenError::Audience(claims.aud.clone()));
        }
        still_bound(caches, &claims.kubernetes)?;
        Ok(Arc::new(user(&claims)))
    }

    /// Whom a good token addresses; nobody when it is not.
    pub fn audiences(&self, token: &str) -> Vec<String> {
        self.verified(token).map(|claims| claims.aud.clone()).unwrap_or_default()
    }

    fn verified(&self, token: &str) -> Result<Arc<Claims>, TokenError> {
        let digest = ring::digest::digest(&ring::digest::SHA256, token.as_bytes());
        let key: [u8; 32] = digest.as_ref().try_into().map_err(|_| TokenError::Invalid)?;
        if let Some(claims) = self.remembered.lock().get(&key).cloned() {
            let now = u64::try_from(jiff::Timestamp::now().as_second()).unwrap_or(u64::MAX);
            return if now < claims.exp { Ok(claims) } else { Err(TokenError::Invalid) };
        }
        let mut rules = Validation::new(Algorithm::ES256);
        rules.set_issuer(&[&self.issuer]);
        rules.validate_aud = false;
        rules.validate_nbf = true;
        rules.leeway = 0;
        rules.set_required_spec_claims(&["exp", "iss", "sub", "nbf"]);
        let claims =
            jsonwebtoken::decode::<Claims>(token, &self.verify, &rules).map_err(|_| TokenError::Invalid)?.claims;
        let want = format!(
            "{SERVICE_ACCOUNT_PREFIX}{}:{}",
            claims.kubernetes.namespace, claims.kubernetes.serviceaccount.name
        );
        if claims.sub != want {
            return Err(TokenError::Invalid);
        }
        let claims = Arc::new(claims);
        let mut remembered = self.remembered.lock();
        if remembered.len() >= REMEMBERED {
            remembered.clear();
        }
        remembered.insert(key, claims.clone());
        Ok(claims)
    }
}

fn still_bound(caches: &Caches, claim: &Kubernetes) -> Result<(), TokenError> {
    let exists = |plural: &'static str, key: &str, uid: &str| {
        caches.core(plural).get(key).is_some_and(|entry| uid.is_empty() || *entry.facts.uid == *uid)
    };
    let namespaced = |bound: &BoundRef| format!("{}/{}", claim.namespace, bound.name);
    if !exists("serviceaccounts", &namespaced(&claim.serviceaccount), &claim.serviceaccount.uid) {
        return Err(TokenError::Unbound("service account"));
    }
    if let Some(pod) = &claim.pod
        && !exists("pods", &namespaced(pod), &pod.uid)
    {
        return Err(TokenError::Unbound("pod"));
    }
    if let Some(secret) = &claim.secret
        && !exists("secrets", &namespaced(secret), &secret.uid)
    {
        return Err(TokenError::Unbound("secret"));
    }
    // With a Pod, the Node is information only; alone, it is what the token is bound to.
    if let (Some(node), None) = (&claim.node, &claim.pod)
        && !exists("nodes", &node.name, &node.uid)
    {
        return Err(TokenError::Unbound("node"));
    }
    Ok(())
}

fn user(claims: &Claims) -> UserInfo {
    let k = &claims.kubernetes;
    let mut extra = BTreeMap::new();
    let mut add = |key: &str, value: &str| {
        if !value.is_empty() {
            extra.insert(format!("authentication.kubernetes.io/{key}"), vec![value.to_owned()]);
        }
    };
    add("credential-id", &format!("JTI={}", claims.jti));
    if let Some(pod) = &k.pod {
        add("pod-name", &pod.name);
        add("pod-uid", &pod.uid);
    }
    if let Some(node) = &k.node {
        add("node-name", &node.name);
        add("node-uid", &node.uid);
    }
    let groups = vec![
        "system:serviceaccounts".to_owned(),
        format!("system:serviceaccounts:{}", k.namespace),
        AUTHENTICATED.to_owned(),
    ];
    UserInfo { name: claims.sub.clone(), uid: k.serviceaccount.uid.clone(), groups, extra }
}
