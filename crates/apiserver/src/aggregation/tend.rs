//! Looks after one backend: asks it whether it serves, takes over what it says of itself, and writes the condition.

use std::sync::{Arc, Weak};
use std::time::Duration;

use futures::future::select_ok;
use serde_json::Value;
use tokio_util::sync::CancellationToken;

use super::condition::{self, Verdict};
use super::{Backend, MANAGER, cache};
use crate::authn::UserInfo;
use crate::handlers::write::Writer;
use crate::outbound::Host;
use crate::server::ApiServer;

/// How often a backend is asked that answered: the network between can break without a word, which nothing tells.
const AGAIN: Duration = Duration::from_secs(30);
/// How soon one is asked again that did not answer, at first; then ever later, up to [`AGAIN`].
const RETRY: Duration = Duration::from_millis(200);
/// Services and slices may change thousands of times a second: several changes are looked at together.
const TOGETHER: Duration = Duration::from_millis(50);
/// Endpoints that are asked at once when the first does not answer: one that does suffices.
const AT_ONCE: usize = 4;
/// A backend's OpenAPI v2 document is read anew after so many answers, for it has no short form that tells of changes.
const V2_EVERY: u32 = 10;

/// Runs until the backend has `ended`.
pub(super) async fn run(server: Weak<ApiServer>, backend: Arc<Backend>, ended: CancellationToken) {
    let heads = server.upgrade().and_then(|s| {
        let slices = s.caches.by("discovery.k8s.io", "endpointslices")?.head();
        Some((s.caches.core("services").head(), slices, cache(&s).head()))
    });
    let Some((mut services, mut slices, mut own)) = heads else { return };
    let mut retry = RETRY;
    let mut passes = 0;
    let mut due = tokio::time::Instant::now();
    let (mut seen, mut verdict) = (None, None);
    loop {
        services.borrow_and_update();
        slices.borrow_and_update();
        own.borrow_and_update();
        let Some(strong) = server.upgrade() else { return };
        let (state, places) = condition::look(&strong.caches, &backend);
        let changed = seen != Some(state);
        let mut news = false;
        if changed || tokio::time::Instant::now() >= due {
            (seen, retry) = (Some(state), if changed { RETRY } else { retry });
            let asked = tokio::select! {
                asked = judge(&backend, places, passes) => asked,
                () = ended.cancelled() => return,
            };
            (retry, passes) = if asked.available { (RETRY, passes + 1) } else { ((retry * 2).min(AGAIN), 0) };
            due = tokio::time::Instant::now() + if asked.available { AGAIN } else { retry };
            backend.learn(|s| s.available = asked.available);
            strong.aggregation.changed();
            (verdict, news) = (Some(asked), true);
        }
        // Not on every write of others: two servers of different opinion would write for ever.
        if let Some(verdict) = &verdict
            && (news || condition::is_missing(&strong, &backend))
        {
            say(&strong, &backend, verdict).await;
        }
        drop(strong);
        tokio::select! {
            changed = services.changed() => if changed.is_err() { return },
            changed = slices.changed() => if changed.is_err() { return },
            // It may have been made anew.
            changed = own.changed() => if changed.is_err() { return },
            () = tokio::time::sleep_until(due) => continue,
            () = ended.cancelled() => return,
        }
        tokio::select! {
            () = tokio::time::sleep(TOGETHER) => {}
            () = ended.cancelled() => return,
        }
    }
}

async fn say(server: &ApiServer, backend: &Backend, verdict: &Verdict) {
    let user = UserInfo::control_plane("system:kube-aggregator");
    let (now, warnings) = (jiff::Timestamp::now(), Default::default());
    let writer = Writer { server, user: &user, manager: MANAGER, dry_run: false, now, warnings: &warnings };
    if let Err(error) = condition::write(&writer, &backend.name, verdict, |object| backend.is_of(object)).await {
        // The next change or look says it again.
        tracing::warn!(name = backend.name, error = error.message, "condition of an APIService cannot be written");
    }
}

/// Asks the backend, and takes over what it says.
async fn judge(backend: &Backend, places: Result<Vec<Host>, Verdict>, passes: u32) -> Verdict {
    let places = match places {
        Ok(places) => places,
        Err(verdict) => {
            backend.learn(|s| s.fresh = false);
            return verdict;
        }
    };
    match listed(backend, &places).await {
        Ok((host, list)) => {
            let resources = condition::resources(&backend.group, &backend.version, &list);
            let (v3, v2) = documents(backend, &host, passes).await;
            backend.learn(|s| {
                s.fresh = resources.is_some();
                s.resources = resources.unwrap_or_else(|| s.resources.clone());
                s.openapi_v3 = v3;
                s.openapi_v2 = v2;
            });
            Verdict::passed()
        }
        Err(why) => {
            backend.learn(|s| s.fresh = false);
            Verdict::failed(why)
        }
    }
}

/// The list of resources, and who gave it.
async fn listed(backend: &Backend, places: &[Host]) -> Result<(Host, Value), String> {
    let root = backend.root();
    let one = |host: Host| {
        let root = &root;
        Box::pin(async move {
            let bytes = backend.ask(&host, root).await?;
            Ok::<_, String>((host, serde_json::from_slice(&bytes).unwrap_or(Value::Null)))
        })
    };
    let (first, others) = places.split_first().ok_or("no endpoints available")?;
    match one(first.clone()).await {
        Err(_) if !others.is_empty() => {
            select_ok(others.iter().take(AT_ONCE).cloned().map(one)).await.map(|(found, _)| found)
        }
        other => other,
    }
}

/// Where its OpenAPI v3 document is, and its OpenAPI v2 document. A server may have neither.
async fn documents(backend: &Backend, host: &Host, passes: u32) -> (Option<String>, Option<Arc<Value>>) {
    let json = async |path: &str| {
        let bytes = backend.ask(host, path).await.ok()?;
        serde_json::from_slice::<Value>(&bytes).ok()
    };
    let root = backend.root();
    let index = json("/openapi/v3").await;
    let v3 =
        index.and_then(|i| i["paths"][root.trim_start_matches('/')]["serverRelativeURL"].as_str().map(str::to_owned));
    let known = backend.state();
    let fresh = passes > 0 && !passes.is_multiple_of(V2_EVERY) && known.openapi_v3 == v3;
    let v2 = match known.openapi_v2 {
        Some(v2) if fresh => Some(v2),
        known => {
            let read = json("/openapi/v2").await.map(|whole| super::merge::own_part(&whole, &root));
            match (read, known) {
                // The same again is the same document.
                (Some(new), Some(old)) if new == *old => Some(old),
                (Some(new), _) => Some(Arc::new(new)),
                (None, old) => old,
            }
        }
    };
    (v3, v2)
}
