//! An engine of its own instance, with a busybox image, and shorthands.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use base::instance::Instance;
use engine::runtime::{
    ContainerRuntime, ContainerSpec, ContainerState, ContainerStatus, ExecSpec, ExitRecord, SandboxSpec,
};
use engine::{Engine, EngineConfig};
use image::ImportConfig;
use tokio::io::AsyncReadExt;

pub const IMAGE: &str = "test/busybox:1";
/// Longest wait for something that must happen.
pub const LIMIT: Duration = Duration::from_secs(60);

pub struct World {
    pub engine: Option<Engine>,
    pub instance: Instance,
    pub dir: tempfile::TempDir,
    next: AtomicU32,
}

pub fn instance_of(name: &str, dir: &Path) -> Instance {
    Instance::new(name).unwrap().with_data_dir(&dir.join("data"))
}

/// Opens an engine and makes sure of the test image.
pub async fn open(instance: &Instance, dir: &Path) -> Engine {
    let engine = Engine::open(EngineConfig::of(instance)).await.unwrap_or_else(|e| panic!("{}", base::chain(&e)));
    if engine.images().get(IMAGE).unwrap().is_none() {
        let tar = rootfs_tar(dir);
        let config = ImportConfig {
            cmd: vec!["sh".into()],
            env: vec!["FROM_IMAGE=yes".into()],
            workdir: Some("/made/by/image".into()),
            ..ImportConfig::default()
        };
        engine.images().import_rootfs(&tar, IMAGE, &config).unwrap();
        let user = ImportConfig { user: Some("web:logs".into()), ..config.clone() };
        engine.images().import_rootfs(&tar, "test/web:1", &user).unwrap();
        let signal = ImportConfig { stop_signal: Some("SIGINT".into()), ..config };
        engine.images().import_rootfs(&tar, "test/int:1", &signal).unwrap();
    }
    engine
}

fn rootfs_tar(dir: &Path) -> PathBuf {
    let root = dir.join("rootfs");
    for sub in ["bin", "etc", "tmp", "root", "proc", "sys", "dev"] {
        std::fs::create_dir_all(root.join(sub)).unwrap();
    }
    std::fs::copy("/bin/busybox", root.join("bin/busybox")).unwrap();
    let list = std::process::Command::new("/bin/busybox").arg("--list").output().unwrap().stdout;
    for name in String::from_utf8(list).unwrap().lines().filter(|n| *n != "busybox") {
        std::os::unix::fs::symlink("busybox", root.join("bin").join(name)).unwrap();
    }
    std::fs::write(root.join("etc/passwd"), "root:x:0:0:root:/root:/bin/sh\nweb:x:101:102::/srv:/bin/sh\n").unwrap();
    std::fs::write(root.join("etc/group"), "root:x:0:\nweb:x:102:\nlogs:x:200:web\n").unwrap();
    let tar = dir.join("rootfs.tar");
    let done = std::process::Command::new("tar").arg("-C").arg(&root).arg("-cf").arg(&tar).arg(".").status().unwrap();
    assert!(done.success());
    tar
}

impl World {
    pub async fn new(name: &str) -> Arc<World> {
        let dir = tempfile::tempdir().unwrap();
        let instance = instance_of(&format!("et-{name}-{}", std::process::id()), dir.path());
        let engine = open(&instance, dir.path()).await;
        Arc::new(World { engine: Some(engine), instance, dir, next: AtomicU32::new(1) })
    }

    pub fn engine(&self) -> &Engine {
        self.engine.as_ref().unwrap()
    }

    /// Closes the engine, destroys the instance and insists that nothing is left.
    pub async fn close(self: Arc<Self>) {
        let Ok(mut world) = Arc::try_unwrap(self) else { panic!("a test kept the world") };
        world.engine = None;
        destroy(&world.instance).await;
        let _ = std::fs::remove_dir_all(world.instance.run_dir());
    }

    pub fn name(&self) -> String {
        format!("s{}", self.next.fetch_add(1, Ordering::Relaxed))
    }

