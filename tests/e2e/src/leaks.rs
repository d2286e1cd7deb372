//! What an instance may leave on a host after `windlass down --purge`: nothing.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Result, bail};
use base::instance::Instance;

use crate::command;

/// Everything of the instance that is still on the host, one line each.
pub fn found(instance: &Instance) -> Result<Vec<String>> {
    let mut found = Vec::new();
    found.extend(processes(instance));
    found.extend(mounts(instance)?);
    found.extend(cgroups(instance).iter().map(|p| format!("cgroup {}", p.display())));
    found.extend(links(instance)?);
    let tables = tool("nft", &["list", "tables"])?;
    let table = instance.nft_table();
    found.extend(tables.lines().filter(|l| l.split(' ').any(|w| w == table)).map(|l| format!("nft {l}")));
    for dir in [instance.run_dir(), instance.data_dir()] {
        if dir.exists() {
            found.push(format!("folder {}", dir.display()));
        }
    }
    Ok(found)
}

/// An error that lists what is left, if anything is.
pub fn none(instance: &Instance) -> Result<()> {
    let found = found(instance)?;
    if found.is_empty() {
        return Ok(());
    }
    bail!("instance {:?} left behind:\n  {}", instance.name(), found.join("\n  "))
}

/// Processes that name the instance or one of its folders, or that sit in its cgroup.
fn processes(instance: &Instance) -> Vec<String> {
    let (run, data) = (instance.run_dir().display().to_string(), instance.data_dir().display().to_string());
    let cgroup = format!("/{}/", instance.cgroup_parent());
    let mut found = Vec::new();
    for pid in pids() {
        let line = command_line(pid);
        let in_cgroup = read(pid, "cgroup").lines().any(|l| format!("{l}/").contains(&cgroup));
        let named = line.split(' ').any(|w| w == instance.name() || w.starts_with(&run) || w.starts_with(&data));
        // Looked at last: one that ends meanwhile has lost its command line first, and its cgroup at the end.
        if (in_cgroup || named) && runs(pid) {
            found.push(format!("process {pid} {line}"));
        }
    }
    found
}

/// The ids of all processes of the host that run, but our own.
pub fn pids() -> Vec<u32> {
    let own = std::process::id();
    let entries = std::fs::read_dir("/proc").into_iter().flatten().flatten();
    let pids = entries.filter_map(|e| e.file_name().to_str()?.parse().ok());
    pids.filter(|p| *p != own && runs(*p)).collect()
}

/// The fields of `/proc/PID/stat` from the state on (`proc_pid_stat(5)`).
fn stat(pid: u32) -> Vec<String> {
    let text = read(pid, "stat");
    let rest = text.rsplit_once(") ").map(|(_, rest)| rest);
    rest.unwrap_or_default().split(' ').map(str::to_owned).collect()
}

/// Whether a process runs: one that has ended and waits for init to take note is gone, and so is one that the kernel is
/// about to take apart (`PF_EXITING` of its flags).
fn runs(pid: u32) -> bool {
    const EXITING: u64 = 0x4;
    let stat = stat(pid);
    let flags = stat.get(6).and_then(|f| f.parse::<u64>().ok());
    !matches!(stat[0].as_str(), "Z" | "X" | "") && flags.is_some_and(|f| f & EXITING == 0)
}

/// The parent of a process.
pub fn parent(pid: u32) -> Option<u32> {
    stat(pid).get(1)?.parse().ok()
}

/// The command line of a process, words separated by spaces; empty when it is gone.
pub fn command_line(pid: u32) -> String {
    read(pid, "cmdline").trim_end_matches('\0').replace('\0', " ")
}

fn read(pid: u32, file: &str) -> String {
    std::fs::read(format!("/proc/{pid}/{file}")).map(|b| String::from_utf8_lossy(&b).into_owned()).unwrap_or_default()
}

/// The mounts below the folders of the instance: overlays, pinned namespaces, volumes.
pub fn mounts(instance: &Instance) -> Result<Vec<String>> {
    let text = std::fs::read_to_string("/proc/self/mountinfo")?;
    let below = |p: &str| [instance.run_dir(), instance.data_dir()].iter().any(|d| Path::new(p).starts_with(d));
    let points = text.lines().filter_map(|l| l.split(' ').nth(4));
    Ok(points.filter(|p| below(p)).map(|p| format!("mount {p}")).collect())
}

/// The cgroup folders of the instance in every hierarchy: v1, hybrid or v2.
pub fn cgroups(instance: &Instance) -> Vec<PathBuf> {
    let root = Path::new("/sys/fs/cgroup");
    let hierarchies = std::fs::read_dir(root).into_iter().flatten().flatten().map(|e| e.path());
    let roots = std::iter::once(root.to_path_buf()).chain(hierarchies);
    roots.map(|r| r.join(instance.cgroup_parent())).filter(|p| p.is_dir()).collect()
}

/// The bridges and the host ends of the pods' network and of Docker's.
pub fn links(instance: &Instance) -> Result<Vec<String>> {
    let text = tool("ip", &["-o", "link", "show"])?;
    let bridge = instance.bridge();
    let ours = [instance.veth_prefix(), instance.net_prefix(), instance.plug_prefix()];
    let begins = |n: &&str| ours.iter().any(|p| n.starts_with(p.as_str()));
    let names = text.lines().filter_map(|l| l.split(": ").nth(1)).map(|n| n.split('@').next().unwrap_or(n));
    Ok(names.filter(|n| *n == bridge || begins(n)).map(|n| format!("link {n}")).collect())
}

fn tool(name: &str, args: &[&str]) -> Result<String> {
    command::run(Command::new(name).args(args), None, command::LIMIT)?.ok()
}
