//! `hostUsers: false`: root in the pod is nobody on the host (KEP-127).

use std::os::unix::fs::MetadataExt;

use anyhow::{Result, ensure};
use e2e::{Ctx, IDLE, leaks, pod};
use serde_json::{Value, json};

/// Ids that a pod has.
const RANGE: u32 = 65_536;

fn own(more: Value) -> Value {
    e2e::merge(json!({"hostUsers": false}), more)
}

/// The host's id of root in a pod, from its `/proc/self/uid_map`, which must be one line of the whole range.
fn base(ctx: &Ctx, pod: &str) -> Result<u32> {
    let map = ctx.sh(pod, "cat /proc/self/uid_map; cat /proc/self/gid_map")?;
    let lines: Vec<Vec<u32>> =
        map.lines().map(|l| l.split_whitespace().map(|n| Ok(n.parse()?)).collect()).collect::<Result<_>>()?;
    ensure!(lines.len() == 2 && lines[0] == lines[1], "{map}");
    ensure!(lines[0].len() == 3 && lines[0][0] == 0 && lines[0][2] == RANGE, "{map}");
    ensure!(lines[0][1] >= RANGE, "a pod has ids of the host's users:\n{map}");
    Ok(lines[0][1])
}

fn one_marked(word: &str) -> Result<u32> {
    let found: Vec<u32> = leaks::pids().into_iter().filter(|p| leaks::command_line(*p).contains(word)).collect();
    ensure!(found.len() == 1, "processes of {word}: {found:?}");
    Ok(found[0])
}

pub fn root_in_a_pod_of_its_own_users_is_nobody_on_the_host(ctx: &Ctx) -> Result<()> {
    let mark = format!("users-{}", ctx.instance.name());
    ctx.ready_pod(pod("mapped", &format!(": {mark}; {IDLE}"), own(json!({}))))?;
    ctx.ready_pod(pod("neighbour", IDLE, own(json!({}))))?;
    let (first, second) = (base(ctx, "mapped")?, base(ctx, "neighbour")?);
    ensure!(first.abs_diff(second) >= RANGE, "two pods share ids: {first} and {second}");
    ensure!(ctx.sh("mapped", "id -u; id -g")? == "0\n0");
    // What the kernel of the host says of the same process, and of its namespaces.
    let pid = one_marked(&mark)?;
    let owner = std::fs::metadata(format!("/proc/{pid}"))?.uid();
    ensure!(owner == first, "the process belongs to {owner}, not {first}");
    let user_ns = std::fs::read_link(format!("/proc/{pid}/ns/user"))?;
    ensure!(user_ns != std::fs::read_link("/proc/self/ns/user")?, "it is in the host's user namespace");
    // Its file system is its own: files of the image are root's, and root may write.
    let files = "stat -c %u:%g / /etc/passwd /bin/busybox /dev /dev/shm /etc/hosts; echo x > /etc/x; stat -c %u /etc/x; \
                 mkdir /opt && chown 1000:2000 /opt && stat -c %u:%g /opt; stat -c %u /home/app";
    let seen = ctx.sh("mapped", files)?;
    let expected = "0:0\n0:0\n0:0\n0:0\n0:0\n0:0\n0\n1000:2000\n1000";
    ensure!(seen == expected, "{seen}");
    // Root in the pod rules over the pod: its network, its low ports, its host name's namespace. Not over the host.
    let may =
        "nc -l -p 80 -e true & sleep 0; kill $!; cat /proc/sys/net/ipv4/ip_forward >/dev/null && echo read; hostname";
    ensure!(ctx.sh("mapped", may)?.contains("read"), "{}", ctx.sh("mapped", may)?);
    let signalled = ctx.sh("mapped", "kill -0 1 && echo own; ls /proc | grep -c '^[0-9]'")?;
    ensure!(signalled.starts_with("own"), "{signalled}");
    ctx.ok(&["delete", "pod", "mapped", "neighbour", "--wait=false"])?;
    Ok(())
}

