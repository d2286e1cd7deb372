//! ReplicationControllers as people handle them: created, scaled, described, exposed, patched, stopped.

use std::time::Duration;

use anyhow::{Result, ensure};
use e2e::{Ctx, IMAGE, eventually, httpd};
use serde_json::{Value, json};

/// A controller of web servers that answer `body`.
fn controller(name: &str, replicas: u32, body: &str) -> Value {
    json!({
        "apiVersion": "v1", "kind": "ReplicationController",
        "metadata": {"name": name, "labels": {"app": name, "role": "primary"}},
        "spec": {
            "replicas": replicas, "selector": {"app": name, "role": "primary"},
            "template": {
                "metadata": {"labels": {"app": name, "role": "primary"}},
                "spec": {"terminationGracePeriodSeconds": 1, "containers": [httpd(body)]},
            },
        },
    })
}

/// Waits until exactly so many pods of the controller run and are ready, and answers their names.
fn pods(ctx: &Ctx, name: &str, count: usize) -> Result<Vec<String>> {
    eventually(Duration::from_secs(60), &format!("{name} has {count} pods"), || {
        let pods = ctx.list("pods", &format!("app={name}"))?;
        ensure!(pods.len() == count, "{} pods", pods.len());
        pods.iter()
            .map(|pod| {
                ensure!(pod["status"]["containerStatuses"][0]["ready"] == true, "{}", pod["status"]);
                Ok(pod["metadata"]["name"].as_str().unwrap_or_default().to_owned())
            })
            .collect()
    })
}

/// Each pod is what the controller was made for.
fn serve(ctx: &Ctx, pods: &[String], body: &str) -> Result<()> {
    for pod in pods {
        let image = ctx.field(&format!("pod/{pod}"), ".spec.containers[0].image")?;
        ensure!(image == IMAGE, "{pod} has {image}");
        let path = format!("/api/v1/namespaces/{}/pods/{pod}:8080/proxy/", ctx.ns);
        let said = ctx.ok(&["get", "--raw", &path])?;
        ensure!(said == body, "{pod} answered {said}");
    }
    Ok(())
}

// conformance: [sig-cli] Kubectl client Update Demo should create and stop a replication controller
// conformance: [sig-cli] Kubectl client Update Demo should scale a replication controller
pub fn a_replication_controller_is_created_scaled_and_stopped(ctx: &Ctx) -> Result<()> {
    let made = ctx.feed(&["create", "-f", "-"], &[controller("demo", 2, "nautilus")])?.ok()?;
    ensure!(made.contains("replicationcontroller/demo created"), "{made}");
    serve(ctx, &pods(ctx, "demo", 2)?, "nautilus")?;
    for replicas in [1, 2] {
        let said = ctx.ok(&["scale", "rc", "demo", &format!("--replicas={replicas}"), "--timeout=60s"])?;
        ensure!(said.contains("scaled"), "{said}");
        serve(ctx, &pods(ctx, "demo", replicas)?, "nautilus")?;
    }
    ctx.ok(&["delete", "rc", "demo", "--grace-period=0", "--force"])?;
    ensure!(ctx.ok(&["get", "rc,svc", "-l", "app=demo", "--no-headers"])?.is_empty());
    ctx.none_left("pods", "app=demo")
}

/// All words are in one line of the text, for each row.
fn tells(text: &str, rows: &[&[&str]]) -> Result<()> {
    for row in rows {
        let found = text.lines().any(|line| row.iter().all(|word| line.contains(word)));
        ensure!(found, "no line with {row:?} in\n{text}");
    }
    Ok(())
}

// conformance: [sig-cli] Kubectl client Kubectl describe should check if kubectl describe prints relevant information for rc and pods
pub fn describe_tells_of_controllers_their_pods_services_nodes_and_namespaces(ctx: &Ctx) -> Result<()> {
    let service = json!({
        "apiVersion": "v1", "kind": "Service", "metadata": {"name": "primary", "labels": {"app": "primary", "role": "primary"}},
        "spec": {"selector": {"app": "primary", "role": "primary"}, "ports": [{"port": 6379, "targetPort": "http"}]},
    });
    ctx.apply(&[controller("primary", 1, "x"), service])?;
    let pod = pods(ctx, "primary", 1)?.remove(0);
    tells(
        &ctx.ok(&["describe", "pod", &pod])?,
        &[
            &["Name:", "primary-"],
            &["Namespace:", &ctx.ns],
            &["Node:"],
            &["Labels:", "app=primary"],
            &["role=primary"],
            &["Annotations:"],
            &["Status:", "Running"],
            &["IP:"],
            &["Controlled By:", "ReplicationController/primary"],
            &["Image:", IMAGE],
            &["State:", "Running"],
            &["QoS Class:", "BestEffort"],
        ],
    )?;
    eventually(Duration::from_secs(60), "the controller is described", || {
        tells(
            &ctx.ok(&["describe", "rc", "primary"])?,
            &[
                &["Name:", "primary"],
                &["Namespace:", &ctx.ns],
                &["Selector:", "app=primary,role=primary"],
                &["Labels:", "app=primary"],
                &["role=primary"],
                &["Annotations:"],
                &["Replicas:", "1 current", "1 desired"],
                &["Pods Status:", "1 Running", "0 Waiting", "0 Succeeded", "0 Failed"],
                &["Pod Template:"],
                &["Image:", IMAGE],
                &["Events:"],
                &["SuccessfulCreate", &pod],
            ],
        )
    })?;
    describe_tells_of_what_is_around(ctx, &pod)
}

