//! What tasks write, in Docker's frames.

use std::collections::BTreeSet;
use std::sync::Arc;

use bytes::{BufMut, Bytes, BytesMut};
use dockerapi::swarm::{Fault, Query, Result, Said, time};
use futures::io::AsyncBufReadExt;
use futures::{StreamExt, TryStreamExt};
use k8s_openapi::api::core::v1::Pod;
use kube::runtime::watcher::{Config, Event};
use serde_json::Value;
use tokio::sync::mpsc;

use crate::cluster::{Cluster, LABEL, log_path, text};
use crate::record::Service;
use crate::tasks::{self, Task};
use crate::{Swarm, cluster};
use convert::NAME;

/// Frames between two tasks.
const FRAMES: usize = 64;
/// Tasks of a service that are read at once at most.
const READ_MAX: usize = 256;

/// What is wanted of logs.
#[derive(Debug, Clone, Default)]
struct Wanted {
    stdout: bool,
    stderr: bool,
    follow: bool,
    timestamps: bool,
    details: bool,
    raw: bool,
    since: Option<String>,
    tail: Option<u64>,
}

impl Wanted {
    fn read(query: &Query, raw: bool) -> Result<Self> {
        let wanted = Wanted {
            stdout: query.flag("stdout"),
            stderr: query.flag("stderr"),
            follow: query.flag("follow"),
            timestamps: query.flag("timestamps"),
            details: query.flag("details"),
            raw,
            since: query.get("since").filter(|t| *t != "0").map(time).transpose()?.map(|t| t.to_string()),
            tail: query.get("tail").and_then(|t| t.parse().ok()),
        };
        if !wanted.stdout && !wanted.stderr {
            return Err(Fault::bad("Bad parameters: you must choose at least one stream"));
        }
        Ok(wanted)
    }

    fn query(&self, stream: &str) -> String {
        let mut query = url::form_urlencoded::Serializer::new(String::new());
        query.append_pair("timestamps", "true").append_pair("stream", stream);
        query.append_pair("follow", if self.follow { "true" } else { "false" });
        if let Some(since) = &self.since {
            query.append_pair("sinceTime", since);
        }
        if let Some(tail) = self.tail {
            query.append_pair("tailLines", &tail.to_string());
        }
        query.finish()
    }

    /// A line of the cluster's log as a frame. Docker's client wants each line in one, and what it is of before it.
    fn frame(&self, stream: u8, line: &str, details: &str) -> Bytes {
        let (when, text) = line.split_once(' ').unwrap_or(("", line));
        let mut whole = BytesMut::new();
        if self.timestamps {
            whole.put_slice(format!("{when} ").as_bytes());
        }
        if self.details {
            whole.put_slice(format!("{details} ").as_bytes());
        }
        whole.put_slice(text.as_bytes());
        whole.put_u8(b'\n');
        if self.raw {
            return whole.freeze();
        }
        let mut frame = BytesMut::with_capacity(whole.len() + 8);
        frame.put_slice(&[stream, 0, 0, 0]);
        frame.put_u32(u32::try_from(whole.len()).unwrap_or(u32::MAX));
        frame.put(whole);
        frame.freeze()
    }
}

/// What a line is of, in Docker's words.
fn details(task: &Task) -> String {
    let document = &task.document;
    let (node, service) = (text(&document["NodeID"]), text(&document["ServiceID"]));
    format!(
        "com.docker.swarm.node.id={node},com.docker.swarm.service.id={service},com.docker.swarm.task.id={}",
        task.id()
    )
}

/// Sends the log of a pod to its end. That it cannot be read is no error of the others'.
async fn send(cluster: Cluster, pod: String, details: String, wanted: Arc<Wanted>, tx: mpsc::Sender<Bytes>) {
    let streams = [("Stdout", 1, wanted.stdout), ("Stderr", 2, wanted.stderr)];
    let reads = streams.into_iter().filter(|(_, _, on)| *on).map(|(name, number, _)| {
        let (cluster, path, wanted, tx, details) =
            (&cluster, log_path(&pod, &wanted.query(name)), &wanted, &tx, &details);
        async move {
            let Ok(request) = http::Request::get(path).body(Vec::new()) else { return };
            let lines = match cluster.client().request_stream(request).await {
                Ok(stream) => stream.lines(),
                Err(error) => {
                    tracing::debug!(%error, "a task's log is not read");
                    return;
                }
            };
            let mut lines = std::pin::pin!(lines.into_stream());
            while let Some(Ok(line)) = lines.next().await {
                if tx.send(wanted.frame(number, &line, details)).await.is_err() {
                    return;
                }
            }
        }
    });
    tokio::select! {
        _ = futures::future::join_all(reads) => {}
        () = tx.closed() => {}
    }
}

