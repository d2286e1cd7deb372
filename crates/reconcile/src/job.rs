//! Job: pods until enough of them succeeded, or too many failed. Each finished pod is counted exactly once: it keeps a
//! finalizer until the status that counts it is stored (KEP-2307).

use std::collections::BTreeSet;
use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::api::batch::v1::{Job, JobCondition, JobSpec, JobStatus, UncountedTerminatedPods};
use k8s_openapi::api::core::v1::{EnvVar, EnvVarSource, ObjectFieldSelector, Pod};
use serde_json::json;

use crate::labels;
use crate::plan::{JOBS, PODS, Plan, controlled_by, name, namespace, owner_reference, terminating, uid};
use crate::pods;
use crate::replicas::claim_with;

mod failures;
mod indexes;
mod policy;
#[cfg(test)]
mod tests;

pub use indexes::IndexSet;

const FINALIZER: &str = "batch.kubernetes.io/job-tracking";
const INDEX: &str = "batch.kubernetes.io/job-completion-index";
/// First and longest wait before another pod is tried after a failure (Kubernetes: 10 s to 10 min).
const BACKOFF_FIRST: Duration = Duration::from_secs(10);
const BACKOFF_MAX: Duration = Duration::from_secs(600);
/// Most pods made in one pass.
const BURST_MAX: usize = 250;

/// Decides for one Job, given every pod of its namespace.
pub fn plan(job: &Job, all_pods: &[&Pod], now: Timestamp) -> Plan {
    let mut plan = Plan::default();
    let Some(spec) = &job.spec else { return plan };
    let foreign = spec.managed_by.as_deref().is_some_and(|m| m != "kubernetes.io/job-controller");
    if foreign {
        return plan; // another controller was named
    }
    let mine: Vec<&Pod> = all_pods.iter().copied().filter(|p| controlled_by(&p.metadata, uid(&job.metadata))).collect();
    if terminating(&job.metadata) {
        free_pods(&mine, &BTreeSet::new(), true, &mut plan);
        return plan;
    }
    let selector = spec.selector.as_ref().map(labels::selector).filter(|_| finished_at(job).is_none());
    if let Some(selector) = selector
        && claim_with(JOBS, &job.metadata, &selector, Some(FINALIZER), all_pods, &mut plan)
    {
        return plan; // counting waits until ownership is settled
    }
    if let Some(ended) = finished_at(job) {
        free_pods(&mine, &BTreeSet::new(), true, &mut plan);
        expire(job, spec, ended, now, &mut plan);
        return plan;
    }
    Pass::new(job, spec, mine, now).run(&mut plan);
    plan
}

/// When the Job completed or failed, if it did.
fn finished_at(job: &Job) -> Option<Timestamp> {
    let conditions = job.status.as_ref()?.conditions.iter().flatten();
    let done = conditions.filter(|c| c.status == "True").find(|c| c.type_ == "Complete" || c.type_ == "Failed")?;
    Some(done.last_transition_time.as_ref().map_or(Timestamp::UNIX_EPOCH, |t| t.0))
}

/// Deletes the Job when its time after finishing is over.
fn expire(job: &Job, spec: &JobSpec, ended: Timestamp, now: Timestamp, plan: &mut Plan) {
    let Some(ttl) = spec.ttl_seconds_after_finished else { return };
    let left = ended.as_millisecond() + i64::from(ttl) * 1000 - now.as_millisecond();
    if left <= 0 {
        plan.delete(JOBS, &job.metadata, Some("Background"));
    } else {
        plan.requeue(Duration::from_millis(left.unsigned_abs()));
    }
}

/// Takes the finalizer off pods that are counted (or all, when counting is over).
fn free_pods(mine: &[&Pod], counted: &BTreeSet<String>, all: bool, plan: &mut Plan) {
    for pod in mine {
        if held(pod) && (all || counted.contains(uid(&pod.metadata))) {
            let rest: Vec<&String> = pod.metadata.finalizers.iter().flatten().filter(|f| *f != FINALIZER).collect();
            let meta =
                json!({"uid": pod.metadata.uid, "resourceVersion": pod.metadata.resource_version, "finalizers": rest});
            plan.patch(PODS, &pod.metadata, json!({"metadata": meta}));
        }
    }
}

/// Whether a pod stays until a Job has counted it.
pub fn held(pod: &Pod) -> bool {
    pod.metadata.finalizers.iter().flatten().any(|f| f == FINALIZER)
}

/// Lets a pod go whose Job is gone, or that has none any more: nobody will count it.
pub fn plan_left(pod: &Pod) -> Plan {
    let mut plan = Plan::default();
    free_pods(&[pod], &BTreeSet::new(), true, &mut plan);
    plan
}

