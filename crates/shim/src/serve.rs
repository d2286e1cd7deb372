//! What the shim does on request, and when a child of it ends.

use std::os::fd::{AsFd, OwnedFd};
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::fcntl::OFlag;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::{Signal, kill};
use nix::sys::socket::{AddressFamily, SockFlag, SockType, socket};
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::{Pid, pipe2};

use crate::container::Container;
use crate::proto::{Call, ContainerInit, ContainerPhase, ExitInfo, Fault, Message, Reply, Request, ShimState, Streams};
use crate::server::{Purpose, Server, Session, UNCLAIMED_MAX, WORKER_LIMIT, Worker, kill_session};
use crate::worker::{Command, Job, Report, Stdio, spawn};
use crate::{cgroup, exit, sys, time, wire};

/// Containers of one sandbox at most, ended ones included until deleted.
const CONTAINERS_MAX: usize = 512;
/// Commands running in a sandbox's containers at most.
const SESSIONS_MAX: usize = 256;

impl Server {
    pub(crate) fn serve(&mut self, client: u64, call: Call) {
        let seq = call.seq;
        let result = match call.req {
            Request::Create(init) => self.create(*init),
            Request::Start { id } => match self.start(client, seq, id) {
                // Answered when the worker reports.
                Ok(()) => return,
                Err(fault) => Err(fault),
            },
            Request::Signal { id, signal, all } => self.signal(&id, signal, all),
            Request::Delete { id } => self.delete(&id),
            Request::Exec { id, args, tty, streams, process } => {
                match self.exec(client, seq, &id, Command { args, process: *process }, tty, streams) {
                    Ok(()) => return,
                    Err(fault) => Err(fault),
                }
            }
            Request::ExecKill { session } => {
                self.sessions.get(&session).map(|s| kill_session(s.pid)).ok_or(Fault::NotFound).map(|()| Reply::Ok)
            }
            Request::Attach { id, streams, patient } => {
                match self.container(&id).and_then(|c| c.attach(streams, patient)) {
                    Ok((streams, fds)) => return self.reply_streams(client, seq, streams, 0, &fds),
                    Err(fault) => Err(fault),
                }
            }
            Request::Resize { id, cols, rows } => {
                self.container(&id).and_then(|c| c.resize(cols, rows)).map(|()| Reply::Ok)
            }
            Request::Socket { v6 } => match tcp_socket(v6) {
                Ok(fd) => return self.reply_streams(client, seq, Streams::default(), 0, &[fd]),
                Err(e) => Err(Fault::Failed(format!("socket: {e}"))),
            },
            Request::State => Ok(Reply::State(self.state())),
            Request::Shutdown => {
                self.stopping = true;
                Ok(Reply::Ok)
            }
        };
        self.reply(client, seq, result.unwrap_or_else(Reply::Fault));
    }

    fn reply_streams(&mut self, client: u64, seq: u64, streams: Streams, session: u64, fds: &[OwnedFd]) {
        let fds: Vec<_> = fds.iter().map(AsFd::as_fd).collect();
        self.send(client, &Message::Reply { seq, reply: Reply::Streams { streams, session } }, &fds);
    }

    fn container(&mut self, id: &str) -> Result<&mut Container, Fault> {
        self.containers.get_mut(id).ok_or(Fault::NotFound)
    }

    fn state(&self) -> ShimState {
        ShimState {
            pid: nix::unistd::getpid().as_raw(),
            pod_init: self.pod_init.map(Pid::as_raw),
            containers: self.containers.iter().map(|(id, c)| (id.clone(), c.phase.clone())).collect(),
        }
    }

    fn create(&mut self, init: ContainerInit) -> Result<Reply, Fault> {
        if let Some(existing) = self.containers.get(&init.id) {
            let same = existing.phase == ContainerPhase::Created;
            return if same { Ok(Reply::Ok) } else { Err(Fault::Conflict("the container exists already".into())) };
        }
        if self.containers.len() >= CONTAINERS_MAX {
            return Err(Fault::Conflict(format!("the sandbox holds {CONTAINERS_MAX} containers already")));
        }
        exit::remove(&self.pod_dir, &init.id);
        let id = init.id.clone();
        let container = Container::new(init).map_err(|e| Fault::Failed(format!("streams of the container: {e}")))?;
        self.containers.insert(id, container);
        Ok(Reply::Ok)
    }

