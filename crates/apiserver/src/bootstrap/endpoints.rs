//! Where pods reach the servers of the cluster: the Endpoints and EndpointSlices of the `kubernetes` Service.
//!
//! Servers of one store each keep an entry under a lease, and what all of them hold is the list (Kubernetes' lease endpoint
//! reconciler). A server that is gone, without a word or with one, is taken out by those that are left.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, Weak};
use std::time::Duration;

use serde_json::{Value, json};
use store::{Compare, Op, RangeRequest, Store, StoreError, Txn, Watch};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::{MANAGER, ensure};
use crate::admission::Warnings;
use crate::authn::UserInfo;
use crate::handlers::write::{Writer, store_error};
use crate::server::{ApiServer, StartError};

const LEASES: &str = "/registry/masterleases/";
/// Seconds after which a server that is not heard of is no longer one.
const LEASE_S: u64 = 15;
/// How often a server is heard of: three times in that time.
const RENEWAL: Duration = Duration::from_secs(5);
/// Most servers that are listed.
const SERVERS_MAX: usize = 100;

/// What the objects list: addresses by family and port.
type Ports = BTreeMap<(bool, u16), BTreeSet<IpAddr>>;

fn key(own: SocketAddr) -> String {
    format!("{LEASES}{own}")
}

async fn register(store: &dyn Store, own: SocketAddr) -> Result<(), StoreError> {
    let value = own.to_string().into();
    let op = Op::Put { key: key(own).into(), value, lease_ttl_s: Some(LEASE_S) };
    store.txn(Txn { compare: Vec::new(), ops: vec![op] }).await.map(drop)
}

async fn withdraw(store: &dyn Store, own: SocketAddr) -> Result<(), StoreError> {
    let op = Op::Delete { key: key(own).into() };
    store.txn(Txn { compare: Vec::new(), ops: vec![op] }).await.map(drop)
}

/// All servers that hold a lease.
async fn servers(store: &dyn Store) -> Result<Ports, StoreError> {
    let found = store.range(RangeRequest::prefix(LEASES).limit(SERVERS_MAX)).await?;
    let name = |key: &[u8]| std::str::from_utf8(key).ok()?.strip_prefix(LEASES)?.parse::<SocketAddr>().ok();
    Ok(by_port(found.kvs.iter().filter_map(|kv| name(&kv.key))))
}

fn by_port(servers: impl Iterator<Item = SocketAddr>) -> Ports {
    let mut out = Ports::new();
    for server in servers {
        out.entry((server.is_ipv6(), server.port())).or_default().insert(server.ip());
    }
    out
}

/// Writes the objects for the first time: of this server alone, or of all that share the store.
pub(super) async fn begin(writer: &Writer<'_>) -> Result<(), StartError> {
    let (store, own) = (writer.server.caches.store(), writer.server.config.advertise);
    let failed = |error: StoreError| StartError::Bootstrap {
        what: "endpoints/kubernetes".to_owned(),
        source: store_error(&error),
    };
    let mut all = by_port(std::iter::once(own));
    if store.is_shared() {
        register(store.as_ref(), own).await.map_err(failed)?;
        all = servers(store.as_ref()).await.map_err(failed)?;
    }
    publish(writer, &all).await
}

async fn publish(writer: &Writer<'_>, all: &Ports) -> Result<(), StartError> {
    let changed = |old: &Value, new: &Value| {
        ["endpoints", "ports", "subsets", "addressType"].iter().any(|key| old.get(key) != new.get(key))
    };
    ensure(writer, "", "v1", "endpoints", "default", endpoints(all), changed).await?;
    let mut names = BTreeSet::new();
    for slice in slices(all) {
        names.insert(api::meta::name(&slice).to_owned());
        ensure(writer, "discovery.k8s.io", "v1", "endpointslices", "default", slice, changed).await?;
    }
    surplus(writer, &names).await
}

/// Removes slices of ports on which no server is any more.
async fn surplus(writer: &Writer<'_>, names: &BTreeSet<String>) -> Result<(), StartError> {
    let caches = &writer.server.caches;
    let Some(cache) = caches.by("discovery.k8s.io", "endpointslices") else { return Ok(()) };
    let ours = |e: &crate::cache::Entry| {
        let labels = &e.facts.labels;
        let label = |key: &str| labels.get(key).is_some_and(|value| value == "kubernetes");
        let name = e.key.rsplit('/').next().unwrap_or("");
        label(SERVICE) && label(PROVIDER) && !names.contains(name)
    };
    for entry in cache.snapshot("default", None, SERVERS_MAX, false, ours).entries {
        let key = cache.store_key(&entry.key);
        let compare = vec![Compare::ModRevision(key.clone(), entry.revision)];
        let outcome = caches.store().txn(Txn { compare, ops: vec![Op::Delete { key }] }).await;
        // Somebody else was here first, or the next look removes it.
        if let Err(error) = outcome {
            let source = store_error(&error);
            return Err(StartError::Bootstrap { what: format!("endpointslices/{}", entry.key), source });
        }
    }
    Ok(())
}

const SERVICE: &str = "kubernetes.io/service-name";
/// Marks the slices that are written here beside the one named like the Service.
const PROVIDER: &str = "provider";

