//! What is left on the node of pods that are no more.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use engine::runtime::ContainerState;

use crate::context::Context;
use crate::volumes::{forget_users, image, mounts};

/// A container whose pod is gone has this long.
const GRACE: Duration = Duration::from_secs(2);
/// An orphan that cannot be removed is tried again so often.
const ATTEMPTS: u32 = 5;

/// Removes sandboxes, folders and logs of pods not among `wanted`.
pub(super) async fn remove(ctx: Arc<Context>, wanted: BTreeSet<String>) {
    let all = ctx.runtime.sandboxes().await;
    let orphans = all.iter().map(|s| s.spec.id.clone()).filter(|id| !wanted.contains(id));
    let removals = orphans.map(|id| {
        let ctx = ctx.clone();
        async move { remove_one(&ctx, &id).await }
    });
    futures::future::join_all(removals).await;
    let (pods, logs) = (ctx.paths.pods(), ctx.paths.logs());
    let known = wanted.clone();
    let swept = tokio::task::spawn_blocking(move || {
        for folder in [pods, logs] {
            sweep(&folder, &known);
        }
    });
    if let Err(error) = swept.await {
        tracing::warn!(%error, "folders of former pods not swept");
    }
    image::forget_all_but(&ctx, &wanted).await;
    let (of, known) = (ctx.clone(), wanted.clone());
    match tokio::task::spawn_blocking(move || forget_users(&of, &known)).await {
        Ok(Err(error)) => tracing::warn!(%error, "local volumes of former pods not unmounted"),
        Err(error) => tracing::warn!(%error, "local volumes of former pods not unmounted"),
        Ok(Ok(())) => {}
    }
    ctx.csi.sweep(&wanted).await;
}

/// Folders are named by the pod's UID, or end with it after an underscore.
fn sweep(folder: &std::path::Path, wanted: &BTreeSet<String>) {
    for entry in std::fs::read_dir(folder).into_iter().flatten().flatten() {
        let name = entry.file_name().to_string_lossy().into_owned();
        let uid = name.rsplit_once('_').map_or(name.as_str(), |(_, uid)| uid);
        if wanted.contains(uid) {
            continue;
        }
        if let Err(error) = mounts::remove_tree(&entry.path()) {
            tracing::warn!(folder = name, %error, "folder of a former pod not removed");
        }
    }
}

async fn remove_one(ctx: &Context, id: &str) {
    tracing::info!(pod = id, "removing a pod that is no more");
    let containers = ctx.runtime.containers(Some(id)).await;
    let running = containers.iter().filter(|c| matches!(c.state, ContainerState::Running { .. }));
    let stops = running.map(|c| ctx.runtime.stop_container(&c.spec.id, GRACE));
    for result in futures::future::join_all(stops).await {
        if let Err(error) = result {
            tracing::warn!(pod = id, error = %base::chain(&error), "container of a former pod not stopped");
        }
    }
    let mut backoff = base::backoff::Backoff::exact(Duration::from_secs(1), Duration::from_secs(30));
    for _ in 0..ATTEMPTS {
        let stopped = ctx.runtime.stop_sandbox(id).await;
        match ctx.runtime.remove_sandbox(id).await.and(stopped) {
            Ok(()) | Err(engine::runtime::RuntimeError::NotFound { .. }) => return,
            Err(error) => tracing::warn!(pod = id, error = %base::chain(&error), "sandbox of a former pod not removed"),
        }
        tokio::time::sleep(backoff.next_delay()).await;
    }
}
