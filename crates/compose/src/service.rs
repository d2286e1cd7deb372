//! A service: what it runs, as whom, with which rights.

use std::collections::BTreeMap;

use convert::{From, Health, HealthTest, Host, Variable, Workload};

use crate::error::{Error, Result};
use crate::fields::{Fields, Notes};
use crate::load::{Env, text};
use crate::model::{Condition, Dependency, Service};
use crate::top::Top;
use crate::yaml::{Node, Value};
use crate::{build, deploy, dotenv, ports, volumes};

/// Most ids of a user or group that Kubernetes takes.
const ID_MAX: u32 = i32::MAX as u32;

/// What all services are read with.
pub struct Context<'a> {
    /// The variables of the project.
    pub env: &'a Env<'a>,
    /// The world outside.
    pub host: &'a dyn crate::Host,
    /// What stands beside the services.
    pub top: &'a Top,
    /// The project's name.
    pub project: &'a str,
}

/// Reads a service.
pub fn read(name: &str, node: &Node, context: &Context<'_>, notes: &Notes) -> Result<Service> {
    let fields = Fields::of(node, format!("services.{name}"), notes)?;
    let own = convert::name(name);
    if own != name {
        fields.note("", &format!("its name in the cluster is {own}"));
    }
    let build = build::read(&fields, context)?;
    let image = fields.text("image")?;
    let image = match (image, &build) {
        (Some(image), _) => image,
        (None, Some(_)) => format!("{}-{name}", context.project),
        (None, None) => return Err(Error::new(&node.place, &fields.path, "it needs an image or a build")),
    };
    let mut workload = Workload::new(own, image.clone());
    workload.project = Some(convert::label_value(context.project));
    process(&fields, &mut workload)?;
    environment(&fields, context, &mut workload)?;
    rights(&fields, &mut workload)?;
    pod(&fields, &mut workload)?;
    let mut aliases = ports::read(&fields, &mut workload)?;
    volumes::read(&fields, context, &mut workload)?;
    health(&fields, &mut workload)?;
    deploy::read(&fields, &mut workload)?;
    aliases.extend(networks(&fields, context)?);
    aliases.retain(|a| *a != workload.name);
    let depends_on = depends_on(&fields)?;
    lost(&fields)?;
    fields.take("profiles");
    fields.finish()?;
    let health_said = node.get("healthcheck").is_some();
    Ok(Service { name: name.to_owned(), workload, build, image, depends_on, health_said, aliases })
}

fn process(fields: &Fields<'_>, workload: &mut Workload) -> Result<()> {
    let entrypoint = fields.command("entrypoint")?;
    let command = fields.command("command")?;
    let pull = match fields.text("pull_policy")?.as_deref() {
        None | Some("build" | "missing" | "if_not_present") => "IfNotPresent",
        Some("always") => "Always",
        Some("never") => "Never",
        Some(other) => return Err(fields.wrong("pull_policy", format!("{other:?} is not supported"))),
    };
    let dir = fields.text("working_dir")?;
    let (tty, stdin) = (fields.truth("tty")?, fields.truth("stdin_open")?);
    let signal = fields.text("stop_signal")?.map(|s| match s.strip_prefix("SIG") {
        Some(_) => s,
        None => format!("SIG{s}"),
    });
    let main = workload.main();
    // As in Docker, an entrypoint of one's own makes the image's command void.
    main.args = command.or(entrypoint.as_ref().map(|_| Vec::new())).filter(|c| !c.is_empty());
    main.command = entrypoint.filter(|e| !e.is_empty());
    main.pull = Some(pull.to_owned());
    main.dir = dir;
    (main.tty, main.stdin) = (tty.unwrap_or(false), stdin.unwrap_or(false));
    main.stop_signal = signal;
    Ok(())
}

