//! Whether the types in the expressions of a policy go together, for each kind that its rules name (KEP-3488, type checking).
//!
//! What is found is a warning in the status: it changes nothing about what the policy decides.

use std::collections::BTreeSet;
use std::sync::LazyLock;

use serde_json::{Value, json};

use crate::cel::check::{AUTHORIZER, Type, check};
use crate::cel::{self, VARIABLES};
use crate::discovery::CustomKinds;
use crate::json::{at, list_at, str_at};
use crate::kinds::{registry, split_api_version};
use crate::openapi::resolved::resolved;

/// What expressions of a policy may name.
const NAMES: [&str; 7] = ["object", "oldObject", "request", "namespaceObject", "authorizer", "params", VARIABLES];

/// Most kinds that one policy is checked for.
const KINDS_MAX: usize = 10;

/// `AdmissionReview.request`, as far as expressions see it.
static REQUEST: LazyLock<Value> = LazyLock::new(|| {
    let kind = object(&[("group", text()), ("version", text()), ("kind", text())]);
    let resource = object(&[("group", text()), ("version", text()), ("resource", text())]);
    let user = object(&[
        ("username", text()),
        ("uid", text()),
        ("groups", list(text())),
        ("extra", json!({"type": "object", "additionalProperties": list(text())})),
    ]);
    object(&[
        ("kind", kind.clone()),
        ("resource", resource.clone()),
        ("subResource", text()),
        ("requestKind", kind),
        ("requestResource", resource),
        ("requestSubResource", text()),
        ("name", text()),
        ("namespace", text()),
        ("operation", text()),
        ("userInfo", user),
        ("dryRun", json!({"type": "boolean"})),
        ("options", json!({"x-kubernetes-int-or-string": true})),
    ])
});

/// What expressions see of a namespace.
static NAMESPACE: LazyLock<Value> = LazyLock::new(|| {
    let time = || json!({"type": "string", "format": "date-time"});
    let texts = || json!({"type": "object", "additionalProperties": text()});
    let number = || json!({"type": "integer"});
    let metadata = object(&[
        ("name", text()),
        ("generateName", text()),
        ("namespace", text()),
        ("labels", texts()),
        ("annotations", texts()),
        ("UID", text()),
        ("creationTimestamp", time()),
        ("deletionGracePeriodSeconds", number()),
        ("deletionTimestamp", time()),
        ("generation", number()),
        ("resourceVersion", text()),
        ("finalizers", list(text())),
    ]);
    let condition = object(&[
        ("status", text()),
        ("type", text()),
        ("lastTransitionTime", time()),
        ("message", text()),
        ("reason", text()),
    ]);
    object(&[
        ("metadata", metadata),
        ("spec", object(&[("finalizers", list(text()))])),
        ("status", object(&[("conditions", list(condition)), ("phase", text())])),
    ])
});

fn text() -> Value {
    json!({"type": "string"})
}

fn list(items: Value) -> Value {
    json!({"type": "array", "items": items})
}

fn object(fields: &[(&str, Value)]) -> Value {
    let properties: serde_json::Map<String, Value> =
        fields.iter().map(|(name, schema)| ((*name).to_owned(), schema.clone())).collect();
    json!({"type": "object", "properties": properties})
}

/// A group, version and kind.
type Kind = (String, String, String);

/// The kinds that the rules of a policy name, in order. A rule with a wildcard names none.
fn kinds(policy: &Value, custom: CustomKinds<'_>) -> Vec<Kind> {
    let mut out = BTreeSet::new();
    for rule in list_at(policy, &["spec", "matchConstraints", "resourceRules"]) {
        let names = |key: &str| {
            let mut names: Vec<&str> = list_at(rule, &[key]).iter().filter_map(Value::as_str).collect();
            names.sort_unstable();
            names
        };
        let (groups, versions) = (names("apiGroups"), names("apiVersions"));
        if groups.iter().chain(&versions).any(|name| name.contains('*')) {
            continue;
        }
        let resources: Vec<&str> = names("resources").into_iter().filter(|r| !r.contains(['*', '/'])).collect();
        let mut count = 0;
        for (group, version) in groups.iter().flat_map(|g| versions.iter().map(move |v| (*g, *v))) {
            for resource in &resources {
                let mut all = registry().all().iter().chain(custom.iter().map(AsRef::as_ref));
                let found = all.find(|k| k.group == group && k.version == version && k.plural == *resource);
                let Some(kind) = found else { continue };
                out.insert((group.to_owned(), version.to_owned(), kind.kind.to_owned()));
                count += 1;
                if count == KINDS_MAX {
                    return out.into_iter().collect();
                }
            }
        }
    }
    out.into_iter().collect()
}

