//! get, describe, events, create, expose, run, delete, wait.

use std::io::{BufRead, BufReader};
use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use e2e::{Ctx, IDLE, IMAGE, container, deployment, eventually, pod};
use serde_json::{Value, json};

pub fn get_prints_tables_wide_yaml_json_and_jsonpath(ctx: &Ctx) -> Result<()> {
    ctx.apply(&[deployment("app", 1, json!([container("main", IDLE)]))])?;
    ctx.ok(&["rollout", "status", "deployment/app", "--timeout=60s"])?;
    let heading = |args: &[&str]| -> Result<String> {
        Ok(ctx.ok(args)?.lines().next().unwrap_or("").split_whitespace().collect::<Vec<_>>().join(" "))
    };
    ensure!(heading(&["get", "pods"])? == "NAME READY STATUS RESTARTS AGE");
    let wide = heading(&["get", "pods", "-o", "wide"])?;
    ensure!(wide == "NAME READY STATUS RESTARTS AGE IP NODE NOMINATED NODE READINESS GATES", "{wide}");
    ensure!(heading(&["get", "deployments"])? == "NAME READY UP-TO-DATE AVAILABLE AGE");
    let nodes = heading(&["get", "nodes", "-o", "wide"])?;
    ensure!(nodes.starts_with("NAME STATUS ROLES AGE VERSION INTERNAL-IP"), "{nodes}");
    let row = ctx.ok(&["get", "pods", "--no-headers"])?;
    let words: Vec<&str> = row.split_whitespace().collect();
    ensure!(words[1..4] == ["1/1", "Running", "0"], "{row}");
    let yaml = ctx.ok(&["get", "deployment/app", "-o", "yaml"])?;
    ensure!(yaml.starts_with("apiVersion: apps/v1\nkind: Deployment\n") && !yaml.contains("managedFields"), "{yaml}");
    ensure!(ctx.json("deployment/app")?["status"]["readyReplicas"] == 1);
    ensure!(ctx.field("deployment/app", ".spec.template.spec.containers[0].image")? == IMAGE);
    let columns =
        ctx.ok(&["get", "pods", "-o", "custom-columns=N:.metadata.labels.app,P:.status.phase", "--no-headers"])?;
    ensure!(columns.split_whitespace().eq(["app", "Running"]), "{columns}");
    let all = ctx.ok(&["get", "all", "-o", "name"])?;
    for kind in ["deployment.apps/app", "replicaset.apps/app-", "pod/app-"] {
        ensure!(all.lines().any(|l| l.starts_with(kind)), "{all}");
    }
    ensure!(ctx.ok(&["get", "pods", "-A"])?.contains(&ctx.ns));
    ensure!(ctx.run(&["get", "jobs"])?.stderr.contains("No resources found"));
    Ok(())
}

pub fn get_selects_by_label_and_field_and_watches(ctx: &Ctx) -> Result<()> {
    let map = |name: &str, tier: &str| json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": name, "labels": {"tier": tier}}});
    ctx.apply(&[map("a", "gold"), map("b", "silver"), map("c", "gold")])?;
    let names =
        |args: &[&str]| ctx.ok(&[&["get", "configmaps", "-o", "jsonpath={.items[*].metadata.name}"], args].concat());
    ensure!(names(&["-l", "tier=gold"])? == "a c");
    ensure!(names(&["-l", "tier in (gold,silver),tier!=gold"])? == "b");
    ensure!(names(&["-l", "!tier"])? == "kube-root-ca.crt");
    ensure!(names(&["--field-selector", "metadata.name=c"])? == "c");
    ensure!(ctx.fails(&["get", "configmaps", "--field-selector", "data.x=y"])?.contains("field label not supported"));

    let watch = ["get", "configmaps", "-l", "tier=gold", "-w", "--output-watch-events", "--no-headers"];
    let mut child = ctx.command(&watch).stdout(Stdio::piped()).spawn()?;
    let mut lines = BufReader::new(child.stdout.take().context("stdout is a pipe")?).lines();
    let mut next = || -> Result<(String, String)> {
        let line = lines.next().context("the watch ended")??;
        let mut words = line.split_whitespace().map(str::to_owned);
        Ok((words.next().unwrap_or_default(), words.next().unwrap_or_default()))
    };
    let mut sees = |kind: &str, name: &str| -> Result<()> {
        let seen = next()?;
        ensure!(seen == (kind.to_owned(), name.to_owned()), "{seen:?} instead of {kind} {name}");
        Ok(())
    };
    let outcome = (|| -> Result<()> {
        sees("ADDED", "a")?;
        sees("ADDED", "c")?;
        // An object that comes to match is added to the watch, one that no longer does is deleted from it.
        ctx.ok(&["label", "configmap/b", "tier=gold", "--overwrite"])?;
        sees("ADDED", "b")?;
        ctx.ok(&["label", "configmap/b", "note=x"])?;
        sees("MODIFIED", "b")?;
        ctx.ok(&["label", "configmap/b", "tier-"])?;
        sees("DELETED", "b")?;
        ctx.ok(&["delete", "configmap", "a"])?;
        sees("DELETED", "a")
    })();
    child.kill()?;
    child.wait()?;
    outcome
}