fn environment(fields: &Fields<'_>, context: &Context<'_>, workload: &mut Workload) -> Result<()> {
    let mut from_files: BTreeMap<String, String> = BTreeMap::new();
    let single = fields.take("env_file").filter(|n| n.text().is_some() || matches!(n.value, Value::Map(_)));
    let items = match single {
        Some(node) => vec![node],
        None => fields.items("env_file")?,
    };
    for item in items {
        let (path, required) = match item.text() {
            Some(path) => (path.to_owned(), true),
            None => {
                let entry = Fields::of(item, fields.at("env_file"), fields.notes())?;
                let path = entry.text("path")?.ok_or_else(|| entry.wrong("path", "it is needed"))?;
                let required = entry.truth("required")?.unwrap_or(true);
                entry.one_of("format", &["raw"])?;
                entry.finish()?;
                (path, required)
            }
        };
        let path = std::path::Path::new(&path);
        if !required && context.host.kind(path).is_none() {
            continue;
        }
        let text = text(context.host, path).map_err(|e| fields.wrong("env_file", e.to_string()))?;
        let read = dotenv::parse(&text, &|n| context.env.get(n).or_else(|| from_files.get(n).cloned()));
        for (name, value) in read.map_err(|m| fields.wrong("env_file", format!("{}: {m}", path.display())))? {
            if let Some(value) = value.or_else(|| context.env.get(&name)) {
                from_files.insert(name, value);
            }
        }
    }
    if !from_files.is_empty() {
        let entries = from_files.into_iter().map(|(k, v)| (k, v.into_bytes())).collect();
        let name = context.top.keep(&format!("{}-env", workload.name), true, entries);
        workload.main().env_from.push(From::Secret(name));
    }
    for (name, value) in fields.pairs("environment")? {
        // Without a value it is taken from where the command runs, and is absent if that has none.
        if let Some(value) = value.or_else(|| context.env.get(&name)) {
            workload.main().env.push(Variable { name, value: convert::Value::Text(value) });
        }
    }
    Ok(())
}

/// A number of a user or group.
fn id(fields: &Fields<'_>, key: &'static str, text: &str) -> Result<u32> {
    if text == "root" {
        return Ok(0);
    }
    text.parse().ok().filter(|n| *n <= ID_MAX).ok_or_else(|| {
        fields.wrong(key, format!("{text:?} is not a number, and Kubernetes knows users and groups by number only"))
    })
}

fn rights(fields: &Fields<'_>, workload: &mut Workload) -> Result<()> {
    if let Some(text) = fields.text("user")?.filter(|t| !t.is_empty()) {
        let (user, group) = text.split_once(':').map_or((text.as_str(), None), |(u, g)| (u, Some(g)));
        let (user, group) = (id(fields, "user", user)?, group.map(|g| id(fields, "user", g)).transpose()?);
        (workload.main().user, workload.main().group) = (Some(user), group);
    }
    let groups = fields.texts("group_add")?;
    workload.pod.groups = groups.iter().map(|g| id(fields, "group_add", g)).collect::<Result<_>>()?;
    let capability = |c: String| c.to_ascii_uppercase().trim_start_matches("CAP_").to_owned();
    let (add, drop) = (fields.texts("cap_add")?, fields.texts("cap_drop")?);
    let (privileged, read_only) = (fields.truth("privileged")?, fields.truth("read_only")?);
    let options = fields.texts("security_opt")?;
    let main = workload.main();
    main.cap_add = add.into_iter().map(capability).collect();
    main.cap_drop = drop.into_iter().map(capability).collect();
    main.privileged = privileged.unwrap_or(false);
    main.read_only = read_only.unwrap_or(false);
    // Docker's filter of system calls, which Kubernetes has only where it is asked for.
    main.seccomp = (!main.privileged).then(|| serde_json::json!({"type": "RuntimeDefault"}));
    for option in options {
        match option.replacen('=', ":", 1).as_str() {
            "no-new-privileges" | "no-new-privileges:true" => main.no_new_privileges = true,
            "no-new-privileges:false" => {}
            "seccomp:unconfined" => main.seccomp = Some(serde_json::json!({"type": "Unconfined"})),
            "apparmor:unconfined" => main.apparmor = Some(serde_json::json!({"type": "Unconfined"})),
            _ => return Err(fields.wrong("security_opt", format!("{option:?} is not supported"))),
        }
    }
    Ok(())
}

