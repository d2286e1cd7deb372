//! Where cgroups are mounted, and what is done to them beside limits (those go through libcgroups): join, list, kill,
//! read, remove. v1, hybrid and v2 alike: a hybrid host is v1 with one more hierarchy that has few controllers.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

/// How a hierarchy is driven.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Version {
    /// One controller (or a few mounted together) per tree.
    V1,
    /// The unified tree.
    V2,
}

/// One mounted tree.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Hierarchy {
    /// Where it is mounted.
    pub root: PathBuf,
    /// How it is driven.
    pub version: Version,
    /// Its controllers (v1), e.g. `cpu`, `cpuacct`; `name=systemd` for a named tree. Empty for v2.
    pub controllers: Vec<String>,
}

/// The trees of this host, read once: they are mounted at boot.
pub fn hierarchies() -> &'static [Hierarchy] {
    static FOUND: OnceLock<Vec<Hierarchy>> = OnceLock::new();
    FOUND.get_or_init(|| parse(&std::fs::read_to_string("/proc/self/mountinfo").unwrap_or_default()))
}

/// True when the unified tree is all there is.
pub fn is_unified() -> bool {
    hierarchies().iter().all(|h| h.version == Version::V2)
}

/// Controllers that libcgroups puts processes into; named trees and unknown ones are left alone.
const MANAGED: [&str; 12] = [
    "cpu",
    "cpuacct",
    "cpuset",
    "devices",
    "hugetlb",
    "memory",
    "pids",
    "perf_event",
    "blkio",
    "net_prio",
    "net_cls",
    "freezer",
];

impl Hierarchy {
    /// Whether containers get a cgroup of their own here.
    pub fn holds_containers(&self) -> bool {
        self.version == Version::V2 || self.controllers.iter().any(|c| MANAGED.contains(&c.as_str()))
    }
}

fn parse(mountinfo: &str) -> Vec<Hierarchy> {
    let mut found: Vec<Hierarchy> = Vec::new();
    for line in mountinfo.lines() {
        // proc_pid_mountinfo(5): fields, " - ", type, source, super options.
        let Some((fields, tail)) = line.split_once(" - ") else { continue };
        let Some(root) = fields.split(' ').nth(4).map(PathBuf::from) else { continue };
        let mut tail = tail.split(' ');
        let (kind, options) = (tail.next().unwrap_or(""), tail.nth(1).unwrap_or(""));
        // A tree bound a second time elsewhere (into a container's rootfs) is not another tree.
        if !root.starts_with("/sys/fs/cgroup") || found.iter().any(|h| h.root == root) {
            continue;
        }
        match kind {
            "cgroup2" => found.push(Hierarchy { root, version: Version::V2, controllers: Vec::new() }),
            "cgroup" => {
                let flags = ["rw", "ro", "xattr", "noprefix", "clone_children"];
                let names = options.split(',').filter(|o| !flags.contains(o) && !o.starts_with("release_agent="));
                let controllers = names.map(str::to_owned).collect();
                found.push(Hierarchy { root, version: Version::V1, controllers });
            }
            _ => {}
        }
    }
    found
}

/// The folder of cgroup `path` in the tree that has `controller` (v1), or in the unified tree.
pub fn dir_of(controller: &str, path: &str) -> Option<PathBuf> {
    let find = |want: &dyn Fn(&Hierarchy) -> bool| hierarchies().iter().find(|h| want(h));
    find(&|h| h.controllers.iter().any(|c| c == controller))
        .or_else(|| find(&|h| h.version == Version::V2 && is_unified()))
        .map(|h| h.root.join(path))
}

/// Makes the cgroup in every tree, parents first; on v2 hands the controllers down to it.
pub fn create(path: &str) -> io::Result<()> {
    for tree in hierarchies().iter().filter(|h| h.holds_containers()) {
        if tree.version == Version::V2 && !is_unified() {
            continue;
        }
        let mut dir = tree.root.clone();
        for part in path.split('/').filter(|p| !p.is_empty()) {
            if tree.version == Version::V2 {
                enable_controllers(&dir);
            }
            dir.push(part);
            match std::fs::create_dir(&dir) {
                Ok(()) => inherit_cpuset(&dir),
                Err(e) if e.kind() == io::ErrorKind::AlreadyExists => {}
                Err(e) => return Err(e),
            }
        }
    }
    Ok(())
}

/// One at a time: a controller that cannot be enabled must not hold back the others.
fn enable_controllers(dir: &Path) {
    let available = std::fs::read_to_string(dir.join("cgroup.controllers")).unwrap_or_default();
    for controller in available.split_whitespace() {
        let _ = std::fs::write(dir.join("cgroup.subtree_control"), format!("+{controller}"));
    }
}

