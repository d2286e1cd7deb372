//! EndpointSlices of a Service (and its Endpoints object), from the pods that its selector picks.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::{
    EndpointAddress, EndpointPort as LegacyPort, EndpointSubset, Endpoints, ObjectReference, Pod, Service, ServicePort,
};
use k8s_openapi::api::discovery::v1::{Endpoint, EndpointConditions, EndpointPort, EndpointSlice};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use serde_json::{Value, json};

use crate::plan::{ENDPOINT_SLICES, ENDPOINTS, Plan, SERVICES, name, namespace, owner_reference, terminating, uid};
use crate::pods;

/// Most endpoints in a slice (the default of kube-controller-manager).
const PER_SLICE: usize = 100;
/// Most addresses in an Endpoints object (core/v1).
const PER_ENDPOINTS: usize = 1000;
const MANAGER: &str = "endpointslice-controller.k8s.io";
const SERVICE_NAME: &str = "kubernetes.io/service-name";
const MANAGED_BY: &str = "endpointslice.kubernetes.io/managed-by";

/// Decides for one Service, given the pods of its namespace, the slices that name it, and its Endpoints.
pub fn plan(service: &Service, all_pods: &[&Pod], slices: &[&EndpointSlice], endpoints: Option<&Endpoints>) -> Plan {
    let mut plan = Plan::default();
    let Some(spec) = &service.spec else { return plan };
    let selector = spec.selector.clone().unwrap_or_default();
    if terminating(&service.metadata) || selector.is_empty() || spec.type_.as_deref() == Some("ExternalName") {
        return plan; // without a selector, people write the slices themselves
    }
    let groups = group(service, all_pods, &selector);
    let mine: Vec<&EndpointSlice> = slices.iter().copied().filter(|s| label(s, MANAGED_BY) == Some(MANAGER)).collect();
    sync_slices(service, &groups, &mine, &mut plan);
    sync_endpoints(service, &groups, endpoints, &mut plan);
    plan
}

fn label<'a>(slice: &'a EndpointSlice, key: &str) -> Option<&'a str> {
    slice.metadata.labels.as_ref()?.get(key).map(String::as_str)
}

/// Endpoints by the ports that they serve: a named target port may differ from pod to pod.
type Groups = Vec<(Vec<EndpointPort>, Vec<Endpoint>)>;

fn group(service: &Service, all_pods: &[&Pod], selector: &BTreeMap<String, String>) -> Groups {
    let spec = service.spec.clone().unwrap_or_default();
    let mut groups: Groups = Vec::new();
    let mut picked: Vec<&&Pod> = all_pods.iter().filter(|p| selects(selector, p) && counts(p)).collect();
    picked.sort_by_key(|p| name(&p.metadata));
    for pod in picked {
        let ports: Vec<EndpointPort> =
            spec.ports.iter().flatten().filter_map(|p| Some(port(p, target(p, pod)?))).collect();
        if ports.is_empty() && spec.ports.as_ref().is_some_and(|p| !p.is_empty()) {
            continue; // the pod has none of the named ports
        }
        let endpoint = endpoint(service, pod, spec.publish_not_ready_addresses == Some(true));
        match groups.iter_mut().find(|(p, _)| *p == ports) {
            Some((_, list)) => list.push(endpoint),
            None => groups.push((ports, vec![endpoint])),
        }
    }
    groups
}

fn selects(selector: &BTreeMap<String, String>, pod: &Pod) -> bool {
    let labels = pod.metadata.labels.as_ref();
    selector.iter().all(|(k, v)| labels.and_then(|l| l.get(k)) == Some(v))
}

fn counts(pod: &Pod) -> bool {
    !pods::finished(pod) && pod_ip(pod).is_some()
}

fn pod_ip(pod: &Pod) -> Option<&str> {
    pod.status.as_ref()?.pod_ip.as_deref().filter(|ip| !ip.is_empty())
}

