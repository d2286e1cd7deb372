//! BuildKit's API as a client of our own speaks it, where the stock one is not installed: calls over one connection, and over
//! another the answers to what the daemon asks (files, secrets). Messages are written down here once more, so that a number
//! that is wrong on the other side is noticed.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use anyhow::{Context as _, Result, bail, ensure};
use e2e::{Ctx, IDLE, IMAGE, eventually, patient};
use grpc::server::{self, Answer, Asked, Refusal};
use grpc::{Connection, Limits};
use prost::Message;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::UnixStream;
use tokio::sync::{Mutex, mpsc};

use crate::Docker;
use crate::builds::runs;

const LIMIT: Duration = Duration::from_secs(240);
const LIMITS: Limits =
    Limits { message_max: 16 << 20, stream_window: 1 << 20, connection_window: 1 << 22, keep_alive: None };
/// Of Go's `os.FileMode`.
const DIR: u32 = 1 << 31;
const SYMLINK: u32 = 1 << 27;

#[derive(Clone, PartialEq, Message)]
struct Exporter {
    #[prost(string, tag = "1")]
    kind: String,
    #[prost(btree_map = "string, string", tag = "2")]
    attrs: BTreeMap<String, String>,
}

#[derive(Clone, PartialEq, Message)]
struct Solve {
    #[prost(string, tag = "1")]
    id: String,
    #[prost(string, tag = "5")]
    session: String,
    #[prost(string, tag = "6")]
    frontend: String,
    #[prost(btree_map = "string, string", tag = "7")]
    attrs: BTreeMap<String, String>,
    #[prost(message, repeated, tag = "13")]
    exporters: Vec<Exporter>,
}

#[derive(Clone, PartialEq, Message)]
struct Solved {
    #[prost(btree_map = "string, string", tag = "1")]
    response: BTreeMap<String, String>,
}

#[derive(Clone, PartialEq, Message)]
struct Name {
    #[prost(string, tag = "1")]
    name: String,
}

#[derive(Clone, PartialEq, Message)]
struct Step {
    #[prost(string, tag = "3")]
    name: String,
    #[prost(bool, tag = "4")]
    cached: bool,
    #[prost(string, tag = "7")]
    error: String,
}

#[derive(Clone, PartialEq, Message)]
struct Line {
    #[prost(bytes = "vec", tag = "4")]
    text: Vec<u8>,
}

#[derive(Clone, PartialEq, Message)]
struct News {
    #[prost(message, repeated, tag = "1")]
    steps: Vec<Step>,
    #[prost(message, repeated, tag = "3")]
    lines: Vec<Line>,
}

#[derive(Clone, PartialEq, Message)]
struct Bytes {
    #[prost(bytes = "vec", tag = "1")]
    data: Vec<u8>,
}

#[derive(Clone, PartialEq, Message)]
struct Stat {
    #[prost(string, tag = "1")]
    path: String,
    #[prost(uint32, tag = "2")]
    mode: u32,
    #[prost(int64, tag = "5")]
    size: i64,
    #[prost(int64, tag = "6")]
    time: i64,
    #[prost(string, tag = "7")]
    link: String,
}

#[derive(Clone, PartialEq, Message)]
struct Packet {
    #[prost(int32, tag = "1")]
    kind: i32,
    #[prost(message, optional, tag = "2")]
    stat: Option<Stat>,
    #[prost(uint32, tag = "3")]
    id: u32,
    #[prost(bytes = "vec", tag = "4")]
    data: Vec<u8>,
}

