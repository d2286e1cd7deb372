//! The node object and its lease: what the cluster knows of this node.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use api::quantity::Format;
use base::rt::{Drain, Tasks};
use futures::StreamExt;
use jiff::Timestamp;
use k8s_openapi::api::coordination::v1::{Lease, LeaseSpec};
use k8s_openapi::api::core::v1::{
    ContainerImage, DaemonEndpoint, Node, NodeAddress, NodeCondition, NodeDaemonEndpoints, NodeFeatures,
    NodeRuntimeHandler, NodeRuntimeHandlerFeatures, NodeSpec, NodeStatus, NodeSystemInfo,
};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{MicroTime, ObjectMeta, OwnerReference, Time};
use kube::api::{Api, Patch, PatchParams, PostParams};
use kube::runtime::{WatchStreamExt, watcher};
use reconcile::eviction::{Condition, Signal};
use reconcile::scheduler::is_extended;
use serde_json::{Value, json};
use tokio::sync::watch::Receiver;

use crate::config::AgentError;
use crate::context::Context;
use crate::events::node_reference;
use crate::host::Host;
use crate::huge_pages;
use crate::supported::RUNTIME_HANDLERS;

/// The lease says that the node lives: renewed this often, believed this long.
const LEASE_RENEW: Duration = Duration::from_secs(10);
const LEASE_SECONDS: i32 = 40;
const LEASE_NAMESPACE: &str = "kube-node-lease";
/// The status is written when it changed, and at least this often.
const STATUS_EVERY: Duration = Duration::from_secs(300);
/// Images named in the status (the kubelet's limit).
const IMAGES: usize = 50;

/// The version the node reports: that of the API it speaks, with our own.
fn version() -> String {
    format!("v1.36.0+windlass.{}", env!("CARGO_PKG_VERSION"))
}

fn quantities(list: &[(&str, String)]) -> BTreeMap<String, Quantity> {
    list.iter().map(|(k, v)| ((*k).to_owned(), Quantity(v.clone()))).collect()
}

/// What keeps the node from declaring memory pressure is not given to pods.
pub(crate) fn memory_for_pods(ctx: &Context) -> u64 {
    // Memory that is set aside for huge pages is for nothing else.
    let pages: u64 = huge_pages::pools().into_iter().map(huge_pages::Pool::bytes).sum();
    let bytes = ctx.host.memory_bytes;
    bytes.saturating_sub(ctx.config.eviction.reserve(Signal::MemoryAvailable, bytes)).saturating_sub(pages)
}

/// Nor what keeps it from declaring disk pressure.
pub(crate) fn disk_for_pods(ctx: &Context) -> u64 {
    let bytes = ctx.host.disk_bytes;
    bytes.saturating_sub(ctx.config.eviction.reserve(Signal::NodeFsAvailable, bytes))
}

pub(crate) fn capacity(ctx: &Context, reserve: bool) -> BTreeMap<String, Quantity> {
    let host = &ctx.host;
    let memory = if reserve { memory_for_pods(ctx) } else { host.memory_bytes };
    let disk = if reserve { disk_for_pods(ctx) } else { host.disk_bytes };
    let cpus = if reserve { host.cpus.saturating_sub(ctx.cpus.kept()) } else { host.cpus };
    let mut all = quantities(&[
        ("cpu", cpus.to_string()),
        ("memory", format!("{}Ki", memory / 1024)),
        ("ephemeral-storage", format!("{}Ki", disk / 1024)),
        ("pods", ctx.config.max_pods.to_string()),
    ]);
    let binary = |bytes: u64| {
        let amount = api::quantity::Quantity::from_value(i64::try_from(bytes).unwrap_or(i64::MAX), Format::BinarySi);
        Quantity(amount.to_string())
    };
    all.extend(huge_pages::pools().into_iter().map(|p| (huge_pages::resource(p.size), binary(p.bytes()))));
    all
}

