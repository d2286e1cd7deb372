//! EndpointSlices that mirror Endpoints which people write themselves, for a Service without a selector: what reads slices
//! sees those too (KEP-0752).

use std::collections::BTreeMap;
use std::net::IpAddr;

use k8s_openapi::api::core::v1::{EndpointAddress, EndpointSubset, Endpoints, Service};
use k8s_openapi::api::discovery::v1::{Endpoint, EndpointConditions, EndpointPort, EndpointSlice};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use serde_json::json;

use crate::endpointslice::relabel;
use crate::plan::{ENDPOINT_SLICES, ENDPOINTS, Plan, name, owner_reference, terminating};

/// Who keeps these slices.
const MANAGER: &str = "endpointslicemirroring-controller.k8s.io";
const MANAGED_BY: &str = "endpointslice.kubernetes.io/managed-by";
const SERVICE_NAME: &str = "kubernetes.io/service-name";
const SKIP: &str = "endpointslice.kubernetes.io/skip-mirror";
const LEADER: &str = "control-plane.alpha.kubernetes.io/leader";
/// Most addresses of a subset that are mirrored (the default of kube-controller-manager).
const PER_SUBSET: usize = 1000;

/// A slice as it should be: its family, ports and endpoints.
type Wanted = (&'static str, Vec<EndpointPort>, Vec<Endpoint>);

/// Decides for one name, given its Service, its Endpoints and the slices that name the Service.
pub fn plan(service: Option<&Service>, endpoints: Option<&Endpoints>, slices: &[&EndpointSlice]) -> Plan {
    let mut plan = Plan::default();
    let mine = |s: &&&EndpointSlice| {
        let labels = s.metadata.labels.as_ref();
        labels.and_then(|l| l.get(MANAGED_BY)).is_some_and(|m| m == MANAGER) && !terminating(&s.metadata)
    };
    let mut free: Vec<&EndpointSlice> = slices.iter().filter(mine).copied().collect();
    free.sort_by_key(|s| name(&s.metadata));
    let mirrored = endpoints.filter(|e| service.is_some_and(by_hand) && is_mirrored(e));
    if let Some(endpoints) = mirrored {
        for (family, ports, list) in wanted(endpoints) {
            let same = |s: &&EndpointSlice| {
                s.address_type == family && s.ports.as_deref().unwrap_or_default() == ports.as_slice()
            };
            match free.iter().position(same).map(|i| free.remove(i)) {
                Some(slice) => update(endpoints, slice, &list, &mut plan),
                None => create(endpoints, family, ports, list, &mut plan),
            }
        }
    }
    for slice in free {
        plan.delete(ENDPOINT_SLICES, &slice.metadata, None);
    }
    plan
}

/// Whether people write the Endpoints of this Service.
fn by_hand(service: &Service) -> bool {
    let selects = service.spec.as_ref().and_then(|s| s.selector.as_ref()).is_some_and(|s| !s.is_empty());
    !selects && !terminating(&service.metadata)
}

/// What elects leaders, or asks to be left alone, is no list of endpoints.
fn is_mirrored(endpoints: &Endpoints) -> bool {
    let skip = endpoints.metadata.labels.as_ref().and_then(|l| l.get(SKIP)).is_some_and(|v| v == "true");
    let leads = endpoints.metadata.annotations.as_ref().is_some_and(|a| a.contains_key(LEADER));
    !skip && !leads && !terminating(&endpoints.metadata)
}

fn wanted(endpoints: &Endpoints) -> Vec<Wanted> {
    let mut all: Vec<Wanted> = Vec::new();
    for subset in endpoints.subsets.iter().flatten() {
        let ports = ports(subset);
        let ready = subset.addresses.iter().flatten().map(|a| (a, true));
        let not_ready = subset.not_ready_addresses.iter().flatten().map(|a| (a, false));
        for (address, ready) in ready.chain(not_ready).take(PER_SUBSET) {
            let Some(family) = family(&address.ip) else { continue };
            let endpoint = endpoint(address, ready);
            match all.iter_mut().find(|(f, p, _)| *f == family && *p == ports) {
                Some((.., list)) => list.push(endpoint),
                None => all.push((family, ports.clone(), vec![endpoint])),
            }
        }
    }
    all
}

fn family(ip: &str) -> Option<&'static str> {
    Some(match ip.parse().ok()? {
        IpAddr::V4(_) => "IPv4",
        IpAddr::V6(_) => "IPv6",
    })
}

fn ports(subset: &EndpointSubset) -> Vec<EndpointPort> {
    let port = |p: &k8s_openapi::api::core::v1::EndpointPort| EndpointPort {
        app_protocol: p.app_protocol.clone(),
        name: Some(p.name.clone().unwrap_or_default()),
        port: Some(p.port),
        protocol: Some(p.protocol.clone().unwrap_or_else(|| "TCP".into())),
    };
    subset.ports.iter().flatten().map(port).collect()
}

fn endpoint(address: &EndpointAddress, ready: bool) -> Endpoint {
    Endpoint {
        addresses: vec![address.ip.clone()],
        conditions: Some(EndpointConditions { ready: Some(ready), ..EndpointConditions::default() }),
        hostname: address.hostname.clone().filter(|h| !h.is_empty()),
        node_name: address.node_name.clone(),
        target_ref: address.target_ref.clone(),
        ..Endpoint::default()
    }
}

