//! The sandbox of a pod: names, resolvers, namespaces, ports.

use std::net::IpAddr;
use std::path::Path;

use engine::runtime::{DnsConfig, HostPort, Owner, SandboxSpec};
use k8s_openapi::api::core::v1::Pod;
use reconcile::pod::each;

use super::{ConfigError, resources};

/// What a sandbox needs to know of the cluster.
pub(crate) struct Cluster<'a> {
    pub(crate) domain: &'a str,
    pub(crate) dns_ip: Option<IpAddr>,
    pub(crate) host_dns: &'a DnsConfig,
    pub(crate) host_name: &'a str,
}

/// Label under which a sandbox and its containers carry the pod's UID, for people who list them.
const POD_LABELS: [&str; 3] = ["io.kubernetes.pod.namespace", "io.kubernetes.pod.name", "io.kubernetes.pod.uid"];

/// Labels that tell which pod something belongs to.
pub(crate) fn labels(pod: &Pod) -> Vec<(String, String)> {
    let m = &pod.metadata;
    let values = [&m.namespace, &m.name, &m.uid];
    POD_LABELS.iter().zip(values).map(|(k, v)| ((*k).to_owned(), v.clone().unwrap_or_default())).collect()
}

/// Reads a resolv.conf.
pub(crate) fn parse_resolv_conf(text: &str) -> DnsConfig {
    let mut dns = DnsConfig::default();
    for line in text.lines() {
        let mut words = line.split_whitespace();
        match words.next() {
            Some("nameserver") => dns.nameservers.extend(words.next().map(str::to_owned)),
            Some("search") => dns.searches = words.map(str::to_owned).collect(),
            Some("options") => dns.options.extend(words.map(str::to_owned)),
            _ => {}
        }
    }
    dns
}

/// The host's resolvers. A stub on loopback cannot be reached from a pod: then systemd's upstream list is taken.
pub(crate) fn host_dns() -> DnsConfig {
    let read = |path: &str| std::fs::read_to_string(Path::new(path)).map(|t| parse_resolv_conf(&t)).ok();
    let own = read("/etc/resolv.conf").unwrap_or_default();
    let loopback =
        |dns: &DnsConfig| dns.nameservers.iter().all(|n| n.parse::<IpAddr>().is_ok_and(|ip| ip.is_loopback()));
    if !loopback(&own) {
        return own;
    }
    read("/run/systemd/resolve/resolv.conf").filter(|d| !loopback(d)).unwrap_or(own)
}

fn hostname(pod: &Pod, cluster: &Cluster<'_>) -> Result<String, ConfigError> {
    let spec = pod.spec.as_ref();
    if let Some(name) = spec.and_then(|s| s.hostname_override.clone()) {
        return Ok(name);
    }
    if spec.and_then(|s| s.host_network) == Some(true) {
        return Ok(cluster.host_name.to_owned());
    }
    let wanted = spec.and_then(|s| s.set_hostname_as_fqdn) == Some(true);
    match fqdn(pod, cluster).filter(|_| wanted) {
        None => Ok(short_name(pod)),
        Some(name) => {
            if name.len() > 64 {
                return Err(ConfigError::new(format!(
                    "Failed to construct FQDN from pod hostname and cluster domain, FQDN {name} is too long (64 characters is the max, {} characters requested).",
                    name.len()
                )));
            }
            Ok(name)
        }
    }
}

fn short_name(pod: &Pod) -> String {
    let given = pod.spec.as_ref().and_then(|s| s.hostname.clone()).filter(|h| !h.is_empty());
    let name = given.or_else(|| pod.metadata.name.clone()).unwrap_or_default();
    let short: String = name.chars().take(63).collect();
    short.trim_end_matches(['-', '.']).to_owned()
}

/// The name of a pod with a subdomain, whether or not a headless Service of that name serves it.
fn fqdn(pod: &Pod, cluster: &Cluster<'_>) -> Option<String> {
    // A host name that replaces all others has no domain (KEP-4762).
    let spec = pod.spec.as_ref().filter(|s| s.hostname_override.is_none())?;
    let subdomain = spec.subdomain.as_deref().filter(|s| !s.is_empty())?;
    let ns = pod.metadata.namespace.as_deref().unwrap_or_default();
    Some(format!("{}.{subdomain}.{ns}.svc.{}", short_name(pod), cluster.domain))
}

