//! logind, as far as it is asked, on a bus of the test's own.

use std::io::IoSlice;
use std::os::fd::AsRawFd;
use std::path::{Path, PathBuf};

use nix::sys::socket::{ControlMessage, MsgFlags, UnixAddr, sendmsg};
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::mpsc;

use super::dbus::{Message, Reader, Writer, encode, parse};
use super::*;

/// What the test sees of the agent.
#[derive(Debug, PartialEq)]
enum Seen {
    Called(String),
    /// The lock was let go.
    Released,
}

const PATIENCE: Duration = Duration::from_secs(60);

/// A bus with logind on it. It waits for five seconds, until it is told to read its configuration.
struct Fake {
    dir: tempfile::TempDir,
    seen: mpsc::UnboundedReceiver<Seen>,
    announce: mpsc::UnboundedSender<bool>,
    wanted: watch::Receiver<bool>,
    done: watch::Sender<bool>,
    drain: Drain,
}

impl Fake {
    fn start(needs: u64) -> Fake {
        let dir = tempfile::tempdir().expect("a folder");
        let listener = UnixListener::bind(dir.path().join("bus")).expect("bound");
        let (tell, seen) = mpsc::unbounded_channel();
        let (announce, announced) = mpsc::unbounded_channel();
        tokio::spawn(serve(listener, conf(dir.path()), tell, announced));
        let (tell_wanted, wanted) = watch::channel(false);
        let (done, is_done) = watch::channel(false);
        let (bus, folder, drain) = (dir.path().join("bus"), conf(dir.path()), Drain::new());
        let ends = drain.clone();
        tokio::spawn(async move {
            let needs = Duration::from_secs(needs);
            let settings = logind::Settings { bus: &bus, conf: &folder, needs };
            logind::run(settings, tell_wanted, is_done, ends).await;
        });
        Fake { dir, seen, announce, wanted, done, drain }
    }

    async fn next(&mut self) -> Seen {
        tokio::time::timeout(PATIENCE, self.seen.recv()).await.expect("in time").expect("the bus lives")
    }

    async fn calls(&mut self, expected: &[&str]) {
        for name in expected {
            assert_eq!(self.next().await, Seen::Called((*name).to_owned()));
        }
    }
}

impl Drop for Fake {
    fn drop(&mut self) {
        self.drain.cancel();
    }
}

fn conf(dir: &Path) -> PathBuf {
    dir.join("conf")
}

async fn serve(
    listener: UnixListener,
    conf: PathBuf,
    tell: mpsc::UnboundedSender<Seen>,
    mut announced: mpsc::UnboundedReceiver<bool>,
) {
    let (stream, _) = listener.accept().await.expect("a client");
    let mut stream = BufReader::new(stream);
    let mut line = Vec::new();
    while !line.starts_with(b"BEGIN") {
        line.clear();
        stream.read_until(b'\n', &mut line).await.expect("a line");
        let answer = match &line[..] {
            l if l.starts_with(b"\0AUTH EXTERNAL ") => "OK 0123\r\n",
            l if l.starts_with(b"NEGOTIATE_UNIX_FD") => "AGREE_UNIX_FD\r\n",
            _ => continue,
        };
        stream.write_all(answer.as_bytes()).await.expect("written");
    }
    let (mut bytes, mut delay) = (stream.buffer().to_vec(), 5_000_000u64);
    let mut stream = stream.into_inner();
    loop {
        while let Some((message, length, _)) = parse(&bytes).expect("a message") {
            bytes.drain(..length);
            if message.member == "KillUnit" {
                let text = std::fs::read_to_string(conf.join("99-windlass.conf")).expect("a file");
                let seconds = text.lines().find_map(|l| l.strip_prefix("InhibitDelayMaxSec=")).expect("a line");
                delay = seconds.parse::<u64>().expect("seconds") * 1_000_000;
            }
            answer(&mut stream, &message, delay, &tell).await;
            let _ = tell.send(Seen::Called(message.member));
        }
        let mut part = [0; 4096];
        tokio::select! {
            n = stream.read(&mut part) => match n {
                Ok(0) | Err(_) => return,
                Ok(n) => bytes.extend(&part[..n]),
            },
            Some(down) = announced.recv() => {
                let mut body = Writer::default();
                body.number(u32::from(down));
                let fields = [(1, "/org/freedesktop/login1"), (2, "org.freedesktop.login1.Manager"), (3, "PrepareForShutdown")];
                stream.write_all(&encode(4, 9, &fields, &[], "b", &body.0)).await.expect("written");
            }
        }
    }
}

async fn answer(stream: &mut UnixStream, to: &Message, delay: u64, tell: &mpsc::UnboundedSender<Seen>) {
    let reply = |signature: &str, more: &[(u8, u32)], body: &[u8]| {
        let mut all = vec![(5, to.serial)];
        all.extend(more);
        encode(2, 1, &[(6, ":1.1")], &all, signature, body)
    };
    match to.member.as_str() {
        "Get" => {
            let mut body = Writer::default();
            body.signature("t");
            body.0.resize(8, 0);
            body.0.extend(delay.to_le_bytes());
            stream.write_all(&reply("v", &[], &body.0)).await.expect("written");
        }
        "Inhibit" => {
            let mut words = Reader::new(&to.body);
            let words: Vec<String> = (0..4).map(|_| words.text().expect("a word")).collect();
            assert_eq!((words[0].as_str(), words[3].as_str()), ("shutdown", "delay"));
            let (read, write) = nix::unistd::pipe().expect("a pipe");
            let bytes = reply("h", &[(9, 1)], &0u32.to_le_bytes());
            let (iov, raw) = ([IoSlice::new(&bytes)], [write.as_raw_fd()]);
            let rights = [ControlMessage::ScmRights(&raw)];
            let sent = sendmsg::<UnixAddr>(stream.as_raw_fd(), &iov, &rights, MsgFlags::empty(), None);
            assert_eq!(sent.expect("sent"), bytes.len());
            let tell = tell.clone();
            // The end of the pipe says that the agent has let go of its lock.
            tokio::task::spawn_blocking(move || {
                let _ = nix::unistd::read(&read, &mut [0]);
                let _ = tell.send(Seen::Released);
            });
        }
        _ => stream.write_all(&reply("", &[], &[])).await.expect("written"),
    }
}

#[tokio::test]
async fn logind_waits_until_the_pods_have_ended() {
    let mut bus = Fake::start(5);
    bus.calls(&["Hello", "Get", "AddMatch", "Inhibit"]).await;
    assert!(!conf(bus.dir.path()).exists(), "it waits long enough");
    bus.announce.send(true).expect("announced");
    bus.wanted.wait_for(|down| *down).await.expect("told");
    assert!(bus.seen.try_recv().is_err(), "the lock is held");
    bus.done.send_replace(true);
    assert_eq!(bus.next().await, Seen::Released);
    bus.done.send_replace(false);
    bus.announce.send(false).expect("announced");
    bus.wanted.wait_for(|down| !*down).await.expect("told");
    bus.calls(&["Inhibit"]).await;
}

#[tokio::test]
async fn logind_is_told_to_wait_longer() {
    let mut bus = Fake::start(90);
    bus.calls(&["Hello", "Get", "KillUnit", "Get", "AddMatch", "Inhibit"]).await;
    let text = std::fs::read_to_string(conf(bus.dir.path()).join("99-windlass.conf")).expect("a file");
    assert!(text.contains("[Login]\nInhibitDelayMaxSec=90\n"), "{text}");
}
