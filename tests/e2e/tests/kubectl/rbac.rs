//! Roles, bindings, certificates: who may do what, and how somebody becomes somebody.

use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use e2e::command::{LIMIT, Output, run};
use e2e::{Ctx, eventually};
use serde_json::{Value, json};

/// A kubeconfig of the suite's server for a user of these credentials.
fn config(ctx: &Ctx, name: &str, user: Value) -> Result<PathBuf> {
    let ca = "jsonpath={.clusters[0].cluster.certificate-authority-data}";
    let ca = ctx.ok(&["config", "view", "--raw", "-o", ca])?;
    let server = format!("https://{}", ctx.instance.api());
    let config = json!({
        "apiVersion": "v1", "kind": "Config", "current-context": "c",
        "clusters": [{"name": "c", "cluster": {"server": server, "certificate-authority-data": ca}}],
        "users": [{"name": "u", "user": user}],
        "contexts": [{"name": "c", "context": {"cluster": "c", "user": "u", "namespace": ctx.ns}}],
    });
    let file = ctx.instance.dir().join(format!("{name}.json"));
    std::fs::write(&file, config.to_string())?;
    Ok(file)
}

fn with(ctx: &Ctx, config: &PathBuf, args: &[&str]) -> Result<Output> {
    run(ctx.command(args).env("KUBECONFIG", config), None, LIMIT)
}

pub fn a_service_account_with_a_role_lists_pods_from_its_token(ctx: &Ctx) -> Result<()> {
    ctx.ok(&["create", "serviceaccount", "lister"])?;
    let token = ctx.ok(&["create", "token", "lister"])?.trim().to_owned();
    let config = config(ctx, "lister", json!({"token": token}))?;
    let error = with(ctx, &config, &["get", "pods"])?.failed()?;
    let account = format!("system:serviceaccount:{}:lister", ctx.ns);
    let want = format!(
        "Error from server (Forbidden): pods is forbidden: User \"{account}\" cannot list resource \"pods\" in API group \"\" in the namespace \"{}\"",
        ctx.ns
    );
    ensure!(error.trim() == want, "{error}");
    ctx.ok(&["create", "role", "lister", "--verb=get,list", "--resource=pods"])?;
    let subject = format!("--serviceaccount={}:lister", ctx.ns);
    ctx.ok(&["create", "rolebinding", "lister", "--role=lister", &subject])?;
    ensure!(with(ctx, &config, &["get", "pods"])?.ok()?.is_empty());
    ensure!(with(ctx, &config, &["auth", "can-i", "list", "pods"])?.ok()?.trim() == "yes");
    ensure!(with(ctx, &config, &["auth", "can-i", "delete", "pods"])?.stdout.trim() == "no");
    let list = with(ctx, &config, &["auth", "can-i", "--list"])?.ok()?;
    let row = list.lines().find(|l| l.starts_with("pods ")).context("no row for pods")?;
    ensure!(row.contains("[get list]"), "{list}");
    with(ctx, &config, &["get", "pods", "-A"])?.failed()?;
    Ok(())
}

pub fn the_default_roles_have_what_they_collect(ctx: &Ctx) -> Result<()> {
    ctx.ok(&["create", "rolebinding", "viewer", "--clusterrole=view", "--user=vic"])?;
    ctx.ok(&["create", "rolebinding", "editor", "--clusterrole=edit", "--user=edi"])?;
    let can = |user: &str, verb: &str, what: &str| -> Result<bool> {
        let answer = ctx.run(&["auth", "can-i", verb, what, &format!("--as={user}")])?;
        Ok(answer.stdout.trim() == "yes")
    };
    eventually(Duration::from_secs(30), "view and edit have rules", || {
        let ready = can("vic", "list", "pods")? && can("edi", "create", "deployments.apps")?;
        ensure!(ready, "not yet");
        Ok(())
    })?;
    ensure!(!can("vic", "list", "secrets")? && !can("vic", "create", "pods")? && can("edi", "list", "secrets")?);
    ensure!(!can("edi", "create", "rolebindings.rbac.authorization.k8s.io")?);
    let label = format!("rbac.example.com/{}", ctx.ns);
    let name = format!("{}-all", ctx.ns);
    ctx.ok(&["create", "clusterrole", &name, &format!("--aggregation-rule={label}=true")])?;
    let part = format!("{}-part", ctx.ns);
    ctx.ok(&["create", "clusterrole", &part, "--verb=get", "--resource=nodes"])?;
    ctx.ok(&["label", "clusterrole", &part, &format!("{label}=true")])?;
    ctx.wait(&format!("clusterrole/{name}"), "jsonpath={.rules[0].resources[0]}=nodes")
}

pub fn auth_reconcile_adds_what_is_missing_and_refuses_to_escalate(ctx: &Ctx) -> Result<()> {
    let role = |verbs: &[&str]| {
        json!({
            "apiVersion": "rbac.authorization.k8s.io/v1", "kind": "Role",
            "metadata": {"name": "r", "namespace": ctx.ns},
            "rules": [{"apiGroups": [""], "resources": ["pods"], "verbs": verbs}],
        })
    };
    let reconcile = ["auth", "reconcile", "-f", "-"];
    let text = ctx.feed(&reconcile, &[role(&["get"])])?.ok()?;
    ensure!(text.contains("role.rbac.authorization.k8s.io/r reconciled"), "{text}");
    ctx.feed(&reconcile, &[role(&["list"])])?.ok()?;
    let verbs = ctx.ok(&["get", "role", "r", "-o", "jsonpath={.rules[*].verbs[*]}"])?;
    ensure!(verbs.contains("get") && verbs.contains("list"), "{verbs}");
    ctx.ok(&[
        "create",
        "role",
        "granter",
        "--verb=create,get,update,patch",
        "--resource=roles.rbac.authorization.k8s.io",
    ])?;
    ctx.ok(&["create", "rolebinding", "granter", "--role=granter", "--user=gil"])?;
    let error = ctx.fails(&["create", "role", "wide", "--verb=get", "--resource=secrets", "--as=gil"])?;
    ensure!(error.contains("is attempting to grant RBAC permissions not currently held"), "{error}");
    Ok(())
}