/// The resolver settings of a pod.
fn dns(pod: &Pod, cluster: &Cluster<'_>) -> DnsConfig {
    let spec = pod.spec.as_ref();
    let host_network = spec.and_then(|s| s.host_network) == Some(true);
    let policy = spec.and_then(|s| s.dns_policy.as_deref()).unwrap_or("ClusterFirst");
    let in_cluster = policy == "ClusterFirstWithHostNet" || policy == "ClusterFirst" && !host_network;
    let mut dns = match cluster.dns_ip.filter(|_| in_cluster) {
        Some(ip) => {
            let ns = pod.metadata.namespace.as_deref().unwrap_or_default();
            let domain = cluster.domain;
            let mut searches = vec![format!("{ns}.svc.{domain}"), format!("svc.{domain}"), domain.to_owned()];
            searches.extend(cluster.host_dns.searches.iter().cloned());
            DnsConfig { nameservers: vec![ip.to_string()], searches, options: vec!["ndots:5".to_owned()] }
        }
        None if policy == "None" => DnsConfig::default(),
        None => cluster.host_dns.clone(),
    };
    if let Some(more) = spec.and_then(|s| s.dns_config.as_ref()) {
        dns.nameservers.extend(more.nameservers.iter().flatten().cloned());
        dns.searches.extend(more.searches.iter().flatten().cloned());
        for option in more.options.iter().flatten() {
            let Some(name) = &option.name else { continue };
            dns.options.retain(|o| o.split(':').next() != Some(name));
            dns.options.push(option.value.as_ref().map_or_else(|| name.clone(), |v| format!("{name}:{v}")));
        }
    }
    dedup(&mut dns.nameservers);
    dedup(&mut dns.searches);
    dns
}

fn dedup(list: &mut Vec<String>) {
    let mut seen = std::collections::BTreeSet::new();
    list.retain(|item| seen.insert(item.clone()));
}

fn host_ports(pod: &Pod) -> Result<Vec<HostPort>, ConfigError> {
    let Some(spec) = &pod.spec else { return Ok(Vec::new()) };
    if spec.host_network == Some(true) {
        return Ok(Vec::new());
    }
    let mut ports = Vec::new();
    for p in each(spec).flat_map(|(_, c)| c.ports.iter().flatten()) {
        let Some(host_port) = p.host_port.filter(|p| *p > 0) else { continue };
        let port = |n: i32| u16::try_from(n).map_err(|_| ConfigError::new(format!("port {n} is not a port")));
        let host_ip = match p.host_ip.as_deref().filter(|ip| !ip.is_empty() && *ip != "0.0.0.0") {
            None => None,
            Some(ip) => Some(ip.parse().map_err(|_| ConfigError::new(format!("hostIP {ip:?} is not an address")))?),
        };
        ports.push(HostPort {
            host_ip,
            host_port: port(host_port)?,
            container_port: port(p.container_port)?,
            protocol: p.protocol.as_deref().unwrap_or("TCP").to_lowercase(),
        });
    }
    Ok(ports)
}

