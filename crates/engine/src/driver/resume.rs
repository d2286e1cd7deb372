//! Taking up a sandbox from before a restart of the engine: its shim is asked what is true.

use shim::proto::{ContainerPhase, Request};

use super::teardown::shim_lives;
use super::{Driver, exit_record};
use crate::link::Link;
use crate::record::{ContainerRecord, Phase, SandboxRecord};
use crate::runtime::{ExitRecord, RuntimeError};

impl Driver {
    /// Brings records and reality together. False when nothing is left of the sandbox.
    pub(super) async fn resume(&mut self, record: SandboxRecord, containers: Vec<ContainerRecord>) -> bool {
        let complete = record.complete;
        if let Some(base) = record.user_base {
            self.cx.users.keep(&self.id, base);
        }
        self.containers = containers.into_iter().map(|c| (c.spec.id.clone(), c)).collect();
        if complete && !record.stopped {
            self.cx.weigh(&record.spec, Some(&record.spec.resources));
        }
        self.record = Some(record);
        let pod_dir = self.cx.pod_dir(&self.id);
        let rebooted = !pod_dir.exists();
        self.link = match shim_lives(&pod_dir) {
            true => Link::open(&pod_dir, self.shim_tx.clone()).ok(),
            false => None,
        };
        if !complete {
            // What ended before this connection was made is not told again, and would be waited for.
            if let Some(link) = self.link.clone()
                && let Err(error) = self.compare(&link).await
            {
                tracing::warn!(sandbox = %self.id, %error, "the shim of a half-made sandbox does not answer");
            }
            return match self.remove_sandbox().await {
                Ok(()) => false,
                Err(error) => {
                    tracing::warn!(sandbox = %self.id, %error, "a half-made sandbox could not be removed");
                    true
                }
            };
        }
        match self.link.clone() {
            Some(link) => {
                if let Err(error) = self.compare(&link).await {
                    tracing::warn!(sandbox = %self.id, %error, "a shim does not answer; it is given up");
                    self.on_shim_gone().await;
                }
            }
            None if rebooted => self.after_reboot(),
            None => self.on_shim_gone().await,
        }
        self.remove_partial().await;
        self.publish();
        true
    }

    /// The host was started anew: nothing runs, and nobody saw how it ended.
    fn after_reboot(&mut self) {
        let open: Vec<(String, i64)> = self
            .containers
            .iter()
            .filter_map(|(id, c)| match c.phase {
                Phase::Running(started) => Some((id.clone(), started)),
                Phase::Created => Some((id.clone(), 0)),
                _ => None,
            })
            .collect();
        for (id, started_at_ms) in open {
            let exit = ExitRecord {
                exit_code: 255,
                signal: None,
                oom_killed: false,
                started_at_ms,
                finished_at_ms: shim::time::now_ms(),
                start_error: None,
            };
            self.set_exited(&id, exit);
        }
    }

    /// The shim's word counts. What it holds without a record is ended, a record without its container is undone.
    async fn compare(&mut self, link: &Link) -> Result<(), RuntimeError> {
        let state = self.shim_state(link).await?;
        for (id, phase) in &state.containers {
            let known = self.containers.get(id).is_some_and(|c| c.phase != Phase::Partial);
            match phase {
                _ if !known => self.end_unknown(link, id).await,
                ContainerPhase::Created | ContainerPhase::Starting => {}
                ContainerPhase::Running { started_at_ms, .. } => self.set_phase(id, Phase::Running(*started_at_ms)),
                ContainerPhase::Exited(info) => self.set_exited(id, exit_record(info.clone())),
            }
        }
        for (id, record) in &mut self.containers {
            let held = state.containers.iter().any(|(held, _)| held == id);
            if !held && !matches!(record.phase, Phase::Exited(_)) {
                record.phase = Phase::Partial;
            }
        }
        Ok(())
    }

    async fn end_unknown(&self, link: &Link, id: &str) {
        let kill = Request::Signal { id: id.to_owned(), signal: 9, all: true };
        let _ = link.call("end container", id, kill).await;
        if let Some(path) = self.record.as_ref().map(|r| self.container_cgroup(&r.spec, id)) {
            let _ = crate::context::blocking("end container", move || {
                shim::cgroup::kill_all(&path, std::time::Duration::from_secs(10));
                Ok(())
            })
            .await;
        }
        let _ = link.call("end container", id, Request::Delete { id: id.to_owned() }).await;
    }

    async fn remove_partial(&mut self) {
        let partial = self.containers.iter().filter(|(_, c)| c.phase == Phase::Partial).map(|(id, _)| id.clone());
        for id in partial.collect::<Vec<_>>() {
            if let Err(error) = self.remove_container(&id).await {
                tracing::warn!(container = id, %error, "a half-made container could not be removed");
            }
        }
    }
}
