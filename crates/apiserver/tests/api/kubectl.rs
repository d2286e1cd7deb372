//! The real `kubectl` against a server on HTTPS with a memory store.

use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::Stdio;

use crate::common::*;
use serde_json::{Value, json};
use tokio::io::AsyncWriteExt as _;
use tokio_util::sync::CancellationToken;

pub struct Kubectl {
    config: PathBuf,
    home: tempfile::TempDir,
    drain: CancellationToken,
    pub cluster: Cluster,
}

impl Drop for Kubectl {
    fn drop(&mut self) {
        self.drain.cancel();
    }
}

/// A served cluster, or `None` where there is no kubectl.
pub async fn kubectl() -> Option<Kubectl> {
    if tokio::process::Command::new("kubectl").arg("version").arg("--client").output().await.is_err() {
        println!("skipped: needs kubectl");
        return None;
    }
    let cluster = Cluster::start().await;
    let drain = CancellationToken::new();
    let url = format!("https://{}", cluster.listen(drain.clone()).await);
    let home = tempfile::tempdir().unwrap();
    let config = home.path().join("config");
    let pki = cluster.server.pki();
    pki.kubeconfig("test", &url, "admin", pki.admin()).write(&config).unwrap();
    Some(Kubectl { config, home, drain, cluster })
}

impl Kubectl {
    async fn run_with(&self, args: &[&str], input: &str, envs: &[(&str, &Path)]) -> (bool, String, String) {
        let mut command = tokio::process::Command::new("kubectl");
        command.arg("--kubeconfig").arg(&self.config).args(args);
        command.env("HOME", self.home.path()).envs(envs.iter().copied());
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).kill_on_drop(true);
        let mut child = command.spawn().unwrap();
        child.stdin.take().unwrap().write_all(input.as_bytes()).await.unwrap();
        let done = tokio::time::timeout(std::time::Duration::from_secs(60), child.wait_with_output());
        let output = done.await.expect("kubectl ends").unwrap();
        let text = |bytes: Vec<u8>| String::from_utf8_lossy(&bytes).into_owned();
        (output.status.success(), text(output.stdout), text(output.stderr))
    }

    /// Runs and expects success; the output.
    pub async fn ok(&self, args: &[&str]) -> String {
        self.ok_in(args, "").await
    }

    pub async fn ok_in(&self, args: &[&str], input: &str) -> String {
        let (ok, out, err) = self.run_with(args, input, &[]).await;
        assert!(ok, "kubectl {args:?}\n{out}\n{err}");
        assert!(!err.contains("Warning"), "kubectl {args:?}: {err}");
        out
    }

    /// Runs and expects failure; the error text.
    pub async fn fails(&self, args: &[&str], input: &str) -> String {
        let (ok, out, err) = self.run_with(args, input, &[]).await;
        assert!(!ok, "kubectl {args:?}\n{out}");
        err
    }

    async fn json(&self, args: &[&str]) -> Value {
        let mut args = args.to_vec();
        args.extend(["-o", "json"]);
        serde_json::from_str(&self.ok(&args).await).unwrap()
    }
}

const MANIFEST: &str = r#"
apiVersion: apps/v1
kind: Deployment
metadata:
  name: web
  labels: {app: web}
spec:
  replicas: 2
  selector: {matchLabels: {app: web}}
  template:
    metadata: {labels: {app: web}}
    spec:
      containers:
      - name: c
        image: nginx:1
        ports: [{containerPort: 80}]
---
apiVersion: v1
kind: Service
metadata: {name: web}
spec:
  selector: {app: web}
  ports: [{port: 80, targetPort: 80}]
