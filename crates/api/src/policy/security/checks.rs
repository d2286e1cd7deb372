//! The single rules of the pod security standards, in the order in which Kubernetes reports them.

use std::collections::BTreeSet;

use serde_json::Value;

use super::{Level, Violation};
use crate::json::{at, bool_at, int_at, list_at, map_at, str_at};

/// A pod as the rules see it.
struct Pod<'a> {
    metadata: &'a Value,
    spec: &'a Value,
    containers: Vec<&'a Value>,
    minor: u32,
}

/// A rule: the details of what breaks it.
type Rule = fn(&Pod<'_>) -> Option<(String, String)>;

/// From which minor version a rule holds, and for which levels.
struct Entry {
    rule: Rule,
    from: u32,
    /// Superseded by a rule of the restricted level from this version on.
    superseded: u32,
}

const NEVER: u32 = u32::MAX;
const fn rule(rule: Rule, from: u32, superseded: u32) -> Entry {
    Entry { rule, from, superseded }
}

const BASELINE: [Entry; 12] = [
    rule(app_armor, 0, NEVER),
    rule(capabilities_baseline, 0, 22),
    rule(host_namespaces, 0, NEVER),
    rule(host_path, 0, 0),
    rule(host_ports, 0, NEVER),
    rule(host_probes, 34, NEVER),
    rule(privileged, 0, NEVER),
    rule(proc_mount_baseline, 0, 35),
    rule(se_linux, 0, NEVER),
    rule(seccomp_baseline, 0, 19),
    rule(sysctls, 0, NEVER),
    rule(windows_host_process, 0, NEVER),
];

const RESTRICTED: [Entry; 7] = [
    rule(privilege_escalation, 8, NEVER),
    rule(capabilities_restricted, 22, NEVER),
    rule(proc_mount, 35, NEVER),
    rule(volume_types, 0, NEVER),
    rule(run_as_non_root, 0, NEVER),
    rule(run_as_user, 23, NEVER),
    rule(seccomp_restricted, 19, NEVER),
];

/// Runs the rules of a level as of a minor version.
pub(super) fn run(level: Level, minor: u32, metadata: &Value, spec: &Value) -> Vec<Violation> {
    let lists = ["initContainers", "containers", "ephemeralContainers"];
    let containers = lists.iter().flat_map(|list| list_at(spec, &[list])).collect();
    let pod = Pod { metadata, spec, containers, minor };
    let restricted = level == Level::Restricted;
    let baseline = BASELINE.iter().filter(|e| minor >= e.from && !(restricted && minor >= e.superseded));
    let more = RESTRICTED.iter().filter(|e| restricted && minor >= e.from);
    let found = baseline.chain(more).filter_map(|entry| (entry.rule)(&pod));
    found.map(|(reason, detail)| Violation { reason, detail }).collect()
}

impl<'a> Pod<'a> {
    /// Names of the containers for which `bad` holds.
    fn which(&self, mut bad: impl FnMut(&'a Value) -> bool) -> Vec<&'a str> {
        self.containers.iter().filter(|c| bad(c)).map(|c| str_at(c, &["name"])).collect()
    }

    fn annotations(&self) -> impl Iterator<Item = (&'a String, &'a str)> + use<'a> {
        let metadata: &'a Value = self.metadata;
        map_at(metadata, &["annotations"]).into_iter().flatten().filter_map(|(k, v)| Some((k, v.as_str()?)))
    }

    fn is_windows(&self) -> bool {
        self.minor >= 25 && str_at(self.spec, &["os", "name"]) == "windows"
    }

    /// Root in a user namespace of its own is nobody outside of it.
    fn has_own_users(&self) -> bool {
        self.minor >= 35 && at(self.spec, &["hostUsers"]) == Some(&Value::Bool(false))
    }
}

fn quoted<S: AsRef<str>>(items: impl IntoIterator<Item = S>) -> String {
    items.into_iter().map(|s| format!("\"{}\"", s.as_ref())).collect::<Vec<_>>().join(", ")
}

fn plural<'a>(one: &'a str, many: &'a str, count: usize) -> &'a str {
    if count == 1 { one } else { many }
}

/// `container "a"`, `containers "a", "b"`.
fn containers(names: &[&str]) -> String {
    format!("{} {}", plural("container", "containers", names.len()), quoted(names))
}

/// The pod itself and containers as subjects of a sentence; empty when there are none.
fn setters(pod: bool, names: &[&str]) -> Vec<String> {
    let mut out = Vec::new();
    if pod {
        out.push("pod".to_owned());
    }
    if !names.is_empty() {
        out.push(containers(names));
    }
    out
}

fn security<'a>(container: &'a Value, key: &str) -> Option<&'a Value> {
    at(container, &["securityContext", key])
}

