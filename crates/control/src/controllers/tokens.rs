//! The controller that removes bootstrap tokens which have expired.

use std::sync::Arc;

use http::Method;
use k8s_openapi::api::core::v1::Secret;
use k8s_openapi::jiff::Timestamp;
use kube::runtime::watcher::Config;
use reconcile::bootstraptoken::{NAMESPACE, Step, TYPE, step};
use serde_json::json;
use tokio_util::sync::CancellationToken;

use super::{Context, KeyQueue};
use crate::actuator::{ActError, Actuator, is_not_found};
use crate::cache::Cache;

/// Starts it.
pub fn start(context: &Arc<Context>) {
    let (secrets, queue): (Arc<Cache<Secret>>, _) = (Arc::default(), KeyQueue::default());
    let added = queue.clone();
    let on_secret = Box::new(move |_: Option<&Arc<Secret>>, new: Option<&Arc<Secret>>| {
        if let Some(secret) = new {
            added.add(NAMESPACE, secret.metadata.name.as_deref().unwrap_or_default());
        }
    });
    let config = Config::default().fields(&format!("type={TYPE}"));
    let events = follow::watch(context.client.clone(), Some(NAMESPACE), config);
    secrets.follow(events, vec![on_secret], context.drain.clone());
    tokio::spawn(work(context.actuator.clone(), secrets, queue, context.drain.clone()));
}

/// One pass after the other until the drain: there is never much to do.
async fn work(actuator: Actuator, secrets: Arc<Cache<Secret>>, queue: KeyQueue, drain: CancellationToken) {
    loop {
        let key = tokio::select! {
            () = drain.cancelled() => return,
            key = queue.0.next() => key,
        };
        let found = secrets.get(NAMESPACE, &key.1);
        let outcome = match found.as_deref().map(|secret| (secret, step(secret, Timestamp::now()))) {
            None | Some((_, Step::Keep)) => Ok(()),
            Some((_, Step::Wait(left))) => {
                queue.0.add_after(key.clone(), left);
                Ok(())
            }
            Some((secret, Step::Delete)) => delete(&actuator, secret, &key.1).await,
        };
        if let Err(error) = &outcome {
            tracing::warn!(controller = "token-cleaner", ?key, error = %base::chain(error), "a pass failed");
        }
        queue.0.done(key, outcome.is_err());
    }
}

async fn delete(actuator: &Actuator, secret: &Secret, name: &str) -> Result<(), ActError> {
    let path = format!("/api/v1/namespaces/{NAMESPACE}/secrets/{name}");
    let body = json!({"apiVersion": "v1", "kind": "DeleteOptions", "preconditions": {"uid": secret.metadata.uid}});
    match actuator.call(Method::DELETE, &path, Some(&body), None).await {
        Err(error) if !is_not_found(&error) && !error.is_conflict() => Err(error),
        _ => Ok(()),
    }
}
