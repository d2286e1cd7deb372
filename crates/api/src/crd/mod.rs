//! CustomResourceDefinitions: their own rules, and the kinds they stand for.

mod columns;
pub mod conversion;
mod defaults;
mod definition;
mod intern;
mod jsonpath;
mod rules;
mod ruletypes;
mod structural;
#[cfg(test)]
mod tests;
mod validation;
mod values;

use std::collections::HashMap;
use std::sync::Arc;

use regex::Regex;
use serde_json::{Map, Value};

use crate::json::{bool_at, list_at, str_at};
use crate::kinds::{Columns, Hooks, KindInfo, NameRule, ScalePaths};
use crate::schema::{Schema, StructuralOptions, TypeRef};
use crate::status::FieldError;

pub use definition::HOOKS;
pub use definition::{FINALIZER, condition, is_true, set_condition};
use jsonpath::Path;

const VERBS: &[&str] = &["delete", "deletecollection", "get", "list", "patch", "create", "update", "watch"];
/// A compiled pattern may take this much memory, in bytes.
const PATTERN: usize = 1 << 20;

/// What a custom kind has beyond the facts every kind has.
#[derive(Debug)]
pub struct Custom {
    types: Schema,
    /// `openAPIV3Schema` of the version.
    schema: Value,
    patterns: HashMap<String, Regex>,
    rules: rules::Rules,
    has_defaults: bool,
    columns: Vec<columns::Column>,
    selectable: Vec<(&'static str, Path)>,
    /// The definition is being deleted: nothing new may be created.
    pub terminating: bool,
    /// The version is marked as deprecated: the sentence clients are warned with.
    pub deprecation: Option<String>,
    /// Changes with everything that documents about the version show.
    pub hash: u64,
}

/// Why a definition cannot be served.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum KindError {
    /// The names of all definitions together take too much memory.
    #[error("the names of all custom resources together are too long")]
    Names,
    /// A rule, pattern or path does not compile.
    #[error("{0}")]
    Schema(String),
}

/// The kinds of a definition, one for each version.
#[derive(Debug)]
pub struct Kinds {
    /// The kind in the version that is stored.
    pub stored: Arc<KindInfo>,
    /// The served versions, the preferred one first.
    pub served: Vec<Arc<KindInfo>>,
    /// Every version: objects may be stored in one that is no longer served.
    pub all: Vec<Arc<KindInfo>>,
    /// `spec.conversion.webhook` of a definition whose objects are converted by a webhook.
    pub webhook: Option<Value>,
    /// Changes with everything that shows in the objects.
    pub hash: u64,
}

/// Whether the definition's names have been accepted, so that it is served.
pub fn is_established(definition: &Value) -> bool {
    is_true(definition, "Established")
}

/// Where the objects of a definition are found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Place {
    /// API group.
    pub group: &'static str,
    /// A served version, the stored one if possible.
    pub version: &'static str,
    /// Plural resource name.
    pub plural: &'static str,
    /// Kind.
    pub kind: &'static str,
    /// Whether they live in namespaces.
    pub namespaced: bool,
}

/// Where the objects are found; `None` when no version is served.
pub fn place(definition: &Value) -> Option<Place> {
    if !is_established(definition) {
        return None;
    }
    let mut served = list_at(definition, &["spec", "versions"]).iter().filter(|v| bool_at(v, &["served"]));
    let version = served.clone().find(|v| bool_at(v, &["storage"])).or_else(|| served.next())?;
    Some(Place {
        group: intern::text(str_at(definition, &["spec", "group"]))?,
        version: intern::text(str_at(version, &["name"]))?,
        plural: intern::text(str_at(definition, &["spec", "names", "plural"]))?,
        kind: intern::text(str_at(definition, &["spec", "names", "kind"]))?,
        namespaced: str_at(definition, &["spec", "scope"]) == "Namespaced",
    })
}

/// Changes with everything that decides how the objects of a definition are served.
pub fn fingerprint(definition: &Value) -> u64 {
    let deleting = crate::meta::is_deleting(definition);
    let facts = serde_json::json!([definition["spec"], definition["status"]["acceptedNames"], deleting]);
    crate::openapi::fnv1a(facts.to_string().as_bytes())
}

/// The kinds of a definition.
///
/// # Errors
/// A schema that does not compile. What the API server accepted does.
pub fn kinds(definition: &Value) -> Result<Kinds, KindError> {
    let versions = list_at(definition, &["spec", "versions"]);
    let storage = versions.iter().find(|v| bool_at(v, &["storage"])).or(versions.first());
    let storage = storage.ok_or_else(|| KindError::Schema("no version".to_owned()))?;
    let storage = str_at(storage, &["name"]);
    let all = versions.iter().map(|version| kind(definition, version, storage).map(Arc::new));
    let all: Vec<Arc<KindInfo>> = all.collect::<Result<_, _>>()?;
    let stored = all.iter().find(|k| k.version == storage).cloned();
    let stored = stored.ok_or_else(|| KindError::Schema("no version".to_owned()))?;
    let is_served = |k: &&Arc<KindInfo>| versions.iter().any(|v| v["name"] == k.version && bool_at(v, &["served"]));
    let mut served: Vec<Arc<KindInfo>> = all.iter().filter(is_served).cloned().collect();
    served.sort_by_key(|k| std::cmp::Reverse(priority(k.version)));
    let conversion = &definition["spec"]["conversion"];
    let webhook = (conversion["strategy"] == "Webhook").then(|| conversion["webhook"].clone());
    let spec = &definition["spec"];
    let names = &definition["status"]["acceptedNames"];
    let facts = serde_json::json!([spec["names"], names, versions, spec["preserveUnknownFields"], conversion]);
    let hash = crate::openapi::fnv1a(facts.to_string().as_bytes());
    Ok(Kinds { stored, served, all, webhook, hash })
}

