//! The audit log: lines of JSON in a file that is replaced when it is large.
//!
//! A line is one write to the file, without a buffer of ours: what is recorded survives the end of this process, however it
//! comes. The write goes to the page cache, which is faster than handing it to another thread would be.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};

use jiff::Timestamp;
use parking_lot::Mutex;

/// An open log.
pub struct LogFile {
    path: PathBuf,
    max_bytes: u64,
    max_backups: usize,
    state: Mutex<State>,
    failing: AtomicBool,
}

struct State {
    file: File,
    size: u64,
}

fn open(path: &Path) -> io::Result<State> {
    let file = OpenOptions::new().append(true).create(true).mode(0o600).open(path)?;
    let size = file.metadata()?.len();
    Ok(State { file, size })
}

impl LogFile {
    /// Opens the file, goes on at its end. It is put aside when it would become larger than `max_bytes`; of those put aside
    /// `max_backups` are kept.
    ///
    /// # Errors
    /// The file cannot be opened.
    pub fn open(path: &Path, max_bytes: u64, max_backups: usize) -> io::Result<Self> {
        let state = Mutex::new(open(path)?);
        Ok(LogFile { path: path.to_path_buf(), max_bytes, max_backups, state, failing: AtomicBool::new(false) })
    }

    /// Writes a line, to which the line's end is added. A failure is logged when it begins and when it ends: requests go on.
    pub fn line(&self, mut line: Vec<u8>) {
        line.push(b'\n');
        let outcome = self.write(&line);
        let failed = outcome.is_err();
        if self.failing.swap(failed, Ordering::Relaxed) == failed {
            return;
        }
        match outcome {
            Ok(()) => tracing::info!(path = %self.path.display(), "the audit log is written again"),
            Err(error) => tracing::error!(path = %self.path.display(), %error, "the audit log cannot be written"),
        }
    }

    fn write(&self, line: &[u8]) -> io::Result<()> {
        let mut state = self.state.lock();
        if state.size > 0 && state.size + line.len() as u64 > self.max_bytes {
            fs::rename(&self.path, self.backup(Timestamp::now()))?;
            *state = open(&self.path)?;
            self.prune()?;
        }
        state.file.write_all(line)?;
        state.size += line.len() as u64;
        Ok(())
    }

    /// Stem and extension of the file's name.
    fn name(&self) -> (String, String) {
        let text = |part: Option<&std::ffi::OsStr>| part.map(|p| p.to_string_lossy().into_owned()).unwrap_or_default();
        let extension = text(self.path.extension());
        let extension = if extension.is_empty() { extension } else { format!(".{extension}") };
        (text(self.path.file_stem()), extension)
    }

    fn backup(&self, now: Timestamp) -> PathBuf {
        let (stem, extension) = self.name();
        // To the microsecond, so that two in the same second do not overwrite each other.
        self.path.with_file_name(format!("{stem}-{}{extension}", now.strftime("%Y-%m-%dT%H-%M-%S.%6f")))
    }

    fn prune(&self) -> io::Result<()> {
        let (stem, extension) = self.name();
        let prefix = format!("{stem}-");
        let parent = self.path.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."));
        let mut backups: Vec<PathBuf> = fs::read_dir(parent)?
            .filter_map(|entry| entry.ok().map(|e| e.path()))
            .filter(|path| {
                let name = path.file_name().map(|n| n.to_string_lossy().into_owned()).unwrap_or_default();
                let stamp = name.strip_prefix(&prefix).and_then(|rest| rest.strip_suffix(&extension));
                stamp.is_some_and(|s| s.starts_with(|c: char| c.is_ascii_digit()))
            })
            .collect();
        // The names are in the order of time.
        backups.sort();
        let surplus = backups.len().saturating_sub(self.max_backups);
        backups.iter().take(surplus).try_for_each(fs::remove_file)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_full_file_is_put_aside_and_the_oldest_goes() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("audit.log");
        let log = LogFile::open(&path, 20, 2).unwrap();
        for i in 0..9 {
            log.line(format!("line {i}").into_bytes());
        }
        assert_eq!(fs::read_to_string(&path).unwrap(), "line 8\n");
        let mut names: Vec<_> = fs::read_dir(dir.path()).unwrap().map(|e| e.unwrap().path()).collect();
        names.sort();
        assert_eq!(names.len(), 3);
        assert_eq!(fs::read_to_string(&names[1]).unwrap(), "line 6\nline 7\n");
        // A restart goes on in the same file.
        drop(log);
        LogFile::open(&path, 20, 2).unwrap().line(b"line 9".to_vec());
        assert_eq!(fs::read_to_string(&path).unwrap(), "line 8\nline 9\n");
    }
}
