//! `paths` of a document: every operation with its action, kind and parameters.

use serde_json::{Map, Value, json};

use super::schemas::{custom_name, definition, list_name, reference};
use super::subresources;
use crate::discovery::CustomKinds;
use crate::kinds::{KindInfo, VIRTUAL, VirtualKind, answered, join_api_version, registry};

const JSON_TYPES: &[&str] = &["application/json", "application/yaml"];
const TEXT_TYPES: &[&str] = &["*/*"];
pub(super) const PATCH_TYPES: &[&str] = &[
    "application/apply-patch+yaml",
    "application/json-patch+json",
    "application/merge-patch+json",
    "application/strategic-merge-patch+json",
];
const STATUS: &str = "io.k8s.apimachinery.pkg.apis.meta.v1.Status";
const DELETE_OPTIONS: &str = "io.k8s.apimachinery.pkg.apis.meta.v1.DeleteOptions";
const RESOURCE_LIST: &str = "io.k8s.apimachinery.pkg.apis.meta.v1.APIResourceList";

/// One operation before it is written down.
pub(super) struct Operation<'a> {
    pub action: &'a str,
    /// Shown as the operation's description.
    pub words: String,
    pub id: String,
    pub gvk: (&'a str, &'a str, &'a str),
    /// Group and version below which the operation is.
    pub of: (&'a str, &'a str),
    pub query: &'a [(&'a str, &'a str, &'a str)],
    pub body: Option<Value>,
    /// Media types of a patch; empty for other operations.
    pub patch: &'a [&'a str],
    /// Definition name of what comes back; empty for text.
    pub returns: String,
}

const DRY_RUN: (&str, &str, &str) = ("dryRun", "string", "`All`: do everything but keep the result.");
const MANAGER: (&str, &str, &str) = ("fieldManager", "string", "Name of the writer, recorded as owner of the fields.");
const VALIDATION: (&str, &str, &str) =
    ("fieldValidation", "string", "What becomes of unknown and duplicate fields: Ignore, Warn or Strict.");
const FORCE: (&str, &str, &str) = ("force", "boolean", "Take over fields other writers own (server-side apply).");
pub(super) const CREATE_QUERY: &[(&str, &str, &str)] = &[DRY_RUN, MANAGER, VALIDATION];
pub(super) const PATCH_QUERY: &[(&str, &str, &str)] = &[DRY_RUN, MANAGER, VALIDATION, FORCE];
const DELETE_QUERY: &[(&str, &str, &str)] = &[
    DRY_RUN,
    ("gracePeriodSeconds", "integer", "Seconds before the object is gone for good."),
    ("orphanDependents", "boolean", "Deprecated: use propagationPolicy."),
    ("propagationPolicy", "string", "What becomes of dependents: Orphan, Background or Foreground."),
];
const LIST_QUERY: &[(&str, &str, &str)] = &[
    ("allowWatchBookmarks", "boolean", "Send progress events on a watch."),
    ("continue", "string", "Where the previous page ended."),
    ("fieldSelector", "string", "Restrict by fields."),
    ("labelSelector", "string", "Restrict by labels."),
    ("limit", "integer", "Most objects in one answer."),
    ("resourceVersion", "string", "Revision to read from."),
    ("resourceVersionMatch", "string", "How resourceVersion is meant."),
    ("sendInitialEvents", "boolean", "Start a watch with the existing objects."),
    ("timeoutSeconds", "integer", "How long the request may take."),
    ("watch", "boolean", "Follow changes instead of listing."),
];

/// All paths of a group version.
pub(super) fn paths(group: &str, version: &str, custom: CustomKinds<'_>) -> Value {
    let root = if group.is_empty() { format!("/api/{version}") } else { format!("/apis/{group}/{version}") };
    let mut out = Map::new();
    out.insert(format!("{root}/"), resources_path(group, version));
    let all = registry().all().iter().chain(custom.iter().map(AsRef::as_ref));
    for kind in all.filter(|k| k.group == group && k.version == version) {
        add_kind(&mut out, &root, kind);
    }
    for kind in VIRTUAL.iter().filter(|k| k.group == group && k.version == version) {
        add_virtual(&mut out, &root, kind);
    }
    Value::Object(out)
}

