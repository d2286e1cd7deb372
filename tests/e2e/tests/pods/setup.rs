//! Order of starts, environment, command line, users, names.

use anyhow::{Result, ensure};
use e2e::{Ctx, IDLE, IMAGE, container, merge, pod};
use serde_json::json;

pub fn init_containers_run_in_order_and_a_sidecar_beside(ctx: &Ctx) -> Result<()> {
    let mount = json!([{"name": "log", "mountPath": "/log"}]);
    let with =
        |name: &str, script: &str, more| merge(merge(container(name, script), json!({"volumeMounts": mount})), more);
    let sidecar = format!("echo sidecar >> /log/order; {IDLE}");
    let order = pod(
        "ordered",
        "cat /log/order",
        json!({
            "restartPolicy": "Never",
            "initContainers": [
                with("one", "sleep 0.3; echo one >> /log/order", json!({})),
                with("side", &sidecar, json!({"restartPolicy": "Always"})),
                with("two", "while [ $(wc -l < /log/order) -lt 2 ]; do sleep 0.05; done; echo two >> /log/order", json!({})),
            ],
            "containers": [{"name": "main", "volumeMounts": mount}],
            "volumes": [{"name": "log", "emptyDir": {}}],
        }),
    );
    ensure!(ctx.output_of(order)? == "one\nsidecar\ntwo\n");
    let broken = pod("broken", IDLE, json!({"restartPolicy": "Never", "initContainers": [container("bad", "exit 4")]}));
    ctx.apply(&[broken])?;
    ctx.wait("pod/broken", "jsonpath={.status.phase}=Failed")?;
    ensure!(ctx.field("pod/broken", ".status.initContainerStatuses[0].state.terminated.exitCode")? == "4");
    ensure!(ctx.field("pod/broken", ".status.containerStatuses[0].containerID")?.is_empty(), "main was started");
    Ok(())
}

pub fn environment_comes_from_values_fields_maps_and_secrets(ctx: &Ctx) -> Result<()> {
    ctx.ok(&["create", "configmap", "map", "--from-literal=color=red", "--from-literal=size=9"])?;
    ctx.ok(&["create", "secret", "generic", "pw", "--from-literal=word=s3 cret"])?;
    let field = |path: &str| json!({"fieldRef": {"fieldPath": path}});
    let script = "echo \"$PLAIN|$TWICE|$KEPT|$M_color|$WORD|$NAME|$NS|$IP|$NODE|$SA|$LABEL|$CPU|$MEM|$OPT\"";
    let env = json!([
        {"name": "PLAIN", "value": "x"},
        {"name": "TWICE", "value": "$(PLAIN)$(PLAIN)"},
        {"name": "KEPT", "value": "$$(PLAIN) $(UNKNOWN)"},
        {"name": "WORD", "valueFrom": {"secretKeyRef": {"name": "pw", "key": "word"}}},
        {"name": "NAME", "valueFrom": field("metadata.name")},
        {"name": "NS", "valueFrom": field("metadata.namespace")},
        {"name": "IP", "valueFrom": field("status.podIP")},
        {"name": "NODE", "valueFrom": field("spec.nodeName")},
        {"name": "SA", "valueFrom": field("spec.serviceAccountName")},
        {"name": "LABEL", "valueFrom": field("metadata.labels['app']")},
        {"name": "CPU", "valueFrom": {"resourceFieldRef": {"resource": "limits.cpu", "divisor": "1m"}}},
        {"name": "MEM", "valueFrom": {"resourceFieldRef": {"resource": "limits.memory", "divisor": "1Mi"}}},
        {"name": "OPT", "valueFrom": {"configMapKeyRef": {"name": "none", "key": "k", "optional": true}}},
    ]);
    let spec = json!({
        "restartPolicy": "Never",
        "containers": [{
            "name": "main",
            "env": env,
            "envFrom": [{"prefix": "M_", "configMapRef": {"name": "map"}}],
            "resources": {"limits": {"cpu": "250m", "memory": "64Mi"}},
        }],
    });
    let said = ctx.output_of(pod("env", script, spec))?;
    let (ip, node) = (ctx.field("pod/env", ".status.podIP")?, ctx.field("pod/env", ".spec.nodeName")?);
    let wanted = format!("x|xx|$(PLAIN) $(UNKNOWN)|red|s3 cret|env|{}|{ip}|{node}|default|env|250|64|\n", ctx.ns);
    ensure!(said == wanted, "{said}\nis not\n{wanted}");
    let services = ctx.output_of(pod(
        "services",
        "echo $KUBERNETES_SERVICE_HOST:$KUBERNETES_SERVICE_PORT",
        json!({"restartPolicy": "Never"}),
    ))?;
    ensure!(services.trim().ends_with(":443") && services.len() > 8, "{services}");
    Ok(())
}

pub fn command_args_and_workdir_are_what_the_manifest_says(ctx: &Ctx) -> Result<()> {
    let spec =
        |more| json!({"restartPolicy": "Never", "containers": [merge(json!({"name": "main", "image": IMAGE}), more)]});
    // `args` alone go to the image's entrypoint (it has none here, so they are the command).
    let mut only_args = pod("args", "", json!({}));
    only_args["spec"] = spec(json!({"args": ["echo", "$(WHO)", "a b"], "env": [{"name": "WHO", "value": "me"}]}));
    ensure!(ctx.output_of(only_args)? == "me a b\n");
    let mut both = pod("both", "", json!({}));
    both["spec"] = spec(json!({"command": ["sh", "-c"], "args": ["pwd; ls -d ."], "workingDir": "/made/by/it"}));
    ensure!(ctx.output_of(both)? == "/made/by/it\n.\n");
    let mut none = pod("none", "", json!({"restartPolicy": "Never"}));
    none["spec"] = spec(json!({"command": ["/no/such/program"]}));
    ctx.apply(&[none])?;
    let reason = ".status.containerStatuses[0].state.terminated.reason";
    ctx.wait("pod/none", "jsonpath={.status.phase}=Failed")?;
    ensure!(
        ["StartError", "ContainerCannotRun", "RunContainerError"].contains(&ctx.field("pod/none", reason)?.as_str())
    );
    Ok(())
}

