//! The `kubernetes` Service, through which pods reach the API servers: made again when somebody deletes it, with the addresses
//! of all servers that live. Of several servers on one store each says in a key that ends by itself that it does.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, SocketAddr};
use std::sync::Weak;
use std::time::Duration;

use api::status::ApiError;
use serde_json::{Value, json};
use store::{Op, RangeRequest, Store, Txn};
use tokio_util::sync::CancellationToken;

use super::{MANAGER, ensure};
use crate::admission::Warnings;
use crate::authn::UserInfo;
use crate::handlers::write::{Writer, store_error};
use crate::server::{ApiServer, StartError};

/// Below it is a key for every server that lives, named by its address (where kube-apiserver has them too).
const ALIVE: &str = "/registry/masterleases/";
/// How long after its last word a server counts as gone, seconds (the default of kube-apiserver).
const GONE_AFTER_S: u64 = 15;
/// How often it says that it lives, and looks who else does.
const BEAT: Duration = Duration::from_secs(5);
/// How long after a pass the next one is made: somebody who always undoes what is kept here must not keep it busy.
const PAUSE: Duration = Duration::from_millis(200);
/// How long after a failed write it is tried again: nothing else would tell.
const RETRY: Duration = Duration::from_secs(1);
const ENDPOINTS: (&str, &str, &str) = ("", "v1", "endpoints");
const SLICES: (&str, &str, &str) = ("discovery.k8s.io", "v1", "endpointslices");

/// Keeps it until `stop`. A server that drains takes its address out, if others are there.
pub(crate) async fn run(server: Weak<ApiServer>, stop: CancellationToken) {
    let heads = server.upgrade().map(|s| {
        let heads = ["services", "endpoints"].map(|plural| s.caches.core(plural).head());
        (heads, s.caches.by(SLICES.0, SLICES.2).map(|c| c.head()), s.streams_end.clone(), s.caches.store().is_shared())
    });
    let Some(([mut services, mut endpoints], Some(mut slices), drain, several)) = heads else { return };
    loop {
        for head in [&mut services, &mut endpoints, &mut slices] {
            head.borrow_and_update();
        }
        let Some(server) = server.upgrade() else { return };
        let outcome = pass(&server, !drain.is_cancelled()).await;
        drop(server);
        if let Err(error) = &outcome {
            tracing::warn!(error = %base::chain(error), "the kubernetes Service cannot be looked after");
        }
        if drain.is_cancelled() {
            return;
        }
        tokio::select! {
            () = tokio::time::sleep(PAUSE) => {}
            () = drain.cancelled() => {}
        }
        tokio::select! {
            changed = services.changed() => if changed.is_err() { return },
            changed = endpoints.changed() => if changed.is_err() { return },
            changed = slices.changed() => if changed.is_err() { return },
            () = tokio::time::sleep(BEAT), if several => {}
            () = tokio::time::sleep(RETRY), if outcome.is_err() => {}
            () = drain.cancelled(), if several => {}
            () = stop.cancelled() => return,
        }
    }
}

/// One look: makes what is missing and corrects the addresses. With `alive`, this server's is among them.
///
/// # Errors
/// What could not be written.
pub(crate) async fn pass(server: &ApiServer, alive: bool) -> Result<(), StartError> {
    let user = UserInfo::control_plane("system:apiserver");
    let warnings = &Warnings::default();
    let writer =
        Writer { server, user: &user, manager: MANAGER, dry_run: false, now: jiff::Timestamp::now(), warnings };
    let (ip, own) = (server.config.kubernetes_ip().to_string(), server.config.advertise);
    ensure(&writer, "", "v1", "services", "default", service(&ip, own), |_, _| false).await?;
    let all = if server.caches.store().is_shared() {
        let failed = |source| StartError::Bootstrap { what: format!("{ALIVE}{own}"), source };
        servers(&**server.caches.store(), own, alive).await.map_err(failed)?
    } else {
        BTreeSet::from([own])
    };
    let ports = by_port(&all);
    let changed = |old: &Value, new: &Value| {
        ["endpoints", "ports", "subsets", "addressType"].iter().any(|key| old.get(key) != new.get(key))
    };
    let (group, version, plural) = ENDPOINTS;
    ensure(&writer, group, version, plural, "default", endpoints(&ports), changed).await?;
    let (group, version, plural) = SLICES;
    let wanted: Vec<Value> = slices(&ports);
    let names: BTreeSet<String> = wanted.iter().map(|s| api::meta::name(s).to_owned()).collect();
    for slice in wanted {
        ensure(&writer, group, version, plural, "default", slice, changed).await?;
    }
    let failed = |source| StartError::Bootstrap { what: "endpointslices".into(), source };
    drop_others(server, &names).await.map_err(failed)
}

