//! The `nft` program: one process per transaction, fed through its standard input.

use std::io::ErrorKind;
use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use tokio::io::AsyncWriteExt;
use tokio::process::Command;

use crate::NetError;

/// A transaction of ten thousand services takes about a second.
const TIMEOUT: Duration = Duration::from_secs(60);
const STDERR_MAX: usize = 600;

/// Applies the text as one transaction: all of it or nothing.
pub(crate) async fn apply(text: &str) -> Result<(), NetError> {
    run("nft", &["-f", "-"], text).await.map(|_| ())
}

/// The same in the network namespace pinned at `netns`.
pub(crate) async fn apply_in(netns: &Path, text: &str) -> Result<(), NetError> {
    let entered = format!("--net={}", netns.display());
    run("nsenter", &[&entered, "nft", "-f", "-"], text).await.map(|_| ())
}

/// Whether the table exists.
pub(crate) async fn has_table(table: &str) -> Result<bool, NetError> {
    let tables = run("nft", &["list", "tables", "ip"], "").await?;
    Ok(tables.lines().any(|line| line.trim() == format!("table ip {table}")))
}

async fn run(program: &str, arguments: &[&str], input: &str) -> Result<String, NetError> {
    let mut child = Command::new(program)
        .args(arguments)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .map_err(|e| if e.kind() == ErrorKind::NotFound { NetError::NftMissing } else { NetError::NftRun(e) })?;
    let mut stdin = child.stdin.take().ok_or(NetError::WorkerLost)?;
    let feed = async {
        // A broken pipe means that nft gave up early: its exit status and stderr say why.
        let _ = stdin.write_all(input.as_bytes()).await;
        drop(stdin);
    };
    let both = async { tokio::join!(feed, child.wait_with_output()).1 };
    let output = tokio::time::timeout(TIMEOUT, both)
        .await
        .map_err(|_| NetError::NftRun(ErrorKind::TimedOut.into()))?
        .map_err(NetError::NftRun)?;
    if output.status.success() {
        return Ok(String::from_utf8_lossy(&output.stdout).into_owned());
    }
    let stderr = String::from_utf8_lossy(&output.stderr);
    Err(NetError::Nft { stderr: stderr.trim().chars().take(STDERR_MAX).collect() })
}
