//! `containers/{id}/logs`: what the shim wrote down (`<RFC3339Nano> stdout|stderr F|P <text>`), as Docker shows it.

use std::collections::VecDeque;
use std::fs::File;
use std::io::{self, BufRead, BufReader, Read, Seek, SeekFrom};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use bytes::{BufMut, Bytes, BytesMut};
use engine::Choice;
use http::StatusCode;
use jiff::Timestamp;
use tokio::sync::mpsc;

use crate::containers::attach::{STDERR, STDOUT, content_type, frame};
use crate::containers::record::{Phase, Record};
use crate::containers::watches::Watch;
use crate::face::{Container, Face};
use crate::fault::{Fault, Result, blocking};
use crate::http::{Answer, CHUNKS, Call, streaming};
use crate::logging::Driver;
use crate::query::time;

/// An entry is never longer: the shim cuts lines at 16 KiB.
pub const ENTRY_MAX: u64 = 64 << 10;
/// Sent at once, about.
const PIECE: usize = 64 << 10;
/// Rotated files looked at.
const FILES_MAX: usize = 1000;

/// What is wanted of a log.
#[derive(Debug, Clone, Default)]
struct Options {
    choice: Choice,
    tty: bool,
    follow: bool,
    timestamps: bool,
    /// Said before each line: labels and variables that the log options name.
    details: Option<String>,
    since: Option<Timestamp>,
    until: Option<Timestamp>,
    tail: Option<usize>,
}

/// `GET /containers/{id}/logs`.
///
/// # Errors
/// 404, 400 for options that are none, 501 for a container without a log.
pub async fn respond(call: Call, id: &str) -> Result<Answer> {
    let container = call.face.shown(id)?;
    let record = container.record();
    let query = &call.query;
    let choice = Choice { stdin: false, stdout: query.flag("stdout"), stderr: query.flag("stderr") };
    if !choice.stdout && !choice.stderr {
        return Err(Fault::bad("Bad parameters: you must choose at least one stream"));
    }
    if !matches!(
        crate::logging::driver(&record.host.log_config),
        Ok(Driver::Kept(_) | Driver::Sent { shown: true, .. })
    ) {
        return Err(Fault::new(StatusCode::NOT_IMPLEMENTED, "configured logging driver does not support reading"));
    }
    let moment = |name: &str| query.get(name).filter(|t| *t != "0").map(time).transpose();
    let options = Options {
        choice,
        tty: record.config.tty,
        follow: query.flag("follow"),
        timestamps: query.flag("timestamps"),
        details: query.flag("details").then(|| details(&record)),
        since: moment("since")?,
        until: moment("until")?,
        // What is no number counts as all, as with Docker.
        tail: query.get("tail").and_then(|t| t.parse().ok()),
    };
    let (tx, rx) = mpsc::channel(CHUNKS);
    let kind = content_type(record.config.tty);
    let (face, path) = (call.face.clone(), call.face.log(&container));
    let folder = path.parent().map(Path::to_path_buf).unwrap_or_default();
    // There before the first run too, so that it can be watched.
    std::fs::create_dir_all(&folder).map_err(|e| Fault::io("open the log", &e))?;
    let watch = if options.follow {
        Some(face.watches.folder(&folder).map_err(|e| Fault::io("watch the log", &e))?)
    } else {
        None
    };
    let drain = face.drain();
    // Ends with the log, the client or the agent.
    tokio::spawn(async move {
        tokio::select! {
            result = send(&container, &path, options, watch, &tx) => {
                if let Err(fault) = result {
                    tracing::warn!(container = container.id, error = %fault, "a log is not sent to its end");
                }
            }
            () = crate::containers::pods::follow(&face, &container) => {}
            () = tx.closed() => {}
            () = drain.cancelled() => {}
        }
    });
    Ok(streaming(kind, rx))
}

/// The whole log until now.
///
/// # Errors
/// When it cannot be read.
pub async fn past(face: &Arc<Face>, record: &Record, choice: Choice) -> Result<Vec<Bytes>> {
    let options = Options { choice, tty: record.config.tty, ..Options::default() };
    let path = face.records.log(&record.id);
    let step = blocking(move || Log::new(path, options).step().map_err(|e| Fault::io("read the log", &e))).await?;
    Ok(step.1)
}

