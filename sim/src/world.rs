//! The API server of the simulation: objects by resource, namespace and name, with revisions, preconditions, finalizers
//! and graceful deletion of pods. Keeps the history, so that others can look at an older state.

use std::collections::BTreeMap;

use reconcile::plan::{Action, PODS, Resource};
use serde_json::{Map, Value, json};

/// Resource plural, namespace, name.
pub type Key = (&'static str, String, String);

/// All objects at one revision.
pub type Objects = BTreeMap<Key, Value>;

/// Why an action was refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Refusal {
    /// A precondition did not hold, or the name is taken.
    Conflict,
    /// There is no such object.
    NotFound,
}

/// See the module.
#[derive(Debug, Default)]
pub struct World {
    /// The newest state.
    pub objects: Objects,
    /// States that can still be looked at, by revision.
    history: BTreeMap<u64, Objects>,
    /// The newest revision.
    pub revision: u64,
    /// Seconds since the epoch.
    pub now_s: i64,
    next_id: u64,
}

/// How many revisions back a watch may be.
const HISTORY: usize = 64;

impl World {
    /// The state as it was at that revision, or the oldest that is remembered.
    pub fn at(&self, revision: u64) -> &Objects {
        self.history.range(revision..).next().map_or(&self.objects, |(_, o)| o)
    }

    fn commit(&mut self) {
        self.revision += 1;
        self.history.insert(self.revision, self.objects.clone());
        while self.history.len() > HISTORY {
            self.history.pop_first();
        }
    }

    fn stamp(&self) -> String {
        jiff::Timestamp::from_second(self.now_s).expect("simulated time is a valid time").to_string()
    }

    /// Stores a new object, as a client would create it.
    pub fn create(&mut self, resource: Resource, namespace: &str, mut body: Value) -> Result<(), Refusal> {
        self.next_id += 1;
        let meta = body["metadata"].as_object_mut().cloned().unwrap_or_default();
        let name = match meta.get("name").and_then(Value::as_str) {
            Some(name) => name.to_owned(),
            None => format!("{}{:05}", meta.get("generateName").and_then(Value::as_str).unwrap_or("x-"), self.next_id),
        };
        let key = (resource.plural, namespace.to_owned(), name.clone());
        if self.objects.contains_key(&key) {
            return Err(Refusal::Conflict);
        }
        body["metadata"]["name"] = name.into();
        body["metadata"]["namespace"] = namespace.into();
        body["metadata"]["uid"] = format!("uid-{}", self.next_id).into();
        body["metadata"]["generation"] = 1.into();
        body["metadata"]["creationTimestamp"] = self.stamp().into();
        body["metadata"]["resourceVersion"] = (self.revision + 1).to_string().into();
        if resource == PODS {
            body["status"] = json!({"phase": "Pending"});
        }
        self.objects.insert(key, body);
        self.commit();
        Ok(())
    }

    /// Changes an object in place; a changed spec is a new generation; an object without finalizers that is on its way out
    /// is gone.
    pub fn change(&mut self, key: &Key, change: impl FnOnce(&mut Value)) -> Result<(), Refusal> {
        let revision = self.revision + 1;
        let Some(object) = self.objects.get_mut(key) else { return Err(Refusal::NotFound) };
        let before = object.clone();
        change(object);
        if *object == before {
            return Ok(());
        }
        if object["spec"] != before["spec"] {
            object["metadata"]["generation"] = (before["metadata"]["generation"].as_i64().unwrap_or(1) + 1).into();
        }
        object["metadata"]["resourceVersion"] = revision.to_string().into();
        let leaving = object["metadata"]["deletionTimestamp"].is_string();
        let held = object["metadata"]["finalizers"].as_array().is_some_and(|f| !f.is_empty());
        if leaving && !held && key.0 != "pods" {
            self.objects.remove(key);
        }
        self.commit();
        Ok(())
    }

