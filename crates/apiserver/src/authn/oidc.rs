//! OpenID Connect: tokens of another identity provider, whose keys are found through its discovery document (OpenID Connect
//! Discovery 1.0) and verified here.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use jsonwebtoken::jwk::{Jwk, JwkSet};
use jsonwebtoken::{Algorithm, DecodingKey, Validation};
use serde::de::DeserializeOwned;
use serde_json::{Map, Value};
use tokio::time::Instant;

use super::UserInfo;

/// How long the provider may take to answer.
const ANSWER: Duration = Duration::from_secs(10);
/// Keys are asked for again at most so often, whatever tokens name.
const REFRESH: Duration = Duration::from_secs(10);
/// Bytes of a document of the provider.
const DOCUMENT_MAX: usize = 1 << 20;

/// Settings of the authenticator; as kube-apiserver's flags `--oidc-*`.
#[derive(Debug, Clone)]
pub struct OidcConfig {
    /// URL of the provider, `https`. Tokens name it as `iss`.
    pub issuer: String,
    /// Whom tokens must be for (`aud`).
    pub client_id: String,
    /// The claim that is the user's name.
    pub username_claim: String,
    /// What is put before it; `None`: `ISSUER#`, except before `email`.
    pub username_prefix: Option<String>,
    /// The claim that lists the user's groups.
    pub groups_claim: Option<String>,
    /// What is put before each.
    pub groups_prefix: String,
    /// Claims that must have these values.
    pub required_claims: BTreeMap<String, String>,
    /// The authority of the provider's certificate, PEM; `None`: those of the host.
    pub ca_file: Option<PathBuf>,
    /// Signature algorithms that are accepted: RS256, ES256 and the like.
    pub algorithms: Vec<String>,
}

impl OidcConfig {
    /// With Kubernetes' defaults for what is not given.
    pub fn new(issuer: &str, client_id: &str) -> Self {
        OidcConfig {
            issuer: issuer.to_owned(),
            client_id: client_id.to_owned(),
            username_claim: "sub".to_owned(),
            username_prefix: None,
            groups_claim: None,
            groups_prefix: String::new(),
            required_claims: BTreeMap::new(),
            ca_file: None,
            algorithms: vec!["RS256".to_owned()],
        }
    }
}

