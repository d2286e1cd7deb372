//! The scale subresource: one number of an object, as autoscaling/v1 `Scale`.

use api::kinds::ScalePaths;
use api::status::{ApiError, FieldError};
use http::StatusCode;
use serde_json::{Value, json};

use super::binding::expect_kind;
use super::create::Tracking;
use super::patch::{Form, Patch};
use super::update::{self, Part};
use super::write::Writer;
use super::{Call, Scope};
use crate::http::accept;
use crate::http::decode;
use crate::http::respond::Reply;

const API_VERSION: &str = "autoscaling/v1";

/// GET, PUT and PATCH.
pub(crate) async fn serve(mut call: Call, scope: Scope<'_>, verb: &str) -> Result<Reply, ApiError> {
    let paths = scope.kind.scale.ok_or_else(ApiError::path_not_found)?;
    if call.form != accept::Form::Object {
        // Tables of scales are not a thing; kubectl asks for plain JSON here.
        call.form = accept::Form::Object;
    }
    call.server.caches.consistent().await?;
    if verb == "get" {
        let entry = scope.cache.get(&scope.key()).ok_or_else(|| scope.not_found())?;
        let entry = scope.view(&call.server.caches, entry).await?;
        return Ok(call.reply(StatusCode::OK, &scale(&entry.value(), paths)));
    }
    let change = match verb {
        "update" => {
            let bytes = call.read_body().await?;
            Change::Whole(decode::object(&call.headers, &bytes)?.value)
        }
        "patch" => Change::Patch(Patch::read(&mut call).await?),
        _ => return Err(ApiError::method_not_allowed(scope.kind.plural, scope.kind.group, call.method.as_str())),
    };
    let manager = call.manager();
    let dry_run = call.query.dry_run;
    let (server, user, warnings) = (&call.server, &call.user, &call.warnings);
    let writer = Writer { server, user, manager: &manager, dry_run, now: jiff::Timestamp::now(), warnings };
    let written = update::apply(&writer, &scope, Part::Scale, Tracking::Update, |old| {
        let before = scale(old, paths);
        let after = change.of(&before)?;
        let replicas = checked(&scope, &before, &after)?;
        let mut new = old.clone();
        set(&mut new, paths.spec_replicas, replicas.into());
        let seen = api::meta::resource_version(&after);
        let meant = change.names_revision(seen, api::meta::resource_version(&before));
        match meant {
            true => new["metadata"]["resourceVersion"] = seen.into(),
            false => api::meta::clear_resource_version(&mut new),
        }
        Ok(new)
    })
    .await?;
    let object: Value = serde_json::from_slice(&written.bytes).map_err(ApiError::internal)?;
    Ok(call.reply(StatusCode::OK, &scale(&object, paths)))
}

enum Change {
    Whole(Value),
    Patch(Patch),
}

impl Change {
    fn of(&self, before: &Value) -> Result<Value, ApiError> {
        let mut after = match self {
            Change::Whole(value) => value.clone(),
            Change::Patch(patch) => {
                let ty = api::schema::for_kind("autoscaling", "v1", "Scale")
                    .ok_or_else(|| ApiError::internal("no schema for Scale"))?;
                match patch.form {
                    // Applying a scale is owning its number: the merge is the same, ownership is the update's.
                    Form::Apply => api::patch::merge_patch(before, &patch.document)?,
                    _ => patch.of(ty, before)?,
                }
            }
        };
        expect_kind(&mut after, API_VERSION, "Scale")?;
        Ok(after)
    }

    /// Whether the writer insists on the revision it has seen.
    fn names_revision(&self, seen: &str, stored: &str) -> bool {
        match self {
            Change::Whole(_) => !seen.is_empty(),
            Change::Patch(_) => !seen.is_empty() && seen != stored,
        }
    }
}

fn checked(scope: &Scope<'_>, before: &Value, after: &Value) -> Result<i64, ApiError> {
    let name = api::meta::name(after);
    if !name.is_empty() && name != scope.name {
        return Err(ApiError::bad_request(format!(
            "the name of the object ({name}) does not match the name on the URL ({})",
            scope.name
        )));
    }
    let uid = api::meta::uid(after);
    if !uid.is_empty() && uid != api::meta::uid(before) {
        return Err(ApiError::conflict_modified(scope.kind.plural, scope.kind.group, scope.name));
    }
    let replicas = after["spec"]["replicas"].as_i64().unwrap_or(0);
    if (0..=i64::from(i32::MAX)).contains(&replicas) {
        return Ok(replicas);
    }
    let error = FieldError::invalid("spec.replicas", replicas, "must be greater than or equal to 0");
    Err(ApiError::invalid("Scale", "autoscaling", scope.name, vec![error]))
}

/// An object as its `Scale`.
pub(crate) fn scale(object: &Value, paths: ScalePaths) -> Value {
    let get = |path: &[&str]| path.iter().try_fold(object, |v, key| v.get(key)).cloned().unwrap_or(Value::Null);
    let meta = &object["metadata"];
    let mut metadata = json!({});
    for key in ["name", "namespace", "uid", "resourceVersion", "creationTimestamp"] {
        if !meta[key].is_null() {
            metadata[key] = meta[key].clone();
        }
    }
    let mut out = json!({
        "kind": "Scale",
        "apiVersion": API_VERSION,
        "metadata": metadata,
        "spec": {"replicas": get(paths.spec_replicas).as_i64().unwrap_or(0)},
        "status": {"replicas": get(paths.status_replicas).as_i64().unwrap_or(0)},
    });
    if let Some(selector) = paths.selector_text(object) {
        out["status"]["selector"] = selector.into();
    }
    out
}

/// Sets a value at a path, making the objects on the way.
pub(crate) fn set(object: &mut Value, path: &[&str], value: Value) {
    let Some((last, parents)) = path.split_last() else { return };
    let mut at = object;
    for key in parents {
        if !at[*key].is_object() {
            at[*key] = json!({});
        }
        at = &mut at[*key];
    }
    at[*last] = value;
}
