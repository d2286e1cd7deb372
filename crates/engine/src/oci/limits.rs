//! Limits, from the pod's terms to the kernel's, and onto existing cgroups.

use libcgroups::common::{CgroupConfig, CgroupManager, ControllerOpt, create_cgroup_manager};
use oci_spec::runtime::LinuxResources;
use serde_json::{Value, json};

use super::Host;
use crate::runtime::{Device, Resources, RuntimeError};

/// The `resources` of the OCI spec. A limit whose controller the host lacks is left out: the engine says so once when it
/// opens, and the container still runs.
pub fn resources(limits: &Resources, devices: &[Device], privileged: bool, host: &Host) -> Value {
    // Everything is denied first; the runtime then allows the standard devices.
    let mut rules = vec![json!({ "allow": privileged, "access": "rwm" })];
    rules.extend(devices.iter().map(|d| {
        let access = if d.read_only { "rm" } else { "rwm" };
        json!({ "allow": true, "type": "b", "major": d.major, "minor": d.minor, "access": access })
    }));
    let mut value = json!({ "devices": rules });
    add_limits(&mut value, limits, host);
    value
}

fn add_limits(value: &mut Value, limits: &Resources, host: &Host) {
    let has = |name: &str| host.controllers.contains(name);
    if has("memory")
        && let Some(bytes) = limits.memory_limit_bytes
    {
        value["memory"] = json!({ "limit": bytes });
    }
    if host.unified
        && has("memory")
        && let Some(qos) = limits.memory_qos
    {
        let high = qos.high.map_or_else(|| "max".to_owned(), |bytes| bytes.to_string());
        value["unified"] =
            json!({ "memory.high": high, "memory.min": qos.min.to_string(), "memory.low": qos.low.to_string() });
    }
    if has("pids")
        && let Some(most) = limits.pids_limit
    {
        value["pids"] = json!({ "limit": most });
    }
    if has("hugetlb") && !limits.huge_pages.is_empty() {
        let limit = |(size, bytes): &(String, u64)| json!({ "pageSize": size, "limit": bytes });
        value["hugepageLimits"] = limits.huge_pages.iter().map(limit).collect();
    }
    if has("cpu") {
        let mut cpu = serde_json::Map::new();
        for (name, number) in [
            ("shares", limits.cpu_shares.map(|n| json!(n.clamp(2, 262_144)))),
            ("quota", limits.cpu_quota_us.map(|n| json!(n))),
            ("period", limits.cpu_period_us.map(|n| json!(n))),
        ] {
            cpu.extend(number.map(|n| (name.to_owned(), n)));
        }
        if has("cpuset") {
            cpu.extend(limits.cpus.as_ref().map(|cpus| ("cpus".to_owned(), json!(cpus))));
        }
        if !cpu.is_empty() {
            value["cpu"] = Value::Object(cpu);
        }
    }
}

/// Changes the limits of a cgroup in use: unlike in a new one, what is not limited any more has to be said.
///
/// # Errors
/// As [`apply`].
pub fn change(path: &str, limits: &Resources, host: &Host) -> Result<(), RuntimeError> {
    let mut whole = limits.clone();
    whole.cpu_quota_us.get_or_insert(-1);
    whole.memory_limit_bytes.get_or_insert(-1);
    apply(path, &whole, host)
}

/// Sets limits on a cgroup that exists. Blocks for a few writes.
///
/// # Errors
/// [`RuntimeError::Failed`] with the kernel's reason, e.g. a memory limit below what is in use.
pub fn apply(path: &str, limits: &Resources, host: &Host) -> Result<(), RuntimeError> {
    let failed = |message: String| RuntimeError::Failed { operation: "set limits", message };
    let mut value = json!({});
    add_limits(&mut value, limits, host);
    if value.as_object().is_some_and(serde_json::Map::is_empty) {
        return Ok(());
    }
    let resources: LinuxResources = serde_json::from_value(value).map_err(|e| failed(e.to_string()))?;
    let config =
        CgroupConfig { cgroup_path: format!("/{path}").into(), systemd_cgroup: false, container_name: String::new() };
    let manager = create_cgroup_manager(config).map_err(|e| failed(base::chain(&e)))?;
    let options =
        ControllerOpt { resources: &resources, disable_oom_killer: false, oom_score_adj: None, freezer_state: None };
    manager.apply(&options).map_err(|e| failed(base::chain(&e)))
}
