//! What is in force: a table, its endpoints with their connections, its certificates. Replaced as a whole.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use arc_swap::ArcSwap;

use crate::pool::Endpoint;
use crate::route::{CertificateError, RouteTable};
use crate::tls::Certificates;

/// The state that everybody looks at.
pub(crate) type Current = Arc<ArcSwap<State>>;

/// How many endpoints are compared for one request.
const COMPARED_MAX: usize = 16;

#[derive(Debug, Default)]
pub(crate) struct State {
    pub table: Arc<RouteTable>,
    backends: Vec<Balancer>,
    pub certificates: Certificates,
}

impl State {
    /// The state for a new table. Endpoints that stay keep their connections.
    pub fn next(&self, table: Arc<RouteTable>) -> (Self, Vec<(String, CertificateError)>) {
        let mut known: HashMap<SocketAddr, Arc<Endpoint>> = self.endpoints().map(|e| (e.address, e.clone())).collect();
        let mut balancer = |addresses: &[SocketAddr]| Balancer {
            endpoints: addresses
                .iter()
                .map(|a| known.entry(*a).or_insert_with(|| Arc::new(Endpoint::new(*a))).clone())
                .collect(),
            turn: AtomicUsize::new(0),
        };
        let backends = table.backends.iter().map(|b| balancer(&b.endpoints)).collect();
        let (certificates, bad) = Certificates::load(&table, &self.certificates);
        (State { table, backends, certificates }, bad)
    }

    /// Closes what the newer state no longer has.
    pub fn retire_for(&self, newer: &State) {
        let kept: std::collections::HashSet<SocketAddr> = newer.endpoints().map(|e| e.address).collect();
        self.endpoints().filter(|e| !kept.contains(&e.address)).for_each(|e| e.retire());
    }

    pub fn endpoints(&self) -> impl Iterator<Item = &Arc<Endpoint>> {
        self.backends.iter().flat_map(|b| &b.endpoints)
    }

    /// The endpoints for a host and path.
    pub fn route(&self, host: &str, path: &str) -> Option<&Balancer> {
        self.table.route_index(host, path).map(|i| &self.backends[i])
    }
}

#[derive(Debug)]
pub(crate) struct Balancer {
    endpoints: Vec<Arc<Endpoint>>,
    turn: AtomicUsize,
}

impl Balancer {
    pub fn is_empty(&self) -> bool {
        self.endpoints.is_empty()
    }

    /// The endpoint with the fewest requests among those not yet tried, in turn when they have the same; one that refused
    /// just now only when there is no other.
    pub fn pick(&self, tried: &[SocketAddr]) -> Option<&Arc<Endpoint>> {
        let n = self.endpoints.len();
        let start = self.turn.fetch_add(1, Ordering::Relaxed);
        (0..n)
            .map(|i| &self.endpoints[start.wrapping_add(i) % n])
            .filter(|e| !tried.contains(&e.address))
            .take(COMPARED_MAX)
            .min_by_key(|e| (e.is_failed(), e.pending()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::route::Backend;

    fn table(addresses: &[&str]) -> Arc<RouteTable> {
        let endpoints = addresses.iter().map(|a| a.parse().expect("an address")).collect();
        let mut table = RouteTable::default();
        table.backends.push(Backend { name: "b".into(), endpoints });
        table.any_host.default = Some(0);
        Arc::new(table)
    }

    #[test]
    fn endpoints_take_turns_and_failed_ones_come_last() {
        let (state, _) = State::default().next(table(&["10.0.0.1:80", "10.0.0.2:80", "10.0.0.3:80"]));
        let balancer = state.route("h", "/").expect("routed");
        let mut picked: Vec<String> = (0..3).map(|_| balancer.pick(&[]).expect("one").address.to_string()).collect();
        picked.sort();
        assert_eq!(picked, ["10.0.0.1:80", "10.0.0.2:80", "10.0.0.3:80"]);
        let failed = balancer.pick(&[]).expect("one").clone();
        failed.mark_failed();
        for _ in 0..6 {
            assert_ne!(balancer.pick(&[]).expect("one").address, failed.address);
        }
        let others: Vec<SocketAddr> = state.endpoints().map(|e| e.address).filter(|a| *a != failed.address).collect();
        assert_eq!(balancer.pick(&others).expect("the failed one").address, failed.address);
        let all: Vec<SocketAddr> = state.endpoints().map(|e| e.address).collect();
        assert!(balancer.pick(&all).is_none());
    }

    #[test]
    fn an_endpoint_that_stays_is_the_same() {
        let (old, _) = State::default().next(table(&["10.0.0.1:80", "10.0.0.2:80"]));
        let (new, _) = old.next(table(&["10.0.0.2:80", "10.0.0.3:80"]));
        let find = |s: &State, a: &str| s.endpoints().find(|e| e.address.to_string() == a).cloned().expect("there");
        assert!(Arc::ptr_eq(&find(&old, "10.0.0.2:80"), &find(&new, "10.0.0.2:80")));
    }
}
