//! Manifests as the tests want them: short, and with processes that end when told to.

use serde_json::{Value, json};

/// The base image; see `rootfs_tar`.
pub const IMAGE: &str = "windlass.local/busybox:1";

/// A script that does nothing until it is told to end. A shell that is process 1 of its namespace must ask for SIGTERM, or
/// the kernel does not deliver it (pid_namespaces(7)).
pub const IDLE: &str = "trap 'exit 0' TERM INT; while :; do sleep 3600 & wait $!; done";

/// A container that runs a shell script.
pub fn container(name: &str, script: &str) -> Value {
    json!({"name": name, "image": IMAGE, "command": ["sh", "-c", script]})
}

/// A container that serves `body` on port 8080 and says so with a readiness probe.
pub fn httpd(body: &str) -> Value {
    let script = format!(
        "mkdir -p /tmp/www && printf '%s' \"{body}\" > /tmp/www/index.html && trap 'exit 0' TERM INT; \
         httpd -f -p 8080 -h /tmp/www & while :; do wait $!; done"
    );
    merge(
        container("web", &script),
        json!({
            "ports": [{"name": "http", "containerPort": 8080}],
            "readinessProbe": {"httpGet": {"path": "/", "port": "http"}, "periodSeconds": 1},
        }),
    )
}

/// A pod of one container named `main`; `spec` is merged over its spec.
pub fn pod(name: &str, script: &str, spec: Value) -> Value {
    let base = json!({
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": name, "labels": {"app": name}},
        "spec": {"terminationGracePeriodSeconds": 2, "containers": [container("main", script)]},
    });
    merge(base, json!({"spec": spec}))
}

/// A Deployment of pods labelled `app: NAME` with the containers given.
pub fn deployment(name: &str, replicas: u32, containers: Value) -> Value {
    json!({
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": {"name": name},
        "spec": {
            "replicas": replicas,
            "selector": {"matchLabels": {"app": name}},
            "template": {
                "metadata": {"labels": {"app": name}},
                "spec": {"terminationGracePeriodSeconds": 5, "containers": containers},
            },
        },
    })
}

/// A Service over `app: NAME`, port 80 to the pods' port 8080; `spec` is merged over its spec.
pub fn service(name: &str, spec: Value) -> Value {
    let base = json!({
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {"name": name},
        "spec": {"selector": {"app": name}, "ports": [{"name": "http", "port": 80, "targetPort": 8080}]},
    });
    merge(base, json!({"spec": spec}))
}

/// Lays `over` over `base`: objects by key; lists of named things by name (in their order), other lists as a whole.
pub fn merge(base: Value, over: Value) -> Value {
    match (base, over) {
        (Value::Object(mut base), Value::Object(over)) => {
            for (key, value) in over {
                let merged = match base.remove(&key) {
                    Some(old) => merge(old, value),
                    None => value,
                };
                base.insert(key, merged);
            }
            Value::Object(base)
        }
        (Value::Array(base), Value::Array(over)) if !over.is_empty() && over.iter().all(|v| v["name"].is_string()) => {
            let mut list = base;
            for value in over {
                match list.iter().position(|v| v["name"] == value["name"]) {
                    Some(at) => list[at] = merge(list[at].take(), value),
                    None => list.push(value),
                }
            }
            Value::Array(list)
        }
        (_, over) => over,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn named_list_items_are_merged_by_name() {
        let got = pod("p", "true", json!({"containers": [{"name": "main", "env": []}, {"name": "side"}]}));
        let containers = got["spec"]["containers"].as_array().unwrap();
        assert_eq!(containers.len(), 2);
        assert_eq!(containers[0]["image"], IMAGE);
        assert_eq!(containers[0]["env"], json!([]));
    }
}
