//! Reading a pod's containers: their roles and restart rules.

use std::borrow::Cow;

use k8s_openapi::api::core::v1::{Container, ContainerRestartRule, EphemeralContainer, Pod, PodSpec};

/// What part a container has in the pod.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Role {
    /// Runs to its end before the next one starts.
    Init,
    /// An init container with `restartPolicy: Always`: started in order, runs beside the others, stopped last.
    Sidecar,
    /// An ordinary container.
    Main,
    /// Added to the running pod for somebody to look around in it: runs once.
    Ephemeral,
}

/// `restartPolicy`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Policy {
    /// Whatever the exit code.
    Always,
    /// After an exit code other than 0.
    OnFailure,
    /// Not at all.
    Never,
}

impl Policy {
    fn parse(s: Option<&str>) -> Option<Policy> {
        match s? {
            "Always" => Some(Policy::Always),
            "OnFailure" => Some(Policy::OnFailure),
            "Never" => Some(Policy::Never),
            _ => None,
        }
    }

    /// The pod's policy; `Always` when absent (the API's default).
    pub fn of(pod: &Pod) -> Policy {
        Policy::parse(pod.spec.as_ref().and_then(|s| s.restart_policy.as_deref())).unwrap_or(Policy::Always)
    }
}

/// The role of an entry of `initContainers`.
pub fn init_role(c: &Container) -> Role {
    if c.restart_policy.as_deref() == Some("Always") { Role::Sidecar } else { Role::Init }
}

/// All containers with their roles: init containers in order, then the others.
pub fn each(spec: &PodSpec) -> impl Iterator<Item = (Role, &Container)> {
    spec.init_containers
        .iter()
        .flatten()
        .map(|c| (init_role(c), c))
        .chain(spec.containers.iter().map(|c| (Role::Main, c)))
}

/// The container of that name.
pub fn find<'a>(spec: &'a PodSpec, name: &str) -> Option<(Role, &'a Container)> {
    each(spec).find(|(_, c)| c.name == name)
}

/// The containers that were added to a running pod, as containers like the others.
pub fn ephemeral(spec: &PodSpec) -> Vec<Container> {
    let plain = |e: &EphemeralContainer| Container {
        name: e.name.clone(),
        image: e.image.clone(),
        image_pull_policy: e.image_pull_policy.clone(),
        command: e.command.clone(),
        args: e.args.clone(),
        working_dir: e.working_dir.clone(),
        env: e.env.clone(),
        env_from: e.env_from.clone(),
        volume_mounts: e.volume_mounts.clone(),
        volume_devices: e.volume_devices.clone(),
        security_context: e.security_context.clone(),
        termination_message_path: e.termination_message_path.clone(),
        termination_message_policy: e.termination_message_policy.clone(),
        stdin: e.stdin,
        stdin_once: e.stdin_once,
        tty: e.tty,
        ..Container::default()
    };
    spec.ephemeral_containers.iter().flatten().map(plain).collect()
}

/// The container of that name, those that were added to the running pod included.
pub fn find_any<'a>(spec: &'a PodSpec, name: &str) -> Option<(Role, Cow<'a, Container>)> {
    if let Some((role, c)) = find(spec, name) {
        return Some((role, Cow::Borrowed(c)));
    }
    ephemeral(spec).into_iter().find(|c| c.name == name).map(|c| (Role::Ephemeral, Cow::Owned(c)))
}

/// Whether a container that ended with that code is started again. A container's own policy and rules come before the
/// pod's; an ordinary init container of an `Always` pod is repeated only until it succeeds.
pub fn restarts(pod: Policy, role: Role, c: &Container, exit_code: i32) -> bool {
    if role == Role::Ephemeral {
        return false;
    }
    if let Some(rule) = restart_rule(c, exit_code) {
        return matches!(rule.action.as_str(), "Restart" | super::reset::ACTION);
    }
    let policy = Policy::parse(c.restart_policy.as_deref()).unwrap_or(pod);
    match (role, policy) {
        (Role::Sidecar, _) => true,
        (Role::Ephemeral, _) => false,
        (_, Policy::Never) => false,
        (Role::Init, _) | (_, Policy::OnFailure) => exit_code != 0,
        (Role::Main, Policy::Always) => true,
    }
}

/// The first of a container's own rules that is about an end with that code.
pub(super) fn restart_rule(c: &Container, exit_code: i32) -> Option<&ContainerRestartRule> {
    c.restart_policy_rules.iter().flatten().find(|r| {
        r.exit_codes.as_ref().is_some_and(|e| {
            let listed = e.values.iter().flatten().any(|v| *v == exit_code);
            if e.operator == "NotIn" { !listed } else { listed }
        })
    })
}

/// Seconds from the stop signal to the kill, 30 when absent (the API's default).
pub fn grace_seconds(pod: &Pod) -> i64 {
    pod.spec.as_ref().and_then(|s| s.termination_grace_period_seconds).unwrap_or(30).max(0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use k8s_openapi::api::core::v1::{ContainerRestartRule, ContainerRestartRuleOnExitCodes};

    #[test]
    fn restart_table() {
        let c = Container::default();
        for (policy, role, code, expected) in [
            (Policy::Always, Role::Main, 0, true),
            (Policy::Always, Role::Main, 1, true),
            (Policy::OnFailure, Role::Main, 0, false),
            (Policy::OnFailure, Role::Main, 1, true),
            (Policy::Never, Role::Main, 1, false),
            (Policy::Always, Role::Init, 0, false),
            (Policy::Always, Role::Init, 1, true),
            (Policy::Never, Role::Init, 1, false),
            (Policy::Never, Role::Sidecar, 0, true),
        ] {
            assert_eq!(restarts(policy, role, &c, code), expected, "{policy:?} {role:?} {code}");
        }
    }

    #[test]
    fn a_rule_of_the_container_comes_before_the_pods_policy() {
        let rule = ContainerRestartRule {
            action: "Restart".into(),
            exit_codes: Some(ContainerRestartRuleOnExitCodes { operator: "In".into(), values: Some(vec![42]) }),
        };
        let c = Container {
            restart_policy: Some("Never".into()),
            restart_policy_rules: Some(vec![rule]),
            ..Container::default()
        };
        assert!(restarts(Policy::Always, Role::Main, &c, 42));
        assert!(!restarts(Policy::Always, Role::Main, &c, 1));
    }
}