/// Why a Job ends.
struct Outcome {
    reason: &'static str,
    message: String,
}

/// Every reason that a Job can end for.
const REASONS: [&str; 7] = [
    "BackoffLimitExceeded",
    "CompletionsReached",
    "DeadlineExceeded",
    "FailedIndexes",
    "MaxFailedIndexesExceeded",
    "PodFailurePolicy",
    "SuccessPolicy",
];

impl Outcome {
    fn new(reason: &'static str, message: impl Into<String>) -> Self {
        Outcome { reason, message: message.into() }
    }
}

struct Pass<'a> {
    job: &'a Job,
    spec: &'a JobSpec,
    pods: Vec<&'a Pod>,
    now: Timestamp,
    status: JobStatus,
    indexed: bool,
}

impl<'a> Pass<'a> {
    fn new(job: &'a Job, spec: &'a JobSpec, pods: Vec<&'a Pod>, now: Timestamp) -> Self {
        let indexed = spec.completion_mode.as_deref() == Some("Indexed");
        Pass { job, spec, pods, now, status: job.status.clone().unwrap_or_default(), indexed }
    }

    fn run(mut self, plan: &mut Plan) {
        let counted = self.count();
        free_pods(&self.pods, &counted, false, plan);
        if self.suspend(plan) {
            return self.store(plan);
        }
        if self.status.start_time.is_none() {
            self.status.start_time = Some(pods::time(self.now));
        }
        if let Some((type_, outcome)) = self.decided() {
            self.end(type_, &outcome, plan);
        } else if let Some(failure) = self.failure(plan) {
            self.end("Failed", &failure, plan);
        } else if let Some(success) = self.success() {
            self.end("Complete", &success, plan);
        } else {
            self.scale(plan);
        }
        self.store(plan);
    }

    /// Moves finished pods through "uncounted" into the counters. Returns the UIDs of pods that may go: their counting is
    /// stored already, or they do not count.
    fn count(&mut self) -> BTreeSet<String> {
        let stored = self.job.status.as_ref().and_then(|s| s.uncounted_terminated_pods.clone()).unwrap_or_default();
        let held: BTreeSet<&str> = self.pods.iter().filter(|p| held(p)).map(|p| uid(&p.metadata)).collect();
        // In the stored list and no longer held: its finalizer is gone, so it will not be seen again.
        let settle = |list: &Option<Vec<String>>| -> (Vec<String>, i32) {
            let (keep, done): (Vec<String>, Vec<String>) =
                list.iter().flatten().cloned().partition(|u| held.contains(u.as_str()));
            (keep, i32::try_from(done.len()).unwrap_or(0))
        };
        let (mut succeeded, add_s) = settle(&stored.succeeded);
        let (mut failed, add_f) = settle(&stored.failed);
        self.status.succeeded = Some(self.status.succeeded.unwrap_or(0) + add_s).filter(|n| *n > 0);
        self.status.failed = Some(self.status.failed.unwrap_or(0) + add_f).filter(|n| *n > 0);
        let counted: BTreeSet<String> = succeeded.iter().chain(&failed).cloned().collect();
        let mut uncounted = Vec::new();
        let mut indexes = IndexSet::parse(self.status.completed_indexes.as_deref().unwrap_or_default());
        for pod in &self.pods {
            let id = uid(&pod.metadata);
            if !held.contains(id) || counted.contains(id) {
                continue;
            }
            match pods::phase(pod) {
                "Succeeded" => match self.indexed.then(|| index(pod)).flatten() {
                    // A second success of the same index is let go without being counted.
                    Some(i) if indexes.contains(i) => uncounted.push(id.to_owned()),
                    Some(i) => {
                        indexes.insert(i);
                        succeeded.push(id.to_owned());
                    }
                    None => succeeded.push(id.to_owned()),
                },
                // A pod that was deleted before it ended counts as failed (KEP-3939).
                "Failed" => {
                    let list = if policy::ignored(self.spec, pod) { &mut uncounted } else { &mut failed };
                    list.push(id.to_owned());
                }
                // Deleted before it had a node: no kubelet will ever end it.
                _ if terminating(&pod.metadata) && !placed(pod) => {
                    let list = if self.ending() { &mut uncounted } else { &mut failed };
                    list.push(id.to_owned());
                }
                _ => {}
            }
        }
        let mut kept = BTreeSet::new();
        if self.indexed {
            let failed = self.failed_indexes(&indexes);
            kept = self.keep_for_count(&indexes, &failed);
            self.status.completed_indexes = Some(indexes.to_string()).filter(|s| !s.is_empty());
            if self.spec.backoff_limit_per_index.is_some() {
                self.status.failed_indexes = Some(failed.to_string());
            }
        }
        let any = !succeeded.is_empty() || !failed.is_empty();
        let list = |v: Vec<String>| (!v.is_empty()).then_some(v);
        self.status.uncounted_terminated_pods = (any || self.job.status.is_some())
            .then(|| UncountedTerminatedPods { failed: list(failed), succeeded: list(succeeded) });
        counted.into_iter().chain(uncounted).filter(|id| !kept.contains(id)).collect()
    }

