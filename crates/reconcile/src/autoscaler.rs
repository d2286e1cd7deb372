//! HorizontalPodAutoscaler: as many replicas as what the pods use asks for. Metrics come from metrics.k8s.io; a cluster
//! without them is told so in the `ScalingActive` condition.

use std::collections::BTreeMap;
use std::time::Duration;

use api::quantity::{Format, Quantity};
use jiff::Timestamp;
use k8s_openapi::api::autoscaling::v2::{
    ContainerResourceMetricStatus, HorizontalPodAutoscaler, HorizontalPodAutoscalerCondition,
    HorizontalPodAutoscalerSpec, HorizontalPodAutoscalerStatus, MetricSpec, MetricStatus, MetricTarget,
    MetricValueStatus, ResourceMetricStatus,
};
use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::apimachinery::pkg::api::resource::Quantity as Typed;
use serde_json::json;

use crate::plan::{AUTOSCALERS, Action, Plan, Resource, terminating};
use crate::pods;

mod behavior;
#[cfg(test)]
mod tests;
mod usage;

pub use behavior::History;
pub use usage::Usage;
use usage::{Answer, Goal, Question};

/// How often usage is looked at (the default of kube-controller-manager): no watch tells of usage.
const PERIOD: Duration = Duration::from_secs(15);
/// Changes below this share are not worth it, unless `behavior` says another.
const TOLERANCE: f64 = 0.1;

/// The target as its `scale` subresource tells of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Target {
    /// Its resource.
    pub resource: Resource,
    /// `spec.replicas`.
    pub wanted: i32,
    /// `status.replicas`.
    pub there: i32,
}

/// What a pass looks at.
pub struct View<'a> {
    /// The target, or why it cannot be read.
    pub target: Result<Target, String>,
    /// Its pods.
    pub pods: &'a [&'a Pod],
    /// What they used, by name, or why that is not known.
    pub usage: Result<BTreeMap<String, Usage>, String>,
    /// The time.
    pub now: Timestamp,
}

/// Decides for one autoscaler.
pub fn plan(hpa: &HorizontalPodAutoscaler, view: &View<'_>, history: &mut History) -> Plan {
    let mut plan = Plan::default();
    let spec = &hpa.spec;
    if terminating(&hpa.metadata) {
        return plan;
    }
    plan.requeue(PERIOD);
    let status = hpa.status.clone().unwrap_or_default();
    let mut pass = Pass { hpa, spec, view, status };
    pass.status.observed_generation = hpa.metadata.generation.or(pass.status.observed_generation);
    pass.run(history, &mut plan);
    plan.set_status(AUTOSCALERS, &hpa.metadata, hpa.status.as_ref(), &pass.status);
    plan
}

struct Pass<'a> {
    hpa: &'a HorizontalPodAutoscaler,
    spec: &'a HorizontalPodAutoscalerSpec,
    view: &'a View<'a>,
    status: HorizontalPodAutoscalerStatus,
}

/// Why the metrics say nothing.
struct NoAnswer {
    reason: &'static str,
    message: String,
    /// How many metrics say nothing, and how many there are.
    invalid: (usize, usize),
}

