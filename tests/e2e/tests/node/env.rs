//! What a container is started with: environment, command, arguments.

use anyhow::{Result, ensure};
use e2e::{Ctx, IMAGE, pod, service};
use serde_json::{Value, json};

use crate::ENTRY_IMAGE;
use crate::api::{Api, has, says};

/// A pod that runs once.
fn once(name: &str, script: &str, main: Value) -> Value {
    let mut main = main;
    main["name"] = "main".into();
    pod(name, script, json!({"restartPolicy": "Never", "containers": [main]}))
}

/// The whole environment under several prefixes, as `envFrom` of one source.
fn prefixed(source: &Value) -> (Value, Vec<String>) {
    let prefixes = ["", "1-", "$_-", "ABC_", "#@!"];
    let from = |prefix: &str| {
        let mut from = source.clone();
        if !prefix.is_empty() {
            from["prefix"] = prefix.into();
        }
        from
    };
    let names = |prefix: &str| ["data_1=value-1", "data_2=value-2"].map(|pair| format!("{prefix}{pair}\n"));
    (prefixes.map(from).into(), prefixes.iter().flat_map(|p| names(p)).collect())
}

// conformance: [sig-node] ConfigMap should be consumable as environment variable names with various prefixes
// conformance: [sig-node] ConfigMap should be consumable via environment variable
// conformance: [sig-node] ConfigMap should be consumable via the environment
// conformance: [sig-node] Secrets should be consumable as environment variable names variable names with various prefixes
// conformance: [sig-node] Secrets should be consumable from pods in env vars
// conformance: [sig-node] Secrets should be consumable via the environment
pub fn variables_come_from_config_maps_and_secrets(ctx: &Ctx) -> Result<()> {
    let api = Api::new(ctx)?;
    let data = json!({"data_1": "value-1", "data_2": "value-2"});
    api.create("configmaps", &json!({"metadata": {"name": "map"}, "data": data}))?;
    api.create("secrets", &json!({"metadata": {"name": "secret"}, "stringData": data}))?;
    let mut rows = Vec::new();
    for (name, from, key) in [("map", "configMapRef", "configMapKeyRef"), ("secret", "secretRef", "secretKeyRef")] {
        // Without a shell, which passes on only what it could use itself.
        let env = |more: Value| e2e::merge(more, json!({"command": ["env"]}));
        let one = json!([{"name": "DATA_1", "valueFrom": {key: {"name": name, "key": "data_1"}}}]);
        rows.push((once(&format!("{name}-one"), "", env(json!({"env": one}))), has(&["DATA_1=value-1\n"])));
        let all = json!([{from: {"name": name}}, {from: {"name": name}, "prefix": "p-"}]);
        let wanted = ["data_1=value-1\n", "data_2=value-2\n", "p-data_1=value-1\n", "p-data_2=value-2\n"];
        rows.push((once(&format!("{name}-all"), "", env(json!({"envFrom": all}))), has(&wanted)));
        let (from, wanted) = prefixed(&json!({from: {"name": name}}));
        let wanted: Vec<&str> = wanted.iter().map(String::as_str).collect();
        rows.push((once(&format!("{name}-prefixes"), "", env(json!({"envFrom": from}))), has(&wanted)));
    }
    api.outputs(rows)?;
    api.clear()
}

fn field(name: &str, path: &str) -> Value {
    json!({"name": name, "valueFrom": {"fieldRef": {"apiVersion": "v1", "fieldPath": path}}})
}

fn resource(name: &str, resource: &str) -> Value {
    json!({"name": name, "valueFrom": {"resourceFieldRef": {"resource": resource}}})
}

// conformance: [sig-node] Downward API should provide container's limits.cpu/memory and requests.cpu/memory as env vars
// conformance: [sig-node] Downward API should provide default limits.cpu/memory from node allocatable
// conformance: [sig-node] Downward API should provide host IP as an env var
// conformance: [sig-node] Downward API should provide hostIPs as an env var
// conformance: [sig-node] Downward API should provide pod UID as env vars
// conformance: [sig-node] Downward API should provide pod name, namespace and IP address as env vars
pub fn variables_tell_of_the_pod_and_its_node(ctx: &Ctx) -> Result<()> {
    let api = Api::new(ctx)?;
    let fields = json!([
        field("POD_NAME", "metadata.name"),
        field("POD_NAMESPACE", "metadata.namespace"),
        field("POD_UID", "metadata.uid"),
        field("POD_IP", "status.podIP"),
        field("HOST_IP", "status.hostIP"),
        field("HOST_IPS", "status.hostIPs"),
    ]);
    let script = "echo $POD_NAME $POD_NAMESPACE $POD_UID $POD_IP $HOST_IP $HOST_IPS";
    let about = |pod: &Value, said: &str| {
        let (meta, status) = (&pod["metadata"], &pod["status"]);
        let hosts: Vec<&str> =
            status["hostIPs"].as_array().into_iter().flatten().filter_map(|h| h["ip"].as_str()).collect();
        let values = [&meta["name"], &meta["namespace"], &meta["uid"], &status["podIP"], &status["hostIP"]];
        let mut words: Vec<&str> = values.iter().filter_map(|v| v.as_str()).collect();
        let hosts = hosts.join(",");
        words.push(&hosts);
        words.len() == 6 && !hosts.is_empty() && said.split_whitespace().eq(words)
    };
    let names = ["CPU_LIMIT", "MEMORY_LIMIT", "CPU_REQUEST", "MEMORY_REQUEST"];
    let amounts = ["limits.cpu", "limits.memory", "requests.cpu", "requests.memory"];
    let env: Vec<Value> = names.iter().zip(amounts).map(|(name, of)| resource(name, of)).collect();
    let script_of_amounts = "echo $CPU_LIMIT $MEMORY_LIMIT $CPU_REQUEST $MEMORY_REQUEST";
    let sized = json!({"env": env, "resources": {"requests": {"cpu": "250m", "memory": "32Mi"}, "limits": {"cpu": "1250m", "memory": "64Mi"}}});
    let node = api.get("/api/v1/nodes")?["items"][0].clone();
    let allocatable = &node["status"]["allocatable"];
    let memory = allocatable["memory"].as_str().and_then(|m| m.strip_suffix("Ki")?.parse::<u64>().ok()).unwrap_or(0);
    let cpus = allocatable["cpu"].as_str().unwrap_or_default().to_owned();
    let near = move |_: &Value, said: &str| {
        let words: Vec<&str> = said.split_whitespace().collect();
        let bytes = words.get(1).and_then(|w| w.parse::<u64>().ok()).unwrap_or(0);
        // The node tells its memory in whole KiB.
        words.first() == Some(&cpus.as_str()) && bytes / 1024 == memory && words[2..] == ["0", "0"]
    };
    api.outputs(vec![
        (once("fields", script, json!({"env": fields})), Box::new(about)),
        (once("amounts", script_of_amounts, sized), says("2 67108864 1 33554432\n")),
        (once("defaults", script_of_amounts, json!({"env": env})), Box::new(near)),
    ])?;
    api.clear()
}

