//! Which options are obeyed. What is not is refused by its name.

use crate::containers::model::{Config, Creation, HostConfig, only_empty};
use crate::fault::{Fault, Result};
use crate::query::Query;

/// What dockerd takes at least, bytes.
const MEMORY_MIN: i64 = 6 << 20;

/// The platform of a request, which must be this host's.
///
/// # Errors
/// 400 for another one.
pub fn platform(query: &Query) -> Result<()> {
    let Some(wanted) = query.get("platform") else { return Ok(()) };
    let mut parts = wanted.split('/');
    let (os, arch) = (parts.next().unwrap_or_default(), parts.next());
    if os != "linux" || arch.is_some_and(|a| a != crate::architecture()) {
        return Err(Fault::bad(format!("platform {wanted:?} is not this host's (linux/{})", crate::architecture())));
    }
    Ok(())
}

fn one_of(option: &str, value: &str, allowed: &[&str]) -> Result<()> {
    match allowed.contains(&value) {
        true => Ok(()),
        false => Err(Fault::refused(&format!("{option}={value:?}"))),
    }
}

/// What can be said without the image.
///
/// # Errors
/// 400 names the option.
pub fn creation(asked: &Creation, warnings: &mut Vec<String>) -> Result<()> {
    let (config, host) = (&asked.config, &asked.host);
    let mut rest = config.rest.clone();
    // Remarks about the image, or for a builder: they change nothing of a container that has its command.
    for known in ["ArgsEscaped", "OnBuild", "Shell"] {
        rest.remove(known);
    }
    only_empty("", &rest)?;
    only_empty("HostConfig.", &host.rest)?;
    modes(host)?;
    shared_network(config, host)?;
    if host.network_mode == "host" && !host.port_bindings.is_empty() {
        warnings.push("Published ports are discarded when using host network mode".to_owned());
    }
    restarts(host)?;
    limits(host, warnings)?;
    crate::logging::driver(&host.log_config)?;
    for option in &host.security_opt {
        match option.as_str() {
            "no-new-privileges"
            | "no-new-privileges:true"
            | "no-new-privileges=true"
            | "no-new-privileges:false"
            | "no-new-privileges=false"
            | "seccomp=unconfined"
            | "seccomp:unconfined" => {}
            // There is no AppArmor and no SELinux here to be switched off.
            "apparmor=unconfined" | "apparmor:unconfined" | "label=disable" | "label:disable" => {}
            other => {
                let short: String = other.chars().take(60).collect();
                return Err(Fault::refused(&format!("HostConfig.SecurityOpt {short:?}")));
            }
        }
    }
    let paths = [("MaskedPaths", &host.masked_paths), ("ReadonlyPaths", &host.readonly_paths)];
    for (name, list) in paths {
        if list.as_ref().is_some_and(|l| !l.is_empty()) {
            return Err(Fault::refused(&format!("HostConfig.{name} other than the default or none")));
        }
    }
    if host.masked_paths.is_some() != host.readonly_paths.is_some() {
        return Err(Fault::refused("HostConfig.MaskedPaths without ReadonlyPaths"));
    }
    if let Some(group) = host.group_add.iter().find(|g| g.parse::<u32>().is_err()) {
        return Err(Fault::refused(&format!("HostConfig.GroupAdd by name ({group:?}; a number is taken)")));
    }
    if !config.stop_signal.is_empty() && engine::signal::parse(&config.stop_signal).is_none() {
        return Err(Fault::bad(format!("invalid signal: {}", config.stop_signal)));
    }
    if config.stop_timeout.is_some_and(|t| t < -1) {
        return Err(Fault::bad("invalid stop timeout"));
    }
    if !config.domainname.is_empty() {
        return Err(Fault::refused("Domainname"));
    }
    if config.env.iter().any(|e| e.starts_with('=') || e.is_empty()) {
        return Err(Fault::bad("invalid environment variable: empty name"));
    }
    crate::containers::health::check(config.healthcheck.as_ref())
}

