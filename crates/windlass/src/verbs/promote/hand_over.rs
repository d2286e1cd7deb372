//! The change from containers to workloads; and back, when the workloads do not get ready.

use std::time::{Duration, Instant};

use anyhow::{Context, anyhow, bail};
use base::instance::Instance;
use convert::{Inspect, Promoted};
use kube::Client;
use serde_json::{Value, json};

use super::docker::Docker;
use crate::kubeapi;
use crate::verbs::apply::wait;

/// How long what is taken back may take to go: a pod has its grace period.
const GONE_MAX: Duration = Duration::from_secs(120);
/// How often it is looked whether it is gone: nothing but that is waited for, and not for long.
const LOOK_EVERY: Duration = Duration::from_millis(100);

/// What is to be changed, and what of it was.
pub struct HandOver<'a> {
    instance: &'a Instance,
    client: &'a Client,
    docker: &'a Docker,
    made: &'a Promoted,
    containers: &'a [Inspect],
    applied: Vec<&'a Value>,
    stopped: Vec<&'a Inspect>,
}

impl<'a> HandOver<'a> {
    /// Nothing yet.
    pub fn new(
        instance: &'a Instance,
        client: &'a Client,
        docker: &'a Docker,
        made: &'a Promoted,
        containers: &'a [Inspect],
    ) -> Self {
        HandOver { instance, client, docker, made, containers, applied: Vec::new(), stopped: Vec::new() }
    }

    /// Changes over, or leaves everything as it was.
    pub async fn run(mut self, timeout: Duration) -> anyhow::Result<()> {
        let done = tokio::select! {
            done = self.forward(timeout) => done,
            _ = tokio::signal::ctrl_c() => Err(anyhow!("interrupted")),
        };
        let Err(error) = done else { return Ok(()) };
        eprintln!("{error:#}\ntaking it back: the containers are started again");
        match self.back().await {
            Ok(()) => Err(error.context("not promoted; the containers run as before")),
            Err(failed) => Err(error.context(format!("not promoted, and not all taken back: {failed:#}"))),
        }
    }

    async fn forward(&mut self, timeout: Duration) -> anyhow::Result<()> {
        for object in &self.made.before {
            self.apply(object).await?;
        }
        // From here on two would write to one volume, or listen at one port, if a container went on.
        for container in self.containers {
            self.stopped.push(container);
            let path = format!("/containers/{}", container.id);
            let never = json!({"RestartPolicy": {"Name": "no"}});
            self.docker.post(&format!("{path}/update"), Some(never)).await?;
            self.docker.post(&format!("{path}/stop"), None).await?;
            println!("container {} stopped", container.plain_name());
        }
        for (volume, claim) in &self.made.volumes {
            dockerapi::claim_volume(self.instance, volume, Some(claim)).with_context(|| format!("claim {volume}"))?;
        }
        for object in &self.made.controllers {
            self.apply(object).await?;
        }
        wait::until_ready(self.client, &self.made.controllers, timeout, true).await
    }

    async fn apply(&mut self, object: &'a Value) -> anyhow::Result<()> {
        self.applied.push(object);
        let label = format!("{} {}", object["kind"].as_str().unwrap_or("?"), object["metadata"]["name"]);
        kubeapi::apply(self.client, object).await.with_context(|| format!("apply {label}"))?;
        println!("{label} created");
        Ok(())
    }

    /// Objects go in the opposite order; the containers come when no pod is left.
    async fn back(&self) -> anyhow::Result<()> {
        let deadline = Instant::now() + GONE_MAX;
        for object in self.applied.iter().rev() {
            let path = kubeapi::object_path(object)?;
            let options = json!({"propagationPolicy": "Foreground"});
            let request = http::Request::delete(&path).header(http::header::CONTENT_TYPE, "application/json");
            match self.client.request::<Value>(request.body(serde_json::to_vec(&options)?)?).await {
                Ok(_) => {}
                Err(kube::Error::Api(status)) if status.code == 404 => continue,
                Err(error) => return Err(error).with_context(|| format!("delete {path}")),
            }
            // In the foreground: what it owns is gone before it.
            while kubeapi::get(self.client, &path).await?.is_some() {
                if Instant::now() > deadline {
                    bail!("{path} is not gone after {} s", GONE_MAX.as_secs());
                }
                tokio::time::sleep(LOOK_EVERY).await;
            }
        }
        for volume in self.made.volumes.keys() {
            dockerapi::claim_volume(self.instance, volume, None).with_context(|| format!("give back {volume}"))?;
        }
        for container in &self.stopped {
            let path = format!("/containers/{}", container.id);
            let policy = &container.host_config.restart_policy;
            let as_before = json!({"RestartPolicy": {
                "Name": policy.name, "MaximumRetryCount": policy.maximum_retry_count,
            }});
            self.docker.post(&format!("{path}/update"), Some(as_before)).await?;
            self.docker.post(&format!("{path}/start"), None).await?;
            println!("container {} started again", container.plain_name());
        }
        Ok(())
    }
}
