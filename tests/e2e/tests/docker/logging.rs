//! Where lines go: journald, fluentd, syslog and gelf, played by the test.

use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::os::unix::net::UnixDatagram;
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use e2e::{IMAGE, Instance, eventually, free_port, signal_pid};
use nix::sys::signal::Signal;

use crate::Docker;

const LIMIT: Duration = Duration::from_secs(60);

/// What of MessagePack the driver speaks.
#[derive(Debug)]
enum Value {
    Number,
    Text(String),
    List(Vec<Value>),
    Map(BTreeMap<String, Value>),
}

fn bytes(from: &mut impl Read, count: usize) -> std::io::Result<Vec<u8>> {
    let mut buffer = vec![0; count];
    from.read_exact(&mut buffer)?;
    Ok(buffer)
}

fn number(from: &mut impl Read, count: usize) -> std::io::Result<usize> {
    Ok(bytes(from, count)?.into_iter().fold(0, |n, b| n << 8 | usize::from(b)))
}

fn value(from: &mut impl Read) -> std::io::Result<Value> {
    let text = |from: &mut dyn Read, count| -> std::io::Result<Value> {
        let mut buffer = vec![0; count];
        from.read_exact(&mut buffer)?;
        Ok(Value::Text(String::from_utf8_lossy(&buffer).into_owned()))
    };
    match number(from, 1)? {
        n @ 0x80..=0x8f => {
            let mut fields = BTreeMap::new();
            for _ in 0..n - 0x80 {
                let Value::Text(key) = value(from)? else { return Err(std::io::Error::other("a key is no text")) };
                fields.insert(key, value(from)?);
            }
            Ok(Value::Map(fields))
        }
        n @ 0x90..=0x9f => Ok(Value::List((0..n - 0x90).map(|_| value(from)).collect::<Result<_, _>>()?)),
        n @ 0xa0..=0xbf => text(from, n - 0xa0),
        0xd9 => number(from, 1).and_then(|n| text(from, n)),
        0xda => number(from, 2).and_then(|n| text(from, n)),
        0xce => number(from, 4).map(|_| Value::Number),
        0xd7 => bytes(from, 9).map(|_| Value::Number),
        other => Err(std::io::Error::other(format!("{other:#x} is not expected"))),
    }
}

/// A fluentd that acknowledges what it gets.
struct Fluentd {
    address: SocketAddr,
    open: Arc<Mutex<Option<Vec<TcpStream>>>>,
    accepting: Option<JoinHandle<()>>,
}

type Got = Arc<Mutex<Vec<(String, BTreeMap<String, Value>)>>>;

fn serve(mut stream: TcpStream, got: &Got) -> std::io::Result<()> {
    loop {
        let Value::List(message) = value(&mut stream)? else { return Ok(()) };
        let [Value::Text(tag), Value::Number, Value::Map(_), Value::Map(option)] = &message[..] else {
            return Err(std::io::Error::other(format!("{message:?}")));
        };
        let Some(Value::Text(chunk)) = option.get("chunk") else { return Err(std::io::Error::other("no chunk")) };
        let mut answer = b"\x81\xa3ack".to_vec();
        answer.push(0xa0 | u8::try_from(chunk.len()).unwrap_or(0));
        answer.extend_from_slice(chunk.as_bytes());
        let tag = tag.clone();
        if let Some(Value::Map(record)) = message.into_iter().nth(2) {
            got.lock().unwrap_or_else(PoisonError::into_inner).push((tag, record));
        }
        stream.write_all(&answer)?;
    }
}

impl Fluentd {
    fn start(address: SocketAddr, got: &Got) -> Result<Self> {
        let listener = TcpListener::bind(address)?;
        let open = Arc::new(Mutex::new(Some(Vec::new())));
        let (streams, got) = (open.clone(), got.clone());
        let accepting = std::thread::spawn(move || {
            while let Ok((stream, _)) = listener.accept() {
                let mut open = streams.lock().unwrap_or_else(PoisonError::into_inner);
                let (Some(open), Ok(copy)) = (open.as_mut(), stream.try_clone()) else { return };
                open.push(copy);
                let got = got.clone();
                std::thread::spawn(move || drop(serve(stream, &got)));
            }
        });
        Ok(Fluentd { address, open, accepting: Some(accepting) })
    }
}

