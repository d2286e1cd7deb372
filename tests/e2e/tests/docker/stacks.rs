//! `docker stack`: the files that people have.

use std::time::Duration;

use anyhow::{Result, ensure};
use e2e::command;
use e2e::{Ctx, IMAGE, eventually, free_port};

use crate::Docker;

const LIMIT: Duration = Duration::from_secs(90);

fn file(stack: &str, port: u16, word: &str) -> String {
    format!(
        r#"
version: "3.9"
services:
  web:
    image: {IMAGE}
    command:
      - sh
      - -c
      - |
        mkdir -p /www
        cat /run/secrets/word /site.conf > /www/index.html
        exec httpd -f -p 80 -h /www
    ports: ["{port}:80"]
    environment:
      WORD: {word}
    secrets: [word]
    configs: [site.conf]
    stop_grace_period: 1s
    healthcheck:
      test: ["CMD", "test", "-e", "/www/index.html"]
      interval: 1s
      retries: 30
    deploy:
      replicas: 2
      update_config: {{ parallelism: 1, order: start-first, failure_action: rollback }}
      restart_policy: {{ condition: any }}
      placement:
        constraints: ["node.role == manager"]
      resources:
        limits: {{ cpus: "0.5", memory: 64M }}
  store:
    image: {IMAGE}
    command: sh -c "echo stored >> /data/times; exec sleep 1000"
    stop_grace_period: 1s
    volumes: ["data:/data"]
  asks:
    image: {IMAGE}
    command: sh -c "until wget -qO- http://web && echo && wget -qO- http://tasks.{stack}_web && echo; do sleep 1; done; exec sleep 1000"
    stop_grace_period: 1s
secrets:
  word:
    file: ./word.txt
configs:
  site.conf:
    file: ./site.conf
volumes:
  data: {{}}
"#
    )
}

// allow-long: one life, each step on what the one before left
pub fn a_stack_is_deployed_changed_and_removed(ctx: &Ctx) -> Result<()> {
    let docker = Docker::of(&ctx.instance)?;
    let folder = ctx.instance.dir().join(format!("{}-stack", ctx.ns));
    let (stack, port) = (ctx.ns.clone(), free_port()?.port());
    std::fs::create_dir(&folder)?;
    std::fs::write(folder.join("word.txt"), "kept")?;
    std::fs::write(folder.join("site.conf"), " words")?;
    let deploy = |word: &str| -> Result<String> {
        std::fs::write(folder.join("stack.yaml"), file(&stack, port, word))?;
        let mut command = docker.command(&[
            "stack",
            "deploy",
            "--detach=true",
            "--resolve-image",
            "never",
            "-c",
            "stack.yaml",
            &stack,
        ]);
        command::run(command.current_dir(&folder), None, LIMIT)?.ok()
    };
    deploy("first")?;
    let all_run = || {
        eventually(LIMIT, "all tasks run", || {
            let said = docker.ok(&["stack", "services", &stack, "--format", "{{.Name}} {{.Replicas}}"])?;
            for row in ["web 2/2", "store 1/1", "asks 1/1"] {
                ensure!(said.contains(&format!("{stack}_{row}")), "{said}");
            }
            Ok(())
        })
    };
    all_run()?;
    eventually(LIMIT, "the page is served", || {
        let page = e2e::http::get_ok(([127, 0, 0, 1], port).into(), "localhost", "/")?;
        ensure!(page.trim() == "kept words", "{page}");
        Ok(())
    })?;
    // By its short name and that of its tasks, from another service of the stack.
    eventually(LIMIT, "another service reads the page", || {
        let said = docker.ok(&["service", "logs", "--raw", &format!("{stack}_asks")])?;
        ensure!(said.matches("kept words").count() == 2, "{said}");
        Ok(())
    })?;
    ensure!(docker.ok(&["stack", "ls", "--format", "{{.Name}} {{.Services}}"])?.contains(&format!("{stack} 3")));
    let tasks = docker.ok(&["stack", "ps", &stack, "--format", "{{.Name}}"])?;
    ensure!(tasks.contains(&format!("{stack}_web.2")) && tasks.contains(&format!("{stack}_store.1")), "{tasks}");
    // The same again changes nothing; another word changes one service.
    let version =
        |service: &str| docker.ok(&["service", "inspect", "-f", "{{.UpdateStatus}}", &format!("{stack}_{service}")]);
    deploy("first")?;
    ensure!(version("web")? == "<nil>" && version("store")? == "<nil>");
    deploy("second")?;
    eventually(LIMIT, "the update is complete", || {
        let state = docker.ok(&["service", "inspect", "-f", "{{.UpdateStatus.State}}", &format!("{stack}_web")])?;
        ensure!(state == "completed", "{state}");
        Ok(())
    })?;
    ensure!(version("store")? == "<nil>");
    all_run()?;
    docker.ok(&["stack", "rm", "--detach=false", &stack])?;
    let label = format!("label=com.docker.stack.namespace={stack}");
    for kind in ["service", "secret", "config", "network"] {
        let left = docker.ok(&[kind, "ls", "-q", "--filter", &label])?;
        ensure!(left.is_empty(), "{kind}: {left}");
    }
    let kubectl = ctx.instance.kubectl().in_namespace("docker-swarm");
    let selector = format!("app.kubernetes.io/part-of={stack}");
    eventually(LIMIT, "nothing is left", || {
        let left = kubectl.ok(&["get", "all,endpointslices", "-l", &selector, "-o", "name"])?;
        ensure!(left.trim().is_empty(), "{left}");
        Ok(())
    })?;
    // Volumes are data, and stay, as with Docker.
    kubectl.ok(&["delete", "pvc", &format!("{stack}-data")])?;
    Ok(())
}
