//! The containers of pods, as Docker shows them: named as dockershim named them, to be looked at and run commands in, and otherwise
//! left to Kubernetes. The engine is asked when somebody asks; nothing of them is written down.

use std::collections::BTreeMap;
use std::sync::Arc;

use engine::runtime::{ContainerRuntime, ContainerState, ContainerStatus, Owner, RuntimeEvent, SandboxStatus};
use image::ImageInfo;
use tokio::sync::broadcast::error::RecvError;

use crate::containers::model::{Endpoint, Words};
use crate::containers::record::{MountPoint, Phase, Record};
use crate::face::{Container, Face};
use crate::fault::{Fault, Result, blocking};

/// Which image the pod names.
const IMAGE_LABEL: &str = "windlass.dev/image";
/// The pod's name and namespace.
const POD_LABELS: [&str; 2] = ["io.kubernetes.pod.name", "io.kubernetes.pod.namespace"];

/// A container of a pod as a record; `image` is what it runs, if the store still has it.
fn record(status: &ContainerStatus, sandbox: &SandboxStatus, image: Option<&ImageInfo>) -> Record {
    let (spec, pod) = (&status.spec, &sandbox.spec);
    let mut record = Record {
        id: spec.id.clone(),
        name: format!("k8s_{}_{}_{}_{}_{}", spec.name, pod.name, pod.namespace, pod.id, spec.attempt),
        created_ms: sandbox.created_at_ms,
        ..Record::default()
    };
    record.config.labels = spec.labels.iter().chain(&pod.labels).cloned().collect();
    record.image = record.config.labels.get(IMAGE_LABEL).cloned().unwrap_or_else(|| spec.image.clone());
    record.config.image.clone_from(&record.image);
    record.image_id = image.map_or_else(|| status.image_id.clone(), |i| i.id.to_string());
    let of_image = image.and_then(|i| i.config.config().clone()).unwrap_or_default();
    let entry =
        if spec.command.is_empty() { of_image.entrypoint().clone().unwrap_or_default() } else { spec.command.clone() };
    let args = match (spec.args.is_empty(), spec.command.is_empty()) {
        (false, _) => spec.args.clone(),
        (true, true) => of_image.cmd().clone().unwrap_or_default(),
        (true, false) => Vec::new(),
    };
    record.argv = entry.iter().chain(&args).cloned().collect();
    let words = |list: Vec<String>| (!list.is_empty()).then_some(Words(list));
    (record.config.entrypoint, record.config.cmd) = (words(entry), words(args));
    record.config.env = spec.env.iter().map(|(k, v)| format!("{k}={v}")).collect();
    record.config.working_dir = spec.working_dir.clone().or(of_image.working_dir().clone()).unwrap_or_default();
    record.config.hostname.clone_from(&pod.hostname);
    (record.config.tty, record.config.open_stdin) = (spec.tty, spec.stdin);
    record.config.stop_signal.clone_from(&status.stop_signal);
    record.config.user = status.user.as_ref().map(|u| format!("{}:{}", u.uid, u.gid)).unwrap_or_default();
    record.host.network_mode = if pod.host_network { "host" } else { "bridge" }.to_owned();
    record.networks.insert(record.host.network_mode.clone(), Endpoint::default());
    record.host.log_config.kind = "json-file".to_owned();
    let mount = |m: &engine::runtime::Mount| MountPoint {
        kind: "bind".to_owned(),
        name: String::new(),
        source: m.source.clone(),
        target: m.target.clone(),
        writable: !m.read_only,
        propagation: String::new(),
        options: Vec::new(),
        anonymous: false,
        no_copy: true,
    };
    record.mounts = spec.mounts.iter().map(mount).collect();
    let state = &mut record.state;
    state.ip = sandbox.ip.filter(|_| !pod.host_network).map(|ip| ip.to_string());
    match &status.state {
        ContainerState::Created => {}
        ContainerState::Running { started_at_ms } => {
            (state.phase, state.started_at_ms) = (Phase::Running, *started_at_ms);
        }
        ContainerState::Exited(exit) => {
            state.phase = Phase::Exited;
            (state.exit_code, state.oom_killed) = (exit.exit_code, exit.oom_killed);
            (state.started_at_ms, state.finished_at_ms) = (exit.started_at_ms, exit.finished_at_ms);
            state.error = exit.start_error.clone().unwrap_or_default();
        }
    }
    record
}

