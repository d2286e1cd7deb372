//! Whether a node takes a pod that was bound to it. The scheduler asked all this already; a pod that names its node itself
//! was asked by nobody, and a node must not give what it does not have. The rules, reasons and words are the kubelet's
//! (pkg/kubelet/lifecycle), of several failures the first.

use k8s_openapi::api::core::v1::{Node, Pod};

use super::Failure;
use super::critical::is_critical;
use crate::node_lifecycle::tolerates;
use crate::scheduler::{Amounts, is_extended, node_fits, ports_collide};

/// Amounts that are counted, in the order in which they are looked at.
const COUNTED: [&str; 4] = ["pods", "cpu", "memory", "ephemeral-storage"];

fn predicate(name: &str, why: &str) -> Failure {
    Failure::new(name, format!("Predicate {name} failed: {why}"))
}

/// Why the node does not take the pod beside the others that it runs, if it does not. Labels and taints of `node` change
/// while it runs: who asks with an old copy may ask again with a new one when [`is_placement`] says so.
pub fn admission_refusal<'a>(
    pod: &Pod,
    node: &Node,
    allocatable: &Amounts,
    others: impl Iterator<Item = &'a Pod> + Clone,
) -> Option<Failure> {
    let affinity = || {
        let why = "node(s) didn't match Pod's node affinity/selector";
        (!node_fits(pod, node)).then(|| predicate("NodeAffinity", why))
    };
    let ports = || {
        let taken = others.clone().any(|p| ports_collide(p, pod));
        taken.then(|| predicate("NodePorts", "node(s) didn't have free ports for the requested pod ports"))
    };
    let taints = || {
        let why = "node(s) had taints that the pod didn't tolerate";
        (!tolerates_all(pod, node)).then(|| predicate("TaintToleration", why))
    };
    let first = |list: Vec<Shortage>| list.into_iter().next().map(|s| s.refusal());
    let short = || first(shortages(pod, allocatable, others.clone()));
    // A node makes room for a critical pod, so that a lack of it is the least of the reasons.
    let early = || if is_critical(pod) { None } else { short() };
    wrong_system(pod).or_else(early).or_else(affinity).or_else(ports).or_else(taints).or_else(short)
}

/// A resource of which the node does not have enough for a pod.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Shortage {
    /// Its name.
    pub resource: String,
    asked: i64,
    held: i64,
    all: i64,
}

impl Shortage {
    /// How much more there would have to be; CPU in thousandths.
    pub fn missing(&self) -> i64 {
        self.asked.saturating_sub(self.all.saturating_sub(self.held))
    }

    fn refusal(&self) -> Failure {
        let Shortage { resource, asked, held, all } = self;
        let message =
            format!("Node didn't have enough resource: {resource}, requested: {asked}, used: {held}, capacity: {all}");
        Failure::new(format!("OutOf{resource}"), message)
    }
}

/// Whether a refusal is about what the node has, and nothing else.
pub fn is_shortage(refusal: &Failure) -> bool {
    refusal.reason.starts_with("OutOf")
}

/// Whether a refusal is about the node's labels or taints.
pub fn is_placement(refusal: &Failure) -> bool {
    matches!(refusal.reason.as_str(), "NodeAffinity" | "TaintToleration")
}

fn wrong_system(pod: &Pod) -> Option<Failure> {
    let named = pod.metadata.labels.as_ref()?.get("kubernetes.io/os")?;
    let message = "Failed to admit pod as the `kubernetes.io/os` label doesn't match node label";
    (named != "linux").then(|| Failure::new("PodOSSelectorNodeLabelDoesNotMatch", message))
}

/// What the node does not have enough of for the pod beside the others.
pub fn shortages<'a>(pod: &Pod, allocatable: &Amounts, others: impl Iterator<Item = &'a Pod>) -> Vec<Shortage> {
    let wanted = Amounts::asked_by(pod);
    let mut used = Amounts::default();
    others.for_each(|p| used.add(&Amounts::of_pod(p)));
    let short = |resource: &str| {
        let (asked, held, all) = (wanted.get(resource), used.get(resource), allocatable.get(resource));
        let short = asked > 0 && asked > all.saturating_sub(held);
        short.then(|| Shortage { resource: resource.to_owned(), asked, held, all })
    };
    // An extended resource that the node does not have is somebody else's to count: a scheduler extender's.
    let counted = |name: &str| allocatable.names().any(|known| known == name);
    let other = wanted.names().filter(|name| name.starts_with("hugepages-") || is_extended(name) && counted(name));
    COUNTED.into_iter().chain(other).filter_map(short).collect()
}