    fn start(&mut self, client: u64, seq: u64, id: String) -> Result<(), Fault> {
        let state_dir = self.pod_dir.join("state");
        let serial = self.next;
        let container = self.container(&id)?;
        if container.phase != ContainerPhase::Created {
            return Err(Fault::Conflict("the container was started before".into()));
        }
        let job = Job {
            id: id.clone(),
            state_dir,
            bundle: container.init.bundle.clone(),
            tty: container.init.tty,
            stdio: container.take_stdio(),
            oom_score_adj: container.init.oom_score_adj,
            mapped: container.init.mapped.clone(),
            owner: (container.init.uid, container.init.gid),
            exec: None,
            serial,
        };
        container.phase = ContainerPhase::Starting;
        self.add_worker(client, seq, job, Purpose::Start { id })
    }

    fn add_worker(&mut self, client: u64, seq: u64, job: Job, purpose: Purpose) -> Result<(), Fault> {
        let (worker_pid, socket) = spawn(job).map_err(|e| Fault::Failed(format!("fork: {e}")))?;
        let deadline = Instant::now() + WORKER_LIMIT;
        self.workers.insert(self.next, Worker { worker_pid, socket, deadline, purpose, client, seq, pid: None });
        self.next += 1;
        Ok(())
    }

    fn exec(
        &mut self,
        client: u64,
        seq: u64,
        id: &str,
        command: Command,
        tty: bool,
        streams: Streams,
    ) -> Result<(), Fault> {
        let (state_dir, serial) = (self.pod_dir.join("state"), self.next);
        if self.sessions.len() + self.workers.len() >= SESSIONS_MAX {
            return Err(Fault::Conflict(format!("{SESSIONS_MAX} commands run in this sandbox already")));
        }
        let container = self.container(id)?;
        if !matches!(container.phase, ContainerPhase::Running { .. }) {
            return Err(Fault::Conflict("the container is not running".into()));
        }
        let (ours, stdio) = if tty {
            (Vec::new(), Stdio::default())
        } else {
            exec_pipes(container, streams).map_err(|e| Fault::Failed(format!("pipes: {e}")))?
        };
        let job = Job {
            id: id.to_owned(),
            state_dir,
            bundle: container.init.bundle.clone(),
            tty,
            stdio,
            oom_score_adj: container.init.oom_score_adj,
            mapped: None,
            owner: (container.init.uid, container.init.gid),
            exec: Some(command),
            serial,
        };
        self.add_worker(client, seq, job, Purpose::Exec { tty, ours, streams })
    }

    fn signal(&mut self, id: &str, signal: i32, all: bool) -> Result<Reply, Fault> {
        let container = self.container(id)?;
        let ContainerPhase::Running { pid, .. } = container.phase else {
            return match container.phase {
                // Nothing left to signal is what the caller wants in the end.
                ContainerPhase::Exited(_) => Ok(Reply::Ok),
                _ => Err(Fault::Conflict("the container is not running".into())),
            };
        };
        let signal = Signal::try_from(signal).map_err(|e| Fault::Failed(format!("signal {signal}: {e}")))?;
        if all {
            for pid in cgroup::processes(&container.init.cgroup) {
                let _ = kill(Pid::from_raw(pid), signal);
            }
        }
        // Reaped by nobody but us, so the number is still this process.
        match kill(Pid::from_raw(pid), signal) {
            Ok(()) | Err(Errno::ESRCH) => Ok(Reply::Ok),
            Err(e) => Err(Fault::Failed(format!("kill: {e}"))),
        }
    }

    fn delete(&mut self, id: &str) -> Result<Reply, Fault> {
        match self.containers.get(id).map(|c| &c.phase) {
            // Gone is what was asked for.
            None => return Ok(Reply::Ok),
            Some(ContainerPhase::Created | ContainerPhase::Exited(_)) => {}
            Some(_) => return Err(Fault::Conflict("the container runs".into())),
        }
        self.containers.remove(id);
        let _ = std::fs::remove_dir_all(self.pod_dir.join("state").join(id));
        exit::remove(&self.pod_dir, id);
        Ok(Reply::Ok)
    }

