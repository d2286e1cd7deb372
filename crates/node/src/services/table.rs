//! From Services and EndpointSlices to the forwarding table. Pure.

use std::collections::{BTreeMap, BTreeSet};
use std::net::Ipv4Addr;

use super::balancer::Owner;
use k8s_openapi::api::core::v1::{Service, ServicePort, ServiceSpec};
use k8s_openapi::api::discovery::v1::{Endpoint as SliceEndpoint, EndpointSlice};
use net::{CidrText, Endpoint, Protocol, ServiceEntry, ServiceTable, TrafficPolicy};

/// Label that names the Service of a slice.
pub(super) const SERVICE_LABEL: &str = "kubernetes.io/service-name";
/// Seconds of `ClientIP` affinity when none are given.
const AFFINITY_DEFAULT: u32 = 10_800;

/// Slices by namespace and name of their Service.
pub(super) type Slices<'a> = BTreeMap<(&'a str, &'a str), Vec<&'a EndpointSlice>>;

pub(super) fn text(s: &Option<String>) -> &str {
    s.as_deref().unwrap_or_default()
}

pub(super) fn by_service<'a>(slices: impl Iterator<Item = &'a EndpointSlice>) -> Slices<'a> {
    let mut all = Slices::new();
    for slice in slices.filter(|s| s.address_type == "IPv4") {
        if let Some(service) = slice.metadata.labels.as_ref().and_then(|l| l.get(SERVICE_LABEL)) {
            all.entry((text(&slice.metadata.namespace), service.as_str())).or_default().push(slice);
        }
    }
    all
}

pub(super) fn cluster_ips(spec: &ServiceSpec) -> Vec<Ipv4Addr> {
    let many = spec.cluster_ips.iter().flatten();
    let all: BTreeSet<Ipv4Addr> = many.chain(&spec.cluster_ip).filter_map(|ip| ip.parse().ok()).collect();
    all.into_iter().collect()
}

pub(super) fn is_headless(spec: &ServiceSpec) -> bool {
    spec.cluster_ip.as_deref() == Some("None")
}

/// Whether new connections may go to an endpoint.
pub(super) fn is_ready(e: &SliceEndpoint) -> bool {
    e.conditions.as_ref().and_then(|c| c.ready) != Some(false)
}

/// Whether an endpoint that is going away still answers.
fn is_serving(e: &SliceEndpoint) -> bool {
    e.conditions.as_ref().is_some_and(|c| c.serving == Some(true) && c.terminating == Some(true))
}

/// The endpoints of one port: those that are ready, or else those that still serve while they go away.
fn endpoints(slices: &[&EndpointSlice], port: &ServicePort, protocol: Protocol, node: &str) -> Vec<Endpoint> {
    let (mut ready, mut serving) = (BTreeSet::new(), BTreeSet::new());
    for slice in slices {
        let number = slice.ports.iter().flatten().find(|p| {
            let same = text(&p.name) == text(&port.name);
            same && Protocol::parse(text(&p.protocol)) == Some(protocol)
        });
        let Some(number) = number.and_then(|p| p.port).and_then(|p| u16::try_from(p).ok()) else { continue };
        for e in slice.endpoints.iter().flatten() {
            let into = match (is_ready(e), is_serving(e)) {
                (true, _) => &mut ready,
                (false, true) => &mut serving,
                (false, false) => continue,
            };
            let local = e.node_name.as_deref() == Some(node);
            into.extend(e.addresses.iter().filter_map(|a| a.parse().ok()).map(|ip| Endpoint {
                ip,
                port: number,
                local,
            }));
        }
    }
    let chosen = if ready.is_empty() { serving } else { ready };
    chosen.into_iter().collect()
}

/// What of this node the table depends on.
#[derive(Clone, Copy)]
pub(super) struct Here<'a> {
    /// Its name.
    pub node: &'a str,
    /// The Services that it is the load balancer of.
    pub balanced: &'a BTreeSet<Owner>,
}

fn policy(p: &Option<String>) -> TrafficPolicy {
    if p.as_deref() == Some("Local") { TrafficPolicy::Local } else { TrafficPolicy::Cluster }
}

