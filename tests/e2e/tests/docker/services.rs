//! `docker service`, `secret`, `config`, `node` and `swarm`.

use std::path::Path;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use e2e::command::{self, Output};
use e2e::{Ctx, IMAGE, eventually, free_port, skip};

use crate::{Docker, named};

const LIMIT: Duration = Duration::from_secs(60);
/// What the checks of the Python client may take together.
const CHECKS: Duration = Duration::from_secs(240);
/// The namespace of everything of the swarm.
const SPACE: &str = "docker-swarm";

/// Serves the file that it is given, and says so.
const SERVE: &str = "echo serves $WORD; mkdir -p /www; cat /run/secrets/key /etc/word.conf > /www/index.html; exec httpd -f -p 80 -h /www";

/// Docker with words for services.
struct Swarm<'a> {
    ctx: &'a Ctx,
    docker: Docker,
}

impl Swarm<'_> {
    fn of(ctx: &Ctx) -> Result<Swarm<'_>> {
        Ok(Swarm { ctx, docker: Docker::of(&ctx.instance)? })
    }

    fn ok(&self, args: &[&str]) -> Result<String> {
        self.docker.ok(args)
    }

    /// A secret or config of these words.
    fn keep(&self, kind: &str, name: &str, words: &str) -> Result<()> {
        let mut command = self.docker.command(&[kind, "create", "--label", "of=test", name, "-"]);
        command::run(&mut command, Some(words.as_bytes()), LIMIT)?.ok().map(drop)
    }

    fn inspect(&self, service: &str, template: &str) -> Result<String> {
        self.ok(&["service", "inspect", "-f", template, service])
    }

    /// As many tasks as there should be run.
    fn full(&self, service: &str, replicas: &str) -> Result<()> {
        eventually(LIMIT, "all tasks run", || {
            let filter = format!("name={service}");
            let said = self.ok(&["service", "ls", "--filter", &filter, "--format", "{{.Replicas}}"])?;
            ensure!(said == replicas, "{said}");
            Ok(())
        })
    }

    fn page(&self, port: u16, words: &str) -> Result<()> {
        eventually(LIMIT, "the page is served", || {
            let page = e2e::http::get_ok(([127, 0, 0, 1], port).into(), "localhost", "/")?;
            ensure!(page.trim() == words, "{page}");
            Ok(())
        })
    }

    /// Nothing of a service is left in the cluster.
    fn nothing_left(&self, service: &str) -> Result<()> {
        let selector = format!("app.kubernetes.io/name={}", service.replace('_', "-"));
        let kubectl = self.ctx.instance.kubectl().in_namespace(SPACE);
        eventually(LIMIT, "nothing is left", || {
            let left = kubectl.ok(&["get", "all,secrets,endpointslices", "-l", &selector, "-o", "name"])?;
            ensure!(left.trim().is_empty(), "{left}");
            Ok(())
        })
    }
}

// allow-long: one life, each step on what the one before left
pub fn a_service_is_made_scaled_changed_gone_back_to_and_removed(ctx: &Ctx) -> Result<()> {
    let swarm = Swarm::of(ctx)?;
    let (web, key, conf) = (named(ctx, "web"), named(ctx, "key"), named(ctx, "conf"));
    let port = free_port()?.port();
    swarm.keep("secret", &key, "kept")?;
    swarm.keep("config", &conf, " words")?;
    let published = format!("{port}:80");
    let (secret, config) =
        (format!("source={key},target=key,mode=0400"), format!("source={conf},target=/etc/word.conf"));
    let made = swarm.ok(&[
        "service",
        "create",
        "--no-resolve-image",
        "--name",
        &web,
        "--replicas",
        "2",
        "--publish",
        &published,
        "--secret",
        &secret,
        "--config",
        &config,
        "--env",
        "WORD=first",
        "--label",
        "of=test",
        "--stop-grace-period",
        "1s",
        "--update-monitor",
        "1s",
        IMAGE,
        "sh",
        "-c",
        SERVE,
    ])?;
    ensure!(made.contains("converged"), "{made}");
    swarm.full(&web, "2/2")?;
    swarm.page(port, "kept words")?;
    let tasks = swarm.ok(&["service", "ps", &web, "--format", "{{.Name}} {{.DesiredState}} {{.CurrentState}}"])?;
    for n in 1..3 {
        ensure!(tasks.contains(&format!("{web}.{n} Running Running")), "{tasks}");
    }
    eventually(LIMIT, "both tasks have said so", || {
        let said = swarm.docker.run(&["service", "logs", &web])?;
        let lines = said.stdout.lines().filter(|l| l.starts_with(&web) && l.ends_with("| serves first")).count();
        ensure!(lines == 2, "{said:?}");
        Ok(())
    })?;
    swarm.ok(&["service", "scale", "--detach", &format!("{web}=3")])?;
    swarm.full(&web, "3/3")?;
    ensure!(swarm.inspect(&web, "{{.UpdateStatus}}")? == "<nil>", "a scale is no update");
    swarm.ok(&["service", "update", "--no-resolve-image", "--env-add", "WORD=second", &web])?;
    ensure!(swarm.inspect(&web, "{{.UpdateStatus.State}}")? == "completed");
    eventually(LIMIT, "a new task has said so", || {
        let said = swarm.ok(&["service", "logs", "--raw", &web])?;
        ensure!(said.contains("serves second"), "{said}");
        Ok(())
    })?;
    // A secret in use stays; another takes its place.
    let refused = swarm.docker.fails(&["secret", "rm", &key])?;
    ensure!(refused.contains(&format!("secret '{key}' is in use by the following service: {web}")), "{refused}");
    let next = named(ctx, "next");
    swarm.keep("secret", &next, "new")?;
    let added = format!("source={next},target=key");
    let rotate =
        ["service", "update", "--no-resolve-image", "--detach", "--secret-rm", &key, "--secret-add", &added, &web];
    swarm.ok(&rotate)?;
    swarm.page(port, "new words")?;
    swarm.ok(&["service", "rollback", &web])?;
    swarm.page(port, "kept words")?;
    let state = swarm.inspect(&web, "{{.UpdateStatus.State}}")?;
    ensure!(state == "rollback_completed", "{state}");
    ensure!(swarm.ok(&["service", "rm", &web])? == web);
    swarm.nothing_left(&web)?;
    swarm.ok(&["secret", "rm", &key, &next])?;
    swarm.ok(&["config", "rm", &conf])?;
    ensure!(e2e::http::get(([127, 0, 0, 1], port).into(), "localhost", "/").is_err(), "the port is free");
    Ok(())
}

