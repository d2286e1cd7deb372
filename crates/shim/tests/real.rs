//! A real shim with real processes, without the engine. Has its own `main`: the launcher runs from a copy of this
//! binary.
#![allow(clippy::unwrap_used, reason = "a test")]

use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use serde_json::json;
use shim::client::Connection;
use shim::launch::Launcher;
use shim::proto::{
    Call, ContainerInit, ContainerPhase, Fault, LaunchReply, Message, Reply, Request, SandboxInit, ShimState, Streams,
};

fn main() -> ExitCode {
    if let Some(code) = shim::main_if_shim() {
        return code;
    }
    if !nix::unistd::geteuid().is_root() {
        println!("skipped: needs root");
        return ExitCode::SUCCESS;
    }
    for (name, test) in [
        ("a_container_runs_to_its_recorded_end", a_container_runs_to_its_recorded_end as fn()),
        ("a_start_that_fails_says_why", a_start_that_fails_says_why),
        ("a_lost_connection_ends_its_commands_and_nothing_else", a_lost_connection_ends_its_commands_and_nothing_else),
        ("asked_to_end_it_waits_for_its_containers", asked_to_end_it_waits_for_its_containers),
        ("the_program_of_a_shim_cannot_be_written", the_program_of_a_shim_cannot_be_written),
        ("a_failed_sandbox_leaves_nothing_pinned", a_failed_sandbox_leaves_nothing_pinned),
    ] {
        test();
        println!("test {name} ... ok");
    }
    ExitCode::SUCCESS
}

/// A sandbox with a connection to its shim.
struct Pod {
    dir: tempfile::TempDir,
    cgroup: String,
    connection: Connection,
    _launcher: Launcher,
    seq: u64,
    events: Vec<Message>,
    /// The shim is gone already.
    ended: bool,
}

fn parent() -> String {
    format!("windlass-shimtest-{}", std::process::id())
}

fn init(dir: &Path, sysctls: &[(&str, &str)]) -> SandboxInit {
    SandboxInit {
        pod_dir: dir.to_path_buf(),
        hostname: Some("inside".into()),
        own_net: true,
        join_net: None,
        own_ipc: true,
        shared_pid: false,
        user_base: None,
        sysctls: sysctls.iter().map(|(n, v)| ((*n).to_owned(), (*v).to_owned())).collect(),
        shim_cgroup: format!("{}/shims", parent()),
    }
}

fn launcher(dir: &Path) -> Launcher {
    Launcher::start(Path::new("/proc/self/exe"), &dir.join("exe")).unwrap()
}

impl Pod {
    fn new(name: &str) -> Pod {
        let dir = tempfile::tempdir().unwrap();
        let launcher = launcher(dir.path());
        match launcher.launch(&init(dir.path(), &[("net.ipv4.ip_unprivileged_port_start", "0")])).unwrap() {
            LaunchReply::Ready { .. } => {}
            LaunchReply::Failed(e) => panic!("{e}"),
        }
        let connection = Connection::open(dir.path()).unwrap();
        let cgroup = format!("{}/{name}", parent());
        Pod { dir, cgroup, connection, _launcher: launcher, seq: 0, events: Vec::new(), ended: false }
    }

    fn receive(&mut self) -> (Message, Vec<OwnedFd>) {
        use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
        let mut fds = [PollFd::new(self.connection.as_fd(), PollFlags::POLLIN)];
        assert_eq!(poll(&mut fds, PollTimeout::from(20_000u16)).unwrap(), 1, "the shim says nothing");
        self.connection.receive().unwrap().expect("the shim is gone")
    }

    fn call(&mut self, req: Request) -> (Reply, Vec<OwnedFd>) {
        self.seq += 1;
        self.connection.send(&Call { seq: self.seq, req }).unwrap();
        loop {
            match self.receive() {
                (Message::Reply { seq, reply }, fds) if seq == self.seq => return (reply, fds),
                (event, _) => self.events.push(event),
            }
        }
    }

    fn event(&mut self) -> Message {
        if self.events.is_empty() { self.receive().0 } else { self.events.remove(0) }
    }

    fn state(&mut self) -> ShimState {
        match self.call(Request::State).0 {
            Reply::State(state) => state,
            other => panic!("{other:?}"),
        }
    }