async fn send(
    container: &Container,
    path: &Path,
    options: Options,
    watch: Option<Watch>,
    tx: &mpsc::Sender<Bytes>,
) -> Result<()> {
    let mut log = Log::new(path.to_owned(), options);
    let mut watch = watch;
    let mut seen = container.seen.subscribe();
    loop {
        // Before the look at the log: what it wrote until then is in it.
        let over = {
            let seen = seen.borrow_and_update();
            seen.removed || !(seen.phase.is_live() || seen.phase == Phase::Restarting)
        };
        let (back, pieces) = blocking(move || log.step().map_err(|e| Fault::io("read the log", &e))).await?;
        log = back;
        for piece in pieces {
            if tx.send(piece).await.is_err() {
                return Ok(());
            }
        }
        let Some(watch) = watch.as_mut().filter(|_| !log.past_until) else { return Ok(()) };
        if log.more {
            continue;
        }
        if over {
            return Ok(());
        }
        tokio::select! {
            changed = watch.changed() => changed.map_err(|e| Fault::io("watch the log", &e))?,
            _ = seen.changed() => {}
        }
    }
}

/// A log being read.
struct Log {
    path: PathBuf,
    options: Options,
    /// The file it is at, and which one it is.
    at: Option<(BufReader<File>, (u64, u64))>,
    /// Within a line, by stream.
    within: [bool; 2],
    /// There is more to read at once.
    more: bool,
    /// What comes is too late to be wanted.
    past_until: bool,
    begun: bool,
}

impl Log {
    fn new(path: PathBuf, options: Options) -> Self {
        Log { path, options, at: None, within: [false; 2], more: false, past_until: false, begun: false }
    }

    /// Reads on: what there is, or about as much as is sent at once. Blocks.
    fn step(mut self) -> io::Result<(Self, Vec<Bytes>)> {
        let mut out = Pieces::default();
        if !std::mem::replace(&mut self.begun, true)
            && let Some(lines) = self.options.tail
        {
            self.last(lines, &mut out)?;
        }
        // Without a follower everything is read in one step.
        let enough = |out: &Pieces, o: &Options| o.follow && out.size >= PIECE * 4;
        loop {
            if self.at.is_none() && !self.open_next(None)? {
                break;
            }
            let mut line = Vec::new();
            if let Some((reader, _)) = &mut self.at {
                reader.by_ref().take(ENTRY_MAX).read_until(b'\n', &mut line)?;
            }
            if line.last() == Some(&b'\n') {
                self.entry(&line[..line.len() - 1], &mut out);
                self.more = enough(&out, &self.options);
                if self.more || self.past_until {
                    break;
                }
                continue;
            }
            // The end of this file, perhaps within an entry that is being written.
            if let Some((reader, _)) = &mut self.at {
                reader.seek_relative(-i64::try_from(line.len()).unwrap_or(0))?;
            }
            self.more = false;
            let done = self.at.as_ref().map(|(_, id)| *id);
            if !self.open_next(done)? {
                break;
            }
        }
        Ok((self, out.finish()))
    }

    /// Goes to the file after `done`; false when there is none.
    fn open_next(&mut self, done: Option<(u64, u64)>) -> io::Result<bool> {
        let files = files(&self.path)?;
        let next = match done {
            None => files.into_iter().next(),
            Some(done) => match files.iter().position(|(_, id)| *id == done) {
                Some(at) => files.into_iter().nth(at + 1),
                // Deleted meanwhile: only newer ones are left.
                None => files.into_iter().next(),
            },
        };
        match next {
            Some((file, id)) => {
                self.at = Some((BufReader::with_capacity(PIECE, file), id));
                Ok(true)
            }
            None => Ok(false),
        }
    }

