//! CronJob: a Job at every time of a schedule.

use std::time::Duration;

use api::cron::{Schedule, zone};
use jiff::Timestamp;
use jiff::tz::TimeZone;
use k8s_openapi::api::batch::v1::{CronJob, CronJobSpec, CronJobStatus, Job};
use k8s_openapi::api::core::v1::ObjectReference;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, Time};

use crate::plan::{CRON_JOBS, JOBS, Plan, controlled_by, name, owner_reference, terminating, uid};
use crate::pods;

#[cfg(test)]
mod tests;

/// The time that a Job stands for, in the CronJob's time zone.
const SCHEDULED_AT: &str = "batch.kubernetes.io/cronjob-scheduled-timestamp";
/// More missed times than this are worth a warning: the clock jumped, or the controller was away for long.
const MISSED_MANY: i64 = 100;
/// How long to wait before a schedule that has no next time is looked at again.
const NEVER: Duration = Duration::from_secs(24 * 3600);

/// Decides for one CronJob, given every Job of its namespace.
pub fn plan(cron: &CronJob, all_jobs: &[&Job], now: Timestamp) -> Plan {
    let mut plan = Plan::default();
    let spec = &cron.spec;
    if terminating(&cron.metadata) {
        return plan;
    }
    let own = uid(&cron.metadata);
    let mine: Vec<&Job> = all_jobs.iter().copied().filter(|j| controlled_by(&j.metadata, own)).collect();
    let mut pass = Pass { cron, spec, jobs: mine, now, status: cron.status.clone().unwrap_or_default() };
    pass.observe(&mut plan);
    pass.forget_old(&mut plan);
    pass.start_due(&mut plan);
    plan.set_status(CRON_JOBS, &cron.metadata, cron.status.as_ref(), &pass.status);
    plan
}

struct Pass<'a> {
    cron: &'a CronJob,
    spec: &'a CronJobSpec,
    jobs: Vec<&'a Job>,
    now: Timestamp,
    status: CronJobStatus,
}

/// How a Job ended.
fn outcome(job: &Job) -> Option<&str> {
    let conditions = job.status.iter().flat_map(|s| s.conditions.iter().flatten());
    let ended = |t: &str| t == "Complete" || t == "Failed";
    conditions.into_iter().find(|c| ended(&c.type_) && c.status == "True").map(|c| c.type_.as_str())
}

fn start_time(job: &Job) -> i64 {
    job.status
        .as_ref()
        .and_then(|s| s.start_time.as_ref())
        .map_or(pods::created_ms(&job.metadata), |t| t.0.as_millisecond())
}

impl<'a> Pass<'a> {
    fn event(&self, plan: &mut Plan, type_: &'static str, reason: &'static str, message: impl Into<String>) {
        plan.event(CRON_JOBS, &self.cron.metadata, type_, reason, message);
    }

    fn delete(&self, job: &Job, plan: &mut Plan) {
        if !terminating(&job.metadata) {
            plan.delete(JOBS, &job.metadata, Some("Background"));
            self.event(plan, "Normal", "SuccessfulDelete", format!("Deleted job {}", name(&job.metadata)));
        }
    }