    fn bundle(&self, id: &str, args: &[&str]) -> PathBuf {
        let bundle = self.dir.path().join(id);
        let rootfs = bundle.join("rootfs");
        std::fs::create_dir_all(rootfs.join("bin")).unwrap();
        std::fs::copy("/bin/busybox", rootfs.join("bin/busybox")).unwrap();
        for name in ["sh", "echo", "sleep", "hostname"] {
            std::os::unix::fs::symlink("busybox", rootfs.join("bin").join(name)).unwrap();
        }
        let pinned = |kind: &str, pin: &str| json!({ "type": kind, "path": self.dir.path().join("ns").join(pin) });
        let spec = json!({
            "ociVersion": "1.0.2",
            "root": { "path": rootfs },
            "process": { "user": { "uid": 0, "gid": 0 }, "args": args, "cwd": "/", "env": ["PATH=/bin"] },
            "mounts": [
                { "destination": "/proc", "type": "proc", "source": "proc" },
                { "destination": "/dev", "type": "tmpfs", "source": "tmpfs", "options": ["nosuid", "mode=755"] },
            ],
            "linux": {
                "cgroupsPath": format!("/{}/{id}", self.cgroup),
                "resources": { "devices": [{ "allow": false, "access": "rwm" }] },
                "namespaces": [
                    pinned("network", "net"), pinned("ipc", "ipc"), pinned("uts", "uts"),
                    { "type": "pid" }, { "type": "mount" },
                ],
            },
        });
        std::fs::write(bundle.join("config.json"), serde_json::to_vec(&spec).unwrap()).unwrap();
        bundle
    }

    /// Makes and starts a container.
    fn start(&mut self, id: &str, args: &[&str]) -> Reply {
        let init = ContainerInit {
            id: id.into(),
            bundle: self.bundle(id, args),
            tty: false,
            stdin: false,
            stdin_once: false,
            log_path: self.dir.path().join(format!("{id}.log")),
            log_max_size: 0,
            log_max_files: 1,
            uid: 0,
            gid: 0,
            cgroup: format!("{}/{id}", self.cgroup),
            own_pid_ns: true,
            oom_score_adj: Some(-500),
            mapped: None,
        };
        assert_eq!(self.call(Request::Create(Box::new(init))).0, Reply::Ok);
        self.call(Request::Start { id: id.into() }).0
    }
}

impl Drop for Pod {
    fn drop(&mut self) {
        if !std::thread::panicking() && !self.ended {
            self.call(Request::Shutdown);
        }
        shim::cgroup::kill_all(&parent(), Duration::from_secs(5));
        shim::sandbox::unpin(self.dir.path());
        let _ = shim::cgroup::remove(&parent(), Duration::from_secs(5));
        print!("{}", std::fs::read_to_string(self.dir.path().join("shim.err")).unwrap_or_default());
    }
}

fn a_container_runs_to_its_recorded_end() {
    let mut pod = Pod::new("end");
    let reply = pod.start("c", &["sh", "-c", "echo hi from $(hostname); exit 3"]);
    assert!(matches!(reply, Reply::Started { .. }), "{reply:?}");
    let Message::Exited { id, info } = pod.event() else { panic!("another event") };
    assert_eq!((id.as_str(), info.exit_code), ("c", 3));
    assert_eq!(shim::exit::read(pod.dir.path(), "c").unwrap().as_ref(), Some(&info));
    let log = std::fs::read_to_string(pod.dir.path().join("c.log")).unwrap();
    assert!(log.ends_with(" stdout F hi from inside\n"), "{log}");
    assert_eq!(pod.state().containers, [("c".to_owned(), ContainerPhase::Exited(info))]);
    assert_eq!(pod.call(Request::Delete { id: "c".into() }).0, Reply::Ok);
    assert!(shim::exit::read(pod.dir.path(), "c").unwrap().is_none());
    assert!(pod.state().containers.is_empty());
}

