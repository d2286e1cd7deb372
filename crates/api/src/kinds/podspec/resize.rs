//! In-place resize: what the `pods/resize` subresource may write (KEP-1287).

use serde_json::{Value, json};

use super::ephemeral::keep_metadata;
use crate::json::{at, carry, drop_key, ensure_object, list_at, list_mut, map_at, semantic_eq, str_at};
use crate::kinds::check::Check;
use crate::kinds::resources::qos_class;
use crate::meta;
use crate::status::FieldError;

/// The lists whose containers have resources that may change.
const LISTS: [&str; 2] = ["containers", "initContainers"];
const ONLY_CPU_AND_MEMORY: &str = "only cpu and memory resources are mutable";

fn same_containers(new: &Value, old: &Value, list: &str) -> bool {
    let names = |spec: &Value| -> Vec<String> {
        list_at(spec, &[list]).iter().map(|c| str_at(c, &["name"]).to_owned()).collect()
    };
    names(new) == names(old)
}

/// For `pods/resize`: the stored pod with the new resources and resize policies. A spec with other containers is left as
/// it is, for [`validate_resize`] to refuse.
pub fn prepare_resize(new: &mut Value, old: &Value) {
    keep_metadata(new, old);
    carry(new, old, "status");
    let (wanted, stored) = (new["spec"].take(), &old["spec"]);
    if LISTS.iter().any(|list| !same_containers(&wanted, stored, list)) {
        new["spec"] = wanted;
        return;
    }
    let mut spec = stored.clone();
    for list in LISTS {
        for (container, asked) in list_mut(&mut spec, &[list]).zip(list_at(&wanted, &[list])) {
            carry(container, asked, "resources");
            carry(container, asked, "resizePolicy");
        }
    }
    carry(&mut spec, &wanted, "resources");
    new["spec"] = spec;
    meta::bump_generation(new, old, &[&["spec"]]);
}

/// Findings on what [`prepare_resize`] made.
pub fn validate_resize(new: &Value, old: &Value) -> Vec<FieldError> {
    let mut check = Check::default();
    if meta::annotations(old).is_some_and(|a| a.contains_key("kubernetes.io/config.mirror")) {
        check.forbidden("", "static pods cannot be resized");
        return check.errors;
    }
    if str_at(old, &["spec", "os", "name"]) == "windows" {
        check.forbidden("", "windows pods cannot be resized");
        return check.errors;
    }
    check.extend(meta::validate_update(new, old));
    let (new_spec, old_spec) = (&new["spec"], &old["spec"]);
    super::validate_spec(&mut check, new_spec, "spec");
    let class = match str_at(old, &["status", "qosClass"]) {
        "" => qos_class(old),
        class => class,
    };
    if class != qos_class(new) {
        check.invalid("spec", class, "Pod QOS Class may not change as a result of resizing");
    }
    let running =
        list_at(old, &["status", "containerStatuses"]).iter().find(|c| at(c, &["state", "running"]).is_some());
    if running.is_some_and(|c| at(c, &["resources"]).is_none()) {
        check.forbidden("spec", "Pod running on node without support for resize");
    }
    let mut rest = new_spec.clone();
    pod_level(&mut check, &mut rest, old_spec);
    if !ordered(&mut check, new_spec, old_spec) {
        return check.errors;
    }
    for list in LISTS {
        for (i, (container, before)) in list_mut(&mut rest, &[list]).zip(list_at(old_spec, &[list])).enumerate() {
            one(&mut check, container, before, list, i);
        }
    }
    if check.errors.is_empty() && !semantic_eq(Some(&rest), Some(old_spec)) {
        check.forbidden("spec", ONLY_CPU_AND_MEMORY);
    }
    check.errors
}

/// Whether the containers are still those there were.
fn ordered(check: &mut Check, new: &Value, old: &Value) -> bool {
    let before = check.errors.len();
    for list in LISTS {
        let (news, olds) = (list_at(new, &[list]), list_at(old, &[list]));
        if news.len() != olds.len() {
            check.forbidden(format!("spec.{list}"), format!("{list} may not be added or removed on resize"));
            continue;
        }
        for (i, _) in
            olds.iter().zip(news).enumerate().filter(|(_, (o, n))| str_at(o, &["name"]) != str_at(n, &["name"]))
        {
            check.forbidden(
                format!("spec.{list}[{i}].name"),
                format!("{list} may not be renamed or reordered on resize"),
            );
        }
    }
    check.errors.len() == before
}

/// A container's change; afterwards `container` differs from `before` only where that is not allowed.
fn one(check: &mut Check, container: &mut Value, before: &Value, list: &str, i: usize) {
    let field = format!("spec.{list}[{i}]");
    for (key, what) in [("requests", "requests"), ("limits", "limits")] {
        if removed(container, before, key) {
            check.forbidden(format!("{field}.resources.{key}"), format!("resource {what} cannot be removed"));
        }
    }
    let modified = !semantic_eq(Some(container), Some(before));
    let ordinary_init = list == "initContainers" && str_at(before, &["restartPolicy"]) != "Always";
    if ordinary_init {
        // Unlike those of sidecars these end by themselves: a new amount would come too late.
        if modified {
            check.forbidden("spec", "resources for non-sidecar init containers are immutable");
        }
        return;
    }
    put_back(container, before);
    if !semantic_eq(Some(container), Some(before)) {
        match list {
            "containers" => check.forbidden("spec", ONLY_CPU_AND_MEMORY),
            _ => check.forbidden(field, "only cpu and memory resources for init or sidecar containers are mutable"),
        }
    }
}

fn removed(new: &Value, old: &Value, key: &str) -> bool {
    let Some(olds) = map_at(old, &["resources", key]) else { return false };
    olds.keys().any(|name| at(new, &["resources", key, name]).is_none())
}

/// Gives an owner of resources the processor and memory amounts that it had.
fn put_back(owner: &mut Value, before: &Value) {
    for key in ["requests", "limits"] {
        for name in ["cpu", "memory"] {
            match at(before, &["resources", key, name]) {
                Some(amount) => ensure_object(ensure_object(owner, "resources"), key)[name] = amount.clone(),
                None => {
                    if let Some(list) = owner.get_mut("resources").and_then(|r| r.get_mut(key)) {
                        drop_key(list, name);
                    }
                }
            }
        }
    }
}

/// The resources of the pod as a whole: amounts may change and be added, not go.
fn pod_level(check: &mut Check, spec: &mut Value, old: &Value) {
    if map_at(old, &["resources"]).is_some_and(|r| !r.is_empty()) && at(spec, &["resources"]).is_none() {
        check.forbidden("spec.resources", "pod-level resources cannot be removed");
        return;
    }
    for key in ["requests", "limits"] {
        if removed(spec, old, key) {
            let what = format!("pod-level resource {key} cannot be removed");
            check.forbidden(format!("spec.resources.{key}"), what);
        }
    }
    let (mut asked, held) = (json!({"resources": spec["resources"]}), json!({"resources": old["resources"]}));
    put_back(&mut asked, &held);
    if !semantic_eq(Some(&asked), Some(&held)) {
        check.forbidden("spec", "only cpu and memory resources are mutable at pod-level");
    }
    carry(spec, old, "resources");
}
