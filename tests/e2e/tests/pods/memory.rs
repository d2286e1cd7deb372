//! Quality of service of memory, where the kernel has it: cgroup v2.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::{Context as _, Result, ensure};
use e2e::{Ctx, IDLE, Instance, container, leaks, merge, pod, skip};
use serde_json::{Value, json};

const MI: u64 = 1 << 20;

/// The folder of a cgroup whose name has that in it, below another.
fn find(dir: &Path, name: &str) -> Option<PathBuf> {
    let entries = std::fs::read_dir(dir).ok()?.flatten();
    let folders: Vec<PathBuf> = entries.map(|e| e.path()).filter(|p| p.is_dir()).collect();
    let named = |p: &&PathBuf| p.file_name().is_some_and(|n| n.to_string_lossy().contains(name));
    folders.iter().find(named).cloned().or_else(|| folders.iter().find_map(|p| find(p, name)))
}

/// `memory.high`, `memory.min` and `memory.low`, as the kernel has them.
fn settings(cgroup: &Path) -> Result<[String; 3]> {
    let read = |file: &str| anyhow::Ok(std::fs::read_to_string(cgroup.join(file))?.trim().to_owned());
    Ok([read("memory.high")?, read("memory.min")?, read("memory.low")?])
}

fn asking(name: &str, resources: &Value) -> Value {
    pod(name, IDLE, json!({"containers": [merge(container("main", IDLE), json!({"resources": resources}))]}))
}

pub fn memory_has_quality_of_service_in_the_cgroup() -> Result<()> {
    if !Path::new("/sys/fs/cgroup/cgroup.controllers").exists() {
        return Err(skip("quality of service of memory: this machine has cgroup v1"));
    }
    let flags = ["--memory-throttling-factor=0.9", "--memory-reservation-policy=TieredReservation"];
    let instance = Arc::new(flags.iter().fold(Instance::builder("memory"), |b, flag| b.flag(flag)).start()?);
    let ctx = Ctx::new(instance.clone(), "memory")?;
    let both = json!({"cpu": "100m", "memory": "32Mi"});
    let ask = |request: &str, limit: &str| json!({"requests": {"memory": request}, "limits": {"memory": limit}});
    ctx.apply(&[
        asking("guaranteed", &json!({"requests": both, "limits": both})),
        asking("burstable", &ask("20Mi", "120Mi")),
        asking("humble", &json!({})),
    ])?;
    for name in ["guaranteed", "burstable", "humble"] {
        ctx.wait(&format!("pod/{name}"), "condition=Ready")?;
    }
    let root = leaks::cgroups(instance.names()).into_iter().next().context("the instance has no cgroup")?;
    let of = |name: &str| -> Result<([String; 3], [String; 3])> {
        let whole = find(&root, &ctx.field(&format!("pod/{name}"), ".metadata.uid")?).context("its cgroup")?;
        let id = ctx.field(&format!("pod/{name}"), ".status.containerStatuses[0].containerID")?;
        let own = find(&whole, id.rsplit('/').next().unwrap_or_default()).context("the cgroup of its container")?;
        Ok((settings(&own)?, settings(&whole)?))
    };
    let words = |high: Option<u64>, min: u64, low: u64| {
        [high.map_or_else(|| "max".to_owned(), |h| h.to_string()), min.to_string(), low.to_string()]
    };
    // What it may use is its own; it is not slowed down.
    ensure!(of("guaranteed")? == (words(None, 32 * MI, 0), words(None, 32 * MI, 0)), "{:?}", of("guaranteed")?);
    // 20 and nine tenths of the 100 above it.
    ensure!(of("burstable")? == (words(Some(110 * MI), 0, 20 * MI), words(None, 0, 20 * MI)), "{:?}", of("burstable")?);
    let (own, whole) = of("humble")?;
    ensure!(own[0].parse::<u64>().is_ok_and(|high| high > 0) && own[1..] == ["0", "0"], "{own:?}");
    ensure!(whole == words(None, 0, 0), "{whole:?}");
    // What is kept of a cgroup is kept only as far as of the one above it.
    ensure!(settings(&root)? == words(None, 32 * MI, 20 * MI), "{:?}", settings(&root)?);
    ensure!(settings(&root.join("burstable"))? == words(None, 0, 20 * MI), "{:?}", settings(&root.join("burstable"))?);

    // Another request of the running container is another setting of all of them.
    let patch = json!({"spec": {"containers": [{"name": "main", "resources": {"requests": {"memory": "40Mi"}}}]}});
    ctx.ok(&["patch", "pod", "burstable", "--subresource", "resize", "-p", &patch.to_string()])?;
    e2e::eventually(std::time::Duration::from_secs(60), "the resize is carried out", || {
        ensure!(
            of("burstable")? == (words(Some(112 * MI), 0, 40 * MI), words(None, 0, 40 * MI)),
            "{:?}",
            of("burstable")?
        );
        Ok(())
    })?;
    ctx.ok(&["delete", "pod", "guaranteed", "burstable", "--wait"])?;
    e2e::eventually(std::time::Duration::from_secs(60), "nothing is kept for pods that are gone", || {
        ensure!(settings(&root)? == words(None, 0, 0), "{:?}", settings(&root)?);
        Ok(())
    })?;
    instance.down()
}
