//! What all writes share: encoding, the transaction, and waiting until reads see it.

use std::borrow::Cow;

use api::kinds::KindInfo;
use api::schema::{self, TypeRef};
use api::status::ApiError;
use bytes::Bytes;
use jiff::Timestamp;
use serde_json::Value;
use store::{Compare, Op, StoreError, Txn, TxnOutcome};

use super::Scope;
use crate::admission::{Charge, Warnings};
use crate::authn::UserInfo;
use crate::cache::entry;
use crate::http::query::FieldValidation;
use crate::server::ApiServer;

/// How often a change is computed anew because somebody else was faster.
pub const RETRIES: usize = 32;

/// Circumstances of a write.
#[derive(Clone, Copy)]
pub(crate) struct Writer<'a> {
    pub server: &'a ApiServer,
    pub user: &'a UserInfo,
    /// Field manager.
    pub manager: &'a str,
    pub dry_run: bool,
    pub now: Timestamp,
    /// For the client, beside the answer.
    pub warnings: &'a Warnings,
}

/// An object as it is after a write.
#[derive(Debug)]
pub(crate) struct Written {
    /// Encoded in the stored version (custom objects: in that of the request), revision included.
    pub bytes: Bytes,
    /// Whether it was created.
    pub created: bool,
}

/// What a transaction on one object came to.
pub(crate) enum Commit {
    /// Done, at this revision.
    Done(u64),
    /// Somebody else was faster; look again.
    Again,
}

impl Writer<'_> {
    /// The time in the form of `metadata`.
    pub fn now_text(&self) -> String {
        api::meta::format_time(self.now)
    }

    /// Writes an object if it is still at `expected` (0: absent), and waits until reads see it.
    pub async fn put(
        &self,
        scope: &Scope<'_>,
        key: &str,
        stored: Bytes,
        expected: u64,
        also: Option<Compare>,
    ) -> Result<Commit, ApiError> {
        self.put_charged(scope, key, stored, expected, also, &Charge::default()).await
    }

    /// The same, and in one transaction what quotas are charged for it.
    pub async fn put_charged(
        &self,
        scope: &Scope<'_>,
        key: &str,
        stored: Bytes,
        expected: u64,
        also: Option<Compare>,
        charge: &Charge,
    ) -> Result<Commit, ApiError> {
        let key = scope.cache.store_key(key);
        let mut compare = vec![Compare::ModRevision(key.clone(), expected)];
        compare.extend(also);
        compare.extend(charge.compare.iter().cloned());
        let mut ops = vec![Op::Put { key, value: stored, lease_ttl_s: scope.kind.ttl_s }];
        ops.extend(charge.ops.iter().cloned());
        self.commit(Txn { compare, ops }).await
    }

    /// Removes an object if it is still at `expected`.
    pub async fn remove(&self, scope: &Scope<'_>, key: &str, expected: u64) -> Result<Commit, ApiError> {
        let key = scope.cache.store_key(key);
        let compare = vec![Compare::ModRevision(key.clone(), expected)];
        let commit = self.commit(Txn { compare, ops: vec![Op::Delete { key }] }).await?;
        if matches!(commit, Commit::Done(_)) {
            self.server.admission.quotas.touch(&self.server.caches, scope.namespace);
        }
        Ok(commit)
    }

    async fn commit(&self, txn: Txn) -> Result<Commit, ApiError> {
        let caches = &self.server.caches;
        match caches.store().txn(txn).await.map_err(|e| store_error(&e))? {
            TxnOutcome::Committed { revision, .. } => {
                caches.written(revision).await?;
                Ok(Commit::Done(revision))
            }
            TxnOutcome::Conflict { current } => {
                // Look again only when the cache shows what was in the way.
                let newest = current.iter().flatten().map(|kv| kv.mod_revision).max().unwrap_or(0);
                let removed = current.iter().any(Option::is_none);
                if removed {
                    caches.consistent().await?;
                } else {
                    caches.written(newest).await?;
                }
                Ok(Commit::Again)
            }
        }
    }
}

