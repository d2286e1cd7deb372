//! Questions about identities and rights: created, answered, never stored.

use std::collections::BTreeMap;

use api::kinds::{KindInfo, VirtualKind, answered};
use api::selectors::FieldSelector;
use api::status::ApiError;
use http::StatusCode;
use serde_json::{Value, json};

use super::Call;
use super::binding::expect_kind;
use super::write::Writer;
use crate::admission::{Admission, Operation};
use crate::authn::{self, UserInfo};
use crate::authz::{self, Attributes};
use crate::http::decode;
use crate::http::respond::Reply;

/// POST of a review.
pub(crate) async fn serve(mut call: Call, of: &VirtualKind) -> Result<Reply, ApiError> {
    let kind = answered(of).ok_or_else(ApiError::path_not_found)?;
    let bytes = call.read_body().await?;
    let mut review = decode::object(&call.headers, &bytes)?.value;
    expect_kind(&mut review, &kind.api_version(), kind.kind)?;
    if !review["metadata"].is_object() {
        review["metadata"] = json!({});
    }
    if kind.namespaced {
        let (own, given) = (call.path.namespace.as_str(), api::meta::namespace(&review));
        if !given.is_empty() && given != own {
            return Err(ApiError::bad_request(
                "the namespace of the provided object does not match the namespace sent on the request",
            ));
        }
        review["metadata"]["namespace"] = own.into();
    }
    call.server.caches.consistent().await?;
    admit(&call, kind, &mut review).await?;
    review["status"] = match call.path.resource.as_str() {
        "selfsubjectreviews" => json!({"userInfo": call.user.to_json()}),
        "tokenreviews" => token(&call, &review["spec"]).await?,
        "selfsubjectaccessreviews" => access(&call, &call.user, &review["spec"]),
        "subjectaccessreviews" => access(&call, &subject(&review["spec"]), &review["spec"]),
        "localsubjectaccessreviews" => access(&call, &subject(&review["spec"]), &review["spec"]),
        "selfsubjectrulesreviews" => rules(&call, &review["spec"])?,
        _ => return Err(ApiError::path_not_found()),
    };
    if call.path.resource.starts_with("selfsubjectreview") {
        review["metadata"]["creationTimestamp"] = api::meta::format_time(jiff::Timestamp::now()).into();
    }
    Ok(call.reply(StatusCode::CREATED, &review))
}

/// A review is created like any object: admission may change it and refuse it.
async fn admit(call: &Call, kind: &KindInfo, review: &mut Value) -> Result<(), ApiError> {
    let manager = call.manager();
    let (user, warnings, now) = (&call.user, &call.warnings, jiff::Timestamp::now());
    let writer = Writer { server: &call.server, user, manager: &manager, dry_run: call.query.dry_run, now, warnings };
    let name = api::meta::name(review).to_owned();
    let admission = Admission::at(&writer, kind, [&call.path.namespace, &name], Operation::Create, "");
    admission.mutate(review, &Value::Null).await?;
    let errors = (kind.hooks.validate)(review);
    if !errors.is_empty() {
        return Err(ApiError::invalid(kind.kind, kind.group, "", errors));
    }
    admission.validate(review, &Value::Null).await
}

async fn token(call: &Call, spec: &Value) -> Result<Value, ApiError> {
    let token = spec["token"].as_str().unwrap_or("");
    if token.is_empty() {
        return Err(ApiError::bad_request("token is required for TokenReview in authentication"));
    }
    let mut audiences: Vec<String> =
        spec["audiences"].as_array().into_iter().flatten().filter_map(|a| a.as_str().map(str::to_owned)).collect();
    if audiences.is_empty() {
        audiences.push(call.server.tokens.default_audience().to_owned());
    }
    Ok(match authn::bearer(&call.server, token, Some(&audiences)).await {
        Ok(user) => json!({"authenticated": true, "user": user.user.to_json(), "audiences": user.audiences}),
        Err(why) => json!({"user": {}, "error": why}),
    })
}

