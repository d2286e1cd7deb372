//! How containers end, what they leave, and whether they come again.

use anyhow::{Result, ensure};
use e2e::{Ctx, pod};
use serde_json::{Value, json};

use crate::api::{Api, first_status, is, restarts};

fn ended(pod: &Value) -> &Value {
    &first_status(pod)["state"]["terminated"]
}

// conformance: [sig-node] Container Runtime blackbox test on terminated container should report termination message as empty when pod succeeds and TerminationMessagePolicy FallbackToLogsOnError is set
// conformance: [sig-node] Container Runtime blackbox test on terminated container should report termination message from file when pod succeeds and TerminationMessagePolicy FallbackToLogsOnError is set
// conformance: [sig-node] Container Runtime blackbox test on terminated container should report termination message from log output if TerminationMessagePolicy FallbackToLogsOnError is set
// conformance: [sig-node] Container Runtime blackbox test on terminated container should report termination message if TerminationMessagePath is set as non-root user and at a non-default path
pub fn the_last_words_are_told(ctx: &Ctx) -> Result<()> {
    let api = Api::new(ctx)?;
    let fallback = json!({"terminationMessagePolicy": "FallbackToLogsOnError"});
    let own = json!({"terminationMessagePath": "/dev/termination-custom-log", "securityContext": {"runAsUser": 1000}});
    let rows = [
        ("quiet", "printf OK", &fallback, "Succeeded", Value::Null),
        ("file", "printf OK > /dev/termination-log; printf DONE", &fallback, "Succeeded", "OK".into()),
        ("log", "printf DONE; exit 1", &fallback, "Failed", "DONE".into()),
        ("own-path", "printf DONE > /dev/termination-custom-log", &own, "Succeeded", "DONE".into()),
    ];
    for (name, script, more, ..) in &rows {
        let mut main = (*more).clone();
        main["name"] = "main".into();
        api.create("pods", &pod(name, script, json!({"restartPolicy": "Never", "containers": [main]})))?;
    }
    for (name, _, _, phase, message) in &rows {
        let pod = api.until_pod(name, "over", |p| p["status"]["phase"] == *phase)?;
        ensure!(ended(&pod)["message"] == *message, "{name}: {}", ended(&pod));
    }
    api.clear()
}

// conformance: [sig-node] Container Runtime blackbox test when starting a container that exits should run with the expected status
pub fn the_restart_policy_says_what_follows_an_exit(ctx: &Ctx) -> Result<()> {
    let api = Api::new(ctx)?;
    // Fails once, then succeeds; the third time it stays.
    let script = "echo x >> /v/count; n=$(wc -l < /v/count); [ $n -ne 1 ] || exit 1; [ $n -ne 2 ] || exit 0; \
                  trap 'exit 0' TERM; while :; do sleep 3600 & wait $!; done";
    let volume = json!({"name": "v", "emptyDir": {}});
    let mount = json!([{"name": "main", "volumeMounts": [{"name": "v", "mountPath": "/v"}]}]);
    for (name, policy) in [("always", "Always"), ("on-failure", "OnFailure"), ("never", "Never")] {
        let spec = json!({"restartPolicy": policy, "containers": mount, "volumes": [volume]});
        api.create("pods", &pod(name, script, spec))?;
    }
    let over = |p: &Value| matches!(p["status"]["phase"].as_str(), Some("Succeeded" | "Failed"));
    let never = api.until_pod("never", "over", over)?;
    ensure!(never["status"]["phase"] == "Failed" && restarts(&never) == 0 && ended(&never)["exitCode"] == 1);
    ensure!(!is(&never, "Ready") && first_status(&never)["ready"] == false);
    let once = api.until_pod("on-failure", "over", over)?;
    ensure!(once["status"]["phase"] == "Succeeded" && restarts(&once) == 1 && ended(&once)["exitCode"] == 0);
    let always = api.until_pod("always", "up the third time", |p| restarts(p) == 2 && is(p, "Ready"))?;
    ensure!(always["status"]["phase"] == "Running" && first_status(&always)["state"]["running"].is_object());
    api.clear()
}

// conformance: [sig-node] Kubelet when scheduling a busybox command in a pod should print the output to logs
// conformance: [sig-node] Kubelet when scheduling a busybox command that always fails in a pod should be possible to delete
// conformance: [sig-node] Kubelet when scheduling a busybox command that always fails in a pod should have an terminated reason
pub fn output_is_kept_and_a_failing_pod_can_be_deleted(ctx: &Ctx) -> Result<()> {
    let api = Api::new(ctx)?;
    api.create("pods", &pod("says", "echo out; echo err >&2", json!({"restartPolicy": "Never"})))?;
    api.create("pods", &pod("fails", "exit 3", json!({})))?;
    let said = api.output("says", "main")?;
    ensure!(said.lines().count() == 2 && said.contains("out\n") && said.contains("err\n"), "{said}");
    let failing = api.until_pod("fails", "has ended", |p| {
        let status = first_status(p);
        !status["state"]["terminated"].is_null() || !status["lastState"]["terminated"].is_null()
    })?;
    ensure!(failing["status"]["containerStatuses"].as_array().map(Vec::len) == Some(1));
    let status = first_status(&failing);
    let end = [&status["state"]["terminated"], &status["lastState"]["terminated"]].into_iter().find(|t| !t.is_null());
    ensure!(end.is_some_and(|t| t["exitCode"] == 3 && t["reason"] == "Error"), "{status}");
    let (code, answer) = api.delete(&api.at("pods/fails"), &json!({}))?;
    ensure!(code == 200, "{answer}");
    api.gone("fails")?;
    api.clear()
}
