//! One container as its shim sees it: phase, streams, log, who is attached.

use std::io;
use std::os::fd::{AsFd, OwnedFd};

use nix::errno::Errno;
use nix::fcntl::{FcntlArg, OFlag, fcntl};
use nix::unistd::{Gid, Uid, pipe2};

use crate::log::{CriLog, Stream};
use crate::proto::{ContainerInit, ContainerPhase, Fault, Streams};
use crate::worker::Stdio;
use crate::{sys, time, wire};

/// Attached clients at most; more are refused.
const ATTACHED_MAX: usize = 16;
/// Kernel buffer of an attached client, bytes: what it may lag behind before output is dropped for it.
const ATTACH_BUFFER: i32 = 1 << 20;

/// A client of the main process's streams.
struct Attached {
    stdout: Option<OwnedFd>,
    stderr: Option<OwnedFd>,
    /// Input for a terminal: relayed, since the terminal itself is not handed out.
    input: Option<OwnedFd>,
    /// It loses nothing: what it has not taken is held, by stream, and until it has the container's output is left in its pipe.
    patient: bool,
    held: [Vec<u8>; 2],
}

impl Attached {
    fn end(&mut self, stream: Stream) -> &mut Option<OwnedFd> {
        match stream {
            Stream::Stdout => &mut self.stdout,
            Stream::Stderr => &mut self.stderr,
        }
    }

    fn holds(&self, stream: Stream) -> bool {
        !self.held[stream as usize].is_empty()
    }

    /// Gives it bytes, or keeps them for it.
    fn give(&mut self, stream: Stream, bytes: &[u8]) {
        if self.holds(stream) {
            return self.held[stream as usize].extend_from_slice(bytes);
        }
        let patient = self.patient;
        let end = self.end(stream);
        let Some(fd) = end else { return };
        match nix::unistd::write(&*fd, bytes) {
            Ok(n) if patient => self.held[stream as usize].extend_from_slice(&bytes[n..]),
            Ok(_) => {}
            Err(Errno::EAGAIN | Errno::EINTR) if patient => self.held[stream as usize].extend_from_slice(bytes),
            // A client that does not keep up loses output; the container and its log do not wait for it.
            Err(Errno::EAGAIN | Errno::EINTR) => {}
            Err(_) => *end = None,
        }
    }

    /// It takes bytes again, or is gone.
    fn flush(&mut self, stream: Stream) {
        let bytes = std::mem::take(&mut self.held[stream as usize]);
        self.give(stream, &bytes);
        if self.end(stream).is_none() {
            self.held[stream as usize] = Vec::new();
        }
    }
}

/// A container.
pub(crate) struct Container {
    pub init: ContainerInit,
    pub phase: ContainerPhase,
    log: CriLog,
    /// Our ends: output to read, input to hand out.
    stdout: Option<OwnedFd>,
    stderr: Option<OwnedFd>,
    stdin: Option<OwnedFd>,
    /// The program's ends, until it is started.
    theirs: Stdio,
    /// Size for a terminal that does not exist yet.
    size: Option<(u16, u16)>,
    attached: Vec<Attached>,
    /// The program is gone: clients only get what is held for them.
    over: bool,
    /// Terminal input that the terminal did not take yet; at most one read's worth.
    pending_input: Vec<u8>,
}

/// What a poll may find ready on a container.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Ready {
    /// Output to read.
    Output(Stream),
    /// Input from the attached client of that index.
    Input(usize),
    /// The terminal takes input again.
    Terminal,
    /// The attached client of that index closed its end of this stream.
    Gone(usize, Stream),
    /// The attached client of that index takes bytes of this stream again.
    Room(usize, Stream),
}

/// What to wait for on a descriptor.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Interest {
    /// Bytes to read, or the end.
    Read,
    /// Room to write.
    Write,
    /// Nothing but the other end closing.
    Hangup,
}

impl Container {
    pub fn new(init: ContainerInit) -> io::Result<Self> {
        let log = CriLog::open(&init.log_path, init.log_max_size, init.log_max_files)?;
        let mut made = Container {
            init,
            phase: ContainerPhase::Created,
            log,
            stdout: None,
            stderr: None,
            stdin: None,
            theirs: Stdio::default(),
            size: None,
            attached: Vec::new(),
            over: false,
            pending_input: Vec::new(),
        };
        if !made.init.tty {
            let (out_r, out_w) = made.owned_pipe()?;
            let (err_r, err_w) = made.owned_pipe()?;
            wire::set_nonblocking(out_r.as_fd(), true)?;
            wire::set_nonblocking(err_r.as_fd(), true)?;
            (made.stdout, made.stderr) = (Some(out_r), Some(err_r));
            (made.theirs.stdout, made.theirs.stderr) = (Some(out_w), Some(err_w));
            if made.init.stdin {
                let (in_r, in_w) = made.owned_pipe()?;
                wire::set_nonblocking(in_w.as_fd(), true)?;
                (made.stdin, made.theirs.stdin) = (Some(in_w), Some(in_r));
            }
        }
        Ok(made)
    }

