//! A runtime in memory: commands are names of behaviours.

use std::net::Ipv4Addr;
use std::path::PathBuf;
use std::time::Duration;

use engine::runtime::*;
use parking_lot::Mutex;
use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream};
use tokio::sync::{broadcast, mpsc, oneshot};
use tokio_util::sync::CancellationToken;

pub(in crate::server) struct Fake {
    pub(in crate::server) sandboxes: Mutex<Vec<SandboxStatus>>,
    pub(in crate::server) containers: Mutex<Vec<ContainerStatus>>,
    pub(in crate::server) events: broadcast::Sender<RuntimeEvent>,
    /// Cancelled when a command's session is dropped before it ended.
    pub(in crate::server) killed: CancellationToken,
}

impl Default for Fake {
    fn default() -> Self {
        Fake {
            sandboxes: Mutex::default(),
            containers: Mutex::default(),
            events: broadcast::channel(16).0,
            killed: CancellationToken::new(),
        }
    }
}

pub(in crate::server) const RUNNING: ContainerState = ContainerState::Running { started_at_ms: 1 };

pub(in crate::server) fn exited() -> ContainerState {
    let record = ExitRecord {
        exit_code: 0,
        signal: None,
        oom_killed: false,
        started_at_ms: 1,
        finished_at_ms: 2,
        start_error: None,
    };
    ContainerState::Exited(record)
}

impl Fake {
    /// A pod `ns/web` with one container `c`.
    pub(in crate::server) fn web(&self, log_path: PathBuf, state: ContainerState) {
        self.attempt(0, log_path, state);
        let spec =
            SandboxSpec { id: "uid".into(), namespace: "ns".into(), name: "web".into(), ..SandboxSpec::default() };
        let ip = Some(Ipv4Addr::LOCALHOST.into());
        self.sandboxes.lock().push(SandboxStatus { spec, ready: true, ip, created_at_ms: 1 });
    }

    /// A further run of its container.
    pub(in crate::server) fn attempt(&self, attempt: u32, log_path: PathBuf, state: ContainerState) {
        let spec = ContainerSpec {
            id: format!("c{attempt}"),
            sandbox_id: "uid".into(),
            name: "c".into(),
            attempt,
            log_path,
            ..ContainerSpec::default()
        };
        self.containers.lock().push(ContainerStatus {
            spec,
            image_id: String::new(),
            user: None,
            stop_signal: "SIGTERM".to_owned(),
            state,
        });
    }

    pub(in crate::server) fn end(&self) {
        for container in self.containers.lock().iter_mut() {
            container.state = exited();
        }
        let _ = self.events.send(RuntimeEvent::Container { sandbox_id: "uid".into(), container_id: "c0".into() });
    }
}

struct Process {
    stdin: DuplexStream,
    stdout: Option<DuplexStream>,
    stderr: DuplexStream,
    sizes: mpsc::Receiver<(u16, u16)>,
}

impl Process {
    async fn say(&mut self, text: &[u8]) {
        let _ = self.stdout.as_mut().unwrap().write_all(text).await;
    }

    async fn run(mut self, command: &[String], left: CancellationToken) -> i32 {
        let words: Vec<&str> = command.iter().map(String::as_str).collect();
        match words[..] {
            ["echo", text] => self.say(text.as_bytes()).await,
            ["cat"] => {
                let _ = tokio::io::copy(&mut self.stdin, self.stdout.as_mut().unwrap()).await;
            }
            ["zeros", count] => self.say(&vec![0; count.parse().unwrap()]).await,
            ["fail", status] => {
                let _ = self.stderr.write_all(b"bad").await;
                return status.parse().unwrap();
            }
            ["size"] => {
                let (columns, rows) = self.sizes.recv().await.unwrap();
                self.say(format!("{columns}x{rows}").as_bytes()).await;
            }
            ["leave"] => {
                // Something left behind holds the output open, and still has something to say.
                let mut stdout = self.stdout.take().unwrap();
                tokio::spawn(async move {
                    let _ = stdout.write_all(b"late").await;
                    left.cancelled().await;
                });
            }
            ["hang"] => std::future::pending().await,
            _ => panic!("{words:?}"),
        }
        0
    }
}