"#;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn apply_diff_edit_scale_label_and_delete() {
    let Some(k) = kubectl().await else { return };
    let out = k.ok_in(&["apply", "-f", "-"], MANIFEST).await;
    assert_eq!(out, "deployment.apps/web created\nservice/web created\n");
    let out = k.ok_in(&["apply", "-f", "-"], MANIFEST).await;
    assert_eq!(out, "deployment.apps/web unchanged\nservice/web unchanged\n");
    let changed = MANIFEST.replace("nginx:1", "nginx:2");
    let (ok, diff, _) = k.run_with(&["diff", "-f", "-"], &changed, &[]).await;
    assert!(!ok && diff.contains("-        image: nginx:1") || diff.contains("-      - image: nginx:1"), "{diff}");
    let out = k.ok_in(&["apply", "-f", "-"], &changed).await;
    assert_eq!(out, "deployment.apps/web configured\nservice/web unchanged\n");
    assert_eq!(
        k.ok(&["get", "deploy", "web", "-o", "jsonpath={.spec.template.spec.containers[0].image}"]).await,
        "nginx:2"
    );

    let editor = k.home.path().join("editor");
    std::fs::write(&editor, "#!/bin/sh\nsed -i 's/nginx:2/nginx:3/' \"$1\"\n").unwrap();
    std::fs::set_permissions(&editor, std::fs::Permissions::from_mode(0o755)).unwrap();
    let (ok, out, err) = k.run_with(&["edit", "deploy", "web"], "", &[("EDITOR", &editor)]).await;
    assert!(ok && out.contains("deployment.apps/web edited"), "{out} {err}");
    assert_eq!(
        k.json(&["get", "deploy", "web"]).await["spec"]["template"]["spec"]["containers"][0]["image"],
        "nginx:3"
    );

    assert_eq!(k.ok(&["scale", "deploy", "web", "--replicas=5"]).await, "deployment.apps/web scaled\n");
    assert_eq!(k.json(&["get", "deploy", "web"]).await["spec"]["replicas"], 5);
    k.ok(&["label", "deploy", "web", "tier=front"]).await;
    k.ok(&["annotate", "deploy", "web", "note=hello"]).await;
    let object = k.json(&["get", "deploy", "-l", "tier=front"]).await;
    assert_eq!(object["items"][0]["metadata"]["annotations"]["note"], "hello");
    k.ok(&["set", "image", "deploy/web", "c=nginx:4"]).await;
    k.ok(&["patch", "deploy", "web", "-p", r#"{"spec":{"paused":true}}"#]).await;
    k.ok_in(&["apply", "--server-side", "--force-conflicts", "-f", "-"], MANIFEST).await;
    k.ok_in(&["replace", "-f", "-"], MANIFEST).await;
    let described = k.ok(&["describe", "deploy", "web"]).await;
    assert!(described.contains("Replicas:"), "{described}");
    assert!(k.ok(&["describe", "svc", "web"]).await.contains("Type:"));
    let out = k.ok_in(&["delete", "-f", "-"], MANIFEST).await;
    assert!(out.contains("deployment.apps \"web\"") && out.contains("service \"web\""), "{out}");
    let err = k.fails(&["get", "deploy", "web"], "").await;
    assert!(err.contains("Error from server (NotFound): deployments.apps \"web\" not found"), "{err}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn tables_discovery_explain_and_errors() {
    let Some(k) = kubectl().await else { return };
    let namespaces = k.ok(&["get", "ns"]).await;
    assert!(
        namespaces.starts_with("NAME") && namespaces.contains("kube-system") && namespaces.contains("Active"),
        "{namespaces}"
    );
    let wide = k.ok(&["get", "svc", "-A", "-o", "wide"]).await;
    assert!(wide.contains("10.96.0.1") && wide.contains("443/TCP"), "{wide}");
    assert_eq!(k.ok(&["get", "pods"]).await, "");
    let resources = k.ok(&["api-resources"]).await;
    for line in ["deployments", "po ", "events.k8s.io/v1", "networking.k8s.io/v1"] {
        assert!(resources.contains(line), "{line}\n{resources}");
    }
    assert!(k.ok(&["api-versions"]).await.contains("apps/v1"));
    let explained = k.ok(&["explain", "deployment.spec.strategy.rollingUpdate"]).await;
    assert!(explained.contains("maxSurge"), "{explained}");
    let version = k.ok(&["version", "-o", "json"]).await;
    assert!(version.contains("v1.36.0+windlass"), "{version}");
    assert!(k.ok(&["get", "--raw", "/readyz?verbose"]).await.contains("readyz check passed"));
    assert!(k.ok(&["auth", "can-i", "delete", "pods"]).await.contains("yes"));
    assert!(k.ok(&["auth", "whoami", "-o", "json"]).await.contains("kubernetes-admin"));
    let typo = MANIFEST.replace("replicas: 2", "replicass: 2");
    let err = k.fails(&["apply", "-f", "-"], &typo).await;
    assert!(err.contains("strict decoding error: unknown field \"spec.replicass\""), "{err}");
    let err =
        k.fails(&["apply", "--validate=false", "-f", "-"], &MANIFEST.replace("replicas: 2", "replicas: many")).await;
    assert!(
        err.contains("cannot unmarshal") || err.contains("Deployment in version \"v1\" cannot be handled"),
        "{err}"
    );
    let err = k.fails(&["create", "-n", "nope", "configmap", "x"], "").await;
    assert!(err.contains("namespaces \"nope\" not found"), "{err}");
    let err = k.fails(&["get", "pods", "--as", "jane"], "").await;
    assert!(
        err.contains(
            r#"pods is forbidden: User "jane" cannot list resource "pods" in API group "" in the namespace "default""#
        ),
        "{err}"
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn create_wait_and_generators() {
    let Some(k) = kubectl().await else { return };
    default_account(&k.cluster.admin()).await;
    k.ok(&["create", "ns", "team"]).await;
    k.ok(&["create", "configmap", "cm", "--from-literal=a=b", "-n", "team"]).await;
    k.ok(&["create", "secret", "generic", "s", "--from-literal=a=b"]).await;
    k.ok(&["create", "sa", "robot"]).await;
    k.ok(&["create", "deployment", "d", "--image=nginx"]).await;
    k.ok(&["expose", "deployment", "d", "--port=80", "--type=NodePort"]).await;
    k.ok(&["create", "job", "j", "--image=busybox", "--", "true"]).await;
    k.ok(&["create", "ingress", "i", "--rule=foo.com/bar=d:80"]).await;
    k.ok(&["run", "p", "--image=busybox", "--restart=Never"]).await;
    let token = k.ok(&["create", "token", "robot"]).await;
    assert_eq!(token.trim().split('.').count(), 3);
    let (ok, out, _) = k.run_with(&["auth", "whoami", "-o", "json", "--token", token.trim()], "", &[]).await;
    assert!(!ok || out.contains("kubernetes-admin"), "the certificate wins: {out}");
    let all = k.ok(&["get", "all"]).await;
    for name in ["pod/p", "service/d", "deployment.apps/d", "job.batch/j"] {
        assert!(all.contains(name), "{name}\n{all}");
    }
    assert!(k.ok(&["describe", "pod", "p"]).await.contains("kube-api-access-"));
    assert!(k.ok(&["describe", "ns", "team"]).await.contains("Active"));

    let waiting = async { k.ok(&["wait", "--for=condition=Ready", "pod/p", "--timeout=30s"]).await };
    let setting = async {
        let status = json!({"status": {"phase": "Running", "conditions": [{"type": "Ready", "status": "True"}]}});
        k.cluster.admin().patch(&format!("{PODS}/p/status"), "strategic", &status).await
    };
    let (waited, set) = tokio::join!(waiting, setting);
    assert_eq!(set.code, 200, "{}", set.body);
    assert!(waited.contains("condition met"), "{waited}");
    assert!(k.ok(&["get", "pods"]).await.contains("Running"));
    assert!(k.ok(&["delete", "pod", "p"]).await.contains("deleted"));
    k.ok(&["delete", "deploy,svc", "d"]).await;
    k.ok(&["delete", "cm", "--all", "-n", "team"]).await;
    let err = k.fails(&["logs", "p"], "").await;
    assert!(err.contains("not found"), "{err}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn explains_from_openapi_v2_and_asks_through_proxies() {
    let Some(k) = kubectl().await else { return };
    let text = k.ok(&["explain", "--output=plaintext-openapiv2", "pods.spec.containers.livenessProbe.httpGet"]).await;
    assert!(text.contains("port\t<") && text.contains("FIELDS:"), "{text}");
    let services = k.ok(&["get", "apiservices"]).await;
    let apps = services.lines().find(|l| l.starts_with("v1.apps ")).unwrap();
    assert_eq!(apps.split_whitespace().nth(2), Some("True"), "{services}");
    assert!(k.ok(&["cluster-info"]).await.contains("control plane"));
    k.ok_in(&["apply", "-f", "-"], MANIFEST).await;
    let error = k.fails(&["get", "--raw", "/api/v1/namespaces/default/services/http:web:80/proxy/"], "").await;
    assert!(error.contains(r#"no endpoints available for service "http:web:80""#), "{error}");
    let resources = k.ok(&["api-resources", "--no-headers", "-o", "name"]).await;
    assert!(resources.contains("apiservices.apiregistration.k8s.io"), "{resources}");
}