    /// Programs reopen `/dev/stdout` by its path, for which a pipe asks whose it is.
    fn owned_pipe(&self) -> io::Result<(OwnedFd, OwnedFd)> {
        let (r, w) = pipe2(OFlag::O_CLOEXEC)?;
        nix::unistd::fchown(&r, Some(Uid::from_raw(self.init.uid)), Some(Gid::from_raw(self.init.gid)))?;
        Ok((r, w))
    }

    /// The program's ends of the streams, once.
    pub fn take_stdio(&mut self) -> Stdio {
        std::mem::take(&mut self.theirs)
    }

    /// The terminal exists now: it takes the user's ownership and the size asked for.
    pub fn set_console(&mut self, master: OwnedFd) -> io::Result<()> {
        let peer = sys::tty_peer(master.as_fd())?;
        nix::unistd::fchown(&peer, Some(Uid::from_raw(self.init.uid)), None)?;
        wire::set_nonblocking(master.as_fd(), true)?;
        if let Some((cols, rows)) = self.size {
            sys::set_winsize(master.as_fd(), cols, rows)?;
        }
        self.stdout = Some(master);
        Ok(())
    }

    pub fn resize(&mut self, cols: u16, rows: u16) -> Result<(), Fault> {
        if !self.init.tty {
            return Err(Fault::Conflict("the container has no terminal".into()));
        }
        self.size = Some((cols, rows));
        match &self.stdout {
            Some(master) => sys::set_winsize(master.as_fd(), cols, rows).map_err(|e| Fault::Failed(e.to_string())),
            None => Ok(()),
        }
    }

    /// Adds a client; the answer is what it got and the descriptors for it.
    pub fn attach(&mut self, want: Streams, patient: bool) -> Result<(Streams, Vec<OwnedFd>), Fault> {
        if matches!(self.phase, ContainerPhase::Exited(_)) {
            return Err(Fault::Conflict("the container has ended".into()));
        }
        if self.attached.len() >= ATTACHED_MAX {
            return Err(Fault::Conflict(format!("{ATTACHED_MAX} clients are attached already")));
        }
        self.try_attach(want, patient).map_err(|e| Fault::Failed(format!("attach: {e}")))
    }

    fn try_attach(&mut self, want: Streams, patient: bool) -> io::Result<(Streams, Vec<OwnedFd>)> {
        let mut got = Streams::default();
        let mut fds = Vec::new();
        let mut client = Attached { stdout: None, stderr: None, input: None, patient, held: [Vec::new(), Vec::new()] };
        if want.stdin && self.init.stdin && self.init.tty {
            let (r, w) = nonblocking_pipe()?;
            client.input = Some(r);
            fds.push(w);
            got.stdin = true;
        } else if want.stdin
            && self.init.stdin
            && let Some(stdin) = self.stdin.take()
        {
            // The pipe itself goes out. With stdin_once no copy stays, so that the program sees the end when the
            // client is done.
            if !self.init.stdin_once {
                self.stdin = Some(stdin.try_clone()?);
            }
            fds.push(stdin);
            got.stdin = true;
        }
        if want.stdout {
            let (r, w) = nonblocking_pipe()?;
            let _ = fcntl(&w, FcntlArg::F_SETPIPE_SZ(ATTACH_BUFFER));
            client.stdout = Some(w);
            fds.push(r);
            got.stdout = true;
        }
        if want.stderr && !self.init.tty {
            let (r, w) = nonblocking_pipe()?;
            let _ = fcntl(&w, FcntlArg::F_SETPIPE_SZ(ATTACH_BUFFER));
            client.stderr = Some(w);
            fds.push(r);
            got.stderr = true;
        }
        self.attached.push(client);
        Ok((got, fds))
    }

    /// Calls `watch` with each descriptor to poll, what readiness means, and what to wait for.
    pub fn for_each_fd<'a>(&'a self, mut watch: impl FnMut(&'a OwnedFd, Ready, Interest)) {
        let full = |stream: Stream| self.attached.iter().any(|c| c.holds(stream));
        if let Some(fd) = &self.stdout {
            if !full(Stream::Stdout) {
                watch(fd, Ready::Output(Stream::Stdout), Interest::Read);
            }
            if !self.pending_input.is_empty() {
                watch(fd, Ready::Terminal, Interest::Write);
            }
        }
        if let Some(fd) = &self.stderr
            && !full(Stream::Stderr)
        {
            watch(fd, Ready::Output(Stream::Stderr), Interest::Read);
        }
        for (index, client) in self.attached.iter().enumerate() {
            for (end, stream) in [(&client.stdout, Stream::Stdout), (&client.stderr, Stream::Stderr)] {
                match end {
                    Some(fd) if client.holds(stream) => watch(fd, Ready::Room(index, stream), Interest::Write),
                    Some(fd) => watch(fd, Ready::Gone(index, stream), Interest::Hangup),
                    None => {}
                }
            }
            if let Some(fd) = &client.input
                && self.pending_input.is_empty()
                && self.stdout.is_some()
            {
                watch(fd, Ready::Input(index), Interest::Read);
            }
        }
    }

