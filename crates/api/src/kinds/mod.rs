//! The registry of built-in kinds: names, verbs, defaults, validation and lifecycle rules, as data and plain functions.
//!
//! The order in which the API server uses a kind on create: type check (`schema`), [`KindInfo::to_storage`],
//! [`KindInfo::default`], [`crate::meta::prepare_create`] (fills uid and times), [`KindInfo::prepare_create`],
//! [`KindInfo::validate_create`]. On update: the same with the `update` functions, each of which sees the stored object.

use std::collections::HashMap;
use std::sync::{Arc, OnceLock};

use jiff::Timestamp;
use serde_json::Value;

use crate::crd::{self, Custom};
use crate::json::str_at;
use crate::schema::TypeRef;
use crate::status::FieldError;

mod admission;
mod answered;
mod apps;
mod autoscaling;
mod certificates;
mod check;
mod cidr;
mod classes;
mod core;
mod cronjob;
mod csi;
mod daemonset;
mod devices;
mod event;
mod extension;
mod flowcontrol;
mod hooks;
mod job;
mod job_policy;
mod netpol;
mod network;
pub mod pod;
mod podspec;
mod policy;
mod quota;
mod rbac;
mod replication;
mod resources;
pub mod service;
mod storage;
mod tables;
mod warnings;

pub(crate) use self::admission::client_config;
pub use self::admission::type_checking;
pub use self::answered::answered;
pub(crate) use self::autoscaling::as_v2 as autoscaler_as_v2;
pub use self::core::finalize_namespace;
pub use hooks::{Columns, Hooks};
pub use resources::qos_class;

/// Group, version and kind.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Gvk {
    /// API group; empty for core.
    pub group: String,
    /// Version.
    pub version: String,
    /// Kind.
    pub kind: String,
}

impl Gvk {
    /// From `apiVersion` and `kind`.
    pub fn new(api_version: &str, kind: &str) -> Self {
        let (group, version) = split_api_version(api_version);
        Self { group: group.to_owned(), version: version.to_owned(), kind: kind.to_owned() }
    }

    /// Of an object; empty strings where absent.
    pub fn of(object: &Value) -> Self {
        Self::new(str_at(object, &["apiVersion"]), str_at(object, &["kind"]))
    }

    /// `apps/v1`, or `v1`.
    pub fn api_version(&self) -> String {
        join_api_version(&self.group, &self.version)
    }
}

/// Splits `apps/v1` in group and version; `v1` has the empty group.
pub fn split_api_version(api_version: &str) -> (&str, &str) {
    api_version.split_once('/').unwrap_or(("", api_version))
}

/// Joins group and version to an `apiVersion`.
pub fn join_api_version(group: &str, version: &str) -> String {
    if group.is_empty() { version.to_owned() } else { format!("{group}/{version}") }
}

/// JSON paths of the scale subresource, each a list of object keys.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ScalePaths {
    /// Desired replicas.
    pub spec_replicas: &'static [&'static str],
    /// Observed replicas.
    pub status_replicas: &'static [&'static str],
    /// Label selector, published as a string in the scale's status.
    pub selector: &'static [&'static str],
}

impl ScalePaths {
    /// The object's selector as the scale's status has it; `None` when it is malformed. Most kinds have a metav1 selector,
    /// replication controllers a map of labels, and custom resources the string itself.
    pub fn selector_text(&self, object: &Value) -> Option<String> {
        use crate::selectors::LabelSelector;
        let metav1 = |map: &serde_json::Map<String, Value>| map.values().any(|v| !v.is_string());
        match crate::json::at(object, self.selector) {
            None => Some(String::new()),
            Some(Value::String(text)) => Some(text.clone()),
            Some(Value::Object(labels)) if !metav1(labels) => Some(LabelSelector::from_map(labels).to_string()),
            Some(selector) => LabelSelector::from_json(selector).ok().map(|s| s.to_string()),
        }
    }
}

/// A subresource beside `status` and `scale`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Subresource {
    /// Last path segment, e.g. `log`.
    pub name: &'static str,
    /// Kind of the exchanged object.
    pub kind: &'static str,
    /// Group of that kind.
    pub group: &'static str,
    /// Version of that kind.
    pub version: &'static str,
    /// Discovery verbs (`get`, `create`, ...).
    pub verbs: &'static [&'static str],
}

/// A printer column, as in metav1 `Table`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Column {
    /// Heading.
    pub name: &'static str,
    /// `string`, `integer`, `number`, `boolean` or `date`.
    pub kind: &'static str,
    /// `name` for the name column, else empty.
    pub format: &'static str,
    /// One sentence.
    pub description: &'static str,
    /// 0 always shown; 1 with `-o wide`.
    pub priority: u8,
}

