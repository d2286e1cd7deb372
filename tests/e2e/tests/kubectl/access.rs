//! What the server says of itself, and who may do what.

use anyhow::{Result, ensure};
use e2e::Ctx;
use e2e::command::{LIMIT, run};
use serde_json::{Value, json};

pub fn explain_describes_fields_of_every_kind(ctx: &Ctx) -> Result<()> {
    for (path, part) in [
        ("pod.spec.containers.livenessProbe", "httpGet"),
        ("deployment.spec.strategy", "rollingUpdate"),
        ("statefulsets.spec", "volumeClaimTemplates"),
        ("job.spec", "backoffLimit"),
        ("ingress.spec.rules", "host"),
        ("persistentvolumeclaim.spec", "storageClassName"),
        ("configmap", "binaryData"),
    ] {
        let text = ctx.ok(&["explain", path])?;
        ensure!(text.contains(part) && text.contains("DESCRIPTION:"), "{path}:\n{text}");
    }
    ensure!(ctx.ok(&["explain", "service", "--recursive"])?.contains("sessionAffinityConfig"));
    ensure!(ctx.fails(&["explain", "pod.spec.nonsense"])?.contains("does not exist"));
    Ok(())
}

// conformance: [sig-cli] Kubectl client Kubectl api-versions should check if v1 is in available api versions
pub fn api_resources_and_versions_list_the_slice(ctx: &Ctx) -> Result<()> {
    let table = ctx.ok(&["api-resources"])?;
    for (plural, short, kind) in [
        ("pods", "po", "Pod"),
        ("services", "svc", "Service"),
        ("deployments", "deploy", "Deployment"),
        ("statefulsets", "sts", "StatefulSet"),
        ("persistentvolumeclaims", "pvc", "PersistentVolumeClaim"),
        ("ingresses", "ing", "Ingress"),
        ("namespaces", "ns", "Namespace"),
    ] {
        let row = table.lines().find(|l| l.split_whitespace().next() == Some(plural)).unwrap_or_default();
        ensure!(row.contains(short) && row.ends_with(kind), "{plural}: {row:?}");
    }
    let versions = ctx.ok(&["api-versions"])?;
    for version in ["v1", "apps/v1", "batch/v1", "networking.k8s.io/v1", "discovery.k8s.io/v1", "storage.k8s.io/v1"] {
        ensure!(versions.lines().any(|l| l == version), "no {version} in {versions}");
    }
    Ok(())
}

// conformance: [sig-cli] Kubectl client Kubectl cluster-info should check if Kubernetes control plane services is included in cluster-info
// conformance: [sig-cli] Kubectl client Kubectl version should check is all data is printed
pub fn cluster_info_version_and_health(ctx: &Ctx) -> Result<()> {
    let info = ctx.ok(&["cluster-info"])?;
    let line = info.lines().find(|l| l.contains("Kubernetes control plane")).unwrap_or_default();
    ensure!(line.contains("is running at") && line.contains(&ctx.instance.api().to_string()), "{info}");
    let version: Value = serde_json::from_str(&ctx.ok(&["version", "-o", "json"])?)?;
    ensure!(version["serverVersion"]["minor"] == "36", "{}", version["serverVersion"]);
    let text = ctx.ok(&["version"])?;
    for (title, whose) in [("Client", "clientVersion"), ("Server", "serverVersion")] {
        let of = |field: &str| version[whose][field].as_str().unwrap_or_default().to_owned();
        let number = |text: &str| !text.is_empty() && text.chars().all(|c| c.is_ascii_digit());
        ensure!(number(&of("major")) && number(of("minor").trim_end_matches('+')), "{version}");
        // Which a build from an archive does not have.
        ensure!(of("gitCommit").chars().all(|c| c.is_ascii_hexdigit()), "{version}");
        for field in ["gitVersion", "gitTreeState", "buildDate", "compiler", "platform"] {
            ensure!(!of(field).is_empty(), "no {field} in {version}");
        }
        let line = format!("{title} Version: {}", of("gitVersion"));
        ensure!(text.lines().any(|l| l == line), "no {line:?} in {text}");
    }
    for path in ["/readyz", "/livez", "/healthz"] {
        ensure!(ctx.ok(&["get", "--raw", path])? == "ok", "{path}");
    }
    Ok(())
}

pub fn auth_whoami_and_can_i_answer_for_admin_and_service_account(ctx: &Ctx) -> Result<()> {
    let me = ctx.ok(&["auth", "whoami", "-o", "json"])?;
    let me: Value = serde_json::from_str(&me)?;
    ensure!(me["status"]["userInfo"]["username"] == "kubernetes-admin", "{me}");
    ensure!(
        me["status"]["userInfo"]["groups"].as_array().is_some_and(|g| g.contains(&json!("system:masters"))),
        "{me}"
    );
    ensure!(ctx.ok(&["auth", "can-i", "delete", "pods"])?.trim() == "yes");
    let account = format!("--as=system:serviceaccount:{}:default", ctx.ns);
    let no = ctx.run(&["auth", "can-i", "delete", "pods", &account])?;
    ensure!(no.stdout.trim() == "no" && no.code() == 1, "{no:?}");
    Ok(())
}

pub fn tokens_are_made_for_service_accounts_and_obey_rbac_defaults(ctx: &Ctx) -> Result<()> {
    ctx.ok(&["create", "serviceaccount", "robot"])?;
    let token = ctx.ok(&["create", "token", "robot", "--duration=10m"])?.trim().to_owned();
    ensure!(token.split('.').count() == 3, "not a JWT: {token}");
    let ca = "jsonpath={.clusters[0].cluster.certificate-authority-data}";
    let ca = ctx.ok(&["config", "view", "--raw", "-o", ca])?;
    let server = format!("https://{}", ctx.instance.api());
    let with = |token: &str, args: &[&str]| {
        let config = json!({
            "apiVersion": "v1", "kind": "Config", "current-context": "robot",
            "clusters": [{"name": "c", "cluster": {"server": server, "certificate-authority-data": ca}}],
            "users": [{"name": "u", "user": {"token": token}}],
            "contexts": [{"name": "robot", "context": {"cluster": "c", "user": "u", "namespace": ctx.ns}}],
        });
        let file = ctx.instance.dir().join(format!("robot-{}.json", token.len()));
        std::fs::write(&file, config.to_string())?;
        run(ctx.command(args).env("KUBECONFIG", &file), None, LIMIT)
    };
    let me = with(&token, &["auth", "whoami", "-o", "jsonpath={.status.userInfo.username}"])?.ok()?;
    ensure!(me == format!("system:serviceaccount:{}:robot", ctx.ns), "{me}");
    let error = with(&token, &["get", "secrets"])?.failed()?;
    ensure!(error.contains("(Forbidden)") && error.contains("cannot list resource \"secrets\""), "{error}");
    let error = with(&format!("{token}x"), &["get", "pods"])?.failed()?;
    ensure!(error.contains("Unauthorized") || error.contains("must be logged in"), "{error}");
    Ok(())
}
