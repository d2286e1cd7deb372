//! `/openapi/v2`: a Swagger 2.0 document without models. The models are in `/openapi/v3`, and the server itself checks fields
//! (`fieldValidation`). kubectl asks for this one all the same before it applies a `kind: List`, in protobuf only, and skips the
//! check on its side for what the document does not describe.

use http::header::{ACCEPT, CONTENT_TYPE};
use http::{HeaderMap, HeaderValue, StatusCode};
use serde_json::json;

use super::health;
use crate::http::respond::{self, Reply, Style};

const PROTOBUF: &str = "application/com.github.proto-openapi.spec.v2@v1.0+protobuf";
/// As clients read it in an answer: Go takes no `@` in a media type.
const PROTOBUF_ANSWER: &str = "application/com.github.proto-openapi.spec.v2.v1.0+protobuf";
const TITLE: &str = "Kubernetes";

/// The document in protobuf (gnostic's `openapi.v2.Document`) if the client asks for that, else in JSON; `None` when
/// it takes neither.
pub(super) fn serve(headers: &HeaderMap, style: Style) -> Option<Reply> {
    let accepts = |media: &str| {
        headers
            .get_all(ACCEPT)
            .iter()
            .filter_map(|v| v.to_str().ok())
            .flat_map(|v| v.split(','))
            .any(|item| item.split(';').next().is_some_and(|m| m.trim().eq_ignore_ascii_case(media)))
    };
    let version = health::git_version();
    if accepts(PROTOBUF) || accepts(PROTOBUF_ANSWER) {
        let mut reply = respond::text(StatusCode::OK, protobuf(&version));
        reply.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(PROTOBUF_ANSWER));
        return Some(reply);
    }
    let any = !headers.contains_key(ACCEPT) || ["application/json", "application/*", "*/*"].into_iter().any(accepts);
    let document = json!({"swagger": "2.0", "info": {"title": TITLE, "version": version}, "paths": {}});
    any.then(|| respond::value(StatusCode::OK, &document, style))
}

/// `swagger` is field 1, `info` field 2 with `title` 1 and `version` 2.
fn protobuf(version: &str) -> Vec<u8> {
    let info = [field(1, TITLE.as_bytes()), field(2, version.as_bytes())].concat();
    [field(1, b"2.0"), field(2, &info)].concat()
}

/// A length-delimited field; all of these are shorter than the 128 bytes that a one-byte length can say.
fn field(number: u8, bytes: &[u8]) -> Vec<u8> {
    let length = u8::try_from(bytes.len()).unwrap_or(u8::MAX).min(0x7f);
    let mut out = vec![number << 3 | 2, length];
    out.extend_from_slice(&bytes[..usize::from(length)]);
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_document_is_wire_encoded() {
        assert_eq!(protobuf("v1"), b"\x0a\x032.0\x12\x10\x0a\x0aKubernetes\x12\x02v1");
    }

    #[test]
    fn protobuf_goes_to_those_who_ask_and_json_to_the_others() {
        let kind = |accept: &'static str| {
            let headers = HeaderMap::from_iter([(ACCEPT, HeaderValue::from_static(accept))]);
            serve(&headers, Style::default()).map(|r| r.headers()[CONTENT_TYPE].to_str().expect("text").to_owned())
        };
        assert_eq!(kind(PROTOBUF).as_deref(), Some(PROTOBUF_ANSWER));
        assert_eq!(kind("application/json;q=0.5, */*").as_deref(), Some("application/json"));
        assert_eq!(kind("text/csv"), None);
    }
}
