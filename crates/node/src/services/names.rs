//! From Services and EndpointSlices to the cluster's names. Pure.

use k8s_openapi::api::core::v1::Service;
use k8s_openapi::api::discovery::v1::EndpointSlice;
use net::Protocol;
use net::dns::{DnsEndpoint, DnsPort, DnsService, DnsServiceKind};

use super::table::{Slices, cluster_ips, is_headless, is_ready, text};

/// Annotation of a Service: further names that mean it, apart by blanks. They are within its namespace, as `web.shop` for
/// `web.shop.NAMESPACE.svc.DOMAIN`; labels may have underscores, which names of Services have not.
const MORE_NAMES: &str = "windlass.dev/names";
/// So many of them count.
const MORE_NAMES_MAX: usize = 64;

fn port(name: &Option<String>, protocol: &Option<String>, number: Option<i32>) -> Option<DnsPort> {
    Some(DnsPort {
        name: text(name).to_owned(),
        protocol: Protocol::parse(text(protocol))?,
        port: number.and_then(|p| u16::try_from(p).ok())?,
    })
}

fn endpoints(slice: &EndpointSlice) -> impl Iterator<Item = DnsEndpoint> {
    let ports: Vec<DnsPort> = slice.ports.iter().flatten().filter_map(|p| port(&p.name, &p.protocol, p.port)).collect();
    slice.endpoints.iter().flatten().filter(|e| is_ready(e)).flat_map(move |e| {
        let ports = ports.clone();
        e.addresses.iter().filter_map(|a| a.parse().ok()).map(move |ip| DnsEndpoint {
            ip,
            hostname: e.hostname.clone().filter(|h| !h.is_empty()),
            ports: ports.clone(),
        })
    })
}

fn kind(service: &Service, slices: &Slices<'_>) -> Option<DnsServiceKind> {
    let spec = service.spec.as_ref()?;
    if spec.type_.as_deref() == Some("ExternalName") {
        let name = spec.external_name.clone().filter(|n| !n.is_empty())?;
        return Some(DnsServiceKind::External { name });
    }
    if is_headless(spec) {
        let key = (text(&service.metadata.namespace), text(&service.metadata.name));
        let own = slices.get(&key).into_iter().flatten();
        return Some(DnsServiceKind::Headless { endpoints: own.flat_map(|s| endpoints(s)).collect() });
    }
    let ips = cluster_ips(spec);
    if ips.is_empty() {
        return None;
    }
    let ports = spec.ports.iter().flatten().filter_map(|p| port(&p.name, &p.protocol, Some(p.port))).collect();
    Some(DnsServiceKind::Cluster { ips, ports })
}

/// Whether a text is labels with dots between them.
fn is_name(name: &str) -> bool {
    let label =
        |l: &str| !l.is_empty() && l.len() <= 63 && l.bytes().all(|b| b.is_ascii_alphanumeric() || b"-_".contains(&b));
    name.len() <= 128 && name.split('.').all(label)
}

/// The names of a Service within its namespace.
fn names(service: &Service) -> impl Iterator<Item = &str> {
    let more = service.metadata.annotations.as_ref().and_then(|a| a.get(MORE_NAMES)).map_or("", String::as_str);
    std::iter::once(text(&service.metadata.name))
        .chain(more.split_whitespace().take(MORE_NAMES_MAX).filter(|name| is_name(name)))
}

/// What each Service resolves to.
pub(super) fn build<'a>(services: impl Iterator<Item = &'a Service>, slices: &Slices<'_>) -> Vec<DnsService> {
    let mut all = Vec::new();
    for service in services {
        let Some(kind) = kind(service, slices) else { continue };
        let namespace = text(&service.metadata.namespace);
        all.extend(names(service).map(|name| DnsService {
            namespace: namespace.to_owned(),
            name: name.to_owned(),
            kind: kind.clone(),
        }));
    }
    all
}

#[cfg(test)]
mod tests {
    use super::super::table::by_service;
    use super::super::table::tests::{service, slice};
    use super::*;
    use serde_json::json;

    #[test]
    fn headless_services_resolve_to_their_ready_endpoints() {
        let service = service(json!({"clusterIP": "None"}));
        let slice = slice(json!([
            {"addresses": ["10.1.0.1"], "hostname": "db-0", "conditions": {"ready": true}},
            {"addresses": ["10.1.0.2"], "conditions": {"ready": false}},
        ]));
        let names = build(std::iter::once(&service), &by_service(std::iter::once(&slice)));
        let DnsServiceKind::Headless { endpoints } = &names[0].kind else { panic!("headless") };
        assert_eq!(endpoints.len(), 1);
        assert_eq!(endpoints[0].hostname.as_deref(), Some("db-0"));
        assert_eq!(endpoints[0].ports[0].port, 8080);
    }

    #[test]
    fn further_names_mean_the_same_within_the_namespace() {
        let mut service = service(json!({"clusterIP": "None"}));
        let more = "web.shop tasks.shop_web.shop bad..name no/name";
        service.metadata.annotations = Some([(MORE_NAMES.to_owned(), more.to_owned())].into());
        let names = build(std::iter::once(&service), &Slices::new());
        let all: Vec<(&str, &str)> = names.iter().map(|n| (n.namespace.as_str(), n.name.as_str())).collect();
        assert_eq!(all, [("ns", "s"), ("ns", "web.shop"), ("ns", "tasks.shop_web.shop")]);
    }

    #[test]
    fn others_resolve_to_their_address_or_another_name() {
        let cluster = service(json!({"clusterIP": "10.0.0.1", "ports": [{"name": "web", "port": 80}]}));
        let external = service(json!({"type": "ExternalName", "externalName": "example.com"}));
        let names = build([&cluster, &external].into_iter(), &Slices::new());
        assert!(
            matches!(&names[0].kind, DnsServiceKind::Cluster { ips, ports } if ips.len() == 1 && ports[0].port == 80)
        );
        assert!(matches!(&names[1].kind, DnsServiceKind::External { name } if name == "example.com"));
    }
}
