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

fn failed_pod(id: &str, index: u32, failures: i32, code: i32) -> Pod {
    let mut p = pod(id, "Failed");
    let notes = [
        (INDEX.to_owned(), index.to_string()),
        ("batch.kubernetes.io/job-index-failure-count".to_owned(), failures.to_string()),
    ];
    p.metadata.annotations = Some(notes.into());
    p.status.as_mut().unwrap().container_statuses = serde_json::from_value(json!([{"name": "c", "image": "i", "imageID": "",
        "ready": false, "restartCount": 0, "state": {"terminated": {"exitCode": code, "finishedAt": "2023-11-14T22:00:00Z"}}}]))
    .unwrap();
    p
}

fn per_index(extra: Value) -> Job {
    let mut spec = json!({"completionMode": "Indexed", "completions": 3, "parallelism": 3, "backoffLimitPerIndex": 1,
        "backoffLimit": 2_147_483_647});
    for (k, v) in extra.as_object().unwrap() {
        spec[k] = v.clone();
    }
    job(spec)
}

fn made(p: &Plan) -> Vec<(String, String)> {
    let made = p.actions.iter().filter_map(|a| match a {
        Action::Create { body, .. } => {
            let note = |k: &str| body["metadata"]["annotations"][k].as_str().unwrap_or_default().to_owned();
            Some((note(INDEX), note("batch.kubernetes.io/job-index-failure-count")))
        }
        _ => None,
    });
    made.collect()
}

fn freed(p: &Plan) -> Vec<&str> {
    let freed = p.actions.iter().filter_map(|a| match a {
        Action::Patch { resource, name, .. } if *resource == PODS => Some(name.as_str()),
        _ => None,
    });
    freed.collect()
}

#[test]
fn an_index_is_tried_again_by_its_own_count() {
    let j = per_index(json!({}));
    let first = failed_pod("p1", 1, 0, 1);
    let p = plan(&j, &[&first], now());
    let expected = [("0", "0"), ("1", "1"), ("2", "0")].map(|(a, b)| (a.to_owned(), b.to_owned()));
    assert_eq!(made(&p), expected);
    let j = stored(j, &p);
    assert_eq!(freed(&plan(&j, &[&first], now())), Vec::<&str>::new(), "its count would be lost");
    let mut next = pod("p2", "Running");
    next.metadata.annotations = failed_pod("x", 1, 1, 0).metadata.annotations;
    assert_eq!(freed(&plan(&j, &[&first, &next], now())), ["p1"]);
}

#[test]
fn an_index_beyond_its_limit_fails_and_the_others_go_on() {
    let j = per_index(json!({}));
    let p = plan(&j, &[&failed_pod("p1", 1, 1, 1)], now());
    assert_eq!(status_patch(&p)["failedIndexes"], "1");
    assert_eq!(made(&p).into_iter().map(|(i, _)| i).collect::<Vec<_>>(), ["0", "2"]);
    let mut all = per_index(json!({}));
    all.status = Some(JobStatus {
        completed_indexes: Some("0,2".into()),
        succeeded: Some(2),
        failed_indexes: Some("1".into()),
        ..Default::default()
    });
    let conditions = status_patch(&plan(&all, &[], now()))["conditions"].clone();
    assert_eq!(conditions[1]["reason"], "FailedIndexes", "{conditions}");
    let most = per_index(json!({"maxFailedIndexes": 0}));
    let p = plan(&most, &[&failed_pod("p1", 1, 1, 1)], now());
    assert_eq!(status_patch(&p)["conditions"][0]["reason"], "MaxFailedIndexesExceeded");
}

#[test]
fn a_rule_can_fail_an_index_at_once() {
    let rules = json!({"podFailurePolicy": {"rules": [{"action": "FailIndex", "onExitCodes": {"operator": "In", "values": [42]}}]}});
    let p = plan(&per_index(rules), &[&failed_pod("p1", 1, 0, 42)], now());
    assert_eq!(status_patch(&p)["failedIndexes"], "1");
}

#[test]
fn a_success_policy_ends_the_job_early_and_for_good() {
    let policy = json!({"rules": [{"succeededIndexes": "0-1", "succeededCount": 2}, {"succeededIndexes": "2"}]});
    let mut j = job(
        json!({"completionMode": "Indexed", "completions": 5, "parallelism": 5, "successPolicy": policy, "backoffLimit": 0}),
    );
    j.status = Some(JobStatus { completed_indexes: Some("2".into()), succeeded: Some(1), ..Default::default() });
    let running = pod("p1", "Running");
    let p = plan(&j, &[&running], now());
    let conditions = &status_patch(&p)["conditions"];
    assert_eq!(
        (&conditions[0]["type"], &conditions[0]["reason"], &conditions[0]["message"]),
        (&json!("SuccessCriteriaMet"), &json!("SuccessPolicy"), &json!("Matched rules at index 1"))
    );
    assert_eq!(creations(&p), 0);
    assert!(p.actions.iter().any(|a| matches!(a, Action::Delete { name, .. } if name == "p1")));
    // The pod that was ended counts as failed: that does not undo the success.
    let mut j = stored(j, &p);
    j.status.as_mut().unwrap().failed = Some(1);
    let p = plan(&j, &[], now());
    let done = status_patch(&p)["conditions"].clone();
    assert!(
        done.as_array().unwrap().iter().any(|c| c["type"] == "Complete" && c["reason"] == "SuccessPolicy"),
        "{done}"
    );
}

#[test]
fn orphans_are_adopted_and_strays_let_go_with_their_finalizers() {
    let j = job(json!({"selector": {"matchLabels": {"j": "1"}}, "parallelism": 2, "completions": 2}));
    let mut orphan = pod("orphan", "Running");
    orphan.metadata.labels = Some([("j".to_owned(), "1".to_owned())].into());
    (orphan.metadata.owner_references, orphan.metadata.finalizers) = (None, None);
    let stray = pod("stray", "Running");
    let p = plan(&j, &[&orphan, &stray], now());
    let patches: Vec<(usize, &Value)> = p
        .actions
        .iter()
        .filter_map(|a| match a {
            Action::Patch { patch, .. } => {
                Some((patch["metadata"]["ownerReferences"].as_array()?.len(), &patch["metadata"]["finalizers"]))
            }
            _ => None,
        })
        .collect();
    assert_eq!(patches, [(1, &json!([FINALIZER])), (0, &json!([]))]);
    assert_eq!(p.actions.len(), 2);
}

#[test]
fn a_pod_that_nobody_counts_any_more_is_let_go() {
    let p = plan_left(&pod("a", "Running"));
    let [Action::Patch { name, subresource: None, patch, .. }] = &p.actions[..] else { panic!("{p:?}") };
    assert_eq!((name.as_str(), &patch["metadata"]["finalizers"]), ("a", &json!([])));
    let mut free = pod("b", "Running");
    assert!(held(&free));
    free.metadata.finalizers = Some(vec!["example.com/other".into()]);
    assert!(!held(&free) && plan_left(&free).actions.is_empty());
}
