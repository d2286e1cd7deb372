//! `/metrics`, `/metrics/resource` and `/metrics/cadvisor`, in Prometheus' text format 0.0.4.

use std::collections::BTreeMap;

use base::prometheus::Text;
use engine::runtime::ContainerState;

use super::{Look, PodUse, Running};
use crate::server::{NodeFacts, Shared};
use crate::spec::container::IMAGE_LABEL;
use crate::volumes::stats::{Fill, Seen};

fn seconds(ns: u64) -> f64 {
    ns as f64 / 1e9
}

/// One metric of all containers, or of all pods.
fn each(
    text: &mut Text,
    look: &Look,
    (name, kind, help): (&str, &str, &str),
    of_pods: bool,
    value: impl Fn(&Running) -> f64,
) {
    text.begin(name, kind, help);
    for PodUse { namespace, name: pod, containers, .. } in &look.pods {
        if of_pods {
            let sum: f64 = containers.iter().map(&value).sum();
            text.line(name, &[("namespace", namespace), ("pod", pod)], sum);
            continue;
        }
        for c in containers {
            let labels = [("container", c.status.spec.name.as_str()), ("namespace", namespace), ("pod", pod)];
            text.line(name, &labels, value(c));
        }
    }
}

/// `/metrics/resource`: what metrics-server reads (KEP-5074 names them stable).
pub(in crate::server) fn resource(look: &Look) -> String {
    let mut text = Text::new(Some(look.at.as_millisecond()));
    let cpu = "Cumulative cpu time consumed by the container in core-seconds";
    each(&mut text, look, ("container_cpu_usage_seconds_total", "counter", cpu), false, |c| seconds(c.usage.cpu_ns));
    let memory = "Current working set of the container in bytes";
    each(&mut text, look, ("container_memory_working_set_bytes", "gauge", memory), false, |c| {
        c.usage.working_set_bytes as f64
    });
    let start = "Start time of the container since unix epoch in seconds";
    each(&mut text, look, ("container_start_time_seconds", "gauge", start), false, |c| c.started_ms as f64 / 1e3);
    text.begin("node_cpu_usage_seconds_total", "counter", "Cumulative cpu time consumed by the node in core-seconds");
    text.line("node_cpu_usage_seconds_total", &[], seconds(look.host.cpu_ns));
    text.begin("node_memory_working_set_bytes", "gauge", "Current working set of the node in bytes");
    text.line("node_memory_working_set_bytes", &[], look.host.memory_bytes);
    let cpu = "Cumulative cpu time consumed by the pod in core-seconds";
    each(&mut text, look, ("pod_cpu_usage_seconds_total", "counter", cpu), true, |c| seconds(c.usage.cpu_ns));
    let memory = "Current working set of the pod in bytes";
    each(&mut text, look, ("pod_memory_working_set_bytes", "gauge", memory), true, |c| {
        c.usage.working_set_bytes as f64
    });
    text.unstamped();
    text.begin(
        "resource_scrape_error",
        "gauge",
        "1 if there was an error while getting container metrics, 0 otherwise",
    );
    text.line("resource_scrape_error", &[], 0);
    text.finish()
}

