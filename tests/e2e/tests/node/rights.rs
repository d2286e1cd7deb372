//! Who a container runs as, and what it may do.

use anyhow::Result;
use e2e::{Ctx, pod};
use serde_json::{Value, json};

use crate::api::{Api, has, says};

fn secured(name: &str, script: &str, of_pod: Value, of_container: Value) -> Value {
    let main = json!({"name": "main", "securityContext": of_container});
    pod(name, script, json!({"restartPolicy": "Never", "securityContext": of_pod, "containers": [main]}))
}

// conformance: [sig-node] Security Context When creating a container with runAsUser should run the container with uid 65534
// conformance: [sig-node] Security Context When creating a pod with privileged should run the container as unprivileged when false
// conformance: [sig-node] Security Context when creating containers with AllowPrivilegeEscalation should not allow privilege escalation when false
// conformance: [sig-node] Security Context should support container.SecurityContext.RunAsUser And container.SecurityContext.RunAsGroup
// conformance: [sig-node] Security Context should support pod.Spec.SecurityContext.RunAsUser And pod.Spec.SecurityContext.RunAsGroup
pub fn a_container_runs_as_its_user_with_its_rights(ctx: &Ctx) -> Result<()> {
    let api = Api::new(ctx)?;
    let both = json!({"runAsUser": 1001, "runAsGroup": 2002});
    // A program of root with the set-user-id bit shows whether rights can be gained.
    let link = "ip link add dummy0 type dummy || true";
    let gain = "id -u; grep NoNewPrivs /proc/self/status; grep CapEff /proc/self/status";
    api.outputs(vec![
        (secured("nobody", "id -u", json!({}), json!({"runAsUser": 65534})), says("65534\n")),
        (
            secured("unprivileged", &format!("({link}) 2>&1"), json!({}), json!({"privileged": false})),
            has(&["Operation not permitted"]),
        ),
        (
            secured("no-gain", gain, json!({}), json!({"runAsUser": 1000, "allowPrivilegeEscalation": false})),
            has(&["1000\n", "NoNewPrivs:\t1\n", "CapEff:\t0000000000000000\n"]),
        ),
        (secured("of-container", "id -u; id -g", json!({"runAsUser": 7}), both.clone()), says("1001\n2002\n")),
        (secured("of-pod", "id -u; id -g", both, json!({})), says("1001\n2002\n")),
    ])?;
    api.clear()
}

// conformance: [sig-node] Sysctls [LinuxOnly] [NodeConformance] should support sysctls
pub fn a_safe_kernel_parameter_is_set(ctx: &Ctx) -> Result<()> {
    let api = Api::new(ctx)?;
    let one = json!({"sysctls": [{"name": "kernel.shm_rmid_forced", "value": "1"}]});
    let script = "sysctl kernel.shm_rmid_forced";
    api.outputs(vec![(secured("tuned", script, one, json!({})), has(&["kernel.shm_rmid_forced = 1"]))])?;
    api.clear()
}
