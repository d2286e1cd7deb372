//! Each language has a program beside the tests (`clients/LANGUAGE`) that prints `ok NAME` for each of its checks; `./test`
//! installs the libraries into a folder of the build's.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Result, ensure};
use e2e::{Ctx, IMAGE, command, skip};

/// What the checks of one language may take together.
const LIMIT: Duration = Duration::from_secs(240);

/// Where `./test` has put the libraries.
fn installed() -> Result<PathBuf> {
    match std::env::var_os("WINDLASS_CLIENTS") {
        Some(dir) => Ok(dir.into()),
        None => Err(skip("WINDLASS_CLIENTS names no folder with the language clients; ./test makes one")),
    }
}

fn program(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("clients").join(name)
}

/// Runs a program and counts its checks.
fn run(ctx: &Ctx, command: Command, checks: usize) -> Result<()> {
    run_at(ctx, command, &ctx.instance.names().data_dir().join("admin.kubeconfig"), checks)
}

fn run_at(ctx: &Ctx, mut command: Command, place: &Path, checks: usize) -> Result<()> {
    command.arg(place).arg(&ctx.ns).arg(IMAGE);
    counted(command, checks)
}

fn counted(mut command: Command, checks: usize) -> Result<()> {
    let said = command::run(&mut command, None, LIMIT)?.ok()?;
    let done = said.lines().filter(|l| l.starts_with("ok ")).count();
    ensure!(done == checks, "{done} of {checks} checks were made:\n{said}");
    Ok(())
}

pub fn the_python_client_finds_what_it_expects(ctx: &Ctx) -> Result<()> {
    let mut command = Command::new(installed()?.join("python/bin/python"));
    command.arg("-B").arg(program("python/kubernetes_api.py"));
    run(ctx, command, 8)
}

pub fn dockers_python_library_finds_what_it_expects(ctx: &Ctx) -> Result<()> {
    let mut command = Command::new(installed()?.join("python/bin/python"));
    command.arg("-B").arg(program("python/docker_images.py"));
    run_at(ctx, command, &ctx.instance.names().run_dir().join("docker.sock"), 5)
}

pub fn testcontainers_finds_what_it_expects(ctx: &Ctx) -> Result<()> {
    let mut command = Command::new(installed()?.join("python/bin/python"));
    let socket = ctx.instance.names().run_dir().join("docker.sock");
    command.env("DOCKER_HOST", format!("unix://{}", socket.display())).env("TESTCONTAINERS_RYUK_DISABLED", "true");
    command.arg("-B").arg(program("python/docker_testcontainers.py")).arg(&ctx.ns).arg(IMAGE);
    counted(command, 5)
}

pub fn dockerode_finds_what_it_expects(ctx: &Ctx) -> Result<()> {
    let home = installed()?.join("javascript");
    std::fs::copy(program("javascript/docker.mjs"), home.join("docker.mjs"))?;
    let mut command = Command::new("node");
    command.arg("docker.mjs").current_dir(home);
    run_at(ctx, command, &ctx.instance.names().run_dir().join("docker.sock"), 7)
}

pub fn the_javascript_client_finds_what_it_expects(ctx: &Ctx) -> Result<()> {
    // Modules are looked for beside the program.
    let home = installed()?.join("javascript");
    std::fs::copy(program("javascript/check.mjs"), home.join("check.mjs"))?;
    let mut command = Command::new("node");
    command.arg("check.mjs").current_dir(home);
    run(ctx, command, 5)
}