/// The number behind a Service's target port in a pod.
fn target(p: &ServicePort, pod: &Pod) -> Option<i32> {
    match &p.target_port {
        None => Some(p.port),
        Some(IntOrString::Int(0)) => Some(p.port),
        Some(IntOrString::Int(n)) => Some(*n),
        Some(IntOrString::String(wanted)) => {
            let spec = pod.spec.as_ref()?;
            let containers = spec
                .containers
                .iter()
                .chain(spec.init_containers.iter().flatten().filter(|c| c.restart_policy.as_deref() == Some("Always")));
            let protocol = p.protocol.as_deref().unwrap_or("TCP");
            containers
                .flat_map(|c| c.ports.iter().flatten())
                .find(|c| c.name.as_ref() == Some(wanted) && c.protocol.as_deref().unwrap_or("TCP") == protocol)
                .map(|c| c.container_port)
        }
    }
}

fn port(p: &ServicePort, number: i32) -> EndpointPort {
    EndpointPort {
        app_protocol: p.app_protocol.clone(),
        name: Some(p.name.clone().unwrap_or_default()),
        port: Some(number),
        protocol: Some(p.protocol.clone().unwrap_or_else(|| "TCP".into())),
    }
}

fn endpoint(service: &Service, pod: &Pod, publish_not_ready: bool) -> Endpoint {
    let leaving = terminating(&pod.metadata);
    let serving = pods::ready(pod) || publish_not_ready;
    let spec = pod.spec.as_ref();
    // A host name of its own in the Service's domain, when the pod names the Service as its subdomain.
    let hostname =
        spec.filter(|s| s.subdomain.as_deref() == Some(name(&service.metadata))).and_then(|s| s.hostname.clone());
    Endpoint {
        addresses: pod_ip(pod).map(str::to_owned).into_iter().collect(),
        conditions: Some(EndpointConditions {
            ready: Some((serving && !leaving) || publish_not_ready),
            serving: Some(serving),
            terminating: Some(leaving),
        }),
        hostname,
        node_name: spec.and_then(|s| s.node_name.clone()),
        target_ref: Some(ObjectReference {
            kind: Some("Pod".into()),
            name: pod.metadata.name.clone(),
            namespace: pod.metadata.namespace.clone(),
            uid: pod.metadata.uid.clone(),
            ..Default::default()
        }),
        ..Default::default()
    }
}

fn sync_slices(service: &Service, groups: &Groups, mine: &[&EndpointSlice], plan: &mut Plan) {
    let mut free: Vec<&EndpointSlice> = mine.iter().copied().filter(|s| !terminating(&s.metadata)).collect();
    free.sort_by_key(|s| name(&s.metadata));
    let empty = vec![(Vec::new(), Vec::new())];
    let groups = if groups.is_empty() { &empty } else { groups };
    for (ports, endpoints) in groups {
        let chunks: Vec<&[Endpoint]> =
            if endpoints.is_empty() { vec![&[][..]] } else { endpoints.chunks(PER_SLICE).collect() };
        for chunk in chunks {
            let same_ports = free.iter().position(|s| s.ports.as_deref().unwrap_or_default() == ports.as_slice());
            // An empty slice may be given other ports; one in use keeps its own.
            let reusable = same_ports.or_else(|| (!free.is_empty()).then_some(0));
            match reusable.map(|i| free.remove(i)) {
                Some(slice) => update_slice(service, slice, ports, chunk, plan),
                None => create_slice(service, ports, chunk, plan),
            }
        }
    }
    for slice in free {
        plan.delete(ENDPOINT_SLICES, &slice.metadata, None);
    }
}

fn slice_labels(service: &Service) -> BTreeMap<String, String> {
    let mut labels = service.metadata.labels.clone().unwrap_or_default();
    labels.insert(SERVICE_NAME.into(), name(&service.metadata).to_owned());
    labels.insert(MANAGED_BY.into(), MANAGER.into());
    if service.spec.as_ref().and_then(|s| s.cluster_ip.as_deref()) == Some("None") {
        labels.insert("service.kubernetes.io/headless".into(), String::new());
    }
    labels
}

