//! Volumes of CSI drivers: how many a node can have (KEP-554), and where there is room for one that is made for its first pod
//! (KEP-1472).

use std::collections::{BTreeMap, BTreeSet};

use k8s_openapi::api::core::v1::{Node, PersistentVolumeClaim};
use k8s_openapi::api::storage::v1::{CSIStorageCapacity, StorageClass};

use super::Storage;
use super::placed::{Placed, Subject};
use crate::labels;
use crate::plan::name;
use crate::volume::selected_node;

/// A volume as limits count it: its driver, and what tells it from the others of that driver.
pub type Counted = (String, String);

/// What limits the volumes of nodes.
#[derive(Debug, Default)]
pub struct Limits<'a> {
    /// How many volumes of a driver a node can have, by node and driver.
    pub most: BTreeMap<&'a str, BTreeMap<&'a str, i32>>,
    /// Volumes that are attached to a node, by node.
    pub attached: BTreeMap<&'a str, BTreeSet<Counted>>,
    /// Volumes of claims, by namespace and name; of claims that are not here, nothing is counted.
    pub of_claims: BTreeMap<&'a str, BTreeMap<&'a str, Counted>>,
}

impl Limits<'_> {
    fn of_claim(&self, namespace: &str, claim: &str) -> Option<&Counted> {
        self.of_claims.get(namespace)?.get(claim)
    }
}

/// What CSI drivers say of the room they have.
#[derive(Debug, Default)]
pub struct Room<'a> {
    /// The drivers that say it.
    pub drivers: BTreeSet<&'a str>,
    /// What they say.
    pub capacities: Vec<&'a CSIStorageCapacity>,
}

impl Storage<'_> {
    /// Why a node with these pods cannot have the volumes of the pod that is placed.
    pub(super) fn refusal<'p>(
        &self,
        namespace: &str,
        node: &Node,
        pods: impl Iterator<Item = &'p Placed>,
    ) -> Option<&'static str> {
        if self.exceeds(namespace, name(&node.metadata), pods) {
            return Some("node(s) exceed max volume count");
        }
        let lacks = self.claims.iter().any(|(claim, class, volume)| {
            volume.is_none() && class.is_some_and(|class| !self.has_room(claim, class, node))
        });
        lacks.then_some("node(s) did not have enough free storage")
    }

    fn exceeds<'p>(&self, namespace: &str, node: &str, pods: impl Iterator<Item = &'p Placed>) -> bool {
        let Some(most) = self.limits.most.get(node).filter(|m| !m.is_empty()) else { return false };
        let wanted: BTreeSet<&Counted> =
            self.claims.iter().filter_map(|(c, ..)| self.limits.of_claim(namespace, name(&c.metadata))).collect();
        if !wanted.iter().any(|(driver, _)| most.contains_key(driver.as_str())) {
            return false;
        }
        let mut used: BTreeSet<&Counted> = self.limits.attached.get(node).into_iter().flatten().collect();
        for pod in pods {
            used.extend(pod.claims().filter_map(|claim| self.limits.of_claim(pod.namespace(), claim)));
        }
        most.iter().any(|(driver, most)| {
            let of_driver = |set: &BTreeSet<&Counted>| set.iter().filter(|(d, _)| d == driver).count();
            // What is there already costs nothing, and a node that has too many takes nothing more.
            let new = wanted.difference(&used).filter(|(d, _)| d == driver).count();
            new > 0 && of_driver(&used) + new > usize::try_from(*most).unwrap_or(0)
        })
    }

    /// Whether a driver that says where it has room has enough of it for the node.
    fn has_room(&self, claim: &PersistentVolumeClaim, class: &StorageClass, node: &Node) -> bool {
        if !self.room.drivers.contains(class.provisioner.as_str()) || selected_node(claim).is_some() {
            return true;
        }
        let requests = claim.spec.as_ref().and_then(|s| s.resources.as_ref()?.requests.as_ref());
        let bytes = |q: &k8s_openapi::apimachinery::pkg::api::resource::Quantity| {
            api::quantity::Quantity::parse(&q.0).map_or(0, api::quantity::Quantity::value)
        };
        let wanted = requests.and_then(|r| r.get("storage")).map_or(0, bytes);
        self.room.capacities.iter().any(|c| {
            let largest = c.maximum_volume_size.as_ref().or(c.capacity.as_ref()).map(bytes);
            let near = c.node_topology.as_ref().map(labels::selector);
            c.storage_class_name == name(&class.metadata)
                && largest.is_some_and(|most| most >= wanted)
                && near.is_some_and(|selector| labels::matches(&selector, &node.metadata))
        })
    }
}

#[cfg(test)]
mod tests {
    use k8s_openapi::api::core::v1::Pod;
    use serde::de::DeserializeOwned;
    use serde_json::{Value, json};

    use super::*;
    use crate::scheduler::{Cluster, Decision};

