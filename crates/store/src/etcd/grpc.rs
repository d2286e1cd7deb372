//! gRPC over one HTTP/2 connection, as much of it as etcd needs: calls with one answer, and a stream of answers.
//! <https://github.com/grpc/grpc/blob/master/doc/PROTOCOL-HTTP2.md>

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use bytes::{Buf, BufMut, Bytes, BytesMut};
use http::{HeaderMap, Request, Response, StatusCode};
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt as _, Full, StreamBody};
use hyper::body::{Frame, Incoming};
use hyper::client::conn::http2::{self, SendRequest};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use prost::Message;
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

use super::config::{Endpoint, Tls};

/// Largest answer: a page of keys, each as large as it may be, fits in.
const MESSAGE_MAX: usize = 512 << 20;
/// What may be on its way to us on one stream, and on all of them: a slow watch must not stop the other calls.
const STREAM_WINDOW: u32 = 2 << 20;
const CONNECTION_WINDOW: u32 = 32 << 20;
/// A peer that is gone without a word is noticed after twice as long. etcd refuses to be asked more often than every 5 s.
const KEEP_ALIVE: Duration = Duration::from_secs(10);
/// Bytes before each message: whether it is compressed, and its length.
const PREFIX: usize = 5;

/// `UNAVAILABLE` among gRPC's codes: the member cannot serve now, another may.
pub const UNAVAILABLE: u32 = 14;

/// Why a call failed.
#[derive(Debug, Clone, thiserror::Error)]
pub enum CallError {
    /// The request did not leave this process.
    #[error("{0}")]
    NotSent(Arc<str>),
    /// The connection broke before the answer was complete.
    #[error("{0}")]
    Lost(Arc<str>),
    /// etcd refused.
    #[error("{message} (gRPC code {code})")]
    Status {
        /// gRPC's code.
        code: u32,
        /// etcd's words.
        message: Arc<str>,
    },
}

