//! Credentials: given by the caller, or from Docker's `config.json`, so that one `docker login` is enough.

use std::collections::BTreeMap;
use std::fmt;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use base64::Engine as _;
use base64::engine::DecodePaddingMode;
use base64::engine::general_purpose::{GeneralPurpose, GeneralPurposeConfig};
use serde::Deserialize;

use crate::error::{ImageError, Result};
use crate::layout;
use crate::reference::{DEFAULT_REGISTRY, Reference};

/// Docker's key for Docker Hub in `config.json`.
const HUB_KEY: &str = "https://index.docker.io/v1/";
const CONFIG_MAX: u64 = 1 << 20;
/// Credential helpers say so when the user never logged in.
const HELPER_NOT_FOUND: &str = "credentials not found";

/// How to identify to a registry.
#[derive(Clone, PartialEq, Eq)]
pub enum Auth {
    /// User name and password (or access token in its place).
    Basic {
        /// The user.
        username: String,
        /// The password.
        password: String,
    },
    /// An OAuth2 refresh token, exchanged at the registry's token service.
    IdentityToken(String),
    /// A token the registry takes as it is.
    Bearer(String),
}

/// Never shows a secret.
impl fmt::Debug for Auth {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Auth::Basic { username, .. } => write!(f, "Basic({username})"),
            Auth::IdentityToken(_) => f.write_str("IdentityToken"),
            Auth::Bearer(_) => f.write_str("Bearer"),
        }
    }
}

#[derive(Deserialize, Default)]
#[serde(rename_all = "camelCase")]
struct DockerConfig {
    #[serde(default)]
    auths: BTreeMap<String, Entry>,
    #[serde(default)]
    cred_helpers: BTreeMap<String, String>,
    creds_store: Option<String>,
}

#[derive(Deserialize, Default)]
struct Entry {
    auth: Option<String>,
    username: Option<String>,
    password: Option<String>,
    identitytoken: Option<String>,
    registrytoken: Option<String>,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct HelperAnswer {
    username: String,
    secret: String,
}

impl Auth {
    /// The credentials for the reference's registry in a `config.json` (the content of a `kubernetes.io/dockerconfigjson`
    /// secret as well). Credential helpers it names are not run.
    ///
    /// # Errors
    /// When the document cannot be read.
    pub fn from_docker_config(config: &[u8], reference: &Reference) -> Result<Option<Auth>> {
        let config = parse(config, reference)?;
        find(&config, reference)
    }

    /// The credentials the user of this process saved with `docker login`: `$DOCKER_CONFIG/config.json`, else
    /// `~/.docker/config.json`, credential helpers included. Runs programs: not for async code.
    ///
    /// # Errors
    /// When the file cannot be read or a helper fails.
    pub fn saved(reference: &Reference) -> Result<Option<Auth>> {
        match config_path() {
            Some(path) => Self::saved_in(&path, reference),
            None => Ok(None),
        }
    }

