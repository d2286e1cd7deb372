//! Commands in containers.

use std::collections::BTreeMap;
use std::sync::Arc;

use bytes::Bytes;
use engine::runtime::{ContainerRuntime, ExecSpec, RuntimeError, Session};
use http::StatusCode;
use parking_lot::Mutex;
use serde::Deserialize;
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::sync::mpsc;

use crate::containers::attach::{STDERR, Wire, carry, frame, hijack};
use crate::containers::keys::Detach;
use crate::containers::model::{Rest, only_empty, without_nulls};
use crate::containers::names;
use crate::containers::record::Phase;
use crate::face::Face;
use crate::fault::{Fault, Result};
use crate::http::{Answer, Call, empty, json, status_json};

/// Commands remembered at most; the oldest that ended are forgotten first.
const KEPT: usize = 1024;

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
struct Asked {
    attach_stdin: bool,
    attach_stdout: bool,
    attach_stderr: bool,
    tty: bool,
    detach_keys: String,
    cmd: Vec<String>,
    env: Vec<String>,
    working_dir: String,
    user: String,
    console_size: Vec<u16>,
    #[serde(flatten)]
    rest: Rest,
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
struct Begin {
    detach: bool,
    tty: bool,
    console_size: Vec<u16>,
    #[serde(flatten)]
    rest: Rest,
}

/// A command.
struct Exec {
    made: u64,
    container: String,
    asked: Asked,
    started: bool,
    running: bool,
    exit_code: Option<i32>,
    resize: Option<mpsc::Sender<(u16, u16)>>,
}

/// The commands of all containers, by id.
#[derive(Default)]
pub struct Execs {
    all: Mutex<BTreeMap<String, Exec>>,
}

impl Execs {
    fn add(&self, container: &str, asked: Asked) -> Result<String> {
        let mut all = self.all.lock();
        if all.len() >= KEPT {
            let oldest = all.iter().filter(|(_, e)| !e.running).min_by_key(|(_, e)| e.made).map(|(id, _)| id.clone());
            let oldest = oldest.ok_or_else(|| Fault::broken(format!("{KEPT} commands run already")))?;
            all.remove(&oldest);
        }
        let made = all.values().map(|e| e.made).max().unwrap_or(0) + 1;
        let (id, container) = (names::id(), container.to_owned());
        let exec = Exec { made, container, asked, started: false, running: false, exit_code: None, resize: None };
        all.insert(id.clone(), exec);
        Ok(id)
    }

    fn with<T>(&self, id: &str, change: impl FnOnce(&mut Exec) -> T) -> Result<T> {
        let mut all = self.all.lock();
        all.get_mut(id).map(change).ok_or_else(|| Fault::missing(format!("No such exec instance: {id}")))
    }

    /// Forgets those of a container.
    pub fn forget(&self, container: &str) {
        self.all.lock().retain(|_, e| e.container != container);
    }

    /// Those of a container that run.
    pub fn of(&self, container: &str) -> Vec<String> {
        let all = self.all.lock();
        all.iter().filter(|(_, e)| e.running && e.container == container).map(|(id, _)| id.clone()).collect()
    }