pub fn certificate_approve_makes_a_user(ctx: &Ctx) -> Result<()> {
    let key = rcgen::KeyPair::generate()?;
    let mut params = rcgen::CertificateParams::default();
    params.distinguished_name = rcgen::DistinguishedName::new();
    params.distinguished_name.push(rcgen::DnType::CommonName, "cleo");
    params.distinguished_name.push(rcgen::DnType::OrganizationName, "ops");
    let pem = params.serialize_request(&key)?.pem()?;
    let name = format!("{}-cleo", ctx.ns);
    let request = json!({
        "apiVersion": "certificates.k8s.io/v1", "kind": "CertificateSigningRequest", "metadata": {"name": name},
        "spec": {
            "request": STANDARD.encode(pem), "signerName": "kubernetes.io/kube-apiserver-client",
            "usages": ["client auth"], "expirationSeconds": 3600,
        },
    });
    ctx.apply(&[request])?;
    let text = ctx.ok(&["certificate", "approve", &name])?;
    ensure!(text.contains("approved"), "{text}");
    let path = "jsonpath={.status.certificate}";
    eventually(Duration::from_secs(30), "the certificate is signed", || {
        ensure!(!ctx.ok(&["get", "csr", &name, "-o", path])?.is_empty(), "not yet");
        Ok(())
    })?;
    let certificate = ctx.ok(&["get", "csr", &name, "-o", path])?;
    let key = STANDARD.encode(key.serialize_pem());
    let config = config(ctx, "cleo", json!({"client-certificate-data": certificate, "client-key-data": key}))?;
    let me = with(ctx, &config, &["auth", "whoami", "-o", "json"])?.ok()?;
    let me: Value = serde_json::from_str(&me)?;
    ensure!(me["status"]["userInfo"]["username"] == "cleo", "{me}");
    ensure!(me["status"]["userInfo"]["groups"] == json!(["ops", "system:authenticated"]), "{me}");
    ctx.ok(&["create", "rolebinding", "cleo", "--clusterrole=cluster-admin", "--group=ops"])?;
    with(ctx, &config, &["get", "secrets"])?.ok()?;
    Ok(())
}

/// A request of a node, as its kubelet makes it: for the certificate that it serves with.
fn serving_request(name: &str, node: &str) -> Result<Value> {
    let key = rcgen::KeyPair::generate()?;
    let mut params = rcgen::CertificateParams::new(vec![node.to_owned(), "192.0.2.7".to_owned()])?;
    params.distinguished_name = rcgen::DistinguishedName::new();
    params.distinguished_name.push(rcgen::DnType::OrganizationName, "system:nodes");
    params.distinguished_name.push(rcgen::DnType::CommonName, format!("system:node:{node}"));
    let pem = params.serialize_request(&key)?.pem()?;
    Ok(json!({
        "apiVersion": "certificates.k8s.io/v1", "kind": "CertificateSigningRequest", "metadata": {"name": name},
        "spec": {
            "request": STANDARD.encode(pem), "signerName": "kubernetes.io/kubelet-serving",
            "usages": ["digital signature", "server auth"],
        },
    }))
}

pub fn a_serving_certificate_of_a_node_waits_for_somebody_to_approve_it(ctx: &Ctx) -> Result<()> {
    let node = format!("n-{:x}", std::process::id());
    let ask = |name: &str| -> Result<()> {
        let request = serde_json::to_vec(&serving_request(name, &node)?)?;
        let node = format!("--as=system:node:{node}");
        let args = ["create", "-f", "-", &node, "--as-group=system:nodes", "--as-group=system:authenticated"];
        ctx.run_for(&args, Some(&request), LIMIT)?.ok().map(drop)
    };
    let [first, second] = ["first", "second"].map(|name| format!("{}-{name}", ctx.ns));
    ask(&first)?;
    ask(&second)?;
    let certificate = |name: &str| ctx.ok(&["get", "csr", name, "-o", "jsonpath={.status.certificate}"]);
    ctx.ok(&["certificate", "approve", &second])?;
    eventually(Duration::from_secs(60), "the approved one is signed", || {
        ensure!(!certificate(&second)?.is_empty(), "not yet");
        Ok(())
    })?;
    let pem = String::from_utf8(STANDARD.decode(certificate(&second)?)?)?;
    ensure!(pem.starts_with("-----BEGIN CERTIFICATE-----"), "{pem}");
    // The controller that signed the second has long seen the first.
    let conditions = ctx.ok(&["get", "csr", &first, "-o", "jsonpath={.status.conditions}"])?;
    ensure!(conditions.is_empty() && certificate(&first)?.is_empty(), "nobody approved it: {conditions}");
    let row = ctx.ok(&["get", "csr", &first])?;
    ensure!(row.contains("Pending") && row.contains("kubernetes.io/kubelet-serving"), "{row}");
    ctx.ok(&["certificate", "deny", &first])?;
    let row = ctx.ok(&["get", "csr", &first])?;
    ensure!(row.contains("Denied") && !row.contains("Issued"), "{row}");
    Ok(())
}
