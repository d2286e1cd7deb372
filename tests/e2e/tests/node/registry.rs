//! A registry of images for one test: the reference implementation on loopback, with the base image in it.

use std::process::Command;
use std::time::Duration;

use anyhow::{Context as _, Result};
use e2e::{Ctx, DebianRegistry, IMAGE, command};

pub struct Registry(DebianRegistry);

impl Registry {
    /// Starts it and pushes the base image.
    pub fn start(ctx: &Ctx) -> Result<Registry> {
        let dir = ctx.instance.dir().join(format!("registry-{}", ctx.ns));
        let registry = Registry(DebianRegistry::start(&dir)?);
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
        format!("{}/gallery:1", self.0.address)
    }
}
