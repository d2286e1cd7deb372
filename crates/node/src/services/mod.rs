//! What every node does for Services and Ingresses: forwarding tables, names, routes. Watches set a mark; what came
//! within a few milliseconds is taken together.

mod balancer;
mod driver;
mod entry;
mod names;
mod table;

pub(crate) use driver::{Dns, forward};
pub(crate) use entry::route;

use std::fmt::Debug;
use std::sync::Arc;

use base::rt::Tasks;
use futures::StreamExt;
use kube::Resource;
use kube::runtime::{WatchStreamExt, reflector, watcher};
use serde::de::DeserializeOwned;
use tokio::sync::Notify;

/// How soon to ask again whether a store has its first list.
const ASK_AGAIN: std::time::Duration = std::time::Duration::from_millis(10);

/// Returns once a store has its first complete list. A store wakes only the last of those who wait for it, and several
/// do: each asks again.
pub(crate) async fn known<K>(store: &reflector::Store<K>)
where
    K: Resource<DynamicType = ()> + Clone + Debug + Send + Sync + 'static,
{
    while tokio::time::timeout(ASK_AGAIN, store.wait_until_ready()).await.is_err() {}
}

/// Keeps all objects of a kind in memory, and marks each change.
pub(crate) fn follow<K>(client: &kube::Client, tasks: &Tasks, name: &str, mark: Vec<Arc<Notify>>) -> reflector::Store<K>
where
    K: Resource<DynamicType = ()> + Clone + DeserializeOwned + Debug + Send + Sync + 'static,
{
    let (store, writer) = reflector::store();
    let events =
        reflector(writer, ::follow::watch::<K>(client.clone(), None, watcher::Config::default())).default_backoff();
    let drain = tasks.drain();
    let kind = name.to_owned();
    tasks.spawn(name, async move {
        let mut events = events.boxed();
        loop {
            let event = tokio::select! {
                event = events.next() => event,
                () = drain.cancelled() => return,
            };
            match event {
                None => return,
                Some(Err(error)) => tracing::debug!(%error, kind, "watch failed"),
                // Objects of a list that is not complete say nothing yet.
                Some(Ok(watcher::Event::Init | watcher::Event::InitApply(_))) => {}
                Some(Ok(_)) => mark.iter().for_each(|m| m.notify_one()),
            }
        }
    });
    store
}
