//! `kube-system/extension-apiserver-authentication`: by what the servers that requests are passed on to know clients of the
//! cluster and this server.

use std::sync::Weak;
use std::time::Duration;

use api::kinds::registry;
use api::status::ApiError;
use serde_json::{Value, json};
use tokio_util::sync::CancellationToken;

use super::{MANAGER, same_revision};
use crate::authn::UserInfo;
use crate::handlers::Scope;
use crate::handlers::write::{Commit, RETRIES, Writer, encode_stored};
use crate::pki::{FRONT_PROXY, Pki};
use crate::server::ApiServer;

const NAMESPACE: &str = "kube-system";
const NAME: &str = "extension-apiserver-authentication";
const KEY: &str = "kube-system/extension-apiserver-authentication";
/// ConfigMaps may change thousands of times a second, this one hardly ever: several changes are looked at together.
const TOGETHER: Duration = Duration::from_secs(1);

/// Makes it, and corrects it whenever somebody changes or deletes it.
pub(super) async fn run(server: Weak<ApiServer>, stop: CancellationToken) {
    let Some(mut head) = server.upgrade().map(|s| s.caches.core("configmaps").head()) else { return };
    let mut kept = 0;
    loop {
        head.borrow_and_update();
        let Some(strong) = server.upgrade() else { return };
        if !same_revision(strong.caches.core("configmaps").get(KEY).as_ref(), kept) {
            match ensure(&strong).await {
                Ok(()) => kept = strong.caches.core("configmaps").get(KEY).map_or(0, |e| e.revision),
                Err(error) => tracing::warn!(error = error.message, "ConfigMap {KEY} cannot be kept"),
            }
        }
        drop(strong);
        tokio::select! {
            changed = head.changed() => if changed.is_err() { return },
            () = stop.cancelled() => return,
        }
        tokio::select! {
            () = tokio::time::sleep(TOGETHER) => {}
            () = stop.cancelled() => return,
        }
    }
}

/// Makes or corrects it.
///
/// # Errors
/// The store fails.
pub(crate) async fn ensure(server: &ApiServer) -> Result<(), ApiError> {
    let user = UserInfo::control_plane("system:apiserver");
    let (now, warnings) = (jiff::Timestamp::now(), Default::default());
    let writer = Writer { server, user: &user, manager: MANAGER, dry_run: false, now, warnings: &warnings };
    let kind = registry().by_resource("", "v1", "configmaps").ok_or_else(ApiError::path_not_found)?;
    let scope = Scope { kind, cache: server.caches.of(kind), namespace: NAMESPACE, name: NAME };
    for _ in 0..RETRIES {
        let entry = scope.cache.get(KEY);
        let (mut new, expected) = match &entry {
            Some(entry) => (entry.value(), entry.revision),
            None => {
                let uid = uuid::Uuid::new_v4().to_string();
                let metadata =
                    json!({"name": NAME, "namespace": NAMESPACE, "uid": uid, "creationTimestamp": writer.now_text()});
                (json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": metadata}), 0)
            }
        };
        let before = new.clone();
        new["data"] = data(&server.pki, &before["data"]);
        if new == before {
            return Ok(());
        }
        api::meta::clear_resource_version(&mut new);
        if let Commit::Done(_) = writer.put(&scope, KEY, encode_stored(&new), expected, None).await? {
            return Ok(());
        }
    }
    Err(ApiError::conflict_modified("configmaps", "", NAME))
}

/// What must be in it. Authorities of other servers, which are there beside this one's, stay.
fn data(pki: &Pki, old: &Value) -> Value {
    let bundle = |key: &str, own: &str| {
        let there = old[key].as_str().unwrap_or("");
        if there.contains(own.trim()) { there.to_owned() } else { format!("{there}{own}") }
    };
    let mut out = if old.is_object() { old.clone() } else { json!({}) };
    let list = |item: &str| Value::from(json!([item]).to_string());
    out["client-ca-file"] = bundle("client-ca-file", pki.ca_pem()).into();
    out["requestheader-client-ca-file"] = bundle("requestheader-client-ca-file", pki.front_proxy_ca_pem()).into();
    out["requestheader-allowed-names"] = list(FRONT_PROXY);
    out["requestheader-username-headers"] = list("X-Remote-User");
    out["requestheader-uid-headers"] = list("X-Remote-Uid");
    out["requestheader-group-headers"] = list("X-Remote-Group");
    out["requestheader-extra-headers-prefix"] = list("X-Remote-Extra-");
    out
}
