//! An API server of somebody else in the cluster: registered, used with kubectl as any other kind, and taken away again.

pub mod server;

use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use e2e::{Ctx, IMAGE, Instance, eventually};
use serde_json::{Value, json};

use server::{ASKED, CERTIFICATE, GROUP, PORT, VERSION};

const LIMIT: Duration = Duration::from_secs(60);

/// A certificate for the Service's name and the authority that made it: what is mounted, and what is trusted.
fn certificate(ns: &str) -> Result<(Value, String)> {
    let key = rcgen::KeyPair::generate()?;
    let mut params = rcgen::CertificateParams::default();
    params.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
    params.distinguished_name.push(rcgen::DnType::CommonName, "parcels' own authority");
    let authority = params.self_signed(&key)?;
    let issuer = rcgen::Issuer::new(params, key);
    let own = rcgen::KeyPair::generate()?;
    let leaf = rcgen::CertificateParams::new(vec![format!("parcels.{ns}.svc")])?.signed_by(&own, &issuer)?;
    let files = json!({"tls.crt": leaf.pem(), "tls.key": own.serialize_pem()});
    let secret =
        json!({"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "parcels-tls"}, "stringData": files});
    Ok((secret, authority.pem()))
}

/// The server's account: it reads who may pass requests on, and asks what users may do.
fn account(ns: &str) -> [Value; 3] {
    let subjects = json!([{"kind": "ServiceAccount", "name": "parcels", "namespace": ns}]);
    let role = |kind: &str, name: &str| json!({"apiGroup": "rbac.authorization.k8s.io", "kind": kind, "name": name});
    let rbac = "rbac.authorization.k8s.io/v1";
    [
        json!({"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": "parcels"}}),
        json!({"apiVersion": rbac, "kind": "ClusterRoleBinding", "metadata": {"name": "parcels:delegator"},
            "roleRef": role("ClusterRole", "system:auth-delegator"), "subjects": subjects}),
        json!({"apiVersion": rbac, "kind": "ClusterRole", "metadata": {"name": "parcels"}, "rules": [
            {"apiGroups": [GROUP], "resources": ["parcels"], "verbs": ["create", "get", "list", "patch", "delete"]}]}),
    ]
}

fn server_objects(ns: &str) -> Result<[Value; 2]> {
    let host = |name: &str, path: &str| json!({"name": name, "hostPath": {"path": path}});
    let mount = |name: &str, path: &str| json!({"name": name, "mountPath": path, "readOnly": true});
    let container = json!({
        "name": "server", "image": IMAGE, "command": ["/server"], "env": [{"name": ASKED, "value": "yes"}],
        "readinessProbe": {"tcpSocket": {"port": PORT}, "periodSeconds": 1},
        "volumeMounts": [mount("server", "/server"), mount("tls", CERTIFICATE), mount("usr", "/usr"),
            mount("lib", "/lib"), mount("lib64", "/lib64")],
    });
    let volumes = json!([
        host("server", &std::env::current_exe()?.display().to_string()), host("usr", "/usr"), host("lib", "/lib"),
        host("lib64", "/lib64"), {"name": "tls", "secret": {"secretName": "parcels-tls"}},
    ]);
    let spec = json!({"template": {"spec": {"serviceAccountName": "parcels", "volumes": volumes}}});
    let deployment = e2e::merge(e2e::deployment("parcels", 1, json!([container])), json!({"spec": spec}));
    let ports = json!([{"name": "https", "port": 7443, "targetPort": PORT}]);
    let service = json!({"apiVersion": "v1", "kind": "Service", "metadata": {"name": "parcels", "namespace": ns},
        "spec": {"selector": {"app": "parcels"}, "ports": ports}});
    Ok([deployment, service])
}

fn registration(ns: &str, authority: &str) -> Value {
    use base64::Engine as _;
    let bundle = base64::engine::general_purpose::STANDARD.encode(authority);
    let service = json!({"namespace": ns, "name": "parcels", "port": 7443});
    json!({"apiVersion": "apiregistration.k8s.io/v1", "kind": "APIService", "metadata": {"name": format!("{VERSION}.{GROUP}")},
        "spec": {"group": GROUP, "version": VERSION, "groupPriorityMinimum": 2000, "versionPriority": 200,
            "caBundle": bundle, "service": service}})
}

fn parcel(name: &str) -> Value {
    json!({"apiVersion": format!("{GROUP}/{VERSION}"), "kind": "Parcel", "metadata": {"name": name}, "spec": {"grams": 100}})
}

// conformance: [sig-api-machinery] Aggregator Should be able to support the 1.17 Sample API Server using the current Aggregator
pub fn an_api_server_in_a_deployment_extends_the_cluster_until_its_registration_goes() -> Result<()> {
    let instance = Arc::new(Instance::builder("aggregated").start()?);
    let ctx = Ctx::new(instance.clone(), "extended")?;
    let (secret, authority) = certificate(&ctx.ns)?;
    let [account, delegator, role] = account(&ctx.ns);
    ctx.apply(&[secret, account, delegator, role])?;
    let subject = format!("--serviceaccount={}:parcels", ctx.ns);
    let reader = "--role=extension-apiserver-authentication-reader";
    ctx.ok(&["create", "rolebinding", "parcels-reader", reader, &subject, "-n", "kube-system"])?;
    ctx.apply(&server_objects(&ctx.ns)?)?;
    ctx.wait("deployment/parcels", "condition=Available").map_err(|e| e.context(ctx.diagnosis()))?;
    let service = format!("apiservice/{VERSION}.{GROUP}");
    ctx.apply(&[registration(&ctx.ns, &authority)])?;
    ctx.wait(&service, "condition=Available").map_err(|e| e.context(format!("{:?}", ctx.json(&service))))?;
    ensure!(ctx.ok(&["api-versions"])?.lines().any(|l| l == format!("{GROUP}/{VERSION}")));
    let listed = ctx.ok(&["api-resources", "--api-group", GROUP, "--no-headers", "-o", "wide"])?;
    ensure!(
        listed.contains("parcels") && listed.contains("Parcel") && listed.contains("create,delete,get"),
        "{listed}"
    );

    lives(&ctx)?;
    rights(&ctx)?;
    not_for_strangers(&ctx)?;

    // While its server is gone the group is known to be unavailable; with the registration it goes from discovery.
    ctx.ok(&["scale", "deployment/parcels", "--replicas=0"])?;
    ctx.wait(&service, "condition=Available=False")?;
    ensure!(ctx.fails(&["get", "parcels"])?.contains("currently unable to handle the request"));
    ctx.ok(&["delete", &service])?;
    eventually(LIMIT, "the group is gone", || {
        let versions = ctx.ok(&["api-versions"])?;
        ensure!(!versions.contains(GROUP), "{versions}");
        let raw = ctx.fails(&["get", "--raw", &format!("/apis/{GROUP}/{VERSION}")])?;
        ensure!(raw.contains("not find the requested resource"), "{raw}");
        Ok(())
    })?;
    instance.down()
}

/// Created, listed, patched and deleted with kubectl, the server being told who asks.
fn lives(ctx: &Ctx) -> Result<()> {
    // The server has no schema to show.
    ctx.feed(&["create", "--validate=false", "-f", "-"], &[parcel("one"), parcel("two")])?.ok()?;
    let one = ctx.json("parcel/one")?;
    ensure!(one["spec"]["grams"] == 100 && one["metadata"]["namespace"] == ctx.ns.as_str(), "{one}");
    let groups: Vec<&str> =
        one["status"]["groups"].as_array().into_iter().flatten().filter_map(Value::as_str).collect();
    ensure!(groups.contains(&"system:authenticated") && !one["status"]["sender"].is_null(), "{one}");
    let twice = ctx.feed(&["create", "--validate=false", "-f", "-"], &[parcel("one")])?.failed()?;
    ensure!(twice.contains("already exists"), "{twice}");
    ensure!(ctx.ok(&["get", "parcels", "-o", "name"])?.lines().count() == 2);
    ctx.ok(&["patch", "parcel/one", "--type=merge", "-p", r#"{"spec": {"grams": 250}}"#])?;
    let patched = ctx.json("parcel/one")?;
    ensure!(patched["spec"]["grams"] == 250, "{patched}");
    ensure!(patched["metadata"]["resourceVersion"] != one["metadata"]["resourceVersion"], "{patched}");
    ctx.ok(&["delete", "parcel/two"])?;
    ensure!(ctx.fails(&["get", "parcel/two"])?.contains("\"two\" not found"));
    ensure!(ctx.ok(&["get", "parcels", "-A", "-o", "jsonpath={.items[*].metadata.name}"])? == "one");
    Ok(())
}

/// The rights of the cluster are those of the group, and the server asks for one that the cluster itself never checks.
fn rights(ctx: &Ctx) -> Result<()> {
    let ann = |args: &[&str]| ctx.run(&[args, &["--as=ann"]].concat());
    ensure!(ann(&["get", "parcels"])?.failed()?.contains("Forbidden"));
    ctx.ok(&["create", "rolebinding", "ann", "--clusterrole=parcels", "--user=ann"])?;
    ann(&["get", "parcels"])?.ok()?;
    ctx.ok(&["--as=ann", "patch", "parcel/one", "--type=merge", "-p", r#"{"spec": {"grams": 300}}"#])?;
    let insure = ["patch", "parcel/one", "--type=merge", "-p", r#"{"spec": {"insured": true}}"#];
    let refused = ann(&insure)?.failed()?;
    ensure!(refused.contains("ann may not insure parcels"), "{refused}");
    ctx.ok(&["create", "role", "insurer", "--verb=insure", &format!("--resource=parcels.{GROUP}")])?;
    ctx.ok(&["create", "rolebinding", "ann-insures", "--role=insurer", "--user=ann"])?;
    ann(&insure)?.ok()?;
    ensure!(ctx.field("parcel/one", ".spec.insured")? == "true");
    Ok(())
}

/// Who does not come through the cluster is nobody, whatever the headers say.
fn not_for_strangers(ctx: &Ctx) -> Result<()> {
    let pods = ctx.list("pods", "app=parcels")?;
    let address =
        pods.first().and_then(|p| p["status"]["podIP"].as_str()).context("the server's pod has an address")?;
    let mut config = kube::Config::new(format!("https://{address}:{PORT}").parse()?);
    config.accept_invalid_certs = true;
    let request = http::Request::get(format!("/apis/{GROUP}/{VERSION}")).header("x-remote-user", "root");
    let request = request.body(Vec::new())?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let answer = runtime.block_on(async {
        let stranger = kube::Client::try_from(config)?;
        Ok::<_, kube::Error>(tokio::time::timeout(LIMIT, stranger.request_text(request)).await)
    })??;
    ensure!(matches!(&answer, Err(kube::Error::Api(status)) if status.code == 401), "{answer:?}");
    Ok(())
}
