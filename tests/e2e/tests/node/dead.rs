//! Containers that ended: how many of them stay.

use std::path::Path;
use std::sync::Arc;

use anyhow::{Context as _, Result, ensure};
use e2e::{Ctx, IDLE, Instance, container, eventually, merge, pod};
use serde_json::{Value, json};

use crate::api::{Api, LIMIT, first_status, is, restarts};

/// Says which run it is, then stays.
fn counting(name: &str) -> Value {
    let script = format!("echo x >> /v/runs; echo run $(wc -l < /v/runs); {IDLE}");
    let main = merge(
        container("main", &script),
        json!({
            "resources": {"requests": {"cpu": "10m"}},
            "resizePolicy": [{"resourceName": "cpu", "restartPolicy": "RestartContainer"}],
            "volumeMounts": [{"name": "v", "mountPath": "/v"}],
        }),
    );
    let spec =
        json!({"terminationGracePeriodSeconds": 1, "containers": [main], "volumes": [{"name": "v", "emptyDir": {}}]});
    pod(name, IDLE, spec)
}

/// Has a container run so many more times: another share of CPU each time, which is no crash and waits for nothing.
fn run_again(api: &Api, name: &str, times: i64) -> Result<Value> {
    let first = restarts(&api.pod(name)?);
    for n in first + 1..=first + times {
        let resources = json!({"requests": {"cpu": format!("{}m", 10 + n)}});
        let patch = json!({"spec": {"containers": [{"name": "main", "resources": resources}]}});
        api.patch(&api.at(&format!("pods/{name}/resize")), &patch)?;
        api.until_pod(name, "restarted", |p| restarts(p) == n && is(p, "Ready"))?;
    }
    api.pod(name)
}

/// The runs of a container that have a log, in order.
fn logged(logs: &Path, pod: &Value) -> Result<Vec<i64>> {
    let meta = &pod["metadata"];
    let part = |name: &str| meta[name].as_str().context("a name");
    let folder = logs.join(format!("{}_{}_{}", part("namespace")?, part("name")?, part("uid")?)).join("main");
    let mut runs = Vec::new();
    for entry in std::fs::read_dir(folder)? {
        let name = entry?.file_name().to_string_lossy().into_owned();
        runs.push(name.trim_end_matches(".log").parse()?);
    }
    runs.sort_unstable();
    Ok(runs)
}

fn until_logged(logs: &Path, pod: &Value, wanted: &[i64]) -> Result<()> {
    eventually(LIMIT, "only those runs are left", || {
        let found = logged(logs, pod)?;
        ensure!(found == wanted, "{found:?} instead of {wanted:?}");
        Ok(())
    })
}

pub fn a_node_keeps_as_many_dead_containers_as_it_is_told() -> Result<()> {
    let flags = ["--maximum-dead-containers=4", "--maximum-dead-containers-per-container=2"];
    let instance = flags.iter().fold(Instance::builder("dead"), |b, flag| b.flag(flag)).start()?;
    let instance = Arc::new(instance);
    let ctx = Ctx::new(instance.clone(), "dead")?;
    let (api, logs) = (Api::new(&ctx)?, instance.names().data_dir().join("logs/pods"));
    let file_systems = || -> Result<usize> {
        let mounts = e2e::leaks::mounts(instance.names())?;
        Ok(mounts.iter().filter(|m| m.ends_with("/rootfs")).count())
    };

    // Of one container two dead runs stay, whatever it ran, and only their file systems.
    api.ready(&counting("again"))?;
    let again = run_again(&api, "again", 5)?;
    until_logged(&logs, &again, &[3, 4, 5])?;
    eventually(LIMIT, "file systems are given back", || {
        let left = file_systems()?;
        ensure!(left <= 3, "{left} file systems of containers");
        Ok(())
    })?;
    ensure!(ctx.ok(&["logs", "again", "--previous"])? == "run 5\n", "the run before the last");
    ensure!(!first_status(&again)["lastState"]["terminated"].is_null(), "{again}");

    // Of the node four: those of pods that are over go too, the oldest first, and their pods stay what they were.
    for name in ["done-1", "done-2", "done-3", "done-4", "done-5"] {
        api.create("pods", &pod(name, "echo done", json!({"restartPolicy": "Never"})))?;
        api.until_pod(name, "over", |p| p["status"]["phase"] == "Succeeded")?;
    }
    until_logged(&logs, &again, &[5])?;
    let first = api.pod("done-1")?;
    until_logged(&logs, &first, &[])?;
    let same = api.pod("done-1")?;
    ensure!(same["status"]["containerStatuses"] == first["status"]["containerStatuses"], "{same}");
    let ended = &first_status(&first)["state"]["terminated"];
    ensure!(first["status"]["phase"] == "Succeeded" && ended["reason"] == "Completed", "{first}");
    ensure!(first_status(&first)["imageID"].as_str().is_some_and(|id| !id.is_empty()), "{first}");
    let said = ctx.fails(&["logs", "done-1"])?;
    ensure!(said.contains("unable to retrieve container logs for windlass://"), "{said}");
    for name in ["done-2", "done-3", "done-4", "done-5"] {
        ensure!(ctx.ok(&["logs", name])? == "done\n", "{name} is one of the last four");
    }
    // An agent that comes back knows it as well as the one before.
    instance.stop(nix::sys::signal::Signal::SIGKILL)?;
    instance.spawn()?;
    instance.wait_ready()?;
    let again = run_again(&api, "again", 1)?;
    until_logged(&logs, &again, &[5, 6])?;
    until_logged(&logs, &api.pod("done-2")?, &[])?;
    let same = api.pod("done-1")?;
    ensure!(same["status"]["containerStatuses"] == first["status"]["containerStatuses"], "{same}");
    instance.down()
}
