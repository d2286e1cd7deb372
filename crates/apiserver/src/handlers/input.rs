//! The object in a request's body, checked against the kind that its URL names.

use api::kinds::{Gvk, KindInfo};
use api::status::ApiError;
use serde_json::Value;

use super::write::{check_fields, check_types, schema_of};
use super::{Call, Scope};
use crate::http::decode::{self, Decoded};

/// An object and what a reader should be warned of.
pub(crate) struct Input {
    pub object: Value,
    pub warnings: Vec<String>,
}

/// Reads the body as an object of the kind.
///
/// # Errors
/// 400, 413 or 415.
pub(crate) async fn object(call: &mut Call, kind: &KindInfo) -> Result<Input, ApiError> {
    let bytes = call.read_body().await?;
    let decoded = decode::object(&call.headers, &bytes)?;
    checked(call, kind, decoded)
}

/// Checks kind, types and fields of a decoded object.
pub(crate) fn checked(call: &Call, kind: &KindInfo, decoded: Decoded) -> Result<Input, ApiError> {
    let Decoded { value: mut object, repeated } = decoded;
    same_kind(kind, &mut object)?;
    let ty = schema_of(kind)?;
    let warnings = check_fields(ty, kind.kind, kind.version, &object, &repeated, call.query.validation)?;
    check_types(ty, kind.kind, kind.version, &object)?;
    prune(ty, &mut object);
    Ok(Input { object, warnings })
}

/// Unknown fields are dropped, as Kubernetes' decoder drops them; so are nulls, which mean "absent".
pub(crate) fn prune(ty: api::schema::TypeRef<'_>, object: &mut Value) {
    ty.prune(object);
}

/// # Errors
/// 400 when the document is not an object or says that it is of another kind. What it leaves out is filled in.
pub(crate) fn same_kind(kind: &KindInfo, object: &mut Value) -> Result<(), ApiError> {
    let api_version = kind.api_version();
    let found = Gvk::of(object);
    let Some(map) = object.as_object_mut() else {
        return Err(ApiError::bad_request("the object provided is unrecognized (must be a JSON object)"));
    };
    let wrong_version = !found.version.is_empty() && found.api_version() != api_version;
    let wrong_kind = !found.kind.is_empty() && found.kind != kind.kind;
    if wrong_version || wrong_kind {
        return Err(ApiError::bad_request(format!(
            "{} in version {:?} cannot be handled as a {}: the API version in the data ({}) and kind ({}) do not match the expected {}, Kind={}",
            found.kind,
            found.version,
            kind.kind,
            found.api_version(),
            found.kind,
            api_version,
            kind.kind,
        )));
    }
    map.insert("apiVersion".into(), api_version.into());
    map.insert("kind".into(), kind.kind.into());
    match map.get("metadata") {
        Some(Value::Object(_)) => Ok(()),
        None | Some(Value::Null) => {
            map.insert("metadata".into(), Value::Object(serde_json::Map::new()));
            Ok(())
        }
        Some(_) => Err(ApiError::bad_request("metadata must be an object")),
    }
}

/// # Errors
/// 400 when name or namespace of the object are not those of the URL. What it leaves out is filled in.
pub(crate) fn same_place(scope: &Scope<'_>, object: &mut Value) -> Result<(), ApiError> {
    let name = api::meta::name(object);
    if !scope.name.is_empty() {
        if name.is_empty() && scope.kind.kind != "Scale" {
            return Err(ApiError::bad_request("name must be provided"));
        }
        if name != scope.name {
            return Err(ApiError::bad_request(format!(
                "the name of the object ({name}) does not match the name on the URL ({})",
                scope.name
            )));
        }
    }
    let namespace = api::meta::namespace(object);
    if scope.kind.namespaced {
        if !namespace.is_empty() && namespace != scope.namespace {
            return Err(ApiError::bad_request(
                "the namespace of the provided object does not match the namespace sent on the request",
            ));
        }
        object["metadata"]["namespace"] = scope.namespace.into();
    } else if !namespace.is_empty() {
        return Err(ApiError::bad_request("namespace is not allowed on cluster-scoped objects"));
    }
    Ok(())
}