/// How the kind's names are checked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NameRule {
    /// RFC 1123 subdomain, ≤ 253.
    Subdomain,
    /// RFC 1123 label, ≤ 63.
    Label,
    /// RFC 1035 label (services).
    Label1035,
    /// Only what a path segment can hold.
    PathSegment,
}

/// Everything the generic machinery needs to know about one served kind in one version.
#[derive(Debug, Clone)]
pub struct KindInfo {
    /// API group; empty for core.
    pub group: &'static str,
    /// Served version.
    pub version: &'static str,
    /// Kind.
    pub kind: &'static str,
    /// Kind of lists.
    pub list_kind: &'static str,
    /// Resource name in URLs.
    pub plural: &'static str,
    /// Singular resource name.
    pub singular: &'static str,
    /// kubectl short names.
    pub short_names: &'static [&'static str],
    /// Categories (`all`).
    pub categories: &'static [&'static str],
    /// Whether objects live in a namespace.
    pub namespaced: bool,
    /// Whether `/status` is served.
    pub has_status: bool,
    /// Scale subresource.
    pub scale: Option<ScalePaths>,
    /// Verbs of the main resource.
    pub verbs: &'static [&'static str],
    /// Further subresources.
    pub subresources: &'static [Subresource],
    /// Group under which objects are stored (differs for events.k8s.io, which shares core's events).
    pub storage_group: &'static str,
    /// Version of the stored objects.
    pub storage_version: &'static str,
    /// Rule for `metadata.name`.
    pub name_rule: NameRule,
    /// PUT of an absent object creates it.
    pub create_on_update: bool,
    /// `metadata.generation` is maintained.
    pub has_generation: bool,
    /// Creators may set the status (nodes register with theirs).
    pub status_on_create: bool,
    /// Deletion without an explicit policy orphans dependents (Jobs, for compatibility with old clients).
    pub default_orphan: bool,
    /// Stored objects expire this many seconds after their last write (events).
    pub ttl_s: Option<u64>,
    /// Behaviour.
    pub hooks: Hooks,
    /// Printer columns.
    pub columns: Columns,
    /// What a custom resource definition says; `None` for built-in kinds.
    pub custom: Option<Arc<Custom>>,
}

impl KindInfo {
    /// `apps/v1` or `v1`.
    pub fn api_version(&self) -> String {
        join_api_version(self.group, self.version)
    }

    /// Group, version, kind.
    pub fn gvk(&self) -> Gvk {
        Gvk { group: self.group.to_owned(), version: self.version.to_owned(), kind: self.kind.to_owned() }
    }

    /// `deployments.apps`, or `pods`.
    pub fn qualified_resource(&self) -> String {
        crate::status::qualified_resource(self.plural, self.group)
    }

    /// Converts an object of this version to the stored version. Custom objects are handled in the version of the request,
    /// and converted when they are read and written (see [`crate::crd::conversion`]).
    pub fn to_storage(&self, object: &mut Value) {
        (self.hooks.to_storage)(object);
    }

    /// Converts a stored object to this version.
    pub fn from_storage(&self, object: &mut Value) {
        (self.hooks.from_storage)(object);
    }

    /// Fills in defaults, in place. Idempotent.
    pub fn default(&self, object: &mut Value) {
        if let Some(custom) = &self.custom {
            custom.default(object);
        }
        (self.hooks.default)(object);
    }

    /// Clears what a creator may not set (status), starts the generation, derives fields from the uid and the name.
    /// Call after [`crate::meta::prepare_create`].
    pub fn prepare_create(&self, object: &mut Value) {
        if self.has_status && !self.status_on_create {
            crate::json::drop_key(object, "status");
        }
        // A struct in Kubernetes' own types: there from the start, and what clients read and patch.
        if self.has_status && self.custom.is_none() {
            crate::json::ensure_object(object, "status");
        }
        if self.has_generation {
            crate::json::ensure_object(object, "metadata")["generation"] = 1.into();
        }
        (self.hooks.prepare_create)(object);
    }

    /// Keeps the stored status and system metadata, bumps the generation when the spec changed.
    pub fn prepare_update(&self, new: &mut Value, old: &Value) {
        crate::meta::prepare_update(new, old);
        if self.has_status {
            crate::json::carry(new, old, "status");
        }
        (self.hooks.prepare_update)(new, old);
        if self.custom.is_some() {
            let changed = crd::content(new, self.has_status) != crd::content(old, self.has_status);
            new["metadata"]["generation"] = (crate::meta::generation(old) + i64::from(changed)).into();
        } else if self.has_generation {
            crate::meta::bump_generation(new, old, self.hooks.generation_keys);
        }
    }