/// Where processes go that were in the root (see [`clear_root`]), as other engines in containers name it.
const LEAF: &str = "init";

/// Empties the root of the unified tree where it is not the kernel's own but the cgroup of a container that this runs in: a
/// cgroup with processes in it hands no controller down (cgroups(7), "no internal processes"), and nothing below it could be
/// limited. They go to a cgroup of their own below it. What is not in this process namespace stays: it cannot be named.
///
/// # Errors
/// The kernel's: a tree that is mounted read-only, for one.
pub fn clear_root() -> io::Result<()> {
    let Some(root) = hierarchies().first().filter(|_| is_unified()).map(|tree| &tree.root) else { return Ok(()) };
    // The kernel's own root has no such file, and is free to have processes.
    if root.join("cgroup.type").exists() { empty_into(root, LEAF) } else { Ok(()) }
}

fn empty_into(dir: &Path, leaf: &str) -> io::Result<()> {
    /// A process may fork while it is moved; then the child is found the next time.
    const ROUNDS_MAX: u32 = 16;
    for _ in 0..ROUNDS_MAX {
        let text = std::fs::read_to_string(dir.join("cgroup.procs"))?;
        let pids: Vec<&str> = text.lines().filter(|pid| *pid != "0").collect();
        if pids.is_empty() {
            break;
        }
        match std::fs::create_dir(dir.join(leaf)) {
            Err(e) if e.kind() != io::ErrorKind::AlreadyExists => return Err(e),
            _ => {}
        }
        for pid in pids {
            match std::fs::write(dir.join(leaf).join("cgroup.procs"), pid) {
                // It has ended.
                Err(e) if e.raw_os_error() == Some(libc::ESRCH) => {}
                other => other?,
            }
        }
    }
    Ok(())
}

/// What every container's cgroup has on v2 beside its limits, as the kubelet sets it: its processes end together when memory
/// runs out (`memory.oom.group`; on v1 the kernel ends one of them, and knows nothing else), and it does not swap. A kernel
/// that lacks either file has nothing to be set. On v1 nothing is done.
///
/// # Errors
/// The kernel's.
pub fn set_container_defaults(path: &str) -> io::Result<()> {
    let Some(tree) = hierarchies().first().filter(|_| is_unified()) else { return Ok(()) };
    for (file, value) in [("memory.oom.group", "1"), ("memory.swap.max", "0")] {
        let file = tree.root.join(path).join(file);
        if file.exists() {
            std::fs::write(file, value)?;
        }
    }
    Ok(())
}

/// A new v1 cpuset is empty, and takes no process until it has CPUs and memory nodes.
fn inherit_cpuset(dir: &Path) {
    for file in ["cpuset.cpus", "cpuset.mems"] {
        let own = dir.join(file);
        if std::fs::read_to_string(&own).is_ok_and(|v| v.trim().is_empty())
            && let Some(parent) = dir.parent()
            && let Ok(value) = std::fs::read(parent.join(file))
        {
            let _ = std::fs::write(own, value);
        }
    }
}

/// Moves this process into cgroup `path` of every tree, named ones too, as far as the host lets it: a service manager
/// that stops the agent's cgroup must not find the shim there.
pub fn join(path: &str) {
    for tree in hierarchies() {
        let mut dir = tree.root.clone();
        for part in path.split('/').filter(|p| !p.is_empty()) {
            dir.push(part);
            if std::fs::create_dir(&dir).is_ok() {
                inherit_cpuset(&dir);
            }
        }
        let _ = std::fs::write(dir.join("cgroup.procs"), b"0");
    }
}

/// Every process in cgroup `path` or below, each once.
pub fn processes(path: &str) -> Vec<i32> {
    fn walk(dir: &Path, pids: &mut Vec<i32>, depth: usize) {
        if let Ok(text) = std::fs::read_to_string(dir.join("cgroup.procs")) {
            pids.extend(text.lines().filter_map(|l| l.parse::<i32>().ok()).filter(|&p| p > 0));
        }
        if depth == 0 {
            return;
        }
        for entry in std::fs::read_dir(dir).into_iter().flatten().filter_map(Result::ok) {
            if entry.file_type().is_ok_and(|t| t.is_dir()) {
                walk(&entry.path(), pids, depth - 1);
            }
        }
    }
    let mut pids = Vec::new();
    for tree in hierarchies().iter().filter(|h| h.holds_containers()) {
        walk(&tree.root.join(path), &mut pids, 8);
    }
    pids.sort_unstable();
    pids.dedup();
    pids
}

