//! Running a container and what it finds.

use std::net::IpAddr;
use std::sync::Arc;

use engine::runtime::{ContainerRuntime, ContainerState, DnsConfig, Mount, Propagation, RuntimeError, SandboxSpec};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::world::{World, status, wait_exit};

pub async fn a_container_runs_and_its_end_is_known(w: Arc<World>) {
    let sandbox = w.sandbox().await;
    let spec = w.shell(&sandbox, "echo hi; echo err >&2; exit 3");
    let mut events = w.engine().events();
    let (exit, log) = w.run(&spec).await;
    assert_eq!((exit.exit_code, exit.signal, exit.oom_killed, exit.start_error), (3, None, false, None));
    assert!(exit.started_at_ms > 0 && exit.finished_at_ms >= exit.started_at_ms);
    assert!(log.contains("hi\n") && log.contains("err\n"));
    let raw = std::fs::read_to_string(&spec.log_path).unwrap();
    assert!(raw.lines().any(|l| l.ends_with("Z stdout F hi")) && raw.lines().any(|l| l.ends_with("Z stderr F err")));
    assert!(events.try_recv().is_ok(), "somebody who listens is told");
    let status = status(w.engine(), &spec.id).await.unwrap();
    assert!(status.image_id.contains("sha256:"), "{}", status.image_id);
    w.engine().remove_sandbox(&sandbox.id).await.unwrap();
}

pub async fn what_cannot_start_says_so_as_the_field_does(w: Arc<World>) {
    let sandbox = w.sandbox().await;
    for (command, want) in [
        ("no-such", "exec: \"no-such\": executable file not found in $PATH"),
        ("/no/such", "exec: \"/no/such\": stat /no/such: no such file or directory"),
        ("/etc/passwd", "exec: \"/etc/passwd\": permission denied"),
        ("/etc", "exec: \"/etc\": is a directory"),
    ] {
        let mut spec = w.shell(&sandbox, "");
        spec.command = vec![command.into()];
        w.engine().create_container(spec.clone()).await.unwrap();
        let error = w.engine().start_container(&spec.id).await.unwrap_err();
        assert_eq!(error.to_string(), format!("start container: {want}"));
        let exit = wait_exit(w.engine(), &spec.id).await;
        assert_eq!((exit.exit_code, exit.started_at_ms), (128, 0));
        assert_eq!(exit.start_error.as_deref(), Some(want));
    }
    let mut spec = w.shell(&sandbox, "");
    spec.image = "test/none:1".into();
    let error = w.engine().create_container(spec).await.unwrap_err();
    assert!(matches!(error, RuntimeError::NotFound { kind: "image", .. }), "{error}");
    // A script whose interpreter is missing is there, and cannot be run.
    let mut spec = w.shell(&sandbox, "printf '#!/no/interpreter\\n' > /tmp/x; chmod +x /tmp/x; exec /tmp/x");
    spec.command[0] = "/bin/sh".into();
    assert_eq!(w.run(&spec).await.0.exit_code, 127);
    w.engine().remove_sandbox(&sandbox.id).await.unwrap();
}

pub async fn environment_folder_and_files_are_as_asked(w: Arc<World>) {
    let dns = DnsConfig {
        nameservers: vec!["10.1.2.3".into()],
        searches: vec!["a.svc.cluster.local".into()],
        options: vec!["ndots:5".into()],
    };
    let sandbox = SandboxSpec {
        dns: Some(dns),
        host_aliases: vec![("1.2.3.4".into(), vec!["alias".into()])],
        sysctls: vec![("net.ipv4.ip_unprivileged_port_start".into(), "0".into())],
        ..w.sandbox_spec()
    };
    let made = w.engine().run_sandbox(sandbox.clone()).await.unwrap();
    let script = "pwd; echo $FROM_IMAGE $MINE $HOME $HOSTNAME; hostname; cat /etc/resolv.conf /etc/hosts /etc/hostname; \
                  cat /proc/sys/net/ipv4/ip_unprivileged_port_start; df /dev/shm | tail -1; ls /dev; echo $PATH";
    let mut spec = w.shell(&sandbox, script);
    spec.env = vec![("MINE".into(), "too".into())];
    let (exit, log) = w.run(&spec).await;
    assert_eq!(exit.exit_code, 0, "{log}");
    let ip = made.ip.unwrap();
    for want in [
        "/made/by/image\n",
        &format!("yes too /root {}\n", sandbox.hostname),
        "nameserver 10.1.2.3\nsearch a.svc.cluster.local\noptions ndots:5\n",
        &format!("{ip}\t{}\n", sandbox.hostname),
        "1.2.3.4\talias\n",
        "\n0\n",
        "65536",
        "urandom\n",
        "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin\n",
    ] {
        assert!(log.contains(want), "no {want:?} in {log}");
    }
    w.engine().remove_sandbox(&sandbox.id).await.unwrap();
}

