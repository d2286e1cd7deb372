//! APIServices of what this server serves itself: of built-in groups, made at the start, and of custom resources, which come
//! and go with their definitions. Those that people have taken over are left alone.

use std::collections::BTreeSet;
use std::sync::Arc;

use api::kinds::registry;
use api::labels::Labelled as _;
use api::status::ApiError;
use bytes::Bytes;
use serde_json::{Value, json};
use store::{Compare, Op, Txn, TxnOutcome};

use super::condition::{self, Verdict};
use super::{GROUP, MANAGER, PLURAL};
use crate::authn::UserInfo;
use crate::cache::{Caches, KindCache};
use crate::handlers::write::{RETRIES, Writer, encode_stored, store_error};
use crate::server::ApiServer;

/// Who keeps an APIService: the server when it starts, or all the time.
const LABEL: &str = "kube-aggregator.kubernetes.io/automanaged";
const ON_START: &str = "onstart";
const ALWAYS: &str = "true";
/// Groups and versions of definitions come after all others (kube-apiserver's crdregistration controller).
const CUSTOM: (i64, i64) = (1000, 100);
/// Objects written in one transaction: each is a condition and a change.
const AT_ONCE: usize = store::MAX_TXN_OPS / 2;

/// Group, version, `groupPriorityMinimum` and `versionPriority` of what is built in: kube-apiserver's own numbers, which
/// order what `kubectl api-resources` shows.
const BUILT_IN: &[(&str, &str, i64, i64)] = &[
    ("", "v1", 18000, 1),
    ("apps", "v1", 17800, 15),
    ("events.k8s.io", "v1", 17750, 15),
    ("authentication.k8s.io", "v1", 17700, 15),
    ("authorization.k8s.io", "v1", 17600, 15),
    ("autoscaling", "v2", 17500, 30),
    ("autoscaling", "v1", 17500, 15),
    ("batch", "v1", 17400, 15),
    ("certificates.k8s.io", "v1", 17300, 15),
    ("networking.k8s.io", "v1", 17200, 15),
    ("policy", "v1", 17100, 15),
    ("rbac.authorization.k8s.io", "v1", 17000, 15),
    ("storage.k8s.io", "v1", 16800, 15),
    ("admissionregistration.k8s.io", "v1", 16700, 15),
    ("apiextensions.k8s.io", "v1", 16700, 15),
    ("scheduling.k8s.io", "v1", 16600, 15),
    ("coordination.k8s.io", "v1", 16500, 15),
    ("node.k8s.io", "v1", 16300, 15),
    ("discovery.k8s.io", "v1", 16200, 15),
    ("resource.k8s.io", "v1", 16200, 21),
    ("flowcontrol.apiserver.k8s.io", "v1", 16100, 21),
];
/// The group of APIServices itself is the first, and has no APIService.
const FIRST: (i64, i64) = (20_000, 0);

/// The cache of APIServices.
///
/// # Panics
/// Never: their kind is built in.
pub(crate) fn cache(caches: &Caches) -> &Arc<KindCache> {
    caches.by(GROUP, PLURAL).expect("APIServices are a built-in kind")
}

/// Priority of the group, and of the version in it, of what this server serves.
pub(super) fn priorities(group: &str, version: &str) -> (i64, i64) {
    let known = BUILT_IN.iter().find(|(g, v, ..)| *g == group && *v == version);
    match known {
        Some((_, _, of_group, of_version)) => (*of_group, *of_version),
        None if group == GROUP => FIRST,
        None => CUSTOM,
    }
}

fn wanted(group: &str, version: &str, keeper: &str) -> Value {
    let (of_group, of_version) = priorities(group, version);
    let mut spec = json!({"groupPriorityMinimum": of_group, "version": version, "versionPriority": of_version});
    if !group.is_empty() {
        spec["group"] = group.into();
    }
    json!({
        "apiVersion": format!("{GROUP}/v1"),
        "kind": "APIService",
        "metadata": {"name": format!("{version}.{group}"), "labels": {LABEL: keeper}},
        "spec": spec,
    })
}

/// Makes and corrects the APIServices of built-in groups.
///
/// # Errors
/// The store fails.
pub(crate) async fn built_in(writer: &Writer<'_>) -> Result<(), ApiError> {
    let served = registry().group_versions();
    let of_server = BUILT_IN.iter().filter(|(g, v, ..)| served.contains(&(*g, *v)));
    keep(writer, of_server.map(|(g, v, ..)| wanted(g, v, ON_START)).collect(), ON_START).await
}

