//! Which handler answers. Paths begin with a version, or stand for the newest.

use std::sync::Arc;

use http::{HeaderValue, Method, Request, StatusCode, header};
use hyper::body::Incoming;

use crate::containers::{archive, attach, control, create, exec, inspect, list, logs, stats};
use crate::face::Face;
use crate::fault::{Fault, Result};
use crate::http::{Answer, Call, empty, fault, json};
use crate::images::transfer;
use crate::query::Query;
use crate::{API_MAX, API_MIN, Version};
use crate::{images, networks, swarm, system, volumes};

/// A part of a path without its escapes (RFC 3986, section 2.1); what then is not UTF-8 names nothing that there is.
fn decode(text: &str) -> String {
    let (mut bytes, mut rest) = (Vec::with_capacity(text.len()), text.as_bytes());
    while let Some((&first, left)) = rest.split_first() {
        let hex = |digits: &&[u8]| first == b'%' && digits.iter().all(u8::is_ascii_hexdigit);
        let escaped = left.get(..2).filter(hex).and_then(|d| std::str::from_utf8(d).ok());
        match escaped.and_then(|d| u8::from_str_radix(d, 16).ok()) {
            Some(byte) => {
                bytes.push(byte);
                rest = &left[2..];
            }
            None => {
                bytes.push(first);
                rest = left;
            }
        }
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

/// Answers a request.
pub async fn answer(face: Arc<Face>, request: Request<Incoming>) -> Answer {
    let mut answer = match dispatch(face, request).await {
        Ok(answer) => answer,
        Err(error) => {
            if error.status.is_server_error() {
                tracing::debug!(error = %error, "a request to the Docker API failed");
            }
            fault(&error)
        }
    };
    let headers = answer.headers_mut();
    if let Ok(version) = HeaderValue::from_str(&API_MAX.to_string()) {
        headers.insert("api-version", version);
    }
    headers.insert("ostype", HeaderValue::from_static("linux"));
    headers.insert("docker-experimental", HeaderValue::from_static("false"));
    // Clients that can go BuildKit's way; those that cannot go the classic one.
    headers.insert("builder-version", HeaderValue::from_static("2"));
    headers.insert(header::SERVER, HeaderValue::from_static(concat!("Windlass/", env!("CARGO_PKG_VERSION"))));
    answer
}

/// The version that a path begins with, and the rest.
fn version(path: &str) -> Result<(Version, &str)> {
    let Some((first, rest)) = path.strip_prefix("/v").and_then(|p| p.split_once('/')) else {
        return Ok((API_MAX, path.trim_start_matches('/')));
    };
    let numbers = first.split_once('.').and_then(|(a, b)| Some((a.parse().ok()?, b.parse().ok()?)));
    let Some((major, minor)) = numbers else { return Ok((API_MAX, path.trim_start_matches('/'))) };
    let asked = Version(major, minor);
    if asked < API_MIN {
        return Err(Fault::bad(format!(
            "client version {asked} is too old. Minimum supported API version is {API_MIN}, please upgrade your client to a newer version"
        )));
    }
    if asked > API_MAX {
        return Err(Fault::bad(format!(
            "client version {asked} is too new. Maximum supported API version is {API_MAX}"
        )));
    }
    Ok((asked, rest))
}

/// The parts of a path, for the fuzz target.
pub fn fuzzed(path: &str) -> Result<Vec<String>> {
    let (_, rest) = version(path)?;
    Ok(rest.trim_end_matches('/').split('/').map(decode).collect())
}

async fn dispatch(face: Arc<Face>, request: Request<Incoming>) -> Result<Answer> {
    let path = request.uri().path().to_owned();
    let (version, rest) = version(&path)?;
    let query = Query::parse(request.uri().query().unwrap_or_default());
    let parts: Vec<String> = rest.trim_end_matches('/').split('/').map(decode).collect();
    let method = request.method().clone();
    let parts: Vec<&str> = parts.iter().map(String::as_str).collect();
    let call = Call { face, version, query, request };
    match parts[..] {
        ["containers", ..] => containers(call, &method, &parts[1..]).await,
        ["images", ..] => of_images(call, &method, &parts[1..]).await,
        ["exec", ..] => execs(call, &method, &parts[1..]).await,
        ["volumes", ..] => of_volumes(call, &method, &parts[1..]).await,
        ["networks", ..] => networks::respond(call, &method, &parts[1..]).await,
        [kind, ..] if swarm::KINDS.contains(&kind) => swarm::respond(call, &method, &parts).await,
        _ => others(call, &method, &parts).await,
    }
}

fn no_page() -> Fault {
    Fault::missing("page not found")
}

async fn containers(call: Call, method: &Method, parts: &[&str]) -> Result<Answer> {
    // Who names none of Docker's own may mean one of a pod.
    if parts == ["json"] || (!matches!(parts, ["create" | "prune"]) && call.face.container(parts[0]).is_err()) {
        crate::containers::pods::refresh(&call.face).await?;
    }
    match (method.as_str(), parts) {
        ("GET", ["json"]) => list::respond(call).await,
        ("POST", ["create"]) => create::create(call).await,
        ("POST", ["prune"]) => control::prune(call).await,
        ("DELETE", [id]) => control::remove(call, id).await,
        ("GET", [id, "json"]) => inspect::respond(call, id).await,
        ("GET", [id, "logs"]) => logs::respond(call, id).await,
        ("GET", [id, "top"]) => control::top(call, id).await,
        ("GET", [id, "stats"]) => stats::respond(call, id).await,
        ("GET", [id, "changes"]) => archive::changes(call, id).await,
        ("GET", [id, "export"]) => archive::export(call, id).await,
        ("HEAD", [id, "archive"]) => archive::stat(call, id).await,
        ("GET", [id, "archive"]) => archive::get(call, id).await,
        ("PUT", [id, "archive"]) => archive::put(call, id).await,
        ("POST", [id, "start"]) => control::start(call, id).await,
        ("POST", [id, "stop"]) => control::stop(call, id).await,
        ("POST", [id, "restart"]) => control::restart(call, id).await,
        ("POST", [id, "kill"]) => control::kill(call, id).await,
        ("POST", [id, "pause"]) => control::freeze(call, id, true).await,
        ("POST", [id, "unpause"]) => control::freeze(call, id, false).await,
        ("POST", [id, "rename"]) => control::rename(call, id).await,
        ("POST", [id, "resize"]) => control::resize(call, id).await,
        ("POST", [id, "update"]) => control::update(call, id).await,
        ("POST", [id, "wait"]) => control::wait(&call, id),
        ("POST", [id, "attach"]) => attach::attach(call, id).await,
        ("POST", [id, "exec"]) => exec::create(call, id).await,
        ("GET", [_, "attach", "ws"]) => Err(Fault::unsupported("attaching by WebSocket")),
        (_, [_, "checkpoints", ..]) => Err(Fault::unsupported("checkpoint and restore")),
        _ => Err(no_page()),
    }
}

async fn of_images(call: Call, method: &Method, parts: &[&str]) -> Result<Answer> {
    // Names have slashes: the verb is what stands at the end.
    let (last, before) = parts.split_last().unwrap_or((&"", &[]));
    let name = before.join("/");
    match (method.as_str(), parts) {
        ("GET", ["json"]) => return images::list(call).await,
        ("POST", ["create"]) => return transfer::pull(call).await,
        ("POST", ["load"]) => return transfer::load(call).await,
        ("POST", ["prune"]) => return images::prune(call).await,
        ("GET", ["get"]) => {
            let names = call.query.all("names").map(str::to_owned).collect();
            return transfer::save(call, names).await;
        }
        ("GET", ["search"]) => return images::registries::search(call).await,
        ("DELETE", [_, ..]) => return images::remove(call, &parts.join("/")).await,
        _ => {}
    }
    match (method.as_str(), *last) {
        ("GET", "json") => images::inspect(call, &name).await,
        ("GET", "history") => images::history(call, &name).await,
        ("GET", "get") => transfer::save(call, vec![name]).await,
        ("POST", "tag") => images::tag(call, &name).await,
        ("POST", "push") => transfer::push(call, &name).await,
        ("GET", "attestations") => Err(Fault::unsupported("image attestations")),
        _ => Err(no_page()),
    }
}

async fn execs(call: Call, method: &Method, parts: &[&str]) -> Result<Answer> {
    match (method.as_str(), parts) {
        ("GET", [id, "json"]) => exec::inspect(&call, id),
        ("POST", [id, "start"]) => exec::start(call, id).await,
        ("POST", [id, "resize"]) => exec::resize(call, id).await,
        _ => Err(no_page()),
    }
}

async fn of_volumes(call: Call, method: &Method, parts: &[&str]) -> Result<Answer> {
    match (method.as_str(), parts) {
        ("GET", []) => volumes::list(&call),
        ("POST", ["create"]) => volumes::create(call).await,
        ("POST", ["prune"]) => volumes::prune(call).await,
        ("GET", [name]) => volumes::inspect(&call, name),
        ("DELETE", [name]) => volumes::remove(call, name).await,
        ("PUT", [_]) => Err(Fault::unsupported("updating a volume")),
        _ => Err(no_page()),
    }
}

async fn others(call: Call, method: &Method, parts: &[&str]) -> Result<Answer> {
    match (method.as_str(), parts) {
        ("GET" | "HEAD", ["_ping"]) => Ok(system::ping(&call)),
        ("GET", ["version"]) => Ok(system::version()),
        ("GET", ["info"]) => system::info(call).await,
        ("GET", ["events"]) => system::events(&call),
        ("GET", ["system", "df"]) => system::disk(call).await,
        ("POST", ["auth"]) => images::registries::login(call).await,
        ("POST", ["build"]) => images::building::build(call).await,
        ("POST", ["build", "prune"]) => images::cache::prune(call).await,
        // A build ends with its connection.
        ("POST", ["build", "cancel"]) => Err(Fault::unsupported("cancelling a build by its id")),
        ("POST", ["session"]) => crate::buildkit::session(call).await,
        ("POST", ["grpc"]) => crate::buildkit::grpc(call).await,
        ("POST", ["commit"]) => images::making::commit(call).await,
        ("GET", ["distribution", name @ .., "json"]) if !name.is_empty() => {
            images::registries::distribution(call, &name.join("/")).await
        }
        // There are none, and none can be had.
        ("GET", ["plugins"]) => Ok(json(&serde_json::json!([]))),
        (_, ["plugins", ..]) => Err(Fault::unsupported("plugins")),
        ("OPTIONS", _) => Ok(empty(StatusCode::OK)),
        _ => Err(no_page()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_outside_the_range_are_refused_in_dockers_words() {
        assert_eq!(version("/v1.47/containers/json").unwrap(), (Version(1, 47), "containers/json"));
        assert_eq!(version("/volumes/x").unwrap(), (API_MAX, "volumes/x"));
        assert!(
            version("/v1.40/info").unwrap_err().message.contains("is too old. Minimum supported API version is 1.41")
        );
        assert_eq!(
            version("/v1.51/info").unwrap_err().message,
            "client version 1.51 is too new. Maximum supported API version is 1.50"
        );
        assert_eq!(decode("a%2Fb+c%3a%zz=1"), "a/b+c:%zz=1");
        assert_eq!(decode("%+1%"), "%+1%");
    }
}