    pub fn ready(&mut self, what: Ready, chunk: &mut [u8]) {
        match what {
            Ready::Output(stream) => self.read_output(stream, chunk),
            Ready::Terminal => self.push_input(),
            Ready::Input(index) => {
                let Some(client) = self.attached.get_mut(index) else { return };
                let Some(input) = &client.input else { return };
                match nix::unistd::read(input, chunk) {
                    Ok(0) => client.input = None,
                    Ok(n) => {
                        self.pending_input.extend_from_slice(&chunk[..n]);
                        self.push_input();
                    }
                    Err(Errno::EAGAIN | Errno::EINTR) => {}
                    Err(_) => client.input = None,
                }
            }
            Ready::Gone(index, stream) => {
                if let Some(client) = self.attached.get_mut(index) {
                    *client.end(stream) = None;
                }
            }
            Ready::Room(index, stream) => {
                if let Some(client) = self.attached.get_mut(index) {
                    client.flush(stream);
                    if self.over && !client.holds(stream) {
                        *client.end(stream) = None;
                    }
                }
            }
        }
    }

    /// Forgets clients that are gone. Between polls only: readiness names clients by index.
    pub fn sweep(&mut self) {
        self.attached.retain(|c| c.stdout.is_some() || c.stderr.is_some() || c.input.is_some());
    }

    fn push_input(&mut self) {
        let Some(master) = &self.stdout else { return };
        match nix::unistd::write(master, &self.pending_input) {
            Ok(n) => {
                self.pending_input.drain(..n);
            }
            Err(Errno::EAGAIN | Errno::EINTR) => {}
            Err(_) => self.pending_input.clear(),
        }
        if self.pending_input.is_empty() {
            self.pending_input = Vec::new();
        }
    }

    fn output_of(&mut self, stream: Stream) -> &mut Option<OwnedFd> {
        match stream {
            Stream::Stdout => &mut self.stdout,
            Stream::Stderr => &mut self.stderr,
        }
    }

    /// Reads once; more is found by the next poll, so that one loud container does not starve the loop.
    fn read_output(&mut self, stream: Stream, chunk: &mut [u8]) {
        let Some(fd) = self.output_of(stream) else { return };
        match nix::unistd::read(&*fd, chunk) {
            Ok(n) if n > 0 => {
                self.log.feed(stream, &chunk[..n], time::now());
                self.tee(stream, &chunk[..n]);
            }
            Err(Errno::EAGAIN | Errno::EINTR) => {}
            // End of the pipe, or EIO: the last holder of the terminal is gone.
            Ok(_) | Err(_) => self.end_output(stream),
        }
    }

    fn end_output(&mut self, stream: Stream) {
        *self.output_of(stream) = None;
        self.log.end(stream, time::now());
    }

    fn tee(&mut self, stream: Stream, bytes: &[u8]) {
        self.attached.iter_mut().for_each(|client| client.give(stream, bytes));
    }

    /// The main process is gone: what is left in the pipes is read, then everything is closed. A process that kept the
    /// streams and survived (outside our process namespace) does not hold this up.
    pub fn finish_output(&mut self, chunk: &mut [u8]) {
        for stream in [Stream::Stdout, Stream::Stderr] {
            // A pipe holds at most 1 MiB; a writer that keeps writing must not keep us.
            for _ in 0..1024 {
                let Some(fd) = self.output_of(stream) else { break };
                match nix::unistd::read(&*fd, chunk) {
                    Ok(n) if n > 0 => {
                        self.log.feed(stream, &chunk[..n], time::now());
                        self.tee(stream, &chunk[..n]);
                    }
                    Err(Errno::EINTR) => {}
                    _ => break,
                }
            }
            self.end_output(stream);
        }
        self.stdin = None;
        self.theirs = Stdio::default();
        self.over = true;
        for client in &mut self.attached {
            client.input = None;
            for stream in [Stream::Stdout, Stream::Stderr] {
                if !client.holds(stream) {
                    *client.end(stream) = None;
                }
            }
        }
        self.sweep();
        self.pending_input = Vec::new();
    }
}

fn nonblocking_pipe() -> io::Result<(OwnedFd, OwnedFd)> {
    Ok(pipe2(OFlag::O_CLOEXEC | OFlag::O_NONBLOCK)?)
}
