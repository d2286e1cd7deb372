//! A container runtime in memory. Containers run until they are told to end; commands run on the host.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr};
use std::process::Stdio;
use std::time::Duration;

use engine::runtime::*;
use parking_lot::Mutex;
use tokio::sync::broadcast;

#[derive(Default)]
struct State {
    sandboxes: BTreeMap<String, SandboxStatus>,
    containers: BTreeMap<String, ContainerStatus>,
    log: Vec<String>,
    start_error: Option<String>,
    stubborn: bool,
    next_ip: u8,
    attached: BTreeMap<String, (tokio::io::DuplexStream, tokio::io::DuplexStream)>,
}

pub(crate) struct FakeRuntime {
    state: Mutex<State>,
    events: broadcast::Sender<RuntimeEvent>,
    ends: tokio::sync::Notify,
}

impl Default for FakeRuntime {
    fn default() -> Self {
        FakeRuntime { state: Mutex::default(), events: broadcast::channel(256).0, ends: tokio::sync::Notify::new() }
    }
}

fn now_ms() -> i64 {
    jiff::Timestamp::now().as_millisecond()
}

impl FakeRuntime {
    /// What was asked of it, in order.
    pub(crate) fn log(&self) -> Vec<String> {
        self.state.lock().log.clone()
    }

    fn note(&self, line: String) {
        self.state.lock().log.push(line);
    }

    fn tell(&self, id: &str) {
        let sandbox_id = self.state.lock().containers.get(id).map(|c| c.spec.sandbox_id.clone()).unwrap_or_default();
        let _nobody = self.events.send(RuntimeEvent::Container { sandbox_id, container_id: id.to_owned() });
        self.ends.notify_waiters();
    }

    /// Containers do not end at the stop signal, only when killed.
    pub(crate) fn set_stubborn(&self) {
        self.state.lock().stubborn = true;
    }

    /// Starting fails from now on with that message, or no more.
    pub(crate) fn fail_starts(&self, message: Option<&str>) {
        self.state.lock().start_error = message.map(str::to_owned);
    }

    /// The newest container of that name in a sandbox.
    pub(crate) fn container(&self, sandbox: &str, name: &str) -> Option<ContainerStatus> {
        let state = self.state.lock();
        let of = |c: &&ContainerStatus| c.spec.sandbox_id == sandbox && c.spec.name == name;
        state.containers.values().filter(of).max_by_key(|c| c.spec.attempt).cloned()
    }

    pub(crate) fn sandbox(&self, id: &str) -> Option<SandboxStatus> {
        self.state.lock().sandboxes.get(id).cloned()
    }

    /// A running container ends by itself.
    pub(crate) fn exit(&self, sandbox: &str, name: &str, code: i32) {
        let id = self.container(sandbox, name).expect("a container").spec.id;
        self.end(&id, code, None);
    }

    /// The shim of a sandbox dies, and all in it.
    pub(crate) fn lose(&self, sandbox: &str) {
        let ids: Vec<String> = {
            let mut state = self.state.lock();
            state.sandboxes.get_mut(sandbox).expect("a sandbox").ready = false;
            state.containers.values().filter(|c| c.spec.sandbox_id == sandbox).map(|c| c.spec.id.clone()).collect()
        };
        for id in ids {
            self.end(&id, 137, None);
        }
        let _nobody = self.events.send(RuntimeEvent::Sandbox { sandbox_id: sandbox.to_owned() });
    }

    fn end(&self, id: &str, code: i32, error: Option<String>) {
        {
            let mut state = self.state.lock();
            let Some(c) = state.containers.get_mut(id) else { return };
            let started = match c.state {
                ContainerState::Running { started_at_ms } => started_at_ms,
                ContainerState::Created if error.is_some() => 0,
                _ => return,
            };
            c.state = ContainerState::Exited(ExitRecord {
                exit_code: code,
                signal: None,
                oom_killed: false,
                started_at_ms: started,
                finished_at_ms: now_ms(),
                start_error: error,
            });
        }
        self.tell(id);
    }