/// What one in another's network namespace cannot have of its own (Docker's words).
fn shared_network(config: &Config, host: &HostConfig) -> Result<()> {
    if !host.network_mode.starts_with("container:") {
        return Ok(());
    }
    let conflict =
        |what: &str, mode: &str| Err(Fault::bad(format!("conflicting options: {what} and the {mode}network mode")));
    if !config.hostname.is_empty() {
        return conflict("hostname", "");
    }
    if !host.extra_hosts.is_empty() {
        return conflict("custom host-to-IP mapping", "");
    }
    if !host.dns.is_empty() || !host.dns_search.is_empty() || !host.dns_options.is_empty() {
        return conflict("dns", "");
    }
    if host.publish_all_ports || !host.port_bindings.is_empty() {
        return conflict("port publishing", "container type ");
    }
    if !config.exposed_ports.is_empty() {
        return conflict("port exposing", "container type ");
    }
    Ok(())
}

fn modes(host: &HostConfig) -> Result<()> {
    one_of("HostConfig.PidMode", &host.pid_mode, &["", "host"])?;
    one_of("HostConfig.IpcMode", &host.ipc_mode, &["", "private", "shareable", "host"])?;
    one_of("HostConfig.UTSMode", &host.uts_mode, &[""])?;
    one_of("HostConfig.UsernsMode", &host.userns_mode, &["", "host"])?;
    one_of("HostConfig.CgroupnsMode", &host.cgroupns_mode, &["", "private"])?;
    one_of("HostConfig.Runtime", &host.runtime, &["", "windlass"])?;
    one_of("HostConfig.Isolation", &host.isolation, &["", "default"])?;
    one_of("HostConfig.VolumeDriver", &host.volume_driver, &["", "local"])?;
    if host.init == Some(true) && host.pid_mode == "host" {
        return Err(Fault::refused("HostConfig.Init in the host's process namespace"));
    }
    Ok(())
}

fn restarts(host: &HostConfig) -> Result<()> {
    let policy = &host.restart_policy;
    match policy.name.as_str() {
        "" | "no" | "always" | "unless-stopped" if policy.maximum_retry_count != 0 => {
            Err(Fault::bad("invalid restart policy: maximum retry count can only be used with 'on-failure'"))
        }
        "" | "no" | "always" | "unless-stopped" => Ok(()),
        "on-failure" if policy.maximum_retry_count < 0 => {
            Err(Fault::bad("invalid restart policy: maximum retry count cannot be negative"))
        }
        "on-failure" => Ok(()),
        other => Err(Fault::bad(format!("invalid restart policy: unknown policy '{other}'"))),
    }?;
    if host.auto_remove && !matches!(policy.name.as_str(), "" | "no") {
        return Err(Fault::bad("can't create 'AutoRemove' container with restart policy"));
    }
    Ok(())
}

fn limits(host: &HostConfig, warnings: &mut Vec<String>) -> Result<()> {
    if host.memory != 0 && host.memory < MEMORY_MIN {
        return Err(Fault::bad("Minimum memory limit allowed is 6MB"));
    }
    match host.memory_swap {
        0 | -1 => {}
        // What dockerd gives anyway: as much swap as memory.
        _ if host.memory == 0 => {
            return Err(Fault::bad("You should always set the Memory limit when using Memoryswap limit, see usage"));
        }
        _ => return Err(Fault::refused("HostConfig.MemorySwap other than -1 (as much as there is)")),
    }
    if host.memory_swappiness.is_some_and(|s| s != -1) {
        return Err(Fault::refused("HostConfig.MemorySwappiness"));
    }
    if host.oom_kill_disable == Some(true) {
        return Err(Fault::refused("HostConfig.OomKillDisable"));
    }
    if !(-1000..=1000).contains(&host.oom_score_adj) {
        let value = host.oom_score_adj;
        return Err(Fault::bad(format!("Invalid value {value}, range for oom score adj is [-1000, 1000]")));
    }
    if host.nano_cpus < 0 || (host.nano_cpus > 0 && (host.cpu_quota > 0 || host.cpu_period > 0)) {
        return Err(Fault::bad("Conflicting options: Nano CPUs and CPU Period cannot both be set"));
    }
    if host.cpu_period != 0 && !(1000..=1_000_000).contains(&host.cpu_period) {
        return Err(Fault::bad("CPU cfs period can not be less than 1ms (i.e. 1000) or larger than 1s (i.e. 1000000)"));
    }
    if host.cpu_quota > 0 && host.cpu_quota < 1000 {
        return Err(Fault::bad("CPU cfs quota can not be less than 1ms (i.e. 1000)"));
    }
    if !host.cpuset_cpus.bytes().all(|b| b.is_ascii_digit() || b",-".contains(&b)) {
        return Err(Fault::bad(format!("Invalid value {} for HostConfig.CpusetCpus", host.cpuset_cpus)));
    }
    if host.shm_size < 0 {
        return Err(Fault::bad("SHM size can not be less than 0"));
    }
    if host.shm_size > 0 && host.ipc_mode == "host" {
        warnings.push("the size of /dev/shm is the host's".to_owned());
    }
    for limit in &host.ulimits {
        if crate::containers::spec::rlimit(&limit.name).is_none() {
            return Err(Fault::bad(format!("invalid ulimit type: {}", limit.name)));
        }
        if limit.hard != -1 && (limit.soft == -1 || limit.soft > limit.hard) {
            return Err(Fault::bad("ulimit soft limit must be less than or equal to hard limit"));
        }
    }
    Ok(())
}