/// Says that this server lives, or no longer does, and asks which do.
async fn servers(store: &dyn Store, own: SocketAddr, alive: bool) -> Result<BTreeSet<SocketAddr>, ApiError> {
    let key: bytes::Bytes = format!("{ALIVE}{own}").into();
    let op =
        if alive { Op::Put { key, value: "{}".into(), lease_ttl_s: Some(GONE_AFTER_S) } } else { Op::Delete { key } };
    store.txn(Txn { compare: Vec::new(), ops: vec![op] }).await.map_err(|e| store_error(&e))?;
    let found = store.range(RangeRequest::prefix(ALIVE)).await.map_err(|e| store_error(&e))?;
    let address = |key: &[u8]| std::str::from_utf8(key).ok()?.strip_prefix(ALIVE)?.parse().ok();
    Ok(found.kvs.iter().filter_map(|kv| address(&kv.key)).collect())
}

/// Slices have one list of ports, so servers are listed by theirs.
fn by_port(all: &BTreeSet<SocketAddr>) -> BTreeMap<u16, BTreeSet<IpAddr>> {
    let mut out: BTreeMap<u16, BTreeSet<IpAddr>> = BTreeMap::new();
    for address in all {
        out.entry(address.port()).or_default().insert(address.ip());
    }
    out
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

fn endpoints(ports: &BTreeMap<u16, BTreeSet<IpAddr>>) -> Value {
    let subsets: Vec<Value> = ports
        .iter()
        .map(|(port, ips)| {
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

/// `kubernetes` for the servers on the lowest port, which is that of all in nearly every cluster, `kubernetes-PORT` for others.
fn slices(ports: &BTreeMap<u16, BTreeSet<IpAddr>>) -> Vec<Value> {
    let slice = |(n, (port, ips)): (usize, (&u16, &BTreeSet<IpAddr>))| {
        let name = if n == 0 { "kubernetes".to_owned() } else { format!("kubernetes-{port}") };
        let ready = json!({"ready": true});
        let endpoints: Vec<Value> =
            ips.iter().map(|ip| json!({"addresses": [ip.to_string()], "conditions": ready})).collect();
        json!({
            "apiVersion": "discovery.k8s.io/v1",
            "kind": "EndpointSlice",
            "metadata": {
                "name": name,
                "namespace": "default",
                "labels": {"kubernetes.io/service-name": "kubernetes"},
            },
            "addressType": if ips.iter().all(IpAddr::is_ipv4) { "IPv4" } else { "IPv6" },
            "endpoints": endpoints,
            "ports": [{"name": "https", "port": port, "protocol": "TCP"}],
        })
    };
    ports.iter().enumerate().map(slice).collect()
}

/// Deletes the slices of ports on which no server is any more.
async fn drop_others(server: &ApiServer, names: &BTreeSet<String>) -> Result<(), ApiError> {
    let Some(cache) = server.caches.by(SLICES.0, SLICES.2) else { return Ok(()) };
    let old = |key: &str| -> bool {
        let name = key.strip_prefix("default/").unwrap_or("");
        let port = name.strip_prefix("kubernetes-").map(str::parse::<u16>);
        matches!(port, Some(Ok(_))) && !names.contains(name)
    };
    let of_service = |e: &crate::cache::Entry| {
        e.facts.labels.get("kubernetes.io/service-name").is_some_and(|v| v == "kubernetes") && old(&e.key)
    };
    for entry in cache.snapshot("default", None, 0, false, of_service).entries {
        let op = Op::Delete { key: cache.store_key(&entry.key) };
        let txn = Txn { compare: Vec::new(), ops: vec![op] };
        server.caches.store().txn(txn).await.map_err(|e| store_error(&e))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn servers_are_listed_by_their_port() {
        let all: BTreeSet<SocketAddr> =
            ["10.0.0.2:6443", "10.0.0.1:6443", "10.0.0.1:7443"].map(|a| a.parse().unwrap()).into();
        let ports = by_port(&all);
        let subsets = &endpoints(&ports)["subsets"];
        assert_eq!(subsets[0]["addresses"], json!([{"ip": "10.0.0.1"}, {"ip": "10.0.0.2"}]));
        assert_eq!((&subsets[0]["ports"][0]["port"], &subsets[1]["ports"][0]["port"]), (&json!(6443), &json!(7443)));
        let slices = slices(&ports);
        let names: Vec<&str> = slices.iter().map(api::meta::name).collect();
        assert_eq!(names, ["kubernetes", "kubernetes-7443"]);
        assert_eq!(slices[0]["endpoints"].as_array().map(Vec::len), Some(2));
    }
}
