//! The registry's HTTP API (OCI distribution-spec 1.1), with Docker's token authentication.

mod challenge;

use std::sync::OnceLock;
use std::time::Duration;

use reqwest::header::{ACCEPT, AUTHORIZATION, CONTENT_TYPE, HeaderMap, HeaderValue, LOCATION, RANGE, WWW_AUTHENTICATE};
use reqwest::{Client, Method, RequestBuilder, Response, StatusCode, Url};
use serde::Deserialize;
use tokio::sync::Mutex;

use crate::auth::Auth;
use crate::digest::Digest;
use crate::error::{ImageError, Result};
use crate::manifest;
use crate::reference::{DEFAULT_REGISTRY, Reference};
use crate::store::ImageStore;
use challenge::Challenge;

const HUB_HOST: &str = "registry-1.docker.io";
const CONNECT_TIMEOUT: Duration = Duration::from_secs(15);
/// Longest silence in the middle of an answer.
const READ_TIMEOUT: Duration = Duration::from_secs(60);
const ERROR_BODY_MAX: u64 = 64 << 10;
const TOKEN_BODY_MAX: u64 = 1 << 20;

/// HTTP clients, made when first needed: one reads the host's root certificates, which may be missing where only a
/// registry on loopback is used.
#[derive(Debug, Default)]
pub(crate) struct Http {
    outside: OnceLock<Result<Client, String>>,
    loopback: OnceLock<Result<Client, String>>,
}

impl Http {
    /// For a host of the web, or of this machine.
    pub(crate) fn client_for(&self, host: &str) -> Result<Client, String> {
        let ip = host.trim_matches(['[', ']']).parse::<std::net::IpAddr>();
        self.client(host == "localhost" || ip.is_ok_and(|ip| ip.is_loopback()))
    }

    pub(crate) fn client(&self, loopback: bool) -> Result<Client, String> {
        let cell = if loopback { &self.loopback } else { &self.outside };
        cell.get_or_init(|| build(loopback)).clone()
    }
}

fn build(loopback: bool) -> Result<Client, String> {
    // Whoever comes first installs the provider; all of Windlass uses the same one.
    let _ = rustls::crypto::ring::default_provider().install_default();
    let no_downgrade = reqwest::redirect::Policy::custom(|attempt| {
        let secure = attempt.previous().last().is_some_and(|url| url.scheme() == "https");
        if secure && attempt.url().scheme() != "https" {
            attempt.error("redirected from https to plain http")
        } else if attempt.previous().len() > 5 {
            attempt.error("too many redirects")
        } else {
            attempt.follow()
        }
    });
    let mut builder = Client::builder()
        .user_agent(concat!("windlass/", env!("CARGO_PKG_VERSION")))
        .connect_timeout(CONNECT_TIMEOUT)
        .read_timeout(READ_TIMEOUT)
        .redirect(no_downgrade);
    if loopback {
        builder = builder.no_proxy().tls_certs_only([]);
    }
    builder.build().map_err(|e| base::chain(&e))
}

/// What authorizes the next request.
#[derive(Clone, PartialEq, Eq)]
enum Grant {
    None,
    Basic { username: String, password: String },
    Bearer(String),
}

/// A conversation about one repository.
pub(crate) struct Registry {
    client: Client,
    base: Url,
    reference: Reference,
    auth: Option<Auth>,
    push: bool,
    /// Other repositories to read from, for mounts.
    mount_from: Option<String>,
    grant: Mutex<Grant>,
}

/// A manifest as the registry gave it.
pub(crate) struct Fetched {
    pub(crate) bytes: Vec<u8>,
    pub(crate) media_type: String,
    pub(crate) digest: Digest,
}

#[derive(Deserialize)]
struct TokenAnswer {
    token: Option<String>,
    access_token: Option<String>,
}

#[derive(Deserialize)]
struct ErrorAnswer {
    errors: Vec<ErrorEntry>,
}

