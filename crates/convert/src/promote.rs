//! A running container of Docker's as a workload.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::{Value as Json, json};

use crate::inspect::{Config, Inspect, is_secret};
use crate::model::{
    Claim, Data, From, Health, HealthTest, Host, Kind, Mount, Port, Protocol, Published, Source, Value, Variable,
    Volume, Workload,
};

/// Label of Compose: the service that a container is of.
const SERVICE: &str = "com.docker.compose.service";
/// Label of Compose: its project.
const PROJECT: &str = "com.docker.compose.project";
/// Docker's `/dev/shm`, bytes, which Kubernetes gives too.
const SHM: i64 = 64 << 20;
/// The node that a volume is on.
const HOSTNAME: &str = "kubernetes.io/hostname";

/// Where containers go.
#[derive(Debug, Clone, Copy)]
pub struct Place<'a> {
    /// The namespace.
    pub namespace: &'a str,
    /// The node that the containers, and so their volumes, are on.
    pub node: &'a str,
}

/// What containers become.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Promoted {
    /// What must be there first: data, volumes, claims, Services.
    pub before: Vec<Json>,
    /// Their controllers.
    pub controllers: Vec<Json>,
    /// Docker's volumes that now are of a claim, by name.
    pub volumes: BTreeMap<String, String>,
    /// What Kubernetes has no words for, and is lost; sentences.
    pub lost: Vec<String>,
}

/// The name of the workload that a container is of: its service, or its own.
pub fn workload_name(container: &Inspect) -> String {
    let own = || container.plain_name().to_owned();
    crate::name(&container.config.labels.get(SERVICE).cloned().unwrap_or_else(own))
}

/// The project of a container.
pub fn project_of(container: &Inspect) -> Option<&str> {
    container.config.labels.get(PROJECT).map(String::as_str)
}

/// Turns containers into objects. With each container comes its image's own configuration; `size` are the bytes in a volume.
/// Containers of one service become one workload.
///
/// # Errors
/// Says which option of which container cannot be kept, and must be.
pub fn promote(
    containers: &[(Inspect, Config)],
    place: Place<'_>,
    size: &dyn Fn(&str) -> u64,
) -> Result<Promoted, String> {
    let mut services: BTreeMap<String, Vec<&(Inspect, Config)>> = BTreeMap::new();
    for one in containers {
        services.entry(workload_name(&one.0)).or_default().push(one);
    }
    let (mut made, mut data, mut claims, mut networks) = (Promoted::default(), Vec::new(), Vec::new(), Vec::new());
    for (name, members) in services {
        let replicas = u32::try_from(members.len()).unwrap_or(u32::MAX);
        let (container, image) = members[0];
        if let Some(option) = refused(container) {
            return Err(format!("container {}: {option}", container.plain_name()));
        }
        let mut one = One::new(&name, container, image, place, replicas);
        one.environment();
        one.mounts(size)?;
        one.ports();
        one.rest();
        made.lost.extend(one.lost.iter().map(|what| format!("{name}: {what}")));
        made.volumes.extend(one.volumes.clone());
        data.extend(one.data.iter().map(crate::data));
        for object in one.claims {
            if !claims.contains(&object) {
                claims.push(object);
            }
        }
        let mut objects = crate::objects(&one.workload);
        let mut controller = objects.pop().unwrap_or_default();
        bind(&mut controller, &one.addresses);
        networks.append(&mut objects);
        made.controllers.push(controller);
    }
    made.before = data.into_iter().chain(claims).chain(networks).collect();
    Ok(made)
}

/// What cannot be kept, and without which the container would be another.
fn refused(container: &Inspect) -> Option<String> {
    let host = &container.host_config;
    if host.auto_remove {
        return Some("it is removed when it stops (--rm), and could not be started again".to_owned());
    }
    match host.network_mode.as_str() {
        "none" => return Some("it has no network, which no pod can say".to_owned()),
        mode if mode.starts_with("container:") => return Some("it is in the network of another container".to_owned()),
        _ => {}
    }
    host.group_add.iter().find(|g| g.parse::<u32>().is_err()).map(|g| format!("group {g:?} is no number"))
}

