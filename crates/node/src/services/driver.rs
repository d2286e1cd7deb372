//! Puts tables and zones in force as Services and their endpoints change.

use std::sync::Arc;
use std::time::Duration;

use base::instance::Cidr;
use base::rt::Drain;
use k8s_openapi::api::core::v1::Service;
use k8s_openapi::api::discovery::v1::EndpointSlice;
use kube::runtime::reflector::Store;
use net::Network;
use net::dns::{DnsServer, ZoneInput, Zones};
use tokio::sync::Notify;

use super::balancer::Balancer;
use super::{names, table};
use crate::context::Context;

/// Changes that come this close are taken together.
const TOGETHER: Duration = Duration::from_millis(5);
/// A table that could not be put in force is tried again.
const RETRY_FIRST: Duration = Duration::from_millis(100);
const RETRY_MAX: Duration = Duration::from_secs(10);
/// How soon a port that something of the host has is asked for again: nobody says when it becomes free.
const PORTS_FIRST: Duration = Duration::from_secs(1);
const PORTS_MAX: Duration = Duration::from_secs(30);

/// The name server and what it is to answer for.
pub(crate) struct Dns {
    pub(crate) server: Arc<DnsServer>,
    pub(crate) domain: String,
    pub(crate) service_cidr: Cidr,
    pub(crate) pod_cidr: Cidr,
}

impl Dns {
    fn set(&self, services: &[Arc<Service>], slices: &table::Slices<'_>) {
        let input = ZoneInput {
            domain: self.domain.clone(),
            service_cidr: self.service_cidr,
            pod_cidrs: vec![self.pod_cidr],
            services: names::build(services.iter().map(AsRef::as_ref), slices),
        };
        let serial = self.server.serial().wrapping_add(1);
        self.server.set_zones(Zones::build(&input, serial));
    }
}

/// Follows services and endpoints until drained.
pub(crate) async fn forward(
    ctx: Arc<Context>,
    network: Option<Network>,
    dns: Option<Dns>,
    slices: Store<EndpointSlice>,
    mark: Arc<Notify>,
    drain: Drain,
) {
    // Half of the truth would take addresses away from pods that run.
    let known = async { (super::known(&ctx.services).await, super::known(&slices).await) };
    tokio::select! {
        _known = known => {}
        () = drain.cancelled() => return,
    }
    let mut backoff = base::backoff::Backoff::exact(RETRY_FIRST, RETRY_MAX);
    let mut served = false;
    let mut balancer = Balancer::new(ctx.clone());
    let mut ports = base::backoff::Backoff::exact(PORTS_FIRST, PORTS_MAX);
    loop {
        let (services, state) = (ctx.services.state(), slices.state());
        let by_service = table::by_service(state.iter().map(AsRef::as_ref));
        if let Some(dns) = &dns {
            dns.set(&services, &by_service);
            if !served {
                served = true;
                let (server, drain) = (dns.server.clone(), drain.clone());
                tokio::spawn(async move { server.serve(drain).await });
            }
        }
        let mut again = None;
        if let Some(network) = &network {
            let held = balancer.hold(network, &services);
            if held.waiting {
                again = Some(ports.next_delay());
            } else {
                ports.reset();
            }
            let here = table::Here { node: &ctx.config.node_name, balanced: &held.services };
            let table = table::build(services.iter().map(AsRef::as_ref), &by_service, &here);
            drop(by_service);
            match network.set_services(table).await {
                Ok(()) => {
                    backoff.reset();
                    balancer.report(&services, &held.services);
                }
                Err(error) => {
                    tracing::warn!(error = %base::chain(&error), "service table not put in force");
                    again = Some(backoff.next_delay());
                }
            }
        }
        let retry = async {
            match again {
                Some(delay) => tokio::time::sleep(delay).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            () = mark.notified() => tokio::time::sleep(TOGETHER).await,
            () = retry => {}
            () = drain.cancelled() => return,
        }
    }
}
