//! `serviceaccounts/token`: a signed token for a service account, bound to what it is for.

use api::status::{ApiError, FieldError};
use http::StatusCode;
use serde_json::Value;

use super::binding::expect_kind;
use super::write::Writer;
use super::{Call, Scope};
use crate::admission::{Admission, Operation};
use crate::authn::token::{BoundRef, Kubernetes};
use crate::http::decode;
use crate::http::respond::Reply;

const DEFAULT_S: i64 = 3600;
const MIN_S: i64 = 600;
const MAX_S: i64 = 1 << 32;
/// Audiences of one token.
const AUDIENCES: usize = 32;

/// POST of a TokenRequest.
pub(crate) async fn serve(mut call: Call, scope: Scope<'_>) -> Result<Reply, ApiError> {
    let bytes = call.read_body().await?;
    let mut request = decode::object(&call.headers, &bytes)?.value;
    expect_kind(&mut request, "authentication.k8s.io/v1", "TokenRequest")?;
    fill(&mut request, &scope)?;
    call.server.caches.consistent().await?;
    let manager = call.manager();
    let (user, warnings, now) = (&call.user, &call.warnings, jiff::Timestamp::now());
    let writer = Writer { server: &call.server, user, manager: &manager, dry_run: call.query.dry_run, now, warnings };
    let admission = Admission::new(&writer, &scope, Operation::Create, "token");
    admission.mutate(&mut request, &Value::Null).await?;
    let entry = scope.cache.get(&scope.key()).ok_or_else(|| scope.not_found())?;
    let (ttl_s, mut audiences) = asked(&request["spec"], scope.name)?;
    admission.validate(&request, &Value::Null).await?;
    if audiences.is_empty() {
        audiences.push(call.server.tokens.default_audience().to_owned());
    }
    let account = BoundRef { name: scope.name.to_owned(), uid: entry.facts.uid.to_string() };
    let mut claim = Kubernetes {
        namespace: scope.namespace.to_owned(),
        serviceaccount: account,
        pod: None,
        secret: None,
        node: None,
    };
    bind(&call, &scope, &request["spec"]["boundObjectRef"], &mut claim)?;
    let seconds = u64::try_from(now.as_second()).unwrap_or(0);
    let token = call
        .server
        .tokens
        .issue(claim, audiences.clone(), seconds, ttl_s.unsigned_abs())
        .map_err(ApiError::internal)?;
    let end = now.checked_add(jiff::SignedDuration::from_secs(ttl_s)).unwrap_or(now);
    request["metadata"] = serde_json::json!({
        "name": scope.name,
        "namespace": scope.namespace,
        "creationTimestamp": api::meta::format_time(now),
    });
    request["spec"]["audiences"] = audiences.into();
    request["spec"]["expirationSeconds"] = ttl_s.into();
    request["status"] = serde_json::json!({"token": token, "expirationTimestamp": api::meta::format_time(end)});
    Ok(call.reply(StatusCode::CREATED, &request))
}

/// Fills in what the path says and what is left to the server.
fn fill(request: &mut Value, scope: &Scope<'_>) -> Result<(), ApiError> {
    if !request["metadata"].is_object() {
        request["metadata"] = serde_json::json!({});
    }
    for (key, own) in [("name", scope.name), ("namespace", scope.namespace)] {
        match request["metadata"][key].as_str().unwrap_or("") {
            "" => request["metadata"][key] = own.into(),
            given if given != own => {
                return Err(ApiError::bad_request(format!(
                    "the {key} of the object ({given}) does not match the {key} on the URL ({own})"
                )));
            }
            _ => {}
        }
    }
    if request["spec"]["expirationSeconds"].is_null() {
        request["spec"]["expirationSeconds"] = DEFAULT_S.into();
    }
    Ok(())
}

/// For how many seconds the token is wanted, and for whom.
fn asked(spec: &Value, name: &str) -> Result<(i64, Vec<String>), ApiError> {
    let ttl_s = spec["expirationSeconds"].as_i64().unwrap_or(DEFAULT_S);
    let mut errors = Vec::new();
    if ttl_s < MIN_S {
        let detail = "may not specify a duration less than 10 minutes";
        errors.push(FieldError::invalid("spec.expirationSeconds", ttl_s, detail));
    }
    if ttl_s > MAX_S {
        let detail = "may not specify a duration larger than 2^32 seconds";
        errors.push(FieldError::invalid("spec.expirationSeconds", ttl_s, detail));
    }
    let audiences: Vec<String> =
        spec["audiences"].as_array().into_iter().flatten().filter_map(|a| a.as_str().map(str::to_owned)).collect();
    if audiences.len() > AUDIENCES {
        errors.push(FieldError::too_many("spec.audiences", audiences.len(), AUDIENCES));
    }
    match errors.is_empty() {
        true => Ok((ttl_s, audiences)),
        false => Err(ApiError::invalid("TokenRequest", "authentication.k8s.io", name, errors)),
    }
}

/// Binds the token to what the request names, and checks that a node's agent asks for its own pods only.
fn bind(call: &Call, scope: &Scope<'_>, target: &Value, claim: &mut Kubernetes) -> Result<(), ApiError> {
    let refuse = |why: &str| Err(ApiError::forbidden("serviceaccounts", "", scope.name, why));
    let own_node = call.user.node();
    if target.is_null() {
        return match own_node {
            Some(_) => refuse("node requested token not bound to a pod"),
            None => Ok(()),
        };
    }
    let (kind, name) = (target["kind"].as_str().unwrap_or(""), target["name"].as_str().unwrap_or(""));
    let uid = target["uid"].as_str().unwrap_or("");
    let plural = match kind {
        "Pod" => "pods",
        "Secret" => "secrets",
        "Node" => "nodes",
        _ => {
            return Err(ApiError::bad_request(format!(
                "cannot bind token for serviceaccount {:?} to {kind} object",
                scope.name
            )));
        }
    };
    if own_node.is_some() && kind != "Pod" {
        return refuse("node requested token not bound to a pod");
    }
    let caches = &call.server.caches;
    let key = if kind == "Node" { name.to_owned() } else { format!("{}/{name}", scope.namespace) };
    let entry = caches.core(plural).get(&key).ok_or_else(|| ApiError::not_found(plural, "", name))?;
    if !uid.is_empty() && *uid != *entry.facts.uid {
        let cause = format!(
            "the UID in the bound object reference ({uid}) does not match the UID in record. The object might have been deleted and then recreated"
        );
        return Err(ApiError::conflict("serviceaccounts/token", "", scope.name, &cause));
    }
    let bound = BoundRef { name: name.to_owned(), uid: entry.facts.uid.to_string() };
    match kind {
        "Secret" => claim.secret = Some(bound),
        "Node" => claim.node = Some(bound),
        _ => {
            let pod = entry.value();
            let account = api::kinds::pod::service_account_name(&pod);
            if account != scope.name {
                return Err(ApiError::bad_request(format!(
                    "cannot bind token for serviceaccount {:?} to pod running with different serviceaccount name.",
                    scope.name
                )));
            }
            let node = pod["spec"]["nodeName"].as_str().unwrap_or("");
            if own_node.is_some_and(|own| own != node) {
                return refuse("node requested token bound to a pod scheduled on a different node");
            }
            if !node.is_empty() {
                let uid = caches.core("nodes").get(node).map(|n| n.facts.uid.to_string()).unwrap_or_default();
                claim.node = Some(BoundRef { name: node.to_owned(), uid });
            }
            claim.pod = Some(bound);
        }
    }
    Ok(())
}
