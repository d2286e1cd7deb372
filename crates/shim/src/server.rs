//! The shim's loop: one thread, one poll(2) over its listener, its clients, its containers' streams, its workers and
//! SIGCHLD. Nothing in it blocks: what could (libcontainer, a slow client) is in a worker or is dropped.

use std::collections::{BTreeMap, VecDeque};
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::PathBuf;
use std::time::{Duration, Instant};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::{SigSet, Signal};
use nix::sys::signalfd::{SfdFlags, SignalFd};
use nix::unistd::Pid;

use crate::container::{Container, Interest, Ready};
use crate::proto::{Call, ContainerPhase, Fault, Message, Reply, SandboxInit};
use crate::{launch, sandbox, wire};

/// Connections at most; the engine uses one, tools a few more.
const CLIENTS_MAX: usize = 32;
/// Output is read in pieces of this size.
const CHUNK: usize = 16 * 1024;
/// Ended processes that nobody has claimed yet, at most (see [`Server::reap`]).
pub(crate) const UNCLAIMED_MAX: usize = 256;
/// A worker that takes longer is stuck (a mount that hangs) and is killed.
pub(crate) const WORKER_LIMIT: Duration = Duration::from_secs(120);

/// A command that runs in a container.
pub(crate) struct Session {
    pub client: u64,
    pub pid: i32,
}

/// What a worker works for.
pub(crate) enum Purpose {
    Start { id: String },
    Exec { tty: bool, ours: Vec<OwnedFd>, streams: crate::proto::Streams },
}

/// A forked worker.
pub(crate) struct Worker {
    pub worker_pid: i32,
    pub socket: OwnedFd,
    pub deadline: Instant,
    pub purpose: Purpose,
    /// Who asked, to be answered when it is done.
    pub client: u64,
    pub seq: u64,
    /// The process it made.
    pub pid: Option<i32>,
}

/// A shim.
pub(crate) struct Server {
    pub pod_dir: PathBuf,
    pub pod_init: Option<Pid>,
    listener: OwnedFd,
    signals: SignalFd,
    pub clients: BTreeMap<u64, OwnedFd>,
    pub containers: BTreeMap<String, Container>,
    pub workers: BTreeMap<u64, Worker>,
    pub sessions: BTreeMap<u64, Session>,
    /// Exit statuses of children that a worker has not told us of yet.
    pub unclaimed: VecDeque<(i32, i32)>,
    pub next: u64,
    pub stopping: bool,
    /// Asked by a signal to end as soon as no container runs.
    ending: bool,
    chunk: Vec<u8>,
}

/// Who a descriptor belongs to.
enum Source {
    Listener,
    Signals,
    Client(u64),
    Worker(u64),
    Container(String, Ready),
}

/// Descriptors to poll, and whose they are, by position.
struct PollSet<'a> {
    fds: Vec<PollFd<'a>>,
    sources: Vec<Source>,
}

impl<'a> PollSet<'a> {
    fn watch<F: AsFd>(&mut self, fd: &'a F, flags: PollFlags, source: Source) {
        self.fds.push(PollFd::new(fd.as_fd(), flags));
        self.sources.push(source);
    }
}

impl Server {
    /// Makes the sandbox and listens. What was made is undone when a step fails.
    pub fn new(init: &SandboxInit) -> Result<Self, Box<dyn std::error::Error>> {
        let made = Self::make(init);
        if made.is_err() {
            sandbox::unpin(&init.pod_dir);
        }
        made
    }

    fn make(init: &SandboxInit) -> Result<Self, Box<dyn std::error::Error>> {
        let mut mask = SigSet::empty();
        mask.add(Signal::SIGCHLD);
        mask.add(Signal::SIGTERM);
        mask.thread_block()?;
        let signals = SignalFd::with_flags(&mask, SfdFlags::SFD_CLOEXEC | SfdFlags::SFD_NONBLOCK)?;
        let pod_init = sandbox::enter(init)?;
        let listener = wire::listen_at(&launch::socket_path(&init.pod_dir))?;
        std::fs::create_dir_all(init.pod_dir.join("state"))?;
        std::fs::write(init.pod_dir.join("shim.pid"), nix::unistd::getpid().to_string())?;
        Ok(Server {
            pod_dir: init.pod_dir.clone(),
            pod_init,
            listener,
            signals,
            clients: BTreeMap::new(),
            containers: BTreeMap::new(),
            workers: BTreeMap::new(),
            sessions: BTreeMap::new(),
            unclaimed: VecDeque::new(),
            next: 1,
            stopping: false,
            ending: false,
            chunk: vec![0; CHUNK],
        })
    }

    /// Undoes the sandbox before it was used.
    pub fn abandon(mut self) {
        self.shut_down();
        sandbox::unpin(&self.pod_dir);
    }

    /// Serves until told to shut down.
    pub fn run(mut self) {
        while !self.stopping {
            for container in self.containers.values_mut() {
                container.sweep();
            }
            match self.wait() {
                Ok(sources) => sources.into_iter().for_each(|s| self.handle(s)),
                Err(e) => {
                    eprintln!("poll: {e}");
                    std::thread::sleep(Duration::from_millis(100));
                }
            }
            self.expire_workers();
            self.stopping |= self.ending && self.is_idle();
        }
        self.shut_down();
    }

    fn is_idle(&self) -> bool {
        let busy = |p: &ContainerPhase| matches!(p, ContainerPhase::Starting | ContainerPhase::Running { .. });
        !self.containers.values().any(|c| busy(&c.phase))
    }

