//! The Docker face beside other engines, by the commands that people type: the same work for each engine in turn, round after
//! round, so that what disturbs the machine disturbs all. `bench/docker.sh` starts the engines and makes the images.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, bail, ensure};
use bytes::Bytes;
use http::{Request, Response};
use http_body_util::{BodyExt, Empty, Full};
use hyper_util::rt::TokioIo;
use tokio::net::{TcpListener, TcpStream};

use crate::median;

/// Connections to a published port.
const CONNECTIONS: usize = 32;
/// Containers that are started to see what they need.
const CROWD: usize = 100;
/// A command that takes longer has failed.
const ANSWER_MAX: Duration = Duration::from_secs(30);

/// What `bench docker` measures.
#[derive(clap::Args)]
pub struct Options {
    /// An engine as NAME=COMMAND, e.g. `docker=docker -H unix:///run/d.sock`; the first is the one that others are compared with
    #[arg(long = "engine", required = true)]
    engines: Vec<Engine>,
    /// Image with `true`, `sleep` and `bench`
    #[arg(long)]
    image: String,
    /// Image of many layers in a registry; without one no pull is measured
    #[arg(long)]
    pull: Option<String>,
    /// Folder with the Dockerfile of a build of ten steps; without one no build is measured
    #[arg(long)]
    build: Option<String>,
    /// Rounds of the short commands
    #[arg(long, default_value_t = 20)]
    rounds: usize,
    /// Seconds for which requests are sent
    #[arg(long, default_value_t = 3)]
    seconds: u64,
}

/// An engine.
#[derive(Debug, Clone)]
struct Engine {
    name: String,
    command: Vec<String>,
}

impl std::str::FromStr for Engine {
    type Err = String;
    fn from_str(text: &str) -> Result<Self, String> {
        let (name, command) = text.split_once('=').ok_or("an engine is NAME=COMMAND")?;
        Ok(Engine { name: name.to_owned(), command: command.split_whitespace().map(str::to_owned).collect() })
    }
}

impl Engine {
    fn command(&self, args: &[&str]) -> Command {
        let mut command = Command::new(&self.command[0]);
        // What the others speak too: sessions of BuildKit need a plugin of the CLI.
        command.args(&self.command[1..]).args(args).env("DOCKER_BUILDKIT", "0").stdin(Stdio::null());
        command
    }

    fn ok(&self, args: &[&str]) -> anyhow::Result<String> {
        let done = self.command(args).output().with_context(|| format!("run {}", self.command[0]))?;
        let said = String::from_utf8_lossy(&done.stderr);
        ensure!(done.status.success(), "{} {}: {said}", self.name, args.join(" "));
        Ok(String::from_utf8_lossy(&done.stdout).trim().to_owned())
    }

    /// Milliseconds that a command takes.
    fn time(&self, args: &[&str]) -> anyhow::Result<f64> {
        let started = Instant::now();
        self.ok(args)?;
        Ok(started.elapsed().as_secs_f64() * 1000.0)
    }

    fn quiet(&self, args: &[&str]) {
        let _ = self.command(args).stdout(Stdio::null()).stderr(Stdio::null()).status();
    }
}

/// One measurement of all engines, a list of rounds for each.
type Rounds = Vec<Vec<f64>>;

fn in_turn(
    engines: &[Engine],
    rounds: usize,
    mut one: impl FnMut(&Engine, usize) -> anyhow::Result<f64>,
) -> anyhow::Result<Rounds> {
    let mut all = vec![Vec::new(); engines.len()];
    for round in 0..rounds {
        for (engine, values) in engines.iter().zip(&mut all) {
            values.push(one(engine, round)?);
        }
    }
    Ok(all)
}

/// Prints a row: medians, and how many times better the first engine is than each other.
fn row(what: &str, unit: &str, less_is_better: bool, rounds: &Rounds) {
    let medians: Vec<f64> = rounds.iter().map(|r| median(r)).collect();
    let shown = |value: f64| if value < 10.0 { format!("{value:.1}{unit}") } else { format!("{value:.0}{unit}") };
    let mut cells = vec![shown(medians[0])];
    for other in &medians[1..] {
        let ratio = if less_is_better { other / medians[0] } else { medians[0] / other };
        cells.push(format!("{} ({ratio:.1}×)", shown(*other)));
    }
    println!("| {what} | {} |", cells.join(" | "));
}

/// Measures all engines.
pub async fn run(options: &Options) -> anyhow::Result<()> {
    let engines = &options.engines;
    let names: Vec<&str> = engines.iter().map(|e| e.name.as_str()).collect();
    println!("| measurement | {} |\n|---|{}", names.join(" | "), "---|".repeat(names.len()));
    short(engines, options)?;
    crowd(engines, &options.image)?;
    published(engines, options).await?;
    if let Some(image) = &options.pull {
        let rounds = in_turn(engines, 3, |engine, _| {
            engine.quiet(&["rmi", "-f", image]);
            engine.time(&["pull", "-q", image])
        })?;
        row("pull of ten layers, 50 MB of small files each", " ms", true, &rounds);
    }
    if let Some(folder) = &options.build {
        let cold =
            in_turn(engines, 5, |engine, _| engine.time(&["build", "-q", "--no-cache", "-t", "bench-built", folder]))?;
        row("build of ten steps, nothing cached", " ms", true, &cold);
        in_turn(engines, 1, |engine, _| engine.time(&["build", "-q", "-t", "bench-built", folder]))?;
        let warm = in_turn(engines, 10, |engine, _| engine.time(&["build", "-q", "-t", "bench-built", folder]))?;
        row("the same, all cached", " ms", true, &warm);
    }
    Ok(())
}

