//! Probes, and what becomes of containers by them.

use anyhow::{Result, ensure};
use e2e::{Ctx, IDLE, eventually, pod};
use serde_json::{Value, json};

use crate::api::{Api, LIMIT, first_status, is, restarts};
use crate::servers;

fn probed(name: &str, script: &str, main: Value) -> Value {
    let mut main = main;
    main["name"] = "main".into();
    pod(name, script, json!({"containers": [main]}))
}

fn every_second(mut probe: Value) -> Value {
    probe["periodSeconds"] = 1.into();
    probe["failureThreshold"] = 1.into();
    // A busy machine is no failure.
    probe["timeoutSeconds"] = 30.into();
    probe
}

fn http_get(path: &str) -> Value {
    every_second(json!({"httpGet": {"path": path, "port": 8080}}))
}

fn exec(script: &str) -> Value {
    every_second(json!({"exec": {"command": ["sh", "-c", script]}}))
}

/// Waits until a server was asked so many times.
fn asked(api: &Api, name: &str, line: &str, times: usize) -> Result<()> {
    eventually(LIMIT, &format!("{name} is probed"), || {
        let log = api.log(name, "main")?;
        let seen = log.lines().filter(|l| l.starts_with(line)).count();
        ensure!(seen >= times, "{seen} times: {log}");
        Ok(())
    })
}

// conformance: [sig-node] Probing container should *not* be restarted with a /healthz http liveness probe
// conformance: [sig-node] Probing container should *not* be restarted with a GRPC liveness probe
// conformance: [sig-node] Probing container should *not* be restarted with a exec "cat /tmp/health" liveness probe
// conformance: [sig-node] Probing container should *not* be restarted with a tcp:8080 liveness probe
pub fn a_container_that_answers_its_liveness_probe_is_left_alone(ctx: &Ctx) -> Result<()> {
    let api = Api::new(ctx)?;
    let live = |probe: Value| json!({"livenessProbe": probe});
    let health = format!("touch /tmp/health; {IDLE}");
    let cat = "cat /tmp/health && echo checked > /proc/1/fd/1";
    let rows = [
        (probed("http", &servers::http(8080), live(http_get("/healthz"))), "GET /healthz "),
        (probed("grpc", &servers::grpc(5000), live(every_second(json!({"grpc": {"port": 5000}})))), "asked"),
        (probed("exec", &health, live(exec(cat))), "checked"),
        (probed("tcp", &servers::tcp(8080), live(every_second(json!({"tcpSocket": {"port": 8080}})))), "taken"),
    ];
    for (mut pod, _) in rows.clone() {
        // The server needs a moment to listen; a failure before that is not what is asked about.
        let container = &mut pod["spec"]["containers"][0];
        container["startupProbe"] = container["livenessProbe"].clone();
        container["startupProbe"]["failureThreshold"] = 60.into();
        api.create("pods", &pod)?;
    }
    for (pod, line) in &rows {
        let name = crate::api::name_of(pod);
        asked(&api, name, line, 4)?;
        let pod = api.pod(name)?;
        ensure!(restarts(&pod) == 0 && is(&pod, "Ready"), "{}", pod["status"]);
        let events = api.events(name)?;
        ensure!(!events.iter().any(|(reason, _)| reason == "Killing"), "{events:?}");
    }
    api.clear()
}

