use super::*;
use serde_json::Value;

const DRIVER: &str = "d.example.com";

fn typed<T: serde::de::DeserializeOwned>(value: Value) -> T {
    serde_json::from_value(value).unwrap()
}

fn at(seconds: i64) -> Timestamp {
    Timestamp::from_second(seconds).unwrap()
}

/// A cluster of the size that a decision sees.
struct World {
    node: Option<Node>,
    pods: Vec<Pod>,
    attachments: Vec<VolumeAttachment>,
    volume: PersistentVolume,
    attaches: bool,
    users: Vec<(String, String)>,
}

fn node(ready: &str, in_use: bool, attached: bool) -> Node {
    let unique = unique_name(DRIVER, "h");
    let in_use: Vec<&str> = in_use.then_some(unique.as_str()).into_iter().collect();
    let attached: Vec<Value> = attached.then(|| json!({"name": unique, "devicePath": ""})).into_iter().collect();
    typed(json!({
        "metadata": {"name": "n1", "uid": "n", "resourceVersion": "7", "annotations": {MANAGED: "true"}},
        "status": {"conditions": [{"type": "Ready", "status": ready}], "volumesInUse": in_use,
            "volumesAttached": attached},
    }))
}

fn pod(name: &str, phase: &str) -> Pod {
    typed(json!({
        "metadata": {"name": name, "namespace": "ns", "uid": name},
        "spec": {"nodeName": "n1", "containers": [{"name": "c"}],
            "volumes": [{"name": "v", "persistentVolumeClaim": {"claimName": "data"}}]},
        "status": {"phase": phase},
    }))
}

fn attachment(node: &str, status: Value) -> VolumeAttachment {
    let id = attachment_name(DRIVER, "h", node);
    typed(json!({
        "metadata": {"name": id, "uid": id, "creationTimestamp": "1970-01-01T00:00:00Z"},
        "spec": {"attacher": DRIVER, "nodeName": node, "source": {"persistentVolumeName": "pv"}},
        "status": status,
    }))
}

impl World {
    fn new() -> Self {
        World {
            node: Some(node("True", false, false)),
            pods: vec![pod("p", "Pending")],
            attachments: Vec::new(),
            volume: typed(json!({"metadata": {"name": "pv"}, "spec": {"accessModes": ["ReadWriteOnce"],
                "csi": {"driver": DRIVER, "volumeHandle": "h"}}})),
            attaches: true,
            users: Vec::new(),
        }
    }

    fn plan(&self, memory: &mut Memory, now: i64) -> Plan {
        let volume = Arc::new(self.volume.clone());
        let pods: Vec<&Pod> = self.pods.iter().collect();
        let attachments: Vec<&VolumeAttachment> = self.attachments.iter().collect();
        let view = View {
            node_name: "n1",
            node: self.node.as_ref(),
            pods: &pods,
            attachments: &attachments,
            volume_of: &|ns, claim| (ns == "ns" && claim == "data").then(|| volume.clone()),
            attaches: &|_| self.attaches,
            users: &|_, _| self.users.clone(),
        };
        plan(&view, memory, at(now))
    }

    /// What is done, in short.
    fn done(&self, memory: &mut Memory, now: i64) -> Vec<String> {
        let word = |a: &Action| match a {
            Action::Create { body, .. } => format!("create on {}", body["spec"]["nodeName"].as_str().unwrap()),
            Action::Delete { .. } => "delete".to_owned(),
            Action::Patch { patch, .. } => {
                format!("report {}", patch["status"]["volumesAttached"].as_array().map_or(0, Vec::len))
            }
            Action::Event { reason, message, .. } => format!("{reason}: {message}"),
            other => format!("{other:?}"),
        };
        self.plan(memory, now).actions.iter().map(word).collect()
    }
}

#[test]
fn names_are_those_of_kubernetes() {
    assert_eq!(unique_name("d", "h"), "kubernetes.io/csi/d^h");
    let id = attachment_name("d", "h", "n1");
    // `printf hdn1 | sha256sum`
    assert_eq!(id, "csi-8e3bb36fda804646cae96ea9b03b4b77d9b692e45ea0ddda23cccc30a6b1c3fe");
    assert_eq!(attachment_of("kubernetes.io/csi/d^h", "n1"), Some(id));
    assert_eq!(attachment_of("kubernetes.io/other/d", "n1"), None);
}

