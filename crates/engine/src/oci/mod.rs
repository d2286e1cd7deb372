//! From a container's spec to the runtime's `config.json` (OCI runtime spec 1.x). Pure but for what [`Host`] was told.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use serde_json::{Value, json};

use crate::runtime::{ContainerSpec, Propagation, RuntimeError, SandboxSpec};
use crate::user::User;

pub mod capabilities;
pub mod devices;
pub mod limits;
mod mounts;
pub mod seccomp;

pub use mounts::mapped;

/// Where programs are looked for when neither image nor pod says.
const DEFAULT_PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// Hidden from containers: they tell of the host or reach its hardware.
const MASKED: [&str; 12] = [
    "/proc/acpi",
    "/proc/asound",
    "/proc/interrupts",
    "/proc/kcore",
    "/proc/keys",
    "/proc/latency_stats",
    "/proc/sched_debug",
    "/proc/scsi",
    "/proc/timer_list",
    "/proc/timer_stats",
    "/sys/devices/virtual/powercap",
    "/sys/firmware",
];
const READ_ONLY: [&str; 5] = ["/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger"];

/// What this host can do, found once.
#[derive(Debug, Clone)]
pub struct Host {
    /// Capabilities we may hand on.
    pub capabilities: BTreeSet<&'static str>,
    /// Cgroup trees.
    pub hierarchies: Vec<shim::cgroup::Hierarchy>,
    /// Only the unified tree is mounted.
    pub unified: bool,
    /// Controllers that limits can be set with.
    pub controllers: BTreeSet<String>,
}

impl Host {
    /// Looks.
    pub fn probe() -> Self {
        let hierarchies = shim::cgroup::hierarchies().to_vec();
        let unified = shim::cgroup::is_unified();
        let controllers = if unified {
            let root = hierarchies.first().map(|h| h.root.join("cgroup.controllers"));
            let text = root.and_then(|p| std::fs::read_to_string(p).ok()).unwrap_or_default();
            text.split_whitespace().map(str::to_owned).collect()
        } else {
            hierarchies.iter().flat_map(|h| h.controllers.iter().cloned()).collect()
        };
        Host { capabilities: capabilities::available(), hierarchies, unified, controllers }
    }
}

/// What an image says about running it.
#[derive(Debug, Clone, Default)]
pub struct ImageDefaults {
    /// `Entrypoint`.
    pub entrypoint: Vec<String>,
    /// `Cmd`.
    pub cmd: Vec<String>,
    /// `Env`, `NAME=value`.
    pub env: Vec<String>,
    /// `WorkingDir`.
    pub working_dir: Option<String>,
}

/// All that goes into a `config.json`.
pub struct Inputs<'a> {
    /// The sandbox.
    pub sandbox: &'a SandboxSpec,
    /// The container.
    pub container: &'a ContainerSpec,
    /// Its image.
    pub image: &'a ImageDefaults,
    /// Who it runs as.
    pub user: &'a User,
    /// The sandbox's run folder.
    pub pod_dir: &'a Path,
    /// The mounted root file system.
    pub rootfs: &'a Path,
    /// The container's cgroup below each tree's root.
    pub cgroup: &'a str,
    /// The host.
    pub host: &'a Host,
}

