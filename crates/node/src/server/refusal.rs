//! Answers of few words: what the kubelet says when it cannot do what was asked.

use std::io;

use bytes::Bytes;
use http::{HeaderValue, Response, StatusCode, header};
use http_body_util::{BodyExt, Full, combinators::UnsyncBoxBody};

/// The body of every answer.
pub type Body = UnsyncBoxBody<Bytes, io::Error>;

/// A whole body.
pub fn full(bytes: impl Into<Bytes>) -> Body {
    Full::new(bytes.into()).map_err(|never| match never {}).boxed_unsync()
}

/// Why a request is not served.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refusal {
    /// The status.
    pub code: StatusCode,
    /// The body, plain text: the API server hands it on to the user.
    pub message: String,
}

impl Refusal {
    /// With any status.
    pub fn new(code: StatusCode, message: impl Into<String>) -> Self {
        Refusal { code, message: message.into() }
    }

    /// 400.
    pub fn bad(message: impl Into<String>) -> Self {
        Refusal::new(StatusCode::BAD_REQUEST, message)
    }

    /// 404.
    pub fn missing(message: impl Into<String>) -> Self {
        Refusal::new(StatusCode::NOT_FOUND, message)
    }

    /// 500.
    pub fn fault(message: impl Into<String>) -> Self {
        Refusal::new(StatusCode::INTERNAL_SERVER_ERROR, message)
    }

    /// The answer.
    pub fn response(self) -> Response<Body> {
        text(self.code, self.message)
    }
}

/// A plain text answer.
pub fn text(code: StatusCode, message: impl Into<String>) -> Response<Body> {
    answer(code, "text/plain; charset=utf-8", message.into())
}

/// A whole answer.
pub fn answer(code: StatusCode, kind: &'static str, body: impl Into<Bytes>) -> Response<Body> {
    let mut response = Response::new(full(body));
    *response.status_mut() = code;
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static(kind));
    response
}
