//! Get and list, from memory wherever the asked-for revision allows it.

use std::sync::Arc;

use api::kinds::KindInfo;
use api::protobuf;
use api::selectors::{FieldSelector, LabelSelector};
use api::status::{ApiError, FieldError};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use bytes::{Bytes, BytesMut};
use http::StatusCode;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use store::{RangeRequest, StoreError};

use super::write::store_error;
use super::{Call, Scope, render};
use crate::cache::{Entry, entry};
use crate::http::accept::Form;
use crate::http::query::Match;
use crate::http::respond::{self, Reply, Style};

/// A list is sent in pieces of about this many bytes.
const PIECE: usize = 256 << 10;
/// Objects encoded before other requests get their turn: some ten microseconds each, the first time.
const AT_ONCE: usize = 64;
/// Keys read from the store at a time when a page is pinned to an old revision.
const CHUNK: usize = 500;

/// Which objects of a collection are meant.
#[derive(Debug, Clone)]
pub(crate) struct Filter {
    pub namespace: String,
    pub labels: LabelSelector,
    pub fields: FieldSelector,
}

impl Filter {
    /// From the parameters of a request.
    ///
    /// # Errors
    /// 400 for selectors that cannot be understood or that the kind does not support.
    pub fn of(call: &Call, scope: &Scope<'_>) -> Result<Self, ApiError> {
        let labels = LabelSelector::parse(&call.query.labels)?;
        let fields = FieldSelector::parse(&call.query.fields)?;
        fields.check(scope.kind)?;
        let fields = match entry::is_converted(scope.kind) {
            true => FieldSelector::parse(&stored_names(&call.query.fields))?,
            false => fields,
        };
        Ok(Filter { namespace: scope.namespace.to_owned(), labels, fields })
    }

    /// Whether nothing is left out by selectors.
    pub fn is_everything(&self) -> bool {
        self.labels.is_everything() && self.fields.is_everything()
    }

    /// Whether the object, in the version of the request, satisfies the selectors.
    pub fn keeps(&self, entry: &Entry) -> bool {
        (self.labels.is_everything() || self.labels.matches(&entry.facts.labels))
            && (self.fields.is_everything() || self.fields.matches(|field| entry.field(field)))
    }

    /// Whether the object is in the namespace and satisfies the selectors.
    pub fn matches(&self, entry: &Entry) -> bool {
        (self.namespace.is_empty() || entry.namespace() == self.namespace) && self.keeps(entry)
    }
}

/// Selectors of events.k8s.io in the names of the stored version, which the facts are kept under.
fn stored_names(selector: &str) -> String {
    selector.replace("regarding.", "involvedObject.").replace("reportingController", "reportingComponent")
}

/// GET of one object.
pub(crate) async fn get(call: Call, scope: Scope<'_>) -> Result<Reply, ApiError> {
    fresh_enough(&call).await?;
    let entry = scope.cache.get(&scope.key()).ok_or_else(|| scope.not_found())?;
    let entry = scope.view(&call.server.caches, entry).await?;
    if call.form == Form::Object {
        let kind = scope.kind;
        if let Some(message) = call.style.protobuf.then(|| entry.message(kind)).flatten() {
            let document = api::protobuf::document_of(&kind.api_version(), kind.kind, &message);
            return Ok(respond::protobuf(StatusCode::OK, document, call.style));
        }
        return Ok(respond::json(StatusCode::OK, entry.document(kind), call.style));
    }
    render::object(&call, scope.kind, StatusCode::OK, entry.bytes.clone())
}

/// Waits until the cache is as fresh as a read must be.
async fn fresh_enough(call: &Call) -> Result<(), ApiError> {
    match call.query.revision {
        None => call.server.caches.consistent().await.map(|_| ()),
        Some(0) => Ok(()),
        Some(revision) => call.server.caches.not_older_than(revision).await,
    }
}

/// What a page is made of.
struct Page {
    entries: Vec<Arc<Entry>>,
    revision: u64,
    /// Where the next page begins; empty at the end.
    cont: String,
    remaining: Option<usize>,
}

