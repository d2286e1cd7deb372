//! `/containerLogs`: the log of a container, whole or its end, and on request as it grows.

mod cri;
mod files;
pub(super) mod watch;

#[cfg(test)]
mod tests;

use std::io::{self, Read, Seek, SeekFrom};
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use bytes::{Bytes, BytesMut};
use engine::runtime::{ContainerState, ContainerStatus, RuntimeEvent};
use http::{HeaderValue, Response, StatusCode, header};
use http_body_util::{BodyExt, StreamBody};
use hyper::body::Frame;
use jiff::{SignedDuration, Timestamp};
use tokio::sync::{broadcast, mpsc};
use tokio_util::sync::CancellationToken;

use self::cri::{Formatter, Which};
use self::files::LogFile;
use self::watch::DirWatch;
use super::Shared;
use super::query::Query;
use super::refusal::{Body, Refusal};
use crate::runtime::Runtime;

const CHUNK: usize = 64 << 10;
/// Chunks ahead of the client.
const AHEAD: usize = 4;

/// What is wanted of a log.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Options {
    /// Go on until the container has ended.
    pub follow: bool,
    /// The log of the run before.
    pub previous: bool,
    /// Only the last lines.
    pub tail: Option<u64>,
    /// Only what is not older.
    pub since: Option<Timestamp>,
    /// Begin lines with their time.
    pub timestamps: bool,
    /// Bytes at most.
    pub limit: Option<u64>,
    /// Only of one stream.
    pub which: Which,
}

impl Options {
    /// From a query; `now` is what `sinceSeconds` counts from.
    ///
    /// # Errors
    /// A value is not what it must be.
    pub fn parse(query: &Query, now: Timestamp) -> Result<Self, Refusal> {
        let flag = |name: &str| match query.get(name) {
            None => Ok(false),
            Some(text) => match text {
                "1" | "true" | "True" | "TRUE" | "t" => Ok(true),
                "0" | "false" | "False" | "FALSE" | "f" => Ok(false),
                other => Err(Refusal::bad(format!("{name}: {other:?} is neither true nor false"))),
            },
        };
        let number = |name: &str, least: u64| match query.get(name) {
            None => Ok(None),
            Some(text) => match text.parse::<u64>() {
                Ok(number) if number >= least => Ok(Some(number)),
                _ => Err(invalid(format!("{name}: Invalid value: {text:?}: must be a number of at least {least}"))),
            },
        };
        let time = |text: &str| {
            text.parse::<Timestamp>().map_err(|_| invalid(format!("sinceTime: Invalid value: {text:?}: not RFC 3339")))
        };
        let seconds = number("sinceSeconds", 1)?;
        let since = match (seconds, query.get("sinceTime")) {
            (Some(_), Some(_)) => return Err(invalid("at most one of `sinceTime` or `sinceSeconds` may be specified")),
            (Some(seconds), None) => {
                let back = SignedDuration::from_secs(i64::try_from(seconds).unwrap_or(i64::MAX));
                // Before the beginning of time: everything.
                now.checked_sub(back).ok()
            }
            (None, Some(text)) => Some(time(text)?),
            (None, None) => None,
        };
        let which = match query.get("stream") {
            None | Some("All") => Which::All,
            Some("Stdout") => Which::Stdout,
            Some("Stderr") => Which::Stderr,
            Some(other) => {
                return Err(invalid(format!(
                    "stream: Unsupported value: {other:?}: supported values: \"All\", \"Stderr\", \"Stdout\""
                )));
            }
        };
        Ok(Options {
            follow: flag("follow")?,
            previous: flag("previous")?,
            tail: number("tailLines", 0)?,
            since,
            timestamps: flag("timestamps")?,
            limit: number("limitBytes", 1)?,
            which,
        })
    }
}

fn invalid(message: impl Into<String>) -> Refusal {
    Refusal::new(StatusCode::UNPROCESSABLE_ENTITY, message)
}

