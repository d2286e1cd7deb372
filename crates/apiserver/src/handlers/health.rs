//! What anybody may ask: is it alive, is it ready, which version is it.

use http::{Method, StatusCode};
use serde_json::json;

use crate::http::respond::{self, Reply, Style};
use crate::server::ApiServer;

/// The Kubernetes release whose API is served.
pub const MINOR: &str = "36";

/// Answers public paths, `None` for all others.
pub fn public(server: &ApiServer, method: &Method, path: &str, query: &str, style: Style) -> Option<Reply> {
    let path = if path.len() > 1 { path.trim_end_matches('/') } else { path };
    let (endpoint, single) = match path {
        "/version" => {
            return Some(match *method {
                Method::GET | Method::HEAD => {
                    respond::value(StatusCode::OK, &version(), Style { yaml: false, ..style })
                }
                _ => respond::error(&api::status::ApiError::method_not_allowed_path(), style),
            });
        }
        "/healthz" | "/livez" | "/readyz" => (&path[1..], None),
        _ => {
            let (endpoint, check) = path.strip_prefix('/')?.split_once('/')?;
            (["healthz", "livez", "readyz"].contains(&endpoint).then_some(endpoint)?, Some(check))
        }
    };
    if !matches!(*method, Method::GET | Method::HEAD) {
        return Some(respond::error(&api::status::ApiError::method_not_allowed_path(), style));
    }
    let mut checks = vec![("ping", true)];
    // Every connection is served from the cache; being able to start at all proved that the store could be read.
    checks.push(("watch-cache", server.caches.applied() >= server.caches.store().revision() || endpoint == "livez"));
    if endpoint == "readyz" {
        checks.push(("shutdown", !server.is_draining()));
    }
    if let Some(single) = single {
        let (_, ok) = checks.iter().find(|(name, _)| *name == single)?;
        let code = if *ok { StatusCode::OK } else { StatusCode::INTERNAL_SERVER_ERROR };
        return Some(respond::text(code, if *ok { "ok" } else { "failed" }));
    }
    // Being a moment behind is normal under load; only readiness with a closed door is a failure.
    let failed = server.is_draining() && endpoint == "readyz";
    let code = if failed { StatusCode::INTERNAL_SERVER_ERROR } else { StatusCode::OK };
    let verbose = query.split('&').any(|p| p == "verbose" || p.starts_with("verbose="));
    if !verbose && !failed {
        return Some(respond::text(code, "ok"));
    }
    let mut text = String::new();
    for (name, ok) in checks {
        text.push_str(&format!("[{}]{name} {}\n", if ok { '+' } else { '-' }, if ok { "ok" } else { "failed" }));
    }
    text.push_str(&format!("{endpoint} check {}\n", if failed { "failed" } else { "passed" }));
    Some(respond::text(code, text))
}

/// The version clients compare: the Kubernetes release, and which Windlass serves it.
pub fn git_version() -> String {
    format!("v1.{MINOR}.0+windlass.{}", env!("CARGO_PKG_VERSION"))
}

/// `/version`.
pub fn version() -> serde_json::Value {
    json!({
        "major": "1",
        "minor": MINOR,
        "gitVersion": git_version(),
        "gitCommit": "",
        "gitTreeState": "clean",
        "buildDate": "1970-01-01T00:00:00Z",
        "goVersion": "",
        "compiler": "rustc",
        "platform": format!("linux/{}", if cfg!(target_arch = "aarch64") { "arm64" } else { "amd64" }),
        "emulationMajor": "1",
        "emulationMinor": MINOR,
        "minCompatibilityMajor": "1",
        "minCompatibilityMinor": "35",
    })
}
