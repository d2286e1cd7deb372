//! Starting, standing beside each other, stopping, and going away.

use std::net::TcpListener;
use std::time::Duration;

use anyhow::{Result, ensure};
use e2e::command::{LIMIT, run};
use e2e::{IDLE, Instance, deployment, httpd, leaks, pod};
use nix::sys::signal::Signal;
use serde_json::{Value, json};

fn apply(instance: &Instance, objects: &[Value]) -> Result<String> {
    let list = serde_json::to_vec(&json!({"apiVersion": "v1", "kind": "List", "items": objects}))?;
    instance.kubectl().run_for(&["apply", "-f", "-"], Some(&list), LIMIT)?.ok()
}

fn start_pod(instance: &Instance, name: &str) -> Result<()> {
    let kubectl = instance.kubectl();
    kubectl.ok(&["wait", "serviceaccount/default", "--for=create", "--timeout=30s"])?;
    apply(instance, &[pod(name, IDLE, json!({}))])?;
    kubectl.ok(&["wait", &format!("pod/{name}"), "--for=condition=Ready", "--timeout=60s"])?;
    Ok(())
}

pub fn a_taken_port_is_exit_code_3_and_names_its_holder() -> Result<()> {
    let instance = Instance::builder("port").without_image().prepare()?;
    let _held = TcpListener::bind(instance.api())?;
    let output = run(&mut instance.server_command()?, None, LIMIT)?;
    let own = std::process::id().to_string();
    ensure!(output.code() == 3, "{output:?}");
    ensure!(output.stderr.contains(&instance.api().port().to_string()), "{}", output.stderr);
    ensure!(output.stderr.contains(&own) && output.stderr.contains("--api-port"), "{}", output.stderr);
    instance.down()
}

pub fn a_second_server_on_an_instance_is_refused() -> Result<()> {
    let instance = Instance::builder("second").without_image().start()?;
    let pid = instance.server_pid()?.to_string();
    let data = instance.names().data_dir().display().to_string();
    let again = ["server", "--api-port", "0", "--http-port", "0"];
    let output = instance.windlass(&again)?;
    ensure!(output.code() == 3 && output.stderr.contains(&pid), "{output:?}");
    // The same data under another name would be two writers of one store.
    let mut other = std::process::Command::new(e2e::windlass().expect("checked by the runner"));
    other.args(again).args(["--name", &format!("{}x", instance.name()), "--data-dir", &data]);
    let output = run(&mut other, None, LIMIT)?;
    ensure!(output.code() == 3 && output.stderr.contains(&data), "{output:?}");
    let _ = std::fs::remove_dir_all(format!("/run/windlass-{}x", instance.name()));
    instance.wait_ready()?;
    instance.down()
}

pub fn two_instances_run_side_by_side_and_one_goes_without_the_other() -> Result<()> {
    let (one, two) = (Instance::builder("one").start()?, Instance::builder("two").start()?);
    start_pod(&one, "only")?;
    start_pod(&two, "only")?;
    one.down()?;
    let kubectl = two.kubectl();
    ensure!(kubectl.ok(&["exec", "only", "--", "echo", "still here"])?.trim() == "still here");
    ensure!(kubectl.ok(&["get", "pod", "only", "-o", "jsonpath={.status.containerStatuses[0].restartCount}"])? == "0");
    start_pod(&two, "another")?;
    two.down()
}

pub fn sigterm_ends_the_server_with_0_and_containers_survive() -> Result<()> {
    let instance = Instance::builder("term").start()?;
    start_pod(&instance, "stays")?;
    let shims = instance.shim_pids();
    ensure!(shims.len() == 1, "there are {} shims", shims.len());
    let agent = instance.agent_pid()?;
    let status = instance.stop(Signal::SIGTERM)?;
    ensure!(status.code() == Some(0), "the server ended with {status}");
    ensure!(leaks::command_line(agent).is_empty(), "the agent outlived its server");
    ensure!(instance.shim_pids() == shims, "the pod's shim did not survive");
    let started = "jsonpath={.status.containerStatuses[0].state.running.startedAt}";
    instance.spawn()?;
    instance.wait_ready()?;
    let kubectl = instance.kubectl();
    kubectl.ok(&["wait", "pod/stays", "--for=condition=Ready", "--timeout=60s"])?;
    ensure!(instance.shim_pids() == shims, "the pod was started anew");
    ensure!(kubectl.ok(&["exec", "stays", "--", "echo", "hello"])?.trim() == "hello");
    ensure!(!kubectl.ok(&["get", "pod", "stays", "-o", started])?.is_empty());
    ensure!(kubectl.ok(&["get", "pod", "stays", "-o", "jsonpath={.status.containerStatuses[0].restartCount}"])? == "0");
    instance.down()
}

