//! The host's devices, for privileged containers and for those that name some.

use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt};
use std::path::Path;

use serde_json::{Value, json};

use crate::runtime::DeviceNode;

/// Folders that a container has its own of.
const OWN: [&str; 4] = ["pts", "shm", "mqueue", "fd"];
/// Devices listed at most; a host with more keeps the rest to itself.
const DEVICES_MAX: usize = 4096;

/// All device nodes below `/dev`, in the form of the OCI runtime spec.
pub fn of_host() -> Vec<Value> {
    let mut found = Vec::new();
    walk(Path::new("/dev"), 4, &mut found);
    found
}

/// Devices that a container gets by name.
pub fn of_container(nodes: &[DeviceNode]) -> Vec<Value> {
    let form = |node: &DeviceNode| {
        json!({
            "path": node.path, "type": kind(node), "major": node.major, "minor": node.minor,
            "fileMode": node.mode & 0o777, "uid": node.owner.0, "gid": node.owner.1,
        })
    };
    nodes.iter().map(form).collect()
}

/// What lets a container use them.
pub fn rules(nodes: &[DeviceNode]) -> impl Iterator<Item = Value> + '_ {
    nodes.iter().map(|node| {
        json!({ "allow": true, "type": kind(node), "major": node.major, "minor": node.minor, "access": node.access })
    })
}

fn kind(node: &DeviceNode) -> &'static str {
    if node.block { "b" } else { "c" }
}

fn walk(dir: &Path, depth: usize, found: &mut Vec<Value>) {
    let Ok(entries) = std::fs::read_dir(dir) else { return };
    for entry in entries.filter_map(Result::ok) {
        let (path, Ok(metadata)) = (entry.path(), entry.path().symlink_metadata()) else { continue };
        let kind = metadata.file_type();
        let own = entry.file_name().to_str().is_some_and(|n| OWN.contains(&n) || n == "console");
        if found.len() >= DEVICES_MAX || own {
            continue;
        }
        if kind.is_dir() && depth > 0 {
            walk(&path, depth - 1, found);
        } else if kind.is_char_device() || kind.is_block_device() {
            let device = metadata.rdev();
            found.push(json!({
                "path": path,
                "type": if kind.is_block_device() { "b" } else { "c" },
                "major": nix::sys::stat::major(device),
                "minor": nix::sys::stat::minor(device),
                "fileMode": metadata.permissions().mode() & 0o777,
                "uid": metadata.uid(),
                "gid": metadata.gid(),
            }));
        }
    }
}
