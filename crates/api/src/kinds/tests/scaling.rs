use super::*;

fn hpa(extra: Value) -> Value {
    let mut spec =
        json!({"maxReplicas": 5, "scaleTargetRef": {"apiVersion": "apps/v1", "kind": "Deployment", "name": "d"}});
    for (k, v) in extra.as_object().unwrap() {
        spec[k] = v.clone();
    }
    json!({"apiVersion": "autoscaling/v2", "kind": "HorizontalPodAutoscaler", "metadata": {"name": "h"}, "spec": spec})
}

#[test]
fn autoscalers_get_their_defaults() {
    let h = created(
        kind("autoscaling/v2", "HorizontalPodAutoscaler"),
        hpa(json!({"behavior": {"scaleDown": {"policies":
        [{"type": "Pods", "value": 1, "periodSeconds": 60}]}}})),
    );
    assert_eq!(h["spec"]["minReplicas"], 1);
    assert_eq!(
        h["spec"]["metrics"],
        json!([{"type": "Resource", "resource": {"name": "cpu", "target": {"type": "Utilization", "averageUtilization": 80}}}])
    );
    assert_eq!(
        h["spec"]["behavior"],
        json!({"scaleUp": {"stabilizationWindowSeconds": 0, "selectPolicy": "Max", "policies": [
                {"type": "Pods", "value": 4, "periodSeconds": 15}, {"type": "Percent", "value": 100, "periodSeconds": 15}]},
            "scaleDown": {"selectPolicy": "Max", "policies": [{"type": "Pods", "value": 1, "periodSeconds": 60}]}})
    );
}

#[test]
fn bad_autoscalers_are_refused_in_kubernetes_words() {
    let metric = |m: Value| hpa(json!({"metrics": [m]}));
    let cpu = |target: Value| metric(json!({"type": "Resource", "resource": {"name": "cpu", "target": target}}));
    let cases = [
        (hpa(json!({"maxReplicas": 0})), "spec.maxReplicas: Required value: must be set and greater than 0"),
        (
            hpa(json!({"minReplicas": 6})),
            "spec.maxReplicas: Invalid value: 5: must be greater than or equal to `minReplicas`",
        ),
        (hpa(json!({"minReplicas": 0})), "spec.minReplicas: Invalid value: 0: must be greater than or equal to 1"),
        (
            hpa(json!({"scaleTargetRef": {"kind": "Deployment", "name": "d"}})),
            "spec.scaleTargetRef.apiVersion: Invalid value: \"\": apiVersion must specify API group",
        ),
        (
            metric(json!({"type": "Magic"})),
            "spec.metrics[0].type: Unsupported value: \"Magic\": supported values: \"ContainerResource\", \"External\", \"Object\", \"Pods\", \"Resource\"",
        ),
        (
            metric(json!({"type": "Resource"})),
            "spec.metrics[0].resource: Required value: must populate information for the given metric source",
        ),
        (
            cpu(json!({"type": "Utilization"})),
            "spec.metrics[0].resource.target.averageUtilization: Required value: must set either a target raw value or a target utilization",
        ),
        (
            cpu(json!({"type": "Utilization", "averageUtilization": 0})),
            "spec.metrics[0].resource.target.averageUtilization: Invalid value: 0: must be greater than 0",
        ),
        (
            cpu(json!({"type": "AverageValue", "averageValue": "0"})),
            "spec.metrics[0].resource.target.averageValue: Invalid value: \"0\": must be positive",
        ),
        (
            hpa(json!({"behavior": {"scaleUp": {"selectPolicy": "Best"}}})),
            "spec.behavior.scaleUp.selectPolicy: Unsupported value: \"Best\": supported values: \"Disabled\", \"Max\", \"Min\"",
        ),
        (
            hpa(json!({"behavior": {"scaleUp": {"policies": [{"type": "Pods", "value": 1, "periodSeconds": 1801}]}}})),
            "spec.behavior.scaleUp.policies[0].periodSeconds: Invalid value: 1801: must be less than or equal to 1800",
        ),
    ];
    for (object, expected) in cases {
        let (_, errors) = create(kind("autoscaling/v2", "HorizontalPodAutoscaler"), object);
        assert!(errors.iter().any(|e| e == expected), "wanted {expected}\ngot {errors:#?}");
    }
    let mut core = hpa(json!({"scaleTargetRef": {"kind": "ReplicationController", "name": "r"}}));
    core["spec"]["metrics"] = json!([{"type": "Pods", "pods": {"metric": {"name": "rps"}, "target": {"type": "AverageValue", "averageValue": "1000m"}}}]);
    let h = created(kind("autoscaling/v2", "HorizontalPodAutoscaler"), core);
    assert_eq!(h["spec"]["metrics"][0]["pods"]["target"]["averageValue"], "1");
}

