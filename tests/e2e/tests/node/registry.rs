//! A registry of images for one test: the reference implementation on loopback, with the base image in it.

use std::process::{Child, Command, Stdio};
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use e2e::{Ctx, IMAGE, command, eventually, free_port, skip};

pub struct Registry {
    child: Child,
    address: std::net::SocketAddr,
}

impl Registry {
    /// Starts it and pushes the base image.
    pub fn start(ctx: &Ctx) -> Result<Registry> {
        let dir = ctx.instance.dir().join(format!("registry-{}", ctx.ns));
        std::fs::create_dir_all(&dir)?;
        let address = free_port()?;
        let config = dir.join("config.yml");
        let text = format!(
            "version: 0.1\nlog: {{level: error}}\nstorage: {{filesystem: {{rootdirectory: {}}}}}\nhttp: {{addr: {address}}}\n",
            dir.join("data").display()
        );
        std::fs::write(&config, text)?;
        let mut program = Command::new("docker-registry");
        program.arg("serve").arg(&config).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        let child = match program.spawn() {
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Err(skip("docker-registry is not installed")),
            other => other.context("start docker-registry")?,
        };
        let mut registry = Registry { child, address };
        eventually(Duration::from_secs(60), "the registry listens", || {
            ensure!(registry.child.try_wait()?.is_none(), "it ended");
            Ok(std::net::TcpStream::connect(address)?)
        })?;
        let archive = dir.join("image.tar").display().to_string();
        ctx.instance.windlass(&["image", "save", IMAGE, "--output", &archive])?.ok()?;
        let mut copy = Command::new("skopeo");
        copy.args(["copy", "--insecure-policy", "--dest-tls-verify=false"]);
        copy.arg(format!("docker-archive:{archive}")).arg(format!("docker://{}", registry.image()));
        command::run(&mut copy, None, Duration::from_secs(60))?.ok().context("push the image")?;
        Ok(registry)
    }

    /// What the image is called there.
    pub fn image(&self) -> String {
        format!("{}/gallery:1", self.address)
    }
}

impl Drop for Registry {
    fn drop(&mut self) {
        let _ended = self.child.kill().and_then(|()| self.child.wait());
    }
}
