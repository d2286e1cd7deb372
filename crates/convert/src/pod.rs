//! A pod's template.

use std::collections::BTreeMap;

use serde_json::{Map, Value as Json, json};

use crate::model::{
    Container, From, Health, HealthTest, Item, Pod, Port, Published, Resources, Restart, Source, Value, Volume,
    Workload,
};

/// Puts a value where it says something.
pub fn put(into: &mut Json, key: &str, value: Json) {
    let empty = match &value {
        Json::Null => true,
        Json::Bool(b) => !b,
        Json::String(s) => s.is_empty(),
        Json::Array(list) => list.is_empty(),
        Json::Object(map) => map.is_empty(),
        Json::Number(_) => false,
    };
    if !empty {
        into[key] = value;
    }
}

/// A literal text in a field where Kubernetes would expand `$(NAME)`: there `$$` is a dollar.
fn literal(text: &str) -> String {
    text.replace("$(", "$$(")
}

fn words(words: Option<&Vec<String>>) -> Json {
    words.map_or(Json::Null, |words| words.iter().map(|w| literal(w)).collect())
}

fn variable(name: &str, value: &Value) -> Json {
    match value {
        Value::Text(text) => json!({"name": name, "value": literal(text)}),
        Value::ConfigMap { name: map, key } => {
            json!({"name": name, "valueFrom": {"configMapKeyRef": {"name": map, "key": key}}})
        }
        Value::Secret { name: secret, key } => {
            json!({"name": name, "valueFrom": {"secretKeyRef": {"name": secret, "key": key}}})
        }
        Value::Field(path) => json!({"name": name, "valueFrom": {"fieldRef": {"fieldPath": path}}}),
    }
}

fn amounts(of: &Resources) -> Json {
    let mut all: BTreeMap<&str, String> = of.others.iter().map(|(k, v)| (k.as_str(), v.clone())).collect();
    if let Some(cpu) = of.milli_cpu {
        all.insert("cpu", if cpu % 1000 == 0 { (cpu / 1000).to_string() } else { format!("{cpu}m") });
    }
    if let Some(memory) = of.memory {
        all.insert("memory", bytes(memory));
    }
    json!(all)
}

/// Bytes as a quantity, in the largest binary unit that says it exactly.
pub fn bytes(amount: u64) -> String {
    let units = [("Ti", 40), ("Gi", 30), ("Mi", 20), ("Ki", 10)];
    let exact = units.iter().find(|(_, bits)| amount > 0 && amount.trailing_zeros() >= *bits);
    exact.map_or(amount.to_string(), |(unit, bits)| format!("{}{unit}", amount >> bits))
}

fn handler(test: &HealthTest) -> Json {
    match test {
        HealthTest::Exec(command) => json!({"exec": {"command": command}}),
        HealthTest::Shell(line) => json!({"exec": {"command": ["/bin/sh", "-c", line]}}),
        HealthTest::Tcp(port) => json!({"tcpSocket": {"port": port}}),
        HealthTest::Http { port, path } => json!({"httpGet": {"port": port, "path": path}}),
    }
}

/// Seconds for which a container may fail its first check where that is not to end it.
const DAY: u32 = 86_400;

fn probes(container: &mut Json, health: &Health) {
    let mut probe = handler(&health.test);
    probe["periodSeconds"] = health.interval.max(1).into();
    probe["timeoutSeconds"] = health.timeout.max(1).into();
    probe["failureThreshold"] = health.retries.max(1).into();
    if health.start_period > 0 {
        // Until it has been well once, for the time that it is given and the failures that count after it.
        let mut startup = probe.clone();
        let period = health.interval.clamp(1, 2);
        startup["periodSeconds"] = period.into();
        // A startup probe that fails too often ends the container, which Docker does not.
        let allowed = (health.start_period.div_ceil(period))
            .saturating_add(health.retries.max(1).saturating_mul(health.interval.max(1)) / period);
        startup["failureThreshold"] = if health.restart { allowed } else { allowed.max(DAY / period) }.into();
        container["startupProbe"] = startup;
    }
    if health.restart {
        container["livenessProbe"] = probe.clone();
    }
    container["readinessProbe"] = probe;
}

