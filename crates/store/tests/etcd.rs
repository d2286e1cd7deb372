//! What a store in etcd does beyond what every store does: several processes on one, time, failing members, TLS, and
//! what it refuses to open.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod common;

use std::sync::Arc;

use bytes::Bytes;
use common::etcd::{Etcd, installed};
use common::*;
use parking_lot::Mutex;
use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair};
use store::{EtcdConfig, EtcdError, EtcdStore, RangeRequest, SealedStore, Store, StoreError, Txn, TxnOutcome};
use tokio::io::copy_bidirectional;
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;

/// Where nobody listens.
const NOBODY: &str = "http://127.0.0.253:9";

async fn refusal(config: &EtcdConfig) -> EtcdError {
    EtcdStore::open(config).await.err().expect("it was opened")
}

#[tokio::test]
async fn what_one_server_writes_the_other_sees_in_its_watch_and_its_conflicts() {
    if !installed() {
        return;
    }
    let etcd = Etcd::start();
    let (a, b_side) = (etcd.store("/w").await, etcd.store("/w/").await);
    let mut watch = b_side.watch(b("/registry/"), 0).await.unwrap();
    let revision = commit(&a, [put("/registry/x", "1"), put("/elsewhere", "1")]).await;
    assert_eq!(until(&mut watch, revision).await, [format!("{revision} put /registry/x=1")]);
    assert_eq!(b_side.latest().await.unwrap(), revision);
    let newer = commit(&b_side, [put("/registry/x", "2")]).await;
    let stale = Txn { compare: vec![when("/registry/x", revision)], ops: vec![del("/registry/x")] };
    let TxnOutcome::Conflict { current } = a.txn(stale).await.unwrap() else { panic!("it was done") };
    assert_eq!(current[0].as_ref().map(|kv| kv.mod_revision), Some(newer));
}

#[tokio::test]
async fn a_watch_comes_to_the_newest_revision_also_when_it_is_somebody_elses() {
    if !installed() {
        return;
    }
    let etcd = Etcd::start();
    let (ours, other) = (etcd.store("/ours").await, etcd.store("/other").await);
    let mut watch = ours.watch(b(""), 0).await.unwrap();
    commit(&ours, [put("a", "1")]).await;
    next(&mut watch).await.unwrap();
    let foreign = commit(&other, [put("a", "1")]).await;
    assert!(ours.revision() < foreign);
    let newest = ours.latest().await.unwrap();
    assert_eq!(newest, foreign);
    // Batches without changes say how far it is.
    while watch.progress() < newest {
        assert_eq!(next(&mut watch).await.unwrap().events, []);
    }
    assert_eq!(list(&ours, "", 0).await.unwrap(), ["a=1"]);
}

#[tokio::test]
async fn many_keys_are_read_in_pages_of_one_revision() {
    if !installed() {
        return;
    }
    let etcd = Etcd::start();
    let store = etcd.store("/w").await;
    for part in 0..10 {
        let ops: Vec<_> = (0..100).map(|n| put(&format!("k/{part}/{n:02}"), "x")).collect();
        commit(&store, ops).await;
    }
    let revision = commit(&store, [put("l", "x")]).await;
    let all = store.range(RangeRequest::prefix(b("k/"))).await.unwrap();
    assert_eq!((all.kvs.len(), all.more, all.remaining, all.revision), (1000, false, 0, revision));
    assert!(all.kvs.is_sorted_by(|x, y| x.key < y.key));
    let some = store.range(RangeRequest::prefix(b("k/")).limit(600)).await.unwrap();
    assert_eq!((some.kvs.len(), some.more, some.remaining), (600, true, 400));
    assert!(!store.range(RangeRequest::prefix(b("k/")).limit(1000)).await.unwrap().more);
}

#[tokio::test]
async fn a_lease_ends_and_a_put_without_one_keeps_the_key() {
    if !installed() {
        return;
    }
    let etcd = Etcd::start();
    let store = etcd.store("/w").await;
    // Again until the second put comes before the end of the first one's lease.
    let mut n = 0;
    let kept = loop {
        n += 1;
        let key = format!("kept-{n}");
        let first = commit(&store, [put_lease(&key, "x", 1)]).await;
        let again = Txn { compare: vec![when(&key, first)], ops: vec![put(&key, "y")] };
        if let TxnOutcome::Committed { .. } = store.txn(again).await.unwrap() {
            break key;
        }
    };
    let last = commit(&store, [put_lease("short", "x", 1), put_lease("long", "x", 3600)]).await;
    let mut watch = store.watch(b(""), last + 1).await.unwrap();
    while !next(&mut watch).await.unwrap().events.iter().any(|e| show(e).ends_with(" delete short")) {}
    assert_eq!(list(&store, "", 0).await.unwrap(), [format!("{kept}=y"), "long=x".into()]);
}