fn endpoints(all: &Ports) -> Value {
    let subsets: Vec<Value> = all
        .iter()
        .map(|((_, port), ips)| {
            let addresses: Vec<Value> = ips.iter().map(|ip| json!({"ip": ip.to_string()})).collect();
            json!({"addresses": addresses, "ports": [{"name": "https", "port": port, "protocol": "TCP"}]})
        })
        .collect();
    json!({
        "apiVersion": "v1",
        "kind": "Endpoints",
        "metadata": {
            "name": "kubernetes",
            "namespace": "default",
            "labels": {"endpointslice.kubernetes.io/skip-mirror": "true"},
        },
        "subsets": subsets,
    })
}

/// A slice has one family and one list of ports. The first is named like the Service, the others after their port.
fn slices(all: &Ports) -> Vec<Value> {
    let slice = |(n, ((six, port), ips)): (usize, (&(bool, u16), &BTreeSet<IpAddr>))| {
        let (family, suffix) = if *six { ("IPv6", "-6") } else { ("IPv4", "") };
        let name = if n == 0 { "kubernetes".to_owned() } else { format!("kubernetes-{port}{suffix}") };
        let mut labels = json!({SERVICE: "kubernetes"});
        if n > 0 {
            labels[PROVIDER] = "kubernetes".into();
        }
        let endpoints: Vec<Value> =
            ips.iter().map(|ip| json!({"addresses": [ip.to_string()], "conditions": {"ready": true}})).collect();
        json!({
            "apiVersion": "discovery.k8s.io/v1",
            "kind": "EndpointSlice",
            "metadata": {"name": name, "namespace": "default", "labels": labels},
            "addressType": family,
            "endpoints": endpoints,
            "ports": [{"name": "https", "port": port, "protocol": "TCP"}],
        })
    };
    all.iter().enumerate().map(slice).collect()
}

/// Keeps this server's lease and the list, as long as it serves. Of a store of its own it is the only server, and there is
/// nothing to keep.
pub(crate) async fn run(server: Weak<ApiServer>, stop: CancellationToken) {
    let Some((store, own, ending)) = server
        .upgrade()
        .map(|s| (s.caches.store().clone(), s.config.advertise, s.streams_end.clone()))
        .filter(|(store, ..)| store.is_shared())
    else {
        return;
    };
    let mut watch = follow(&store).await;
    let mut due = Instant::now() + RENEWAL;
    loop {
        tokio::select! {
            heard = next(&mut watch) => if !heard { watch = None },
            () = tokio::time::sleep_until(due) => {
                due = Instant::now() + RENEWAL;
                if let Err(error) = register(store.as_ref(), own).await {
                    tracing::warn!(error = %base::chain(&error), "cannot renew this server's lease");
                }
                if watch.is_none() {
                    watch = follow(&store).await;
                }
            }
            () = ending.cancelled() => break,
            () = stop.cancelled() => break,
        }
        let Some(server) = server.upgrade() else { break };
        look(&server).await;
    }
    if let Err(error) = withdraw(store.as_ref(), own).await {
        // Then it ends by itself.
        tracing::debug!(error = %base::chain(&error), "this server's lease is left to end");
    }
    if let Some(server) = server.upgrade() {
        look(&server).await;
    }
}

/// A watch of all leases; without one they are looked at now and then.
async fn follow(store: &Arc<dyn Store>) -> Option<Watch> {
    let watch = store.watch(LEASES.into(), 0).await;
    watch.inspect_err(|error| tracing::warn!(error = %base::chain(error), "cannot follow the servers")).ok()
}

async fn next(watch: &mut Option<Watch>) -> bool {
    match watch {
        Some(watch) => watch.next().await.is_ok(),
        None => std::future::pending().await,
    }
}

async fn look(server: &ApiServer) {
    let user = UserInfo::control_plane("system:apiserver");
    let warnings = &Warnings::default();
    let writer =
        Writer { server, user: &user, manager: MANAGER, dry_run: false, now: jiff::Timestamp::now(), warnings };
    let outcome = match servers(server.caches.store().as_ref()).await {
        // The last one to go leaves its address: there is none better.
        Ok(all) if all.is_empty() => Ok(()),
        Ok(all) => publish(&writer, &all).await.map_err(|error| base::chain(&error).to_string()),
        Err(error) => Err(base::chain(&error).to_string()),
    };
    if let Err(error) = outcome {
        tracing::warn!(error, "the endpoints of the API servers cannot be kept");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn servers_are_listed_by_family_and_port() {
        let all = ["10.0.0.2:6443", "10.0.0.1:6443", "10.0.0.1:7443", "[fd00::1]:6443"].map(|s| s.parse().unwrap());
        let all = by_port(all.into_iter());
        let subsets = endpoints(&all)["subsets"].take();
        assert_eq!(subsets[0]["addresses"], json!([{"ip": "10.0.0.1"}, {"ip": "10.0.0.2"}]));
        assert_eq!((&subsets[1]["ports"][0]["port"], subsets.as_array().unwrap().len()), (&json!(7443), 3));
        let slices = slices(&all);
        let names: Vec<&str> = slices.iter().map(api::meta::name).collect();
        assert_eq!(names, ["kubernetes", "kubernetes-7443", "kubernetes-6443-6"]);
        assert_eq!(slices[0]["endpoints"].as_array().unwrap().len(), 2);
        assert_eq!(slices[2]["addressType"], "IPv6");
    }
}
