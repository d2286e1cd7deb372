//! A release on its way: applied unit by unit, each once those that it needs are healthy, then waited for.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use futures::StreamExt;
use k8s_openapi::api::core::v1::Service;
use kube::runtime::watcher::{self, Event, watcher};
use kube::{Api, Client};
use serde_json::Value;

use super::source::{Source, Unit};
use super::{history, things};
use crate::exit::Unfit;
use crate::kubeapi::{self, Applied};
use crate::verbs::apply::{label, wait};

/// How long a node may take to say that it answers for published ports.
const PORTS: Duration = Duration::from_secs(15);
/// How long a Job that was replaced may take to go.
const GONE: Duration = Duration::from_secs(60);
/// How long pods of services that are no longer named may take to end.
const ENDED: Duration = Duration::from_secs(180);

/// What became of units.
#[derive(Default)]
pub struct Rollout {
    /// Units of which something was created or changed.
    pub changed: BTreeSet<String>,
}

impl Rollout {
    /// Applies what comes before the units.
    pub async fn base(&mut self, client: &Client, source: &Source) -> anyhow::Result<()> {
        if source.compose.is_some() {
            ours(client, source).await?;
        }
        for object in &source.base {
            let done = apply(client, object).await?;
            // Claims and data are seen in the units that use them.
            if done == Applied::Created && object["kind"] == "PersistentVolumeClaim" {
                println!("{} created", label(object));
            }
        }
        Ok(())
    }

    /// Applies units and waits until all are healthy. What fails leaves the others as they are.
    pub async fn units(&mut self, client: &Client, units: &[Unit], timeout: Duration) -> anyhow::Result<()> {
        let deadline = Instant::now() + timeout;
        let left = || deadline.saturating_duration_since(Instant::now());
        let mut waited = BTreeSet::new();
        for unit in units {
            let needed: Vec<&Unit> =
                units.iter().filter(|u| unit.needs.contains(&u.name) && waited.insert(&u.name)).collect();
            if !needed.is_empty() {
                let names: Vec<&str> = needed.iter().map(|u| u.name.as_str()).collect();
                eprintln!("{} waits for {}", unit.name, names.join(", "));
                let objects: Vec<Value> = needed.iter().flat_map(|u| u.objects.clone()).collect();
                wait::until_ready(client, &objects, left(), true).await?;
            }
            self.unit(client, unit).await?;
        }
        let objects: Vec<Value> = units.iter().flat_map(|u| u.objects.clone()).collect();
        wait::until_ready(client, &objects, left(), true).await?;
        published(client, &objects).await
    }

    async fn unit(&mut self, client: &Client, unit: &Unit) -> anyhow::Result<()> {
        for object in &unit.objects {
            let done = apply(client, object).await?;
            if done != Applied::Unchanged {
                self.changed.insert(unit.name.clone());
                println!("{} {}", label(object), if done == Applied::Created { "created" } else { "changed" });
            }
        }
        Ok(())
    }
}

/// A namespace that somebody else made is not taken over.
async fn ours(client: &Client, source: &Source) -> anyhow::Result<()> {
    let path = format!("/api/v1/namespaces/{}", source.namespace);
    let Some(namespace) = kubeapi::get(client, &path).await? else { return Ok(()) };
    let labelled = source.labels.iter().all(|(k, v)| namespace["metadata"]["labels"][k] == *v);
    if !labelled {
        bail!(
            "the namespace {} is there and was not made by windlass up; name the project otherwise with -p",
            source.namespace
        );
    }
    if namespace["metadata"]["deletionTimestamp"].is_string() {
        bail!("the namespace {} is being removed; wait until it is gone", source.namespace);
    }
    Ok(())
}

/// Applies an object. What a Job does cannot be changed: another takes its place, also of one that has failed.
async fn apply(client: &Client, object: &Value) -> anyhow::Result<Applied> {
    let context = || format!("apply {}", label(object));
    if object["kind"] != "Job" {
        return kubeapi::apply(client, object).await.with_context(context);
    }
    let path = kubeapi::object_path(object)?;
    let before = kubeapi::get(client, &path).await?.unwrap_or_default();
    let failed = before["status"]["conditions"]
        .as_array()
        .into_iter()
        .flatten()
        .any(|c| c["type"] == "Failed" && c["status"] == "True");
    if !failed {
        match kubeapi::apply(client, object).await {
            Ok(done) => return Ok(done),
            Err(e) if is_invalid(&e) && before.is_object() => {}
            Err(e) => return Err(e).with_context(context),
        }
    }
    kubeapi::delete(client, &path).await?;
    wait::until_gone(client, &wait::workload_key(object).into_iter().collect(), GONE).await?;
    kubeapi::apply(client, object).await.with_context(context)?;
    Ok(Applied::Configured)
}

fn is_invalid(error: &anyhow::Error) -> bool {
    matches!(error.downcast_ref::<kube::Error>(), Some(kube::Error::Api(status)) if status.code == 422)
}

/// Whether the nodes are to answer for a Service.
fn is_published(object: &Value) -> bool {
    let spec = &object["spec"];
    object["kind"] == "Service" && spec["type"] == "LoadBalancer" && spec["loadBalancerClass"].is_null()
}