/// The spec of a pod's sandbox.
pub(crate) fn of_pod(pod: &Pod, cluster: &Cluster<'_>) -> Result<SandboxSpec, ConfigError> {
    let spec = pod.spec.as_ref();
    let yes = |v: Option<bool>| v == Some(true);
    let m = &pod.metadata;
    Ok(SandboxSpec {
        id: m.uid.clone().unwrap_or_default(),
        namespace: m.namespace.clone().unwrap_or_default(),
        name: m.name.clone().unwrap_or_default(),
        hostname: hostname(pod, cluster)?,
        fqdn: fqdn(pod, cluster),
        dns: Some(dns(pod, cluster)),
        host_aliases: spec
            .iter()
            .flat_map(|s| s.host_aliases.iter().flatten())
            .map(|a| (a.ip.clone(), a.hostnames.clone().unwrap_or_default()))
            .collect(),
        host_network: yes(spec.and_then(|s| s.host_network)),
        host_pid: yes(spec.and_then(|s| s.host_pid)),
        host_ipc: yes(spec.and_then(|s| s.host_ipc)),
        share_process_namespace: yes(spec.and_then(|s| s.share_process_namespace)),
        own_users: spec.and_then(|s| s.host_users) == Some(false),
        host_ports: host_ports(pod)?,
        cgroup: resources::cgroup(pod),
        resources: resources::of_pod(pod),
        sysctls: spec
            .and_then(|s| s.security_context.as_ref())
            .into_iter()
            .flat_map(|s| s.sysctls.iter().flatten())
            .map(|s| (s.name.clone(), s.value.clone()))
            .collect(),
        labels: labels(pod),
        owner: Owner::Pod,
        no_network: false,
        join_network: None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn build(spec: serde_json::Value) -> SandboxSpec {
        let mut pod = json!({"metadata": {"name": "p", "namespace": "ns", "uid": "u"}, "spec": {"containers": []}});
        pod["spec"].as_object_mut().expect("object").extend(spec.as_object().expect("object").clone());
        let pod: Pod = serde_json::from_value(pod).expect("a pod");
        let host = parse_resolv_conf("# c\nnameserver 9.9.9.9\nsearch lan\noptions edns0\n");
        let cluster = Cluster {
            domain: "cluster.local",
            dns_ip: Some("10.96.0.10".parse().expect("ip")),
            host_dns: &host,
            host_name: "host",
        };
        of_pod(&pod, &cluster).expect("a sandbox")
    }

    #[test]
    fn cluster_dns_comes_first_with_the_hosts_searches_after_the_clusters() {
        let dns = build(json!({})).dns.expect("dns");
        assert_eq!(dns.nameservers, ["10.96.0.10"]);
        assert_eq!(dns.searches, ["ns.svc.cluster.local", "svc.cluster.local", "cluster.local", "lan"]);
        assert_eq!(dns.options, ["ndots:5"]);
    }

    #[test]
    fn dns_policies_and_config() {
        assert_eq!(build(json!({"dnsPolicy": "Default"})).dns.expect("dns").nameservers, ["9.9.9.9"]);
        assert_eq!(build(json!({"hostNetwork": true})).dns.expect("dns").nameservers, ["9.9.9.9"]);
        let host_net = json!({"hostNetwork": true, "dnsPolicy": "ClusterFirstWithHostNet"});
        assert_eq!(build(host_net).dns.expect("dns").nameservers, ["10.96.0.10"]);
        let none = json!({"dnsPolicy": "None", "dnsConfig": {"nameservers": ["1.1.1.1"], "options": [{"name": "ndots", "value": "2"}]}});
        let dns = build(none).dns.expect("dns");
        assert_eq!((dns.nameservers, dns.options), (vec!["1.1.1.1".to_owned()], vec!["ndots:2".to_owned()]));
        let merged = json!({"dnsConfig": {"options": [{"name": "ndots", "value": "2"}]}});
        assert_eq!(build(merged).dns.expect("dns").options, ["ndots:2"]);
    }

    #[test]
    fn host_names() {
        assert_eq!(build(json!({})).hostname, "p");
        assert_eq!(build(json!({"hostname": "h", "subdomain": "s"})).hostname, "h");
        let fqdn = json!({"hostname": "h", "subdomain": "s", "setHostnameAsFQDN": true});
        assert_eq!(build(fqdn).hostname, "h.s.ns.svc.cluster.local");
        assert_eq!(build(json!({"hostNetwork": true})).hostname, "host");
        let replaced = build(json!({"hostname": "h", "subdomain": "s", "hostnameOverride": "any.name.example"}));
        assert_eq!((replaced.hostname.as_str(), replaced.fqdn), ("any.name.example", None));
    }

    #[test]
    fn host_ports_are_those_of_all_containers() {
        let s = build(
            json!({"containers": [{"name": "c", "ports": [{"containerPort": 80, "hostPort": 8080}, {"containerPort": 1}]}]}),
        );
        assert_eq!(s.host_ports.len(), 1);
        assert_eq!((s.host_ports[0].host_port, s.host_ports[0].protocol.as_str()), (8080, "tcp"));
    }
}
