//! `components.schemas` of a document.

use std::collections::HashSet;

use schemars::generate::SchemaSettings;
use serde_json::{Map, Value, json};

use super::types::{self, COMMON};
use crate::discovery::CustomKinds;
use crate::kinds::{KindInfo, VIRTUAL, answered, registry};
use crate::schema::{self, ListType, PatchStrategy, Shape, TypeRef};

const REF_PREFIX: &str = "#/components/schemas/";
const OBJECT_META: &str = "io.k8s.apimachinery.pkg.apis.meta.v1.ObjectMeta";
const LIST_META: &str = "io.k8s.apimachinery.pkg.apis.meta.v1.ListMeta";

/// `(group, version, kind)`s that the operations of a group version exchange.
fn exchanged(group: &str, version: &str, custom: CustomKinds<'_>) -> Vec<(&'static str, &'static str, &'static str)> {
    let mut out = Vec::new();
    let all = registry().all().iter().chain(custom.iter().map(AsRef::as_ref));
    for kind in all.filter(|k| k.group == group && k.version == version) {
        out.push((kind.group, kind.version, kind.kind));
        out.extend(kind.subresources.iter().map(|s| (s.group, s.version, s.kind)));
        if kind.scale.is_some() {
            out.push(("autoscaling", "v1", "Scale"));
        }
    }
    for kind in VIRTUAL.iter().filter(|k| k.group == group && k.version == version) {
        out.push((kind.group, kind.version, kind.kind));
    }
    out.sort_unstable();
    out.dedup();
    out
}

/// The definition name of a kind, if documents have one.
pub(super) fn definition(group: &str, version: &str, kind: &str) -> Option<String> {
    let mut generator = SchemaSettings::openapi3().into_generator();
    types::find(group, version, kind).map(|add| add(&mut generator))
}

/// All schemas of a group version, by definition name.
pub(super) fn schemas(group: &str, version: &str, custom: CustomKinds<'_>) -> Value {
    let mut generator = SchemaSettings::openapi3().into_generator();
    for add in COMMON {
        add(&mut generator);
    }
    let mut kinds = Vec::new();
    for (group, version, kind) in exchanged(group, version, custom) {
        if let Some(add) = types::find(group, version, kind) {
            kinds.push((group, version, kind, add(&mut generator)));
        }
    }
    let mut definitions: Map<String, Value> = generator.take_definitions(true).into_iter().collect();
    for (name, definition) in &mut definitions {
        tidy(definition);
        relax(name, definition);
    }
    let mut seen = HashSet::new();
    for (group, version, kind, name) in &kinds {
        if let Some(ty) = schema::for_kind(group, version, kind) {
            annotate(&mut definitions, name, ty, &mut seen);
        }
        if let Some(definition) = definitions.get_mut(name) {
            definition["x-kubernetes-group-version-kind"] = json!([{"group": group, "version": version, "kind": kind}]);
        }
    }
    let read = VIRTUAL.iter().filter_map(answered).filter(|k| !k.list_kind.is_empty());
    for kind in registry().all().iter().chain(read).filter(|k| k.group == group && k.version == version) {
        if let Some((.., item)) =
            kinds.iter().find(|(g, v, k, _)| (*g, *v, *k) == (kind.group, kind.version, kind.kind))
        {
            definitions.insert(list_name(item), list(kind, item));
        }
    }
    for kind in custom.iter().filter(|k| k.group == group && k.version == version) {
        let Some(facts) = &kind.custom else { continue };
        let name = custom_name(kind);
        definitions.insert(list_name(&name), list(kind, &name));
        definitions.insert(name, custom_definition(kind, facts.schema()));
    }
    Value::Object(definitions)
}

/// The schemas of the paths above groups.
pub(super) fn above() -> Value {
    let mut generator = SchemaSettings::openapi3().into_generator();
    for add in types::ABOVE {
        add(&mut generator);
    }
    let mut definitions: Map<String, Value> = generator.take_definitions(true).into_iter().collect();
    definitions.values_mut().for_each(tidy);
    Value::Object(definitions)
}

/// The definition name of a custom kind: its group reversed, `com.example.v1.Backup`.
pub(super) fn custom_name(kind: &KindInfo) -> String {
    let group: Vec<&str> = kind.group.rsplit('.').collect();
    format!("{}.{}.{}", group.join("."), kind.version, kind.kind)
}

/// What the definition says of its objects, with what every object has.
fn custom_definition(kind: &KindInfo, schema: &Value) -> Value {
    let mut out = schema.clone();
    let text = |words: &str| json!({"type": "string", "description": words});
    let properties = crate::json::ensure_object(&mut out, "properties");
    properties["apiVersion"] = text("APIVersion defines the versioned schema of this representation of an object.");
    properties["kind"] = text("Kind is a string value representing the REST resource this object represents.");
    properties["metadata"] = json!({"description": "Standard object's metadata.", "allOf": [reference(OBJECT_META)]});
    out["x-kubernetes-group-version-kind"] = json!([{"group": kind.group, "version": kind.version, "kind": kind.kind}]);
    out
}

/// The definition name of lists of `item`.
pub(super) fn list_name(item: &str) -> String {
    format!("{item}List")
}

pub(super) fn reference(name: &str) -> Value {
    json!({"$ref": format!("{REF_PREFIX}{name}")})
}

