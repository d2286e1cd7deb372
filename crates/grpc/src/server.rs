//! The other end: calls come in over one connection, each with a stream of messages, and are answered with one message or many.

use std::convert::Infallible;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD_NO_PAD;
use bytes::{Bytes, BytesMut};
use http::{HeaderMap, HeaderValue, Request, Response};
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt as _, Empty, StreamBody};
use hyper::body::{Frame, Incoming};
use hyper::server::conn::http2;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use prost::Message;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::mpsc;

use crate::{CallError, Limits, Messages, frame};

/// Calls at once on one connection.
const STREAMS_MAX: u32 = 128;

/// gRPC's codes, those that are given here (<https://grpc.io/docs/guides/status-codes/>).
pub mod code {
    /// The caller went away.
    pub const CANCELED: u32 = 1;
    /// Something failed.
    pub const UNKNOWN: u32 = 2;
    /// What was asked makes no sense.
    pub const INVALID_ARGUMENT: u32 = 3;
    /// There is none.
    pub const NOT_FOUND: u32 = 5;
    /// There is one already.
    pub const ALREADY_EXISTS: u32 = 6;
    /// A limit is reached.
    pub const RESOURCE_EXHAUSTED: u32 = 8;
    /// No such call, or not with that.
    pub const UNIMPLEMENTED: u32 = 12;
    /// The server's own fault.
    pub const INTERNAL: u32 = 13;
}

/// Why a call is not answered as asked.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct Refusal {
    /// gRPC's code.
    pub code: u32,
    /// For the user.
    pub message: String,
    /// An encoded `google.rpc.Status` that says more; empty for none.
    pub details: Vec<u8>,
}

impl Refusal {
    /// Of a code and words.
    pub fn new(code: u32, message: impl Into<String>) -> Self {
        Refusal { code, message: message.into(), details: Vec::new() }
    }
}

impl From<CallError> for Refusal {
    fn from(error: CallError) -> Self {
        match error {
            CallError::Status { code, message } => Refusal::new(code, message.as_ref()),
            other => Refusal::new(code::INVALID_ARGUMENT, other.to_string()),
        }
    }
}

/// A call that came in.
pub struct Asked {
    /// `/package.Service/Method`.
    pub path: String,
    /// Metadata.
    pub headers: HeaderMap,
    /// What the caller sends.
    pub messages: Messages,
}

impl Asked {
    /// The only message of a call that has one.
    ///
    /// # Errors
    /// When there is none, or it cannot be read.
    pub async fn message<A: Message + Default>(&mut self) -> Result<A, Refusal> {
        let message = self.messages.next().await?;
        message.ok_or_else(|| Refusal::new(code::INVALID_ARGUMENT, "a call without a message"))
    }
}

/// What a call is answered with.
pub enum Answer {
    /// One message, framed.
    One(Bytes),
    /// Messages, framed, as they come; the end of the sender is the end of the answer.
    Many(mpsc::Receiver<Result<Bytes, Refusal>>),
}

impl Answer {
    /// Of one message.
    pub fn one(message: &impl Message) -> Self {
        Answer::One(frame(message))
    }
}

type Body = UnsyncBoxBody<Bytes, Infallible>;

/// Serves calls that come over a stream until it ends. A caller who goes away drops the future that would answer him.
///
/// # Errors
/// When the peer does not speak HTTP/2 or breaks off.
pub async fn serve<T, S, F>(stream: T, limits: Limits, service: S) -> Result<(), hyper::Error>
where
    T: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    S: Fn(Asked) -> F + Clone + Send + 'static,
    F: Future<Output = Result<Answer, Refusal>> + Send + 'static,
{
    let answer = service_fn(move |request: Request<Incoming>| {
        let (parts, body) = request.into_parts();
        let messages = Messages { body, buffer: BytesMut::new(), message_max: limits.message_max };
        let asked = Asked { path: parts.uri.path().to_owned(), headers: parts.headers, messages };
        let answered = service(asked);
        async move { Ok::<_, Infallible>(respond(answered.await)) }
    });
    let mut http = http2::Builder::new(TokioExecutor::new());
    http.timer(TokioTimer::new())
        .initial_stream_window_size(limits.stream_window)
        .initial_connection_window_size(limits.connection_window)
        .max_concurrent_streams(STREAMS_MAX);
    if let Some(every) = limits.keep_alive {
        http.keep_alive_interval(every).keep_alive_timeout(every);
    }
    http.serve_connection(TokioIo::new(stream), answer).await
}

