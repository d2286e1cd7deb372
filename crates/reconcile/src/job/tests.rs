use super::*;
use crate::plan::Action;
use serde_json::Value;

fn job(spec: Value) -> Job {
    let mut full = json!({"metadata": {"name": "j", "namespace": "default", "uid": "j1"},
        "spec": {"parallelism": 1, "completions": 1, "backoffLimit": 2,
            "template": {"spec": {"restartPolicy": "Never", "containers": [{"name": "c", "image": "i"}]}}}});
    for (k, v) in spec.as_object().unwrap() {
        full["spec"][k] = v.clone();
    }
    serde_json::from_value(full).unwrap()
}

fn pod(id: &str, phase: &str) -> Pod {
    let owner = json!({"apiVersion": "batch/v1", "kind": "Job", "name": "j", "uid": "j1", "controller": true});
    serde_json::from_value(
        json!({"metadata": {"name": id, "namespace": "default", "uid": id, "finalizers": [FINALIZER],
        "ownerReferences": [owner]}, "status": {"phase": phase}}),
    )
    .unwrap()
}

fn now() -> Timestamp {
    Timestamp::from_second(1_700_000_000).unwrap()
}

fn status_patch(p: &Plan) -> Value {
    p.actions
        .iter()
        .find_map(|a| match a {
            Action::Patch { subresource: Some("status"), patch, .. } => Some(patch["status"].clone()),
            _ => None,
        })
        .unwrap_or(Value::Null)
}

fn creations(p: &Plan) -> usize {
    p.actions.iter().filter(|a| matches!(a, Action::Create { .. })).count()
}

/// Applies a status patch as the API server would.
fn stored(mut j: Job, p: &Plan) -> Job {
    if status_patch(p).is_null() {
        return j;
    }
    let mut v = serde_json::to_value(&j).unwrap();
    fn merge(into: &mut Value, patch: &Value) {
        match patch {
            Value::Object(o) => {
                if !into.is_object() {
                    *into = json!({});
                }
                for (k, x) in o {
                    if x.is_null() {
                        into.as_object_mut().unwrap().remove(k);
                    } else {
                        merge(&mut into[k], x);
                    }
                }
            }
            other => *into = other.clone(),
        }
    }
    merge(&mut v["status"], &status_patch(p));
    j = serde_json::from_value(v).unwrap();
    j
}

#[test]
fn parallelism_is_bounded_by_what_is_left() {
    let j = job(json!({"parallelism": 5, "completions": 3}));
    assert_eq!(creations(&plan(&j, &[], now())), 3);
}

#[test]
fn a_success_is_counted_once_and_only_after_it_is_recorded() {
    let j = job(json!({}));
    let mut p1 = pod("p1", "Succeeded");
    let first = plan(&j, &[&p1], now());
    assert_eq!(status_patch(&first)["uncountedTerminatedPods"]["succeeded"], json!(["p1"]));
    let j = stored(j, &first);
    let second = plan(&j, &[&p1], now());
    let freed = second.actions.iter().any(|a| matches!(a, Action::Patch { resource, .. } if *resource == PODS));
    assert!(freed, "{second:?}");
    p1.metadata.finalizers = None;
    let j = stored(j, &second);
    let third = plan(&j, &[&p1], now());
    let j = stored(j, &third);
    let status = j.status.as_ref().unwrap();
    assert_eq!(status.succeeded, Some(1));
    assert!(status.conditions.iter().flatten().any(|c| c.type_ == "Complete" && c.status == "True"), "{status:?}");
    assert_eq!(plan(&j, &[&p1], now()), Plan::default());
}

#[test]
fn failures_wait_longer_each_time_and_end_at_the_limit() {
    let mut j = job(json!({"backoffLimit": 1}));
    j.status = Some(JobStatus { failed: Some(1), ..Default::default() });
    let mut failed = pod("p1", "Failed");
    failed.metadata.finalizers = None;
    failed.status.as_mut().unwrap().container_statuses = serde_json::from_value(json!([{"name": "c", "image": "i", "imageID": "",
        "ready": false, "restartCount": 0, "state": {"terminated": {"exitCode": 1, "finishedAt": "2023-11-14T22:13:19Z"}}}]))
    .unwrap();
    let p = plan(&j, &[&failed], now());
    assert_eq!((creations(&p), p.requeue_after), (0, Some(Duration::from_secs(9))));
    j.status.as_mut().unwrap().failed = Some(2);
    let j = stored(j.clone(), &plan(&j, &[&failed], now()));
    let conditions = j.status.unwrap().conditions.unwrap();
    assert!(conditions.iter().any(|c| c.type_ == "Failed" && c.reason.as_deref() == Some("BackoffLimitExceeded")));
}

#[test]
fn indexed_jobs_give_each_pod_the_next_free_index() {
    let mut j = job(json!({"completionMode": "Indexed", "completions": 4, "parallelism": 2}));
    j.status = Some(JobStatus { completed_indexes: Some("0,2".into()), succeeded: Some(2), ..Default::default() });
    let p = plan(&j, &[], now());
    let indexes: Vec<_> = p
        .actions
        .iter()
        .filter_map(|a| match a {
            Action::Create { body, .. } => body["metadata"]["annotations"][INDEX].as_str().map(str::to_owned),
            _ => None,
        })
        .collect();
    assert_eq!(indexes, ["1", "3"]);
}

#[test]
fn index_lists_read_back_as_written() {
    for text in ["", "0", "0,1", "1,3-5,7"] {
        assert_eq!(IndexSet::parse(text).to_string(), text);
    }
}
