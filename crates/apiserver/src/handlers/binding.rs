//! `pods/binding`, by which a scheduler places a pod, and `pods/eviction`.

use api::kinds::{VIRTUAL, answered, registry};
use api::status::{ApiError, FieldError};
use http::StatusCode;
use serde_json::{Value, json};

use super::delete::{self, Options};
use super::input;
use super::update::{self, Part};
use super::write::Writer;
use super::{Call, Scope};
use crate::admission::{Admission, Operation, disruption};
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
    let (user, warnings, now) = (&call.user, &call.warnings, jiff::Timestamp::now());
    let writer = Writer { server: &server, user, manager: &manager, dry_run, now, warnings };
    server.caches.consistent().await?;
    let mut binding = binding;
    if !binding["metadata"].is_object() {
        binding["metadata"] = json!({});
    }
    binding["apiVersion"] = "v1".into();
    binding["kind"] = "Binding".into();
    binding["metadata"]["name"] = name.as_str().into();
    binding["metadata"]["namespace"] = namespace.as_str().into();
    // The old way to bind is a resource of its own.
    let old = VIRTUAL.iter().find(|v| v.plural == "bindings" && call.path.name.is_empty()).and_then(answered);
    let admission = match old {
        Some(kind) => Admission::at(&writer, kind, [&namespace, &name], Operation::Create, ""),
        None => Admission::new(&writer, &scope, Operation::Create, "binding"),
    };
    admission.mutate(&mut binding, &Value::Null).await?;
    admission.validate(&binding, &Value::Null).await?;
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

/// POST to `pods/NAME/eviction`: a deletion that disruption budgets may refuse.
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
    let (server, now, dry_run) = (&call.server, jiff::Timestamp::now(), options.dry_run);
    let manager = call.manager();
    let writer = Writer { server, user: &call.user, manager: &manager, dry_run, now, warnings: &call.warnings };
    server.caches.consistent().await?;
    let admission = Admission::new(&writer, &scope, Operation::Create, "eviction");
    if !eviction["metadata"].is_object() {
        eviction["metadata"] = json!({});
    }
    eviction["apiVersion"] = "policy/v1".into();
    eviction["kind"] = "Eviction".into();
    eviction["metadata"]["name"] = scope.name.into();
    eviction["metadata"]["namespace"] = scope.namespace.into();
    admission.mutate(&mut eviction, &Value::Null).await?;
    admission.validate(&eviction, &Value::Null).await?;
    let pod = scope.cache.get(&scope.key()).ok_or_else(|| scope.not_found())?.value();
    disruption::take(&writer, &pod).await?;
    if !dry_run && !api::meta::is_deleting(&pod) {
        mark(&writer, &scope, &pod).await?;
    }
    delete::remove(&writer, &scope, &options, None).await?;
    Ok(call.reply(
        StatusCode::CREATED,
        &json!({
            "kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Success", "code": 201,
        }),
    ))
}

/// Admission of a stream to a pod, with the options in its query as the object.
pub(crate) async fn connect(call: &Call, scope: &Scope<'_>, sub: &str) -> Result<(), ApiError> {
    let mut options = connect_options(call, sub);
    let (server, user, warnings) = (&call.server, &call.user, &call.warnings);
    let writer = Writer { server, user, manager: "", dry_run: false, now: jiff::Timestamp::now(), warnings };
    let admission = Admission::new(&writer, scope, Operation::Connect, sub);
    let before = options.clone();
    admission.mutate(&mut options, &Value::Null).await?;
    if options != before {
        return Err(ApiError::internal("an admission webhook changed the options of a stream, which is not supported"));
    }
    admission.validate(&options, &Value::Null).await
}

/// `PodExecOptions` and the like.
fn connect_options(call: &Call, sub: &str) -> Value {
    let kind = match sub {
        "exec" => "PodExecOptions",
        "attach" => "PodAttachOptions",
        _ => "PodPortForwardOptions",
    };
    let mut out = json!({"kind": kind, "apiVersion": "v1"});
    let list = |name: &str| -> Vec<&str> {
        call.query.raw.iter().filter(|(key, _)| key == name).map(|(_, value)| value.as_str()).collect()
    };
    if sub == "portforward" {
        out["ports"] = list("ports").iter().filter_map(|p| p.parse::<u16>().ok()).collect();
        return out;
    }
    for key in ["stdin", "stdout", "stderr", "tty"] {
        if list(key).iter().any(|v| matches!(*v, "1" | "true" | "True" | "TRUE" | "t" | "T")) {
            out[key] = true.into();
        }
    }
    if let Some(container) = list("container").first() {
        out["container"] = (*container).into();
    }
    if sub == "exec" {
        out["command"] = json!(list("command"));
    }
    out
}

/// Says in the pod's status why it goes, which is what Job policies and people look for.
async fn mark(writer: &Writer<'_>, scope: &Scope<'_>, pod: &Value) -> Result<(), ApiError> {
    let now = writer.now_text();
    let tracking = super::create::Tracking::Update;
    let marked = update::apply(writer, scope, Part::Status, tracking, |old| {
        let mut new = old.clone();
        api::meta::clear_resource_version(&mut new);
        if api::meta::uid(old) == api::meta::uid(pod) {
            disruption::mark(&mut new, &now);
        }
        Ok(new)
    });
    match marked.await {
        // It went by itself: the deletion says so.
        Err(error) if error.code == 404 => Ok(()),
        other => other.map(drop),
    }
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
