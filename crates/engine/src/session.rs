//! Commands run in containers, and connections to containers' own streams.

use std::future::Future;
use std::os::fd::OwnedFd;
use std::pin::Pin;

use shim::proto::{ExecProcess, Reply, Request, Streams};
use tokio::sync::{mpsc, oneshot, watch};

use crate::driver::View;
use crate::fdio::FdStream;
use crate::link::{Answer, Link};
use crate::runtime::{ContainerState, ExecSpec, Input, Output, ProcessUser, RuntimeError, Session};

/// Sizes of a terminal waiting to be set at most; the last one counts.
const SIZES_MAX: usize = 8;

fn bad(operation: &'static str, message: impl Into<String>) -> RuntimeError {
    RuntimeError::Failed { operation, message: message.into() }
}

/// The streams that came with an answer, in the order of [`Streams`].
struct Ends {
    stdin: Option<FdStream>,
    stdout: Option<FdStream>,
    stderr: Option<FdStream>,
    session: u64,
}

fn ends(operation: &'static str, reply: &Reply, fds: Vec<OwnedFd>) -> Result<Ends, RuntimeError> {
    let Reply::Streams { streams, session } = reply else {
        return Err(bad(operation, format!("the shim answered {reply:?}")));
    };
    let mut fds = fds.into_iter();
    let mut take = |wanted: bool| match wanted {
        false => Ok(None),
        true => {
            let fd = fds.next().ok_or_else(|| bad(operation, "a stream is missing from the shim's answer"))?;
            FdStream::new(fd).map(Some).map_err(|e| bad(operation, e.to_string()))
        }
    };
    let (stdin, stdout, stderr) = (take(streams.stdin)?, take(streams.stdout)?, take(streams.stderr)?);
    Ok(Ends { stdin, stdout, stderr, session: *session })
}

fn output(stream: FdStream) -> Output {
    Box::pin(stream)
}

fn input(stream: FdStream) -> Input {
    Box::pin(stream)
}

/// Kills a command whose caller stopped waiting for it.
struct KillOnDrop {
    link: Link,
    session: Option<u64>,
}

impl Drop for KillOnDrop {
    fn drop(&mut self) {
        if let Some(session) = self.session {
            self.link.send(Request::ExecKill { session });
        }
    }
}

/// Runs a command.
pub async fn exec(link: Link, spec: ExecSpec, user: Option<ProcessUser>) -> Result<Session, RuntimeError> {
    const OPERATION: &str = "exec";
    if spec.command.is_empty() {
        return Err(RuntimeError::Invalid("no command specified".to_owned()));
    }
    let streams = Streams { stdin: spec.stdin, stdout: spec.stdout, stderr: spec.stderr };
    let (id, tty) = (spec.container_id, spec.tty);
    let user = user.map(|u| shim::proto::ExecUser { uid: u.uid, gid: u.gid, groups: u.groups });
    let process = ExecProcess { env: spec.env, cwd: spec.working_dir, user };
    let request = Request::Exec { id: id.clone(), args: spec.command, tty, streams, process: Box::new(process) };
    let Answer { reply, fds, exit, .. } = link.call(OPERATION, &id, request).await?;
    let mut ends = ends(OPERATION, &reply, fds)?;
    let mut resize = None;
    if tty && let Some(terminal) = ends.stdout.take() {
        resize = Some(resizer(terminal.clone()));
        ends.stdin = spec.stdin.then(|| terminal.clone());
        ends.stdout = spec.stdout.then_some(terminal);
    }
    let guard = KillOnDrop { link, session: Some(ends.session) };
    Ok(Session {
        stdin: ends.stdin.map(input),
        stdout: ends.stdout.map(output),
        stderr: ends.stderr.map(output),
        resize,
        exit: Box::pin(exec_exit(exit, guard)),
    })
}

async fn exec_exit(exit: Option<oneshot::Receiver<i32>>, mut guard: KillOnDrop) -> Result<i32, RuntimeError> {
    let exit = exit.ok_or_else(|| bad("exec", "the shim gave no session"))?;
    let status = exit.await.map_err(|_| bad("exec", "the sandbox's shim is gone"))?;
    guard.session = None;
    Ok(status)
}

fn resizer(terminal: FdStream) -> mpsc::Sender<(u16, u16)> {
    let (tx, mut rx) = mpsc::channel::<(u16, u16)>(SIZES_MAX);
    // Ends when the sender is dropped, with the session.
    tokio::spawn(async move {
        while let Some((cols, rows)) = rx.recv().await {
            let _ = terminal.resize(cols, rows);
        }
    });
    tx
}

/// Connects to a container's own streams: those chosen, and whether the container waits for who reads them.
pub async fn attach(
    link: Link,
    id: &str,
    tty: bool,
    view: watch::Receiver<View>,
    (streams, patient): (Streams, bool),
) -> Result<Session, RuntimeError> {
    const OPERATION: &str = "attach";
    let id = id.to_owned();
    let answer = link.call(OPERATION, &id, Request::Attach { id: id.clone(), streams, patient }).await?;
    let ends = ends(OPERATION, &answer.reply, answer.fds)?;
    let resize = tty.then(|| remote_resizer(link, id.clone()));
    let exit: Pin<Box<dyn Future<Output = Result<i32, RuntimeError>> + Send>> = Box::pin(container_exit(id, view));
    Ok(Session {
        stdin: ends.stdin.map(input),
        stdout: ends.stdout.map(output),
        stderr: ends.stderr.map(output),
        resize,
        exit,
    })
}

fn remote_resizer(link: Link, id: String) -> mpsc::Sender<(u16, u16)> {
    let (tx, mut rx) = mpsc::channel::<(u16, u16)>(SIZES_MAX);
    tokio::spawn(async move {
        while let Some((cols, rows)) = rx.recv().await {
            let _ = link.ask("resize", Request::Resize { id: id.clone(), cols, rows }).await;
        }
    });
    tx
}

/// Waits until the container has ended.
pub async fn container_exit(id: String, mut view: watch::Receiver<View>) -> Result<i32, RuntimeError> {
    let over = |view: &View| match view.containers.get(&id).map(|c| &c.state) {
        None => true,
        Some(state) => matches!(state, ContainerState::Exited(_)),
    };
    let view = view.wait_for(over).await.map_err(|_| bad("wait", "the engine is closing"))?;
    match view.containers.get(&id).map(|c| &c.state) {
        Some(ContainerState::Exited(exit)) => Ok(exit.exit_code),
        _ => Err(RuntimeError::NotFound { kind: "container", id: id.clone() }),
    }
}
