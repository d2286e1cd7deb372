//! Pods that name their node themselves, and what the node says of those it runs.

use anyhow::{Result, ensure};
use e2e::{Ctx, IDLE, pod};
use serde_json::{Value, json};

fn on(node: &str, name: &str, spec: Value) -> Value {
    e2e::merge(pod(name, IDLE, json!({"nodeName": node})), json!({"spec": spec}))
}

pub fn a_node_refuses_what_it_has_no_room_for(ctx: &Ctx) -> Result<()> {
    let node = ctx.ok(&["get", "nodes", "-o", "jsonpath={.items[0].metadata.name}"])?;
    let asks =
        |what: &str, amount: &str| json!({"containers": [{"name": "main", "resources": {"requests": {what: amount}}}]});
    let port = json!({"containers": [{"name": "main", "ports": [{"containerPort": 80, "hostPort": 54_321, "hostIP": "127.0.0.9"}]}]});
    ctx.ready_pod(on(&node, "first", port.clone()))?;
    let refused = [
        ("cpu", asks("cpu", "1000"), "OutOfcpu", "Node didn't have enough resource: cpu, requested: 1000000, used: "),
        ("memory", asks("memory", "900Ti"), "OutOfmemory", "enough resource: memory, requested: "),
        ("disk", asks("ephemeral-storage", "900Ti"), "OutOfephemeral-storage", "enough resource: ephemeral-storage"),
        (
            "port",
            port,
            "NodePorts",
            "Predicate NodePorts failed: node(s) didn't have free ports for the requested pod ports",
        ),
        (
            "label",
            json!({"nodeSelector": {"no": "such"}}),
            "NodeAffinity",
            "Predicate NodeAffinity failed: node(s) didn't match Pod's node affinity/selector",
        ),
    ];
    let pods: Vec<Value> = refused.iter().map(|(name, spec, ..)| on(&node, name, spec.clone())).collect();
    ctx.apply(&pods)?;
    for (name, _, reason, message) in refused {
        ctx.wait(&format!("pod/{name}"), "jsonpath={.status.phase}=Failed")?;
        let status = ctx.json(&format!("pod/{name}"))?["status"].clone();
        let told = status["message"].as_str().unwrap_or_default();
        ensure!(
            status["reason"] == reason && told.starts_with("Pod was rejected: ") && told.contains(message),
            "{status}"
        );
        ensure!(status["containerStatuses"].is_null(), "{status}");
    }
    // What is refused has nothing of the node: the port is free once its holder is gone.
    ctx.ok(&["delete", "pod", "first", "port"])?;
    let port = json!({"containers": [{"name": "main", "ports": [{"containerPort": 80, "hostPort": 54_321, "hostIP": "127.0.0.9"}]}]});
    ctx.ready_pod(on(&node, "second", port))
}

pub fn variables_come_from_a_file_that_a_container_wrote(ctx: &Ctx) -> Result<()> {
    let mount = json!([{"name": "v", "mountPath": "/v"}]);
    let script = "printf \"# said\\nA='one two'\\nB='x\\ny'\\n\" > /v/env";
    let key = |name: &str, key: &str, optional: bool| {
        let source = json!({"volumeName": "v", "path": "env", "key": key, "optional": optional});
        json!({"name": name, "valueFrom": {"fileKeyRef": source}})
    };
    let spec = |env: Value| {
        json!({
            "restartPolicy": "Never",
            "initContainers": [e2e::merge(e2e::container("writer", script), json!({"volumeMounts": mount}))],
            "containers": [{"name": "main", "env": env}],
            "volumes": [{"name": "v", "emptyDir": {}}],
        })
    };
    let env = json!([key("A", "A", false), key("B", "B", false), key("C", "NONE", true)]);
    let said = ctx.output_of(pod("reads", "echo \"$A|$B|${C-unset}\"", spec(env)))?;
    ensure!(said == "one two|x\ny|unset\n", "{said:?}");
    ctx.apply(&[pod("misses", "true", spec(json!([key("A", "NONE", false)])))])?;
    ctx.wait("pod/misses", "jsonpath={.status.containerStatuses[0].state.waiting.reason}=CreateContainerConfigError")?;
    let why = ctx.field("pod/misses", ".status.containerStatuses[0].state.waiting.message")?;
    ensure!(why.contains("\"NONE\" not found in file \"env\""), "{why}");
    Ok(())
}