/// The paths above groups: which there are, and the version of the server.
pub(super) fn above() -> Value {
    let get = |words: &str, id: String, tag: &str, returns: &str| {
        let mut get = json!({"description": words, "operationId": id, "tags": [tag]});
        get["responses"] = responses(&format!("io.k8s.apimachinery.pkg.{returns}"), "get");
        json!({ "get": get })
    };
    let mut out = Map::new();
    let words = "get available API versions";
    out.insert("/api/".into(), get(words, "getCoreAPIVersions".into(), "core", "apis.meta.v1.APIVersions"));
    out.insert("/apis/".into(), get(words, "getAPIVersions".into(), "apis", "apis.meta.v1.APIGroupList"));
    let words = "get the version information for this server";
    out.insert("/version/".into(), get(words, "getCodeVersion".into(), "version", "version.Info"));
    for (group, version) in registry().group_versions().into_iter().filter(|(group, _)| !group.is_empty()) {
        let tag = tag(group, version).split('_').next().unwrap_or_default().to_owned();
        let id = format!("get{}APIGroup", capital(&tag));
        out.insert(format!("/apis/{group}/"), get("get information of a group", id, &tag, "apis.meta.v1.APIGroup"));
    }
    Value::Object(out)
}

fn resources_path(group: &str, version: &str) -> Value {
    let mut get = json!({
        "description": "get available resources",
        "operationId": format!("get{}APIResources", tag_words(group, version)),
        "tags": [tag(group, version)],
    });
    get["responses"] = responses(RESOURCE_LIST, "get");
    json!({ "get": get })
}

/// `apps_v1`, `rbacAuthorization_v1`.
fn tag(group: &str, version: &str) -> String {
    let group = if group.is_empty() { "core" } else { group.strip_suffix(".k8s.io").unwrap_or(group) };
    let mut parts = group.split('.');
    let first = parts.next().unwrap_or_default().to_owned();
    format!("{}_{version}", parts.map(capital).fold(first, |all, part| all + &part))
}

/// `AppsV1`.
fn tag_words(group: &str, version: &str) -> String {
    tag(group, version).split('_').map(capital).collect()
}

pub(super) fn capital(word: &str) -> String {
    let mut chars = word.chars();
    chars.next().map_or_else(String::new, |c| c.to_uppercase().chain(chars).collect())
}

/// The codes of success of an action.
fn codes(action: &str) -> &'static [(&'static str, &'static str)] {
    match action {
        "post" => &[("200", "OK"), ("201", "Created"), ("202", "Accepted")],
        "put" | "patch" => &[("200", "OK"), ("201", "Created")],
        "delete" => &[("200", "OK"), ("202", "Accepted")],
        _ => &[("200", "OK")],
    }
}

fn responses(name: &str, action: &str) -> Value {
    let (types, schema) =
        if name.is_empty() { (TEXT_TYPES, json!({"type": "string"})) } else { (JSON_TYPES, reference(name)) };
    let content: Map<String, Value> = types.iter().map(|t| ((*t).to_owned(), json!({"schema": schema}))).collect();
    let mut out = json!({"401": {"description": "Unauthorized"}});
    for (code, words) in codes(action) {
        out[*code] = json!({"description": words, "content": content});
    }
    out
}