    pub fn sandbox_spec(&self) -> SandboxSpec {
        let id = self.name();
        SandboxSpec {
            cgroup: format!("burstable/pod{id}"),
            hostname: format!("host-{id}"),
            namespace: "default".into(),
            name: id.clone(),
            id,
            ..SandboxSpec::default()
        }
    }

    /// A sandbox with nothing special.
    pub async fn sandbox(&self) -> SandboxSpec {
        let spec = self.sandbox_spec();
        self.engine().run_sandbox(spec.clone()).await.unwrap();
        spec
    }

    /// A container that runs this shell script.
    pub fn shell(&self, sandbox: &SandboxSpec, script: &str) -> ContainerSpec {
        let id = format!("{}-{}", sandbox.id, self.name());
        ContainerSpec {
            log_path: self.dir.path().join("logs").join(&id).join("0.log"),
            log_max_files: 5,
            sandbox_id: sandbox.id.clone(),
            name: "main".into(),
            image: IMAGE.into(),
            command: vec!["sh".into(), "-c".into(), script.into()],
            id,
            ..ContainerSpec::default()
        }
    }

    pub async fn start(&self, spec: &ContainerSpec) {
        self.engine().create_container(spec.clone()).await.unwrap();
        self.engine().start_container(&spec.id).await.unwrap();
    }

    /// Runs it to its end: how it ended, and its log without times and tags.
    pub async fn run(&self, spec: &ContainerSpec) -> (ExitRecord, String) {
        self.start(spec).await;
        let exit = wait_exit(self.engine(), &spec.id).await;
        (exit, self.log(spec))
    }

    /// A shell script in a sandbox of its own: status and output.
    pub async fn script(&self, script: &str) -> (i32, String) {
        let sandbox = self.sandbox().await;
        let (exit, log) = self.run(&self.shell(&sandbox, script)).await;
        self.engine().remove_sandbox(&sandbox.id).await.unwrap();
        (exit.exit_code, log)
    }

    pub fn log(&self, spec: &ContainerSpec) -> String {
        let text = std::fs::read_to_string(&spec.log_path).unwrap_or_default();
        text.lines().map(|l| l.splitn(4, ' ').nth(3).unwrap_or("").to_owned() + "\n").collect()
    }

    /// Waits until the log holds this text.
    pub async fn logged(&self, spec: &ContainerSpec, text: &str) {
        until(&format!("log of {} has {text:?}", spec.id), || self.log(spec).contains(text)).await;
    }

    /// Output and status of a command in a container.
    pub async fn exec(&self, id: &str, command: &[&str]) -> (i32, String) {
        exec_in(self.engine(), id, command).await
    }
}

pub async fn exec_in(engine: &Engine, id: &str, command: &[&str]) -> (i32, String) {
    let spec = ExecSpec {
        container_id: id.into(),
        command: command.iter().map(|s| (*s).to_owned()).collect(),
        stdout: true,
        ..ExecSpec::default()
    };
    let mut session = engine.exec(spec).await.unwrap();
    let mut text = String::new();
    session.stdout.take().unwrap().read_to_string(&mut text).await.unwrap();
    (session.exit.await.unwrap(), text)
}

pub async fn status(engine: &Engine, id: &str) -> Option<ContainerStatus> {
    engine.containers(None).await.into_iter().find(|c| c.spec.id == id)
}

/// How it ended, as soon as it has.
pub async fn wait_exit(engine: &Engine, id: &str) -> ExitRecord {
    let mut events = engine.events();
    let wait = async {
        loop {
            match status(engine, id).await.map(|c| c.state) {
                Some(ContainerState::Exited(exit)) => return exit,
                Some(_) => drop(events.recv().await),
                None => panic!("{id} is not there"),
            }
        }
    };
    tokio::time::timeout(LIMIT, wait).await.unwrap_or_else(|_| panic!("{id} does not end"))
}