fn app_armor(pod: &Pod<'_>) -> Option<(String, String)> {
    let mut values = BTreeSet::new();
    let mut bad = |owner: &Value| {
        let Some(profile) = security(owner, "appArmorProfile") else { return false };
        let kind = str_at(profile, &["type"]);
        let forbidden = !matches!(kind, "RuntimeDefault" | "Localhost");
        if forbidden {
            values.insert(kind.to_owned());
        }
        forbidden
    };
    let whole = bad(pod.spec);
    let names = pod.which(bad);
    let mut subjects = setters(whole, &names);
    let allowed = |v: &str| v.is_empty() || v == "runtime/default" || v.starts_with("localhost/");
    let mut annotations: Vec<String> = pod
        .annotations()
        .filter(|(k, v)| k.starts_with("container.apparmor.security.beta.kubernetes.io/") && !allowed(v))
        .map(|(k, v)| format!("{k}={v:?}"))
        .collect();
    annotations.sort_unstable();
    if !annotations.is_empty() {
        subjects.push(plural("annotation", "annotations", annotations.len()).to_owned());
    }
    if subjects.is_empty() {
        return None;
    }
    let values: Vec<String> = values.into_iter().chain(annotations).collect();
    let reason = plural("forbidden AppArmor profile", "forbidden AppArmor profiles", values.len());
    Some((
        reason.into(),
        format!("{} must not set AppArmor profile type to {}", subjects.join(" and "), quoted(&values)),
    ))
}

/// Capabilities that container runtimes give without being asked.
const DEFAULT_CAPABILITIES: [&str; 13] = [
    "AUDIT_WRITE",
    "CHOWN",
    "DAC_OVERRIDE",
    "FOWNER",
    "FSETID",
    "KILL",
    "MKNOD",
    "NET_BIND_SERVICE",
    "SETFCAP",
    "SETGID",
    "SETPCAP",
    "SETUID",
    "SYS_CHROOT",
];

/// Containers that add capabilities beyond `allowed`, and which.
fn added<'a>(pod: &Pod<'a>, allowed: &[&str]) -> (Vec<&'a str>, BTreeSet<String>) {
    let mut forbidden = BTreeSet::new();
    let names = pod.which(|c| {
        let mut any = false;
        for capability in list_at(c, &["securityContext", "capabilities", "add"]).iter().filter_map(Value::as_str) {
            if !allowed.contains(&capability) {
                any = true;
                forbidden.insert(capability.to_owned());
            }
        }
        any
    });
    (names, forbidden)
}

fn must_not_add(names: &[&str], forbidden: &BTreeSet<String>) -> String {
    format!("{} must not include {} in securityContext.capabilities.add", containers(names), quoted(forbidden))
}

fn capabilities_baseline(pod: &Pod<'_>) -> Option<(String, String)> {
    let (names, forbidden) = added(pod, &DEFAULT_CAPABILITIES);
    (!names.is_empty()).then(|| ("non-default capabilities".into(), must_not_add(&names, &forbidden)))
}

fn capabilities_restricted(pod: &Pod<'_>) -> Option<(String, String)> {
    if pod.is_windows() {
        return None;
    }
    let undropped = pod.which(|c| !list_at(c, &["securityContext", "capabilities", "drop"]).iter().any(|d| d == "ALL"));
    let (names, forbidden) = added(pod, &["NET_BIND_SERVICE"]);
    let mut details = Vec::new();
    if !undropped.is_empty() {
        details.push(format!("{} must set securityContext.capabilities.drop=[\"ALL\"]", containers(&undropped)));
    }
    if !names.is_empty() {
        details.push(must_not_add(&names, &forbidden));
    }
    (!details.is_empty()).then(|| ("unrestricted capabilities".into(), details.join("; ")))
}