/// One workload in the making.
struct One<'a> {
    container: &'a Inspect,
    image: &'a Config,
    place: Place<'a>,
    replicas: u32,
    workload: Workload,
    data: Vec<Data>,
    claims: Vec<Json>,
    volumes: BTreeMap<String, String>,
    lost: Vec<String>,
    /// Ports of the host that are at one address only.
    addresses: Vec<(u16, String)>,
}

impl<'a> One<'a> {
    fn new(name: &str, container: &'a Inspect, image: &'a Config, place: Place<'a>, replicas: u32) -> Self {
        let mut workload = Workload::new(name, container.config.image.clone());
        workload.namespace = Some(place.namespace.to_owned());
        workload.project = project_of(container).map(crate::label_value).filter(|p| !p.is_empty());
        workload.kind = Kind::Replicated(replicas);
        // It is there: it need not be anywhere else.
        workload.main().pull = Some("IfNotPresent".to_owned());
        // Whoever asked for it by name goes on doing so.
        workload.headless = true;
        One {
            container,
            image,
            place,
            replicas,
            workload,
            data: Vec::new(),
            claims: Vec::new(),
            volumes: BTreeMap::new(),
            lost: Vec::new(),
            addresses: Vec::new(),
        }
    }

    /// What the image does not set itself: secrets in a Secret, the others in a ConfigMap.
    fn environment(&mut self) {
        let key = |name: &str| name.bytes().all(|b| b.is_ascii_alphanumeric() || b"-_.".contains(&b));
        let mut kept: [BTreeMap<String, Vec<u8>>; 2] = Default::default();
        for entry in self.container.config.env.iter().filter(|e| !self.image.env.contains(e)) {
            let (name, value) = entry.split_once('=').unwrap_or((entry, ""));
            if key(name) {
                kept[usize::from(is_secret(name))].insert(name.to_owned(), value.as_bytes().to_vec());
            } else {
                let value = Value::Text(value.to_owned());
                self.workload.main().env.push(Variable { name: name.to_owned(), value });
            }
        }
        for (entries, secret) in kept.into_iter().zip([false, true]) {
            if entries.is_empty() {
                continue;
            }
            let name = crate::name(&format!("{}-env", self.workload.name));
            let from = if secret { From::Secret(name.clone()) } else { From::ConfigMap(name.clone()) };
            self.workload.main().env_from.push(from);
            let namespace = Some(self.place.namespace.to_owned());
            self.data.push(Data { name, namespace, secret, entries, ..Data::default() });
        }
    }

    /// Docker's volumes become volumes of the cluster where they are: their files do not move.
    fn mounts(&mut self, size: &dyn Fn(&str) -> u64) -> Result<(), String> {
        for (at, point) in self.container.mounts.iter().enumerate() {
            let name = match point.kind.as_str() {
                "volume" => self.claim_name(&point.name, at),
                kind => crate::name(&format!("{kind}-{at}")),
            };
            let source = match point.kind.as_str() {
                "volume" => {
                    if self.replicas > 1 {
                        return Err(format!(
                            "service {}: it has {} containers and the volume {}: scale it to one first",
                            self.workload.name, self.replicas, point.name
                        ));
                    }
                    self.workload.kind = Kind::Stateful(1);
                    self.volume(&name, &point.name, &point.source, size(&point.source));
                    Source::Claim(name.clone())
                }
                "tmpfs" => Source::Memory { size: None },
                _ => Source::Host { path: point.source.clone(), kind: None },
            };
            if !self.workload.pod.volumes.iter().any(|v| v.name == name) {
                self.workload.pod.volumes.push(Volume { name: name.clone(), source });
            }
            let mount =
                Mount { volume: name, path: point.destination.clone(), read_only: !point.writable, ..Mount::default() };
            self.workload.main().mounts.push(mount);
        }
        Ok(())
    }

    /// A volume without a name of its own is called after the workload.
    fn claim_name(&self, volume: &str, at: usize) -> String {
        let anonymous = volume.len() == 64 && volume.bytes().all(|b| b.is_ascii_hexdigit());
        crate::name(&if anonymous { format!("{}-data-{at}", self.workload.name) } else { volume.to_owned() })
    }