    /// Jobs of the schedule that have not ended. Those that people made from it (`kubectl create job --from`) do not count.
    fn active(&self) -> Vec<&'a Job> {
        let scheduled = |j: &Job| j.metadata.annotations.iter().flatten().any(|(k, _)| k == SCHEDULED_AT);
        self.jobs.iter().copied().filter(|j| outcome(j).is_none() && scheduled(j)).collect()
    }

    /// Brings the list of active Jobs and the last success up to date.
    fn observe(&mut self, plan: &mut Plan) {
        let before = self.status.active.take().unwrap_or_default();
        for reference in &before {
            let id = reference.uid.as_deref().unwrap_or_default();
            let job_name = reference.name.as_deref().unwrap_or_default();
            match self.jobs.iter().find(|j| uid(&j.metadata) == id) {
                None => {
                    let message = format!("Active job went missing: {job_name}");
                    self.event(plan, "Normal", "MissingJob", message);
                }
                Some(job) => {
                    if let Some(how) = outcome(job) {
                        let message = format!("Saw completed job: {job_name}, condition: {how}");
                        self.event(plan, "Normal", "SawCompletedJob", message);
                    }
                }
            }
        }
        let reference = |j: &&Job| ObjectReference {
            api_version: Some(JOBS.api_version()),
            kind: Some(JOBS.kind.into()),
            name: j.metadata.name.clone(),
            namespace: j.metadata.namespace.clone(),
            uid: j.metadata.uid.clone(),
            resource_version: before
                .iter()
                .find(|r| r.uid == j.metadata.uid)
                .map_or_else(|| j.metadata.resource_version.clone(), |r| r.resource_version.clone()),
            ..Default::default()
        };
        let active: Vec<ObjectReference> = self.active().iter().map(reference).collect();
        self.status.active = Some(active).filter(|a| !a.is_empty());
        let completed = self.jobs.iter().filter(|j| outcome(j) == Some("Complete"));
        let latest = completed.filter_map(|j| Some(j.status.as_ref()?.completion_time.as_ref()?.0)).max();
        let known = self.status.last_successful_time.as_ref().map(|t| t.0);
        self.status.last_successful_time = latest.max(known).map(Time);
    }

    /// Deletes the oldest ended Jobs beyond the limits.
    fn forget_old(&self, plan: &mut Plan) {
        let limits = [
            ("Complete", self.spec.successful_jobs_history_limit.unwrap_or(3)),
            ("Failed", self.spec.failed_jobs_history_limit.unwrap_or(1)),
        ];
        for (how, limit) in limits {
            let mut ended: Vec<&Job> = self.jobs.iter().copied().filter(|j| outcome(j) == Some(how)).collect();
            ended.sort_by_key(|j| (start_time(j), name(&j.metadata).to_owned()));
            let limit = usize::try_from(limit).unwrap_or(0);
            for job in ended.iter().take(ended.len().saturating_sub(limit)) {
                self.delete(job, plan);
            }
        }
    }

    /// Starts the Job of the latest time that has come, if it may start, and asks to be woken for the next time.
    fn start_due(&mut self, plan: &mut Plan) {
        if self.spec.suspend == Some(true) {
            return;
        }
        let Some(zone) = self.spec.time_zone.as_deref().map_or(Some(TimeZone::UTC), zone) else {
            let message = format!(
                "invalid timeZone: {:?}: unknown time zone",
                self.spec.time_zone.as_deref().unwrap_or_default()
            );
            return self.event(plan, "Warning", "UnknownTimeZone", message);
        };
        let schedule = match Schedule::parse(&self.spec.schedule) {
            Ok(schedule) => schedule,
            Err(e) => {
                let message = format!("unparseable schedule: {:?} : {e}", self.spec.schedule);
                return self.event(plan, "Warning", "UnparseableSchedule", message);
            }
        };
        let next = schedule.next(self.now, &zone);
        let wait = next
            .map_or(NEVER, |t| Duration::from_millis((t.as_millisecond() - self.now.as_millisecond()).unsigned_abs()));
        plan.requeue(wait);
        let Some(due) = self.due(&schedule, &zone, plan) else { return };
        let late = self.now.as_second() - due.as_second();
        if self.spec.starting_deadline_seconds.is_some_and(|limit| late > limit) {
            let message = format!("Missed scheduled time to start a job: {}", rfc_1123(due));
            return self.event(plan, "Warning", "MissSchedule", message);
        }
        let job_name = format!("{}-{}", name(&self.cron.metadata), due.as_second().div_euclid(60));
        let there = self.jobs.iter().any(|j| name(&j.metadata) == job_name);
        if !there {
            if !self.make_room(plan) {
                return;
            }
            self.create(&job_name, due, &zone, plan);
        }
        self.status.last_schedule_time = Some(pods::time(due));
    }

    /// The latest time that has come and has had no Job.
    fn due(&self, schedule: &Schedule, zone: &TimeZone, plan: &mut Plan) -> Option<Timestamp> {
        let last = self.status.last_schedule_time.as_ref().map(|t| t.0);
        let created = self.cron.metadata.creation_timestamp.as_ref().map_or(Timestamp::UNIX_EPOCH, |t| t.0);
        let mut from = last.unwrap_or(created);
        if let Some(limit) = self.spec.starting_deadline_seconds {
            from = from.max(Timestamp::from_second(self.now.as_second() - limit).unwrap_or(from));
        }
        let first = schedule.next(from, zone).filter(|t| *t <= self.now)?;
        let second = schedule.next(first, zone).filter(|t| *t <= self.now);
        let Some(second) = second else { return Some(first) };
        let between = (second.as_second() - first.as_second()).max(1);
        let missed = (self.now.as_second() - first.as_second()) / between + 1;
        if missed > MISSED_MANY {
            let message =
                "too many missed start times. Set or decrease .spec.startingDeadlineSeconds or check clock skew";
            self.event(plan, "Warning", "TooManyMissedTimes", message);
        }
        // After years away not every time is walked through: look back in growing windows for one to start from.
        let (mut due, mut window) = (first, between);
        while let Ok(start) = Timestamp::from_second(self.now.as_second() - window) {
            if start <= first {
                break;
            }
            if let Some(t) = schedule.next(start, zone).filter(|t| *t <= self.now) {
                due = t;
                break;
            }
            window = window.saturating_mul(2);
        }
        while let Some(t) = schedule.next(due, zone).filter(|t| *t <= self.now) {
            due = t;
        }
        Some(due)
    }

    /// What `concurrencyPolicy` says of Jobs that still run; false if the new one must wait for the next time.
    fn make_room(&self, plan: &mut Plan) -> bool {
        let active = self.active();
        match self.spec.concurrency_policy.as_deref() {
            Some("Forbid") if !active.is_empty() => {
                let message = "Not starting job because prior execution is running and concurrency policy is Forbid";
                self.event(plan, "Normal", "JobAlreadyActive", message);
                false
            }
            Some("Replace") => {
                active.iter().for_each(|job| self.delete(job, plan));
                true
            }
            _ => true,
        }
    }

    fn create(&self, job_name: &str, due: Timestamp, zone: &TimeZone, plan: &mut Plan) {
        let template = &self.spec.job_template;
        let meta = template.metadata.clone().unwrap_or_default();
        let mut annotations = meta.annotations.unwrap_or_default();
        let local = due.to_zoned(zone.clone()).strftime("%Y-%m-%dT%H:%M:%S%:z").to_string();
        annotations.insert(SCHEDULED_AT.into(), local.replace("+00:00", "Z"));
        let job = Job {
            metadata: ObjectMeta {
                name: Some(job_name.to_owned()),
                namespace: self.cron.metadata.namespace.clone(),
                labels: meta.labels,
                annotations: Some(annotations),
                finalizers: meta.finalizers,
                owner_references: Some(vec![owner_reference(CRON_JOBS, &self.cron.metadata)]),
                ..Default::default()
            },
            spec: template.spec.clone(),
            status: None,
        };
        plan.create_for(CRON_JOBS, &self.cron.metadata, JOBS, &job);
    }
}

fn rfc_1123(t: Timestamp) -> String {
    t.to_zoned(TimeZone::UTC).strftime("%a, %d %b %Y %H:%M:%S +0000").to_string()
}