fn a_start_that_fails_says_why() {
    let mut pod = Pod::new("fail");
    let why = "exec: \"nosuch\": executable file not found in $PATH".to_owned();
    assert_eq!(pod.start("c", &["nosuch"]), Reply::Fault(Fault::Start(why.clone())));
    let Message::Exited { info, .. } = pod.event() else { panic!("another event") };
    assert_eq!((info.exit_code, info.start_error), (128, Some(why)));
    assert_eq!(pod.call(Request::Start { id: "none".into() }).0, Reply::Fault(Fault::NotFound));
}

fn a_lost_connection_ends_its_commands_and_nothing_else() {
    let mut pod = Pod::new("lost");
    assert!(matches!(pod.start("c", &["sleep", "1000"]), Reply::Started { .. }));
    let streams = Streams { stdout: true, ..Streams::default() };
    let args = ["sh", "-c", "echo up; sleep 1001"].map(str::to_owned).to_vec();
    let (reply, fds) = pod.call(Request::Exec { id: "c".into(), args, tty: false, streams, process: Box::default() });
    assert!(matches!(reply, Reply::Streams { session: 1.., .. }), "{reply:?}");
    let mut out = std::fs::File::from(fds.into_iter().next().unwrap());
    shim::wire::set_nonblocking(out.as_fd(), false).unwrap();
    let mut line = [0; 3];
    std::io::Read::read_exact(&mut out, &mut line).unwrap();
    pod.connection = Connection::open(pod.dir.path()).unwrap();
    // The end of its output is the end of it and of what it started.
    assert_eq!(std::io::Read::read(&mut out, &mut line).unwrap(), 0);
    assert!(matches!(pod.state().containers[0].1, ContainerPhase::Running { .. }));
}

fn asked_to_end_it_waits_for_its_containers() {
    let mut pod = Pod::new("term");
    assert!(matches!(pod.start("c", &["sleep", "1000"]), Reply::Started { .. }));
    let pid = nix::unistd::Pid::from_raw(pod.state().pid);
    nix::sys::signal::kill(pid, nix::sys::signal::SIGTERM).unwrap();
    assert!(matches!(pod.state().containers[0].1, ContainerPhase::Running { .. }));
    pod.call(Request::Signal { id: "c".into(), signal: 9, all: false });
    assert!(matches!(pod.event(), Message::Exited { .. }));
    let pidfd = shim::sys::pidfd_open(pid.as_raw());
    use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
    // No descriptor: it was gone already.
    if let Ok(pidfd) = pidfd {
        let ended = poll(&mut [PollFd::new(pidfd.as_fd(), PollFlags::POLLIN)], PollTimeout::from(20_000u16));
        assert_eq!(ended.unwrap(), 1, "the shim stays");
    }
    pod.ended = true;
}

fn the_program_of_a_shim_cannot_be_written() {
    let mut pod = Pod::new("exe");
    let pid = pod.state().pid;
    let exe = format!("/proc/{pid}/exe");
    assert!(std::fs::OpenOptions::new().write(true).open(&exe).is_err());
    let title = std::fs::read_to_string(format!("/proc/{pid}/cmdline")).unwrap();
    assert!(title.contains(&format!("--pod-dir={}", pod.dir.path().display())), "{title}");
    // And not after the last process that runs from it is gone, through a descriptor opened in time.
    let held = std::fs::File::open(&exe).unwrap();
    let fd = std::os::fd::AsRawFd::as_raw_fd(&held);
    drop(pod);
    let later = std::fs::OpenOptions::new().write(true).open(format!("/proc/self/fd/{fd}"));
    let refused = later.unwrap_err().raw_os_error();
    assert!(matches!(refused, Some(libc::EROFS | libc::ETXTBSY | libc::EPERM)), "{refused:?}");
}

fn a_failed_sandbox_leaves_nothing_pinned() {
    let dir = tempfile::tempdir().unwrap();
    let reply = launcher(dir.path()).launch(&init(dir.path(), &[("net.no.such.thing", "1")])).unwrap();
    let LaunchReply::Failed(why) = reply else { panic!("{reply:?}") };
    assert!(why.contains("sysctl net.no.such.thing"), "{why}");
    let mounts = std::fs::read_to_string("/proc/self/mountinfo").unwrap();
    assert!(!mounts.contains(dir.path().to_str().unwrap()), "{mounts}");
    let _ = shim::cgroup::remove(&parent(), Duration::from_secs(5));
}
