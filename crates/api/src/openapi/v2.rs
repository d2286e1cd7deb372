//! The same as one Swagger 2.0 document: for clients that know no OpenAPI v3, as generators of libraries and older `kubectl`.
//!
//! The document is put together from [`Encoded`] parts, so that a change to custom resources does not make what is built in
//! be written anew.

use std::collections::HashSet;

use serde_json::{Map, Value, json};

use super::{gnostic, group_versions, paths, schemas};
use crate::discovery::CustomKinds;
use crate::kinds::registry;

/// What Swagger 2.0 knows in a schema, beside extensions.
const WORDS: &[&str] = &[
    "$ref",
    "additionalProperties",
    "allOf",
    "default",
    "description",
    "enum",
    "example",
    "exclusiveMaximum",
    "exclusiveMinimum",
    "format",
    "items",
    "maxItems",
    "maxLength",
    "maxProperties",
    "maximum",
    "minItems",
    "minLength",
    "minProperties",
    "minimum",
    "multipleOf",
    "pattern",
    "properties",
    "readOnly",
    "required",
    "title",
    "type",
    "uniqueItems",
];
const V3_REF: &str = "#/components/schemas/";
const V2_REF: &str = "#/definitions/";
/// Media types of patches, in the order from which generated clients take the first.
const PATCHES: &[&str] = &[
    "application/json-patch+json",
    "application/merge-patch+json",
    "application/strategic-merge-patch+json",
    "application/apply-patch+yaml",
];
/// Media types of answers.
const PRODUCES: &[&str] = &["application/json", "application/yaml", "application/vnd.kubernetes.protobuf"];

/// Paths and definitions of one part of the document.
#[derive(Debug, Clone, Default)]
pub struct Part {
    paths: Map<String, Value>,
    definitions: Map<String, Value>,
}

/// A part, written in both forms.
pub struct Encoded {
    /// Members of `paths` and `definitions`, without the braces.
    paths: String,
    definitions: String,
    protobuf: Vec<u8>,
    names: HashSet<String>,
}

impl Part {
    /// Everything that is built in.
    pub fn built_in() -> Self {
        let mut out = Part::default();
        for (group, version) in registry().group_versions() {
            out.add(&paths::paths(group, version, &[]), &schemas::schemas(group, version, &[]), false);
        }
        out.add(&paths::above(), &schemas::above(), false);
        out
    }

    /// The custom kinds, beside what is built in.
    pub fn custom(custom: CustomKinds<'_>, built_in: &Encoded) -> Self {
        let built_in_versions = registry().group_versions();
        let mut out = Part::default();
        for (group, version) in group_versions(custom) {
            if !built_in_versions.contains(&(group, version)) {
                out.add(&paths::paths(group, version, custom), &schemas::schemas(group, version, custom), true);
            }
        }
        out.definitions.retain(|name, _| !built_in.names.contains(name));
        out
    }

    /// What another server says of its part, beside all that is there already.
    pub fn foreign(document: &Value, before: &[&Encoded]) -> Self {
        let map = |key: &str| document[key].as_object().cloned().unwrap_or_default();
        let mut out = Part { paths: map("paths"), definitions: map("definitions") };
        out.definitions.retain(|name, _| !before.iter().any(|part| part.names.contains(name)));
        out
    }

    fn add(&mut self, paths: &Value, definitions: &Value, custom: bool) {
        for (path, item) in paths.as_object().into_iter().flatten() {
            self.paths.insert(path.clone(), path_item(item));
        }
        for (name, definition) in definitions.as_object().into_iter().flatten() {
            let gvk = "x-kubernetes-group-version-kind";
            // The document of the group that a type belongs to says more of it than others that use it.
            if !self.definitions.contains_key(name) || definition.get(gvk).is_some() {
                self.definitions.insert(name.clone(), root(definition, custom));
            }
        }
    }

    /// Writes it.
    pub fn encode(&self) -> Encoded {
        Encoded {
            paths: members(&self.paths),
            definitions: members(&self.definitions),
            protobuf: gnostic::part(&self.paths, &self.definitions),
            names: self.definitions.keys().cloned().collect(),
        }
    }
}

fn members(map: &Map<String, Value>) -> String {
    let text = serde_json::to_string(map).unwrap_or_default();
    text.strip_prefix('{').and_then(|t| t.strip_suffix('}')).unwrap_or("").to_owned()
}

