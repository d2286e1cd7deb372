//! PATCH: JSON patch, merge patch, strategic merge patch, server-side apply.

use api::kinds::KindInfo;
use api::ssa::ApplyOptions;
use api::status::{ApiError, FieldError};
use http::StatusCode;
use serde_json::Value;

use super::create::{self, Tracking};
use super::update::{self, Part};
use super::write::{Writer, Written, check_fields, check_types, schema_of, storage_schema_of};
use super::{Call, Scope, input, render};
use crate::authz::{self, Attributes};
use crate::http::decode;
use crate::http::query::FieldValidation;
use crate::http::respond::{self, Reply};

/// The kinds of patch, as a 415 lists them.
const MEDIA: &[&str] = &[
    "application/json-patch+json",
    "application/merge-patch+json",
    "application/strategic-merge-patch+json",
    "application/apply-patch+yaml",
];

/// How a patch is to be read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Form {
    Json,
    Merge,
    Strategic,
    Apply,
}

/// A patch with its form.
pub(crate) struct Patch {
    pub form: Form,
    pub document: Value,
    repeated: Vec<String>,
}

impl Patch {
    /// Reads the body.
    ///
    /// # Errors
    /// 400, 413, 415.
    pub async fn read(call: &mut Call) -> Result<Self, ApiError> {
        let form = match decode::content_type(&call.headers).as_str() {
            "application/json-patch+json" => Form::Json,
            "application/merge-patch+json" => Form::Merge,
            "application/strategic-merge-patch+json" => Form::Strategic,
            "application/apply-patch+yaml" => Form::Apply,
            _ => return Err(ApiError::unsupported_media_type(MEDIA)),
        };
        let bytes = call.read_body().await?;
        let decoded = if form == Form::Apply { decode::yaml(&bytes)? } else { decode::json(&bytes)? };
        if call.query.force.is_some() && form != Form::Apply {
            let error = FieldError::forbidden("force", "may not be specified for non-apply patch");
            return Err(ApiError::invalid("PatchOptions", "meta.k8s.io", "", vec![error]));
        }
        Ok(Patch { form, document: decoded.value, repeated: decoded.repeated })
    }

    /// The patched object. Not for apply.
    ///
    /// # Errors
    /// 400 for a malformed patch, 422 for one that does not fit.
    pub fn of(&self, ty: api::schema::TypeRef<'_>, object: &Value) -> Result<Value, ApiError> {
        match self.form {
            Form::Json => api::patch::json_patch(object, &self.document),
            Form::Merge => api::patch::merge_patch(object, &self.document),
            Form::Strategic | Form::Apply => api::patch::strategic_merge(ty, object, &self.document),
        }
    }
}

/// PATCH of an object or of its status.
pub(crate) async fn serve(mut call: Call, scope: Scope<'_>, part: Part) -> Result<Reply, ApiError> {
    let patch = Patch::read(&mut call).await?;
    let manager = call.manager();
    let writer = Writer {
        server: &call.server,
        user: &call.user,
        manager: &manager,
        dry_run: call.query.dry_run,
        now: jiff::Timestamp::now(),
        warnings: &call.warnings,
    };
    call.server.caches.consistent().await?;
    let mut warnings = Vec::new();
    let written = match patch.form {
        Form::Apply => apply(&call, &writer, &scope, part, patch, &mut warnings).await?,
        _ => merge(&call, &writer, &scope, part, &patch, &mut warnings).await?,
    };
    let code = if written.created { StatusCode::CREATED } else { StatusCode::OK };
    let mut reply = render::object(&call, scope.kind, code, written.bytes)?;
    respond::warn(&mut reply, &warnings);
    Ok(reply)
}