    /// For `/status`: everything but status is the stored object's (metadata: only managedFields and what Kubernetes lets
    /// a status writer set).
    pub fn prepare_status_update(&self, new: &mut Value, old: &Value) {
        crate::meta::prepare_status_update(new, old);
        (self.hooks.prepare_status_update)(new, old);
    }

    /// Findings on a new object, defaulted and prepared.
    pub fn validate_create(&self, object: &Value) -> Vec<FieldError> {
        let mut errors = crate::meta::validate(object, self.namespaced, self.name_rule);
        errors.extend((self.hooks.validate)(object));
        errors.extend((self.hooks.validate_create)(object));
        errors.extend(self.custom.iter().flat_map(|c| c.validate(object, None)));
        errors
    }

    /// Findings on a replacement, defaulted and prepared.
    pub fn validate_update(&self, new: &Value, old: &Value) -> Vec<FieldError> {
        let mut errors = crate::meta::validate_update(new, old);
        errors.extend((self.hooks.validate_update)(new, old));
        errors.extend(self.custom.iter().flat_map(|c| c.validate(new, Some(old))));
        errors
    }

    /// Findings on a status write.
    pub fn validate_status_update(&self, new: &Value, old: &Value) -> Vec<FieldError> {
        let mut errors = crate::meta::validate_update(new, old);
        errors.extend((self.hooks.validate_status_update)(new, old));
        errors.extend(self.custom.iter().flat_map(|c| c.validate(new, Some(old))));
        errors
    }

    /// What the writer of an accepted object should hear, one sentence for each `Warning` header. Call it with the object
    /// as it will be stored.
    pub fn warnings(&self, object: &Value) -> Vec<String> {
        (self.hooks.warnings)(object)
    }

    /// Values a field selector can match on; `metadata.name` (and namespace) first.
    pub fn selectable(&self, object: &Value) -> Vec<(&'static str, String)> {
        let mut out = vec![("metadata.name", str_at(object, &["metadata", "name"]).to_owned())];
        if self.namespaced {
            out.push(("metadata.namespace", str_at(object, &["metadata", "namespace"]).to_owned()));
        }
        for &(label, path) in self.hooks.selectable {
            out.push((label, path(object)));
        }
        if let Some(custom) = &self.custom {
            out.extend(custom.selectable(object));
        }
        out
    }

    /// Whether a field selector may name `label`.
    pub fn is_selectable(&self, label: &str) -> bool {
        label == "metadata.name"
            || (self.namespaced && label == "metadata.namespace")
            || self.hooks.selectable.iter().any(|(l, _)| *l == label)
            || self.custom.as_ref().is_some_and(|c| c.is_selectable(label))
    }

    /// Cells of one table row, one for each of [`KindInfo::columns`].
    pub fn row(&self, object: &Value, now: Timestamp) -> Vec<Value> {
        match &self.custom {
            Some(custom) => custom.row(object, now),
            None => (self.columns.row)(object, now),
        }
    }

    /// Headings of the printer columns, as `Table` has them.
    pub fn column_definitions(&self) -> Vec<Value> {
        if let Some(custom) = &self.custom {
            return custom.columns();
        }
        let definition = |c: &Column| {
            serde_json::json!({
                "name": c.name,
                "type": c.kind,
                "format": c.format,
                "description": c.description,
                "priority": c.priority,
            })
        };
        self.columns.list.iter().map(definition).collect()
    }

    /// The type of the kind's objects, of this version.
    pub fn schema(&self) -> Option<TypeRef<'_>> {
        match &self.custom {
            Some(custom) => custom.ty(self),
            None => crate::schema::for_kind(self.group, self.version, self.kind),
        }
    }

    /// Seconds a deletion waits, from the request's `gracePeriodSeconds`; `None` for kinds that go at once.
    pub fn grace_period(&self, object: &Value, requested: Option<i64>) -> Option<i64> {
        self.hooks.grace_period.map(|f| f(object, requested))
    }
}