fn create_slice(service: &Service, ports: &[EndpointPort], endpoints: &[Endpoint], plan: &mut Plan) {
    let slice = EndpointSlice {
        address_type: "IPv4".into(),
        metadata: ObjectMeta {
            generate_name: Some(format!("{}-", name(&service.metadata))),
            namespace: service.metadata.namespace.clone(),
            labels: Some(slice_labels(service)),
            owner_references: Some(vec![owner_reference(SERVICES, &service.metadata)]),
            ..Default::default()
        },
        endpoints: Some(endpoints.to_vec()),
        ports: Some(ports.to_vec()),
    };
    plan.create(ENDPOINT_SLICES, Some(namespace(&service.metadata)), &slice);
}

fn update_slice(
    service: &Service,
    slice: &EndpointSlice,
    ports: &[EndpointPort],
    endpoints: &[Endpoint],
    plan: &mut Plan,
) {
    let labels = slice_labels(service);
    let has = slice.metadata.labels.clone().unwrap_or_default();
    let same = slice.endpoints.as_deref().unwrap_or_default() == endpoints
        && slice.ports.as_deref().unwrap_or_default() == ports
        && labels == has;
    if same {
        return;
    }
    let meta = relabel(slice, &labels);
    plan.patch(ENDPOINT_SLICES, &slice.metadata, json!({"metadata": meta, "endpoints": endpoints, "ports": ports}));
}

/// The metadata of a patch after which the slice has these labels and no others, if it is still the one that was seen.
pub(crate) fn relabel(slice: &EndpointSlice, labels: &BTreeMap<String, String>) -> Value {
    let mut wanted = json!(labels);
    for key in slice.metadata.labels.iter().flatten().map(|(k, _)| k).filter(|k| !labels.contains_key(*k)) {
        wanted[key.as_str()] = Value::Null;
    }
    json!({"uid": slice.metadata.uid, "resourceVersion": slice.metadata.resource_version, "labels": wanted})
}

fn sync_endpoints(service: &Service, groups: &Groups, existing: Option<&Endpoints>, plan: &mut Plan) {
    let mut subsets = Vec::new();
    let mut left = PER_ENDPOINTS;
    for (ports, endpoints) in groups {
        let (ready, not_ready): (Vec<_>, Vec<_>) = endpoints
            .iter()
            .filter(|e| e.conditions.as_ref().and_then(|c| c.terminating) != Some(true))
            .take(left)
            .partition(|e| e.conditions.as_ref().and_then(|c| c.ready) == Some(true));
        left -= ready.len() + not_ready.len();
        if ready.is_empty() && not_ready.is_empty() {
            continue;
        }
        let list = |from: Vec<&Endpoint>| (!from.is_empty()).then(|| from.into_iter().map(address).collect());
        let ports = ports.iter().map(|p| LegacyPort {
            app_protocol: p.app_protocol.clone(),
            name: p.name.clone().filter(|n| !n.is_empty()),
            port: p.port.unwrap_or(0),
            protocol: p.protocol.clone(),
        });
        subsets.push(EndpointSubset {
            addresses: list(ready),
            not_ready_addresses: list(not_ready),
            ports: Some(ports.collect()),
        });
    }
    let subsets = (!subsets.is_empty()).then_some(subsets);
    match existing {
        None => {
            let mut labels = service.metadata.labels.clone().unwrap_or_default();
            labels.insert("endpoints.kubernetes.io/managed-by".into(), "endpoint-controller".into());
            let object = Endpoints {
                metadata: ObjectMeta {
                    name: service.metadata.name.clone(),
                    namespace: service.metadata.namespace.clone(),
                    labels: Some(labels),
                    owner_references: Some(vec![owner_reference(SERVICES, &service.metadata)]),
                    ..Default::default()
                },
                subsets,
            };
            plan.create(ENDPOINTS, service.metadata.namespace.as_deref(), &object);
        }
        Some(e) if e.subsets == subsets || uid(&e.metadata).is_empty() => {}
        Some(e) => {
            let meta = json!({"uid": e.metadata.uid, "resourceVersion": e.metadata.resource_version});
            plan.patch(ENDPOINTS, &e.metadata, json!({"metadata": meta, "subsets": subsets}));
        }
    }
}

