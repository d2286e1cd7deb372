//! The stock `docker build` with the plugin buildx, which speaks BuildKit's API.

use std::path::PathBuf;
use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use e2e::{Ctx, IDLE, IMAGE, command, eventually, patient};

use crate::builds::{STAGES, context, runs};
use crate::{Docker, named};

const LIMIT: Duration = Duration::from_secs(240);

/// Where the docker CLI looks for plugins, beside the PATH.
const FOLDERS: [&str; 4] = [
    "/usr/libexec/docker/cli-plugins",
    "/usr/lib/docker/cli-plugins",
    "/usr/local/lib/docker/cli-plugins",
    "/usr/local/libexec/docker/cli-plugins",
];

/// Docker with the plugin.
///
/// # Errors
/// The test is skipped where there is none.
fn docker(ctx: &Ctx, name: &str) -> Result<Docker> {
    let docker = Docker::with_config(&ctx.instance, &named(ctx, name))?;
    let path = std::env::var_os("PATH").unwrap_or_default();
    let home = std::env::var_os("HOME").map(|home| PathBuf::from(home).join(".docker/cli-plugins"));
    let folders = std::env::split_paths(&path).chain(FOLDERS.map(PathBuf::from)).chain(home);
    let plugin = folders.map(|dir| dir.join("docker-buildx")).find(|file| file.is_file());
    let plugin = plugin.ok_or_else(|| e2e::skip("the buildx plugin of the docker CLI is not installed"))?;
    let plugins = docker.config.join("cli-plugins");
    std::fs::create_dir_all(&plugins)?;
    std::os::unix::fs::symlink(plugin, plugins.join("docker-buildx"))?;
    Ok(docker)
}

fn build(docker: &Docker, args: &[&str], stdin: Option<&[u8]>) -> Result<command::Output> {
    let base = format!("BASE={IMAGE}");
    let mut command = docker.command(&[&["build", "--build-arg", &base], args].concat());
    command.env("BUILDKIT_PROGRESS", if args.contains(&"-q") { "quiet" } else { "plain" });
    command.env_remove("DOCKER_BUILDKIT").env_remove("BUILDX_BUILDER");
    command::run(&mut command, stdin, patient(LIMIT))
}

pub fn buildx_builds_and_transfers_what_changed(ctx: &Ctx) -> Result<()> {
    let docker = docker(ctx, "buildx-builds")?;
    // None of its steps is one of another test.
    let file = STAGES.replace("/src", "/source");
    let files = [("Dockerfile", file.as_str()), ("in.txt", "x"), ("left.log", "x"), (".dockerignore", "*.log\n")];
    let dir = context(ctx, "buildx", &files)?;
    let path = dir.display().to_string();
    let (one, two) = (format!("{}/buildx:1", ctx.ns), format!("{}/buildx", ctx.ns));
    let (id, meta) = (dir.with_extension("id"), dir.with_extension("json"));
    let (id_path, meta_path) = (id.display().to_string(), meta.display().to_string());
    let mut args = vec!["-t", &one, "-t", &two, "--build-arg", "WHO=me", "--label", "l=v"];
    args.extend(["--iidfile", &id_path, "--metadata-file", &meta_path, &path]);
    let said = build(&docker, &args, None)?;
    ensure!(said.code() == 0, "{said:?}");
    ensure!(said.stderr.contains("[make 4/4] RUN echo") && said.stderr.contains(" in 3 files"), "{said:?}");
    let seen = docker.ok(&["inspect", "--type", "image", "-f", "{{.Id}} {{.Config.Labels.l}}", &two])?;
    ensure!(seen == format!("{} v", std::fs::read_to_string(&id)?), "{seen}");
    let meta: serde_json::Value = serde_json::from_slice(&std::fs::read(&meta)?)?;
    ensure!(seen.starts_with(meta["containerimage.config.digest"].as_str().context("a digest")?), "{meta}");
    let printed = docker.ok(&["run", "--rm", &one])?;
    ensure!(printed.starts_with("made for me\n") && printed.ends_with("built"), "{printed}");
    ensure!(printed.contains("in.txt") && !printed.contains("left.log"), "{printed}");

    // Another test removes what is cached; then it is there the next time.
    eventually(patient(LIMIT), "all steps are cached", || {
        let again = build(&docker, &args, None)?;
        ensure!(again.stderr.contains(" in 0 files") && again.stderr.matches(" CACHED\n").count() == 6, "{again:?}");
        Ok(())
    })?;
    std::fs::write(dir.join("in.txt"), "changed")?;
    let changed = build(&docker, &args, None)?;
    ensure!(changed.stderr.contains("transferring context: 7B in 1 files"), "{changed:?}");
    let quiet = build(&docker, &["-q", "--no-cache", "--target", "make", &path], None)?.ok()?;
    ensure!(quiet.trim().len() == 71 && quiet.starts_with("sha256:"), "{quiet}");
    let used = docker.ok(&["buildx", "du"])?;
    ensure!(used.contains("Total:"), "{used}");
    let workers = docker.ok(&["buildx", "inspect"])?;
    ensure!(workers.contains("docker") && workers.contains("running"), "{workers}");
    docker.ok(&["rmi", &one, &two])?;
    Ok(())
}

