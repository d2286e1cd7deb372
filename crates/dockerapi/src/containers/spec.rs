//! From a container's record to what the engine is asked for: a sandbox of its own with one container in it.

use std::net::{IpAddr, Ipv4Addr};
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt};
use std::path::Path;

use engine::runtime::{
    ContainerSpec, DeviceNode, DnsConfig, Extra, HostPort, Mount, Owner, Propagation, Resources, Rlimit, SandboxSpec,
    Seccomp, Security, Tmpfs,
};

use crate::containers::create::root_key;
use crate::containers::model::DeviceMapping;
use crate::containers::record::{MountPoint, Published, Record};
use crate::face::Face;
use crate::fault::{Fault, Result};
use crate::logging::Driver;
use crate::networks::{Ground, RESOLVER};

/// Length of the period for `NanoCpus`, microseconds.
const PERIOD: u64 = 100_000;
/// Cgroup of these containers below the instance's.
const CGROUP: &str = "docker";

/// The kernel's name of a limit (getrlimit(2)) by Docker's.
pub fn rlimit(name: &str) -> Option<String> {
    const KNOWN: [&str; 16] = [
        "as",
        "core",
        "cpu",
        "data",
        "fsize",
        "locks",
        "memlock",
        "msgqueue",
        "nice",
        "nofile",
        "nproc",
        "rss",
        "rtprio",
        "rttime",
        "sigpending",
        "stack",
    ];
    KNOWN.contains(&name).then(|| format!("RLIMIT_{}", name.to_ascii_uppercase()))
}

/// A signal by name or number; the default is that which asks to end.
///
/// # Errors
/// 400 when it is none.
pub fn signal(name: &str) -> Result<i32> {
    engine::signal::parse(name).ok_or_else(|| Fault::bad(format!("invalid signal: {name}")))
}

/// A port and its protocol: `80/tcp`, `53/udp`, `80`.
pub fn port(text: &str) -> Result<(u16, String)> {
    let (number, protocol) = text.split_once('/').unwrap_or((text, "tcp"));
    let protocol = protocol.to_ascii_lowercase();
    match number.parse::<u16>() {
        Ok(number) if number > 0 && ["tcp", "udp", "sctp"].contains(&protocol.as_str()) => Ok((number, protocol)),
        _ => Err(Fault::bad(format!("invalid port specification: {text:?}"))),
    }
}

/// What is asked for of the host's ports: where one number is not enough, a range to take one from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Wanted {
    /// Address of the host.
    pub host_ip: Option<Ipv4Addr>,
    /// Ports of the host it may be; empty for any.
    pub range: std::ops::RangeInclusive<u16>,
    /// Port of the container.
    pub port: u16,
    /// Its protocol.
    pub protocol: String,
}

/// The ports that a container publishes.
///
/// # Errors
/// 400 for what is no port.
pub fn wanted_ports(record: &Record) -> Result<Vec<Wanted>> {
    let (host, mut wanted) = (&record.host, Vec::new());
    if matches!(host.network_mode.as_str(), "host" | "none") || host.network_mode.starts_with("container:") {
        return Ok(wanted);
    }
    for (text, bindings) in &host.port_bindings {
        let (port, protocol) = port(text)?;
        for binding in bindings {
            let invalid = |what: &str, value: &str| Fault::bad(format!("invalid {what} {value:?} of port {text}"));
            let host_ip = match binding.host_ip.as_str() {
                "" | "0.0.0.0" => None,
                ip => match ip.parse::<IpAddr>().map_err(|_| invalid("host address", ip))? {
                    IpAddr::V4(ip) => Some(ip),
                    IpAddr::V6(_) => {
                        return Err(Fault::refused(&format!("publishing a port on the IPv6 address {ip}")));
                    }
                },
            };
            let (first, last) = binding.host_port.split_once('-').unwrap_or((&binding.host_port, &binding.host_port));
            let number = |t: &str| if t.is_empty() { Ok(0) } else { t.parse().map_err(|_| invalid("host port", t)) };
            let range = number(first)?..=number(last)?;
            wanted.push(Wanted { host_ip, range, port, protocol: protocol.clone() });
        }
    }
    if host.publish_all_ports {
        for text in record.config.exposed_ports.keys() {
            let (port, protocol) = port(text)?;
            if !wanted.iter().any(|w| w.port == port && w.protocol == protocol) {
                wanted.push(Wanted { host_ip: None, range: 0..=0, port, protocol });
            }
        }
    }
    for text in record.config.exposed_ports.keys() {
        port(text)?;
    }
    Ok(wanted)
}