    fn volume(&mut self, claim: &str, volume: &str, path: &str, bytes: u64) {
        let Place { namespace, node } = self.place;
        let name = crate::name(&format!("docker-{namespace}-{claim}"));
        // Nothing holds it to that size: it is a folder.
        let size = bytes.div_ceil(1 << 30).max(1) << 30;
        let on_node = json!({"key": HOSTNAME, "operator": "In", "values": [node]});
        self.claims.push(json!({
            "apiVersion": "v1", "kind": "PersistentVolume", "metadata": {"name": name},
            "spec": {
                "capacity": {"storage": format!("{}Gi", size >> 30)}, "accessModes": ["ReadWriteOnce"],
                "persistentVolumeReclaimPolicy": "Retain", "storageClassName": "", "local": {"path": path},
                "nodeAffinity": {"required": {"nodeSelectorTerms": [{"matchExpressions": [on_node]}]}},
                "claimRef": {"apiVersion": "v1", "kind": "PersistentVolumeClaim", "namespace": namespace, "name": claim},
            },
        }));
        self.claims.push(crate::claim(&Claim {
            name: claim.to_owned(),
            namespace: Some(namespace.to_owned()),
            size,
            class: Some(String::new()),
            volume: Some(name),
            ..Claim::default()
        }));
        self.volumes.insert(volume.to_owned(), format!("{namespace}/{claim}"));
    }

    /// What is published stays so at the same ports of the same host.
    fn ports(&mut self) {
        let (host, live) = (&self.container.host_config, &self.container.network_settings.ports);
        let texts: BTreeSet<&String> =
            self.container.config.exposed_ports.keys().chain(host.port_bindings.keys()).collect();
        for text in texts {
            let Some((container, protocol)) = Inspect::port(text) else { continue };
            let protocol = match protocol {
                "udp" => Protocol::Udp,
                "sctp" => Protocol::Sctp,
                _ => Protocol::Tcp,
            };
            let bindings = live.get(text).filter(|now| !now.is_empty()).or_else(|| host.port_bindings.get(text));
            let mut published = false;
            for binding in bindings.into_iter().flatten() {
                let Some(number) = binding.host_port.parse::<u16>().ok().filter(|n| *n > 0) else { continue };
                if let Some(address) = binding.address() {
                    self.addresses.push((number, address.to_owned()));
                }
                self.workload.ports.push(Port { container, protocol, published: Published::OnNode(number) });
                published = true;
            }
            if !published {
                self.workload.ports.push(Port { container, protocol, published: Published::Cluster });
            }
        }
        // Two cannot have one port of the host.
        self.workload.update.stop_first =
            self.workload.ports.iter().any(|p| matches!(p.published, Published::OnNode(_)));
    }

    fn rest(&mut self) {
        self.process();
        self.surroundings();
        let (config, host) = (&self.container.config, &self.container.host_config);
        if !matches!(host.restart_policy.name.as_str(), "always" | "unless-stopped") {
            self.lost.push("its restart policy: Kubernetes starts it again whenever it ends".to_owned());
        }
        if host.pids_limit.is_some_and(|n| n > 0) {
            self.lost.push("its limit of processes".to_owned());
        }
        if !host.ulimits.is_empty() {
            self.lost.push("its ulimits".to_owned());
        }
        if host.init == Some(true) {
            self.lost.push("its init process".to_owned());
        }
        if !config.stop_signal.is_empty() && config.stop_signal != self.image.stop_signal {
            self.lost.push(format!("its stop signal {}", config.stop_signal));
        }
        let named = config.user.split(':').any(|part| !part.is_empty() && part.parse::<u32>().is_err());
        if named && config.user != self.image.user {
            self.lost.push(format!("its user {:?}: Kubernetes knows numbers, the image's user is taken", config.user));
        }
    }

