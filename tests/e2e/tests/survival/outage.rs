//! A registry that is away: what runs goes on, what waits for an image comes up by itself when the registry is back.

use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use e2e::{Ctx, eventually, pod, signal_pid};
use nix::sys::signal::Signal;
use serde_json::{Value, json};

use super::processes::{marked, marked_script};
use super::registry::Registry;

/// Where nobody listens.
const NOBODY: &str = "127.0.0.253:9";
/// A back-off that doubled a few times, and what a busy machine adds.
const LIMIT: Duration = Duration::from_secs(240);
/// Bytes of answers after which a hanging registry says no more: more than a manifest, less than a layer.
const BEFORE_HANGING: usize = 64 << 10;

/// How the way to the registry is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Mode {
    Open,
    /// Every request is answered with 500.
    Broken,
    /// Answers stop in the middle, and the connection stays.
    Hanging,
}

struct Shared {
    upstream: SocketAddr,
    mode: Mutex<Mode>,
    open: Mutex<Vec<TcpStream>>,
    /// Connections in all, and answers that were stopped in the middle.
    requests: AtomicU32,
    stuck: AtomicU32,
}

/// What lies between the node and the registry. Its thread ends with the test's process.
struct Way {
    address: SocketAddr,
    shared: Arc<Shared>,
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
}

impl Way {
    fn to(upstream: SocketAddr, mode: Mode) -> Result<Way> {
        let listener = TcpListener::bind(("127.0.0.1", 0))?;
        let address = listener.local_addr()?;
        let shared = Arc::new(Shared {
            upstream,
            mode: Mutex::new(mode),
            open: Mutex::default(),
            requests: AtomicU32::new(0),
            stuck: AtomicU32::new(0),
        });
        let taken = shared.clone();
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let shared = taken.clone();
                std::thread::spawn(move || shared.serve(stream));
            }
        });
        Ok(Way { address, shared })
    }

    fn image(&self) -> String {
        format!("{}/gallery:1", self.address)
    }

    /// Changes the way; connections of before are cut.
    fn becomes(&self, mode: Mode) {
        *lock(&self.shared.mode) = mode;
        for stream in lock(&self.shared.open).drain(..) {
            let _ = stream.shutdown(Shutdown::Both);
        }
    }
}

impl Shared {
    fn serve(&self, client: TcpStream) {
        self.requests.fetch_add(1, Ordering::Relaxed);
        // One that is open when the way changes must be seen by it: kept first, asked afterwards.
        if let Ok(kept) = client.try_clone() {
            lock(&self.open).push(kept);
        }
        let mode = *lock(&self.mode);
        // A peer that goes away is part of the game.
        let _ = match mode {
            Mode::Broken => refuse(client),
            _ => self.pass(client, mode),
        };
    }

    fn pass(&self, client: TcpStream, mode: Mode) -> std::io::Result<()> {
        let server = TcpStream::connect(self.upstream)?;
        lock(&self.open).push(server.try_clone()?);
        let (mut from_client, mut to_server) = (client.try_clone()?, server.try_clone()?);
        std::thread::spawn(move || {
            let _ = std::io::copy(&mut from_client, &mut to_server);
            let _ = to_server.shutdown(Shutdown::Both);
        });
        let (mut from_server, mut to_client) = (server, client);
        let (mut buffer, mut sent) = ([0; 8 << 10], 0);
        loop {
            let n = from_server.read(&mut buffer)?;
            if n == 0 {
                return to_client.shutdown(Shutdown::Both);
            }
            if mode == Mode::Hanging && sent + n > BEFORE_HANGING {
                self.stuck.fetch_add(1, Ordering::Relaxed);
                // The connection stays until the way changes.
                return Ok(());
            }
            to_client.write_all(&buffer[..n])?;
            sent += n;
        }
    }
}

fn refuse(mut client: TcpStream) -> std::io::Result<()> {
    let mut head = [0; 4 << 10];
    let _ = client.read(&mut head)?;
    client.write_all(b"HTTP/1.1 500 Internal Server Error\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")?;
    client.shutdown(Shutdown::Both)
}

fn of_image(name: &str, image: &str, script: &str) -> Value {
    let container = json!({"name": "main", "image": image, "imagePullPolicy": "IfNotPresent"});
    pod(name, script, json!({"containers": [container]}))
}