/// The sandbox of a container, with the ports of the host that were found for it.
///
/// # Errors
/// 400 for what cannot be.
pub fn sandbox(face: &Face, record: &Record, ground: &Ground, ports: &[Published]) -> Result<SandboxSpec> {
    let host = &record.host;
    wanted_ports(record)?;
    let on_host = host.network_mode == "host";
    // One in another's network has its name, its hosts and its resolver.
    let joined = ground.join.as_deref();
    let of = joined.unwrap_or(record);
    let endpoints = joined.map_or(&ground.endpoints, |other| &other.state.endpoints);
    let bridged = joined.and_then(|other| other.state.ip.clone());
    let addresses = bridged.into_iter().chain(endpoints.values().map(|h| h.ip.to_string()));
    let mut aliases: Vec<(String, Vec<String>)> = addresses.map(|ip| (ip, vec![of.config.hostname.clone()])).collect();
    for entry in &of.host.extra_hosts {
        let (name, address) = entry.split_once([':', '=']).ok_or_else(|| bad_host(entry))?;
        let address = match address {
            "host-gateway" => face.engine.network().gateway().to_string(),
            other => other.trim_matches(['[', ']']).parse::<IpAddr>().map_err(|_| bad_host(entry))?.to_string(),
        };
        aliases.push((address, vec![name.to_owned()]));
    }
    let resources =
        Resources { cpu_shares: u64::try_from(host.cpu_shares).ok().filter(|n| *n > 0), ..Resources::default() };
    Ok(SandboxSpec {
        id: record.id.clone(),
        owner: Owner::Docker,
        namespace: String::new(),
        name: record.name.clone(),
        hostname: of.config.hostname.clone(),
        fqdn: None,
        dns: Some(resolver(face, of, !endpoints.is_empty())),
        host_aliases: aliases,
        host_network: on_host,
        no_network: !on_host && !ground.on_bridge && joined.is_none(),
        join_network: joined.map(|other| other.id.clone()),
        host_pid: host.pid_mode == "host",
        host_ipc: host.ipc_mode == "host",
        // Its first process then takes in what others leave, and passes no signal on: what `--init` is for.
        share_process_namespace: host.init == Some(true),
        own_users: false,
        host_ports: ports.iter().filter(|_| ground.on_bridge).map(host_port).collect(),
        cgroup: format!("{CGROUP}/{}", record.id),
        resources,
        sysctls: host.sysctls.iter().map(|(k, v)| (k.clone(), v.clone())).collect(),
        labels: Vec::new(),
    })
}

fn bad_host(entry: &str) -> Fault {
    Fault::bad(format!("bad format for add-host: {entry:?}"))
}

fn host_port(port: &Published) -> HostPort {
    HostPort {
        host_ip: port.host_ip.map(IpAddr::V4),
        host_port: port.host_port,
        container_port: port.port,
        protocol: port.protocol.clone(),
    }
}

/// The resolver: the host's, but not one that listens on the host's loopback, which a container cannot reach; then the
/// instance's own, which asks the host's. On the host's network everything is the host's. In a network that users made it is the
/// one that knows the names of its members, and asks the others.
pub fn resolver(face: &Face, record: &Record, in_own_network: bool) -> DnsConfig {
    let host = &record.host;
    let mut own = DnsConfig::default();
    for line in std::fs::read_to_string("/etc/resolv.conf").unwrap_or_default().lines() {
        let mut words = line.split_whitespace();
        match words.next() {
            Some("nameserver") => own.nameservers.extend(words.next().map(str::to_owned)),
            Some("search") => own.searches = words.map(str::to_owned).collect(),
            Some("options") => own.options.extend(words.map(str::to_owned)),
            _ => {}
        }
    }
    if record.networks.contains_key("bridge") {
        own.nameservers.retain(|n| n.parse::<IpAddr>().is_ok_and(|ip| !ip.is_loopback()));
        if own.nameservers.is_empty() {
            own.nameservers.extend(face.engine.network().config().dns_ip().map(|ip| ip.to_string()));
        }
    }
    let replace = |slot: &mut Vec<String>, given: &Vec<String>| {
        if !given.is_empty() {
            slot.clone_from(given);
        }
    };
    replace(&mut own.nameservers, &host.dns);
    if in_own_network {
        own.nameservers = vec![RESOLVER.to_string()];
        if !own.options.iter().any(|o| o.starts_with("ndots:")) {
            own.options.push("ndots:0".to_owned());
        }
    }
    replace(&mut own.searches, &host.dns_search);
    replace(&mut own.options, &host.dns_options);
    own
}

