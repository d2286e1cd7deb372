//! `Impersonate-*` headers: acting as somebody else, for those who may.
//!
//! Who may `impersonate` somebody may do everything that he may. Constrained impersonation (KEP-5284) is narrower: it takes
//! the right to be somebody in one of its modes (`impersonate:MODE`), and in that mode to do what the request does
//! (`impersonate-on:MODE:VERB`).

use std::collections::BTreeMap;
use std::sync::Arc;

use api::status::ApiError;
use http::HeaderMap;

use crate::authn::{AUTHENTICATED, UserInfo};
use crate::authz::{self, Attributes};
use crate::pki::{MASTERS, NODES};
use crate::server::ApiServer;

const USER: &str = "impersonate-user";
const GROUP: &str = "impersonate-group";
const UID: &str = "impersonate-uid";
const EXTRA: &str = "impersonate-extra-";
const AUTHENTICATION: &str = "authentication.k8s.io";
/// Who has not said who he is, and his group.
const ANONYMOUS: &str = "system:anonymous";
const UNAUTHENTICATED: &str = "system:unauthenticated";
/// Where a service account's token says on which node its pod runs.
const NODE_NAME: &str = "authentication.kubernetes.io/node-name";

/// Somebody whom the sender of a request acts as.
pub struct Guise {
    /// The user.
    pub user: Arc<UserInfo>,
    /// The right of constrained impersonation that allowed it; empty when it was not constrained.
    pub constraint: String,
}

/// Whom the headers name, and nothing that follows from it.
#[derive(Debug, Default)]
struct Wanted {
    name: String,
    uid: String,
    groups: Vec<String>,
    extra: BTreeMap<String, Vec<String>>,
}

/// What kind of user it is that somebody wants to act as.
enum Who {
    Node(String),
    Account(String, String),
    Other,
}

/// One way to be allowed to act as somebody.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Mode {
    /// Of the node that the sender's own pod runs on.
    AssociatedNode,
    ArbitraryNode,
    ServiceAccount,
    UserInfo,
    /// Without constraints.
    Legacy,
}

impl Mode {
    const ALL: [Mode; 5] =
        [Mode::AssociatedNode, Mode::ArbitraryNode, Mode::ServiceAccount, Mode::UserInfo, Mode::Legacy];

    fn name(self) -> &'static str {
        match self {
            Mode::AssociatedNode => "associated-node",
            Mode::ArbitraryNode => "arbitrary-node",
            Mode::ServiceAccount => "serviceaccount",
            Mode::UserInfo => "user-info",
            Mode::Legacy => "",
        }
    }

    fn verb(self) -> String {
        match self {
            Mode::Legacy => "impersonate".to_owned(),
            mode => format!("impersonate:{}", mode.name()),
        }
    }

    /// Whether the mode is for such users, and for this sender.
    fn suits(self, sender: &UserInfo, wanted: &Wanted) -> bool {
        let bare = wanted.uid.is_empty() && wanted.groups.is_empty() && wanted.extra.is_empty();
        match (self, wanted.who()) {
            (Mode::Legacy, _) | (Mode::UserInfo, Who::Other) => true,
            (Mode::AssociatedNode, Who::Node(node)) => {
                let own = sender.extra.get(NODE_NAME).is_some_and(|values| *values == [node]);
                bare && own && sender.service_account().is_some()
            }
            (Mode::ArbitraryNode, Who::Node(_)) | (Mode::ServiceAccount, Who::Account(..)) => bare,
            _ => false,
        }
    }
}

impl Wanted {
    fn read(headers: &HeaderMap) -> Self {
        let text = |name: &str| headers.get(name).and_then(|v| v.to_str().ok()).unwrap_or("").to_owned();
        let mut wanted = Wanted { name: text(USER), uid: text(UID), ..Wanted::default() };
        wanted.groups = headers.get_all(GROUP).iter().filter_map(|v| v.to_str().ok().map(str::to_owned)).collect();
        for (header, value) in headers {
            let (Some(key), Ok(value)) = (header.as_str().strip_prefix(EXTRA), value.to_str()) else { continue };
            wanted.extra.entry(unescaped(key)).or_default().push(value.to_owned());
        }
        wanted
    }

    fn who(&self) -> Who {
        let account = UserInfo { name: self.name.clone(), ..UserInfo::default() };
        if let Some((namespace, name)) = account.service_account() {
            return Who::Account(namespace.to_owned(), name.to_owned());
        }
        match self.name.strip_prefix("system:node:") {
            Some(node) if api::names::dns1123_subdomain(node).is_empty() => Who::Node(node.to_owned()),
            _ => Who::Other,
        }
    }

    /// The user, with the groups that follow from who he is.
    fn user(&self, mode: Mode) -> UserInfo {
        let mut groups = self.groups.clone();
        match self.who() {
            Who::Account(namespace, _) if groups.is_empty() => {
                groups.extend(["system:serviceaccounts".to_owned(), format!("system:serviceaccounts:{namespace}")]);
            }
            Who::Node(_) if mode != Mode::Legacy => groups = vec![NODES.to_owned()],
            _ => {}
        }
        let also = match self.name.as_str() {
            ANONYMOUS => Some(UNAUTHENTICATED),
            _ if groups.iter().any(|g| g == UNAUTHENTICATED) => None,
            _ => Some(AUTHENTICATED),
        };
        groups.extend(also.filter(|also| groups.iter().all(|g| g != also)).map(str::to_owned));
        UserInfo { name: self.name.clone(), uid: self.uid.clone(), groups, extra: self.extra.clone() }
    }

