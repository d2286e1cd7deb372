//! From a service's spec to the objects that are it. Pure.
//!
//! A service is a Deployment, DaemonSet or Job of its name; a headless Service, so that its name is the addresses of its tasks, at
//! whatever port; and, for ports that are published on every node, a second Service.

use std::collections::BTreeMap;
use std::net::Ipv4Addr;

use convert::{
    Claim, Health, HealthTest, Host, Item, Kind, Mount, Port, Protocol, Published, Restart, Source, Update, Variable,
    Volume, Workload,
};
use dockerapi::swarm::{Fault, Result};
use serde_json::{Value, json};

use crate::check;
use crate::cluster::{LABEL, NAMESPACE, RECORD};
use crate::model::{self, ContainerSpec, FileOf, ServiceSpec, UpdateConfig};
use crate::placement::{self, Place};

/// Label that a stack's things carry.
pub const STACK: &str = "com.docker.stack.namespace";
/// Annotation of a Service: further names that mean it, within its namespace.
pub const NAMES: &str = "windlass.dev/names";
/// Annotation of a pod: of which template it is made.
pub const TEMPLATE: &str = "windlass.dev/swarm-template";
/// Annotation of a pod: labels of its container.
const CONTAINER_LABELS: &str = "windlass.dev/container-labels";
/// Key of the content of a secret or config.
pub const DATA: &str = "data";
/// The domain of the cluster's names.
const DOMAIN: &str = "cluster.local";
/// What a claim for a volume asks for: the volumes of `local-path` are as large as the disk.
const VOLUME_SIZE: u64 = 1 << 30;
/// Seconds between the signal to end and the kill (Docker's default).
const GRACE: u32 = 10;
/// Retries of a job without a limit.
const WITHOUT_LIMIT: u32 = i32::MAX as u32;

/// A network that a service is in.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Joined {
    /// Its label in names.
    pub key: String,
    /// What the service is called there besides its name.
    pub aliases: Vec<String>,
}

/// What a spec means depends on.
#[derive(Debug, Clone)]
pub struct Around {
    /// The networks that the service is in.
    pub networks: Vec<Joined>,
    /// It is in the host's network.
    pub host_network: bool,
    /// The nodes of the swarm.
    pub nodes: Vec<Place>,
    /// Where names are asked for.
    pub dns: Ipv4Addr,
    /// The Secret with the credentials for its image.
    pub pull_secret: Option<String>,
    /// The spec is gone back to: its settings for that count.
    pub rollback: bool,
}

/// The objects of a service.
#[derive(Debug, Clone, Default)]
pub struct Built {
    /// The Deployment, DaemonSet or Job.
    pub workload: Value,
    /// The Services.
    pub services: Vec<Value>,
    /// Claims for volumes that it mounts; they outlive it.
    pub claims: Vec<Value>,
    /// What is done otherwise than asked for.
    pub warnings: Vec<String>,
}

/// The name of a service's objects.
pub fn object_name(name: &str) -> String {
    convert::name(name)
}

/// The name of the Service of its published ports.
pub fn published_name(name: &str) -> String {
    convert::name(&format!("{}-published", object_name(name)))
}

/// Seconds, rounded up; nothing for less than none.
fn seconds(nanos: i64) -> u32 {
    u32::try_from(nanos.max(0).cast_unsigned().div_ceil(1_000_000_000)).unwrap_or(u32::MAX)
}

/// The objects of a service.
///
/// # Errors
/// 400 names what cannot be obeyed.
pub fn build(spec: &ServiceSpec, around: &Around) -> Result<Built> {
    let mut warnings = Vec::new();
    check::spec(spec, &mut warnings)?;
    let of = spec.container()?;
    let mut workload = Workload::new(object_name(&spec.name), &of.image);
    workload.namespace = Some(NAMESPACE.to_owned());
    workload.project = spec.labels.get(STACK).map(|s| convert::label_value(s)).filter(|s| !s.is_empty());
    workload.labels.insert(LABEL.to_owned(), "service".to_owned());
    workload.headless = true;
    workload.kind = kind(spec);
    workload.pod.restart = restart(spec);
    workload.update = update(spec, around.rollback);
    for port in &spec.endpoint_spec.ports {
        workload.ports.push(port_of(port)?);
    }
    container(&mut workload, spec, of)?;
    pod(&mut workload, spec, of, around)?;
    let claims = volumes(&mut workload, of)?;
    for (i, file) in of.secrets.iter().enumerate() {
        mount_file(&mut workload, file, &format!("secret-{i}"), true)?;
    }
    for (i, file) in of.configs.iter().enumerate() {
        mount_file(&mut workload, file, &format!("config-{i}"), false)?;
    }
    let mut objects = convert::objects(&workload);
    let mut object = objects.pop().unwrap_or_default();
    finish(&mut object, spec, around);
    for service in &mut objects {
        adjust(service, &workload.name, spec, around);
    }
    Ok(Built { workload: object, services: objects, claims, warnings })
}