/// The limits of a container.
pub fn resources(record: &Record) -> Resources {
    let host = &record.host;
    let positive = |n: i64| (n > 0).then_some(n);
    let (quota, period) = match positive(host.nano_cpus) {
        Some(nano) => (Some(nano / (1_000_000_000 / PERIOD as i64)), Some(PERIOD)),
        None => (positive(host.cpu_quota), u64::try_from(host.cpu_period).ok().filter(|p| *p > 0)),
    };
    Resources {
        cpu_shares: u64::try_from(host.cpu_shares).ok().filter(|n| *n > 0),
        cpu_quota_us: quota,
        cpu_period_us: period,
        memory_limit_bytes: positive(host.memory),
        pids_limit: host.pids_limit.and_then(positive),
        oom_score_adj: Some(host.oom_score_adj),
        cpus: Some(host.cpuset_cpus.clone()).filter(|c| !c.is_empty()),
        ..Resources::default()
    }
}

/// The container itself.
///
/// # Errors
/// 400 for what cannot be.
pub fn container(face: &Face, record: &Record) -> Result<ContainerSpec> {
    let (config, host) = (&record.config, &record.host);
    let files = match crate::logging::driver(&host.log_config)? {
        Driver::None => None,
        Driver::Kept(files) | Driver::Sent { files, .. } => Some(files),
    };
    let mut tmpfs: Vec<Tmpfs> = record.mounts.iter().filter(|m| m.kind == "tmpfs").map(in_memory).collect();
    let shm = Path::new("/dev/shm");
    if host.shm_size > 0 && host.ipc_mode != "host" && !record.mounts.iter().any(|m| m.target == shm) {
        let size = format!("size={}", host.shm_size);
        let options = ["nosuid", "nodev", "noexec", "mode=1777", &size].map(str::to_owned).to_vec();
        tmpfs.push(Tmpfs { target: shm.to_owned(), options });
    }
    let env = config.env.iter().map(|e| e.split_once('=').unwrap_or((e, "")));
    Ok(ContainerSpec {
        id: record.id.clone(),
        sandbox_id: record.id.clone(),
        name: record.name.clone(),
        attempt: record.state.restarts,
        image: record.image_id.clone(),
        command: record.argv.clone(),
        args: Vec::new(),
        env: env.map(|(k, v)| (k.to_owned(), v.to_owned())).collect(),
        working_dir: Some(config.working_dir.clone()).filter(|d| !d.is_empty()),
        mounts: record.mounts.iter().filter(|m| m.kind != "tmpfs").map(mount).collect(),
        devices: Vec::new(),
        resources: resources(record),
        security: security(record)?,
        pid_of: None,
        stop_signal: Some(config.stop_signal.clone()).filter(|s| !s.is_empty()),
        tty: config.tty,
        stdin: config.open_stdin,
        stdin_once: config.stdin_once,
        log_path: files.map(|_| face.records.log(&record.id)).unwrap_or_default(),
        log_max_size: files.map_or(0, |f| f.size),
        log_max_files: files.map_or(1, |f| f.count),
        labels: Vec::new(),
        extra: Extra {
            root_key: Some(root_key(&record.id)),
            user: Some(config.user.clone()).filter(|u| !u.is_empty()),
            tmpfs,
            rlimits: host.ulimits.iter().filter_map(limit).collect(),
            nodes: host.devices.iter().map(device).collect::<Result<_>>()?,
        },
    })
}

/// A device as it is on the host now.
fn device(asked: &DeviceMapping) -> Result<DeviceNode> {
    let wrong = |why: &dyn std::fmt::Display| {
        let name = &asked.path_on_host;
        Fault::bad(format!("error gathering device information while adding custom device \"{name}\": {why}"))
    };
    let meta = std::fs::metadata(&asked.path_on_host).map_err(|e| match e.kind() {
        std::io::ErrorKind::NotFound => wrong(&"it is not there"),
        _ => wrong(&e),
    })?;
    let kind = meta.file_type();
    if !kind.is_char_device() && !kind.is_block_device() {
        return Err(wrong(&"not a device node"));
    }
    let access = if asked.cgroup_permissions.is_empty() { "rwm" } else { &asked.cgroup_permissions };
    if !access.chars().all(|c| "rwm".contains(c)) {
        return Err(wrong(&format!("invalid device mode: {access}")));
    }
    let path = if asked.path_in_container.is_empty() { &asked.path_on_host } else { &asked.path_in_container };
    let path = super::create::target(path)?;
    Ok(DeviceNode {
        path,
        block: kind.is_block_device(),
        major: nix::sys::stat::major(meta.rdev()),
        minor: nix::sys::stat::minor(meta.rdev()),
        mode: meta.permissions().mode() & 0o777,
        owner: (meta.uid(), meta.gid()),
        access: access.to_owned(),
    })
}