/// A type that nothing is known of is not checked.
fn typed(schema: Option<&Value>) -> Type<'_> {
    schema.and_then(|schema| Type::of(schema, false)).unwrap_or(Type::Dyn)
}

/// The variables of a policy's expressions when it is asked about an object of this schema.
fn scope<'s>(policy: &Value, object: &'s Value, params: Option<&'s Value>) -> Vec<(&'static str, Type<'s>)> {
    let types = [
        typed(Some(object)),
        typed(Some(object)),
        typed(Some(&REQUEST)),
        typed(Some(&NAMESPACE)),
        Type::Named(AUTHORIZER),
        typed(params),
        Type::Variables(Vec::new()),
    ];
    let mut scope: Vec<_> = NAMES.into_iter().zip(types).collect();
    let last = scope.len() - 1;
    let mut made = Vec::new();
    for variable in list_at(policy, &["spec", "variables"]) {
        let program = cel::compile(str_at(variable, &["expression"]), &NAMES);
        // One that is wrong is told of where it is used.
        let ty = program.ok().and_then(|p| check(&p, &scope).ok()).map_or(Type::Dyn, |sound| sound.ty);
        made.push((str_at(variable, &["name"]).to_owned(), ty));
        scope[last].1 = Type::Variables(made.clone());
    }
    scope
}