    fn ended(&self, id: &str, code: i32) {
        let _ = self.with(id, |e| (e.running, e.exit_code, e.resize) = (false, Some(code), None));
    }
}

/// `POST /containers/{id}/exec`.
///
/// # Errors
/// 404, 409 when it does not run, 400 for what cannot be obeyed.
pub async fn create(mut call: Call, id: &str) -> Result<Answer> {
    let container = call.face.shown(id)?;
    let document: Value = call.json().await?;
    let asked: Asked =
        serde_json::from_value(without_nulls(document)).map_err(|e| Fault::bad(format!("invalid JSON: {e}")))?;
    // Said by old clients of what they attach to when they start it.
    let mut rest = asked.rest.clone();
    // Told again what the path says (docker-py), and whether the client waits.
    rest.remove("Container");
    rest.remove("Detach");
    only_empty("", &rest)?;
    if asked.cmd.is_empty() {
        return Err(Fault::bad("No exec command specified"));
    }
    match container.phase() {
        Phase::Running => {}
        Phase::Paused => {
            return Err(Fault::conflict(format!("container {id} is paused, unpause the container before exec")));
        }
        Phase::Restarting => {
            return Err(Fault::conflict(format!("container {id} is restarting, wait until the container is running")));
        }
        _ => return Err(Fault::conflict(format!("container {} is not running", container.id))),
    }
    let command = asked.cmd.join(" ");
    let made = call.face.execs.add(&container.id, asked)?;
    call.face.tell(&container.record(), &format!("exec_create: {command}"), &[("execID", made.clone())]);
    Ok(status_json(StatusCode::CREATED, &json!({ "Id": made })))
}

fn spec_of(exec: &Exec, detach: bool) -> ExecSpec {
    let asked = &exec.asked;
    let given = |text: &String| Some(text.clone()).filter(|t| !t.is_empty());
    let env = asked.env.iter().filter_map(|e| e.split_once('=')).map(|(k, v)| (k.to_owned(), v.to_owned()));
    ExecSpec {
        container_id: exec.container.clone(),
        command: asked.cmd.clone(),
        tty: asked.tty,
        stdin: asked.attach_stdin && !detach,
        stdout: (asked.attach_stdout || asked.tty) && !detach,
        stderr: asked.attach_stderr && !asked.tty && !detach,
        env: env.collect(),
        working_dir: given(&asked.working_dir),
        user: given(&asked.user),
    }
}

/// `POST /exec/{id}/start`.
///
/// # Errors
/// 404, 409 when it was started before or its container does not run.
pub async fn start(mut call: Call, id: &str) -> Result<Answer> {
    let document: Value = call.json().await?;
    let mut begin: Begin =
        serde_json::from_value(without_nulls(document)).map_err(|e| Fault::bad(format!("invalid JSON: {e}")))?;
    // What dockerode says to itself.
    for own in ["hijack", "stdin"] {
        begin.rest.remove(own);
    }
    only_empty("", &begin.rest)?;
    let face = call.face.clone();
    let (spec, keys, size) = face.execs.with(id, |exec| {
        if exec.started {
            return Err(Fault::conflict(format!("exec instance {id} has already run")));
        }
        if begin.tty != exec.asked.tty && !begin.detach && begin.tty {
            return Err(Fault::bad("the command was made without a terminal"));
        }
        let keys = Detach::parse(Some(exec.asked.detach_keys.as_str()).filter(|k| !k.is_empty()))?;
        let size = [&begin.console_size, &exec.asked.console_size].into_iter().find(|s| s.len() == 2).cloned();
        Ok((spec_of(exec, begin.detach), keys, size))
    })??;
    let container = face.shown(&spec.container_id)?;
    if container.phase() != Phase::Running {
        return Err(Fault::conflict(format!("container {} is not running", container.id)));
    }
    let hijacked = if begin.detach { None } else { Some(hijack(call.request, spec.tty)) };
    face.execs.with(id, |exec| (exec.started, exec.running) = (true, true))?;
    let run = Run { face, id: id.to_owned(), container, spec, size, keys };
    let Some((answer, coming)) = hijacked else {
        let session = run.begin().await.map_err(|fault| Fault { status: StatusCode::BAD_REQUEST, ..fault })?;
        // Its end is waited for by a task of its own: who drops a session ends its command.
        tokio::spawn(async move { wait(&run.face, &run.id, session).await });
        return Ok(empty(StatusCode::OK));
    };
    tokio::spawn(async move {
        // The head of the answer is out before the command begins: what comes together with the head is lost on clients that
        // read it through a buffer (docker-py).
        match coming.wire().await {
            Some(wire) => run.converse(wire).await,
            None => run.face.execs.ended(&run.id, 137),
        }
    });
    Ok(answer)
}

/// A command on its way.
struct Run {
    face: Arc<Face>,
    id: String,
    container: Arc<crate::face::Container>,
    spec: ExecSpec,
    size: Option<Vec<u16>>,
    keys: Option<Detach>,
}

impl Run {
    /// Begins it. One that cannot be started has ended, with the status that a shell would give.
    async fn begin(&self) -> Result<Session> {
        let begun = self.face.engine.exec(self.spec.clone()).await;
        self.face.tell(&self.container.record(), "exec_start", &[("execID", self.id.clone())]);
        let session = begun.map_err(|error| {
            let fault = Fault::from(error);
            let code = match fault.message.as_str() {
                m if m.contains("not found in $PATH") || m.contains("no such file or directory") => 127,
                _ => 126,
            };
            self.face.execs.ended(&self.id, code);
            fault
        })?;
        if let (Some(resize), Some(size)) = (&session.resize, &self.size) {
            let _ = resize.send((size[1], size[0])).await;
        }
        let resize = session.resize.clone();
        self.face.execs.with(&self.id, |exec| exec.resize = resize)?;
        Ok(session)
    }

