//! The registry that everybody runs: the reference implementation, on loopback.

use std::net::{SocketAddr, TcpStream};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};

use crate::{eventually, free_port, skip};

/// Runs until dropped.
pub struct DebianRegistry {
    child: Child,
    /// Where it listens.
    pub address: SocketAddr,
}

impl DebianRegistry {
    /// Starts it over a folder, which is made.
    ///
    /// # Errors
    /// When it does not come up; a skip where it is not installed.
    pub fn start(dir: &Path) -> Result<DebianRegistry> {
        std::fs::create_dir_all(dir)?;
        let (address, config) = (free_port()?, dir.join("config.yml"));
        let storage = format!("{{filesystem: {{rootdirectory: {}}}}}", dir.join("data").display());
        let text = format!("version: 0.1\nlog: {{level: error}}\nstorage: {storage}\nhttp: {{addr: {address}}}\n");
        std::fs::write(&config, text)?;
        let mut program = Command::new("docker-registry");
        program.arg("serve").arg(&config).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        let child = match program.spawn() {
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Err(skip("docker-registry is not installed")),
            other => other.context("start docker-registry")?,
        };
        let mut registry = DebianRegistry { child, address };
        eventually(Duration::from_secs(60), "docker-registry listens", || {
            ensure!(registry.child.try_wait()?.is_none(), "it ended");
            Ok(TcpStream::connect(address)?)
        })?;
        Ok(registry)
    }
}

impl Drop for DebianRegistry {
    fn drop(&mut self) {
        let _ended = self.child.kill().and_then(|()| self.child.wait());
    }
}
