//! Delete of a collection.

use api::status::ApiError;
use bytes::BytesMut;
use http::StatusCode;

use super::delete::{Options, Outcome, delete};
use super::list::{self, Filter};
use super::write::Writer;
use super::{Call, Scope};
use crate::http::respond::{self, Reply};

/// DELETE of a collection: one deletion after the other of what matched when it began.
pub(crate) async fn serve(mut call: Call, scope: Scope<'_>) -> Result<Reply, ApiError> {
    if scope.kind.namespaced && scope.namespace.is_empty() || !scope.kind.verbs.contains(&"deletecollection") {
        return Err(ApiError::method_not_allowed(scope.kind.plural, scope.kind.group, "DELETE"));
    }
    let filter = Filter::of(&call, &scope)?;
    let options = Options::read(&mut call).await?;
    let writer = Writer {
        server: &call.server,
        user: &call.user,
        manager: "",
        dry_run: options.dry_run,
        now: jiff::Timestamp::now(),
        warnings: &call.warnings,
    };
    call.server.caches.consistent().await?;
    let entries = list::selected(&call, &scope, &filter).await?;
    let mut out = BytesMut::new();
    let revision = call.server.caches.applied();
    out.extend_from_slice(
        format!(
            r#"{{"kind":"{}","apiVersion":"{}","metadata":{{"resourceVersion":"{revision}"}},"items":["#,
            scope.kind.list_kind,
            scope.kind.api_version()
        )
        .as_bytes(),
    );
    let mut first = true;
    for entry in &entries {
        // The object that was seen, not another one of its name.
        let options = Options { uid: options.uid.clone().or(Some(entry.facts.uid.to_string())), ..options.clone() };
        let one = Scope { name: entry.name(), namespace: entry.namespace(), ..scope };
        match delete(&writer, &one, &options).await {
            Ok(Outcome::Gone(..) | Outcome::Pending(_)) => {}
            Err(error) if matches!(error.code, 404) => continue,
            Err(error) if error.code == 409 && options.revision.is_none() => continue,
            Err(error) => return Err(error),
        }
        if !std::mem::take(&mut first) {
            out.extend_from_slice(b",");
        }
        out.extend_from_slice(&entry.document(scope.kind));
    }
    out.extend_from_slice(b"]}");
    Ok(respond::json(StatusCode::OK, out.freeze(), call.style))
}
