//! The container log, in the form the kubelet reads: `<RFC3339Nano> stdout|stderr F|P <text>`, one line each, a long
//! line cut into partial ones, the file rotated by size.

use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::time;

/// A line longer than this is written in parts, as containerd does.
pub const LINE_MAX: usize = 16 * 1024;
/// Buffered bytes are written when they reach this.
const FLUSH_AT: usize = 32 * 1024;

/// Which stream a line came from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stream {
    /// Standard output, or the terminal.
    Stdout,
    /// Standard error.
    Stderr,
}

impl Stream {
    fn name(self) -> &'static str {
        match self {
            Stream::Stdout => "stdout",
            Stream::Stderr => "stderr",
        }
    }
}

/// One log file and the unfinished lines of its two streams.
pub struct CriLog {
    path: PathBuf,
    file: Option<File>,
    size: u64,
    max_size: u64,
    max_files: u32,
    partial: [Vec<u8>; 2],
    out: Vec<u8>,
    /// Bytes that a full or failing disk cost, told in the log when it takes lines again.
    lost: u64,
}

impl CriLog {
    /// Opens (appends to) the log at `path`; an empty path discards.
    pub fn open(path: &Path, max_size: u64, max_files: u32) -> io::Result<Self> {
        let mut log = CriLog {
            path: path.to_path_buf(),
            file: None,
            size: 0,
            max_size,
            max_files: max_files.max(1),
            partial: [Vec::new(), Vec::new()],
            out: Vec::new(),
            lost: 0,
        };
        if !path.as_os_str().is_empty() {
            if let Some(dir) = path.parent() {
                std::fs::create_dir_all(dir)?;
            }
            log.reopen()?;
        }
        Ok(log)
    }

    fn reopen(&mut self) -> io::Result<()> {
        let file = OpenOptions::new().append(true).create(true).mode(0o640).open(&self.path)?;
        self.size = file.metadata()?.len();
        self.file = Some(file);
        Ok(())
    }

    /// Takes output of the container and writes the lines it completes.
    pub fn feed(&mut self, stream: Stream, mut bytes: &[u8], now: Duration) {
        if self.path.as_os_str().is_empty() {
            return;
        }
        while !bytes.is_empty() {
            let room = LINE_MAX - self.partial[stream as usize].len();
            let window = &bytes[..bytes.len().min(room)];
            let newline = window.iter().position(|&b| b == b'\n');
            let text = &window[..newline.unwrap_or(window.len())];
            bytes = &bytes[newline.map_or(window.len(), |at| at + 1)..];
            let full = self.partial[stream as usize].len() + text.len() >= LINE_MAX;
            if newline.is_some() || full {
                self.line(stream, text, newline.is_some(), now);
            } else {
                self.partial[stream as usize].extend_from_slice(text);
            }
        }
        self.flush();
    }

    /// The stream ended: what it left without a newline is a line too.
    pub fn end(&mut self, stream: Stream, now: Duration) {
        if !self.partial[stream as usize].is_empty() {
            self.line(stream, b"", true, now);
            self.flush();
        }
        self.partial[stream as usize] = Vec::new();
    }

    fn line(&mut self, stream: Stream, tail: &[u8], full: bool, now: Duration) {
        let head = std::mem::take(&mut self.partial[stream as usize]);
        time::push_rfc3339(&mut self.out, now);
        self.out.push(b' ');
        self.out.extend_from_slice(stream.name().as_bytes());
        self.out.extend_from_slice(if full { b" F " } else { b" P " });
        self.out.extend_from_slice(&head);
        self.out.extend_from_slice(tail);
        self.out.push(b'\n');
        if self.out.len() >= FLUSH_AT {
            self.flush();
        }
    }

    /// Writes what is buffered. A line is never split over two files. Errors cost the bytes, never the container: a
    /// process that blocks because its log cannot be written is the worse failure.
    fn flush(&mut self) {
        if self.out.is_empty() {
            return;
        }
        let length = self.out.len() as u64;
        if self.max_size > 0 && self.size > 0 && self.size + length > self.max_size {
            self.rotate();
        }
        if self.file.is_none() {
            // Rotation may have failed half-way (no space); try again at every flush.
            let _ = self.reopen();
        }
        let written = self.file.as_mut().is_some_and(|file| {
            if self.lost > 0 {
                let mut note = Vec::new();
                time::push_rfc3339(&mut note, time::now());
                let _ = writeln!(note, " stderr F [windlass: {} bytes of log lost, the disk took no more]", self.lost);
                if file.write_all(&note).is_ok() {
                    self.lost = 0;
                }
            }
            file.write_all(&self.out).is_ok()
        });
        if written {
            self.size += length;
        } else {
            self.lost += length;
        }
        self.out.clear();
        // A burst must not keep its buffer for the life of the pod.
        self.out.shrink_to(4 * 1024);
    }