    pub(crate) fn read_worker(&mut self, key: u64) {
        let Some(worker) = self.workers.get(&key) else { return };
        let (report, fd) = match wire::recv(worker.socket.as_fd()) {
            Ok(Some((bytes, fds))) => match serde_json::from_slice::<Report>(&bytes) {
                Ok(report) => (report, fds.into_iter().next()),
                Err(e) => (Report::Failed(format!("worker: {e}")), None),
            },
            Ok(None) | Err(_) => (Report::Failed("the starting process ended without a word".into()), None),
        };
        match report {
            Report::Pid(pid) => {
                if let Some(worker) = self.workers.get_mut(&key) {
                    worker.pid = Some(pid);
                }
            }
            Report::Console => self.console(key, fd),
            Report::Started => self.finish_worker(key, Ok(())),
            Report::Failed(message) => self.finish_worker(key, Err(message)),
        }
    }

    /// A worker ended: what it still said is read, and if it said no last word it was killed. Waiting for the end of its
    /// socket would not do: processes that it had made, and that now wait for it, hold the socket too.
    fn worker_ended(&mut self, key: u64) {
        while let Some(worker) = self.workers.get(&key) {
            let mut socket = [PollFd::new(worker.socket.as_fd(), PollFlags::POLLIN)];
            let said = poll(&mut socket, PollTimeout::ZERO).is_ok() && socket[0].any().unwrap_or(false);
            if !said {
                return self.finish_worker(key, Err("the starting process was killed".to_owned()));
            }
            self.read_worker(key);
        }
    }

    fn console(&mut self, key: u64, master: Option<OwnedFd>) {
        let (Some(worker), Some(master)) = (self.workers.get_mut(&key), master) else { return };
        match &mut worker.purpose {
            Purpose::Start { id } => {
                if let Some(container) = self.containers.get_mut(id)
                    && let Err(e) = container.set_console(master)
                {
                    eprintln!("console of {id}: {e}");
                }
            }
            Purpose::Exec { ours, .. } => {
                let _ = wire::set_nonblocking(master.as_fd(), true);
                ours.push(master);
            }
        }
        let _ = wire::send(worker.socket.as_fd(), b"{}", &[]);
    }

    fn finish_worker(&mut self, key: u64, result: Result<(), String>) {
        let Some(worker) = self.workers.remove(&key) else { return };
        // Its exit status says nothing more; reaped with the rest.
        let result = match (result, worker.pid) {
            (Ok(()), None) => Err("the starting process named no process".to_owned()),
            (Ok(()), Some(pid)) => Ok(pid),
            (Err(e), pid) => {
                // Made, but the program does not run: nothing may stay behind.
                pid.filter(|p| !self.unclaimed.iter().any(|(u, _)| u == p)).into_iter().for_each(kill_session);
                if let Purpose::Start { id } = &worker.purpose
                    && let Some(container) = self.containers.get(id)
                {
                    cgroup::kill_all(&container.init.cgroup, Duration::from_millis(500));
                }
                self.kill_half_made();
                Err(e)
            }
        };
        match worker.purpose {
            Purpose::Start { id } => self.finish_start(worker.client, worker.seq, &id, result),
            Purpose::Exec { tty, ours, streams } => {
                let streams = if tty { Streams { stdin: false, stdout: true, stderr: false } } else { streams };
                self.finish_exec(worker.client, worker.seq, result, streams, &ours);
            }
        }
        if self.workers.is_empty() {
            self.unclaimed.clear();
        }
    }

    fn finish_start(&mut self, client: u64, seq: u64, id: &str, result: Result<i32, String>) {
        let now = time::now_ms();
        match result {
            Ok(pid) => {
                if let Some(container) = self.containers.get_mut(id) {
                    container.phase = ContainerPhase::Running { pid, started_at_ms: now };
                }
                self.reply(client, seq, Reply::Started { pid, started_at_ms: now });
                self.claim(pid);
            }
            Err(message) => {
                let info = ExitInfo {
                    exit_code: 128,
                    signal: None,
                    oom_killed: false,
                    started_at_ms: 0,
                    finished_at_ms: now,
                    start_error: Some(message.clone()),
                };
                self.record(id, info);
                self.fault(client, seq, Fault::Start(message));
            }
        }
    }

