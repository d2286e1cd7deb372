//! A pod on a node as the scheduler remembers it. There is one for every pod that runs in the cluster, so it holds what a
//! decision about others may ask, packed: a few hundred bytes where the typed metadata alone has two thousand.

use std::collections::BTreeSet;
use std::sync::Arc;

use k8s_openapi::api::core::v1::{Pod, PodAntiAffinity};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;

use super::{Amounts, host_ports, priority};
use crate::labels::{self, Labelled, Labels, Selector};
use crate::plan::{controller, name, namespace, terminating, uid};
use crate::volume::attach::claim_names;

/// What an affinity term asks of a pod.
pub(super) trait Subject {
    /// Its namespace.
    fn namespace(&self) -> &str;
    /// The value of a label.
    fn label(&self, key: &str) -> Option<&str>;
    /// Whether it is selected.
    fn meets(&self, selector: &Selector) -> bool;
}

impl Subject for ObjectMeta {
    fn namespace(&self) -> &str {
        namespace(self)
    }

    fn label(&self, key: &str) -> Option<&str> {
        self.labels.as_ref()?.label(key)
    }

    fn meets(&self, selector: &Selector) -> bool {
        labels::matches(selector, self)
    }
}

/// See the module.
#[derive(Debug)]
pub(super) struct Placed {
    pub uid: Arc<str>,
    /// `NAMESPACE/NAME`; a namespace has no slash.
    key: Box<str>,
    pub labels: Labels,
    /// UID of the managing owner; empty without one.
    owner: Box<str>,
    pub terminating: bool,
    pub priority: i32,
    /// When it started, in milliseconds; 0 before.
    pub started: i64,
    pub amounts: Amounts,
    pub ports: BTreeSet<(String, i32)>,
    /// Its required anti-affinity binds those that come later, too.
    pub anti_affinity: Option<Box<PodAntiAffinity>>,
    /// Names of the claims in its volumes; nearly always none.
    claims: Option<Box<[Box<str>]>>,
}

impl Placed {
    pub fn new(pod: &Pod) -> Self {
        let meta = &pod.metadata;
        let started = pod.status.as_ref().and_then(|s| s.start_time.as_ref());
        let claims: Box<[Box<str>]> = claim_names(pod).map(String::into_boxed_str).collect();
        let affinity = pod.spec.as_ref().and_then(|s| s.affinity.as_ref());
        Placed {
            uid: uid(meta).into(),
            key: format!("{}/{}", namespace(meta), name(meta)).into(),
            labels: Labels::of_typed(meta.labels.as_ref()),
            owner: controller(meta).map_or("", |o| o.uid.as_str()).into(),
            terminating: terminating(meta),
            priority: priority(pod),
            started: started.map_or(0, |t| t.0.as_millisecond()),
            amounts: Amounts::of_pod(pod),
            ports: host_ports(pod),
            anti_affinity: affinity.and_then(|a| a.pod_anti_affinity.clone()).map(Box::new),
            claims: (!claims.is_empty()).then_some(claims),
        }
    }

    /// Names of the claims in its volumes.
    pub fn claims(&self) -> impl Iterator<Item = &str> {
        self.claims.iter().flatten().map(AsRef::as_ref)
    }

    /// The name.
    pub fn name(&self) -> &str {
        self.key.split_once('/').map_or("", |(_, name)| name)
    }

    /// Whether it is managed by the owner of that UID.
    pub fn is_controlled_by(&self, owner: &str) -> bool {
        !owner.is_empty() && *self.owner == *owner
    }
}

impl Subject for Placed {
    fn namespace(&self) -> &str {
        self.key.split_once('/').map_or("", |(namespace, _)| namespace)
    }

    fn label(&self, key: &str) -> Option<&str> {
        self.labels.label(key)
    }

    fn meets(&self, selector: &Selector) -> bool {
        labels::selects(selector, &self.labels)
    }
}