/// The answer to a request that the store failed.
pub fn store_error(error: &StoreError) -> ApiError {
    match error {
        StoreError::Compacted { compact_revision } => ApiError::gone_expired(format!(
            "The provided resource version is too old: history begins at {compact_revision}."
        )),
        StoreError::FutureRevision { requested, current } => ApiError::too_large_resource_version(*requested, *current),
        StoreError::TooLarge { .. } | StoreError::TooManyOps { .. } => ApiError::too_large(error.to_string()),
        StoreError::Stopped(_) => ApiError::service_unavailable(base::chain(error)),
        StoreError::NoSpace => ApiError::internal(error.to_string()),
        StoreError::Unavailable(_) => ApiError::service_unavailable(error.to_string()).with_retry_after(1),
        StoreError::OutcomeUnknown(_) => ApiError::timeout(error.to_string(), 1),
        _ => {
            tracing::error!(error = %base::chain(error), "the store failed");
            ApiError::internal(base::chain(error))
        }
    }
}

/// The type of a kind's objects.
///
/// # Errors
/// 500: every registered kind has a schema, which a test checks.
pub fn schema_of(kind: &KindInfo) -> Result<TypeRef<'_>, ApiError> {
    kind.schema().ok_or_else(|| ApiError::internal(format!("no schema for {} {}", kind.api_version(), kind.kind)))
}

/// The type of a kind's stored objects. Those of custom kinds are handled in the version of the request, and ownership is
/// recorded in the version that was written.
///
/// # Errors
/// As [`schema_of`].
pub fn storage_schema_of(kind: &KindInfo) -> Result<TypeRef<'_>, ApiError> {
    if kind.custom.is_some() {
        return schema_of(kind);
    }
    schema::for_kind(kind.storage_group, kind.storage_version, kind.kind)
        .ok_or_else(|| ApiError::internal(format!("no schema for stored {}", kind.kind)))
}

/// A stored object in the version that is served, in whose terms it is validated.
pub fn served<'a>(kind: &KindInfo, object: &'a Value) -> Cow<'a, Value> {
    if !entry::is_converted(kind) {
        return Cow::Borrowed(object);
    }
    let mut object = object.clone();
    kind.from_storage(&mut object);
    Cow::Owned(object)
}

/// Bytes for the store: without a revision, which the store has by itself.
pub fn encode_stored(object: &Value) -> Bytes {
    let has_revision = object["metadata"].get("resourceVersion").is_some();
    if !has_revision {
        return entry::encode(object).into();
    }
    let mut object = object.clone();
    api::meta::clear_resource_version(&mut object);
    entry::encode(&object).into()
}

/// Findings about fields that the type does not know or that came twice: an error when `Strict`, else warnings.
pub fn check_fields(
    ty: TypeRef<'_>,
    kind: &str,
    version: &str,
    value: &Value,
    repeated: &[String],
    mode: FieldValidation,
) -> Result<Vec<String>, ApiError> {
    if mode == FieldValidation::Ignore {
        return Ok(Vec::new());
    }
    let unknown = ty.validate_unknown(value);
    if unknown.is_empty() && repeated.is_empty() {
        return Ok(Vec::new());
    }
    let findings: Vec<String> = unknown
        .iter()
        .map(|path| format!("unknown field {path:?}"))
        .chain(repeated.iter().map(|path| format!("duplicate field {path:?}")))
        .collect();
    if mode == FieldValidation::Strict {
        let why = schema::strict_decoding_error(&findings);
        return Err(ApiError::bad_request(schema::decode_error(kind, version, &why)));
    }
    Ok(findings)
}

/// # Errors
/// 400 when a value has not the type its field is declared with.
pub fn check_types(ty: TypeRef<'_>, kind: &str, version: &str, value: &Value) -> Result<(), ApiError> {
    if kind_is_custom(ty) {
        // Values are validated, with all findings; only the metadata must decode.
        let Some((ty, metadata)) = ty.field("metadata").map(|f| f.ty).zip(value.get("metadata")) else { return Ok(()) };
        return ty
            .type_check(metadata)
            .map_err(|e| ApiError::bad_request(schema::decode_error(kind, version, &e.message)));
    }
    ty.type_check(value).map_err(|e| ApiError::bad_request(schema::decode_error(kind, version, &e.message)))
}

fn kind_is_custom(ty: TypeRef<'_>) -> bool {
    !ty.is_kubernetes()
}
