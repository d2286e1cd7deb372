//! `POST /build`: a context comes in, the builder works, its progress goes out. The client going away ends it.

use std::collections::BTreeMap;
use std::io::{self, Read};
use std::sync::Arc;
use std::sync::mpsc::sync_channel;
use std::time::Duration;

use bytes::Bytes;
use engine::Builder;
use engine::build::{self, BuildError, Context, Environment};
use http::StatusCode;
use image::ImageError;
use parking_lot::Mutex;
use serde_json::json;
use tokio::runtime::Handle;
use tokio::sync::{Semaphore, mpsc, watch};

use super::asked::Asked;
use super::lines::{Lines, failure};
use crate::face::Face;
use crate::fault::{Fault, Result, blocking};
use crate::http::{Answer, CHUNKS, Call, streaming};
use crate::images::familiar;

/// Builds at once; further ones wait with their context unread.
const BUILDS_MAX: usize = 8;
/// Messages that a client may be behind before the build waits for it.
const AHEAD: usize = 256;
/// How long a client may go on sending what is not looked at any more, so that it hears the answer.
const REST_LIMIT: Duration = Duration::from_secs(10);

/// What builds share.
pub struct Builds {
    /// Builds that may go on at once.
    pub slots: Arc<Semaphore>,
    builder: Mutex<Option<Arc<Builder>>>,
}

impl Default for Builds {
    fn default() -> Self {
        Builds { slots: Arc::new(Semaphore::new(BUILDS_MAX)), builder: Mutex::default() }
    }
}

impl Builds {
    /// Runs the commands; made when first needed. Blocks.
    ///
    /// # Errors
    /// When its folders cannot be made.
    pub fn builder(&self, face: &Face) -> Result<Arc<Builder>> {
        let mut made = self.builder.lock();
        if let Some(builder) = &*made {
            return Ok(builder.clone());
        }
        let builder = Arc::new(Builder::open(face.engine.instance(), Handle::current())?);
        *made = Some(builder.clone());
        Ok(builder)
    }
}

/// Lets a client send what nobody looks at, for a while: one that is still sending may never look at its answer.
pub async fn let_finish(call: Call) {
    let mut rx = call.chunks();
    let rest = async { while let Some(Ok(_)) = rx.recv().await {} };
    let _ = tokio::time::timeout(REST_LIMIT, rest).await;
}

/// An archive on its way in. Dropped early, it lets its client finish.
pub struct Incoming {
    rx: mpsc::Receiver<io::Result<Bytes>>,
    rest: Bytes,
    runtime: Handle,
    ended: bool,
}

impl Incoming {
    /// The body of a request.
    pub fn of(call: Call) -> Self {
        Incoming { rx: call.chunks(), rest: Bytes::new(), runtime: Handle::current(), ended: false }
    }
}

impl Read for Incoming {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        while self.rest.is_empty() {
            match self.rx.blocking_recv() {
                Some(Ok(chunk)) => self.rest = chunk,
                Some(Err(error)) => {
                    self.ended = true;
                    return Err(error);
                }
                None => {
                    self.ended = true;
                    return Ok(0);
                }
            }
        }
        let n = buf.len().min(self.rest.len());
        buf[..n].copy_from_slice(&self.rest.split_to(n));
        Ok(n)
    }
}

impl Drop for Incoming {
    fn drop(&mut self) {
        if self.ended {
            return;
        }
        let rest = async { while let Some(Ok(_)) = self.rx.recv().await {} };
        let _ = self.runtime.clone().block_on(async { tokio::time::timeout(REST_LIMIT, rest).await });
    }
}

/// `POST /build`.
///
/// # Errors
/// 400 for what is asked and not obeyed, and for what is wrong before the first step; what comes later is in the stream.
pub async fn build(call: Call) -> Result<Answer> {
    if call.query.get("version") == Some("2") {
        return crate::buildkit::plain::build(call).await;
    }
    let asked = match Asked::read(&call.query, call.header("x-registry-config")) {
        Ok(asked) => asked,
        Err(fault) => {
            let_finish(call).await;
            return Err(fault);
        }
    };
    let face = call.face.clone();
    let slot = face.builds.slots.clone().acquire_owned().await.map_err(|e| Fault::broken(e.to_string()))?;
    let context = match &asked.remote {
        Some(url) if build::is_git(url) => Context::Git(url.clone()),
        Some(url) if url.starts_with("http://") || url.starts_with("https://") => Context::Url(url.clone()),
        Some(other) => return Err(Fault::bad(format!("remote {other:?} is neither a URL nor a git repository"))),
        None => Context::Tar(Box::new(Incoming::of(call))),
    };
    let (tx, mut rx) = mpsc::channel::<Bytes>(CHUNKS);
    let (stop, cancel) = watch::channel(false);
    let (lines, queue) = sync_channel::<Bytes>(AHEAD);
    // The builder's threads may wait, but not as a task does: between them and the body stands a thread.
    let out = tx.clone();
    let passing = tokio::task::spawn_blocking(move || {
        for bytes in queue {
            if out.blocking_send(bytes).is_err() {
                return;
            }
        }
    });
    let of = face.clone();
    let building = blocking(move || {
        let lines = Lines::new(lines, asked.quiet);
        work(&of, context, &asked, &lines, cancel)
    });
    let (drain, names) = (face.drain(), "build of an image");
    let (outcome_tx, outcome) = tokio::sync::oneshot::channel();
    face.tasks.spawn(names, async move {
        let _slot = slot;
        let gone = async {
            tokio::select! {
                () = tx.closed() => {}
                () = drain.cancelled() => {}
            }
            stop.send_replace(true);
            // The sender stays: the builder looks at it until it has ended.
            std::future::pending::<()>().await
        };
        let result = tokio::select! {
            result = building => result,
            () = gone => Ok(()),
        };
        let _ = passing.await;
        let _ = outcome_tx.send(result);
    });
    // Where nothing was said before it failed, the status says so.
    match rx.recv().await {
        Some(first) => Ok(streaming("application/json", prefixed(first, rx))),
        None => match outcome.await {
            Ok(Err(fault)) => Err(fault),
            _ => Err(Fault::broken("the build was cut short")),
        },
    }
}