impl Inputs<'_> {
    /// Working directory of the process.
    pub fn working_dir(&self) -> &str {
        let chosen = self.container.working_dir.as_deref().or(self.image.working_dir.as_deref());
        chosen.filter(|d| d.starts_with('/')).unwrap_or("/")
    }

    /// The document.
    ///
    /// # Errors
    /// [`RuntimeError::Invalid`] when the container cannot be run as asked.
    pub fn config(&self) -> Result<Value, RuntimeError> {
        let security = &self.container.security;
        let capabilities = capabilities::resolve(security, &self.host.capabilities)?;
        let mut linux = json!({
            "cgroupsPath": format!("/{}", self.cgroup),
            "namespaces": self.namespaces(),
            "resources":
                limits::resources(&self.container.resources, &self.container.devices, security.privileged, self.host),
            "rootfsPropagation": self.propagation(),
        });
        let own = &self.container.extra.nodes;
        if let Some(rules) = linux["resources"]["devices"].as_array_mut() {
            rules.extend(devices::rules(own));
        }
        if security.privileged {
            let mut all = devices::of_host();
            // One that is asked for under another name comes beside it.
            let there = |d: &Value| all.iter().any(|of_host| of_host["path"] == d["path"]);
            let more: Vec<Value> = devices::of_container(own).into_iter().filter(|d| !there(d)).collect();
            all.extend(more);
            linux["devices"] = Value::Array(all);
        } else if !own.is_empty() {
            linux["devices"] = Value::Array(devices::of_container(own));
        }
        if security.privileged {
            // It sees everything.
        } else if !security.unmasked_proc {
            linux["maskedPaths"] = json!(MASKED);
            linux["readonlyPaths"] = json!(READ_ONLY);
        }
        if !security.privileged && !self.host.unified {
            // The tree of mounts below stays writable for the runtime until it is complete.
            let mut paths: Vec<Value> = linux["readonlyPaths"].as_array().cloned().unwrap_or_default();
            paths.push(json!("/sys/fs/cgroup"));
            linux["readonlyPaths"] = Value::Array(paths);
        }
        if let Some(filter) = self.seccomp(&capabilities)? {
            linux["seccomp"] = filter;
        }
        Ok(json!({
            "ociVersion": "1.0.2",
            "root": { "path": self.rootfs, "readonly": security.read_only_rootfs },
            "process": self.process(&capabilities)?,
            "mounts": mounts::all(self)?,
            "linux": linux,
        }))
    }

    fn process(&self, capabilities: &BTreeSet<String>) -> Result<Value, RuntimeError> {
        let mut process = json!({
            "terminal": self.container.tty,
            "user": { "uid": self.user.uid, "gid": self.user.gid, "additionalGids": self.user.groups },
            "args": self.args()?,
            "env": self.env(),
            "cwd": self.working_dir(),
            "capabilities": {
                "bounding": capabilities, "effective": capabilities, "permitted": capabilities,
                "inheritable": [], "ambient": [],
            },
        });
        // Said only when true: libcontainer takes any value for "set" and then loads the seccomp filter too late for a
        // process that may still gain privileges.
        if self.container.security.no_new_privileges {
            process["noNewPrivileges"] = json!(true);
        }
        if let Some(profile) = &self.container.security.app_armor {
            process["apparmorProfile"] = json!(profile);
        }
        let limits = self.container.extra.rlimits.iter();
        let limits: Vec<Value> = limits.map(|l| json!({ "type": l.kind, "soft": l.soft, "hard": l.hard })).collect();
        if !limits.is_empty() {
            process["rlimits"] = json!(limits);
        }
        Ok(process)
    }

    /// The pod's command drops the image's arguments too; its arguments alone keep the image's entrypoint.
    fn args(&self) -> Result<Vec<&String>, RuntimeError> {
        let spec = self.container;
        let (program, args) = if !spec.command.is_empty() {
            (&spec.command, &spec.args)
        } else if !spec.args.is_empty() {
            (&self.image.entrypoint, &spec.args)
        } else {
            (&self.image.entrypoint, &self.image.cmd)
        };
        let all: Vec<&String> = program.iter().chain(args).collect();
        if all.is_empty() {
            return Err(RuntimeError::Invalid("no command specified".to_owned()));
        }
        Ok(all)
    }

    fn env(&self) -> Vec<String> {
        let mut env: Vec<(String, String)> = Vec::new();
        let mut set = |name: &str, value: &str| match env.iter_mut().find(|(n, _)| n == name) {
            Some(slot) => slot.1 = value.to_owned(),
            None => env.push((name.to_owned(), value.to_owned())),
        };
        set("PATH", DEFAULT_PATH);
        if self.container.tty {
            set("TERM", "xterm");
        }
        if !self.sandbox.hostname.is_empty() {
            set("HOSTNAME", &self.sandbox.hostname);
        }
        set("HOME", &self.user.home);
        for entry in &self.image.env {
            let (name, value) = entry.split_once('=').unwrap_or((entry, ""));
            set(name, value);
        }
        for (name, value) in &self.container.env {
            set(name, value);
        }
        env.into_iter().map(|(n, v)| format!("{n}={v}")).collect()
    }

    fn namespaces(&self) -> Vec<Value> {
        let pinned = |kind: &str| shim::sandbox::pin(self.pod_dir, kind);
        let mut list = vec![json!({ "type": "mount" })];
        if self.sandbox.own_users {
            list.push(json!({ "type": "user", "path": pinned(shim::users::KIND) }));
        }
        if !self.sandbox.host_network {
            list.push(json!({ "type": "network", "path": pinned("net") }));
            list.push(json!({ "type": "uts", "path": pinned("uts") }));
        }
        if !self.sandbox.host_ipc {
            list.push(json!({ "type": "ipc", "path": pinned("ipc") }));
        }
        if !self.sandbox.host_pid {
            list.push(match self.sandbox.share_process_namespace {
                true => json!({ "type": "pid", "path": pinned("pid") }),
                false if self.container.pid_of.is_some() => {
                    json!({ "type": "pid", "path": pinned(&shim::sandbox::shared_with(&self.container.id)) })
                }
                false => json!({ "type": "pid" }),
            });
        }
        if self.host.unified && !self.container.security.privileged {
            list.push(json!({ "type": "cgroup" }));
        }
        list
    }

    /// libcontainer has one propagation for the whole mount namespace: the widest that any mount asks for.
    fn propagation(&self) -> &'static str {
        let asked = |p| self.container.mounts.iter().any(|m| m.propagation == p);
        if asked(Propagation::Bidirectional) {
            "shared"
        } else if asked(Propagation::HostToContainer) {
            "slave"
        } else {
            "private"
        }
    }

    fn seccomp(&self, capabilities: &BTreeSet<String>) -> Result<Option<Value>, RuntimeError> {
        use crate::runtime::Seccomp;
        let security = &self.container.security;
        match &security.seccomp {
            _ if security.privileged => Ok(None),
            Seccomp::Unconfined => Ok(None),
            Seccomp::RuntimeDefault => Ok(Some(seccomp::default_profile(capabilities))),
            Seccomp::Localhost(path) => local_profile(path).map(Some),
        }
    }
}

fn local_profile(path: &PathBuf) -> Result<Value, RuntimeError> {
    let wrong = |e: String| RuntimeError::Invalid(format!("seccomp profile {}: {e}", path.display()));
    let text = std::fs::read(path).map_err(|e| wrong(e.to_string()))?;
    let typed: oci_spec::runtime::LinuxSeccomp = serde_json::from_slice(&text).map_err(|e| wrong(e.to_string()))?;
    serde_json::to_value(typed).map_err(|e| wrong(e.to_string()))
}

#[cfg(test)]
mod tests;