pub fn buildx_brings_secrets_contexts_and_standard_input(ctx: &Ctx) -> Result<()> {
    let docker = docker(ctx, "buildx-secrets")?;
    let file = "ARG BASE\nFROM $BASE AS run\nCOPY --from=more file /more\n\
                RUN --mount=type=secret,id=token cat /run/secrets/token > /out; cat /more >> /out; echo > /run/x\n\
                FROM scratch\nCOPY --from=run /out /folder/out\n";
    let dir = context(ctx, "buildx-secret", &[("Dockerfile", file), ("token", "hidden")])?;
    let more = context(ctx, "buildx-more", &[("file", "of another")])?;
    let out = dir.with_extension("out");
    let secret = format!("id=token,src={}/token", dir.display());
    let (more, to) = (format!("more={}", more.display()), format!("type=local,dest={}", out.display()));
    let path = dir.display().to_string();
    let args = ["--secret", &secret, "--build-context", &more, "-o", &to, &path];
    let said = build(&docker, &args, None)?;
    ensure!(said.code() == 0, "{said:?}");
    ensure!(std::fs::read_to_string(out.join("folder/out"))? == "hiddenof another");
    let packed = dir.with_extension("tar");
    let to = format!("type=tar,dest={}", packed.display());
    let said = build(&docker, &["--secret", &secret, "--build-context", args[3], "-o", &to, &path], None)?;
    ensure!(said.code() == 0, "{said:?}");
    let mut archive = tar::Archive::new(std::fs::File::open(&packed)?);
    let names = archive.entries()?.map(|e| Ok(e?.path()?.display().to_string())).collect::<Result<Vec<_>>>()?;
    ensure!(names.iter().any(|n| n.ends_with("folder/out")), "{names:?}");

    // A Dockerfile on standard input, with a context and without.
    let file = format!("FROM {IMAGE}\nCOPY token /\nRUN cat /token\n");
    let said = build(&docker, &["--no-cache", "-f", "-", &path], Some(file.as_bytes()))?;
    ensure!(said.code() == 0 && said.stderr.contains(" hidden"), "{said:?}");
    let alone = format!("FROM {IMAGE}\nRUN echo alone\n");
    let said = build(&docker, &["--no-cache", "-"], Some(alone.as_bytes()))?;
    ensure!(said.code() == 0 && said.stderr.contains(" alone"), "{said:?}");
    Ok(())
}

pub fn buildx_is_told_what_is_wrong_and_where(ctx: &Ctx) -> Result<()> {
    let docker = docker(ctx, "buildx-wrong")?;
    let file = "ARG BASE\nFROM $BASE\nRUN echo said; exit 3\n";
    let dir = context(ctx, "buildx-wrong", &[("Dockerfile", file)])?;
    let path = dir.display().to_string();
    let failed = build(&docker, &["--no-cache", &path], None)?;
    ensure!(failed.code() != 0 && failed.stderr.contains(" said\n"), "{failed:?}");
    let place = "Dockerfile:3\n--------------------\n";
    ensure!(failed.stderr.contains(place) && failed.stderr.contains("3 | >>> RUN echo said; exit 3"), "{failed:?}");
    ensure!(failed.stderr.contains("did not complete successfully: exit code: 3"), "{failed:?}");
    std::fs::write(dir.join("Dockerfile"), "FROM x\n\nRUNN true\n")?;
    let unknown = build(&docker, &[&path], None)?.failed()?;
    ensure!(unknown.contains("unknown instruction: RUNN") && unknown.contains("3 | >>> RUNN true"), "{unknown}");
    std::fs::remove_file(dir.join("Dockerfile"))?;
    let missing = build(&docker, &[&path], None)?.failed()?;
    ensure!(missing.contains("failed to read dockerfile: open Dockerfile: no such file or directory"), "{missing}");
    std::fs::write(dir.join("Dockerfile"), "FROM scratch\nCOPY . /\n")?;
    for (flags, word) in [
        (&["--shm-size", "64m"][..], "shm-size of a build"),
        (&["--ulimit", "nofile=100"], "ulimit of a build"),
        (&["--platform", "linux/s390x"], "platform"),
        (&["--cache-to", "type=inline"], "--cache-to"),
        (&["--no-cache-filter", "x"], "no-cache of some stages"),
        (&["--call", "outline"], "the request frontend.outline"),
        (&["--build-arg", "BUILDKIT_SYNTAX=x"], "the frontend gateway.v0"),
    ] {
        let refused = build(&docker, &[flags, &[&path]].concat(), None)?.failed()?;
        ensure!(refused.contains(word), "{flags:?}: {refused}");
    }
    Ok(())
}

pub fn a_build_of_buildx_ends_with_its_client(ctx: &Ctx) -> Result<()> {
    let docker = docker(ctx, "buildx-ends")?;
    let word = format!("idle-buildx-{}", ctx.ns);
    let dir = context(ctx, "buildx-forever", &[("Dockerfile", &format!("FROM {IMAGE}\nRUN : {word}; {IDLE}\n"))])?;
    let mut command = docker.command(&["build", "--no-cache", &dir.display().to_string()]);
    command.env_remove("DOCKER_BUILDKIT").env_remove("BUILDX_BUILDER");
    let mut child = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).spawn()?;
    let begun = eventually(patient(LIMIT), "the command runs", || {
        ensure!(runs(&word), "nothing is built");
        Ok(())
    });
    // The plugin is a child of the CLI, which passes on what it gets.
    e2e::signal_pid(child.id(), nix::sys::signal::Signal::SIGINT)?;
    begun?;
    let ended = eventually(patient(LIMIT), "it ends", || {
        ensure!(!runs(&word), "it goes on");
        Ok(())
    });
    child.wait()?;
    ended
}