#[derive(Deserialize)]
struct ErrorEntry {
    #[serde(default)]
    code: String,
    #[serde(default)]
    message: String,
}

impl Registry {
    pub(crate) fn connect(store: &ImageStore, reference: &Reference, auth: Option<Auth>, push: bool) -> Result<Self> {
        let name = reference.registry();
        let plain = reference.is_loopback() || store.options.insecure_registries.contains(name);
        let host = if name == DEFAULT_REGISTRY { HUB_HOST } else { name };
        let base = format!("{}://{host}/v2/", if plain { "http" } else { "https" });
        let network = |message: String| ImageError::Network { url: base.clone(), message };
        let client = store.http.client(reference.is_loopback()).map_err(network)?;
        let base = Url::parse(&base).map_err(|e| network(e.to_string()))?;
        Ok(Registry { push, ..Self::at(client, base, reference.clone(), auth) })
    }

    /// To read a repository of the registry at an address.
    pub(crate) fn at(client: Client, base: Url, reference: Reference, auth: Option<Auth>) -> Self {
        let grant = match &auth {
            Some(Auth::Bearer(token)) => Grant::Bearer(token.clone()),
            _ => Grant::None,
        };
        Registry { client, base, reference, auth, push: false, mount_from: None, grant: Mutex::new(grant) }
    }

    /// Layers may be mounted from this repository of the same registry.
    pub(crate) fn mount_from(mut self, path: Option<String>) -> Self {
        self.mount_from = path;
        self
    }

    fn url(&self, rest: &str) -> Result<Url> {
        let path = format!("{}/{rest}", self.reference.path());
        self.base.join(&path).map_err(|e| ImageError::Network { url: path, message: e.to_string() })
    }

    /// Sends a request, made anew by `make` when the registry asks for authorization first.
    async fn send(&self, make: impl Fn(&Client) -> RequestBuilder) -> Result<Response> {
        let grant = self.grant.lock().await.clone();
        let response = execute(authorize(make(&self.client), &grant)).await?;
        if response.status() != StatusCode::UNAUTHORIZED {
            return Ok(response);
        }
        let Some(challenge) = Challenge::choose(response.headers().get_all(WWW_AUTHENTICATE)) else {
            return Err(self.denied());
        };
        let fresh = self.authenticate(&challenge, &grant).await?;
        let response = execute(authorize(make(&self.client), &fresh)).await?;
        match (response.status(), &fresh) {
            (StatusCode::UNAUTHORIZED, Grant::Basic { .. }) => {
                let registry = self.reference.registry().to_owned();
                let (_, message) = error_text(response).await;
                Err(ImageError::Unauthorized { registry, message })
            }
            (StatusCode::UNAUTHORIZED, _) => Err(self.denied()),
            _ => Ok(response),
        }
    }

    fn denied(&self) -> ImageError {
        let action = if self.push { "push" } else { "pull" };
        ImageError::AccessDenied { action, repository: self.reference.familiar_name() }
    }

    /// A grant that answers the challenge; one request at a time, the others wait for its outcome.
    async fn authenticate(&self, challenge: &Challenge, refused: &Grant) -> Result<Grant> {
        let mut grant = self.grant.lock().await;
        if *grant != *refused {
            return Ok(grant.clone());
        }
        *grant = match (challenge, &self.auth) {
            (_, Some(Auth::Bearer(_))) => return Err(self.denied()),
            (Challenge::Basic, Some(Auth::Basic { username, password })) if *refused == Grant::None => {
                Grant::Basic { username: username.clone(), password: password.clone() }
            }
            (Challenge::Basic, _) => return Err(self.denied()),
            (Challenge::Bearer { realm, service }, auth) => {
                Grant::Bearer(self.token(realm, service.as_deref(), auth.as_ref()).await?)
            }
        };
        Ok(grant.clone())
    }