    /// What constrained impersonation refuses whatever rights there are.
    fn absurd(&self) -> Option<(&'static str, String)> {
        if let Some(group) = self.groups.iter().find(|g| g.is_empty() || *g == MASTERS) {
            let what = if group.is_empty() { "empty string" } else { MASTERS };
            return Some(("groups", format!("impersonating the {what} group is not allowed")));
        }
        // A domain and a path, as `acme.io/foo`.
        let fits = |key: &str| {
            let parts = key.split_once('/').filter(|(_, path)| !path.is_empty());
            key.to_lowercase() == key
                && parts.is_some_and(|(domain, _)| api::names::dns1123_subdomain(domain).is_empty())
        };
        let odd = |(key, values): &(&String, &Vec<String>)| !fits(key) || values.iter().any(String::is_empty);
        let (key, _) = self.extra.iter().find(odd)?;
        let why = match fits(key) {
            true => "impersonating the empty string value in extra is not allowed".to_owned(),
            false => format!("impersonating an invalid key in extra is not allowed: {key:?}"),
        };
        Some(("userextras", why))
    }
}

/// The user the request is made as, when it is not its sender. `asked` is what the sender asks for.
///
/// # Errors
/// 403 when the sender may not be that user; 400 when headers make no sense together.
pub fn apply(server: &ApiServer, asked: &Attributes<'_>, headers: &HeaderMap) -> Result<Option<Guise>, ApiError> {
    if !headers.keys().any(|k| k.as_str().starts_with("impersonate-")) {
        return Ok(None);
    }
    let wanted = Wanted::read(headers);
    if wanted.name.is_empty() {
        return Err(ApiError::bad_request("requested impersonation headers without Impersonate-User"));
    }
    let mut refused = ApiError::unauthorized();
    for mode in Mode::ALL.into_iter().filter(|mode| mode.suits(asked.user, &wanted)) {
        match may(server, asked, &wanted, mode) {
            Ok(()) => {
                let constraint = if mode == Mode::Legacy { String::new() } else { mode.verb() };
                return Ok(Some(Guise { user: Arc::new(wanted.user(mode)), constraint }));
            }
            // The last mode is the one that most people know: its refusal is told.
            Err(error) => refused = error,
        }
    }
    Err(refused)
}

/// Whether the sender may act as the user in a mode, and do there what it asks for.
fn may(server: &ApiServer, asked: &Attributes<'_>, wanted: &Wanted, mode: Mode) -> Result<(), ApiError> {
    let (chain, caches) = (&server.authorizers, &server.caches);
    let check = |asked: &Attributes<'_>| {
        if authz::allowed(chain, asked, caches) {
            return Ok(());
        }
        let why = authz::refusal(chain, asked, caches);
        Err(ApiError::forbidden(asked.resource, asked.group, asked.name, &why))
    };
    let verb = mode.verb();
    let constrained = mode != Mode::Legacy;
    if constrained {
        let on = format!("impersonate-on:{}:{}", mode.name(), asked.verb);
        check(&Attributes { verb: &on, ..*asked })?;
        if let Some((resource, why)) = wanted.absurd() {
            return Err(ApiError::forbidden(resource, AUTHENTICATION, "", &why));
        }
    }
    // Constrained rights over users and groups are in a group of their own.
    let own = if constrained { AUTHENTICATION } else { "" };
    let part = |group: &str, resource: &str, subresource: &str, namespace: &str, name: &str| {
        let verb = verb.as_str();
        check(&Attributes { verb, group, resource, subresource, namespace, name, ..Attributes::blank(asked.user) })
    };
    for group in &wanted.groups {
        part(own, "groups", "", "", group)?;
    }
    match wanted.who() {
        Who::Account(namespace, name) => part(own, "serviceaccounts", "", &namespace, &name)?,
        // The right to be one's own node is one to be whichever that is.
        Who::Node(_) if mode == Mode::AssociatedNode => part(own, "nodes", "", "", "*")?,
        Who::Node(node) if constrained => part(own, "nodes", "", "", &node)?,
        Who::Node(_) | Who::Other => part(own, "users", "", "", &wanted.name)?,
    }
    if !wanted.uid.is_empty() {
        part(AUTHENTICATION, "uids", "", "", &wanted.uid)?;
    }
    for (key, values) in &wanted.extra {
        for value in values {
            part(AUTHENTICATION, "userextras", key, "", value)?;
        }
    }
    Ok(())
}

/// Keys of `extra` may hold bytes that header names may not: those are percent-encoded.
fn unescaped(key: &str) -> String {
    let escaped = key.replace('+', "%2B");
    match url::form_urlencoded::parse(escaped.as_bytes()).next() {
        Some((decoded, value)) if value.is_empty() => decoded.into_owned(),
        _ => key.to_owned(),
    }
}