/// What was received already, then the rest.
fn prefixed(first: Bytes, mut rest: mpsc::Receiver<Bytes>) -> mpsc::Receiver<Bytes> {
    let (tx, rx) = mpsc::channel(CHUNKS);
    tokio::spawn(async move {
        if tx.send(first).await.is_err() {
            return;
        }
        loop {
            let next = tokio::select! {
                next = rest.recv() => next,
                () = tx.closed() => return,
            };
            let Some(bytes) = next else { return };
            if tx.send(bytes).await.is_err() {
                return;
            }
        }
    });
    rx
}

/// Builds, and says how it went. Blocks.
///
/// # Errors
/// What went wrong before anything was said.
fn work(face: &Arc<Face>, context: Context, asked: &Asked, lines: &Lines, cancel: watch::Receiver<bool>) -> Result<()> {
    let builder = face.builds.builder(face)?;
    let env = Environment {
        store: face.engine.images().clone(),
        dir: face.engine.instance().data_dir().join("build"),
        runner: &*builder,
        runtime: Handle::current(),
        progress: lines,
        client: &(),
        cancel: cancel.clone(),
    };
    let error = match build::build(context, &asked.options, &env) {
        Ok(built) => {
            if let Some(image) = built.image {
                done(face, asked, lines, &image.id);
            }
            return Ok(());
        }
        Err(error) => error,
    };
    if *cancel.borrow() {
        return Ok(());
    }
    if !lines.said() {
        return Err(fault(&error));
    }
    lines.confess();
    if let Some(place) = &error.place {
        lines.send(&json!({ "stream": place.render() }));
    }
    let (code, message) = failure(&error);
    lines.send(&json!({ "errorDetail": { "code": code, "message": message }, "error": message }));
    Ok(())
}

fn done(face: &Face, asked: &Asked, lines: &Lines, id: &image::Digest) {
    let names: Vec<String> = asked.options.names.iter().map(|n| familiar(n)).collect();
    for warning in &asked.warnings {
        lines.say(&format!("[Warning] {warning}\n"));
    }
    lines.send(&json!({ "aux": { "ID": id.to_string() } }));
    if asked.quiet {
        lines.send(&json!({ "stream": format!("{id}\n") }));
    }
    lines.say(&format!("Successfully built {}\n", &id.hex()[..12]));
    for name in &names {
        lines.say(&format!("Successfully tagged {name}\n"));
    }
    announce(face, id, names);
}

/// Tells who listens to events of an image that was built.
pub fn announce(face: &Face, id: &image::Digest, names: Vec<String>) {
    let text = id.to_string();
    face.events.tell("image", "build", &text, BTreeMap::new());
    for name in names {
        face.events.tell("image", "tag", &text, BTreeMap::from([("name".to_owned(), name)]));
    }
}

/// What fails before the first step is the Dockerfile's or the context's fault, unless the host's.
fn fault(error: &BuildError) -> Fault {
    let status = match error.cause.as_deref() {
        Some(ImageError::Io { .. } | ImageError::NoSpace(_) | ImageError::Aborted(_)) => {
            StatusCode::INTERNAL_SERVER_ERROR
        }
        _ => StatusCode::BAD_REQUEST,
    };
    Fault::new(status, error.message.clone())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_context_that_breaks_off_is_an_error_and_no_end() {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let (tx, rx) = mpsc::channel(4);
        let mut incoming = Incoming { rx, rest: Bytes::new(), runtime: runtime.handle().clone(), ended: false };
        tx.try_send(Ok(Bytes::from_static(b"half"))).unwrap();
        tx.try_send(Err(io::Error::other("gone"))).unwrap();
        let mut read = Vec::new();
        assert!(incoming.read_to_end(&mut read).is_err());
        assert_eq!((read.as_slice(), incoming.ended), (&b"half"[..], true));
    }
}
