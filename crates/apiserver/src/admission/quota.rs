//! ResourceQuotas: charged in the same transaction as the write that uses something, and given back by a task that counts
//! anew what a namespace holds.
//!
//! Charges of one namespace take turns, and the transaction insists on the revision of every quota it charges. The count
//! takes the same turn and reads caches that show everything written, so it never overwrites a charge it has not seen.

use std::collections::BTreeSet;
use std::hash::{BuildHasher as _, Hasher as _};
use std::sync::{Arc, Weak};
use std::time::Duration;

use api::kinds::KindInfo;
use api::policy::quota;
use api::policy::resources::Amounts;
use api::status::ApiError;
use parking_lot::Mutex;
use serde_json::Value;
use store::{Compare, Op, Txn, TxnOutcome};
use tokio::sync::{Notify, OwnedMutexGuard};
use tokio_util::sync::CancellationToken;

use super::{Admission, Operation};
use crate::cache::{Caches, Entry};
use crate::handlers::write::{encode_stored, store_error};
use crate::server::ApiServer;

/// Namespaces share this many turns: as many charges go on at the same time at most.
const TURNS: usize = 64;
/// Shortest time between two counts: what ends together is counted together.
const PAUSE: Duration = Duration::from_millis(100);
/// Most quotas that one write can charge, because of the store's limit of a transaction: the object, its namespace and what a
/// Service takes are in it too.
const QUOTAS_MAX: usize = store::MAX_TXN_OPS / 2 - 3;

/// Turns, and namespaces to be counted.
pub(crate) struct Quotas {
    turns: Vec<Arc<tokio::sync::Mutex<()>>>,
    hash: std::hash::RandomState,
    stale: Mutex<BTreeSet<String>>,
    wake: Arc<Notify>,
}

impl Default for Quotas {
    fn default() -> Self {
        Quotas {
            turns: (0..TURNS).map(|_| Arc::default()).collect(),
            hash: std::hash::RandomState::new(),
            stale: Mutex::default(),
            wake: Arc::default(),
        }
    }
}

/// What a write must carry to be counted, and the turn it has until it is done.
#[derive(Default)]
pub(crate) struct Charge {
    pub compare: Vec<Compare>,
    pub ops: Vec<Op>,
    _turn: Option<OwnedMutexGuard<()>>,
}

impl Quotas {
    async fn turn(&self, namespace: &str) -> OwnedMutexGuard<()> {
        let mut hasher = self.hash.build_hasher();
        hasher.write(namespace.as_bytes());
        let index = usize::try_from(hasher.finish() % TURNS as u64).unwrap_or(0);
        self.turns[index].clone().lock_owned().await
    }

    /// Charges the quotas of a namespace for a new or changed object.
    pub(super) async fn charge(
        &self,
        admission: &Admission<'_>,
        object: &Value,
        old: &Value,
    ) -> Result<Charge, ApiError> {
        let caches = admission.caches();
        let (group, plural) = (admission.kind.storage_group, admission.kind.plural);
        let charged = match admission.operation {
            // Events end by themselves, which no count would see.
            Operation::Create => admission.kind.ttl_s.is_none(),
            Operation::Update if admission.subresource == "resize" => group.is_empty() && plural == "pods",
            Operation::Update => group.is_empty() && matches!(plural, "services" | "persistentvolumeclaims"),
            Operation::Delete | Operation::Connect => false,
        };
        let applies = charged && admission.kind.namespaced && matches!(admission.subresource, "" | "resize");
        if !applies || quotas(caches, admission.namespace).is_empty() {
            return Ok(Charge::default());
        }
        let new = quota::usage(group, plural, object, admission.now);
        let before = match old {
            Value::Null => Amounts::new(),
            old => quota::usage(group, plural, old, admission.now),
        };
        let turn = self.turn(admission.namespace).await;
        let mut charge = Charge { _turn: Some(turn), ..Charge::default() };
        for entry in quotas(caches, admission.namespace) {
            let held = entry.value();
            if !quota::in_scope(&held, group, plural, object) {
                continue;
            }
            let (name, hard) = (entry.name(), quota::hard(&held));
            if group.is_empty() && plural == "pods" {
                quota::stated(&hard, object)
                    .map_err(|why| admission.forbidden(&format!("failed quota: {name}: {why}")))?;
            }
            let more = quota::increase(&hard, &new, &before);
            if more.is_empty() {
                continue;
            }
            let used = match quota::used(&held) {
                Some(mut used) => {
                    used.retain(|name, _| hard.contains_key(name));
                    used
                }
                None => count(caches, admission.namespace, &held, admission.now),
            };
            let used = quota::charge(name, &hard, &used, &more).map_err(|why| admission.forbidden(&why))?;
            if charge.ops.len() >= QUOTAS_MAX {
                return Err(admission.forbidden(&format!("more than {QUOTAS_MAX} quotas apply")));
            }
            let (key, value) = recorded(caches, &entry, held, &used);
            charge.compare.push(Compare::ModRevision(key.clone(), entry.revision));
            charge.ops.push(Op::Put { key, value, lease_ttl_s: None });
        }
        Ok(charge)
    }

