//! Images that come and go: pull and push with their progress, load and save.

use std::collections::BTreeMap;
use std::io::Write;
use std::sync::Arc;

use base64::Engine as _;
use bytes::Bytes;
use image::{ArchiveFormat, Auth, ImageError, ProgressEvent, Reference};
use serde::Deserialize;
use serde_json::{Value, json};
use tokio::sync::mpsc;

use crate::face::Face;
use crate::fault::{Fault, Result, blocking};
use crate::http::{Answer, CHUNKS, Call, Reader, Writer, fallible, streaming};
use crate::images::{familiar, found};

/// Steps of a transfer that its client may be behind before some are left out: they are only shown.
const AHEAD: usize = 1024;

/// Who somebody is to a registry, as Docker's clients send it.
#[derive(Default, Deserialize)]
#[serde(default)]
pub struct Credentials {
    username: String,
    password: String,
    auth: String,
    identitytoken: String,
    registrytoken: String,
    /// The registry.
    pub serveraddress: String,
}

impl Credentials {
    /// What a registry takes; `None` for nobody.
    ///
    /// # Errors
    /// 400 for what cannot be read.
    pub fn auth(self) -> Result<Option<Auth>> {
        if !self.registrytoken.is_empty() {
            return Ok(Some(Auth::Bearer(self.registrytoken)));
        }
        if !self.identitytoken.is_empty() {
            return Ok(Some(Auth::IdentityToken(self.identitytoken)));
        }
        if !self.username.is_empty() {
            return Ok(Some(Auth::Basic { username: self.username, password: self.password }));
        }
        if self.auth.is_empty() {
            return Ok(None);
        }
        let invalid = || Fault::bad("invalid X-Registry-Auth header");
        let bytes = base64::engine::general_purpose::STANDARD.decode(&self.auth).ok();
        let pair = bytes.and_then(|b| String::from_utf8(b).ok()).ok_or_else(invalid)?;
        let (username, password) = pair.split_once(':').ok_or_else(invalid)?;
        Ok(Some(Auth::Basic { username: username.to_owned(), password: password.to_owned() }))
    }
}

/// What `X-Registry-Auth` says: base64 of JSON; nothing, and an object of nothing, is nobody.
///
/// # Errors
/// 400 for what cannot be read.
pub fn credentials(header: Option<&str>) -> Result<Option<Auth>> {
    use base64::engine::general_purpose::{STANDARD, URL_SAFE, URL_SAFE_NO_PAD};
    let Some(text) = header.filter(|h| !h.is_empty()) else { return Ok(None) };
    let invalid = || Fault::bad("invalid X-Registry-Auth header");
    let bytes = [URL_SAFE, URL_SAFE_NO_PAD, STANDARD].iter().find_map(|e| e.decode(text).ok()).ok_or_else(invalid)?;
    let given: Credentials = serde_json::from_slice(&bytes).map_err(|_| invalid())?;
    given.auth()
}

/// What had come of an image that did not fit: others need the room more than the next try does.
async fn give_back(face: &Arc<Face>) {
    let of = face.clone();
    if let Err(error) = blocking(move || of.engine.images().collect_content()).await {
        tracing::warn!(%error, "what had come of an image stays on a full disk");
    }
}

fn line(value: &Value) -> Bytes {
    Bytes::from(format!("{value}\r\n"))
}

fn status(text: impl Into<String>) -> Value {
    json!({ "status": text.into() })
}

/// What a client shows of a step.
fn step(event: ProgressEvent, push: bool) -> Option<Value> {
    let short = |digest: &image::Digest| digest.hex()[..12].to_owned();
    Some(match event {
        ProgressEvent::Exists { digest } if push => {
            json!({ "status": "Layer already exists", "progressDetail": {}, "id": short(&digest) })
        }
        ProgressEvent::Exists { digest } => {
            json!({ "status": "Already exists", "progressDetail": {}, "id": short(&digest) })
        }
        ProgressEvent::Transfer { digest, done, total } => json!({
            "status": if push { "Pushing" } else { "Downloading" },
            "progressDetail": { "current": done, "total": total }, "id": short(&digest),
        }),
        ProgressEvent::Retry { digest, reason } => {
            json!({ "status": format!("Retrying: {reason}"), "progressDetail": {}, "id": short(&digest) })
        }
        ProgressEvent::Unpacking { digest } => {
            json!({ "status": "Extracting", "progressDetail": {}, "id": short(&digest) })
        }
        ProgressEvent::Done { digest } => json!({
            "status": if push { "Pushed" } else { "Pull complete" }, "progressDetail": {}, "id": short(&digest),
        }),
        _ => return None,
    })
}