fn kind(spec: &ServiceSpec) -> Kind {
    let count = |n: Option<u64>| u32::try_from(n.unwrap_or(1)).unwrap_or(u32::MAX);
    if spec.mode.global.is_some() {
        return Kind::Global;
    }
    if let Some(job) = &spec.mode.replicated_job {
        let parallelism = count(job.max_concurrent);
        let completions = job.total_completions.map_or(parallelism, |n| count(Some(n)));
        let policy = spec.task_template.restart_policy.clone().unwrap_or_default();
        let retries = match (policy.condition.as_str(), policy.max_attempts.filter(|n| *n > 0)) {
            ("none", _) => 0,
            (_, Some(n)) => count(Some(n)),
            (_, None) => WITHOUT_LIMIT,
        };
        return Kind::Once { completions, parallelism, retries };
    }
    Kind::Replicated(count(spec.mode.replicated.as_ref().and_then(|r| r.replicas)))
}

fn restart(spec: &ServiceSpec) -> Restart {
    let condition = spec.task_template.restart_policy.as_ref().map(|p| p.condition.as_str());
    match (&spec.mode.replicated_job, condition) {
        (None, _) => Restart::Always,
        (Some(_), Some("none")) => Restart::Never,
        (Some(_), _) => Restart::OnFailure,
    }
}

fn config(spec: &ServiceSpec, rollback: bool) -> UpdateConfig {
    let which = if rollback { &spec.rollback_config } else { &spec.update_config };
    which.clone().unwrap_or_default()
}

fn update(spec: &ServiceSpec, rollback: bool) -> Update {
    let config = config(spec, rollback);
    Update {
        stop_first: config.order != "start-first",
        parallelism: Some(u32::try_from(config.parallelism.unwrap_or(1)).unwrap_or(u32::MAX)),
        delay: seconds(config.delay),
        ..Update::default()
    }
}

fn port_of(port: &model::PortConfig) -> Result<Port> {
    let protocol = match port.protocol.as_str() {
        "" | "tcp" => Protocol::Tcp,
        "udp" => Protocol::Udp,
        "sctp" => Protocol::Sctp,
        other => return Err(Fault::bad(format!("invalid protocol {other:?}"))),
    };
    let published = match (port.publish_mode.as_str(), port.published_port) {
        ("" | "ingress", n) => Published::Everywhere(n),
        ("host", 0) => return Err(Fault::refused("a port of mode host without PublishedPort")),
        ("host", n) => Published::OnNode(n),
        (other, _) => return Err(Fault::bad(format!("invalid publish mode {other:?}"))),
    };
    Ok(Port { container: port.target_port, protocol, published })
}

fn container(workload: &mut Workload, spec: &ServiceSpec, of: &ContainerSpec) -> Result<()> {
    let resources = &spec.task_template.resources;
    let amounts = |of: &model::Amounts| convert::Resources {
        milli_cpu: u64::try_from(of.nano_cpus / 1_000_000).ok().filter(|n| *n > 0),
        memory: u64::try_from(of.memory_bytes).ok().filter(|n| *n > 0),
        ..convert::Resources::default()
    };
    let (user, group) = check::user(&of.user)?;
    let env = of.env.iter().filter_map(|e| e.split_once('=')).map(|(name, value)| {
        let value = check::placeholders(value, &spec.name, "Env")?;
        Ok(Variable { name: name.to_owned(), value })
    });
    let env = env.collect::<Result<Vec<_>>>()?;
    let main = workload.main();
    main.env = env;
    main.command = Some(of.command.clone()).filter(|c| !c.is_empty());
    main.args = Some(of.args.clone()).filter(|a| !a.is_empty());
    main.dir = Some(of.dir.clone()).filter(|d| !d.is_empty());
    (main.user, main.group) = (user, group);
    (main.tty, main.stdin, main.read_only) = (of.tty, of.open_stdin, of.read_only);
    main.no_new_privileges = of.privileges.no_new_privileges;
    let bare = |c: &String| c.strip_prefix("CAP_").unwrap_or(c).to_owned();
    main.cap_add = of.capability_add.iter().map(bare).collect();
    main.cap_drop = of.capability_drop.iter().map(bare).collect();
    if of.privileges.seccomp.as_ref().is_some_and(|s| s.mode == "unconfined") {
        main.seccomp = Some(json!({"type": "Unconfined"}));
    }
    main.stop_signal = Some(check::signal(&of.stop_signal)).filter(|s| !s.is_empty());
    (main.limits, main.requests) = (amounts(&resources.limits), amounts(&resources.reservations));
    main.health = of.healthcheck.as_ref().and_then(health);
    Ok(())
}