fn pod(fields: &Fields<'_>, workload: &mut Workload) -> Result<()> {
    // What Docker gives a container to stop.
    const GRACE: u32 = 10;
    let pod = &mut workload.pod;
    pod.grace = Some(fields.seconds("stop_grace_period")?.unwrap_or(GRACE));
    pod.hostname = fields.text("hostname")?;
    pod.dns = fields.texts("dns")?;
    pod.dns_search = fields.texts("dns_search")?;
    let option = |text: String| match text.split_once(':') {
        Some((name, value)) => (name.to_owned(), Some(value.to_owned())),
        None => (text, None),
    };
    pod.dns_options = fields.texts("dns_opt")?.into_iter().map(option).collect();
    pod.hosts = hosts(fields)?;
    for (name, value) in fields.pairs("sysctls")? {
        pod.sysctls.insert(name, value.unwrap_or_default());
    }
    match fields.text("network_mode")?.as_deref() {
        None | Some("bridge" | "default") => {}
        Some("host") => pod.host_network = true,
        Some(other) => return Err(fields.wrong("network_mode", format!("{other:?} is not supported: bridge or host"))),
    }
    match fields.text("pid")?.as_deref() {
        None => {}
        Some("host") => pod.host_pid = true,
        Some(other) => return Err(fields.wrong("pid", format!("{other:?} is not supported: host"))),
    }
    match fields.text("ipc")?.as_deref() {
        None | Some("private" | "none" | "shareable") => {}
        Some("host") => pod.host_ipc = true,
        Some(other) => return Err(fields.wrong("ipc", format!("{other:?} is not supported: host or private"))),
    }
    if let Some(platform) = fields.text("platform")? {
        let mut parts = platform.split('/');
        pod.node.extend(parts.next().map(|os| ("kubernetes.io/os".to_owned(), os.to_owned())));
        pod.node.extend(parts.next().map(|arch| ("kubernetes.io/arch".to_owned(), arch.to_owned())));
    }
    for (name, value) in fields.pairs("labels")?.into_iter().chain(fields.pairs("annotations")?) {
        // Labels of Docker may hold any text; labels of Kubernetes may not.
        if annotation(&name) {
            pod.annotations.insert(name, value.unwrap_or_default());
        } else {
            fields.note("labels", &format!("{name:?} cannot be the name of an annotation and is left out"));
        }
    }
    Ok(())
}

/// Whether Kubernetes takes a name of an annotation.
pub fn annotation(name: &str) -> bool {
    let (prefix, last) = name.rsplit_once('/').map_or((None, name), |(p, l)| (Some(p), l));
    let fine = |t: &str, more: &str| {
        t.starts_with(|c: char| c.is_ascii_alphanumeric())
            && t.ends_with(|c: char| c.is_ascii_alphanumeric())
            && t.chars().all(|c| c.is_ascii_alphanumeric() || more.contains(c))
    };
    last.len() <= 63
        && fine(last, "-_.")
        && prefix.is_none_or(|p| p.len() <= 253 && fine(p, "-.") && p == p.to_lowercase())
}

