//! Which handler answers a request for a resource.

use api::kinds::VIRTUAL;
use api::status::ApiError;
use http::Method;

use super::update::Part;
use super::{
    Call, Scope, binding, collection, components, create, delete, kind_of, list, metrics, patch, review, scale, token,
    update, watch,
};
use crate::http::accept::{self, Form};
use crate::http::respond::Reply;
use crate::proxy;

/// Answers it.
pub(crate) async fn serve(call: Call) -> Result<Reply, ApiError> {
    if kind_of(&call.path).is_none() {
        call.server.caches.defined().await;
    }
    let custom = call.server.caches.custom();
    let path = &call.path;
    if path.is_deeper() {
        return Err(ApiError::path_not_found());
    }
    let built_in = kind_of(path).map(|kind| (kind, call.server.caches.of(kind).clone()));
    let defined = || custom.find(&path.group, &path.version, &path.resource).map(|(k, c)| (k.as_ref(), c.clone()));
    let Some((kind, cache)) = built_in.or_else(defined) else {
        let named = |v: &&api::kinds::VirtualKind| {
            v.group == call.path.group && v.version == call.path.version && v.plural == call.path.resource
        };
        return match VIRTUAL.iter().find(named) {
            Some(v) if v.plural == "componentstatuses" => components::serve(call, v).await,
            Some(v) if v.verbs.contains(&"list") => metrics::serve(call, v).await,
            Some(_) if call.method != Method::POST || !call.path.name.is_empty() => {
                Err(ApiError::method_not_allowed(&call.path.resource, &call.path.group, call.verb))
            }
            Some(v) if v.plural == "bindings" => binding::serve(call).await,
            // There is no table of what is answered once and never stored.
            Some(_) if call.form != Form::Object => Err(ApiError::not_acceptable(accept::MEDIA)),
            Some(v) => review::serve(call, v).await,
            None => Err(ApiError::path_not_found()),
        };
    };
    if !kind.namespaced && !call.path.namespace.is_empty() && kind.kind != "Namespace" {
        return Err(ApiError::path_not_found());
    }
    let (namespace, name, sub) = (call.path.namespace.clone(), call.path.name.clone(), call.path.subresource.clone());
    let namespace = if kind.namespaced { namespace } else { String::new() };
    if kind.namespaced && namespace.is_empty() && !name.is_empty() {
        return Err(ApiError::path_not_found());
    }
    if let Some(words) = kind.custom.as_ref().and_then(|c| c.deprecation.as_ref()) {
        call.warnings.add(words);
    }
    let scope = Scope { kind, cache: &cache, namespace: &namespace, name: &name };
    if kind.custom.as_ref().is_some_and(|c| c.terminating) && call.verb == "create" && sub.is_empty() {
        let why = "create not allowed while custom resource definition is terminating";
        return Err(ApiError {
            message: why.to_owned(),
            ..ApiError::method_not_allowed(kind.plural, kind.group, "POST")
        });
    }
    dispatch(call, scope, &sub).await
}

async fn dispatch(call: Call, scope: Scope<'_>, sub: &str) -> Result<Reply, ApiError> {
    let kind = scope.kind;
    match (sub, call.verb) {
        ("", verb) => main(call, scope, verb).await,
        ("status", _) if kind.has_status => part(call, scope, Part::Status).await,
        ("approval", _) if kind.kind == "CertificateSigningRequest" => part(call, scope, Part::Approval).await,
        ("finalize", "update") if kind.kind == "Namespace" => update::serve(call, scope, Part::Finalize).await,
        ("scale", verb) if kind.scale.is_some() => scale::serve(call, scope, verb).await,
        ("ephemeralcontainers", _) if kind.kind == "Pod" => part(call, scope, Part::Ephemeral).await,
        ("resize", _) if kind.kind == "Pod" => part(call, scope, Part::Resize).await,
        ("binding", "create") if kind.kind == "Pod" => binding::serve(call).await,
        ("eviction", "create") if kind.kind == "Pod" => binding::evict(call, scope).await,
        ("token", "create") if kind.kind == "ServiceAccount" => token::serve(call, scope).await,
        ("log" | "exec" | "attach" | "portforward", "get" | "create") if kind.kind == "Pod" => {
            if sub != "log" {
                binding::connect(&call, &scope, sub).await?;
            }
            proxy::serve(call, scope, sub).await
        }
        (sub, _) if kind.subresources.iter().any(|s| s.name == sub) => {
            Err(ApiError::method_not_allowed(kind.plural, kind.group, call.verb))
        }
        _ => Err(ApiError::path_not_found()),
    }
}

async fn main(call: Call, scope: Scope<'_>, verb: &str) -> Result<Reply, ApiError> {
    match verb {
        "get" => list::get(call, scope).await,
        "list" => list::serve(call, scope).await,
        "watch" => watch::serve(call, scope).await,
        "create" if scope.name.is_empty() => create::serve(call, scope).await,
        "update" if !scope.name.is_empty() => update::serve(call, scope, Part::Main).await,
        "patch" if !scope.name.is_empty() => patch::serve(call, scope, Part::Main).await,
        "delete" => delete::serve(call, scope).await,
        "deletecollection" => collection::serve(call, scope).await,
        _ => Err(ApiError::method_not_allowed(scope.kind.plural, scope.kind.group, call.method.as_str())),
    }
}

async fn part(call: Call, scope: Scope<'_>, part: Part) -> Result<Reply, ApiError> {
    match call.verb {
        "get" => list::get(call, scope).await,
        "update" => update::serve(call, scope, part).await,
        "patch" => patch::serve(call, scope, part).await,
        _ => Err(ApiError::method_not_allowed(scope.kind.plural, scope.kind.group, call.method.as_str())),
    }
}
