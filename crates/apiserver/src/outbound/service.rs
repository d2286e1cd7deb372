//! From a Service to what serves it.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use api::labels::Labelled as _;
use rand::seq::SliceRandom as _;
use serde_json::Value;

use super::Host;
use crate::cache::{Caches, Entry};

/// Names the Service that a slice belongs to.
const SERVICE_NAME: &str = "kubernetes.io/service-name";

/// One address of a Service.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Endpoint {
    /// Where.
    pub address: SocketAddr,
    /// The pod of the same namespace that is said to be there.
    pub pod: Option<String>,
}

/// A Service, looked up.
pub(crate) struct Found {
    /// The Service.
    pub service: Value,
    /// Its slices.
    pub slices: Vec<Arc<Entry>>,
}

impl Found {
    /// The Service and its slices, if there is such a Service.
    pub fn look(caches: &Caches, namespace: &str, name: &str) -> Option<Self> {
        let service = caches.core("services").get(&format!("{namespace}/{name}"))?.value();
        let of = |e: &Entry| e.facts.labels.label(SERVICE_NAME) == Some(name);
        let slices = caches.by("discovery.k8s.io", "endpointslices");
        let slices = slices.map(|cache| cache.snapshot(namespace, None, 0, false, of).entries).unwrap_or_default();
        Some(Found { service, slices })
    }

    /// The name of a port of the Service, by its number.
    pub fn port_name(&self, port: u64) -> Option<&str> {
        let mut ports = self.service["spec"]["ports"].as_array()?.iter();
        ports.find(|p| p["port"].as_u64() == Some(port)).map(|p| p["name"].as_str().unwrap_or(""))
    }

    /// The ready endpoints of a port, in random order.
    pub fn ready(&self, port_name: &str) -> Vec<Endpoint> {
        let mut out: Vec<Endpoint> = Vec::new();
        for slice in self.slices.iter().map(|e| e.value()) {
            let named = |p: &&Value| p["name"].as_str().unwrap_or("") == port_name;
            let port = slice["ports"].as_array().and_then(|ports| ports.iter().find(named));
            let Some(port) = port.and_then(|p| u16::try_from(p["port"].as_u64()?).ok()) else { continue };
            for endpoint in slice["endpoints"].as_array().into_iter().flatten() {
                if endpoint["conditions"]["ready"] == false {
                    continue;
                }
                let target = &endpoint["targetRef"];
                let of_namespace = target["kind"] == "Pod" && target["namespace"] == slice["metadata"]["namespace"];
                let pod = target["name"].as_str().filter(|_| of_namespace).map(str::to_owned);
                let addresses = endpoint["addresses"].as_array().into_iter().flatten();
                let addresses = addresses.filter_map(|a| a.as_str()?.parse::<IpAddr>().ok());
                out.extend(addresses.map(|ip| Endpoint { address: SocketAddr::new(ip, port), pod: pod.clone() }));
            }
        }
        out.shuffle(&mut rand::rng());
        out
    }

    /// The places that serve a port, in random order: ready endpoints, or the name of a Service of type ExternalName.
    ///
    /// # Errors
    /// Kubernetes' sentence for why there is none.
    pub fn places(&self, port: u64) -> Result<Vec<Host>, String> {
        let (spec, name) = (&self.service["spec"], api::meta::name(&self.service));
        if spec["type"] == "ExternalName" {
            let host = spec["externalName"].as_str().unwrap_or("").to_owned();
            return Ok(vec![Host::Name(host, u16::try_from(port).unwrap_or(443))]);
        }
        let missing = || format!("no service port {port} found for service {name:?}");
        let ready = self.ready(self.port_name(port).ok_or_else(missing)?);
        if ready.is_empty() {
            return Err(format!("no endpoints available for service {name:?}"));
        }
        Ok(ready.into_iter().map(|e| Host::Address(e.address)).collect())
    }
}

/// Whether the pod has the address, and so an endpoint that claims so is not a way to elsewhere.
pub(crate) fn is_of_pod(caches: &Caches, namespace: &str, endpoint: &Endpoint) -> bool {
    let Some(pod) = endpoint.pod.as_ref().and_then(|name| caches.core("pods").get(&format!("{namespace}/{name}")))
    else {
        return false;
    };
    addresses(&pod.value()).contains(&endpoint.address.ip())
}

/// `status.podIPs`, the first one first.
pub(crate) fn addresses(pod: &Value) -> Vec<IpAddr> {
    let status = &pod["status"];
    let all = status["podIPs"].as_array().into_iter().flatten().map(|ip| &ip["ip"]);
    let mut out: Vec<IpAddr> = Vec::new();
    for ip in std::iter::once(&status["podIP"]).chain(all).filter_map(|ip| ip.as_str()?.parse().ok()) {
        if !out.contains(&ip) {
            out.push(ip);
        }
    }
    out
}

/// Whether an address is one that a pod or node is reached at from elsewhere: not loopback, link-local, multicast or
/// unspecified (Go's `IsGlobalUnicast`).
pub(crate) fn is_global_unicast(ip: IpAddr) -> bool {
    match ip {
        IpAddr::V4(ip) => {
            !(ip.is_unspecified() || ip.is_loopback() || ip.is_multicast() || ip.is_link_local() || ip.is_broadcast())
        }
        IpAddr::V6(ip) => !(ip.is_unspecified() || ip.is_loopback() || ip.is_multicast() || ip.is_unicast_link_local()),
    }
}