fn host_namespaces(pod: &Pod<'_>) -> Option<(String, String)> {
    let used: Vec<String> = ["hostNetwork", "hostPID", "hostIPC"]
        .iter()
        .filter(|key| bool_at(pod.spec, &[key]))
        .map(|key| format!("{key}=true"))
        .collect();
    (!used.is_empty()).then(|| ("host namespaces".into(), used.join(", ")))
}

fn host_path(pod: &Pod<'_>) -> Option<(String, String)> {
    let names: Vec<&str> = list_at(pod.spec, &["volumes"])
        .iter()
        .filter(|v| at(v, &["hostPath"]).is_some())
        .map(|v| str_at(v, &["name"]))
        .collect();
    let detail = || format!("{} {}", plural("volume", "volumes", names.len()), quoted(&names));
    (!names.is_empty()).then(|| ("hostPath volumes".into(), detail()))
}

fn host_ports(pod: &Pod<'_>) -> Option<(String, String)> {
    let mut ports = BTreeSet::new();
    let names = pod.which(|c| {
        let mut any = false;
        for port in list_at(c, &["ports"]).iter().filter_map(|p| int_at(p, &["hostPort"])).filter(|p| *p != 0) {
            any = true;
            ports.insert(port.to_string());
        }
        any
    });
    let uses = plural("uses", "use", names.len());
    let what = plural("hostPort", "hostPorts", ports.len());
    let list = || ports.iter().map(String::as_str).collect::<Vec<_>>().join(", ");
    (!names.is_empty()).then(|| ("hostPort".into(), format!("{} {uses} {what} {}", containers(&names), list())))
}

fn host_probes(pod: &Pod<'_>) -> Option<(String, String)> {
    let mut hosts = BTreeSet::new();
    let probes: [&[&str]; 5] = [
        &["livenessProbe"],
        &["readinessProbe"],
        &["startupProbe"],
        &["lifecycle", "postStart"],
        &["lifecycle", "preStop"],
    ];
    let mut names = pod.which(|c| {
        let mut any = false;
        for probe in probes.iter().filter_map(|path| at(c, path)) {
            for host in ["httpGet", "tcpSocket"].iter().map(|k| str_at(probe, &[k, "host"])).filter(|h| !h.is_empty()) {
                any = true;
                hosts.insert(host.to_owned());
            }
        }
        any
    });
    names.sort_unstable();
    let uses = plural("uses", "use", names.len());
    let what = plural("probe or lifecycle host", "probe or lifecycle hosts", hosts.len());
    let detail = || format!("{} {uses} {what} {}", containers(&names), quoted(&hosts));
    (!names.is_empty()).then(|| ("probe or lifecycle host".into(), detail()))
}

fn privileged(pod: &Pod<'_>) -> Option<(String, String)> {
    let names = pod.which(|c| bool_at(c, &["securityContext", "privileged"]));
    let detail = || format!("{} must not set securityContext.privileged=true", containers(&names));
    (!names.is_empty()).then(|| ("privileged".into(), detail()))
}

fn proc_mount_baseline(pod: &Pod<'_>) -> Option<(String, String)> {
    if pod.has_own_users() { None } else { proc_mount(pod) }
}

fn proc_mount(pod: &Pod<'_>) -> Option<(String, String)> {
    let mut kinds = BTreeSet::new();
    let names = pod.which(|c| match security(c, "procMount").and_then(Value::as_str) {
        None | Some("Default") => false,
        Some(other) => {
            kinds.insert(other.to_owned());
            true
        }
    });
    let detail = || format!("{} must not set securityContext.procMount to {}", containers(&names), quoted(&kinds));
    (!names.is_empty()).then(|| ("procMount".into(), detail()))
}

