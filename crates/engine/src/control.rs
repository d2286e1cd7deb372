//! What a person asks of one container beside what a pod needs: a signal, a size, a pause, its processes, its files.

use std::path::PathBuf;

use shim::proto::{ContainerPhase, Reply, Request, Streams};

use crate::context::{blocking, failed};
use crate::driver::container::bundle_dir;
use crate::engine::Engine;
use crate::runtime::{ContainerState, ContainerStatus, ExitRecord, ProcessUser, RuntimeError, Security, Session};
use crate::{session, user};

/// Which of a container's streams are wanted.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Choice {
    /// Standard input.
    pub stdin: bool,
    /// Standard output.
    pub stdout: bool,
    /// Standard error.
    pub stderr: bool,
}

impl Engine {
    /// Sends a signal, by number, to the first process of a running container.
    ///
    /// # Errors
    /// When the container is not there, or the kernel refuses.
    pub async fn signal_container(&self, id: &str, signal: i32) -> Result<(), RuntimeError> {
        let (handle, _) = self.container(id)?;
        let link = self.link_of("container's sandbox", id, &handle)?;
        let request = Request::Signal { id: id.to_owned(), signal, all: false };
        link.call("signal container", id, request).await.map(drop)
    }

    /// Sets the size of a container's terminal.
    ///
    /// # Errors
    /// When the container is not there, or has no terminal.
    pub async fn resize(&self, id: &str, cols: u16, rows: u16) -> Result<(), RuntimeError> {
        let (handle, _) = self.container(id)?;
        let link = self.link_of("container's sandbox", id, &handle)?;
        link.call("resize", id, Request::Resize { id: id.to_owned(), cols, rows }).await.map(drop)
    }

    /// Connects to streams of a container, which from now on waits for who reads them: nothing is lost.
    ///
    /// # Errors
    /// When the container is not there or has ended.
    pub async fn attach_patiently(&self, id: &str, choice: Choice) -> Result<Session, RuntimeError> {
        let (handle, status) = self.container(id)?;
        let link = self.link_of("container's sandbox", id, &handle)?;
        let Choice { stdin, stdout, stderr } = choice;
        let streams = Streams { stdin, stdout, stderr: stderr && !status.spec.tty };
        session::attach(link, id, status.spec.tty, handle.view, (streams, true)).await
    }

    /// Resolves when the container has ended, with how; `None` when it is removed first.
    ///
    /// # Errors
    /// When it is not there.
    pub async fn ended(&self, id: &str) -> Result<Option<ExitRecord>, RuntimeError> {
        let (handle, _) = self.container(id)?;
        let mut view = handle.view.clone();
        let state = |view: &crate::driver::View| view.containers.get(id).map(|c| c.state.clone());
        let seen = view.wait_for(|v| matches!(state(v), None | Some(ContainerState::Exited(_)))).await;
        // The driver is gone when its sandbox is.
        Ok(seen.ok().and_then(|v| state(&v)).and_then(|s| match s {
            ContainerState::Exited(exit) => Some(exit),
            _ => None,
        }))
    }

    /// What is known of one container.
    pub fn container_status(&self, id: &str) -> Option<ContainerStatus> {
        self.container(id).ok().map(|(_, status)| status)
    }

    /// The process id of a running container's first process.
    ///
    /// # Errors
    /// When it does not run.
    pub async fn pid(&self, id: &str) -> Result<i32, RuntimeError> {
        let (handle, _) = self.container(id)?;
        let link = self.link_of("container's sandbox", id, &handle)?;
        let not_running = || RuntimeError::Conflict { id: id.to_owned(), message: "it is not running".to_owned() };
        match link.call("ask shim", id, Request::State).await?.reply {
            Reply::State(state) => match state.containers.into_iter().find(|(c, _)| c == id) {
                Some((_, ContainerPhase::Running { pid, .. })) => Ok(pid),
                _ => Err(not_running()),
            },
            _ => Err(not_running()),
        }
    }

    /// The host's numbers of all processes of a container.
    ///
    /// # Errors
    /// When it is not there.
    pub async fn processes(&self, id: &str) -> Result<Vec<i32>, RuntimeError> {
        let path = self.cgroup_path(id)?;
        blocking("list processes", move || Ok(shim::cgroup::processes(&path))).await
    }

    /// Stops its processes where they stand, or lets them go on (cgroup freezer).
    ///
    /// # Errors
    /// When it is not there, or the host has no freezer.
    pub async fn freeze(&self, id: &str, frozen: bool) -> Result<(), RuntimeError> {
        let path = self.cgroup_path(id)?;
        blocking("freeze", move || freeze(&path, frozen)).await
    }

    /// Where the root file system of a container that was made, and not removed, is mounted on the host.
    ///
    /// # Errors
    /// When it is not there.
    pub fn mounted_root(&self, id: &str) -> Result<PathBuf, RuntimeError> {
        let (_, status) = self.container(id)?;
        Ok(bundle_dir(&self.cx.pod_dir(&status.spec.sandbox_id), id).join("rootfs"))
    }

    fn cgroup_path(&self, id: &str) -> Result<String, RuntimeError> {
        let (handle, status) = self.container(id)?;
        let spec = handle.view.borrow().sandbox.as_ref().map(|s| s.spec.clone());
        let spec = spec.ok_or(RuntimeError::NotFound { kind: "sandbox", id: status.spec.sandbox_id })?;
        Ok(format!("{}/{id}", self.cx.sandbox_cgroup(&spec)))
    }

    /// Who a command runs as when it is not whom the container runs as.
    pub(crate) async fn exec_user(
        &self,
        status: &ContainerStatus,
        wanted: Option<String>,
    ) -> Result<Option<ProcessUser>, RuntimeError> {
        let Some(wanted) = wanted else { return Ok(None) };
        let rootfs = self.mounted_root(&status.spec.id)?;
        blocking("look up user", move || {
            let found = user::resolve(&rootfs, &wanted, &Security::default())?;
            Ok(Some(ProcessUser { uid: found.uid, gid: found.gid, groups: found.groups }))
        })
        .await
    }
}

fn freeze(path: &str, frozen: bool) -> Result<(), RuntimeError> {
    let (file, value) = match (shim::cgroup::is_unified(), frozen) {
        (true, _) => ("cgroup.freeze", if frozen { "1" } else { "0" }),
        (false, true) => ("freezer.state", "FROZEN"),
        (false, false) => ("freezer.state", "THAWED"),
    };
    let dir = shim::cgroup::dir_of("freezer", path).ok_or_else(|| RuntimeError::Failed {
        operation: "freeze",
        message: "this host has no cgroup freezer".to_owned(),
    })?;
    std::fs::write(dir.join(file), value).map_err(failed("freeze"))
}