    /// `0.log` becomes `0.log.20060102-150405.000000000`, much as the kubelet names it; the oldest beyond the limit goes.
    fn rotate(&mut self) {
        self.file = None;
        self.size = 0;
        if self.max_files == 1 {
            let _ = std::fs::remove_file(&self.path);
        } else {
            let _ = std::fs::rename(&self.path, self.rotated_name());
            self.drop_oldest();
        }
        let _ = self.reopen();
    }

    /// With the nanoseconds behind: several rotations in a second keep their order, and no name comes twice.
    fn rotated_name(&self) -> PathBuf {
        let now = time::now();
        let time::Civil { date: (y, mo, d), time: (h, mi, s) } = time::civil(now);
        let nanos = now.subsec_nanos();
        PathBuf::from(format!("{}.{y:04}{mo:02}{d:02}-{h:02}{mi:02}{s:02}.{nanos:09}", self.path.display()))
    }

    fn drop_oldest(&self) {
        let (Some(dir), Some(name)) = (self.path.parent(), self.path.file_name()) else { return };
        let prefix = format!("{}.", name.to_string_lossy());
        let Ok(entries) = std::fs::read_dir(dir) else { return };
        let mut rotated: Vec<_> = entries
            .filter_map(Result::ok)
            .filter(|e| e.file_name().to_string_lossy().starts_with(&prefix))
            .map(|e| e.path())
            .collect();
        rotated.sort();
        let keep = self.max_files as usize - 1;
        let surplus = rotated.len().saturating_sub(keep);
        for path in &rotated[..surplus] {
            let _ = std::fs::remove_file(path);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: Duration = Duration::from_secs(1);
    const STAMP: &str = "1970-01-01T00:00:01.000000000Z";

    fn written(dir: &Path) -> String {
        std::fs::read_to_string(dir.join("0.log")).unwrap()
    }

    #[test]
    fn lines_are_whole_and_named_by_stream() {
        let dir = tempfile::tempdir().unwrap();
        let mut log = CriLog::open(&dir.path().join("0.log"), 0, 5).unwrap();
        log.feed(Stream::Stdout, b"a\nb", NOW);
        log.feed(Stream::Stderr, b"err\n", NOW);
        log.feed(Stream::Stdout, b"c\n\n", NOW);
        log.feed(Stream::Stdout, b"tail", NOW);
        log.end(Stream::Stdout, NOW);
        let want = ["stdout F a", "stderr F err", "stdout F bc", "stdout F ", "stdout F tail"];
        let want: String = want.iter().map(|l| format!("{STAMP} {l}\n")).collect();
        assert_eq!(written(dir.path()), want);
    }

    #[test]
    fn a_long_line_is_cut_into_partial_ones_and_loses_nothing() {
        let dir = tempfile::tempdir().unwrap();
        let mut log = CriLog::open(&dir.path().join("0.log"), 0, 5).unwrap();
        let text: Vec<u8> = (0..LINE_MAX * 2 + 100).map(|i| b'a' + (i % 26) as u8).collect();
        for chunk in text.chunks(1000) {
            log.feed(Stream::Stdout, chunk, NOW);
        }
        log.feed(Stream::Stdout, b"\n", NOW);
        let written = written(dir.path());
        let tags: Vec<_> = written.lines().map(|l| l.split(' ').nth(2).unwrap()).collect();
        assert_eq!(tags, ["P", "P", "F"]);
        let joined: String = written.lines().map(|l| l.splitn(4, ' ').nth(3).unwrap()).collect();
        assert_eq!(joined.as_bytes(), text);
    }

    #[test]
    fn rotation_keeps_the_newest_files_and_splits_no_line() {
        let dir = tempfile::tempdir().unwrap();
        let mut log = CriLog::open(&dir.path().join("0.log"), 1000, 3).unwrap();
        for i in 0..200 {
            log.feed(Stream::Stdout, format!("line {i}\n").as_bytes(), NOW);
        }
        let mut names: Vec<_> =
            std::fs::read_dir(dir.path()).unwrap().map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        assert_eq!(names.len(), 3, "{names:?}");
        let mut all = String::new();
        for name in names[1..].iter().chain(&names[..1]) {
            let text = std::fs::read_to_string(dir.path().join(name)).unwrap();
            assert!(text.len() <= 1000 && text.ends_with('\n'));
            all.push_str(&text);
        }
        let numbers: Vec<u32> = all.lines().map(|l| l.rsplit(' ').next().unwrap().parse().unwrap()).collect();
        let first = numbers[0];
        assert_eq!(numbers, (first..200).collect::<Vec<_>>(), "the kept lines are the newest, in order");
    }
}