/// The user that a review asks about.
fn subject(spec: &Value) -> UserInfo {
    let strings = |v: &Value| -> Vec<String> {
        v.as_array().into_iter().flatten().filter_map(|s| s.as_str().map(str::to_owned)).collect()
    };
    UserInfo {
        name: spec["user"].as_str().unwrap_or("").to_owned(),
        uid: spec["uid"].as_str().unwrap_or("").to_owned(),
        groups: strings(&spec["groups"]),
        extra: spec["extra"]
            .as_object()
            .map(|m| m.iter().map(|(k, v)| (k.clone(), strings(v))).collect::<BTreeMap<_, _>>())
            .unwrap_or_default(),
    }
}

fn access(call: &Call, user: &UserInfo, spec: &Value) -> Value {
    let text = |v: &'_ Value, key: &str| v[key].as_str().unwrap_or("").to_owned();
    let (resource, other) = (&spec["resourceAttributes"], &spec["nonResourceAttributes"]);
    let of = if resource.is_object() { resource } else { other };
    let (verb, group, plural) = (text(of, "verb"), text(resource, "group"), text(resource, "resource"));
    let (sub, namespace, name) = (text(resource, "subresource"), text(resource, "namespace"), text(resource, "name"));
    let path = text(other, "path");
    let node = node_of(&resource["fieldSelector"]);
    let asked = Attributes {
        user,
        verb: &verb,
        group: &group,
        resource: &plural,
        subresource: &sub,
        namespace: &namespace,
        name: &name,
        node: &node,
        path: &path,
    };
    let (chain, caches) = (&call.server.authorizers, &call.server.caches);
    let mut status = json!({"allowed": authz::allowed(chain, &asked, caches)});
    let reason = chain.reason(&asked, caches);
    if !reason.is_empty() {
        status["reason"] = reason.into();
    }
    status
}

/// The one `spec.nodeName` that a field selector demands; empty when it demands none.
fn node_of(selector: &Value) -> String {
    if let Some(raw) = selector["rawSelector"].as_str() {
        let fields = FieldSelector::parse(raw).ok();
        return fields.and_then(|f| f.exact("spec.nodeName").map(str::to_owned)).unwrap_or_default();
    }
    let one = |r: &&Value| r["key"] == "spec.nodeName" && r["operator"] == "In";
    let found = selector["requirements"].as_array().into_iter().flatten().find(one);
    match found.and_then(|r| r["values"].as_array()).map(Vec::as_slice) {
        Some([node]) => node.as_str().unwrap_or("").to_owned(),
        _ => String::new(),
    }
}

/// What can be listed of a user's rights in the namespace.
fn rules(call: &Call, spec: &Value) -> Result<Value, ApiError> {
    let namespace = spec["namespace"].as_str().unwrap_or("");
    if namespace.is_empty() {
        return Err(ApiError::bad_request("no namespace on request"));
    }
    let user = &call.user;
    let (granted, mut errors) = call.server.authorizers.rbac.rules_for(user, namespace, &call.server.caches);
    let (mut resources, mut others) = (Vec::new(), Vec::new());
    if user.in_group(crate::pki::MASTERS) {
        resources.push(json!({"verbs": ["*"], "apiGroups": ["*"], "resources": ["*"]}));
        others.push(json!({"verbs": ["*"], "nonResourceURLs": ["*"]}));
    }
    for rule in granted.iter().flat_map(|rules| rules.iter()) {
        let list = if rule.resources.is_empty() { &mut others } else { &mut resources };
        list.push(rule.to_json());
    }
    let mut status = json!({"resourceRules": resources, "nonResourceRules": others, "incomplete": !errors.is_empty()});
    if user.node().is_some() {
        // A node's rights depend on objects, which a list of rules cannot say.
        status["incomplete"] = true.into();
        errors.push("node authorizer does not support user rule resolution".to_owned());
    }
    if !errors.is_empty() {
        status["evaluationError"] = errors.join(", ").into();
    }
    Ok(status)
}