impl Pass<'_> {
    fn run(&mut self, history: &mut History, plan: &mut Plan) {
        let target = match &self.view.target {
            Ok(target) => target.clone(),
            Err(why) => {
                let message = format!("the HPA controller was unable to get the target's current scale: {why}");
                self.condition("AbleToScale", "False", "FailedGetScale", &message);
                return plan.event(AUTOSCALERS, &self.hpa.metadata, "Warning", "FailedGetScale", why.clone());
            }
        };
        let message = "the HPA controller was able to get the target's current scale";
        self.condition("AbleToScale", "True", "SucceededGetScale", message);
        self.status.current_replicas = Some(target.there);
        let (current, least, most) = (target.wanted, self.spec.min_replicas.unwrap_or(1), self.spec.max_replicas);
        let (desired, why) = if current == 0 && least != 0 {
            let message = "scaling is disabled since the replica count of the target is zero";
            self.condition("ScalingActive", "False", "ScalingDisabled", message);
            (0, String::new())
        } else if current > most {
            (most, "Current number of replicas above Spec.MaxReplicas".into())
        } else if current < least {
            (least, "Current number of replicas below Spec.MinReplicas".into())
        } else {
            match self.measure(current, plan) {
                Ok((wanted, why)) => {
                    let limited = behavior::limit(self.hpa, (current, wanted, least, most), history, self.view.now);
                    self.condition("AbleToScale", "True", limited.able.0, limited.able.1);
                    let within = ("DesiredWithinRange", "the desired count is within the acceptable range");
                    let (reason, message) = limited.limit.unwrap_or(within);
                    let limits = if limited.limit.is_some() { "True" } else { "False" };
                    self.condition("ScalingLimited", limits, reason, message);
                    let why = if wanted < current { "All metrics below target".into() } else { why };
                    (limited.replicas, why)
                }
                Err(none) => {
                    self.condition("ScalingActive", "False", none.reason, &none.message);
                    plan.event(AUTOSCALERS, &self.hpa.metadata, "Warning", none.reason, none.message.clone());
                    let message = format!(
                        "invalid metrics ({} invalid out of {}), first error is: {}",
                        none.invalid.0, none.invalid.1, none.message
                    );
                    let reason = "FailedComputeMetricsReplicas";
                    plan.event(AUTOSCALERS, &self.hpa.metadata, "Warning", reason, message);
                    (current, String::new())
                }
            }
        };
        self.status.desired_replicas = desired;
        if desired != current {
            self.resize(&target, desired, &why, plan);
            history.changed(self.view.now, desired - current);
        }
    }

    fn resize(&mut self, target: &Target, desired: i32, why: &str, plan: &mut Plan) {
        plan.actions.push(Action::Patch {
            resource: target.resource,
            namespace: self.hpa.metadata.namespace.clone(),
            name: self.spec.scale_target_ref.name.clone(),
            subresource: Some("scale"),
            patch: json!({"spec": {"replicas": desired}}),
        });
        let message = format!("New size: {desired}; reason: {why}");
        plan.event(AUTOSCALERS, &self.hpa.metadata, "Normal", "SuccessfulRescale", message);
        let message = format!("the HPA controller was able to update the target scale to {desired}");
        self.condition("AbleToScale", "True", "SucceededRescale", &message);
        self.status.last_scale_time = Some(pods::time(self.view.now));
    }

    /// The largest number that a metric asks for. A metric that cannot be read forbids shrinking, not growing.
    fn measure(&mut self, current: i32, plan: &mut Plan) -> Result<(i32, String), NoAnswer> {
        let default = [default_metric()];
        let metrics = self.spec.metrics.as_deref().filter(|m| !m.is_empty()).unwrap_or(&default);
        let (mut best, mut failed): (Option<(i32, String)>, Option<NoAnswer>) = (None, None);
        let (mut statuses, mut silent) = (Vec::new(), 0);
        for metric in metrics {
            match self.ask(metric, current) {
                Ok((name, answer)) => {
                    statuses.push(metric_status(metric, answer));
                    if best.as_ref().is_none_or(|(n, _)| answer.replicas > *n) {
                        best = Some((answer.replicas, format!("{name} above target")));
                    }
                }
                Err(none) => {
                    silent += 1;
                    failed = failed.or(Some(none));
                }
            }
        }
        let shrinks = best.as_ref().is_none_or(|(n, _)| *n < current);
        if let Some(none) = failed {
            if shrinks {
                return Err(NoAnswer { invalid: (silent, metrics.len()), ..none });
            }
            plan.event(AUTOSCALERS, &self.hpa.metadata, "Warning", none.reason, none.message);
        }
        let Some((replicas, why)) = best else {
            let message = "there is no metric".into();
            return Err(NoAnswer { reason: "InvalidMetricSourceType", message, invalid: (0, 0) });
        };
        self.status.current_metrics = Some(statuses);
        let message = format!(
            "the HPA was able to successfully calculate a replica count from {}",
            why.trim_end_matches(" above target")
        );
        self.condition("ScalingActive", "True", "ValidMetricFound", &message);
        Ok((replicas, why))
    }

    fn ask(&self, metric: &MetricSpec, current: i32) -> Result<(String, Answer), NoAnswer> {
        let (resource, container, target, reason) = match (&metric.resource, &metric.container_resource) {
            (Some(r), _) => (r.name.as_str(), None, &r.target, "FailedGetResourceMetric"),
            (_, Some(r)) => {
                (r.name.as_str(), Some(r.container.as_str()), &r.target, "FailedGetContainerResourceMetric")
            }
            _ => {
                let (reason, api) = match metric.type_.as_str() {
                    "Pods" => ("FailedGetPodsMetric", "custom.metrics.k8s.io"),
                    "Object" => ("FailedGetObjectMetric", "custom.metrics.k8s.io"),
                    "External" => ("FailedGetExternalMetric", "external.metrics.k8s.io"),
                    _ => ("InvalidMetricSourceType", "such metrics"),
                };
                let message =
                    format!("the HPA was unable to compute the replica count: no client for {api} is available");
                return Err(NoAnswer { reason, message, invalid: (1, 1) });
            }
        };
        let none = |why: &str| NoAnswer {
            reason,
            message: format!(
                "the HPA was unable to compute the replica count: failed to get {resource} utilization: {why}"
            ),
            invalid: (1, 1),
        };
        let usage = self.view.usage.as_ref().map_err(|why| {
            none(&format!("unable to get metrics for resource {resource}: unable to fetch metrics from resource metrics API: {why}"))
        })?;
        let goal = goal(target).ok_or_else(|| none("the target has neither averageUtilization nor averageValue"))?;
        let question = Question { resource, container, goal, tolerance: self.tolerance() };
        let answer =
            usage::replicas(&question, current, self.view.pods, usage, self.view.now).map_err(|why| none(&why))?;
        let what = match (container, goal) {
            (Some(c), Goal::Utilization(_)) => {
                format!("{resource} container resource utilization (percentage of request) of container {c}")
            }
            (Some(c), Goal::Average(_)) => format!("{resource} container resource of container {c}"),
            (None, Goal::Utilization(_)) => format!("{resource} resource utilization (percentage of request)"),
            (None, Goal::Average(_)) => format!("{resource} resource"),
        };
        Ok((what, answer))
    }

    fn tolerance(&self) -> (f64, f64) {
        let of = |q: Option<&Typed>| q.and_then(|q| Quantity::parse(&q.0).ok()).map_or(TOLERANCE, Quantity::as_f64);
        let behavior = self.spec.behavior.as_ref();
        let up = behavior.and_then(|b| b.scale_up.as_ref()).and_then(|r| r.tolerance.as_ref());
        let down = behavior.and_then(|b| b.scale_down.as_ref()).and_then(|r| r.tolerance.as_ref());
        (of(up), of(down))
    }

    /// Sets a condition; its time moves only with its status.
    fn condition(&mut self, type_: &str, status: &str, reason: &str, message: &str) {
        let conditions = self.status.conditions.get_or_insert_default();
        let before = conditions.iter().find(|c| c.type_ == type_ && c.status == status);
        let since = before.and_then(|c| c.last_transition_time.clone()).unwrap_or_else(|| pods::time(self.view.now));
        let condition = HorizontalPodAutoscalerCondition {
            type_: type_.into(),
            status: status.into(),
            reason: Some(reason.into()),
            message: Some(message.into()),
            last_transition_time: Some(since),
        };
        match conditions.iter_mut().find(|c| c.type_ == type_) {
            Some(old) => *old = condition,
            None => conditions.push(condition),
        }
    }
}