fn address(e: &Endpoint) -> EndpointAddress {
    EndpointAddress {
        ip: e.addresses.first().cloned().unwrap_or_default(),
        hostname: e.hostname.clone(),
        node_name: e.node_name.clone(),
        target_ref: e.target_ref.clone(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::plan::Action;

    fn service() -> Service {
        serde_json::from_value(json!({"metadata": {"name": "api", "namespace": "default", "uid": "s"},
            "spec": {"clusterIP": "10.96.0.5", "selector": {"app": "api"}, "ports": [{"name": "http", "port": 80, "targetPort": "web"}]}}))
        .unwrap()
    }

    fn pod(name: &str, ip: &str, ready: bool) -> Pod {
        serde_json::from_value(json!({"metadata": {"name": name, "namespace": "default", "uid": name, "labels": {"app": "api"}},
            "spec": {"nodeName": "n", "containers": [{"name": "c", "ports": [{"name": "web", "containerPort": 8080}]}]},
            "status": {"phase": "Running", "podIP": ip, "conditions": [{"type": "Ready", "status": if ready { "True" } else { "False" }}]}}))
        .unwrap()
    }

    fn created(p: &Plan) -> EndpointSlice {
        p.actions
            .iter()
            .find_map(|a| match a {
                Action::Create { resource, body, .. } if *resource == ENDPOINT_SLICES => {
                    serde_json::from_value(body.clone()).ok()
                }
                _ => None,
            })
            .expect("a slice was made")
    }

    #[test]
    fn named_ports_resolve_in_the_pod_and_readiness_is_told() {
        let (a, b) = (pod("a", "10.0.0.1", true), pod("b", "10.0.0.2", false));
        let slice = created(&plan(&service(), &[&a, &b], &[], None));
        assert_eq!(slice.ports.unwrap()[0].port, Some(8080));
        let ready: Vec<_> = slice.endpoints.unwrap().iter().map(|e| e.conditions.as_ref().unwrap().ready).collect();
        assert_eq!(ready, [Some(true), Some(false)]);
    }

    #[test]
    fn a_terminating_pod_still_serves_but_is_not_ready() {
        let mut a = pod("a", "10.0.0.1", true);
        a.metadata.deletion_timestamp = Some(pods::time(jiff::Timestamp::UNIX_EPOCH));
        let slice = created(&plan(&service(), &[&a], &[], None));
        let c = slice.endpoints.unwrap()[0].conditions.clone().unwrap();
        assert_eq!((c.ready, c.serving, c.terminating), (Some(false), Some(true), Some(true)));
    }

    #[test]
    fn nothing_changes_when_nothing_changed() {
        let a = pod("a", "10.0.0.1", true);
        let mut slice = created(&plan(&service(), &[&a], &[], None));
        slice.metadata.name = Some("api-x".into());
        let mut ep: Endpoints = plan(&service(), &[&a], &[], None)
            .actions
            .iter()
            .find_map(|x| match x {
                Action::Create { resource, body, .. } if *resource == ENDPOINTS => {
                    serde_json::from_value(body.clone()).ok()
                }
                _ => None,
            })
            .unwrap();
        ep.metadata.uid = Some("e".into());
        assert_eq!(plan(&service(), &[&a], &[&slice], Some(&ep)), Plan::default());
    }

    #[test]
    fn endpoints_beyond_a_hundred_take_another_slice() {
        let pods_: Vec<Pod> = (0..150).map(|i| pod(&format!("p{i:03}"), &format!("10.0.1.{i}"), true)).collect();
        let refs: Vec<&Pod> = pods_.iter().collect();
        let p = plan(&service(), &refs, &[], None);
        let slices =
            p.actions.iter().filter(|a| matches!(a, Action::Create { resource, .. } if *resource == ENDPOINT_SLICES));
        assert_eq!(slices.count(), 2);
    }
}
