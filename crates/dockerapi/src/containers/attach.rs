//! Streams between clients and containers, over a connection that was hijacked, or in the bodies of a request and its answer: raw
//! with a terminal, else in frames of a stream number, a length and bytes.

use std::sync::Arc;

use bytes::{BufMut, Bytes, BytesMut};
use engine::Choice;
use engine::runtime::{Input, Output, Session};
use http::{HeaderValue, Request, Response, StatusCode, header};
use http_body_util::BodyExt;
use hyper::body::Incoming;
use hyper::upgrade::OnUpgrade;
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, DuplexStream};
use tokio::sync::{Mutex, mpsc, oneshot};

use crate::containers::keys::Detach;
use crate::face::{Carrier, Waiter};
use crate::fault::{Fault, Result};
use crate::http::{Answer, CHUNKS, Call, streaming, whole};

/// A connection that is ours, or what stands for one.
pub type Wire = Box<dyn BothWays>;

/// What is read and written.
pub trait BothWays: AsyncRead + AsyncWrite + Send + Unpin {}
impl<T: AsyncRead + AsyncWrite + Send + Unpin> BothWays for T {}

/// A wire that comes once the answer is sent.
pub enum Promised {
    /// The connection itself.
    Upgraded(OnUpgrade),
    /// What is written goes into the answer's body; what is read comes from the request's.
    Answered(DuplexStream),
}

impl Promised {
    /// Waits for it; none comes when the client has gone.
    pub async fn wire(self) -> Option<Wire> {
        match self {
            Promised::Upgraded(coming) => Some(Box::new(TokioIo::new(coming.await.ok()?))),
            Promised::Answered(end) => Some(Box::new(end)),
        }
    }
}

/// Output read at once.
const CHUNK: usize = 32 << 10;
/// Clients attached to a container that was not started, at most: as many as a shim takes.
const WAITING_MAX: usize = 16;
/// Streams of the raw protocol.
pub const STDOUT: u8 = 1;
/// As [`STDOUT`].
pub const STDERR: u8 = 2;

/// The type of what is streamed.
pub fn content_type(tty: bool) -> &'static str {
    if tty { "application/vnd.docker.raw-stream" } else { "application/vnd.docker.multiplexed-stream" }
}

/// One frame.
pub fn frame(stream: u8, bytes: &[u8]) -> Bytes {
    let mut frame = BytesMut::with_capacity(8 + bytes.len());
    frame.put_slice(&[stream, 0, 0, 0]);
    frame.put_u32(u32::try_from(bytes.len()).unwrap_or(u32::MAX));
    frame.put_slice(bytes);
    frame.freeze()
}

/// Agrees to give the connection away, to those who ask to have it; others are answered with a stream.
pub fn hijack(mut request: Request<Incoming>, tty: bool) -> (Answer, Promised) {
    let asked = request.headers().get(header::UPGRADE).and_then(|v| v.to_str().ok());
    if !asked.is_some_and(|v| v.eq_ignore_ascii_case("tcp")) {
        let (ours, theirs) = tokio::io::duplex(CHUNK);
        let (tx, rx) = mpsc::channel(CHUNKS);
        // Ends with the session or with the client.
        tokio::spawn(pump(theirs, request.into_body(), tx));
        return (streaming(content_type(tty), rx), Promised::Answered(ours));
    }
    let coming = hyper::upgrade::on(&mut request);
    let mut answer = Response::new(whole(""));
    *answer.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
    let headers = answer.headers_mut();
    headers.insert(header::CONNECTION, HeaderValue::from_static("Upgrade"));
    headers.insert(header::UPGRADE, HeaderValue::from_static("tcp"));
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(content_type(tty)));
    (answer, Promised::Upgraded(coming))
}

/// Carries between a wire's other end and two bodies.
async fn pump(end: DuplexStream, mut body: Incoming, tx: mpsc::Sender<Bytes>) {
    let (mut read, mut write) = tokio::io::split(end);
    let input = async {
        while let Some(Ok(piece)) = body.frame().await {
            let Ok(bytes) = piece.into_data() else { continue };
            if write.write_all(&bytes).await.is_err() {
                break;
            }
        }
        let _ = write.shutdown().await;
        std::future::pending::<()>().await;
    };
    let output = async {
        let mut buffer = BytesMut::with_capacity(CHUNK);
        while matches!(read.read_buf(&mut buffer).await, Ok(1..)) {
            if tx.send(buffer.split().freeze()).await.is_err() {
                return;
            }
            buffer.reserve(CHUNK);
        }
    };
    tokio::select! {
        () = input => {}
        () = output => {}
        () = tx.closed() => {}
    }
}

