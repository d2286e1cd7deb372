//! What a container finds mounted.

use std::path::Path;

use serde_json::{Value, json};
use shim::cgroup::Version;
use shim::proto::Mapped;

use super::Inputs;
use crate::files;
use crate::runtime::{Mount, Propagation, RuntimeError, Tmpfs};

fn mount(target: impl AsRef<Path>, kind: &str, source: impl AsRef<Path>, options: &[&str]) -> Value {
    json!({ "destination": target.as_ref(), "type": kind, "source": source.as_ref(), "options": options })
}

/// All mounts, parents before children.
pub fn all(inputs: &Inputs<'_>) -> Result<Vec<Value>, RuntimeError> {
    let privileged = inputs.container.security.privileged;
    let mut list = vec![
        mount("/proc", "proc", "proc", &["nosuid", "noexec", "nodev"]),
        mount("/dev", "tmpfs", "tmpfs", &["nosuid", "strictatime", "mode=755", "size=65536k"]),
        mount(
            "/dev/pts",
            "devpts",
            "devpts",
            &["nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620", "gid=5"],
        ),
        mount("/dev/mqueue", "mqueue", "mqueue", &["nosuid", "noexec", "nodev"]),
    ];
    let sys = ["nosuid", "noexec", "nodev", if privileged { "rw" } else { "ro" }];
    list.push(mount("/sys", "sysfs", "sysfs", &sys));
    list.extend(cgroups(inputs, privileged));
    let tmpfs = &inputs.container.extra.tmpfs;
    let chosen = |target: &str| {
        let target = Path::new(target);
        inputs.container.mounts.iter().any(|m| m.target == target) || tmpfs.iter().any(|t| t.target == target)
    };
    if !chosen("/dev/shm") {
        let shm = if inputs.sandbox.host_ipc { "/dev/shm".into() } else { inputs.pod_dir.join(files::SHM) };
        list.push(mount("/dev/shm", "bind", shm, &["rbind", "rw", "nosuid", "nodev", "noexec"]));
    }
    for (target, file) in
        [("/etc/hosts", files::HOSTS), ("/etc/hostname", files::HOSTNAME), ("/etc/resolv.conf", files::RESOLV)]
    {
        if !chosen(target) {
            let mode = if inputs.container.security.read_only_rootfs { "ro" } else { "rw" };
            list.push(mount(target, "bind", inputs.pod_dir.join(file), &["rbind", mode]));
        }
    }
    for wanted in &inputs.container.mounts {
        list.push(chosen_mount(wanted, privileged)?);
    }
    for wanted in tmpfs {
        list.push(in_memory(wanted)?);
    }
    Ok(list)
}

/// For a container in a user namespace of its own: has its binds come from views whose owners are mapped, and says which.
/// What the kernel makes for the container has its owners already, and cgroups belong to the host.
pub fn mapped(document: &mut Value, pod_dir: &Path) -> Vec<Mapped> {
    let mut views = Vec::new();
    for mount in document["mounts"].as_array_mut().into_iter().flatten() {
        let of_cgroups = mount["destination"].as_str().is_some_and(|d| d.starts_with("/sys/fs/cgroup"));
        if mount["type"] != "bind" || of_cgroups {
            continue;
        }
        let at = shim::users::staged(pod_dir, views.len());
        let source = mount["source"].as_str().unwrap_or_default().into();
        mount["source"] = json!(at);
        views.push(Mapped { source, at });
    }
    views
}

/// On v2 a cgroup namespace shows the container its own tree. On v1 each tree is bound by hand, read-only:
/// libcontainer's own way leaves them writable, and then root in the container could lift its limits.
fn cgroups(inputs: &Inputs<'_>, privileged: bool) -> Vec<Value> {
    let mode = if privileged { "rw" } else { "ro" };
    if inputs.host.unified {
        return vec![mount("/sys/fs/cgroup", "cgroup", "cgroup", &["nosuid", "noexec", "nodev", "relatime", mode])];
    }
    let base = Path::new("/sys/fs/cgroup");
    let mut list = vec![mount(base, "tmpfs", "tmpfs", &["nosuid", "noexec", "nodev", "mode=755", "size=64k"])];
    for tree in inputs.host.hierarchies.iter().filter(|t| t.version == Version::V1 && t.holds_containers()) {
        let own = tree.root.join(inputs.cgroup);
        let mut names: Vec<&str> = tree.root.file_name().and_then(|n| n.to_str()).into_iter().collect();
        // `cpu,cpuacct` is also found under either name.
        names.extend(tree.controllers.iter().map(String::as_str).filter(|c| !c.contains('=')));
        names.sort_unstable();
        names.dedup();
        list.extend(
            names.iter().map(|n| mount(base.join(n), "bind", &own, &["rbind", "nosuid", "noexec", "nodev", mode])),
        );
    }
    list
}

/// Files of `/proc` that may be replaced: what emulators such as lxcfs show instead.
const EMULATED: [&str; 8] = ["cpuinfo", "diskstats", "loadavg", "meminfo", "slabinfo", "stat", "swaps", "uptime"];

/// A volume in `/proc` could have the runtime, or the container's libraries, write to its files instead of the kernel's
/// (CVE-2019-16884, CVE-2025-52881). One that gets there by a link is found by the shim.
fn in_proc(wanted: &Mount) -> Result<(), RuntimeError> {
    let target: std::path::PathBuf = wanted.target.components().collect();
    let Ok(inside) = target.strip_prefix("/proc") else { return Ok(()) };
    let refused = |why: &str| {
        Err(RuntimeError::Invalid(format!(
            "{:?} cannot be mounted because it is {why}",
            wanted.target.display().to_string()
        )))
    };
    match inside.to_str() {
        Some("") if wanted.source == Path::new("/proc") => Ok(()),
        Some("") => refused("not of type proc"),
        Some(name) if EMULATED.contains(&name) => Ok(()),
        _ => refused("inside /proc"),
    }
}

fn in_memory(wanted: &Tmpfs) -> Result<Value, RuntimeError> {
    let target: std::path::PathBuf = wanted.target.components().collect();
    if !target.is_absolute() || target == Path::new("/") || target.starts_with("/proc") {
        return Err(RuntimeError::Invalid(format!("cannot mount on {}", wanted.target.display())));
    }
    let options: Vec<&str> = wanted.options.iter().map(String::as_str).collect();
    Ok(mount(&target, "tmpfs", "tmpfs", &options))
}

fn chosen_mount(wanted: &Mount, privileged: bool) -> Result<Value, RuntimeError> {
    if !wanted.target.is_absolute() || wanted.target == Path::new("/") {
        return Err(RuntimeError::Invalid(format!("cannot mount on {}", wanted.target.display())));
    }
    in_proc(wanted)?;
    let propagation = match wanted.propagation {
        Propagation::Private => "rprivate",
        Propagation::HostToContainer => "rslave",
        Propagation::Bidirectional if privileged => "rshared",
        Propagation::Bidirectional => {
            return Err(RuntimeError::Invalid(
                "bidirectional mount propagation needs a privileged container".to_owned(),
            ));
        }
    };
    let mode = if wanted.read_only { "ro" } else { "rw" };
    let mut options = vec!["rbind", propagation, mode];
    if wanted.recursive_read_only {
        // mount_setattr(2) with AT_RECURSIVE: what is mounted below becomes read-only too.
        options.push("rro");
    }
    if wanted.inert {
        options.extend(["noexec", "nosuid", "nodev"]);
    }
    Ok(mount(&wanted.target, "bind", &wanted.source, &options))
}