    /// Asks for a count of a namespace, if it has quotas.
    pub fn touch(&self, caches: &Caches, namespace: &str) {
        if !namespace.is_empty() && !quotas(caches, namespace).is_empty() {
            self.stale.lock().insert(namespace.to_owned());
            self.wake.notify_one();
        }
    }

    /// The same after a change that was not charged, if it uses less than before or quotas changed themselves.
    pub fn changed(&self, caches: &Caches, kind: &KindInfo, new: &Value, old: &Value, now: jiff::Timestamp) {
        let namespace = api::meta::namespace(new);
        let counted = kind.group.is_empty()
            && matches!(kind.plural, "pods" | "services" | "persistentvolumeclaims" | "resourcequotas");
        if !counted || quotas(caches, namespace).is_empty() {
            return;
        }
        let usage = |object: &Value| quota::usage(kind.group, kind.plural, object, now);
        let scoped = |pod: &Value| pod["spec"]["activeDeadlineSeconds"].as_i64();
        if kind.plural == "resourcequotas" || usage(new) != usage(old) || scoped(new) != scoped(old) {
            self.touch(caches, namespace);
        }
    }
}

/// The quotas of a namespace, in order of their names.
fn quotas(caches: &Caches, namespace: &str) -> Vec<Arc<Entry>> {
    let cache = caches.core("resourcequotas");
    if cache.is_empty() {
        return Vec::new();
    }
    cache.snapshot(namespace, None, 0, false, |_| true).entries
}

/// Key and value of a quota with another usage.
fn recorded(caches: &Caches, entry: &Entry, mut held: Value, used: &Amounts) -> (bytes::Bytes, bytes::Bytes) {
    held["status"] = quota::status(&held, used);
    (caches.core("resourcequotas").store_key(&entry.key), encode_stored(&held))
}

/// What the objects of a namespace use of what a quota limits.
fn count(caches: &Caches, namespace: &str, held: &Value, now: jiff::Timestamp) -> Amounts {
    let hard = quota::hard(held);
    let mut used = quota::nothing(&hard);
    let resources: BTreeSet<(&str, &str)> = hard.keys().filter_map(|name| quota::counts(name)).collect();
    for (group, plural) in resources {
        let Some(cache) = caches.by(group, plural) else { continue };
        for entry in cache.snapshot(namespace, None, 0, false, |_| true).entries {
            let object = entry.value();
            if quota::in_scope(held, group, plural, &object) {
                quota::count(&mut used, &quota::usage(group, plural, &object, now));
            }
        }
    }
    used
}

/// Counts namespaces anew whenever something in them went away, until `stop`.
pub(crate) async fn run(server: Weak<ApiServer>, stop: CancellationToken) {
    if let Some(server) = server.upgrade() {
        let mut stale = server.admission.quotas.stale.lock();
        server.caches.core("resourcequotas").find_map(|entry| {
            stale.insert(entry.namespace().to_owned());
            None::<()>
        });
    }
    loop {
        let Some(server) = server.upgrade() else { return };
        let quotas = &server.admission.quotas;
        let next = std::mem::take(&mut *quotas.stale.lock());
        for namespace in next {
            if let Err(error) = recount(&server, &namespace).await {
                tracing::warn!(namespace, %error, "cannot count the usage of quotas");
                quotas.stale.lock().insert(namespace);
                quotas.wake.notify_one();
            }
        }
        // Not held while there is nothing to do: the last user's drop ends the server, which cancels `stop`.
        let wake = quotas.wake.clone();
        drop(server);
        tokio::select! {
            () = stop.cancelled() => return,
            () = wake.notified() => {}
        }
        tokio::select! {
            () = stop.cancelled() => return,
            () = tokio::time::sleep(PAUSE) => {}
        }
    }
}

async fn recount(server: &ApiServer, namespace: &str) -> Result<(), ApiError> {
    let _turn = server.admission.quotas.turn(namespace).await;
    let caches = &server.caches;
    caches.consistent().await?;
    for entry in quotas(caches, namespace) {
        let held = entry.value();
        let used = count(caches, namespace, &held, jiff::Timestamp::now());
        if held["status"] == quota::status(&held, &used) {
            continue;
        }
        let (key, value) = recorded(caches, &entry, held, &used);
        let compare = vec![Compare::ModRevision(key.clone(), entry.revision)];
        let ops = vec![Op::Put { key, value, lease_ttl_s: None }];
        match caches.store().txn(Txn { compare, ops }).await.map_err(|e| store_error(&e))? {
            TxnOutcome::Committed { revision, .. } => caches.written(revision).await?,
            // Its specification changed meanwhile, which asks for a count of its own.
            TxnOutcome::Conflict { .. } => server.admission.quotas.touch(caches, namespace),
        }
    }
    Ok(())
}