    /// The last lines of what there is, and from there on.
    fn last(&mut self, lines: usize, out: &mut Pieces) -> io::Result<()> {
        let mut kept: VecDeque<Vec<Vec<u8>>> = VecDeque::new();
        let mut within = [false; 2];
        for (file, id) in files(&self.path)? {
            let mut reader = BufReader::with_capacity(PIECE, file);
            loop {
                let mut line = Vec::new();
                reader.by_ref().take(ENTRY_MAX).read_until(b'\n', &mut line)?;
                if line.pop() != Some(b'\n') {
                    break;
                }
                let Some(head) = head(&line).filter(|h| wants(self.options.choice, h.stderr)) else { continue };
                let first = !std::mem::replace(&mut within[usize::from(head.stderr)], !head.full);
                match kept.back_mut().filter(|_| !first) {
                    Some(entries) => entries.push(line),
                    None => kept.push_back(vec![line]),
                }
                if kept.len() > lines {
                    kept.pop_front();
                }
            }
            let end = reader.stream_position()?;
            self.at = Some((reader, id));
            // An entry that is being written is read again, whole.
            let _ = end;
        }
        if let Some((reader, _)) = &mut self.at {
            rewind_to_line(reader)?;
        }
        for entry in kept.iter().flatten() {
            self.entry(entry, out);
        }
        Ok(())
    }

    fn entry(&mut self, line: &[u8], out: &mut Pieces) {
        let Some(head) = head(line).filter(|h| wants(self.options.choice, h.stderr)) else { return };
        if self.options.since.is_some() || self.options.until.is_some() {
            let at = head.time.parse::<Timestamp>().ok();
            if self.options.until.zip(at).is_some_and(|(until, at)| at > until) {
                self.past_until = true;
                return;
            }
            if self.options.since.zip(at).is_some_and(|(since, at)| at < since) {
                return;
            }
        }
        let first = !std::mem::replace(&mut self.within[usize::from(head.stderr)], !head.full);
        let mut text = BytesMut::with_capacity(line.len() + 1);
        if first && self.options.timestamps {
            text.put_slice(head.time.as_bytes());
            text.put_u8(b' ');
        }
        if first && let Some(details) = &self.options.details {
            text.put_slice(details.as_bytes());
            text.put_u8(b' ');
        }
        text.put_slice(&line[head.text..]);
        if head.full {
            text.put_u8(b'\n');
        }
        let stream = if head.stderr { STDERR } else { STDOUT };
        out.add(if self.options.tty { text.freeze() } else { frame(stream, &text) });
    }
}

/// Back to the beginning of an entry whose end was not there.
fn rewind_to_line(reader: &mut BufReader<File>) -> io::Result<()> {
    let end = reader.stream_position()?;
    let start = end.saturating_sub(ENTRY_MAX);
    reader.seek(SeekFrom::Start(start))?;
    let mut tail = Vec::new();
    reader.by_ref().take(end - start).read_to_end(&mut tail)?;
    let line = tail.iter().rposition(|b| *b == b'\n').map_or(0, |at| at + 1);
    reader.seek(SeekFrom::Start(start + line as u64))?;
    Ok(())
}

/// `key=value` in alphabetical order, as Docker writes them.
fn details(record: &Record) -> String {
    let escaped = |text: &str| url::form_urlencoded::byte_serialize(text.as_bytes()).collect::<String>();
    let all = crate::logging::attributes(record).into_iter().map(|(k, v)| format!("{}={}", escaped(&k), escaped(&v)));
    all.collect::<Vec<_>>().join(",")
}

fn wants(choice: Choice, stderr: bool) -> bool {
    if stderr { choice.stderr } else { choice.stdout }
}

#[derive(Default)]
struct Pieces {
    done: Vec<Bytes>,
    open: BytesMut,
    size: usize,
}

impl Pieces {
    fn add(&mut self, bytes: Bytes) {
        self.size += bytes.len();
        self.open.put(bytes);
        if self.open.len() >= PIECE {
            self.done.push(self.open.split().freeze());
        }
    }

    fn finish(mut self) -> Vec<Bytes> {
        if !self.open.is_empty() {
            self.done.push(self.open.freeze());
        }
        self.done
    }
}