/// Hands steps on to a client that may be slow.
fn progress(tx: mpsc::Sender<Bytes>, push: bool) -> impl Fn(ProgressEvent) + Send + Sync {
    move |event| {
        if let Some(value) = step(event, push) {
            // Full: the next step says more than this one.
            let _ = tx.try_send(line(&value));
        }
    }
}

fn error_line(error: &ImageError) -> Bytes {
    let text = base::chain(error);
    line(&json!({ "errorDetail": { "message": text }, "error": text }))
}

/// `POST /images/create`: pull, or import.
///
/// # Errors
/// 400 for names that are none; what the registry says is in the stream, and before anything was sent in the status.
pub async fn pull(call: Call) -> Result<Answer> {
    if call.query.get("fromSrc").is_some() {
        return crate::images::making::import(call).await;
    }
    crate::containers::check::platform(&call.query)?;
    let name = call.query.get("fromImage").ok_or_else(|| Fault::bad("invalid reference format"))?;
    let whole = match call.query.get("tag") {
        Some(tag) if tag.contains(':') => format!("{name}@{tag}"),
        Some(tag) => format!("{name}:{tag}"),
        None => name.to_owned(),
    };
    let reference: Reference = whole.parse::<Reference>().map_err(Fault::from)?;
    let auth = credentials(call.header("x-registry-auth"))?;
    let (tx, mut rx) = mpsc::channel(AHEAD);
    let (face, sender) = (call.face.clone(), tx.clone());
    let selector =
        reference.digest().map_or_else(|| reference.tag().unwrap_or("latest").to_owned(), ToString::to_string);
    let from = json!({ "status": format!("Pulling from {}", reference.path()), "id": selector });
    // Dropped with the client: what was downloaded is kept for the next pull.
    tokio::spawn(async move {
        let before = face.engine.images().get(&reference.to_string()).ok().flatten();
        let (show, normal) = (progress(sender, false), reference.to_string());
        let result = tokio::select! {
            result = face.engine.images().pull(&normal, auth, &show) => result,
            () = tx.closed() => return,
        };
        let info = match result {
            Ok(info) => info,
            Err(error) => {
                if matches!(error, ImageError::NoSpace(_)) {
                    give_back(&face).await;
                }
                return drop(tx.send(error_line(&error)).await);
            }
        };
        let digest =
            info.repo_digests.iter().find_map(|d| d.split_once('@')).map_or_else(String::new, |(_, d)| d.to_owned());
        let shown = reference.familiar();
        let new = before.is_none_or(|b| b.id != info.id);
        let words = if new { "Downloaded newer image for" } else { "Image is up to date for" };
        for value in [status(format!("Digest: {digest}")), status(format!("Status: {words} {shown}"))] {
            let _ = tx.send(line(&value)).await;
        }
        face.events.tell("image", "pull", &shown, BTreeMap::from([("name".to_owned(), reference.familiar_name())]));
    });
    // The first word decides the status: a client that only looks at that must not take a failure for an image.
    let first = rx.recv().await.unwrap_or_default();
    if let Ok(value) = serde_json::from_slice::<Value>(&first)
        && let Some(message) = value["error"].as_str()
    {
        let missing = ["not found", "access denied", "no image for"].iter().any(|w| message.contains(w));
        let code = if missing { http::StatusCode::NOT_FOUND } else { http::StatusCode::INTERNAL_SERVER_ERROR };
        return Err(Fault::new(code, message));
    }
    let (out, stream) = mpsc::channel(CHUNKS);
    tokio::spawn(async move {
        for bytes in [line(&from), first] {
            if out.send(bytes).await.is_err() {
                return;
            }
        }
        while let Some(bytes) = rx.recv().await {
            if out.send(bytes).await.is_err() {
                return;
            }
        }
    });
    Ok(streaming("application/json", stream))
}