    async fn token(&self, realm: &str, service: Option<&str>, auth: Option<&Auth>) -> Result<String> {
        let url =
            Url::parse(realm).map_err(|e| ImageError::Network { url: realm.to_owned(), message: e.to_string() })?;
        if url.scheme() != "https" && self.base.scheme() == "https" {
            let message = "the registry wants credentials sent without TLS".to_owned();
            return Err(ImageError::Network { url: realm.to_owned(), message });
        }
        let actions = if self.push { "pull,push" } else { "pull" };
        let mut pairs = Vec::new();
        // Who only logs in asks for no repository.
        if !self.reference.path().is_empty() {
            pairs.push(("scope", format!("repository:{}:{actions}", self.reference.path())));
        }
        pairs.extend(self.mount_from.iter().map(|path| ("scope", format!("repository:{path}:pull"))));
        pairs.extend(service.map(|service| ("service", service.to_owned())));
        let request = match auth {
            Some(Auth::IdentityToken(token)) => {
                // Several scopes are one field here, separated by spaces (distribution, token/oauth.md).
                let scopes: Vec<&str> = pairs.iter().filter(|(k, _)| *k == "scope").map(|(_, v)| v.as_str()).collect();
                let mut form = url::form_urlencoded::Serializer::new(String::new());
                form.append_pair("grant_type", "refresh_token").append_pair("refresh_token", token);
                form.append_pair("client_id", "windlass").append_pair("scope", &scopes.join(" "));
                form.append_pair("service", service.unwrap_or_default());
                let form_type = "application/x-www-form-urlencoded";
                self.client.post(url.clone()).header(CONTENT_TYPE, form_type).body(form.finish())
            }
            Some(Auth::Basic { username, password }) => {
                self.client.get(url.clone()).query(&pairs).basic_auth(username, Some(password))
            }
            _ => self.client.get(url.clone()).query(&pairs),
        };
        let response = execute(request).await?;
        match response.status() {
            StatusCode::OK => {}
            StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN | StatusCode::BAD_REQUEST if auth.is_some() => {
                let registry = url.host_str().unwrap_or(realm).to_owned();
                let (_, message) = error_text(response).await;
                return Err(ImageError::Unauthorized { registry, message });
            }
            StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN => return Err(self.denied()),
            _ => return Err(failure(response).await),
        }
        let bytes = read_body(response, TOKEN_BODY_MAX).await?;
        let answer: TokenAnswer = serde_json::from_slice(&bytes)
            .map_err(|_| ImageError::document(format!("token from {}", shown(&url)), "malformed answer"))?;
        let token = answer.token.or(answer.access_token).filter(|token| !token.is_empty());
        token.ok_or_else(|| ImageError::document(format!("token from {}", shown(&url)), "no token in the answer"))
    }

    /// The error of an answer that is none of those expected.
    async fn fail(&self, response: Response) -> ImageError {
        match response.status() {
            StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN => self.denied(),
            _ => failure(response).await,
        }
    }

    /// A manifest or index by tag or digest, checked when it is a digest.
    pub(crate) async fn manifest(&self, selector: &str, max: u64) -> Result<Fetched> {
        let url = self.url(&format!("manifests/{selector}"))?;
        let response = self.send(|c| c.get(url.clone()).header(ACCEPT, manifest::ACCEPT)).await?;
        match response.status() {
            StatusCode::OK => {}
            StatusCode::NOT_FOUND => return Err(ImageError::ManifestUnknown(self.reference.familiar())),
            _ => return Err(self.fail(response).await),
        }
        let media_type = header(response.headers(), CONTENT_TYPE.as_str()).unwrap_or_default();
        let announced = header(response.headers(), "docker-content-digest");
        let bytes = read_body(response, max).await?;
        let digest = Digest::of(&bytes);
        // The digest asked for is a promise to the caller; the header is only the registry's own opinion.
        let promised = [Some(selector), announced.as_deref()];
        for expected in promised.into_iter().flatten().filter_map(|text| text.parse::<Digest>().ok()) {
            if expected != digest {
                let what = format!("manifest of {}", self.reference.familiar());
                return Err(ImageError::DigestMismatch { what, expected, actual: digest });
            }
        }
        let media_type = media_type.split(';').next().unwrap_or_default().trim().to_owned();
        Ok(Fetched { bytes, media_type, digest })
    }

