use super::*;

/// Every `$ref` in a value.
fn references(value: &Value, out: &mut Vec<String>) {
    match value {
        Value::Object(map) => {
            if let Some(r) = map.get("$ref").and_then(Value::as_str) {
                out.push(r.trim_start_matches("#/components/schemas/").to_owned());
            }
            map.values().for_each(|v| references(v, out));
        }
        Value::Array(list) => list.iter().for_each(|v| references(v, out)),
        _ => {}
    }
}

#[test]
fn every_reference_resolves_within_its_document() {
    for (group, version) in registry().group_versions() {
        let document = document(group, version, "v1.36.0", &[]).unwrap();
        let schemas = document["components"]["schemas"].as_object().unwrap();
        let mut refs = Vec::new();
        references(&document, &mut refs);
        assert!(!refs.is_empty());
        for name in refs {
            assert!(schemas.contains_key(&name), "{group}/{version}: {name}");
        }
    }
    assert!(document("nope", "v1", "", &[]).is_none());
}

#[test]
fn every_kind_is_explained() {
    for kind in registry().all() {
        let document = document(kind.group, kind.version, "v1.36.0", &[]).unwrap();
        let root = path(kind.group, kind.version);
        let path = if kind.namespaced {
            format!("/{root}/namespaces/{{namespace}}/{}", kind.plural)
        } else {
            format!("/{root}/{}", kind.plural)
        };
        let gvk = &document["paths"][&path]["get"]["x-kubernetes-group-version-kind"];
        assert_eq!(gvk["kind"], kind.kind, "{path}");
        let schemas = document["components"]["schemas"].as_object().unwrap();
        let found = schemas.values().any(|s| {
            s["x-kubernetes-group-version-kind"].as_array().is_some_and(|list| list.contains(gvk))
                && s["description"].is_string()
        });
        assert!(found, "{}", kind.kind);
    }
}

#[test]
fn merge_keys_and_parameters_that_kubectl_looks_for_are_there() {
    let document = document("apps", "v1", "v1.36.0", &[]).unwrap();
    let spec = &document["components"]["schemas"]["io.k8s.api.core.v1.PodSpec"];
    let containers = &spec["properties"]["containers"];
    assert_eq!(containers["x-kubernetes-patch-strategy"], "merge");
    assert_eq!(containers["x-kubernetes-patch-merge-key"], "name");
    assert_eq!(containers["x-kubernetes-list-type"], "map");
    assert_eq!(containers["x-kubernetes-list-map-keys"], json!(["name"]));
    assert_eq!(spec["required"], json!(["containers"]));
    let patch = &document["paths"]["/apis/apps/v1/namespaces/{namespace}/deployments/{name}"]["patch"];
    assert_eq!(patch["x-kubernetes-action"], "patch");
    let names: Vec<&str> =
        patch["parameters"].as_array().unwrap().iter().map(|p| p["name"].as_str().unwrap()).collect();
    assert!(names.contains(&"dryRun") && names.contains(&"fieldValidation") && names.contains(&"force"));
    let int_or_string = &document["components"]["schemas"]["io.k8s.apimachinery.pkg.util.intstr.IntOrString"];
    assert_eq!(int_or_string["format"], "int-or-string");
}

#[test]
fn the_index_names_every_document_once() {
    let index = index(&[]);
    let paths = index["paths"].as_object().unwrap();
    assert_eq!(paths.len(), registry().group_versions().len());
    assert!(paths["apis/apps/v1"]["serverRelativeURL"].as_str().unwrap().starts_with("/openapi/v3/apis/apps/v1?hash="));
}
