//! Which options of a service are obeyed. What is not is refused by its name, or told as a warning where it changes nothing of what a
//! task may do.

use convert::Value;
use dockerapi::swarm::{Fault, Result, only_empty};

use crate::model::{ContainerSpec, FileOf, FileTarget, Mount, Placement, ServiceSpec, UpdateConfig};

/// Where logs may go: all of them are the same files.
const LOG_DRIVERS: [&str; 3] = ["", "json-file", "local"];
/// What limits the files of a log; those of pods are limited by the node.
const LOG_LIMITS: [&str; 2] = ["max-size", "max-file"];

fn invalid(message: impl std::fmt::Display) -> Fault {
    Fault::bad(format!("rpc error: code = InvalidArgument desc = {message}"))
}

/// All that can be said without looking at the swarm.
///
/// # Errors
/// 400 names the option.
pub fn spec(spec: &ServiceSpec, warnings: &mut Vec<String>) -> Result<()> {
    name(&spec.name, "name must be valid as a DNS name component")?;
    only_empty("", &spec.rest)?;
    let template = &spec.task_template;
    only_empty("TaskTemplate.", &template.rest)?;
    only_empty("TaskTemplate.Resources.", &template.resources.rest)?;
    only_empty("TaskTemplate.Resources.Limits.", &template.resources.limits.rest)?;
    only_empty("TaskTemplate.Resources.Reservations.", &template.resources.reservations.rest)?;
    if !matches!(template.runtime.as_str(), "" | "container") {
        return Err(Fault::refused(&format!("TaskTemplate.Runtime {:?}", template.runtime)));
    }
    mode(spec)?;
    for (which, config) in [("UpdateConfig", &spec.update_config), ("RollbackConfig", &spec.rollback_config)] {
        if let Some(config) = config {
            update(which, config, warnings)?;
        }
    }
    restarts(spec, warnings)?;
    logging(spec, warnings)?;
    placement(&template.placement)?;
    ports(spec)?;
    if spec.attachments().iter().any(|a| !a.driver_opts.is_empty()) {
        return Err(Fault::refused("Networks.DriverOpts"));
    }
    container(spec.container()?)
}

/// Names as swarmkit takes them.
///
/// # Errors
/// 400 with these words.
pub fn name(name: &str, words: &str) -> Result<()> {
    if name.is_empty() {
        return Err(invalid("meta: name must be provided"));
    }
    let plain = |c: char| c.is_ascii_alphanumeric();
    let good = name.starts_with(plain) && name.ends_with(plain) && name.chars().all(|c| plain(c) || "-_".contains(c));
    match good && name.len() <= 63 {
        true => Ok(()),
        false if good => Err(invalid("name must be 63 characters or fewer")),
        false => Err(invalid(words)),
    }
}

fn mode(spec: &ServiceSpec) -> Result<()> {
    let mode = &spec.mode;
    if mode.global_job.is_some() {
        return Err(Fault::refused("Mode.GlobalJob"));
    }
    let given = [mode.replicated.is_some(), mode.global.is_some(), mode.replicated_job.is_some()];
    match given.iter().filter(|g| **g).count() {
        0 | 1 => Ok(()),
        _ => Err(Fault::bad("must specify only one service mode")),
    }
}

fn update(which: &str, config: &UpdateConfig, warnings: &mut Vec<String>) -> Result<()> {
    match config.order.as_str() {
        "" | "stop-first" | "start-first" => {}
        other => return Err(invalid(format!("{which}: invalid order {other:?}"))),
    }
    match config.failure_action.as_str() {
        "" | "pause" => {}
        "continue" => {
            warnings.push(format!("{which}: an update waits at tasks that fail, whatever FailureAction says"))
        }
        "rollback" if which == "UpdateConfig" => {}
        other => return Err(invalid(format!("{which}: invalid failure action {other:?}"))),
    }
    if config.max_failure_ratio > 0.0 {
        return Err(Fault::refused(&format!("{which}.MaxFailureRatio")));
    }
    Ok(())
}