    /// Carries its streams until it ends.
    async fn converse(self, mut wire: Wire) {
        let tty = self.spec.tty;
        let session = match self.begin().await {
            Ok(session) => session,
            Err(fault) => {
                let reason = fault.message.strip_prefix("exec: ").unwrap_or(&fault.message);
                let text =
                    format!("OCI runtime exec failed: exec failed: unable to start container process: {reason}\r\n");
                let bytes = if tty { Bytes::from(text) } else { frame(STDERR, text.as_bytes()) };
                let _ = wire.write_all(&bytes).await;
                let _ = wire.shutdown().await;
                return;
            }
        };
        let (session, exit) = without_exit(session);
        let (over, ended) = tokio::sync::oneshot::channel::<()>();
        // A client asks for the status as soon as its streams end.
        let last = async { drop(ended.await) };
        let streams = carry(wire, session, tty, self.keys.clone().filter(|_| tty), last);
        let ended = async {
            let code = exit.await.unwrap_or(137);
            self.face.execs.ended(&self.id, code);
            let _ = over.send(());
            code
        };
        let (code, _) = tokio::join!(ended, streams);
        if let Ok(container) = self.face.shown(&self.container.id) {
            let about = [("execID", self.id.clone()), ("exitCode", code.to_string())];
            self.face.tell(&container.record(), "exec_die", &about);
        }
    }
}

type Exit = std::pin::Pin<Box<dyn Future<Output = std::result::Result<i32, RuntimeError>> + Send>>;

fn without_exit(mut session: Session) -> (Session, Exit) {
    let exit = std::mem::replace(&mut session.exit, Box::pin(std::future::pending()));
    (session, exit)
}

async fn wait(face: &Arc<Face>, id: &str, mut session: Session) {
    if let Some(mut output) = session.stdout.take() {
        let mut sink = vec![0; 4096];
        while output.read(&mut sink).await.is_ok_and(|n| n > 0) {}
    }
    let code = session.exit.await.unwrap_or(137);
    face.execs.ended(id, code);
}

/// `POST /exec/{id}/resize`.
///
/// # Errors
/// 404, 400 without a size, 409 without a terminal.
pub async fn resize(call: Call, id: &str) -> Result<Answer> {
    let (rows, columns) = crate::containers::control::size(&call.query)?;
    let terminal = call.face.execs.with(id, |e| e.resize.clone())?;
    let terminal =
        terminal.ok_or_else(|| Fault::conflict(format!("exec instance {id} has no terminal that is open")))?;
    let _ = terminal.send((columns, rows)).await;
    Ok(empty(StatusCode::OK))
}

/// `GET /exec/{id}/json`.
///
/// # Errors
/// 404.
pub fn inspect(call: &Call, id: &str) -> Result<Answer> {
    let document = call.face.execs.with(id, |e| {
        let (program, args) = e.asked.cmd.split_first().map_or(("", &[][..]), |(p, a)| (p.as_str(), a));
        json!({
            "ID": id, "Running": e.running, "ExitCode": e.exit_code, "CanRemove": !e.running, "ContainerID": e.container,
            "OpenStdin": e.asked.attach_stdin, "OpenStdout": e.asked.attach_stdout, "OpenStderr": e.asked.attach_stderr,
            "DetachKeys": e.asked.detach_keys, "Pid": 0,
            "ProcessConfig": {
                "tty": e.asked.tty, "entrypoint": program, "arguments": args, "privileged": false, "user": e.asked.user,
            },
        })
    })?;
    Ok(json(&document))
}
