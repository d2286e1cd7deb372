//! What the server adds and refuses: limits, quotas, pod security, eviction by budget.

use std::time::Duration;

use anyhow::{Result, ensure};
use e2e::{Ctx, IDLE, eventually, pod};
use serde_json::{Value, json};

fn object(api_version: &str, kind: &str, name: &str, spec: Value) -> Value {
    json!({"apiVersion": api_version, "kind": kind, "metadata": {"name": name}, "spec": spec})
}

pub fn limit_ranges_give_defaults_and_bounds(ctx: &Ctx) -> Result<()> {
    let item = json!({
        "type": "Container",
        "default": {"memory": "64Mi"},
        "defaultRequest": {"memory": "32Mi"},
        "max": {"memory": "128Mi"},
    });
    ctx.apply(&[object("v1", "LimitRange", "limits", json!({"limits": [item]}))])?;
    ctx.ready_pod(pod("small", IDLE, json!({})))?;
    ensure!(ctx.field("pod/small", ".spec.containers[0].resources.limits.memory")? == "64Mi");
    let said = ctx.fails(&[
        "run",
        "big",
        "--image=x",
        r#"--overrides={"spec":{"containers":[{"name":"big","image":"x","resources":{"limits":{"memory":"1Gi"}}}]}}"#,
    ])?;
    ensure!(said.contains("maximum memory usage per Container is 128Mi, but limit is 1Gi"), "{said}");
    Ok(())
}

pub fn quotas_are_kept_and_shown(ctx: &Ctx) -> Result<()> {
    ctx.ok(&["create", "quota", "few", "--hard=configmaps=3,pods=1"])?;
    eventually(Duration::from_secs(10), "the quota is counted", || {
        let used = ctx.field("resourcequota/few", ".status.used.pods")?;
        ensure!(used == "0", "{used:?}");
        Ok(())
    })?;
    ctx.ready_pod(pod("one", IDLE, json!({})))?;
    let said = ctx.fails(&["run", "two", "--image=x"])?;
    ensure!(said.contains("exceeded quota: few, requested: pods=1, used: pods=1, limited: pods=1"), "{said}");
    let told = ctx.ok(&["describe", "quota", "few"])?;
    let row = told.lines().find(|l| l.starts_with("pods")).unwrap_or_default();
    ensure!(row.split_whitespace().eq(["pods", "1", "1"]), "{told}");
    ctx.ok(&["delete", "pod", "one", "--grace-period=1"])?;
    eventually(Duration::from_secs(20), "the pod is given back", || {
        let used = ctx.field("resourcequota/few", ".status.used.pods")?;
        ensure!(used == "0", "{used:?}");
        Ok(())
    })
}

pub fn pod_security_refuses_and_warns(ctx: &Ctx) -> Result<()> {
    let namespace = format!("namespace/{}", ctx.ns);
    ctx.ok(&["label", &namespace, "pod-security.kubernetes.io/enforce=restricted"])?;
    let said = ctx.fails(&["run", "plain", "--image=x"])?;
    ensure!(said.contains(r#"violates PodSecurity "restricted:latest": allowPrivilegeEscalation != false"#), "{said}");
    let made = ctx.run(&["create", "deployment", "web", "--image=x", "--replicas=0"])?;
    ensure!(made.code() == 0 && made.stderr.contains("Warning: would violate PodSecurity"), "{made:?}");
    Ok(())
}

pub fn eviction_waits_for_the_budget(ctx: &Ctx) -> Result<()> {
    let mut guarded = pod("guarded", IDLE, json!({}));
    guarded["metadata"]["labels"] = json!({"app": "guarded"});
    ctx.ready_pod(guarded)?;
    let selector = json!({"matchLabels": {"app": "guarded"}});
    ctx.apply(&[object("policy/v1", "PodDisruptionBudget", "all", json!({"minAvailable": 1, "selector": selector}))])?;
    let path = format!("/api/v1/namespaces/{}/pods/guarded/eviction", ctx.ns);
    let eviction = json!({"apiVersion": "policy/v1", "kind": "Eviction", "metadata": {"name": "guarded"}});
    let args = ["create", "--raw", &path, "-f", "-"];
    let refused =
        ctx.instance.kubectl().run_for(&args, Some(eviction.to_string().as_bytes()), Duration::from_secs(20))?;
    ensure!(refused.code() != 0 && refused.stderr.contains("disruption budget"), "{refused:?}");
    ensure!(ctx.field("pod/guarded", ".metadata.deletionTimestamp")?.is_empty());
    Ok(())
}

pub fn a_dead_webhook_is_told_of_and_can_be_removed(ctx: &Ctx) -> Result<()> {
    let name = format!("dead-{}", ctx.ns);
    let hook = json!({
        "apiVersion": "admissionregistration.k8s.io/v1",
        "kind": "ValidatingWebhookConfiguration",
        "metadata": {"name": name},
        "webhooks": [{
            "name": "dead.x.example",
            "admissionReviewVersions": ["v1"],
            "sideEffects": "None",
            "timeoutSeconds": 1,
            "namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": ctx.ns}},
            "rules": [{"operations": ["CREATE"], "apiGroups": [""], "apiVersions": ["v1"], "resources": ["configmaps"]}],
            "clientConfig": {"url": "https://127.0.0.1:1/"},
        }],
    });
    ctx.apply(&[hook])?;
    let said = ctx.fails(&["create", "configmap", "c"])?;
    ensure!(said.contains(r#"failed calling webhook "dead.x.example""#), "{said}");
    ctx.ok(&["delete", "validatingwebhookconfiguration", &name])?;
    ctx.ok(&["create", "configmap", "c"])?;
    Ok(())
}

pub fn a_policy_denies_what_its_expression_says(ctx: &Ctx) -> Result<()> {
    let name = format!("few-{}", ctx.ns);
    let rule = json!({
        "apiGroups": ["apps"], "apiVersions": ["v1"], "resources": ["deployments"], "operations": ["CREATE", "UPDATE"],
    });
    let policy = object(
        "admissionregistration.k8s.io/v1",
        "ValidatingAdmissionPolicy",
        &name,
        json!({
            "failurePolicy": "Fail",
            "matchConstraints": {"resourceRules": [rule]},
            "validations": [{"expression": "object.spec.replicas <= 2", "message": "two are enough"}],
        }),
    );
    let selector = json!({"matchLabels": {"kubernetes.io/metadata.name": ctx.ns}});
    let binding = object(
        "admissionregistration.k8s.io/v1",
        "ValidatingAdmissionPolicyBinding",
        &name,
        json!({
            "policyName": name,
            "validationActions": ["Deny"],
            "matchResources": {"namespaceSelector": selector},
        }),
    );
    ctx.apply(&[policy, binding])?;
    let said = ctx.fails(&["create", "deployment", "many", "--image=x", "--replicas=3"])?;
    let want = format!("ValidatingAdmissionPolicy '{name}' with binding '{name}' denied request: two are enough");
    ensure!(said.contains(&want), "{said}");
    ctx.ok(&["create", "deployment", "few", "--image=x", "--replicas=0"])?;
    ctx.ok(&["delete", "validatingadmissionpolicybinding", &name])?;
    ctx.ok(&["delete", "validatingadmissionpolicy", &name])?;
    Ok(())
}
