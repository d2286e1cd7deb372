//! A container's log read from where it was left, entry by entry, across rotation and across the reader's own end.

use std::fs::File;
use std::io::{self, BufRead, BufReader, Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::{Entry, Part};
use crate::containers::logs::{ENTRY_MAX, Opened, files, head};

/// Entries read at once.
const BATCH: usize = 256;
/// Bytes read at once, about.
const BATCH_BYTES: usize = 1 << 20;

/// How far a log was read.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Place {
    /// The file: its device and inode, and what it begins with, since an inode is used again.
    file: (u64, u64),
    begins: String,
    offset: u64,
}

/// What was read: entries, each with the place behind it.
pub type Batch = (Vec<Entry>, Vec<Place>);

struct Current {
    reader: BufReader<File>,
    id: (u64, u64),
    begins: String,
    offset: u64,
}

impl Current {
    fn open((file, id): Opened) -> io::Result<Self> {
        let mut current = Current { reader: BufReader::new(file), id, begins: String::new(), offset: 0 };
        current.learn()?;
        Ok(current)
    }

    /// What the file begins with, if it has anything yet: its first time.
    fn learn(&mut self) -> io::Result<()> {
        if self.begins.is_empty() {
            self.reader.seek(SeekFrom::Start(0))?;
            let mut first = Vec::new();
            self.reader.by_ref().take(64).read_until(b' ', &mut first)?;
            self.begins = String::from_utf8_lossy(&first).trim_end().to_owned();
            self.reader.seek(SeekFrom::Start(self.offset))?;
        }
        Ok(())
    }

    fn place(&self) -> Place {
        Place { file: self.id, begins: self.begins.clone(), offset: self.offset }
    }

    /// The next whole entry's line; `None` at the end, also within one that is being written.
    fn line(&mut self) -> io::Result<Option<Vec<u8>>> {
        let mut line = Vec::new();
        self.reader.by_ref().take(ENTRY_MAX).read_until(b'\n', &mut line)?;
        if line.pop() != Some(b'\n') {
            self.reader.seek(SeekFrom::Start(self.offset))?;
            return Ok(None);
        }
        self.offset += line.len() as u64 + 1;
        self.learn()?;
        Ok(Some(line))
    }
}

/// Reads a log on.
pub struct Reader {
    log: PathBuf,
    place: Option<Place>,
    current: Option<Current>,
    /// By stream: the line that was cut, and how many parts of it came.
    parts: [Option<(String, u32)>; 2],
    /// Files went away before they were read.
    pub missed: bool,
}

impl Reader {
    /// From a place on; without one from the beginning.
    pub fn new(log: &Path, place: Option<Place>) -> Self {
        Reader { log: log.to_owned(), place, current: None, parts: [None, None], missed: false }
    }

    /// The next entries; none when there are no more for now. Blocks.
    pub fn read(&mut self) -> io::Result<Batch> {
        let (mut entries, mut places, mut bytes) = (Vec::new(), Vec::new(), 0);
        while entries.len() < BATCH && bytes < BATCH_BYTES {
            if self.current.is_none() && !self.begin()? {
                break;
            }
            let Some(current) = &mut self.current else { break };
            match current.line()? {
                Some(line) => {
                    bytes += line.len();
                    let place = current.place();
                    if let Some(entry) = self.entry(&line) {
                        entries.push(entry);
                        places.push(place);
                    }
                }
                None => {
                    let done = current.id;
                    let Some(next) = self.after(done)? else { break };
                    // What was written between the look at its end and the rotation.
                    let rest = self.current.as_mut().map(Current::line).transpose()?.flatten();
                    match rest {
                        Some(line) => {
                            bytes += line.len();
                            let place = self.current.as_ref().map(Current::place).unwrap_or_default();
                            if let Some(entry) = self.entry(&line) {
                                entries.push(entry);
                                places.push(place);
                            }
                        }
                        None => self.current = Some(Current::open(next)?),
                    }
                }
            }
        }
        Ok((entries, places))
    }

