//! Two servers on one store.

use std::collections::BTreeSet;
use std::sync::Arc;

use crate::common::{Client, Cluster, SERVICES, eventually};
use apiserver::{ApiServer, Config};
use bytes::Bytes;
use serde_json::{Value, json};
use store::{BoxFuture, MemoryStore, Op, RangeRequest, RangeResponse, Store, StoreError, Txn, TxnOutcome, Watch};
use tokio_util::sync::CancellationToken;

/// A store that says that others use it too.
struct Shared(MemoryStore);

impl Store for Shared {
    fn txn(&self, txn: Txn) -> BoxFuture<'_, Result<TxnOutcome, StoreError>> {
        self.0.txn(txn)
    }

    fn range(&self, req: RangeRequest) -> BoxFuture<'_, Result<RangeResponse, StoreError>> {
        self.0.range(req)
    }

    fn watch(&self, prefix: Bytes, from_revision: u64) -> BoxFuture<'_, Result<Watch, StoreError>> {
        self.0.watch(prefix, from_revision)
    }

    fn compact(&self, revision: u64) -> BoxFuture<'_, Result<(), StoreError>> {
        self.0.compact(revision)
    }

    /// As if nothing had been written: only [`Store::latest`] knows.
    fn revision(&self) -> u64 {
        0
    }

    fn latest(&self) -> BoxFuture<'_, Result<u64, StoreError>> {
        Box::pin(std::future::ready(Ok(self.0.revision())))
    }

    fn is_shared(&self) -> bool {
        true
    }
}

async fn two() -> [Cluster; 2] {
    at(["127.0.0.1:6443"; 2]).await
}

