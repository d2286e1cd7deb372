//! What this node cannot do. A pod that asks for it is refused with the field's name: nothing is accepted and ignored.

use std::path::Path;
use std::sync::LazyLock;

use k8s_openapi::api::core::v1::{Container, LifecycleHandler, Pod, PodSpec, Probe, Volume};
use reconcile::pod::{Failure, each};

use crate::huge_pages;

/// Kernel parameters that stay inside the pod and cannot hurt the node (the kubelet's safe set).
const SAFE_SYSCTLS: [&str; 13] = [
    "kernel.shm_rmid_forced",
    "net.ipv4.ip_local_port_range",
    "net.ipv4.tcp_syncookies",
    "net.ipv4.ping_group_range",
    "net.ipv4.ip_unprivileged_port_start",
    "net.ipv4.ip_local_reserved_ports",
    "net.ipv4.tcp_keepalive_time",
    "net.ipv4.tcp_fin_timeout",
    "net.ipv4.tcp_keepalive_intvl",
    "net.ipv4.tcp_keepalive_probes",
    "net.ipv4.tcp_rmem",
    "net.ipv4.tcp_wmem",
    "net.ipv4.tcp_slow_start_after_idle",
];

/// Why the pod cannot run here, if it cannot.
pub(crate) fn refusal(pod: &Pod) -> Option<Failure> {
    let spec = pod.spec.as_ref()?;
    let field = pod_field(spec)
        .or_else(|| pod_security(spec))
        .or_else(|| spec.volumes.iter().flatten().find_map(volume))
        .or_else(|| each(spec).find_map(|(_, c)| container(spec, c)));
    if let Some(field) = field {
        return Some(Failure::new("UnsupportedPodSpec", format!("{field} is not supported by this node")));
    }
    if spec.os.as_ref().is_some_and(|os| os.name != "linux") {
        let message = "Failed to admit pod as the OS field doesn't match node OS";
        return Some(Failure::new("PodOSNotSupported", message));
    }
    forbidden_sysctl(spec)
        .map(|name| Failure::new("SysctlForbidden", format!("forbidden sysctl: {name:?} not allowlisted")))
}

/// Why a container that was added to the running pod cannot run here, if it cannot. The pod itself goes on.
pub(crate) fn refusal_of_added(pod: &Pod, c: &Container) -> Option<Failure> {
    let field = container(pod.spec.as_ref()?, c)?;
    Some(Failure::new("CreateContainerConfigError", format!("{field} is not supported by this node")))
}

/// Handlers of runtime classes that this node has, beside the one without a name.
pub(crate) const RUNTIME_HANDLERS: [&str; 1] = ["windlass"];

/// Whether this kernel runs SELinux. Where it does not, there are no labels, and the kubelet ignores the options too.
fn selinux() -> bool {
    static FOUND: LazyLock<bool> = LazyLock::new(|| Path::new("/sys/fs/selinux/enforce").exists());
    *FOUND
}

fn when(refused: bool, field: &str) -> Option<String> {
    refused.then(|| field.to_owned())
}

fn pod_field(spec: &PodSpec) -> Option<String> {
    when(spec.resource_claims.iter().flatten().next().is_some(), "spec.resourceClaims").or_else(|| {
        let shared = spec.host_pid == Some(true) && spec.share_process_namespace == Some(true);
        when(shared, "spec.shareProcessNamespace together with spec.hostPID")
    })
}

fn pod_security(spec: &PodSpec) -> Option<String> {
    let s = spec.security_context.as_ref()?;
    let at = "spec.securityContext";
    let selinux = s.se_linux_options.is_some() && selinux();
    when(s.windows_options.is_some(), &format!("{at}.windowsOptions"))
        .or_else(|| when(selinux, &format!("{at}.seLinuxOptions")))
}

fn forbidden_sysctl(spec: &PodSpec) -> Option<String> {
    let list = spec.security_context.as_ref()?.sysctls.as_ref()?;
    let host_network = spec.host_network == Some(true);
    list.iter().map(|s| s.name.replace('/', ".")).find(|name| {
        !SAFE_SYSCTLS.contains(&name.as_str())
            || host_network && name.starts_with("net.")
            || spec.host_ipc == Some(true) && name.starts_with("kernel.shm")
    })
}

fn volume(v: &Volume) -> Option<String> {
    let known = v.empty_dir.is_some()
        || v.host_path.is_some()
        || v.config_map.is_some()
        || v.secret.is_some()
        || v.downward_api.is_some()
        || v.projected.is_some()
        || v.image.is_some()
        || v.csi.is_some()
        || v.nfs.is_some()
        || v.persistent_volume_claim.is_some()
        || v.ephemeral.is_some();
    if !known {
        return Some(format!("the source of volume {:?}", v.name));
    }
    let medium = v.empty_dir.as_ref().and_then(|e| e.medium.as_deref()).unwrap_or_default();
    if !matches!(medium, "" | "Memory") && !huge_pages::is_medium(medium) {
        return Some(format!("emptyDir.medium {medium:?} of volume {:?}", v.name));
    }
    let block =
        matches!(v.host_path.as_ref().and_then(|h| h.type_.as_deref()), Some(t) if !HOST_PATH_TYPES.contains(&t));
    if block {
        return Some(format!("hostPath.type of volume {:?}", v.name));
    }
    v.projected.iter().flat_map(|p| p.sources.iter().flatten()).find_map(|s| {
        let bundle = s.cluster_trust_bundle.is_some() || s.pod_certificate.is_some();
        when(bundle, &format!("clusterTrustBundle or podCertificate in volume {:?}", v.name))
    })
}

