//! ResourceQuota: what an object counts for, which quotas it falls under, and whether there is room.

use jiff::Timestamp;
use serde_json::{Map, Value};

use super::resources::{Amounts, List, add, amounts, of_container, with_overhead};
use crate::json::{at, int_at, list_at, map_at, str_at};
use crate::quantity::{Format, Quantity};

/// Old names of object counts in the core group.
const COUNT_ALIASES: [&str; 4] = ["configmaps", "replicationcontrollers", "resourcequotas", "secrets"];
/// Compute resources that every container of a pod must state when a quota speaks of them.
const STATED: [&str; 6] = ["cpu", "memory", "requests.cpu", "requests.memory", "limits.cpu", "limits.memory"];
const STORAGE_CLASS: &str = ".storageclass.storage.k8s.io/";

/// The resource, as group and plural, whose objects a name in a quota counts; `None` for names that count nothing here.
pub fn counts(name: &str) -> Option<(&str, &str)> {
    if let Some(rest) = name.strip_prefix("count/") {
        let (plural, group) = rest.split_once('.').unwrap_or((rest, ""));
        return Some((group, plural));
    }
    if name == "requests.storage" || name == "persistentvolumeclaims" || name.contains(STORAGE_CLASS) {
        return Some(("", "persistentvolumeclaims"));
    }
    match name {
        "services" | "services.nodeports" | "services.loadbalancers" => return Some(("", "services")),
        "pods" | "cpu" | "memory" | "ephemeral-storage" => return Some(("", "pods")),
        _ => {}
    }
    if COUNT_ALIASES.contains(&name) {
        return Some(("", name));
    }
    let of_pods = name.starts_with("requests.") || name.starts_with("limits.") || name.starts_with("hugepages-");
    of_pods.then_some(("", "pods"))
}

/// What one object counts for, by all names that a quota may have for it.
pub fn usage(group: &str, plural: &str, object: &Value, now: Timestamp) -> Amounts {
    let mut out = Amounts::new();
    let one = Quantity::from_value(1, Format::DecimalSi);
    out.insert(format!("count/{}", crate::status::qualified_resource(plural, group)), one);
    match (group, plural) {
        ("", "pods") if is_live(object, now) => pod(&mut out, object),
        ("", "services") => service(&mut out, object),
        ("", "persistentvolumeclaims") => claim(&mut out, object),
        ("", plural) if COUNT_ALIASES.contains(&plural) => drop(out.insert(plural.to_owned(), one)),
        _ => {}
    }
    out
}

/// A pod that is done, or should have been gone by now, uses nothing any more.
fn is_live(pod: &Value, now: Timestamp) -> bool {
    if matches!(str_at(pod, &["status", "phase"]), "Failed" | "Succeeded") {
        return false;
    }
    let end: Option<Timestamp> = str_at(pod, &["metadata", "deletionTimestamp"]).parse().ok();
    let has_grace = int_at(pod, &["metadata", "deletionGracePeriodSeconds"]).is_some();
    !(has_grace && end.is_some_and(|end| end < now))
}

fn pod(out: &mut Amounts, pod: &Value) {
    out.insert("pods".into(), Quantity::from_value(1, Format::DecimalSi));
    for (name, amount) in with_overhead(pod, List::Requests) {
        let standard =
            matches!(name.as_str(), "cpu" | "memory" | "ephemeral-storage") || name.starts_with("hugepages-");
        out.insert(format!("requests.{name}"), amount);
        if standard {
            out.insert(name, amount);
        }
    }
    for (name, amount) in with_overhead(pod, List::Limits) {
        if matches!(name.as_str(), "cpu" | "memory" | "ephemeral-storage") {
            out.insert(format!("limits.{name}"), amount);
        }
    }
}

fn service(out: &mut Amounts, service: &Value) {
    let number = |n: usize| Quantity::from_value(i64::try_from(n).unwrap_or(i64::MAX), Format::DecimalSi);
    let ports = list_at(service, &["spec", "ports"]);
    let allocates = at(service, &["spec", "allocateLoadBalancerNodePorts"]) != Some(&Value::Bool(false));
    let given = ports.iter().filter(|p| int_at(p, &["nodePort"]).is_some_and(|n| n != 0)).count();
    let (node_ports, balancers) = match str_at(service, &["spec", "type"]) {
        "NodePort" => (ports.len(), 0),
        "LoadBalancer" if allocates => (ports.len(), 1),
        "LoadBalancer" => (given, 1),
        _ => (0, 0),
    };
    out.insert("services".into(), number(1));
    out.insert("services.nodeports".into(), number(node_ports));
    out.insert("services.loadbalancers".into(), number(balancers));
}