    fn saved_in(path: &Path, reference: &Reference) -> Result<Option<Auth>> {
        let Some(bytes) = layout::read_file(path, CONFIG_MAX)? else { return Ok(None) };
        let config = parse(&bytes, reference)?;
        let keys = keys(reference);
        let helper = keys.iter().find_map(|key| config.cred_helpers.get(key)).or(config.creds_store.as_ref());
        if let Some(helper) = helper {
            for key in &keys {
                if let Some(auth) = ask_helper(helper, key, reference)? {
                    return Ok(Some(auth));
                }
            }
        }
        find(&config, reference)
    }
}

fn config_path() -> Option<PathBuf> {
    let dir = match std::env::var_os("DOCKER_CONFIG").filter(|dir| !dir.is_empty()) {
        Some(dir) => PathBuf::from(dir),
        None => PathBuf::from(std::env::var_os("HOME").filter(|home| !home.is_empty())?).join(".docker"),
    };
    Some(dir.join("config.json"))
}

fn failed(reference: &Reference, message: impl Into<String>) -> ImageError {
    ImageError::Credentials { registry: reference.registry().to_owned(), message: message.into() }
}

fn parse(bytes: &[u8], reference: &Reference) -> Result<DockerConfig> {
    // serde's message may quote the document: only where it stopped is told.
    serde_json::from_slice(bytes)
        .map_err(|e| failed(reference, format!("malformed Docker config at line {} column {}", e.line(), e.column())))
}

/// The keys under which a registry may be filed.
fn keys(reference: &Reference) -> Vec<String> {
    let registry = reference.registry();
    if registry == DEFAULT_REGISTRY {
        return [HUB_KEY, "index.docker.io", "docker.io", "registry-1.docker.io"].map(str::to_owned).to_vec();
    }
    vec![registry.to_owned()]
}

fn find(config: &DockerConfig, reference: &Reference) -> Result<Option<Auth>> {
    let keys = keys(reference);
    // Keys are filed with or without scheme and path.
    let bare = |key: &str| {
        let key = key.strip_prefix("https://").or_else(|| key.strip_prefix("http://")).unwrap_or(key);
        key.split('/').next().unwrap_or(key).to_owned()
    };
    let exact = keys.iter().find_map(|key| config.auths.get(key));
    let loose = || config.auths.iter().find(|(key, _)| keys.contains(&bare(key))).map(|(_, entry)| entry);
    let Some(entry) = exact.or_else(loose) else { return Ok(None) };
    if let Some(token) = entry.registrytoken.as_ref().filter(|t| !t.is_empty()) {
        return Ok(Some(Auth::Bearer(token.clone())));
    }
    if let Some(token) = entry.identitytoken.as_ref().filter(|t| !t.is_empty()) {
        return Ok(Some(Auth::IdentityToken(token.clone())));
    }
    if let (Some(username), Some(password)) = (&entry.username, &entry.password) {
        return Ok(Some(Auth::Basic { username: username.clone(), password: password.clone() }));
    }
    let Some(text) = entry.auth.as_ref().filter(|text| !text.is_empty()) else { return Ok(None) };
    let lenient = GeneralPurposeConfig::new().with_decode_padding_mode(DecodePaddingMode::Indifferent);
    let decoded = GeneralPurpose::new(&base64::alphabet::STANDARD, lenient).decode(text.trim());
    let text = decoded.ok().and_then(|bytes| String::from_utf8(bytes).ok());
    let pair = text.as_deref().and_then(|text| text.trim_end_matches('\0').split_once(':'));
    let (username, password) =
        pair.ok_or_else(|| failed(reference, "the auth entry is not base64 of user:password"))?;
    Ok(Some(Auth::Basic { username: username.to_owned(), password: password.to_owned() }))
}

/// `docker-credential-NAME get` (docker-credential-helpers).
fn ask_helper(helper: &str, key: &str, reference: &Reference) -> Result<Option<Auth>> {
    if helper.contains('/') {
        return Err(failed(reference, "a credential helper is named without a path"));
    }
    let program = format!("docker-credential-{helper}");
    let broken = |e: std::io::Error| failed(reference, format!("{program}: {e}"));
    let mut command = Command::new(&program);
    command.arg("get").stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::null());
    let mut child = command.spawn().map_err(broken)?;
    if let Some(mut stdin) = child.stdin.take() {
        // A helper that does not read its input has still to be waited for.
        let _ = stdin.write_all(key.as_bytes());
    }
    let output = child.wait_with_output().map_err(broken)?;
    let text = String::from_utf8_lossy(&output.stdout);
    if !output.status.success() {
        let missing = text.contains(HELPER_NOT_FOUND);
        return if missing { Ok(None) } else { Err(failed(reference, format!("{program}: {}", output.status))) };
    }
    let malformed = || failed(reference, format!("{program}: malformed answer"));
    let answer: HelperAnswer = serde_json::from_slice(&output.stdout).map_err(|_| malformed())?;
    Ok(Some(match answer.username.as_str() {
        "<token>" => Auth::IdentityToken(answer.secret),
        _ => Auth::Basic { username: answer.username, password: answer.secret },
    }))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn basic(username: &str, password: &str) -> Option<Auth> {
        Some(Auth::Basic { username: username.into(), password: password.into() })
    }

    #[test]
    fn the_entry_of_the_registry_is_found_however_it_is_filed() {
        let config = br#"{"auths":{
            "https://index.docker.io/v1/":{"auth":"aHViOnA6dw=="},
            "https://reg.example:5000/v2/":{"auth":"YTpi"},
            "tok.example":{"identitytoken":"t"},
            "plain.example":{"username":"u","password":"p"},
            "empty.example":{}}}"#;
        for (reference, wanted) in [
            ("busybox", basic("hub", "p:w")),
            ("reg.example:5000/a", basic("a", "b")),
            ("tok.example/a", Some(Auth::IdentityToken("t".into()))),
            ("plain.example/a", basic("u", "p")),
            ("empty.example/a", None),
            ("other.example/a", None),
        ] {
            let found = Auth::from_docker_config(config, &reference.parse().unwrap()).unwrap();
            assert_eq!(found, wanted, "{reference}");
        }
    }

    #[test]
    fn a_broken_entry_is_reported_without_its_content() {
        let reference = "r.example/a".parse().unwrap();
        for config in [r#"{"auths":{"r.example":{"auth":"c2VjcmV0"}}}"#, r#"{"auths":"secret"}"#] {
            let error = Auth::from_docker_config(config.as_bytes(), &reference).unwrap_err().to_string();
            assert!(error.contains("r.example") && !error.contains("secret"), "{error}");
        }
        assert!(!format!("{:?}", basic("u", "hidden")).contains("hidden"));
    }
}
