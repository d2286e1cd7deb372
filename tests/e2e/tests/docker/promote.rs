//! Docker containers that become workloads of the cluster.

use std::time::Duration;

use anyhow::{Result, ensure};
use e2e::{Ctx, eventually, free_port};

use crate::Docker;

const LIMIT: Duration = Duration::from_secs(60);
const PROMOTE: Duration = Duration::from_secs(180);

fn windlass(ctx: &Ctx, args: &[&str]) -> Result<e2e::command::Output> {
    ctx.instance.windlass_with(&[&["promote", "--namespace", &ctx.ns], args].concat(), None, PROMOTE)
}

pub fn a_container_is_promoted_with_its_volume_its_port_and_its_secrets(ctx: &Ctx) -> Result<()> {
    let docker = Docker::of(&ctx.instance)?;
    let port = free_port()?.port();
    let script = "[ -e /www/index.html ] || echo kept > /www/index.html; exec httpd -f -p 80 -h /www";
    let published = format!("127.0.0.1:{port}:80");
    let flags = ["-d", "--name", "promoted_web", "-v", "promoted:/www", "-p", &published, "-e", "WORD=said"];
    let more = ["-e", "DB_PASSWORD=secret", "--restart", "unless-stopped", "--stop-timeout", "0"];
    docker.script(&[&flags[..], &more].concat(), script)?.ok()?;
    let page = || e2e::http::get_ok(([127, 0, 0, 1], port).into(), "localhost", "/");
    let served = || {
        eventually(LIMIT, "the page is served", || {
            let page = page()?;
            ensure!(page.trim() == "kept", "{page}");
            Ok(())
        })
    };
    served()?;
    eventually(LIMIT, "a pod stands for it", || {
        ctx.instance.kubectl().ok(&["-n", "docker", "get", "pod", "promoted-web"])
    })?;
    // Printed, and nothing changed.
    let text = windlass(ctx, &["--dry-run", "promoted_web"])?.ok()?;
    ensure!(text.contains("kind: StatefulSet") && text.contains("kind: PersistentVolume\n"), "{text}");
    ensure!(text.contains("WORD: said") && !text.contains("DB_PASSWORD: secret"), "{text}");
    ctx.run_for(&["apply", "--dry-run=server", "-f", "-"], Some(text.as_bytes()), LIMIT)?.ok()?;
    ensure!(docker.field("promoted_web", "{{.State.Status}}")? == "running");
    // Handed over.
    let said = windlass(ctx, &["promoted_web"])?.ok()?;
    ensure!(said.contains("docker rm promoted_web"), "{said}");
    ctx.wait("pod/promoted-web-0", "condition=Ready")?;
    served()?;
    ensure!(ctx.sh("promoted-web-0", "echo $WORD $DB_PASSWORD; cat /www/index.html")? == "said secret\nkept");
    ensure!(docker.field("promoted_web", "{{.State.Status}} {{.HostConfig.RestartPolicy.Name}}")? == "exited no");
    // Its files are the cluster's now.
    docker.ok(&["rm", "promoted_web"])?;
    let refused = docker.fails(&["volume", "rm", "promoted"])?;
    ensure!(refused.contains(&format!("PersistentVolumeClaim {}/promoted", ctx.ns)), "{refused}");
    served()?;
    let volume = ctx.field("pvc/promoted", ".spec.volumeName")?;
    ctx.ok(&["delete", "statefulset/promoted-web", "service/promoted-web", "pvc/promoted"])?;
    ctx.ok(&["delete", "pv", &volume])?;
    Ok(())
}

pub fn a_container_whose_workload_does_not_get_ready_runs_again(ctx: &Ctx) -> Result<()> {
    let docker = Docker::of(&ctx.instance)?;
    // Well the first time only: its mark is in its own file system, which the workload begins without.
    let script = "exec sleep 1000";
    let check = ["--health-cmd", "test -e /well", "--health-interval", "1s"];
    let flags = ["-d", "--name", "promoted_back", "-v", "promoted-back:/data", "--restart", "always"];
    docker.script(&[&flags[..], &check, &["--stop-timeout", "0"]].concat(), script)?.ok()?;
    docker.ok(&["exec", "promoted_back", "touch", "/well"])?;
    eventually(LIMIT, "a pod stands for it", || {
        ctx.instance.kubectl().ok(&["-n", "docker", "get", "pod", "promoted-back"])
    })?;
    let failed = windlass(ctx, &["--timeout", "5", "promoted_back"])?.failed()?;
    ensure!(failed.contains("the containers run as before"), "{failed}");
    ensure!(docker.field("promoted_back", "{{.State.Status}} {{.HostConfig.RestartPolicy.Name}}")? == "running always");
    let left = ctx.ok(&["get", "statefulsets,services,pvc", "-o", "name"])?;
    ensure!(!left.contains("promoted-back"), "{left}");
    docker.ok(&["rm", "-f", "promoted_back"])?;
    docker.ok(&["volume", "rm", "promoted-back"])?;
    // What cannot be kept is refused before anything changes.
    docker.script(&["-d", "--rm", "--name", "promoted-brief"], "exec sleep 1000")?.ok()?;
    eventually(LIMIT, "a pod stands for it", || {
        ctx.instance.kubectl().ok(&["-n", "docker", "get", "pod", "promoted-brief"])
    })?;
    let refused = windlass(ctx, &["promoted-brief"])?.failed()?;
    ensure!(refused.contains("--rm"), "{refused}");
    docker.ok(&["rm", "-f", "promoted-brief"])?;
    Ok(())
}