    fn running(&self, id: &str) -> bool {
        let state = self.state.lock();
        state.containers.get(id).is_some_and(|c| matches!(c.state, ContainerState::Running { .. }))
    }
}

fn missing(kind: &'static str, id: &str) -> RuntimeError {
    RuntimeError::NotFound { kind, id: id.to_owned() }
}

impl ContainerRuntime for FakeRuntime {
    async fn run_sandbox(&self, spec: SandboxSpec) -> Result<SandboxStatus, RuntimeError> {
        let mut state = self.state.lock();
        state.log.push(format!("run {}", spec.id));
        if let Some(found) = state.sandboxes.get(&spec.id).filter(|s| s.ready) {
            return Ok(found.clone());
        }
        state.next_ip += 1;
        let ip = IpAddr::V4(Ipv4Addr::new(10, 0, 0, state.next_ip));
        let status =
            SandboxStatus { ready: true, ip: (!spec.host_network).then_some(ip), created_at_ms: now_ms(), spec };
        state.sandboxes.insert(status.spec.id.clone(), status.clone());
        Ok(status)
    }

    async fn stop_sandbox(&self, id: &str) -> Result<(), RuntimeError> {
        self.note(format!("down {id}"));
        if self.state.lock().sandboxes.contains_key(id) {
            self.lose(id);
        }
        Ok(())
    }

    async fn remove_sandbox(&self, id: &str) -> Result<(), RuntimeError> {
        let mut state = self.state.lock();
        state.log.push(format!("remove {id}"));
        state.sandboxes.remove(id);
        state.containers.retain(|_, c| c.spec.sandbox_id != id);
        drop(state);
        let _nobody = self.events.send(RuntimeEvent::Sandbox { sandbox_id: id.to_owned() });
        Ok(())
    }

    async fn sandboxes(&self) -> Vec<SandboxStatus> {
        self.state.lock().sandboxes.values().cloned().collect()
    }

    async fn create_container(&self, spec: ContainerSpec) -> Result<(), RuntimeError> {
        let mut state = self.state.lock();
        state.log.push(format!("create {} {}", spec.name, spec.attempt));
        let image_id = format!("{}@sha256:00", spec.image);
        let user = Some(ProcessUser { uid: 7, gid: 8, groups: vec![8, 9] });
        let stop_signal = spec.stop_signal.clone().unwrap_or_else(|| "SIGTERM".to_owned());
        let status = ContainerStatus { image_id, user, stop_signal, state: ContainerState::Created, spec };
        state.containers.entry(status.spec.id.clone()).or_insert(status);
        Ok(())
    }

    async fn start_container(&self, id: &str) -> Result<(), RuntimeError> {
        let error = self.state.lock().start_error.clone();
        if let Some(message) = error {
            self.end(id, 128, Some(message.clone()));
            return Err(RuntimeError::Failed { operation: "start container", message });
        }
        {
            let mut state = self.state.lock();
            let c = state.containers.get_mut(id).ok_or_else(|| missing("container", id))?;
            c.state = ContainerState::Running { started_at_ms: now_ms() };
            let line = format!("start {}", c.spec.name);
            state.log.push(line);
        }
        self.tell(id);
        Ok(())
    }

    async fn stop_container(&self, id: &str, grace: Duration) -> Result<(), RuntimeError> {
        let (name, stubborn) = {
            let state = self.state.lock();
            (state.containers.get(id).map(|c| c.spec.name.clone()).unwrap_or_default(), state.stubborn)
        };
        self.note(format!("stop {name} {}", grace.as_secs_f32().round()));
        // Somebody may wait for just this.
        self.tell(id);
        if !stubborn {
            self.end(id, 143, None);
            return Ok(());
        }
        let deadline = tokio::time::Instant::now() + grace;
        while self.running(id) {
            let ended = self.ends.notified();
            if tokio::time::timeout_at(deadline, ended).await.is_err() {
                self.end(id, 137, None);
            }
        }
        Ok(())
    }

