//! What a node does when it runs out of something.

use reconcile::eviction::{Pairs, below, thresholds};
use serde_json::json;

use super::*;

#[tokio::test]
async fn a_node_under_pressure_says_so_and_takes_no_pod_that_adds_to_it() {
    let none = Pairs::new();
    // More than any machine has.
    let hard = below("memory.available<1Pi").expect("a threshold");
    let met = thresholds(&hard, &none, &none, &none).expect("a threshold");
    let world = World::start_with(|config| config.eviction.thresholds = met);
    let pressed = |node: Option<&Value>| node.is_some_and(|n| condition(n, "MemoryPressure") == Some("True"));
    let node = world.until("/api/v1/nodes/n", "under pressure", pressed).await.expect("a node");
    assert_eq!((condition(&node, "DiskPressure"), condition(&node, "Ready")), (Some("False"), Some("True")));
    assert_eq!(node["status"]["allocatable"]["memory"], "0Ki", "what keeps it from pressure is not for pods");
    world.pod("best-effort", json!({}));
    let pod = world.until_pod("best-effort", "refused", |p| p["status"]["phase"] == "Failed").await;
    assert_eq!(pod["status"]["reason"], "Evicted");
    let message = "Pod was rejected: The node had condition: [MemoryPressure]. ";
    assert_eq!(pod["status"]["message"], message);
    world.pod("critical", json!({"priority": 2_000_000_000}));
    world.until_ready("critical").await;
    world.until_event("NodeHasInsufficientMemory").await;
}