pub(super) fn write(op: Operation<'_>) -> Value {
    let (group, version, kind) = op.gvk;
    let parameters: Vec<Value> = op
        .query
        .iter()
        .map(|(name, ty, words)| {
            json!({"name": name, "in": "query", "description": words, "schema": {"type": ty, "uniqueItems": true}})
        })
        .collect();
    let mut out = json!({
        "description": op.words,
        "operationId": op.id,
        "tags": [tag(op.of.0, op.of.1)],
        "x-kubernetes-action": op.action,
        "x-kubernetes-group-version-kind": {"group": group, "version": version, "kind": kind},
    });
    if !parameters.is_empty() {
        out["parameters"] = Value::Array(parameters);
    }
    if let Some(body) = op.body {
        let types = if op.patch.is_empty() { JSON_TYPES } else { op.patch };
        let content: Map<String, Value> = types.iter().map(|t| ((*t).to_owned(), json!({"schema": body}))).collect();
        out["requestBody"] =
            json!({"required": op.action != "delete" && op.action != "deletecollection", "content": content});
    }
    out["responses"] = responses(&op.returns, op.action);
    out
}

pub(super) fn path_parameters(kind: &str, namespaced: bool, named: bool) -> Value {
    let mut out = Vec::new();
    let mut add = |name: &str, words: String| {
        out.push(json!({"name": name, "in": "path", "required": true, "description": words,
            "schema": {"type": "string", "uniqueItems": true}}));
    };
    if named {
        add("name", format!("name of the {kind}"));
    }
    if namespaced {
        add("namespace", "object name and auth scope, such as for teams and projects".to_owned());
    }
    Value::Array(out)
}

/// What the operations of one kind have in common.
pub(super) struct Frame<'a> {
    pub kind: &'a KindInfo,
    definition: String,
    /// `AppsV1NamespacedDeployment`.
    pub words: String,
}

impl Frame<'_> {
    /// `AppsV1`.
    pub fn tag_words(&self) -> String {
        tag_words(self.kind.group, self.kind.version)
    }

    fn operation(&self, verb: &str, suffix: &str) -> Option<(&'static str, Value)> {
        let k = self.kind;
        let gvk = (k.group, k.version, k.kind);
        let what = if suffix.is_empty() {
            k.kind.to_owned()
        } else {
            format!("{} of the specified {}", suffix.to_lowercase(), k.kind)
        };
        let id = |word: &str| format!("{word}{}{suffix}", self.words);
        let base = |action, words, id, query| Operation {
            action,
            words,
            id,
            gvk,
            of: (k.group, k.version),
            query,
            body: None,
            patch: &[],
            returns: self.definition.clone(),
        };
        let body = Some(reference(&self.definition));
        Some(match verb {
            "get" => ("get", write(base("get", format!("read the specified {what}"), id("read"), &[]))),
            "list" => {
                let op = base("list", format!("list or watch objects of kind {}", k.kind), id("list"), LIST_QUERY);
                ("get", write(Operation { returns: list_name(&self.definition), ..op }))
            }
            "create" => {
                let op = base("post", format!("create a {}", k.kind), id("create"), CREATE_QUERY);
                ("post", write(Operation { body, ..op }))
            }
            "update" => {
                let op = base("put", format!("replace the specified {what}"), id("replace"), CREATE_QUERY);
                ("put", write(Operation { body, ..op }))
            }
            "patch" => {
                let op = base("patch", format!("partially update the specified {what}"), id("patch"), PATCH_QUERY);
                // kubectl chooses its form of patch by this list: custom resources have no strategic merge.
                let types = if k.custom.is_some() { &PATCH_TYPES[..3] } else { PATCH_TYPES };
                let body = Some(json!({"description": "A patch in one of the accepted formats.", "type": "object"}));
                ("patch", write(Operation { body, patch: types, ..op }))
            }
            "delete" | "deletecollection" => {
                let many = verb == "deletecollection";
                let words =
                    if many { format!("delete collection of {}", k.kind) } else { format!("delete a {}", k.kind) };
                // `AppsV1` + `Collection` + `NamespacedDeployment`.
                let (head, tail) = self.words.split_at(self.tag_words().len());
                let id = if many { format!("delete{head}Collection{tail}") } else { id("delete") };
                let op = base(verb, words, id, DELETE_QUERY);
                let body = Some(reference(DELETE_OPTIONS));
                ("delete", write(Operation { body, returns: STATUS.to_owned(), ..op }))
            }
            _ => return None,
        })
    }

    fn item(&self, verbs: &[&str], suffix: &str, named: bool) -> Value {
        let mut item: Map<String, Value> = verbs
            .iter()
            .filter(|v| !suffix.is_empty() || self.kind.verbs.contains(v))
            .filter_map(|v| self.operation(v, suffix))
            .map(|(method, op)| (method.to_owned(), op))
            .collect();
        let parameters = path_parameters(self.kind.kind, self.kind.namespaced, named);
        if parameters != json!([]) {
            item.insert("parameters".to_owned(), parameters);
        }
        Value::Object(item)
    }
}