/// Kills every process in the cgroup, again and again until none is left or the time is up: a process may fork while
/// we read. True when the cgroup is empty.
pub fn kill_all(path: &str, limit: Duration) -> bool {
    let deadline = Instant::now() + limit;
    loop {
        if is_unified() {
            // One write kills the whole tree without the race (Linux 5.14).
            if let Some(tree) = hierarchies().first() {
                let _ = std::fs::write(tree.root.join(path).join("cgroup.kill"), b"1");
            }
        }
        let pids = processes(path);
        if pids.is_empty() {
            return true;
        }
        for &pid in &pids {
            let _ = kill(Pid::from_raw(pid), Signal::SIGKILL);
        }
        if Instant::now() >= deadline {
            return false;
        }
        std::thread::sleep(Duration::from_millis(2));
    }
}

/// Removes the cgroup and those below from every tree. Being busy for a moment after the last process is gone is
/// normal; being busy at the deadline is an error.
pub fn remove(path: &str, limit: Duration) -> io::Result<()> {
    fn remove_tree(dir: &Path, depth: usize) -> io::Result<()> {
        let entries = match std::fs::read_dir(dir) {
            Ok(entries) => entries,
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(()),
            Err(e) => return Err(e),
        };
        for entry in entries.filter_map(Result::ok) {
            if depth > 0 && entry.file_type().is_ok_and(|t| t.is_dir()) {
                remove_tree(&entry.path(), depth - 1)?;
            }
        }
        match std::fs::remove_dir(dir) {
            Err(e) if e.kind() != io::ErrorKind::NotFound => Err(e),
            _ => Ok(()),
        }
    }
    assert!(!path.trim_matches('/').is_empty(), "the root cgroup is nobody's to remove");
    let deadline = Instant::now() + limit;
    loop {
        let result: io::Result<()> =
            hierarchies().iter().map(|tree| remove_tree(&tree.root.join(path), 8)).fold(Ok(()), Result::and);
        match result {
            Err(e) if e.raw_os_error() == Some(libc::EBUSY) && Instant::now() < deadline => {
                std::thread::sleep(Duration::from_millis(2));
            }
            other => return other,
        }
    }
}

/// How many processes of the cgroup the OOM killer has ended so far.
pub fn oom_kills(path: &str) -> u64 {
    let Some(dir) = dir_of("memory", path) else { return 0 };
    let file = if is_unified() { "memory.events" } else { "memory.oom_control" };
    let text = std::fs::read_to_string(dir.join(file)).unwrap_or_default();
    flat(&text, "oom_kill").unwrap_or(0)
}

/// The value of `key` in a flat keyed file (`key value` lines).
pub fn flat(text: &str, key: &str) -> Option<u64> {
    text.lines().find_map(|l| l.split_once(' ').filter(|(k, _)| *k == key)?.1.trim().parse().ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hybrid_mounts_are_told_apart() {
        let text = "30 24 0:26 / /sys/fs/cgroup/memory rw,relatime - cgroup cgroup rw,memory\n\
                    31 24 0:27 / /sys/fs/cgroup/cpu,cpuacct rw - cgroup cgroup rw,cpu,cpuacct\n\
                    32 24 0:28 / /sys/fs/cgroup/systemd rw - cgroup none rw,xattr,name=systemd\n\
                    33 24 0:29 / /sys/fs/cgroup/unified rw - cgroup2 cgroup2 rw\n\
                    34 99 0:26 /a /run/x/rootfs/sys/fs/cgroup/memory rw - cgroup cgroup rw,memory\n";
        let found = parse(text);
        let roots: Vec<_> = found.iter().map(|h| h.root.file_name().unwrap().to_str().unwrap()).collect();
        assert_eq!(roots, ["memory", "cpu,cpuacct", "systemd", "unified"]);
        assert_eq!(found[1].controllers, ["cpu", "cpuacct"]);
        assert!(!found[2].holds_containers());
    }

    #[test]
    fn a_cgroup_is_emptied_into_one_below_it() {
        // Plain files: what was written last is seen, and the list does not get shorter by it.
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("cgroup.procs"), "0\n").unwrap();
        empty_into(dir.path(), LEAF).unwrap();
        assert!(!dir.path().join(LEAF).exists(), "nobody that could be moved");
        std::fs::write(dir.path().join("cgroup.procs"), "0\n12\n").unwrap();
        empty_into(dir.path(), LEAF).unwrap();
        assert_eq!(std::fs::read_to_string(dir.path().join(LEAF).join("cgroup.procs")).unwrap(), "12");
    }

    #[test]
    fn flat_files_match_whole_keys() {
        let text = "oom_kill_disable 0\nunder_oom 0\noom_kill 3\n";
        assert_eq!(flat(text, "oom_kill"), Some(3));
        assert_eq!(flat(text, "oom"), None);
    }
}