    /// Whether the registry takes the credentials (distribution-spec, end-1).
    pub(crate) async fn login(&self) -> Result<()> {
        let response = self.send(|c| c.get(self.base.clone())).await?;
        match response.status() {
            StatusCode::OK => Ok(()),
            _ => Err(self.fail(response).await),
        }
    }

    /// A blob from that byte on; the answer may begin at 0 all the same (200 instead of 206).
    pub(crate) async fn blob(&self, digest: &Digest, offset: u64) -> Result<Response> {
        let url = self.url(&format!("blobs/{digest}"))?;
        let response = self
            .send(|c| match offset {
                0 => c.get(url.clone()),
                _ => c.get(url.clone()).header(RANGE, format!("bytes={offset}-")),
            })
            .await?;
        match response.status() {
            StatusCode::OK | StatusCode::PARTIAL_CONTENT | StatusCode::RANGE_NOT_SATISFIABLE => Ok(response),
            _ => Err(self.fail(response).await),
        }
    }

    pub(crate) async fn has_blob(&self, digest: &Digest) -> Result<bool> {
        Ok(self.blob_size(digest).await?.is_some())
    }

    /// The size of a blob, 0 if it is not said; `None` when there is none such.
    pub(crate) async fn blob_size(&self, digest: &Digest) -> Result<Option<u64>> {
        let url = self.url(&format!("blobs/{digest}"))?;
        let response = self.send(|c| c.head(url.clone())).await?;
        let said = || header(response.headers(), "content-length").and_then(|text| text.parse().ok());
        match response.status() {
            StatusCode::OK => Ok(Some(said().unwrap_or(0))),
            StatusCode::NOT_FOUND => Ok(None),
            _ => Err(self.fail(response).await),
        }
    }

    /// What a tag or digest stands for, without the manifest; `None` when the registry does not say it.
    pub(crate) async fn resolve(&self, selector: &str) -> Result<Option<Digest>> {
        let url = self.url(&format!("manifests/{selector}"))?;
        let response = self.send(|c| c.head(url.clone()).header(ACCEPT, manifest::ACCEPT)).await?;
        match response.status() {
            StatusCode::OK => {}
            StatusCode::NOT_FOUND => return Err(ImageError::ManifestUnknown(self.reference.familiar())),
            _ => return Err(self.fail(response).await),
        }
        Ok(header(response.headers(), "docker-content-digest").and_then(|text| text.parse().ok()))
    }

    /// Another document of the repository.
    pub(crate) async fn get(&self, rest: &str) -> Result<Response> {
        let url = self.url(rest)?;
        let response = self.send(|c| c.get(url.clone())).await?;
        match response.status() {
            StatusCode::OK => Ok(response),
            _ => Err(self.fail(response).await),
        }
    }

    /// Where to upload a blob to; `None` when the registry mounted it from the other repository.
    pub(crate) async fn start_upload(&self, digest: &Digest) -> Result<Option<Url>> {
        let mut url = self.url("blobs/uploads/")?;
        if let Some(from) = &self.mount_from {
            url.query_pairs_mut().append_pair("mount", digest.as_str()).append_pair("from", from);
        }
        let response = self.send(|c| c.post(url.clone()).header("content-length", "0")).await?;
        match response.status() {
            StatusCode::CREATED => Ok(None),
            StatusCode::ACCEPTED => {
                let missing = || ImageError::document(shown(&url), "an upload without a location");
                let location = header(response.headers(), LOCATION.as_str()).ok_or_else(missing)?;
                let mut target = response.url().join(&location).map_err(|_| missing())?;
                target.query_pairs_mut().append_pair("digest", digest.as_str());
                Ok(Some(target))
            }
            _ => Err(self.fail(response).await),
        }
    }

