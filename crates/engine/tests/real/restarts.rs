//! What survives the death of engine, shim and host.

use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Child, Command, ExitCode, Stdio};
use std::sync::Arc;

use engine::runtime::{ContainerRuntime, ContainerState, SandboxSpec};
use engine::{Engine, EngineConfig, OpenError};

use crate::world::{World, destroy, exec_in, footprint, instance_of, open, status, until, wait_exit};

/// `hold NAME DIR SCRIPT`: another process's engine, with sandbox `held` and a container per line of SCRIPT.
pub fn hold(args: &[String]) -> ExitCode {
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let dir = Path::new(&args[1]);
        let engine = open(&instance_of(&args[0], dir), dir).await;
        let sandbox = SandboxSpec {
            id: "held".into(),
            cgroup: "podheld".into(),
            hostname: "held".into(),
            ..SandboxSpec::default()
        };
        engine.run_sandbox(sandbox).await.unwrap();
        for (n, script) in args[2].lines().enumerate() {
            let spec = engine::runtime::ContainerSpec {
                id: format!("c{n}"),
                sandbox_id: "held".into(),
                image: crate::world::IMAGE.into(),
                command: vec!["sh".into(), "-c".into(), script.into()],
                log_path: dir.join(format!("c{n}.log")),
                ..Default::default()
            };
            engine.create_container(spec).await.unwrap();
            engine.start_container(&format!("c{n}")).await.unwrap();
        }
        println!("holding");
        std::future::pending::<()>().await;
    });
    ExitCode::SUCCESS
}

/// `churn NAME DIR`: another process's engine that makes and removes sandboxes until it is killed.
pub fn churn(args: &[String]) -> ExitCode {
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let dir = Path::new(&args[1]);
        let engine = Arc::new(open(&instance_of(&args[0], dir), dir).await);
        println!("holding");
        let lanes = (0..3).map(|lane| {
            let (engine, dir) = (engine.clone(), dir.to_path_buf());
            tokio::spawn(async move {
                for round in 0u32.. {
                    // What goes wrong because a shim was shot is not what this is about.
                    let _ = churn_once(&engine, &dir, &format!("l{lane}-{}", round % 2)).await;
                }
            })
        });
        futures::future::join_all(lanes).await;
    });
    ExitCode::SUCCESS
}

async fn churn_once(engine: &Engine, dir: &Path, id: &str) -> Result<(), engine::runtime::RuntimeError> {
    let sandbox = SandboxSpec {
        id: id.into(),
        cgroup: format!("pod{id}"),
        hostname: "churn".into(),
        share_process_namespace: id.ends_with('0'),
        ..SandboxSpec::default()
    };
    engine.remove_sandbox(id).await?;
    engine.run_sandbox(sandbox).await?;
    for n in 0..2 {
        let spec = engine::runtime::ContainerSpec {
            id: format!("{id}.{n}"),
            sandbox_id: id.into(),
            image: crate::world::IMAGE.into(),
            command: vec!["sleep".into(), "1000".into()],
            log_path: dir.join("churn.log"),
            ..Default::default()
        };
        engine.create_container(spec).await?;
        engine.start_container(&format!("{id}.{n}")).await?;
    }
    engine.stop_container(&format!("{id}.0"), std::time::Duration::ZERO).await?;
    engine.remove_container(&format!("{id}.0")).await?;
    engine.remove_sandbox(id).await
}

pub async fn kills_at_any_moment_leave_what_can_be_taken_up(_: Arc<World>) {
    use std::os::unix::process::CommandExt;
    let dir = tempfile::tempdir().unwrap();
    let name = format!("et-churn-{}", std::process::id());
    let instance = instance_of(&name, dir.path());
    for round in 0..12u64 {
        let mut command = Command::new("/proc/self/exe");
        command.args(["churn", &name, dir.path().to_str().unwrap()]).stdout(Stdio::piped()).process_group(0);
        let mut child = command.spawn().unwrap();
        let mut line = String::new();
        BufReader::new(child.stdout.as_mut().unwrap()).read_line(&mut line).unwrap();
        // The moment is what is being tried out, so it is a time and not a condition.
        tokio::time::sleep(std::time::Duration::from_millis(20 + round * 37)).await;
        if round % 3 == 2 {
            // Shims and workers too.
            let shims = shim::cgroup::processes(&format!("{}/shims", instance.cgroup_parent()));
            for pid in shims.iter().skip(1).step_by(2) {
                let _ = nix::sys::signal::kill(nix::unistd::Pid::from_raw(*pid), nix::sys::signal::SIGKILL);
            }
        }
        kill_9(child);
        let engine = open(&instance, dir.path()).await;
        let claims = what_is_said_to_run_does(&engine, &instance);
        // A shim that was shot may take a moment to be gone, and what it kept with it.
        let settled = tokio::time::timeout(std::time::Duration::from_secs(20), claims).await;
        assert!(settled.is_ok(), "round {round}: {:?}", engine.containers(None).await);
        for sandbox in engine.sandboxes().await {
            engine.remove_sandbox(&sandbox.spec.id).await.unwrap_or_else(|e| panic!("round {round}: {e}"));
        }
        // A shim that its engine had just asked for finds itself alone and ends.
        let own = |f: &String| !f.ends_with("/shims") && !f.ends_with(&instance.cgroup_parent());
        let rest = || footprint(&instance).into_iter().filter(own).collect::<Vec<_>>();
        until(&format!("round {round}: nothing is left"), || rest().is_empty()).await;
        drop(engine);
    }
    destroy(&instance).await;
}

