//! `/openapi/v2`: what is served as one Swagger 2.0 document, in JSON and in protobuf (gnostic's `openapi.v2.Document`, which
//! `kubectl` and client-go ask for). Made when it is asked for after a change, and kept as it is sent.

use std::io::Write as _;
use std::sync::{Arc, OnceLock};

use api::openapi::v2::{self, Encoded, Part};
use api::status::ApiError;
use bytes::Bytes;
use flate2::Compression;
use flate2::write::GzEncoder;
use http::header::{ACCEPT, CACHE_CONTROL, CONTENT_ENCODING, CONTENT_TYPE, VARY};
use http::{HeaderMap, HeaderValue, Response, StatusCode};

use super::discovery::{Document, Sources};
use super::health;
use crate::http::accept;
use crate::http::body::Body;
use crate::http::respond::{self, Reply, Style};
use crate::server::ApiServer;

const PROTOBUF: &str = "application/com.github.proto-openapi.spec.v2@v1.0+protobuf";
/// As clients read it in an answer: Go takes no `@` in a media type.
const PROTOBUF_ANSWER: &str = "application/com.github.proto-openapi.spec.v2.v1.0+protobuf";

/// How the document is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Form {
    Json,
    Protobuf,
}

/// Protobuf if the client asks for that, else JSON; `None` when it takes neither.
fn form(headers: &HeaderMap) -> Option<Form> {
    let accepts = |media: &str| {
        headers
            .get_all(ACCEPT)
            .iter()
            .filter_map(|v| v.to_str().ok())
            .flat_map(|v| v.split(','))
            .any(|item| item.split(';').next().is_some_and(|m| m.trim().eq_ignore_ascii_case(media)))
    };
    if accepts(PROTOBUF) || accepts(PROTOBUF_ANSWER) {
        return Some(Form::Protobuf);
    }
    let any = !headers.contains_key(ACCEPT) || ["application/json", "application/*", "*/*"].into_iter().any(accepts);
    any.then_some(Form::Json)
}

/// The document.
///
/// # Errors
/// 406 when the client takes neither form.
pub(super) async fn serve(server: &Arc<ApiServer>, headers: &HeaderMap, style: Style) -> Result<Reply, ApiError> {
    let form = form(headers).ok_or_else(|| ApiError::not_acceptable(accept::MEDIA))?;
    let pretty = style.pretty && form == Form::Json;
    let gzip = style.gzip && !pretty;
    let document = document(server, form, gzip).await?;
    if document.is_known(headers) {
        return Ok(document.unchanged());
    }
    if pretty {
        let mut reply =
            respond::json(StatusCode::OK, document.bytes.clone(), Style { protobuf: false, yaml: false, ..style });
        document.tag(&mut reply);
        return Ok(reply);
    }
    let mut reply = Response::new(Body::from(document.bytes.clone()));
    let media = if form == Form::Json { "application/json" } else { PROTOBUF_ANSWER };
    reply.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(media));
    reply.headers_mut().insert(CACHE_CONTROL, HeaderValue::from_static("no-cache, private"));
    if gzip {
        reply.headers_mut().insert(CONTENT_ENCODING, HeaderValue::from_static("gzip"));
    }
    reply.headers_mut().append(VARY, HeaderValue::from_static("Accept, Accept-Encoding"));
    document.tag(&mut reply);
    Ok(reply)
}

async fn document(server: &Arc<ApiServer>, form: Form, gzip: bool) -> Result<Document, ApiError> {
    let key = format!("/openapi/v2 {form:?} {gzip}");
    if let Some(document) = server.documents.get(&Sources::of(server), &key) {
        return Ok(document);
    }
    // One at a time: it takes a while and some megabytes.
    let _turn = server.documents.turn().await;
    let sources = Sources::of(server);
    if let Some(document) = server.documents.get(&sources, &key) {
        return Ok(document);
    }
    let of = server.clone();
    let made = tokio::task::spawn_blocking(move || make(&of, form, gzip)).await.map_err(ApiError::internal)?;
    server.documents.put(&sources, key, made.clone());
    Ok(made)
}

fn make(server: &ApiServer, form: Form, gzip: bool) -> Document {
    static BUILT_IN: OnceLock<Encoded> = OnceLock::new();
    let built_in = BUILT_IN.get_or_init(|| Part::built_in().encode());
    let custom = Part::custom(server.caches.custom().kinds(), built_in).encode();
    let mut others: Vec<Encoded> = Vec::new();
    for backend in server.aggregation.backends().iter() {
        if let Some(document) = backend.state().openapi_v2 {
            let before: Vec<&Encoded> = [built_in, &custom].into_iter().chain(&others).collect();
            others.push(Part::foreign(&document, &before).encode());
        }
    }
    let parts: Vec<&Encoded> = [built_in, &custom].into_iter().chain(&others).collect();
    let version = health::git_version();
    let bytes = match form {
        Form::Json => v2::json(&version, &parts).into_bytes(),
        Form::Protobuf => v2::protobuf(&version, &parts),
    };
    Document::new(Bytes::from(if gzip { compress(&bytes) } else { bytes }))
}

fn compress(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = GzEncoder::new(Vec::with_capacity(bytes.len() / 8), Compression::default());
    // Writing to memory cannot fail.
    let _ = encoder.write_all(bytes);
    encoder.finish().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn protobuf_goes_to_those_who_ask_and_json_to_the_others() {
        let asked = |accept: &'static str| form(&HeaderMap::from_iter([(ACCEPT, HeaderValue::from_static(accept))]));
        assert_eq!(asked(PROTOBUF), Some(Form::Protobuf));
        assert_eq!(asked("application/json;q=0.5, */*"), Some(Form::Json));
        assert_eq!(asked("text/csv"), None);
        assert_eq!(form(&HeaderMap::new()), Some(Form::Json));
    }
}