const HOST_PATH_TYPES: [&str; 8] =
    ["", "DirectoryOrCreate", "Directory", "FileOrCreate", "File", "Socket", "CharDevice", "BlockDevice"];

fn container(spec: &PodSpec, c: &Container) -> Option<String> {
    let at = |field: &str| format!("{field} of container {:?}", c.name);
    let s = c.security_context.as_ref();
    let claims = c.resources.as_ref().is_some_and(|r| r.claims.iter().flatten().next().is_some());
    let privileged = s.and_then(|s| s.privileged) == Some(true);
    let shared = c.volume_mounts.iter().flatten().any(|m| m.mount_propagation.as_deref() == Some("Bidirectional"));
    when(s.is_some_and(|s| s.windows_options.is_some()), &at("securityContext.windowsOptions"))
        .or_else(|| {
            when(s.is_some_and(|s| s.se_linux_options.is_some()) && selinux(), &at("securityContext.seLinuxOptions"))
        })
        .or_else(|| when(claims, &at("resources.claims")))
        .or_else(|| when(shared && !privileged, &at("mountPropagation: Bidirectional without privileged")))
        .or_else(|| {
            missing_volume(spec, c).map(|name| at(&format!("a mount of volume {name:?}, which the pod does not have,")))
        })
        .or_else(|| handlers(c).map(|f| at(&f)))
}

fn missing_volume(spec: &PodSpec, c: &Container) -> Option<String> {
    let has = |name: &str| spec.volumes.iter().flatten().any(|v| v.name == name);
    let mounts = c.volume_mounts.iter().flatten().map(|m| &m.name);
    mounts.chain(c.volume_devices.iter().flatten().map(|d| &d.name)).find(|name| !has(name)).cloned()
}

fn handlers(c: &Container) -> Option<String> {
    let empty_hook =
        |h: Option<&LifecycleHandler>| h.is_some_and(|h| h.exec.is_none() && h.http_get.is_none() && h.sleep.is_none());
    let empty_probe = |p: Option<&Probe>| {
        p.is_some_and(|p| p.exec.is_none() && p.http_get.is_none() && p.tcp_socket.is_none() && p.grpc.is_none())
    };
    let life = c.lifecycle.as_ref();
    when(empty_hook(life.and_then(|l| l.post_start.as_ref())), "the handler of lifecycle.postStart")
        .or_else(|| when(empty_hook(life.and_then(|l| l.pre_stop.as_ref())), "the handler of lifecycle.preStop"))
        .or_else(|| when(empty_probe(c.startup_probe.as_ref()), "the handler of startupProbe"))
        .or_else(|| when(empty_probe(c.readiness_probe.as_ref()), "the handler of readinessProbe"))
        .or_else(|| when(empty_probe(c.liveness_probe.as_ref()), "the handler of livenessProbe"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    fn refused(spec: Value) -> String {
        let mut all = json!({"containers": [{"name": "c"}]});
        all.as_object_mut().expect("object").extend(spec.as_object().expect("object").clone());
        let pod: Pod = serde_json::from_value(json!({"spec": all})).expect("a pod");
        refusal(&pod).map(|f| f.message).unwrap_or_default()
    }

    #[test]
    fn an_ordinary_pod_is_taken() {
        assert_eq!(refused(json!({})), "");
        assert_eq!(
            refused(json!({"volumes": [{"name": "v", "emptyDir": {}}], "securityContext": {"sysctls": [
            {"name": "net.ipv4.tcp_syncookies", "value": "1"}]}})),
            ""
        );
    }

    #[test]
    fn what_is_not_supported_is_named() {
        let c = |more: Value| {
            let mut c = json!({"name": "c"});
            c.as_object_mut().expect("object").extend(more.as_object().expect("object").clone());
            json!({"containers": [c]})
        };
        for (spec, field) in [
            (json!({"resourceClaims": [{"name": "r"}]}), "spec.resourceClaims"),
            (json!({"securityContext": {"windowsOptions": {}}}), "spec.securityContext.windowsOptions"),
            (
                json!({"volumes": [{"name": "v", "iscsi": {"targetPortal": "t", "iqn": "i", "lun": 0}}]}),
                "source of volume \"v\"",
            ),
            (json!({"volumes": [{"name": "v", "emptyDir": {"medium": "Floppy"}}]}), "emptyDir.medium"),
            (json!({"os": {"name": "windows"}}), "OS field"),
            (json!({"securityContext": {"sysctls": [{"name": "kernel.panic", "value": "1"}]}}), "kernel.panic"),
            (c(json!({"volumeMounts": [{"name": "gone", "mountPath": "/x"}]})), "\"gone\""),
            (c(json!({"livenessProbe": {}})), "livenessProbe"),
        ] {
            let message = refused(spec);
            assert!(message.contains(field), "{field}: {message}");
        }
    }
}