/// Makes, corrects and removes the APIServices of custom resources, and says of those without a Service that they are
/// served here.
///
/// # Errors
/// The store fails.
pub(super) async fn custom(server: &ApiServer) -> Result<(), ApiError> {
    let user = UserInfo::control_plane("system:apiserver");
    let (now, warnings) = (jiff::Timestamp::now(), Default::default());
    let writer = Writer { server, user: &user, manager: MANAGER, dry_run: false, now, warnings: &warnings };
    let built_in = registry().group_versions();
    let kinds = server.caches.custom();
    let served: BTreeSet<(&str, &str)> = kinds.kinds().iter().map(|k| (k.group, k.version)).collect();
    let served = served.into_iter().filter(|gv| !built_in.contains(gv));
    keep(&writer, served.map(|(g, v)| wanted(g, v, ALWAYS)).collect(), ALWAYS).await?;
    let is_local = |object: &Value| object["spec"]["service"].is_null();
    for entry in cache(&server.caches).snapshot("", None, 0, false, |_| true).entries {
        let object = entry.value();
        if is_local(&object) && condition::with(&object, &Verdict::local(), "").is_some() {
            condition::write(&writer, entry.name(), &Verdict::local(), is_local).await?;
        }
    }
    Ok(())
}

/// Brings the APIServices of one keeper to what is wanted, many in one transaction: a first start is not to wait for the disk
/// twenty times.
async fn keep(writer: &Writer<'_>, wanted: Vec<Value>, keeper: &str) -> Result<(), ApiError> {
    let caches = &writer.server.caches;
    let cache = cache(caches);
    for _ in 0..RETRIES {
        let mut changes = changes(writer, cache, &wanted);
        if keeper == ALWAYS {
            changes.extend(spurious(cache, &wanted));
        }
        if changes.is_empty() {
            return Ok(());
        }
        for part in changes.chunks(AT_ONCE) {
            let (compare, ops) = part.iter().cloned().unzip();
            if let TxnOutcome::Committed { revision, .. } =
                caches.store().txn(Txn { compare, ops }).await.map_err(|e| store_error(&e))?
            {
                caches.written(revision).await?;
            }
        }
        caches.consistent().await?;
    }
    Err(ApiError::conflict_modified(PLURAL, GROUP, ""))
}

fn changes(writer: &Writer<'_>, cache: &KindCache, wanted: &[Value]) -> Vec<(Compare, Op)> {
    let mut out = Vec::new();
    for wanted in wanted {
        let name = api::meta::name(wanted);
        let keeper = &wanted["metadata"]["labels"][LABEL];
        let (object, expected) = match cache.get(name) {
            Some(entry) => {
                let old = entry.value();
                let label = entry.facts.labels.label(LABEL);
                if label != keeper.as_str() || old["spec"] == wanted["spec"] {
                    continue;
                }
                let mut new = old;
                new["spec"] = wanted["spec"].clone();
                api::meta::clear_resource_version(&mut new);
                (new, entry.revision)
            }
            None => {
                let mut new = wanted.clone();
                new["metadata"]["uid"] = uuid::Uuid::new_v4().to_string().into();
                new["metadata"]["creationTimestamp"] = writer.now_text().into();
                let new = condition::with(&new, &Verdict::local(), &writer.now_text()).unwrap_or(new);
                (new, 0)
            }
        };
        let key = cache.store_key(name);
        let put = Op::Put { key: key.clone(), value: encode_stored(&object), lease_ttl_s: None };
        out.push((Compare::ModRevision(key, expected), put));
    }
    out
}

/// What was kept for definitions that are gone.
fn spurious(cache: &KindCache, wanted: &[Value]) -> Vec<(Compare, Op)> {
    let kept = cache.snapshot("", None, 0, false, |e| e.facts.labels.label(LABEL) == Some(ALWAYS)).entries;
    let gone = kept.iter().filter(|e| !wanted.iter().any(|w| api::meta::name(w) == e.name()));
    gone.map(|e| {
        let key: Bytes = cache.store_key(&e.key);
        (Compare::ModRevision(key.clone(), e.revision), Op::Delete { key })
    })
    .collect()
}
