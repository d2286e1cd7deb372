//! Bodies on their way through, in both directions: bounded, timed, and with what has to happen at their end.

use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};
use hyper::body::Incoming;
use tokio::time::{Instant, Sleep, sleep};

use crate::pool::Lease;

/// Why a body ended early.
#[derive(Debug, thiserror::Error)]
pub(crate) enum BodyError {
    #[error("the body is larger than allowed")]
    TooLarge,
    #[error("nothing more of the body came in time")]
    Idle,
    #[error("the body was cut off")]
    Cut(#[source] hyper::Error),
}

/// Ends a body when no frame comes for a while. The timer exists only once there was something to wait for.
struct IdleTimer {
    limit: Duration,
    sleep: Option<Pin<Box<Sleep>>>,
    armed: bool,
}

impl IdleTimer {
    fn new(limit: Duration) -> Self {
        IdleTimer { limit, sleep: None, armed: false }
    }

    /// Ready at once when a frame came, with an error when none came for too long.
    fn poll(&mut self, came: bool, cx: &mut Context<'_>) -> Poll<Result<(), BodyError>> {
        if came {
            self.armed = false;
            return Poll::Ready(Ok(()));
        }
        let sleep = self.sleep.get_or_insert_with(|| Box::pin(sleep(self.limit)));
        if !self.armed {
            sleep.as_mut().reset(Instant::now() + self.limit);
            self.armed = true;
        }
        sleep.as_mut().poll(cx).map(|()| Err(BodyError::Idle))
    }
}

/// How far the body of a request has come; seen from outside while the body is inside a connection.
#[derive(Debug, Default)]
pub(crate) struct Progress {
    bytes: AtomicU64,
    done: AtomicBool,
    too_large: AtomicBool,
}

impl Progress {
    pub fn bytes(&self) -> u64 {
        self.bytes.load(Ordering::Relaxed)
    }

    /// The endpoint took all of it: its connection may be used again.
    pub fn done(&self) -> bool {
        self.done.load(Ordering::Acquire)
    }

    pub fn too_large(&self) -> bool {
        self.too_large.load(Ordering::Relaxed)
    }
}

/// The body of a request, towards an endpoint.
pub(crate) enum RequestBody {
    /// None, or one that is held in memory and can be sent again.
    Whole(Option<Bytes>),
    /// One that passes through as it comes.
    Stream(Box<RequestStream>),
}

pub(crate) struct RequestStream {
    inner: Incoming,
    limit: u64,
    progress: Arc<Progress>,
    idle: IdleTimer,
}

impl RequestBody {
    pub fn whole(bytes: &Bytes) -> Self {
        RequestBody::Whole((!bytes.is_empty()).then(|| bytes.clone()))
    }

    pub fn stream(inner: Incoming, limit: u64, idle: Duration, progress: Arc<Progress>) -> Self {
        RequestBody::Stream(Box::new(RequestStream { inner, limit, progress, idle: IdleTimer::new(idle) }))
    }
}

impl Body for RequestBody {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        let stream = match &mut *self {
            RequestBody::Whole(bytes) => return Poll::Ready(bytes.take().map(|b| Ok(Frame::data(b)))),
            RequestBody::Stream(stream) => stream,
        };
        let polled = Pin::new(&mut stream.inner).poll_frame(cx);
        if let Err(error) = ready!(stream.idle.poll(polled.is_ready(), cx)) {
            return Poll::Ready(Some(Err(error)));
        }
        let Poll::Ready(frame) = polled else { return Poll::Pending };
        Poll::Ready(match frame {
            Some(Ok(frame)) => {
                let bytes = frame.data_ref().map_or(0, |d| d.len() as u64);
                let total = stream.progress.bytes.fetch_add(bytes, Ordering::Relaxed) + bytes;
                if total > stream.limit {
                    stream.progress.too_large.store(true, Ordering::Relaxed);
                    return Poll::Ready(Some(Err(BodyError::TooLarge)));
                }
                if stream.inner.is_end_stream() {
                    stream.progress.done.store(true, Ordering::Release);
                }
                Some(Ok(frame))
            }
            Some(Err(error)) => Some(Err(BodyError::Cut(error))),
            None => {
                stream.progress.done.store(true, Ordering::Release);
                None
            }
        })
    }

    fn is_end_stream(&self) -> bool {
        match self {
            RequestBody::Whole(bytes) => bytes.is_none(),
            RequestBody::Stream(stream) => stream.inner.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            RequestBody::Whole(bytes) => SizeHint::with_exact(bytes.as_ref().map_or(0, |b| b.len() as u64)),
            RequestBody::Stream(stream) => stream.inner.size_hint(),
        }
    }
}

/// The body of an answer, towards the client.
pub(crate) enum ResponseBody {
    /// One of our own.
    Own(Option<Bytes>),
    /// That of an endpoint.
    Endpoint(Box<EndpointBody>),
}

pub(crate) struct EndpointBody {
    inner: Incoming,
    lease: Option<Lease>,
    idle: IdleTimer,
}

impl ResponseBody {
    /// Passes an endpoint's body on. The lease of its connection ends with the body.
    pub fn endpoint(inner: Incoming, lease: Lease, idle: Duration) -> Self {
        if inner.is_end_stream() {
            lease.finish();
            return ResponseBody::Own(None);
        }
        ResponseBody::Endpoint(Box::new(EndpointBody { inner, lease: Some(lease), idle: IdleTimer::new(idle) }))
    }
}

impl Body for ResponseBody {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        let body = match &mut *self {
            ResponseBody::Own(bytes) => return Poll::Ready(bytes.take().map(|b| Ok(Frame::data(b)))),
            ResponseBody::Endpoint(body) => body,
        };
        let polled = Pin::new(&mut body.inner).poll_frame(cx);
        if let Err(error) = ready!(body.idle.poll(polled.is_ready(), cx)) {
            return Poll::Ready(Some(Err(error)));
        }
        let Poll::Ready(frame) = polled else { return Poll::Pending };
        if (frame.is_none() || matches!(frame, Some(Ok(_))) && body.inner.is_end_stream())
            && let Some(lease) = body.lease.take()
        {
            lease.finish();
        }
        Poll::Ready(frame.map(|f| f.map_err(BodyError::Cut)))
    }

    fn is_end_stream(&self) -> bool {
        match self {
            ResponseBody::Own(bytes) => bytes.is_none(),
            ResponseBody::Endpoint(body) => body.inner.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            ResponseBody::Own(bytes) => SizeHint::with_exact(bytes.as_ref().map_or(0, |b| b.len() as u64)),
            ResponseBody::Endpoint(body) => body.inner.size_hint(),
        }
    }
}
