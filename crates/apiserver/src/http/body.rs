//! Bodies: what comes in is read whole under a limit, what goes out is bytes already encoded or a stream of them.

use std::pin::Pin;
use std::task::{Context, Poll};

use api::status::ApiError;
use bytes::{Bytes, BytesMut};
use futures::Stream;
use http_body::{Frame, SizeHint};
use http_body_util::BodyExt as _;

/// The error of a body that breaks off.
pub type BoxError = Box<dyn std::error::Error + Send + Sync>;

/// An outgoing body.
pub enum Body {
    /// Nothing more to send.
    Empty,
    /// One piece.
    Full(Bytes),
    /// Pieces as they come.
    Stream(Pin<Box<dyn Stream<Item = Bytes> + Send>>),
    /// The body of a response that is passed through.
    Passed(hyper::body::Incoming),
    /// A body and something that lives as long as it.
    Held(Box<Body>, Option<Box<dyn Send>>),
}

impl Body {
    /// A body of pieces.
    pub fn stream(stream: impl Stream<Item = Bytes> + Send + 'static) -> Self {
        Body::Stream(Box::pin(stream))
    }
}

impl<T: Into<Bytes>> From<T> for Body {
    fn from(bytes: T) -> Self {
        let bytes = bytes.into();
        if bytes.is_empty() { Body::Empty } else { Body::Full(bytes) }
    }
}

impl http_body::Body for Body {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        let this = self.get_mut();
        match this {
            Body::Empty => Poll::Ready(None),
            Body::Full(bytes) => {
                let bytes = std::mem::take(bytes);
                *this = Body::Empty;
                Poll::Ready(Some(Ok(Frame::data(bytes))))
            }
            Body::Stream(stream) => stream.as_mut().poll_next(cx).map(|next| next.map(|bytes| Ok(Frame::data(bytes)))),
            Body::Passed(incoming) => Pin::new(incoming).poll_frame(cx).map_err(Into::into),
            Body::Held(body, _) => Pin::new(body.as_mut()).poll_frame(cx),
        }
    }

    fn is_end_stream(&self) -> bool {
        match self {
            Body::Empty => true,
            Body::Passed(incoming) => incoming.is_end_stream(),
            Body::Held(body, _) => body.is_end_stream(),
            _ => false,
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Body::Empty => SizeHint::with_exact(0),
            Body::Full(bytes) => SizeHint::with_exact(bytes.len() as u64),
            Body::Stream(_) => SizeHint::default(),
            Body::Held(body, _) => body.size_hint(),
            Body::Passed(incoming) => incoming.size_hint(),
        }
    }
}

/// An incoming body: from the network, or from a client in this process.
pub enum RequestBody {
    /// From a connection.
    Network(hyper::body::Incoming),
    /// From this process.
    Local(http_body_util::combinators::UnsyncBoxBody<Bytes, BoxError>),
}

impl http_body::Body for RequestBody {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        match self.get_mut() {
            RequestBody::Network(body) => Pin::new(body).poll_frame(cx).map_err(Into::into),
            RequestBody::Local(body) => Pin::new(body).poll_frame(cx),
        }
    }

    fn is_end_stream(&self) -> bool {
        match self {
            RequestBody::Network(body) => body.is_end_stream(),
            RequestBody::Local(body) => body.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            RequestBody::Network(body) => body.size_hint(),
            RequestBody::Local(body) => body.size_hint(),
        }
    }
}

/// Reads a body whole.
///
/// # Errors
/// 413 when it is longer than `limit`, 400 when it breaks off.
pub async fn read_all(mut body: RequestBody, limit: usize) -> Result<Bytes, ApiError> {
    use http_body::Body as _;
    let too_large = || ApiError::too_large(format!("limit is {limit}"));
    if body.size_hint().lower() > limit as u64 {
        return Err(too_large());
    }
    let mut first = Bytes::new();
    let mut rest: Option<BytesMut> = None;
    while let Some(frame) = body.frame().await {
        let frame = frame.map_err(|e| ApiError::bad_request(format!("unable to read the request body: {e}")))?;
        let Ok(data) = frame.into_data() else { continue };
        let so_far = rest.as_ref().map_or(first.len(), BytesMut::len);
        if so_far + data.len() > limit {
            return Err(too_large());
        }
        match &mut rest {
            Some(rest) => rest.extend_from_slice(&data),
            None if first.is_empty() => first = data,
            None => {
                let mut joined = BytesMut::with_capacity((first.len() + data.len()).next_power_of_two().min(limit));
                joined.extend_from_slice(&first);
                joined.extend_from_slice(&data);
                rest = Some(joined);
            }
        }
    }
    Ok(rest.map_or(first, BytesMut::freeze))
}
