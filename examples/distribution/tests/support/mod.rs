//! A PostgreSQL of the test's own, the roles in this process or as programs, and patience.
#![allow(clippy::unwrap_used, reason = "a fixture that fails is a failed test")]
#![allow(dead_code, reason = "each test binary uses its part")]

use std::io::{BufRead, BufReader};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Mutex;
use std::time::{Duration, Instant};

use distribution::db::DbSettings;
use distribution::http::{Answer, Http};
use distribution::serve::{Lifecycle, ServeSettings};
use distribution::{erp, orders, sync};
use http::{Method, Request};
use http_body_util::Full;
use serde_json::Value;

const PATIENCE: Duration = Duration::from_secs(60);

/// Waits until it is so.
pub async fn until<F: Future<Output = bool>>(what: &str, condition: impl Fn() -> F) {
    let begun = Instant::now();
    while !condition().await {
        assert!(begun.elapsed() < PATIENCE, "gave up waiting until {what}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// A database cluster in a folder, reached by unix socket, gone when dropped.
pub struct Postgres {
    dir: tempfile::TempDir,
    bin: PathBuf,
}

impl Postgres {
    /// `None`, with the reason told, when PostgreSQL cannot be had.
    pub fn start() -> Option<Self> {
        let bin = programs()?;
        let dir = tempfile::tempdir().unwrap();
        let postgres = Postgres { dir, bin };
        if let Some((uid, gid)) = unprivileged() {
            std::os::unix::fs::chown(postgres.dir.path(), Some(uid), Some(gid)).unwrap();
        }
        let data = postgres.data();
        postgres.run("initdb", &["-D", &data, "-U", "postgres", "-A", "trust", "--no-sync", "--no-instructions"]);
        let options = format!(
            "-c listen_addresses= -c unix_socket_directories={} -c fsync=off -c max_connections=60",
            postgres.dir.path().display()
        );
        postgres.run("pg_ctl", &["-D", &data, "-w", "-s", "-o", &options, "-l", &format!("{data}.log"), "start"]);
        postgres.run("createdb", &["-h", postgres.dir.path().to_str().unwrap(), "-U", "postgres", "distribution"]);
        Some(postgres)
    }

    fn data(&self) -> String {
        self.dir.path().join("data").display().to_string()
    }

    fn run(&self, program: &str, args: &[&str]) {
        let mut command = Command::new(self.bin.join(program));
        command.args(args).current_dir(self.dir.path()).stdin(Stdio::null());
        if let Some((uid, gid)) = unprivileged() {
            command.uid(uid).gid(gid);
        }
        // pg_ctl leaves its output to the server, so a pipe would never end.
        let log = self.dir.path().join("setup.log");
        let file = std::fs::File::options().create(true).append(true).open(&log).unwrap();
        let status = command.stdout(file.try_clone().unwrap()).stderr(file).status().unwrap();
        assert!(status.success(), "{program}: {}", std::fs::read_to_string(log).unwrap());
    }

    pub fn settings(&self) -> DbSettings {
        DbSettings {
            host: self.dir.path().display().to_string(),
            port: 5432,
            user: "postgres".into(),
            password: String::new(),
            name: "distribution".into(),
            connections: 8,
        }
    }

    /// Runs one statement and answers its first column of text.
    pub async fn sql(&self, statement: &str) -> Vec<String> {
        let (client, connection) = self.settings().connect().await.unwrap();
        let driver = tokio::spawn(connection);
        let rows = client.simple_query(statement).await.unwrap();
        drop(client);
        driver.await.unwrap().unwrap();
        let row = |m: &tokio_postgres::SimpleQueryMessage| match m {
            tokio_postgres::SimpleQueryMessage::Row(row) => row.get(0).map(str::to_owned),
            _ => None,
        };
        rows.iter().filter_map(row).collect()
    }
}

impl Drop for Postgres {
    fn drop(&mut self) {
        self.run("pg_ctl", &["-D", &self.data(), "-w", "-s", "-m", "immediate", "stop"]);
    }
}

/// PostgreSQL refuses to run as root: then it runs as this user and group.
fn unprivileged() -> Option<(u32, u32)> {
    if !nix::unistd::geteuid().is_root() {
        return None;
    }
    let user = ["postgres", "nobody"].iter().find_map(|name| nix::unistd::User::from_name(name).ok().flatten())?;
    Some((user.uid.as_raw(), user.gid.as_raw()))
}

/// Where `initdb` is; installed when missing.
fn programs() -> Option<PathBuf> {
    static INSTALL: Mutex<()> = Mutex::new(());
    let _one = INSTALL.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
    let find = || {
        let mut found: Vec<PathBuf> =
            std::fs::read_dir("/usr/lib/postgresql").ok()?.flatten().map(|e| e.path().join("bin")).collect();
        found.retain(|bin| bin.join("initdb").exists());
        found.sort();
        found.pop()
    };
    if find().is_none() && nix::unistd::geteuid().is_root() {
        let apt = |args: &[&str]| {
            let mut command = Command::new("apt-get");
            // In run level 1 the package does not start a server.
            command.args(args).env("RUNLEVEL", "1").env("DEBIAN_FRONTEND", "noninteractive");
            command.stdout(Stdio::null()).stderr(Stdio::null()).status().is_ok_and(|status| status.success())
        };
        let install = ["install", "-y", "--no-install-recommends", "postgresql"];
        if !apt(&install) && apt(&["update"]) {
            apt(&install);
        }
    }
    let found = find();
    if found.is_none() {
        println!("skipped: the postgresql package cannot be had");
    }
    found
}

pub fn serve() -> ServeSettings {
    ServeSettings { listen: "127.0.0.1:0".parse().unwrap(), drain_delay_seconds: 0, drain_limit_seconds: 5 }
}

/// A role in this process, ended when dropped.
pub struct Role {
    pub url: String,
    pub lifecycle: Lifecycle,
}

impl Drop for Role {
    fn drop(&mut self) {
        self.lifecycle.drain();
    }
}

pub async fn orders_api(db: &Postgres) -> Role {
    let lifecycle = Lifecycle::new();
    let settings = orders::Settings { serve: serve(), db: db.settings() };
    let (server, routes) = orders::build(settings, lifecycle.clone()).await.unwrap();
    let url = format!("http://{}", server.address().unwrap());
    tokio::spawn(server.run(routes));
    ready(Role { url, lifecycle }).await
}

pub async fn erp(db: &Postgres) -> Role {
    let lifecycle = Lifecycle::new();
    let settings = erp::Settings { serve: serve(), db: db.settings() };
    let (server, routes) = erp::build(settings, lifecycle.clone()).await.unwrap();
    let url = format!("http://{}", server.address().unwrap());
    tokio::spawn(server.run(routes));
    ready(Role { url, lifecycle }).await
}

/// Quick to try again, so that tests end.
pub fn sync_settings(db: &Postgres, erp: &Role) -> sync::Settings {
    sync::Settings {
        serve: serve(),
        db: db.settings(),
        erp_url: erp.url.clone(),
        parallel: 8,
        max_attempts: 1000,
        backoff_base_ms: 20,
        backoff_cap_ms: 200,
        timeout_ms: 4000,
        lease_ms: 5000,
    }
}

pub async fn erp_sync(settings: sync::Settings) -> Role {
    let lifecycle = Lifecycle::new();
    let (server, routes, work) = sync::build(settings, lifecycle.clone()).await.unwrap();
    let url = format!("http://{}", server.address().unwrap());
    tokio::spawn(work);
    tokio::spawn(server.run(routes));
    ready(Role { url, lifecycle }).await
}

async fn ready(role: Role) -> Role {
    let url = format!("{}/readyz", role.url);
    let http = &client();
    until("the role is ready", || async { http.call(Method::GET, &url, None).await.is_ok_and(|a| a.status == 200) })
        .await;
    role
}

pub fn client() -> Http {
    Http::new(Duration::from_secs(10))
}

pub async fn post_order(http: &Http, api: &str, key: &str, body: &str) -> Answer {
    let request = Request::post(format!("{api}/orders"))
        .header("idempotency-key", key)
        .body(Full::new(body.to_owned().into()))
        .unwrap();
    http.send(request).await.unwrap()
}

pub fn order(customer: &str) -> String {
    format!(r#"{{"customer":"{customer}","lines":[{{"sku":"A-1","quantity":2,"price_cents":150}}]}}"#)
}

pub async fn get(http: &Http, url: &str) -> Value {
    http.get(url).await.unwrap()
}

pub async fn behave(http: &Http, erp: &Role, behaviour: Value) {
    let answer = http.call(Method::PUT, &format!("{}/admin/behaviour", erp.url), Some(&behaviour)).await.unwrap();
    assert_eq!(answer.status, 200, "{}", String::from_utf8_lossy(&answer.body));
}

/// The program itself, with what it logs.
pub struct Program {
    pub child: Child,
    pub url: String,
}

impl Program {
    pub fn start(role: &str, args: &[String], db: &Postgres) -> Self {
        let settings = db.settings();
        let mut child = Command::new(Path::new(env!("CARGO_BIN_EXE_distribution")))
            .arg(role)
            .args(["--listen", "127.0.0.1:0"])
            .args(args)
            .env("PGHOST", &settings.host)
            .env("PGDATABASE", &settings.name)
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let mut log = BufReader::new(child.stderr.take().unwrap());
        let mut line = String::new();
        let address = loop {
            line.clear();
            assert!(log.read_line(&mut line).unwrap() > 0, "{role} ended: {:?}", child.wait());
            let entry: Value = serde_json::from_str(&line).unwrap();
            if entry["message"] == "listening" {
                break entry["address"].as_str().unwrap().to_owned();
            }
        };
        std::thread::spawn(move || std::io::copy(&mut log, &mut std::io::sink()));
        Program { child, url: format!("http://{address}") }
    }

    pub fn signal(&self, signal: nix::sys::signal::Signal) {
        let pid = nix::unistd::Pid::from_raw(i32::try_from(self.child.id()).unwrap());
        nix::sys::signal::kill(pid, signal).unwrap();
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