    /// Uploads the whole blob in one request.
    pub(crate) async fn upload(&self, target: Url, len: u64, body: impl Fn() -> reqwest::Body) -> Result<()> {
        // A location may be elsewhere: the grant is for the registry only.
        let same = target.origin() == self.base.origin();
        let request = |c: &Client| {
            let request = c.put(target.clone()).header(CONTENT_TYPE, "application/octet-stream");
            request.header("content-length", len).body(body())
        };
        let response = if same { self.send(request).await? } else { execute(request(&self.client)).await? };
        match response.status() {
            StatusCode::CREATED => Ok(()),
            _ => Err(self.fail(response).await),
        }
    }

    pub(crate) async fn put_manifest(&self, selector: &str, media_type: &str, bytes: &[u8]) -> Result<()> {
        let url = self.url(&format!("manifests/{selector}"))?;
        let body = bytes.to_vec();
        let make = |c: &Client| c.request(Method::PUT, url.clone()).header(CONTENT_TYPE, media_type).body(body.clone());
        let response = self.send(make).await?;
        match response.status() {
            StatusCode::CREATED | StatusCode::OK => Ok(()),
            _ => Err(self.fail(response).await),
        }
    }
}

/// Whether a header of a registry asks for something that can be given.
pub(crate) fn challenge(header: &HeaderValue) -> bool {
    Challenge::choose([header]).is_some()
}

fn authorize(request: RequestBuilder, grant: &Grant) -> RequestBuilder {
    match grant {
        Grant::None => request,
        Grant::Basic { username, password } => request.basic_auth(username, Some(password)),
        Grant::Bearer(token) => request.header(AUTHORIZATION, format!("Bearer {token}")),
    }
}

async fn execute(request: RequestBuilder) -> Result<Response> {
    request.send().await.map_err(network)
}

/// The chain of causes, and the URL without its query: that of a blob store holds a signature.
pub(crate) fn network(error: reqwest::Error) -> ImageError {
    let url = error.url().map_or_else(|| "registry".to_owned(), shown);
    ImageError::Network { url, message: base::chain(&error.without_url()) }
}

fn shown(url: &Url) -> String {
    format!("{}://{}{}", url.scheme(), url.authority(), url.path())
}

fn header(headers: &HeaderMap, name: &str) -> Option<String> {
    headers.get(name)?.to_str().ok().map(str::to_owned)
}

pub(crate) async fn read_body(mut response: Response, max: u64) -> Result<Vec<u8>> {
    let url = shown(response.url());
    let mut bytes = Vec::new();
    while let Some(chunk) = response.chunk().await.map_err(network)? {
        if (bytes.len() + chunk.len()) as u64 > max {
            return Err(ImageError::TooLarge { what: url, limit: max, unit: "bytes" });
        }
        bytes.extend_from_slice(&chunk);
    }
    Ok(bytes)
}

pub(crate) async fn failure(response: Response) -> ImageError {
    let url = shown(response.url());
    let (status, message) = error_text(response).await;
    ImageError::Registry { url, status, message }
}

/// Status and the registry's own words, on one line and not long.
async fn error_text(response: Response) -> (u16, String) {
    let status = response.status();
    let bytes = read_body(response, ERROR_BODY_MAX).await.unwrap_or_default();
    let message = match serde_json::from_slice::<ErrorAnswer>(&bytes) {
        Ok(answer) if !answer.errors.is_empty() => {
            let text = |e: &ErrorEntry| if e.message.is_empty() { e.code.to_lowercase() } else { e.message.clone() };
            answer.errors.iter().map(text).collect::<Vec<_>>().join("; ")
        }
        _ => String::from_utf8_lossy(&bytes).trim().to_owned(),
    };
    let message: String = message.chars().map(|c| if c.is_control() { ' ' } else { c }).take(300).collect();
    let reason = status.canonical_reason().unwrap_or("error");
    (status.as_u16(), if message.is_empty() { reason.to_owned() } else { message })
}
