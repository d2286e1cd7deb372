//! What a container asks for, as the specification of a pod.

use convert::Inspect;
use serde_json::{Map, Value, json};

use super::{CONTAINER, MIRROR, NAMESPACE, Node};

/// Docker's patience between the stop signal and the kill, seconds.
const STOP_SECONDS: i64 = 10;
/// What is shown in place of a secret.
const HIDDEN: &str = "<hidden>";
/// For ever, in seconds: a container may be given that long to end.
const FOR_EVER: i64 = 365 * 24 * 3600;

/// The pod that stands for a container.
pub fn of(container: &Inspect, name: &str, node: &Node) -> Value {
    let (labels, mut annotations) = labels(container);
    annotations.insert(CONTAINER.to_owned(), container.id.clone().into());
    let mut spec = spec(container);
    spec["nodeName"] = node.name.clone().into();
    let hash = crate::plan::short_hash(&json!([labels, annotations, spec]), 0);
    annotations.insert(MIRROR.to_owned(), hash.into());
    let metadata = json!({"name": name, "namespace": NAMESPACE, "labels": labels, "annotations": annotations});
    json!({"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": spec})
}

/// Docker's labels: as labels where Kubernetes takes them, else as annotations. Keys of Kubernetes and of this program mean something
/// and are nobody's to set.
fn labels(container: &Inspect) -> (Map<String, Value>, Map<String, Value>) {
    let (mut labels, mut annotations) = (Map::new(), Map::new());
    let reserved = |key: &str| {
        let domain = key.split_once('/').map_or("", |(domain, _)| domain);
        ["kubernetes.io", "k8s.io", "windlass.dev"]
            .iter()
            .any(|own| domain.strip_suffix(own).is_some_and(|rest| rest.is_empty() || rest.ends_with('.')))
    };
    for (key, value) in &container.config.labels {
        if reserved(key) || !api::names::qualified_name(key).is_empty() {
            continue;
        }
        let fits = api::names::label_value(value).is_empty();
        let into = if fits { &mut labels } else { &mut annotations };
        into.insert(key.clone(), value.clone().into());
    }
    labels.insert(CONTAINER.to_owned(), container.id.get(..12).unwrap_or(&container.id).into());
    (labels, annotations)
}

fn spec(container: &Inspect) -> Value {
    let (config, host) = (&container.config, &container.host_config);
    let (volumes, mounts) = volumes(container);
    let mut spec = json!({
        "containers": [main(container, &mounts)],
        "volumes": volumes,
        "restartPolicy": match host.restart_policy.name.as_str() {
            "always" | "unless-stopped" => "Always",
            "on-failure" => "OnFailure",
            _ => "Never",
        },
        "terminationGracePeriodSeconds": match config.stop_timeout.unwrap_or(STOP_SECONDS) {
            seconds if seconds < 0 => FOR_EVER,
            seconds => seconds.min(FOR_EVER),
        },
        "dnsPolicy": "Default",
        "enableServiceLinks": false,
        "automountServiceAccountToken": false,
        // A picture is not driven out.
        "tolerations": [{"operator": "Exists"}],
    });
    let shared = [
        ("hostNetwork", host.network_mode == "host"),
        ("hostPID", host.pid_mode == "host"),
        ("hostIPC", host.ipc_mode == "host"),
    ];
    for (key, _) in shared.iter().filter(|(_, shared)| *shared) {
        spec[*key] = true.into();
    }
    if api::names::dns1123_label(&config.hostname).is_empty() {
        spec["hostname"] = config.hostname.clone().into();
    }
    spec
}

fn literal(text: &str) -> String {
    text.replace("$(", "$$(")
}

fn words(words: &[String]) -> Value {
    words.iter().map(|word| literal(word)).collect()
}

fn main(container: &Inspect, mounts: &[Value]) -> Value {
    let config = &container.config;
    let mut made = json!({
        "name": convert::name(container.plain_name()),
        "image": config.image.trim(),
        "imagePullPolicy": "IfNotPresent",
        "env": env(&config.env),
        "ports": ports(container),
        "resources": resources(container),
        "securityContext": security(container),
        "volumeMounts": mounts,
    });
    for (key, list) in [("command", &config.entrypoint), ("args", &config.cmd)] {
        if !list.is_empty() {
            made[key] = words(list);
        }
    }
    if !config.working_dir.is_empty() {
        made["workingDir"] = config.working_dir.clone().into();
    }
    for (key, _) in [("tty", config.tty), ("stdin", config.open_stdin), ("stdinOnce", config.stdin_once)]
        .iter()
        .filter(|(_, set)| *set)
    {
        made[*key] = true.into();
    }
    made
}

/// Variables. Docker shows them to root alone, pods are shown to many: what is rather a secret has its name only.
fn env(all: &[String]) -> Vec<Value> {
    let pairs = all.iter().map(|e| e.split_once('=').unwrap_or((e, "")));
    pairs
        .filter(|(name, _)| api::names::env_var_name(name).is_empty())
        .map(|(name, value)| {
            let shown = if convert::is_secret(name) { HIDDEN.to_owned() } else { literal(value) };
            json!({"name": name, "value": shown})
        })
        .collect()
}