fn security(container: &Container) -> Json {
    let mut security = json!({});
    put(&mut security, "runAsUser", json!(container.user));
    put(&mut security, "runAsGroup", json!(container.group));
    put(&mut security, "readOnlyRootFilesystem", container.read_only.into());
    put(&mut security, "privileged", container.privileged.into());
    if container.no_new_privileges {
        security["allowPrivilegeEscalation"] = false.into();
    }
    let mut capabilities = json!({});
    put(&mut capabilities, "add", json!(container.cap_add));
    put(&mut capabilities, "drop", json!(container.cap_drop));
    put(&mut security, "capabilities", capabilities);
    put(&mut security, "seccompProfile", container.seccomp.clone().unwrap_or_default());
    put(&mut security, "appArmorProfile", container.apparmor.clone().unwrap_or_default());
    security
}

fn container(of: &Container, ports: &[Port]) -> Json {
    let mut made = json!({"name": of.name, "image": of.image});
    put(&mut made, "imagePullPolicy", json!(of.pull));
    put(&mut made, "command", words(of.command.as_ref()));
    put(&mut made, "args", words(of.args.as_ref()));
    put(&mut made, "workingDir", json!(of.dir));
    put(&mut made, "env", of.env.iter().map(|v| variable(&v.name, &v.value)).collect());
    let from = |from: &From| match from {
        From::ConfigMap(name) => json!({"configMapRef": {"name": name}}),
        From::Secret(name) => json!({"secretRef": {"name": name}}),
    };
    put(&mut made, "envFrom", of.env_from.iter().map(from).collect());
    let mut seen = Vec::new();
    for port in ports {
        let mut one = json!({"containerPort": port.container});
        if port.protocol.name() != "TCP" {
            one["protocol"] = port.protocol.name().into();
        }
        if let Published::OnNode(host) = port.published {
            one["hostPort"] = host.into();
        }
        if !seen.contains(&one) {
            seen.push(one);
        }
    }
    put(&mut made, "ports", seen.into());
    put(&mut made, "tty", of.tty.into());
    put(&mut made, "stdin", of.stdin.into());
    let mut resources = json!({});
    put(&mut resources, "limits", amounts(&of.limits));
    put(&mut resources, "requests", amounts(&of.requests));
    put(&mut made, "resources", resources);
    put(&mut made, "securityContext", security(of));
    let mut lifecycle = json!({});
    if let Some(seconds) = of.drain {
        lifecycle["preStop"] = json!({"sleep": {"seconds": seconds}});
    }
    put(&mut lifecycle, "stopSignal", json!(of.stop_signal));
    put(&mut made, "lifecycle", lifecycle);
    if let Some(health) = &of.health {
        probes(&mut made, health);
    }
    let mounts = of.mounts.iter().map(|mount| {
        let mut made = json!({"name": mount.volume, "mountPath": mount.path});
        put(&mut made, "subPath", json!(mount.sub_path));
        put(&mut made, "readOnly", mount.read_only.into());
        put(&mut made, "mountPropagation", json!(mount.propagation));
        made
    });
    put(&mut made, "volumeMounts", mounts.collect());
    made
}

fn items(list: &[Item]) -> Json {
    let one = |item: &Item| {
        let mut made = json!({"key": item.key, "path": item.path});
        put(&mut made, "mode", json!(item.mode));
        made
    };
    list.iter().map(one).collect()
}