fn entry(service: &Service, slices: &Slices<'_>, here: &Here<'_>) -> Option<ServiceEntry> {
    let spec = service.spec.as_ref()?;
    let (namespace, name) = (text(&service.metadata.namespace), text(&service.metadata.name));
    if spec.type_.as_deref() == Some("ExternalName") || is_headless(spec) {
        return None;
    }
    let ips = cluster_ips(spec);
    if ips.is_empty() {
        return None;
    }
    let none = Vec::new();
    let own = slices.get(&(namespace, name)).unwrap_or(&none);
    let balancer = service.status.as_ref().and_then(|s| s.load_balancer.as_ref()).and_then(|l| l.ingress.as_ref());
    let balanced = balancer.into_iter().flatten().filter_map(|i| i.ip.as_ref());
    let external: BTreeSet<Ipv4Addr> =
        spec.external_ips.iter().flatten().chain(balanced).filter_map(|ip| ip.parse().ok()).collect();
    let affinity = (spec.session_affinity.as_deref() == Some("ClientIP")).then(|| {
        let given = spec.session_affinity_config.as_ref().and_then(|c| c.client_ip.as_ref()?.timeout_seconds);
        given.and_then(|s| u32::try_from(s).ok()).unwrap_or(AFFINITY_DEFAULT)
    });
    let ports = spec.ports.iter().flatten().filter_map(|p| {
        let protocol = Protocol::parse(text(&p.protocol))?;
        Some(net::ServicePort {
            protocol,
            port: u16::try_from(p.port).ok()?,
            node_port: p.node_port.and_then(|n| u16::try_from(n).ok()).filter(|n| *n > 0),
            endpoints: endpoints(own, p, protocol, here.node),
        })
    });
    Some(ServiceEntry {
        namespace: namespace.to_owned(),
        name: name.to_owned(),
        cluster_ips: ips,
        external_ips: external.into_iter().collect(),
        ports: ports.collect(),
        session_affinity: affinity,
        internal_traffic: policy(&spec.internal_traffic_policy),
        external_traffic: policy(&spec.external_traffic_policy),
        source_ranges: spec
            .load_balancer_source_ranges
            .iter()
            .flatten()
            .filter_map(|r| CidrText::try_from(r.trim().to_owned()).ok())
            .collect(),
        on_host: here.balanced.contains(&(namespace.to_owned(), name.to_owned())),
    })
}

/// The table for these objects, in the order of names.
pub(super) fn build<'a>(
    services: impl Iterator<Item = &'a Service>,
    slices: &Slices<'_>,
    here: &Here<'_>,
) -> ServiceTable {
    let mut entries: Vec<ServiceEntry> = services.filter_map(|s| entry(s, slices, here)).collect();
    entries.sort_by(|a, b| (&a.namespace, &a.name).cmp(&(&b.namespace, &b.name)));
    ServiceTable { services: entries }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use serde_json::{Value, json};

    static NONE: BTreeSet<Owner> = BTreeSet::new();
    const ME: Here<'static> = Here { node: "me", balanced: &NONE };

    pub(crate) fn service(spec: Value) -> Service {
        serde_json::from_value(json!({"metadata": {"name": "s", "namespace": "ns"}, "spec": spec})).expect("a service")
    }

    pub(crate) fn slice(endpoints: Value) -> EndpointSlice {
        serde_json::from_value(json!({
            "metadata": {"name": "s-1", "namespace": "ns", "labels": {SERVICE_LABEL: "s"}},
            "addressType": "IPv4", "ports": [{"name": "web", "port": 8080, "protocol": "TCP"}], "endpoints": endpoints,
        }))
        .expect("a slice")
    }

    fn targets(endpoints: Value) -> Vec<(String, bool)> {
        let service = service(json!({"clusterIP": "10.0.0.1", "ports": [{"name": "web", "port": 80}]}));
        let slice = slice(endpoints);
        let table = build(std::iter::once(&service), &by_service(std::iter::once(&slice)), &ME);
        table.services[0].ports[0].endpoints.iter().map(|e| (format!("{}:{}", e.ip, e.port), e.local)).collect()
    }

    #[test]
    fn ready_endpoints_take_traffic_and_local_ones_are_marked() {
        let got = targets(json!([
            {"addresses": ["10.1.0.1"], "nodeName": "me", "conditions": {"ready": true}},
            {"addresses": ["10.1.0.2"], "nodeName": "other", "conditions": {}},
            {"addresses": ["10.1.0.3"], "conditions": {"ready": false, "serving": true, "terminating": true}},
            {"addresses": ["10.1.0.4"], "conditions": {"ready": false}},
        ]));
        assert_eq!(got, [("10.1.0.1:8080".into(), true), ("10.1.0.2:8080".into(), false)]);
    }

    #[test]
    fn when_none_is_ready_those_going_away_still_serve() {
        let got = targets(json!([
            {"addresses": ["10.1.0.3"], "conditions": {"ready": false, "serving": true, "terminating": true}},
            {"addresses": ["10.1.0.4"], "conditions": {"ready": false}},
        ]));
        assert_eq!(got, [("10.1.0.3:8080".into(), false)]);
    }

    #[test]
    fn headless_and_external_services_are_not_forwarded() {
        for spec in [json!({"clusterIP": "None"}), json!({"type": "ExternalName", "externalName": "x"}), json!({})] {
            assert!(build(std::iter::once(&service(spec)), &Slices::new(), &ME).services.is_empty());
        }
    }

    #[test]
    fn all_of_a_service_is_carried_over() {
        let service = service(json!({
            "clusterIP": "10.0.0.1", "clusterIPs": ["10.0.0.1", "fd00::1"], "externalIPs": ["1.2.3.4"],
            "sessionAffinity": "ClientIP", "externalTrafficPolicy": "Local", "loadBalancerSourceRanges": ["10.0.0.0/8"],
            "ports": [{"port": 53, "protocol": "UDP", "nodePort": 30053}],
        }));
        let table = build(std::iter::once(&service), &Slices::new(), &ME);
        let e = &table.services[0];
        assert_eq!((e.cluster_ips.len(), e.external_ips.len(), e.session_affinity), (1, 1, Some(10_800)));
        assert_eq!((e.external_traffic, e.internal_traffic), (TrafficPolicy::Local, TrafficPolicy::Cluster));
        assert_eq!((e.ports[0].protocol, e.ports[0].node_port, e.source_ranges.len()), (Protocol::Udp, Some(30053), 1));
    }
}