fn se_linux(pod: &Pod<'_>) -> Option<(String, String)> {
    let mut allowed = vec!["", "container_t", "container_init_t", "container_kvm_t"];
    if pod.minor >= 31 {
        allowed.push("container_engine_t");
    }
    let (mut types, mut user, mut role) = (BTreeSet::new(), false, false);
    let mut bad = |owner: &Value| {
        let Some(options) = security(owner, "seLinuxOptions") else { return false };
        let kind = str_at(options, &["type"]);
        let has = |key: &str| !str_at(options, &[key]).is_empty();
        let odd = !allowed.contains(&kind);
        if odd {
            types.insert(kind.to_owned());
        }
        user |= has("user");
        role |= has("role");
        odd || has("user") || has("role")
    };
    let whole = bad(pod.spec);
    let names = pod.which(bad);
    let subjects = setters(whole, &names);
    if subjects.is_empty() {
        return None;
    }
    let mut data = Vec::new();
    if !types.is_empty() {
        data.push(format!("{} {}", plural("type", "types", types.len()), quoted(&types)));
    }
    if user {
        data.push("user may not be set".into());
    }
    if role {
        data.push("role may not be set".into());
    }
    let detail =
        format!("{} set forbidden securityContext.seLinuxOptions: {}", subjects.join(" and "), data.join("; "));
    Some(("seLinuxOptions".into(), detail))
}

/// Who sets a seccomp profile that is none of the two good ones, as subjects and values, and who sets a good one.
struct Seccomp<'a> {
    refused: Option<(String, String)>,
    pod_is_good: bool,
    /// Containers without a profile.
    silent: Vec<&'a str>,
}

fn seccomp<'a>(pod: &Pod<'a>) -> Seccomp<'a> {
    let mut values = BTreeSet::new();
    let mut bad = |owner: &Value| {
        let Some(profile) = security(owner, "seccompProfile") else { return false };
        let kind = str_at(profile, &["type"]);
        let forbidden = !matches!(kind, "RuntimeDefault" | "Localhost");
        if forbidden {
            values.insert(kind.to_owned());
        }
        forbidden
    };
    let whole = bad(pod.spec);
    let names = pod.which(bad);
    let subjects = setters(whole, &names);
    let detail = || {
        let values = quoted(&values);
        format!("{} must not set securityContext.seccompProfile.type to {values}", subjects.join(" and "))
    };
    Seccomp {
        refused: (!subjects.is_empty()).then(|| ("seccompProfile".into(), detail())),
        pod_is_good: !whole && security(pod.spec, "seccompProfile").is_some(),
        silent: pod.which(|c| security(c, "seccompProfile").is_none()),
    }
}

fn seccomp_baseline(pod: &Pod<'_>) -> Option<(String, String)> {
    if pod.minor >= 19 {
        return seccomp(pod).refused;
    }
    // Before the field there were annotations.
    let whole = "seccomp.security.alpha.kubernetes.io/pod";
    let prefix = "container.seccomp.security.alpha.kubernetes.io/";
    let good = |v: &str| matches!(v, "runtime/default" | "docker/default") || v.starts_with("localhost/");
    let names: Vec<&str> = pod.containers.iter().map(|c| str_at(c, &["name"])).collect();
    let forbidden: BTreeSet<String> = pod
        .annotations()
        .filter(|(k, _)| *k == whole || k.strip_prefix(prefix).is_some_and(|name| names.contains(&name)))
        .filter(|(_, v)| !good(v))
        .map(|(k, v)| format!("{k}={v:?}"))
        .collect();
    let list = || forbidden.iter().map(String::as_str).collect::<Vec<_>>().join(", ");
    let what = plural("annotation", "annotations", forbidden.len());
    (!forbidden.is_empty()).then(|| ("seccompProfile".into(), format!("forbidden {what} {}", list())))
}

fn seccomp_restricted(pod: &Pod<'_>) -> Option<(String, String)> {
    if pod.is_windows() {
        return None;
    }
    let found = seccomp(pod);
    if found.refused.is_some() || found.pod_is_good || found.silent.is_empty() {
        return found.refused;
    }
    let who = containers(&found.silent);
    let must = r#"must set securityContext.seccompProfile.type to "RuntimeDefault" or "Localhost""#;
    Some(("seccompProfile".into(), format!("pod or {who} {must}")))
}

/// Sysctls that act on the pod alone, with the minor version since which they count as such.
const SAFE_SYSCTLS: [(&str, u32); 12] = [
    ("kernel.shm_rmid_forced", 0),
    ("net.ipv4.ip_local_port_range", 0),
    ("net.ipv4.tcp_syncookies", 0),
    ("net.ipv4.ping_group_range", 0),
    ("net.ipv4.ip_unprivileged_port_start", 0),
    ("net.ipv4.ip_local_reserved_ports", 27),
    ("net.ipv4.tcp_keepalive_time", 29),
    ("net.ipv4.tcp_fin_timeout", 29),
    ("net.ipv4.tcp_keepalive_intvl", 29),
    ("net.ipv4.tcp_keepalive_probes", 29),
    ("net.ipv4.tcp_rmem", 32),
    ("net.ipv4.tcp_wmem", 32),
];