/// Two servers that are reached there.
async fn at(addresses: [&str; 2]) -> [Cluster; 2] {
    let store: Arc<dyn Store> = Arc::new(Shared(MemoryStore::new()));
    let start = async |address: &str| {
        let pki = tempfile::tempdir().unwrap();
        let advertise = address.parse().unwrap();
        // Few addresses, so that two servers that draw without knowing of each other draw the same.
        let config = Config::new(pki.path().to_path_buf(), advertise, "10.96.0.0/26".parse().unwrap());
        let server = ApiServer::new(store.clone(), config).await.unwrap();
        Cluster { server, store: store.clone(), pki }
    };
    [start(addresses[0]).await, start(addresses[1]).await]
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_read_on_one_server_sees_what_the_other_has_just_written() {
    let [a, b] = two().await;
    for n in 0..50 {
        let (writer, reader) = if n % 2 == 0 { (a.admin(), b.admin()) } else { (b.admin(), a.admin()) };
        let name = format!("m-{n}");
        let made = writer.create("/api/v1/namespaces/default/configmaps", &json!({"metadata": {"name": name}})).await;
        let path = format!("/api/v1/namespaces/default/configmaps/{name}");
        let seen = reader.get(&path).await;
        assert_eq!((seen.code, &seen.body["metadata"]["uid"]), (200, &made["metadata"]["uid"]));
        let list = reader.get("/api/v1/namespaces/default/configmaps").await;
        assert!(list.body["items"].as_array().unwrap().iter().any(|i| i["metadata"]["name"] == *name));
        // Made from what was read before somebody else's change.
        let mut changed = seen.body.clone();
        changed["data"] = json!({"k": "1"});
        assert_eq!(reader.put(&path, &changed).await.code, 200);
        assert_eq!(writer.put(&path, &changed).await.code, 409);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn two_servers_give_no_address_and_no_port_to_two_services() {
    let servers = two().await;
    let tasks = (0..40).map(|n| {
        let client = servers[n % 2].admin();
        tokio::spawn(async move {
            let service = json!({
                "metadata": {"name": format!("s-{n}")},
                "spec": {"type": "NodePort", "ports": [{"port": 80}]},
            });
            loop {
                let made = client.post("/api/v1/namespaces/default/services", &service).await;
                match made.code {
                    201 => return made.body,
                    // Another server was faster.
                    409 => assert_eq!(made.body["reason"], "Conflict", "{}", made.body),
                    _ => panic!("{}", made.body),
                }
            }
        })
    });
    let (mut ips, mut ports) = (BTreeSet::new(), BTreeSet::new());
    for made in futures::future::join_all(tasks).await {
        let made = made.unwrap();
        assert!(ips.insert(made["spec"]["clusterIP"].to_string()), "{}", made["spec"]);
        assert!(ports.insert(made["spec"]["ports"][0]["nodePort"].to_string()), "{}", made["spec"]);
    }
    assert_eq!((ips.len(), ports.len()), (40, 40));
}

/// The servers behind the `kubernetes` Service, in its Endpoints and in its slices.
async fn behind(client: &Client) -> [BTreeSet<String>; 2] {
    fn list(value: &Value) -> impl Iterator<Item = &Value> {
        value.as_array().into_iter().flatten()
    }
    let text = |address: &Value, port: &Value| format!("{}:{port}", address.as_str().unwrap_or_default());
    let slices = "/apis/discovery.k8s.io/v1/namespaces/default/endpointslices?labelSelector=kubernetes.io/service-name%3Dkubernetes";
    let endpoints = client.get("/api/v1/namespaces/default/endpoints/kubernetes").await.body;
    let slices = client.get(slices).await.body;
    let mut out = [BTreeSet::new(), BTreeSet::new()];
    for subset in list(&endpoints["subsets"]) {
        out[0].extend(list(&subset["addresses"]).map(|a| text(&a["ip"], &subset["ports"][0]["port"])));
    }
    for slice in list(&slices["items"]) {
        out[1].extend(list(&slice["endpoints"]).map(|e| text(&e["addresses"][0], &slice["ports"][0]["port"])));
    }
    out
}

/// Waits until these are the servers, and nobody else.
async fn listed(cluster: &Cluster, wanted: &[&str]) {
    let wanted: BTreeSet<String> = wanted.iter().map(|&w| w.to_owned()).collect();
    let client = cluster.admin();
    eventually(&format!("{wanted:?} are listed"), async || behind(&client).await.iter().all(|l| *l == wanted)).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_kubernetes_service_lists_the_servers_that_live() {
    let [a, b] = at(["10.1.0.1:6443", "10.1.0.2:7443"]).await;
    listed(&a, &["10.1.0.1:6443", "10.1.0.2:7443"]).await;
    listed(&b, &["10.1.0.1:6443", "10.1.0.2:7443"]).await;
    // One drains: it takes its own address out.
    let drain = CancellationToken::new();
    b.listen(drain.clone()).await;
    drain.cancel();
    listed(&a, &["10.1.0.1:6443"]).await;
    // One that says nothing more after it has said that it is there.
    let says = |seconds| {
        let key = Bytes::from("/registry/masterleases/10.1.0.3:6443");
        let op = Op::Put { key, value: Bytes::from("x"), lease_ttl_s: Some(seconds) };
        a.store.txn(Txn { compare: Vec::new(), ops: vec![op] })
    };
    says(3600).await.unwrap();
    listed(&a, &["10.1.0.1:6443", "10.1.0.3:6443"]).await;
    says(1).await.unwrap();
    listed(&a, &["10.1.0.1:6443"]).await;
}

#[tokio::test]
async fn the_kubernetes_service_comes_back_when_it_is_deleted() {
    let cluster = Cluster::start().await;
    let admin = cluster.admin();
    let before = admin.get(&format!("{SERVICES}/kubernetes")).await.body;
    let slices = "/apis/discovery.k8s.io/v1/namespaces/default/endpointslices";
    for path in [SERVICES, "/api/v1/namespaces/default/endpoints", slices] {
        assert_eq!(admin.delete(&format!("{path}/kubernetes")).await.code, 200);
        eventually("it is there again", async || admin.get(&format!("{path}/kubernetes")).await.code == 200).await;
    }
    let after = admin.get(&format!("{SERVICES}/kubernetes")).await.body;
    assert_eq!(after["spec"]["clusterIP"], before["spec"]["clusterIP"]);
    assert_ne!(after["metadata"]["uid"], before["metadata"]["uid"]);
    // Somebody else's addresses do not stay.
    let wrong = json!({"subsets": [{"addresses": [{"ip": "10.9.9.9"}], "ports": [{"port": 1}]}]});
    let path = "/api/v1/namespaces/default/endpoints/kubernetes";
    assert_eq!(admin.patch(path, "merge", &wrong).await.code, 200);
    listed(&cluster, &["127.0.0.1:6443"]).await;
}
