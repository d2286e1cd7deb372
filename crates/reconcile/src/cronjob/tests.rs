use serde_json::{Value, json};

use super::*;
use crate::plan::Action;

fn cron(spec: Value, status: Value) -> CronJob {
    let mut full = json!({"schedule": "0 * * * *", "jobTemplate": {"metadata": {"labels": {"a": "b"}},
        "spec": {"template": {"spec": {"restartPolicy": "Never", "containers": [{"name": "c", "image": "i"}]}}}}});
    for (k, v) in spec.as_object().unwrap() {
        full[k] = v.clone();
    }
    let meta = json!({"name": "c", "namespace": "d", "uid": "c1", "creationTimestamp": "2026-01-01T00:30:00Z"});
    serde_json::from_value(json!({"metadata": meta, "spec": full, "status": status})).unwrap()
}

fn job(name: &str, condition: Option<&str>, started: &str) -> Job {
    let conditions: Vec<Value> = condition.iter().map(|t| json!({"type": t, "status": "True"})).collect();
    serde_json::from_value(json!({"metadata": {"name": name, "namespace": "d", "uid": name,
        "annotations": {SCHEDULED_AT: started},
        "ownerReferences": [{"apiVersion": "batch/v1", "kind": "CronJob", "name": "c", "uid": "c1", "controller": true}]},
        "status": {"conditions": conditions, "startTime": started, "completionTime": started}}))
    .unwrap()
}

fn at(text: &str) -> Timestamp {
    text.parse().unwrap()
}

fn made(p: &Plan) -> Vec<Value> {
    let made = p.actions.iter().filter_map(|a| match a {
        Action::Create { body, .. } => Some(body.clone()),
        _ => None,
    });
    made.collect()
}

fn deleted(p: &Plan) -> Vec<&str> {
    let gone = p.actions.iter().filter_map(|a| match a {
        Action::Delete { name, .. } => Some(name.as_str()),
        _ => None,
    });
    gone.collect()
}

fn reasons(p: &Plan) -> Vec<&str> {
    let told = p.actions.iter().filter_map(|a| match a {
        Action::Event { reason, .. } => Some(*reason),
        _ => None,
    });
    told.collect()
}

#[test]
fn nothing_starts_before_its_time_and_the_next_time_is_waited_for() {
    let p = plan(&cron(json!({}), json!({})), &[], at("2026-01-01T00:59:00Z"));
    assert_eq!((made(&p), p.requeue_after), (vec![], Some(Duration::from_secs(60))));
}

#[test]
fn a_job_is_named_by_its_time_and_made_once() {
    let c = cron(json!({"timeZone": "Europe/Berlin"}), json!({}));
    let now = at("2026-01-01T01:00:02Z");
    let p = plan(&c, &[], now);
    let job_made = made(&p).remove(0);
    assert_eq!(job_made["metadata"]["name"], format!("c-{}", at("2026-01-01T01:00:00Z").as_second() / 60));
    assert_eq!(job_made["metadata"]["annotations"][SCHEDULED_AT], "2026-01-01T02:00:00+01:00");
    assert_eq!(job_made["metadata"]["labels"]["a"], "b");
    assert_eq!(p.requeue_after, Some(Duration::from_secs(3598)));
    // Its creation was carried out, the status was lost.
    let there: Job = serde_json::from_value(job_made).unwrap();
    assert_eq!(made(&plan(&c, &[&there], now)), Vec::<Value>::new());
    let counted = cron(json!({}), json!({"lastScheduleTime": "2026-01-01T01:00:00Z"}));
    assert_eq!(made(&plan(&counted, &[], now)), Vec::<Value>::new());
}

#[test]
fn of_many_missed_times_only_the_latest_starts() {
    let c = cron(json!({}), json!({"lastScheduleTime": "2020-01-01T00:00:00Z"}));
    let p = plan(&c, &[], at("2026-01-01T01:10:00Z"));
    assert_eq!(made(&p)[0]["metadata"]["annotations"][SCHEDULED_AT], "2026-01-01T01:00:00Z");
    assert_eq!(reasons(&p), ["TooManyMissedTimes"]);
    // Weekends lie between the times: the distance of the first two says little.
    let c = cron(json!({"schedule": "*/10 9-17 * * 1-5"}), json!({"lastScheduleTime": "2026-01-02T17:50:00Z"}));
    let p = plan(&c, &[], at("2026-01-06T20:00:00Z"));
    assert_eq!(made(&p)[0]["metadata"]["annotations"][SCHEDULED_AT], "2026-01-06T17:50:00Z");
}

#[test]
fn a_start_later_than_the_deadline_is_given_up() {
    let c = cron(json!({"startingDeadlineSeconds": 100}), json!({}));
    assert_eq!(made(&plan(&c, &[], at("2026-01-01T01:01:30Z"))).len(), 1);
    assert_eq!(made(&plan(&c, &[], at("2026-01-01T01:02:30Z"))).len(), 0);
}

#[test]
fn a_running_job_is_obeyed_as_the_policy_says() {
    let running = job("old", None, "2026-01-01T00:40:00Z");
    let now = at("2026-01-01T01:00:01Z");
    let run = |policy: &str| plan(&cron(json!({"concurrencyPolicy": policy}), json!({})), &[&running], now);
    let allow = run("Allow");
    assert_eq!((made(&allow).len(), deleted(&allow).len()), (1, 0));
    let forbid = run("Forbid");
    assert_eq!((made(&forbid).len(), reasons(&forbid)), (0, vec!["JobAlreadyActive"]));
    let replace = run("Replace");
    assert_eq!((made(&replace).len(), deleted(&replace)), (1, vec!["old"]));
}

#[test]
fn the_oldest_ended_jobs_are_forgotten() {
    let c = cron(json!({"successfulJobsHistoryLimit": 1, "failedJobsHistoryLimit": 0}), json!({}));
    let all = [
        job("a", Some("Complete"), "2026-01-01T00:02:00Z"),
        job("b", Some("Complete"), "2026-01-01T00:01:00Z"),
        job("f", Some("Failed"), "2026-01-01T00:03:00Z"),
    ];
    let p = plan(&c, &all.iter().collect::<Vec<_>>(), at("2026-01-01T00:31:00Z"));
    assert_eq!(deleted(&p), ["b", "f"]);
}

#[test]
fn a_suspended_one_starts_nothing_but_keeps_its_books() {
    let reference = json!([{"kind": "Job", "name": "j", "namespace": "d", "uid": "j"}]);
    let c = cron(json!({"suspend": true}), json!({"active": reference}));
    let ended = job("j", Some("Complete"), "2026-01-01T00:40:00Z");
    let p = plan(&c, &[&ended], at("2026-01-01T05:00:00Z"));
    assert_eq!((made(&p).len(), reasons(&p), p.requeue_after), (0, vec!["SawCompletedJob"], None));
    let Some(Action::Patch { patch, .. }) = p.actions.last() else { panic!("{p:?}") };
    assert_eq!(patch["status"], json!({"active": null, "lastSuccessfulTime": "2026-01-01T00:40:00Z"}));
}

#[test]
fn an_unknown_zone_or_schedule_is_told() {
    let now = at("2026-01-01T05:00:00Z");
    assert_eq!(reasons(&plan(&cron(json!({"timeZone": "Nowhere"}), json!({})), &[], now)), ["UnknownTimeZone"]);
    assert_eq!(reasons(&plan(&cron(json!({"schedule": "x"}), json!({})), &[], now)), ["UnparseableSchedule"]);
}
