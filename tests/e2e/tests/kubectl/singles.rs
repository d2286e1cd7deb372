//! Commands on a single pod, and the proxy of kubectl.

use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::net::UnixStream;
use std::process::{Child, ChildStdout, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use e2e::{Ctx, IDLE, IMAGE, container, deployment, eventually, http, pod};
use serde_json::{Value, json};

// conformance: [sig-cli] Kubectl client Kubectl run pod should create a pod from an image when restart is Never
pub fn run_makes_one_pod_of_an_image(ctx: &Ctx) -> Result<()> {
    let said = ctx.ok(&["run", "once", "--restart=Never", "--image", IMAGE])?;
    ensure!(said.contains("pod/once created"), "{said}");
    let made = ctx.json("pod/once")?;
    let containers = made["spec"]["containers"].as_array().context("it has containers")?;
    ensure!(containers.len() == 1 && containers[0]["image"] == IMAGE, "{made}");
    ensure!(made["spec"]["restartPolicy"] == "Never", "{made}");
    ctx.wait("pod/once", "jsonpath={.status.phase}=Succeeded")
}

// conformance: [sig-cli] Kubectl client Kubectl label should update the label on a resource
pub fn label_sets_and_removes_the_label_of_a_running_pod(ctx: &Ctx) -> Result<()> {
    ctx.ready_pod(pod("labelled", IDLE, json!({})))?;
    ctx.ok(&["label", "pods", "labelled", "testing-label=testing-label-value"])?;
    let shown = |args: &[&str]| ctx.ok(&[&["get", "pod", "--no-headers"], args].concat());
    ensure!(shown(&["labelled", "-L", "testing-label"])?.contains("testing-label-value"));
    ensure!(shown(&["-l", "testing-label=testing-label-value"])?.starts_with("labelled "));
    ctx.ok(&["label", "pods", "labelled", "testing-label-"])?;
    ensure!(!shown(&["labelled", "-L", "testing-label"])?.contains("testing-label-value"));
    ensure!(shown(&["-l", "testing-label"])?.is_empty());
    Ok(())
}

/// Another name of the image that is there, so that a change of it needs no registry.
const OTHER: &str = "windlass.local/busybox:other";

fn other_image(ctx: &Ctx) -> Result<()> {
    ctx.instance.windlass(&["image", "tag", IMAGE, OTHER])?.ok()?;
    Ok(())
}

// conformance: [sig-cli] Kubectl client Kubectl replace should update a single-container pod's image
pub fn replace_changes_the_image_of_a_pod_and_forced_makes_another_pod(ctx: &Ctx) -> Result<()> {
    other_image(ctx)?;
    ctx.ready_pod(pod("replaced", IDLE, json!({})))?;
    let mut object = ctx.json("pod/replaced")?;
    let uid = object["metadata"]["uid"].clone();
    object["spec"]["containers"][0]["image"] = OTHER.into();
    ctx.feed(&["replace", "-f", "-"], &[object])?.ok()?;
    ensure!(ctx.field("pod/replaced", ".spec.containers[0].image")? == OTHER);
    // The running container becomes one of the new image.
    ctx.wait("pod/replaced", "jsonpath={.status.containerStatuses[0].restartCount}=1")?;
    ctx.wait("pod/replaced", "condition=Ready")?;
    ensure!(ctx.json("pod/replaced")?["metadata"]["uid"] == uid);
    // A field that cannot be changed is a reason to make it anew.
    let mut anew = pod("replaced", IDLE, json!({"hostname": "anew"}));
    anew["spec"]["containers"][0]["image"] = IMAGE.into();
    let refused = ctx.feed(&["replace", "-f", "-"], std::slice::from_ref(&anew))?.failed()?;
    ensure!(refused.contains("pod updates may not change fields"), "{refused}");
    ctx.feed(&["replace", "--force", "-f", "-"], &[anew])?.ok()?;
    ctx.wait("pod/replaced", "condition=Ready")?;
    let now = ctx.json("pod/replaced")?;
    ensure!(now["metadata"]["uid"] != uid && now["spec"]["containers"][0]["image"] == IMAGE, "{now}");
    Ok(())
}

// conformance: [sig-cli] Kubectl client Kubectl server-side dry-run should check if kubectl can dry-run update Pods
pub fn a_dry_run_of_a_patch_leaves_the_pod_as_it_is(ctx: &Ctx) -> Result<()> {
    ctx.ok(&["run", "dry", "--image", IMAGE, "--labels=run=dry", "--", "sh", "-c", IDLE])?;
    ctx.wait("pod/dry", "condition=Ready")?;
    let change = json!({"spec": {"containers": [{"name": "dry", "image": OTHER}]}}).to_string();
    let would = ctx.ok(&[
        "patch",
        "pod",
        "dry",
        "-p",
        &change,
        "--dry-run=server",
        "-o",
        "jsonpath={.spec.containers[0].image}",
    ])?;
    ensure!(would == OTHER, "{would}");
    ensure!(ctx.field("pod/dry", ".spec.containers[0].image")? == IMAGE);
    Ok(())
}

// conformance: [sig-cli] Kubectl client Kubectl diff should check if kubectl diff finds a difference for Deployments
pub fn diff_shows_the_image_that_a_deployment_would_have(ctx: &Ctx) -> Result<()> {
    let mut object = deployment("diffed", 1, json!([container("main", IDLE)]));
    ctx.feed(&["create", "-f", "-"], std::slice::from_ref(&object))?.ok()?;
    object["spec"]["template"]["spec"]["containers"][0]["image"] = OTHER.into();
    let diff = ctx.feed(&["diff", "-f", "-"], &[object])?;
    ensure!(diff.code() == 1, "{diff:?}");
    let line = |sign: char, image: &str| {
        diff.stdout.lines().any(|l| l.starts_with(sign) && l.trim_end().ends_with(&format!("image: {image}")))
    };
    ensure!(line('-', IMAGE) && line('+', OTHER), "{}", diff.stdout);
    ensure!(ctx.field("deployment/diffed", ".spec.template.spec.containers[0].image")? == IMAGE);
    Ok(())
}

/// Whether this is a time as RFC 3339 has it, in UTC.
fn is_time(word: &str) -> bool {
    let pattern = "dddd-dd-ddTdd:dd:dd";
    let begins = word.len() > pattern.len()
        && word.chars().zip(pattern.chars()).all(|(c, p)| if p == 'd' { c.is_ascii_digit() } else { c == p });
    let rest = word.get(pattern.len()..).unwrap_or_default();
    begins
        && rest.ends_with('Z')
        && rest.trim_end_matches('Z').trim_start_matches('.').chars().all(|c| c.is_ascii_digit())
}

// conformance: [sig-cli] Kubectl logs logs should be able to retrieve and filter logs
pub fn logs_are_cut_by_lines_bytes_and_age(ctx: &Ctx) -> Result<()> {
    let script = format!("for i in $(seq 1 100); do echo \"$i GET /api/v1/namespaces/kube-system\"; done; {IDLE}");
    ctx.ok(&["run", "generator", "--image", IMAGE, "--restart=Never", "--", "sh", "-c", &script])?;
    ctx.wait("pod/generator", "condition=Ready")?;
    let logs = |args: &[&str]| ctx.ok(&[&["logs", "generator", "generator"], args].concat());
    eventually(Duration::from_secs(60), "all lines are logged", || {
        let text = logs(&[])?;
        ensure!(text.lines().last() == Some("100 GET /api/v1/namespaces/kube-system"), "{text}");
        Ok(())
    })?;
    ensure!(logs(&["--tail=1"])? == "100 GET /api/v1/namespaces/kube-system\n");
    ensure!(logs(&["--limit-bytes=1"])? == "1");
    let stamped = logs(&["--tail=1", "--timestamps"])?;
    let (time, rest) = stamped.split_once(' ').context("a time and a line")?;
    ensure!(is_time(time) && rest == "100 GET /api/v1/namespaces/kube-system\n", "{stamped}");
    // In a moment they are all older than a second.
    eventually(Duration::from_secs(60), "the lines age", || {
        let recent = logs(&["--since=1s"])?;
        ensure!(recent.is_empty(), "{recent}");
        Ok(())
    })?;
    ensure!(logs(&["--since=24h"])?.lines().count() == 100);
    Ok(())
}

/// A `kubectl proxy` that runs until it is dropped.
struct Proxy(
    Child,
    #[expect(dead_code, reason = "kubectl ends when nobody reads what it says")] BufReader<ChildStdout>,
);

impl Proxy {
    /// Starts it and answers where it says that it serves.
    fn start(ctx: &Ctx, flag: &str) -> Result<(Proxy, String)> {
        let mut child = ctx.command(&["proxy", flag]).stdout(Stdio::piped()).stderr(Stdio::inherit()).spawn()?;
        let mut stdout = BufReader::new(child.stdout.take().context("stdout is a pipe")?);
        let mut line = String::new();
        let read = stdout.read_line(&mut line);
        let proxy = Proxy(child, stdout);
        read?;
        let place = line.trim().strip_prefix("Starting to serve on ").with_context(|| format!("it said {line:?}"))?;
        Ok((proxy, place.to_owned()))
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn has_versions(body: &str) -> Result<()> {
    let versions: Value = serde_json::from_str(body).with_context(|| body.to_owned())?;
    ensure!(versions["versions"].as_array().is_some_and(|v| v.contains(&json!("v1"))), "{versions}");
    Ok(())
}

// conformance: [sig-cli] Kubectl client Proxy server should support proxy with --port 0
// conformance: [sig-cli] Kubectl client Proxy server should support --unix-socket=/path
pub fn proxy_serves_the_api_on_any_port_and_on_a_socket(ctx: &Ctx) -> Result<()> {
    let (proxy, place) = Proxy::start(ctx, "--port=0")?;
    let address = place.parse().with_context(|| place.clone())?;
    has_versions(&http::get_ok(address, "localhost", "/api/")?)?;
    drop(proxy);
    let path = ctx.instance.dir().join("proxy.sock");
    let (proxy, place) = Proxy::start(ctx, &format!("--unix-socket={}", path.display()))?;
    ensure!(place == path.display().to_string(), "{place}");
    let mut stream = UnixStream::connect(&path)?;
    stream.write_all(b"GET /api HTTP/1.0\r\nHost: localhost\r\n\r\n")?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    let (head, body) = answer.split_once("\r\n\r\n").context("the answer has a body")?;
    ensure!(head.lines().next().is_some_and(|l| l.contains(" 200 ")), "{head}");
    has_versions(body)?;
    drop(proxy);
    Ok(())
}
