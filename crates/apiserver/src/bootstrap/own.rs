//! Where pods reach the servers of the cluster: the `kubernetes` Service, its Endpoints and its EndpointSlices. What somebody
//! deletes or changes of them is made right again.
//!
//! Servers of one store each keep an entry under a lease, and what all of them hold is the list (Kubernetes' lease endpoint
//! reconciler). A server that is gone, without a word or with one, is taken out by those that are left.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, Weak};
use std::time::Duration;

use api::labels::Labelled as _;
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
/// How long after a look the next one is taken: somebody who always undoes what is kept here must not keep it busy.
const PAUSE: Duration = Duration::from_millis(200);
/// How long after a failed write it is tried again: nothing else would tell.
const RETRY: Duration = Duration::from_secs(1);
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

/// Makes the objects, for this server alone or for all that share the store.
pub(super) async fn begin(writer: &Writer<'_>) -> Result<(), StartError> {
    let (store, own) = (writer.server.caches.store(), writer.server.config.advertise);
    if store.is_shared() {
        register(store.as_ref(), own).await.map_err(failed)?;
    }
    publish(writer).await
}

fn failed(error: StoreError) -> StartError {
    StartError::Bootstrap { what: "endpoints/kubernetes".to_owned(), source: store_error(&error) }
}

async fn publish(writer: &Writer<'_>) -> Result<(), StartError> {
    let (store, config) = (writer.server.caches.store(), &writer.server.config);
    let (ip, own) = (config.kubernetes_ip().to_string(), config.advertise);
    ensure(writer, "", "v1", "services", "default", service(&ip, own), |_, _| false).await?;
    let mut all = by_port(std::iter::once(own));
    if store.is_shared() {
        let living = servers(store.as_ref()).await.map_err(failed)?;
        // The last one to go leaves its address: there is none better.
        all = if living.is_empty() { all } else { living };
    }
    let changed = |old: &Value, new: &Value| {
        ["endpoints", "ports", "subsets", "addressType"].iter().any(|key| old.get(key) != new.get(key))
    };
    ensure(writer, "", "v1", "endpoints", "default", endpoints(&all), changed).await?;
    let mut names = BTreeSet::new();
    for slice in slices(&all) {
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
        let label = |key: &str| labels.label(key) == Some("kubernetes");
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

/// Keeps the objects, and on a store that others use too this server's lease, as long as it serves.
pub(crate) async fn run(server: Weak<ApiServer>, stop: CancellationToken) {
    let known = server.upgrade().and_then(|s| {
        let [services, endpoints] = ["services", "endpoints"].map(|plural| s.caches.core(plural).head());
        let slices = s.caches.by("discovery.k8s.io", "endpointslices")?.head();
        let (store, own) = (s.caches.store().clone(), s.config.advertise);
        Some(([services, endpoints, slices], store, own, s.streams_end.clone()))
    });
    let Some((mut heads, store, own, ending)) = known else { return };
    let shared = store.is_shared();
    let mut watch = if shared { follow(&store).await } else { None };
    let mut due = Instant::now() + RENEWAL;
    while !ending.is_cancelled() {
        for head in &mut heads {
            head.borrow_and_update();
        }
        let Some(kept) = look(&server).await else { break };
        tokio::time::sleep(PAUSE).await;
        let [services, endpoints, slices] = &mut heads;
        tokio::select! {
            heard = next(&mut watch) => if !heard { watch = None },
            changed = services.changed() => if changed.is_err() { return },
            changed = endpoints.changed() => if changed.is_err() { return },
            changed = slices.changed() => if changed.is_err() { return },
            () = tokio::time::sleep_until(due), if shared => {
                due = Instant::now() + RENEWAL;
                if let Err(error) = register(store.as_ref(), own).await {
                    tracing::warn!(error = %base::chain(&error), "cannot renew this server's lease");
                }
                if watch.is_none() {
                    watch = follow(&store).await;
                }
            }
            () = tokio::time::sleep(RETRY), if !kept => {}
            () = ending.cancelled(), if shared => break,
            () = stop.cancelled() => break,
        }
    }
    if !shared {
        return;
    }
    if let Err(error) = withdraw(store.as_ref(), own).await {
        // Then it ends by itself.
        tracing::debug!(error = %base::chain(&error), "this server's lease is left to end");
    }
    look(&server).await;
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

/// Makes right what is not; whether that was possible. `None`: the server is gone.
async fn look(server: &Weak<ApiServer>) -> Option<bool> {
    let server = &*server.upgrade()?;
    let user = UserInfo::control_plane("system:apiserver");
    let warnings = &Warnings::default();
    let writer =
        Writer { server, user: &user, manager: MANAGER, dry_run: false, now: jiff::Timestamp::now(), warnings };
    let outcome = publish(&writer).await;
    if let Err(error) = &outcome {
        tracing::warn!(error = %base::chain(error), "the kubernetes Service cannot be kept");
    }
    Some(outcome.is_ok())
}

fn service(ip: &str, advertise: SocketAddr) -> Value {
    json!({
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {
            "name": "kubernetes",
            "namespace": "default",
            "labels": {"component": "apiserver", "provider": "kubernetes"},
        },
        "spec": {
            "type": "ClusterIP",
            "clusterIP": ip,
            "clusterIPs": [ip],
            "internalTrafficPolicy": "Cluster",
            "ipFamilies": ["IPv4"],
            "ipFamilyPolicy": "SingleStack",
            "ports": [{"name": "https", "port": 443, "protocol": "TCP", "targetPort": advertise.port()}],
            "sessionAffinity": "None",
        },
        "status": {"loadBalancer": {}},
    })
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