fn sysctls(pod: &Pod<'_>) -> Option<(String, String)> {
    let safe = |name: &str| SAFE_SYSCTLS.iter().any(|(known, since)| *known == name && pod.minor >= *since);
    let used: Vec<&str> = list_at(pod.spec, &["securityContext", "sysctls"])
        .iter()
        .map(|s| str_at(s, &["name"]))
        .filter(|name| !safe(name))
        .collect();
    (!used.is_empty()).then(|| ("forbidden sysctls".into(), used.join(", ")))
}

fn windows_host_process(pod: &Pod<'_>) -> Option<(String, String)> {
    let bad = |owner: &Value| bool_at(owner, &["securityContext", "windowsOptions", "hostProcess"]);
    let names = pod.which(bad);
    let subjects = setters(bad(pod.spec), &names);
    let must = "must not set securityContext.windowsOptions.hostProcess=true";
    (!subjects.is_empty()).then(|| ("hostProcess".into(), format!("{} {must}", subjects.join(" and "))))
}

fn privilege_escalation(pod: &Pod<'_>) -> Option<(String, String)> {
    if pod.is_windows() {
        return None;
    }
    let names = pod.which(|c| security(c, "allowPrivilegeEscalation") != Some(&Value::Bool(false)));
    let detail = || format!("{} must set securityContext.allowPrivilegeEscalation=false", containers(&names));
    (!names.is_empty()).then(|| ("allowPrivilegeEscalation != false".into(), detail()))
}

/// Volumes that bring nothing of the host into a pod.
const SAFE_VOLUMES: [&str; 9] = [
    "configMap",
    "csi",
    "downwardAPI",
    "emptyDir",
    "ephemeral",
    "image",
    "persistentVolumeClaim",
    "projected",
    "secret",
];

fn volume_types(pod: &Pod<'_>) -> Option<(String, String)> {
    let (mut names, mut types) = (Vec::new(), BTreeSet::new());
    for volume in list_at(pod.spec, &["volumes"]) {
        if SAFE_VOLUMES.iter().any(|kind| at(volume, &[kind]).is_some()) {
            continue;
        }
        names.push(str_at(volume, &["name"]));
        let source = volume.as_object().into_iter().flatten().find(|(k, v)| *k != "name" && !v.is_null());
        types.insert(source.map_or("unknown", |(k, _)| k.as_str()).to_owned());
    }
    if names.is_empty() {
        return None;
    }
    let subject = format!("{} {}", plural("volume", "volumes", names.len()), quoted(&names));
    let uses = plural("uses", "use", names.len());
    let what = plural("restricted volume type", "restricted volume types", types.len());
    Some(("restricted volume types".into(), format!("{subject} {uses} {what} {}", quoted(&types))))
}

fn run_as_non_root(pod: &Pod<'_>) -> Option<(String, String)> {
    if pod.has_own_users() {
        return None;
    }
    let says = |owner: &Value| security(owner, "runAsNonRoot").and_then(Value::as_bool);
    let whole = says(pod.spec);
    let subjects = setters(whole == Some(false), &pod.which(|c| says(c) == Some(false)));
    let reason = "runAsNonRoot != true".to_owned();
    if !subjects.is_empty() {
        return Some((reason, format!("{} must not set securityContext.runAsNonRoot=false", subjects.join(" and "))));
    }
    let silent = if whole == Some(true) { Vec::new() } else { pod.which(|c| says(c).is_none()) };
    let detail = || format!("pod or {} must set securityContext.runAsNonRoot=true", containers(&silent));
    (!silent.is_empty()).then(|| (reason, detail()))
}

fn run_as_user(pod: &Pod<'_>) -> Option<(String, String)> {
    if pod.has_own_users() {
        return None;
    }
    let root = |owner: &Value| security(owner, "runAsUser").and_then(Value::as_i64) == Some(0);
    let subjects = setters(root(pod.spec), &pod.which(root));
    (!subjects.is_empty())
        .then(|| ("runAsUser=0".into(), format!("{} must not set runAsUser=0", subjects.join(" and "))))
}
