//! What the kernel's files say of limits, and what it does about them: cgroups v1 and v2.

use std::sync::Arc;

use engine::runtime::{ContainerRuntime, Resources, SandboxSpec};
use engine::weights::weight_of;

use crate::world::{World, status, until, wait_exit};

/// A file of a cgroup, by its name on v1 and on v2, without its line end.
fn read(controller: &str, path: &str, v1: &str, v2: &str) -> String {
    let file = if shim::cgroup::is_unified() { v2 } else { v1 };
    let path = shim::cgroup::dir_of(controller, path).unwrap().join(file);
    let text = std::fs::read_to_string(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
    text.trim().to_owned()
}

/// A number as v1 or v2 has it.
fn of_mode<T: ToString>(v1: T, v2: impl ToString) -> String {
    if shim::cgroup::is_unified() { v2.to_string() } else { v1.to_string() }
}

pub async fn limits_and_usage(w: Arc<World>) {
    let pod = Resources { memory_limit_bytes: Some(256 << 20), cpu_shares: Some(200), ..Resources::default() };
    let sandbox = SandboxSpec { resources: pod, ..w.sandbox_spec() };
    w.engine().run_sandbox(sandbox.clone()).await.unwrap();
    let of_pod = format!("{}/{}", w.instance.cgroup_parent(), sandbox.cgroup);
    assert_eq!(read("memory", &of_pod, "memory.limit_in_bytes", "memory.max"), (256 << 20).to_string());
    assert_eq!(read("cpu", &of_pod, "cpu.shares", "cpu.weight"), of_mode(200, weight_of(200)));
    let mut spec = w
        .shell(&sandbox, "cat /proc/self/oom_score_adj; i=0; while [ $i -lt 200000 ]; do i=$((i+1)); done; sleep 1000");
    spec.resources = Resources {
        memory_limit_bytes: Some(64 << 20),
        cpu_quota_us: Some(50_000),
        cpu_period_us: Some(100_000),
        cpu_shares: Some(100),
        pids_limit: Some(50),
        oom_score_adj: Some(700),
        ..Resources::default()
    };
    w.start(&spec).await;
    w.logged(&spec, "700\n").await;
    let path = format!("{of_pod}/{}", spec.id);
    let memory = || read("memory", &path, "memory.limit_in_bytes", "memory.max");
    let quota = || read("cpu", &path, "cpu.cfs_quota_us", "cpu.max");
    assert_eq!(memory(), (64 << 20).to_string());
    assert_eq!(read("pids", &path, "pids.max", "pids.max"), "50");
    assert_eq!(quota(), of_mode("50000", "50000 100000"));
    assert_eq!(read("cpu", &path, "cpu.shares", "cpu.weight"), of_mode(100, weight_of(100)));
    if shim::cgroup::is_unified() {
        assert_eq!(read("memory", &path, "", "memory.oom.group"), "1");
        assert_eq!(read("memory", &path, "", "memory.swap.max"), "0");
    }
    let more = Resources {
        memory_limit_bytes: Some(96 << 20),
        cpu_quota_us: None,
        cpu_period_us: None,
        ..spec.resources.clone()
    };
    w.engine().update_resources(&spec.id, more.clone()).await.unwrap();
    assert_eq!(memory(), (96 << 20).to_string());
    assert_eq!(quota(), of_mode("-1", "max 100000"), "not limited any more");
    assert_eq!(status(w.engine(), &spec.id).await.unwrap().spec.resources, more);
    let usage = w.engine().usage(&spec.id).await.unwrap();
    assert!(usage.cpu_ns > 0 && usage.memory_bytes > 0 && usage.pids >= 1, "{usage:?}");
    assert!(usage.working_set_bytes <= usage.memory_bytes);
    w.engine().remove_sandbox(&sandbox.id).await.unwrap();
}

pub async fn a_class_weighs_what_its_sandboxes_ask_for(w: Arc<World>) {
    // A class that no other test uses.
    let asking = |shares| {
        let spec = w.sandbox_spec();
        let resources = Resources { cpu_shares: Some(shares), ..Resources::default() };
        SandboxSpec { cgroup: format!("weighed/pod{}", spec.id), resources, ..spec }
    };
    let class = format!("{}/weighed", w.instance.cgroup_parent());
    let weighs = |shares: u64| {
        let found = read("cpu", &class, "cpu.shares", "cpu.weight");
        assert_eq!(found, of_mode(shares, weight_of(shares)));
    };
    let specs = [asking(512), asking(1024), asking(2)];
    for (spec, sum) in specs.iter().zip([512, 1536, 1536]) {
        w.engine().run_sandbox(spec.clone()).await.unwrap();
        weighs(sum);
    }
    let half = Resources { cpu_shares: Some(256), ..Resources::default() };
    w.engine().update_sandbox(&specs[0].id, half).await.unwrap();
    weighs(1280);
    // One that has ended uses nothing, removed or not.
    w.engine().stop_sandbox(&specs[1].id).await.unwrap();
    weighs(256);
    w.engine().remove_sandbox(&specs[0].id).await.unwrap();
    weighs(2);
    for spec in &specs[1..] {
        w.engine().remove_sandbox(&spec.id).await.unwrap();
    }
    weighs(2);
    for tree in shim::cgroup::hierarchies() {
        let _ = std::fs::remove_dir(tree.root.join(&class));
    }
}

pub async fn no_more_processes_than_the_limit(w: Arc<World>) {
    let sandbox = w.sandbox().await;
    let mut spec = w.shell(&sandbox, "for n in 1 2 3 4 5 6 7 8 9 10; do sleep 1000 & done; echo all");
    spec.resources = Resources { pids_limit: Some(5), ..Resources::default() };
    let (exit, log) = w.run(&spec).await;
    assert!(exit.exit_code != 0 && !log.contains("all"), "{exit:?} {log}");
    w.engine().remove_sandbox(&sandbox.id).await.unwrap();
}

pub async fn all_of_a_container_ends_when_memory_runs_out_on_v2(w: Arc<World>) {
    let sandbox = w.sandbox().await;
    // It is the child that takes the memory; the first process only waits.
    let script = "(x=0123456789abcdef; while :; do x=$x$x; done); echo child $?; exec sleep 1000";
    let mut spec = w.shell(&sandbox, script);
    spec.resources = Resources { memory_limit_bytes: Some(32 << 20), ..Resources::default() };
    w.start(&spec).await;
    if shim::cgroup::is_unified() {
        let exit = wait_exit(w.engine(), &spec.id).await;
        assert!(exit.oom_killed && exit.exit_code == 137, "{exit:?}");
        assert_eq!(w.log(&spec), "");
    } else {
        w.logged(&spec, "child 137\n").await;
    }
    w.engine().remove_sandbox(&sandbox.id).await.unwrap();
}

/// The engine in a container: its root cgroup is not the kernel's, and this process is in it.
pub async fn in_the_cgroup_of_a_container_limits_hold_too(_: Arc<World>) {
    if !shim::cgroup::is_unified() {
        println!("skipped: a cgroup of its own with controllers: this host has cgroups v1");
        return;
    }
    let outer = std::path::PathBuf::from(format!("/sys/fs/cgroup/et-nested-{}", std::process::id()));
    std::fs::create_dir(&outer).unwrap();
    let script = "echo $$ > $0/cgroup.procs && exec unshare --cgroup --mount sh -c '
        umount -l /sys/fs/cgroup && mount -t cgroup2 cgroup2 /sys/fs/cgroup && exec $0 limits_and_usage' $1";
    let exe = std::env::current_exe().unwrap();
    let mut command = tokio::process::Command::new("sh");
    command.args(["-c", script]).arg(&outer).arg(exe).kill_on_drop(true);
    let output = command.output().await.unwrap();
    let text = String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
    // The processes that were moved end with their parent, a moment later.
    until("the cgroup can be removed", || {
        let _ = std::fs::remove_dir(outer.join("init"));
        std::fs::remove_dir(&outer).is_ok()
    })
    .await;
    assert!(output.status.success() && text.contains("limits_and_usage") && text.contains("... ok"), "{text}");
}