/// `/metrics/cadvisor`: the names that dashboards know.
pub(in crate::server) fn cadvisor(look: &Look, facts: Option<&NodeFacts>) -> String {
    type Reading = fn(&Running) -> f64;
    let metrics: [(&str, &str, &str, Reading); 5] = [
        ("container_cpu_usage_seconds_total", "counter", "Cumulative cpu time consumed in seconds.", |c| {
            seconds(c.usage.cpu_ns)
        }),
        ("container_memory_usage_bytes", "gauge", "Current memory usage in bytes.", |c| c.usage.memory_bytes as f64),
        ("container_memory_working_set_bytes", "gauge", "Current working set in bytes.", |c| {
            c.usage.working_set_bytes as f64
        }),
        ("container_start_time_seconds", "gauge", "Start time of the container since unix epoch in seconds.", |c| {
            c.started_ms as f64 / 1e3
        }),
        ("container_threads", "gauge", "Number of threads running inside the container.", |c| c.usage.pids as f64),
    ];
    let mut text = Text::new(Some(look.at.as_millisecond()));
    for (name, kind, help, value) in metrics {
        text.begin(name, kind, help);
        for p in &look.pods {
            for c in &p.containers {
                let spec = &c.status.spec;
                let image = spec.labels.iter().find(|(k, _)| k == IMAGE_LABEL).map_or("", |(_, v)| v.as_str());
                let id = format!("/pod{}/{}", p.uid, spec.id);
                let all = [
                    ("container", spec.name.as_str()),
                    ("cpu", "total"),
                    ("id", &id),
                    ("image", image),
                    ("name", &spec.id),
                    ("namespace", &p.namespace),
                    ("pod", &p.name),
                ];
                let of_cpu = name.starts_with("container_cpu");
                let labels: Vec<(&str, &str)> = all.into_iter().filter(|(k, _)| of_cpu || *k != "cpu").collect();
                text.line(name, &labels, value(c));
            }
        }
    }
    text.unstamped();
    if let Some(facts) = facts {
        text.begin("machine_cpu_cores", "gauge", "Number of logical CPU cores.");
        text.line("machine_cpu_cores", &[], facts.cpus);
        text.begin("machine_memory_bytes", "gauge", "Amount of memory installed on the machine.");
        text.line("machine_memory_bytes", &[], facts.memory_bytes);
    }
    text.finish()
}

/// How full volumes are. Of one that several pods have, one line.
fn volumes(text: &mut Text, look: &Look, seen: &BTreeMap<String, Vec<Seen>>) {
    type Reading = fn(&Fill) -> Option<u64>;
    let metrics: [(&str, &str, Reading); 6] = [
        ("kubelet_volume_stats_available_bytes", "Number of available bytes in the volume", |f| f.available_bytes),
        ("kubelet_volume_stats_capacity_bytes", "Capacity in bytes of the volume", |f| f.capacity_bytes),
        ("kubelet_volume_stats_inodes", "Maximum number of inodes in the volume", |f| f.inodes),
        ("kubelet_volume_stats_inodes_free", "Number of free inodes in the volume", |f| f.inodes_free),
        ("kubelet_volume_stats_inodes_used", "Number of used inodes in the volume", |f| f.inodes_used),
        ("kubelet_volume_stats_used_bytes", "Number of used bytes in the volume", |f| f.used_bytes),
    ];
    let mut claims: BTreeMap<(&str, &str), &Fill> = BTreeMap::new();
    for pod in &look.pods {
        for volume in seen.get(&pod.uid).into_iter().flatten() {
            claims.insert((&pod.namespace, &volume.claim), &volume.fill);
        }
    }
    for (name, help, value) in metrics {
        text.begin(name, "gauge", help);
        for ((namespace, claim), fill) in &claims {
            if let Some(value) = value(fill) {
                text.line(name, &[("namespace", namespace), ("persistentvolumeclaim", claim)], value);
            }
        }
    }
}

/// `/metrics`: the agent itself, and the volumes of its pods.
pub(in crate::server) async fn own(shared: &Shared) -> String {
    let facts = shared.node.as_ref();
    let look = super::look(shared, false).await;
    let seen = match facts {
        Some(facts) => facts.volumes.look().await,
        None => BTreeMap::new(),
    };
    let mut text = Text::default();
    text.begin("kubelet_node_name", "gauge", "The node's name. The count is always 1.");
    text.line("kubelet_node_name", &[("node", facts.map(|f| f.name.as_str()).unwrap_or_default())], 1);
    text.begin("kubelet_running_pods", "gauge", "Number of pods that have a running pod sandbox");
    text.line("kubelet_running_pods", &[], look.pods.len());
    text.begin("kubelet_running_containers", "gauge", "Number of containers currently running");
    for (name, is) in [
        ("created", (|s| matches!(s, ContainerState::Created)) as fn(&ContainerState) -> bool),
        ("exited", |s| matches!(s, ContainerState::Exited(_))),
        ("running", |s| matches!(s, ContainerState::Running { .. })),
    ] {
        let count = look.all.iter().filter(|c| is(&c.state)).count();
        text.line("kubelet_running_containers", &[("container_state", name)], count);
    }
    volumes(&mut text, &look, &seen);
    text.process();
    text.finish()
}
