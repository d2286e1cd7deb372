use serde_json::{Value, json};

use super::*;
use crate::plan::DEPLOYMENTS;

fn hpa(spec: Value) -> HorizontalPodAutoscaler {
    let mut full = json!({"scaleTargetRef": {"apiVersion": "apps/v1", "kind": "Deployment", "name": "web"},
        "minReplicas": 1, "maxReplicas": 10, "metrics": [{"type": "Resource", "resource":
            {"name": "cpu", "target": {"type": "Utilization", "averageUtilization": 50}}}]});
    for (k, v) in spec.as_object().unwrap() {
        full[k] = v.clone();
    }
    serde_json::from_value(json!({"metadata": {"name": "h", "namespace": "d", "uid": "h"}, "spec": full})).unwrap()
}

fn pod(name: &str) -> Pod {
    serde_json::from_value(json!({"metadata": {"name": name, "namespace": "d"},
        "spec": {"containers": [{"name": "c", "resources": {"requests": {"cpu": "100m"}}}]},
        "status": {"phase": "Running", "startTime": "2023-11-01T00:00:00Z",
            "conditions": [{"type": "Ready", "status": "True", "lastTransitionTime": "2023-11-01T00:01:00Z"}]}}))
    .unwrap()
}

fn at(second: i64) -> Timestamp {
    Timestamp::from_second(1_700_000_000 + second).unwrap()
}

/// One pass: `used` thousandths of a CPU for each pod, `None` where nothing was measured.
fn run(h: &HorizontalPodAutoscaler, used: &[Option<i64>], history: &mut History, second: i64) -> (Option<i64>, Plan) {
    let pods: Vec<Pod> = (0..used.len()).map(|i| pod(&format!("p{i}"))).collect();
    let usage = used.iter().enumerate().filter_map(|(i, n)| {
        let containers = [("c".to_owned(), [("cpu".to_owned(), (*n)?)].into())].into();
        Some((format!("p{i}"), Usage { at: at(second), window: Duration::from_secs(15), containers }))
    });
    let count = i32::try_from(used.len()).unwrap();
    let target = Target { resource: DEPLOYMENTS, wanted: count, there: count };
    let refs: Vec<&Pod> = pods.iter().collect();
    let view = View { target: Ok(target), pods: &refs, usage: Ok(usage.collect()), now: at(second) };
    let p = plan(h, &view, history);
    let size = p.actions.iter().find_map(|a| match a {
        Action::Patch { subresource: Some("scale"), patch, .. } => patch["spec"]["replicas"].as_i64(),
        _ => None,
    });
    (size, p)
}

fn condition(p: &Plan, type_: &str) -> (String, String) {
    let conditions = p.actions.iter().find_map(|a| match a {
        Action::Patch { subresource: Some("status"), patch, .. } => patch["status"]["conditions"].as_array().cloned(),
        _ => None,
    });
    let all = conditions.unwrap_or_default();
    let c = all.iter().find(|c| c["type"] == type_).cloned().unwrap_or_default();
    (c["status"].as_str().unwrap_or_default().to_owned(), c["reason"].as_str().unwrap_or_default().to_owned())
}

#[test]
fn the_size_follows_the_share_of_the_requests() {
    let h = hpa(json!({}));
    let table: [(&[Option<i64>], Option<i64>); 6] = [
        (&[Some(100), Some(100)], Some(4)),
        (&[Some(54), Some(54)], None),
        (&[Some(46), Some(46)], None),
        (&[Some(10), Some(10), Some(10), Some(10)], Some(1)),
        // What is not measured is taken to make the change smaller.
        (&[Some(100), None], None),
        (&[Some(10), None], None),
    ];
    for (used, expected) in table {
        assert_eq!(run(&h, used, &mut History::default(), 0).0, expected, "{used:?}");
    }
}

#[test]
fn growth_is_bounded_by_rate_and_maximum() {
    let h = hpa(json!({"maxReplicas": 5}));
    let (size, p) = run(&h, &[Some(1000)], &mut History::default(), 0);
    assert_eq!((size, condition(&p, "ScalingLimited")), (Some(5), ("True".into(), "TooManyReplicas".into())));
    let slow = json!({"scaleUp": {"policies": [{"type": "Pods", "value": 1, "periodSeconds": 60}]}});
    let h = hpa(json!({"behavior": slow}));
    let mut history = History::default();
    let (size, p) = run(&h, &[Some(1000)], &mut history, 0);
    assert_eq!((size, condition(&p, "ScalingLimited")), (Some(2), ("True".into(), "ScaleUpLimit".into())));
    assert_eq!(run(&h, &[Some(1000), Some(1000)], &mut history, 30).0, None);
    assert_eq!(run(&h, &[Some(1000), Some(1000)], &mut history, 61).0, Some(3));
}

#[test]
fn shrinking_waits_until_the_window_has_only_small_recommendations() {
    let h = hpa(json!({}));
    let mut history = History::default();
    let busy = [Some(50); 4];
    let idle = [Some(10); 4];
    assert_eq!(run(&h, &busy, &mut history, 0).0, None);
    let (size, p) = run(&h, &idle, &mut history, 15);
    assert_eq!((size, condition(&p, "AbleToScale").1), (None, "ScaleDownStabilized".into()));
    assert_eq!(run(&h, &idle, &mut history, 299).0, None);
    assert_eq!(run(&h, &idle, &mut history, 301).0, Some(1));
    let never = hpa(json!({"behavior": {"scaleDown": {"selectPolicy": "Disabled"}}}));
    assert_eq!(run(&never, &idle, &mut History::default(), 0).0, None);
}

#[test]
fn without_metrics_nothing_moves_and_the_condition_says_why() {
    let (h, p) = (hpa(json!({})), pod("p0"));
    let target = Target { resource: DEPLOYMENTS, wanted: 2, there: 2 };
    let view = View { target: Ok(target), pods: &[&p], usage: Err("the server could not find it".into()), now: at(0) };
    let plan = plan(&h, &view, &mut History::default());
    assert_eq!(condition(&plan, "ScalingActive"), ("False".into(), "FailedGetResourceMetric".into()));
    assert!(!plan.actions.iter().any(|a| matches!(a, Action::Patch { subresource: Some("scale"), .. })));
    assert_eq!(plan.requeue_after, Some(PERIOD));
    let told = plan.actions.iter().any(|a| {
        matches!(a, Action::Event { reason: "FailedComputeMetricsReplicas", message, .. }
        if message.starts_with("invalid metrics (1 invalid out of 1)"))
    });
    assert!(told, "{plan:?}");
}

#[test]
fn a_target_out_of_bounds_is_brought_back_and_an_empty_one_left_alone() {
    let h = hpa(json!({"minReplicas": 3}));
    assert_eq!(run(&h, &[Some(50)], &mut History::default(), 0).0, Some(3));
    let (size, p) = run(&h, &[], &mut History::default(), 0);
    assert_eq!((size, condition(&p, "ScalingActive").1), (None, "ScalingDisabled".into()));
    let missing = View { target: Err("not found".into()), pods: &[], usage: Ok(BTreeMap::new()), now: at(0) };
    let p = plan(&h, &missing, &mut History::default());
    assert_eq!(condition(&p, "AbleToScale"), ("False".into(), "FailedGetScale".into()));
}
