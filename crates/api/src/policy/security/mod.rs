//! The pod security standards: levels and versions from a namespace's labels, and how a pod violates them
//! (<https://kubernetes.io/docs/concepts/security/pod-security-standards/>).

use std::fmt;

use serde_json::{Map, Value};

use crate::status::FieldError;

mod checks;

/// Labels of a namespace begin with it.
const PREFIX: &str = "pod-security.kubernetes.io/";
/// The newest minor version of the standards that this server knows; a later one means this one.
const NEWEST: u32 = 36;

/// How much is forbidden.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Level {
    /// Nothing.
    Privileged,
    /// What is known to give power over the host.
    Baseline,
    /// What current best practice advises against.
    Restricted,
}

impl Level {
    fn parse(text: &str) -> Option<Self> {
        match text {
            "privileged" => Some(Level::Privileged),
            "baseline" => Some(Level::Baseline),
            "restricted" => Some(Level::Restricted),
            _ => None,
        }
    }

    fn as_str(self) -> &'static str {
        match self {
            Level::Privileged => "privileged",
            Level::Baseline => "baseline",
            Level::Restricted => "restricted",
        }
    }
}

/// A level of the standards as of a minor version of Kubernetes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Standard {
    /// How much is forbidden.
    pub level: Level,
    /// Minor version; `None` for the newest.
    pub minor: Option<u32>,
}

impl Standard {
    const NONE: Standard = Standard { level: Level::Privileged, minor: None };

    fn minor(self) -> u32 {
        self.minor.unwrap_or(NEWEST).min(NEWEST)
    }
}

impl fmt::Display for Standard {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.minor {
            Some(minor) => write!(f, "{}:v1.{minor}", self.level.as_str()),
            None => write!(f, "{}:latest", self.level.as_str()),
        }
    }
}

/// What a namespace asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Policy {
    /// Pods that violate it are refused.
    pub enforce: Standard,
    /// Violations are recorded.
    pub audit: Standard,
    /// Violations are told to the writer.
    pub warn: Standard,
}

/// Reads the labels of a namespace. What cannot be read is a finding, and counts as restricted where it would refuse pods.
pub fn policy(labels: &Map<String, Value>) -> (Policy, Vec<FieldError>) {
    let mut errors = Vec::new();
    let enforce = standard(labels, "enforce", Level::Restricted, &mut errors);
    let audit = standard(labels, "audit", Level::Privileged, &mut errors);
    let warn = standard(labels, "warn", Level::Privileged, &mut errors);
    let speaks = |key: &str| labels.contains_key(&format!("{PREFIX}{key}"));
    let sound = labels.get(&format!("{PREFIX}enforce")).and_then(Value::as_str).and_then(Level::parse);
    // A namespace that enforces and does not speak of warnings warns of the same, so that templates are heard of.
    let warn = match sound {
        Some(level) if !speaks("warn") && level > warn.level => {
            Standard { level, minor: if speaks("warn-version") { warn.minor } else { enforce.minor } }
        }
        _ => warn,
    };
    (Policy { enforce, audit, warn }, errors)
}

fn standard(labels: &Map<String, Value>, mode: &str, fallback: Level, errors: &mut Vec<FieldError>) -> Standard {
    let mut out = Standard::NONE;
    let key = format!("{PREFIX}{mode}");
    if let Some(text) = labels.get(&key).and_then(Value::as_str) {
        out.level = Level::parse(text).unwrap_or_else(|| {
            let detail = "must be one of privileged, baseline, restricted";
            errors.push(FieldError::invalid(format!("metadata.labels[{key}]"), text, detail));
            fallback
        });
    }
    let key = format!("{PREFIX}{mode}-version");
    if let Some(text) = labels.get(&key).and_then(Value::as_str) {
        match minor(text) {
            Some(minor) => out.minor = minor,
            None => {
                let detail = "must be \"latest\" or \"v1.x\"";
                errors.push(FieldError::invalid(format!("metadata.labels[{key}]"), text, detail));
            }
        }
    }
    out
}