fn hosts(fields: &Fields<'_>) -> Result<Vec<Host>> {
    let Some(node) = fields.take("extra_hosts") else { return Ok(Vec::new()) };
    let map = crate::merge::pairs(node.clone(), &["extra_hosts"])?;
    let mut found: Vec<Host> = Vec::new();
    for (name, value) in map.entries() {
        let ips: Vec<String> = match &value.value {
            Value::Scalar(ip) => vec![ip.clone()],
            Value::List(items) => items.iter().filter_map(|i| i.text().map(str::to_owned)).collect(),
            _ => Vec::new(),
        };
        for ip in ips {
            let ip = ip.trim_start_matches('[').trim_end_matches(']').to_owned();
            if ip.parse::<std::net::IpAddr>().is_err() {
                return Err(fields.wrong("extra_hosts", format!("{ip:?} is not an address")));
            }
            match found.iter_mut().find(|h| h.ip == ip) {
                Some(host) => host.names.push(name.clone()),
                None => found.push(Host { ip, names: vec![name.clone()] }),
            }
        }
    }
    Ok(found)
}

fn health(fields: &Fields<'_>, workload: &mut Workload) -> Result<()> {
    // Docker's.
    const USUAL: u32 = 30;
    const RETRIES: u32 = 3;
    // Nobody said how the service is asked: that it listens is the least that a client can expect before it is sent there.
    let port = workload
        .ports
        .iter()
        .find(|p| p.protocol == convert::Protocol::Tcp && p.published != convert::Published::Cluster);
    let listens = port.map(|p| Health {
        test: HealthTest::Tcp(p.container),
        interval: 2,
        timeout: 2,
        retries: RETRIES,
        start_period: 0,
        restart: false,
    });
    let Some(check) = fields.below("healthcheck")? else {
        workload.main().health = listens;
        return Ok(());
    };
    let test = match check.take("test").and_then(Node::text) {
        Some("NONE") => None,
        Some(line) => Some(HealthTest::Shell(line.to_owned())),
        None => {
            let mut words = check.texts("test")?;
            match words.first().map(String::as_str) {
                None | Some("NONE") => None,
                Some("CMD") if words.len() > 1 => Some(HealthTest::Exec(words.split_off(1))),
                Some("CMD-SHELL") if words.len() == 2 => Some(HealthTest::Shell(words.remove(1))),
                _ => return Err(check.wrong("test", "it begins with CMD, CMD-SHELL or NONE")),
            }
        }
    };
    let read = Health {
        test: HealthTest::Tcp(0),
        interval: check.seconds("interval")?.unwrap_or(USUAL).max(1),
        timeout: check.seconds("timeout")?.unwrap_or(USUAL).max(1),
        retries: check.number("retries")?.unwrap_or(RETRIES).max(1),
        // Until it has been well for the first time it is asked often: nobody waits for a whole interval.
        start_period: check.seconds("start_period")?.unwrap_or(0).max(1),
        restart: false,
    };
    check.seconds("start_interval")?;
    let off = check.truth("disable")?.unwrap_or(false);
    check.finish()?;
    workload.main().health = test.filter(|_| !off).map(|test| Health { test, ..read });
    Ok(())
}

/// Aliases in the project's networks.
fn networks(fields: &Fields<'_>, context: &Context<'_>) -> Result<Vec<String>> {
    let mut aliases = Vec::new();
    for (name, node) in fields.named("networks")? {
        if name != "default" && !context.top.networks.contains(&name) {
            return Err(fields.wrong("networks", format!("undefined network {name:?}")));
        }
        let one = Fields::of(&node, format!("{}.networks.{name}", fields.path), fields.notes())?;
        aliases.extend(one.texts("aliases")?);
        let fixed = "addresses are given by the cluster";
        one.refuse(&[
            ("ipv4_address", fixed),
            ("ipv6_address", fixed),
            ("link_local_ips", fixed),
            ("mac_address", fixed),
        ])?;
        let only = "pods have one network";
        one.lose(&[("interface_name", only), ("driver_opts", only), ("priority", only), ("gw_priority", only)]);
        one.finish()?;
    }
    for link in fields.texts("links")? {
        if let Some((service, alias)) = link.split_once(':').filter(|(service, alias)| service != alias) {
            fields.note(
                "links",
                &format!("{alias:?} is a name of {service:?} for this service only; add it to the aliases of that"),
            );
        }
    }
    Ok(aliases.iter().map(|a| convert::name(a)).collect())
}