pub async fn mounts_are_seen_and_read_only_ones_cannot_be_written(w: Arc<World>) {
    let sandbox = w.sandbox().await;
    let host = w.dir.path().join("volume");
    std::fs::create_dir_all(&host).unwrap();
    std::fs::write(host.join("file"), "from the host\n").unwrap();
    let mut spec = w.shell(&sandbox, "cat /data/file; echo x > /data/made; echo x > /ro/no; echo $?; cat /one; pwd");
    let mount = |target: &str, read_only| Mount {
        source: host.clone(),
        target: target.into(),
        read_only,
        recursive_read_only: false,
        inert: false,
        propagation: Propagation::Private,
    };
    let file = Mount { source: host.join("file"), ..mount("/one", true) };
    spec.mounts = vec![mount("/data", false), mount("/ro", true), file];
    spec.working_dir = Some("/data/deep/work".into());
    let (_, log) = w.run(&spec).await;
    assert!(log.contains("from the host\n") && log.contains("\n1\n"), "{log}");
    assert!(log.contains("/data/deep/work"), "{log}");
    assert!(host.join("made").exists() && !host.join("no").exists() && host.join("deep/work").is_dir());
    w.engine().remove_sandbox(&sandbox.id).await.unwrap();
}

pub async fn repeating_a_call_changes_nothing(w: Arc<World>) {
    let e = w.engine();
    let sandbox = w.sandbox().await;
    let again = e.run_sandbox(sandbox.clone()).await.unwrap();
    assert!(again.ready);
    let other = SandboxSpec { hostname: "other".into(), ..sandbox.clone() };
    assert!(matches!(e.run_sandbox(other).await, Err(RuntimeError::Conflict { .. })));
    let spec = w.shell(&sandbox, "sleep 1000");
    w.start(&spec).await;
    let before = status(e, &spec.id).await.unwrap().state;
    w.start(&spec).await;
    assert_eq!(status(e, &spec.id).await.unwrap().state, before);
    assert!(matches!(e.remove_container(&spec.id).await, Err(RuntimeError::Conflict { .. })));
    for _ in 0..2 {
        e.stop_container(&spec.id, std::time::Duration::ZERO).await.unwrap();
    }
    assert!(matches!(e.start_container(&spec.id).await, Err(RuntimeError::Conflict { .. })));
    for _ in 0..2 {
        e.remove_container(&spec.id).await.unwrap();
        e.stop_sandbox(&sandbox.id).await.unwrap();
    }
    assert!(!e.sandboxes().await.iter().find(|s| s.spec.id == sandbox.id).unwrap().ready);
    let late = e.create_container(w.shell(&sandbox, "true")).await;
    assert!(matches!(late, Err(RuntimeError::Conflict { .. })), "{late:?}");
    for _ in 0..2 {
        e.remove_sandbox(&sandbox.id).await.unwrap();
    }
    assert!(e.sandboxes().await.iter().all(|s| s.spec.id != sandbox.id));
    for _ in 0..20 {
        e.run_sandbox(sandbox.clone()).await.unwrap();
        assert!(e.sandboxes().await.iter().any(|s| s.spec.id == sandbox.id && s.ready));
        e.remove_sandbox(&sandbox.id).await.unwrap();
    }
    let bad = SandboxSpec { sysctls: vec![("vm.swappiness".into(), "1".into())], ..sandbox };
    assert!(matches!(e.run_sandbox(bad).await, Err(RuntimeError::Invalid(_))));
}

pub async fn a_sandbox_has_an_address_and_ports_can_be_reached(w: Arc<World>) {
    let sandbox = w.sandbox_spec();
    let made = w.engine().run_sandbox(sandbox.clone()).await.unwrap();
    let Some(IpAddr::V4(ip)) = made.ip else { panic!("{made:?}") };
    assert!(w.instance.pod_cidr().contains(ip));
    let spec = w.shell(&sandbox, "mkdir -p /w; echo page > /w/index.html; httpd -p 8080 -h /w; echo up; sleep 1000");
    w.start(&spec).await;
    w.logged(&spec, "up").await;
    let ask = |mut stream: Box<dyn engine::runtime::Duplex>| async move {
        stream.write_all(b"GET / HTTP/1.0\r\n\r\n").await.unwrap();
        let mut text = String::new();
        stream.read_to_string(&mut text).await.unwrap();
        text
    };
    let text = ask(w.engine().connect(&sandbox.id, 8080).await.unwrap()).await;
    assert!(text.contains("200 OK") && text.contains("page"), "{text}");
    let direct = tokio::net::TcpStream::connect((ip, 8080)).await.unwrap();
    assert!(ask(Box::new(direct)).await.contains("page"));
    let Err(refused) = w.engine().connect(&sandbox.id, 81).await else { panic!("nothing listens there") };
    assert!(refused.to_string().contains("refused"), "{refused}");
    let host = SandboxSpec { host_network: true, ..w.sandbox_spec() };
    let made = w.engine().run_sandbox(host.clone()).await.unwrap();
    assert_eq!(made.ip, None);
    let (_, log) = w.run(&w.shell(&host, "readlink /proc/self/ns/net; readlink /proc/self/ns/uts; ip link")).await;
    for kind in ["net", "uts"] {
        let ours = std::fs::read_link(format!("/proc/self/ns/{kind}")).unwrap();
        assert!(log.contains(ours.to_str().unwrap()), "{log}");
    }
    assert!(matches!(status(w.engine(), &spec.id).await.unwrap().state, ContainerState::Running { .. }));
    w.engine().remove_sandbox(&sandbox.id).await.unwrap();
    w.engine().remove_sandbox(&host.id).await.unwrap();
}