/// Looks what there is now. Those that are gone say so to who follows them.
///
/// # Errors
/// When the image store cannot be read.
pub async fn refresh(face: &Arc<Face>) -> Result<()> {
    let sandboxes: BTreeMap<String, SandboxStatus> = face
        .engine
        .sandboxes()
        .await
        .into_iter()
        .filter(|s| s.spec.owner == Owner::Pod)
        .map(|s| (s.spec.id.clone(), s))
        .collect();
    let mut statuses = face.engine.containers(None).await;
    statuses.retain(|s| sandboxes.contains_key(&s.spec.sandbox_id));
    let of = face.clone();
    let records = blocking(move || {
        let mut images: BTreeMap<String, Option<ImageInfo>> = BTreeMap::new();
        for status in &statuses {
            let name = &status.spec.image;
            if !images.contains_key(name) {
                images.insert(name.clone(), of.engine.images().get(name)?);
            }
        }
        let made = statuses.into_iter().filter_map(|status| {
            let image = images.get(&status.spec.image).and_then(Option::as_ref);
            let record = record(&status, sandboxes.get(&status.spec.sandbox_id)?, image);
            Some((record, status.spec.log_path))
        });
        Ok::<_, Fault>(made.collect::<Vec<_>>())
    })
    .await?;
    let mut pods = face.pods.lock();
    pods.retain(|id, container| {
        let here = records.iter().any(|(r, _)| r.id == *id);
        if !here {
            container.seen.send_modify(|seen| seen.removed = true);
        }
        here
    });
    for (record, log) in records {
        match pods.get(&record.id) {
            Some(known) => known.update(record),
            None => drop(pods.insert(record.id.clone(), Arc::new(Container::of_pod(record, log)))),
        }
    }
    Ok(())
}

/// Keeps what is known of a container of a pod as it is, for who follows one; of another nothing has to be done. Never ends.
pub async fn follow(face: &Arc<Face>, container: &Container) {
    if container.is_of_pod() {
        let mut events = face.engine.events();
        // What happened before the first event can be waited for. What cannot be read is looked at with the next one.
        let _ = refresh(face).await;
        while !container.seen.borrow().removed {
            let about = match events.recv().await {
                Ok(RuntimeEvent::Container { container_id, .. }) => container_id == container.id,
                Ok(RuntimeEvent::Sandbox { .. }) | Err(RecvError::Lagged(_)) => true,
                Err(RecvError::Closed) => break,
            };
            if about {
                let _ = refresh(face).await;
            }
        }
    }
    std::future::pending().await
}

/// Why a container of a pod is left alone.
pub fn refusal(record: &Record) -> Fault {
    let label = |n: usize| record.config.labels.get(POD_LABELS[n]).map_or("", String::as_str);
    let (name, namespace) = (label(0), label(1));
    Fault::conflict(format!(
        "container {} belongs to the pod {namespace}/{name}, which Kubernetes keeps: use kubectl (kubectl -n {namespace} delete pod {name})",
        record.name
    ))
}

#[cfg(test)]
mod tests {
    use super::*;
    use engine::runtime::{ContainerSpec, SandboxSpec};

    fn sample(state: ContainerState) -> Record {
        let label = |k: &str, v: &str| (k.to_owned(), v.to_owned());
        let spec = ContainerSpec {
            id: "ab".repeat(32),
            name: "main".into(),
            attempt: 2,
            image: "sha256:1".into(),
            command: vec!["sleep".into()],
            args: vec!["9".into()],
            labels: vec![
                label(POD_LABELS[0], "web"),
                label(POD_LABELS[1], "shop"),
                label("io.kubernetes.container.name", "main"),
                label(IMAGE_LABEL, "nginx"),
            ],
            ..ContainerSpec::default()
        };
        let status =
            ContainerStatus { spec, image_id: "sha256:1".into(), user: None, stop_signal: "SIGTERM".into(), state };
        let pod =
            SandboxSpec { id: "u-1".into(), name: "web".into(), namespace: "shop".into(), ..SandboxSpec::default() };
        let sandbox = SandboxStatus { spec: pod, ready: true, ip: "10.0.0.9".parse().ok(), created_at_ms: 5 };
        record(&status, &sandbox, None)
    }

    #[test]
    fn a_container_of_a_pod_is_named_as_dockershim_named_it() {
        let record = sample(ContainerState::Running { started_at_ms: 7 });
        assert_eq!((record.name.as_str(), record.image.as_str()), ("k8s_main_web_shop_u-1_2", "nginx"));
        assert_eq!(record.config.labels["io.kubernetes.container.name"], "main");
        assert_eq!(record.argv, ["sleep", "9"]);
        assert_eq!((record.state.phase, record.state.ip.as_deref()), (Phase::Running, Some("10.0.0.9")));
        let message = refusal(&record).message;
        assert!(message.contains("kubectl -n shop delete pod web"), "{message}");
    }

    #[test]
    fn one_that_ended_says_how() {
        let exit = engine::runtime::ExitRecord {
            exit_code: 3,
            signal: None,
            oom_killed: true,
            started_at_ms: 7,
            finished_at_ms: 8,
            start_error: None,
        };
        let state = sample(ContainerState::Exited(exit)).state;
        assert_eq!((state.phase, state.exit_code, state.oom_killed, state.finished_at_ms), (Phase::Exited, 3, true, 8));
    }
}