/// Looks until it is so; for what nothing announces.
pub async fn until(what: &str, mut so: impl FnMut() -> bool) {
    let deadline = Instant::now() + LIMIT;
    while !so() {
        assert!(Instant::now() < deadline, "not within {LIMIT:?}: {what}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

pub async fn destroy(instance: &Instance) {
    engine::destroy_all(instance).await.unwrap_or_else(|e| panic!("{e}"));
    let left = engine::leftovers(instance).await.unwrap();
    assert!(left.is_empty(), "left behind: {left:#?}");
    // The folder of the lock is the instance's, not the engine's to remove.
    std::fs::remove_dir_all(instance.run_dir()).unwrap();
}

/// Destroys what runs of this program that were killed have left.
pub async fn destroy_strays() {
    for entry in std::fs::read_dir("/run").unwrap().filter_map(Result::ok) {
        let name = entry.file_name().into_string().unwrap_or_default();
        let Some(instance) = name.strip_prefix("windlass-").filter(|n| n.starts_with("et-")) else { continue };
        let owner = instance.rsplit('-').next().unwrap_or("");
        if !Path::new("/proc").join(owner).exists() {
            destroy(&instance_of(instance, Path::new("/nonexistent"))).await;
            std::fs::remove_dir_all(entry.path()).unwrap();
        }
    }
}

/// Kernel objects with the instance's mark; what must not grow.
pub fn footprint(instance: &Instance) -> BTreeSet<String> {
    let mut found = BTreeSet::new();
    let run = instance.run_dir().display().to_string();
    let mounts = std::fs::read_to_string("/proc/self/mountinfo").unwrap();
    found.extend(mounts.lines().filter(|l| l.contains(&run)).filter_map(|l| l.split(' ').nth(4)).map(str::to_owned));
    for tree in shim::cgroup::hierarchies() {
        let mut dirs = vec![tree.root.join(instance.cgroup_parent())];
        while let Some(dir) = dirs.pop() {
            let below = std::fs::read_dir(&dir).into_iter().flatten().filter_map(Result::ok);
            dirs.extend(below.filter(|e| e.file_type().is_ok_and(|t| t.is_dir())).map(|e| e.path()));
            if dir.exists() {
                found.insert(dir.display().to_string());
            }
        }
    }
    found.extend(shim::cgroup::processes(&instance.cgroup_parent()).iter().map(|p| format!("process {p}")));
    for sub in ["engine/containers", "engine/sandboxes", "images/snapshots"] {
        let entries = std::fs::read_dir(instance.data_dir().join(sub)).into_iter().flatten();
        found.extend(entries.filter_map(Result::ok).map(|e| e.path().display().to_string()));
    }
    found
}

/// Times and sizes for the record.
pub async fn measure(world: &Arc<World>) {
    let mut rows = Vec::new();
    for round in 0..12 {
        let spec = world.sandbox_spec();
        let t0 = Instant::now();
        world.engine().run_sandbox(spec.clone()).await.unwrap();
        let t1 = Instant::now();
        let container = world.shell(&spec, "sleep 1000");
        world.engine().create_container(container.clone()).await.unwrap();
        let t2 = Instant::now();
        world.engine().start_container(&container.id).await.unwrap();
        let t3 = Instant::now();
        world.exec(&container.id, &["true"]).await;
        let t4 = Instant::now();
        if round > 1 {
            rows.push([t1 - t0, t2 - t1, t3 - t2, t4 - t3]);
        }
    }
    for (i, name) in ["run_sandbox", "create_container", "start_container", "exec true"].iter().enumerate() {
        let mut times: Vec<_> = rows.iter().map(|r| r[i]).collect();
        times.sort();
        println!("{name}: median {:?}, max {:?}", times[times.len() / 2], times[times.len() - 1]);
    }
    let mut total: Vec<_> = rows.iter().map(|r| r[0] + r[1] + r[2]).collect();
    total.sort();
    println!("sandbox + container running: median {:?}, max {:?}", total[total.len() / 2], total[total.len() - 1]);
    for sandbox in world.engine().sandboxes().await.iter().take(3) {
        let pid = world.engine().shim_pid(&sandbox.spec.id).await.unwrap();
        let text = std::fs::read_to_string(format!("/proc/{pid}/smaps_rollup")).unwrap();
        let wanted = ["Rss", "Pss:", "Pss_Anon", "Private", "Anonymous", "Shared"];
        let lines: Vec<_> = text.lines().filter(|l| wanted.iter().any(|w| l.starts_with(w))).collect();
        println!("shim {pid}: {}", lines.join(", ").replace("  ", ""));
    }
}