fn respond(answered: Result<Answer, Refusal>) -> Response<Body> {
    let mut response = Response::new(Empty::new().boxed_unsync());
    response.headers_mut().insert("content-type", HeaderValue::from_static("application/grpc"));
    match answered {
        // A refusal alone has its status in the head, which must be the end, too.
        Err(refusal) => response.headers_mut().extend(trailers(Some(&refusal))),
        Ok(Answer::One(bytes)) => {
            let frames = [Ok(Frame::data(bytes)), Ok(Frame::trailers(trailers(None)))];
            *response.body_mut() = StreamBody::new(futures::stream::iter(frames)).boxed_unsync();
        }
        Ok(Answer::Many(rx)) => {
            let frames = futures::stream::unfold(Some(rx), |rx| async move {
                let mut rx = rx?;
                match rx.recv().await {
                    Some(Ok(bytes)) => Some((Ok::<_, Infallible>(Frame::data(bytes)), Some(rx))),
                    Some(Err(refusal)) => Some((Ok(Frame::trailers(trailers(Some(&refusal)))), None)),
                    None => Some((Ok(Frame::trailers(trailers(None))), None)),
                }
            });
            *response.body_mut() = StreamBody::new(frames).boxed_unsync();
        }
    }
    response
}

fn trailers(refusal: Option<&Refusal>) -> HeaderMap {
    let mut map = HeaderMap::new();
    let Some(refusal) = refusal else {
        map.insert("grpc-status", HeaderValue::from_static("0"));
        return map;
    };
    map.insert("grpc-status", HeaderValue::from(refusal.code));
    if let Ok(message) = HeaderValue::from_str(&percent_encoded(&refusal.message)) {
        map.insert("grpc-message", message);
    }
    if let Ok(details) = HeaderValue::from_str(&STANDARD_NO_PAD.encode(&refusal.details))
        && !refusal.details.is_empty()
    {
        map.insert("grpc-status-details-bin", details);
    }
    map
}

/// As `grpc-message` wants it: all but printable ASCII, and the percent sign, in hexadecimal.
fn percent_encoded(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for byte in text.bytes() {
        match byte {
            b' '..=b'~' if byte != b'%' => out.push(char::from(byte)),
            byte => out.push_str(&format!("%{byte:02X}")),
        }
    }
    out
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test fails by panicking")]
mod tests {
    use super::*;
    use crate::Connection;

    const LIMITS: Limits =
        Limits { message_max: 1 << 20, stream_window: 1 << 16, connection_window: 1 << 17, keep_alive: None };

    #[derive(Clone, PartialEq, Message)]
    struct Word {
        #[prost(string, tag = "1")]
        text: String,
    }

    fn word(text: &str) -> Word {
        Word { text: text.to_owned() }
    }

    async fn service(mut asked: Asked) -> Result<Answer, Refusal> {
        match asked.path.as_str() {
            "/t.T/Echo" => Ok(Answer::one(&asked.message::<Word>().await?)),
            "/t.T/Twice" => {
                let (tx, rx) = mpsc::channel(1);
                let name = asked.headers["who"].to_str().unwrap().to_owned();
                tokio::spawn(async move {
                    while let Ok(Some(Word { text })) = asked.messages.next().await {
                        tx.send(Ok(frame(&word(&format!("{name} {text}"))))).await.unwrap();
                    }
                    tx.send(Err(Refusal { code: 5, message: "zwölf 100%".into(), details: vec![1] })).await.unwrap();
                });
                Ok(Answer::Many(rx))
            }
            _ => Err(Refusal::new(code::UNIMPLEMENTED, "no such call")),
        }
    }

    #[tokio::test]
    async fn both_ends_understand_each_other() {
        let (here, there) = tokio::io::duplex(1 << 16);
        let served = tokio::spawn(serve(there, LIMITS, service));
        let connection = Connection::over(here, "http://localhost", LIMITS).await.unwrap();
        let echo: Word = connection.unary("/t.T/Echo", &word("a")).await.unwrap();
        assert_eq!(echo.text, "a");
        let (requests, mut answers) = connection.duplex("/t.T/Twice", &[("who", "me")]).await.unwrap();
        for text in ["b", "c"] {
            requests.send(&word(text)).await.unwrap();
            assert_eq!(answers.next::<Word>().await.unwrap(), Some(word(&format!("me {text}"))));
        }
        drop(requests);
        let refused = answers.next::<Word>().await.unwrap_err();
        assert_eq!(refused.to_string(), "zwölf 100% (gRPC code 5)");
        let missing = connection.unary::<Word>("/t.T/None", &word("")).await.unwrap_err();
        assert!(matches!(missing, CallError::Status { code: 12, .. }), "{missing}");
        drop((answers, connection));
        served.await.unwrap().unwrap();
    }
}
