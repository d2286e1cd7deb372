//! Probes, restarts, hooks, ends.

use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use e2e::{Ctx, IDLE, eventually, pod};
use serde_json::{Value, json};

fn probed(name: &str, script: &str, probes: Value) -> Value {
    let mut container = json!({"name": "main"});
    for (key, value) in probes.as_object().into_iter().flatten() {
        container[key] = value.clone();
    }
    pod(name, script, json!({"containers": [container]}))
}

pub fn probes_gate_readiness_and_startup(ctx: &Ctx) -> Result<()> {
    let exists =
        |file: &str| json!({"exec": {"command": ["test", "-e", file]}, "periodSeconds": 1, "failureThreshold": 60});
    let startup =
        probed("slow", IDLE, json!({"startupProbe": exists("/tmp/started"), "readinessProbe": exists("/tmp/ready")}));
    ctx.apply(&[startup])?;
    ctx.wait("pod/slow", "jsonpath={.status.phase}=Running")?;
    ctx.wait("pod/slow", "jsonpath={.status.containerStatuses[0].started}=false")?;
    ctx.sh("slow", "touch /tmp/started")?;
    ctx.wait("pod/slow", "jsonpath={.status.containerStatuses[0].started}=true")?;
    ensure!(ctx.field("pod/slow", ".status.containerStatuses[0].ready")? == "false");
    ctx.sh("slow", "touch /tmp/ready")?;
    ctx.wait("pod/slow", "condition=Ready")?;
    // Unready after as many failures as it asks for: here 60, so another pod with one.
    let one = json!({"readinessProbe": {"exec": {"command": ["test", "!", "-e", "/tmp/no"]}, "periodSeconds": 1, "failureThreshold": 1}});
    ctx.ready_pod(probed("quick", IDLE, one))?;
    ctx.sh("quick", "touch /tmp/no")?;
    ctx.wait("pod/quick", "condition=Ready=false")?;
    ctx.sh("quick", "rm /tmp/no")?;
    ctx.wait("pod/quick", "condition=Ready")?;
    ensure!(ctx.field("pod/quick", ".status.containerStatuses[0].restartCount")? == "0");
    // The other kinds: HTTP by named port and TCP.
    let script = "mkdir /tmp/w; echo ok > /tmp/w/healthz; trap 'exit 0' TERM; httpd -f -p 8080 -h /tmp/w & while :; do wait $!; done";
    let http = json!({
        "ports": [{"name": "web", "containerPort": 8080}],
        "startupProbe": {"tcpSocket": {"port": 8080}, "periodSeconds": 1, "failureThreshold": 30},
        "readinessProbe": {"httpGet": {"path": "/healthz", "port": "web"}, "periodSeconds": 1},
        "livenessProbe": {"httpGet": {"path": "/healthz", "port": 8080, "httpHeaders": [{"name": "X", "value": "y"}]}},
    });
    ctx.ready_pod(probed("http", script, http))?;
    ctx.sh("http", "rm /tmp/w/healthz")?;
    ctx.wait("pod/http", "condition=Ready=false")
}

pub fn a_failed_liveness_probe_restarts_the_container(ctx: &Ctx) -> Result<()> {
    let script = format!("touch /tmp/alive; {IDLE}");
    let probe = json!({"livenessProbe": {
        "exec": {"command": ["test", "-e", "/tmp/alive"]}, "initialDelaySeconds": 1, "periodSeconds": 1, "failureThreshold": 2}});
    ctx.ready_pod(probed("sick", &script, probe))?;
    ctx.sh("sick", "rm /tmp/alive")?;
    ctx.wait("pod/sick", "jsonpath={.status.containerStatuses[0].restartCount}=1")?;
    ctx.wait("pod/sick", "condition=Ready")?;
    let events = ctx.ok(&["get", "events", "--field-selector", "involvedObject.name=sick"])?;
    ensure!(
        events.contains("Unhealthy") && events.contains("Liveness probe failed") && events.contains("Killing"),
        "{events}"
    );
    Ok(())
}

pub fn restart_policies_decide_what_happens_after_an_exit(ctx: &Ctx) -> Result<()> {
    let once = "if [ -e /v/again ]; then exit 0; fi; touch /v/again; exit 1";
    let spec = |policy: &str| {
        json!({
            "restartPolicy": policy,
            "containers": [{"name": "main", "volumeMounts": [{"name": "v", "mountPath": "/v"}]}],
            "volumes": [{"name": "v", "emptyDir": {}}],
        })
    };
    ctx.apply(&[
        pod("never", once, spec("Never")),
        pod("on-failure", once, spec("OnFailure")),
        pod("always", once, spec("Always")),
    ])?;
    ctx.wait("pod/never", "jsonpath={.status.phase}=Failed")?;
    ensure!(ctx.field("pod/never", ".status.containerStatuses[0].state.terminated.exitCode")? == "1");
    ctx.wait("pod/on-failure", "jsonpath={.status.phase}=Succeeded")?;
    ensure!(ctx.field("pod/on-failure", ".status.containerStatuses[0].restartCount")? == "1");
    ctx.wait("pod/always", "jsonpath={.status.containerStatuses[0].restartCount}=2")?;
    ensure!(ctx.field("pod/always", ".status.containerStatuses[0].lastState.terminated.reason")? == "Completed");
    Ok(())
}

