//! `POST /build?version=2`: the same builds for clients that have BuildKit's protocol of their own (the docker CLI before 23.0):
//! what is asked stands in the query, and the news come as JSON.

use std::collections::BTreeMap;
use std::sync::Arc;

use base64::Engine as _;
use bytes::Bytes;
use serde_json::{Value, json};
use tokio::sync::mpsc;

use super::asked::Asked;
use super::jobs::{Job, Running};
use super::solve;
use crate::face::Face;
use crate::fault::{Fault, Result};
use crate::http::{Answer, CHUNKS, Call, streaming};
use crate::images::asked::{document, refuse_limits};
use crate::images::lines::message;
use crate::query::Query;

/// Bytes before each message of the log: gRPC's.
const PREFIX: usize = 5;

/// What is asked, in the words of the frontend.
fn attributes(query: &Query) -> Result<BTreeMap<String, String>> {
    refuse_limits(query)?;
    let mut attrs = BTreeMap::new();
    let mut set = |name: &str, value: &str| drop(attrs.insert(name.to_owned(), value.to_owned()));
    for (from, to) in [
        ("dockerfile", "filename"),
        ("target", "target"),
        ("platform", "platform"),
        ("networkmode", "force-network-mode"),
    ] {
        if let Some(value) = query.get(from).filter(|v| !v.is_empty()) {
            set(to, value);
        }
    }
    if query.flag("nocache") {
        set("no-cache", "");
    }
    if query.flag("pull") {
        set("image-resolve-mode", "pull");
    }
    let hosts: Vec<String> =
        query.all("extrahosts").filter(|h| !h.is_empty()).map(|host| host.replacen(':', "=", 1)).collect();
    set("add-hosts", &hosts.join(","));
    let args: BTreeMap<String, Option<String>> = document(query, "buildargs")?;
    for (name, value) in args {
        // A name without a value is one that the client's environment did not have.
        if let Some(value) = value {
            set(&format!("build-arg:{name}"), &value);
        }
    }
    let labels: BTreeMap<String, String> = document(query, "labels")?;
    labels.iter().for_each(|(name, value)| set(&format!("label:{name}"), value));
    let from: Vec<String> = document(query, "cachefrom")?;
    set("cache-from", &from.join(","));
    match query.get("remote") {
        None | Some("" | "client-session") => {}
        Some("upload-request") => return Err(Fault::unsupported("a context that another request uploads")),
        Some(url) => set("context", url),
    }
    Ok(attrs)
}

/// What is made of it.
fn exporters(query: &Query) -> Result<Vec<(String, BTreeMap<String, String>)>> {
    let outputs: Vec<Value> = document(query, "outputs")?;
    let read = |output: &Value| {
        let kind = output["Type"].as_str().unwrap_or_default().to_owned();
        let attrs: Option<BTreeMap<String, String>> = serde_json::from_value(output["Attrs"].clone()).ok().flatten();
        (kind, attrs.unwrap_or_default())
    };
    let mut exporters: Vec<_> = outputs.iter().map(read).filter(|(kind, _)| kind != "cacheonly").collect();
    if outputs.is_empty() {
        exporters.push(("moby".to_owned(), BTreeMap::new()));
    }
    for (kind, attrs) in &mut exporters {
        if matches!(kind.as_str(), "moby" | "image") {
            attrs.insert("name".to_owned(), query.all("t").collect::<Vec<_>>().join(","));
        }
    }
    Ok(exporters)
}