    async fn remove_container(&self, id: &str) -> Result<(), RuntimeError> {
        self.state.lock().containers.remove(id);
        Ok(())
    }

    async fn containers(&self, sandbox: Option<&str>) -> Vec<ContainerStatus> {
        let state = self.state.lock();
        let of = |c: &&ContainerStatus| sandbox.is_none_or(|s| c.spec.sandbox_id == s);
        state.containers.values().filter(of).cloned().collect()
    }

    async fn update_resources(&self, id: &str, r: Resources) -> Result<(), RuntimeError> {
        let mut state = self.state.lock();
        let c = state.containers.get_mut(id).ok_or_else(|| missing("container", id))?;
        c.spec.resources = r.clone();
        let line = format!("update {} {:?}", c.spec.name, r.cpu_quota_us.unwrap_or(0));
        state.log.push(line);
        Ok(())
    }

    async fn update_sandbox(&self, id: &str, r: Resources) -> Result<(), RuntimeError> {
        let mut state = self.state.lock();
        let s = state.sandboxes.get_mut(id).ok_or_else(|| missing("sandbox", id))?;
        s.spec.resources = r.clone();
        state.log.push(format!("update pod {:?}", r.cpu_quota_us.unwrap_or(0)));
        Ok(())
    }

    async fn written(&self, _: &str) -> Result<Written, RuntimeError> {
        Ok(Written::default())
    }

    async fn exec(&self, spec: ExecSpec) -> Result<Session, RuntimeError> {
        if !self.running(&spec.container_id) {
            return Err(missing("container", &spec.container_id));
        }
        let (program, args) = spec.command.split_first().ok_or_else(|| RuntimeError::Invalid("no command".into()))?;
        let pipe = |wanted: bool| if wanted { Stdio::piped() } else { Stdio::null() };
        let failed = |e: std::io::Error| RuntimeError::Failed { operation: "exec", message: e.to_string() };
        let mut child = tokio::process::Command::new(program)
            .args(args)
            .stdin(pipe(spec.stdin))
            .stdout(pipe(spec.stdout))
            .stderr(pipe(spec.stderr && !spec.tty))
            .kill_on_drop(true)
            .spawn()
            .map_err(failed)?;
        Ok(Session {
            stdin: child.stdin.take().map(|s| Box::pin(s) as Input),
            stdout: child.stdout.take().map(|s| Box::pin(s) as Output),
            stderr: child.stderr.take().map(|s| Box::pin(s) as Output),
            resize: spec.tty.then(|| tokio::sync::mpsc::channel(4).0),
            exit: Box::pin(async move {
                let status = child.wait().await;
                let status = status.map_err(|e| RuntimeError::Failed { operation: "wait", message: e.to_string() })?;
                Ok(status.code().unwrap_or(137))
            }),
        })
    }

    async fn attach(&self, id: &str) -> Result<Session, RuntimeError> {
        let (stdin, input) = tokio::io::duplex(4096);
        let (stdout, output) = tokio::io::duplex(4096);
        self.state.lock().attached.insert(id.to_owned(), (input, output));
        Ok(Session {
            stdin: Some(Box::pin(stdin)),
            stdout: Some(Box::pin(stdout)),
            stderr: None,
            resize: None,
            exit: Box::pin(std::future::pending()),
        })
    }

    async fn connect(&self, _: &str, port: u16) -> Result<Box<dyn Duplex>, RuntimeError> {
        match tokio::net::TcpStream::connect(("127.0.0.1", port)).await {
            Ok(stream) => Ok(Box::new(stream)),
            Err(e) => Err(RuntimeError::Failed { operation: "connect", message: e.to_string() }),
        }
    }

    async fn usage(&self, _: &str) -> Result<Usage, RuntimeError> {
        Ok(Usage::default())
    }

    fn events(&self) -> broadcast::Receiver<RuntimeEvent> {
        self.events.subscribe()
    }
}