fn labels(ctx: &Context) -> BTreeMap<String, String> {
    let mut labels = ctx.config.labels.clone();
    for prefix in ["kubernetes.io", "beta.kubernetes.io"] {
        labels.insert(format!("{prefix}/os"), "linux".to_owned());
        labels.insert(format!("{prefix}/arch"), Host::arch().to_owned());
    }
    labels.insert("kubernetes.io/hostname".to_owned(), ctx.config.node_name.clone());
    labels
}

/// Volumes are attached to this node by the controller, not by the node itself.
fn annotations() -> BTreeMap<String, String> {
    BTreeMap::from([(reconcile::volume::attach::MANAGED.to_owned(), "true".to_owned())])
}

fn condition(kind: &str, yes: bool, reason: &str, message: String, before: &[NodeCondition]) -> NodeCondition {
    let now = Time(Timestamp::now());
    let status = if yes { "True" } else { "False" };
    let same = before.iter().find(|c| c.type_ == kind && c.status == status);
    NodeCondition {
        type_: kind.to_owned(),
        status: status.to_owned(),
        reason: Some(reason.to_owned()),
        message: Some(message),
        last_transition_time: same.and_then(|c| c.last_transition_time.clone()).or(Some(now.clone())),
        last_heartbeat_time: Some(now),
    }
}

fn conditions(ctx: &Context, before: &[NodeCondition]) -> Vec<NodeCondition> {
    let pressure = ctx.pressure.borrow().clone();
    let of = |c: Condition| {
        let pressed = pressure.contains(&c);
        let (reason, message) = c.words(pressed);
        condition(c.as_str(), pressed, reason, message.to_owned(), before)
    };
    Condition::ALL.into_iter().map(of).chain([ready(*ctx.ending.borrow(), before)]).collect()
}

fn ready(ending: bool, before: &[NodeCondition]) -> NodeCondition {
    match ending {
        false => condition("Ready", true, "KubeletReady", "kubelet is posting ready status".into(), before),
        true => condition("Ready", false, "KubeletNotReady", "node is shutting down".into(), before),
    }
}

async fn images(ctx: &Context) -> Vec<ContainerImage> {
    let mut all = ctx.puller.images().list().await;
    all.sort_by_key(|i| std::cmp::Reverse(i.size_bytes));
    all.into_iter()
        .take(IMAGES)
        .map(|i| ContainerImage { names: Some(i.names), size_bytes: i64::try_from(i.size_bytes).ok() })
        .collect()
}

/// What pods may name in a runtime class, and what it can do.
fn handlers(host: &Host) -> Vec<NodeRuntimeHandler> {
    let user_namespaces = Some(host.has_user_namespaces());
    let features = NodeRuntimeHandlerFeatures { recursive_read_only_mounts: Some(true), user_namespaces };
    let handler = |name: &str| NodeRuntimeHandler { name: Some(name.to_owned()), features: Some(features.clone()) };
    std::iter::once("").chain(RUNTIME_HANDLERS).map(handler).collect()
}

/// Extended resources: whoever counts them writes them to the capacity; pods may have all of it.
/// (kubernetes.io/docs/tasks/administer-cluster/extended-resource-node)
fn extended(node: &Node) -> impl Iterator<Item = (String, Quantity)> {
    let capacity = node.status.as_ref().and_then(|s| s.capacity.as_ref());
    let all = capacity.into_iter().flatten().filter(|(name, _)| is_extended(name));
    all.map(|(name, amount)| (name.clone(), amount.clone()))
}

