//! Warnings about accepted objects: fields that are deprecated, do nothing, or contradict each other.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::Value;

use super::check::join;
use crate::json::{at, int_at, list_at, map_at, str_at};
use crate::meta;
use crate::names;
use crate::quantity::Quantity;

/// Node labels that have a successor, and the advice.
const DEPRECATED_NODE_LABELS: &[(&str, &str)] = &[
    ("beta.kubernetes.io/arch", "deprecated since v1.14; use \"kubernetes.io/arch\" instead"),
    ("beta.kubernetes.io/os", "deprecated since v1.14; use \"kubernetes.io/os\" instead"),
    (
        "failure-domain.beta.kubernetes.io/region",
        "deprecated since v1.17; use \"topology.kubernetes.io/region\" instead",
    ),
    ("failure-domain.beta.kubernetes.io/zone", "deprecated since v1.17; use \"topology.kubernetes.io/zone\" instead"),
    ("beta.kubernetes.io/instance-type", "deprecated since v1.17; use \"node.kubernetes.io/instance-type\" instead"),
    ("app.kubernetes.io/created-by", "deprecated since v1.9"),
    ("scheduler.alpha.kubernetes.io/preferAvoidPods", "deprecated since v1.22; use Taints and Tolerations instead"),
    ("node-role.kubernetes.io/master", "use \"node-role.kubernetes.io/control-plane\" instead"),
];

const DEPRECATED_ANNOTATIONS: &[(&str, &str)] = &[
    (
        "scheduler.alpha.kubernetes.io/critical-pod",
        "non-functional in v1.16+; use the \"priorityClassName\" field instead",
    ),
    ("security.alpha.kubernetes.io/sysctls", "non-functional in v1.11+; use the \"sysctls\" field instead"),
    ("security.alpha.kubernetes.io/unsafe-sysctls", "non-functional in v1.11+; use the \"sysctls\" field instead"),
];

/// Volume plugins that are gone, with what Kubernetes says of them.
pub(super) const DEPRECATED_VOLUMES: &[(&str, &str)] = &[
    ("photonPersistentDisk", "deprecated in v1.11, non-functional in v1.16+"),
    ("gitRepo", "deprecated in v1.11, and disabled by default in v1.33+"),
    ("scaleIO", "deprecated in v1.16, non-functional in v1.22+"),
    ("flocker", "deprecated in v1.22, non-functional in v1.25+"),
    ("storageos", "deprecated in v1.22, non-functional in v1.25+"),
    ("quobyte", "deprecated in v1.22, non-functional in v1.25+"),
    ("glusterfs", "deprecated in v1.25, non-functional in v1.26+"),
    ("cephfs", "deprecated in v1.28, non-functional in v1.31+"),
    ("rbd", "deprecated in v1.28, non-functional in v1.31+"),
];

const SECCOMP_POD: &str = "seccomp.security.alpha.kubernetes.io/pod";
const SECCOMP_CONTAINER: &str = "container.seccomp.security.alpha.kubernetes.io/";
const USE_SECCOMP_FIELD: &str = "non-functional in v1.27+; use the \"seccompProfile\" field instead";
const NO_MATCH: &str = "a null labelSelector results in matching no pod";

/// The advice about a node label, if it is deprecated.
pub(super) fn deprecated_node_label(key: &str) -> Option<&'static str> {
    DEPRECATED_NODE_LABELS.iter().find(|(k, _)| *k == key).map(|(_, advice)| *advice)
}

/// A name that becomes part of host names should be a label.
pub(super) fn label_name(o: &Value) -> Vec<String> {
    not_a_label(o, "this is used in Pod names and hostnames")
}

fn not_a_label(o: &Value, use_of_it: &str) -> Vec<String> {
    let problems = names::dns1123_label(meta::name(o));
    if problems.is_empty() {
        return Vec::new();
    }
    let why = problems.join(" ");
    vec![format!(
        "metadata.name: {use_of_it}, which can result in surprising behavior; a DNS label is recommended: [{why}]"
    )]
}

/// Of a workload with its template at `spec.template`.
pub(super) fn workload(o: &Value) -> Vec<String> {
    let mut out = label_name(o);
    out.extend(template(at(o, &["spec", "template"]), "spec.template"));
    out
}

/// Of a pod.
pub(super) fn pod(o: &Value) -> Vec<String> {
    let mut out = not_a_label(o, "this is used in the Pod's hostname");
    out.extend(template(Some(o), ""));
    out
}