/// `POST /images/{name}/push`.
///
/// # Errors
/// 404, 400 for a name that is none; what the registry says is in the stream.
pub async fn push(call: Call, name: &str) -> Result<Answer> {
    let whole = match call.query.get("tag") {
        Some(tag) => format!("{name}:{tag}"),
        None => name.to_owned(),
    };
    let reference: Reference = whole.parse::<Reference>().map_err(Fault::from)?;
    let missing =
        |_| Fault::missing(format!("An image does not exist locally with the tag: {}", reference.familiar_name()));
    found(&call.face, &reference.to_string()).await.map_err(missing)?;
    let auth = credentials(call.header("x-registry-auth"))?;
    let (tx, rx) = mpsc::channel(AHEAD);
    let (face, sender) = (call.face.clone(), tx.clone());
    tokio::spawn(async move {
        let to = status(format!("The push refers to repository [{}]", reference.repository()));
        let _ = tx.send(line(&to)).await;
        let (show, normal) = (progress(sender, true), reference.to_string());
        let result = tokio::select! {
            result = face.engine.images().push(&normal, auth, &show) => result,
            () = tx.closed() => return,
        };
        match result {
            Ok(digest) => {
                let tag = reference.tag().unwrap_or_default();
                let _ = tx.send(line(&status(format!("{tag}: digest: {digest}")))).await;
                let _ = tx
                    .send(line(&json!({ "progressDetail": {}, "aux": { "Tag": tag, "Digest": digest.to_string() } })))
                    .await;
                face.events.tell("image", "push", &reference.familiar(), BTreeMap::new());
            }
            Err(error) => drop(tx.send(error_line(&error)).await),
        }
    });
    Ok(streaming("application/json", rx))
}

/// `POST /images/load`.
///
/// # Errors
/// 400 for what is no archive of images.
pub async fn load(call: Call) -> Result<Answer> {
    crate::containers::check::platform(&call.query)?;
    let face = call.face.clone();
    let reader = Reader::new(call.chunks());
    let of = face.clone();
    let loaded = blocking(move || of.engine.images().load("the archive", reader)).await?;
    let mut text = String::new();
    for info in loaded {
        let names: Vec<String> = info.references.iter().map(|r| familiar(r)).collect();
        let words = match names.is_empty() {
            true => format!("Loaded image ID: {}\n", info.id),
            false => names.iter().map(|n| format!("Loaded image: {n}\n")).collect(),
        };
        text.push_str(&format!("{}\r\n", json!({ "stream": words })));
        face.events.tell("image", "load", &info.id.to_string(), BTreeMap::new());
    }
    let mut answer = http::Response::new(crate::http::whole(text));
    answer.headers_mut().insert(http::header::CONTENT_TYPE, http::HeaderValue::from_static("application/json"));
    Ok(answer)
}

/// `GET /images/get` and `GET /images/{name}/get`.
///
/// # Errors
/// 404 before anything is sent.
pub async fn save(call: Call, names: Vec<String>) -> Result<Answer> {
    crate::containers::check::platform(&call.query)?;
    if names.is_empty() {
        return Err(Fault::bad("no images to save"));
    }
    for name in &names {
        found(&call.face, name).await?;
    }
    let (tx, rx) = mpsc::channel(CHUNKS);
    let face: Arc<Face> = call.face.clone();
    tokio::task::spawn_blocking(move || {
        let names: Vec<&str> = names.iter().map(String::as_str).collect();
        let failed = Writer::new(tx.clone());
        let saved = face.engine.images().save_to(&names, Writer::new(tx), ArchiveFormat::Docker);
        let flushed = saved.map_err(|e| std::io::Error::other(base::chain(&e))).and_then(|mut writer| writer.flush());
        if let Err(error) = flushed {
            failed.fail(error);
        }
    });
    Ok(fallible("application/x-tar", rx))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn credentials_come_as_base64_of_json() {
        let read = |json: &str| credentials(Some(&base64::engine::general_purpose::URL_SAFE.encode(json)));
        assert_eq!(read("{}").unwrap(), None);
        let basic = Auth::Basic { username: "u".into(), password: "p".into() };
        assert_eq!(read(r#"{"username":"u","password":"p"}"#).unwrap(), Some(basic));
        assert_eq!(read(r#"{"identitytoken":"t"}"#).unwrap(), Some(Auth::IdentityToken("t".into())));
        assert!(credentials(Some("{")).is_err());
    }
}