pub fn describe_tells_the_story_of_a_pod(ctx: &Ctx) -> Result<()> {
    ctx.ready_pod(pod("story", IDLE, json!({})))?;
    let text = ctx.ok(&["describe", "pod", "story"])?;
    for part in
        ["Node:", "IP:", "State:", "Running", "Ready:", "QoS Class:", "Events:", "Scheduled", "Created", "Started"]
    {
        ensure!(text.contains(part), "no {part} in\n{text}");
    }
    let node = ctx.ok(&["get", "nodes", "-o", "name"])?;
    let text = ctx.ok(&["describe", node.trim()])?;
    for part in ["Capacity:", "Allocatable:", "System Info:", "Container Runtime Version:", "story"] {
        ensure!(text.contains(part), "no {part} in\n{text}");
    }
    ensure!(ctx.ok(&["describe", "namespace", &ctx.ns])?.contains("Active"));
    Ok(())
}

pub fn events_are_listed_for_an_object(ctx: &Ctx) -> Result<()> {
    let image = json!({"containers": [{"name": "main", "image": "127.0.0.1:1/none:1"}]});
    ctx.apply(&[pod("stuck", IDLE, image)])?;
    let reason = eventually(Duration::from_secs(30), "the pull fails", || {
        let reason = ctx.field("pod/stuck", ".status.containerStatuses[0].state.waiting.reason")?;
        ensure!(["ErrImagePull", "ImagePullBackOff"].contains(&reason.as_str()), "{reason}");
        Ok(reason)
    })?;
    let text = ctx.ok(&["events", "--for", "pod/stuck", "--types=Warning"])?;
    ensure!(text.contains("Failed") && text.contains("127.0.0.1:1/none:1"), "{text}");
    ensure!(ctx.ok(&["get", "pod", "stuck"])?.contains("Image") || reason == "ErrImagePull");
    let table = ctx.ok(&["get", "events", "--field-selector", "involvedObject.name=stuck,reason=Scheduled"])?;
    ensure!(table.lines().count() == 2, "{table}");
    Ok(())
}