    fn finish_exec(&mut self, client: u64, seq: u64, result: Result<i32, String>, streams: Streams, fds: &[OwnedFd]) {
        match result {
            Ok(pid) if self.clients.contains_key(&client) => {
                let session = self.next;
                self.next += 1;
                self.sessions.insert(session, Session { client, pid });
                self.reply_streams(client, seq, streams, session, fds);
                self.claim(pid);
            }
            // Who asked is gone.
            Ok(pid) => kill_session(pid),
            Err(message) => self.fault(client, seq, Fault::Start(message)),
        }
    }

    /// What a worker that failed had made and not yet moved to its container's cgroup would wait for that worker
    /// forever. With no worker left, every child in our own cgroup is such a one.
    fn kill_half_made(&self) {
        if !self.workers.is_empty() {
            return;
        }
        let cgroup = |pid: i32| std::fs::read(format!("/proc/{pid}/cgroup")).ok();
        let own = cgroup(nix::unistd::getpid().as_raw());
        for pid in children() {
            if Some(pid) != self.pod_init.map(Pid::as_raw) && own.is_some() && cgroup(pid) == own {
                let _ = kill(Pid::from_raw(pid), Signal::SIGKILL);
            }
        }
    }

    /// Takes every child that ended. One that nobody knows may be the process of a worker that has not reported yet: it
    /// is remembered until no worker is left.
    pub(crate) fn reap(&mut self) {
        loop {
            let (pid, status) = match waitpid(None, Some(WaitPidFlag::WNOHANG)) {
                Ok(WaitStatus::Exited(pid, code)) => (pid.as_raw(), code),
                Ok(WaitStatus::Signaled(pid, signal, _)) => (pid.as_raw(), 128 + signal as i32),
                Ok(WaitStatus::StillAlive) | Err(Errno::ECHILD) => return,
                Ok(_) | Err(Errno::EINTR) => continue,
                Err(_) => return,
            };
            if let Some(key) = self.workers.iter().find_map(|(key, w)| (w.worker_pid == pid).then_some(*key)) {
                self.worker_ended(key);
                continue;
            }
            if !self.ended(pid, status) && !self.workers.is_empty() {
                if self.unclaimed.len() >= UNCLAIMED_MAX {
                    self.unclaimed.pop_front();
                }
                self.unclaimed.push_back((pid, status));
            }
        }
    }

    /// A worker named this process: did it end before we knew of it?
    fn claim(&mut self, pid: i32) {
        let known = self.unclaimed.iter().rposition(|(p, _)| *p == pid);
        if let Some((pid, status)) = known.and_then(|at| self.unclaimed.remove(at)) {
            self.ended(pid, status);
        } else if kill(Pid::from_raw(pid), None) == Err(Errno::ESRCH) {
            // Ended, and its status pushed out of the list by others: say so rather than wait forever.
            self.ended(pid, 255);
        }
    }

    /// Acts on the end of a process of ours; false if it is none.
    fn ended(&mut self, pid: i32, status: i32) -> bool {
        if let Some((&session, s)) = self.sessions.iter().find(|(_, s)| s.pid == pid) {
            let client = s.client;
            self.sessions.remove(&session);
            self.send(client, &Message::ExecExited { session, exit_code: status }, &[]);
            return true;
        }
        let running = |c: &Container| match c.phase {
            ContainerPhase::Running { pid: p, started_at_ms } if p == pid => Some(started_at_ms),
            _ => None,
        };
        let found = self.containers.iter().find_map(|(id, c)| Some((id.clone(), running(c)?)));
        let Some((id, started_at_ms)) = found else { return false };
        let container = &self.containers[&id];
        let path = container.init.cgroup.clone();
        if !container.init.own_pid_ns {
            // The first process is the container; what it left behind in a shared namespace goes with it.
            cgroup::kill_all(&path, Duration::from_millis(500));
        }
        let oom_killed = status != 0 && cgroup::oom_kills(&path) > 0;
        let info = ExitInfo {
            exit_code: status,
            signal: (status > 128 && status <= 128 + 64).then_some(status - 128),
            oom_killed,
            started_at_ms,
            finished_at_ms: time::now_ms(),
            start_error: None,
        };
        self.record(&id, info);
        true
    }