// conformance: [sig-node] Containers should be able to override the image's default arguments (container cmd)
// conformance: [sig-node] Containers should be able to override the image's default command (container entrypoint)
// conformance: [sig-node] Containers should be able to override the image's default command and arguments
// conformance: [sig-node] Containers should use the image defaults if command and args are blank
// conformance: [sig-node] Variable Expansion should allow composing env vars into new env vars
// conformance: [sig-node] Variable Expansion should allow substituting values in a container's args
// conformance: [sig-node] Variable Expansion should allow substituting values in a container's command
pub fn command_and_arguments_are_the_images_or_the_pods(ctx: &Ctx) -> Result<()> {
    let api = Api::new(ctx)?;
    let with = |name: &str, image: &str, more: Value| {
        let mut container = more;
        container["name"] = "main".into();
        container["image"] = image.into();
        let spec = json!({"restartPolicy": "Never", "terminationGracePeriodSeconds": 2, "containers": [container]});
        json!({"metadata": {"name": name}, "spec": spec})
    };
    let test = json!([{"name": "TEST_VAR", "value": "test-value"}]);
    let composed = json!([
        {"name": "FOO", "value": "foo-value"},
        {"name": "BAR", "value": "bar-value"},
        {"name": "FOOBAR", "value": "$(FOO);;$(BAR)"},
    ]);
    let shell = |word: &str| json!(["sh", "-c", word]);
    api.outputs(vec![
        // The image runs `echo entry` with `of the image`.
        (with("defaults", ENTRY_IMAGE, json!({})), says("entry of the image\n")),
        (
            with("arguments", ENTRY_IMAGE, json!({"args": ["override", "arguments"]})),
            says("entry override arguments\n"),
        ),
        (with("command", ENTRY_IMAGE, json!({"command": ["echo", "own"]})), says("own\n")),
        (with("both", ENTRY_IMAGE, json!({"command": ["echo", "own"], "args": ["two"]})), says("own two\n")),
        (
            with("composed", IMAGE, json!({"command": shell("env"), "env": composed})),
            has(&["FOO=foo-value\n", "BAR=bar-value\n", "FOOBAR=foo-value;;bar-value\n"]),
        ),
        (
            with("in-command", IMAGE, json!({"command": shell("TEST_VAR=wrong echo \"$(TEST_VAR)\""), "env": test})),
            says("test-value\n"),
        ),
        (
            with(
                "in-args",
                IMAGE,
                json!({"command": ["sh", "-c"], "args": ["TEST_VAR=wrong echo \"$(TEST_VAR)\""], "env": test}),
            ),
            says("test-value\n"),
        ),
    ])?;
    api.clear()
}

// conformance: [sig-node] Pods should contain environment variables for services
pub fn a_later_pod_has_the_addresses_of_services(ctx: &Ctx) -> Result<()> {
    let api = Api::new(ctx)?;
    let ports = json!([{"port": 8765, "targetPort": 8080}]);
    let made = api.create("services", &service("fooservice", json!({"ports": ports})))?;
    let ip = made["spec"]["clusterIP"].as_str().unwrap_or_default().to_owned();
    ensure!(!ip.is_empty(), "{made}");
    let url = format!("tcp://{ip}:8765");
    let wanted = [
        format!("FOOSERVICE_SERVICE_HOST={ip}\n"),
        "FOOSERVICE_SERVICE_PORT=8765\n".to_owned(),
        format!("FOOSERVICE_PORT={url}\n"),
        "FOOSERVICE_PORT_8765_TCP_PORT=8765\n".to_owned(),
        "FOOSERVICE_PORT_8765_TCP_PROTO=tcp\n".to_owned(),
        format!("FOOSERVICE_PORT_8765_TCP={url}\n"),
        format!("FOOSERVICE_PORT_8765_TCP_ADDR={ip}\n"),
    ];
    // The node hears of the Service a moment after it was made; a pod made before that would have no variables for it.
    e2e::eventually(crate::api::LIMIT, "a new pod has the variables", || {
        let name = format!("client-{}", std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH)?.as_nanos());
        api.create("pods", &once(&name, "env", json!({})))?;
        let said = api.output(&name, "main")?;
        let missing: Vec<&String> = wanted.iter().filter(|line| !said.contains(line.as_str())).collect();
        ensure!(missing.is_empty(), "no {missing:?} in {said}");
        Ok(())
    })?;
    api.clear()
}
