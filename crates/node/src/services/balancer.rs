//! Services of type `LoadBalancer` that name no class: the nodes themselves are the load balancer, each on its own addresses, as
//! there is nobody else on machines of one's own. A node answers for a Service when it has all of its ports to itself.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use k8s_openapi::Resource;
use k8s_openapi::api::core::v1::{LoadBalancerIngress, ObjectReference, Service};
use kube::api::{Api, Patch, PatchParams};
use net::{Network, Protocol};
use serde_json::{Value, json};

use super::table::{is_headless, text};
use crate::context::Context;

/// Namespace and name.
pub(super) type Owner = (String, String);

/// Who answers for which Service.
pub(super) struct Balancer {
    ctx: Arc<Context>,
    /// What the Services that cannot be answered for were told.
    told: BTreeMap<Owner, String>,
}

/// What came of the Services.
pub(super) struct Held {
    /// Those that this node answers for.
    pub services: BTreeSet<Owner>,
    /// Whether one is waiting for a port, of which nobody says when it becomes free.
    pub waiting: bool,
}

impl Balancer {
    pub fn new(ctx: Arc<Context>) -> Self {
        Balancer { ctx, told: BTreeMap::new() }
    }

    /// Takes the ports that are wanted and lets the others go.
    pub fn hold(&mut self, network: &Network, services: &[Arc<Service>]) -> Held {
        let wanted = wanted(services);
        let claims: Vec<_> = wanted.iter().map(|((ns, name), ports)| (format!("{ns}/{name}"), ports.clone())).collect();
        let refused = network.hold_ports(&claims);
        let (mut held, mut told) = (BTreeSet::new(), BTreeMap::new());
        for ((owner, _), (claim, _)) in wanted.into_iter().zip(&claims) {
            match refused.get(claim) {
                None => drop(held.insert(owner)),
                Some(error) => {
                    let message = format!("node {}: {}", self.ctx.config.node_name, base::chain(error));
                    if self.told.get(&owner) != Some(&message)
                        && let Some(service) = services.iter().find(|s| is(s, &owner))
                    {
                        self.ctx.recorder.warn(reference(service), "PortUnavailable", message.clone());
                    }
                    told.insert(owner, message);
                }
            }
        }
        self.told = told;
        Held { waiting: !self.told.is_empty(), services: held }
    }

    /// Writes this node's address into the status of those it answers for, and out of all others.
    pub fn report(&self, services: &[Arc<Service>], held: &BTreeSet<Owner>) {
        let address = self.ctx.config.node_ip.to_string();
        for service in services {
            let owner = owner(service);
            let Some(all) = addresses(service, &address, held.contains(&owner)) else { continue };
            // With the version that was looked at: another node that writes its own address meanwhile is not overwritten. The
            // change that it makes brings this back.
            let version = &service.metadata.resource_version;
            let patch = json!({"metadata": {"resourceVersion": version}, "status": {"loadBalancer": {"ingress": all}}});
            let api: Api<Service> = Api::namespaced(self.ctx.client(), &owner.0);
            tokio::spawn(async move {
                if let Err(error) = api.patch_status(&owner.1, &PatchParams::default(), &Patch::Merge(patch)).await {
                    tracing::debug!(%error, name = owner.1, "status of a service not written");
                }
            });
        }
    }
}

fn owner(service: &Service) -> Owner {
    (text(&service.metadata.namespace).to_owned(), text(&service.metadata.name).to_owned())
}

fn is(service: &Service, (namespace, name): &Owner) -> bool {
    text(&service.metadata.namespace) == namespace && text(&service.metadata.name) == name
}

/// The Services to answer for and their ports; who was there first comes first.
fn wanted(services: &[Arc<Service>]) -> Vec<(Owner, Vec<(Protocol, u16)>)> {
    let mut all: Vec<_> = services
        .iter()
        .filter_map(|service| {
            let spec = service.spec.as_ref()?;
            let ours = spec.type_.as_deref() == Some("LoadBalancer") && spec.load_balancer_class.is_none();
            if !ours || is_headless(spec) || service.metadata.deletion_timestamp.is_some() {
                return None;
            }
            let port = |p: &k8s_openapi::api::core::v1::ServicePort| {
                Some((Protocol::parse(text(&p.protocol))?, u16::try_from(p.port).ok()?))
            };
            let ports: Vec<_> = spec.ports.iter().flatten().filter_map(port).collect();
            Some((service.metadata.creation_timestamp.clone(), owner(service), ports))
        })
        .collect();
    all.sort();
    all.into_iter().map(|(_, owner, ports)| (owner, ports)).collect()
}