/// `status.typeChecking` of a ValidatingAdmissionPolicy: for each expression the kinds for which it cannot be right, and why.
/// Kinds that are not known, and expressions that do not compile at all, are passed over.
pub fn type_checking(policy: &Value, custom: CustomKinds<'_>) -> Value {
    let schema = |(group, version, kind): &Kind| resolved(group, version, kind, custom);
    let params = at(policy, &["spec", "paramKind"]).filter(|p| p.is_object()).and_then(|kind| {
        let (group, version) = split_api_version(str_at(kind, &["apiVersion"]));
        resolved(group, version, str_at(kind, &["kind"]), custom)
    });
    let schemas: Vec<(Kind, Value)> =
        kinds(policy, custom).into_iter().filter_map(|kind| schema(&kind).map(|schema| (kind, schema))).collect();
    let scopes: Vec<_> = schemas.iter().map(|(kind, schema)| (kind, scope(policy, schema, params.as_ref()))).collect();
    let mut warnings = Vec::new();
    for (i, validation) in list_at(policy, &["spec", "validations"]).iter().enumerate() {
        for field in ["expression", "messageExpression"] {
            let Ok(program) = cel::compile(str_at(validation, &[field]), &NAMES) else { continue };
            let mut told = Vec::new();
            for ((group, version, kind), scope) in &scopes {
                if let Err(why) = check(&program, scope) {
                    told.push(format!("{group}/{version}, Kind={kind}: {why}\n"));
                }
            }
            if !told.is_empty() {
                let at = format!("spec.validations[{i}].{field}");
                warnings.push(json!({"fieldRef": at, "warning": told.join("\n")}));
            }
        }
    }
    if warnings.is_empty() { json!({}) } else { json!({"expressionWarnings": warnings}) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn policy(resource: [&str; 3], validations: Value, more: Value) -> Value {
        let [group, version, plural] = resource;
        let mut spec = json!({
            "matchConstraints": {"resourceRules": [{
                "apiGroups": [group], "apiVersions": [version], "resources": [plural], "operations": ["CREATE"],
            }]},
            "validations": validations,
        });
        for (key, value) in more.as_object().unwrap() {
            spec[key] = value.clone();
        }
        json!({"spec": spec})
    }

    fn told(policy: &Value) -> Vec<(String, String)> {
        let found = type_checking(policy, &[]);
        let of = |w: &Value| (w["fieldRef"].as_str().unwrap().to_owned(), w["warning"].as_str().unwrap().to_owned());
        list_at(&found, &["expressionWarnings"]).iter().map(of).collect()
    }

    #[test]
    fn confused_types_are_told_of_with_the_kind_and_the_place() {
        let validations = json!([{
            "expression": "object.spec.replicas > '1'",
            "messageExpression": "'wants replicas > 1, got ' + object.spec.replicas",
        }, {"expression": "object.replicas > 1"}, {"expression": "variables.few"}]);
        let variables = json!({"variables": [
            {"name": "n", "expression": "object.spec.replicas"}, {"name": "few", "expression": "variables.n < 5"},
        ]});
        let told = told(&policy(["apps", "v1", "deployments"], validations, variables));
        let first = "apps/v1, Kind=Deployment: ERROR: <input>:1:22: found no matching overload for '_>_' applied to '(int, string)'\n | object.spec.replicas > '1'\n | .....................^\n";
        assert_eq!(told[0], ("spec.validations[0].expression".to_owned(), first.to_owned()));
        assert_eq!(told[1].0, "spec.validations[0].messageExpression");
        assert!(told[1].1.contains("found no matching overload for '_+_' applied to '(string, int)'"), "{}", told[1].1);
        assert_eq!(told[2].0, "spec.validations[1].expression");
        assert!(told[2].1.contains("undefined field 'replicas'"), "{}", told[2].1);
        assert_eq!(told.len(), 3, "{told:?}");
    }

    #[test]
    fn what_is_right_or_unknown_is_not_told_of() {
        for expression in [
            "object.spec.replicas > 1 && has(object.metadata.labels) && object.metadata.labels.all(k, k.size() < 9)",
            "object.spec.template.spec.containers.all(c, c.image.startsWith('x') && quantity(c.resources.limits['cpu']).isLessThan(quantity('1')))",
            "object.spec.strategy.rollingUpdate.maxSurge == 1 || object.spec.strategy.rollingUpdate.maxSurge == '25%'",
            "object.?spec.replicas.orValue(1) == 1 && oldObject.metadata.creationTimestamp < timestamp('2030-01-01T00:00:00Z')",
            "authorizer.group('apps').resource('deployments').namespace('n').check('get').allowed()",
            "authorizer.requestResource.check('get').reason() == ''",
            "request.userInfo.groups.exists(g, g == 'x') && request.options.x && request.dryRun",
            "namespaceObject.metadata.labels['a'] == 'b'",
            "params.anything == 1",
        ] {
            let spec = policy(["apps", "v1", "deployments"], json!([{"expression": expression}]), json!({}));
            assert_eq!(type_checking(&spec, &[]), json!({}), "{expression}");
        }
        let wrong = json!([{"expression": "object.nothing == 1"}]);
        for resource in
            [["*", "v1", "deployments"], ["apps", "v1", "*"], ["apps", "v1", "deployments/scale"], ["x", "v1", "ys"]]
        {
            assert_eq!(type_checking(&policy(resource, wrong.clone(), json!({})), &[]), json!({}), "{resource:?}");
        }
    }

    #[test]
    fn parameters_variables_requests_and_rights_have_types() {
        let params = json!({"paramKind": {"apiVersion": "v1", "kind": "ConfigMap"}});
        for (expression, want) in [
            ("params.data.x + 1 == 2", "applied to '(string, int)'"),
            ("params.nothing == 1", "undefined field 'nothing'"),
            ("variables.nothing == 1", "undefined field 'nothing'"),
            ("request.userInfo.age == 1", "undefined field 'age'"),
            ("namespaceObject.metadata.uid == ''", "undefined field 'uid'"),
            ("authorizer.group(1).resource('x').check('get').allowed()", "found no matching overload for 'group'"),
        ] {
            let told = told(&policy(["", "v1", "pods"], json!([{"expression": expression}]), params.clone()));
            assert_eq!(told.len(), 1, "{expression}");
            assert!(told[0].1.starts_with("/v1, Kind=Pod: ERROR: ") && told[0].1.contains(want), "{}", told[0].1);
        }
    }

    #[test]
    fn kinds_that_contain_themselves_have_an_end() {
        let definitions = ["apiextensions.k8s.io", "v1", "customresourcedefinitions"];
        let deep = "object.spec.versions.all(v, v.schema.openAPIV3Schema.properties.all(k, k != ''))";
        assert_eq!(type_checking(&policy(definitions, json!([{"expression": deep}]), json!({})), &[]), json!({}));
    }
}