/// GET of a collection.
pub(crate) async fn serve(call: Call, scope: Scope<'_>) -> Result<Reply, ApiError> {
    let filter = Filter::of(&call, &scope)?;
    check_revision(&call)?;
    let page = page(&call, &scope, &filter).await?;
    match call.form {
        Form::Object => Ok(encoded(&call, scope.kind, page).await),
        Form::Table => {
            let values = values(scope.kind, &page);
            let mut table = api::table::table(scope.kind, &values, jiff::Timestamp::now(), render::include(&call)?);
            table["metadata"] = metadata(&page);
            Ok(respond::value(StatusCode::OK, &table, call.style))
        }
        Form::PartialList | Form::Partial => {
            let values = values(scope.kind, &page);
            let mut list = api::table::partial_metadata_list(&values);
            list["metadata"] = metadata(&page);
            Ok(respond::value(StatusCode::OK, &list, call.style))
        }
        Form::AggregatedDiscovery => Err(ApiError::not_acceptable(&["application/json"])),
    }
}

fn values(kind: &KindInfo, page: &Page) -> Vec<Value> {
    let parse = |entry: &Arc<Entry>| {
        let mut value = entry.value();
        kind.from_storage(&mut value);
        value
    };
    page.entries.iter().map(parse).collect()
}

fn metadata(page: &Page) -> Value {
    let mut metadata = json!({"resourceVersion": page.revision.to_string()});
    if !page.cont.is_empty() {
        metadata["continue"] = page.cont.as_str().into();
        if let Some(remaining) = page.remaining {
            metadata["remainingItemCount"] = remaining.into();
        }
    }
    metadata
}

/// The list as a concatenation of what is encoded already.
async fn encoded(call: &Call, kind: &KindInfo, page: Page) -> Reply {
    if call.style.protobuf
        && let Some(list) = messages(kind, &page).await
    {
        return protobuf_list(call, list);
    }
    json_list(call, kind, page)
}

/// A list in protobuf: its beginning, which says how long it is, and the fields of each item.
struct Messages {
    head: Vec<u8>,
    items: Vec<Bytes>,
    /// Bytes of the whole document.
    size: usize,
}

/// `None` when the kind or one of its objects cannot be said in protobuf.
async fn messages(kind: &KindInfo, page: &Page) -> Option<Messages> {
    if !protobuf::is_encodable(kind.group, kind.version, kind.list_kind) {
        return None;
    }
    let mut items: Vec<Bytes> = Vec::with_capacity(page.entries.len());
    for entries in page.entries.chunks(AT_ONCE) {
        for entry in entries {
            items.push(entry.message(kind)?);
        }
        tokio::task::yield_now().await;
    }
    let length = items.iter().map(|item| protobuf::item_length(item.len())).sum();
    let head = protobuf::list_head(&kind.api_version(), kind.list_kind, &metadata(page), length)?;
    let size = head.len() + length + protobuf::DOCUMENT_END.len();
    Some(Messages { head, items, size })
}

fn protobuf_list(call: &Call, list: Messages) -> Reply {
    let Messages { head, items, size } = list;
    if size <= PIECE {
        let mut out = head;
        out.reserve_exact(size - out.len());
        items.iter().for_each(|item| protobuf::put_item(&mut out, item));
        out.extend_from_slice(protobuf::DOCUMENT_END);
        return respond::protobuf(StatusCode::OK, out, call.style);
    }
    let state = (head, items.into_iter(), false);
    let chunks = futures::stream::unfold(state, |(mut out, mut items, done)| async move {
        if done {
            return None;
        }
        out.reserve(PIECE);
        while out.len() < PIECE {
            let Some(item) = items.next() else {
                out.extend_from_slice(protobuf::DOCUMENT_END);
                return Some((Bytes::from(out), (Vec::new(), items, true)));
            };
            protobuf::put_item(&mut out, &item);
        }
        Some((Bytes::from(out), (Vec::new(), items, false)))
    });
    respond::pieces(chunks, size, protobuf::MEDIA, call.style)
}

