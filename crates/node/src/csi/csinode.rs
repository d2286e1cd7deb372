//! What the cluster knows of this node's drivers: the CSINode object, and labels of the Node that say where it is.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::Node;
use k8s_openapi::api::storage::v1::{CSINode, CSINodeDriver, CSINodeSpec, VolumeNodeResources};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, OwnerReference};
use kube::api::{Api, Patch, PatchParams, PostParams};
use serde_json::json;

/// Under which older attachers look for the drivers' ids of a node.
const NODE_IDS: &str = "csi.volume.kubernetes.io/nodeid";
/// A write that meets another's is made anew this often.
const ATTEMPTS: u32 = 5;

/// A driver as the object lists it. `max_volumes` 0 is no limit.
pub(super) fn entry(driver: &str, node_id: &str, max_volumes: i64, topology_keys: Vec<String>) -> CSINodeDriver {
    let count = i32::try_from(max_volumes).ok().filter(|count| *count > 0);
    CSINodeDriver {
        name: driver.to_owned(),
        node_id: node_id.to_owned(),
        topology_keys: Some(topology_keys),
        allocatable: count.map(|count| VolumeNodeResources { count: Some(count) }),
    }
}

fn object(node: &str, uid: &str, drivers: &[CSINodeDriver]) -> CSINode {
    let owner = OwnerReference {
        api_version: "v1".to_owned(),
        kind: "Node".to_owned(),
        name: node.to_owned(),
        uid: uid.to_owned(),
        ..OwnerReference::default()
    };
    CSINode {
        metadata: ObjectMeta {
            name: Some(node.to_owned()),
            owner_references: Some(vec![owner]),
            ..ObjectMeta::default()
        },
        spec: CSINodeSpec { drivers: drivers.to_vec() },
    }
}

fn conflict(error: &kube::Error) -> bool {
    matches!(error, kube::Error::Api(status) if status.code == 409)
}

/// Writes the drivers of the node, which this agent alone does.
pub(super) async fn write(
    client: &kube::Client,
    node: &str,
    uid: &str,
    drivers: &[CSINodeDriver],
) -> Result<(), kube::Error> {
    let api: Api<CSINode> = Api::all(client.clone());
    let mut attempt = 1;
    loop {
        let result = match api.get_opt(node).await? {
            None => api.create(&PostParams::default(), &object(node, uid, drivers)).await,
            Some(found) if found.spec.drivers == drivers => return Ok(()),
            Some(mut found) => {
                let same = |d: &&CSINodeDriver| drivers.contains(d);
                // What is said of a driver does not change: one that says something else goes first, and comes anew.
                let kept: Vec<CSINodeDriver> = found.spec.drivers.iter().filter(same).cloned().collect();
                if kept.len() < found.spec.drivers.len() {
                    found.spec.drivers = kept;
                    found = match api.replace(node, &PostParams::default(), &found).await {
                        Err(error) if conflict(&error) && attempt < ATTEMPTS => {
                            attempt += 1;
                            continue;
                        }
                        other => other?,
                    };
                }
                found.spec.drivers = drivers.to_vec();
                api.replace(node, &PostParams::default(), &found).await
            }
        };
        match result {
            Err(error) if conflict(&error) && attempt < ATTEMPTS => attempt += 1,
            other => return other.map(drop),
        }
    }
}

/// Why labels cannot be those the driver asks for: another driver has said something else of this node.
fn collision(node: &Node, segments: &BTreeMap<String, String>) -> Option<String> {
    let labels = node.metadata.labels.as_ref()?;
    segments.iter().find_map(|(key, value)| {
        let old = labels.get(key).filter(|old| *old != value)?;
        Some(format!(
            "detected topology value collision: driver reported {key:?}:{value:?} but existing label is {key:?}:{old:?}"
        ))
    })
}

/// Labels the Node with where the driver says it is, and notes the driver's id of it.
pub(super) async fn label(
    client: &kube::Client,
    node: &str,
    driver: &str,
    node_id: &str,
    segments: &BTreeMap<String, String>,
) -> Result<(), String> {
    let api: Api<Node> = Api::all(client.clone());
    let found = api.get(node).await.map_err(|e| format!("get node {node}: {e}"))?;
    if let Some(collision) = collision(&found, segments) {
        return Err(collision);
    }
    let ids = found.metadata.annotations.as_ref().and_then(|a| a.get(NODE_IDS));
    let mut ids: BTreeMap<String, String> = ids.and_then(|text| serde_json::from_str(text).ok()).unwrap_or_default();
    ids.insert(driver.to_owned(), node_id.to_owned());
    let ids = serde_json::to_string(&ids).map_err(super::text)?;
    let patch = json!({"metadata": {"labels": segments, "annotations": {NODE_IDS: ids}}});
    let patched = api.patch(node, &PatchParams::default(), &Patch::Merge(patch)).await;
    patched.map(drop).map_err(|e| format!("label node {node}: {e}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_place_is_not_said_in_two_ways() {
        let node: Node = serde_json::from_value(json!({"metadata": {"labels": {"d/zone": "a"}}})).expect("a node");
        let segments = |value: &str| BTreeMap::from([("d/zone".to_owned(), value.to_owned())]);
        assert_eq!(collision(&node, &segments("a")), None);
        assert!(collision(&node, &segments("b")).expect("refused").contains("\"d/zone\":\"a\""));
        assert_eq!(collision(&Node::default(), &segments("b")), None);
    }

    #[test]
    fn no_limit_is_no_allocatable() {
        assert_eq!(entry("d", "n", 0, Vec::new()).allocatable, None);
        let limited = entry("d", "n", 7, vec!["d/zone".into()]);
        assert_eq!(limited.allocatable.and_then(|a| a.count), Some(7));
    }
}