/// `latest` or `v1.N`.
fn minor(text: &str) -> Option<Option<u32>> {
    if text == "latest" {
        return Some(None);
    }
    let digits = text.strip_prefix("v1.")?;
    let plain = digits == "0" || !digits.starts_with('0') && digits.bytes().all(|b| b.is_ascii_digit());
    (plain && !digits.is_empty()).then(|| digits.parse().ok().map(Some)).flatten()
}

/// One way in which a pod violates a standard.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Violation {
    /// What is forbidden.
    pub reason: String,
    /// Who does it how; may be empty.
    pub detail: String,
}

/// How a pod, or what a template would make, violates a standard.
pub fn violations(standard: Standard, metadata: &Value, spec: &Value) -> Vec<Violation> {
    match standard.level {
        Level::Privileged => Vec::new(),
        level => checks::run(level, standard.minor(), metadata, spec),
    }
}

/// All violations in one line with their details.
pub fn details(violations: &[Violation]) -> String {
    let one = |v: &Violation| match v.detail.as_str() {
        "" => v.reason.clone(),
        detail => format!("{} ({detail})", v.reason),
    };
    violations.iter().map(one).collect::<Vec<_>>().join(", ")
}

/// All violations in one line.
pub fn reasons(violations: &[Violation]) -> String {
    violations.iter().map(|v| v.reason.as_str()).collect::<Vec<_>>().join(", ")
}

/// The pod template of a workload: its metadata and spec.
pub fn template<'a>(group: &str, kind: &str, object: &'a Value) -> Option<(&'a Value, &'a Value)> {
    let template = match (group, kind) {
        ("", "PodTemplate") => &object["template"],
        ("", "ReplicationController")
        | ("apps", "Deployment" | "ReplicaSet" | "StatefulSet" | "DaemonSet")
        | ("batch", "Job") => &object["spec"]["template"],
        ("batch", "CronJob") => &object["spec"]["jobTemplate"]["spec"]["template"],
        _ => return None,
    };
    template.is_object().then(|| (&template["metadata"], &template["spec"]))
}

/// Whether an update of a pod changes what the standards look at: containers that come or go, or another image.
pub fn is_significant(new: &Value, old: &Value) -> bool {
    let facts = |pod: &Value| -> Vec<(String, String)> {
        ["containers", "initContainers", "ephemeralContainers"]
            .iter()
            .flat_map(|list| pod["spec"][*list].as_array().into_iter().flatten())
            .map(|c| (c["name"].as_str().unwrap_or("").to_owned(), c["image"].as_str().unwrap_or("").to_owned()))
            .collect()
    };
    facts(new) != facts(old)
}

/// What a writer is told when a namespace begins to enforce more than its pods keep: `pods` are name, metadata and spec.
pub fn existing(standard: Standard, namespace: &str, pods: &[Value]) -> Vec<String> {
    // Reason → the first pod by name and how many there are.
    let mut found: std::collections::BTreeMap<String, (String, usize)> = std::collections::BTreeMap::new();
    for pod in pods {
        let violations = violations(standard, &pod["metadata"], &pod["spec"]);
        if violations.is_empty() {
            continue;
        }
        let name = crate::meta::name(pod);
        let entry = found.entry(reasons(&violations)).or_insert_with(|| (name.to_owned(), 0));
        if name < entry.0.as_str() {
            name.clone_into(&mut entry.0);
        }
        entry.1 += 1;
    }
    if found.is_empty() {
        return Vec::new();
    }
    let mut lines: Vec<String> = found
        .into_iter()
        .map(|(reasons, (name, count))| match count {
            1 => format!("{name}: {reasons}"),
            2 => format!("{name} (and 1 other pod): {reasons}"),
            n => format!("{name} (and {} other pods): {reasons}", n - 1),
        })
        .collect();
    lines.sort_unstable();
    let head = format!(
        "existing pods in namespace {namespace:?} violate the new PodSecurity enforce level {:?}",
        standard.to_string()
    );
    std::iter::once(head).chain(lines).collect()
}

#[cfg(test)]
mod tests;