pub fn an_update_that_fails_waits_or_goes_back(ctx: &Ctx) -> Result<()> {
    let swarm = Swarm::of(ctx)?;
    let name = named(ctx, "app");
    swarm.ok(&[
        "service",
        "create",
        "--no-resolve-image",
        "--detach",
        "--name",
        &name,
        "--stop-grace-period",
        "1s",
        "--replicas",
        "2",
        IMAGE,
        "sh",
        "-c",
        "sleep 1000",
    ])?;
    swarm.full(&name, "2/2")?;
    let broken = ["service", "update", "--no-resolve-image", "--detach", "--args", "sh -c 'exit 3'"];
    swarm.ok(&[&broken[..], &[&name]].concat())?;
    eventually(LIMIT, "the update waits", || {
        let state = swarm.inspect(&name, "{{.UpdateStatus.State}} {{.UpdateStatus.Message}}")?;
        ensure!(state.starts_with("paused update paused due to failure or early termination of task"), "{state}");
        Ok(())
    })?;
    eventually(LIMIT, "the failed task is told", || {
        let tasks = swarm.ok(&["service", "ps", "--no-trunc", &name, "--format", "{{.CurrentState}} {{.Error}}"])?;
        ensure!(tasks.contains("task: non-zero exit (3)") && tasks.contains("Running"), "{tasks}");
        Ok(())
    })?;
    swarm.ok(&["service", "rollback", "--detach", &name])?;
    swarm.full(&name, "2/2")?;
    swarm.ok(&[&broken[..], &["--update-failure-action", "rollback", &name]].concat())?;
    eventually(LIMIT, "the update is taken back", || {
        let state = swarm.inspect(&name, "{{.UpdateStatus.State}} {{.Spec.TaskTemplate.ContainerSpec.Args}}")?;
        ensure!(state == "rollback_completed [sh -c sleep 1000]", "{state}");
        Ok(())
    })?;
    swarm.full(&name, "2/2")?;
    swarm.ok(&["service", "rm", &name])?;
    swarm.nothing_left(&name)
}