/// The answer with a container's log.
///
/// # Errors
/// The log cannot be opened, or not be watched.
pub async fn respond(
    shared: &Arc<Shared>,
    container: ContainerStatus,
    options: Options,
) -> Result<Response<Body>, Refusal> {
    let failed = |error: io::Error| Refusal::fault(format!("failed to read the log: {error}"));
    let path = container.spec.log_path.clone();
    let life = match options.follow && !matches!(container.state, ContainerState::Exited(_)) {
        // Both before the first look, so that no change is missed.
        true => {
            let dir = path.parent().unwrap_or(Path::new("/"));
            let watch = DirWatch::new(dir).map_err(failed)?;
            Some(Life::new(shared.runtime.clone(), container, watch, shared.end.clone()))
        }
        false => None,
    };
    let formatter = Formatter::new(options.which, options.since, options.timestamps, options.limit);
    let (tail, which) = (options.tail, options.which);
    let begin = path.clone();
    let files = blocking(move || start(&begin, tail, which)).await.map_err(failed)?;
    let (tx, mut rx) = mpsc::channel(AHEAD);
    let stream = Reading { path, formatter, tx, read: None, to_the_end: options.follow };
    shared.tasks.spawn(stream.run(files, life));
    let body = StreamBody::new(futures::stream::poll_fn(move |cx| rx.poll_recv(cx)));
    let mut response = Response::new(body.boxed_unsync());
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("text/plain; charset=utf-8"));
    Ok(response)
}

/// The files to read, the first one at the place to begin.
fn start(path: &Path, tail: Option<u64>, which: Which) -> io::Result<Vec<LogFile>> {
    let mut files = files::all(path)?;
    if let Some(lines) = tail {
        let (index, offset) = files::tail(&files, lines, which)?;
        files.drain(..index);
        if let Some(first) = files.first_mut() {
            first.file.seek(SeekFrom::Start(offset))?;
        }
    }
    Ok(files)
}

async fn blocking<T: Send + 'static>(work: impl FnOnce() -> io::Result<T> + Send + 'static) -> io::Result<T> {
    tokio::task::spawn_blocking(work).await.map_err(io::Error::other)?
}

/// Whether the container still writes.
struct Life {
    runtime: Arc<dyn Runtime>,
    events: broadcast::Receiver<RuntimeEvent>,
    container: ContainerStatus,
    watch: DirWatch,
    end: CancellationToken,
    /// Not to be asked again: the first look, or an event, says that something may have changed.
    unsure: bool,
    over: bool,
}

impl Life {
    fn new(runtime: Arc<dyn Runtime>, container: ContainerStatus, watch: DirWatch, end: CancellationToken) -> Self {
        let events = runtime.events();
        Life { runtime, events, container, watch, end, unsure: true, over: false }
    }

    /// True when the container writes no more; whatever it wrote is in the file then.
    async fn over(&mut self) -> bool {
        if std::mem::take(&mut self.unsure) {
            let spec = &self.container.spec;
            let all = self.runtime.containers(Some(&spec.sandbox_id)).await;
            let now = all.iter().find(|c| c.spec.id == spec.id);
            self.over = now.is_none_or(|c| matches!(c.state, ContainerState::Exited(_)));
        }
        self.over
    }

    /// Waits for the log to grow or the container to change; false when the server ends.
    async fn changed(&mut self) -> io::Result<bool> {
        loop {
            tokio::select! {
                changed = self.watch.changed() => return changed.map(|()| true),
                () = self.end.cancelled() => return Ok(false),
                event = self.events.recv() => match event {
                    Ok(RuntimeEvent::Container { container_id, .. }) if container_id != self.container.spec.id => {}
                    Ok(RuntimeEvent::Sandbox { sandbox_id }) if sandbox_id != self.container.spec.sandbox_id => {}
                    Ok(_) | Err(broadcast::error::RecvError::Lagged(_)) => {
                        self.unsure = true;
                        return Ok(true);
                    }
                    // The runtime is gone.
                    Err(broadcast::error::RecvError::Closed) => return Ok(false),
                },
            }
        }
    }
}

