//! Workloads, their scaling and their budgets.

use super::*;

// allow-long: a table with one entry for each kind.
pub(super) fn kinds() -> Vec<KindInfo> {
    vec![
        kind!("apps" "v1" "ControllerRevision" "controllerrevisions" "controllerrevision", c::CONTROLLER_REVISION, apps::CONTROLLER_REVISION),
        KindInfo {
            short_names: &["deploy"],
            categories: &["all"],
            has_status: true,
            has_generation: true,
            scale: Some(REPLICAS),
            ..kind!("apps" "v1" "Deployment" "deployments" "deployment", c::DEPLOYMENT, apps::DEPLOYMENT)
        },
        KindInfo {
            short_names: &["rs"],
            categories: &["all"],
            has_status: true,
            has_generation: true,
            scale: Some(REPLICAS),
            ..kind!("apps" "v1" "ReplicaSet" "replicasets" "replicaset", c::REPLICA_SET, apps::REPLICA_SET)
        },
        KindInfo {
            short_names: &["sts"],
            name_rule: NameRule::Label,
            categories: &["all"],
            has_status: true,
            has_generation: true,
            scale: Some(REPLICAS),
            ..kind!("apps" "v1" "StatefulSet" "statefulsets" "statefulset", c::STATEFUL_SET, apps::STATEFUL_SET)
        },
        KindInfo {
            categories: &["all"],
            has_status: true,
            has_generation: true,
            default_orphan: true,
            ..kind!("batch" "v1" "Job" "jobs" "job", c::JOB, job::HOOKS)
        },
        KindInfo {
            short_names: &["ds"],
            categories: &["all"],
            has_status: true,
            has_generation: true,
            ..kind!("apps" "v1" "DaemonSet" "daemonsets" "daemonset", c::DAEMON_SET, daemonset::HOOKS)
        },
        KindInfo {
            short_names: &["hpa"],
            categories: &["all"],
            has_status: true,
            ..kind!("autoscaling" "v2" "HorizontalPodAutoscaler" "horizontalpodautoscalers" "horizontalpodautoscaler", c::AUTOSCALER, autoscaling::V2)
        },
        KindInfo {
            short_names: &["hpa"],
            categories: &["all"],
            has_status: true,
            storage_version: "v2",
            ..kind!("autoscaling" "v1" "HorizontalPodAutoscaler" "horizontalpodautoscalers" "horizontalpodautoscaler", c::AUTOSCALER, autoscaling::V1)
        },
        KindInfo {
            short_names: &["cj"],
            categories: &["all"],
            has_status: true,
            has_generation: true,
            ..kind!("batch" "v1" "CronJob" "cronjobs" "cronjob", c::CRON_JOB, cronjob::HOOKS)
        },
        KindInfo {
            short_names: &["pdb"],
            has_status: true,
            has_generation: true,
            ..kind!("policy" "v1" "PodDisruptionBudget" "poddisruptionbudgets" "poddisruptionbudget", c::DISRUPTION_BUDGET, policy::DISRUPTION_BUDGET)
        },
    ]
}
