//! How containers and sandboxes end.

use std::sync::Arc;
use std::time::{Duration, Instant};

use engine::runtime::{ContainerRuntime, Resources, SandboxSpec};

use crate::world::{World, footprint, until, wait_exit};

pub async fn stop_asks_then_kills(w: Arc<World>) {
    let sandbox = w.sandbox().await;
    let polite = w.shell(&sandbox, "trap 'echo bye; exit 7' TERM; echo up; while :; do sleep 0.05; done");
    w.start(&polite).await;
    w.logged(&polite, "up").await;
    w.engine().stop_container(&polite.id, Duration::from_secs(15)).await.unwrap();
    let exit = wait_exit(w.engine(), &polite.id).await;
    assert_eq!((exit.exit_code, exit.signal), (7, None));
    assert!(w.log(&polite).contains("bye"));
    let deaf = w.shell(&sandbox, "trap '' TERM; echo up; while :; do sleep 0.05; done");
    w.start(&deaf).await;
    w.logged(&deaf, "up").await;
    let started = Instant::now();
    w.engine().stop_container(&deaf.id, Duration::from_millis(300)).await.unwrap();
    assert!(started.elapsed() >= Duration::from_millis(300));
    let exit = wait_exit(w.engine(), &deaf.id).await;
    assert_eq!((exit.exit_code, exit.signal, exit.oom_killed), (137, Some(9), false));
    let mut other = w.shell(&sandbox, "trap 'echo int; exit 0' INT; echo up; while :; do sleep 0.05; done");
    other.image = "test/int:1".into();
    w.start(&other).await;
    w.logged(&other, "up").await;
    w.engine().stop_container(&other.id, Duration::from_secs(15)).await.unwrap();
    assert_eq!(wait_exit(w.engine(), &other.id).await.exit_code, 0, "the image's stop signal is used");
    w.engine().remove_sandbox(&sandbox.id).await.unwrap();
}

pub async fn memory_beyond_the_limit_is_oom(w: Arc<World>) {
    let sandbox = w.sandbox().await;
    let mut spec = w.shell(&sandbox, "exec tail /dev/zero");
    spec.resources = Resources { memory_limit_bytes: Some(16 << 20), ..Resources::default() };
    let (exit, _) = w.run(&spec).await;
    assert!(exit.oom_killed, "{exit:?}");
    assert_eq!((exit.exit_code, exit.signal), (137, Some(9)));
    w.engine().remove_sandbox(&sandbox.id).await.unwrap();
}

pub async fn namespaces_are_shared_as_asked(w: Arc<World>) {
    let apart = w.sandbox().await;
    let (_, log) = w.run(&w.shell(&apart, "echo pid $$; echo x > /dev/shm/left")).await;
    assert!(log.contains("pid 1\n"), "{log}");
    let (_, log) = w.run(&w.shell(&apart, "cat /dev/shm/left")).await;
    assert_eq!(log, "x\n", "shared memory is the sandbox's");
    w.engine().remove_sandbox(&apart.id).await.unwrap();
    let shared = SandboxSpec { share_process_namespace: true, ..w.sandbox_spec() };
    w.engine().run_sandbox(shared.clone()).await.unwrap();
    let first = w.shell(&shared, "echo up; exec sleep 1234");
    w.start(&first).await;
    w.logged(&first, "up").await;
    let (_, log) = w.run(&w.shell(&shared, "ps; echo me $$")).await;
    assert!(log.contains("sleep 1234") && !log.contains("me 1\n"), "{log}");
    w.engine().remove_sandbox(&shared.id).await.unwrap();
    let host = SandboxSpec { host_pid: true, host_ipc: true, ..w.sandbox_spec() };
    w.engine().run_sandbox(host.clone()).await.unwrap();
    let (_, log) = w.run(&w.shell(&host, "readlink /proc/self/ns/pid; readlink /proc/self/ns/ipc")).await;
    for kind in ["pid", "ipc"] {
        assert!(log.contains(std::fs::read_link(format!("/proc/self/ns/{kind}")).unwrap().to_str().unwrap()), "{log}");
    }
    w.engine().remove_sandbox(&host.id).await.unwrap();
}