    /// The sources that are ready now. Built anew each time: tens of descriptors, and no registration to go stale.
    fn wait(&self) -> io::Result<Vec<Source>> {
        let read = PollFlags::POLLIN;
        let mut set = PollSet { fds: Vec::with_capacity(16), sources: Vec::with_capacity(16) };
        set.watch(&self.listener, read, Source::Listener);
        set.watch(&self.signals, read, Source::Signals);
        self.clients.iter().for_each(|(id, fd)| set.watch(fd, read, Source::Client(*id)));
        self.workers.iter().for_each(|(id, w)| set.watch(&w.socket, read, Source::Worker(*id)));
        for (id, container) in &self.containers {
            container.for_each_fd(|fd, ready, interest| {
                let flags = match interest {
                    Interest::Read => read,
                    Interest::Write => PollFlags::POLLOUT,
                    Interest::Hangup => PollFlags::empty(),
                };
                set.watch(fd, flags, Source::Container(id.clone(), ready));
            });
        }
        let timeout = if self.workers.is_empty() { PollTimeout::NONE } else { PollTimeout::from(1000u16) };
        match poll(&mut set.fds, timeout) {
            Ok(_) | Err(nix::errno::Errno::EINTR) => {}
            Err(e) => return Err(e.into()),
        }
        let happened = set.fds.iter().map(|fd| fd.any().unwrap_or(true));
        Ok(set.sources.into_iter().zip(happened).filter(|(_, ready)| *ready).map(|(source, _)| source).collect())
    }

    fn handle(&mut self, source: Source) {
        match source {
            Source::Listener => self.accept(),
            Source::Signals => {
                while let Ok(Some(signal)) = self.signals.read_signal() {
                    // At shutdown init signals everything. Containers get theirs; the shim sees them end, and then
                    // must not be what the host waits for.
                    self.ending |= signal.ssi_signo == Signal::SIGTERM as u32;
                }
                self.reap();
            }
            Source::Client(id) => self.read_client(id),
            Source::Worker(id) => self.read_worker(id),
            Source::Container(id, ready) => {
                if let Some(container) = self.containers.get_mut(&id) {
                    container.ready(ready, &mut self.chunk);
                }
            }
        }
    }

    fn accept(&mut self) {
        use std::os::fd::AsRawFd;

        use nix::sys::socket::{SockFlag, accept4};
        let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
        if let Ok(raw) = accept4(self.listener.as_raw_fd(), flags) {
            let fd = crate::sys::adopt(raw);
            if self.clients.len() < CLIENTS_MAX {
                self.clients.insert(self.next, fd);
                self.next += 1;
            }
        }
    }

    fn read_client(&mut self, id: u64) {
        let Some(client) = self.clients.get(&id) else { return };
        match wire::recv(client.as_fd()) {
            Ok(Some((bytes, _fds))) => match serde_json::from_slice::<Call>(&bytes) {
                Ok(call) => {
                    drop(bytes);
                    self.serve(id, call);
                }
                // A caller that speaks another language is not worth guessing at.
                Err(_) => self.drop_client(id),
            },
            Err(e) if e.kind() == io::ErrorKind::WouldBlock => {}
            Ok(None) | Err(_) => self.drop_client(id),
        }
    }

    /// A connection ended: the commands it had running in containers end with it.
    fn drop_client(&mut self, id: u64) {
        self.clients.remove(&id);
        let orphans: Vec<i32> = self.sessions.values().filter(|s| s.client == id).map(|s| s.pid).collect();
        orphans.into_iter().for_each(kill_session);
        for worker in self.workers.values().filter(|w| w.client == id) {
            if let (Purpose::Exec { .. }, Some(pid)) = (&worker.purpose, worker.pid) {
                kill_session(pid);
            }
        }
    }

    /// Sends to one client. One that does not read loses its connection: it can come back and ask for everything.
    pub fn send(&mut self, client: u64, message: &Message, fds: &[BorrowedFd<'_>]) {
        let Some(socket) = self.clients.get(&client) else { return };
        let sent = serde_json::to_vec(message).map_err(io::Error::from);
        if sent.and_then(|bytes| wire::send(socket.as_fd(), &bytes, fds)).is_err() {
            self.drop_client(client);
        }
    }

    /// Answers a call.
    pub fn reply(&mut self, client: u64, seq: u64, reply: Reply) {
        self.send(client, &Message::Reply { seq, reply }, &[]);
    }

    /// Answers a call with a fault.
    pub fn fault(&mut self, client: u64, seq: u64, fault: Fault) {
        self.reply(client, seq, Reply::Fault(fault));
    }

    /// Tells every client.
    pub fn broadcast(&mut self, message: &Message) {
        let ids: Vec<u64> = self.clients.keys().copied().collect();
        ids.into_iter().for_each(|id| self.send(id, message, &[]));
    }

    /// Lends the read buffer to something that needs the rest of `self`.
    pub fn with_chunk<T>(&mut self, f: impl FnOnce(&mut Self, &mut [u8]) -> T) -> T {
        let mut chunk = std::mem::take(&mut self.chunk);
        let result = f(self, &mut chunk);
        self.chunk = chunk;
        result
    }
}

/// The command and what it started in its own session.
pub(crate) fn kill_session(pid: i32) {
    let _ = nix::sys::signal::killpg(Pid::from_raw(pid), Signal::SIGKILL);
    let _ = nix::sys::signal::kill(Pid::from_raw(pid), Signal::SIGKILL);
}
