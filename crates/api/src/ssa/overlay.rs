//! Laying a configuration over an object without anybody owning it: what a MutatingAdmissionPolicy's
//! `applyConfiguration` does (KEP-3962).

use serde_json::Value;

use super::merge::merge;
use super::validate::validate;
use crate::schema::{ListType, Shape, TypeRef};

/// `live` with the fields of `applied` merged in, as server-side apply merges them; nothing is removed.
///
/// # Errors
/// What does not fit the type, and what is atomic: of that, everything would go that `applied` does not repeat.
pub fn overlay(ty: TypeRef<'_>, live: &Value, applied: &Value) -> Result<Value, String> {
    if let Some(wrong) = validate(ty, applied) {
        return Err(format!("failed to convert patch object to typed object: {wrong}"));
    }
    let mut atomic = Vec::new();
    find_atomic(ty, applied, &mut String::new(), &mut atomic);
    if !atomic.is_empty() {
        let atomic = atomic.join(", ");
        return Err(format!("invalid ApplyConfiguration: may not mutate atomic arrays, maps or structs: {atomic}"));
    }
    merge(ty, Some(live), applied).map_err(|why| format!("failed to merge patch: {why}"))
}

/// The atomic collections in a configuration, with their paths.
fn find_atomic(ty: TypeRef<'_>, value: &Value, path: &mut String, found: &mut Vec<String>) {
    let depth = path.len();
    match (ty.shape(), value) {
        (Shape::Struct { atomic, .. } | Shape::Map { atomic, .. }, Value::Object(map)) => {
            if atomic {
                found.push(path.clone());
            }
            for (key, child) in map {
                if let Some(ty) = ty.child(key) {
                    path.push('.');
                    path.push_str(key);
                    find_atomic(ty, child, path, found);
                    path.truncate(depth);
                }
            }
        }
        (Shape::List { item, list }, Value::Array(items)) => {
            if matches!(list, ListType::Atomic) {
                found.push(path.clone());
            }
            for (i, child) in items.iter().enumerate() {
                path.push_str(&format!("[{i}]"));
                find_atomic(item, child, path, found);
                path.truncate(depth);
            }
        }
        _ => {}
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn over(live: &Value, applied: &Value) -> Result<Value, String> {
        overlay(crate::schema::for_kind("apps", "v1", "Deployment").unwrap(), live, applied)
    }

    fn live() -> Value {
        json!({"apiVersion": "apps/v1", "kind": "Deployment", "spec": {
            "replicas": 1,
            "selector": {"matchLabels": {"a": "b"}},
            "template": {"spec": {"containers": [
                {"name": "c", "image": "i", "args": ["x"]}, {"name": "d", "image": "j"},
            ]}},
        }})
    }

    #[test]
    fn items_of_list_maps_are_found_by_their_keys() {
        let containers = json!([{"name": "d", "env": [{"name": "K", "value": "v"}]}, {"name": "e", "image": "k"}]);
        let new = over(&live(), &json!({"spec": {"template": {"spec": {"containers": containers}}}})).unwrap();
        let want = json!([
            {"name": "c", "image": "i", "args": ["x"]},
            {"name": "d", "image": "j", "env": [{"name": "K", "value": "v"}]},
            {"name": "e", "image": "k"},
        ]);
        assert_eq!(new["spec"]["template"]["spec"]["containers"], want);
        assert_eq!(new["spec"]["replicas"], 1);
    }

    #[test]
    fn what_is_atomic_or_unknown_is_refused() {
        for (applied, want) in [
            (json!({"spec": {"selector": {"matchLabels": {"x": "y"}}}}), "structs: .spec.selector"),
            (
                json!({"spec": {"template": {"spec": {"containers": [{"name": "c", "args": ["y"]}]}}}}),
                "structs: .spec.template.spec.containers[0].args",
            ),
            (json!({"spec": {"nothing": 1}}), ".spec.nothing: field not declared in schema"),
            (json!({"spec": {"replicas": "one"}}), r#".spec.replicas: expected numeric (int or float), got "one""#),
        ] {
            let error = over(&live(), &applied).unwrap_err();
            assert!(error.ends_with(want), "{error}");
        }
    }
}