/// Something in the client's folder.
#[derive(Clone)]
enum Entry {
    File(&'static str),
    Dir,
    Link(&'static str),
}

/// What a client has, and what was asked of it.
#[derive(Default)]
struct Offered {
    entries: Vec<(&'static str, Entry)>,
    asked: Mutex<Vec<String>>,
}

/// Upgrades a connection to HTTP/2.
async fn upgraded(socket: &Path, path: &str, headers: &str) -> Result<UnixStream> {
    let mut stream = UnixStream::connect(socket).await?;
    let head = format!("POST {path} HTTP/1.1\r\nHost: docker\r\nConnection: Upgrade\r\nUpgrade: h2c\r\n{headers}\r\n");
    stream.write_all(head.as_bytes()).await?;
    let mut answer = Vec::new();
    while !answer.ends_with(b"\r\n\r\n") {
        answer.push(stream.read_u8().await?);
    }
    let answer = String::from_utf8(answer)?;
    ensure!(answer.starts_with("HTTP/1.1 101 "), "{answer}");
    Ok(stream)
}

async fn serve(offered: Arc<Offered>, mut asked: Asked) -> Result<Answer, Refusal> {
    match asked.path.as_str() {
        "/moby.buildkit.secrets.v1.Secrets/GetSecret" => {
            let Name { name } = asked.message().await?;
            match name.as_str() {
                "token" => Ok(Answer::one(&Bytes { data: b"hidden".to_vec() })),
                _ => Err(Refusal::new(5, "no such secret")),
            }
        }
        "/moby.filesync.v1.FileSync/DiffCopy" => {
            let (tx, rx) = mpsc::channel(64);
            tokio::spawn(sync(offered, asked, tx));
            Ok(Answer::Many(rx))
        }
        other => Err(Refusal::new(12, other)),
    }
}

async fn sync(offered: Arc<Offered>, mut asked: Asked, tx: mpsc::Sender<Result<bytes::Bytes, Refusal>>) {
    let follow: Vec<String> =
        asked.headers.get_all("followpaths").iter().filter_map(|v| v.to_str().ok()).map(str::to_owned).collect();
    let wanted = |path: &str| {
        follow.is_empty()
            || follow
                .iter()
                .any(|f| path == f || f.starts_with(&format!("{path}/")) || path.starts_with(&format!("{f}/")))
    };
    let told: Vec<_> = offered.entries.iter().filter(|(path, _)| wanted(path)).cloned().collect();
    for (path, entry) in &told {
        let (mode, size, link) = match entry {
            Entry::File(text) => (0o644, text.len() as i64, ""),
            Entry::Dir => (DIR | 0o755, 0, ""),
            Entry::Link(to) => (SYMLINK | 0o777, 0, *to),
        };
        let stat =
            Stat { path: (*path).to_owned(), mode, size, time: 1_700_000_000_000_000_000, link: link.to_owned() };
        let _ = tx.send(Ok(grpc::frame(&Packet { stat: Some(stat), ..Packet::default() }))).await;
    }
    let _ = tx.send(Ok(grpc::frame(&Packet::default()))).await;
    while let Ok(Some(packet)) = asked.messages.next::<Packet>().await {
        let mut answers = Vec::new();
        if packet.kind == 3 {
            answers.push(Packet { kind: 3, ..Packet::default() });
        } else if let Some((path, Entry::File(text))) = told.get(packet.id as usize) {
            offered.asked.lock().await.push((*path).to_owned());
            answers.push(Packet { kind: 2, id: packet.id, data: text.as_bytes().to_vec(), ..Packet::default() });
            answers.push(Packet { kind: 2, id: packet.id, ..Packet::default() });
        }
        for answer in answers {
            let _ = tx.send(Ok(grpc::frame(&answer))).await;
        }
        if packet.kind == 3 {
            return;
        }
    }
}

/// What came of a build.
struct Outcome {
    result: Result<BTreeMap<String, String>, grpc::CallError>,
    steps: Vec<Step>,
    said: String,
    /// Files whose content was asked for, sorted.
    asked: Vec<String>,
}

/// Opens a session of a client that has these files, and says what it is called.
async fn session(socket: &Path, key: &str, entries: &[(&'static str, Entry)]) -> Result<(String, Arc<Offered>)> {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    let id = format!("{key}-{}-{}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed));
    let mut headers = format!("X-Docker-Expose-Session-Uuid: {id}\r\nX-Docker-Expose-Session-Sharedkey: {key}\r\n");
    for method in ["/moby.filesync.v1.FileSync/DiffCopy", "/moby.buildkit.secrets.v1.Secrets/GetSecret"] {
        headers.push_str(&format!("X-Docker-Expose-Session-Grpc-Method: {method}\r\n"));
    }
    let offered = Arc::new(Offered { entries: entries.to_vec(), ..Offered::default() });
    let session = upgraded(socket, "/session", &headers).await?;
    // Ends with the runtime.
    tokio::spawn({
        let offered = offered.clone();
        server::serve(session, LIMITS, move |asked| serve(offered.clone(), asked))
    });
    Ok((id, offered))
}

/// What `POST /build?version=2` answers, as clients before 23.0 ask it.
async fn build_over_http(socket: &Path, query: &str, entries: &[(&'static str, Entry)]) -> Result<String> {
    let (id, _) = session(socket, "", entries).await?;
    let mut stream = UnixStream::connect(socket).await?;
    let path = format!("/v1.41/build?version=2&buildid={id}-b&session={id}&remote=client-session&{query}");
    let head = format!("POST {path} HTTP/1.1\r\nHost: docker\r\nConnection: close\r\nContent-Length: 0\r\n\r\n");
    stream.write_all(head.as_bytes()).await?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await?;
    Ok(answer)
}

/// Builds with a client that has these files; `key` is the same for builds of the same folder.
async fn build(socket: &Path, key: &str, entries: &[(&'static str, Entry)], name: Option<&str>) -> Result<Outcome> {
    let (id, offered) = session(socket, key, entries).await?;
    let wire = upgraded(socket, "/grpc", "").await?;
    let control = Connection::over(wire, "http://localhost", LIMITS).await?;
    let attrs = [("filename", "Dockerfile"), ("label:l", "v"), ("build-arg:WHO", "me")];
    let kind = "moby".to_owned();
    let export = name.map(|name| Exporter { kind, attrs: BTreeMap::from([("name".to_owned(), name.to_owned())]) });
    let solve = Solve {
        id: id.clone(),
        session: id.clone(),
        frontend: "dockerfile.v0".to_owned(),
        attrs: attrs.map(|(k, v)| (k.to_owned(), v.to_owned())).into(),
        exporters: export.into_iter().collect(),
    };
    let solving = control.unary::<Solved>("/moby.buildkit.v1.Control/Solve", &solve);
    let reading = async {
        let mut news = control.stream("/moby.buildkit.v1.Control/Status", &Name { name: id.clone() }, &[]).await?;
        let (mut steps, mut said) = (Vec::new(), String::new());
        while let Some(more) = news.next::<News>().await? {
            steps.extend(more.steps);
            more.lines.iter().for_each(|line| said.push_str(&String::from_utf8_lossy(&line.text)));
        }
        Ok::<_, grpc::CallError>((steps, said))
    };
    let (result, read) = tokio::join!(solving, reading);
    let (steps, said) = read?;
    let mut asked = std::mem::take(&mut *offered.asked.lock().await);
    asked.sort();
    Ok(Outcome { result: result.map(|solved| solved.response), steps, said, asked })
}

fn on_runtime<T>(work: impl Future<Output = Result<T>>) -> Result<T> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async { tokio::time::timeout(patient(LIMIT), work).await.context("it takes too long")? })
}

fn dockerfile(ctx: &Ctx, name: &str, text: &str) -> &'static str {
    // Entries of a client live as long as the test's process.
    Box::leak(format!("FROM {IMAGE}\nARG WHO\nENV NS={}-{name}\n{text}", ctx.ns).into_boxed_str())
}

pub fn a_client_of_sessions_builds_and_sends_what_changed(ctx: &Ctx) -> Result<()> {
    let docker = Docker::of(&ctx.instance)?;
    let (image, key) = (format!("{}/session:1", ctx.ns), format!("{}-key", ctx.ns));
    let text = "COPY folder/a b /in/\nRUN --mount=type=secret,id=token cat /run/secrets/token /in/a /in/b > /out; echo by $WHO\n";
    let entries = |b: &'static str| {
        [
            (".dockerignore", Entry::File("*.log\n")),
            ("Dockerfile", Entry::File(dockerfile(ctx, "session", text))),
            ("b", Entry::File(b)),
            ("folder", Entry::Dir),
            ("folder/a", Entry::File("first ")),
            ("unused", Entry::File("large")),
        ]
    };
    let one = on_runtime(build(docker.socket(), &key, &entries("second"), Some(&image)))?;
    let response = one.result?;
    ensure!(one.asked == [".dockerignore", "Dockerfile", "b", "folder/a"], "{:?}", one.asked);
    let named = |outcome: &[Step], part: &str| outcome.iter().any(|s| s.name.contains(part));
    ensure!(named(&one.steps, "RUN --mount") && named(&one.steps, "exporting to image"), "{:?}", one.steps);
    ensure!(one.said.contains("by me\n"), "{}", one.said);
    let seen = docker.ok(&["inspect", "--type", "image", "-f", "{{.Id}} {{.Config.Labels.l}}", &image])?;
    ensure!(Some(&seen.replace(" v", "")) == response.get("containerimage.config.digest"), "{seen} {response:?}");
    ensure!(docker.ok(&["run", "--rm", &image, "cat", "/out"])? == "hiddenfirst second");

    let two = on_runtime(build(docker.socket(), &key, &entries("second"), Some(&image)))?;
    ensure!(two.result? == response && two.steps.iter().any(|s| s.cached), "{:?}", two.steps);
    ensure!(two.asked == [".dockerignore", "Dockerfile"], "{:?}", two.asked);
    let three = on_runtime(build(docker.socket(), &key, &entries("other")[..], Some(&image)))?;
    ensure!(three.result.is_ok() && three.asked == [".dockerignore", "Dockerfile", "b"], "{:?}", three.asked);
    ensure!(docker.ok(&["run", "--rm", &image, "cat", "/out"])? == "hiddenfirst other");

    let wrong = [("Dockerfile", Entry::File(dockerfile(ctx, "wrong", "RUN exit 3\n")))];
    let failed = on_runtime(build(docker.socket(), &key, &wrong, None))?;
    let Err(error) = failed.result else { bail!("it was built") };
    ensure!(error.says("did not complete successfully: exit code: 3"), "{error}");
    ensure!(failed.steps.iter().any(|s| s.error.contains("exit code: 3")), "{:?}", failed.steps);
    docker.ok(&["rmi", &image])?;
    Ok(())
}

pub fn older_clients_of_sessions_build_over_http(ctx: &Ctx) -> Result<()> {
    let docker = Docker::of(&ctx.instance)?;
    let image = format!("{}/older", ctx.ns);
    let entries =
        [("Dockerfile", Entry::File(dockerfile(ctx, "older", "COPY a /\nRUN cat /a\n"))), ("a", Entry::File("text"))];
    let built = on_runtime(build_over_http(docker.socket(), &format!("t={image}"), &entries))?;
    ensure!(built.contains(r#""id":"moby.buildkit.trace""#) && built.contains(r#""id":"moby.image.id""#), "{built}");
    ensure!(docker.ok(&["run", "--rm", &image, "cat", "/a"])? == "text");
    let wrong = on_runtime(build_over_http(docker.socket(), "target=none", &entries))?;
    ensure!(wrong.contains("errorDetail") && wrong.contains("could not be found"), "{wrong}");
    let refused = on_runtime(build_over_http(docker.socket(), "memory=100", &entries))?;
    ensure!(refused.contains(" 400 ") && refused.contains("memory of a build"), "{refused}");
    docker.ok(&["rmi", &image])?;
    Ok(())
}

pub fn a_hostile_client_reaches_nothing(ctx: &Ctx) -> Result<()> {
    let docker = Docker::of(&ctx.instance)?;
    let outside = ctx.instance.dir().join(format!("{}-outside", ctx.ns));
    std::fs::create_dir_all(&outside)?;
    let link: &'static str = Box::leak(outside.display().to_string().into_boxed_str());
    let file = Entry::File(dockerfile(ctx, "hostile", "COPY . /\n"));
    for (entries, word) in [
        (vec![("../evil", Entry::File("x"))], "is not a plain one"),
        (vec![("/evil", Entry::File("x"))], "is not a plain one"),
        (vec![("a", Entry::Link(link)), ("a/evil", Entry::File("x"))], "is in a folder that was not told"),
        (vec![("a", Entry::Dir), ("a", Entry::Link(link)), ("a/evil", Entry::File("x"))], "was told twice"),
        (vec![("no/evil", Entry::File("x"))], "is in a folder that was not told"),
    ] {
        let entries = [&[("Dockerfile", file.clone())], entries.as_slice()].concat();
        let outcome = on_runtime(build(docker.socket(), "", &entries, None))?;
        let Err(error) = outcome.result else { bail!("{word}: it was built") };
        ensure!(error.says(word), "{error}");
    }
    ensure!(std::fs::read_dir(&outside)?.next().is_none(), "something came out");
    std::fs::remove_dir(&outside)?;
    Ok(())
}

pub fn a_build_ends_with_its_connection(ctx: &Ctx) -> Result<()> {
    let docker = Docker::of(&ctx.instance)?;
    let word = format!("idle-session-{}", ctx.ns);
    let entries = [("Dockerfile", Entry::File(dockerfile(ctx, "idle", &format!("RUN : {word}; {IDLE}\n"))))];
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build()?;
    let socket = docker.socket().to_path_buf();
    runtime.spawn(async move { build(&socket, "", &entries, None).await });
    let begun = eventually(patient(LIMIT), "the command runs", || {
        ensure!(runs(&word), "nothing is built");
        Ok(())
    });
    // Its connections go with it.
    runtime.shutdown_background();
    begun?;
    eventually(patient(LIMIT), "it ends", || {
        ensure!(!runs(&word), "it goes on");
        Ok(())
    })
}