fn add_kind(out: &mut Map<String, Value>, root: &str, kind: &KindInfo) {
    let own = kind.custom.is_some().then(|| custom_name(kind));
    let Some(definition_name) = own.or_else(|| definition(kind.group, kind.version, kind.kind)) else { return };
    let scope = if kind.namespaced { "Namespaced" } else { "" };
    let words = format!("{}{scope}{}", tag_words(kind.group, kind.version), kind.kind);
    let frame = Frame { kind, definition: definition_name, words };
    let base = if kind.namespaced {
        format!("{root}/namespaces/{{namespace}}/{}", kind.plural)
    } else {
        format!("{root}/{}", kind.plural)
    };
    out.insert(base.clone(), frame.item(&["list", "create", "deletecollection"], "", false));
    out.insert(format!("{base}/{{name}}"), frame.item(&["get", "update", "patch", "delete"], "", true));
    if kind.namespaced {
        let all = Frame {
            kind,
            definition: frame.definition.clone(),
            words: format!("{}{}ForAllNamespaces", tag_words(kind.group, kind.version), kind.kind),
        };
        let mut item = Map::new();
        item.extend(all.operation("list", "").map(|(method, op)| (method.to_owned(), op)));
        out.insert(format!("{root}/{}", kind.plural), Value::Object(item));
    }
    if kind.has_status {
        out.insert(format!("{base}/{{name}}/status"), frame.item(&["get", "update", "patch"], "Status", true));
    }
    if kind.scale.is_some() {
        let scale = Frame {
            kind,
            definition: definition("autoscaling", "v1", "Scale").unwrap_or_default(),
            words: frame.words.clone(),
        };
        let mut item = scale.item(&["get", "update", "patch"], "Scale", true);
        for method in ["get", "put", "patch"] {
            item[method]["x-kubernetes-group-version-kind"] =
                json!({"group": "autoscaling", "version": "v1", "kind": "Scale"});
        }
        out.insert(format!("{base}/{{name}}/scale"), item);
    }
    for sub in kind.subresources {
        subresources::add(out, &base, &frame, sub);
    }
}

fn add_virtual(out: &mut Map<String, Value>, root: &str, kind: &VirtualKind) {
    if let Some(read) = answered(kind).filter(|kind| kind.verbs.contains(&"list")) {
        return add_kind(out, root, read);
    }
    let Some(name) = definition(kind.group, kind.version, kind.kind) else { return };
    let scope = if kind.namespaced { "Namespaced" } else { "" };
    let base = if kind.namespaced {
        format!("{root}/namespaces/{{namespace}}/{}", kind.plural)
    } else {
        format!("{root}/{}", kind.plural)
    };
    let op = Operation {
        action: "post",
        words: format!("create a {} in {}", kind.kind, join_api_version(kind.group, kind.version)),
        id: format!("create{}{scope}{}", tag_words(kind.group, kind.version), kind.kind),
        gvk: (kind.group, kind.version, kind.kind),
        of: (kind.group, kind.version),
        query: CREATE_QUERY,
        body: Some(reference(&name)),
        patch: &[],
        returns: name.clone(),
    };
    let mut item = json!({"post": write(op)});
    if kind.namespaced {
        item["parameters"] = path_parameters(kind.kind, true, false);
    }
    out.insert(base, item);
}
