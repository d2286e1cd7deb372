//! Requests and answers.

use std::io;
use std::sync::Arc;

use bytes::Bytes;
use futures::StreamExt;
use http::{HeaderValue, Request, Response, StatusCode, header};
use http_body_util::{BodyExt, Full, Limited, StreamBody, combinators::UnsyncBoxBody};
use hyper::body::{Frame, Incoming};
use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::sync::mpsc;

use crate::Version;
use crate::face::Face;
use crate::fault::{Fault, Result};
use crate::query::Query;

/// The body of an answer.
pub type Body = UnsyncBoxBody<Bytes, io::Error>;
/// An answer.
pub type Answer = Response<Body>;

/// Largest JSON document taken.
const DOCUMENT_MAX: usize = 8 << 20;
/// Chunks between two tasks.
pub const CHUNKS: usize = 16;

/// A request on its way through a handler.
pub struct Call {
    /// What answers it.
    pub face: Arc<Face>,
    /// The version of the API that is spoken.
    pub version: Version,
    /// The query.
    pub query: Query,
    /// The request.
    pub request: Request<Incoming>,
}

impl Call {
    /// The body as JSON; an empty one is `{}`.
    ///
    /// # Errors
    /// 400 when it is none, or too large.
    pub async fn json<T: DeserializeOwned>(&mut self) -> Result<T> {
        let limited = Limited::new(self.request.body_mut(), DOCUMENT_MAX);
        let bytes =
            limited.collect().await.map_err(|e| Fault::bad(format!("cannot read the request: {e}")))?.to_bytes();
        let bytes = if bytes.iter().all(u8::is_ascii_whitespace) { Bytes::from_static(b"{}") } else { bytes };
        serde_json::from_slice(&bytes).map_err(|e| Fault::bad(format!("invalid JSON: {e}")))
    }

    /// The body as it comes.
    pub fn chunks(self) -> mpsc::Receiver<io::Result<Bytes>> {
        let (tx, rx) = mpsc::channel(CHUNKS);
        let mut body = self.request.into_body();
        // Ends with the body, or when nobody takes it.
        tokio::spawn(async move {
            while let Some(frame) = body.frame().await {
                let chunk = match frame {
                    Ok(frame) => frame.into_data().ok().map(Ok),
                    Err(e) => Some(Err(io::Error::other(e))),
                };
                if let Some(chunk) = chunk
                    && tx.send(chunk).await.is_err()
                {
                    return;
                }
            }
        });
        rx
    }

    /// A header as text.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.request.headers().get(name).and_then(|v| v.to_str().ok())
    }
}

/// A body of these bytes.
pub fn whole(bytes: impl Into<Bytes>) -> Body {
    Full::new(bytes.into()).map_err(|never| match never {}).boxed_unsync()
}

/// An answer of that status without a body.
pub fn empty(status: StatusCode) -> Answer {
    let mut answer = Response::new(whole(""));
    *answer.status_mut() = status;
    answer
}

/// A document.
pub fn json<T: Serialize + ?Sized>(value: &T) -> Answer {
    status_json(StatusCode::OK, value)
}

/// A document with a status.
pub fn status_json<T: Serialize + ?Sized>(status: StatusCode, value: &T) -> Answer {
    let bytes = serde_json::to_vec(value).unwrap_or_default();
    let mut answer = Response::new(whole(bytes));
    *answer.status_mut() = status;
    answer.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
    answer
}

/// What a fault looks like to a client.
pub fn fault(fault: &Fault) -> Answer {
    status_json(fault.status, &serde_json::json!({ "message": fault.message }))
}

/// An answer that goes on as long as its sender lives. Its head goes out at once.
pub fn streaming(kind: &'static str, rx: mpsc::Receiver<Bytes>) -> Answer {
    let stream = futures::stream::unfold(rx, |mut rx| async move { Some((rx.recv().await?, rx)) });
    let body = StreamBody::new(stream.map(|bytes| Ok::<_, io::Error>(Frame::data(bytes))));
    let mut answer = Response::new(body.boxed_unsync());
    answer.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static(kind));
    answer
}

/// The same with errors, which break the connection: the client then knows that something is missing.
pub fn fallible(kind: &'static str, rx: mpsc::Receiver<io::Result<Bytes>>) -> Answer {
    let stream = futures::stream::unfold(rx, |mut rx| async move { Some((rx.recv().await?, rx)) });
    let body = StreamBody::new(stream.map(|bytes| bytes.map(Frame::data)));
    let mut answer = Response::new(body.boxed_unsync());
    answer.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static(kind));
    answer
}

/// Reads what a task receives, for code that blocks.
pub struct Reader {
    rx: mpsc::Receiver<io::Result<Bytes>>,
    rest: Bytes,
}

impl Reader {
    /// Of a body.
    pub fn new(rx: mpsc::Receiver<io::Result<Bytes>>) -> Self {
        Reader { rx, rest: Bytes::new() }
    }
}

impl io::Read for Reader {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        while self.rest.is_empty() {
            match self.rx.blocking_recv() {
                Some(chunk) => self.rest = chunk?,
                None => return Ok(0),
            }
        }
        let n = buf.len().min(self.rest.len());
        buf[..n].copy_from_slice(&self.rest.split_to(n));
        Ok(n)
    }
}

/// Sends what is written to a task, from code that blocks.
pub struct Writer {
    tx: mpsc::Sender<io::Result<Bytes>>,
    buffer: Vec<u8>,
}

/// Bytes sent at once.
const PIECE: usize = 64 << 10;

impl Writer {
    /// Into a body.
    pub fn new(tx: mpsc::Sender<io::Result<Bytes>>) -> Self {
        Writer { tx, buffer: Vec::with_capacity(PIECE) }
    }

    /// Says that what follows is missing.
    pub fn fail(&self, error: io::Error) {
        let _ = self.tx.blocking_send(Err(error));
    }
}

impl io::Write for Writer {
    fn write(&mut self, buf: &[u8]) -> io::Result<usize> {
        self.buffer.extend_from_slice(buf);
        if self.buffer.len() >= PIECE {
            self.flush()?;
        }
        Ok(buf.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        if self.buffer.is_empty() {
            return Ok(());
        }
        let bytes = Bytes::from(std::mem::replace(&mut self.buffer, Vec::with_capacity(PIECE)));
        self.tx.blocking_send(Ok(bytes)).map_err(|_| io::ErrorKind::BrokenPipe.into())
    }
}