pub fn a_container_is_asked_to_end_by_its_own_signal(ctx: &Ctx) -> Result<()> {
    let dir = ctx.instance.dir().join("stop-signal");
    std::fs::create_dir_all(&dir)?;
    let script = "trap 'echo usr1 > /v/got; exit 0' USR1; trap 'echo term > /v/got; exit 0' TERM; while :; do sleep 3600 & wait $!; done";
    let spec = json!({
        "os": {"name": "linux"},
        "terminationGracePeriodSeconds": 30,
        "containers": [{"name": "main", "lifecycle": {"stopSignal": "SIGUSR1"}, "volumeMounts": [{"name": "v", "mountPath": "/v"}]}],
        "volumes": [{"name": "v", "hostPath": {"path": dir}}],
    });
    ctx.ready_pod(pod("signalled", script, spec))?;
    ensure!(ctx.field("pod/signalled", ".status.containerStatuses[0].stopSignal")? == "SIGUSR1");
    ctx.ok(&["delete", "pod", "signalled"])?;
    ensure!(std::fs::read_to_string(dir.join("got"))? == "usr1\n");
    Ok(())
}

pub fn the_status_tells_of_users_and_mounts(ctx: &Ctx) -> Result<()> {
    let mounts = json!([
        {"name": "v", "mountPath": "/open"},
        {"name": "v", "mountPath": "/closed", "readOnly": true},
        {"name": "v", "mountPath": "/sealed", "readOnly": true, "recursiveReadOnly": "IfPossible"},
    ]);
    let spec = json!({
        "securityContext": {"runAsUser": 1000, "supplementalGroups": [4000]},
        "containers": [{"name": "main", "volumeMounts": mounts}],
        "volumes": [{"name": "v", "emptyDir": {}}],
    });
    ctx.ready_pod(pod("told", IDLE, spec))?;
    let status = ctx.json("pod/told")?["status"]["containerStatuses"][0].clone();
    // User 1000 of the image is `app` of group 1000 and, by the image's own file, of group 2000.
    let user = json!({"linux": {"uid": 1000, "gid": 1000, "supplementalGroups": [1000, 2000, 4000]}});
    ensure!(status["user"] == user, "{}", status["user"]);
    let told: Vec<Value> = status["volumeMounts"].as_array().cloned().unwrap_or_default();
    let wanted = [
        json!({"name": "v", "mountPath": "/open"}),
        json!({"name": "v", "mountPath": "/closed", "readOnly": true, "recursiveReadOnly": "Disabled"}),
        json!({"name": "v", "mountPath": "/sealed", "readOnly": true, "recursiveReadOnly": "Enabled"}),
    ];
    ensure!(told.len() >= 3 && told[..3] == wanted, "{told:?}");
    let replaced = pod(
        "replaced",
        "hostname; cat /etc/hosts",
        json!({"restartPolicy": "Never", "hostnameOverride": "any.name.example"}),
    );
    let said = ctx.output_of(replaced)?;
    ensure!(said.starts_with("any.name.example\n") && said.contains("\tany.name.example\n"), "{said}");
    Ok(())
}

pub fn a_pod_as_a_whole_has_amounts_that_can_be_resized(ctx: &Ctx) -> Result<()> {
    let amounts = |cpu: &str, memory: &str| json!({"requests": {"cpu": cpu, "memory": memory}, "limits": {"cpu": cpu, "memory": memory}});
    let two =
        json!({"resources": amounts("200m", "64Mi"), "containers": [{"name": "main"}, e2e::container("other", IDLE)]});
    ctx.ready_pod(pod("whole", IDLE, two))?;
    let seen = |container: &str| -> Result<String> {
        let script = "cd /sys/fs/cgroup; cat cpu.max cpu/cpu.cfs_quota_us 2>/dev/null | cut -d' ' -f1; \
                      cat memory.max memory/memory.limit_in_bytes 2>/dev/null || true";
        Ok(ctx.ok(&["exec", "whole", "-c", container, "--", "sh", "-c", script])?.trim().replace('\n', " "))
    };
    for container in ["main", "other"] {
        ensure!(seen(container)? == format!("20000 {}", 64 << 20), "{container}: {}", seen(container)?);
    }
    ensure!(ctx.field("pod/whole", ".status.qosClass")? == "Guaranteed");
    let patch = json!({"spec": {"resources": amounts("300m", "96Mi")}}).to_string();
    ctx.ok(&["patch", "pod", "whole", "--subresource=resize", "-p", &patch])?;
    ctx.wait("pod/whole", "jsonpath={.status.resources.limits.memory}=96Mi")?;
    ctx.wait("pod/whole", "jsonpath={.status.allocatedResources.cpu}=300m")?;
    for container in ["main", "other"] {
        ensure!(seen(container)? == format!("30000 {}", 96 << 20), "{container}: {}", seen(container)?);
    }
    let status = ctx.json("pod/whole")?["status"].clone();
    ensure!(
        status["containerStatuses"].as_array().is_some_and(|l| l.iter().all(|c| c["restartCount"] == 0)),
        "{status}"
    );
    Ok(())
}
