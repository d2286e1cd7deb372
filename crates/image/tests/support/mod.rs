//! What the tests share: tars, a store, a real registry.
#![allow(dead_code, reason = "each test binary uses its part")]
#![allow(clippy::unwrap_used, reason = "a fixture that fails is a failed test")]

use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Mutex;
use std::sync::atomic::{AtomicU16, Ordering};

use image::{Digest, ImageInfo, ImageStore, ImportConfig};
use tempfile::TempDir;

pub fn root() -> bool {
    let root = nix::unistd::geteuid().is_root();
    if !root {
        println!("skipped: needs root");
    }
    root
}

/// A store in a folder of its own.
pub struct Fixture {
    pub dir: TempDir,
    pub store: ImageStore,
}

impl Fixture {
    pub fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let store = ImageStore::open(&dir.path().join("images")).unwrap();
        Fixture { dir, store }
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// An image of one layer with these files.
    pub fn import(&self, reference: &str, files: &[(&str, &[u8])]) -> ImageInfo {
        let tar = self.path("rootfs.tar");
        fs::write(&tar, tar_of(files)).unwrap();
        let config = ImportConfig {
            entrypoint: vec!["/bin/app".into()],
            cmd: vec!["--flag".into()],
            env: vec!["A=1".into()],
            user: Some("1000:1000".into()),
            workdir: Some("/data".into()),
            exposed_ports: vec!["80/tcp".into()],
            labels: vec![("org.example.kind".into(), "test".into())],
            ..ImportConfig::default()
        };
        self.store.import_rootfs(&tar, reference, &config).unwrap()
    }

    /// What is in the store besides images: names of files in tmp/ and ingest/.
    pub fn leftovers(&self) -> Vec<String> {
        let mut found = Vec::new();
        for dir in ["tmp", "ingest"] {
            for entry in fs::read_dir(self.path("images").join(dir)).unwrap() {
                found.push(format!("{dir}/{}", entry.unwrap().file_name().to_string_lossy()));
            }
        }
        found
    }
}

pub fn tar_of(files: &[(&str, &[u8])]) -> Vec<u8> {
    let mut builder = tar::Builder::new(Vec::new());
    for (name, data) in files {
        let mut header = tar::Header::new_gnu();
        header.set_mode(0o644);
        header.set_mtime(1_700_000_000);
        if let Some(dir) = name.strip_suffix('/') {
            header.set_entry_type(tar::EntryType::Directory);
            header.set_mode(0o755);
            header.set_size(0);
            builder.append_data(&mut header, dir, &[][..]).unwrap();
        } else {
            header.set_size(data.len() as u64);
            builder.append_data(&mut header, name, *data).unwrap();
        }
    }
    builder.into_inner().unwrap()
}

/// Bytes that do not compress.
pub fn noise(len: usize, mut seed: u64) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(len + 8);
    while bytes.len() < len {
        seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        bytes.extend_from_slice(&(seed >> 16).to_le_bytes()[..6]);
    }
    bytes.truncate(len);
    bytes
}

/// The `docker-registry` program, installed from the distribution's archive when missing.
pub fn registry_program() -> Option<PathBuf> {
    static INSTALL: Mutex<()> = Mutex::new(());
    let _one = INSTALL.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
    let program = PathBuf::from("/usr/bin/docker-registry");
    if !program.exists() && nix::unistd::geteuid().is_root() {
        let apt = |args: &[&str]| {
            let mut command = Command::new("apt-get");
            // In run level 1 the package does not start its service.
            command.args(args).env("RUNLEVEL", "1").env("DEBIAN_FRONTEND", "noninteractive");
            let quiet = command.stdout(Stdio::null()).stderr(Stdio::null()).status();
            quiet.is_ok_and(|status| status.success())
        };
        let install = ["install", "-y", "--no-install-recommends", "docker-registry"];
        if !apt(&install) && apt(&["update"]) {
            apt(&install);
        }
    }
    if !program.exists() {
        println!("skipped: the docker-registry package cannot be had");
        return None;
    }
    Some(program)
}

/// A real registry on a free port of 127.0.0.1.
pub struct Registry {
    child: Child,
    _dir: TempDir,
    pub address: String,
}