pub async fn processes_left_behind_go_with_their_container(w: Arc<World>) {
    for spec in [
        SandboxSpec { host_pid: true, ..w.sandbox_spec() },
        SandboxSpec { share_process_namespace: true, ..w.sandbox_spec() },
        w.sandbox_spec(),
    ] {
        w.engine().run_sandbox(spec.clone()).await.unwrap();
        let (exit, log) = w.run(&w.shell(&spec, "(sleep 4321; echo late) & (setsid sleep 4321 &) ; echo done")).await;
        assert_eq!((exit.exit_code, log.as_str()), (0, "done\n"));
        let pod = format!("{}/{}", w.instance.cgroup_parent(), spec.cgroup);
        until("no process is left", || shim::cgroup::processes(&pod).is_empty()).await;
        w.engine().remove_sandbox(&spec.id).await.unwrap();
    }
}

pub async fn removal_leaves_nothing(w: Arc<World>) {
    // The first sandbox makes what stays: the shims' cgroup, the parent of pods.
    w.script("true").await;
    let before = footprint(&w.instance);
    let sandbox = SandboxSpec { share_process_namespace: true, ..w.sandbox_spec() };
    w.engine().run_sandbox(sandbox.clone()).await.unwrap();
    w.start(&w.shell(&sandbox, "sleep 1000")).await;
    w.run(&w.shell(&sandbox, "true")).await;
    w.engine().create_container(w.shell(&sandbox, "never started")).await.unwrap();
    assert_ne!(footprint(&w.instance), before);
    w.engine().remove_sandbox(&sandbox.id).await.unwrap();
    assert_eq!(footprint(&w.instance), before);
    assert!(w.engine().containers(Some(&sandbox.id)).await.is_empty());
}

pub async fn many_sandboxes_at_once(w: Arc<World>) {
    let mut tasks = Vec::new();
    for n in 0..16 {
        let w = w.clone();
        tasks.push(tokio::spawn(async move { w.script(&format!("echo {n}; exit {n}")).await }));
    }
    for (n, task) in tasks.into_iter().enumerate() {
        assert_eq!(task.await.unwrap(), (n as i32, format!("{n}\n")));
    }
}

pub async fn a_shim_is_small_and_its_maker_can_be_lost(w: Arc<World>) {
    // The launcher is the child of ours that has the shim verb and no folder.
    let launchers = || {
        let ours = format!("\nPPid:\t{}\n", std::process::id());
        let entries = std::fs::read_dir("/proc").unwrap().filter_map(Result::ok);
        let child = |pid: &i32| std::fs::read_to_string(format!("/proc/{pid}/status")).is_ok_and(|s| s.contains(&ours));
        let launcher = |pid: &i32| {
            let title = std::fs::read_to_string(format!("/proc/{pid}/cmdline")).unwrap_or_default();
            title.starts_with("windlass\0shim\0----")
        };
        let pids = entries.filter_map(|e| e.file_name().to_str()?.parse::<i32>().ok());
        pids.filter(child).filter(launcher).collect::<Vec<_>>()
    };
    let first = w.sandbox().await;
    w.start(&w.shell(&first, "sleep 1000")).await;
    let before = launchers();
    assert_eq!(before.len(), 1);
    nix::sys::signal::kill(nix::unistd::Pid::from_raw(before[0]), nix::sys::signal::SIGKILL).unwrap();
    let second = w.sandbox().await;
    assert!(!launchers().contains(&before[0]));
    let pid = w.engine().shim_pid(&second.id).await.unwrap();
    let text = std::fs::read_to_string(format!("/proc/{pid}/smaps_rollup")).unwrap();
    let anonymous = text.lines().find_map(|l| l.strip_prefix("Pss_Anon:")).unwrap();
    let kib: u64 = anonymous.trim().trim_end_matches(" kB").parse().unwrap();
    assert!(kib <= 2048, "{text}");
    w.engine().remove_sandbox(&first.id).await.unwrap();
    w.engine().remove_sandbox(&second.id).await.unwrap();
}