impl Drop for Fluentd {
    fn drop(&mut self) {
        for stream in self.open.lock().unwrap_or_else(PoisonError::into_inner).take().into_iter().flatten() {
            let _ = stream.shutdown(std::net::Shutdown::Both);
        }
        // One more connection, so that it looks up.
        drop(TcpStream::connect(self.address));
        let _ = self.accepting.take().map(JoinHandle::join);
    }
}

/// The numbers that came, which must be all from 1 on, each at least once.
fn numbers(got: &Got) -> Result<u64> {
    let got = got.lock().unwrap_or_else(PoisonError::into_inner);
    let mut last = 0;
    for (_, record) in got.iter() {
        let Some(Value::Text(line)) = record.get("log") else { continue };
        let n: u64 = line.parse()?;
        ensure!(n <= last + 1, "{n} came after {last}");
        last = last.max(n);
    }
    Ok(last)
}

fn reaches(got: &Got, least: u64) -> Result<u64> {
    // A line that is missing stays missing.
    let last = numbers(got);
    match last {
        Ok(last) if last < least => Err(anyhow::anyhow!("{last} of {least} lines")),
        other => other,
    }
}

pub fn lines_reach_a_server_that_was_away_and_outlive_a_killed_agent() -> Result<()> {
    let instance = Instance::builder("dockerlogs").start()?;
    let docker = Docker::of(&instance)?;
    eventually(LIMIT, "the docker API answers", || docker.ok(&["version"]))?;
    let (address, got) = (free_port()?, Got::default());
    let to = format!("fluentd-address={address}");
    let flags = ["--log-driver", "fluentd", "--log-opt", &to, "--log-opt", "fluentd-request-ack=true"];
    // Without a server it does not start, unless it need not wait for one.
    let refused = docker.script(&[&flags[..], &["--rm"]].concat(), "true")?;
    ensure!(refused.code() == 125 && refused.stderr.contains("failed to initialize logging driver"), "{refused:?}");
    let count = "n=0; while true; do n=$((n+1)); echo $n; sleep 0.02; done";
    let more =
        ["-d", "--name", "counter", "--label", "tier=front", "--env", "KEY=v", "--log-opt", "fluentd-async=true"];
    let said = ["--log-opt", "labels=tier", "--log-opt", "env=KEY", "--log-opt", "tag=shop.{{.Name}}"];
    docker.script(&[&flags[..], &more, &said, &["--log-opt", "fluentd-retry-wait=100ms"]].concat(), count)?.ok()?;
    eventually(LIMIT, "lines are kept here", || {
        ensure!(docker.ok(&["logs", "counter"])?.lines().count() > 20);
        Ok(())
    })?;
    let server = Fluentd::start(address, &got)?;
    let first = eventually(LIMIT, "lines come", || reaches(&got, 20))?;
    {
        let got = got.lock().unwrap_or_else(PoisonError::into_inner);
        let (tag, record) = got.first().context("lines came")?;
        ensure!(tag == "shop.counter", "{tag}");
        for (key, wanted) in [("tier", "front"), ("KEY", "v"), ("source", "stdout"), ("container_name", "/counter")] {
            ensure!(matches!(record.get(key), Some(Value::Text(t)) if t == wanted), "{key}: {record:?}");
        }
    }
    // It goes away and comes back.
    drop(server);
    let before = docker.ok(&["logs", "--tail", "1", "counter"])?.parse::<u64>()?;
    eventually(LIMIT, "the container goes on", || {
        let now = docker.ok(&["logs", "--tail", "1", "counter"])?.parse::<u64>()?;
        ensure!(now > before + 20, "{now}");
        Ok(())
    })?;
    let server = Fluentd::start(address, &got)?;
    let second = eventually(LIMIT, "what waited comes", || reaches(&got, first.max(before) + 20))?;
    // The agent is killed, and while nobody sends, the container writes.
    let agent = instance.agent_pid()?;
    signal_pid(agent, Signal::SIGKILL)?;
    eventually(LIMIT, "the next agent goes on", || reaches(&got, second + 100))?;
    ensure!(instance.agent_pid()? != agent);
    // The last line too, though the container goes at once.
    docker.ok(&["rm", "-f", "counter"])?;
    let late = ["--rm", "--log-opt", "tag=late"];
    docker.script(&[&flags[..], &late].concat(), "echo 1")?.ok()?;
    eventually(LIMIT, "the line of a brief container comes", || {
        let got = got.lock().unwrap_or_else(PoisonError::into_inner);
        ensure!(got.last().is_some_and(|(tag, _)| tag == "late"));
        Ok(())
    })?;
    drop(server);
    instance.down()
}