/// Reasons of a pod's events.
fn reasons(ctx: &Ctx, pod: &str) -> Result<Vec<String>> {
    let field = format!("involvedObject.name={pod}");
    let all = ctx.ok(&["get", "events", "--field-selector", &field, "-o", "jsonpath={.items[*].reason}"])?;
    Ok(all.split(' ').map(str::to_owned).collect())
}

/// Waits until the pod is held back for want of its image, and says so.
fn held_back(ctx: &Ctx, pod: &str, because: &str) -> Result<()> {
    eventually(LIMIT, &format!("{pod} says that its image cannot be pulled"), || {
        let waiting = ctx.json(&format!("pod/{pod}"))?["status"]["containerStatuses"][0]["state"]["waiting"].clone();
        ensure!(waiting["reason"] == "ImagePullBackOff", "{waiting}");
        let message = waiting["message"].as_str().unwrap_or_default();
        ensure!(message.starts_with("Back-off pulling image") && message.contains(because), "{message}");
        let reasons = reasons(ctx, pod)?;
        ensure!(reasons.iter().any(|r| r == "Pulling") && reasons.iter().any(|r| r == "Failed"), "{reasons:?}");
        Ok(())
    })
}

/// What must not change while the registry is away: container and restarts of a pod.
fn run_of(ctx: &Ctx, pod: &str) -> Result<String> {
    let path = "jsonpath={.status.containerStatuses[0].containerID} {.status.containerStatuses[0].restartCount}";
    ctx.ok(&["get", "pod", pod, "-o", path])
}

pub fn a_registry_that_is_away_delays_pulls_and_nothing_else(ctx: &Ctx) -> Result<()> {
    let registry = Registry::start(ctx)?;
    let upstream = registry.image().split('/').next().context("an address")?.parse()?;
    let way = Way::to(upstream, Mode::Broken)?;
    let mark = format!("mark-{}-outage", ctx.instance.name());
    ctx.ready_pod(pod("before", e2e::IDLE, json!({})))?;
    let before = run_of(ctx, "before")?;
    // Down, and answering nonsense.
    ctx.apply(&[
        of_image("down", &format!("{NOBODY}/gallery:1"), e2e::IDLE),
        of_image("waits", &way.image(), &marked_script(&mark)),
    ])?;
    held_back(ctx, "down", "Connection refused")?;
    held_back(ctx, "waits", "500")?;
    // Each attempt asks a bounded number of times, and attempts come ever more seldom.
    let asked = way.shared.requests.load(Ordering::Relaxed);
    ensure!(asked <= 60, "the registry was asked {asked} times");
    // In the middle of a layer it says no more.
    way.becomes(Mode::Hanging);
    eventually(LIMIT, "a pull is stuck in the middle", || {
        ensure!(way.shared.stuck.load(Ordering::Relaxed) > 0, "nothing was asked");
        Ok(())
    })?;
    ensure!(ctx.field("pod/waits", ".status.phase")? == "Pending");
    ctx.ok(&["exec", "before", "--", "true"])?;
    // It is back, and nobody does anything.
    way.becomes(Mode::Open);
    ctx.wait_for("pod/waits", "condition=Ready", LIMIT)?;
    ensure!(ctx.field("pod/waits", ".status.containerStatuses[0].restartCount")? == "0");
    ensure!(reasons(ctx, "waits")?.iter().any(|r| r == "BackOff"), "{:?}", reasons(ctx, "waits")?);
    // Away again: what is on the node is enough.
    way.becomes(Mode::Broken);
    ctx.ready_pod(of_image("cached", &way.image(), e2e::IDLE))?;
    let pids = marked(&mark);
    ensure!(pids.len() == 1, "processes {pids:?}");
    signal_pid(pids[0], Signal::SIGKILL)?;
    ctx.wait("pod/waits", "jsonpath={.status.containerStatuses[0].restartCount}=1")?;
    ctx.wait("pod/waits", "condition=Ready")?;
    ensure!(run_of(ctx, "before")? == before, "before {before}, now {}", run_of(ctx, "before")?);
    // One that never came up goes at once.
    ctx.ok(&["delete", "pod", "down"])?;
    Ok(())
}