fn json_list(call: &Call, kind: &KindInfo, page: Page) -> Reply {
    let head = format!(
        r#"{{"kind":"{}","apiVersion":"{}","metadata":{},"items":["#,
        kind.list_kind,
        kind.api_version(),
        metadata(&page)
    );
    let size: usize = page.entries.iter().map(|e| e.bytes.len() + 1).sum::<usize>() + head.len() + 2;
    if size <= PIECE || call.style.pretty || call.style.yaml {
        let mut out = BytesMut::with_capacity(size);
        out.extend_from_slice(head.as_bytes());
        for (i, entry) in page.entries.iter().enumerate() {
            if i > 0 {
                out.extend_from_slice(b",");
            }
            out.extend_from_slice(&entry.document(kind));
        }
        out.extend_from_slice(b"]}");
        return respond::json(StatusCode::OK, out.freeze(), Style { protobuf: false, ..call.style });
    }
    // Large: made as it is sent, so that memory holds the entries (shared) and one piece per reader.
    let state = (Some(head), page.entries.into_iter(), true, false, kind.clone());
    let chunks = futures::stream::unfold(state, |(head, mut entries, mut first, done, kind)| async move {
        if done {
            return None;
        }
        let mut out = BytesMut::with_capacity(PIECE + (8 << 10));
        out.extend_from_slice(head.unwrap_or_default().as_bytes());
        while out.len() < PIECE {
            let Some(entry) = entries.next() else {
                out.extend_from_slice(b"]}");
                return Some((out.freeze(), (None, entries, first, true, kind)));
            };
            if !std::mem::take(&mut first) {
                out.extend_from_slice(b",");
            }
            out.extend_from_slice(&entry.document(&kind));
        }
        Some((out.freeze(), (None, entries, first, false, kind)))
    });
    respond::pieces(chunks, size, "application/json", call.style)
}

/// # Errors
/// 400 or 422 for parameters that contradict each other, as Kubernetes sees it.
fn check_revision(call: &Call) -> Result<(), ApiError> {
    let q = &call.query;
    let invalid = |field: &str, detail: &str| {
        Err(ApiError::invalid("ListOptions", "meta.k8s.io", "", vec![FieldError::forbidden(field, detail)]))
    };
    if q.initial_events.is_some() {
        return invalid("sendInitialEvents", "sendInitialEvents is forbidden for list");
    }
    match (q.matching, q.revision) {
        (Some(_), _) if !q.cont.is_empty() => {
            invalid("resourceVersionMatch", "resourceVersionMatch is forbidden when continue is provided")
        }
        (Some(_), None) => {
            invalid("resourceVersionMatch", "resourceVersionMatch is forbidden unless resourceVersion is provided")
        }
        (Some(Match::Exact), Some(0)) => {
            invalid("resourceVersionMatch", "resourceVersionMatch \"exact\" is forbidden for resourceVersion \"0\"")
        }
        _ if !q.cont.is_empty() && q.revision.is_some_and(|r| r != 0) => {
            Err(ApiError::bad_request("specifying resource version is not allowed when using continue"))
        }
        _ => Ok(()),
    }
}

async fn page(call: &Call, scope: &Scope<'_>, filter: &Filter) -> Result<Page, ApiError> {
    let q = &call.query;
    if !q.cont.is_empty() {
        return next_page(call, scope, filter).await;
    }
    // A revision with a limit and without a match means exactly that revision, for history's sake.
    let legacy_exact = q.matching.is_none() && q.limit > 0;
    match q.revision {
        Some(revision) if revision > 0 && (q.matching == Some(Match::Exact) || legacy_exact) => {
            call.server.caches.not_older_than(revision).await?;
            at_revision(call, scope, filter, revision, None).await
        }
        _ => {
            fresh_enough(call).await?;
            newest(call, scope, filter, None).await
        }
    }
}

