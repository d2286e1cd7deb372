//! What a container may not do.

use std::sync::Arc;

use engine::runtime::{ContainerRuntime, RuntimeError, Seccomp, Security};

use crate::world::World;

pub async fn system_calls_and_capabilities_are_limited_in_exec_too(w: Arc<World>) {
    let sandbox = w.sandbox().await;
    let spec = w.shell(&sandbox, "sleep 1000");
    w.start(&spec).await;
    let probe = "grep -E '^(Seccomp|CapEff|CapBnd|NoNewPrivs):' /proc/self/status; \
                 mount -t tmpfs x /tmp 2>&1; unshare -m true 2>&1; dd if=/proc/kcore bs=1 count=1 2>&1 | wc -c; \
                 echo 1 > /proc/sys/kernel/hung_task_warnings; echo w$?; \
                 mknod /dev/disk b 254 0 2>&1; head -c 1 /dev/disk 2>&1; \
                 echo 1 > /sys/fs/cgroup/memory/memory.limit_in_bytes; echo c$?; cat /proc/self/fd/0 < /dev/null";
    let inner = w.shell(&sandbox, probe);
    let (_, from_main) = w.run(&inner).await;
    let (_, from_exec) = w.exec(&spec.id, &["sh", "-c", probe]).await;
    for log in [from_main, from_exec] {
        assert!(log.contains("Seccomp:\t2"), "{log}");
        assert!(log.contains("CapEff:\t00000000a80425fb") && log.contains("CapBnd:\t00000000a80425fb"), "{log}");
        assert!(log.contains("NoNewPrivs:\t0"), "{log}");
        assert!(log.contains("mount: permission denied") || log.contains("Operation not permitted"), "{log}");
        assert!(log.contains("unshare: unshare"), "{log}");
        assert!(log.contains("w1") && log.contains("c1"), "{log}");
        assert!(log.contains("/dev/disk: Operation not permitted"), "{log}");
    }
    w.engine().remove_sandbox(&sandbox.id).await.unwrap();
}

pub async fn users_groups_and_their_streams(w: Arc<World>) {
    let sandbox = w.sandbox().await;
    // Reopening the standard streams by name is what many images do to log.
    let script = "id; echo again > /dev/stdout; echo more > /dev/stderr; echo $HOME; grep CapEff /proc/self/status; \
                  grep Seccomp: /proc/self/status; sleep 1000";
    let mut spec = w.shell(&sandbox, script);
    spec.image = "test/web:1".into();
    w.start(&spec).await;
    w.logged(&spec, "Seccomp:\t2").await;
    let log = w.log(&spec);
    assert!(log.contains("uid=101(web) gid=200(logs) groups=200(logs)"), "{log}");
    assert!(log.contains("again\n") && log.contains("more\n") && log.contains("/srv\n"), "{log}");
    assert!(log.contains("CapEff:\t0000000000000000"), "{log}");
    let (_, id) = w
        .exec(
            &spec.id,
            &["sh", "-c", "id -u; id -g; grep -E 'CapEff|Seccomp:' /proc/self/status; echo x > /dev/stdout"],
        )
        .await;
    assert!(id.starts_with("101\n200\n") && id.ends_with("x\n"), "{id}");
    assert!(id.contains("Seccomp:\t2") && id.contains("CapEff:\t0000000000000000"), "{id}");
    let mut spec = w.shell(&sandbox, "id");
    spec.security = Security {
        run_as_user: Some(4000),
        run_as_group: Some(4001),
        supplemental_groups: vec![4002],
        run_as_non_root: true,
        ..Security::default()
    };
    assert!(w.run(&spec).await.1.contains("uid=4000 gid=4001 groups=4001,4002"));
    let mut spec = w.shell(&sandbox, "id");
    spec.security.run_as_non_root = true;
    let error = w.engine().create_container(spec.clone()).await.unwrap_err();
    assert!(matches!(&error, RuntimeError::Invalid(m) if m == "container has runAsNonRoot and image will run as root"));
    w.engine().remove_sandbox(&sandbox.id).await.unwrap();
}

pub async fn privileged_and_unconfined_are_what_they_say(w: Arc<World>) {
    let sandbox = w.sandbox().await;
    let probe =
        "grep -E '^(Seccomp|CapEff):' /proc/self/status; mount -t tmpfs x /mnt && echo mounted; ls /dev | wc -l";
    let mut spec = w.shell(&sandbox, &format!("mkdir /mnt; {probe}"));
    spec.security.privileged = true;
    let (_, log) = w.run(&spec).await;
    assert!(log.contains("Seccomp:\t0") && log.contains("mounted"), "{log}");
    let mut spec = w.shell(&sandbox, probe);
    spec.security.seccomp = Seccomp::Unconfined;
    spec.security.cap_drop = vec!["ALL".into()];
    spec.security.cap_add = vec!["NET_ADMIN".into()];
    let (_, log) = w.run(&spec).await;
    assert!(log.contains("Seccomp:\t0") && log.contains("CapEff:\t0000000000001000"), "{log}");
    let profile = w.dir.path().join("profile.json");
    let text =
        r#"{"defaultAction":"SCMP_ACT_ALLOW","syscalls":[{"names":["mkdir","mkdirat"],"action":"SCMP_ACT_ERRNO"}]}"#;
    std::fs::write(&profile, text).unwrap();
    let mut spec = w.shell(&sandbox, "mkdir /tmp/x || echo refused; grep Seccomp: /proc/self/status");
    spec.security.seccomp = Seccomp::Localhost(profile);
    let (_, log) = w.run(&spec).await;
    assert!(log.contains("refused") && log.contains("Seccomp:\t2"), "{log}");
    w.engine().remove_sandbox(&sandbox.id).await.unwrap();
}

pub async fn a_read_only_root_and_no_new_privileges(w: Arc<World>) {
    let sandbox = w.sandbox().await;
    let mut spec =
        w.shell(&sandbox, "echo x > /file; echo r$?; grep -E '^(NoNewPrivs|Seccomp):' /proc/self/status; sleep 1000");
    spec.security.read_only_rootfs = true;
    spec.security.no_new_privileges = true;
    w.start(&spec).await;
    w.logged(&spec, "Seccomp:\t2").await;
    let log = w.log(&spec);
    assert!(log.contains("r1") && log.contains("NoNewPrivs:\t1"), "{log}");
    let (_, log) = w.exec(&spec.id, &["grep", "-E", "^(NoNewPrivs|Seccomp):", "/proc/self/status"]).await;
    assert!(log.contains("NoNewPrivs:\t1") && log.contains("Seccomp:\t2"), "{log}");
    w.engine().remove_sandbox(&sandbox.id).await.unwrap();
}