/// Waits until what is said to run does.
async fn what_is_said_to_run_does(engine: &Engine, instance: &base::instance::Instance) {
    loop {
        let idle = engine.containers(None).await.into_iter().any(|status| {
            let sandbox = status.spec.id.split('.').next().unwrap_or_default().to_owned();
            let path = format!("{}/pod{sandbox}/{}", instance.cgroup_parent(), status.spec.id);
            matches!(status.state, ContainerState::Running { .. }) && shim::cgroup::processes(&path).is_empty()
        });
        if !idle {
            return;
        }
        tokio::time::sleep(std::time::Duration::from_millis(5)).await;
    }
}

/// Starts another process that holds an engine, and waits until it does.
fn holder(name: &str, dir: &Path, script: &str) -> Child {
    let mut child = Command::new("/proc/self/exe")
        .args(["hold", name, dir.to_str().unwrap(), script])
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut line = String::new();
    BufReader::new(child.stdout.as_mut().unwrap()).read_line(&mut line).unwrap();
    assert_eq!(line, "holding\n");
    child
}

fn kill_9(mut child: Child) {
    child.kill().unwrap();
    child.wait().unwrap();
}

pub async fn a_killed_engine_leaves_containers_running_and_learns_of_exits(_: Arc<World>) {
    let dir = tempfile::tempdir().unwrap();
    let name = format!("et-kill-{}", std::process::id());
    let script = "echo up; while [ ! -e /tmp/stop ]; do sleep 0.05; done; exit 11\nsleep 1000";
    kill_9(holder(&name, dir.path(), script));
    let instance = instance_of(&name, dir.path());
    let engine = open(&instance, dir.path()).await;
    let sandboxes = engine.sandboxes().await;
    assert!(sandboxes.len() == 1 && sandboxes[0].ready && sandboxes[0].ip.is_some(), "{sandboxes:?}");
    for id in ["c0", "c1"] {
        assert!(matches!(status(&engine, id).await.unwrap().state, ContainerState::Running { .. }), "{id}");
    }
    let (code, _) = exec_in(&engine, "c0", &["touch", "/tmp/stop"]).await;
    assert_eq!(code, 0);
    assert_eq!(wait_exit(&engine, "c0").await.exit_code, 11);
    // And one that ends while no engine is there.
    drop(engine);
    shim::cgroup::kill_all(&format!("{}/podheld/c1", instance.cgroup_parent()), std::time::Duration::from_secs(5));
    let pod_dir = instance.run_dir().join("pods/held");
    until("the shim recorded it", || shim::exit::read(&pod_dir, "c1").unwrap().is_some()).await;
    let engine = open(&instance, dir.path()).await;
    let exit = wait_exit(&engine, "c1").await;
    assert_eq!((exit.exit_code, exit.signal), (137, Some(9)));
    assert_eq!(wait_exit(&engine, "c0").await.exit_code, 11, "remembered");
    drop(engine);
    destroy(&instance).await;
}