pub fn volumes_of_a_pod_with_its_own_users_keep_their_owners_on_disk(ctx: &Ctx) -> Result<()> {
    let folder = ctx.instance.dir().join("mapped-host-path");
    std::fs::create_dir_all(folder.join("sub"))?;
    std::fs::write(folder.join("from-host"), "host")?;
    ctx.ok(&["create", "configmap", "conf", "--from-literal=key=value"])?;
    let volumes = json!([
        {"name": "host", "hostPath": {"path": folder, "type": "Directory"}},
        {"name": "disk", "emptyDir": {}},
        {"name": "memory", "emptyDir": {"medium": "Memory"}},
        {"name": "conf", "configMap": {"name": "conf"}},
    ]);
    let mounts = json!([
        {"name": "host", "mountPath": "/host"}, {"name": "host", "mountPath": "/sub", "subPath": "sub"},
        {"name": "disk", "mountPath": "/disk"}, {"name": "memory", "mountPath": "/memory"},
        {"name": "conf", "mountPath": "/conf", "readOnly": true},
    ]);
    let spec = own(json!({
        "volumes": volumes,
        "securityContext": {"fsGroup": 3000},
        "containers": [{"name": "main", "volumeMounts": mounts, "workingDir": "/made/here"}],
    }));
    ctx.ready_pod(pod("volumes", IDLE, spec))?;
    let script = "set -e; cat /host/from-host; cat /conf/key; stat -c %u:%g /host /host/from-host /sub; stat -c %u /memory /conf/key; \
                  for d in /host /sub /disk /memory; do echo mine > $d/new; chown 1000:2000 $d/new; stat -c %u:%g $d/new; done; \
                  head -c 1 /var/run/secrets/kubernetes.io/serviceaccount/token | wc -c; (echo x > /conf/key) 2>/dev/null || echo frozen; \
                  pwd; touch here; stat -c %u:%g . here";
    let seen = ctx.sh("volumes", script)?;
    let expected =
        "hostvalue0:0\n0:0\n0:0\n0\n0\n1000:2000\n1000:2000\n1000:2000\n1000:2000\n1\nfrozen\n/made/here\n0:0\n0:0";
    ensure!(seen == expected, "{seen}");
    for file in ["new", "sub/new"] {
        let meta = std::fs::metadata(folder.join(file))?;
        ensure!((meta.uid(), meta.gid()) == (1000, 2000), "{file} on disk: {}:{}", meta.uid(), meta.gid());
    }
    // A pod without user namespace reads the same owners.
    let plain = json!({
        "restartPolicy": "Never", "volumes": [{"name": "host", "hostPath": {"path": folder}}],
        "containers": [{"name": "main", "volumeMounts": [{"name": "host", "mountPath": "/host"}]}],
    });
    ensure!(ctx.output_of(pod("plain", "stat -c %u:%g /host/new", plain))? == "1000:2000\n");
    ctx.ok(&["delete", "pod", "volumes", "--wait=false"])?;
    Ok(())
}

pub fn users_terminals_and_shared_processes_work_in_a_pod_with_its_own_users(ctx: &Ctx) -> Result<()> {
    let spec = own(json!({
        "shareProcessNamespace": true,
        "securityContext": {"sysctls": [{"name": "net.ipv4.ip_unprivileged_port_start", "value": "79"}]},
        "containers": [
            {"name": "main", "tty": true, "stdin": true},
            e2e::merge(e2e::container("user", IDLE), json!({"securityContext": {"runAsUser": 1000, "runAsGroup": 1000, "runAsNonRoot": true}})),
        ],
    }));
    ctx.ready_pod(pod("rich", IDLE, spec))?;
    base(ctx, "rich")?;
    let user = ctx.ok(&[
        "exec",
        "rich",
        "-c",
        "user",
        "--",
        "sh",
        "-c",
        "id -u; cat /proc/sys/net/ipv4/ip_unprivileged_port_start",
    ])?;
    ensure!(user == "1000\n79\n", "{user}");
    let processes =
        ctx.ok(&["exec", "rich", "-c", "main", "--", "sh", "-c", "ps -o user,args | grep -c 'trap exit'; true"])?;
    ensure!(processes.trim().parse::<u32>()? >= 2, "the containers' processes are not shared: {processes}");
    let typed = ctx.in_terminal(
        &["--namespace", &ctx.ns, "exec", "-it", "rich", "-c", "main", "--", "sh", "-c", "tty; id -u"],
        b"",
    )?;
    ensure!(typed.stdout.contains("/dev/pts/") && typed.stdout.contains('0'), "{:?}", typed.stdout);
    // An id that the pod does not have, and a combination that no pod may have, are refused by name.
    ctx.apply(&[pod("high", IDLE, own(json!({"securityContext": {"runAsUser": 70_000}})))])?;
    ctx.wait("pod/high", "jsonpath={.status.containerStatuses[0].state.waiting.message}").or_else(|_| {
        ctx.wait("pod/high", "jsonpath={.status.containerStatuses[0].state.waiting.reason}=CreateContainerError")
    })?;
    let message = ctx.field("pod/high", ".status.containerStatuses[0].state.waiting.message")?;
    ensure!(message.contains("70000"), "{message}");
    let refused = ctx.feed(&["apply", "-f", "-"], &[pod("both", IDLE, own(json!({"hostNetwork": true})))])?.failed()?;
    ensure!(refused.contains("spec.hostNetwork: Forbidden: when `hostUsers` is false"), "{refused}");
    ctx.ok(&["delete", "pod", "rich", "high", "--wait=false"])?;
    Ok(())
}