/// What stands around the parts; `server_version` is shown in the title block (`v1.36.0`).
fn frame(server_version: &str) -> Value {
    json!({
        "swagger": "2.0",
        "info": {"title": "Kubernetes", "version": server_version},
        "security": [{"BearerToken": []}],
        "securityDefinitions": {"BearerToken": {
            "type": "apiKey", "name": "authorization", "in": "header", "description": "Bearer Token authentication",
        }},
    })
}

/// The document in JSON.
pub fn json(server_version: &str, parts: &[&Encoded]) -> String {
    let join = |of: fn(&Encoded) -> &str| {
        parts.iter().map(|p| of(p)).filter(|text| !text.is_empty()).collect::<Vec<_>>().join(",")
    };
    let frame = frame(server_version).to_string();
    let (paths, definitions) = (join(|p| &p.paths), join(|p| &p.definitions));
    let open = frame.strip_suffix('}').unwrap_or(&frame);
    format!("{open},\"paths\":{{{paths}}},\"definitions\":{{{definitions}}}}}")
}

/// The document in protobuf, as gnostic's `openapi.v2.Document`: its parts follow each other, for what comes twice is
/// joined by whoever reads it (Protocol Buffers, "Last One Wins": embedded messages are merged).
pub fn protobuf(server_version: &str, parts: &[&Encoded]) -> Vec<u8> {
    let mut out = gnostic::frame(&frame(server_version));
    for part in parts {
        out.extend_from_slice(&part.protobuf);
    }
    out
}

fn path_item(item: &Value) -> Value {
    let mut out = Map::new();
    for (key, value) in item.as_object().into_iter().flatten() {
        let value = if key == "parameters" { parameters(value) } else { operation(value) };
        out.insert(key.clone(), value);
    }
    Value::Object(out)
}

fn parameters(list: &Value) -> Value {
    let one = |parameter: &Value| {
        let mut out = parameter.clone();
        let schema = out.as_object_mut().and_then(|o| o.remove("schema"));
        if let (Some(out), Some(Value::Object(schema))) = (out.as_object_mut(), schema) {
            out.extend(schema);
        }
        out
    };
    list.as_array().into_iter().flatten().map(one).collect()
}

fn operation(op: &Value) -> Value {
    let mut out = op.clone();
    let Some(map) = out.as_object_mut() else { return out };
    let mut list = map.remove("parameters").map(|p| parameters(&p)).unwrap_or_else(|| json!([]));
    let mut consumes = json!(["*/*"]);
    if let Some(body) = map.remove("requestBody") {
        let content = body["content"].as_object();
        if map.get("x-kubernetes-action").is_some_and(|a| a == "patch") {
            consumes =
                PATCHES.iter().filter(|media| content.is_some_and(|c| c.contains_key(**media))).copied().collect();
        }
        let of_body = content.and_then(|c| c.values().next()).map(|c| schema(&c["schema"], false));
        let mut parameter = json!({"name": "body", "in": "body", "schema": of_body});
        if body["required"] == true {
            parameter["required"] = true.into();
        }
        if let Some(list) = list.as_array_mut() {
            list.insert(0, parameter);
        }
    }
    if list.as_array().is_some_and(|l| !l.is_empty()) {
        map.insert("parameters".into(), list);
    }
    let response = |answer: &Value| {
        let mut out = json!({"description": answer["description"]});
        if let Some(content) = answer["content"].as_object().and_then(|c| c.values().next()) {
            out["schema"] = schema(&content["schema"], false);
        }
        out
    };
    let responses = map.remove("responses").unwrap_or_default();
    let responses = responses.as_object().into_iter().flatten();
    let responses: Map<String, Value> = responses.map(|(code, answer)| (code.clone(), response(answer))).collect();
    map.insert("responses".into(), Value::Object(responses));
    map.insert("consumes".into(), consumes);
    let action = |word: &str| map.get("x-kubernetes-action").is_some_and(|a| a == word);
    let own: &[&str] = if action("connect") { &["*/*"] } else { PRODUCES };
    let mut produces: Vec<String> = own.iter().map(|p| (*p).to_owned()).collect();
    if action("list") {
        produces.extend(
            ["application/json;stream=watch", "application/vnd.kubernetes.protobuf;stream=watch"].map(Into::into),
        );
    }
    map.insert("produces".into(), json!(produces));
    map.insert("schemes".into(), json!(["https"]));
    out
}