    fn process(&mut self) {
        let (config, host, image) = (&self.container.config, &self.container.host_config, self.image);
        let mut ids = config.user.split(':').map(|part| part.parse::<u32>().ok());
        let main = self.workload.main();
        let entry = (config.entrypoint != image.entrypoint).then(|| config.entrypoint.clone());
        main.args = (entry.is_some() || config.cmd != image.cmd).then(|| config.cmd.clone());
        main.command = entry;
        main.dir = Some(config.working_dir.clone()).filter(|d| !d.is_empty() && *d != image.working_dir);
        (main.user, main.group) = (ids.next().flatten(), ids.next().flatten());
        (main.tty, main.stdin) = (config.tty, config.open_stdin);
        (main.read_only, main.privileged) = (host.readonly_rootfs, host.privileged);
        main.no_new_privileges = !host.privileged
            && host.security_opt.iter().any(|o| o.starts_with("no-new-privileges") && !o.ends_with("false"));
        let bare = |list: &[String]| list.iter().map(|c| c.trim_start_matches("CAP_").to_owned()).collect();
        (main.cap_add, main.cap_drop) = (bare(&host.cap_add), bare(&host.cap_drop));
        if host.security_opt.iter().any(|o| o == "seccomp=unconfined" || o == "seccomp:unconfined") {
            main.seccomp = Some(json!({"type": "Unconfined"}));
        }
        let positive = |n: i64| u64::try_from(n).ok().filter(|n| *n > 0);
        main.limits.milli_cpu = host.milli_cpu();
        main.limits.memory = positive(host.memory);
        main.requests.memory = positive(host.memory_reservation);
        main.requests.milli_cpu = positive(host.cpu_shares).map(|n| (n * 1000).div_ceil(1024));
        main.health = health(config);
    }

    fn surroundings(&mut self) {
        let (config, host) = (&self.container.config, &self.container.host_config);
        let pod = &mut self.workload.pod;
        pod.grace = Some(config.stop_timeout.and_then(|s| u32::try_from(s).ok()).unwrap_or(10));
        pod.host_network = host.network_mode == "host";
        (pod.host_pid, pod.host_ipc) = (host.pid_mode == "host", host.ipc_mode == "host");
        pod.groups = host.group_add.iter().filter_map(|g| g.parse().ok()).collect();
        pod.sysctls.clone_from(&host.sysctls);
        (pod.dns, pod.dns_search) = (host.dns.clone(), host.dns_search.clone());
        let given = !self.container.id.starts_with(&config.hostname);
        pod.hostname = Some(config.hostname.clone()).filter(|h| given && !pod.host_network && crate::name(h) == *h);
        for entry in &host.extra_hosts {
            match entry.split_once([':', '=']) {
                Some((name, ip)) if ip.parse::<std::net::IpAddr>().is_ok() => {
                    pod.hosts.push(Host { ip: ip.to_owned(), names: vec![name.to_owned()] });
                }
                _ => self.lost.push(format!("its host {entry:?}")),
            }
        }
        if host.shm_size > SHM {
            let size = u64::try_from(host.shm_size).ok();
            pod.volumes.push(Volume { name: "shm".to_owned(), source: Source::Memory { size } });
            let mount = Mount { volume: "shm".to_owned(), path: "/dev/shm".to_owned(), ..Mount::default() };
            self.workload.main().mounts.push(mount);
        }
    }
}

/// How it is asked whether it is well: that takes it out of its Service, and does not end it, as with Docker.
fn health(config: &Config) -> Option<Health> {
    let asked = config.healthcheck.as_ref()?;
    let (first, words) = asked.test.split_first()?;
    let test = match first.as_str() {
        "CMD" => HealthTest::Exec(words.to_vec()),
        "CMD-SHELL" => HealthTest::Shell(words.join(" ")),
        _ => return None,
    };
    let seconds = |nanos: i64, default: u32| match u64::try_from(nanos) {
        Ok(nanos) if nanos > 0 => u32::try_from(nanos.div_ceil(1_000_000_000)).unwrap_or(u32::MAX),
        _ => default,
    };
    Some(Health {
        test,
        interval: seconds(asked.interval, 30),
        timeout: seconds(asked.timeout, 30),
        retries: u32::try_from(asked.retries).ok().filter(|n| *n > 0).unwrap_or(3),
        start_period: seconds(asked.start_period, 0),
        restart: false,
    })
}