/// Ports that it exposes, and those of the host that lead to them. On the host's network there is nothing to lead.
fn ports(container: &Inspect) -> Vec<Value> {
    let (host, live) = (&container.host_config, &container.network_settings.ports);
    let mut made: Vec<Value> = Vec::new();
    let texts = container.config.exposed_ports.keys().chain(host.port_bindings.keys());
    for text in texts {
        let Some((port, protocol)) = Inspect::port(text) else { continue };
        let bare = json!({"containerPort": port, "protocol": protocol.to_ascii_uppercase()});
        let published = match live.get(text).filter(|now| !now.is_empty()) {
            Some(now) => now,
            None => host.port_bindings.get(text).map_or(&[][..], Vec::as_slice),
        };
        let mut all: Vec<Value> = Vec::new();
        for binding in published.iter().filter(|_| host.network_mode != "host") {
            let Some(number) = binding.host_port.parse::<u16>().ok().filter(|n| *n > 0) else { continue };
            let mut one = bare.clone();
            one["hostPort"] = number.into();
            if let Some(ip) = binding.address() {
                one["hostIP"] = ip.into();
            }
            all.push(one);
        }
        if all.is_empty() {
            all.push(bare);
        }
        made.extend(all.into_iter().filter(|one| !made.contains(one)).collect::<Vec<_>>());
    }
    made
}

/// Limits; and requests of nothing beside them, because Docker keeps nothing for a container, and a limit alone would count as a
/// request.
fn resources(container: &Inspect) -> Value {
    let host = &container.host_config;
    let positive = |n: i64| u64::try_from(n).ok().filter(|n| *n > 0);
    let (mut limits, mut requests) = (Map::new(), Map::new());
    let cpu = host.milli_cpu();
    if let Some(milli) = cpu {
        limits.insert("cpu".to_owned(), format!("{milli}m").into());
    }
    let share = positive(host.cpu_shares).map(|n| (n * 1000).div_ceil(1024));
    if cpu.is_some() || share.is_some() {
        let milli = share.unwrap_or(0).min(cpu.unwrap_or(u64::MAX));
        requests.insert("cpu".to_owned(), format!("{milli}m").into());
    }
    let memory = positive(host.memory);
    if let Some(bytes) = memory {
        limits.insert("memory".to_owned(), bytes.to_string().into());
    }
    let kept = positive(host.memory_reservation);
    if memory.is_some() || kept.is_some() {
        let bytes = kept.unwrap_or(0).min(memory.unwrap_or(u64::MAX));
        requests.insert("memory".to_owned(), bytes.to_string().into());
    }
    json!({"limits": limits, "requests": requests})
}

fn security(container: &Inspect) -> Value {
    let host = &container.host_config;
    let bare = |list: &[String]| list.iter().map(|c| c.trim_start_matches("CAP_").to_owned()).collect::<Vec<_>>();
    let (add, drop) = (bare(&host.cap_add), bare(&host.cap_drop));
    let mut made = json!({});
    if host.privileged {
        made["privileged"] = true.into();
    }
    if host.readonly_rootfs {
        made["readOnlyRootFilesystem"] = true.into();
    }
    let no_new = host
        .security_opt
        .iter()
        .any(|o| matches!(o.as_str(), "no-new-privileges" | "no-new-privileges=true" | "no-new-privileges:true"));
    // Kubernetes takes these together for a contradiction.
    if no_new && !host.privileged && !add.iter().any(|c| c == "SYS_ADMIN") {
        made["allowPrivilegeEscalation"] = false.into();
    }
    let mut ids = container.config.user.split(':').map(|part| part.parse::<u32>().ok());
    for key in ["runAsUser", "runAsGroup"] {
        if let Some(id) = ids.next().flatten() {
            made[key] = id.into();
        }
    }
    if !(add.is_empty() && drop.is_empty()) {
        made["capabilities"] = json!({"add": add, "drop": drop});
    }
    made
}

/// Volumes and binds are paths of the host, and what is in memory is in memory.
fn volumes(container: &Inspect) -> (Vec<Value>, Vec<Value>) {
    let (mut volumes, mut mounts): (Vec<Value>, Vec<Value>) = (Vec::new(), Vec::new());
    for (at, point) in container.mounts.iter().enumerate() {
        let sound = point.destination.starts_with('/') && !point.destination.contains(':');
        let twice = mounts.iter().any(|m| m["mountPath"] == point.destination.as_str());
        let upwards = point.source.split('/').any(|part| part == "..");
        if !sound || twice || upwards {
            continue;
        }
        let name = match point.kind.as_str() {
            "volume" => convert::name(&point.name),
            kind => convert::name(&format!("{kind}-{at}")),
        };
        if !volumes.iter().any(|v| v["name"] == name.as_str()) {
            volumes.push(match point.kind.as_str() {
                "tmpfs" => json!({"name": name, "emptyDir": {"medium": "Memory"}}),
                _ => json!({"name": name, "hostPath": {"path": point.source}}),
            });
        }
        mounts.push(json!({"name": name, "mountPath": point.destination, "readOnly": !point.writable}));
    }
    (volumes, mounts)
}
