//! Taking an instance off its host without a running engine: found by its folders, cgroups and network, not by memory.

use std::path::PathBuf;
use std::time::Duration;

use base::instance::Instance;
use image::ImageStore;

use crate::builder::builds_dir;
use crate::context::{SNAPSHOT_PREFIX, failed, pods_dir, shim_cgroup};
use crate::driver::teardown::{kill_shim_of, mounts_below, remove_pod_dir};
use crate::runtime::RuntimeError;

/// How long killed processes may take to be gone.
const KILL_LIMIT: Duration = Duration::from_secs(15);

/// The run folders of sandboxes, those of builds included.
fn pod_dirs(instance: &Instance) -> Vec<PathBuf> {
    let all = [pods_dir(instance), builds_dir(instance)];
    let entries = all.iter().filter_map(|dir| std::fs::read_dir(dir).ok()).flatten();
    entries.filter_map(Result::ok).map(|e| e.path()).filter(|p| p.is_dir()).collect()
}

/// What the engine of this instance has left on the host, in words: shims, containers' processes, mounts, sandboxes'
/// folders, cgroups, network. Empty after [`destroy_all`]. Images, volumes and logs are not counted: they are data.
///
/// # Errors
/// When the network cannot be looked at.
pub async fn leftovers(instance: &Instance) -> Result<Vec<String>, RuntimeError> {
    let config = net::NetworkConfig::of(instance);
    let mut found = net::leftovers(&config).await.map_err(failed("look at network"))?;
    for dir in [pods_dir(instance), builds_dir(instance)] {
        found.extend(mounts_below(&dir).into_iter().map(|m| format!("mount {}", m.display())));
    }
    found.extend(pod_dirs(instance).into_iter().map(|d| format!("folder {}", d.display())));
    let parent = instance.cgroup_parent();
    for pid in shim::cgroup::processes(&parent) {
        let name = std::fs::read_to_string(format!("/proc/{pid}/comm")).unwrap_or_default();
        found.push(format!("process {pid} ({})", name.trim()));
    }
    for tree in shim::cgroup::hierarchies() {
        let dir = tree.root.join(&parent);
        if dir.exists() {
            found.push(format!("cgroup {}", dir.display()));
        }
    }
    Ok(found)
}

/// Ends and removes everything the engine of this instance has on the host, but not its data. No engine of the instance
/// may run. Can be repeated; the first failure is reported after everything was tried.
///
/// # Errors
/// The first step that failed.
pub async fn destroy_all(instance: &Instance) -> Result<(), RuntimeError> {
    let owned = instance.clone();
    let local = crate::context::blocking("destroy", move || destroy_local(&owned)).await;
    let network = net::destroy(&net::NetworkConfig::of(instance)).await.map_err(failed("destroy network"));
    local.and(network)
}

fn destroy_local(instance: &Instance) -> Result<(), RuntimeError> {
    let parent = instance.cgroup_parent();
    for dir in pod_dirs(instance) {
        kill_shim_of(&dir, &shim_cgroup(instance));
    }
    // Containers, and shims whose folder is gone: all of them live in the instance's cgroup.
    let mut result = match shim::cgroup::kill_all(&parent, KILL_LIMIT) {
        true => Ok(()),
        false => Err(RuntimeError::Timeout { operation: "kill containers", limit: KILL_LIMIT }),
    };
    for dir in pod_dirs(instance) {
        result = result.and(remove_pod_dir(&dir));
    }
    result = result.and(shim::cgroup::remove(&parent, KILL_LIMIT).map_err(failed("remove cgroups")));
    build::remove_leftovers(&instance.data_dir().join("build"));
    result = result.and(forget(instance));
    result
}

/// Records and writable file systems of containers that are no more.
fn forget(instance: &Instance) -> Result<(), RuntimeError> {
    let images = instance.data_dir().join("images");
    if images.exists() {
        let store = ImageStore::open(&images).map_err(failed("open image store"))?;
        for key in store.snapshots().map_err(failed("list root file systems"))? {
            if key.starts_with(SNAPSHOT_PREFIX) {
                store.remove_snapshot(&key).map_err(failed("remove root file system"))?;
            }
        }
    }
    for dir in [instance.data_dir().join("engine"), pods_dir(instance), builds_dir(instance)] {
        match std::fs::remove_dir_all(&dir) {
            Err(e) if e.kind() != std::io::ErrorKind::NotFound => return Err(failed("remove records")(e)),
            _ => {}
        }
    }
    Ok(())
}