impl Swarm {
    pub(crate) async fn task_logs(&self, wanted: &str, query: &Query) -> Result<Said> {
        let seen = self.look().await?;
        let all = self.tasks_of(&seen);
        let (task, service) = tasks::find(&all, wanted)?;
        let wanted = Wanted::read(query, is_raw(service))?;
        let (tx, frames) = mpsc::channel(FRAMES);
        let raw = wanted.raw;
        // Ends with the log, or its reader.
        tokio::spawn(send(self.cluster.clone(), task.pod.clone(), details(task), Arc::new(wanted), tx));
        Ok(Said::Output { raw, frames })
    }

    pub(crate) async fn service_logs(&self, wanted: &str, query: &Query) -> Result<Said> {
        let service = self.service(wanted).await?;
        let seen = self.look().await?;
        let wanted = Arc::new(Wanted::read(query, is_raw(&service))?);
        let (tx, frames) = mpsc::channel(FRAMES);
        let mut known = BTreeSet::new();
        let of_it = |(task, of): &(Task, &Service)| (of.id() == service.id() && task.is_now()).then(|| task.clone());
        let tasks: Vec<Task> = self.tasks_of(&seen).iter().filter_map(of_it).take(READ_MAX).collect();
        for task in tasks {
            known.insert(task.pod.clone());
            let (pod, details) = (task.pod.clone(), details(&task));
            tokio::spawn(send(self.cluster.clone(), pod, details, wanted.clone(), tx.clone()));
        }
        let raw = wanted.raw;
        if wanted.follow {
            let nodes = Self::node_ids(&seen.nodes);
            tokio::spawn(newcomers(self.cluster.clone(), service, nodes, known, wanted, tx));
        }
        Ok(Said::Output { raw, frames })
    }
}

fn is_raw(service: &Service) -> bool {
    service.record.spec["TaskTemplate"]["ContainerSpec"]["TTY"] == true
}

/// Reads tasks that come later too, each once it has begun.
async fn newcomers(
    cluster: Cluster,
    service: Service,
    nodes: std::collections::BTreeMap<String, String>,
    mut known: BTreeSet<String>,
    wanted: Arc<Wanted>,
    tx: mpsc::Sender<Bytes>,
) {
    let selector = format!("{LABEL}=service,{NAME}={}", service.object_name());
    let config = Config::default().labels(&selector);
    let mut events = follow::watch::<Pod>(cluster.client().clone(), Some(cluster::NAMESPACE), config);
    loop {
        let event = tokio::select! {
            event = events.next() => event,
            () = tx.closed() => return,
        };
        let pod = match event {
            None => return,
            Some(Ok(Event::Apply(pod) | Event::InitApply(pod))) => serde_json::to_value(pod).unwrap_or_default(),
            Some(Ok(_)) => continue,
            Some(Err(error)) => {
                tracing::debug!(%error, "a service's tasks are not followed");
                return;
            }
        };
        let name = text(&pod["metadata"]["name"]).to_owned();
        let began = pod["status"]["containerStatuses"][0]["started"] == true;
        if !began || known.len() >= READ_MAX || !known.insert(name) {
            continue;
        }
        let services = std::slice::from_ref(&service);
        let slots = tasks::slots(std::slice::from_ref(&pod), &std::collections::BTreeMap::new());
        let made = tasks::all(std::slice::from_ref(&pod), services, &slots, &nodes);
        if let Some((task, _)) = made.first() {
            let (pod, details) = (task.pod.clone(), details(task));
            tokio::spawn(send(cluster.clone(), pod, details, wanted.clone(), tx.clone()));
        }
    }
}

/// All that tasks are made of, as it is now.
#[derive(Debug)]
pub(crate) struct Seen {
    /// The services.
    pub services: Vec<Service>,
    /// Their pods.
    pub pods: Vec<Value>,
    /// The nodes.
    pub nodes: Vec<Value>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_is_a_frame_with_what_it_is_of() {
        let wanted = Wanted { timestamps: true, details: true, ..Wanted::default() };
        let frame = wanted.frame(2, "2026-01-01T00:00:00Z two words", "a=b");
        assert_eq!(&frame[..8], &[2, 0, 0, 0, 0, 0, 0, 35]);
        assert_eq!(&frame[8..], b"2026-01-01T00:00:00Z a=b two words\n");
        let raw = Wanted { raw: true, ..Wanted::default() };
        assert_eq!(&raw.frame(1, "2026-01-01T00:00:00Z two words", "a=b")[..], b"two words\n");
    }
}