pub fn journald_syslog_and_gelf_get_lines_in_their_words() -> Result<()> {
    let dir = tempfile::tempdir()?;
    let path = dir.path().join("journal");
    let journal = UnixDatagram::bind(&path)?;
    journal.set_read_timeout(Some(LIMIT))?;
    let instance =
        Instance::builder("dockerjournal").env("WINDLASS_JOURNAL_SOCKET", &path.display().to_string()).start()?;
    let docker = Docker::of(&instance)?;
    eventually(LIMIT, "the docker API answers", || docker.ok(&["version"]))?;
    ensure!(docker.ok(&["info", "-f", "{{.Plugins.Log}}"])?.contains("journald"));
    let flags =
        ["--log-driver", "journald", "--label", "tier=front", "--log-opt", "labels=tier", "--log-opt", "tag={{.Name}}"];
    docker.script(&[&flags[..], &["--name", "web"]].concat(), "echo out; echo err >&2")?.ok()?;
    let mut buffer = vec![0; 64 << 10];
    let mut said = BTreeMap::new();
    for _ in 0..2 {
        let n = journal.recv(&mut buffer)?;
        let text = String::from_utf8(buffer[..n].to_vec())?;
        for line in ["CONTAINER_NAME=web", "CONTAINER_TAG=web", "TIER=front", &format!("IMAGE_NAME={IMAGE}")] {
            ensure!(text.lines().any(|l| l == line), "{line} in {text}");
        }
        let field = |name: &str| text.lines().find_map(|l| l.strip_prefix(name)).unwrap_or_default().to_owned();
        said.insert(field("MESSAGE="), field("PRIORITY="));
    }
    ensure!(said == BTreeMap::from([("out".into(), "6".into()), ("err".into(), "3".into())]), "{said:?}");
    // Docker's own copy.
    ensure!(docker.ok(&["logs", "--details", "web"])? == "tier=front out");
    docker.ok(&["rm", "web"])?;
    let hidden = ["--log-driver", "journald", "--log-opt", "cache-disabled=true", "--name", "hidden"];
    docker.script(&hidden, "true")?.ok()?;
    ensure!(docker.fails(&["logs", "hidden"])?.contains("does not support reading"));

    let server = UdpSocket::bind("127.0.0.1:0")?;
    server.set_read_timeout(Some(LIMIT))?;
    let to = server.local_addr()?;
    let address = format!("syslog-address=udp://{to}");
    let flags = ["--rm", "--log-driver", "syslog", "--log-opt", &address, "--log-opt", "syslog-facility=local3"];
    docker
        .script(&[&flags[..], &["--log-opt", "syslog-format=rfc5424", "--log-opt", "tag=shop"]].concat(), "echo told")?
        .ok()?;
    let n = server.recv(&mut buffer)?;
    let text = String::from_utf8_lossy(&buffer[..n]).into_owned();
    ensure!(text.starts_with("<158>1 ") && text.contains(" shop ") && text.ends_with(" - told\n"), "{text}");

    let address = format!("gelf-address=udp://{to}");
    let flags = ["--rm", "--name", "grey", "--log-driver", "gelf", "--log-opt", &address];
    docker.script(&[&flags[..], &["--log-opt", "gelf-compression-type=none"]].concat(), "echo told")?.ok()?;
    let n = server.recv(&mut buffer)?;
    let told: serde_json::Value = serde_json::from_slice(&buffer[..n])?;
    ensure!(told["short_message"] == "told" && told["_container_name"] == "grey" && told["level"] == 6, "{told}");
    for (driver, option, words) in [
        ("splunk", "x=y", "logging driver \"splunk\" is not supported by Windlass"),
        ("nope", "x=y", "no log driver named 'nope' is registered"),
        ("journald", "colour=red", "unknown log opt 'colour' for journald log driver"),
        ("json-file", "env-regex=A", "\"env-regex\" of the logging driver \"json-file\" is not supported"),
    ] {
        let refused = docker.fails(&["create", "--log-driver", driver, "--log-opt", option, IMAGE])?;
        ensure!(refused.contains(words), "{refused}");
    }
    instance.down()
}
