//! Group-versions that others serve: an APIService that names a Service makes its group-version be answered by that Service,
//! with the user's name in headers that this server's certificate vouches for (Kubernetes' aggregation layer).
//!
//! Each such APIService has a [`Backend`] and a task that asks it now and then whether it serves, and says so in the
//! `Available` condition. Requests are only passed on while it does.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Weak};

use api::kinds::registry;
use api::status::ApiError;
use arc_swap::ArcSwap;
use serde_json::Value;
use tokio_util::sync::CancellationToken;

use crate::cache::{Entry, KindCache};
use crate::handlers::Scope;
use crate::handlers::write::Writer;
use crate::server::ApiServer;

mod backend;
mod condition;
pub(crate) mod configmap;
pub(crate) mod merge;
pub(crate) mod register;
mod tend;

pub(crate) use backend::{Backend, aggregator};

const GROUP: &str = "apiregistration.k8s.io";
const PLURAL: &str = "apiservices";
const MANAGER: &str = "windlass-apiserver";
/// Most group-versions that others serve: each has a task and connections of its own.
const BACKENDS_MAX: usize = 256;

/// The group-versions that others serve, at this moment.
#[derive(Default)]
pub(crate) struct Aggregation {
    backends: ArcSwap<Vec<Arc<Backend>>>,
    generation: AtomicU64,
}

impl Aggregation {
    /// Who serves a group-version, if it is not this server. APIServices themselves are always here: one of them could not be
    /// corrected otherwise.
    pub fn backend(&self, group: &str, version: &str) -> Option<Arc<Backend>> {
        let backends = self.backends.load();
        if backends.is_empty() || group == GROUP {
            return None;
        }
        backends.iter().find(|b| b.group == group && b.version == version).cloned()
    }

    /// All of them.
    pub fn backends(&self) -> Arc<Vec<Arc<Backend>>> {
        self.backends.load_full()
    }

    /// Changes whenever documents about what is served do.
    pub fn generation(&self) -> u64 {
        self.generation.load(Ordering::Acquire)
    }

    fn changed(&self) {
        self.generation.fetch_add(1, Ordering::AcqRel);
    }

    /// Brings the backends up to the APIServices. A backend stays when the place that it stands for does; new ones get a task.
    fn refresh(&self, server: &Arc<ApiServer>) {
        let before = self.backends.load_full();
        let mut after: Vec<Arc<Backend>> = Vec::new();
        let mut same = true;
        for entry in cache(server).snapshot("", None, 0, false, |_| true).entries {
            let object = entry.value();
            if object["spec"]["service"].is_null() {
                continue;
            }
            if after.len() == BACKENDS_MAX {
                tracing::warn!(name = entry.name(), "more APIServices with a Service than the {BACKENDS_MAX} served");
                break;
            }
            let known = before.iter().find(|b| b.is_of(&object));
            let backend = known.cloned().unwrap_or_else(|| {
                let backend = Arc::new(Backend::new(&object, server.pki.front_proxy_client()));
                tokio::spawn(tend::run(Arc::downgrade(server), backend.clone(), backend.ended()));
                backend
            });
            same &= known.is_some() && !backend.ranks(&object);
            after.push(backend);
        }
        if same && after.len() == before.len() {
            return;
        }
        for gone in before.iter().filter(|b| !after.iter().any(|a| Arc::ptr_eq(a, b))) {
            gone.end();
        }
        self.backends.store(Arc::new(after));
        self.changed();
    }

    fn end(&self) {
        self.backends.load().iter().for_each(|b| b.end());
    }
}

fn cache(server: &ApiServer) -> &Arc<KindCache> {
    register::cache(&server.caches)
}

fn scope<'a>(writer: &'a Writer<'_>, name: &'a str) -> Result<Scope<'a>, ApiError> {
    let kind = registry().by_resource(GROUP, "v1", PLURAL).ok_or_else(ApiError::path_not_found)?;
    Ok(Scope { kind, cache: cache(writer.server), namespace: "", name })
}

/// Follows the APIServices and the definitions of custom resources until `stop`.
pub(crate) async fn run(server: Weak<ApiServer>, stop: CancellationToken) {
    let heads = server.upgrade().map(|s| (cache(&s).head(), s.caches.definitions().head(), s.caches.progress()));
    let Some((mut services, mut definitions, mut progress)) = heads else { return };
    if let Some(server) = server.upgrade() {
        tokio::spawn(configmap::run(Arc::downgrade(&server), stop.clone()));
    }
    loop {
        services.borrow_and_update();
        definitions.borrow_and_update();
        progress.borrow_and_update();
        let Some(strong) = server.upgrade() else { return };
        strong.aggregation.refresh(&strong);
        let outcome = register::custom(&strong).await;
        drop(strong);
        if let Err(error) = &outcome {
            tracing::warn!(error = error.message, "APIServices of custom resources cannot be kept");
        }
        tokio::select! {
            changed = services.changed() => if changed.is_err() { break },
            changed = definitions.changed() => if changed.is_err() { break },
            // After a failure, whatever happens next is a reason to try again.
            changed = progress.changed(), if outcome.is_err() => if changed.is_err() { break },
            () = stop.cancelled() => break,
        }
        // The kinds of a definition come into being right after it is seen.
        if let Some(server) = server.upgrade() {
            let _ = server.caches.consistent().await;
        }
    }
    if let Some(server) = server.upgrade() {
        server.aggregation.end();
    }
}

/// Spec of an APIService.
fn spec<'a>(object: &'a Value, key: &str) -> &'a Value {
    &object["spec"][key]
}

/// Whether two entries of the cache are of one revision.
fn same_revision(a: Option<&Arc<Entry>>, revision: u64) -> bool {
    a.is_some_and(|e| e.revision == revision)
}
