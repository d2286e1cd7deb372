//! The connection to one shim: calls matched with replies, events handed on.

use std::collections::HashMap;
use std::io;
use std::os::fd::OwnedFd;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use parking_lot::Mutex;
use shim::client::Connection;
use shim::proto::{Call, ExitInfo, Fault, Message, Reply, Request};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;
use tokio::sync::{mpsc, oneshot};

use crate::runtime::RuntimeError;

/// Longest wait for an answer; a start may take as long as its slowest mount.
const CALL_LIMIT: Duration = Duration::from_secs(150);
/// Calls under way at most.
const PENDING_MAX: usize = 1024;

/// What a shim says unasked.
#[derive(Debug)]
pub enum ShimEvent {
    /// A container ended.
    Exited {
        /// The container.
        id: String,
        /// How.
        info: ExitInfo,
    },
    /// The connection is over: the shim is gone.
    Gone,
}

/// The answer to a call.
pub struct Answer {
    /// What it says.
    pub reply: Reply,
    /// Descriptors that came with it.
    pub fds: Vec<OwnedFd>,
    /// For an exec: resolves to the exit status.
    pub exit: Option<oneshot::Receiver<i32>>,
}

struct Shared {
    socket: AsyncFd<Connection>,
    seq: AtomicU64,
    /// `None` once the connection is over.
    pending: Mutex<Option<HashMap<u64, oneshot::Sender<Answer>>>>,
    sessions: Mutex<HashMap<u64, oneshot::Sender<i32>>>,
}

/// A handle to the connection; clones share it. The connection closes when the last is dropped.
#[derive(Clone)]
pub struct Link {
    shared: Arc<Shared>,
}

impl Link {
    /// Connects to the shim in `pod_dir`; events go to `events` until the shim is gone or this link is dropped.
    pub fn open(pod_dir: &Path, events: mpsc::Sender<ShimEvent>) -> io::Result<Self> {
        let connection = Connection::open(pod_dir)?;
        #[expect(deprecated, reason = "its successor is unsafe; a connection owns its descriptor, as that asks for")]
        let socket = AsyncFd::with_interest(connection, Interest::READABLE | Interest::WRITABLE)?;
        let shared = Arc::new(Shared {
            socket,
            seq: AtomicU64::new(1),
            pending: Mutex::new(Some(HashMap::new())),
            sessions: Mutex::new(HashMap::new()),
        });
        let link = Link { shared: shared.clone() };
        // Holds the connection weakly in effect: it ends with the shim, and a link in use keeps it alive.
        tokio::spawn(read_loop(shared, events));
        Ok(link)
    }

    /// Whether the shim was there a moment ago.
    pub fn is_open(&self) -> bool {
        self.shared.pending.lock().is_some()
    }

    /// Asks and waits for the answer, faults included.
    ///
    /// # Errors
    /// [`RuntimeError::Failed`] when the shim is gone, [`RuntimeError::Timeout`].
    pub async fn ask(&self, operation: &'static str, req: Request) -> Result<Answer, RuntimeError> {
        let gone = || RuntimeError::Failed { operation, message: "the sandbox's shim is gone".to_owned() };
        let seq = self.shared.seq.fetch_add(1, Ordering::Relaxed);
        let (tx, rx) = oneshot::channel();
        match &mut *self.shared.pending.lock() {
            None => return Err(gone()),
            Some(pending) if pending.len() >= PENDING_MAX => {
                let message = format!("{PENDING_MAX} calls are under way already");
                return Err(RuntimeError::Failed { operation, message });
            }
            Some(pending) => pending.insert(seq, tx),
        };
        let talk = async {
            let call = Call { seq, req };
            let sent = self.shared.socket.async_io(Interest::WRITABLE, |c| c.send(&call)).await;
            sent.map_err(|e| RuntimeError::Failed { operation, message: e.to_string() })?;
            rx.await.map_err(|_| gone())
        };
        let result = tokio::time::timeout(CALL_LIMIT, talk).await;
        if let Some(pending) = &mut *self.shared.pending.lock() {
            pending.remove(&seq);
        }
        result.unwrap_or(Err(RuntimeError::Timeout { operation, limit: CALL_LIMIT }))
    }

    /// Asks, and turns a fault into an error about `id`.
    ///
    /// # Errors
    /// As [`Link::ask`], and what the shim refused.
    pub async fn call(&self, operation: &'static str, id: &str, req: Request) -> Result<Answer, RuntimeError> {
        let answer = self.ask(operation, req).await?;
        match answer.reply {
            Reply::Fault(fault) => Err(error_of(operation, id, fault)),
            _ => Ok(answer),
        }
    }

    /// Sends without waiting for an answer, as far as the socket takes it.
    pub fn send(&self, req: Request) {
        let seq = self.shared.seq.fetch_add(1, Ordering::Relaxed);
        let _ = self.shared.socket.get_ref().send(&Call { seq, req });
    }
}

/// A shim's fault in the engine's terms.
pub fn error_of(operation: &'static str, id: &str, fault: Fault) -> RuntimeError {
    match fault {
        Fault::NotFound => RuntimeError::NotFound { kind: "container", id: id.to_owned() },
        Fault::Conflict(message) => RuntimeError::Conflict { id: id.to_owned(), message },
        Fault::Start(message) | Fault::Failed(message) => RuntimeError::Failed { operation, message },
    }
}

async fn read_loop(shared: Arc<Shared>, events: mpsc::Sender<ShimEvent>) {
    loop {
        let received = tokio::select! {
            received = shared.socket.async_io(Interest::READABLE, Connection::receive) => received,
            // Nobody listens any more: the sandbox's driver is gone.
            () = events.closed() => break,
        };
        match received {
            Ok(Some((Message::Reply { seq, reply }, fds))) => shared.deliver(seq, reply, fds),
            Ok(Some((Message::ExecExited { session, exit_code }, _))) => {
                if let Some(tx) = shared.sessions.lock().remove(&session) {
                    let _ = tx.send(exit_code);
                }
            }
            Ok(Some((Message::Exited { id, info }, _))) => {
                if events.send(ShimEvent::Exited { id, info }).await.is_err() {
                    break;
                }
            }
            Ok(None) => break,
            Err(error) => {
                tracing::debug!(%error, "connection to a shim failed");
                break;
            }
        }
    }
    // Everyone who waits is told by the end of their channel.
    *shared.pending.lock() = None;
    shared.sessions.lock().clear();
    let _ = events.send(ShimEvent::Gone).await;
}

impl Shared {
    fn deliver(&self, seq: u64, reply: Reply, fds: Vec<OwnedFd>) {
        let session = match &reply {
            Reply::Streams { session, .. } if *session != 0 => Some(*session),
            _ => None,
        };
        let exit = session.map(|session| {
            let (tx, rx) = oneshot::channel();
            self.sessions.lock().insert(session, tx);
            rx
        });
        let waiter = self.pending.lock().as_mut().and_then(|p| p.remove(&seq));
        let delivered = waiter.is_some_and(|tx| tx.send(Answer { reply, fds, exit }).is_ok());
        if let (false, Some(session)) = (delivered, session) {
            // Who asked gave up: the command must not run on unseen.
            let seq = self.seq.fetch_add(1, Ordering::Relaxed);
            let _ = self.socket.get_ref().send(&Call { seq, req: Request::ExecKill { session } });
        }
    }
}