/// The Service before a pod, its node and its namespace.
fn describe_tells_of_what_is_around(ctx: &Ctx, pod: &str) -> Result<()> {
    let ip = ctx.field(&format!("pod/{pod}"), ".status.podIP")?;
    eventually(Duration::from_secs(60), "the service has its endpoint", || {
        tells(
            &ctx.ok(&["describe", "service", "primary"])?,
            &[
                &["Name:", "primary"],
                &["Namespace:", &ctx.ns],
                &["Labels:", "app=primary"],
                &["role=primary"],
                &["Annotations:"],
                &["Selector:", "app=primary,role=primary"],
                &["Type:", "ClusterIP"],
                &["IP:"],
                &["Port:", "<unset>", "6379/TCP"],
                &["Endpoints:", &format!("{ip}:8080")],
                &["Session Affinity:", "None"],
            ],
        )
    })?;
    let node = ctx.field(&format!("pod/{pod}"), ".spec.nodeName")?;
    tells(
        &ctx.ok(&["describe", "node", &node])?,
        &[
            &["Name:", &node],
            &["Labels:"],
            &["Annotations:"],
            &["CreationTimestamp:"],
            &["Conditions:"],
            &["Type", "Status", "LastHeartbeatTime", "LastTransitionTime", "Reason", "Message"],
            &["Addresses:"],
            &["Capacity:"],
            &["System Info:"],
            &["Kernel Version:"],
            &["OS Image:"],
            &["Container Runtime Version:"],
            &["Kubelet Version:"],
            &["Non-terminated Pods:"],
            &[&ctx.ns, pod],
        ],
    )?;
    tells(
        &ctx.ok(&["describe", "namespace", &ctx.ns])?,
        &[&["Name:", &ctx.ns], &["Labels:"], &["Annotations:"], &["Status:", "Active"]],
    )
}

// conformance: [sig-cli] Kubectl client Kubectl expose should create services for rc
pub fn expose_makes_services_of_a_controller_and_of_a_service(ctx: &Ctx) -> Result<()> {
    ctx.apply(&[controller("primary", 1, "exposed")])?;
    let pod = pods(ctx, "primary", 1)?.remove(0);
    let ip = ctx.field(&format!("pod/{pod}"), ".status.podIP")?;
    ctx.ok(&["expose", "rc", "primary", "--name=rm2", "--port=1234", "--target-port=8080"])?;
    ctx.ok(&["expose", "service", "rm2", "--name=rm3", "--port=2345", "--target-port=8080"])?;
    for (name, port) in [("rm2", 1234), ("rm3", 2345)] {
        let ports = ctx.json(&format!("service/{name}"))?["spec"]["ports"].take();
        ensure!(ports.as_array().is_some_and(|p| p.len() == 1), "{ports}");
        ensure!(ports[0]["port"] == port && ports[0]["targetPort"] == 8080, "{ports}");
        eventually(Duration::from_secs(60), &format!("{name} has its endpoint"), || {
            let slices = ctx.list("endpointslices", &format!("kubernetes.io/service-name={name}"))?;
            ensure!(slices.len() == 1, "{} slices", slices.len());
            let (endpoints, ports) = (&slices[0]["endpoints"], &slices[0]["ports"]);
            let one = endpoints.as_array().is_some_and(|e| e.len() == 1) && endpoints[0]["addresses"] == json!([ip]);
            ensure!(one && ports[0]["port"] == 8080, "{}", slices[0]);
            let path = format!("/api/v1/namespaces/{}/services/{name}:{port}/proxy/", ctx.ns);
            let said = ctx.ok(&["get", "--raw", &path])?;
            ensure!(said == "exposed", "{said}");
            Ok(())
        })?;
    }
    Ok(())
}

// conformance: [sig-cli] Kubectl client Kubectl patch should add annotations for pods in rc
pub fn patch_annotates_each_pod_of_a_controller(ctx: &Ctx) -> Result<()> {
    ctx.apply(&[controller("primary", 2, "x")])?;
    for pod in pods(ctx, "primary", 2)? {
        let said = ctx.ok(&["patch", "pod", &pod, "-p", r#"{"metadata":{"annotations":{"x":"y"}}}"#])?;
        ensure!(said.contains("patched"), "{said}");
    }
    let pods = ctx.list("pods", "app=primary")?;
    ensure!(pods.len() == 2, "{} pods", pods.len());
    for pod in pods {
        let annotation = &pod["metadata"]["annotations"]["x"];
        ensure!(annotation == "y" && pod["status"]["phase"] == "Running", "{pod}");
    }
    Ok(())
}
