//! `pods/binding`, by which a scheduler places a pod, and `pods/eviction`.

use api::kinds::registry;
use api::status::{ApiError, FieldError};
use http::StatusCode;
use serde_json::{Value, json};

use super::delete::{self, Options};
use super::input;
use super::update::{self, Part};
use super::write::Writer;
use super::{Call, Scope};
use crate::http::decode;
use crate::http::respond::Reply;

/// POST to `bindings` or `pods/NAME/binding`.
pub(crate) async fn serve(mut call: Call) -> Result<Reply, ApiError> {
    let bytes = call.read_body().await?;
    let binding = decode::object(&call.headers, &bytes)?.value;
    if binding["kind"].as_str().is_some_and(|k| k != "Binding") || !binding.is_object() {
        return Err(ApiError::bad_request("the object provided is unrecognized (must be of type Binding)"));
    }
    let name = match call.path.name.as_str() {
        "" => api::meta::name(&binding).to_owned(),
        name => name.to_owned(),
    };
    let given = api::meta::name(&binding);
    if !given.is_empty() && given != name {
        return Err(ApiError::bad_request("name in URL does not match name in Binding object"));
    }
    let mut errors = Vec::new();
    let target = &binding["target"];
    if target["kind"].as_str().is_some_and(|k| !matches!(k, "Node" | "")) {
        let supported = ["Node", "<empty>"];
        errors.push(FieldError::not_supported("target.kind", target["kind"].clone(), &supported));
    }
    if target["name"].as_str().unwrap_or("").is_empty() {
        errors.push(FieldError::required("target.name", ""));
    }
    if !errors.is_empty() {
        return Err(ApiError::invalid("Binding", "", &name, errors));
    }
    let kind = registry().by_resource("", "v1", "pods").ok_or_else(ApiError::path_not_found)?;
    let server = call.server.clone();
    let namespace = call.path.namespace.clone();
    let scope = Scope { kind, cache: server.caches.of(kind), namespace: &namespace, name: &name };
    let manager = call.manager();
    let dry_run = call.query.dry_run;
    let writer = Writer { server: &server, user: &call.user, manager: &manager, dry_run, now: jiff::Timestamp::now() };
    server.caches.consistent().await?;
    update::apply(&writer, &scope, Part::Binding, super::create::Tracking::Update, |old| {
        let mut new = old.clone();
        api::kinds::pod::bind(&mut new, &binding, writer.now)
            .map_err(|why| ApiError::conflict("pods/binding", "", &name, &why))?;
        Ok(new)
    })
    .await?;
    Ok(call.reply(
        StatusCode::CREATED,
        &json!({
            "kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Success", "code": 201,
        }),
    ))
}

/// POST to `pods/NAME/eviction`: a deletion that disruption budgets could refuse. There are none in this cluster yet.
pub(crate) async fn evict(mut call: Call, scope: Scope<'_>) -> Result<Reply, ApiError> {
    let bytes = call.read_body().await?;
    let mut eviction: Value = decode::object(&call.headers, &bytes)?.value;
    if eviction["kind"].as_str().is_some_and(|k| k != "Eviction") || !eviction.is_object() {
        return Err(ApiError::bad_request("the object provided is unrecognized (must be of type Eviction)"));
    }
    let given = api::meta::name(&eviction);
    if !given.is_empty() && given != scope.name {
        return Err(ApiError::bad_request("name in URL does not match name in Eviction object"));
    }
    let options = eviction.get_mut("deleteOptions").map(Value::take).filter(|o| !o.is_null());
    let mut options = options.as_ref().map(Options::from_json).transpose()?.unwrap_or_default();
    options.dry_run |= call.query.dry_run;
    let now = jiff::Timestamp::now();
    let writer = Writer { server: &call.server, user: &call.user, manager: "", dry_run: options.dry_run, now };
    call.server.caches.consistent().await?;
    delete::delete(&writer, &scope, &options).await?;
    Ok(call.reply(
        StatusCode::CREATED,
        &json!({
            "kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Success", "code": 201,
        }),
    ))
}

/// The kind name check shared by small request objects.
pub(crate) fn expect_kind(object: &mut Value, api_version: &str, kind: &str) -> Result<(), ApiError> {
    let ok = |key: &str, want: &str| object[key].as_str().is_none_or(|have| have.is_empty() || have == want);
    if !object.is_object() || !ok("kind", kind) || !ok("apiVersion", api_version) {
        return Err(ApiError::bad_request(format!(
            "the object provided is unrecognized (must be {api_version} {kind})"
        )));
    }
    let ty = api::kinds::split_api_version(api_version);
    if let Some(schema) = api::schema::for_kind(ty.0, ty.1, kind) {
        super::write::check_types(schema, kind, ty.1, object)?;
        input::prune(schema, object);
    }
    object["apiVersion"] = api_version.into();
    object["kind"] = kind.into();
    Ok(())
}