/// What the node is; `own` is its object as others see it.
async fn status(ctx: &Context, own: &Node, before: &[NodeCondition]) -> NodeStatus {
    let host = &ctx.host;
    let address = |kind: &str, address: String| NodeAddress { type_: kind.to_owned(), address };
    let mut addresses: Vec<_> = ctx.host_ips.iter().map(|ip| address("InternalIP", ip.to_string())).collect();
    addresses.push(address("Hostname", ctx.config.node_name.clone()));
    NodeStatus {
        addresses: Some(addresses),
        capacity: Some(capacity(ctx, false)),
        allocatable: Some(capacity(ctx, true).into_iter().chain(extended(own)).collect()),
        conditions: Some(conditions(ctx, before)),
        daemon_endpoints: ctx
            .server_port
            .map(|port| NodeDaemonEndpoints { kubelet_endpoint: Some(DaemonEndpoint { port: i32::from(port) }) }),
        features: Some(NodeFeatures { supplemental_groups_policy: Some(true) }),
        runtime_handlers: Some(handlers(host)),
        images: Some(images(ctx).await),
        node_info: Some(NodeSystemInfo {
            architecture: Host::arch().to_owned(),
            boot_id: host.boot_id.clone(),
            container_runtime_version: format!("windlass://{}", env!("CARGO_PKG_VERSION")),
            kernel_version: host.kernel.clone(),
            kube_proxy_version: String::new(),
            kubelet_version: version(),
            machine_id: host.machine_id.clone(),
            operating_system: "linux".to_owned(),
            os_image: host.os_image.clone(),
            swap: None,
            system_uuid: host.machine_id.clone(),
        }),
        ..NodeStatus::default()
    }
}

/// Creates the node object, or takes over the one that is there.
pub(crate) async fn register(ctx: &Context) -> Result<Node, AgentError> {
    let api: Api<Node> = Api::all(ctx.client());
    let name = &ctx.config.node_name;
    let failed = |source: kube::Error| AgentError::Register { name: name.clone(), source: Box::new(source) };
    let pod_cidr = ctx.config.instance.pod_cidr().to_string();
    let node = Node {
        metadata: ObjectMeta {
            name: Some(name.clone()),
            labels: Some(labels(ctx)),
            annotations: Some(annotations()),
            ..ObjectMeta::default()
        },
        spec: Some(NodeSpec {
            taints: Some(ctx.config.taints.clone()).filter(|t| !t.is_empty()),
            pod_cidr: Some(pod_cidr.clone()),
            pod_cidrs: Some(vec![pod_cidr]),
            provider_id: Some(format!("windlass://{name}")),
            ..NodeSpec::default()
        }),
        status: None,
    };
    let created = match api.create(&PostParams::default(), &node).await {
        Ok(node) => node,
        Err(kube::Error::Api(s)) if s.reason == "AlreadyExists" => {
            let patch = json!({"metadata": {"labels": labels(ctx), "annotations": annotations()}});
            api.patch(name, &PatchParams::default(), &Patch::Strategic(patch)).await.map_err(failed)?
        }
        Err(error) => return Err(failed(error)),
    };
    let before = created.status.clone().and_then(|s| s.conditions).unwrap_or_default();
    write_status(&api, &created, &status(ctx, &created, &before).await).await.map_err(failed)?;
    ctx.recorder.normal(node_reference(name), "Starting", "Starting kubelet.");
    Ok(created)
}

async fn write_status(api: &Api<Node>, own: &Node, status: &NodeStatus) -> Result<Node, kube::Error> {
    let mut patch = json!({"status": status});
    // A patch leaves what it does not name: an extended resource that nobody counts any more is named.
    let said = own.status.iter().flat_map(|s| s.allocatable.iter().flatten().map(|(name, _)| name));
    let kept = |name: &str| status.allocatable.as_ref().is_some_and(|all| all.contains_key(name));
    for name in said.filter(|name| is_extended(name) && !kept(name)) {
        patch["status"]["allocatable"][name] = Value::Null;
    }
    let name = own.metadata.name.as_deref().unwrap_or_default();
    api.patch_status(name, &PatchParams::default(), &Patch::Strategic(patch)).await
}

/// The status without what changes by itself, to see whether something else did.
fn essence(status: &NodeStatus) -> NodeStatus {
    let mut status = status.clone();
    for c in status.conditions.iter_mut().flatten() {
        c.last_heartbeat_time = None;
    }
    status
}