/// Of a service.
pub(super) fn service(o: &Value) -> Vec<String> {
    let mut out = Vec::new();
    let old = "service.kubernetes.io/topology-aware-hints";
    if meta::annotations(o).is_some_and(|a| a.contains_key(old)) {
        let new = "service.kubernetes.io/topology-mode";
        out.push(format!("annotation {old} is deprecated, please use {new} instead"));
    }
    let spec = at(o, &["spec"]).unwrap_or(&Value::Null);
    let external = !list_at(spec, &["externalIPs"]).is_empty();
    let kind = str_at(spec, &["type"]);
    let headless = kind == "ClusterIP" && str_at(spec, &["clusterIP"]) == "None";
    if headless {
        if !str_at(spec, &["loadBalancerIP"]).is_empty() {
            out.push("spec.loadBalancerIP is ignored for headless services".to_owned());
        }
        if external {
            out.push("spec.externalIPs is ignored for headless services".to_owned());
        }
        if !matches!(str_at(spec, &["sessionAffinity"]), "" | "None") {
            out.push("spec.SessionAffinity is ignored for headless services".to_owned());
        }
    }
    match (kind, external) {
        ("ExternalName", true) => out.push("spec.externalIPs is ignored when spec.type is \"ExternalName\"".to_owned()),
        (_, true) if !headless => {
            out.push("spec.externalIPs is deprecated and may no longer be implemented in some clusters".to_owned());
        }
        _ => {}
    }
    if kind != "ExternalName" && !str_at(spec, &["externalName"]).is_empty() {
        out.push("spec.externalName is ignored when spec.type is not \"ExternalName\"".to_owned());
    }
    if str_at(spec, &["trafficDistribution"]) == "PreferClose" {
        out.push("spec.trafficDistribution: \"PreferClose\" is deprecated; use \"PreferSameZone\"".to_owned());
    }
    out
}

/// Of annotations that have a successor: `(key, advice)`.
pub(super) fn annotations_of(o: &Value, deprecated: &[(&str, &str)]) -> Vec<String> {
    let Some(annotations) = meta::annotations(o) else { return Vec::new() };
    let set = deprecated.iter().filter(|(key, _)| annotations.contains_key(*key));
    set.map(|(key, advice)| format!("metadata.annotations[{key}]: {advice}")).collect()
}

/// Of a job's spec.
pub(super) fn job(spec: Option<&Value>, field: &str) -> Vec<String> {
    /// Above these, indexes may not all be recorded.
    const COMPLETIONS: i64 = 100_000;
    const PARALLELISM: i64 = 10_000;
    let Some(spec) = spec else { return Vec::new() };
    let mut out = Vec::new();
    let count = |key: &str| int_at(spec, &[key]).unwrap_or(0);
    if str_at(spec, &["completionMode"]) == "Indexed"
        && count("completions") > COMPLETIONS
        && count("parallelism") > PARALLELISM
    {
        out.push(format!("{field}: In Indexed Jobs with a number of completions higher than 10^5 and a parallelism higher than 10^4, Kubernetes might not be able to track completedIndexes when a big number of indexes fail"));
    }
    out.extend(template(at(spec, &["template"]), &join(field, "template")));
    out
}

/// Of `{metadata, spec}` at `field`.
pub(super) fn template(template: Option<&Value>, field: &str) -> Vec<String> {
    let Some(template) = template else { return Vec::new() };
    let mut out = Vec::new();
    let spec = at(template, &["spec"]).unwrap_or(&Value::Null);
    let spec_field = join(field, "spec");
    placement(&mut out, spec, &spec_field);
    annotations(&mut out, template, spec, field);
    volumes(&mut out, spec, &spec_field);
    duplicates(&mut out, spec, &spec_field);
    fractional(&mut out, map_at(spec, &["overhead"]), &join(&spec_field, "overhead"));
    for (container, at) in containers(spec, &spec_field) {
        resources(&mut out, container, &at);
        environment(&mut out, container, &at);
    }
    ports(&mut out, spec, &spec_field);
    if int_at(spec, &["terminationGracePeriodSeconds"]).is_some_and(|s| s < 0) {
        let field = join(&spec_field, "terminationGracePeriodSeconds");
        out.push(format!("{field}: must be >= 0; negative values are invalid and will be treated as 1"));
    }
    out
}

/// Containers with their paths, in the order Kubernetes visits them.
fn containers<'a>(spec: &'a Value, field: &str) -> Vec<(&'a Value, String)> {
    ["initContainers", "containers"]
        .iter()
        .flat_map(|key| {
            let field = join(field, key);
            list_at(spec, &[key]).iter().enumerate().map(move |(i, c)| (c, format!("{field}[{i}]")))
        })
        .collect()
}

