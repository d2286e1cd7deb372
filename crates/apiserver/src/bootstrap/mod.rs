//! Objects that every cluster has: the system namespaces, the Service through which pods reach this server, and the default
//! roles.

use api::kinds::{KindInfo, registry};
use api::status::ApiError;
use serde_json::{Value, json};
use store::{Compare, Op, Txn, TxnOutcome};

use crate::admission::{SYSTEM_NAMESPACES, Warnings, system_classes};
use crate::aggregation::{configmap, register};
use crate::authn::UserInfo;
use crate::handlers::Scope;
use crate::handlers::write::{Commit, RETRIES, Writer, encode_stored, store_error};
use crate::server::{ApiServer, StartError};

pub(crate) mod own;
mod policy;

/// Objects made in one transaction: each is a condition and a change.
const AT_ONCE: usize = store::MAX_TXN_OPS / 2;

const MANAGER: &str = "windlass-apiserver";

/// Makes what is missing and corrects the endpoints of this server.
pub(crate) async fn run(server: &ApiServer) -> Result<(), StartError> {
    let user = UserInfo::control_plane("system:apiserver");
    let warnings = &Warnings::default();
    let writer =
        Writer { server, user: &user, manager: MANAGER, dry_run: false, now: jiff::Timestamp::now(), warnings };
    for class in system_classes() {
        ensure(&writer, "scheduling.k8s.io", "v1", "priorityclasses", "", class, |_, _| false).await?;
    }
    for name in SYSTEM_NAMESPACES {
        let namespace = json!({
            "apiVersion": "v1",
            "kind": "Namespace",
            "metadata": {"name": name, "labels": {"kubernetes.io/metadata.name": name}},
            "spec": {"finalizers": ["kubernetes"]},
            "status": {"phase": "Active"},
        });
        ensure(&writer, "", "v1", "namespaces", "", namespace, |_, _| false).await?;
    }
    let range = service_cidr(&server.config.service_cidr.to_string(), &writer.now_text());
    let other = |old: &Value, new: &Value| old["spec"] != new["spec"];
    ensure(&writer, "networking.k8s.io", "v1", "servicecidrs", "", range, other).await?;
    own::pass(server, true).await?;
    let failed = |what: &str| {
        let what = what.to_owned();
        |source| StartError::Bootstrap { what, source }
    };
    register::built_in(&writer).await.map_err(failed("APIServices"))?;
    configmap::ensure(server).await.map_err(failed("configmaps/extension-apiserver-authentication"))?;
    roles(&writer).await?;
    crate::flow::keeper::pass(server).await.map(drop).map_err(failed("flow schemas and priority levels"))
}

/// Makes and completes the default roles and bindings, many in one transaction: a first start is not to wait for the disk a
/// hundred times.
async fn roles(writer: &Writer<'_>) -> Result<(), StartError> {
    let failed = |source| StartError::Bootstrap { what: "default roles".into(), source };
    let caches = &writer.server.caches;
    for _ in 0..RETRIES {
        let mut changes: Vec<(Compare, Op)> = Vec::new();
        for wanted in policy::wanted() {
            let Some(cache) = caches.by("rbac.authorization.k8s.io", wanted.plural) else { continue };
            let name = api::meta::name(&wanted.object);
            let key =
                if wanted.namespace.is_empty() { name.to_owned() } else { format!("{}/{name}", wanted.namespace) };
            let (object, expected) = match cache.get(&key) {
                None => (fresh(writer, wanted.object), 0),
                Some(entry) => match policy::reconciled(&entry.value(), &wanted.object) {
                    policy::Change::None => continue,
                    policy::Change::Update(new) => (new, entry.revision),
                    policy::Change::Replace(new) => (fresh(writer, new), entry.revision),
                },
            };
            let key = cache.store_key(&key);
            let op = Op::Put { key: key.clone(), value: encode_stored(&object), lease_ttl_s: None };
            changes.push((Compare::ModRevision(key, expected), op));
        }
        if changes.is_empty() {
            return Ok(());
        }
        for part in changes.chunks(AT_ONCE) {
            let (compare, ops) = part.iter().cloned().unzip();
            let outcome = caches.store().txn(Txn { compare, ops }).await.map_err(|e| failed(store_error(&e)))?;
            if let TxnOutcome::Committed { revision, .. } = outcome {
                caches.written(revision).await.map_err(failed)?;
            }
        }
        caches.consistent().await.map_err(failed)?;
    }
    Err(failed(ApiError::conflict_modified("clusterroles", "rbac.authorization.k8s.io", "")))
}

/// The range from which Services get their addresses (KEP-1880: the default ServiceCIDR is named `kubernetes`).
fn service_cidr(range: &str, now: &str) -> Value {
    json!({
        "apiVersion": "networking.k8s.io/v1",
        "kind": "ServiceCIDR",
        "metadata": {"name": "kubernetes"},
        "spec": {"cidrs": [range]},
        "status": {"conditions": [{
            "type": "Ready",
            "status": "True",
            "reason": "",
            "message": "Kubernetes Service CIDR is ready",
            "lastTransitionTime": now,
        }]},
    })
}

/// Creates the object if it is missing, and replaces the content of one that `changed` says is out of date. Written past
/// validation, which forbids the loopback endpoints that a single-host server may have.
async fn ensure(
    writer: &Writer<'_>,
    group: &str,
    version: &str,
    plural: &str,
    namespace: &str,
    wanted: Value,
    changed: fn(&Value, &Value) -> bool,
) -> Result<(), StartError> {
    let name = api::meta::name(&wanted).to_owned();
    let failed = |source| StartError::Bootstrap { what: format!("{plural}/{name}"), source };
    let kind: &'static KindInfo =
        registry().by_resource(group, version, plural).ok_or_else(|| failed(ApiError::path_not_found()))?;
    let scope = Scope { kind, cache: writer.server.caches.of(kind), namespace, name: &name };
    let key = scope.key();
    for _ in 0..RETRIES {
        let (object, expected) = match scope.cache.get(&key) {
            Some(entry) => {
                let old = entry.value();
                if !changed(&old, &wanted) {
                    return Ok(());
                }
                let mut new = wanted.clone();
                new["metadata"] = old["metadata"].clone();
                api::meta::clear_resource_version(&mut new);
                (new, entry.revision)
            }
            None => (fresh(writer, wanted.clone()), 0),
        };
        let stored = encode_stored(&object);
        if let Commit::Done(_) = writer.put(&scope, &key, stored, expected, None).await.map_err(failed)? {
            return Ok(());
        }
    }
    Err(failed(ApiError::conflict_modified(plural, group, &name)))
}

fn fresh(writer: &Writer<'_>, mut object: Value) -> Value {
    object["metadata"]["uid"] = uuid::Uuid::new_v4().to_string().into();
    object["metadata"]["creationTimestamp"] = writer.now_text().into();
    object
}