    /// Whether the outcome is decided and only the pods must still end.
    fn ending(&self) -> bool {
        let decided = ["SuccessCriteriaMet", "FailureTarget"];
        self.status.conditions.iter().flatten().any(|c| decided.contains(&c.type_.as_str()) && c.status == "True")
    }

    fn succeeded(&self) -> i32 {
        let waiting =
            self.status.uncounted_terminated_pods.as_ref().and_then(|u| u.succeeded.as_ref()).map_or(0, Vec::len);
        self.status.succeeded.unwrap_or(0) + i32::try_from(waiting).unwrap_or(0)
    }

    fn failed(&self) -> i32 {
        let waiting =
            self.status.uncounted_terminated_pods.as_ref().and_then(|u| u.failed.as_ref()).map_or(0, Vec::len);
        self.status.failed.unwrap_or(0) + i32::try_from(waiting).unwrap_or(0)
    }

    fn active(&self) -> Vec<&'a Pod> {
        self.pods.iter().copied().filter(|p| pods::active(p)).collect()
    }

    /// Handles `suspend`; true while the Job stands still.
    fn suspend(&mut self, plan: &mut Plan) -> bool {
        let suspended = self.spec.suspend == Some(true);
        let was = self.status.conditions.iter().flatten().any(|c| c.type_ == "Suspended" && c.status == "True");
        if suspended {
            for pod in self.active() {
                plan.delete_for(JOBS, &self.job.metadata, &pod.metadata);
            }
            if !was {
                self.condition("Suspended", "True", "JobSuspended", "Job suspended");
                plan.event(JOBS, &self.job.metadata, "Normal", "Suspended", "Job suspended");
            }
            self.status.start_time = None;
        } else if was {
            self.condition("Suspended", "False", "JobResumed", "Job resumed");
            plan.event(JOBS, &self.job.metadata, "Normal", "Resumed", "Job resumed");
            self.status.start_time = Some(pods::time(self.now));
        }
        suspended
    }

    /// The outcome that was decided in an earlier pass: what its pods do while they end changes nothing.
    fn decided(&self) -> Option<(&'static str, Outcome)> {
        let conditions = self.status.conditions.iter().flatten().filter(|c| c.status == "True");
        let of = |type_: &str| match type_ {
            "SuccessCriteriaMet" => Some("Complete"),
            "FailureTarget" => Some("Failed"),
            _ => None,
        };
        conditions.into_iter().find_map(|c| {
            let reason = REASONS.into_iter().find(|r| Some(*r) == c.reason.as_deref())?;
            Some((of(&c.type_)?, Outcome::new(reason, c.message.clone().unwrap_or_default())))
        })
    }

    fn completed_indexes(&self) -> IndexSet {
        IndexSet::parse(self.status.completed_indexes.as_deref().unwrap_or_default())
    }

    fn indexes_failed(&self) -> IndexSet {
        IndexSet::parse(self.status.failed_indexes.as_deref().unwrap_or_default())
    }

    fn failure(&self, plan: &mut Plan) -> Option<Outcome> {
        if let Some(message) = self.pods.iter().find_map(|p| policy::fails_job(self.spec, p)) {
            return Some(Outcome::new("PodFailurePolicy", message));
        }
        let per_index = self.spec.backoff_limit_per_index.is_some();
        let limit = self.spec.backoff_limit.unwrap_or(if per_index { i32::MAX } else { 6 });
        let restarts: i32 = self.active().iter().map(|p| pods::restarts(p)).sum();
        let on_failure =
            self.spec.template.spec.as_ref().and_then(|s| s.restart_policy.as_deref()) == Some("OnFailure");
        if self.failed() > limit || (on_failure && restarts > 0 && restarts >= limit) {
            return Some(Outcome::new("BackoffLimitExceeded", "Job has reached the specified backoff limit"));
        }
        let failed = self.indexes_failed().len();
        let most = self.spec.max_failed_indexes.map(|n| usize::try_from(n).unwrap_or(0));
        if most.is_some_and(|most| failed > most) {
            let message = "Job has exceeded the specified maximal number of failed indexes";
            return Some(Outcome::new("MaxFailedIndexesExceeded", message));
        }
        let all = usize::try_from(self.spec.completions.unwrap_or(0)).unwrap_or(0);
        if failed > 0 && self.completed_indexes().len() + failed >= all {
            return Some(Outcome::new("FailedIndexes", "Job has failed indexes"));
        }
        let deadline = self.spec.active_deadline_seconds?;
        let start = self.status.start_time.as_ref()?.0;
        let left = start.as_millisecond() + deadline * 1000 - self.now.as_millisecond();
        if left <= 0 {
            return Some(Outcome::new("DeadlineExceeded", "Job was active longer than specified deadline"));
        }
        plan.requeue(Duration::from_millis(left.unsigned_abs()));
        None
    }

    fn success(&self) -> Option<Outcome> {
        if let Some(rule) = failures::success_rule(self.spec, &self.completed_indexes()).filter(|_| self.indexed) {
            return Some(Outcome::new("SuccessPolicy", format!("Matched rules at index {rule}")));
        }
        let complete = match self.spec.completions {
            Some(n) => self.succeeded() >= n,
            // Without a number, one success decides and the rest is waited for.
            None => self.succeeded() > 0 && self.active().is_empty(),
        };
        complete.then(|| Outcome::new("CompletionsReached", "Reached expected number of succeeded pods"))
    }

    fn end(&mut self, type_: &str, outcome: &Outcome, plan: &mut Plan) {
        let Outcome { reason, message } = outcome;
        for pod in self.active() {
            plan.delete_for(JOBS, &self.job.metadata, &pod.metadata);
        }
        let early = if type_ == "Failed" { "FailureTarget" } else { "SuccessCriteriaMet" };
        self.condition(early, "True", reason, message);
        // The end is final only when every pod ended and is counted.
        let pending =
            self.status.uncounted_terminated_pods.as_ref().is_some_and(|u| u.failed.is_some() || u.succeeded.is_some());
        let running = self.pods.iter().any(|p| !pods::finished(p));
        if pending || running {
            return;
        }
        self.condition(type_, "True", reason, message);
        if type_ == "Complete" {
            self.status.completion_time = Some(pods::time(self.now));
            plan.event(JOBS, &self.job.metadata, "Normal", "Completed", "Job completed");
        } else {
            plan.event(JOBS, &self.job.metadata, "Warning", reason, message.clone());
        }
    }

    fn scale(&mut self, plan: &mut Plan) {
        let active = self.active();
        let parallelism = usize::try_from(self.spec.parallelism.unwrap_or(1)).unwrap_or(0);
        let failed = i32::try_from(self.indexes_failed().len()).unwrap_or(i32::MAX);
        let wanted = match self.spec.completions {
            Some(n) => parallelism.min(usize::try_from(n - self.succeeded() - failed).unwrap_or(0)),
            None if self.succeeded() > 0 => active.len().min(parallelism),
            None => parallelism,
        };
        if active.len() > wanted {
            let mut order = active.clone();
            order.sort_by_key(|p| (pods::deletion_rank(p, 0), name(&p.metadata).to_owned()));
            for pod in order.into_iter().take(active.len() - wanted) {
                plan.delete_for(JOBS, &self.job.metadata, &pod.metadata);
            }
            return;
        }
        let leaving: Vec<&Pod> = if self.replaces_late() { self.leaving().collect() } else { Vec::new() };
        let missing = wanted.saturating_sub(active.len() + leaving.len()).min(BURST_MAX);
        if missing == 0 {
            return;
        }
        let per_index = self.spec.backoff_limit_per_index.is_some();
        if !per_index && let Some(wait) = self.backoff() {
            return plan.requeue(wait);
        }
        let mut used = self.completed_indexes();
        used.extend(&self.indexes_failed());
        active.iter().chain(&leaving).filter_map(|p| index(p)).for_each(|i| used.insert(i));
        let completions = u32::try_from(self.spec.completions.unwrap_or(i32::MAX)).unwrap_or(0);
        let mut made = 0;
        while made < missing {
            let index = self.indexed.then(|| used.take_first_free());
            match index {
                Some(i) if i >= completions => return,
                // Each index waits for its own failures.
                Some(i) if per_index => {
                    let failures = self.index_failures(i);
                    if let Some(wait) = failures.and_then(|(at, n)| self.wait_after(at, n)) {
                        plan.requeue(wait);
                        continue;
                    }
                }
                _ => {}
            }
            plan.create_for(JOBS, &self.job.metadata, PODS, &self.pod(index));
            made += 1;
        }
    }

    /// Under this policy a pod on its way out still holds its place.
    fn replaces_late(&self) -> bool {
        match self.spec.pod_replacement_policy.as_deref() {
            Some(policy) => policy == "Failed",
            None => self.spec.pod_failure_policy.is_some(),
        }
    }

    fn leaving(&self) -> impl Iterator<Item = &'a Pod> + '_ {
        self.pods.iter().copied().filter(|p| terminating(&p.metadata) && !pods::finished(p))
    }

    /// How long to wait after the latest failure, doubling with each.
    fn backoff(&self) -> Option<Duration> {
        let failures = self.pods.iter().filter(|p| pods::phase(p) == "Failed");
        let latest = failures.filter_map(|p| finish_time(p)).max()?;
        self.wait_after(latest, self.failed())
    }

    /// What is left of the wait after that many failures, the last of them then.
    fn wait_after(&self, latest: Timestamp, failures: i32) -> Option<Duration> {
        let n = u32::try_from(failures.max(1) - 1).unwrap_or(0).min(16);
        let wait = BACKOFF_FIRST.saturating_mul(1 << n).min(BACKOFF_MAX);
        let waited = self.now.as_millisecond() - latest.as_millisecond();
        let left = i64::try_from(wait.as_millis()).unwrap_or(i64::MAX) - waited;
        (left > 0).then(|| Duration::from_millis(left.unsigned_abs()))
    }

    fn pod(&self, index: Option<u32>) -> Pod {
        let ns = namespace(&self.job.metadata);
        let mut pod = pods::from_template(&self.spec.template, owner_reference(JOBS, &self.job.metadata), ns);
        let meta = &mut pod.metadata;
        meta.finalizers.get_or_insert_default().push(FINALIZER.into());
        let base = name(&self.job.metadata);
        meta.generate_name = Some(index.map_or_else(|| format!("{base}-"), |i| format!("{base}-{i}-")));
        let Some(i) = index else { return pod };
        meta.annotations.get_or_insert_default().insert(INDEX.into(), i.to_string());
        meta.labels.get_or_insert_default().insert(INDEX.into(), i.to_string());
        self.note_failures(&mut pod, i);
        let spec = pod.spec.get_or_insert_default();
        spec.hostname.get_or_insert_with(|| format!("{base}-{i}"));
        let field = ObjectFieldSelector { field_path: format!("metadata.labels['{INDEX}']"), api_version: None };
        let source = EnvVarSource { field_ref: Some(field), ..Default::default() };
        let variable = EnvVar { name: "JOB_COMPLETION_INDEX".into(), value: None, value_from: Some(source) };
        for c in spec.containers.iter_mut().chain(spec.init_containers.iter_mut().flatten()) {
            let env = c.env.get_or_insert_default();
            if env.iter().all(|e| e.name != variable.name) {
                env.push(variable.clone());
            }
        }
        pod
    }

    fn condition(&mut self, type_: &str, status: &str, reason: &str, message: &str) {
        let conditions = self.status.conditions.get_or_insert_default();
        if conditions.iter().any(|c| c.type_ == type_ && c.status == status) {
            return;
        }
        conditions.retain(|c| c.type_ != type_);
        conditions.push(JobCondition {
            type_: type_.into(),
            status: status.into(),
            reason: Some(reason.into()),
            message: Some(message.into()),
            last_probe_time: Some(pods::time(self.now)),
            last_transition_time: Some(pods::time(self.now)),
        });
    }

    fn store(mut self, plan: &mut Plan) {
        let count = |n: usize| i32::try_from(n).unwrap_or(i32::MAX);
        let active = self.active();
        let leaving = self.leaving().count();
        self.status.active = Some(count(active.len())).filter(|n| *n > 0);
        self.status.ready = Some(count(active.iter().filter(|p| pods::ready(p)).count()));
        self.status.terminating = Some(count(leaving));
        plan.set_status(JOBS, &self.job.metadata, self.job.status.as_ref(), &self.status);
    }
}

fn placed(pod: &Pod) -> bool {
    pod.spec.as_ref().and_then(|s| s.node_name.as_deref()).is_some_and(|n| !n.is_empty())
}

fn index(pod: &Pod) -> Option<u32> {
    pod.metadata.annotations.as_ref()?.get(INDEX)?.parse().ok()
}

fn finish_time(pod: &Pod) -> Option<Timestamp> {
    let statuses = pod.status.as_ref()?.container_statuses.iter().flatten();
    statuses.filter_map(|c| c.state.as_ref()?.terminated.as_ref()?.finished_at.as_ref().map(|t| t.0)).max()
}