    fn typed<T: DeserializeOwned>(value: Value) -> T {
        serde_json::from_value(value).unwrap()
    }

    fn pod(name: &str, claim: &str) -> Pod {
        typed(json!({"metadata": {"name": name, "namespace": "d", "uid": name}, "spec": {"containers": [{"name": "c"}],
            "volumes": [{"name": "v", "persistentVolumeClaim": {"claimName": claim}}]}}))
    }

    fn cluster() -> Cluster {
        let mut cluster = Cluster::default();
        for (name, zone) in [("a", "x"), ("b", "y")] {
            cluster.set_node(&typed(json!({"metadata": {"name": name, "labels": {"zone": zone}},
                "status": {"allocatable": {"cpu": "9", "memory": "9Gi", "pods": "9"}}})));
        }
        cluster
    }

    fn claim(name: &str) -> PersistentVolumeClaim {
        typed(json!({"metadata": {"name": name, "namespace": "d"}, "spec": {"storageClassName": "fast",
            "resources": {"requests": {"storage": "2Gi"}}}}))
    }

    #[test]
    fn a_node_takes_no_more_volumes_than_its_driver_can_attach() {
        let mut cluster = cluster();
        let volume: k8s_openapi::api::core::v1::PersistentVolume = typed(json!({"metadata": {"name": "pv"}}));
        let counted = |handle: &str| ("d".to_owned(), handle.to_owned());
        let decide = |cluster: &Cluster, name: &str, attached: &[(&'static str, &str)]| {
            let claim = claim(name);
            let mut limits = Limits {
                most: [("a", [("d", 1)].into()), ("b", [("d", 0)].into())].into(),
                of_claims: [("d", [("one", counted("h1")), ("two", counted("h2"))].into())].into(),
                ..Limits::default()
            };
            for (node, handle) in attached {
                limits.attached.entry(node).or_default().insert(counted(handle));
            }
            let storage = Storage { claims: vec![(&claim, None, Some(&volume))], limits, ..Storage::default() };
            cluster.decide(&pod("new", name), &storage)
        };
        let full = Decision::Unschedulable("0/2 nodes are available: 2 node(s) exceed max volume count.".into());
        assert_eq!(decide(&cluster, "one", &[]), Decision::Bind("a".into()));
        cluster.assume(&pod("p", "one"), "a");
        assert_eq!(decide(&cluster, "two", &[]), full);
        assert_eq!(decide(&cluster, "one", &[]), Decision::Bind("a".into()), "the same volume once more");
        cluster.remove_pod("p");
        assert_eq!(decide(&cluster, "two", &[]), Decision::Bind("a".into()));
        assert_eq!(decide(&cluster, "two", &[("a", "h1")]), full, "it is not detached yet");
    }

    #[test]
    fn a_volume_is_made_where_its_driver_has_room() {
        let class: StorageClass = typed(json!({"metadata": {"name": "fast"}, "provisioner": "d",
            "volumeBindingMode": "WaitForFirstConsumer"}));
        let capacity = |zone: &str, more: Value| -> CSIStorageCapacity {
            let mut c = json!({"metadata": {"name": zone}, "storageClassName": "fast",
                "nodeTopology": {"matchLabels": {"zone": zone}}});
            for (k, v) in more.as_object().unwrap() {
                c[k] = v.clone();
            }
            typed(c)
        };
        let claim = claim("new");
        let decide = |capacities: &[CSIStorageCapacity], drivers: &[&'static str]| {
            let room = Room { drivers: drivers.iter().copied().collect(), capacities: capacities.iter().collect() };
            let storage = Storage { claims: vec![(&claim, Some(&class), None)], room, ..Storage::default() };
            cluster().decide(&pod("p", "new"), &storage)
        };
        let on = |node: &str| Decision::SelectNodeForClaims { node: node.into(), claims: vec!["new".into()] };
        let none =
            Decision::Unschedulable("0/2 nodes are available: 2 node(s) did not have enough free storage.".into());
        let (small, large) = (json!({"capacity": "1Gi"}), json!({"capacity": "2Gi"}));
        assert_eq!(decide(&[capacity("y", large.clone()), capacity("x", small.clone())], &["d"]), on("b"));
        assert_eq!(decide(&[capacity("x", small.clone())], &["d"]), none);
        assert_eq!(decide(&[], &["d"]), none, "nothing is known yet");
        assert_eq!(decide(&[], &[]), on("a"), "a driver that says nothing of room");
        let limited = json!({"capacity": "9Gi", "maximumVolumeSize": "1Gi"});
        assert_eq!(decide(&[capacity("x", limited)], &["d"]), none);
        let other = json!({"capacity": "9Gi", "storageClassName": "slow"});
        assert_eq!(decide(&[capacity("x", other), capacity("y", large)], &["d"]), on("b"));
    }
}
