//! The requests that wait or run at the levels that limit them, for who wants to see them.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicI64, Ordering};

use jiff::Timestamp;
use parking_lot::Mutex;

use super::work::Width;
use crate::authz::Attributes;

/// Of a request that is in no queue.
const NO_QUEUE: i64 = -1;

/// The requests in the order in which they came. Their number is bounded by the levels: so many seats, so many in queues.
#[derive(Debug, Default)]
pub struct Requests(Mutex<(u64, BTreeMap<u64, Arc<Request>>)>);

/// A request at a level.
#[derive(Debug)]
pub struct Request {
    /// Name of its level.
    pub level: Arc<str>,
    /// Name of the flow schema that it matched.
    pub schema: Arc<str>,
    /// What tells its flow from others of the schema.
    pub distinguisher: String,
    /// Since when it is here.
    pub arrived: Timestamp,
    /// What it takes.
    pub width: Width,
    /// Who asks.
    pub user: String,
    /// What is asked for.
    pub asked: Asked,
    started: OnceLock<Timestamp>,
    queue: AtomicI64,
}

/// What is asked for.
#[derive(Debug, Default)]
pub struct Asked {
    /// The verb.
    pub verb: String,
    /// The path of its URL.
    pub path: String,
    /// Namespace.
    pub namespace: String,
    /// Name of the object.
    pub name: String,
    /// Group and version.
    pub api_version: String,
    /// Plural.
    pub resource: String,
    /// Subresource.
    pub subresource: String,
}

impl Asked {
    /// From what is known of a request.
    pub fn new(asked: &Attributes<'_>, path: &str, version: &str) -> Self {
        Asked {
            verb: asked.verb.to_owned(),
            path: path.to_owned(),
            namespace: asked.namespace.to_owned(),
            name: asked.name.to_owned(),
            api_version: api::kinds::join_api_version(asked.group, version),
            resource: asked.resource.to_owned(),
            subresource: asked.subresource.to_owned(),
        }
    }
}

impl Request {
    /// One that has just come.
    pub fn new(
        level: &Arc<str>,
        schema: &Arc<str>,
        distinguisher: String,
        width: Width,
        user: &str,
        asked: Asked,
    ) -> Self {
        Request {
            level: level.clone(),
            schema: schema.clone(),
            distinguisher,
            arrived: Timestamp::now(),
            width,
            user: user.to_owned(),
            asked,
            started: OnceLock::new(),
            queue: AtomicI64::new(NO_QUEUE),
        }
    }

    /// It waits in a queue.
    pub fn waits(&self, queue: u32) {
        self.queue.store(queue.into(), Ordering::Relaxed);
    }

    /// It runs.
    pub fn runs(&self) {
        let _ = self.started.set(Timestamp::now());
    }

    /// Since when it runs; `None`: it waits.
    pub fn started(&self) -> Option<Timestamp> {
        self.started.get().copied()
    }

    /// The queue that it is in or came from; -1: it never was in one.
    pub fn queue(&self) -> i64 {
        self.queue.load(Ordering::Relaxed)
    }
}

/// A request that is shown until this is dropped.
#[derive(Debug)]
pub struct Listed {
    requests: Arc<Requests>,
    id: u64,
    request: Arc<Request>,
}

impl Listed {
    /// The request.
    pub fn request(&self) -> &Request {
        &self.request
    }
}

impl Drop for Listed {
    fn drop(&mut self) {
        self.requests.0.lock().1.remove(&self.id);
    }
}

impl Requests {
    /// Shows a request.
    pub fn list(self: &Arc<Self>, request: Request) -> Listed {
        let request = Arc::new(request);
        let mut requests = self.0.lock();
        requests.0 += 1;
        let id = requests.0;
        requests.1.insert(id, request.clone());
        Listed { requests: self.clone(), id, request }
    }

    /// Those of this moment, in the order in which they came.
    pub fn all(&self) -> Vec<Arc<Request>> {
        self.0.lock().1.values().cloned().collect()
    }
}
