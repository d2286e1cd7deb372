//! The garbage collector at work: a graph of owners and dependents over the metadata of every kind.

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;

use api::crd::Place;
use futures::StreamExt;
use http::Method;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, OwnerReference};
use kube::core::{ApiResource, DynamicObject, GroupVersionKind, PartialObjectMeta};
use kube::runtime::watcher::{self, Event, watcher};
use kube::{Api, ResourceExt};
use parking_lot::RwLock;
use reconcile::gc::{Dependent, FOREGROUND, Owner};
use reconcile::plan::{Resource, namespace, terminating, uid};
use tokio_util::sync::CancellationToken;

use crate::actuator::{ActError, is_not_found};
use crate::controllers::{Context, KeyQueue, Pass, work};

mod graph;

use graph::Graph;

/// Kinds that own nothing and are owned by nobody, or come and go too often to be worth following.
const NOT_FOLLOWED: [&str; 2] = ["Event", "Lease"];

/// Follows every kind, built in or custom, and starts the workers.
pub fn start(context: &Arc<Context>) {
    let graph: Arc<RwLock<Graph>> = Arc::default();
    let queue = KeyQueue::default();
    for kind in api::kinds::registry().all() {
        let followed = kind.verbs.contains(&"watch") && !NOT_FOLLOWED.contains(&kind.kind);
        if followed {
            let resource = Resource { group: kind.group, version: kind.version, plural: kind.plural, kind: kind.kind };
            follow(context, graph.clone(), queue.clone(), resource, context.drain.clone());
        }
    }
    let custom: Custom = Arc::default();
    follow_definitions(context, graph.clone(), queue.clone(), custom.clone());
    work(context, "garbage-collector", 2, queue, move |c, (_, id)| pass(c, graph.clone(), custom.clone(), id));
}

/// Custom kinds that are followed, by the names of their definitions.
type Custom = Arc<RwLock<HashMap<String, (Place, CancellationToken)>>>;

fn resource_of(place: &Place) -> Resource {
    Resource { group: place.group, version: place.version, plural: place.plural, kind: place.kind }
}

/// Follows the custom kinds as their definitions come and go.
fn follow_definitions(context: &Arc<Context>, graph: Arc<RwLock<Graph>>, queue: KeyQueue, custom: Custom) {
    let gvk = GroupVersionKind::gvk("apiextensions.k8s.io", "v1", "CustomResourceDefinition");
    let api: Api<DynamicObject> = Api::all_with(context.client.clone(), &ApiResource::from_gvk(&gvk));
    let context = context.clone();
    tokio::spawn(async move {
        let mut stream = watcher(api, watcher::Config::default()).boxed();
        let mut listed: Option<BTreeSet<String>> = None;
        loop {
            crate::snapshots::definitions_changed(&context, |name| custom.read().get(name).map(|(place, _)| *place));
            let event = tokio::select! {
                () = context.drain.cancelled() => return,
                event = stream.next() => event,
            };
            let definition = match event {
                Some(Ok(Event::Init)) => {
                    listed = Some(BTreeSet::new());
                    continue;
                }
                Some(Ok(Event::InitDone)) => {
                    let seen = listed.take().unwrap_or_default();
                    let gone: Vec<String> = custom.read().keys().filter(|n| !seen.contains(*n)).cloned().collect();
                    gone.iter().for_each(|name| unfollow(&graph, &queue, &custom, name));
                    continue;
                }
                Some(Ok(Event::Delete(d))) => {
                    unfollow(&graph, &queue, &custom, &d.name_any());
                    continue;
                }
                Some(Ok(Event::InitApply(d) | Event::Apply(d))) => d,
                Some(Err(_)) => {
                    tokio::time::sleep(std::time::Duration::from_millis(500)).await;
                    continue;
                }
                None => return,
            };
            let name = definition.name_any();
            listed.iter_mut().for_each(|seen| seen.extend([name.clone()]));
            let place = api::crd::place(&definition.data);
            if custom.read().get(&name).map(|(place, _)| *place) == place {
                continue;
            }
            unfollow(&graph, &queue, &custom, &name);
            if let Some(place) = place {
                let end = context.drain.child_token();
                custom.write().insert(name, (place, end.clone()));
                follow(&context, graph.clone(), queue.clone(), resource_of(&place), end);
            }
        }
    });
}

/// Forgets a kind and its objects.
fn unfollow(graph: &RwLock<Graph>, queue: &KeyQueue, custom: &Custom, name: &str) {
    let known = custom.write().remove(name);
    if let Some((place, end)) = known {
        end.cancel();
        forget_missing(graph, queue, &resource_of(&place), &BTreeSet::new());
    }
}

