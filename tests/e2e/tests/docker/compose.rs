//! docker-compose and the Python client, unmodified.

use std::path::Path;
use std::process::Command;
use std::time::Duration;

use anyhow::{Result, ensure};
use e2e::command::{self, Output};
use e2e::free_port;
use e2e::{Ctx, IMAGE, eventually, skip};

use crate::Docker;

const LIMIT: Duration = Duration::from_secs(60);
/// What the checks of the Python client may take together.
const CHECKS: Duration = Duration::from_secs(240);

fn file(port: u16) -> String {
    format!(
        r#"
services:
  web:
    image: {IMAGE}
    command: sh -c "mkdir -p /www; cp /data/page /www/index.html; exec httpd -f -p 80 -h /www"
    depends_on:
      store:
        condition: service_healthy
    ports: ["127.0.0.1:{port}:80"]
    volumes: ["data:/data:ro"]
    networks: [front, back]
    stop_grace_period: 0s
  store:
    image: {IMAGE}
    environment:
      WORDS: kept words
    command: sh -c "echo began; echo $$WORDS > /data/page; touch /tmp/ready; exec sleep 1000"
    healthcheck:
      test: ["CMD", "test", "-e", "/tmp/ready"]
      interval: 1s
      retries: 30
    volumes: ["data:/data"]
    networks:
      back:
        aliases: [keeper]
    stop_grace_period: 0s
  worker:
    image: {IMAGE}
    command: sleep 1000
    networks: [back]
    stop_grace_period: 0s
networks:
  front: {{}}
  back:
    internal: true
volumes:
  data: {{}}
"#
    )
}

pub fn compose_brings_up_scales_and_takes_down_a_project(ctx: &Ctx) -> Result<()> {
    let docker = Docker::of(&ctx.instance)?;
    if command::run(Command::new("docker-compose").arg("version"), None, LIMIT).is_err() {
        return Err(skip("docker-compose is not on the PATH"));
    }
    let (folder, port) = (ctx.instance.dir().join(format!("{}-compose", ctx.ns)), free_port()?.port());
    std::fs::create_dir(&folder)?;
    std::fs::write(folder.join("compose.yaml"), file(port))?;
    let project = ctx.ns.replace('-', "");
    let compose = |args: &[&str]| -> Result<Output> {
        let mut command = docker.on(Command::new("docker-compose"));
        command.current_dir(&folder).args(["--project-name", &project]).args(args);
        command::run(&mut command, None, LIMIT * 2)
    };
    compose(&["up", "-d"])?.ok()?;
    eventually(LIMIT, "the page is served", || {
        let page = e2e::http::get_ok(([127, 0, 0, 1], port).into(), "localhost", "/")?;
        ensure!(page.trim() == "kept words", "{page}");
        Ok(())
    })?;
    let listed = compose(&["ps"])?.ok()?;
    ensure!(listed.lines().filter(|l| l.contains("Up")).count() == 3, "{listed}");
    ensure!(compose(&["logs", "store"])?.ok()?.contains("began"));
    ensure!(compose(&["exec", "-T", "worker", "nslookup", "keeper"])?.ok()?.contains("Address"));
    ensure!(compose(&["exec", "-T", "web", "sh", "-c", "cat /data/page; exit 7"])?.code() == 7);
    // Nothing is to be done the second time.
    let again = compose(&["up", "-d"])?;
    ensure!(again.code() == 0 && !again.stderr.contains("Recreating"), "{again:?}");
    compose(&["up", "-d", "--scale", "worker=3"])?.ok()?;
    eventually(LIMIT, "the name means all three", || {
        let found = compose(&["exec", "-T", "store", "nslookup", "worker"])?.ok()?;
        // The first address is that of the server.
        let count = found.lines().filter(|l| l.starts_with("Address") && !l.contains("127.0.0.11")).count();
        ensure!(count == 3, "{found}");
        Ok(())
    })?;
    compose(&["up", "-d", "--scale", "worker=1", "--force-recreate", "worker"])?.ok()?;
    ensure!(docker.ok(&["ps", "-q", "--filter", &format!("name={project}")])?.lines().count() == 3);
    compose(&["down", "-v"])?.ok()?;
    for kind in [&["ps", "-aq"][..], &["network", "ls", "-q"], &["volume", "ls", "-q"]] {
        let left = docker.ok(&[kind, &["--filter", &format!("label=com.docker.compose.project={project}")]].concat())?;
        ensure!(left.is_empty(), "{kind:?}: {left}");
    }
    Ok(())
}

pub fn the_python_client_finds_what_it_expects(ctx: &Ctx) -> Result<()> {
    let docker = Docker::of(&ctx.instance)?;
    let Some(clients) = std::env::var_os("WINDLASS_CLIENTS") else {
        return Err(skip("WINDLASS_CLIENTS names no folder with the language clients; ./test makes one"));
    };
    let mut command = docker.on(Command::new(Path::new(&clients).join("python/bin/python")));
    let program = Path::new(env!("CARGO_MANIFEST_DIR")).join("clients/python/docker_containers.py");
    command.arg("-B").arg(program).arg(&ctx.ns).arg(IMAGE);
    let said = command::run(&mut command, None, CHECKS)?.ok()?;
    ensure!(said.lines().filter(|l| l.starts_with("ok ")).count() == 6, "{said}");
    Ok(())
}