/// A page of what is in memory.
async fn newest(call: &Call, scope: &Scope<'_>, filter: &Filter, after: Option<&str>) -> Result<Page, ApiError> {
    let caches = &call.server.caches;
    // Before the snapshot: who reads on from this revision misses nothing.
    let applied = call.server.caches.applied();
    let everything = filter.is_everything();
    if let Some(name) = filter.fields.exact("metadata.name")
        && (!scope.kind.namespaced || !filter.namespace.is_empty())
        && after.is_none()
    {
        let found = scope.cache.get(&scope.key_of(name));
        // Not the newest revision of the kind: a deletion since would be in it, and a watch from there would never tell it.
        let revision = applied.max(found.as_ref().map_or(0, |entry| entry.revision));
        let mut entries = scope.views(caches, found.into_iter().collect()).await?;
        entries.retain(|e| filter.matches(e));
        return Ok(Page { entries, revision, cont: String::new(), remaining: None });
    }
    let limit = call.query.limit;
    // Selectors are about the version of the request: what is in another one is looked at when it has been converted.
    let converts = !everything && scope.cache.family().is_some_and(|family| !family.is_single());
    let keeps = |e: &Entry| everything || (converts && e.version != scope.kind.version) || filter.keeps(e);
    let first = if converts { 0 } else { limit };
    let mut snapshot = scope.cache.snapshot(&filter.namespace, after, first, everything, keeps);
    snapshot.entries = scope.views(caches, snapshot.entries).await?;
    if converts {
        snapshot.entries.retain(|e| filter.keeps(e));
        snapshot.remaining = if limit == 0 { 0 } else { snapshot.entries.len().saturating_sub(limit) };
        snapshot.entries.truncate(snapshot.entries.len() - snapshot.remaining);
    }
    let revision = applied.max(snapshot.newest);
    let cont = match snapshot.entries.last() {
        Some(last) if snapshot.remaining > 0 => token(revision, &last.key),
        _ => String::new(),
    };
    let remaining = (everything && snapshot.remaining > 0).then_some(snapshot.remaining);
    Ok(Page { entries: snapshot.entries, revision, cont, remaining })
}

/// What the selectors of a request choose, at most as many as it has for a limit.
pub(super) async fn selected(call: &Call, scope: &Scope<'_>, filter: &Filter) -> Result<Vec<Arc<Entry>>, ApiError> {
    newest(call, scope, filter, None).await.map(|page| page.entries)
}

async fn next_page(call: &Call, scope: &Scope<'_>, filter: &Filter) -> Result<Page, ApiError> {
    let token = parse_token(&call.query.cont)?;
    let prefix_ok = filter.namespace.is_empty() || token.start.starts_with(&format!("{}/", filter.namespace));
    if !prefix_ok {
        return Err(bad_token());
    }
    let Some(revision) = token.rv else {
        call.server.caches.consistent().await?;
        return newest(call, scope, filter, Some(&token.start)).await;
    };
    if revision > call.server.caches.applied() {
        return Err(bad_token());
    }
    if scope.cache.newest() <= revision {
        // Nothing of the kind has changed since the first page. The token ends with the history all the same: clients that wait
        // for that hear of it, and there is one rule.
        in_history(call, scope, revision, &token.start).await?;
        let mut page = newest(call, scope, filter, Some(&token.start)).await?;
        if scope.cache.newest() <= revision {
            page.revision = revision;
            if let Some(last) = page.entries.last().filter(|_| !page.cont.is_empty()) {
                page.cont = self::token(revision, &last.key);
            }
            return Ok(page);
        }
    }
    at_revision(call, scope, filter, revision, Some(&token.start)).await
}

/// # Errors
/// 410 with the token to go on with when the store no longer knows the revision.
async fn in_history(call: &Call, scope: &Scope<'_>, revision: u64, after: &str) -> Result<(), ApiError> {
    let request = RangeRequest { revision, ..RangeRequest::key(scope.cache.store_key(after)) };
    call.server.caches.store().range(request).await.map(drop).map_err(|e| expired(&e, Some(after)))
}

