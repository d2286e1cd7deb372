//! AppArmor (`man 7 apparmor`): under which profile a container runs, and which pods a node cannot take because of it. The
//! rules and words are the kubelet's (pkg/security/apparmor) and containerd's.
//!
//! Profiles are the administrator's to load. Only the default one is ours: it is loaded when the agent starts, where the
//! kernel has AppArmor and the host `apparmor_parser`.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use k8s_openapi::api::core::v1::{AppArmorProfile, Container, Pod};
use reconcile::pod::Failure;

/// What `RuntimeDefault` is.
const DEFAULT: &str = "windlass-default";
/// A profile of before there were fields for it.
const ANNOTATION: &str = "container.apparmor.security.beta.kubernetes.io/";
/// The version of the policy language that the default profile is written in: without it, what a newer kernel mediates and
/// the profile does not name would be denied.
const ABI: &str = "abi/3.0";

/// What the kernel has of it.
#[derive(Debug, Clone)]
pub(crate) struct AppArmor {
    root: PathBuf,
    enabled: bool,
}

impl AppArmor {
    /// That of the host whose root is there.
    pub(crate) fn of(root: &Path) -> Self {
        let enabled = std::fs::read_to_string(root.join("sys/module/apparmor/parameters/enabled"));
        let enabled =
            enabled.is_ok_and(|text| text.starts_with('Y')) && root.join("sys/kernel/security/apparmor").is_dir();
        AppArmor { root: root.to_path_buf(), enabled }
    }

    /// Loads the default profile, if it is not there. Blocks while a program runs.
    pub(crate) fn load_default(&self) {
        if !self.enabled || self.has(DEFAULT) {
            return;
        }
        match load(&profile(self.root.join("etc/apparmor.d").join(ABI).exists())) {
            Ok(()) => tracing::info!(profile = DEFAULT, "loaded into the kernel"),
            Err(error) => {
                tracing::warn!(profile = DEFAULT, error, "not loaded: containers run without an AppArmor profile");
            }
        }
    }

    /// Whether a profile is loaded.
    fn has(&self, name: &str) -> bool {
        let list = std::fs::read_to_string(self.root.join("sys/kernel/security/apparmor/profiles")).unwrap_or_default();
        list.lines().filter_map(|line| line.rsplit_once(" (")).any(|(loaded, _)| loaded == name)
    }

    /// Why the node does not take a pod, if it does not: somebody relies on what the kernel does not have.
    pub(crate) fn refusal(&self, pod: &Pod) -> Option<Failure> {
        if self.enabled || !is_required(pod) {
            return None;
        }
        Some(Failure::new("AppArmor", "Cannot enforce AppArmor: AppArmor is not enabled on the host"))
    }

    /// The profile that a container runs under.
    ///
    /// # Errors
    /// It is not loaded, or the kernel has none.
    pub(crate) fn profile_of(&self, pod: &Pod, c: &Container) -> Result<Option<String>, Failure> {
        let failed = |message: String| Failure::new("CreateContainerError", message);
        let wanted = wanted(pod, c).map(|p| (p.type_.as_str(), p.localhost_profile.as_deref()));
        if !self.enabled {
            let confined = wanted.is_some_and(|(kind, _)| kind != "Unconfined");
            return if confined { Err(failed("apparmor is not supported".to_owned())) } else { Ok(None) };
        }
        let privileged = c.security_context.as_ref().and_then(|s| s.privileged) == Some(true);
        let missing = |name: &str| failed(format!("apparmor profile not found {name}"));
        let named = |name: &str| if self.has(name) { Ok(Some(name.to_owned())) } else { Err(missing(name)) };
        match wanted {
            Some(("Unconfined", _)) => Ok(None),
            Some(("Localhost", name)) => named(name.unwrap_or_default()),
            // Whoever may do everything is not kept from it.
            _ if privileged => Ok(None),
            Some(_) => named(DEFAULT),
            // Nobody asked for it: where it cannot be had, it is done without.
            None => Ok(self.has(DEFAULT).then(|| DEFAULT.to_owned())),
        }
    }
}