/// The order of versions: stable before beta before alpha before others, higher before lower.
pub fn priority(version: &str) -> (u8, u64, u64, std::cmp::Reverse<String>) {
    let other = (0, 0, 0, std::cmp::Reverse(version.to_owned()));
    let Some(rest) = version.strip_prefix('v') else { return other };
    let end = rest.find(|c: char| !c.is_ascii_digit()).unwrap_or(rest.len());
    let Ok(major) = rest[..end].parse::<u64>() else { return other };
    let (rank, minor) = match &rest[end..] {
        "" => (3, 0),
        rest => match (rest.strip_prefix("beta"), rest.strip_prefix("alpha")) {
            (Some(n), _) => (2, n.parse().unwrap_or(u64::MAX)),
            (_, Some(n)) => (1, n.parse().unwrap_or(u64::MAX)),
            _ => return other,
        },
    };
    if minor == u64::MAX { other } else { (rank, major, minor, std::cmp::Reverse(String::new())) }
}

fn kind(definition: &Value, version: &Value, storage: &str) -> Result<KindInfo, KindError> {
    let text = |s: &str| intern::text(s).ok_or(KindError::Names);
    let strings = |v: &Value, key: &str| {
        let list: Vec<&str> = list_at(v, &[key]).iter().filter_map(Value::as_str).collect();
        intern::list(list).ok_or(KindError::Names)
    };
    let spec = &definition["spec"];
    let names = match definition["status"]["acceptedNames"]["kind"].as_str() {
        Some(name) if !name.is_empty() => &definition["status"]["acceptedNames"],
        _ => &spec["names"],
    };
    let group = text(str_at(spec, &["group"]))?;
    let storage = text(storage)?;
    let kind = str_at(names, &["kind"]);
    let default_list = format!("{kind}List");
    let list_kind = Some(str_at(names, &["listKind"])).filter(|k| !k.is_empty()).unwrap_or(&default_list);
    let custom = Arc::new(custom(definition, version, kind)?);
    let scale = version["subresources"].get("scale").filter(|s| s.is_object()).map(|scale| {
        let path = |key: &str| {
            let keys = str_at(scale, &[key]).split('.').filter(|k| !k.is_empty());
            intern::list(keys).ok_or(KindError::Names)
        };
        Ok(ScalePaths {
            spec_replicas: path("specReplicasPath")?,
            status_replicas: path("statusReplicasPath")?,
            selector: path("labelSelectorPath")?,
        })
    });
    Ok(KindInfo {
        group,
        version: text(str_at(version, &["name"]))?,
        kind: text(kind)?,
        list_kind: text(list_kind)?,
        plural: text(str_at(names, &["plural"]))?,
        singular: text(str_at(names, &["singular"]))?,
        short_names: strings(names, "shortNames")?,
        categories: strings(names, "categories")?,
        namespaced: str_at(spec, &["scope"]) == "Namespaced",
        has_status: version["subresources"].get("status").is_some_and(Value::is_object),
        scale: scale.transpose()?,
        verbs: VERBS,
        subresources: &[],
        storage_group: group,
        storage_version: storage,
        name_rule: NameRule::Subdomain,
        create_on_update: false,
        has_generation: true,
        status_on_create: false,
        default_orphan: false,
        ttl_s: None,
        hooks: Hooks::NONE,
        columns: Columns { list: &[], row: |_, _| Vec::new() },
        custom: Some(custom),
    })
}