#[test]
fn v1_autoscalers_are_stored_as_v2_and_come_back() {
    let v1 = kind("autoscaling/v1", "HorizontalPodAutoscaler");
    let mut o = json!({"apiVersion": "autoscaling/v1", "kind": "HorizontalPodAutoscaler", "metadata": {"name": "h"},
        "spec": {"maxReplicas": 5, "targetCPUUtilizationPercentage": 60,
            "scaleTargetRef": {"apiVersion": "apps/v1", "kind": "Deployment", "name": "d"}}});
    let original = o.clone();
    v1.to_storage(&mut o);
    assert_eq!(o["apiVersion"], "autoscaling/v2");
    assert_eq!(o["spec"]["metrics"][0]["resource"]["target"], json!({"type": "Utilization", "averageUtilization": 60}));
    assert!(o["spec"].get("targetCPUUtilizationPercentage").is_none());
    let mut twice = o.clone();
    v1.to_storage(&mut twice);
    assert_eq!(twice, o, "what is stored stays as it is");
    v1.default(&mut o);
    assert_eq!(o["spec"]["minReplicas"], 1);
    let mut back = o.clone();
    v1.from_storage(&mut back);
    assert_eq!(back["spec"]["targetCPUUtilizationPercentage"], 60);
    assert!(back["metadata"].get("annotations").is_none());
    back["spec"].as_object_mut().unwrap().remove("minReplicas");
    assert_eq!(back, original);
    let mut bare = json!({"apiVersion": "autoscaling/v1", "spec": {"maxReplicas": 5}});
    v1.to_storage(&mut bare);
    assert_eq!(bare["spec"]["metrics"][0]["resource"]["target"]["averageUtilization"], 80);
}

#[test]
fn what_v1_cannot_hold_travels_in_annotations() {
    let v1 = kind("autoscaling/v1", "HorizontalPodAutoscaler");
    let stored = json!({"apiVersion": "autoscaling/v2", "kind": "HorizontalPodAutoscaler",
        "metadata": {"name": "h", "annotations": {"mine": "kept"}},
        "spec": {"maxReplicas": 5, "metrics": [
            {"type": "Pods", "pods": {"metric": {"name": "rps"}, "target": {"type": "AverageValue", "averageValue": "5"}}},
            {"type": "Object", "object": {"describedObject": {"kind": "Ingress", "name": "i", "apiVersion": "networking.k8s.io/v1"},
                "metric": {"name": "hits"}, "target": {"type": "Value", "value": "10"}}},
            {"type": "External", "external": {"metric": {"name": "queue", "selector": {"matchLabels": {"q": "a"}}},
                "target": {"type": "AverageValue", "averageValue": "30"}}},
            {"type": "Resource", "resource": {"name": "cpu", "target": {"type": "Utilization", "averageUtilization": 50}}}],
            "behavior": {"scaleDown": {"stabilizationWindowSeconds": 300, "selectPolicy": "Max", "policies":
                [{"type": "Percent", "value": 100, "periodSeconds": 15}]}}},
        "status": {"currentReplicas": 2, "currentMetrics": [{"type": "Resource", "resource": {"name": "cpu",
                "current": {"averageUtilization": 40, "averageValue": "200m"}}}],
            "conditions": [{"type": "ScalingActive", "status": "True"}]}});
    let mut o = stored.clone();
    v1.from_storage(&mut o);
    assert_eq!(
        (&o["spec"]["targetCPUUtilizationPercentage"], &o["status"]["currentCPUUtilizationPercentage"]),
        (&json!(50), &json!(40))
    );
    let annotations = &o["metadata"]["annotations"];
    let metrics: Value =
        serde_json::from_str(annotations["autoscaling.alpha.kubernetes.io/metrics"].as_str().unwrap()).unwrap();
    assert_eq!(metrics[0], json!({"type": "Pods", "pods": {"metricName": "rps", "targetAverageValue": "5"}}));
    let behavior = annotations["autoscaling.alpha.kubernetes.io/behavior"].as_str().unwrap();
    assert!(
        behavior.contains("\"ScaleDown\"") && behavior.contains("\"StabilizationWindowSeconds\":300"),
        "{behavior}"
    );
    assert!(annotations["autoscaling.alpha.kubernetes.io/conditions"].as_str().unwrap().contains("ScalingActive"));
    assert_eq!(annotations["mine"], "kept");
    v1.to_storage(&mut o);
    assert_eq!(o, stored);
}

#[test]
fn v1_autoscalers_are_checked_as_v2() {
    let (_, errors) = create(
        kind("autoscaling/v1", "HorizontalPodAutoscaler"),
        json!({"apiVersion": "autoscaling/v1", "metadata": {"name": "h"}, "spec": {"maxReplicas": 1, "minReplicas": 2,
            "scaleTargetRef": {"apiVersion": "apps/v1", "kind": "Deployment", "name": "d"}}}),
    );
    assert_eq!(errors, ["spec.maxReplicas: Invalid value: 1: must be greater than or equal to `minReplicas`"]);
}