/// Reads one log for one client.
struct Reading {
    path: PathBuf,
    formatter: Formatter,
    tx: mpsc::Sender<Result<Frame<Bytes>, io::Error>>,
    /// The newest file, read as far as it went.
    read: Option<LogFile>,
    /// Whether what is written meanwhile is shown too.
    to_the_end: bool,
}

impl Reading {
    async fn run(mut self, files: Vec<LogFile>, life: Option<Life>) {
        let client = self.tx.clone();
        let result = tokio::select! {
            result = self.all(files, life) => result,
            () = client.closed() => return,
        };
        if let Err(error) = result {
            let _ = client.send(Err(error)).await;
        }
    }

    async fn all(&mut self, files: Vec<LogFile>, life: Option<Life>) -> io::Result<()> {
        if self.files(files).await?.is_break() {
            return Ok(());
        }
        match life {
            Some(life) => self.follow(life).await,
            None => Ok(()),
        }
    }

    async fn follow(&mut self, mut life: Life) -> io::Result<()> {
        loop {
            let over = life.over().await;
            if self.catch_up().await?.is_break() || over || !life.changed().await? {
                return Ok(());
            }
        }
    }

    /// Reads what is there by now, over rotations.
    async fn catch_up(&mut self) -> io::Result<ControlFlow<()>> {
        loop {
            let Some(read) = self.read.take() else {
                let path = self.path.clone();
                let files = blocking(move || files::all(&path)).await?;
                return if files.is_empty() { Ok(ControlFlow::Continue(())) } else { self.files(files).await };
            };
            let (path, identity) = (self.path.clone(), read.identity);
            // Asked first: what is in the file when it is no longer the current one is all that it ever gets.
            let replaced = blocking(move || Ok(files::current(&path) != Some(identity))).await?;
            if self.file(read).await?.is_break() {
                return Ok(ControlFlow::Break(()));
            }
            if !replaced {
                return Ok(ControlFlow::Continue(()));
            }
            let path = self.path.clone();
            let next = blocking(move || files::after(&path, identity)).await?;
            if next.is_empty() {
                return Ok(ControlFlow::Continue(()));
            }
            if self.files(next).await?.is_break() {
                return Ok(ControlFlow::Break(()));
            }
        }
    }

    async fn files(&mut self, files: Vec<LogFile>) -> io::Result<ControlFlow<()>> {
        for file in files {
            // An entry is never split over two files.
            self.formatter.end_of_file();
            if self.file(file).await?.is_break() {
                return Ok(ControlFlow::Break(()));
            }
        }
        Ok(ControlFlow::Continue(()))
    }

    /// Reads a file to its end and keeps it as the newest.
    async fn file(&mut self, mut file: LogFile) -> io::Result<ControlFlow<()>> {
        let (mut buf, bounded) = (vec![0; CHUNK], !self.to_the_end);
        loop {
            let length;
            (file, buf, length) = blocking(move || {
                let left = if bounded { file.length.saturating_sub(file.file.stream_position()?) } else { u64::MAX };
                let room = usize::try_from(left).unwrap_or(CHUNK).min(CHUNK);
                let length = file.file.read(&mut buf[..room])?;
                Ok((file, buf, length))
            })
            .await?;
            if length == 0 {
                self.read = Some(file);
                return Ok(ControlFlow::Continue(()));
            }
            let mut out = BytesMut::new();
            let flow = self.formatter.push(&buf[..length], &mut out);
            if !out.is_empty() && self.tx.send(Ok(Frame::data(out.freeze()))).await.is_err() {
                return Ok(ControlFlow::Break(()));
            }
            if flow.is_break() {
                return Ok(flow);
            }
        }
    }
}