fn short(engines: &[Engine], options: &Options) -> anyhow::Result<()> {
    let image = options.image.as_str();
    let alone = in_turn(engines, options.rounds, |engine, _| engine.time(&["--version"]))?;
    row("the CLI alone (--version)", " ms", true, &alone);
    let run = in_turn(engines, options.rounds, |engine, _| engine.time(&["run", "--rm", image, "true"]))?;
    row("run --rm true", " ms", true, &run);
    for engine in engines {
        engine.ok(&["run", "-d", "--name", "bench-exec", image, "sleep", "3600"])?;
    }
    let exec = in_turn(engines, options.rounds, |engine, _| engine.time(&["exec", "bench-exec", "true"]))?;
    row("exec true", " ms", true, &exec);
    for engine in engines {
        engine.ok(&["rm", "-f", "bench-exec"])?;
    }
    Ok(())
}

/// Private memory of all processes of this machine, KiB.
fn private_memory() -> u64 {
    let of = |entry: std::fs::DirEntry| -> Option<u64> {
        let text = std::fs::read_to_string(entry.path().join("smaps_rollup")).ok()?;
        let lines = text.lines().filter(|l| l.starts_with("Private_"));
        Some(lines.filter_map(|l| l.split_whitespace().nth(1)?.parse::<u64>().ok()).sum())
    };
    std::fs::read_dir("/proc").into_iter().flatten().flatten().filter_map(of).sum()
}

/// Starts many containers, one after the other, and looks what they need.
fn crowd(engines: &[Engine], image: &str) -> anyhow::Result<()> {
    let (mut times, mut memory) = (Rounds::new(), Rounds::new());
    for engine in engines {
        let before = private_memory();
        let names: Vec<String> = (0..CROWD).map(|i| format!("bench-crowd-{i}")).collect();
        let started: anyhow::Result<Vec<f64>> =
            names.iter().map(|name| engine.time(&["run", "-d", "--name", name, image, "sleep", "3600"])).collect();
        let used = private_memory().saturating_sub(before);
        let mut remove = vec!["rm", "-f"];
        remove.extend(names.iter().map(String::as_str));
        engine.quiet(&remove);
        times.push(started?);
        memory.push(vec![used as f64 / CROWD as f64 / 1024.0]);
    }
    row("run -d, a hundred after each other, each", " ms", true, &times);
    row("private memory of all processes for each of these", " MiB", true, &memory);
    Ok(())
}

/// Requests through a published port and, beside it, straight to the container.
async fn published(engines: &[Engine], options: &Options) -> anyhow::Result<()> {
    let (mut through, mut direct) = (Rounds::new(), Rounds::new());
    for engine in engines {
        engine.ok(&["run", "-d", "--name", "bench-port", "-p", "18080:8080", &options.image, "/bench", "answer"])?;
        let format = "{{range .NetworkSettings.Networks}}{{.IPAddress}}{{end}}";
        let address = engine.ok(&["inspect", "-f", format, "bench-port"])?;
        let own: SocketAddr = format!("{address}:8080").parse().with_context(|| format!("address {address:?}"))?;
        let port = SocketAddr::from(([127, 0, 0, 1], 18080));
        for to in [own, port] {
            answering(to).await?;
        }
        let (mut of_port, mut of_own) = (Vec::new(), Vec::new());
        for _ in 0..3 {
            of_port.push(requests(port, options.seconds).await?);
            of_own.push(requests(own, options.seconds).await?);
        }
        engine.ok(&["rm", "-f", "bench-port"])?;
        through.push(of_port);
        direct.push(of_own);
    }
    row("requests/s through 127.0.0.1 and a published port", "", false, &through);
    row("requests/s to the container's own address", "", false, &direct);
    Ok(())
}

async fn answering(to: SocketAddr) -> anyhow::Result<()> {
    let started = Instant::now();
    while let Err(error) = requests(to, 0).await {
        if started.elapsed() > ANSWER_MAX {
            bail!("nothing answers at {to}: {error}");
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    Ok(())
}

/// Requests a second over some connections that stay open; at least one.
async fn requests(to: SocketAddr, seconds: u64) -> anyhow::Result<f64> {
    let (started, until) = (Instant::now(), Duration::from_secs(seconds));
    let count = if seconds == 0 { 1 } else { CONNECTIONS };
    let clients: Vec<_> = (0..count)
        .map(|_| {
            tokio::spawn(async move {
                let stream = TcpStream::connect(to).await?;
                stream.set_nodelay(true)?;
                let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await?;
                tokio::spawn(connection);
                let mut done = 0_u32;
                loop {
                    let request = Request::get("/").header("host", "bench").body(Empty::<Bytes>::new())?;
                    sender.send_request(request).await?.into_body().collect().await?;
                    done += 1;
                    if started.elapsed() >= until {
                        return anyhow::Ok(done);
                    }
                }
            })
        })
        .collect();
    let mut done = 0;
    for client in clients {
        done += client.await??;
    }
    Ok(f64::from(done) / started.elapsed().as_secs_f64())
}

/// Answers every request with `ok`.
pub async fn answer(listen: SocketAddr) -> anyhow::Result<()> {
    let listener = TcpListener::bind(listen).await?;
    loop {
        let (stream, _) = listener.accept().await?;
        stream.set_nodelay(true)?;
        tokio::spawn(async move {
            let ok = |_| async { Ok::<_, Infallible>(Response::new(Full::new(Bytes::from_static(b"ok")))) };
            let service = hyper::service::service_fn(ok);
            let _ = hyper::server::conn::http1::Builder::new().serve_connection(TokioIo::new(stream), service).await;
        });
    }
}