fn custom(definition: &Value, version: &Value, kind: &str) -> Result<Custom, KindError> {
    let mut schema = version["schema"]["openAPIV3Schema"].clone();
    if definition["spec"]["preserveUnknownFields"] == true && schema.is_object() {
        schema["x-kubernetes-preserve-unknown-fields"] = true.into();
    }
    let (group, name) = (str_at(definition, &["spec", "group"]), str_at(version, &["name"]));
    let status_subresource = version["subresources"].get("status").is_some_and(Value::is_object);
    let types = Schema::from_structural(&schema, StructuralOptions { group, version: name, kind, status_subresource });
    let mut patterns = HashMap::new();
    compile_patterns(&schema, &mut patterns)?;
    let mut selectable = Vec::new();
    for field in list_at(version, &["selectableFields"]) {
        let path = str_at(field, &["jsonPath"]);
        let label = intern::text(path.trim_start_matches('.')).ok_or(KindError::Names)?;
        selectable.push((label, Path::parse(path).map_err(KindError::Schema)?));
    }
    let deprecation = bool_at(version, &["deprecated"]).then(|| match str_at(version, &["deprecationWarning"]) {
        "" => deprecation(definition, name, kind),
        words => words.to_owned(),
    });
    let facts = serde_json::json!([definition["spec"]["names"], definition["status"]["acceptedNames"], version]);
    Ok(Custom {
        types,
        rules: rules::Rules::compile(&schema).map_err(KindError::Schema)?,
        has_defaults: defaults::has_defaults(&schema),
        patterns,
        columns: columns::of(version).map_err(KindError::Schema)?,
        selectable,
        terminating: crate::meta::is_deleting(definition),
        deprecation,
        hash: crate::openapi::fnv1a(facts.to_string().as_bytes()),
        schema,
    })
}

/// What users of a deprecated version are told when the definition has no words of its own.
fn deprecation(definition: &Value, version: &str, kind: &str) -> String {
    let group = str_at(definition, &["spec", "group"]);
    let newer = |v: &&Value| bool_at(v, &["served"]) && !bool_at(v, &["deprecated"]);
    let names = list_at(definition, &["spec", "versions"]).iter().filter(newer).map(|v| str_at(v, &["name"]));
    let better = names.filter(|name| priority(name) > priority(version)).max_by_key(|name| priority(name));
    let instead = better.map_or_else(String::new, |better| format!("; use {group}/{better} {kind}"));
    format!("{group}/{version} {kind} is deprecated{instead}")
}

/// A pattern in the syntax of RE2, which is nearly that of Rust's.
fn pattern(text: &str) -> Result<Regex, String> {
    let compile = |text: &str| regex::RegexBuilder::new(text).size_limit(PATTERN).build();
    // RE2 takes `\/` and `\-` outside of classes, and so does this engine; `\Z` is the one spelling it does not know.
    compile(text).or_else(|_| compile(&text.replace("\\Z", "\\z"))).map_err(|e| e.to_string().replace('\n', " "))
}

fn compile_patterns(schema: &Value, out: &mut HashMap<String, Regex>) -> Result<(), KindError> {
    match schema {
        Value::Object(map) => {
            if let Some(Value::String(text)) = map.get("pattern")
                && !out.contains_key(text)
            {
                out.insert(text.clone(), pattern(text).map_err(KindError::Schema)?);
            }
            for (key, child) in map {
                // Values, not schemas.
                if !matches!(key.as_str(), "default" | "enum" | "example") {
                    compile_patterns(child, out)?;
                }
            }
            Ok(())
        }
        Value::Array(list) => list.iter().try_for_each(|child| compile_patterns(child, out)),
        _ => Ok(()),
    }
}

impl Custom {
    /// The type of the kind's objects, for patches and field ownership.
    pub fn ty(&self, kind: &KindInfo) -> Option<TypeRef<'_>> {
        self.types.kind(kind.group, kind.version, kind.kind)
    }

    /// `openAPIV3Schema`, as the definition has it.
    pub fn schema(&self) -> &Value {
        &self.schema
    }

    /// Whether a stored object may lack what the schema gives a default for.
    pub fn has_defaults(&self) -> bool {
        self.has_defaults
    }

    pub(crate) fn default(&self, object: &mut Value) {
        if self.has_defaults {
            defaults::apply(&self.schema, object, 0);
        }
    }

    pub(crate) fn validate(&self, object: &Value, old: Option<&Value>) -> Vec<FieldError> {
        let mut errors = values::validate(&self.schema, &self.patterns, object, old);
        // Rules are about values of the declared types.
        if errors.is_empty() {
            errors = self.rules.check(&self.schema, object, old);
        }
        errors
    }

    pub(crate) fn selectable(&self, object: &Value) -> impl Iterator<Item = (&'static str, String)> {
        self.selectable.iter().map(|(label, path)| {
            let found = path.find(object).first().map(|v| match v {
                Value::String(s) => s.clone(),
                other => other.to_string(),
            });
            (*label, found.unwrap_or_default())
        })
    }

    pub(crate) fn is_selectable(&self, label: &str) -> bool {
        self.selectable.iter().any(|(l, _)| *l == label)
    }

    pub(crate) fn columns(&self) -> Vec<Value> {
        columns::definitions(&self.columns)
    }

    pub(crate) fn row(&self, object: &Value, now: jiff::Timestamp) -> Vec<Value> {
        columns::row(&self.columns, object, now)
    }
}

/// What changes the generation: everything but the metadata, and the status where that is written by itself.
pub(crate) fn content(object: &Value, has_status: bool) -> Map<String, Value> {
    let mut map = object.as_object().cloned().unwrap_or_default();
    map.retain(|key, _| match key.as_str() {
        "metadata" | "apiVersion" => false,
        "status" => !has_status,
        _ => true,
    });
    map
}
