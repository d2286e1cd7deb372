//! An etcd of a test's own, from the package `etcd-server`.

use std::io::{BufRead, BufReader};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc;
use std::time::Duration;

use anyhow::{Context, Result};
use e2e::skip;

/// How long it may take to start on a busy machine.
const START_MAX: Duration = Duration::from_secs(60);

pub struct Etcd {
    child: Child,
    pub url: String,
    _dir: tempfile::TempDir,
}

impl Etcd {
    /// Starts it; skips the test when there is none to start.
    pub fn start() -> Result<Etcd> {
        Etcd::start_at("127.0.0.1")
    }

    /// The same at another address of this host.
    pub fn start_at(address: &str) -> Result<Etcd> {
        let found = Command::new("etcd").arg("--version").stdout(Stdio::null()).stderr(Stdio::null()).status();
        found.map_err(|_| skip("etcd is not installed"))?;
        let dir = tempfile::tempdir()?;
        // The kernel picks the ports; etcd's log says which.
        let any = format!("http://{address}:0");
        let mut child = Command::new("etcd")
            .args(["--name=t", "--logger=zap", "--heartbeat-interval=20", "--election-timeout=200"])
            .arg(format!("--data-dir={}", dir.path().join("data").display()))
            .args([format!("--listen-client-urls={any}"), format!("--advertise-client-urls={any}")])
            .args([format!("--listen-peer-urls={any}"), format!("--initial-advertise-peer-urls={any}")])
            .arg(format!("--initial-cluster=t={any}"))
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()?;
        let log = BufReader::new(child.stderr.take().context("its log is a pipe")?);
        let (found, address) = mpsc::channel();
        // Reads to the end, so that etcd is never held up by its log.
        std::thread::spawn(move || {
            for line in log.lines().map_while(Result::ok) {
                if line.contains(r#""msg":"serving client traffic"#)
                    && let Some((_, rest)) = line.split_once(r#""address":""#)
                {
                    let _done = found.send(rest.split('"').next().unwrap_or_default().to_owned());
                }
            }
        });
        let address = address.recv_timeout(START_MAX);
        let mut etcd = Etcd { child, url: String::new(), _dir: dir };
        etcd.url = format!("http://{}", address.context("etcd does not start")?);
        Ok(etcd)
    }
}

impl Drop for Etcd {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