/// A definition. Of a custom kind that takes any field nothing is said, not even its metadata: kubectl would refuse every
/// field that is not listed (apiextensions-apiserver does the same).
fn root(v3: &Value, custom: bool) -> Value {
    const KIND: &str = "x-kubernetes-group-version-kind";
    if custom && v3["x-kubernetes-preserve-unknown-fields"] == true && !v3[KIND].is_null() {
        return json!({"type": "object", KIND: v3[KIND]});
    }
    schema(v3, custom)
}

/// A schema without what Swagger 2.0 has no word for. Of a custom resource, what may be null or anything is left open: an
/// older client would refuse it otherwise (apiextensions-apiserver does the same).
fn schema(v3: &Value, custom: bool) -> Value {
    let Some(map) = v3.as_object() else { return v3.clone() };
    let is = |key: &str| map.get(key) == Some(&Value::Bool(true));
    let open = custom && (is("nullable") || is("x-kubernetes-preserve-unknown-fields"));
    let mut out = Map::new();
    for (key, value) in map {
        if !(WORDS.contains(&key.as_str()) || key.starts_with("x-")) {
            continue;
        }
        if open && !matches!(key.as_str(), "description" | "type" | "default") && !key.starts_with("x-") {
            continue;
        }
        let value = match key.as_str() {
            "$ref" => value.as_str().map_or_else(|| value.clone(), |r| r.replace(V3_REF, V2_REF).into()),
            "properties" => {
                let all = value.as_object().into_iter().flatten();
                Value::Object(all.map(|(name, s)| (name.clone(), schema(s, custom))).collect())
            }
            "items" | "additionalProperties" => schema(value, custom),
            "allOf" => value.as_array().into_iter().flatten().map(|s| schema(s, custom)).collect(),
            _ => value.clone(),
        };
        out.insert(key.clone(), value);
    }
    if open && is("nullable") {
        out.remove("type");
    }
    flatten(&mut out, map);
    Value::Object(out)
}