impl Fake {
    fn session(&self, command: Vec<String>, tty: bool) -> Session {
        let (stdin, their_stdin) = tokio::io::duplex(1024);
        let (stdout, their_stdout) = tokio::io::duplex(1024);
        let (stderr, their_stderr) = tokio::io::duplex(1024);
        let (resize, sizes) = mpsc::channel(4);
        let process = Process { stdin: their_stdin, stdout: Some(their_stdout), stderr: their_stderr, sizes };
        let (done, exit) = oneshot::channel();
        let killed = self.killed.clone();
        let guard = killed.clone().drop_guard();
        tokio::spawn(async move {
            tokio::select! {
                code = process.run(&command, killed.clone()) => { let _ = done.send(code); }
                () = killed.cancelled() => {}
            }
        });
        Session {
            stdin: Some(Box::pin(stdin)),
            stdout: Some(Box::pin(stdout)),
            stderr: (!tty).then(|| Box::pin(stderr) as Output),
            resize: tty.then_some(resize),
            exit: Box::pin(async move {
                let code = exit.await.unwrap_or(137);
                let _ = guard.disarm();
                Ok(code)
            }),
        }
    }
}

impl ContainerRuntime for Fake {
    async fn run_sandbox(&self, _: SandboxSpec) -> Result<SandboxStatus, RuntimeError> {
        unreachable!("the server only looks")
    }
    async fn stop_sandbox(&self, _: &str) -> Result<(), RuntimeError> {
        unreachable!("the server only looks")
    }
    async fn remove_sandbox(&self, _: &str) -> Result<(), RuntimeError> {
        unreachable!("the server only looks")
    }
    async fn sandboxes(&self) -> Vec<SandboxStatus> {
        self.sandboxes.lock().clone()
    }
    async fn create_container(&self, _: ContainerSpec) -> Result<(), RuntimeError> {
        unreachable!("the server only looks")
    }
    async fn start_container(&self, _: &str) -> Result<(), RuntimeError> {
        unreachable!("the server only looks")
    }
    async fn stop_container(&self, _: &str, _: Duration) -> Result<(), RuntimeError> {
        unreachable!("the server only looks")
    }
    async fn remove_container(&self, _: &str) -> Result<(), RuntimeError> {
        unreachable!("the server only looks")
    }
    async fn containers(&self, sandbox: Option<&str>) -> Vec<ContainerStatus> {
        let all = self.containers.lock();
        all.iter().filter(|c| sandbox.is_none_or(|id| id == c.spec.sandbox_id)).cloned().collect()
    }
    async fn update_resources(&self, _: &str, _: Resources) -> Result<(), RuntimeError> {
        unreachable!("the server only looks")
    }
    async fn update_sandbox(&self, _: &str, _: Resources) -> Result<(), RuntimeError> {
        unreachable!("the server only looks")
    }
    async fn written(&self, _: &str) -> Result<Written, RuntimeError> {
        Ok(Written { bytes: 4096, files: 1 })
    }
    async fn exec(&self, spec: ExecSpec) -> Result<Session, RuntimeError> {
        match spec.command[0].as_str() {
            "missing" => Err(RuntimeError::Invalid("exec: \"missing\": not found in $PATH".to_owned())),
            _ => Ok(self.session(spec.command, spec.tty)),
        }
    }
    async fn attach(&self, _: &str) -> Result<Session, RuntimeError> {
        Ok(self.session(vec!["cat".to_owned()], false))
    }
    async fn connect(&self, sandbox: &str, port: u16) -> Result<Box<dyn Duplex>, RuntimeError> {
        assert_eq!(sandbox, "uid");
        let (near, mut far) = tokio::io::duplex(1024);
        match port {
            // Echoes, and ends when the client has.
            7 => drop(tokio::spawn(async move {
                let (mut read, mut write) = tokio::io::split(far);
                let _ = tokio::io::copy(&mut read, &mut write).await;
                let _ = write.shutdown().await;
            })),
            // Answers when it has heard all.
            80 => drop(tokio::spawn(async move {
                let mut request = Vec::new();
                let _ = far.read_to_end(&mut request).await;
                let _ = far.write_all(format!("{} bytes", request.len()).as_bytes()).await;
            })),
            _ => return Err(RuntimeError::Invalid("connection refused".to_owned())),
        }
        Ok(Box::new(near))
    }
    async fn usage(&self, _: &str) -> Result<Usage, RuntimeError> {
        Ok(Usage::default())
    }
    fn events(&self) -> broadcast::Receiver<RuntimeEvent> {
        self.events.subscribe()
    }
}