/// What stands before the text of an entry.
pub struct Head<'a> {
    /// When it was written.
    pub time: &'a str,
    /// To which stream.
    pub stderr: bool,
    /// The line ends with it.
    pub full: bool,
    /// Where its text begins.
    pub text: usize,
}

/// Reads the head of an entry.
pub fn head(line: &[u8]) -> Option<Head<'_>> {
    let mut at = 0;
    let mut word = || {
        let end = line[at..].iter().take(64).position(|&b| b == b' ')?;
        let word = std::str::from_utf8(&line[at..at + end]).ok();
        at += end + 1;
        word
    };
    let (time, stream, tag) = (word()?, word()?, word()?);
    Some(Head { time, stderr: stream == "stderr", full: tag.starts_with('F'), text: at })
}

/// A file of a log, and which one it is.
pub type Opened = (File, (u64, u64));

/// The files of a log, oldest first: those rotated away have their time behind the name.
///
/// # Errors
/// When one cannot be opened.
pub fn files(path: &Path) -> io::Result<Vec<Opened>> {
    let name = path.file_name().and_then(|n| n.to_str()).unwrap_or_default();
    let entries = path.parent().map(std::fs::read_dir).transpose().unwrap_or_default().into_iter().flatten().flatten();
    let rotated =
        |p: &PathBuf| p.file_name().and_then(|n| n.to_str()?.strip_prefix(name)).is_some_and(|r| r.starts_with('.'));
    // The current one first: rotated meanwhile it is found again among the others, never missed.
    let newest = open(path)?;
    let mut paths: Vec<PathBuf> = entries.map(|e| e.path()).filter(rotated).take(FILES_MAX).collect();
    paths.sort();
    let mut found = Vec::new();
    for path in paths {
        found.extend(open(&path)?);
    }
    if let Some(newest) = newest {
        found.retain(|(_, id)| *id != newest.1);
        found.push(newest);
    }
    Ok(found)
}

fn open(path: &Path) -> io::Result<Option<Opened>> {
    match File::open(path) {
        Ok(file) => {
            let meta = file.metadata()?;
            Ok(Some((file, (meta.dev(), meta.ino()))))
        }
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(e) => Err(e),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LOG: &str = "2024-01-01T00:00:01.000000000Z stdout F one\n\
        2024-01-01T00:00:02.000000000Z stderr F bad\n\
        2024-01-01T00:00:03.000000000Z stdout P tw\n\
        2024-01-01T00:00:03.000000000Z stdout F o\n\
        2024-01-01T00:00:04.000000000Z stdout F three\n";

    fn read(change: impl FnOnce(&mut Options)) -> String {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("c.log");
        std::fs::write(dir.path().join("c.log.20240101-000000.0"), "2024-01-01T00:00:00.000000000Z stdout F zero\n")
            .unwrap();
        std::fs::write(&path, LOG.to_owned() + "2024-01-01T00:00:05.000000000Z stdout F half").unwrap();
        let choice = Choice { stdin: false, stdout: true, stderr: true };
        let mut options = Options { choice, tty: true, ..Options::default() };
        change(&mut options);
        let (_, pieces) = Log::new(path, options).step().unwrap();
        String::from_utf8(pieces.concat()).unwrap()
    }

    #[test]
    fn a_log_is_shown_whole_by_stream_by_time_and_from_its_end() {
        assert_eq!(read(|_| {}), "zero\none\nbad\ntwo\nthree\n");
        assert_eq!(read(|o| o.choice.stdout = false), "bad\n");
        assert_eq!(read(|o| o.tail = Some(2)), "two\nthree\n");
        assert_eq!(read(|o| o.tail = Some(0)), "");
        let at = |s: &str| s.parse::<Timestamp>().ok();
        assert_eq!(read(|o| o.since = at("2024-01-01T00:00:03Z")), "two\nthree\n");
        assert_eq!(read(|o| o.until = at("2024-01-01T00:00:02Z")), "zero\none\nbad\n");
        let stamped = read(|o| (o.timestamps, o.tail) = (true, Some(1)));
        assert_eq!(stamped, "2024-01-01T00:00:04.000000000Z three\n");
    }
}