fn restarts(spec: &ServiceSpec, warnings: &mut Vec<String>) -> Result<()> {
    let Some(policy) = &spec.task_template.restart_policy else { return Ok(()) };
    let job = spec.mode.replicated_job.is_some();
    match policy.condition.as_str() {
        "" | "any" => {}
        "on-failure" | "none" if job => {}
        "on-failure" => {
            warnings.push("restart condition on-failure: a task that ends well is started again too".to_owned())
        }
        "none" => return Err(Fault::refused("restart condition \"none\" of a service that is no job")),
        other => return Err(invalid(format!("invalid restart condition {other:?}"))),
    }
    if !job && policy.max_attempts.is_some_and(|n| n > 0) {
        warnings.push("restart attempts have no limit".to_owned());
    }
    let usual = |nanos: i64| nanos == 0 || nanos == 5_000_000_000;
    if policy.delay.is_some_and(|d| !usual(d)) || policy.window.is_some_and(|w| w != 0) {
        warnings.push(
            "delays between restarts are those of Kubernetes: at once, then 10 s, doubled up to 5 min".to_owned(),
        );
    }
    Ok(())
}

fn logging(spec: &ServiceSpec, warnings: &mut Vec<String>) -> Result<()> {
    let Some(driver) = &spec.task_template.log_driver else { return Ok(()) };
    if !LOG_DRIVERS.contains(&driver.name.as_str()) {
        return Err(Fault::refused(&format!("logging driver {:?}", driver.name)));
    }
    if let Some(option) = driver.options.keys().find(|o| !LOG_LIMITS.contains(&o.as_str())) {
        return Err(Fault::refused(&format!("log option {option:?}")));
    }
    if !driver.options.is_empty() {
        warnings.push("logs are limited by the node, not by max-size and max-file".to_owned());
    }
    Ok(())
}

fn placement(placement: &Placement) -> Result<()> {
    only_empty("TaskTemplate.Placement.", &placement.rest)?;
    let here = |p: &crate::model::Platform| {
        let arch = match p.architecture.as_str() {
            "amd64" => "x86_64",
            "arm64" => "aarch64",
            other => other,
        };
        matches!(p.os.as_str(), "" | "linux") && (arch.is_empty() || arch == std::env::consts::ARCH)
    };
    if !placement.platforms.is_empty() && !placement.platforms.iter().any(here) {
        return Err(Fault::bad(format!("the image is for none of the nodes (linux/{})", std::env::consts::ARCH)));
    }
    let of_node = |p: &crate::model::Preference| p.spread.spread_descriptor.starts_with("node.labels.");
    if !placement.preferences.iter().all(of_node) {
        return Err(Fault::refused("a placement preference other than spread=node.labels.NAME"));
    }
    if placement.max_replicas > 1 {
        return Err(Fault::refused("Placement.MaxReplicas other than 1"));
    }
    Ok(())
}

fn ports(spec: &ServiceSpec) -> Result<()> {
    match spec.endpoint_spec.mode.as_str() {
        "" | "vip" => {}
        "dnsrr" => {
            if spec.endpoint_spec.ports.iter().any(|p| p.publish_mode != "host") {
                return Err(invalid("EndpointSpec: port published with ingress mode can't be used with dnsrr mode"));
            }
        }
        other => return Err(invalid(format!("invalid endpoint mode {other:?}"))),
    }
    let mut seen = std::collections::BTreeSet::new();
    for port in &spec.endpoint_spec.ports {
        if port.target_port == 0 {
            return Err(invalid("EndpointSpec: target port cannot be 0"));
        }
        if port.published_port > 0 && !seen.insert((&port.protocol, port.published_port, &port.publish_mode)) {
            return Err(invalid("EndpointSpec: duplicate published ports provided"));
        }
    }
    Ok(())
}

fn container(of: &ContainerSpec) -> Result<()> {
    if of.image.is_empty() {
        return Err(invalid("ContainerSpec: image reference must be provided"));
    }
    only_empty("ContainerSpec.", &of.rest)?;
    only_empty("ContainerSpec.Privileges.", &of.privileges.rest)?;
    for (name, profile) in [("Seccomp", &of.privileges.seccomp), ("AppArmor", &of.privileges.app_armor)] {
        let Some(profile) = profile else { continue };
        only_empty(&format!("ContainerSpec.Privileges.{name}."), &profile.rest)?;
        let known =
            matches!(profile.mode.as_str(), "" | "default") || (name == "Seccomp" && profile.mode == "unconfined");
        if !known {
            return Err(Fault::refused(&format!("ContainerSpec.Privileges.{name}.Mode {:?}", profile.mode)));
        }
    }
    if !matches!(of.isolation.as_str(), "" | "default") {
        return Err(Fault::refused(&format!("ContainerSpec.Isolation {:?}", of.isolation)));
    }
    if !of.dns_config.nameservers.is_empty() {
        return Err(Fault::refused("ContainerSpec.DNSConfig.Nameservers"));
    }
    if let Some(health) = &of.healthcheck {
        only_empty("ContainerSpec.Healthcheck.", &health.rest)?;
        if health.start_interval > 0 {
            return Err(Fault::refused("ContainerSpec.Healthcheck.StartInterval"));
        }
    }
    match of.env.iter().find(|e| e.is_empty() || e.starts_with('=')) {
        Some(_) => Err(invalid("invalid environment variable: empty name")),
        None => Ok(()),
    }
}

