//! Security contexts of pod and container as one set of rights.

use std::path::Path;

use engine::runtime::{Seccomp, Security};
use k8s_openapi::api::core::v1::{Container, Pod, PodSecurityContext, SeccompProfile, SecurityContext};

use super::ConfigError;

fn id(field: &str, value: Option<i64>) -> Result<Option<u32>, ConfigError> {
    value
        .map(|v| u32::try_from(v).map_err(|_| ConfigError::new(format!("{field}: {v} is not a user or group id"))))
        .transpose()
}

/// Without a profile a container gets the default one, as a kubelet with `seccompDefault` gives it: the safer choice.
fn seccomp(profile: Option<&SeccompProfile>, folder: &Path) -> Result<Seccomp, ConfigError> {
    match profile.map(|p| (p.type_.as_str(), p.localhost_profile.as_deref())) {
        None | Some(("RuntimeDefault", _)) => Ok(Seccomp::RuntimeDefault),
        Some(("Unconfined", _)) => Ok(Seccomp::Unconfined),
        Some(("Localhost", Some(name))) => {
            let plain = Path::new(name).components().all(|c| matches!(c, std::path::Component::Normal(_)));
            if !plain || name.is_empty() {
                return Err(ConfigError::new(format!(
                    "seccompProfile.localhostProfile {name:?} leaves the folder of profiles"
                )));
            }
            Ok(Seccomp::Localhost(folder.join(name)))
        }
        Some((other, _)) => Err(ConfigError::new(format!("seccompProfile.type {other:?} is not supported"))),
    }
}

/// The user a container runs as, when the pod says so.
pub(crate) fn run_as_user(pod: &Pod, c: &Container) -> Option<i64> {
    let own = c.security_context.as_ref().and_then(|s| s.run_as_user);
    own.or_else(|| pod.spec.as_ref()?.security_context.as_ref()?.run_as_user)
}

/// The rights of a container.
pub(crate) fn of_container(pod: &Pod, c: &Container, profiles: &Path) -> Result<Security, ConfigError> {
    let none_pod = PodSecurityContext::default();
    let none = SecurityContext::default();
    let p = pod.spec.as_ref().and_then(|s| s.security_context.as_ref()).unwrap_or(&none_pod);
    let s = c.security_context.as_ref().unwrap_or(&none);
    let privileged = s.privileged == Some(true);
    let run_as_user = id("runAsUser", s.run_as_user.or(p.run_as_user))?;
    let run_as_non_root = s.run_as_non_root.or(p.run_as_non_root) == Some(true);
    if run_as_non_root && run_as_user == Some(0) {
        return Err(ConfigError::new("container's runAsUser breaks non-root policy"));
    }
    let mut groups = Vec::new();
    for group in p.supplemental_groups.iter().flatten().copied().chain(p.fs_group) {
        groups.extend(id("supplementalGroups", Some(group))?);
    }
    let caps = |list: Option<&Vec<String>>| -> Vec<String> {
        list.into_iter().flatten().map(|c| c.to_uppercase().trim_start_matches("CAP_").to_owned()).collect()
    };
    let capabilities = s.capabilities.as_ref();
    let cap_add = caps(capabilities.and_then(|c| c.add.as_ref()));
    // As in Kubernetes, what gives the rights of root anyway also allows escalation.
    let strong = privileged || cap_add.iter().any(|c| c == "SYS_ADMIN" || c == "ALL");
    let profile = s.seccomp_profile.as_ref().or(p.seccomp_profile.as_ref());
    Ok(Security {
        privileged,
        run_as_user,
        run_as_group: id("runAsGroup", s.run_as_group.or(p.run_as_group))?,
        run_as_non_root,
        supplemental_groups: groups,
        strict_groups: p.supplemental_groups_policy.as_deref() == Some("Strict"),
        cap_add,
        cap_drop: caps(capabilities.and_then(|c| c.drop.as_ref())),
        no_new_privileges: s.allow_privilege_escalation == Some(false) && !strong,
        read_only_rootfs: s.read_only_root_filesystem == Some(true),
        seccomp: if privileged { Seccomp::Unconfined } else { seccomp(profile, profiles)? },
        unmasked_proc: s.proc_mount.as_deref() == Some("Unmasked"),
        // What the kernel has of it decides that.
        app_armor: None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn security(pod: serde_json::Value, c: serde_json::Value) -> Result<Security, ConfigError> {
        let pod: Pod =
            serde_json::from_value(json!({"spec": {"containers": [], "securityContext": pod}})).expect("pod");
        let c: Container = serde_json::from_value(json!({"name": "c", "securityContext": c})).expect("container");
        of_container(&pod, &c, Path::new("/seccomp"))
    }

    #[test]
    fn the_container_comes_before_the_pod() {
        let s = security(
            json!({"runAsUser": 1, "runAsGroup": 2, "fsGroup": 3, "supplementalGroups": [4]}),
            json!({"runAsUser": 9, "capabilities": {"add": ["cap_net_admin"], "drop": ["ALL"]}}),
        )
        .expect("rights");
        assert_eq!((s.run_as_user, s.run_as_group), (Some(9), Some(2)));
        assert_eq!(s.supplemental_groups, [4, 3]);
        assert_eq!((s.cap_add, s.cap_drop), (vec!["NET_ADMIN".to_owned()], vec!["ALL".to_owned()]));
    }

    #[test]
    fn root_is_refused_where_it_must_not_run() {
        assert!(security(json!({"runAsNonRoot": true}), json!({"runAsUser": 0})).is_err());
        assert!(security(json!({"runAsNonRoot": true}), json!({})).expect("rights").run_as_non_root);
    }

    #[test]
    fn profiles_stay_in_their_folder() {
        let profile = |name: &str| {
            security(json!({}), json!({"seccompProfile": {"type": "Localhost", "localhostProfile": name}}))
        };
        assert_eq!(profile("a/b.json").expect("rights").seccomp, Seccomp::Localhost("/seccomp/a/b.json".into()));
        assert!(profile("../b.json").is_err());
        assert!(profile("/etc/b.json").is_err());
    }
}