impl Registry {
    pub fn start(users: Option<(&str, &str)>) -> Option<Self> {
        let program = registry_program()?;
        let dir = tempfile::tempdir().unwrap();
        let mut config = format!(
            "version: 0.1\nlog:\n  level: warn\nstorage:\n  filesystem:\n    rootdirectory: {0}/data\n  delete:\n    \
             enabled: true\nhttp:\n  addr: 127.0.0.1:0\n  secret: x\n",
            dir.path().display()
        );
        if let Some((user, password)) = users {
            let file = dir.path().join("htpasswd");
            fs::write(&file, htpasswd(user, password)?).unwrap();
            config += &format!("auth:\n  htpasswd:\n    realm: test\n    path: {}\n", file.display());
        }
        // The registry does not say which port it got, so it is given a free one, from below the range from which the
        // kernel serves those who ask for any.
        static NEXT: AtomicU16 = AtomicU16::new(0);
        let first = 12_000 + (std::process::id() % 170) as u16 * 100;
        let free = |port: &u16| TcpListener::bind(("127.0.0.1", *port)).is_ok();
        let port = std::iter::repeat_with(|| first + NEXT.fetch_add(1, Ordering::Relaxed) % 100).find(free).unwrap();
        let config = config.replace("127.0.0.1:0", &format!("127.0.0.1:{port}")).replace("level: warn", "level: info");
        let path = dir.path().join("config.yml");
        fs::write(&path, config).unwrap();
        let mut child = Command::new(program)
            .args(["serve", path.to_str().unwrap()])
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let mut log = BufReader::new(child.stderr.take().unwrap());
        let mut line = String::new();
        while log.read_line(&mut line).unwrap() > 0 && !line.contains("listening on") {
            line.clear();
        }
        assert!(line.contains("listening on"), "the registry ended: {:?}", child.wait());
        std::thread::spawn(move || std::io::copy(&mut log, &mut std::io::sink()));
        Some(Registry { child, _dir: dir, address: format!("127.0.0.1:{port}") })
    }

    pub fn reference(&self, rest: &str) -> String {
        format!("{}/{rest}", self.address)
    }
}

impl Drop for Registry {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A bcrypt line, from whichever tool this host has.
fn htpasswd(user: &str, password: &str) -> Option<String> {
    for (program, args) in [
        ("htpasswd", vec!["-nbB", user, password]),
        (
            "python3",
            vec![
                "-c",
                "import crypt,sys; print(sys.argv[1]+':'+crypt.crypt(sys.argv[2], crypt.mksalt(crypt.METHOD_BLOWFISH)))",
                user,
                password,
            ],
        ),
        (
            "perl",
            vec!["-e", "print \"$ARGV[0]:\".crypt($ARGV[1], '$2y$05$abcdefghijklmnopqrstuu').\"\\n\"", user, password],
        ),
    ] {
        if let Ok(output) = Command::new(program).args(args).output()
            && output.status.success()
            && String::from_utf8_lossy(&output.stdout).contains(":$2")
        {
            return String::from_utf8(output.stdout).ok();
        }
    }
    println!("skipped: no tool here makes bcrypt hashes");
    None
}

/// What a liar answers.
#[derive(Clone)]
pub struct Answer {
    pub status: u16,
    pub headers: Vec<(String, String)>,
    pub body: Vec<u8>,
    /// Send only so many bytes of the body, then hang up.
    pub cut: Option<usize>,
}

impl Answer {
    pub fn ok(media_type: &str, body: Vec<u8>) -> Self {
        Answer { status: 200, headers: vec![("content-type".into(), media_type.into())], body, cut: None }
    }

    pub fn status(status: u16, body: &str) -> Self {
        Answer { status, headers: Vec::new(), body: body.into(), cut: None }
    }
}

/// A web server that says what the test wants: path and `Range` and `Authorization` headers in, answer out.
pub fn liar(answer: impl Fn(&str, Option<&str>, Option<&str>) -> Answer + Send + 'static) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap().to_string();
    std::thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            let _ = serve(stream, &answer);
        }
    });
    address
}