/// A page of what was, from the store.
async fn at_revision(
    call: &Call,
    scope: &Scope<'_>,
    filter: &Filter,
    revision: u64,
    after: Option<&str>,
) -> Result<Page, ApiError> {
    let prefix = match filter.namespace.as_str() {
        "" => scope.cache.store_key(""),
        namespace => scope.cache.store_key(&format!("{namespace}/")),
    };
    let end = store::prefix_end(&prefix);
    let mut start = match after {
        // The smallest key after it.
        Some(after) => [&scope.cache.store_key(after)[..], b"\0"].concat().into(),
        None => prefix,
    };
    let limit = call.query.limit;
    let mut entries: Vec<Arc<Entry>> = Vec::new();
    let mut unread = 0;
    loop {
        let chunk = if limit == 0 { CHUNK } else { CHUNK.min(limit.saturating_add(1)) };
        let request = RangeRequest { start: start.clone(), end: end.clone(), limit: chunk, revision };
        let found = call.server.caches.store().range(request).await.map_err(|e| expired(&e, after))?;
        let Some(last) = found.kvs.last() else { break };
        start = [&last.key[..], b"\0"].concat().into();
        unread = usize::try_from(found.remaining).unwrap_or(usize::MAX);
        let mut read = Vec::with_capacity(found.kvs.len());
        for kv in &found.kvs {
            let key = std::str::from_utf8(&kv.key[scope.cache.prefix.len()..]).map_err(ApiError::internal)?;
            let entry = scope.cache.decode(key, &kv.value, kv.mod_revision).map_err(ApiError::internal)?;
            read.push(Arc::new(entry));
        }
        let read = scope.views(&call.server.caches, read).await?;
        entries.extend(read.into_iter().filter(|e| filter.keeps(e)));
        if !found.more || (limit > 0 && entries.len() > limit) {
            break;
        }
    }
    let (mut cont, mut remaining) = (String::new(), None);
    if limit > 0 && entries.len() > limit {
        remaining = filter.is_everything().then(|| (entries.len() - limit).saturating_add(unread));
        entries.truncate(limit);
        cont = entries.last().map_or_else(String::new, |last| token(revision, &last.key));
    }
    Ok(Page { entries, revision, cont, remaining })
}

/// Where a list goes on: opaque to clients.
#[derive(Serialize, Deserialize)]
struct Token {
    /// Format.
    v: String,
    /// The revision all pages show; absent for a list that goes on at whatever revision is newest.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    rv: Option<u64>,
    /// The key after which the page begins.
    start: String,
}

const TOKEN_FORMAT: &str = "windlass/1";

fn token(revision: u64, last: &str) -> String {
    encode_token(&Token { v: TOKEN_FORMAT.into(), rv: Some(revision), start: last.to_owned() })
}

fn encode_token(token: &Token) -> String {
    URL_SAFE_NO_PAD.encode(serde_json::to_vec(token).unwrap_or_default())
}

fn parse_token(text: &str) -> Result<Token, ApiError> {
    let bytes = URL_SAFE_NO_PAD.decode(text).map_err(|_| bad_token())?;
    let token: Token = serde_json::from_slice(&bytes).map_err(|_| bad_token())?;
    if token.v != TOKEN_FORMAT || token.start.is_empty() {
        return Err(bad_token());
    }
    Ok(token)
}

fn bad_token() -> ApiError {
    ApiError::bad_request("continue key is not valid")
}

/// A compacted revision: with the token to go on without consistency, when it was a page.
fn expired(error: &StoreError, after: Option<&str>) -> ApiError {
    match (error, after) {
        (StoreError::Compacted { .. }, Some(after)) => {
            let mut gone = ApiError::gone_expired(
                "The provided continue parameter is too old to display a consistent list result. You can start a new list without the continue parameter, or use the continue token in this response to retrieve the remainder of the results. Continuing with the provided token results in an inconsistent list - objects that were created, modified, or deleted between the time the first chunk was returned and now may show up in the list.",
            );
            let token = encode_token(&Token { v: TOKEN_FORMAT.into(), rv: None, start: after.to_owned() });
            gone.details = Some(json!({"continue": token}));
            gone
        }
        _ => store_error(error),
    }
}
