//! `deploy`, `scale`, `restart`, limits: how many pods, where, and what becomes of one that ends.

use convert::{Kind, Resources, Restart, Workload};
use serde_json::{Value, json};

use crate::error::Result;
use crate::fields::Fields;

/// Failures of a job without a limit of its own, as many as Kubernetes can count.
const ENDLESS: u32 = i32::MAX as u32;
/// Seconds between leaving the Service and being told to stop: nodes hear of the first a moment later than of the second.
const DRAIN: u32 = 3;
/// Seconds that a pod may take until its program runs: images are pulled, volumes made.
const START: u32 = 60;

/// Reads it into the workload.
pub fn read(fields: &Fields<'_>, workload: &mut Workload) -> Result<()> {
    let mut replicas = fields.number::<u32>("scale")?;
    let mut mode = None;
    let mut restart = restart(fields)?;
    limits(fields, workload)?;
    if let Some(deploy) = fields.below("deploy")? {
        mode = deploy.one_of("mode", &["replicated", "global", "replicated-job", "global-job"])?;
        replicas = deploy.number("replicas")?.or(replicas);
        for (name, value) in deploy.pairs("labels")? {
            if crate::service::annotation(&name) {
                workload.annotations.insert(name, value.unwrap_or_default());
            } else {
                deploy.note("labels", &format!("{name:?} cannot be the name of an annotation and is left out"));
            }
        }
        if deploy.one_of("endpoint_mode", &["vip", "dnsrr"])?.as_deref() == Some("dnsrr") {
            deploy.note("endpoint_mode", "the service has one address, behind which its pods take turns");
        }
        update(&deploy, workload)?;
        resources(&deploy, workload)?;
        if let Some(policy) = deploy.below("restart_policy")? {
            restart = match policy.one_of("condition", &["none", "on-failure", "any"])?.as_deref() {
                Some("none") => Wanted::Never,
                Some("on-failure") => Wanted::OnFailure(policy.number("max_attempts")?),
                _ => Wanted::Always,
            };
            let own = "the cluster waits longer after each failure";
            policy.lose(&[("delay", own), ("window", own)]);
            if policy.take("max_attempts").is_some() && !matches!(restart, Wanted::OnFailure(_)) {
                policy.note("max_attempts", "what runs forever is always started again");
            }
            policy.finish()?;
        }
        placement(&deploy, workload)?;
        deploy.finish()?;
    }
    kind(fields, workload, mode.as_deref(), replicas, restart);
    Ok(())
}

/// What the file says of restarts.
#[derive(Clone, Copy)]
enum Wanted {
    Nothing,
    Always,
    OnFailure(Option<u32>),
    Never,
}

fn restart(fields: &Fields<'_>) -> Result<Wanted> {
    let Some(text) = fields.text("restart")? else { return Ok(Wanted::Nothing) };
    let (policy, count) = text.split_once(':').map_or((text.as_str(), None), |(p, n)| (p, Some(n)));
    match (policy, count.map(str::parse)) {
        ("always" | "unless-stopped", None) => Ok(Wanted::Always),
        ("no" | "false", None) => Ok(Wanted::Never),
        ("on-failure", None) => Ok(Wanted::OnFailure(None)),
        ("on-failure", Some(Ok(n))) => Ok(Wanted::OnFailure(Some(n))),
        _ => Err(fields.wrong("restart", format!("{text:?} is not no, always, on-failure[:N] or unless-stopped"))),
    }
}

/// Makes a workload one whose pods end.
pub fn once(workload: &mut Workload, retries: Option<u32>) {
    let (completions, retries) = match workload.kind {
        Kind::Replicated(n) | Kind::Stateful(n) => (n.max(1), retries),
        Kind::Global => (1, retries),
        Kind::Once { .. } => return,
    };
    workload.kind = Kind::Once { completions, parallelism: completions, retries: retries.unwrap_or(0) };
    workload.pod.restart = if retries.is_none_or(|n| n == 0) { Restart::Never } else { Restart::OnFailure };
    workload.main().drain = None;
    // Nobody is sent to it.
    workload.main().health = None;
}

fn kind(fields: &Fields<'_>, workload: &mut Workload, mode: Option<&str>, replicas: Option<u32>, restart: Wanted) {
    let count = replicas.unwrap_or(1);
    // A volume is for one pod at a time: the next starts when the last has let it go.
    let claims = |w: &Workload| {
        let of = |name: &str| w.pod.containers[0].mounts.iter().any(|m| m.volume == name && !m.read_only);
        w.pod.volumes.iter().any(|v| matches!(v.source, convert::Source::Claim(_)) && of(&v.name))
    };
    workload.kind = match mode {
        Some("global" | "global-job") => Kind::Global,
        _ if claims(workload) => Kind::Stateful(count),
        _ => Kind::Replicated(count),
    };
    if let Some(health) = &workload.main().health {
        // The time after which Docker would call it unhealthy, and some for the start itself.
        let checks = health.interval.saturating_add(health.timeout).saturating_mul(health.retries);
        let patience = checks.saturating_add(health.start_period).saturating_add(START + workload.update.delay);
        workload.update.deadline = Some(patience.min(ENDLESS));
    }
    if !workload.ports.is_empty() {
        workload.main().drain = Some(DRAIN);
        workload.pod.grace = workload.pod.grace.map(|g| g + DRAIN);
    }
    let job = matches!(mode, Some("replicated-job" | "global-job"));
    let serves = !workload.ports.is_empty() || workload.main().health.is_some();
    match restart {
        Wanted::OnFailure(n) if job || !serves => once(workload, Some(n.unwrap_or(ENDLESS))),
        Wanted::Never if job || !serves => once(workload, None),
        _ if job => once(workload, None),
        Wanted::OnFailure(_) | Wanted::Never => {
            fields.note("restart", "it serves others, so it is started again whenever it ends");
        }
        Wanted::Always | Wanted::Nothing => {}
    }
}