#[test]
fn the_volume_of_a_pod_is_attached_and_then_reported() {
    let mut world = World::new();
    let mut memory = Memory::default();
    assert_eq!(world.done(&mut memory, 0), ["create on n1"]);
    world.attachments = vec![attachment("n1", json!({"attached": false}))];
    assert_eq!(world.done(&mut memory, 0), [""; 0], "it is the attacher's turn");
    world.attachments = vec![attachment("n1", json!({"attached": true}))];
    let event = "SuccessfulAttachVolume: AttachVolume.Attach succeeded for volume \"pv\" ";
    assert_eq!(world.done(&mut memory, 1), ["report 1", event]);
    world.node = Some(node("True", true, true));
    assert_eq!(world.done(&mut memory, 1), [""; 0]);
    assert!(memory.is_empty());
}

#[test]
fn what_need_not_be_attached_is_not() {
    let mut world = World::new();
    world.attaches = false;
    assert_eq!(world.done(&mut Memory::default(), 0), [""; 0]);
    let mut world = World::new();
    world.pods[0].spec.as_mut().unwrap().volumes = typed(json!([{"name": "v", "csi": {"driver": DRIVER}}]));
    assert_eq!(world.done(&mut Memory::default(), 0), [""; 0], "a volume that the pod describes itself");
    let mut world = World::new();
    world.node.as_mut().unwrap().metadata.annotations = None;
    assert_eq!(world.done(&mut Memory::default(), 0), [""; 0], "a node that attaches for itself");
    let mut world = World::new();
    world.pods = vec![pod("p", "Succeeded")];
    assert_eq!(world.done(&mut Memory::default(), 0), [""; 0], "a pod that has ended");
}

#[test]
fn an_ephemeral_claim_is_named_by_its_pod() {
    let mut world = World::new();
    world.pods[0].metadata.name = Some("da".into());
    world.pods[0].spec.as_mut().unwrap().volumes = typed(json!([{"name": "ta", "ephemeral": {}}]));
    assert_eq!(claim_names(&world.pods[0]).collect::<Vec<_>>(), ["da-ta"]);
}

#[test]
fn it_is_detached_once_the_node_has_unmounted_it() {
    let mut world = World::new();
    let mut memory = Memory::default();
    world.attachments = vec![attachment("n1", json!({"attached": true}))];
    world.pods = Vec::new();
    world.node = Some(node("True", true, true));
    assert_eq!(world.done(&mut memory, 0), [""; 0]);
    assert_eq!(world.done(&mut memory, 10_000), [""; 0], "a node that answers is waited for");
    world.node = Some(node("True", false, true));
    assert_eq!(world.done(&mut memory, 10_001), ["report 0", "delete"], "first it is told");
    let Action::Patch { patch, .. } = &world.plan(&mut memory, 0).actions[0] else { panic!("no patch") };
    assert_eq!(patch["metadata"]["resourceVersion"], "7", "against the state that was seen");
}

#[test]
fn a_node_that_is_silent_is_waited_for_six_minutes_or_until_it_is_out_of_service() {
    let mut world = World::new();
    world.attachments = vec![attachment("n1", json!({"attached": true}))];
    world.pods = Vec::new();
    let mut memory = Memory::default();
    world.node = Some(node("Unknown", true, true));
    let plan = world.plan(&mut memory, 100);
    assert_eq!((plan.actions.len(), plan.requeue_after), (0, Some(Duration::from_secs(360))));
    assert_eq!(world.plan(&mut memory, 400).requeue_after, Some(Duration::from_secs(60)));
    assert_eq!(world.done(&mut memory, 460), ["report 0", "delete"]);
    world.node.as_mut().unwrap().spec = typed(json!({"taints": [{"key": OUT_OF_SERVICE, "effect": "NoExecute"}]}));
    assert_eq!(world.done(&mut Memory::default(), 100), ["report 0", "delete"]);
    let mut memory = Memory::default();
    world.node = None;
    assert_eq!(world.done(&mut memory, 100), [""; 0]);
    assert_eq!(world.done(&mut memory, 460), ["delete"], "there is nobody to tell");
}