    /// Opens the file of the place, or the oldest that there is.
    fn begin(&mut self) -> io::Result<bool> {
        let mut found = files(&self.log)?;
        let place = self.place.take();
        if let Some(place) = place.filter(|p| !p.begins.is_empty()) {
            if let Some(at) = found.iter().position(|(_, id)| *id == place.file) {
                let mut current = Current::open(found.remove(at))?;
                if current.begins == place.begins {
                    current.offset = place.offset;
                    current.reader.seek(SeekFrom::Start(place.offset))?;
                    self.current = Some(current);
                    return Ok(true);
                }
                // Another file that got the inode.
                found = files(&self.log)?;
            }
            self.missed = true;
        }
        if found.is_empty() {
            return Ok(false);
        }
        self.current = Some(Current::open(found.remove(0))?);
        Ok(true)
    }

    /// The file after the one that is done.
    fn after(&mut self, done: (u64, u64)) -> io::Result<Option<Opened>> {
        let found = files(&self.log)?;
        match found.iter().position(|(_, id)| *id == done) {
            Some(at) => Ok(found.into_iter().nth(at + 1)),
            None => {
                // Gone meanwhile, though read to its end.
                Ok(found.into_iter().next())
            }
        }
    }

    fn entry(&mut self, line: &[u8]) -> Option<Entry> {
        let head = head(line)?;
        let time = head.time.parse::<Timestamp>().ok()?;
        let open = &mut self.parts[usize::from(head.stderr)];
        let part = match (open.take(), head.full) {
            (None, true) => None,
            (begun, last) => {
                let (id, before) = begun.unwrap_or_else(|| (crate::containers::names::id(), 0));
                let part = Part { id: id.clone(), ordinal: before + 1, last };
                if !last {
                    *open = Some((id, before + 1));
                }
                Some(part)
            }
        };
        Some(Entry { time, stderr: head.stderr, text: line[head.text..].to_vec(), part })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;

    fn line(n: u32) -> String {
        format!("2024-01-01T00:00:{n:02}.000000000Z stdout F {n}\n")
    }

    fn append(path: &Path, text: &str) {
        std::fs::OpenOptions::new().append(true).create(true).open(path).unwrap().write_all(text.as_bytes()).unwrap();
    }

    fn said(read: &Batch) -> Vec<String> {
        read.0.iter().map(|e| String::from_utf8(e.text.clone()).unwrap()).collect()
    }

    #[test]
    fn a_log_is_read_on_from_its_place_across_rotation() {
        let dir = tempfile::tempdir().unwrap();
        let log = dir.path().join("c.log");
        let mut reader = Reader::new(&log, None);
        assert_eq!(said(&reader.read().unwrap()), [""; 0]);
        append(&log, &(line(1) + &line(2) + "2024-01-01T00:00:03.000000000Z stdo"));
        let first = reader.read().unwrap();
        assert_eq!(said(&first), ["1", "2"]);
        append(&log, "ut F 3\n");
        std::fs::rename(&log, dir.path().join("c.log.20240101-000003.0")).unwrap();
        append(&log, &line(4));
        assert_eq!(said(&reader.read().unwrap()), ["3", "4"]);
        append(&log, &line(5));
        let last = reader.read().unwrap();
        assert_eq!(said(&last), ["5"]);
        assert_eq!(said(&Reader::new(&log, Some(first.1[0].clone())).read().unwrap()), ["2", "3", "4", "5"]);
        assert_eq!(said(&Reader::new(&log, Some(last.1[0].clone())).read().unwrap()), [""; 0]);
        // The file of the place is gone: what is left is read, and the loss is known.
        std::fs::remove_file(dir.path().join("c.log.20240101-000003.0")).unwrap();
        let mut late = Reader::new(&log, Some(first.1[1].clone()));
        assert_eq!(said(&late.read().unwrap()), ["4", "5"]);
        assert!(late.missed && !reader.missed);
    }

    #[test]
    fn parts_of_a_line_are_told() {
        let dir = tempfile::tempdir().unwrap();
        let log = dir.path().join("c.log");
        let at = "2024-01-01T00:00:01.000000000Z";
        append(&log, &format!("{at} stdout P a\n{at} stderr F e\n{at} stdout P b\n{at} stdout F c\n{at} stdout F d\n"));
        let (entries, _) = Reader::new(&log, None).read().unwrap();
        let parts: Vec<_> = entries.iter().map(|e| e.part.as_ref().map(|p| (p.ordinal, p.last))).collect();
        assert_eq!(parts, [Some((1, false)), None, Some((2, false)), Some((3, true)), None]);
        assert!(entries[1].stderr && entries[0].part.as_ref().unwrap().id == entries[3].part.as_ref().unwrap().id);
    }
}
