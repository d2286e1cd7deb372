//! `windlass registry`, as its users meet it: pushed to by skopeo, pulled from by windlass, guarded by TLS and users.

use std::io::{BufRead as _, BufReader};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use e2e::{DebianRegistry, IMAGE, Instance, command, skip, windlass};

/// A registry that runs; killed like a crashed one when dropped.
pub struct Registry {
    child: Child,
    /// As it says itself.
    url: String,
}

impl Registry {
    pub fn start(dir: &Path, args: &[&str]) -> Result<Registry> {
        let mut program = Command::new(windlass().context("no windlass binary")?);
        program.args(["registry", "--listen", "127.0.0.1:0", "--dir"]).arg(dir).args(args);
        let mut child = program.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::inherit()).spawn()?;
        let mut line = String::new();
        BufReader::new(child.stdout.take().context("no output")?).read_line(&mut line)?;
        let url = line.trim().strip_prefix("Registry: ").with_context(|| format!("it said {line:?}"))?.to_owned();
        Ok(Registry { child, url })
    }

    pub fn host(&self) -> &str {
        self.url.split("//").nth(1).and_then(|rest| rest.strip_suffix("/v2/")).unwrap_or_default()
    }
}

impl Drop for Registry {
    fn drop(&mut self) {
        let _ended = self.child.kill().and_then(|()| self.child.wait());
    }
}

pub fn skopeo(args: &[&str]) -> Result<command::Output> {
    let mut program = Command::new("skopeo");
    program.arg("--insecure-policy").args(args);
    match Command::new("skopeo").arg("--version").stdout(Stdio::null()).status() {
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => Err(skip("skopeo is not installed")),
        _ => command::run(&mut program, None, Duration::from_secs(60)),
    }
}

pub fn images_are_pushed_to_our_registry_survive_its_kill_and_are_pulled() -> Result<()> {
    let instance = Instance::builder("registry").prepare()?;
    let dir = instance.dir().join("registry");
    let archive = instance.dir().join("box.tar").display().to_string();
    let verb = |args: &[&str]| instance.windlass(&[&["image"], args].concat())?.ok();
    verb(&["save", IMAGE, "--output", &archive])?;

    let registry = Registry::start(&dir, &[])?;
    let (from, to) = (format!("docker-archive:{archive}"), format!("docker://{}/team/box:1", registry.host()));
    skopeo(&["copy", "--dest-tls-verify=false", &from, &to])?.ok()?;
    let own = format!("{}/team/box:2", registry.host());
    verb(&["tag", IMAGE, &own])?;
    verb(&["push", &own])?;
    drop(registry);

    // Another process, another port, the same content.
    let registry = Registry::start(&dir, &[])?;
    let at = |tag: &str| format!("{}/team/box:{tag}", registry.host());
    let inspect = |tag: &str| skopeo(&["inspect", "--tls-verify=false", &format!("docker://{}", at(tag))])?.ok();
    ensure!(inspect("1")?.contains("\"RepoTags\": [\n        \"1\",\n        \"2\"\n    ]"), "{}", inspect("1")?);
    for tag in ["1", "2"] {
        verb(&["pull", &at(tag)])?;
    }
    let gone = format!("docker://{}", at("1"));
    skopeo(&["delete", "--tls-verify=false", &gone])?.ok()?;
    ensure!(skopeo(&["inspect", "--tls-verify=false", &gone])?.code() != 0, "it is still there");
    let gc = |grace: &str| {
        instance.windlass(&["registry", "gc", "--dir", &dir.display().to_string(), "--grace", grace])?.ok()
    };
    ensure!(gc("3600")?.starts_with("Removed blobs: 0\n"), "what is young was removed");
    ensure!(!gc("0")?.starts_with("Removed blobs: 0\n"), "nothing was removed");
    verb(&["remove", &at("2")])?;
    verb(&["pull", &at("2")])?;
    instance.down()
}

