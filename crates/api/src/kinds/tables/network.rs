//! Network, leases and events.

use super::*;

// allow-long: a table with one entry for each kind.
pub(super) fn kinds() -> Vec<KindInfo> {
    vec![
        KindInfo {
            create_on_update: true,
            ..kind!("coordination.k8s.io" "v1" "Lease" "leases" "lease", c::LEASE, net::LEASE)
        },
        KindInfo {
            has_generation: true,
            ..kind!("discovery.k8s.io" "v1" "EndpointSlice" "endpointslices" "endpointslice", c::ENDPOINT_SLICE, net::ENDPOINT_SLICE)
        },
        KindInfo {
            short_names: &["ev"],
            create_on_update: true,
            ttl_s: Some(EVENT_TTL_S),
            storage_group: "",
            storage_version: "v1",
            ..kind!("events.k8s.io" "v1" "Event" "events" "event", c::EVENT, event::EVENTS)
        },
        KindInfo {
            namespaced: false,
            has_generation: true,
            ..kind!("networking.k8s.io" "v1" "IngressClass" "ingressclasses" "ingressclass", c::INGRESS_CLASS, net::INGRESS_CLASS)
        },
        KindInfo {
            short_names: &["ing"],
            has_status: true,
            has_generation: true,
            ..kind!("networking.k8s.io" "v1" "Ingress" "ingresses" "ingress", c::INGRESS, net::INGRESS)
        },
        KindInfo {
            short_names: &["ip"],
            name_rule: NameRule::PathSegment,
            namespaced: false,
            ..kind!("networking.k8s.io" "v1" "IPAddress" "ipaddresses" "ipaddress", c::IP_ADDRESS, netpol::IP_ADDRESS)
        },
        KindInfo {
            short_names: &["netpol"],
            has_generation: true,
            ..kind!("networking.k8s.io" "v1" "NetworkPolicy" "networkpolicies" "networkpolicy", c::NETWORK_POLICY, netpol::NETWORK_POLICY)
        },
        KindInfo {
            namespaced: false,
            has_status: true,
            ..kind!("networking.k8s.io" "v1" "ServiceCIDR" "servicecidrs" "servicecidr", c::SERVICE_CIDR, netpol::SERVICE_CIDR)
        },
    ]
}
