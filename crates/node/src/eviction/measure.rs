//! What the node has and what its pods use.

use std::collections::BTreeMap;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::sync::Arc;

use engine::runtime::{ContainerState, ContainerStatus};
use futures::StreamExt as _;
use k8s_openapi::api::core::v1::Pod;
use reconcile::eviction::{ContainerUsage, Observation, PodUsage, Signal, Taken};

use super::Seen;
use crate::context::Context;
use crate::host::Host;
use crate::paths::PodId;
use crate::volumes::usage;

/// Containers looked at at the same time.
const AT_ONCE: usize = 8;

/// Looks at the node.
pub(super) async fn node(ctx: &Context) -> Seen {
    let (pods, images) = (ctx.paths.pods(), ctx.paths.images());
    // A disk that does not answer must not hold up the runtime.
    tokio::task::spawn_blocking(move || look(&pods, &images)).await.unwrap_or_default()
}

fn look(pods: &Path, images: &Path) -> Seen {
    let mut seen = Seen::default();
    let mut note = |signal, capacity, available| {
        seen.amounts.insert(signal, Observation { capacity, available });
    };
    if let Some(available) = Host::memory_available() {
        note(Signal::MemoryAvailable, Host::memory_total(), available);
    }
    if let Some((most, now)) = Host::tasks() {
        note(Signal::PidAvailable, most, most.saturating_sub(now));
    }
    if let Some(disk) = Host::disk(pods) {
        note(Signal::NodeFsAvailable, disk.total, disk.free);
        note(Signal::NodeFsInodesFree, disk.inodes, disk.free_inodes);
    }
    if let Some(disk) = Host::disk(images) {
        note(Signal::ImageFsAvailable, disk.total, disk.free);
        note(Signal::ImageFsInodesFree, disk.inodes, disk.free_inodes);
    }
    let device = |path: &Path| std::fs::metadata(path).ok().map(|m| m.dev());
    seen.own_image_disk = device(images).is_some_and(|of_images| device(pods) != Some(of_images));
    seen
}

async fn container(ctx: &Context, status: ContainerStatus, disk: bool) -> ContainerUsage {
    let id = &status.spec.id;
    // One that ended meanwhile uses nothing any more.
    let usage = match status.state {
        ContainerState::Running { .. } => ctx.runtime.usage(id).await.unwrap_or_default(),
        _ => Default::default(),
    };
    let written = if disk { ctx.runtime.written(id).await.unwrap_or_default() } else { Default::default() };
    ContainerUsage {
        name: status.spec.name.clone(),
        memory: usage.working_set_bytes,
        pids: usage.pids,
        root: Taken { bytes: written.bytes, inodes: written.files },
        logs: Taken::default(),
    }
}

fn runs(status: &ContainerStatus) -> bool {
    matches!(status.state, ContainerState::Running { .. })
}

/// What pods use; with `disk`, also of that, which takes long. Pods of which nothing is there, or without `disk` nothing
/// runs, are left out: to end them gives nothing.
pub(super) async fn pods(ctx: &Arc<Context>, pods: Vec<Arc<Pod>>, disk: bool) -> Vec<(Arc<Pod>, PodUsage)> {
    let all = ctx.runtime.containers(None).await;
    let wanted = all.into_iter().filter(|c| disk || runs(c));
    let looks = wanted.map(|c| async move { (c.spec.sandbox_id.clone(), container(ctx, c, disk).await) });
    let looks: Vec<_> = looks.collect();
    let found: Vec<_> = futures::stream::iter(looks).buffer_unordered(AT_ONCE).collect().await;
    let mut by_pod: BTreeMap<String, Vec<ContainerUsage>> = BTreeMap::new();
    for (pod, usage) in found {
        of_name(by_pod.entry(pod).or_default(), usage);
    }
    let mut measured = Vec::new();
    for pod in pods {
        let Some(mut containers) = by_pod.remove(pod.metadata.uid.as_deref().unwrap_or_default()) else { continue };
        containers.sort_by(|a, b| a.name.cmp(&b.name));
        let mut used = PodUsage { containers, volumes: Taken::default() };
        if disk {
            let (ctx, pod) = (ctx.clone(), pod.clone());
            let of_disk = move || with_disk(&ctx, &pod, used);
            used = match tokio::task::spawn_blocking(of_disk).await {
                Ok(used) => used,
                Err(_) => continue,
            };
        }
        measured.push((pod, used));
    }
    measured
}

/// Runs of one container count together.
fn of_name(list: &mut Vec<ContainerUsage>, usage: ContainerUsage) {
    match list.iter_mut().find(|u| u.name == usage.name) {
        Some(u) => {
            u.memory = u.memory.saturating_add(usage.memory);
            u.pids = u.pids.saturating_add(usage.pids);
            u.root.bytes = u.root.bytes.saturating_add(usage.root.bytes);
            u.root.inodes = u.root.inodes.saturating_add(usage.root.inodes);
        }
        None => list.push(usage),
    }
}

fn with_disk(ctx: &Context, pod: &Pod, mut used: PodUsage) -> PodUsage {
    let PodId { namespace, name, uid } = PodId::of(pod);
    let logs = ctx.paths.pod_logs(&namespace, &name, &uid);
    for c in &mut used.containers {
        c.logs = usage::taken([logs.join(&c.name)]);
    }
    used.volumes = usage::of_volumes(&ctx.paths, pod);
    used
}
