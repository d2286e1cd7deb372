//! Pods that run to their end, many at once. What a pod has to say it says in its termination message, so that one look at all
//! pods is the answer of the whole table.

use std::collections::BTreeMap;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use e2e::{Ctx, container, merge, pod};
use serde_json::{Value, json};

/// For a table of pods on a slow machine.
const LIMIT: Duration = Duration::from_secs(120);

/// A pod and what it must say.
pub struct Case {
    name: String,
    pod: Value,
    expected: String,
}

/// Mounts the volumes at the paths in a container's manifest.
pub fn mounts(at: &[(&str, &str)]) -> Value {
    at.iter().map(|(name, path)| json!({"name": name, "mountPath": path})).collect()
}

impl Case {
    /// A pod of one container that runs `script`; `spec` is merged over its spec.
    pub fn new(name: &str, script: &str, spec: Value, expected: impl Into<String>) -> Case {
        let script = format!("{{ {script}\n}} > /dev/termination-log 2>&1");
        let base = merge(json!({"restartPolicy": "Never", "automountServiceAccountToken": false}), spec);
        let mut pod = pod(name, &script, base);
        pod["metadata"]["labels"] = json!({"app": name, "in": "table"});
        Case { name: name.to_owned(), pod, expected: expected.into() }
    }
}

/// Runs all pods to their ends and compares what they said.
pub fn check(ctx: &Ctx, cases: &[Case]) -> Result<()> {
    let pods: Vec<Value> = cases.iter().map(|c| c.pod.clone()).collect();
    ctx.apply(&pods)?;
    let said = outcomes(ctx)?;
    let mut wrong = Vec::new();
    for case in cases {
        let got = said.get(&case.name).map(|s| s.trim()).unwrap_or_default();
        if got != case.expected.trim() {
            wrong.push(format!("{}: expected {:?}, got {got:?}", case.name, case.expected.trim()));
        }
    }
    ensure!(wrong.is_empty(), "{}", wrong.join("\n"));
    Ok(())
}

fn outcomes(ctx: &Ctx) -> Result<BTreeMap<String, String>> {
    // A script that fails ends its pod as failed: what it said is then compared as well.
    e2e::eventually(LIMIT, "the pods of the table end", || {
        let mut said = BTreeMap::new();
        for pod in ctx.list("pods", "in=table")? {
            let name = pod["metadata"]["name"].as_str().context("a pod has a name")?.to_owned();
            let phase = pod["status"]["phase"].as_str().unwrap_or_default();
            ensure!(matches!(phase, "Succeeded" | "Failed"), "pod {name} is {phase:?}");
            let message = pod["status"]["containerStatuses"][0]["state"]["terminated"]["message"].as_str();
            said.insert(name, message.unwrap_or_default().to_owned());
        }
        Ok(said)
    })
}

/// A container that notes what it finds first, counts as ready then, and ends once `until` holds.
pub fn waiter(name: &str, first: &str, until: &str) -> Value {
    let script = format!("{first} || exit 1; touch /tmp/seen; until {until}; do sleep 0.1; done");
    merge(
        container(name, &script),
        json!({"readinessProbe": {"exec": {"command": ["test", "-e", "/tmp/seen"]}, "periodSeconds": 1, "timeoutSeconds": 30}}),
    )
}

/// Waits until all containers of the pod have ended well.
pub fn ends_well(ctx: &Ctx, pod: &str) -> Result<()> {
    ctx.wait_for(&format!("pod/{pod}"), "jsonpath={.status.phase}=Succeeded", LIMIT)
}