fn labels(endpoints: &Endpoints) -> BTreeMap<String, String> {
    let mut labels = endpoints.metadata.labels.clone().unwrap_or_default();
    labels.insert(SERVICE_NAME.into(), name(&endpoints.metadata).to_owned());
    labels.insert(MANAGED_BY.into(), MANAGER.into());
    labels
}

fn create(endpoints: &Endpoints, family: &str, ports: Vec<EndpointPort>, list: Vec<Endpoint>, plan: &mut Plan) {
    let slice = EndpointSlice {
        address_type: family.into(),
        metadata: ObjectMeta {
            generate_name: Some(format!("{}-", name(&endpoints.metadata))),
            namespace: endpoints.metadata.namespace.clone(),
            labels: Some(labels(endpoints)),
            owner_references: Some(vec![owner_reference(ENDPOINTS, &endpoints.metadata)]),
            ..ObjectMeta::default()
        },
        endpoints: Some(list),
        ports: Some(ports),
    };
    plan.create(ENDPOINT_SLICES, endpoints.metadata.namespace.as_deref(), &slice);
}

fn update(endpoints: &Endpoints, slice: &EndpointSlice, list: &[Endpoint], plan: &mut Plan) {
    let labels = labels(endpoints);
    if slice.endpoints.as_deref().unwrap_or_default() == list && slice.metadata.labels.as_ref() == Some(&labels) {
        return;
    }
    let meta = relabel(slice, &labels);
    plan.patch(ENDPOINT_SLICES, &slice.metadata, json!({"metadata": meta, "endpoints": list}));
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::plan::Action;

    fn service(selector: serde_json::Value) -> Service {
        serde_json::from_value(json!({"metadata": {"name": "db", "namespace": "d", "uid": "s"},
            "spec": {"selector": selector, "ports": [{"port": 5432}]}}))
        .unwrap()
    }

    fn endpoints(ip: &str) -> Endpoints {
        serde_json::from_value(json!({
            "metadata": {"name": "db", "namespace": "d", "uid": "e", "labels": {"k": "v"}},
            "subsets": [{
                "addresses": [{"ip": ip}, {"ip": "fd00::1"}],
                "notReadyAddresses": [{"ip": "10.1.2.9"}],
                "ports": [{"port": 5432}],
            }],
        }))
        .unwrap()
    }

    fn created(p: &Plan) -> Vec<EndpointSlice> {
        let body = |a: &Action| match a {
            Action::Create { body, .. } => serde_json::from_value(body.clone()).ok(),
            _ => None,
        };
        p.actions.iter().filter_map(body).collect()
    }

    #[test]
    fn what_people_write_is_mirrored_by_family() {
        let p = plan(Some(&service(json!(null))), Some(&endpoints("10.1.2.3")), &[]);
        let made = created(&p);
        assert_eq!(made.iter().map(|s| s.address_type.as_str()).collect::<Vec<_>>(), ["IPv4", "IPv6"]);
        let list = made[0].endpoints.as_ref().unwrap();
        let seen: Vec<_> =
            list.iter().map(|e| (e.addresses[0].as_str(), e.conditions.as_ref().unwrap().ready)).collect();
        assert_eq!(seen, [("10.1.2.3", Some(true)), ("10.1.2.9", Some(false))]);
        let labels = made[0].metadata.labels.as_ref().unwrap();
        assert_eq!(
            (labels["k"].as_str(), labels[SERVICE_NAME].as_str(), labels[MANAGED_BY].as_str()),
            ("v", "db", MANAGER)
        );
        assert_eq!(made[0].metadata.owner_references.as_ref().unwrap()[0].kind, "Endpoints");
        // Once it is so, nothing is left to do; a change of address changes the slice in place.
        let mut slices = made;
        slices.iter_mut().zip(["a", "b"]).for_each(|(s, n)| s.metadata.name = Some(n.into()));
        let refs: Vec<&EndpointSlice> = slices.iter().collect();
        assert!(plan_of(&endpoints("10.1.2.3"), &refs).actions.is_empty());
        let p = plan_of(&endpoints("10.9.9.9"), &refs);
        let [Action::Patch { name, patch, .. }] = p.actions.as_slice() else { panic!("{p:?}") };
        assert_eq!((name.as_str(), patch["endpoints"][0]["addresses"][0].as_str()), ("a", Some("10.9.9.9")));
    }

    fn plan_of(endpoints: &Endpoints, slices: &[&EndpointSlice]) -> Plan {
        plan(Some(&service(json!(null))), Some(endpoints), slices)
    }

    #[test]
    fn what_is_not_to_be_mirrored_any_more_goes() {
        let mut slice = created(&plan_of(&endpoints("10.1.2.3"), &[])).remove(0);
        slice.metadata.name = Some("a".into());
        let goes = |p: &Plan| matches!(p.actions.as_slice(), [Action::Delete { .. }]);
        assert!(goes(&plan(None, None, &[&slice])), "without Endpoints");
        assert!(
            goes(&plan(Some(&service(json!({"a": "b"}))), Some(&endpoints("10.1.2.3")), &[&slice])),
            "with a selector"
        );
        let mut skipped = endpoints("10.1.2.3");
        skipped.metadata.labels.as_mut().unwrap().insert(SKIP.into(), "true".into());
        assert!(goes(&plan_of(&skipped, &[&slice])));
        slice.metadata.labels.as_mut().unwrap().insert(MANAGED_BY.into(), "somebody".into());
        assert!(plan(None, None, &[&slice]).actions.is_empty(), "those of others stay");
    }
}