pub fn other_modes_and_the_nodes(ctx: &Ctx) -> Result<()> {
    let swarm = Swarm::of(ctx)?;
    let info = swarm.ok(&[
        "info",
        "-f",
        "{{.Swarm.LocalNodeState}} {{.Swarm.ControlAvailable}} {{.Swarm.Nodes}} {{.Swarm.NodeID}}",
    ])?;
    let node = info.strip_prefix("active true 1 ").with_context(|| info.clone())?;
    let listed =
        swarm.ok(&["node", "ls", "--format", "{{.ID}} {{.Self}} {{.Status}} {{.Availability}} {{.ManagerStatus}}"])?;
    ensure!(listed == format!("{node} true Ready Active Leader"), "{listed}");
    ensure!(swarm.ok(&["node", "inspect", "self", "-f", "{{.Status.State}}"])? == "ready");
    for (args, words) in [
        (&["swarm", "init"][..], "This node is already part of a swarm"),
        (&["swarm", "join", "--token", "SWMTKN-1-a-b", "127.0.0.1:2377"], "This node is already part of a swarm"),
        (&["swarm", "leave"], "windlass down"),
    ] {
        let refused = swarm.docker.fails(args)?;
        ensure!(refused.contains(words), "{args:?}: {refused}");
    }
    let (agent, job) = (named(ctx, "agent"), named(ctx, "job"));
    let make = |name: &str, mode: &[&str], script: &str| {
        let start = ["service", "create", "--no-resolve-image", "--name", name, "--stop-grace-period", "1s"];
        swarm.ok(&[&start[..], mode, &[IMAGE, "sh", "-c", script]].concat())
    };
    let global = ["--mode", "global", "--constraint", "node.role==manager", "--update-monitor", "1s"];
    ensure!(make(&agent, &global, "sleep 1000")?.contains("converged"));
    swarm.full(&agent, "1/1")?;
    let own = swarm.ok(&["node", "ps", "self", "--format", "{{.Name}}"])?;
    ensure!(own.contains(&format!("{agent}.{node}")), "{own}");
    make(&job, &["--mode", "replicated-job", "--replicas", "2"], "echo done")?;
    eventually(LIMIT, "the job is done", || {
        let tasks = swarm.ok(&["service", "ps", &job, "--format", "{{.CurrentState}}"])?;
        ensure!(tasks.lines().filter(|l| l.starts_with("Complete")).count() == 2, "{tasks}");
        Ok(())
    })?;
    let nowhere = named(ctx, "nowhere");
    make(&nowhere, &["--detach", "--constraint", "node.labels.no-such==x"], "true")?;
    eventually(LIMIT, "it is told why a task waits", || {
        let tasks = swarm.ok(&["service", "ps", "--no-trunc", &nowhere, "--format", "{{.CurrentState}} {{.Error}}"])?;
        ensure!(tasks.starts_with("Pending") && tasks.contains("no suitable node"), "{tasks}");
        Ok(())
    })?;
    for name in [&agent, &job, &nowhere] {
        swarm.ok(&["service", "rm", name])?;
        swarm.nothing_left(name)?;
    }
    Ok(())
}

pub fn services_are_refused_in_dockers_words(ctx: &Ctx) -> Result<()> {
    let swarm = Swarm::of(ctx)?;
    let name = named(ctx, "once");
    let create = |flags: &[&str]| -> Result<Output> {
        let start = ["service", "create", "--no-resolve-image", "--detach", "--name", &name];
        swarm.docker.run(&[&start[..], flags, &[IMAGE, "sleep", "1000"]].concat())
    };
    for (flags, words) in [
        (&["--ulimit", "nofile=5:5"][..], "ContainerSpec.Ulimits"),
        (&["--init"], "ContainerSpec.Init"),
        (&["--limit-pids", "5"], "Limits.Pids"),
        (&["--user", "somebody"], "a user by name"),
        (&["--log-driver", "syslog"], "logging driver \"syslog\""),
        (&["--dns", "1.1.1.1"], "Nameservers"),
        (&["--restart-condition", "none"], "restart condition \"none\""),
        (&["--mode", "global-job"], "Mode.GlobalJob"),
        (&["--network", "bridge"], "cannot be used with services"),
    ] {
        let refused = create(flags)?;
        ensure!(refused.code() == 1 && refused.stderr.contains(words), "{flags:?}: {refused:?}");
    }
    create(&["--restart-condition", "on-failure", "--stop-grace-period", "1s"])?.ok()?;
    let twice = create(&[])?.stderr;
    ensure!(twice.contains("name conflicts with an existing object"), "{twice}");
    let gone = swarm.docker.fails(&["service", "inspect", "no-such-service"])?;
    ensure!(gone.contains("no such service"), "{gone}");
    swarm.ok(&["service", "rm", &name])?;
    swarm.nothing_left(&name)
}

pub fn the_python_client_knows_services(ctx: &Ctx) -> Result<()> {
    let docker = Docker::of(&ctx.instance)?;
    let Some(clients) = std::env::var_os("WINDLASS_CLIENTS") else {
        return Err(skip("WINDLASS_CLIENTS names no folder with the language clients; ./test makes one"));
    };
    let mut command = docker.on(Command::new(Path::new(&clients).join("python/bin/python")));
    let program = Path::new(env!("CARGO_MANIFEST_DIR")).join("clients/python/docker_swarm.py");
    command.arg("-B").arg(program).arg(&ctx.ns).arg(IMAGE);
    let said = command::run(&mut command, None, CHECKS)?.ok()?;
    ensure!(said.lines().filter(|l| l.starts_with("ok ")).count() == 4, "{said}");
    Ok(())
}