    /// Asks for deletion: pods on a node end gracefully, finalizers are waited for, everything else goes at once.
    pub fn delete(&mut self, key: &Key, propagation: Option<&str>) -> Result<(), Refusal> {
        let stamp = self.stamp();
        let Some(object) = self.objects.get(key) else { return Err(Refusal::NotFound) };
        let mut finalizers: Vec<Value> = object["metadata"]["finalizers"].as_array().cloned().unwrap_or_default();
        match propagation {
            Some("Foreground") => finalizers.push("foregroundDeletion".into()),
            Some("Orphan") => finalizers.push("orphan".into()),
            _ => {}
        }
        finalizers.dedup();
        let running_pod = key.0 == "pods" && object["spec"]["nodeName"].is_string();
        if finalizers.is_empty() && !running_pod {
            self.objects.remove(key);
            self.commit();
            return Ok(());
        }
        self.change(key, |o| {
            if !o["metadata"]["deletionTimestamp"].is_string() {
                o["metadata"]["deletionTimestamp"] = stamp.into();
            }
            o["metadata"]["finalizers"] = finalizers.into();
        })
    }

    /// A pod's containers have ended: it goes, unless a finalizer holds it.
    pub fn pod_ended(&mut self, key: &Key) {
        let held = self
            .objects
            .get(key)
            .is_some_and(|o| o["metadata"]["finalizers"].as_array().is_some_and(|f| !f.is_empty()));
        if !held && self.objects.remove(key).is_some() {
            self.commit();
        }
    }

    /// Carries out one action of a plan.
    pub fn act(&mut self, action: &Action) -> Result<(), Refusal> {
        match action {
            Action::Create { resource, namespace, body, .. } => {
                let named = body["metadata"]["name"].is_string();
                match self.create(*resource, namespace.as_deref().unwrap_or_default(), body.clone()) {
                    Err(Refusal::Conflict) if named => Ok(()),
                    other => other,
                }
            }
            Action::Patch { resource, namespace, name, subresource, patch } => {
                let key = (resource.plural, namespace.clone().unwrap_or_default(), name.clone());
                self.check(&key, &patch["metadata"])?;
                let mut patch = patch.clone();
                if let Some(meta) = patch["metadata"].as_object_mut() {
                    meta.remove("uid");
                    meta.remove("resourceVersion");
                }
                if *subresource == Some("status") {
                    patch = json!({"status": patch["status"]});
                }
                self.change(&key, |o| merge(o, &patch))
            }
            Action::Delete { resource, namespace, name, uid, propagation, .. } => {
                let key = (resource.plural, namespace.clone().unwrap_or_default(), name.clone());
                match self.check(&key, &json!({"uid": uid})).and_then(|()| self.delete(&key, *propagation)) {
                    Err(Refusal::NotFound | Refusal::Conflict) => Ok(()),
                    other => other,
                }
            }
            Action::Bind { namespace, name, uid, node } => {
                let key = ("pods", namespace.clone(), name.clone());
                self.check(&key, &json!({"uid": uid}))?;
                if self.objects.get(&key).is_some_and(|o| o["spec"]["nodeName"].is_string()) {
                    return Err(Refusal::Conflict);
                }
                self.change(&key, |o| o["spec"]["nodeName"] = node.clone().into())
            }
            Action::Update { .. } | Action::Event { .. } => Ok(()),
        }
    }

    fn check(&self, key: &Key, preconditions: &Value) -> Result<(), Refusal> {
        let object = self.objects.get(key).ok_or(Refusal::NotFound)?;
        let broken = ["uid", "resourceVersion"].iter().any(|f| {
            let wanted = &preconditions[*f];
            wanted.is_string() && *wanted != object["metadata"][*f]
        });
        if broken { Err(Refusal::Conflict) } else { Ok(()) }
    }
}

/// JSON merge patch (RFC 7386).
fn merge(into: &mut Value, patch: &Value) {
    let Value::Object(fields) = patch else {
        *into = patch.clone();
        return;
    };
    if !into.is_object() {
        *into = Value::Object(Map::new());
    }
    for (k, v) in fields {
        if v.is_null() {
            if let Some(o) = into.as_object_mut() {
                o.remove(k);
            }
        } else {
            merge(&mut into[k.as_str()], v);
        }
    }
}
