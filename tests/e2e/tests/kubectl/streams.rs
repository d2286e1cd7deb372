//! logs, exec, attach, cp, port-forward: what goes through the node.

use std::io::{BufRead, BufReader};
use std::net::SocketAddr;
use std::process::{Child, ChildStdout, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use e2e::{Ctx, IDLE, deployment, eventually, free_port, http, httpd, pod, service};
use serde_json::json;

pub fn logs_are_followed_from_the_first_line_to_the_end(ctx: &Ctx) -> Result<()> {
    let script = "for i in $(seq 1 20); do echo line $i; sleep 0.05; done; echo last >&2";
    ctx.apply(&[pod("talker", script, json!({"restartPolicy": "Never"}))])?;
    ctx.wait("pod/talker", "jsonpath={.status.phase}=Running")?;
    let text = ctx.ok(&["logs", "-f", "talker"])?;
    let lines: Vec<&str> = text.lines().collect();
    ensure!(lines.len() == 21 && lines[0] == "line 1" && lines[20] == "last", "{text}");
    ensure!(ctx.fails(&["logs", "nobody"])?.contains("pods \"nobody\" not found"));
    let image = json!({"containers": [{"name": "main", "image": "127.0.0.1:1/none:1"}]});
    ctx.apply(&[pod("silent", IDLE, image)])?;
    ctx.wait("pod/silent", "condition=PodScheduled")?;
    let error = ctx.fails(&["logs", "silent"])?;
    ensure!(error.contains("container \"main\" in pod \"silent\" is waiting to start"), "{error}");
    Ok(())
}

pub fn logs_can_be_cut_and_stamped_and_are_there_after_a_restart(ctx: &Ctx) -> Result<()> {
    let script = "if [ -e /data/second ]; then echo second run; trap 'exit 0' TERM; sleep 3600 & wait; fi; \
                  touch /data/second; for i in 1 2 3 4 5; do echo first $i; done; exit 1";
    let volume = json!({
        "containers": [{"name": "main", "volumeMounts": [{"name": "data", "mountPath": "/data"}]}],
        "volumes": [{"name": "data", "emptyDir": {}}],
    });
    ctx.apply(&[pod("twice", script, volume)])?;
    ctx.wait("pod/twice", "jsonpath={.status.containerStatuses[0].restartCount}=1")?;
    ctx.wait("pod/twice", "condition=Ready")?;
    eventually(Duration::from_secs(10), "the second run speaks", || {
        let text = ctx.ok(&["logs", "twice"])?;
        ensure!(text == "second run\n", "{text:?}");
        Ok(())
    })?;
    ensure!(ctx.ok(&["logs", "twice", "--previous", "--tail=2"])? == "first 4\nfirst 5\n");
    let stamped = ctx.ok(&["logs", "twice", "--previous", "--timestamps"])?;
    let first = stamped.lines().next().context("the log is empty")?;
    ensure!(first.len() > 30 && &first[4..5] == "-" && first.ends_with("Z first 1"), "{first}");
    ensure!(ctx.ok(&["logs", "twice", "--previous", "--limit-bytes=5"])? == "first");
    ensure!(ctx.ok(&["logs", "-l", "app=twice", "--prefix"])?.contains("[pod/twice/main] second run"));
    ensure!(ctx.fails(&["logs", "twice", "-c", "other"])?.contains("container other is not valid"));
    Ok(())
}

pub fn exec_passes_input_output_and_the_exit_code(ctx: &Ctx) -> Result<()> {
    ctx.ready_pod(pod("box", IDLE, json!({})))?;
    let output = ctx.run(&["exec", "box", "--", "sh", "-c", "echo out; echo err >&2; exit 7"])?;
    ensure!(output.code() == 7, "exit code {}: {}", output.code(), output.stderr);
    ensure!(output.stdout == "out\n" && output.stderr.starts_with("err\n"), "{output:?}");
    let limit = e2e::command::LIMIT;
    let output = ctx.run_for(&["exec", "-i", "box", "--", "tr", "a-z", "A-Z"], Some(b"hello"), limit)?;
    ensure!(output.ok()? == "HELLO");
    // A megabyte each way, whole and in order.
    let bytes: Vec<u8> = (0..1_000_000_u32).map(|n| b'a' + (n % 23) as u8).collect();
    let output = ctx.run_for(&["exec", "-i", "box", "--", "cat"], Some(&bytes), limit)?.ok()?;
    ensure!(output.as_bytes() == bytes, "{} of {} bytes came back", output.len(), bytes.len());
    let error = ctx.run(&["exec", "box", "--", "no-such-program"])?;
    ensure!(error.code() != 0 && error.stderr.contains("no-such-program"), "{error:?}");
    ensure!(ctx.ok(&["exec", "deploy/none", "--", "true"]).is_err());
    Ok(())
}

pub fn exec_in_a_terminal_is_interactive(ctx: &Ctx) -> Result<()> {
    ctx.ready_pod(pod("tty", IDLE, json!({})))?;
    let output = ctx.in_terminal(&["exec", "-it", "tty", "--", "sh"], b"tty\nstty size; echo $((40+2))\nexit 3\n")?;
    ensure!(output.stdout.contains("/dev/pts/0"), "no terminal: {}", output.stdout);
    ensure!(output.stdout.contains("42"), "{}", output.stdout);
    ensure!(output.code() == 3, "exit code {}: {}", output.code(), output.stdout);
    Ok(())
}

pub fn attach_joins_a_running_container(ctx: &Ctx) -> Result<()> {
    let script = "while read line; do echo got $line; [ \"$line\" = end ] && exit 0; done";
    let stdin = json!({"restartPolicy": "Never", "containers": [{"name": "main", "stdin": true, "stdinOnce": true}]});
    ctx.ready_pod(pod("reader", script, stdin))?;
    let output = ctx.run_for(&["attach", "-i", "reader"], Some(b"one\nend\n"), e2e::command::LIMIT)?.ok()?;
    ensure!(output.contains("got one\n") && output.contains("got end\n"), "{output}");
    ctx.wait("pod/reader", "jsonpath={.status.phase}=Succeeded")
}

pub fn cp_copies_files_and_folders_both_ways(ctx: &Ctx) -> Result<()> {
    ctx.ready_pod(pod("files", IDLE, json!({})))?;
    let here = ctx.instance.dir().join("cp");
    std::fs::create_dir_all(here.join("tree/deep"))?;
    std::fs::write(here.join("tree/deep/leaf"), "leaf")?;
    let big: Vec<u8> = (0..3_000_000_u32).map(|n| (n / 7 % 251) as u8).collect();
    std::fs::write(here.join("tree/big"), &big)?;
    let (tree, back) = (here.join("tree").display().to_string(), here.join("back").display().to_string());
    ctx.ok(&["cp", &tree, "files:/tmp/tree"])?;
    ensure!(ctx.sh("files", "cat /tmp/tree/deep/leaf")? == "leaf");
    ctx.ok(&["cp", "files:/tmp/tree", &back])?;
    ensure!(std::fs::read(here.join("back/big"))? == big, "the large file changed on its way");
    ensure!(std::fs::read_to_string(here.join("back/deep/leaf"))? == "leaf");
    Ok(())
}

/// A port-forward that runs until it is dropped.
struct Forward(
    Child,
    #[expect(dead_code, reason = "kubectl ends when nobody reads what it says")] BufReader<ChildStdout>,
);

impl Forward {
    fn start(ctx: &Ctx, what: &str, port: &str) -> Result<(Forward, SocketAddr)> {
        let local = free_port()?;
        let mapping = format!("{}:{port}", local.port());
        let mut command = ctx.command(&["port-forward", what, &mapping]);
        let mut child = command.stdout(Stdio::piped()).stderr(Stdio::inherit()).spawn()?;
        let mut stdout = BufReader::new(child.stdout.take().context("stdout is a pipe")?);
        let mut line = String::new();
        stdout.read_line(&mut line)?;
        let forward = Forward(child, stdout);
        ensure!(line.starts_with("Forwarding from"), "port-forward {what} said {line:?}");
        Ok((forward, local))
    }
}

impl Drop for Forward {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

pub fn port_forward_reaches_pod_and_service(ctx: &Ctx) -> Result<()> {
    ctx.apply(&[deployment("web", 1, json!([httpd("forwarded")])), service("web", json!({}))])?;
    ctx.ok(&["rollout", "status", "deployment/web", "--timeout=60s"])?;
    for (what, port) in [("deployment/web", "8080"), ("service/web", "80")] {
        let (forward, addr) = Forward::start(ctx, what, port)?;
        for n in 0..10 {
            let body = http::get_ok(addr, "localhost", "/").with_context(|| format!("{what}, request {n}"))?;
            ensure!(body == "forwarded", "{what} answered {body}");
        }
        drop(forward);
    }
    Ok(())
}
