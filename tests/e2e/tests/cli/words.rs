//! Texts and exit codes that need no instance.

use std::process::Command;

use anyhow::{Context, Result, ensure};
use e2e::command::{LIMIT, Output, run};
use e2e::windlass;

fn bare(args: &[&str]) -> Result<Output> {
    run(Command::new(windlass().context("no windlass binary")?).args(args), None, LIMIT)
}

pub fn help_names_every_verb() -> Result<()> {
    let text = bare(&["--help"])?.ok()?;
    let verbs = [
        "server",
        "agent",
        "image",
        "build",
        "apply",
        "up",
        "ps",
        "logs",
        "rollback",
        "rm",
        "convert",
        "status",
        "kubeconfig",
        "down",
        "doctor",
        "registry",
        "version",
    ];
    for verb in verbs {
        ensure!(text.lines().any(|l| l.trim_start().starts_with(verb)), "no {verb} in\n{text}");
    }
    for verb in ["server", "image", "apply", "registry", "down"] {
        ensure!(bare(&[verb, "--help"])?.ok()?.contains("Usage:"), "{verb} --help has no usage");
    }
    Ok(())
}

pub fn a_reader_that_goes_ends_it_quietly() -> Result<()> {
    let mut program = Command::new(windlass().context("no windlass binary")?);
    let (reader, writer) = std::io::pipe()?;
    drop(reader);
    let ended = program.arg("version").stdout(writer).output()?;
    ensure!(ended.status.code() == Some(141) && ended.stderr.is_empty(), "{ended:?}");
    Ok(())
}

pub fn version_names_the_kubernetes_api() -> Result<()> {
    for args in [["version"], ["--version"]] {
        let text = bare(&args)?.ok()?;
        ensure!(text.starts_with("windlass ") && text.contains("v1.36"), "{text}");
    }
    Ok(())
}

pub fn a_wrong_flag_is_exit_code_2() -> Result<()> {
    for args in
        [&["server", "--no-such-flag"][..], &["no-such-verb"], &["server", "--api-port", "many"], &["apply"], &[]]
    {
        let output = bare(args)?;
        ensure!(output.code() == 2, "{args:?} ended with {}", output.code());
        ensure!(!output.stderr.is_empty() && output.stdout.is_empty(), "{args:?} printed {output:?}");
    }
    Ok(())
}

pub fn a_verb_without_its_instance_is_exit_code_3_and_says_the_fix() -> Result<()> {
    for verb in [&["status"][..], &["kubeconfig"], &["apply", "-f", "/dev/null"]] {
        let output = bare(&[verb, &["--name", "e2e-nowhere", "--data-dir", "/nonexistent/e2e"]].concat())?;
        if verb[0] == "apply" {
            ensure!(output.code() != 0, "an empty manifest was applied");
            continue;
        }
        ensure!(output.code() == 3 && output.stderr.contains("fix:"), "{verb:?}: {output:?}");
    }
    let output = bare(&["status", "--name", "Not_A_Label"])?;
    ensure!(output.code() == 3 && output.stderr.contains("Not_A_Label"), "{output:?}");
    Ok(())
}

pub fn anyone_but_root_is_told_to_be_root() -> Result<()> {
    // A copy where that user can reach it: a build tree in root's home cannot be.
    let dir = tempfile::tempdir()?;
    let copy = dir.path().join("windlass");
    // By another process: a file that this one has open for writing is busy in every child that another test starts just now.
    let source = windlass().context("no windlass binary")?;
    run(Command::new("install").args(["-m", "0755"]).arg(source).arg(&copy), None, LIMIT)?.ok()?;
    std::fs::set_permissions(dir.path(), std::os::unix::fs::PermissionsExt::from_mode(0o755))?;
    for verb in [&["server"][..], &["down"], &["image", "list"]] {
        let mut command = Command::new("setpriv");
        command.args(["--reuid", "65534", "--regid", "65534", "--clear-groups"]).arg(&copy).args(verb);
        let output = run(command.args(["--name", "e2e-nobody"]), None, LIMIT)?;
        ensure!(output.code() == 3, "{verb:?} ended with {}: {}", output.code(), output.stderr);
        ensure!(output.stderr.contains("root") && output.stderr.contains("fix:"), "{verb:?}: {}", output.stderr);
    }
    Ok(())
}

pub fn doctor_finds_this_host_fit() -> Result<()> {
    let dir = tempfile::tempdir()?;
    let data = dir.path().join("data").display().to_string();
    let text = bare(&["doctor", "--name", "e2e-doctor", "--data-dir", &data])?.ok()?;
    for check in ["kernel", "nftables", "overlayfs", "cgroups"] {
        ensure!(text.lines().any(|l| l.starts_with("ok") && l.contains(check)), "no {check} in\n{text}");
    }
    Ok(())
}