fn placement(out: &mut Vec<String>, spec: &Value, field: &str) {
    for key in map_at(spec, &["nodeSelector"]).into_iter().flat_map(serde_json::Map::keys) {
        if let Some(advice) = deprecated_node_label(key) {
            out.push(format!("{field}.nodeSelector[{key}]: {advice}"));
        }
    }
    let affinity = at(spec, &["affinity"]).unwrap_or(&Value::Null);
    let (required, preferred) =
        ("requiredDuringSchedulingIgnoredDuringExecution", "preferredDuringSchedulingIgnoredDuringExecution");
    for (i, term) in list_at(affinity, &["nodeAffinity", required, "nodeSelectorTerms"]).iter().enumerate() {
        node_term(out, term, &format!("{field}.affinity.nodeAffinity.{required}.nodeSelectorTerms[{i}]"));
    }
    for (i, term) in list_at(affinity, &["nodeAffinity", preferred]).iter().enumerate() {
        node_term(out, &term["preference"], &format!("{field}.affinity.nodeAffinity.{preferred}[{i}].preference"));
    }
    for kind in ["podAffinity", "podAntiAffinity"] {
        for (i, term) in list_at(affinity, &[kind, required]).iter().enumerate() {
            if at(term, &["labelSelector"]).is_none() {
                out.push(format!("{field}.affinity.{kind}.{required}[{i}].labelSelector: {NO_MATCH}"));
            }
        }
        for (i, term) in list_at(affinity, &[kind, preferred]).iter().enumerate() {
            if at(term, &["podAffinityTerm", "labelSelector"]).is_none() {
                let field = format!("{field}.affinity.{kind}.{preferred}[{i}].podAffinityTerm");
                out.push(format!("{field}.labelSelector: {NO_MATCH}"));
            }
        }
    }
    for (i, constraint) in list_at(spec, &["topologySpreadConstraints"]).iter().enumerate() {
        let field = format!("{field}.topologySpreadConstraints[{i}]");
        let key = str_at(constraint, &["topologyKey"]);
        if let Some(advice) = deprecated_node_label(key) {
            out.push(format!("{field}.topologyKey: {key} is {advice}"));
        }
        if at(constraint, &["labelSelector"]).is_none() {
            out.push(format!("{field}.labelSelector: {NO_MATCH}"));
        }
    }
}

/// Of a node selector term.
pub(super) fn node_term(out: &mut Vec<String>, term: &Value, field: &str) {
    for (i, e) in list_at(term, &["matchExpressions"]).iter().enumerate() {
        let key = str_at(e, &["key"]);
        if let Some(advice) = deprecated_node_label(key) {
            out.push(format!("{field}.matchExpressions[{i}].key: {key} is {advice}"));
        }
    }
}

fn annotations(out: &mut Vec<String>, template: &Value, spec: &Value, field: &str) {
    let Some(annotations) = meta::annotations(template) else { return };
    let field = join(field, "metadata.annotations");
    for (key, advice) in DEPRECATED_ANNOTATIONS {
        if annotations.contains_key(*key) {
            out.push(format!("{field}[{key}]: {advice}"));
        }
    }
    let unset = |owner: &Value| at(owner, &["securityContext", "seccompProfile"]).is_none();
    if annotations.contains_key(SECCOMP_POD) && unset(spec) {
        out.push(format!("{field}[{SECCOMP_POD}]: {USE_SECCOMP_FIELD}"));
    }
    for (container, _) in containers(spec, "") {
        let key = format!("{SECCOMP_CONTAINER}{}", str_at(container, &["name"]));
        if annotations.contains_key(&key) && unset(container) {
            out.push(format!("{field}[{key}]: {USE_SECCOMP_FIELD}"));
        }
    }
}

fn volumes(out: &mut Vec<String>, spec: &Value, field: &str) {
    for (i, volume) in list_at(spec, &["volumes"]).iter().enumerate() {
        for (kind, advice) in DEPRECATED_VOLUMES {
            if at(volume, &[kind]).is_some() {
                out.push(format!("{field}.volumes[{i}].{kind}: {advice}"));
            }
        }
        if let Some(claim) = at(volume, &["ephemeral", "volumeClaimTemplate", "spec"]) {
            claim_spec(out, claim, &format!("{field}.volumes[{i}].ephemeral.volumeClaimTemplate.spec"));
        }
    }
}

