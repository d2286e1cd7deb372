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
const AUTHENTICATION: &str = "authentication.k8s.io";
/// Who has not said who he is, and his group.
const ANONYMOUS: &str = "system:anonymous";
const UNAUTHENTICATED: &str = "system:unauthenticated";

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
    let may = |[group, resource, subresource]: [&str; 3], namespace: &str, name: &str| {
        let asked = Attributes {
            verb: "impersonate",
            group,
            resource,
            subresource,
            namespace,
            name,
            ..Attributes::blank(&user)
        };
        if authz::allowed(&server.authorizers, &asked, &server.caches) {
            return Ok(());
        }
        let why = authz::refusal(&server.authorizers, &asked, &server.caches);
        Err(ApiError::forbidden(resource, group, name, &why))
    };
    let mut groups: Vec<&str> = headers.get_all(GROUP).iter().filter_map(|v| v.to_str().ok()).collect();
    for group in &groups {
        may(["", "groups", ""], "", group)?;
    }
    let account = UserInfo { name: name.to_owned(), ..UserInfo::default() };
    let own;
    match account.service_account() {
        Some((namespace, account)) => {
            may(["", "serviceaccounts", ""], namespace, account)?;
            own = format!("system:serviceaccounts:{namespace}");
            if groups.is_empty() {
                groups.extend(["system:serviceaccounts", own.as_str()]);
            }
        }
        None => may(["", "users", ""], "", name)?,
    }
    let mut out = if name == ANONYMOUS {
        groups.push(UNAUTHENTICATED);
        UserInfo { groups: groups.iter().map(|&g| g.to_owned()).collect(), ..account }
    } else {
        UserInfo::new(name, &groups)
    };
    if !text(UID).is_empty() {
        may([AUTHENTICATION, "uids", ""], "", text(UID))?;
        out.uid = text(UID).to_owned();
    }
    for (header, value) in headers {
        let (Some(key), Ok(value)) = (header.as_str().strip_prefix(EXTRA), value.to_str()) else { continue };
        let key = unescaped(key);
        may([AUTHENTICATION, "userextras", &key], "", value)?;
        out.extra.entry(key).or_default().push(value.to_owned());
    }
    Ok(Arc::new(out))
}

/// Keys of `extra` may hold bytes that header names may not: those are percent-encoded.
fn unescaped(key: &str) -> String {
    let escaped = key.replace('+', "%2B");
    match url::form_urlencoded::parse(escaped.as_bytes()).next() {
        Some((decoded, value)) if value.is_empty() => decoded.into_owned(),
        _ => key.to_owned(),
    }
}