fn depends_on(fields: &Fields<'_>) -> Result<BTreeMap<String, Dependency>> {
    let mut found = BTreeMap::new();
    let short = fields.take("depends_on").is_some_and(|n| matches!(n.value, Value::List(_)));
    for (name, node) in fields.named("depends_on")? {
        let one = Fields::of(&node, format!("{}.depends_on.{name}", fields.path), fields.notes())?;
        let condition = match one.text("condition")?.as_deref() {
            Some("service_started") => Condition::Started,
            Some("service_healthy") => Condition::Healthy,
            Some("service_completed_successfully") => Condition::Completed,
            None if short => Condition::Started,
            None => return Err(one.wrong("condition", "it is needed")),
            Some(other) => return Err(one.wrong("condition", format!("{other:?} is not known"))),
        };
        let required = one.truth("required")?.unwrap_or(true);
        if one.truth("restart")? == Some(true) {
            one.note("restart", "a service is not started again because another was");
        }
        one.finish()?;
        found.insert(name, Dependency { condition, required });
    }
    Ok(found)
}

/// What cannot be said in Kubernetes.
fn lost(fields: &Fields<'_>) -> Result<()> {
    fields.refuse(&[
        ("cgroup_parent", "pods have cgroups of the cluster's making"),
        ("credential_spec", "it is for Windows"),
        ("device_cgroup_rules", "Kubernetes gives devices through device plugins"),
        ("devices", "Kubernetes gives devices through device plugins; a bind mount with privileged: true may do"),
        ("external_links", "there is nothing outside of the project to link to; use extra_hosts"),
        ("gpus", "Kubernetes gives devices through device plugins"),
        ("isolation", "it is for Windows"),
        ("models", "language models are not run"),
        ("post_start", "put it into the entrypoint"),
        ("pre_stop", "let the program do it when it is told to stop"),
        ("provider", "services of other programs are not run"),
        ("pull_refresh_after", "images are pulled when they are missing or always"),
        ("runtime", "there is one runtime"),
        ("storage_opt", "containers have the disk of the node"),
        ("use_api_socket", "mount the socket"),
        ("uts", "pods have host names of their own"),
        ("volumes_from", "name the volumes"),
    ])?;
    let io = "Kubernetes has no limits of this";
    fields.lose(&[
        ("attach", "logs of all services are shown"),
        ("blkio_config", io),
        ("container_name", "pods are named by the cluster; the service's name leads to it"),
        ("cpu_count", io),
        ("cpu_percent", io),
        ("cpu_period", "use cpus"),
        ("cpu_quota", "use cpus"),
        ("cpu_rt_period", io),
        ("cpu_rt_runtime", io),
        ("cpu_shares", "use deploy.resources.reservations"),
        ("cpuset", io),
        ("develop", "files are not watched"),
        ("domainname", "names end with the cluster's domain"),
        ("label_file", "labels are not read from files"),
        ("logging", "logs are kept by the node"),
        ("mac_address", "it is given by the node"),
        ("mem_swappiness", io),
        ("memswap_limit", "pods do not swap"),
        ("oom_kill_disable", io),
        ("oom_score_adj", "it follows from requests and limits"),
        ("pids_limit", io),
        ("ulimits", "Kubernetes cannot set them; containers have those of the node"),
        ("userns_mode", "pods have the users of the cluster's choice"),
    ]);
    if fields.text("cgroup")?.as_deref() == Some("host") {
        return Err(fields.wrong("cgroup", "not supported: pods have cgroup namespaces of their own"));
    }
    if fields.truth("init")? == Some(true) {
        fields.note("init", "there is no init process in a pod; the program is process 1");
    }
    Ok(())
}
