//! Connections to endpoints: kept while idle, given out one request at a time, retired when the endpoint leaves.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use parking_lot::Mutex;
use tokio::net::TcpStream;
use tokio::time::timeout;

use crate::body::{Progress, RequestBody};

/// A connection ready for one more request.
pub(crate) type Sender = http1::SendRequest<RequestBody>;

/// Idle connections kept per endpoint.
const IDLE_MAX: usize = 128;
/// Idle connections older than this are closed: few servers keep them longer.
pub(crate) const IDLE_AGE: Duration = Duration::from_secs(30);
/// For requests that cannot be sent twice only connections that were used just now are trusted: servers close idle ones
/// after five seconds or more.
pub(crate) const IDLE_AGE_ONCE: Duration = Duration::from_secs(2);
/// An endpoint that refused is left alone for this long while there are others.
const FAILED_PAUSE: Duration = Duration::from_secs(2);
/// What an endpoint may send as headers.
const HEADER_BYTES_MAX: usize = 256 * 1024;

/// One address of a backend.
#[derive(Debug)]
pub(crate) struct Endpoint {
    pub address: SocketAddr,
    pending: AtomicUsize,
    failed: Mutex<Option<Instant>>,
    has_failed: AtomicBool,
    idle: Mutex<Idle>,
}

#[derive(Debug, Default)]
struct Idle {
    retired: bool,
    /// Most recently used last.
    connections: Vec<(Sender, Instant)>,
}

impl Endpoint {
    pub fn new(address: SocketAddr) -> Self {
        Endpoint {
            address,
            pending: AtomicUsize::new(0),
            failed: Mutex::new(None),
            has_failed: AtomicBool::new(false),
            idle: Mutex::default(),
        }
    }

    /// Requests at it right now.
    pub fn pending(&self) -> usize {
        self.pending.load(Ordering::Relaxed)
    }

    /// Whether it refused a connection a moment ago.
    pub fn is_failed(&self) -> bool {
        self.has_failed.load(Ordering::Relaxed) && self.failed.lock().is_some_and(|at| at.elapsed() < FAILED_PAUSE)
    }

    pub fn mark_failed(&self) {
        *self.failed.lock() = Some(Instant::now());
        self.has_failed.store(true, Ordering::Relaxed);
    }

    fn mark_well(&self) {
        if self.has_failed.swap(false, Ordering::Relaxed) {
            *self.failed.lock() = None;
        }
    }

    /// The idle connection used last, if it is younger than `age`.
    pub fn take(&self, age: Duration) -> Option<Sender> {
        let mut idle = self.idle.lock();
        loop {
            let (sender, since) = idle.connections.pop()?;
            if since.elapsed() >= age {
                // All others are older still; they may do for another request.
                idle.connections.push((sender, since));
                return None;
            }
            if !sender.is_closed() {
                return Some(sender);
            }
        }
    }

    fn put(&self, sender: Sender) {
        if sender.is_closed() {
            return;
        }
        let mut idle = self.idle.lock();
        if idle.retired {
            return;
        }
        idle.connections.push((sender, Instant::now()));
        if idle.connections.len() > IDLE_MAX {
            idle.connections.remove(0);
        }
    }

    /// Closes what was idle for too long.
    pub fn sweep(&self) {
        self.idle.lock().connections.retain(|(sender, since)| since.elapsed() < IDLE_AGE && !sender.is_closed());
    }

    /// The endpoint left the table: idle connections close now, those in use after their request.
    pub fn retire(&self) {
        let mut idle = self.idle.lock();
        idle.retired = true;
        idle.connections.clear();
    }

    /// A new connection.
    pub async fn connect(&self, limit: Duration) -> io::Result<Sender> {
        let stream = match timeout(limit, TcpStream::connect(self.address)).await {
            Ok(connected) => connected?,
            Err(_) => return Err(io::ErrorKind::TimedOut.into()),
        };
        self.mark_well();
        stream.set_nodelay(true)?;
        let (sender, connection) = http1::Builder::new()
            .max_header_size(HEADER_BYTES_MAX)
            .max_buf_size(HEADER_BYTES_MAX)
            .handshake(TokioIo::new(stream))
            .await
            .map_err(io::Error::other)?;
        // It ends when the sender is dropped or the endpoint closes; its errors come out at the sender too.
        tokio::spawn(async move {
            if let Err(error) = connection.with_upgrades().await {
                tracing::trace!(%error, "connection to an endpoint ended");
            }
        });
        Ok(sender)
    }
}

/// One request at one endpoint. Dropped, its connection closes; finished, it is kept for the next.
pub(crate) struct Lease {
    endpoint: Arc<Endpoint>,
    sender: Option<Sender>,
    progress: Arc<Progress>,
    /// The request had no body, or one that was sent at once.
    whole: bool,
}

impl Lease {
    pub fn new(endpoint: Arc<Endpoint>, progress: Arc<Progress>, whole: bool) -> Self {
        endpoint.pending.fetch_add(1, Ordering::Relaxed);
        Lease { endpoint, sender: None, progress, whole }
    }

    pub fn hold(&mut self, sender: Sender) {
        self.sender = Some(sender);
    }

    /// The answer has been read to its end. An endpoint that answered before it had the whole request cannot be asked
    /// again on the same connection.
    pub fn finish(mut self) {
        if let Some(sender) = self.sender.take()
            && (self.whole || self.progress.done())
        {
            self.endpoint.put(sender);
        }
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        self.endpoint.pending.fetch_sub(1, Ordering::Relaxed);
    }
}