/// Keeps the node object as others see it: somebody else sets labels and taints.
pub(crate) fn follow(client: &kube::Client, tasks: &Tasks, registered: Node) -> Receiver<Arc<Node>> {
    let config = watcher::Config::default()
        .fields(&format!("metadata.name={}", registered.metadata.name.as_deref().unwrap_or_default()));
    let events = ::follow::watch::<Node>(client.clone(), None, config).default_backoff();
    let (tx, rx) = tokio::sync::watch::channel(Arc::new(registered));
    let drain = tasks.drain();
    tasks.spawn("node", async move {
        let mut events = events.boxed();
        loop {
            let event = tokio::select! {
                event = events.next() => event,
                () = drain.cancelled() => return,
            };
            match event {
                None => return,
                Some(Err(error)) => tracing::debug!(%error, "watch of the node failed"),
                Some(Ok(watcher::Event::Apply(node) | watcher::Event::InitApply(node))) => {
                    tx.send_replace(Arc::new(node));
                }
                // It registers again when it was removed.
                Some(Ok(_)) => {}
            }
        }
    });
    rx
}

/// Renews the lease and writes the status when it changed, until told to drain.
pub(crate) async fn heartbeat(ctx: Arc<Context>, own: Receiver<Arc<Node>>, drain: Drain) {
    let leases: Api<Lease> = Api::namespaced(ctx.client(), LEASE_NAMESPACE);
    let nodes: Api<Node> = Api::all(ctx.client());
    let mut conditions = Vec::new();
    let mut reported: Option<(NodeStatus, tokio::time::Instant)> = None;
    let mut tick = tokio::time::interval(LEASE_RENEW);
    tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    let (mut ending, mut pressure) = (ctx.ending.subscribe(), ctx.pressure.subscribe());
    loop {
        tokio::select! {
            _ = tick.tick() => {}
            Ok(()) = ending.changed() => {}
            Ok(()) = pressure.changed() => {}
            () = drain.cancelled() => return,
        }
        let node = own.borrow().clone();
        if let Err(error) = renew(&leases, &ctx, &node).await {
            tracing::warn!(%error, "node lease not renewed");
        }
        let now = status(&ctx, &node, &conditions).await;
        let same = reported
            .as_ref()
            .is_some_and(|(before, at)| at.elapsed() < STATUS_EVERY && essence(before) == essence(&now));
        if same {
            continue;
        }
        match write_status(&nodes, &node, &now).await {
            Ok(_) => {
                conditions = now.conditions.clone().unwrap_or_default();
                reported = Some((now, tokio::time::Instant::now()));
            }
            Err(kube::Error::Api(s)) if s.code == 404 => {
                tracing::warn!("the node object is gone: registering again");
                if let Err(error) = register(&ctx).await {
                    tracing::warn!(error = %base::chain(&error), "node not registered");
                }
            }
            Err(error) => tracing::warn!(%error, "node status not written"),
        }
    }
}

async fn renew(api: &Api<Lease>, ctx: &Context, node: &Node) -> Result<(), kube::Error> {
    let name = &ctx.config.node_name;
    let now = MicroTime(Timestamp::now());
    let patch = json!({"spec": {"renewTime": now, "holderIdentity": name, "leaseDurationSeconds": LEASE_SECONDS}});
    match api.patch(name, &PatchParams::default(), &Patch::Merge(patch)).await {
        Err(kube::Error::Api(s)) if s.code == 404 => {}
        result => return result.map(drop),
    }
    let owner = OwnerReference {
        api_version: "v1".to_owned(),
        kind: "Node".to_owned(),
        name: name.clone(),
        uid: node.metadata.uid.clone().unwrap_or_default(),
        ..OwnerReference::default()
    };
    let lease = Lease {
        metadata: ObjectMeta {
            name: Some(name.clone()),
            namespace: Some(LEASE_NAMESPACE.to_owned()),
            owner_references: Some(vec![owner]),
            ..ObjectMeta::default()
        },
        spec: Some(LeaseSpec {
            holder_identity: Some(name.clone()),
            lease_duration_seconds: Some(LEASE_SECONDS),
            renew_time: Some(now),
            ..LeaseSpec::default()
        }),
    };
    api.create(&PostParams::default(), &lease).await.map(drop)
}