pub fn create_expose_and_run_make_what_they_say(ctx: &Ctx) -> Result<()> {
    ctx.ok(&["create", "configmap", "cm", "--from-literal=a=1", "--from-literal=b=2"])?;
    ensure!(ctx.field("configmap/cm", ".data")? == r#"{"a":"1","b":"2"}"#);
    ctx.ok(&["create", "secret", "generic", "pw", "--from-literal=password=x y"])?;
    ensure!(ctx.field("secret/pw", ".data.password")? == "eCB5");
    ctx.ok(&["create", "deployment", "web", "--image", IMAGE, "--port=8080", "--", "sh", "-c", "httpd -f -p 8080"])?;
    ctx.wait("deployment/web", "condition=Available")?;
    ctx.ok(&["expose", "deployment", "web", "--port=80", "--target-port=8080"])?;
    ensure!(ctx.field("service/web", ".spec.selector.app")? == "web");
    ensure!(!ctx.field("service/web", ".spec.clusterIP")?.is_empty());
    ctx.ok(&["create", "job", "once", "--image", IMAGE, "--", "true"])?;
    ctx.wait("job/once", "condition=Complete")?;
    ctx.ok(&["create", "ingress", "web", "--rule=web.localhost/*=web:80"])?;
    ensure!(ctx.field("ingress/web", ".spec.rules[0].host")? == "web.localhost");
    let said = ctx.ok(&[
        "run",
        "hello",
        "--image",
        IMAGE,
        "--restart=Never",
        "--rm",
        "-i",
        "--quiet",
        "--",
        "echo",
        "hello you",
    ])?;
    ensure!(said.contains("hello you"), "{said}");
    ensure!(ctx.fails(&["get", "pod", "hello"])?.contains("NotFound"), "run --rm left its pod");
    Ok(())
}

pub fn delete_by_name_selector_and_force(ctx: &Ctx) -> Result<()> {
    let stubborn = "trap '' TERM; while :; do sleep 1; done";
    let slow = json!({"terminationGracePeriodSeconds": 300});
    ctx.apply(&[pod("a", IDLE, json!({})), pod("b", IDLE, json!({})), pod("c", stubborn, slow)])?;
    ctx.wait("pod/a", "condition=Ready")?;
    ctx.wait("pod/c", "condition=Ready")?;
    ensure!(ctx.ok(&["delete", "pod", "a"])?.contains("pod \"a\" deleted"));
    ensure!(ctx.fails(&["get", "pod", "a"])?.contains("NotFound"));
    ensure!(ctx.ok(&["delete", "pods", "-l", "app=b"])?.contains("\"b\" deleted"));
    // Force does not wait for a process that ignores its signal.
    ctx.ok(&["delete", "pod", "c", "--force", "--grace-period=0"])?;
    ensure!(ctx.fails(&["get", "pod", "c"])?.contains("NotFound"));
    ensure!(ctx.fails(&["delete", "pod", "none"])?.contains("NotFound"));
    ctx.ok(&["delete", "pod", "none", "--ignore-not-found"])?;
    Ok(())
}

pub fn wait_for_conditions_deletion_and_fields(ctx: &Ctx) -> Result<()> {
    let script = format!("sleep 1; touch /tmp/ready; {IDLE}");
    let probe = json!({"containers": [{"name": "main", "readinessProbe": {
        "exec": {"command": ["test", "-e", "/tmp/ready"]}, "periodSeconds": 1}}]});
    ctx.apply(&[pod("late", &script, probe)])?;
    ctx.wait("pod/late", "jsonpath={.status.phase}=Running")?;
    ctx.wait("pod/late", "condition=Ready")?;
    ctx.ok(&["delete", "pod", "late", "--wait=false"])?;
    ctx.wait("pod/late", "delete")?;
    let error = ctx.fails(&["wait", "namespace", &ctx.ns, "--for=condition=Never", "--timeout=1s"])?;
    ensure!(error.contains("timed out waiting"), "{error}");
    Ok(())
}

pub fn errors_read_as_kubectl_users_know_them(ctx: &Ctx) -> Result<()> {
    for (args, text) in [
        (&["get", "pod", "none"][..], "Error from server (NotFound): pods \"none\" not found"),
        (&["get", "nonsense"], "the server doesn't have a resource type \"nonsense\""),
        (&["create", "namespace", "UPPER"], "Invalid value: \"UPPER\""),
        (&["create", "configmap", "kube-root-ca.crt"], "configmaps \"kube-root-ca.crt\" already exists"),
        (&["create", "configmap", "x", "--namespace", "nowhere"], "namespaces \"nowhere\" not found"),
    ] {
        let error = ctx.fails(args)?;
        ensure!(error.contains(text), "{args:?} said {error}");
    }
    let mut bad = pod("bad", IDLE, json!({"restartPolicy": "Sometimes"}));
    bad["spec"]["containers"][0]["ports"] = json!([{"containerPort": 70000}]);
    let error = ctx.feed(&["create", "-f", "-"], &[bad])?.failed()?;
    for part in ["The Pod \"bad\" is invalid", "spec.restartPolicy: Unsupported value", "must be between 1 and 65535"] {
        ensure!(error.contains(part), "no {part:?} in {error}");
    }
    Ok(())
}

pub fn large_lists_come_in_chunks(ctx: &Ctx) -> Result<()> {
    let maps: Vec<Value> = (0..120)
        .map(|n| json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": format!("m{n:03}"), "labels": {"of": "many"}}}))
        .collect();
    ctx.feed(&["create", "-f", "-"], &maps)?.ok()?;
    let page = ctx.ok(&[
        "get",
        "--raw",
        &format!("/api/v1/namespaces/{}/configmaps?limit=50&labelSelector=of%3Dmany", ctx.ns),
    ])?;
    let page: Value = serde_json::from_str(&page)?;
    ensure!(page["items"].as_array().map(Vec::len) == Some(50));
    ensure!(page["metadata"]["continue"].as_str().is_some_and(|c| !c.is_empty()), "{}", page["metadata"]);
    let names = ctx.ok(&["get", "configmaps", "-l", "of=many", "--chunk-size=50", "-o", "name"])?;
    ensure!(names.lines().count() == 120, "{} objects", names.lines().count());
    // Without waiting for each: kubectl asks for them one by one, five a second.
    ctx.ok(&["delete", "configmaps", "-l", "of=many", "--wait=false"])?;
    ctx.none_left("configmaps", "of=many")
}