/// `POST /containers/{id}/attach`.
///
/// # Errors
/// 404, 409, and what the engine refuses.
pub async fn attach(call: Call, id: &str) -> Result<Answer> {
    let container = call.face.container(id)?;
    let record = container.record();
    if record.state.phase == crate::containers::record::Phase::Paused {
        return Err(Fault::conflict(format!("container {id} is paused, unpause the container before attach")));
    }
    let flag = |name: &str| call.query.flag(name);
    let keys = Detach::parse(call.query.get("detachKeys"))?;
    let choice =
        Choice { stdin: flag("stdin") && record.config.open_stdin, stdout: flag("stdout"), stderr: flag("stderr") };
    let (logs, stream, tty) = (flag("logs"), flag("stream"), record.config.tty);
    let face = call.face;
    let past = match logs {
        true => Some(crate::containers::logs::past(&face, &record, choice).await?),
        false => None,
    };
    let session = match (stream, record.state.phase.is_live()) {
        (false, _) => None,
        (true, true) => {
            let session = face.engine.attach_patiently(&record.id, choice).await?;
            Some(Coming::Now(session, Carrier::of(&container)))
        }
        (true, false) => {
            let (tx, rx) = oneshot::channel();
            let mut waiting = container.waiting.lock();
            waiting.retain(|w| !w.tx.is_closed());
            if waiting.len() >= WAITING_MAX {
                return Err(Fault::conflict(format!(
                    "{WAITING_MAX} clients wait for the start of container {id} already"
                )));
            }
            waiting.push(Waiter { choice, tx });
            Some(Coming::AtStart(rx))
        }
    };
    let (answer, coming) = hijack(call.request, tty);
    face.tell(&record, "attach", &[]);
    // Ends with the container's streams, or when the client is gone.
    tokio::spawn(async move {
        let Some(mut wire) = coming.wire().await else { return };
        for bytes in past.into_iter().flatten() {
            if wire.write_all(&bytes).await.is_err() {
                return;
            }
        }
        let (session, counted) = match session {
            None => return drop(wire.shutdown().await),
            Some(Coming::Now(session, counted)) => (session, counted),
            Some(Coming::AtStart(rx)) => match rx.await {
                Ok(both) => both,
                // It was not started, or is gone.
                Err(_) => return drop(wire.shutdown().await),
            },
        };
        carry(wire, session, tty, keys.filter(|_| tty), std::future::ready(())).await;
        drop(counted);
    });
    Ok(answer)
}

enum Coming {
    Now(Session, Carrier),
    AtStart(oneshot::Receiver<(Session, Carrier)>),
}

/// Carries bytes both ways until the output ends, the client is gone, or it types the keys to leave. The client is told of the
/// end of the output after `last` only.
pub async fn carry(wire: Wire, session: Session, tty: bool, keys: Option<Detach>, last: impl Future<Output = ()>) {
    let Session { stdin, stdout, stderr, exit, resize } = session;
    // Kept, because a terminal's size can be set as long as it lives.
    let _resize = resize;
    let (read, write) = tokio::io::split(wire);
    let write = Arc::new(Mutex::new(write));
    let (left, mut leaving) = mpsc::channel::<()>(1);
    let input = tokio::spawn(send_input(read, stdin, keys, left));
    let output = async {
        if stdout.is_none() && stderr.is_none() {
            drop(exit.await);
            return;
        }
        let one = send_output(stdout, if tty { None } else { Some(STDOUT) }, write.clone());
        let two = send_output(stderr, Some(STDERR), write.clone());
        tokio::join!(one, two);
        last.await;
    };
    tokio::select! {
        () = output => {}
        // The channel closes with the input, which is not the end: only a word is.
        Some(()) = leaving.recv() => {}
    }
    drop(write.lock().await.shutdown().await);
    input.abort();
}

async fn send_input(
    mut read: tokio::io::ReadHalf<Wire>,
    stdin: Option<Input>,
    keys: Option<Detach>,
    left: mpsc::Sender<()>,
) {
    let Some(mut stdin) = stdin else {
        // Kept as long as the session: what it stands for is still wanted.
        return std::future::pending().await;
    };
    let (mut buffer, mut keys) = (vec![0; CHUNK], keys);
    loop {
        let n = match read.read(&mut buffer).await {
            Ok(0) | Err(_) => break,
            Ok(n) => n,
        };
        let (bytes, leave) = match &mut keys {
            Some(keys) => keys.pass(&buffer[..n]),
            None => (Bytes::copy_from_slice(&buffer[..n]), false),
        };
        if stdin.write_all(&bytes).await.is_err() {
            break;
        }
        if leave {
            let _ = left.send(()).await;
            break;
        }
    }
    drop(stdin.shutdown().await);
    // The sender must not close before the session ends.
    drop(stdin);
    let _left = left;
    std::future::pending::<()>().await;
}

async fn send_output(from: Option<Output>, stream: Option<u8>, to: Arc<Mutex<tokio::io::WriteHalf<Wire>>>) {
    let Some(mut from) = from else { return };
    let mut buffer = vec![0; CHUNK];
    loop {
        let n = match from.read(&mut buffer).await {
            Ok(0) | Err(_) => return,
            Ok(n) => n,
        };
        let bytes = &buffer[..n];
        // One writer at a time, so that frames stay whole.
        let mut to = to.lock().await;
        let sent = match stream {
            Some(stream) => to.write_all(&frame(stream, bytes)).await,
            None => to.write_all(bytes).await,
        };
        if sent.is_err() || to.flush().await.is_err() {
            return;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_frame_says_its_stream_and_length() {
        assert_eq!(&frame(STDERR, b"abc")[..], b"\x02\0\0\0\0\0\0\x03abc");
    }
}