/// A reference that only stands in `allOf` because it has a description beside it, and scalars of two types.
fn flatten(out: &mut Map<String, Value>, v3: &Map<String, Value>) {
    let single =
        out.get("allOf").and_then(Value::as_array).filter(|all| all.len() == 1).and_then(|all| all[0].get("$ref"));
    if let Some(reference) = single.cloned() {
        out.remove("allOf");
        out.insert("$ref".into(), reference);
    }
    let either = v3.get("oneOf").or_else(|| v3.get("anyOf")).and_then(Value::as_array);
    let of_two = either.is_some_and(|all| all.iter().all(|s| s.get("type").is_some()));
    let int_or_string = v3.get("x-kubernetes-int-or-string") == Some(&Value::Bool(true));
    let typed = out.contains_key("type") || out.contains_key("$ref");
    if of_two && !typed && !int_or_string {
        out.insert("type".into(), "string".into());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn whole() -> Value {
        serde_json::from_str(&json("v1.36.0", &[&Part::built_in().encode()])).unwrap()
    }

    fn references(value: &Value, out: &mut Vec<String>) {
        match value {
            Value::Object(map) => {
                out.extend(map.get("$ref").and_then(Value::as_str).map(str::to_owned));
                map.values().for_each(|v| references(v, out));
            }
            Value::Array(list) => list.iter().for_each(|v| references(v, out)),
            _ => {}
        }
    }

    #[test]
    fn every_kind_has_a_definition_and_an_operation_and_references_resolve() {
        let document = whole();
        let mut found = Vec::new();
        references(&document["paths"], &mut found);
        references(&document["definitions"], &mut found);
        assert!(found.len() > 1000);
        for reference in found {
            let name = reference.strip_prefix(V2_REF).unwrap_or_else(|| panic!("{reference}"));
            assert!(document["definitions"].get(name).is_some(), "{name}");
        }
        let definitions = document["definitions"].as_object().unwrap();
        for kind in registry().all() {
            let gvk = json!({"group": kind.group, "version": kind.version, "kind": kind.kind});
            let all = |d: &Value| d["x-kubernetes-group-version-kind"].as_array().is_some_and(|l| l.contains(&gvk));
            assert_eq!(definitions.values().filter(|d| all(d)).count(), 1, "{gvk}");
        }
        let mut ids = HashSet::new();
        for item in document["paths"].as_object().unwrap().values() {
            for (_, op) in item.as_object().unwrap().iter().filter(|(key, _)| *key != "parameters") {
                assert!(ids.insert(op["operationId"].as_str().unwrap()), "{} comes twice", op["operationId"]);
            }
        }
    }

    #[test]
    fn schemas_are_of_swagger_2() {
        let document = whole();
        let of = |name: &str| document["definitions"][name].clone();
        let int_or_string = of("io.k8s.apimachinery.pkg.util.intstr.IntOrString");
        assert_eq!((&int_or_string["type"], &int_or_string["format"]), (&json!("string"), &json!("int-or-string")));
        assert_eq!(of("io.k8s.apimachinery.pkg.api.resource.Quantity")["type"], "string");
        let pod = of("io.k8s.api.core.v1.Pod");
        assert_eq!(pod["properties"]["spec"]["$ref"], "#/definitions/io.k8s.api.core.v1.PodSpec");
        assert!(
            pod["properties"]["spec"]["description"].is_string() && pod["properties"]["spec"].get("allOf").is_none()
        );
        // Properties may have the names of words.
        let props = of("io.k8s.apiextensions-apiserver.pkg.apis.apiextensions.v1.JSONSchemaProps");
        assert!(props["properties"]["oneOf"].is_object() && props["properties"]["nullable"].is_object());
        let patch = &document["paths"]["/apis/apps/v1/namespaces/{namespace}/deployments/{name}"]["patch"];
        assert_eq!(patch["parameters"][0]["in"], "body");
        assert!(patch["consumes"].as_array().unwrap().contains(&json!("application/strategic-merge-patch+json")));
        let dry_run = patch["parameters"].as_array().unwrap().iter().find(|p| p["name"] == "dryRun").unwrap();
        assert_eq!((dry_run["in"].as_str(), dry_run["type"].as_str()), (Some("query"), Some("string")));
        assert_eq!(patch["responses"]["200"]["schema"]["$ref"], "#/definitions/io.k8s.api.apps.v1.Deployment");
    }

    #[test]
    fn what_may_be_null_or_anything_is_left_open_in_custom_resources() {
        let v3 = json!({"type": "object", "properties": {
            "a": {"type": "string", "nullable": true, "maxLength": 3, "description": "A."},
            "b": {"type": "object", "x-kubernetes-preserve-unknown-fields": true, "properties": {"c": {"type": "string"}}},
            "d": {"x-kubernetes-int-or-string": true, "anyOf": [{"type": "integer"}, {"type": "string"}]},
        }});
        assert_eq!(
            schema(&v3, true)["properties"],
            json!({"a": {"description": "A."}, "b": {"type": "object", "x-kubernetes-preserve-unknown-fields": true},
                "d": {"x-kubernetes-int-or-string": true}})
        );
    }

    #[test]
    fn of_a_custom_kind_that_takes_any_field_nothing_is_said() {
        let kind = json!([{"group": "g", "version": "v1", "kind": "K"}]);
        let v3 = json!({"type": "object", "x-kubernetes-preserve-unknown-fields": true, "description": "D.",
            "properties": {"metadata": {}}, "x-kubernetes-group-version-kind": kind});
        assert_eq!(root(&v3, true), json!({"type": "object", "x-kubernetes-group-version-kind": kind}));
        assert_eq!(root(&v3, false), schema(&v3, false));
    }

    #[test]
    fn parts_join_without_repeating_definitions() {
        let first = Part::built_in().encode();
        let foreign = json!({"paths": {"/apis/a/v1/x": {}}, "definitions": {"A": {"type": "object"},
            "io.k8s.api.core.v1.Pod": {"type": "object"}}});
        let second = Part::foreign(&foreign, &[&first]).encode();
        assert_eq!(second.definitions, r#""A":{"type":"object"}"#);
        let both: Value = serde_json::from_str(&json("v1", &[&first, &second])).unwrap();
        assert!(both["paths"]["/apis/a/v1/x"].is_object() && both["definitions"]["A"].is_object());
        let none: Value = serde_json::from_str(&json("v1", &[])).unwrap();
        assert_eq!(none["paths"], json!({}));
        let wire = protobuf("v1", &[&first, &second]);
        assert!(wire.ends_with(&second.protobuf) && wire.len() > first.protobuf.len());
    }
}
