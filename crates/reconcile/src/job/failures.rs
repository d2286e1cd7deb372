//! `backoffLimitPerIndex` and `successPolicy`: Indexed Jobs whose indexes fail on their own, and Jobs that need not all of
//! them (KEP-3850, KEP-3998). How often an index failed is written on its pods; the last failed one keeps its finalizer
//! until its successor carries the count on.

use std::collections::BTreeSet;

use jiff::Timestamp;
use k8s_openapi::api::batch::v1::JobSpec;
use k8s_openapi::api::core::v1::Pod;

use super::{IndexSet, Pass, finish_time, index, policy};
use crate::plan::uid;
use crate::pods;

/// Failures of the index before this pod that count.
const FAILURE_COUNT: &str = "batch.kubernetes.io/job-index-failure-count";

fn failures_before(pod: &Pod) -> i32 {
    pod.metadata
        .annotations
        .iter()
        .flatten()
        .find(|(k, _)| *k == FAILURE_COUNT)
        .and_then(|(_, v)| v.parse().ok())
        .unwrap_or(0)
}

/// Failures of the index with this pod's own, if it failed and that counts.
fn failures_with(spec: &JobSpec, pod: &Pod) -> i32 {
    let own = pods::phase(pod) == "Failed" && !policy::ignored(spec, pod);
    failures_before(pod) + i32::from(own)
}

/// The first rule of `successPolicy` that the completed indexes meet.
pub(super) fn success_rule(spec: &JobSpec, completed: &IndexSet) -> Option<usize> {
    let rules = &spec.success_policy.as_ref()?.rules;
    rules.iter().position(|rule| {
        let listed = rule.succeeded_indexes.as_deref().map(IndexSet::parse);
        let met = listed.as_ref().map_or(completed.len(), |l| l.common(completed));
        let wanted = rule.succeeded_count.map(|n| usize::try_from(n).unwrap_or(usize::MAX));
        met >= wanted.unwrap_or_else(|| listed.as_ref().map_or(usize::MAX, IndexSet::len))
    })
}

impl<'a> Pass<'a> {
    /// The indexes that have failed for good, with those of before.
    pub(super) fn failed_indexes(&self, completed: &IndexSet) -> IndexSet {
        let mut failed = IndexSet::parse(self.status.failed_indexes.as_deref().unwrap_or_default());
        let Some(limit) = self.spec.backoff_limit_per_index else { return failed };
        for pod in self.pods.iter().filter(|p| pods::phase(p) == "Failed") {
            let Some(i) = index(pod).filter(|i| !completed.contains(*i)) else { continue };
            if policy::fails_index(self.spec, pod) || failures_with(self.spec, pod) > limit {
                failed.insert(i);
            }
        }
        failed
    }

    /// The failed pod of an index that knows of most failures.
    fn last_failure(&self, i: u32) -> Option<&'a Pod> {
        let failed = self.pods.iter().copied().filter(|p| pods::phase(p) == "Failed" && index(p) == Some(i));
        failed.max_by_key(|p| (failures_with(self.spec, p), finish_time(p), uid(&p.metadata).to_owned()))
    }

    /// Failed pods whose count no other pod carries on yet.
    pub(super) fn keep_for_count(&self, completed: &IndexSet, failed: &IndexSet) -> BTreeSet<String> {
        if self.spec.backoff_limit_per_index.is_none() || self.ending() || self.spec.suspend == Some(true) {
            return BTreeSet::new();
        }
        let indexes: BTreeSet<u32> = self.pods.iter().filter_map(|p| index(p)).collect();
        let open = indexes.into_iter().filter(|i| !completed.contains(*i) && !failed.contains(*i));
        let last = open.filter_map(|i| self.last_failure(i));
        let followed = |pod: &Pod| {
            let count = failures_with(self.spec, pod);
            self.pods.iter().any(|p| {
                uid(&p.metadata) != uid(&pod.metadata)
                    && pods::phase(p) != "Failed"
                    && index(p) == index(pod)
                    && failures_before(p) >= count
            })
        };
        last.filter(|p| !followed(p)).map(|p| uid(&p.metadata).to_owned()).collect()
    }

    /// When the index last failed, and how often.
    pub(super) fn index_failures(&self, i: u32) -> Option<(Timestamp, i32)> {
        let pod = self.last_failure(i)?;
        Some((finish_time(pod)?, failures_with(self.spec, pod)))
    }

    /// Writes on a new pod how often its index failed before.
    pub(super) fn note_failures(&self, pod: &mut Pod, i: u32) {
        if self.spec.backoff_limit_per_index.is_some() {
            let count = self.last_failure(i).map_or(0, |p| failures_with(self.spec, p));
            pod.metadata.annotations.get_or_insert_default().insert(FAILURE_COUNT.into(), count.to_string());
        }
    }
}