/// `POST /build?version=2`.
///
/// # Errors
/// 400 for what is not obeyed; what goes wrong later is in the stream.
pub async fn build(call: Call) -> Result<Answer> {
    let asked = Asked::read(&attributes(&call.query)?, &exporters(&call.query)?, &[]).map_err(Fault::bad)?;
    let text = |name: &str| call.query.get(name).unwrap_or_default().to_owned();
    let (id, session) = (text("buildid"), text("session"));
    if session.is_empty() {
        return Err(Fault::bad("a build of BuildKit's has a session"));
    }
    let id = if id.is_empty() { format!("{session}-build") } else { id };
    let face = call.face.clone();
    let (tx, rx) = mpsc::channel(CHUNKS);
    call.face.tasks.spawn("build over HTTP", async move {
        let last = match face.buildkit.jobs.start(&id) {
            Ok(running) => told(&face, &id, &running, asked, &session, &tx).await,
            Err(refusal) => Some(failure(&refusal.message)),
        };
        if let Some(last) = last {
            let _ = tx.send(last).await;
        }
        face.buildkit.jobs.read(&id);
    });
    Ok(streaming("application/json", rx))
}

fn failure(text: &str) -> Bytes {
    message(&json!({ "errorDetail": { "message": text }, "error": text }))
}

/// Builds and tells how it goes; answers what is to be said last. Ends with the client.
async fn told(
    face: &Arc<Face>,
    id: &str,
    running: &Running<'_>,
    asked: Asked,
    session: &str,
    tx: &mpsc::Sender<Bytes>,
) -> Option<Bytes> {
    let job = running.job.clone();
    let building = async {
        let session = face.buildkit.sessions.get(session).await.map_err(|e| e.to_string());
        let result = match session {
            Ok(session) => solve::run(face, id, job.clone(), asked, session).await.map_err(|e| e.message),
            Err(error) => Err(error),
        };
        job.log.end();
        result
    };
    let both = async { tokio::join!(building, tell(&running.job, tx)).0 };
    let result = tokio::select! {
        result = both => result,
        () = tx.closed() => return None,
    };
    Some(match result {
        Ok(response) => {
            let digest = response.get("containerimage.config.digest")?;
            message(&json!({ "id": "moby.image.id", "aux": { "ID": digest } }))
        }
        Err(error) => failure(&error),
    })
}

async fn tell(job: &Job, tx: &mpsc::Sender<Bytes>) {
    let mut told = 0;
    while let Some(more) = job.log.after(told).await {
        told += more.len();
        for news in more {
            let text = base64::engine::general_purpose::STANDARD.encode(news.get(PREFIX..).unwrap_or_default());
            let _ = tx.send(message(&json!({ "id": "moby.buildkit.trace", "aux": text }))).await;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_query_says_what_the_frontend_is_asked() {
        let mut text = url::form_urlencoded::Serializer::new(String::new());
        text.extend_pairs([
            ("buildargs", r#"{"A":"1","B":null}"#),
            ("cachefrom", "[]"),
            ("dockerfile", "Other"),
            ("extrahosts", "a:1.2.3.4"),
            ("extrahosts", "b:::1"),
            ("labels", r#"{"l":"v"}"#),
            ("memory", "0"),
            ("networkmode", "default"),
            ("nocache", "1"),
            ("remote", "client-session"),
            ("t", "a"),
            ("t", "b:1"),
            ("version", "2"),
        ]);
        let query = Query::parse(&text.finish());
        let asked = Asked::read(&attributes(&query).unwrap(), &exporters(&query).unwrap(), &[]).unwrap();
        assert_eq!(asked.options.names, ["docker.io/library/a:latest", "docker.io/library/b:1"]);
        assert_eq!(asked.options.args, BTreeMap::from([("A".to_owned(), "1".to_owned())]));
        assert_eq!((asked.options.hosts.len(), asked.options.no_cache, asked.filename.as_str()), (2, true, "Other"));
        assert!(attributes(&Query::parse("memory=1000")).is_err());
        assert!(attributes(&Query::parse("remote=upload-request")).is_err());
        let local = Query::parse("outputs=%5B%7B%22Type%22%3A%22local%22%7D%5D");
        assert_eq!(exporters(&local).unwrap(), [("local".to_owned(), BTreeMap::new())]);
    }
}
