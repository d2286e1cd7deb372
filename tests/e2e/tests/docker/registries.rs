//! What registries are asked: by `docker login`, `pull`, `push`, `manifest inspect`, `search`, and builds on private images.

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::TcpListener;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use e2e::{Ctx, IMAGE, command, windlass};

use crate::{Docker, named};

const LIMIT: Duration = Duration::from_secs(60);

/// `windlass registry` with one user; killed when dropped.
struct Registry {
    child: Child,
    host: String,
}

impl Registry {
    fn start(ctx: &Ctx) -> Result<Registry> {
        let dir = ctx.instance.dir().join(named(ctx, "registry"));
        std::fs::create_dir(&dir)?;
        // `htpasswd -nbB ana s3cret`, of cost 4.
        let users = dir.join("users");
        std::fs::write(&users, "ana:$2y$04$ssnMNYQ9noFUjfWoi5T19u1LzWwyPTGC3701kpfm0NeV4SY7W4uiG\n")?;
        let mut program = Command::new(windlass().context("no windlass binary")?);
        program
            .args(["registry", "--listen", "127.0.0.1:0", "--dir"])
            .arg(dir.join("data"))
            .arg("--htpasswd")
            .arg(users);
        let mut child = program.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::inherit()).spawn()?;
        let mut line = String::new();
        let read = BufReader::new(child.stdout.take().context("no output")?).read_line(&mut line);
        let host =
            line.split("//").nth(1).and_then(|rest| rest.trim().strip_suffix("/v2/")).unwrap_or_default().to_owned();
        let registry = Registry { child, host };
        read?;
        ensure!(!registry.host.is_empty(), "it said {line:?}");
        Ok(registry)
    }
}

impl Drop for Registry {
    fn drop(&mut self) {
        let _ended = self.child.kill().and_then(|()| self.child.wait());
    }
}

pub fn who_is_logged_in_may_pull_push_and_look(ctx: &Ctx) -> Result<()> {
    let docker = Docker::with_config(&ctx.instance, &named(ctx, "config"))?;
    let registry = Registry::start(ctx)?;
    let (host, image) = (registry.host.as_str(), format!("{}/private/box:1", registry.host));
    docker.ok(&["tag", IMAGE, &image])?;
    ensure!(docker.fails(&["push", &image])?.contains("denied"), "anybody may push");
    let login = |password: &str| {
        let mut command = docker.command(&["login", "-u", "ana", "--password-stdin", host]);
        command::run(&mut command, Some(password.as_bytes()), LIMIT)
    };
    let wrong = login("wrong")?;
    ensure!(wrong.code() != 0 && wrong.stderr.contains("unauthorized"), "{wrong:?}");
    ensure!(login("s3cret")?.ok()?.contains("Login Succeeded"));
    let pushed = docker.ok(&["push", &image])?;
    let digest = pushed.split("digest: ").nth(1).and_then(|d| d.split_whitespace().next()).context("no digest")?;
    docker.ok(&["rmi", &image])?;
    docker.ok(&["pull", &image])?;

    let manifest = docker.ok(&["manifest", "inspect", "--insecure", "-v", &image])?;
    ensure!(manifest.contains(digest), "{manifest}");
    // A build on an image that only its user may see.
    docker.ok(&["rmi", &image])?;
    let dir = ctx.instance.dir().join(named(ctx, "private"));
    std::fs::create_dir(&dir)?;
    std::fs::write(dir.join("Dockerfile"), format!("FROM {image}\nRUN true\n"))?;
    let path = dir.display().to_string();
    docker.ok(&["build", "--no-cache", &path])?;
    docker.ok(&["rmi", &image])?;
    docker.ok(&["logout", host])?;
    ensure!(docker.fails(&["pull", &image])?.contains("access denied"), "anybody may pull");
    let refused = docker.run(&["build", "--no-cache", "--pull", &path])?;
    ensure!(refused.code() != 0 && refused.stderr.contains("access denied"), "{refused:?}");
    Ok(())
}

/// Answers one search as Docker's index does, and says what was asked.
fn index(listener: &TcpListener) -> Result<String> {
    let (mut stream, _) = listener.accept()?;
    stream.set_read_timeout(Some(LIMIT))?;
    let mut asked = Vec::new();
    let mut buffer = [0; 1024];
    while !asked.windows(4).any(|w| w == b"\r\n\r\n") {
        let n = stream.read(&mut buffer)?;
        ensure!(n > 0, "the request broke off");
        asked.extend_from_slice(&buffer[..n]);
    }
    let body = r#"{"num_results":2,"query":"box","results":[
        {"name":"box","description":null,"star_count":7,"is_official":true,"is_automated":false},
        {"name":"me/box","description":"mine","star_count":1,"is_official":false,"is_automated":false}]}"#;
    let length = body.len();
    write!(
        stream,
        "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: {length}\r\nConnection: close\r\n\r\n{body}"
    )?;
    Ok(String::from_utf8_lossy(&asked).into_owned())
}

pub fn a_search_asks_the_index_that_stands_before_the_term(ctx: &Ctx) -> Result<()> {
    let docker = Docker::of(&ctx.instance)?;
    let listener = TcpListener::bind("127.0.0.1:0")?;
    let term = format!("{}/box", listener.local_addr()?);
    let answering = std::thread::spawn(move || (index(&listener), index(&listener)));
    let all = docker.ok(&["search", "--limit", "5", "--format", "{{.Name}} {{.StarCount}} {{.IsOfficial}}", &term])?;
    let liked = docker.ok(&["search", "--filter", "stars=3", "--format", "{{.Name}}", &term])?;
    let (first, second) = answering.join().map_err(|_| anyhow::anyhow!("the index panicked"))?;
    let (first, _) = (first?, second?);
    ensure!(first.starts_with("GET /v1/search?q=box&n=5 "), "{first}");
    ensure!(all.lines().count() == 2 && all.contains("box 7 [OK]"), "{all}");
    ensure!(liked == "box", "{liked}");
    ensure!(docker.fails(&["search", "--limit", "101", &term])?.contains("outside the range"));
    Ok(())
}