#[tokio::test]
async fn compaction_by_another_server_is_seen_and_repeating_it_is_no_error() {
    if !installed() {
        return;
    }
    let etcd = Etcd::start();
    let (a, b_side) = (etcd.store("/w").await, etcd.store("/w").await);
    let first = commit(&a, [put("a", "1")]).await;
    let last = commit(&a, [del("a")]).await;
    a.compact(last).await.unwrap();
    b_side.compact(last).await.unwrap();
    let error = list(&b_side, "", first).await.unwrap_err();
    assert!(matches!(error, StoreError::Compacted { compact_revision } if compact_revision == last), "{error}");
    // The deletion at the compacted revision may be gone: a watch from it must not pass over it in silence.
    let error = b_side.watch(b(""), last).await.unwrap_err();
    assert!(matches!(error, StoreError::Compacted { compact_revision } if compact_revision == last), "{error}");
    b_side.watch(b(""), last + 1).await.unwrap();
}

#[tokio::test]
async fn secrets_in_etcd_are_sealed() {
    if !installed() {
        return;
    }
    let etcd = Etcd::start();
    let dir = tempfile::tempdir().unwrap();
    let open = async || {
        let inner = Arc::new(etcd.store("/w").await);
        SealedStore::open(inner, &dir.path().join("keys"), &["/registry/core/secrets/"]).unwrap()
    };
    let (a, b_side) = (open().await, open().await);
    let mut watch = b_side.watch(b(""), 0).await.unwrap();
    commit(&a, [put("/registry/core/secrets/n/s", "hush")]).await;
    assert_eq!(text(&next(&mut watch).await.unwrap().events[0].kv.value), "hush");
    let raw = etcd.store("/w").await.range(RangeRequest::prefix(b(""))).await.unwrap();
    assert!(!text(&raw.kvs[0].value).contains("hush"));
}

#[tokio::test]
async fn servers_agree_on_what_the_first_of_them_said() {
    if !installed() {
        return;
    }
    let etcd = Etcd::start();
    let (a, b_side) = (etcd.store("/w").await, etcd.store("/w").await);
    assert_eq!(a.agree("authority", Bytes::from("one")).await.unwrap(), "one");
    assert_eq!(b_side.agree("authority", Bytes::from("two")).await.unwrap(), "one");
    assert_eq!(list(&a, "", 0).await.unwrap(), Vec::<String>::new());
}

/// Passes connections on to etcd, and breaks them when told.
struct Proxy {
    url: String,
    open: Arc<Mutex<JoinSet<()>>>,
}

impl Proxy {
    async fn start(target: &str) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let (open, target) = (Arc::new(Mutex::new(JoinSet::new())), target.to_owned());
        let set = open.clone();
        tokio::spawn(async move {
            while let Ok((mut client, _)) = listener.accept().await {
                let target = target.clone();
                set.lock().spawn(async move {
                    let mut server = TcpStream::connect(target).await.unwrap();
                    let _ = copy_bidirectional(&mut client, &mut server).await;
                });
            }
        });
        Proxy { url, open }
    }

    fn break_all(&self) {
        *self.open.lock() = JoinSet::new();
    }
}

#[tokio::test]
async fn a_broken_connection_loses_no_event_and_the_next_endpoint_is_asked() {
    if !installed() {
        return;
    }
    let etcd = Etcd::start();
    let (first, second) = (Proxy::start(etcd.address()).await, Proxy::start(etcd.address()).await);
    let mut config = etcd.config("/w");
    config.endpoints = vec![NOBODY.into(), first.url.clone(), second.url.clone()];
    let store = EtcdStore::open(&config).await.unwrap();
    let direct = etcd.store("/w").await;
    let start = direct.revision();
    let mut watch = store.watch(b(""), 0).await.unwrap();
    for n in 1..=20 {
        assert_eq!(commit(&direct, [put("k", &n.to_string())]).await, start + n);
        let events = until(&mut watch, start + n).await;
        assert_eq!(events, [format!("{} put k={n}", start + n)]);
        first.break_all();
        second.break_all();
        // Reads are made again elsewhere; they change nothing.
        assert_eq!(list(&store, "", 0).await.unwrap(), [format!("k={n}")]);
    }
}