fn volume(of: &Volume) -> Json {
    let mut made = json!({"name": of.name});
    match &of.source {
        Source::Claim(name) => made["persistentVolumeClaim"] = json!({"claimName": name}),
        Source::Host { path, kind } => {
            made["hostPath"] = json!({"path": path});
            put(&mut made["hostPath"], "type", json!(kind));
        }
        Source::Memory { size } => {
            made["emptyDir"] = json!({"medium": "Memory"});
            put(&mut made["emptyDir"], "sizeLimit", json!(size.map(bytes)));
        }
        Source::Empty => made["emptyDir"] = json!({}),
        Source::ConfigMap { name, items: list, mode } => {
            made["configMap"] = json!({"name": name});
            put(&mut made["configMap"], "items", items(list));
            put(&mut made["configMap"], "defaultMode", json!(mode));
        }
        Source::Secret { name, items: list, mode } => {
            made["secret"] = json!({"secretName": name});
            put(&mut made["secret"], "items", items(list));
            put(&mut made["secret"], "defaultMode", json!(mode));
        }
    }
    made
}

fn names(pod: &Pod) -> Json {
    let mut config = json!({});
    put(&mut config, "nameservers", json!(pod.dns));
    put(&mut config, "searches", json!(pod.dns_search));
    let option = |(name, value): &(String, Option<String>)| {
        let mut made = json!({"name": name});
        put(&mut made, "value", json!(value));
        made
    };
    put(&mut config, "options", pod.dns_options.iter().map(option).collect());
    config
}

fn spec(pod: &Pod, ports: &[Port]) -> Json {
    let mut made = json!({});
    put(&mut made, "initContainers", pod.init.iter().map(|c| container(c, &[])).collect());
    // Ports are the main container's.
    let containers = pod.containers.iter().enumerate().map(|(i, c)| container(c, if i == 0 { ports } else { &[] }));
    put(&mut made, "containers", containers.collect());
    put(&mut made, "volumes", pod.volumes.iter().map(volume).collect());
    match pod.restart {
        Restart::Always => {}
        Restart::OnFailure => made["restartPolicy"] = "OnFailure".into(),
        Restart::Never => made["restartPolicy"] = "Never".into(),
    }
    if pod.init.iter().chain(&pod.containers).any(|c| c.stop_signal.is_some()) {
        // Signals have names only where the system is known (KEP-4960).
        made["os"] = json!({"name": "linux"});
    }
    put(&mut made, "hostname", json!(pod.hostname));
    put(&mut made, "hostNetwork", pod.host_network.into());
    if pod.host_network {
        // Names of Services shall resolve there too.
        made["dnsPolicy"] = "ClusterFirstWithHostNet".into();
    }
    if !pod.dns.is_empty() {
        made["dnsPolicy"] = "None".into();
    }
    put(&mut made, "dnsConfig", names(pod));
    let hosts = pod.hosts.iter().map(|h| json!({"ip": h.ip, "hostnames": h.names}));
    put(&mut made, "hostAliases", hosts.collect());
    put(&mut made, "hostPID", pod.host_pid.into());
    put(&mut made, "hostIPC", pod.host_ipc.into());
    let mut security = json!({});
    put(&mut security, "supplementalGroups", json!(pod.groups));
    put(&mut security, "sysctls", pod.sysctls.iter().map(|(n, v)| json!({"name": n, "value": v})).collect());
    put(&mut made, "securityContext", security);
    put(&mut made, "terminationGracePeriodSeconds", json!(pod.grace));
    put(&mut made, "nodeSelector", json!(pod.node));
    put(&mut made, "affinity", pod.affinity.clone().unwrap_or_default());
    put(&mut made, "tolerations", json!(pod.tolerations));
    put(&mut made, "activeDeadlineSeconds", json!(pod.deadline));
    // What came from Docker asks no API server anything.
    made["automountServiceAccountToken"] = false.into();
    made["enableServiceLinks"] = false.into();
    made
}

/// The template of a workload's pods.
pub fn template(workload: &Workload, labels: &Map<String, Json>) -> Json {
    let mut all = labels.clone();
    all.extend(workload.pod.labels.iter().map(|(k, v)| (k.clone(), v.clone().into())));
    let mut metadata = json!({"labels": all});
    put(&mut metadata, "annotations", json!(workload.pod.annotations));
    json!({"metadata": metadata, "spec": spec(&workload.pod, &workload.ports)})
}