fn list(kind: &KindInfo, item: &str) -> Value {
    json!({
        "description": format!("{} is a list of {} objects.", kind.list_kind, kind.kind),
        "type": "object",
        "required": ["items"],
        "properties": {
            "apiVersion": {"type": "string", "description": "The version of this representation of the list."},
            "kind": {"type": "string", "description": "The kind of the list."},
            "metadata": {"description": "Revision and continuation of the list.", "allOf": [reference(LIST_META)]},
            "items": {"description": "The objects.", "type": "array", "items": {"allOf": [reference(item)]}},
        },
        "x-kubernetes-group-version-kind": [{"group": kind.group, "version": kind.version, "kind": kind.list_kind}],
    })
}

/// Takes out what OpenAPI 3.0 has no word for.
fn tidy(value: &mut Value) {
    match value {
        Value::Object(map) => {
            // The word, not the property of that name that a schema of schemas has.
            if map.get("$schema").is_some_and(Value::is_string) {
                map.remove("$schema");
            }
            map.values_mut().for_each(tidy);
        }
        Value::Array(list) => list.iter_mut().for_each(tidy),
        _ => {}
    }
}

/// Where the typed schemas differ from what Kubernetes publishes: the two scalars that are a string or a number, `Status`, in
/// which nothing is required, and `JSON`, which may be anything.
fn relax(name: &str, definition: &mut Value) {
    let Some(map) = definition.as_object_mut() else { return };
    if name.ends_with(".meta.v1.Status") {
        map.remove("required");
    } else if name.ends_with(".apiextensions.v1.JSON") {
        map.remove("type");
    } else if name.ends_with(".IntOrString") {
        map.remove("x-kubernetes-int-or-string");
        map.insert("format".to_owned(), "int-or-string".into());
        map.insert("oneOf".to_owned(), json!([{"type": "integer"}, {"type": "string"}]));
    } else if name.ends_with(".Quantity") {
        map.remove("x-kubernetes-int-or-string");
        map.insert("oneOf".to_owned(), json!([{"type": "string"}, {"type": "number"}]));
    }
}

/// The definition a property, item or map value refers to.
pub(super) fn target(schema: &Value) -> Option<String> {
    let reference = schema.get("$ref").or_else(|| schema.get("allOf")?.get(0)?.get("$ref"))?;
    reference.as_str()?.strip_prefix(REF_PREFIX).map(str::to_owned)
}

/// Adds list types, merge keys and required fields to a definition and to all it refers to.
fn annotate(definitions: &mut Map<String, Value>, name: &str, ty: TypeRef<'static>, seen: &mut HashSet<String>) {
    if !seen.insert(name.to_owned()) {
        return;
    }
    let Some(definition) = definitions.get_mut(name) else { return };
    let mut below = Vec::new();
    let required: Vec<&str> = ty.fields().filter(|f| f.required).map(|f| f.name).collect();
    if let Some(map) = definition.as_object_mut() {
        if required.is_empty() {
            map.remove("required");
        } else {
            map.insert("required".to_owned(), json!(required));
        }
        if ty.is_object() && ty.is_atomic() {
            map.insert("x-kubernetes-map-type".to_owned(), "atomic".into());
        }
    }
    for field in ty.fields() {
        let Some(property) = definition.get_mut("properties").and_then(|p| p.get_mut(field.name)) else { continue };
        patch_words(property, field.strategy, field.merge_key);
        type_words(property, field.ty);
        follow(property, field.ty, &mut below);
    }
    for (name, ty) in below {
        annotate(definitions, &name, ty, seen);
    }
}

fn patch_words(property: &mut Value, strategy: PatchStrategy, merge_key: Option<&str>) {
    let words: Vec<&str> =
        [(strategy.merge, "merge"), (strategy.replace, "replace"), (strategy.retain_keys, "retainKeys")]
            .into_iter()
            .filter_map(|(set, word)| set.then_some(word))
            .collect();
    if !words.is_empty() {
        property["x-kubernetes-patch-strategy"] = words.join(",").into();
    }
    if let Some(key) = merge_key {
        property["x-kubernetes-patch-merge-key"] = key.into();
    }
}

fn type_words(property: &mut Value, ty: TypeRef<'static>) {
    match ty.shape() {
        Shape::List { list, .. } => {
            let words = match list {
                ListType::Atomic => "atomic",
                ListType::Set => "set",
                ListType::Map(_) => "map",
            };
            property["x-kubernetes-list-type"] = words.into();
            if let ListType::Map(keys) = list {
                property["x-kubernetes-list-map-keys"] = json!(keys.iter().collect::<Vec<_>>());
            }
        }
        Shape::Map { atomic: true, .. } => property["x-kubernetes-map-type"] = "atomic".into(),
        _ => {}
    }
}

/// Collects the definitions below a property, through lists and maps.
fn follow(property: &Value, ty: TypeRef<'static>, out: &mut Vec<(String, TypeRef<'static>)>) {
    match ty.shape() {
        Shape::Struct { .. } => out.extend(target(property).map(|name| (name, ty))),
        Shape::List { item, .. } => {
            if let Some(items) = property.get("items") {
                follow(items, item, out);
            }
        }
        Shape::Map { value, .. } => {
            if let Some(values) = property.get("additionalProperties") {
                follow(values, value, out);
            }
        }
        Shape::Scalar(_) | Shape::Any => {}
    }
}