fn health(of: &model::Healthcheck) -> Option<Health> {
    let test = match of.test.split_first() {
        Some((first, rest)) if first == "CMD" => HealthTest::Exec(rest.to_vec()),
        Some((first, rest)) if first == "CMD-SHELL" => HealthTest::Shell(rest.join(" ")),
        _ => return None,
    };
    let or = |nanos: i64, default: u32| if nanos > 0 { seconds(nanos) } else { default };
    Some(Health {
        test,
        interval: or(of.interval, 30),
        timeout: or(of.timeout, 30),
        retries: u32::try_from(of.retries).ok().filter(|n| *n > 0).unwrap_or(3),
        start_period: seconds(of.start_period),
        restart: true,
    })
}

fn pod(workload: &mut Workload, spec: &ServiceSpec, of: &ContainerSpec, around: &Around) -> Result<()> {
    let affinity = placement::affinity(&spec.task_template.placement, &workload.name, &around.nodes)?;
    let pod = &mut workload.pod;
    if !of.labels.is_empty() {
        pod.annotations.insert(CONTAINER_LABELS.to_owned(), json!(of.labels).to_string());
    }
    if spec.task_template.force_update > 0 {
        pod.annotations.insert("windlass.dev/swarm-force".to_owned(), spec.task_template.force_update.to_string());
    }
    pod.hostname = match check::placeholders(&of.hostname, &spec.name, "Hostname")? {
        convert::Value::Text(text) => Some(text).filter(|t| !t.is_empty()),
        _ => return Err(Fault::refused("a template in Hostname")),
    };
    pod.groups = check::groups(&of.groups)?;
    pod.sysctls.clone_from(&of.sysctls);
    pod.grace = Some(of.stop_grace_period.map_or(GRACE, seconds));
    pod.host_network = around.host_network;
    if !around.networks.is_empty() {
        pod.dns = vec![around.dns.to_string()];
        pod.dns_search = around.networks.iter().map(|n| format!("{}.{NAMESPACE}.svc.{DOMAIN}", n.key)).collect();
        // `tasks.NAME` has a dot, and is a name of the network all the same.
        pod.dns_options.push(("ndots".to_owned(), Some("2".to_owned())));
    }
    pod.dns_search.extend(of.dns_config.search.iter().cloned());
    for option in &of.dns_config.options {
        let (name, value) = option.split_once(':').map_or((option.as_str(), None), |(n, v)| (n, Some(v.to_owned())));
        pod.dns_options.retain(|(n, _)| n != name);
        pod.dns_options.push((name.to_owned(), value));
    }
    for line in &of.hosts {
        let mut words = line.split_whitespace().map(str::to_owned);
        let ip = words.next().unwrap_or_default();
        if ip.parse::<std::net::IpAddr>().is_err() {
            return Err(Fault::bad(format!("invalid host entry {line:?}: an address and its names are expected")));
        }
        pod.hosts.push(Host { ip, names: words.collect() });
    }
    pod.affinity = affinity;
    Ok(())
}

/// The volumes that are mounted; gives the claims for those with a name.
fn volumes(workload: &mut Workload, of: &ContainerSpec) -> Result<Vec<Value>> {
    let mut claims = BTreeMap::new();
    for (i, mount) in of.mounts.iter().enumerate() {
        check::mount(mount)?;
        let name = format!("mount-{i}");
        let source = match mount.kind.as_str() {
            "tmpfs" => {
                Source::Memory { size: u64::try_from(mount.tmpfs_options.size_bytes).ok().filter(|size| *size > 0) }
            }
            "bind" => {
                let kind = mount.bind_options.create_mountpoint.then(|| "DirectoryOrCreate".to_owned());
                Source::Host { path: mount.source.clone(), kind }
            }
            _ if mount.source.is_empty() => Source::Empty,
            _ => {
                let name = convert::name(&mount.source);
                claims.entry(name.clone()).or_insert_with(|| claim(&name, mount));
                Source::Claim(name)
            }
        };
        workload.pod.volumes.push(Volume { name: name.clone(), source });
        let propagation = match mount.bind_options.propagation.as_str() {
            "slave" | "rslave" => Some("HostToContainer".to_owned()),
            _ => None,
        };
        let sub_path = Some(mount.volume_options.subpath.clone()).filter(|p| !p.is_empty());
        let path = mount.target.clone();
        workload.main().mounts.push(Mount { volume: name, path, sub_path, read_only: mount.read_only, propagation });
    }
    Ok(claims.into_values().collect())
}