/// A size with a unit: `10m`, `1g`, `-1` for none. Bytes.
pub fn size(text: &str) -> Option<u64> {
    if text == "-1" {
        return Some(0);
    }
    let lower = text.to_ascii_lowercase();
    let lower = lower.strip_suffix('b').unwrap_or(&lower);
    let (digits, unit) = match lower.strip_suffix(['k', 'm', 'g']) {
        Some(digits) => (digits, lower.as_bytes()[lower.len() - 1]),
        None => (lower, b' '),
    };
    let shift = match unit {
        b'k' => 10,
        b'm' => 20,
        b'g' => 30,
        _ => 0,
    };
    digits.parse::<u64>().ok()?.checked_mul(1 << shift)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refused(document: serde_json::Value) -> Option<String> {
        let asked = Creation::read(document).unwrap();
        creation(&asked, &mut Vec::new()).err().map(|f| f.message)
    }

    #[test]
    fn what_is_not_obeyed_is_refused_by_name() {
        let of_host = |host: serde_json::Value| refused(serde_json::json!({ "Image": "a", "HostConfig": host }));
        assert_eq!(of_host(serde_json::json!({ "MemorySwappiness": -1, "ShmSize": 0, "Init": false })), None);
        for (host, word) in [
            (serde_json::json!({ "NetworkMode": "container:x", "Dns": ["1.1.1.1"] }), "dns and the network mode"),
            (serde_json::json!({ "LogConfig": { "Type": "splunk" } }), "splunk"),
            (serde_json::json!({ "LogConfig": { "Config": { "tag": "{{.x}}" } } }), "tag"),
            (serde_json::json!({ "DeviceRequests": [{ "Count": -1 }] }), "DeviceRequests"),
            (serde_json::json!({ "CpusetCpus": "a" }), "CpusetCpus"),
            (serde_json::json!({ "SecurityOpt": ["apparmor=x"] }), "SecurityOpt"),
            (serde_json::json!({ "RestartPolicy": { "Name": "sometimes" } }), "unknown policy"),
            (serde_json::json!({ "AutoRemove": true, "RestartPolicy": { "Name": "always" } }), "AutoRemove"),
            (serde_json::json!({ "Memory": 1000 }), "Minimum memory"),
            (serde_json::json!({ "Ulimits": [{ "Name": "nope", "Soft": 1, "Hard": 1 }] }), "nope"),
        ] {
            let message = of_host(host.clone()).unwrap_or_else(|| panic!("{host} was taken"));
            assert!(message.contains(word), "{message}");
        }
    }

    #[test]
    fn sizes_have_units() {
        assert_eq!(
            [size("10m"), size("1GB"), size("512"), size("-1")],
            [Some(10 << 20), Some(1 << 30), Some(512), Some(0)]
        );
        assert_eq!(size("ten"), None);
    }
}
