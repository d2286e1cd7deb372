//! `Impersonate-*` headers: acting as somebody else, for those who may.

use std::sync::Arc;

use api::status::ApiError;
use http::HeaderMap;

use crate::authn::UserInfo;
use crate::authz::{self, Attributes};
use crate::server::ApiServer;

const USER: &str = "impersonate-user";
const GROUP: &str = "impersonate-group";
const UID: &str = "impersonate-uid";
const EXTRA: &str = "impersonate-extra-";

/// The user the request is made as.
///
/// # Errors
/// 403 when the sender may not be that user; 400 when headers make no sense together.
pub fn apply(server: &ApiServer, user: Arc<UserInfo>, headers: &HeaderMap) -> Result<Arc<UserInfo>, ApiError> {
    if !headers.keys().any(|k| k.as_str().starts_with("impersonate-")) {
        return Ok(user);
    }
    let text = |name: &str| headers.get(name).and_then(|v| v.to_str().ok()).unwrap_or("");
    let name = text(USER);
    if name.is_empty() {
        return Err(ApiError::bad_request("requested impersonation headers without Impersonate-User"));
    }
    let may = |resource: &str, group: &str, namespace: &str, name: &str| {
        let asked = Attributes {
            user: &user,
            verb: "impersonate",
            group,
            resource,
            subresource: "",
            namespace,
            name,
            path: "",
        };
        if authz::allowed(&server.authorizers, &asked, &server.caches) {
            Ok(())
        } else {
            Err(ApiError::forbidden(resource, group, name, &asked.refusal()))
        }
    };
    let mut groups: Vec<&str> = headers.get_all(GROUP).iter().filter_map(|v| v.to_str().ok()).collect();
    for group in &groups {
        may("groups", "", "", group)?;
    }
    let account = UserInfo { name: name.to_owned(), ..UserInfo::default() };
    let own;
    match account.service_account() {
        Some((namespace, account)) => {
            may("serviceaccounts", "", namespace, account)?;
            own = format!("system:serviceaccounts:{namespace}");
            if groups.is_empty() {
                groups.extend(["system:serviceaccounts", own.as_str()]);
            }
        }
        None => may("users", "", "", name)?,
    }
    let mut out = UserInfo::new(name, &groups);
    if !text(UID).is_empty() {
        may("uids", "authentication.k8s.io", "", text(UID))?;
        out.uid = text(UID).to_owned();
    }
    for (header, value) in headers {
        let (Some(key), Ok(value)) = (header.as_str().strip_prefix(EXTRA), value.to_str()) else { continue };
        may("userextras", "authentication.k8s.io", "", value)?;
        out.extra.entry(key.to_owned()).or_default().push(value.to_owned());
    }
    Ok(Arc::new(out))
}