fn limits(fields: &Fields<'_>, workload: &mut Workload) -> Result<()> {
    let (cpus, memory) = (fields.millis("cpus")?, fields.bytes("mem_limit")?);
    let reserved = fields.bytes("mem_reservation")?;
    let main = workload.main();
    main.limits.milli_cpu = cpus.filter(|c| *c > 0);
    main.limits.memory = memory.filter(|m| *m > 0);
    main.requests.memory = reserved.filter(|m| *m > 0);
    Ok(())
}

fn resources(deploy: &Fields<'_>, workload: &mut Workload) -> Result<()> {
    let Some(resources) = deploy.below("resources")? else { return Ok(()) };
    let amounts = |fields: &Fields<'_>, into: &mut Resources| -> Result<()> {
        into.milli_cpu = fields.millis("cpus")?.or(into.milli_cpu);
        into.memory = fields.bytes("memory")?.or(into.memory);
        Ok(())
    };
    if let Some(limits) = resources.below("limits")? {
        amounts(&limits, &mut workload.main().limits)?;
        limits.lose(&[("pids", "Kubernetes has no limits of this")]);
        limits.finish()?;
    }
    if let Some(reservations) = resources.below("reservations")? {
        amounts(&reservations, &mut workload.main().requests)?;
        let plugins = "Kubernetes gives devices through device plugins";
        reservations.refuse(&[("devices", plugins), ("generic_resources", plugins)])?;
        reservations.finish()?;
    }
    resources.finish()
}

fn update(deploy: &Fields<'_>, workload: &mut Workload) -> Result<()> {
    if let Some(config) = deploy.below("update_config")? {
        let order = config.one_of("order", &["start-first", "stop-first"])?;
        workload.update.stop_first |= order.as_deref() == Some("stop-first");
        workload.update.parallelism = config.number("parallelism")?;
        workload.update.delay = config.seconds("delay")?.unwrap_or(0);
        match config.one_of("failure_action", &["continue", "pause", "rollback"])?.as_deref() {
            None | Some("rollback") => {}
            Some(_) => config.note("failure_action", "windlass up rolls a release back that does not become healthy"),
        }
        let own = "a release has failed when a pod cannot start, or when the time of windlass up is over";
        config.lose(&[("monitor", own), ("max_failure_ratio", own)]);
        config.finish()?;
    }
    if let Some(config) = deploy.below("rollback_config")? {
        let own = "a rollback goes as a release does";
        config.lose(&[
            ("parallelism", own),
            ("delay", own),
            ("failure_action", own),
            ("monitor", own),
            ("max_failure_ratio", own),
            ("order", own),
        ]);
        config.finish()?;
    }
    Ok(())
}

fn placement(deploy: &Fields<'_>, workload: &mut Workload) -> Result<()> {
    let Some(placement) = deploy.below("placement")? else { return Ok(()) };
    let mut unwanted: Vec<Value> = Vec::new();
    for constraint in placement.texts("constraints")? {
        let wrong = || placement.wrong("constraints", format!("{constraint:?} is not supported"));
        let (left, equal, right) = match (constraint.split_once("=="), constraint.split_once("!=")) {
            (Some((l, r)), None) => (l.trim(), true, r.trim()),
            (None, Some((l, r))) => (l.trim(), false, r.trim()),
            _ => return Err(wrong()),
        };
        let label = match left {
            "node.hostname" => "kubernetes.io/hostname",
            "node.platform.os" => "kubernetes.io/os",
            "node.platform.arch" => "kubernetes.io/arch",
            other => other.strip_prefix("node.labels.").ok_or_else(wrong)?,
        };
        if equal {
            workload.pod.node.insert(label.to_owned(), right.to_owned());
        } else {
            unwanted.push(json!({"key": label, "operator": "NotIn", "values": [right]}));
        }
    }
    let mut affinity = json!({});
    if !unwanted.is_empty() {
        affinity["nodeAffinity"] = json!({"requiredDuringSchedulingIgnoredDuringExecution": {
            "nodeSelectorTerms": [{"matchExpressions": unwanted}]}});
    }
    match placement.number::<u32>("max_replicas_per_node")? {
        None => {}
        Some(1) => {
            affinity["podAntiAffinity"] = json!({"requiredDuringSchedulingIgnoredDuringExecution": [{
                "topologyKey": "kubernetes.io/hostname",
                "labelSelector": {"matchLabels": {convert::NAME: workload.name}}}]});
            // The next would find no node while the last is there.
            workload.update.stop_first = true;
        }
        Some(_) => return Err(placement.wrong("max_replicas_per_node", "only 1 is supported")),
    }
    if affinity != json!({}) {
        workload.pod.affinity = Some(affinity);
    }
    placement.lose(&[("preferences", "pods are spread over nodes as the scheduler does")]);
    placement.finish()
}