/// The addresses of a Service with this one or without it; none when they are so already.
fn addresses(service: &Service, address: &str, held: bool) -> Option<Value> {
    let status = service.status.as_ref().and_then(|s| s.load_balancer.as_ref()).and_then(|l| l.ingress.as_ref());
    let all: Vec<&LoadBalancerIngress> = status.into_iter().flatten().collect();
    let there = all.iter().any(|i| i.ip.as_deref() == Some(address));
    let foreign = service.spec.as_ref().is_some_and(|s| s.load_balancer_class.is_some());
    if there == held || foreign {
        return None;
    }
    let mut kept: Vec<Value> = all.iter().filter(|i| i.ip.as_deref() != Some(address)).map(|i| json!(i)).collect();
    if held {
        kept.push(json!({"ip": address, "ipMode": "VIP"}));
    }
    // A merge patch takes away what is null (RFC 7396).
    Some(if kept.is_empty() { Value::Null } else { Value::Array(kept) })
}

fn reference(service: &Service) -> ObjectReference {
    let m = &service.metadata;
    ObjectReference {
        api_version: Some(Service::API_VERSION.to_owned()),
        kind: Some(Service::KIND.to_owned()),
        namespace: m.namespace.clone(),
        name: m.name.clone(),
        uid: m.uid.clone(),
        resource_version: m.resource_version.clone(),
        field_path: None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn service(name: &str, second: u32, spec: Value, ingress: Value) -> Arc<Service> {
        let object = json!({
            "metadata": {"name": name, "namespace": "ns", "creationTimestamp": format!("2026-01-01T00:00:{second:02}Z")},
            "spec": spec, "status": {"loadBalancer": {"ingress": ingress}},
        });
        Arc::new(serde_json::from_value(object).expect("a service"))
    }

    fn balanced(name: &str, second: u32) -> Arc<Service> {
        let ports = json!([{"port": 80}, {"port": 53, "protocol": "UDP"}]);
        service(name, second, json!({"type": "LoadBalancer", "ports": ports}), json!([]))
    }

    #[test]
    fn the_oldest_is_answered_for_first_and_those_of_a_class_never() {
        let class = json!({"type": "LoadBalancer", "loadBalancerClass": "example.com/vip", "ports": [{"port": 80}]});
        let node = json!({"type": "NodePort", "ports": [{"port": 80}]});
        let (class, node) = (service("c", 0, class, json!([])), service("n", 0, node, json!([])));
        let all = [balanced("young", 9), class, node, balanced("old", 1)];
        let names: Vec<_> = wanted(&all).into_iter().map(|((_, name), ports)| (name, ports)).collect();
        let ports = vec![(Protocol::Tcp, 80), (Protocol::Udp, 53)];
        assert_eq!(names, [("old".to_owned(), ports.clone()), ("young".to_owned(), ports)]);
    }

    #[test]
    fn only_the_own_address_is_written_and_taken_away() {
        let of = |ingress: Value| service("s", 0, json!({"type": "LoadBalancer"}), ingress);
        let added = addresses(&of(json!([{"ip": "10.0.0.2"}])), "10.0.0.1", true);
        assert_eq!(added, Some(json!([{"ip": "10.0.0.2"}, {"ip": "10.0.0.1", "ipMode": "VIP"}])));
        assert_eq!(addresses(&of(json!([{"ip": "10.0.0.1"}])), "10.0.0.1", true), None);
        let gone = addresses(&of(json!([{"ip": "10.0.0.1"}, {"ip": "10.0.0.2"}])), "10.0.0.1", false);
        assert_eq!(gone, Some(json!([{"ip": "10.0.0.2"}])));
        assert_eq!(addresses(&of(json!([{"ip": "10.0.0.1"}])), "10.0.0.1", false), Some(Value::Null));
        assert_eq!(addresses(&of(json!([])), "10.0.0.1", false), None);
        let class = json!({"type": "LoadBalancer", "loadBalancerClass": "example.com/vip"});
        assert_eq!(addresses(&service("s", 0, class, json!([{"ip": "10.0.0.1"}])), "10.0.0.1", false), None);
    }
}
