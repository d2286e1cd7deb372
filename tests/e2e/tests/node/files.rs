//! What a container finds in its file system.

use anyhow::{Context as _, Result, ensure};
use e2e::{Ctx, IDLE, container, eventually, merge, pod};
use serde_json::{Value, json};

use crate::api::{Api, LIMIT, first_status, is};

/// The first line of a hosts file that the node wrote.
const MANAGED: &str = "# Kubernetes-managed hosts file";

// conformance: [sig-node] KubeletManagedEtcHosts should test kubelet managed /etc/hosts file
// conformance: [sig-node] Kubelet when scheduling an agnhost Pod with hostAliases should write entries to /etc/hosts
pub fn the_hosts_file_is_the_nodes_unless_the_pod_has_another(ctx: &Ctx) -> Result<()> {
    let api = Api::new(ctx)?;
    let hosts = ctx.instance.dir().join("own-hosts");
    std::fs::write(&hosts, "127.0.0.1\tof-the-test\n")?;
    let mount = json!([{"name": "hosts", "mountPath": "/etc/hosts"}]);
    let own = pod(
        "own",
        IDLE,
        json!({
            "hostAliases": [{"ip": "123.45.67.89", "hostnames": ["foo", "bar"]}],
            "containers": [
                {"name": "main"},
                container("second", IDLE),
                merge(container("mounted", IDLE), json!({"volumeMounts": mount})),
            ],
            "volumes": [{"name": "hosts", "hostPath": {"path": hosts, "type": "File"}}],
        }),
    );
    let two = json!({"hostNetwork": true, "containers": [{"name": "main"}, container("second", IDLE)]});
    api.create("pods", &own)?;
    api.create("pods", &pod("hosted", IDLE, two))?;
    api.until_pod("own", "ready", |p| is(p, "Ready"))?;
    api.until_pod("hosted", "ready", |p| is(p, "Ready"))?;
    let read = |pod: &str, container: &str| ctx.ok(&["exec", pod, "-c", container, "--", "cat", "/etc/hosts"]);
    for name in ["main", "second"] {
        let text = read("own", name)?;
        ensure!(text.starts_with(MANAGED) && text.contains("123.45.67.89\tfoo\tbar\n"), "{text}");
        ensure!(!read("hosted", name)?.starts_with(MANAGED));
    }
    ensure!(read("own", "mounted")? == "127.0.0.1\tof-the-test\n");
    api.clear()
}

// conformance: [sig-node] Kubelet when scheduling a read only busybox container should not write to root filesystem
// conformance: [sig-node] Security Context When creating a pod with readOnlyRootFilesystem should run the container with writable rootfs when readOnlyRootFilesystem=false
pub fn the_root_is_written_only_where_it_may_be(ctx: &Ctx) -> Result<()> {
    let api = Api::new(ctx)?;
    let script = "echo test > /file; echo $?; cat /file";
    let with = |name: &str, read_only: bool| {
        let context = json!([{"name": "main", "securityContext": {"readOnlyRootFilesystem": read_only}}]);
        pod(name, &format!("({script}) 2>&1 || true"), json!({"restartPolicy": "Never", "containers": context}))
    };
    api.outputs(vec![
        (with("open", false), Box::new(|_, said| said == "0\ntest\n")),
        (with("closed", true), Box::new(|_, said| said.contains("Read-only file system") && said.contains("\n1\n"))),
    ])?;
    api.clear()
}

fn expanded(name: &str, script: &str, env: Value, path: &str) -> Value {
    let mounts = json!([
        {"name": "workdir", "mountPath": "/subpath_mount", "subPathExpr": path},
        {"name": "workdir", "mountPath": "/volume_mount"},
    ]);
    let main = json!({"name": "main", "env": env, "volumeMounts": mounts});
    pod(name, script, json!({"containers": [main], "volumes": [{"name": "workdir", "emptyDir": {}}]}))
}

fn named(value: &str) -> Value {
    json!([
        {"name": "POD_NAME", "value": value},
        {"name": "ANNOTATION", "valueFrom": {"fieldRef": {"fieldPath": "metadata.annotations['mysubpath']"}}},
    ])
}