// conformance: [sig-node] Probing container should be restarted with a /healthz http liveness probe
// conformance: [sig-node] Probing container should be restarted with a GRPC liveness probe
// conformance: [sig-node] Probing container should be restarted with a exec "cat /tmp/health" liveness probe
pub fn a_container_that_fails_its_liveness_probe_is_restarted(ctx: &Ctx) -> Result<()> {
    let api = Api::new(ctx)?;
    let live = |probe: Value| json!({"livenessProbe": probe});
    let http = servers::http(8080);
    let mut patient = http_get("/healthz");
    patient["failureThreshold"] = 60.into();
    let mut broken = live(http_get("/healthz"));
    broken["startupProbe"] = patient;
    let wrong_port = every_second(json!({"grpc": {"port": 2333}}));
    api.create("pods", &probed("http", &http, broken))?;
    api.create("pods", &probed("grpc", &servers::grpc(5000), live(wrong_port)))?;
    let health = format!("touch /tmp/health; {IDLE}");
    api.create("pods", &probed("exec", &health, live(exec("cat /tmp/health"))))?;
    api.until_pod("http", "up", |p| is(p, "Ready"))?;
    ctx.ok(&["exec", "http", "--", "touch", "/tmp/broken"])?;
    // The shell may not have made the file yet when it is first looked for: then it is restarted for that.
    let _may_be_gone = ctx.run(&["exec", "exec", "--", "rm", "-f", "/tmp/health"])?;
    for name in ["http", "grpc", "exec"] {
        let pod = api.until_pod(name, "restarted", |p| restarts(p) >= 1)?;
        ensure!(pod["metadata"]["deletionTimestamp"].is_null());
        let events = eventually(LIMIT, "events say why", || {
            let events = api.events(name)?;
            let told = |reason: &str, part: &str| events.iter().any(|(r, m)| r == reason && m.contains(part));
            ensure!(told("Unhealthy", "Liveness probe failed") && told("Killing", "liveness probe"), "{events:?}");
            Ok(events)
        })?;
        ensure!(!events.is_empty());
    }
    api.clear()
}

// conformance: [sig-node] Probing container should have monotonically increasing restart count
pub fn the_count_of_restarts_only_grows(ctx: &Ctx) -> Result<()> {
    let api = Api::new(ctx)?;
    let mut never = json!({"livenessProbe": http_get("/healthz")});
    never["terminationMessagePolicy"] = "File".into();
    let script = format!("touch /tmp/broken; {}", servers::http(8080));
    api.create("pods", &probed("failing", &script, never))?;
    let (mut seen, mut last) = (Vec::new(), 0);
    while last < 3 {
        let pod = api.until_pod("failing", "restarted once more", |p| restarts(p) != last)?;
        seen.push(restarts(&pod));
        ensure!(restarts(&pod) > last, "{seen:?}");
        last = restarts(&pod);
    }
    api.clear()
}

// conformance: [sig-node] Probing container with readiness probe should not be ready before initial delay and never restart
// conformance: [sig-node] Probing container with readiness probe that fails should never be ready and never restart
pub fn readiness_waits_for_its_delay_and_restarts_nothing(ctx: &Ctx) -> Result<()> {
    let api = Api::new(ctx)?;
    let mut late = http_get("/");
    late["initialDelaySeconds"] = 5.into();
    let never = exec("echo checked > /proc/1/fd/1; exit 1");
    api.create("pods", &probed("late", &servers::http(8080), json!({"readinessProbe": late})))?;
    api.create("pods", &probed("never", IDLE, json!({"readinessProbe": never})))?;
    let pod = api.until_pod("late", "ready", |p| is(p, "Ready"))?;
    let stamp = |v: &Value| -> Result<i64> {
        let text = v.as_str().unwrap_or_default();
        Ok(text.parse::<jiff::Timestamp>()?.as_second())
    };
    let started = stamp(&first_status(&pod)["state"]["running"]["startedAt"])?;
    let ready = pod["status"]["conditions"].as_array().into_iter().flatten().find(|c| c["type"] == "Ready");
    let turned = stamp(&ready.cloned().unwrap_or_default()["lastTransitionTime"])?;
    // Both are told in whole seconds.
    ensure!(turned - started >= 4, "ready {} s after its start", turned - started);
    ensure!(restarts(&pod) == 0);
    asked(&api, "never", "checked", 4)?;
    let pod = api.pod("never")?;
    ensure!(!is(&pod, "Ready") && !is(&pod, "ContainersReady") && restarts(&pod) == 0, "{}", pod["status"]);
    ensure!(first_status(&pod)["ready"] == false && pod["status"]["phase"] == "Running");
    api.clear()
}