/// Has ports of the host answer at one address where they did.
fn bind(controller: &mut Json, addresses: &[(u16, String)]) {
    let ports = controller.pointer_mut("/spec/template/spec/containers/0/ports").and_then(Json::as_array_mut);
    for port in ports.into_iter().flatten() {
        if let Some((_, ip)) = addresses.iter().find(|(number, _)| port["hostPort"] == *number) {
            port["hostIP"] = ip.clone().into();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn container(more: Json) -> (Inspect, Config) {
        let mut document = json!({
            "Id": "ab".repeat(32), "Name": "/shop_db", "State": {"Status": "running"},
            "Config": {
                "Image": "db:1", "Hostname": "ab".repeat(6), "Env": ["PATH=/bin", "DB_PASSWORD=x", "DB_USER=me"],
                "Cmd": ["serve"], "ExposedPorts": {"5432/tcp": {}},
            },
            "HostConfig": {
                "RestartPolicy": {"Name": "always"}, "NetworkMode": "bridge",
                "PortBindings": {"5432/tcp": [{"HostIp": "127.0.0.1", "HostPort": "15432"}]},
            },
            "Mounts": [{"Type": "volume", "Name": "data", "Source": "/v/data", "Destination": "/data", "RW": true}],
        });
        for (key, value) in more.as_object().unwrap() {
            for (inner, value) in value.as_object().unwrap() {
                document[key][inner] = value.clone();
            }
        }
        let image = Config { env: vec!["PATH=/bin".to_owned()], ..Config::default() };
        (Inspect::read(document).unwrap(), image)
    }

    fn promoted(more: Json) -> Result<Promoted, String> {
        promote(&[container(more)], Place { namespace: "shop", node: "n1" }, &|_| 3 << 29)
    }

    #[test]
    fn a_container_with_a_volume_is_a_stateful_set_over_the_same_files() {
        let made = promoted(json!({})).unwrap();
        let kinds: Vec<_> = made.before.iter().map(|o| o["kind"].as_str().unwrap()).collect();
        assert_eq!(kinds, ["ConfigMap", "Secret", "PersistentVolume", "PersistentVolumeClaim", "Service"]);
        assert_eq!(made.before[0]["data"], json!({"DB_USER": "me"}));
        assert_eq!(made.before[1]["data"], json!({"DB_PASSWORD": "eA=="}));
        let volume = &made.before[2]["spec"];
        assert_eq!((&volume["local"]["path"], &volume["capacity"]["storage"]), (&json!("/v/data"), &json!("2Gi")));
        assert_eq!(volume["persistentVolumeReclaimPolicy"], "Retain");
        assert_eq!(made.before[3]["spec"]["volumeName"], made.before[2]["metadata"]["name"]);
        assert_eq!(made.volumes["data"], "shop/data");
        let set = &made.controllers[0];
        assert_eq!((&set["kind"], &set["metadata"]["name"]), (&json!("StatefulSet"), &json!("shop-db")));
        let main = &set["spec"]["template"]["spec"]["containers"][0];
        assert_eq!(main["ports"], json!([{"containerPort": 5432, "hostPort": 15432, "hostIP": "127.0.0.1"}]));
        assert_eq!((&main["args"], &main["command"]), (&json!(["serve"]), &Json::Null));
        assert!(made.lost.is_empty(), "{:?}", made.lost);
    }

    #[test]
    fn without_a_volume_it_is_a_deployment_and_what_is_lost_is_told() {
        let none = json!({"Config": {"Labels": {SERVICE: "web", PROJECT: "shop"}}, "HostConfig": {
            "RestartPolicy": {"Name": "no"}, "PidsLimit": 5,
        }});
        let (mut one, image) = container(none);
        one.mounts.clear();
        let two = one.clone();
        let place = Place { namespace: "default", node: "n1" };
        let made = promote(&[(one, image.clone()), (two, image)], place, &|_| 0).unwrap();
        let web = &made.controllers[0];
        assert_eq!((&web["kind"], &web["spec"]["replicas"]), (&json!("Deployment"), &json!(2)));
        assert_eq!(web["metadata"]["name"], "web");
        assert_eq!(made.lost.len(), 2, "{:?}", made.lost);
    }

    #[test]
    fn what_would_be_another_container_is_refused() {
        for (host, word) in [
            (json!({"AutoRemove": true}), "--rm"),
            (json!({"NetworkMode": "none"}), "no network"),
            (json!({"NetworkMode": "container:ab"}), "another container"),
            (json!({"GroupAdd": ["wheel"]}), "wheel"),
        ] {
            let refused = promoted(json!({"HostConfig": host})).unwrap_err();
            assert!(refused.contains(word) && refused.contains("shop_db"), "{refused}");
        }
    }
}