fn follow(
    context: &Arc<Context>,
    graph: Arc<RwLock<Graph>>,
    queue: KeyQueue,
    resource: Resource,
    drain: CancellationToken,
) {
    let gvk = GroupVersionKind::gvk(resource.group, resource.version, resource.kind);
    let dynamic = ApiResource::from_gvk_with_plural(&gvk, resource.plural);
    let api: Api<PartialObjectMeta<DynamicObject>> = Api::all_with(context.client.clone(), &dynamic);
    let resource = Arc::new(resource);
    tokio::spawn(async move {
        let mut stream = watcher(api, watcher::Config::default()).boxed();
        let mut listed: Option<BTreeSet<String>> = None;
        loop {
            let event = tokio::select! {
                () = drain.cancelled() => return,
                event = stream.next() => event,
            };
            match event {
                Some(Ok(Event::Init)) => listed = Some(BTreeSet::new()),
                Some(Ok(Event::InitApply(o))) => {
                    if let Some(seen) = &mut listed {
                        seen.insert(o.uid().unwrap_or_default());
                    }
                    seen_object(&graph, &queue, &resource, o);
                }
                Some(Ok(Event::InitDone)) => {
                    if let Some(seen) = listed.take() {
                        forget_missing(&graph, &queue, &resource, &seen);
                    }
                }
                Some(Ok(Event::Apply(o))) => seen_object(&graph, &queue, &resource, o),
                Some(Ok(Event::Delete(o))) => gone(&graph, &queue, &o.uid().unwrap_or_default()),
                Some(Err(_)) => tokio::time::sleep(std::time::Duration::from_millis(500)).await,
                None => return,
            }
        }
    });
}

fn seen_object(
    graph: &RwLock<Graph>,
    queue: &KeyQueue,
    resource: &Arc<Resource>,
    object: PartialObjectMeta<DynamicObject>,
) {
    let meta = object.metadata;
    let id = uid(&meta).to_owned();
    let wanted = meta.owner_references.as_ref().is_some_and(|o| !o.is_empty()) || terminating(&meta);
    let waits = waits_for_dependents(&meta);
    let mut g = graph.write();
    let owners_before = g.set(resource, &meta);
    let dependents = if waits { g.dependents_of(&id) } else { Vec::new() };
    drop(g);
    if wanted {
        queue.add("", &id);
    }
    // A reference that was dropped may be the last that its owner waits for.
    owners_before.iter().for_each(|o| queue.add("", &o.uid));
    dependents.iter().for_each(|(_, m)| queue.add("", uid(m)));
}

fn waits_for_dependents(meta: &ObjectMeta) -> bool {
    terminating(meta) && meta.finalizers.iter().flatten().any(|f| f == FOREGROUND)
}

fn gone(graph: &RwLock<Graph>, queue: &KeyQueue, id: &str) {
    let mut g = graph.write();
    let owners = g.remove(id);
    let dependents = g.dependents_of(id);
    drop(g);
    owners.iter().for_each(|o| queue.add("", &o.uid));
    dependents.iter().for_each(|(_, m)| queue.add("", uid(m)));
}

fn forget_missing(graph: &RwLock<Graph>, queue: &KeyQueue, resource: &Resource, seen: &BTreeSet<String>) {
    let missing = graph.read().missing(resource, seen);
    missing.iter().for_each(|id| gone(graph, queue, id));
}

fn pass(c: Arc<Context>, graph: Arc<RwLock<Graph>>, custom: Custom, id: String) -> Pass {
    Box::pin(async move {
        let found = {
            let g = graph.read();
            g.get(&id).map(|(resource, meta)| (resource, meta, g.dependents_of(&id)))
        };
        let Some((resource, meta, dependents)) = found else { return Ok(None) };
        let mut states = HashMap::new();
        if !terminating(&meta) {
            for owner in meta.owner_references.iter().flatten() {
                states.insert(owner.uid.clone(), owner_state(&c, &graph, &custom, &meta, owner).await?);
            }
        }
        let list: Vec<Dependent<'_>> =
            dependents.iter().map(|(resource, meta)| Dependent { resource: *resource, meta }).collect();
        let state = |o: &OwnerReference| states.get(&o.uid).copied().unwrap_or(Owner::Present);
        c.carry_out(reconcile::gc::plan(resource, &meta, state, &list)).await
    })
}

/// The graph says that an owner is there; that it is not, only the API server may say.
async fn owner_state(
    c: &Context,
    graph: &RwLock<Graph>,
    custom: &Custom,
    meta: &ObjectMeta,
    owner: &OwnerReference,
) -> Result<Owner, ActError> {
    if let Some((_, owner)) = graph.read().get(&owner.uid) {
        return Ok(if waits_for_dependents(&owner) { Owner::WaitsForDependents } else { Owner::Present });
    }
    let Some(kind) = place_of(custom, owner) else {
        return Ok(Owner::Present); // a kind that is not known here: never guess that it is gone
    };
    let root = if kind.group.is_empty() { "/api".into() } else { format!("/apis/{}", kind.group) };
    let scope = if kind.namespaced { format!("/namespaces/{}", namespace(meta)) } else { String::new() };
    let path = format!("{root}/{}{scope}/{}/{}", kind.version, kind.plural, owner.name);
    match c.actuator.call(Method::GET, &path, None, None).await {
        Ok(v) if v["metadata"]["uid"].as_str() == Some(owner.uid.as_str()) => Ok(Owner::Present),
        Ok(_) => Ok(Owner::Absent),
        Err(e) if is_not_found(&e) => Ok(Owner::Absent),
        Err(e) => Err(e),
    }
}

/// Where objects of an owner's kind are found.
fn place_of(custom: &Custom, owner: &OwnerReference) -> Option<Place> {
    if let Some(k) = api::kinds::registry().by_api_version(&owner.api_version, &owner.kind) {
        let (group, version, plural, kind, namespaced) = (k.group, k.version, k.plural, k.kind, k.namespaced);
        return Some(Place { group, version, plural, kind, namespaced });
    }
    let (group, _) = api::kinds::split_api_version(&owner.api_version);
    custom.read().values().map(|(place, _)| *place).find(|p| p.group == group && p.kind == owner.kind)
}