fn claim(name: &str, mount: &model::Mount) -> Value {
    let record = json!({"name": mount.source, "labels": mount.volume_options.labels});
    convert::claim(&Claim {
        name: name.to_owned(),
        namespace: Some(NAMESPACE.to_owned()),
        labels: BTreeMap::from([(LABEL.to_owned(), "volume".to_owned())]),
        annotations: BTreeMap::from([(RECORD.to_owned(), record.to_string())]),
        size: VOLUME_SIZE,
        ..Claim::default()
    })
}

fn mount_file(workload: &mut Workload, file: &FileOf, volume: &str, secret: bool) -> Result<()> {
    let target = check::file(file)?;
    let path = match (target.name.starts_with('/'), secret) {
        (true, _) => target.name.clone(),
        (false, true) => format!("/run/secrets/{}", target.name),
        (false, false) => format!("/{}", target.name),
    };
    let items = vec![Item { key: DATA.to_owned(), path: DATA.to_owned(), mode: Some(target.mode & 0o7777) }];
    let name = convert::name(&file.name);
    let source = match secret {
        true => Source::Secret { name, items, mode: None },
        false => Source::ConfigMap { name, items, mode: None },
    };
    workload.pod.volumes.push(Volume { name: volume.to_owned(), source });
    let sub_path = Some(DATA.to_owned());
    workload.main().mounts.push(Mount {
        volume: volume.to_owned(),
        path,
        sub_path,
        read_only: true,
        propagation: None,
    });
    Ok(())
}

/// FNV-1a of 64 bits.
fn checksum(text: &str) -> u64 {
    text.bytes().fold(0xcbf2_9ce4_8422_2325, |sum, byte| (sum ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3))
}

/// What only a swarm's workloads have.
fn finish(object: &mut Value, spec: &ServiceSpec, around: &Around) {
    let config = config(spec, around.rollback);
    if object["kind"] == "DaemonSet" {
        let at_a_time = match config.parallelism.unwrap_or(1) {
            0 => json!("100%"),
            n => json!(n),
        };
        let how = if config.order == "start-first" { "maxSurge" } else { "maxUnavailable" };
        let other = if how == "maxSurge" { "maxUnavailable" } else { "maxSurge" };
        object["spec"]["updateStrategy"] =
            json!({"type": "RollingUpdate", "rollingUpdate": {how: at_a_time, other: 0}});
    }
    let selector = object["spec"]["selector"].clone();
    let template = &mut object["spec"]["template"];
    if let Some(secret) = &around.pull_secret {
        template["spec"]["imagePullSecrets"] = json!([{"name": secret}]);
    }
    let spread: Vec<Value> = placement::spread(&spec.task_template.placement)
        .map(|key| {
            json!({"maxSkew": 1, "topologyKey": key, "whenUnsatisfiable": "ScheduleAnyway", "labelSelector": selector})
        })
        .collect();
    if !spread.is_empty() {
        template["spec"]["topologySpreadConstraints"] = spread.into();
    }
    let sum = format!("{:016x}", checksum(&template.to_string()));
    template["metadata"]["annotations"][TEMPLATE] = sum.into();
}

/// Names of a swarm's services mean their tasks, at any port; what is published leads to the nodes.
fn adjust(service: &mut Value, name: &str, spec: &ServiceSpec, around: &Around) {
    if service["metadata"]["name"] != name {
        // The nodes answer at the port that was asked for; there is no second one.
        service["spec"]["allocateLoadBalancerNodePorts"] = false.into();
        return;
    }
    let selector = service["spec"]["selector"].take();
    service["spec"] = json!({"clusterIP": "None", "selector": selector});
    let mut names = Vec::new();
    let both = |n: &str, within: &str| [format!("{n}{within}"), format!("tasks.{n}{within}")];
    for network in &around.networks {
        let within = format!(".{}", network.key);
        for alias in network.aliases.iter().chain([&spec.name]) {
            names.extend(both(alias, &within));
        }
    }
    if around.networks.is_empty() {
        names.extend(both(&spec.name, ""));
    }
    service["metadata"]["annotations"][NAMES] = names.join(" ").into();
}

#[cfg(test)]
mod tests;
