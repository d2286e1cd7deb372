//! Requests that others answer: pods, nodes and Services through their proxy, and group-versions that a Service serves.

use std::sync::Arc;

use api::selectors::FieldSelector;
use api::status::ApiError;
use http::{HeaderMap, Method, StatusCode, Uri};

use super::{attributes, place};
use crate::admission::Warnings;
use crate::aggregation::Backend;
use crate::audit::Trail;
use crate::authn::{Sender, UserInfo};
use crate::authz::Attributes;
use crate::http::body::RequestBody;
use crate::http::path::{self, Target};
use crate::http::query::Query;
use crate::http::respond::{self, Reply};
use crate::proxy::onward::Onward;
use crate::proxy::subresource;
use crate::server::ApiServer;

/// Who answers.
pub(super) enum Way {
    /// A pod, node or Service.
    Proxy,
    /// Who serves the group-version.
    Backend(Arc<Backend>),
    /// The same, about itself: this server asks, for anybody who may read such documents.
    Document(Arc<Backend>),
}

/// Who answers, if it is not this server.
pub(super) fn way(server: &ApiServer, target: &Target) -> Option<Way> {
    let aggregation = &server.aggregation;
    match target {
        Target::Resource(path) if subresource::is(path) => Some(Way::Proxy),
        Target::Resource(path) => aggregation.backend(&path.group, &path.version).map(Way::Backend),
        Target::Path(path) => {
            let path = path.trim_end_matches('/');
            let (path, document) = path.strip_prefix("/openapi/v3").map_or((path, false), |path| (path, true));
            let (group, version) = match path.strip_prefix("/apis/") {
                Some(rest) => rest.split_once('/')?,
                None => ("", path.strip_prefix("/api/")?),
            };
            let backend = aggregation.backend(group, version)?;
            Some(if document { Way::Document(backend) } else { Way::Backend(backend) })
        }
    }
}

/// What is done, as rules of access name it; methods without a verb have the empty one.
fn verb(method: &Method, target: &Target, query: &str) -> &'static str {
    match target {
        Target::Resource(path) => {
            let watch = Query::asks_to_watch(query);
            path::verb(method, path, watch && path.name.is_empty()).unwrap_or("")
        }
        Target::Path(_) => match *method {
            Method::GET => "get",
            Method::HEAD => "head",
            Method::POST => "post",
            Method::PUT => "put",
            Method::PATCH => "patch",
            Method::DELETE => "delete",
            _ => "options",
        },
    }
}

/// # Errors
/// 403 when the user may not.
fn authorize(server: &ApiServer, user: &UserInfo, verb: &str, target: &Target, trail: &Trail) -> Result<(), ApiError> {
    match target {
        Target::Path(path) => super::authorize(server, &Attributes { verb, path, ..Attributes::blank(user) }, trail),
        Target::Resource(path) => {
            super::authorize(server, &attributes(user, verb, path, &FieldSelector::default()), trail)
        }
    }
}

/// The request as it came.
pub(super) fn onward(
    server: &Arc<ApiServer>,
    user: Arc<UserInfo>,
    (method, uri, headers): (Method, Uri, HeaderMap),
    (body, upgrade): (RequestBody, Option<hyper::upgrade::OnUpgrade>),
    sender: &Sender,
) -> Onward {
    let from = match sender {
        Sender::Connection { from, .. } => Some(from.ip()),
        Sender::Trusted(_) => None,
    };
    Onward { server: server.clone(), user, method, uri, headers, body, upgrade, from, place: None }
}

/// Has it answered.
///
/// # Errors
/// 403 when the user may not, 429 when there is no place for it, 504 when the answer does not begin in time, and what proxies say.
pub(super) async fn serve(
    mut onward: Onward,
    way: Way,
    target: &Target,
    trail: &Trail,
    warnings: &Warnings,
) -> Result<Reply, ApiError> {
    let verb = verb(&onward.method, target, onward.uri.query().unwrap_or(""));
    authorize(&onward.server, &onward.user, verb, target, trail)?;
    let backend = match (way, target) {
        (Way::Proxy, Target::Resource(path)) => return subresource::serve(onward, path, warnings).await,
        (Way::Proxy, Target::Path(_)) => return Err(ApiError::path_not_found()),
        (Way::Backend(backend), _) => backend,
        (Way::Document(backend), _) => {
            if !matches!(onward.method, Method::GET | Method::HEAD) {
                return Err(ApiError::method_not_allowed_path());
            }
            if backend.state().openapi_v3.is_none() {
                return Ok(respond::text(StatusCode::NOT_FOUND, "404 page not found\n"));
            }
            onward.user = Arc::new(crate::aggregation::aggregator());
            backend
        }
    };
    let server = onward.server.clone();
    if verb == "watch" || onward.wants_upgrade() {
        onward.place = Some(server.streams.clone().try_acquire_owned().map_err(|_| crate::flow::too_many())?);
        return backend.serve(onward).await;
    }
    let reads = matches!(verb, "get" | "list" | "head");
    let _place = place(if reads { &server.reads } else { &server.writes }).await?;
    match tokio::time::timeout(server.config.limits.request_timeout, backend.serve(onward)).await {
        Ok(result) => result,
        Err(_) => Err(ApiError::timeout("request did not complete within the allotted timeout", 0)),
    }
}