fn limit(limit: &crate::containers::model::Ulimit) -> Option<Rlimit> {
    let value = |n: i64| u64::try_from(n).unwrap_or(u64::MAX);
    Some(Rlimit { kind: rlimit(&limit.name)?, soft: value(limit.soft), hard: value(limit.hard) })
}

fn mount(point: &MountPoint) -> Mount {
    let propagation = match point.propagation.as_str() {
        "slave" | "rslave" => Propagation::HostToContainer,
        "shared" | "rshared" => Propagation::Bidirectional,
        _ => Propagation::Private,
    };
    Mount {
        source: point.source.clone(),
        target: point.target.clone(),
        read_only: !point.writable,
        recursive_read_only: false,
        inert: false,
        propagation,
    }
}

/// With the options that Docker gives unless the user says otherwise.
fn in_memory(point: &MountPoint) -> Tmpfs {
    let mut options: Vec<String> = Vec::new();
    for (default, opposite) in [("noexec", "exec"), ("nosuid", "suid"), ("nodev", "dev")] {
        if !point.options.iter().any(|o| o == opposite) {
            options.push(default.to_owned());
        }
    }
    let extra = point.options.iter().filter(|o| !["exec", "suid", "dev", "rw"].contains(&o.as_str()));
    for option in extra {
        if !options.contains(option) {
            options.push(option.clone());
        }
    }
    Tmpfs { target: point.target.clone(), options }
}

fn security(record: &Record) -> Result<Security> {
    let host = &record.host;
    let says = |name: &str| {
        let opts = host.security_opt.iter();
        opts.filter_map(|o| o.split_once(['=', ':']).or(Some((o, "true")))).find(|(k, _)| *k == name).map(|(_, v)| v)
    };
    let bare = |list: &[String]| list.iter().map(|c| c.trim_start_matches("CAP_").to_owned()).collect();
    Ok(Security {
        privileged: host.privileged,
        supplemental_groups: host.group_add.iter().filter_map(|g| g.parse().ok()).collect(),
        cap_add: bare(&host.cap_add),
        cap_drop: bare(&host.cap_drop),
        no_new_privileges: says("no-new-privileges") == Some("true"),
        read_only_rootfs: host.readonly_rootfs,
        seccomp: match says("seccomp") {
            Some("unconfined") => Seccomp::Unconfined,
            _ => Seccomp::RuntimeDefault,
        },
        unmasked_proc: host.masked_paths.as_ref().is_some_and(Vec::is_empty),
        ..Security::default()
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::containers::model::PortBinding;

    fn published(text: &str, ip: &str, number: &str) -> Result<Vec<Wanted>> {
        let mut record = Record::default();
        record.host.network_mode = "bridge".into();
        let binding = PortBinding { host_ip: ip.into(), host_port: number.into() };
        record.host.port_bindings.insert(text.into(), vec![binding]);
        wanted_ports(&record)
    }

    #[test]
    fn ports_are_numbers_ranges_or_any() {
        assert_eq!(published("80/tcp", "", "8080").unwrap()[0].range, 8080..=8080);
        assert_eq!(published("53/udp", "127.0.0.1", "5000-5010").unwrap()[0].range, 5000..=5010);
        assert_eq!(published("80", "0.0.0.0", "").unwrap()[0].range, 0..=0);
        for (text, ip, number) in [("0/tcp", "", "1"), ("80/xyz", "", "1"), ("80", "::1", "1"), ("80", "", "x")] {
            assert!(published(text, ip, number).is_err(), "{text} {ip} {number}");
        }
    }

    #[test]
    fn a_tmpfs_takes_programs_only_when_asked() {
        let point = |options: &[&str]| {
            let options = options.iter().map(|o| (*o).to_owned()).collect();
            let text = serde_json::json!({ "kind": "tmpfs", "source": "", "target": "/x", "writable": true });
            in_memory(&MountPoint { options, ..serde_json::from_value(text).unwrap() }).options
        };
        assert_eq!(point(&[]), ["noexec", "nosuid", "nodev"]);
        assert_eq!(point(&["exec", "size=1m"]), ["nosuid", "nodev", "size=1m"]);
    }
}
