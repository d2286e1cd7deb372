//! `windlass logs`: what the containers of a project write, each line behind its pod.

use std::collections::BTreeSet;
use std::process::ExitCode;

use base::instance::Instance;
use futures::{AsyncBufReadExt, StreamExt, TryStreamExt};
use k8s_openapi::api::core::v1::Pod;
use kube::api::LogParams;
use kube::runtime::watcher::{self, Event, watcher};
use kube::{Api, Client};
use tokio::sync::mpsc;

use super::source::{self, Source};
use super::things;
use crate::cli::{LogsArgs, ProjectArgs};
use crate::kubeapi;
use crate::verbs::apply::wait::{Key, belongs, workload_key};

/// Lines that wait to be printed; who writes faster waits.
const LINES: usize = 256;

/// Runs the verb.
pub async fn run(instance: &Instance, args: LogsArgs) -> anyhow::Result<ExitCode> {
    let source = source::read_or_named(&ProjectArgs { files: args.files, more: args.more })?;
    let client = kubeapi::admin(instance).await?;
    if args.follow {
        return follow(&client, &source, &args.services, args.tail).await;
    }
    let keys = workloads(&client, &source, &args.services).await?;
    for namespace in keys.iter().map(|k| k.1.clone()).collect::<BTreeSet<_>>() {
        let api: Api<Pod> = Api::namespaced(client.clone(), &namespace);
        for pod in api.list(&kube::api::ListParams::default()).await?.items {
            for (prefix, params) in containers(&pod, &keys, args.tail, false) {
                let name = pod.metadata.name.clone().unwrap_or_default();
                // A container that has not begun has none.
                let Ok(lines) = api.log_stream(&name, &params).await else { continue };
                let mut lines = lines.lines();
                while let Some(line) = lines.try_next().await? {
                    println!("{prefix} | {line}");
                }
            }
        }
    }
    Ok(ExitCode::SUCCESS)
}

/// Prints what is written until interrupted.
pub async fn follow(
    client: &Client,
    source: &Source,
    services: &[String],
    tail: Option<i64>,
) -> anyhow::Result<ExitCode> {
    let keys = workloads(client, source, services).await?;
    let (lines, mut printed) = mpsc::channel::<String>(LINES);
    let mut events = futures::stream::SelectAll::new();
    for namespace in keys.iter().map(|k| k.1.clone()).collect::<BTreeSet<_>>() {
        let api: Api<Pod> = Api::namespaced(client.clone(), &namespace);
        events.push(watcher(api, watcher::Config::default()).boxed());
    }
    let mut seen = BTreeSet::new();
    let interrupted = tokio::signal::ctrl_c();
    tokio::pin!(interrupted);
    loop {
        tokio::select! {
            _ = &mut interrupted => return Ok(ExitCode::SUCCESS),
            Some(line) = printed.recv() => println!("{line}"),
            event = events.next() => {
                let (pod, tail) = match event {
                    Some(Ok(Event::InitApply(pod))) => (pod, tail),
                    // One that comes later is new as a whole.
                    Some(Ok(Event::Apply(pod))) => (pod, None),
                    Some(_) => continue,
                    None => return Ok(ExitCode::SUCCESS),
                };
                let name = pod.metadata.name.clone().unwrap_or_default();
                for (prefix, params) in containers(&pod, &keys, tail, true) {
                    let run = format!("{name}/{}/{}", params.container.as_deref().unwrap_or_default(), begun(&pod, &params));
                    if !seen.insert(run) {
                        continue;
                    }
                    let namespace = pod.metadata.namespace.clone().unwrap_or_default();
                    let (api, lines, name) = (Api::<Pod>::namespaced(client.clone(), &namespace), lines.clone(), name.clone());
                    // Ends with the container, or with the process.
                    tokio::spawn(async move {
                        let Ok(stream) = api.log_stream(&name, &params).await else { return };
                        let mut stream = stream.lines();
                        while let Ok(Some(line)) = stream.try_next().await {
                            if lines.send(format!("{prefix} | {line}")).await.is_err() {
                                return;
                            }
                        }
                    });
                }
            }
        }
    }
}

/// The workloads of a project, or those of some services.
async fn workloads(client: &Client, source: &Source, services: &[String]) -> anyhow::Result<BTreeSet<Key>> {
    let mut keys: BTreeSet<Key> = things::list(client, source).await?.iter().filter_map(workload_key).collect();
    if !services.is_empty() {
        let names: Vec<String> = services.iter().map(|s| ::convert::name(s)).collect();
        if let Some(unknown) = names.iter().find(|n| keys.iter().all(|k| k.2 != **n)) {
            anyhow::bail!("no such service: {unknown}");
        }
        keys.retain(|k| names.contains(&k.2));
    }
    Ok(keys)
}

/// The containers of a pod that have begun, if it is of one of the workloads: what stands before their lines, and what is asked.
fn containers(pod: &Pod, keys: &BTreeSet<Key>, tail: Option<i64>, follow: bool) -> Vec<(String, LogParams)> {
    let name = pod.metadata.name.as_deref().unwrap_or_default();
    if !keys.iter().any(|k| Some(&k.1) == pod.metadata.namespace.as_ref() && belongs(name, &k.0, &k.2)) {
        return Vec::new();
    }
    let Some(status) = &pod.status else { return Vec::new() };
    let all = status.container_statuses.iter().flatten();
    let begun = all.filter(|c| c.state.as_ref().is_some_and(|s| s.running.is_some() || s.terminated.is_some()));
    begun
        .map(|c| {
            let params =
                LogParams { container: Some(c.name.clone()), follow, tail_lines: tail, ..LogParams::default() };
            (name.to_owned(), params)
        })
        .collect()
}

/// Which run of a container it is.
fn begun(pod: &Pod, params: &LogParams) -> String {
    let all = pod.status.iter().flat_map(|s| s.container_statuses.iter().flatten());
    let own = all.into_iter().find(|c| Some(&c.name) == params.container.as_ref());
    own.and_then(|c| c.container_id.clone()).unwrap_or_default()
}