async fn merge(
    call: &Call,
    writer: &Writer<'_>,
    scope: &Scope<'_>,
    part: Part,
    patch: &Patch,
    warnings: &mut Vec<String>,
) -> Result<Written, ApiError> {
    let kind = scope.kind;
    let ty = schema_of(kind)?;
    update::apply(writer, scope, part, Tracking::Update, |stored| {
        let mut old = stored.clone();
        kind.from_storage(&mut old);
        if kind.custom.is_some() && patch.form == Form::Strategic {
            return Err(ApiError::unsupported_media_type(&[MEDIA[0], MEDIA[1], MEDIA[3]]));
        }
        let mut new = patch.of(ty, &old)?;
        *warnings = checked(kind, &mut new, &patch.repeated, call.query.validation)?;
        input::same_place(scope, &mut new)?;
        // A patch that does not speak of the revision applies to whatever is stored.
        if api::meta::resource_version(&new) == api::meta::resource_version(&old) {
            api::meta::clear_resource_version(&mut new);
        }
        kind.to_storage(&mut new);
        kind.default(&mut new);
        Ok(new)
    })
    .await
}

/// Kind, types and fields of a patched object.
fn checked(
    kind: &KindInfo,
    object: &mut Value,
    repeated: &[String],
    mode: FieldValidation,
) -> Result<Vec<String>, ApiError> {
    input::same_kind(kind, object)?;
    let ty = schema_of(kind)?;
    let warnings = check_fields(ty, kind.kind, kind.version, object, repeated, mode)?;
    check_types(ty, kind.kind, kind.version, object)?;
    input::prune(ty, object);
    Ok(warnings)
}

async fn apply(
    call: &Call,
    writer: &Writer<'_>,
    scope: &Scope<'_>,
    part: Part,
    patch: Patch,
    warnings: &mut Vec<String>,
) -> Result<Written, ApiError> {
    let kind = scope.kind;
    if call.query.manager.is_empty() {
        let error = FieldError::required("fieldManager", "is required for apply patch");
        return Err(ApiError::invalid("PatchOptions", "meta.k8s.io", "", vec![error]));
    }
    let Patch { document: mut applied, repeated, .. } = patch;
    *warnings = checked(kind, &mut applied, &repeated, call.query.validation)?;
    if api::meta::name(&applied).is_empty() {
        applied["metadata"]["name"] = scope.name.into();
    }
    input::same_place(scope, &mut applied)?;
    let seen = api::meta::resource_version(&applied).to_owned();
    let uid = api::meta::uid(&applied).to_owned();
    kind.to_storage(&mut applied);
    let now = writer.now_text();
    let api_version = api::kinds::join_api_version(kind.storage_group, kind.storage_version);
    let options = ApplyOptions {
        manager: &call.query.manager,
        force: call.query.force.unwrap_or(false),
        now: &now,
        api_version: &api_version,
        subresource: part.subresource(),
    };
    let ty = storage_schema_of(kind)?;
    if scope.cache.get(&scope.key()).is_none() && part == Part::Main {
        may_create(call, scope)?;
        if !uid.is_empty() {
            let cause =
                format!("uid mismatch: the provided object specified uid {uid}, and no existing object was found");
            return Err(ApiError::conflict(kind.plural, kind.group, scope.name, &cause));
        }
        if !seen.is_empty() {
            return Err(scope.not_found());
        }
        let mut object = api::ssa::apply(ty, None, &applied, &options)?;
        kind.from_storage(&mut object);
        match create::create(writer, scope, object, Tracking::Done).await {
            // Somebody else created it meanwhile: apply to that.
            Err(error) if error.reason == "AlreadyExists" => {}
            other => return other,
        }
    }
    update::apply(writer, scope, part, Tracking::Done, |stored| {
        let mut new = api::ssa::apply(ty, Some(stored), &applied, &options)?;
        if seen.is_empty() {
            api::meta::clear_resource_version(&mut new);
        } else {
            new["metadata"]["resourceVersion"] = seen.as_str().into();
        }
        kind.default(&mut new);
        Ok(new)
    })
    .await
}

/// An apply or update that creates needs the right to create.
pub(super) fn may_create(call: &Call, scope: &Scope<'_>) -> Result<(), ApiError> {
    let asked = Attributes {
        verb: "create",
        group: scope.kind.group,
        resource: scope.kind.plural,
        namespace: &call.path.namespace,
        name: scope.name,
        ..Attributes::blank(&call.user)
    };
    if authz::allowed(&call.server.authorizers, &asked, &call.server.caches) {
        return Ok(());
    }
    let why = authz::refusal(&call.server.authorizers, &asked, &call.server.caches);
    Err(ApiError::forbidden(scope.kind.plural, scope.kind.group, scope.name, &why))
}
