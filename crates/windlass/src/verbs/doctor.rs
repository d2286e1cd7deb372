//! `windlass doctor`: what this host offers, and what stands in the way.

use std::path::Path;
use std::process::ExitCode;

use base::instance::Instance;

use crate::exit::UNFIT;
use crate::{preflight, printer};

/// Prints one line per finding; the exit code says whether an instance can run.
pub fn run(instance: &Instance) -> anyhow::Result<ExitCode> {
    let mut rows = Vec::new();
    let mut unfit = false;
    let mut check = |what: &str, outcome: anyhow::Result<String>| match outcome {
        Ok(found) => rows.push(vec!["ok".to_owned(), what.to_owned(), found]),
        Err(e) => {
            unfit = true;
            rows.push(vec!["FAIL".to_owned(), what.to_owned(), format!("{e:#}").replace('\n', ";")]);
        }
    };
    check("root", preflight::root().map(|()| "yes".into()));
    check("kernel", preflight::kernel().map(|()| read("/proc/sys/kernel/osrelease")));
    check("nftables", preflight::nft().map(|()| found("nft")));
    check("overlayfs", filesystem("overlay"));
    check("cgroups", cgroups());
    check("user namespaces", namespaces("user"));
    check("network namespaces", namespaces("net"));
    if preflight::root().is_ok() {
        check(
            "data directory",
            preflight::data_dir(instance.data_dir()).map(|()| instance.data_dir().display().to_string()),
        );
    }
    for (what, text) in [("seccomp", seccomp()), ("oom_score_adj", oom_score()), ("NFS volumes", nfs())] {
        rows.push(vec!["info".into(), what.into(), text]);
    }
    printer::table(&["", "CHECK", "FOUND"], &rows);
    Ok(if unfit { ExitCode::from(UNFIT) } else { ExitCode::SUCCESS })
}

fn read(path: &str) -> String {
    std::fs::read_to_string(path).unwrap_or_default().trim().to_owned()
}

fn found(program: &str) -> String {
    preflight::program(program).map(|p| p.display().to_string()).unwrap_or_default()
}

/// Whether the kernel has a file system, or a folder of modules for it.
fn has_filesystem(name: &str, modules: &str) -> bool {
    let known = read("/proc/filesystems").lines().any(|l| l.split_whitespace().last() == Some(name));
    // A module that is not loaded yet is loaded by the first mount.
    let release = Path::new("/lib/modules").join(read("/proc/sys/kernel/osrelease"));
    known || release.join("kernel/fs").join(modules).exists()
}

/// Whether pods can have volumes of an NFS server.
fn nfs() -> String {
    let helper = ["/sbin/mount.nfs", "/usr/sbin/mount.nfs"].iter().any(|h| Path::new(h).exists());
    match (has_filesystem("nfs4", "nfs"), helper) {
        (true, true) => "available".into(),
        (true, false) => "available: version 4 only, others need mount.nfs (apt-get install nfs-common)".into(),
        (false, _) => "none: the kernel has no NFS client".into(),
    }
}

fn filesystem(name: &str) -> anyhow::Result<String> {
    if has_filesystem(name, "overlayfs") {
        return Ok("available".into());
    }
    anyhow::bail!("the kernel has no {name}")
}

fn cgroups() -> anyhow::Result<String> {
    let mounts = read("/proc/self/mountinfo");
    let kind = |k: &str| mounts.lines().any(|l| l.contains(&format!(" - {k} ")));
    match (kind("cgroup"), kind("cgroup2")) {
        (false, true) => Ok("v2".into()),
        (true, true) => Ok("hybrid (v1 controllers)".into()),
        (true, false) => Ok("v1".into()),
        (false, false) => anyhow::bail!("no cgroup file system is mounted; mount one below /sys/fs/cgroup"),
    }
}

fn namespaces(kind: &str) -> anyhow::Result<String> {
    if Path::new("/proc/self/ns").join(kind).exists() {
        return Ok("available".into());
    }
    anyhow::bail!("the kernel has none")
}

fn seccomp() -> String {
    let actions = read("/proc/sys/kernel/seccomp/actions_avail");
    if actions.is_empty() { "none: containers run without a system call filter".into() } else { "available".into() }
}

fn oom_score() -> String {
    // capabilities(7): CAP_SYS_RESOURCE is bit 24.
    let status = read("/proc/self/status");
    let effective = status.lines().find_map(|l| l.strip_prefix("CapEff:")).map(str::trim).unwrap_or("0");
    let bits = u64::from_str_radix(effective, 16).unwrap_or(0);
    if bits & (1 << 24) != 0 {
        "can be lowered".into()
    } else {
        "cannot be lowered (no CAP_SYS_RESOURCE): critical pods are not protected from the OOM killer".into()
    }
}