/// Why the authenticator cannot work, or a token is not accepted.
#[derive(Debug, thiserror::Error)]
pub enum OidcError {
    /// A setting makes no sense.
    #[error("OpenID Connect: {0}")]
    Config(String),
    /// The authority's file cannot be read.
    #[error("read {0:?}")]
    File(PathBuf, #[source] std::io::Error),
    /// The HTTP client cannot be made, or the provider does not answer.
    #[error("ask {0}")]
    Http(String, #[source] reqwest::Error),
    /// What the provider says is not usable.
    #[error("{0}: {1}")]
    Document(String, String),
    /// The token is not acceptable.
    #[error("token: {0}")]
    Token(String),
}

fn token_error(why: impl Into<String>) -> OidcError {
    OidcError::Token(why.into())
}

/// The authenticator.
pub struct Oidc {
    config: OidcConfig,
    algorithms: Vec<Algorithm>,
    client: reqwest::Client,
    keys: ArcSwap<JwkSet>,
    /// When keys were asked for last. Held while they are, so that many tokens ask once.
    asked: tokio::sync::Mutex<Option<Instant>>,
}

#[derive(serde::Deserialize)]
struct Discovery {
    issuer: String,
    jwks_uri: String,
}

impl Oidc {
    /// Checks the settings. The provider is asked when the first token comes: it need not be there yet.
    ///
    /// # Errors
    /// See [`OidcError`].
    pub fn new(config: OidcConfig) -> Result<Self, OidcError> {
        let wrong = |why: &str| OidcError::Config(format!("{why} ({})", config.issuer));
        let url = url::Url::parse(&config.issuer).map_err(|_| wrong("the issuer is not a URL"))?;
        if url.scheme() != "https" {
            return Err(wrong("the issuer's URL must begin with https"));
        }
        if url.query().is_some() || url.fragment().is_some() || !url.username().is_empty() {
            return Err(wrong("the issuer's URL must not have a user, query or fragment"));
        }
        if config.client_id.is_empty() || config.username_claim.is_empty() {
            return Err(wrong("client id and username claim must not be empty"));
        }
        let algorithm = |name: &String| match name.as_str() {
            // Those with a shared secret would let whoever can check a token make one.
            "RS256" | "RS384" | "RS512" | "ES256" | "ES384" | "PS256" | "PS384" | "PS512" => name.parse().ok(),
            _ => None,
        };
        let algorithms: Option<Vec<Algorithm>> = config.algorithms.iter().map(algorithm).collect();
        let algorithms =
            algorithms.filter(|a| !a.is_empty()).ok_or_else(|| wrong("signing algorithm not supported"))?;
        let mut builder = reqwest::Client::builder()
            .timeout(ANSWER)
            .https_only(true)
            .redirect(reqwest::redirect::Policy::none())
            .no_proxy();
        let http = |e| OidcError::Http(config.issuer.clone(), e);
        if let Some(file) = &config.ca_file {
            let pem = std::fs::read(file).map_err(|e| OidcError::File(file.clone(), e))?;
            builder = builder.tls_certs_only(reqwest::Certificate::from_pem_bundle(&pem).map_err(http)?);
        }
        let client = builder.build().map_err(http)?;
        let keys = ArcSwap::from_pointee(JwkSet { keys: Vec::new() });
        Ok(Oidc { algorithms, client, keys, asked: tokio::sync::Mutex::new(None), config })
    }

    /// Whether the token says that it is of this issuer. What it says is not verified.
    pub fn claims(&self, token: &str) -> bool {
        let payload = token.split('.').nth(1).and_then(|part| URL_SAFE_NO_PAD.decode(part).ok());
        let claims: Option<Value> = payload.and_then(|bytes| serde_json::from_slice(&bytes).ok());
        claims.is_some_and(|claims| claims["iss"] == self.config.issuer.as_str())
    }

    /// The user that the token is of.
    ///
    /// # Errors
    /// The token is not acceptable, or the provider's keys cannot be had.
    pub async fn check(&self, token: &str) -> Result<Arc<UserInfo>, OidcError> {
        let header = jsonwebtoken::decode_header(token).map_err(|e| token_error(e.to_string()))?;
        if !self.algorithms.contains(&header.alg) {
            return Err(token_error(format!("signed with {:?}, which is not accepted", header.alg)));
        }
        let kid = header.kid.as_deref();
        let mut keys = self.keys.load_full();
        if fitting(&keys, kid).is_empty() {
            self.refresh().await?;
            keys = self.keys.load_full();
        }
        let mut rules = Validation::new(header.alg);
        rules.set_issuer(&[&self.config.issuer]);
        rules.set_audience(&[&self.config.client_id]);
        rules.set_required_spec_claims(&["exp", "iss", "aud"]);
        rules.validate_nbf = true;
        rules.leeway = 0;
        let mut why = "no key of the provider fits".to_owned();
        for key in fitting(&keys, kid) {
            let Ok(key) = DecodingKey::from_jwk(key) else { continue };
            match jsonwebtoken::decode::<Map<String, Value>>(token, &key, &rules) {
                Ok(token) => return self.user(&token.claims).map(Arc::new),
                Err(error) => why = error.to_string(),
            }
        }
        Err(token_error(why))
    }

    fn user(&self, claims: &Map<String, Value>) -> Result<UserInfo, OidcError> {
        let c = &self.config;
        for (claim, want) in &c.required_claims {
            if claims.get(claim).and_then(Value::as_str) != Some(want) {
                return Err(token_error(format!("claim {claim} has not the required value")));
            }
        }
        let claim = c.username_claim.as_str();
        let name = claims.get(claim).and_then(Value::as_str).filter(|name| !name.is_empty());
        let name = name.ok_or_else(|| token_error(format!("has no claim {claim}")))?;
        if claim == "email" && claims.get("email_verified").is_some_and(|v| *v != Value::Bool(true)) {
            return Err(token_error("email not verified"));
        }
        let prefix = match c.username_prefix.as_deref() {
            Some("-") => String::new(),
            Some(prefix) => prefix.to_owned(),
            None if claim == "email" => String::new(),
            None => format!("{}#", c.issuer),
        };
        let groups: Vec<String> = match c.groups_claim.as_ref().and_then(|claim| claims.get(claim)) {
            None | Some(Value::Null) => Vec::new(),
            Some(Value::String(one)) => vec![one.clone()],
            Some(Value::Array(list)) if list.iter().all(Value::is_string) => {
                list.iter().filter_map(|g| g.as_str().map(str::to_owned)).collect()
            }
            Some(_) => return Err(token_error("the groups claim is neither a string nor a list of strings")),
        };
        let groups: Vec<String> = groups.iter().map(|group| format!("{}{group}", c.groups_prefix)).collect();
        // Nobody outside makes somebody of the cluster's own, unless the prefix was chosen so.
        let reserved = |name: &String| name.starts_with("system:");
        let name = format!("{prefix}{name}");
        if prefix.is_empty() && reserved(&name) {
            return Err(token_error("the user's name begins with system:"));
        }
        let groups: Vec<&str> =
            groups.iter().filter(|g| !(c.groups_prefix.is_empty() && reserved(g))).map(String::as_str).collect();
        Ok(UserInfo::new(name, &groups))
    }

    /// Asks the provider for its keys, unless that was just done.
    async fn refresh(&self) -> Result<(), OidcError> {
        let mut asked = self.asked.lock().await;
        if asked.is_some_and(|at| at.elapsed() < REFRESH) {
            return Ok(());
        }
        *asked = Some(Instant::now());
        let at = format!("{}/.well-known/openid-configuration", self.config.issuer.trim_end_matches('/'));
        let found: Discovery = self.get(&at).await?;
        if found.issuer != self.config.issuer {
            return Err(OidcError::Document(at, format!("is of another issuer, {:?}", found.issuer)));
        }
        let keys: JwkSet = self.get(&found.jwks_uri).await?;
        self.keys.store(Arc::new(keys));
        Ok(())
    }

    async fn get<T: DeserializeOwned>(&self, at: &str) -> Result<T, OidcError> {
        let http = |e| OidcError::Http(at.to_owned(), e);
        let unusable = |why: String| OidcError::Document(at.to_owned(), why);
        let answer = self.client.get(at).send().await.and_then(reqwest::Response::error_for_status);
        let mut answer = answer.map_err(http)?;
        let mut bytes = Vec::new();
        while let Some(chunk) = answer.chunk().await.map_err(http)? {
            if bytes.len() + chunk.len() > DOCUMENT_MAX {
                return Err(unusable(format!("is longer than {DOCUMENT_MAX} bytes")));
            }
            bytes.extend_from_slice(&chunk);
        }
        serde_json::from_slice(&bytes).map_err(|e| unusable(e.to_string()))
    }
}

/// The keys that a token may be signed with: those of its key id, or all when it names none.
fn fitting<'k>(keys: &'k JwkSet, kid: Option<&str>) -> Vec<&'k Jwk> {
    keys.keys.iter().filter(|key| kid.is_none() || key.common.key_id.as_deref() == kid).collect()
}