fn serve(
    mut stream: TcpStream,
    answer: &(impl Fn(&str, Option<&str>, Option<&str>) -> Answer + Send),
) -> std::io::Result<()> {
    let mut reader = BufReader::new(stream.try_clone()?);
    let mut lines = Vec::new();
    loop {
        let mut line = String::new();
        if reader.read_line(&mut line)? == 0 || line == "\r\n" {
            break;
        }
        lines.push(line.trim().to_owned());
    }
    let Some(first) = lines.first() else { return Ok(()) };
    let path = first.split(' ').nth(1).unwrap_or("/").to_owned();
    let header = |name: &str| {
        let find =
            |l: &String| l.split_once(": ").filter(|(k, _)| k.eq_ignore_ascii_case(name)).map(|(_, v)| v.to_owned());
        lines.iter().find_map(find)
    };
    let answer = answer(&path, header("range").as_deref(), header("authorization").as_deref());
    write!(stream, "HTTP/1.1 {} x\r\nconnection: close\r\n", answer.status)?;
    for (name, value) in &answer.headers {
        write!(stream, "{name}: {value}\r\n")?;
    }
    write!(stream, "content-length: {}\r\n\r\n", answer.body.len())?;
    stream.write_all(&answer.body[..answer.cut.unwrap_or(answer.body.len()).min(answer.body.len())])?;
    stream.flush()?;
    stream.shutdown(std::net::Shutdown::Write)?;
    // Drained, so that closing does not reset what is still under way.
    reader.read_to_end(&mut Vec::new())?;
    Ok(())
}

/// Manifest, configuration and layer of a small image, for a liar to hand out.
pub struct Small {
    pub manifest: Vec<u8>,
    pub config: Vec<u8>,
    pub layer: Vec<u8>,
}

pub const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";

impl Small {
    pub fn new(plain: &[u8]) -> Self {
        let layer = zstd::encode_all(plain, 1).unwrap();
        let arch = if cfg!(target_arch = "aarch64") { "arm64" } else { "amd64" };
        let config = format!(
            r#"{{"architecture":"{arch}","os":"linux","config":{{"Cmd":["/x"],"Labels":null,"Volumes":null,"ExposedPorts":{{"80/tcp":{{}}}}}},"rootfs":{{"type":"layers","diff_ids":["{}"]}},"history":null}}"#,
            Digest::of(plain)
        )
        .into_bytes();
        let manifest = format!(
            r#"{{"schemaVersion":2,"mediaType":"{MANIFEST}","config":{{"mediaType":"application/vnd.oci.image.config.v1+json","digest":"{}","size":{}}},"layers":[{{"mediaType":"application/vnd.oci.image.layer.v1.tar+zstd","digest":"{}","size":{}}}]}}"#,
            Digest::of(&config),
            config.len(),
            Digest::of(&layer),
            layer.len()
        )
        .into_bytes();
        Small { manifest, config, layer }
    }

    pub fn answer(&self, path: &str) -> Answer {
        if path.contains("/manifests/") {
            return Answer::ok(MANIFEST, self.manifest.clone());
        }
        for body in [&self.config, &self.layer] {
            if path.ends_with(Digest::of(body).as_str()) {
                return Answer::ok("application/octet-stream", body.clone());
            }
        }
        Answer::status(404, r#"{"errors":[{"code":"BLOB_UNKNOWN","message":"blob unknown"}]}"#)
    }
}

/// The content of a tree: path, kind and bytes, sorted.
pub fn tree(dir: &Path) -> Vec<(String, String)> {
    fn walk(base: &Path, dir: &Path, found: &mut Vec<(String, String)>) {
        for entry in fs::read_dir(dir).unwrap() {
            let path = entry.unwrap().path();
            let name = path.strip_prefix(base).unwrap().display().to_string();
            let meta = path.symlink_metadata().unwrap();
            if meta.is_dir() {
                found.push((name, "folder".into()));
                walk(base, &path, found);
            } else if meta.is_file() {
                found.push((name, String::from_utf8_lossy(&fs::read(&path).unwrap()).into_owned()));
            } else {
                found.push((name, "other".into()));
            }
        }
    }
    let mut found = Vec::new();
    walk(dir, dir, &mut found);
    found.sort();
    found
}