    /// The end of a container: streams drained, record on disk, then everyone told.
    fn record(&mut self, id: &str, info: ExitInfo) {
        self.with_chunk(|server, chunk| {
            if let Some(container) = server.containers.get_mut(id) {
                container.finish_output(chunk);
                container.phase = ContainerPhase::Exited(info.clone());
            }
        });
        if let Err(e) = exit::write(&self.pod_dir, id, &info) {
            eprintln!("exit record of {id}: {e}");
        }
        self.broadcast(&Message::Exited { id: id.to_owned(), info });
        sys::trim_heap();
    }

    pub(crate) fn expire_workers(&mut self) {
        let now = Instant::now();
        let stuck: Vec<u64> = self.workers.iter().filter(|(_, w)| w.deadline <= now).map(|(k, _)| *k).collect();
        for key in stuck {
            let worker = &self.workers[&key];
            let _ = kill(Pid::from_raw(worker.worker_pid), Signal::SIGKILL);
            if let Purpose::Start { id } = &worker.purpose
                && let Some(container) = self.containers.get(id)
            {
                cgroup::kill_all(&container.init.cgroup.clone(), Duration::from_millis(500));
            }
            self.finish_worker(key, Err(format!("not started within {WORKER_LIMIT:?}")));
        }
    }

    /// Ends everything that this shim started and waits for it, as long as the kernel needs but not forever.
    pub(crate) fn shut_down(&mut self) {
        for worker in self.workers.values() {
            let _ = kill(Pid::from_raw(worker.worker_pid), Signal::SIGKILL);
        }
        let paths: Vec<String> = self.containers.values().map(|c| c.init.cgroup.clone()).collect();
        for path in paths {
            cgroup::kill_all(&path, Duration::from_secs(5));
        }
        if let Some(pid) = self.pod_init {
            let _ = kill(pid, Signal::SIGKILL);
        }
        let deadline = Instant::now() + Duration::from_secs(10);
        while Instant::now() < deadline {
            // What a worker had made and not yet put into its container's cgroup is found here only.
            for pid in children() {
                let _ = kill(Pid::from_raw(pid), Signal::SIGKILL);
            }
            self.reap();
            if waitpid(None, Some(WaitPidFlag::WNOHANG)) == Err(Errno::ECHILD) {
                break;
            }
            std::thread::sleep(Duration::from_millis(1));
        }
        let _ = std::fs::remove_file(crate::launch::socket_path(&self.pod_dir));
    }
}

/// Our children, those adopted as their subreaper included (proc_pid_task(5): `children`).
fn children() -> Vec<i32> {
    let text = std::fs::read_to_string("/proc/thread-self/children").unwrap_or_default();
    text.split_whitespace().filter_map(|pid| pid.parse().ok()).collect()
}

/// Our ends and the command's ends of an exec's pipes, in the order in, out, err.
fn exec_pipes(container: &Container, streams: Streams) -> nix::Result<(Vec<OwnedFd>, Stdio)> {
    use nix::unistd::{Gid, Uid, fchown};
    let mut ours = Vec::new();
    let mut theirs = Stdio::default();
    let pipe = || {
        let (r, w) = pipe2(OFlag::O_CLOEXEC)?;
        fchown(&r, Some(Uid::from_raw(container.init.uid)), Some(Gid::from_raw(container.init.gid)))?;
        Ok::<_, Errno>((r, w))
    };
    let mut keep = |end: OwnedFd| {
        let _ = wire::set_nonblocking(end.as_fd(), true);
        ours.push(end);
    };
    if streams.stdin {
        let (r, w) = pipe()?;
        keep(w);
        theirs.stdin = Some(r);
    }
    if streams.stdout {
        let (r, w) = pipe()?;
        keep(r);
        theirs.stdout = Some(w);
    }
    if streams.stderr {
        let (r, w) = pipe()?;
        keep(r);
        theirs.stderr = Some(w);
    }
    Ok((ours, theirs))
}

fn tcp_socket(v6: bool) -> nix::Result<OwnedFd> {
    let family = if v6 { AddressFamily::Inet6 } else { AddressFamily::Inet };
    socket(family, SockType::Stream, SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK, None)
}