pub async fn a_killed_shim_is_reported_and_cleaned_up(w: Arc<World>) {
    let sandbox = w.sandbox().await;
    let spec = w.shell(&sandbox, "sleep 1000");
    w.start(&spec).await;
    let done = w.shell(&sandbox, "exit 2");
    w.run(&done).await;
    let pid = w.engine().shim_pid(&sandbox.id).await.unwrap();
    nix::sys::signal::kill(nix::unistd::Pid::from_raw(pid), nix::sys::signal::SIGKILL).unwrap();
    let exit = wait_exit(w.engine(), &spec.id).await;
    assert_eq!((exit.exit_code, exit.signal), (137, Some(9)));
    assert_eq!(wait_exit(w.engine(), &done.id).await.exit_code, 2, "what had ended stays as it was");
    let ready = w.engine().sandboxes().await.iter().any(|s| s.spec.id == sandbox.id && s.ready);
    assert!(!ready);
    let pod = format!("{}/{}", w.instance.cgroup_parent(), sandbox.cgroup);
    assert!(shim::cgroup::processes(&pod).is_empty());
    w.engine().remove_sandbox(&sandbox.id).await.unwrap();
    assert!(footprint(&w.instance).iter().all(|f| !f.contains(&format!("/{}", sandbox.id))));
    // The same, with the engine away.
    let dir = tempfile::tempdir().unwrap();
    let name = format!("et-shim-{}", std::process::id());
    kill_9(holder(&name, dir.path(), "sleep 1000"));
    let instance = instance_of(&name, dir.path());
    let pid: i32 = std::fs::read_to_string(instance.run_dir().join("pods/held/shim.pid")).unwrap().parse().unwrap();
    nix::sys::signal::kill(nix::unistd::Pid::from_raw(pid), nix::sys::signal::SIGKILL).unwrap();
    until("the shim is gone", || !Path::new(&format!("/proc/{pid}/fd/0")).exists()).await;
    let engine = open(&instance, dir.path()).await;
    assert_eq!(wait_exit(&engine, "c0").await.exit_code, 137);
    assert!(!engine.sandboxes().await[0].ready);
    engine.remove_sandbox("held").await.unwrap();
    drop(engine);
    destroy(&instance).await;
}

pub async fn after_a_reboot_nothing_is_claimed_to_run(_: Arc<World>) {
    let dir = tempfile::tempdir().unwrap();
    let name = format!("et-boot-{}", std::process::id());
    kill_9(holder(&name, dir.path(), "sleep 1000\nexit 3"));
    let instance = instance_of(&name, dir.path());
    let pods = instance.run_dir().join("pods");
    until("the second ended", || shim::exit::read(&pods.join("held"), "c1").unwrap().is_some()).await;
    // What a reboot does: processes, mounts and cgroups are gone, records stay.
    let keep = tempfile::tempdir().unwrap();
    let copied = Command::new("cp").arg("-a").arg(instance.data_dir()).arg(keep.path()).status().unwrap();
    assert!(copied.success());
    destroy(&instance).await;
    std::fs::remove_dir_all(instance.data_dir()).unwrap();
    let back = Command::new("cp").arg("-a").arg(keep.path().join("data")).arg(dir.path()).status().unwrap();
    assert!(back.success());
    let engine = open(&instance, dir.path()).await;
    assert!(!engine.sandboxes().await[0].ready);
    let exit = wait_exit(&engine, "c0").await;
    assert_eq!((exit.exit_code, exit.signal), (255, None));
    engine.remove_sandbox("held").await.unwrap();
    drop(engine);
    destroy(&instance).await;
}

pub async fn half_made_things_are_removed(_: Arc<World>) {
    let dir = tempfile::tempdir().unwrap();
    let name = format!("et-half-{}", std::process::id());
    kill_9(holder(&name, dir.path(), "sleep 1000\nsleep 1000"));
    let instance = instance_of(&name, dir.path());
    let records = instance.data_dir().join("engine");
    // As if the engine had been killed while removing one container, and after losing another sandbox's record.
    let path = records.join("containers/c1.json");
    let text = std::fs::read_to_string(&path).unwrap();
    let at = text.find("\"phase\":").unwrap();
    std::fs::write(&path, format!("{}\"phase\":\"partial\"}}", &text[..at])).unwrap();
    std::fs::create_dir_all(instance.run_dir().join("pods/stray/c")).unwrap();
    let engine = open(&instance, dir.path()).await;
    assert!(status(&engine, "c1").await.is_none());
    assert!(matches!(status(&engine, "c0").await.unwrap().state, ContainerState::Running { .. }));
    assert!(!instance.run_dir().join("pods/stray").exists());
    assert!(footprint(&instance).iter().all(|f| !f.contains("c1")), "{:?}", footprint(&instance));
    drop(engine);
    // And a whole sandbox that was being removed.
    let path = records.join("sandboxes/held.json");
    let text = std::fs::read_to_string(&path).unwrap().replace("\"complete\":true", "\"complete\":false");
    std::fs::write(&path, text).unwrap();
    let engine = open(&instance, dir.path()).await;
    assert!(engine.sandboxes().await.is_empty() && engine.containers(None).await.is_empty());
    assert!(!instance.run_dir().join("pods/held").exists());
    drop(engine);
    destroy(&instance).await;
}

pub async fn two_engines_do_not_share_an_instance(w: Arc<World>) {
    let second = Engine::open(EngineConfig::of(&w.instance)).await;
    assert!(matches!(second.err(), Some(OpenError::Taken { .. })));
}