fn claim(out: &mut Amounts, claim: &Value) {
    let one = Quantity::from_value(1, Format::DecimalSi);
    out.insert("persistentvolumeclaims".into(), one);
    let asked = of_container(&claim["spec"], List::Requests).get("storage").copied();
    let held = amounts(map_at(claim, &["status", "allocatedResources"])).get("storage").copied();
    let size = asked.into_iter().chain(held).max();
    if let Some(size) = size {
        out.insert("requests.storage".into(), size);
    }
    let old = crate::meta::annotations(claim).and_then(|a| a.get("volume.beta.kubernetes.io/storage-class"));
    let class = old.and_then(Value::as_str).unwrap_or_else(|| str_at(claim, &["spec", "storageClassName"]));
    if !class.is_empty() {
        out.insert(format!("{class}{STORAGE_CLASS}persistentvolumeclaims"), one);
        if let Some(size) = size {
            out.insert(format!("{class}{STORAGE_CLASS}requests.storage"), size);
        }
    }
}

/// `spec.hard` of a quota.
pub fn hard(quota: &Value) -> Amounts {
    amounts(map_at(quota, &["spec", "hard"]))
}

/// Whether an object falls under a quota's scopes.
pub fn in_scope(quota: &Value, group: &str, plural: &str, object: &Value) -> bool {
    let plain = list_at(quota, &["spec", "scopes"]).iter().filter_map(Value::as_str);
    let mut plain = plain.map(|scope| (scope, "Exists", &[][..]));
    let selected = list_at(quota, &["spec", "scopeSelector", "matchExpressions"]).iter();
    let mut selected = selected.map(|e| (str_at(e, &["scopeName"]), str_at(e, &["operator"]), list_at(e, &["values"])));
    let fits = |(scope, operator, values): (&str, &str, &[Value])| match (group, plural) {
        ("", "pods") => pod_in_scope(object, scope, operator, values),
        ("", "persistentvolumeclaims") if scope == "VolumeAttributesClass" => {
            named(str_at(object, &["spec", "volumeAttributesClassName"]), operator, values)
        }
        _ => false,
    };
    plain.all(fits) && selected.all(fits)
}

fn pod_in_scope(pod: &Value, scope: &str, operator: &str, values: &[Value]) -> bool {
    let ends = int_at(pod, &["spec", "activeDeadlineSeconds"]).is_some_and(|s| s >= 0);
    let best_effort = || crate::kinds::qos_class(pod) == "BestEffort";
    match scope {
        "Terminating" => ends,
        "NotTerminating" => !ends,
        "BestEffort" => best_effort(),
        "NotBestEffort" => !best_effort(),
        "PriorityClass" => named(str_at(pod, &["spec", "priorityClassName"]), operator, values),
        "CrossNamespacePodAffinity" => crosses_namespaces(pod),
        _ => false,
    }
}

/// Whether a name satisfies an operator; an absent name is none of any values.
fn named(name: &str, operator: &str, values: &[Value]) -> bool {
    let listed = || values.iter().any(|v| v == name);
    match operator {
        "In" => !name.is_empty() && listed(),
        "NotIn" => name.is_empty() || !listed(),
        "Exists" => !name.is_empty(),
        "DoesNotExist" => name.is_empty(),
        _ => false,
    }
}

fn crosses_namespaces(pod: &Value) -> bool {
    let crosses =
        |term: &Value| !list_at(term, &["namespaces"]).is_empty() || at(term, &["namespaceSelector"]).is_some();
    ["podAffinity", "podAntiAffinity"].iter().any(|kind| {
        let Some(affinity) = at(pod, &["spec", "affinity", kind]) else { return false };
        list_at(affinity, &["requiredDuringSchedulingIgnoredDuringExecution"]).iter().any(crosses)
            || list_at(affinity, &["preferredDuringSchedulingIgnoredDuringExecution"])
                .iter()
                .any(|weighted| crosses(&weighted["podAffinityTerm"]))
    })
}