pub fn a_crashing_container_backs_off(ctx: &Ctx) -> Result<()> {
    ctx.apply(&[pod("crash", "echo going down; exit 3", json!({}))])?;
    let status = eventually(Duration::from_secs(30), "it is held back", || {
        let status = ctx.json("pod/crash")?["status"]["containerStatuses"][0].clone();
        let waiting = &status["state"]["waiting"];
        let message = waiting["message"].as_str().unwrap_or_default();
        ensure!(waiting["reason"] == "CrashLoopBackOff" && message.contains("back-off 10s"), "{status}");
        ensure!(message.contains("restarting failed container"), "{status}");
        Ok(status)
    })?;
    ensure!(status["lastState"]["terminated"]["exitCode"] == 3, "{status}");
    ensure!(ctx.ok(&["get", "pod", "crash"])?.contains("CrashLoopBackOff"));
    ensure!(
        ctx.ok(&["logs", "crash", "--previous"])? == "going down\n" || ctx.ok(&["logs", "crash"])? == "going down\n"
    );
    // It waits before every further try: within ten seconds of the second start there is no fourth.
    let restarts = ctx.field("pod/crash", ".status.containerStatuses[0].restartCount")?.parse::<u32>()?;
    ensure!(restarts <= 3, "{restarts} restarts at once");
    Ok(())
}

pub fn pre_stop_runs_before_the_signal_and_both_fit_the_grace_period(ctx: &Ctx) -> Result<()> {
    let dir = ctx.instance.dir().join("pre-stop");
    std::fs::create_dir_all(&dir)?;
    let script = "trap 'echo signal >> /v/order; exit 0' TERM; while :; do sleep 3600 & wait $!; done";
    let spec = json!({
        "terminationGracePeriodSeconds": 80,
        "containers": [{
            "name": "main",
            "lifecycle": {"preStop": {"exec": {"command": ["sh", "-c", "echo hook >> /v/order; sleep 1; echo hooked >> /v/order"]}}},
            "volumeMounts": [{"name": "v", "mountPath": "/v"}],
        }],
        "volumes": [{"name": "v", "hostPath": {"path": dir}}],
    });
    ctx.ready_pod(pod("polite", script, spec))?;
    let began = Instant::now();
    ctx.ok(&["delete", "pod", "polite"])?;
    let order = std::fs::read_to_string(dir.join("order"))?;
    ensure!(order == "hook\nhooked\nsignal\n", "{order}");
    ensure!(began.elapsed() < Duration::from_secs(80), "the whole grace period was waited for");
    Ok(())
}

pub fn a_process_that_ignores_its_signal_is_killed_after_the_grace_period(ctx: &Ctx) -> Result<()> {
    let deaf = pod("deaf", "trap '' TERM; while :; do sleep 1; done", json!({"terminationGracePeriodSeconds": 3}));
    ctx.ready_pod(deaf)?;
    let began = Instant::now();
    ctx.ok(&["delete", "pod", "deaf", "--wait=false"])?;
    ensure!(ctx.ok(&["get", "pod", "deaf"])?.contains("Terminating"));
    ctx.wait("pod/deaf", "delete")?;
    let took = began.elapsed();
    ensure!(took >= Duration::from_secs(3), "killed after {took:?}");
    Ok(())
}

pub fn the_termination_message_and_exit_code_are_reported(ctx: &Ctx) -> Result<()> {
    let never = json!({"restartPolicy": "Never"});
    ctx.apply(&[
        pod("said", "echo it broke > /dev/termination-log; exit 9", never.clone()),
        pod(
            "logged",
            "echo from the log; exit 8",
            json!({"restartPolicy": "Never",
            "containers": [{"name": "main", "terminationMessagePolicy": "FallbackToLogsOnError"}]}),
        ),
        pod("killed", "kill -9 $$; sleep 1; kill -SEGV $$", never),
    ])?;
    let ended = |name: &str| -> Result<Value> {
        ctx.wait(&format!("pod/{name}"), "jsonpath={.status.containerStatuses[0].state.terminated}")?;
        Ok(ctx.json(&format!("pod/{name}"))?["status"]["containerStatuses"][0]["state"]["terminated"].clone())
    };
    let said = ended("said")?;
    ensure!(said["message"] == "it broke\n" && said["exitCode"] == 9 && said["reason"] == "Error", "{said}");
    ensure!(
        said["startedAt"].is_string() && said["finishedAt"].is_string() && said["containerID"].is_string(),
        "{said}"
    );
    let logged = ended("logged")?;
    ensure!(logged["message"].as_str().map(str::trim_end) == Some("from the log"), "{logged}");
    Ok(())
}

pub fn post_start_runs_before_the_container_counts_as_running(ctx: &Ctx) -> Result<()> {
    let hook = json!({"containers": [{"name": "main", "lifecycle": {"postStart": {"exec": {"command": ["sh", "-c", "sleep 1; touch /tmp/hook"]}}}}]});
    ctx.ready_pod(pod("hooked", IDLE, hook))?;
    ctx.sh("hooked", "test -e /tmp/hook")?;
    let bad = json!({"restartPolicy": "Never", "containers": [{"name": "main", "lifecycle": {"postStart": {"exec": {"command": ["false"]}}}}]});
    ctx.apply(&[pod("bad", IDLE, bad)])?;
    eventually(Duration::from_secs(30), "an event says why", || {
        let text = ctx.ok(&["get", "events", "--field-selector", "involvedObject.name=bad"])?;
        ensure!(text.contains("FailedPostStartHook"), "{text}");
        Ok(())
    })
}
