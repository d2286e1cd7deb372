//! `--detach`: starts the server as a process of its own and returns when it is ready, or says why it is not.

use std::fs::{File, OpenOptions};
use std::io::{BufRead, BufReader, Read, Seek, SeekFrom};
use std::process::{Command, ExitCode, Stdio};

use anyhow::{Context, bail};

use super::{DETACHED, Settings};
use crate::exit::UNFIT;

/// How much of the log is shown when the start fails.
const LOG_TAIL_BYTES: u64 = 4096;

/// Starts the same command line in the background.
pub fn start(s: &Settings) -> anyhow::Result<ExitCode> {
    super::check(s)?;
    let logs = s.instance.data_dir().join("logs");
    std::fs::create_dir_all(&logs).with_context(|| format!("make {}", logs.display()))?;
    let path = logs.join("server.log");
    let log =
        OpenOptions::new().create(true).append(true).open(&path).with_context(|| format!("open {}", path.display()))?;
    let from = log.metadata()?.len();
    let mut child = Command::new(std::env::current_exe()?)
        .args(std::env::args_os().skip(1))
        .env(DETACHED, "1")
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(log)
        .spawn()
        .context("start the server")?;
    let mut line = String::new();
    let stdout = child.stdout.take().context("the child's output is a pipe")?;
    BufReader::new(stdout).read_line(&mut line)?;
    if line.trim() == "ready" {
        println!("windlass {:?} is ready: https://{} (pid {})", s.instance.name(), s.api, child.id());
        println!("  kubeconfig  {}", s.instance.data_dir().join("admin.kubeconfig").display());
        println!("  log         {}", path.display());
        return Ok(ExitCode::SUCCESS);
    }
    let status = child.wait()?;
    let tail = tail(&path, from)?;
    eprint!("{tail}");
    if status.code() == Some(i32::from(UNFIT)) {
        return Ok(ExitCode::from(UNFIT)); // it said why, in its own words
    }
    bail!("the server ended at its start ({status}); its log is {}", path.display())
}

/// What was logged since `from`, the end of it if that is much.
fn tail(path: &std::path::Path, from: u64) -> anyhow::Result<String> {
    let mut file = File::open(path)?;
    let len = file.metadata()?.len();
    file.seek(SeekFrom::Start(from.max(len.saturating_sub(LOG_TAIL_BYTES))))?;
    let mut bytes = Vec::new();
    file.take(LOG_TAIL_BYTES).read_to_end(&mut bytes)?;
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}