/// A pod that runs is only kept from nodes with a `NoExecute` taint; the others are the scheduler's.
fn tolerates_all(pod: &Pod, node: &Node) -> bool {
    let tolerations = pod.spec.as_ref().and_then(|s| s.tolerations.as_deref()).unwrap_or_default();
    let mut taints = node.spec.iter().flat_map(|s| s.taints.iter().flatten()).filter(|t| t.effect == "NoExecute");
    taints.all(|taint| tolerations.iter().any(|t| tolerates(t, taint)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
    use serde_json::{Value, json};

    fn pod(name: &str, spec: Value) -> Pod {
        let mut all = json!({"containers": [{"name": "c"}]});
        all.as_object_mut().expect("object").extend(spec.as_object().expect("object").clone());
        serde_json::from_value(json!({"metadata": {"name": name, "uid": name}, "spec": all})).expect("a pod")
    }

    fn asks(name: &str, resources: Value) -> Pod {
        pod(name, json!({"containers": [{"name": "c", "resources": {"requests": resources}}]}))
    }

    fn room(pod: &Pod, others: &[Pod]) -> (String, String) {
        let node: Node = serde_json::from_value(json!({"metadata": {"name": "n"}, "status": {"allocatable": {
            "cpu": "2", "memory": "1Gi", "ephemeral-storage": "1Gi", "pods": "3", "example.com/dongle": "3"}}}))
        .expect("a node");
        let failure = admission_refusal(pod, &node, &Amounts::allocatable(&node), others.iter());
        failure.map(|f| (f.reason, f.message)).unwrap_or_default()
    }

    #[test]
    fn a_pod_that_fits_is_taken() {
        assert_eq!(room(&asks("p", json!({"cpu": "2", "memory": "1Gi"})), &[]).0, "");
        assert_eq!(room(&pod("p", json!({})), &[asks("a", json!({"cpu": "2"}))]).0, "");
    }

    #[test]
    fn what_is_missing_is_the_reason() {
        let other = [asks("a", json!({"cpu": "1500m", "memory": "768Mi"}))];
        for (pod, reason, message) in [
            (asks("p", json!({"cpu": "600m"})), "OutOfcpu", "cpu, requested: 600, used: 1500, capacity: 2000"),
            (
                asks("p", json!({"memory": "512Mi"})),
                "OutOfmemory",
                "memory, requested: 536870912, used: 805306368, capacity: 1073741824",
            ),
            (
                asks("p", json!({"ephemeral-storage": "2Gi"})),
                "OutOfephemeral-storage",
                "ephemeral-storage, requested: 2147483648, used: 0, capacity: 1073741824",
            ),
        ] {
            let told = room(&pod, &other);
            assert_eq!(told, (reason.to_owned(), format!("Node didn't have enough resource: {message}")));
        }
        // Extended resources as far as the node has them.
        let other = [asks("a", json!({"example.com/dongle": "2"}))];
        let told = room(&asks("p", json!({"example.com/dongle": "2"})), &other);
        assert_eq!(told.0, "OutOfexample.com/dongle");
        assert!(told.1.ends_with("example.com/dongle, requested: 2, used: 2, capacity: 3"), "{}", told.1);
        assert_eq!(room(&asks("p", json!({"example.com/dongle": "1", "example.com/other": "9"})), &other).0, "");
        let full: Vec<Pod> = ["a", "b", "c"].into_iter().map(|n| pod(n, json!({}))).collect();
        let told = room(&pod("p", json!({})), &full);
        assert_eq!(told.0, "OutOfpods");
        assert!(told.1.ends_with("pods, requested: 1, used: 3, capacity: 3"), "{}", told.1);
    }

    #[test]
    fn a_host_port_is_given_once() {
        let with = |name: &str, port: Value| pod(name, json!({"containers": [{"name": "c", "ports": [port]}]}));
        let other = [with("a", json!({"containerPort": 1, "hostPort": 8080, "hostIP": "127.0.0.1"}))];
        for (port, refused) in [
            (json!({"containerPort": 2, "hostPort": 8080}), true),
            (json!({"containerPort": 2, "hostPort": 8080, "hostIP": "127.0.0.1"}), true),
            (json!({"containerPort": 2, "hostPort": 8080, "hostIP": "127.0.0.2"}), false),
            (json!({"containerPort": 2, "hostPort": 8080, "protocol": "UDP"}), false),
            (json!({"containerPort": 1}), false),
        ] {
            let told = room(&with("p", port.clone()), &other);
            assert_eq!(told.0 == "NodePorts", refused, "{port}: {told:?}");
        }
        let told = room(&with("p", json!({"containerPort": 2, "hostPort": 8080})), &other).1;
        assert_eq!(told, "Predicate NodePorts failed: node(s) didn't have free ports for the requested pod ports");
    }

    #[test]
    fn labels_and_taints_keep_a_pod_away() {
        let node = |spec: Value| -> Node {
            serde_json::from_value(json!({"metadata": {"name": "n", "labels": {"disk": "ssd"}}, "spec": spec}))
                .expect("a node")
        };
        let plenty: Amounts = Amounts::of_list(&[("pods".to_owned(), Quantity("9".to_owned()))].into());
        let reason = |pod: &Pod, node: &Node| {
            let refusal = admission_refusal(pod, node, &plenty, std::iter::empty());
            assert!(refusal.as_ref().is_none_or(is_placement));
            refusal.map(|f| f.reason).unwrap_or_default()
        };
        assert_eq!(reason(&pod("p", json!({"nodeSelector": {"disk": "ssd"}})), &node(json!({}))), "");
        assert_eq!(reason(&pod("p", json!({"nodeSelector": {"disk": "tape"}})), &node(json!({}))), "NodeAffinity");
        let tainted = node(json!({"taints": [{"key": "k", "effect": "NoExecute"}]}));
        assert_eq!(reason(&pod("p", json!({})), &tainted), "TaintToleration");
        let tolerant = pod("p", json!({"tolerations": [{"key": "k", "operator": "Exists"}]}));
        assert_eq!(reason(&tolerant, &tainted), "");
        let scheduling = node(json!({"taints": [{"key": "k", "effect": "NoSchedule"}]}));
        assert_eq!(reason(&pod("p", json!({})), &scheduling), "", "only who places pods looks at NoSchedule");
    }

    #[test]
    fn a_pod_for_another_system_is_refused() {
        let mut p = pod("p", json!({}));
        assert_eq!(wrong_system(&p), None);
        p.metadata.labels = Some([("kubernetes.io/os".to_owned(), "windows".to_owned())].into());
        assert_eq!(wrong_system(&p).map(|f| f.reason).as_deref(), Some("PodOSSelectorNodeLabelDoesNotMatch"));
    }
}