#[test]
fn a_volume_of_one_node_waits_until_it_has_left_the_other() {
    let mut world = World::new();
    let mut memory = Memory::default();
    world.attachments = vec![attachment("n2", json!({"attached": true}))];
    world.users = vec![("ns".into(), "other".into())];
    let told = "FailedAttachVolume: Multi-Attach error for volume \"pv\" Volume is already used by pod(s) other";
    assert_eq!(world.done(&mut memory, 0), [told]);
    assert!(memory.blocked);
    assert_eq!(world.done(&mut memory, 1), [""; 0], "once is enough");
    world.users = Vec::new();
    let told = "FailedAttachVolume: Multi-Attach error for volume \"pv\" Volume is already exclusively attached to one node and can't be attached to another";
    assert_eq!(world.done(&mut Memory::default(), 0), [told]);
    world.attachments = Vec::new();
    assert_eq!(world.done(&mut memory, 2), ["create on n1"]);
    assert!(!memory.blocked);
    for modes in [json!(["ReadWriteMany"]), json!(["ReadWriteOnce", "ReadOnlyMany"]), json!([])] {
        world.attachments = vec![attachment("n2", json!({"attached": true}))];
        world.volume.spec.as_mut().unwrap().access_modes = typed(modes);
        assert_eq!(world.done(&mut Memory::default(), 0), ["create on n1"]);
    }
}

#[test]
fn what_the_attacher_cannot_do_is_told_once_each_time() {
    let mut world = World::new();
    let mut memory = Memory::default();
    let error = |time: &str| json!({"attached": false, "attachError": {"time": time, "message": "no room"}});
    let told = "FailedAttachVolume: AttachVolume.Attach failed for volume \"pv\" : no room";
    world.attachments = vec![attachment("n1", error("2026-01-01T00:00:00Z"))];
    assert_eq!(world.done(&mut memory, 0), [told]);
    assert_eq!(world.done(&mut memory, 1), [""; 0]);
    world.attachments = vec![attachment("n1", error("2026-01-01T00:00:09Z"))];
    assert_eq!(world.done(&mut memory, 2), [told]);
    // One that says nothing at all.
    world.attachments = vec![attachment("n1", json!({"attached": false}))];
    let late = format!(
        "FailedAttachVolume: AttachVolume.Attach failed for volume \"pv\" : timed out waiting for external-attacher of {DRIVER} CSI driver to attach volume h"
    );
    assert_eq!(world.plan(&mut memory, 60).requeue_after, Some(Duration::from_secs(60)));
    assert_eq!(world.done(&mut memory, 121), [late]);
    // One that cannot detach.
    let mut leaving = attachment("n1", json!({"attached": true, "detachError": {"message": "stuck"}}));
    leaving.metadata.deletion_timestamp = leaving.metadata.creation_timestamp.clone();
    world.attachments = vec![leaving];
    world.pods = Vec::new();
    let told = "FailedDetachVolume: DetachVolume.Detach failed for volume \"pv\" on node \"n1\" : stuck";
    assert_eq!(world.done(&mut memory, 122), [told]);
    assert_eq!(world.done(&mut memory, 123), [""; 0]);
}

#[test]
fn attachments_of_others_and_those_on_their_way_out_are_left_alone() {
    let mut world = World::new();
    world.pods = Vec::new();
    let mut foreign = attachment("n1", json!({"attached": true}));
    foreign.metadata.name = Some("by-hand".into());
    let mut leaving = attachment("n1", json!({"attached": true}));
    leaving.metadata.deletion_timestamp = leaving.metadata.creation_timestamp.clone();
    world.attachments = vec![foreign, leaving];
    assert_eq!(world.done(&mut Memory::default(), 0), [""; 0]);
    // Nor is one made anew before it has gone; the node may not rely on it meanwhile.
    world.pods = vec![pod("p", "Pending")];
    world.node = Some(node("True", false, true));
    assert_eq!(world.done(&mut Memory::default(), 0), ["report 0"]);
}

#[test]
fn a_pod_that_ends_needs_its_volumes_until_nothing_of_it_runs() {
    let mut ending = pod("p", "Running");
    assert!(!released(&ending));
    ending.metadata.deletion_timestamp = attachment("n", json!({})).metadata.creation_timestamp;
    ending.status = typed(json!({"phase": "Running", "containerStatuses": [{"name": "c", "ready": true, "image": "i",
        "imageID": "i", "restartCount": 0, "state": {"running": {}}}]}));
    assert!(!released(&ending));
    ending.status = typed(json!({"phase": "Running", "containerStatuses": [{"name": "c", "ready": false, "image": "i",
        "imageID": "i", "restartCount": 0, "state": {"terminated": {"exitCode": 0}}}]}));
    assert!(released(&ending));
}