pub fn users_and_groups_are_what_the_manifest_says(ctx: &Ctx) -> Result<()> {
    let spec = json!({
        "restartPolicy": "Never",
        "securityContext": {"runAsUser": 1000, "runAsGroup": 3000, "fsGroup": 2000, "supplementalGroups": [4000]},
        "containers": [
            {"name": "main", "volumeMounts": [{"name": "v", "mountPath": "/v"}]},
        ],
        "volumes": [{"name": "v", "emptyDir": {}}],
    });
    let script = "id -u; id -g; id -G | tr ' ' '\\n' | sort -n | tr '\\n' ' '; echo; touch /v/file && stat -c %g /v/file; echo $HOME";
    let said = ctx.output_of(pod("ids", script, spec))?;
    let lines: Vec<&str> = said.lines().collect();
    ensure!(lines[..2] == ["1000", "3000"], "{said}");
    for group in ["2000", "3000", "4000"] {
        ensure!(lines[2].split(' ').any(|g| g == group), "no group {group}: {said}");
    }
    ensure!(lines[3] == "2000" && lines[4] == "/home/app", "{said}");
    let own = json!({"restartPolicy": "Never", "securityContext": {"runAsUser": 1000},
        "containers": [{"name": "main", "securityContext": {"runAsUser": 1234}}]});
    ensure!(
        ctx.output_of(pod("own", "id -u; id -g", own))? == "1234\n0\n",
        "a container's user comes before the pod's"
    );
    Ok(())
}

pub fn host_names_hosts_file_and_aliases(ctx: &Ctx) -> Result<()> {
    let spec = json!({
        "restartPolicy": "Never",
        "hostname": "box",
        "subdomain": "fleet",
        "hostAliases": [{"ip": "192.0.2.7", "hostnames": ["old.example", "older.example"]}],
        "dnsConfig": {"options": [{"name": "ndots", "value": "2"}], "searches": ["example.org"]},
    });
    let script = "hostname; cat /etc/hosts; cat /etc/resolv.conf";
    let said = ctx.output_of(pod("named", script, spec))?;
    let fqdn = format!("box.fleet.{}.svc.cluster.local", ctx.ns);
    ensure!(said.starts_with("box\n"), "{said}");
    for part in [&fqdn, "127.0.0.1\tlocalhost", "192.0.2.7\told.example\tolder.example", "ndots:2", "example.org"] {
        ensure!(said.contains(part), "no {part:?} in {said}");
    }
    ensure!(said.contains(&format!("search {}.svc.cluster.local svc.cluster.local cluster.local", ctx.ns)), "{said}");
    ensure!(ctx.output_of(pod("plain", "hostname", json!({"restartPolicy": "Never"})))? == "plain\n");
    Ok(())
}

pub fn containers_of_a_pod_share_the_network_and_may_share_processes(ctx: &Ctx) -> Result<()> {
    let server = container("server", "echo through loopback | nc -l -p 9000; trap 'exit 0' TERM; sleep 3600 & wait");
    let two = pod("two", IDLE, json!({"containers": [{"name": "main"}, server]}));
    ctx.ready_pod(two)?;
    let said = e2e::eventually(std::time::Duration::from_secs(10), "the other container answers", || {
        ctx.ok(&["exec", "two", "-c", "main", "--", "nc", "127.0.0.1", "9000"])
    })?;
    ensure!(said == "through loopback\n", "{said}");
    ensure!(ctx.ok(&["exec", "two", "-c", "main", "--", "pidof", "nc"]).is_err(), "processes are shared unasked");
    ensure!(ctx.ok(&["exec", "two", "-c", "main", "--", "cat", "/proc/1/comm"])?.trim() == "sh");
    let shared =
        json!({"shareProcessNamespace": true, "containers": [{"name": "main"}, container("other", "exec sleep 3333")]});
    ctx.ready_pod(pod("shared", IDLE, shared))?;
    let list = ctx.ok(&["exec", "shared", "-c", "main", "--", "ps"])?;
    ensure!(list.contains("sleep 3333"), "{list}");
    Ok(())
}

pub fn an_image_without_proc_sys_and_dev_gets_them(ctx: &Ctx) -> Result<()> {
    let script = "set -e; echo x > /dev/null; head -c 4 /dev/urandom | wc -c; ls /dev/pts /dev/shm > /dev/null; \
                  test -r /proc/self/status; test -d /sys/class/net; df /dev/shm | tail -1 | tr -s ' ' | cut -d' ' -f1; \
                  ls /dev/sda /dev/vda /dev/mem 2>/dev/null | wc -l";
    let said = ctx.output_of(pod("bare", script, json!({"restartPolicy": "Never"})))?;
    ensure!(said.split_whitespace().next() == Some("4") && said.trim().ends_with('0'), "{said}");
    Ok(())
}