/// An error when a port that is to be published is taken. Looked at before anything is built: the node would find it out last.
pub async fn ports_free(client: &Client, source: &Source) -> anyhow::Result<()> {
    let ports = |objects: &[Value]| -> BTreeSet<u16> {
        let all = objects.iter().filter(|o| is_published(o)).flat_map(|o| o["spec"]["ports"].as_array().cloned());
        let tcp = all.flatten().filter(|p| p["protocol"].as_str().is_none_or(|p| p == "TCP"));
        tcp.filter_map(|p| u16::try_from(p["port"].as_u64()?).ok()).collect()
    };
    let wanted = ports(&source.objects());
    if wanted.is_empty() {
        return Ok(());
    }
    // Its own ports are the project's already.
    let held = ports(&things::list(client, source).await?);
    for port in wanted.difference(&held) {
        if let Err(error) = std::net::TcpListener::bind((std::net::Ipv4Addr::UNSPECIFIED, *port)) {
            return Err(Unfit::error(
                format!("port {port} of the host cannot be published: {error}"),
                "publish another, or end what has it",
            ));
        }
    }
    Ok(())
}

/// Returns once a node answers for every port that is published.
async fn published(client: &Client, objects: &[Value]) -> anyhow::Result<()> {
    let mut wanted: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
    for object in objects.iter().filter(|o| is_published(o)) {
        let (_, namespace, name) = things::identity(object);
        wanted.entry(namespace).or_default().insert(name);
    }
    for (namespace, mut names) in wanted {
        let api: Api<Service> = Api::namespaced(client.clone(), &namespace);
        let mut events = watcher(api, watcher::Config::default()).boxed();
        let waited = tokio::time::timeout(PORTS, async {
            while let Some(event) = events.next().await {
                let Ok(Event::Apply(service) | Event::InitApply(service)) = event else { continue };
                let balancer = service.status.and_then(|s| s.load_balancer).and_then(|l| l.ingress);
                if balancer.is_some_and(|all| !all.is_empty()) {
                    names.remove(&service.metadata.name.unwrap_or_default());
                }
                if names.is_empty() {
                    break;
                }
            }
        });
        if waited.await.is_err() {
            let name = names.first().cloned().unwrap_or_default();
            bail!("service/{name}: {}", why_unpublished(client, &namespace, &name).await?);
        }
    }
    Ok(())
}

/// What was told of a Service whose ports nobody answers for.
async fn why_unpublished(client: &Client, namespace: &str, name: &str) -> anyhow::Result<String> {
    let path = format!("/api/v1/namespaces/{namespace}/events?fieldSelector=involvedObject.name%3D{name}");
    let events = kubeapi::get(client, &path).await?.unwrap_or_default();
    let warning = events["items"].as_array().into_iter().flatten().rfind(|e| e["type"] == "Warning");
    let message = warning.and_then(|e| e["message"].as_str());
    Ok(message.map_or_else(|| "no node answers for its ports".to_owned(), str::to_owned))
}

/// Applies the units of an earlier release again that were changed since, and waits for them.
pub async fn back(
    client: &Client,
    release: &history::Release,
    changed: &BTreeSet<String>,
    timeout: Duration,
) -> anyhow::Result<()> {
    let units: Vec<Unit> = release
        .as_units()
        .into_iter()
        .filter(|u| changed.contains(&u.name))
        .map(|mut unit| {
            // What has ended is not done again.
            unit.objects.retain(|o| o["kind"] != "Job");
            unit
        })
        .collect();
    Rollout::default().units(client, &units, timeout).await
}

/// Removes what the project no longer has, but not what remembered releases mention.
pub async fn prune(
    client: &Client,
    source: &Source,
    units: &[(String, Vec<Value>)],
    before: &[history::Release],
) -> anyhow::Result<()> {
    let wanted: BTreeSet<_> = units.iter().flat_map(|(_, o)| o).chain(&source.base).map(things::identity).collect();
    let remembered = serde_json::to_string(before)?;
    let own: BTreeSet<_> =
        before.iter().flat_map(|r| r.units.iter().flat_map(|(_, o)| o)).map(things::identity).collect();
    // Named after its content, it is in no release itself.
    let mentioned = |o: &Value| {
        let data = ["ConfigMap", "Secret"].contains(&o["kind"].as_str().unwrap_or_default());
        let name = format!("{:?}", o["metadata"]["name"].as_str().unwrap_or_default());
        data && !own.contains(&things::identity(o)) && remembered.contains(&name)
    };
    let labelled = things::list(client, source).await?;
    let known = before.last().into_iter().flat_map(|r| r.units.iter().flat_map(|(_, o)| o.clone()));
    let surplus: Vec<Value> = labelled
        .into_iter()
        .chain(known)
        .filter(|o| !wanted.contains(&things::identity(o)) && !things::is_kept(o))
        .filter(|o| !history::is_release(o) && !mentioned(o))
        .collect();
    things::remove(client, &surplus).await?;
    let workloads = surplus.iter().filter_map(wait::workload_key).collect();
    wait::until_gone(client, &workloads, ENDED).await
}