#[tokio::test]
async fn a_write_that_nobody_answers_is_not_said_to_have_failed() {
    if !installed() {
        return;
    }
    let etcd = Etcd::start();
    let proxy = Proxy::start(etcd.address()).await;
    let mut config = etcd.config("/w");
    config.endpoints = vec![proxy.url.clone()];
    let store = Arc::new(EtcdStore::open(&config).await.unwrap());
    let (mut unknown, mut done) = (0, 0);
    let mut n = 0;
    // Broken off at any moment until it has happened both ways.
    while unknown == 0 || done == 0 {
        n += 1;
        let key = format!("{n:05}");
        let write = {
            let (store, key) = (store.clone(), key.clone());
            tokio::spawn(
                async move { store.txn(Txn { compare: vec![when(&key, 0)], ops: vec![put(&key, "x")] }).await },
            )
        };
        // Ever later too, so that some are answered on a slow machine.
        for _ in 0..if n % 2 == 0 { n % 50 } else { n } {
            tokio::task::yield_now().await;
        }
        proxy.break_all();
        match write.await.unwrap() {
            Ok(TxnOutcome::Committed { .. }) => {
                done += 1;
                assert_eq!(list(&*store, &key, 0).await.unwrap(), [format!("{key}=x")]);
            }
            // Made again by itself, it would find its own key in the way.
            Ok(TxnOutcome::Conflict { .. }) => panic!("the write was made twice"),
            Err(StoreError::OutcomeUnknown(_)) => unknown += 1,
            Err(StoreError::Unavailable(_)) => assert_eq!(list(&*store, &key, 0).await.unwrap(), Vec::<String>::new()),
            Err(other) => panic!("{other}"),
        }
    }
}

#[tokio::test]
async fn without_etcd_it_says_which_endpoints_were_asked() {
    let mut config = EtcdConfig::new(vec![NOBODY.into(), "http://127.0.0.253:10".into()], "/w");
    config.call_timeout = LIMIT;
    let error = refusal(&config).await.to_string();
    assert!(error.starts_with("no etcd endpoint answers: ") && error.contains("127.0.0.253:9: "), "{error}");
    assert!(error.contains("http://127.0.0.253:10: "), "{error}");
}

#[tokio::test]
async fn keys_of_somebody_else_are_left_alone() {
    if !installed() {
        return;
    }
    let etcd = Etcd::start();
    etcd.store("/registry/of/others").await;
    let error = refusal(&etcd.config("/registry")).await;
    let words =
        "the keys below /registry in etcd were not written by Windlass, for example /registry/of/others/meta/format";
    assert_eq!(error.to_string(), words);
    // A prefix that only begins alike is another place.
    etcd.store("/reg").await;
    etcd.store("/registry/of/others").await;
}

/// An authority and what it signs, as files.
struct Certificates {
    dir: tempfile::TempDir,
    issuer: Issuer<'static, KeyPair>,
}

impl Certificates {
    fn new() -> Self {
        let (key, mut params) = (KeyPair::generate().unwrap(), CertificateParams::default());
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("ca.crt"), params.self_signed(&key).unwrap().pem()).unwrap();
        Certificates { dir, issuer: Issuer::new(params, key) }
    }

    fn path(&self, name: &str) -> std::path::PathBuf {
        self.dir.path().join(name)
    }

    fn issue(&self, name: &str) {
        let key = KeyPair::generate().unwrap();
        let params = CertificateParams::new(["127.0.0.1".to_owned()]).unwrap();
        std::fs::write(self.path(&format!("{name}.crt")), params.signed_by(&key, &self.issuer).unwrap().pem()).unwrap();
        std::fs::write(self.path(&format!("{name}.key")), key.serialize_pem()).unwrap();
    }
}

#[tokio::test]
async fn tls_checks_the_member_and_shows_the_client() {
    if !installed() {
        return;
    }
    let (ours, others) = (Certificates::new(), Certificates::new());
    ours.issue("member");
    ours.issue("client");
    let flag = |flag: &str, file: &str| format!("--{flag}={}", ours.path(file).display());
    let flags = [flag("cert-file", "member.crt"), flag("key-file", "member.key"), flag("trusted-ca-file", "ca.crt")];
    let flags: Vec<_> = flags.iter().map(String::as_str).chain(["--client-cert-auth"]).collect();
    let etcd = Etcd::with("https", &flags);
    let mut config = etcd.config("/w");
    config.endpoints = vec![format!("https://{}", etcd.address())];
    config.ca_file = Some(ours.path("ca.crt"));
    config.identity = Some((ours.path("client.crt"), ours.path("client.key")));
    let store = EtcdStore::open(&config).await.unwrap_or_else(|e| panic!("{}", base::chain(&e)));
    let mut watch = store.watch(b(""), 0).await.unwrap();
    let revision = commit(&store, [put("a", "1")]).await;
    assert_eq!(until(&mut watch, revision).await, [format!("{revision} put a=1")]);

    let stranger = EtcdConfig { ca_file: Some(others.path("ca.crt")), ..config.clone() };
    let error = refusal(&stranger).await.to_string();
    assert!(error.contains("certificate"), "{error}");
    let nobody = EtcdConfig { identity: None, ..config.clone() };
    assert!(matches!(refusal(&nobody).await, EtcdError::Unreachable(_)));
    let plain = EtcdConfig { endpoints: vec![format!("http://{}", etcd.address())], ..config.clone() };
    assert!(matches!(refusal(&plain).await, EtcdError::Unreachable(_)));
    let missing = EtcdConfig { ca_file: Some(ours.path("none.crt")), ..config };
    assert!(matches!(refusal(&missing).await, EtcdError::File { .. }));
}
