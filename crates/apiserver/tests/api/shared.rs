//! Two servers on one store.

use std::collections::BTreeSet;
use std::sync::Arc;

use crate::common::{Client, Cluster, SERVICES, eventually};
use apiserver::{ApiServer, Config};
use bytes::Bytes;
use serde_json::json;
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

/// The servers, advertised as 10.1.0.1 and 10.1.0.2.
async fn two() -> [Cluster; 2] {
    let store: Arc<dyn Store> = Arc::new(Shared(MemoryStore::new()));
    let start = async |advertise: &str| {
        let pki = tempfile::tempdir().unwrap();
        let advertise = advertise.parse().unwrap();
        // Few addresses, so that two servers that draw without knowing of each other draw the same.
        let config = Config::new(pki.path().to_path_buf(), advertise, "10.96.0.0/26".parse().unwrap());
        let server = ApiServer::new(store.clone(), config).await.unwrap();
        Cluster { server, store: store.clone(), pki }
    };
    [start("10.1.0.1:6443").await, start("10.1.0.2:6443").await]
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

/// The addresses behind the `kubernetes` Service, in its Endpoints and in its slice.
async fn behind(client: &Client) -> [Vec<String>; 2] {
    let text = |v: &serde_json::Value| v.as_str().unwrap_or_default().to_owned();
    let endpoints = client.get("/api/v1/namespaces/default/endpoints/kubernetes").await.body;
    let addresses = endpoints["subsets"][0]["addresses"].as_array().cloned().unwrap_or_default();
    let slice = client.get("/apis/discovery.k8s.io/v1/namespaces/default/endpointslices/kubernetes").await.body;
    let ready = slice["endpoints"].as_array().cloned().unwrap_or_default();
    [addresses.iter().map(|a| text(&a["ip"])).collect(), ready.iter().map(|e| text(&e["addresses"][0])).collect()]
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_kubernetes_service_lists_the_servers_that_live() {
    let [a, b] = two().await;
    let client = a.admin();
    let listed = async |wanted: &[&str]| {
        eventually(&format!("{wanted:?} are listed"), async || behind(&client).await.iter().all(|l| l == wanted)).await;
    };
    listed(&["10.1.0.1", "10.1.0.2"]).await;
    // One drains: it takes its own address out.
    let drain = CancellationToken::new();
    b.listen(drain.clone()).await;
    drain.cancel();
    listed(&["10.1.0.1"]).await;
    // One was killed: what it said of itself ends, and the next look finds it gone.
    let dead = |value: &'static str| Op::Put {
        key: "/registry/masterleases/10.1.0.9:6443".into(),
        value: value.into(),
        lease_ttl_s: Some(60),
    };
    a.store.txn(Txn { compare: Vec::new(), ops: vec![dead("{}")] }).await.unwrap();
    listed(&["10.1.0.1", "10.1.0.9"]).await;
    let gone = Op::Delete { key: "/registry/masterleases/10.1.0.9:6443".into() };
    a.store.txn(Txn { compare: Vec::new(), ops: vec![gone] }).await.unwrap();
    listed(&["10.1.0.1"]).await;
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
    eventually("the address is right again", async || behind(&admin).await[0] == ["127.0.0.1"]).await;
}