/// CPU at 80 percent of the requests, when no metric is named (autoscaling/v2).
fn default_metric() -> MetricSpec {
    let target = MetricTarget { type_: "Utilization".into(), average_utilization: Some(80), ..Default::default() };
    let source = k8s_openapi::api::autoscaling::v2::ResourceMetricSource { name: "cpu".into(), target };
    MetricSpec { type_: "Resource".into(), resource: Some(source), ..Default::default() }
}

fn goal(target: &MetricTarget) -> Option<Goal> {
    if let Some(percent) = target.average_utilization {
        return Some(Goal::Utilization(percent.into()));
    }
    let value = Quantity::parse(&target.average_value.as_ref()?.0).ok()?;
    Some(Goal::Average(value.milli_value()))
}

fn metric_status(metric: &MetricSpec, answer: Answer) -> MetricStatus {
    let value = |resource: &str| {
        let format = if resource == "cpu" { Format::DecimalSi } else { Format::BinarySi };
        let average = if resource == "cpu" {
            Quantity::from_milli(answer.average, format)
        } else {
            Quantity::from_value(answer.average / 1000, format)
        };
        MetricValueStatus {
            average_utilization: answer.utilization,
            average_value: Some(Typed(average.to_string())),
            value: None,
        }
    };
    MetricStatus {
        type_: metric.type_.clone(),
        resource: metric
            .resource
            .as_ref()
            .map(|r| ResourceMetricStatus { name: r.name.clone(), current: value(&r.name) }),
        container_resource: metric.container_resource.as_ref().map(|r| ContainerResourceMetricStatus {
            name: r.name.clone(),
            container: r.container.clone(),
            current: value(&r.name),
        }),
        ..Default::default()
    }
}
