//! Two servers on one store.

use std::collections::BTreeSet;
use std::sync::Arc;

use crate::common::Cluster;
use apiserver::{ApiServer, Config};
use bytes::Bytes;
use serde_json::json;
use store::{BoxFuture, MemoryStore, RangeRequest, RangeResponse, Store, StoreError, Txn, TxnOutcome, Watch};

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
    let store: Arc<dyn Store> = Arc::new(Shared(MemoryStore::new()));
    let start = async || {
        let pki = tempfile::tempdir().unwrap();
        let advertise = "127.0.0.1:6443".parse().unwrap();
        // Few addresses, so that two servers that draw without knowing of each other draw the same.
        let config = Config::new(pki.path().to_path_buf(), advertise, "10.96.0.0/26".parse().unwrap());
        let server = ApiServer::new(store.clone(), config).await.unwrap();
        Cluster { server, store: store.clone(), pki }
    };
    [start().await, start().await]
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