/// What a new pod must state and does not, given the names in a quota.
///
/// # Errors
/// `must specify limits.cpu for: a,b; ...`
pub fn stated(hard: &Amounts, pod: &Value) -> Result<(), String> {
    if map_at(pod, &["spec", "resources"]).is_some_and(|r| !r.is_empty()) {
        return Ok(());
    }
    let mut missing = Vec::new();
    for name in STATED.iter().filter(|name| hard.contains_key(**name)) {
        let (list, resource) = match name.split_once('.') {
            Some(("limits", resource)) => (List::Limits, resource),
            Some((_, resource)) => (List::Requests, resource),
            None => (List::Requests, *name),
        };
        let lists = ["containers", "initContainers"];
        let containers = lists.iter().flat_map(|l| list_at(pod, &["spec", l]));
        let mut silent: Vec<&str> = containers
            .filter(|c| !of_container(c, list).contains_key(resource))
            .map(|c| str_at(c, &["name"]))
            .collect();
        silent.sort_unstable();
        if !silent.is_empty() {
            missing.push(format!("{name} for: {}", silent.join(",")));
        }
    }
    missing.sort_unstable();
    if missing.is_empty() { Ok(()) } else { Err(format!("must specify {}", missing.join("; "))) }
}

/// What a change adds, by the names of a quota; what becomes less is given back later.
pub fn increase(hard: &Amounts, new: &Amounts, old: &Amounts) -> Amounts {
    let mut out = Amounts::new();
    for (name, amount) in new.iter().filter(|(name, _)| hard.contains_key(*name)) {
        let before = old.get(name).copied().unwrap_or(Quantity::ZERO);
        if let Some(more) = amount.checked_sub(before).filter(|q| q.signum() > 0) {
            out.insert(name.clone(), more);
        }
    }
    out
}

/// Adds a charge to what is used.
///
/// # Errors
/// `exceeded quota: NAME, requested: ..., used: ..., limited: ...`
pub fn charge(name: &str, hard: &Amounts, used: &Amounts, more: &Amounts) -> Result<Amounts, String> {
    let mut after = used.clone();
    add(&mut after, more);
    let over: Vec<&String> = more.keys().filter(|key| hard.get(*key).is_some_and(|most| after[*key] > *most)).collect();
    if over.is_empty() {
        return Ok(after);
    }
    let print = |list: &Amounts| {
        let one = |key: &&String| format!("{key}={}", list.get(*key).copied().unwrap_or(Quantity::ZERO));
        over.iter().map(one).collect::<Vec<_>>().join(",")
    };
    Err(format!("exceeded quota: {name}, requested: {}, used: {}, limited: {}", print(more), print(used), print(hard)))
}

/// `status.used`, when it speaks of all that `spec.hard` limits.
pub fn used(quota: &Value) -> Option<Amounts> {
    let hard = hard(quota);
    let used = amounts(map_at(quota, &["status", "used"]));
    hard.keys().all(|name| used.contains_key(name)).then_some(used)
}

/// The usage under a quota, from nothing.
pub fn nothing(hard: &Amounts) -> Amounts {
    hard.keys().map(|name| (name.clone(), Quantity::ZERO)).collect()
}

/// Adds what an object uses of what a quota limits.
pub fn count(used: &mut Amounts, usage: &Amounts) {
    for (name, amount) in usage {
        if let Some(sum) = used.get_mut(name) {
            *sum = sum.checked_add(*amount).unwrap_or(*sum);
        }
    }
}