pub fn a_cache_of_dockers_registry_serves_on_when_that_is_gone() -> Result<()> {
    let instance = Instance::builder("registry-proxy").prepare()?;
    let upstream = DebianRegistry::start(&instance.dir().join("upstream"))?;
    let verb = |args: &[&str]| instance.windlass(&[&["image"], args].concat())?.ok();
    let archive = instance.dir().join("box.tar").display().to_string();
    verb(&["save", IMAGE, "--output", &archive])?;
    let from = format!("docker-archive:{archive}");
    let to = |host: &str, tag: &str| format!("docker://{host}/team/box:{tag}");
    let origin = upstream.address.to_string();
    skopeo(&["copy", "--dest-tls-verify=false", &from, &to(&origin, "1")])?.ok()?;

    let remote = format!("http://{origin}");
    let cache = Registry::start(&instance.dir().join("cache"), &["--proxy", &remote, "--proxy-ttl", "0"])?;
    let copied = |name: &str| {
        let into = format!("dir:{}", instance.dir().join(name).display());
        skopeo(&["copy", "--src-tls-verify=false", &to(cache.host(), "1"), &into])?.ok()
    };
    copied("first")?;
    let tags = skopeo(&["list-tags", "--tls-verify=false", &format!("docker://{}/team/box", cache.host())])?.ok()?;
    ensure!(tags.contains("\"1\""), "{tags}");
    let refused = skopeo(&["copy", "--dest-tls-verify=false", &from, &to(cache.host(), "2")])?;
    ensure!(refused.code() != 0 && refused.stderr.contains("pull-through cache"), "{refused:?}");
    drop(upstream);
    copied("second")?;
    verb(&["pull", &format!("{}/team/box:1", cache.host())])?;
    instance.down()
}

pub fn our_registry_asks_for_tls_and_users_beyond_loopback_and_for_users_where_told() -> Result<()> {
    let instance = Instance::builder("registry-users").prepare()?;
    let dir = instance.dir().join("registry").display().to_string();
    let open = instance.windlass(&["registry", "--dir", &dir, "--listen", "0.0.0.0:0"])?;
    ensure!(open.code() == 3 && open.stderr.contains("--htpasswd"), "{open:?}");

    // `htpasswd -nbB ana s3cret`, of cost 4.
    let users = instance.dir().join("users");
    std::fs::write(&users, "ana:$2y$04$ssnMNYQ9noFUjfWoi5T19u1LzWwyPTGC3701kpfm0NeV4SY7W4uiG\n")?;
    let key = rcgen::generate_simple_self_signed(vec!["127.0.0.1".into(), "localhost".into()])?;
    let (cert, private) = (instance.dir().join("tls.crt"), instance.dir().join("tls.key"));
    std::fs::write(&cert, key.cert.pem())?;
    std::fs::write(&private, key.signing_key.serialize_pem())?;
    let text = |path: &Path| path.display().to_string();
    let (cert, private, users) = (text(&cert), text(&private), text(&users));
    let guard = ["--tls-cert", &cert, "--tls-key", &private, "--htpasswd", &users];
    let registry = Registry::start(Path::new(&dir), &guard)?;
    ensure!(registry.url.starts_with("https://"), "{}", registry.url);

    let archive = instance.dir().join("box.tar").display().to_string();
    instance.windlass(&["image", "save", IMAGE, "--output", &archive])?.ok()?;
    let (from, to) = (format!("docker-archive:{archive}"), format!("docker://{}/box:1", registry.host()));
    let push =
        |credentials: &str| skopeo(&["copy", "--dest-tls-verify=false", "--dest-creds", credentials, &from, &to]);
    let refused = push("ana:wrong")?;
    ensure!(refused.code() != 0 && refused.stderr.contains("unauthorized"), "{refused:?}");
    push("ana:s3cret")?.ok()?;
    skopeo(&["inspect", "--creds", "ana:s3cret", "--tls-verify=false", &to])?.ok()?;
    ensure!(skopeo(&["delete", "--tls-verify=false", "--no-creds", &to])?.code() != 0, "anybody may delete");
    instance.down()
}