/// The kinds this server has built in.
pub struct Registry {
    kinds: Vec<KindInfo>,
    by_resource: HashMap<(&'static str, &'static str, &'static str), usize>,
    by_kind: HashMap<(&'static str, &'static str, &'static str), usize>,
}

impl Registry {
    /// By group, version and plural.
    pub fn by_resource(&self, group: &str, version: &str, plural: &str) -> Option<&KindInfo> {
        self.by_resource.get(&(group, version, plural)).map(|&i| &self.kinds[i])
    }

    /// By group, version and kind.
    pub fn by_kind(&self, group: &str, version: &str, kind: &str) -> Option<&KindInfo> {
        self.by_kind.get(&(group, version, kind)).map(|&i| &self.kinds[i])
    }

    /// By `apiVersion` and `kind`.
    pub fn by_api_version(&self, api_version: &str, kind: &str) -> Option<&KindInfo> {
        let (group, version) = split_api_version(api_version);
        self.by_kind(group, version, kind)
    }

    /// All kinds, core first, then by group name.
    pub fn all(&self) -> &[KindInfo] {
        &self.kinds
    }

    /// Distinct `(group, version)` pairs in the order of [`Registry::all`]; the first version of a group is preferred.
    pub fn group_versions(&self) -> Vec<(&'static str, &'static str)> {
        let mut out = Vec::new();
        for k in &self.kinds {
            if !out.contains(&(k.group, k.version)) {
                out.push((k.group, k.version));
            }
        }
        for k in VIRTUAL {
            if !out.contains(&(k.group, k.version)) {
                out.push((k.group, k.version));
            }
        }
        out
    }
}

/// A resource that is never stored: a question that is posted, or a measurement that is read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct VirtualKind {
    /// API group.
    pub group: &'static str,
    /// Version.
    pub version: &'static str,
    /// Kind.
    pub kind: &'static str,
    /// Plural resource name.
    pub plural: &'static str,
    /// Singular resource name.
    pub singular: &'static str,
    /// Whether it lives under a namespace path.
    pub namespaced: bool,
    /// What is done with it.
    pub verbs: &'static [&'static str],
    /// kubectl short names.
    pub short_names: &'static [&'static str],
}

/// Resources that are never stored.
pub const VIRTUAL: &[VirtualKind] = &[
    virtual_kind("", "v1", "Binding", "bindings", "binding", true),
    VirtualKind {
        short_names: &["cs"],
        verbs: READ,
        ..virtual_kind("", "v1", "ComponentStatus", "componentstatuses", "componentstatus", false)
    },
    virtual_kind("authentication.k8s.io", "v1", "SelfSubjectReview", "selfsubjectreviews", "selfsubjectreview", false),
    virtual_kind("authentication.k8s.io", "v1", "TokenReview", "tokenreviews", "tokenreview", false),
    virtual_kind(
        "authorization.k8s.io",
        "v1",
        "LocalSubjectAccessReview",
        "localsubjectaccessreviews",
        "localsubjectaccessreview",
        true,
    ),
    virtual_kind(
        "authorization.k8s.io",
        "v1",
        "SelfSubjectAccessReview",
        "selfsubjectaccessreviews",
        "selfsubjectaccessreview",
        false,
    ),
    virtual_kind(
        "authorization.k8s.io",
        "v1",
        "SelfSubjectRulesReview",
        "selfsubjectrulesreviews",
        "selfsubjectrulesreview",
        false,
    ),
    virtual_kind(
        "authorization.k8s.io",
        "v1",
        "SubjectAccessReview",
        "subjectaccessreviews",
        "subjectaccessreview",
        false,
    ),
    measured("NodeMetrics", "nodes", false),
    measured("PodMetrics", "pods", true),
];

const READ: &[&str] = &["get", "list"];

/// A resource of metrics.k8s.io, as metrics-server has them.
const fn measured(kind: &'static str, plural: &'static str, namespaced: bool) -> VirtualKind {
    VirtualKind { verbs: READ, ..virtual_kind("metrics.k8s.io", "v1beta1", kind, plural, "", namespaced) }
}

const fn virtual_kind(
    group: &'static str,
    version: &'static str,
    kind: &'static str,
    plural: &'static str,
    singular: &'static str,
    namespaced: bool,
) -> VirtualKind {
    VirtualKind { group, version, kind, plural, singular, namespaced, verbs: &["create"], short_names: &[] }
}

/// The registry; built on first use.
pub fn registry() -> &'static Registry {
    static REGISTRY: OnceLock<Registry> = OnceLock::new();
    REGISTRY.get_or_init(|| {
        let kinds = tables::all();
        let by_resource = kinds.iter().enumerate().map(|(i, k)| ((k.group, k.version, k.plural), i)).collect();
        let by_kind = kinds.iter().enumerate().map(|(i, k)| ((k.group, k.version, k.kind), i)).collect();
        Registry { kinds, by_resource, by_kind }
    })
}

#[cfg(test)]
mod tests;