/// The status of a quota that limits `hard` and of which `used` is used.
pub fn status(quota: &Value, used: &Amounts) -> Value {
    let used: Map<String, Value> = used.iter().map(|(k, q)| (k.clone(), q.to_string().into())).collect();
    serde_json::json!({"hard": quota["spec"].get("hard").cloned().unwrap_or_default(), "used": used})
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn pod(spec: Value) -> Value {
        json!({"metadata": {"name": "p"}, "spec": spec})
    }

    fn quota(spec: &Value) -> Value {
        json!({"metadata": {"name": "q"}, "spec": spec})
    }

    fn used_by(group: &str, plural: &str, object: &Value) -> Vec<String> {
        usage(group, plural, object, Timestamp::UNIX_EPOCH).iter().map(|(k, q)| format!("{k}={q}")).collect()
    }

    #[test]
    fn objects_count_under_all_their_names() {
        let p = pod(json!({"containers": [{"resources": {
            "requests": {"cpu": "1", "example.com/gpu": "2"}, "limits": {"memory": "1Gi"},
        }}]}));
        let want =
            ["count/pods=1", "cpu=1", "limits.memory=1Gi", "pods=1", "requests.cpu=1", "requests.example.com/gpu=2"];
        assert_eq!(used_by("", "pods", &p), want);
        let mut done = p.clone();
        done["status"] = json!({"phase": "Succeeded"});
        assert_eq!(used_by("", "pods", &done), ["count/pods=1"]);
        let balancer = json!({"spec": {"type": "LoadBalancer", "ports": [{}, {}]}});
        let want = ["count/services=1", "services=1", "services.loadbalancers=1", "services.nodeports=2"];
        assert_eq!(used_by("", "services", &balancer), want);
        let claim = json!({"spec": {"storageClassName": "fast", "resources": {"requests": {"storage": "1Gi"}}}});
        assert_eq!(
            used_by("", "persistentvolumeclaims", &claim),
            [
                "count/persistentvolumeclaims=1",
                "fast.storageclass.storage.k8s.io/persistentvolumeclaims=1",
                "fast.storageclass.storage.k8s.io/requests.storage=1Gi",
                "persistentvolumeclaims=1",
                "requests.storage=1Gi",
            ]
        );
        assert_eq!(used_by("apps", "deployments", &json!({})), ["count/deployments.apps=1"]);
        assert_eq!(used_by("", "secrets", &json!({})), ["count/secrets=1", "secrets=1"]);
    }

    #[test]
    fn names_lead_to_the_resource_they_count() {
        for (name, want) in [
            ("count/jobs.batch", Some(("batch", "jobs"))),
            ("requests.cpu", Some(("", "pods"))),
            ("hugepages-2Mi", Some(("", "pods"))),
            ("requests.storage", Some(("", "persistentvolumeclaims"))),
            ("x.storageclass.storage.k8s.io/requests.storage", Some(("", "persistentvolumeclaims"))),
            ("services.nodeports", Some(("", "services"))),
            ("secrets", Some(("", "secrets"))),
            ("bananas", None),
        ] {
            assert_eq!(counts(name), want, "{name}");
        }
    }

    #[test]
    fn scopes_select_pods() {
        let plain = pod(json!({"containers": [{}], "priorityClassName": "high"}));
        let scoped = |spec: Value, pod: &Value| in_scope(&quota(&spec), "", "pods", pod);
        assert!(scoped(json!({"scopes": ["BestEffort", "NotTerminating"]}), &plain));
        assert!(!scoped(json!({"scopes": ["Terminating"]}), &plain));
        let class = |operator: &str, values: Value| {
            json!({"scopeSelector": {"matchExpressions": [
                {"scopeName": "PriorityClass", "operator": operator, "values": values},
            ]}})
        };
        assert!(scoped(class("In", json!(["high"])), &plain));
        assert!(!scoped(class("NotIn", json!(["high"])), &plain));
        assert!(scoped(class("Exists", json!([])), &plain));
        assert!(!in_scope(&quota(&json!({"scopes": ["BestEffort"]})), "", "services", &json!({})));
        let far = pod(json!({"affinity": {"podAffinity": {
            "requiredDuringSchedulingIgnoredDuringExecution": [{"namespaces": ["other"]}],
        }}}));
        assert!(scoped(json!({"scopes": ["CrossNamespacePodAffinity"]}), &far));
        assert!(!scoped(json!({"scopes": ["CrossNamespacePodAffinity"]}), &plain));
    }

    #[test]
    fn a_charge_is_refused_in_kubernetes_words() {
        let q = quota(&json!({"hard": {"pods": "2", "requests.cpu": "1"}}));
        let hard = hard(&q);
        let p = pod(json!({"containers": [{"name": "c", "resources": {"requests": {"cpu": "600m"}}}]}));
        let more = increase(&hard, &usage("", "pods", &p, Timestamp::UNIX_EPOCH), &Amounts::new());
        let once = charge("q", &hard, &nothing(&hard), &more).unwrap();
        let want = "exceeded quota: q, requested: requests.cpu=600m, used: requests.cpu=600m, limited: requests.cpu=1";
        assert_eq!(charge("q", &hard, &once, &more).unwrap_err(), want);
        assert_eq!(
            stated(&hard, &pod(json!({"containers": [{"name": "b"}, {"name": "a"}]}))).unwrap_err(),
            "must specify requests.cpu for: a,b"
        );
        assert!(stated(&hard, &p).is_ok());
    }

    #[test]
    fn usage_that_shrinks_is_no_charge() {
        let q = quota(&json!({"hard": {"services.nodeports": "5"}}));
        let of = |ports: Value| {
            usage("", "services", &json!({"spec": {"type": "NodePort", "ports": ports}}), Timestamp::UNIX_EPOCH)
        };
        assert!(increase(&hard(&q), &of(json!([{}])), &of(json!([{}, {}]))).is_empty());
        assert_eq!(increase(&hard(&q), &of(json!([{}, {}])), &of(json!([{}])))["services.nodeports"].value(), 1);
    }
}