/// The container's own, or the pod's.
fn wanted<'a>(pod: &'a Pod, c: &'a Container) -> Option<&'a AppArmorProfile> {
    let own = c.security_context.as_ref().and_then(|s| s.app_armor_profile.as_ref());
    own.or_else(|| pod.spec.as_ref()?.security_context.as_ref()?.app_armor_profile.as_ref())
}

fn is_required(pod: &Pod) -> bool {
    let Some(spec) = &pod.spec else { return false };
    let confined = |p: Option<&AppArmorProfile>| p.is_some_and(|p| p.type_ != "Unconfined");
    let of_pod = spec.security_context.as_ref().and_then(|s| s.app_armor_profile.as_ref());
    let containers = reconcile::pod::each(spec).filter_map(|(_, c)| c.security_context.as_ref());
    let annotations = pod.metadata.annotations.iter().flatten();
    confined(of_pod)
        || containers.map(|s| s.app_armor_profile.as_ref()).any(confined)
        || annotations.filter(|(k, _)| k.starts_with(ANNOTATION)).any(|(_, v)| v != "unconfined")
}

/// The default profile: everything that the rest of a container's confinement lets through, but for what changes mounts or
/// reaches the kernel's own files past the masks on them.
fn profile(has_abi: bool) -> String {
    let abi = if has_abi { format!("abi <{ABI}>,\n") } else { String::new() };
    format!(
        "{abi}profile {DEFAULT} flags=(attach_disconnected,mediate_deleted) {{
  file,
  network,
  capability,
  umount,
  signal (receive) peer=unconfined,
  signal (send, receive) peer={DEFAULT},
  ptrace (trace, tracedby, read, readby) peer={DEFAULT},
  deny mount,
  deny /proc/{{kcore,kmem,mem,sysrq-trigger}} rwklx,
  deny /proc/sys/kernel/{{core_pattern,modprobe}} wklx,
  deny /sys/devices/virtual/powercap/** rwklx,
  deny /sys/firmware/** rwklx,
  deny /sys/kernel/security/** rwklx,
}}
"
    )
}

/// Hands a profile to the kernel, through the program that translates it. It is found where the host has it, and
/// not compiled ahead: nothing else could.
fn load(profile: &str) -> Result<(), String> {
    let mut command = Command::new("apparmor_parser");
    command.args(["--replace", "--skip-cache"]).stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::piped());
    let mut child = command.spawn().map_err(|e| format!("apparmor_parser: {e}"))?;
    let written = child.stdin.take().map(|mut to| to.write_all(profile.as_bytes()));
    let output = child.wait_with_output().map_err(|e| format!("apparmor_parser: {e}"))?;
    if !output.status.success() {
        return Err(format!("apparmor_parser: {}", String::from_utf8_lossy(&output.stderr).trim()));
    }
    written.unwrap_or(Ok(())).map_err(|e| format!("apparmor_parser: {e}"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    /// A host whose kernel has these profiles; `None`: it has no AppArmor.
    fn host(profiles: Option<&str>) -> (tempfile::TempDir, AppArmor) {
        let root = tempfile::tempdir().expect("a folder");
        let put = |path: &str, text: &str| {
            let path = root.path().join(path);
            std::fs::create_dir_all(path.parent().expect("a parent")).expect("a folder");
            std::fs::write(path, text).expect("a file");
        };
        if let Some(profiles) = profiles {
            put("sys/module/apparmor/parameters/enabled", "Y\n");
            put("sys/kernel/security/apparmor/profiles", profiles);
        }
        let found = AppArmor::of(root.path());
        (root, found)
    }

    fn pod(pod: &Value, c: &Value) -> Pod {
        let context = |profile: &Value| match profile {
            Value::Null => json!({}),
            profile => json!({"appArmorProfile": profile}),
        };
        let c = json!({"name": "c", "securityContext": context(c)});
        serde_json::from_value(json!({"spec": {"securityContext": context(pod), "containers": [c]}})).expect("a pod")
    }

    fn local(name: &str) -> Value {
        json!({"type": "Localhost", "localhostProfile": name})
    }

    #[test]
    fn a_kernel_without_it_takes_only_pods_that_do_not_rely_on_it() {
        let (_root, none) = host(None);
        let default = json!({"type": "RuntimeDefault"});
        let unconfined = json!({"type": "Unconfined"});
        let told = |p: &Pod| none.refusal(p).map(|f| (f.reason, f.message));
        let refused =
            Some(("AppArmor".to_owned(), "Cannot enforce AppArmor: AppArmor is not enabled on the host".to_owned()));
        for (of_pod, of_container, expected) in [
            (&Value::Null, &Value::Null, &None),
            (&unconfined, &Value::Null, &None),
            (&Value::Null, &unconfined, &None),
            (&Value::Null, &local("p"), &refused),
            (&default, &Value::Null, &refused),
            (&default, &unconfined, &refused),
        ] {
            assert_eq!(told(&pod(of_pod, of_container)), *expected, "{of_pod} {of_container}");
        }
        let mut old = pod(&Value::Null, &Value::Null);
        old.metadata.annotations = Some([(format!("{ANNOTATION}c"), "runtime/default".to_owned())].into());
        assert_eq!(told(&old), refused);
        let of =
            |pod: &Pod| none.profile_of(pod, &pod.spec.as_ref().expect("spec").containers[0]).map_err(|e| e.message);
        assert_eq!(of(&pod(&Value::Null, &Value::Null)), Ok(None));
        let added = of(&pod(&Value::Null, &local("p")));
        assert_eq!(added, Err("apparmor is not supported".to_owned()), "a container that came later");
    }

    #[test]
    fn a_container_runs_under_its_own_profile_the_pods_or_the_default() {
        let (_root, kernel) = host(Some("windlass-default (enforce)\nown (complain)\nns://a b (enforce)\n"));
        let of = |pod: &Pod| {
            let c = &pod.spec.as_ref().expect("spec").containers[0];
            kernel.profile_of(pod, c).map_err(|e| e.message)
        };
        let ok = |name: &str| Ok(Some(name.to_owned()));
        let none = Value::Null;
        assert_eq!(of(&pod(&none, &none)), ok(DEFAULT));
        assert_eq!(of(&pod(&json!({"type": "RuntimeDefault"}), &none)), ok(DEFAULT));
        assert_eq!(of(&pod(&local("own"), &none)), ok("own"));
        assert_eq!(of(&pod(&local("own"), &local("ns://a b"))), ok("ns://a b"));
        assert_eq!(of(&pod(&local("own"), &json!({"type": "Unconfined"}))), Ok(None));
        assert_eq!(of(&pod(&none, &local("ow"))), Err("apparmor profile not found ow".to_owned()));
        assert!(kernel.refusal(&pod(&none, &local("ow"))).is_none(), "its container says so");
        let mut privileged = pod(&none, &none);
        let spec = privileged.spec.as_mut().expect("spec");
        spec.containers[0].security_context.as_mut().expect("context").privileged = Some(true);
        assert_eq!(of(&privileged), Ok(None));
    }

    #[test]
    fn a_default_that_could_not_be_loaded_is_missed_only_by_those_who_ask_for_it() {
        let (_root, kernel) = host(Some(""));
        let of =
            |pod: &Pod| kernel.profile_of(pod, &pod.spec.as_ref().expect("spec").containers[0]).map_err(|e| e.message);
        assert_eq!(of(&pod(&Value::Null, &Value::Null)), Ok(None));
        let asked = of(&pod(&json!({"type": "RuntimeDefault"}), &Value::Null));
        assert_eq!(asked, Err("apparmor profile not found windlass-default".to_owned()));
    }
}