/// User and group as numbers.
///
/// # Errors
/// 400 for names: Kubernetes takes numbers.
pub fn user(text: &str) -> Result<(Option<u32>, Option<u32>)> {
    let number = |text: &str| match text {
        "" => Ok(None),
        text => {
            text.parse().map(Some).map_err(|_| Fault::refused(&format!("a user by name ({text:?}; a number is taken)")))
        }
    };
    let (user, group) = text.split_once(':').unwrap_or((text, ""));
    Ok((number(user)?, number(group)?))
}

/// Groups as numbers.
///
/// # Errors
/// As [`user`].
pub fn groups(list: &[String]) -> Result<Vec<u32>> {
    let number =
        |g: &String| g.parse().map_err(|_| Fault::refused(&format!("a group by name ({g:?}; a number is taken)")));
    list.iter().map(number).collect()
}

/// A signal as Kubernetes has it: with `SIG` before it.
pub fn signal(text: &str) -> String {
    let upper = text.to_ascii_uppercase();
    if upper.is_empty() || upper.starts_with("SIG") { upper } else { format!("SIG{upper}") }
}

/// A text with swarmkit's placeholders: of those, the service's name and the node's.
///
/// # Errors
/// 400 for any other.
pub fn placeholders(text: &str, service: &str, place: &str) -> Result<Value> {
    if text == "{{.Node.Hostname}}" {
        return Ok(Value::Field("spec.nodeName".to_owned()));
    }
    let text = text.replace("{{.Service.Name}}", service);
    if text.contains("{{.") || text.contains("{{ ") {
        return Err(Fault::refused(&format!("the placeholder in {place} {text:?}")));
    }
    Ok(Value::Text(text))
}

/// A mount.
///
/// # Errors
/// 400 names the option.
pub fn mount(mount: &Mount) -> Result<()> {
    let options = [&mount.rest, &mount.bind_options.rest, &mount.volume_options.rest, &mount.tmpfs_options.rest];
    for rest in options {
        only_empty("ContainerSpec.Mounts.", rest)?;
    }
    let message = |why: &str| Fault::bad(format!("invalid mount config for type \"{}\": {why}", mount.kind));
    if !mount.target.starts_with('/') {
        return Err(message("field Target must be an absolute path"));
    }
    if mount.source.contains("{{") {
        return Err(Fault::refused("a template in a mount's source"));
    }
    match mount.kind.as_str() {
        "volume" | "tmpfs" => {}
        "bind" if mount.source.starts_with('/') => {}
        "bind" => return Err(message(&format!("invalid mount path: '{}' mount path must be absolute", mount.source))),
        other => return Err(Fault::refused(&format!("a mount of type {other:?}"))),
    }
    let driver = mount.volume_options.driver_config.clone().unwrap_or_default();
    if !matches!(driver.name.as_str(), "" | "local") || !driver.options.is_empty() {
        return Err(Fault::refused("ContainerSpec.Mounts.VolumeOptions.DriverConfig"));
    }
    match mount.bind_options.propagation.as_str() {
        "" | "private" | "rprivate" | "slave" | "rslave" => Ok(()),
        other => Err(Fault::refused(&format!("bind propagation {other:?}"))),
    }
}

/// Where a secret or config becomes a file.
///
/// # Errors
/// 400: without a file, or for an owner other than root.
pub fn file(of: &FileOf) -> Result<&FileTarget> {
    only_empty("ContainerSpec.Configs.", &of.rest)?;
    let target = of.file.as_ref().ok_or_else(|| Fault::refused(&format!("{:?} other than as a file", of.name)))?;
    if target.name.is_empty() || target.name.split('/').any(|part| part == "..") {
        return Err(invalid(format!("invalid target {:?} of {:?}", target.name, of.name)));
    }
    if ![&target.uid, &target.gid].iter().all(|id| matches!(id.as_str(), "" | "0")) {
        return Err(Fault::refused(&format!("an owner other than root of the file {:?}", target.name)));
    }
    Ok(target)
}