pub fn detach_returns_when_ready_and_down_without_purge_keeps_the_data() -> Result<()> {
    let instance = Instance::builder("detach").start()?;
    start_pod(&instance, "again")?;
    instance.windlass_with(&["down"], None, Duration::from_secs(60))?.ok()?;
    instance.was_ended()?;
    let left = leaks::found(instance.names())?;
    let data = format!("folder {}", instance.names().data_dir().display());
    ensure!(left == [data.clone()], "down without --purge left {left:?}");
    let ports = [instance.api().port().to_string(), instance.http().port().to_string()];
    let detach = ["server", "--detach", "--api-port", &ports[0], "--http-port", &ports[1]];
    let said = instance.windlass_with(&detach, None, Duration::from_secs(60))?.ok()?;
    ensure!(said.contains("is ready") && said.contains("admin.kubeconfig"), "{said}");
    instance.wait_api()?;
    let kubectl = instance.kubectl();
    // The objects were kept, so the pod is started again.
    kubectl.ok(&["wait", "pod/again", "--for=condition=Ready", "--timeout=90s"])?;
    let text = instance.windlass(&["status"])?.ok()?;
    ensure!(text.contains(instance.name()) && text.contains("Ready"), "{text}");
    let path = instance.windlass(&["kubeconfig", "--path"])?.ok()?;
    ensure!(path.trim() == instance.names().data_dir().join("admin.kubeconfig").display().to_string(), "{path}");
    ensure!(instance.windlass(&["kubeconfig"])?.ok()?.contains("client-certificate-data"));
    instance.down()
}

pub fn apply_wait_and_status_show_the_workload() -> Result<()> {
    let instance = Instance::builder("apply").start()?;
    let kubectl = instance.kubectl();
    kubectl.ok(&["wait", "serviceaccount/default", "--for=create", "--timeout=30s"])?;
    let file = instance.dir().join("web.json");
    let web = deployment("web", 2, json!([httpd("hello")]));
    std::fs::write(&file, serde_json::to_vec(&web)?)?;
    let path = file.display().to_string();
    let said = instance.windlass(&["apply", "-f", &path, "--wait", "--timeout", "60"])?;
    ensure!(said.stdout.contains("deployment.apps/web created"), "{said:?}");
    ensure!(said.code() == 0 && said.stderr.contains("ready"), "{said:?}");
    ensure!(instance.windlass(&["apply", "-f", &path])?.ok()?.contains("deployment.apps/web unchanged"));
    let text = instance.windlass(&["status"])?.ok()?;
    let row = text.lines().find(|l| l.contains("Deployment")).unwrap_or_default().to_owned();
    ensure!(row.contains("web") && row.contains("2/2"), "{text}");
    // What cannot become ready is given up on in time, with the reason.
    let mut bad = deployment("bad", 1, json!([httpd("x")]));
    bad["spec"]["template"]["spec"]["containers"][0]["image"] = json!("127.0.0.1:1/none:1");
    let text = serde_json::to_vec(&bad)?;
    let apply = ["apply", "-f", "-", "--wait", "--timeout", "15"];
    let output = instance.windlass_with(&apply, Some(&text), LIMIT)?;
    ensure!(output.code() == 1, "{output:?}");
    ensure!(output.stderr.contains("ErrImagePull") || output.stderr.contains("ImagePullBackOff"), "{}", output.stderr);
    instance.down()
}

/// Whether the bytes are anywhere in the store's file.
fn on_disk(instance: &Instance, text: &str) -> Result<bool> {
    let file = std::fs::read(instance.names().data_dir().join("store.redb"))?;
    Ok(file.windows(text.len()).any(|w| w == text.as_bytes()))
}

pub fn secrets_are_sealed_on_disk_and_their_keys_can_be_rotated() -> Result<()> {
    let instance = Instance::builder("seal").without_image().flag("--no-agent").prepare()?;
    instance.spawn()?;
    instance.wait_api()?;
    let kubectl = instance.kubectl();
    // As it is stored: base64 in the object's JSON.
    let (hidden, encoded) = ("correct horse battery staple", "Y29ycmVjdCBob3JzZSBiYXR0ZXJ5IHN0YXBsZQ==");
    kubectl.ok(&["create", "secret", "generic", "s", &format!("--from-literal=password={hidden}")])?;
    kubectl.ok(&["create", "configmap", "c", "--from-literal=seen=plain to see"])?;
    ensure!(on_disk(&instance, "plain to see")?, "a ConfigMap is stored as it is");
    ensure!(!on_disk(&instance, encoded)?, "the Secret is readable on disk");
    let read = || kubectl.ok(&["get", "secret", "s", "-o", "jsonpath={.data.password}"]);
    ensure!(read()? == encoded);
    let said = instance.windlass(&["encryption", "rotate"])?.ok()?;
    ensure!(said.contains("1 Secret sealed anew with"), "{said}");
    let status = instance.windlass(&["encryption", "status"])?.ok()?;
    ensure!(status.matches("opens").count() == 2 && status.contains("every Secret is sealed"), "{status}");
    ensure!(read()? == encoded, "after rotation");
    instance.stop(Signal::SIGKILL)?;
    instance.spawn()?;
    instance.wait_api()?;
    ensure!(read()? == encoded, "after kill -9");
    ensure!(!on_disk(&instance, encoded)?);
    instance.down()
}

pub fn purge_refuses_a_folder_that_is_not_ours() -> Result<()> {
    let dir = tempfile::tempdir()?;
    std::fs::write(dir.path().join("precious"), "do not delete")?;
    let mut down = std::process::Command::new(e2e::windlass().expect("checked by the runner"));
    down.args(["down", "--purge", "--name", "e2e-purge", "--data-dir"]).arg(dir.path());
    let output = run(&mut down, None, LIMIT)?;
    ensure!(output.code() == 3, "{output:?}");
    ensure!(dir.path().join("precious").exists(), "it deleted what is not ours");
    Ok(())
}