impl CallError {
    fn lost(error: &(dyn std::error::Error + 'static)) -> Self {
        CallError::Lost(Arc::from(base::chain(error)))
    }

    /// Whether etcd's words contain these.
    pub fn says(&self, words: &str) -> bool {
        matches!(self, CallError::Status { message, .. } if message.contains(words))
    }
}

type Body = UnsyncBoxBody<Bytes, Infallible>;

/// A connection to one member. Clones share it.
#[derive(Clone)]
pub struct Connection {
    sender: SendRequest<Body>,
    base: Arc<str>,
}

impl Connection {
    /// Connects.
    pub async fn dial(endpoint: &Endpoint, tls: Option<&Tls>) -> Result<Self, CallError> {
        let failed = |error: &(dyn std::error::Error + 'static)| CallError::NotSent(Arc::from(base::chain(error)));
        let tcp = TcpStream::connect((endpoint.dial_host(), endpoint.port)).await.map_err(|e| failed(&e))?;
        tcp.set_nodelay(true).map_err(|e| failed(&e))?;
        let sender = match tls.filter(|_| endpoint.https) {
            Some(tls) => {
                let connector = TlsConnector::from(tls.0.clone());
                let stream = connector.connect(endpoint.server_name.clone(), tcp).await.map_err(|e| failed(&e))?;
                Self::handshake(TokioIo::new(stream)).await
            }
            None => Self::handshake(TokioIo::new(tcp)).await,
        };
        Ok(Connection { sender: sender.map_err(|e| failed(&e))?, base: Arc::from(endpoint.url.as_str()) })
    }

    async fn handshake<T>(io: T) -> Result<SendRequest<Body>, hyper::Error>
    where
        T: hyper::rt::Read + hyper::rt::Write + Unpin + Send + 'static,
    {
        let (sender, connection) = http2::Builder::new(TokioExecutor::new())
            .timer(TokioTimer::new())
            .initial_stream_window_size(STREAM_WINDOW)
            .initial_connection_window_size(CONNECTION_WINDOW)
            .keep_alive_interval(KEEP_ALIVE)
            .keep_alive_timeout(KEEP_ALIVE)
            .handshake(io)
            .await?;
        // It ends when the last clone of the sender is dropped or the peer goes away; calls learn of it.
        tokio::spawn(async move {
            if let Err(error) = connection.await {
                tracing::debug!(error = %base::chain(&error), "connection to etcd ended");
            }
        });
        Ok(sender)
    }

    /// Whether no more calls can be made.
    pub fn is_closed(&self) -> bool {
        self.sender.is_closed()
    }

    /// One request, one answer.
    pub async fn unary<A: Message + Default>(&self, path: &str, request: &impl Message) -> Result<A, CallError> {
        let body = Full::new(frame(request)).boxed_unsync();
        let response = self.send(path, body, false).await?;
        let mut messages = Messages { body: response.into_body(), buffer: BytesMut::new() };
        let answer = messages.next().await?;
        let answer = answer.ok_or_else(|| CallError::Lost(Arc::from("an answer without a message")))?;
        // The status comes after the message.
        match messages.next::<A>().await? {
            None => Ok(answer),
            Some(_) => Err(CallError::Lost(Arc::from("an answer with two messages"))),
        }
    }

    /// A stream of answers to a first request. The stream of requests stays open as long as the answers are kept.
    pub async fn stream(&self, path: &str, request: &impl Message) -> Result<Messages, CallError> {
        let first = futures::stream::iter([Ok::<_, Infallible>(Frame::data(frame(request)))]);
        let open = futures::StreamExt::chain(first, futures::stream::pending());
        let response = self.send(path, StreamBody::new(open).boxed_unsync(), true).await?;
        Ok(Messages { body: response.into_body(), buffer: BytesMut::new() })
    }

    async fn send(&self, path: &str, body: Body, leader: bool) -> Result<Response<Incoming>, CallError> {
        let mut request = Request::post(format!("{}{path}", self.base))
            .header("content-type", "application/grpc")
            .header("te", "trailers");
        if leader {
            // A member that has lost the others ends the stream instead of falling silent (etcd's WithRequireLeader).
            request = request.header("hasleader", "true");
        }
        let request = request.body(body).map_err(|e| CallError::NotSent(Arc::from(base::chain(&e))))?;
        let mut sender = self.sender.clone();
        sender.ready().await.map_err(|e| CallError::NotSent(Arc::from(base::chain(&e))))?;
        let response = sender.send_request(request).await.map_err(|error| match error.is_canceled() {
            true => CallError::NotSent(Arc::from(base::chain(&error))),
            false => CallError::lost(&error),
        })?;
        if response.status() != StatusCode::OK {
            return Err(CallError::Lost(Arc::from(format!("HTTP status {} instead of gRPC", response.status()))));
        }
        // An answer of nothing but a refusal has its status here.
        status(response.headers())?;
        Ok(response)
    }
}

/// Answers as they come.
pub struct Messages {
    body: Incoming,
    buffer: BytesMut,
}

impl Messages {
    /// The next answer; `None` after the last. Dropping the future loses nothing.
    pub async fn next<A: Message + Default>(&mut self) -> Result<Option<A>, CallError> {
        loop {
            if let Some(message) = unframe(&mut self.buffer)? {
                let answer = A::decode(message).map_err(|e| CallError::lost(&e))?;
                return Ok(Some(answer));
            }
            match self.body.frame().await {
                Some(Ok(frame)) => match frame.into_data() {
                    Ok(data) => self.buffer.extend_from_slice(&data),
                    Err(frame) => {
                        if let Some(trailers) = frame.trailers_ref() {
                            status(trailers)?;
                        }
                    }
                },
                Some(Err(error)) => return Err(CallError::lost(&error)),
                None if self.buffer.is_empty() => return Ok(None),
                None => return Err(CallError::Lost(Arc::from("the stream ended within a message"))),
            }
        }
    }
}

fn frame(message: &impl Message) -> Bytes {
    let length = message.encoded_len();
    let mut out = BytesMut::with_capacity(PREFIX + length);
    out.put_u8(0);
    out.put_u32(u32::try_from(length).expect("a transaction is checked to be far smaller"));
    message.encode(&mut out).expect("the buffer grows");
    out.freeze()
}

/// Takes a message from the buffer if all of it is there.
fn unframe(buffer: &mut BytesMut) -> Result<Option<Bytes>, CallError> {
    let Some(mut prefix) = buffer.get(..PREFIX) else { return Ok(None) };
    if prefix.get_u8() != 0 {
        return Err(CallError::Lost(Arc::from("a compressed message, which was not asked for")));
    }
    let length = prefix.get_u32() as usize;
    if length > MESSAGE_MAX {
        return Err(CallError::Lost(Arc::from(format!("a message of {length} bytes, the limit is {MESSAGE_MAX}"))));
    }
    if buffer.len() < PREFIX + length {
        buffer.reserve(PREFIX + length - buffer.len());
        return Ok(None);
    }
    buffer.advance(PREFIX);
    Ok(Some(buffer.split_to(length).freeze()))
}

fn status(headers: &HeaderMap) -> Result<(), CallError> {
    let text = |name| headers.get(name).and_then(|v| v.to_str().ok());
    match text("grpc-status") {
        None | Some("0") => Ok(()),
        Some(code) => {
            let message = percent_decoded(text("grpc-message").unwrap_or(""));
            Err(CallError::Status { code: code.parse().unwrap_or(2), message: Arc::from(message) })
        }
    }
}

fn percent_decoded(text: &str) -> String {
    let mut out = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((&first, tail)) = rest.split_first() {
        let hex = tail.get(..2).filter(|_| first == b'%').and_then(|digits| hex::decode(digits).ok());
        match hex {
            Some(byte) => {
                out.extend(byte);
                rest = &tail[2..];
            }
            None => {
                out.push(first);
                rest = tail;
            }
        }
    }
    String::from_utf8_lossy(&out).into_owned()
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test fails by panicking")]
mod tests {
    use super::super::proto;
    use super::*;

    #[test]
    fn messages_come_out_whole_however_they_were_cut() {
        let sent: Vec<_> = (1..4).map(|revision| proto::Header { revision }).collect();
        let bytes: Vec<u8> = sent.iter().flat_map(|message| frame(message).to_vec()).collect();
        for cut in 1..bytes.len() {
            let (mut buffer, mut got) = (BytesMut::new(), Vec::new());
            for piece in bytes.chunks(cut) {
                buffer.extend_from_slice(piece);
                while let Some(message) = unframe(&mut buffer).unwrap() {
                    got.push(proto::Header::decode(message).unwrap());
                }
            }
            assert_eq!(got, sent);
            assert!(buffer.is_empty());
        }
    }

    #[test]
    fn compressed_and_endless_messages_are_refused() {
        assert!(unframe(&mut BytesMut::from(&[1, 0, 0, 0, 0][..])).is_err());
        assert!(unframe(&mut BytesMut::from(&[0, 0xff, 0xff, 0xff, 0xff][..])).is_err());
    }

    #[test]
    fn a_refusal_is_read_from_the_trailers() {
        let mut headers = HeaderMap::new();
        assert!(status(&headers).is_ok());
        headers.insert("grpc-status", "11".parse().unwrap());
        headers.insert("grpc-message", "etcdserver: 100%25 of%zz".parse().unwrap());
        let error = status(&headers).unwrap_err();
        assert_eq!(error.to_string(), "etcdserver: 100% of%zz (gRPC code 11)");
    }
}