/// Of a claim's spec: storage in parts of bytes.
pub(super) fn claim_spec(out: &mut Vec<String>, spec: &Value, field: &str) {
    for list in ["requests", "limits"] {
        fraction(out, at(spec, &["resources", list, "storage"]), &format!("{field}.resources.{list}[storage]"));
    }
}

fn fraction(out: &mut Vec<String>, value: Option<&Value>, field: &str) {
    if let Some(Ok(q)) = value.map(Quantity::from_json)
        && !q.is_integer()
    {
        out.push(format!("{field}: fractional byte value \"{q}\" is invalid, must be an integer"));
    }
}

fn fractional(out: &mut Vec<String>, list: Option<&serde_json::Map<String, Value>>, field: &str) {
    for name in ["memory", "ephemeral-storage"] {
        fraction(out, list.and_then(|l| l.get(name)), &format!("{field}[{name}]"));
    }
}

fn resources(out: &mut Vec<String>, container: &Value, field: &str) {
    for list in ["limits", "requests"] {
        fractional(out, map_at(container, &["resources", list]), &format!("{field}.resources.{list}"));
    }
}

fn duplicates(out: &mut Vec<String>, spec: &Value, field: &str) {
    for (list, key, what) in [("hostAliases", "ip", "ip"), ("imagePullSecrets", "name", "name")] {
        let mut seen = BTreeSet::new();
        for (i, item) in list_at(spec, &[list]).iter().enumerate() {
            let value = str_at(item, &[key]);
            if !seen.insert(value) {
                out.push(format!("{field}.{list}[{i}].{key}: duplicate {what} {value:?}"));
            }
            if list == "imagePullSecrets" && value.is_empty() {
                out.push(format!("{field}.{list}[{i}].{key}: invalid empty name {value:?}"));
            }
        }
    }
}

fn environment(out: &mut Vec<String>, container: &Value, field: &str) {
    let mut seen = BTreeSet::new();
    for (i, variable) in list_at(container, &["env"]).iter().enumerate() {
        let name = str_at(variable, &["name"]);
        if seen.insert(name) {
            continue;
        }
        let reference = format!("$({name})");
        let value = str_at(variable, &["value"]);
        let extends = at(variable, &["valueFrom"]).is_none() && value != reference && value.contains(&reference);
        if !extends {
            let detail = format!("hides previous definition of {name:?}, which may be dropped when using apply");
            out.push(format!("{field}.env[{i}]: {detail}"));
        }
    }
}

fn ports(out: &mut Vec<String>, spec: &Value, field: &str) {
    let mut by_number: BTreeMap<(i64, &str), Vec<(String, &Value)>> = BTreeMap::new();
    let mut by_name: BTreeMap<&str, String> = BTreeMap::new();
    let mut names = Vec::new();
    let host = |p: &Value| int_at(p, &["hostPort"]).unwrap_or(0);
    for (container, at) in containers(spec, field) {
        for (i, port) in list_at(container, &["ports"]).iter().enumerate() {
            let here = format!("{at}.ports[{i}]");
            let (number, protocol) = (int_at(port, &["containerPort"]).unwrap_or(0), str_at(port, &["protocol"]));
            let (ip, name) = (str_at(port, &["hostIP"]), str_at(port, &["name"]));
            if !ip.is_empty() && host(port) == 0 {
                let shown =
                    format!("{{Name:{name} HostPort:0 ContainerPort:{number} Protocol:{protocol} HostIP:{ip}}}");
                out.push(format!("{here}: hostIP set without hostPort: {shown}"));
            }
            let others = by_number.entry((number, protocol)).or_default();
            for (there, other) in others.iter() {
                let other_ip = str_at(other, &["hostIP"]);
                if ip == other_ip && host(port) == host(other) {
                    out.push(format!("{here}: duplicate port definition with {there}"));
                } else if host(port) == 0 || host(other) == 0 {
                    out.push(format!("{here}: overlapping port definition with {there}"));
                } else if host(port) == host(other) && ip.is_empty() != other_ip.is_empty() {
                    out.push(format!("{here}: dangerously ambiguous port definition with {there}"));
                }
            }
            others.push((here.clone(), port));
            if name.is_empty() {
                continue;
            }
            match by_name.get(name) {
                Some(there) => names.push(format!("{here}: duplicate port name {name:?} with {there}, services and probes that select ports by name will use {there}")),
                None => {
                    by_name.insert(name, here);
                }
            }
        }
    }
    out.extend(names);
}
