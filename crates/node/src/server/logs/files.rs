//! The files of a log: the current one, and beside it those rotated away (`<name>.<timestamp>`, oldest first by name).

use std::fs::{self, File};
use std::io;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::{Path, PathBuf};

use super::cri::{HEAD_MAX, Which, head};

const BLOCK: usize = 64 << 10;
/// Rotated files looked at; there are rarely more than a handful.
const FILES_MAX: usize = 1000;

/// Names a file for as long as it is held open.
pub type Identity = (u64, u64);

/// An open file of a log.
#[derive(Debug)]
pub struct LogFile {
    /// The file.
    pub file: File,
    /// Which one it is, wherever it is renamed to.
    pub identity: Identity,
    /// How long it was when it was opened, bytes. Who does not follow is shown no more: a tail of ten lines is not to become
    /// twelve because the container goes on writing.
    pub length: u64,
}

fn open(path: &Path) -> io::Result<Option<LogFile>> {
    match File::open(path) {
        Ok(file) => {
            let meta = file.metadata()?;
            Ok(Some(LogFile { identity: (meta.dev(), meta.ino()), length: meta.len(), file }))
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}

/// Which file the path leads to now.
pub fn current(path: &Path) -> Option<Identity> {
    fs::metadata(path).ok().map(|meta| (meta.dev(), meta.ino()))
}

fn rotated(path: &Path) -> Vec<PathBuf> {
    let (Some(dir), Some(name)) = (path.parent(), path.file_name().and_then(|name| name.to_str())) else {
        return Vec::new();
    };
    let Ok(entries) = fs::read_dir(dir) else { return Vec::new() };
    let stamped = |entry: &fs::DirEntry| {
        let file = entry.file_name();
        let stamp = file.to_str().and_then(|file| file.strip_prefix(name)?.strip_prefix('.'));
        stamp.is_some_and(|stamp| stamp.bytes().all(|b| b.is_ascii_digit() || b == b'-' || b == b'.'))
    };
    let mut paths: Vec<_> =
        entries.filter_map(Result::ok).filter(stamped).map(|entry| entry.path()).take(FILES_MAX).collect();
    paths.sort();
    paths
}

/// All files of a log, oldest first.
///
/// # Errors
/// One is there and cannot be opened.
pub fn all(path: &Path) -> io::Result<Vec<LogFile>> {
    // The current one first: rotated meanwhile it is found again among the others, never missed.
    let newest = open(path)?;
    let mut files = Vec::new();
    for path in rotated(path) {
        files.extend(open(&path)?);
    }
    if let Some(newest) = newest {
        files.retain(|file| file.identity != newest.identity);
        files.push(newest);
    }
    Ok(files)
}

/// The files written after `done`, oldest first.
///
/// # Errors
/// One is there and cannot be opened.
pub fn after(path: &Path, done: Identity) -> io::Result<Vec<LogFile>> {
    let mut files = all(path)?;
    // Deleted while it was read: then only newer ones are left, as the oldest goes first.
    if let Some(at) = files.iter().position(|file| file.identity == done) {
        files.drain(..=at);
    }
    Ok(files)
}

/// Where the last `lines` lines begin: a file of `files` and an offset in it. Reads backwards by blocks, and of each entry
/// only the head.
///
/// # Errors
/// A file cannot be read.
pub fn tail(files: &[LogFile], lines: u64, which: Which) -> io::Result<(usize, u64)> {
    let Some(last) = files.last() else { return Ok((0, 0)) };
    let mut count = Count { left: lines, which, within: [false; 2], at: (files.len() - 1, last.length) };
    if lines == 0 {
        return Ok(count.at);
    }
    for (index, file) in files.iter().enumerate().rev() {
        if backwards(file, |offset, line| count.entry((index, offset), line))? {
            return Ok(count.at);
        }
    }
    Ok((0, 0))
}

struct Count {
    left: u64,
    which: Which,
    /// An entry of the line was seen already, by stream: those before it belong to it unless they end a line.
    within: [bool; 2],
    /// Where what is counted begins.
    at: (usize, u64),
}

impl Count {
    /// Takes the entry before those seen; true when there are enough.
    fn entry(&mut self, at: (usize, u64), line: &[u8]) -> bool {
        let Some(head) = head(line).filter(|head| self.which.wants(head.stderr)) else { return false };
        let within = &mut self.within[usize::from(head.stderr)];
        if head.full || !*within {
            if self.left == 0 {
                return true;
            }
            self.left -= 1;
        }
        *within = true;
        self.at = at;
        false
    }
}

/// Calls `entry` with the offset and the beginning of each line, last line first, until it answers true.
fn backwards(file: &LogFile, mut entry: impl FnMut(u64, &[u8]) -> bool) -> io::Result<bool> {
    let length = file.length;
    let (mut end, mut buf) = (length, Vec::new());
    // The beginning of what follows the block: a line that begins at the block's end goes on there.
    let mut follow = Vec::new();
    while end > 0 {
        let start = end.saturating_sub(BLOCK as u64);
        buf.resize((end - start) as usize, 0);
        file.file.read_exact_at(&mut buf, start)?;
        let block = buf.len();
        buf.extend_from_slice(&follow);
        for index in (0..block).rev() {
            // A line begins behind a line feed, and at the file's beginning.
            let begin = match buf[index] {
                b'\n' => index + 1,
                _ => continue,
            };
            let offset = start + begin as u64;
            if offset < length && entry(offset, &buf[begin..buf.len().min(begin + HEAD_MAX)]) {
                return Ok(true);
            }
        }
        if start == 0 && entry(0, &buf[..buf.len().min(HEAD_MAX)]) {
            return Ok(true);
        }
        buf.truncate(HEAD_MAX);
        follow = buf.clone();
        end = start;
    }
    Ok(false)
}