// conformance: [sig-node] Variable Expansion should allow substituting values in a volume subpath
// conformance: [sig-node] Variable Expansion should fail substituting values in a volume subpath with absolute path
// conformance: [sig-node] Variable Expansion should fail substituting values in a volume subpath with backticks
pub fn a_subpath_is_made_of_variables_and_stays_in_its_volume(ctx: &Ctx) -> Result<()> {
    let api = Api::new(ctx)?;
    let mut once = expanded(
        "once",
        "test -d /volume_mount/once && touch /subpath_mount/x && ls /volume_mount/once",
        named("once"),
        "$(POD_NAME)",
    );
    once["spec"]["restartPolicy"] = "Never".into();
    api.create("pods", &once)?;
    for (name, value) in [("upwards", ".."), ("absolute", "/tmp")] {
        api.create("pods", &expanded(name, IDLE, named(value), "$(POD_NAME)"))?;
    }
    ensure!(api.output("once", "main")? == "x\n");
    for name in ["upwards", "absolute"] {
        let pod = api.until_pod(name, "held back", |p| {
            first_status(p)["state"]["waiting"]["reason"] == "CreateContainerConfigError"
        })?;
        let why = first_status(&pod)["state"]["waiting"]["message"].as_str().unwrap_or_default().to_owned();
        ensure!(why.contains("subPath") && pod["status"]["phase"] == "Pending", "{why}");
    }
    api.clear()
}

// conformance: [sig-node] Variable Expansion should succeed in writing subpaths in container
// conformance: [sig-node] Variable Expansion should verify that a failing subpath expansion can be modified during the lifecycle of a container
pub fn a_subpath_follows_the_pods_annotations_until_it_is_made(ctx: &Ctx) -> Result<()> {
    let api = Api::new(ctx)?;
    let mut failing = expanded("failing", IDLE, named("foo"), "$(ANNOTATION)/$(POD_NAME)");
    failing["metadata"]["annotations"] = json!({"notmysubpath": "mypath"});
    let mut written = expanded("written", IDLE, named("foo"), "$(ANNOTATION)/$(POD_NAME)");
    written["metadata"]["annotations"] = json!({"mysubpath": "mypath"});
    api.create("pods", &failing)?;
    api.ready(&written)?;
    ctx.sh("written", "touch /volume_mount/mypath/foo/test.log && test -f /subpath_mount/test.log")?;
    let change = |name: &str, value: &str| {
        let patch = json!({"metadata": {"annotations": {"mysubpath": value}}});
        api.patch(&api.at(&format!("pods/{name}")), &patch)
    };
    change("written", "mynewpath")?;
    let waits = |p: &Value| first_status(p)["state"]["waiting"]["reason"] == "CreateContainerConfigError";
    api.until_pod("failing", "held back", waits)?;
    change("failing", "mypath")?;
    api.until_pod("failing", "running", |p| is(p, "Ready"))?;
    // A path that was made once is not made again, and a pod whose path would be another one is deleted all the same.
    ctx.sh("written", "test -f /subpath_mount/test.log && test ! -e /volume_mount/mynewpath")?;
    for name in ["written", "failing"] {
        api.delete(&api.at(&format!("pods/{name}")), &json!({}))?;
        api.gone(name)?;
    }
    api.clear()
}

// conformance: [sig-node] ImageVolume should succeed with pod and pull policy of Always
pub fn an_image_of_a_registry_is_a_volume(ctx: &Ctx) -> Result<()> {
    let api = Api::new(ctx)?;
    let registry = crate::registry::Registry::start(ctx)?;
    let volumes = json!([{"name": "volume", "image": {"reference": registry.image(), "pullPolicy": "Always"}}]);
    let mount = json!([{"name": "volume", "mountPath": "/volume", "readOnly": true}]);
    let spec = json!({"containers": [{"name": "main", "volumeMounts": mount}], "volumes": volumes});
    let up = api.ready(&pod("gallery", IDLE, spec)).context("the image is pulled")?;
    ensure!(up["status"]["phase"] == "Running");
    eventually(LIMIT, "files of the image are there", || {
        ensure!(ctx.sh("gallery", "cat /volume/etc/passwd")?.contains("nobody"));
        Ok(())
    })?;
    ensure!(ctx.sh("gallery", "touch /volume/no 2>&1 || echo refused")?.contains("refused"));
    api.clear()
}
