use super::*;
use crate::runtime::{Mount, Security};

fn host() -> Host {
    Host {
        capabilities: capabilities::available(),
        hierarchies: Vec::new(),
        unified: false,
        controllers: ["cpu", "memory"].map(str::to_owned).into(),
    }
}

fn config(sandbox: &SandboxSpec, container: &ContainerSpec, image: &ImageDefaults) -> Result<Value, RuntimeError> {
    let user = User { uid: 7, gid: 8, groups: vec![8], home: "/home/u".into() };
    let inputs = Inputs {
        sandbox,
        container,
        image,
        user: &user,
        pod_dir: Path::new("/run/p"),
        rootfs: Path::new("/run/p/rootfs"),
        cgroup: "wl/pod/c",
        host: &host(),
    };
    inputs.config()
}

fn image() -> ImageDefaults {
    ImageDefaults {
        entrypoint: vec!["entry".into()],
        cmd: vec!["arg".into()],
        env: vec!["A=image".into(), "B=image".into()],
        working_dir: Some("/work".into()),
    }
}

fn strings(list: &[&str]) -> Vec<String> {
    list.iter().map(|s| (*s).to_owned()).collect()
}

#[test]
fn command_and_arguments_follow_kubernetes() {
    for (command, args, want) in [
        (&[][..], &[][..], &["entry", "arg"][..]),
        (&["c"], &[], &["c"]),
        (&["c"], &["x"], &["c", "x"]),
        (&[], &["x"], &["entry", "x"]),
    ] {
        let spec = ContainerSpec { command: strings(command), args: strings(args), ..ContainerSpec::default() };
        let made = config(&SandboxSpec::default(), &spec, &image()).unwrap();
        assert_eq!(made["process"]["args"], json!(want));
    }
    let none = config(&SandboxSpec::default(), &ContainerSpec::default(), &ImageDefaults::default());
    assert_eq!(none.unwrap_err().to_string(), "no command specified");
}

#[test]
fn the_pod_overrides_the_images_environment() {
    let sandbox = SandboxSpec { hostname: "pod-0".into(), ..SandboxSpec::default() };
    let env = vec![("B".into(), "pod".into()), ("HOME".into(), "/else".into())];
    let spec = ContainerSpec { env, tty: true, ..ContainerSpec::default() };
    let made = config(&sandbox, &spec, &image()).unwrap();
    let path = format!("PATH={DEFAULT_PATH}");
    let want = [&path, "TERM=xterm", "HOSTNAME=pod-0", "HOME=/else", "A=image", "B=pod"];
    assert_eq!(made["process"]["env"], json!(want));
    assert_eq!(made["process"]["cwd"], "/work");
}

#[test]
fn the_default_container_is_confined() {
    let made = config(&SandboxSpec::default(), &ContainerSpec::default(), &image()).unwrap();
    assert!(made["linux"]["seccomp"]["syscalls"].is_array());
    assert!(made["linux"]["maskedPaths"].as_array().unwrap().contains(&json!("/proc/kcore")));
    assert!(made["linux"]["readonlyPaths"].as_array().unwrap().contains(&json!("/proc/sys")));
    assert_eq!(made["linux"]["resources"]["devices"], json!([{ "allow": false, "access": "rwm" }]));
    assert!(made["process"].get("noNewPrivileges").is_none(), "only ever true: see the comment where it is set");
    let typed: oci_spec::runtime::Spec = serde_json::from_value(made).unwrap();
    assert_eq!(typed.process().as_ref().unwrap().user().uid(), 7);
}

#[test]
fn block_devices_are_allowed_one_by_one() {
    let devices = [(7, 1, false), (8, 16, true)];
    let devices = devices.map(|(major, minor, read_only)| crate::runtime::Device { major, minor, read_only });
    let spec = ContainerSpec { devices: devices.to_vec(), ..ContainerSpec::default() };
    let made = config(&SandboxSpec::default(), &spec, &image()).unwrap();
    let want = json!([
        { "allow": false, "access": "rwm" },
        { "allow": true, "type": "b", "major": 7, "minor": 1, "access": "rwm" },
        { "allow": true, "type": "b", "major": 8, "minor": 16, "access": "rm" },
    ]);
    assert_eq!(made["linux"]["resources"]["devices"], want);
    let _typed: oci_spec::runtime::Spec = serde_json::from_value(made).unwrap();
}

#[test]
fn a_container_runs_under_its_apparmor_profile() {
    let security = Security { app_armor: Some("p".into()), ..Security::default() };
    let spec = ContainerSpec { security, ..ContainerSpec::default() };
    let made = config(&SandboxSpec::default(), &spec, &image()).unwrap();
    assert_eq!(made["process"]["apparmorProfile"], "p");
    let plain = config(&SandboxSpec::default(), &ContainerSpec::default(), &image()).unwrap();
    assert!(plain["process"].get("apparmorProfile").is_none());
}

#[test]
fn devices_that_are_named_are_made_and_allowed() {
    let (path, access, owner) = ("/dev/x".into(), "rw".to_owned(), (0, 5));
    let node = crate::runtime::DeviceNode { path, major: 10, minor: 229, mode: 0o660, owner, access, block: false };
    let mut spec = ContainerSpec::default();
    spec.extra.nodes = vec![node];
    let made = config(&SandboxSpec::default(), &spec, &image()).unwrap();
    let rules = made["linux"]["resources"]["devices"].as_array().unwrap();
    assert_eq!(rules[1], json!({ "allow": true, "type": "c", "major": 10, "minor": 229, "access": "rw" }));
    let device =
        json!({ "path": "/dev/x", "type": "c", "major": 10, "minor": 229, "fileMode": 0o660, "uid": 0, "gid": 5 });
    assert_eq!(made["linux"]["devices"], json!([device]));
    assert!(made["linux"].get("maskedPaths").is_some());
    let _typed: oci_spec::runtime::Spec = serde_json::from_value(made).unwrap();
}

#[test]
fn privileged_is_not() {
    let security = Security { privileged: true, ..Security::default() };
    let spec = ContainerSpec { security, ..ContainerSpec::default() };
    let made = config(&SandboxSpec::default(), &spec, &image()).unwrap();
    assert!(made["linux"].get("seccomp").is_none() && made["linux"].get("maskedPaths").is_none());
    assert!(!made["linux"]["devices"].as_array().unwrap().is_empty());
}

#[test]
fn host_namespaces_are_left_out() {
    let sandbox = SandboxSpec { host_network: true, host_pid: true, host_ipc: true, ..SandboxSpec::default() };
    let made = config(&sandbox, &ContainerSpec::default(), &image()).unwrap();
    assert_eq!(made["linux"]["namespaces"], json!([{ "type": "mount" }]));
    let sandbox = SandboxSpec { share_process_namespace: true, ..SandboxSpec::default() };
    let made = config(&sandbox, &ContainerSpec::default(), &image()).unwrap();
    assert!(
        made["linux"]["namespaces"].as_array().unwrap().contains(&json!({ "type": "pid", "path": "/run/p/ns/pid" }))
    );
}

#[test]
fn memory_has_quality_of_service_on_v2_alone() {
    let qos = crate::runtime::MemoryQos { high: None, min: 4096, low: 0 };
    let limits = crate::runtime::Resources { memory_qos: Some(qos), ..Default::default() };
    assert!(limits::resources(&limits, &[], false, &host()).get("unified").is_none());
    let made = limits::resources(&limits, &[], false, &Host { unified: true, ..host() });
    assert_eq!(made["unified"], json!({ "memory.high": "max", "memory.min": "4096", "memory.low": "0" }));
}

#[test]
fn a_limit_without_its_controller_is_left_out() {
    let limits = crate::runtime::Resources {
        memory_limit_bytes: Some(1 << 20),
        pids_limit: Some(5),
        cpu_quota_us: Some(50_000),
        cpu_period_us: Some(100_000),
        ..Default::default()
    };
    let made = limits::resources(&limits, &[], false, &host());
    assert_eq!(made["memory"]["limit"], 1 << 20);
    assert!(made.get("pids").is_none(), "this host has no pids controller");
    assert_eq!(made["cpu"], json!({ "quota": 50_000, "period": 100_000 }));
}

#[test]
fn a_mount_of_the_pod_replaces_ours_and_bidirectional_needs_privilege() {
    let wanted = |target: &str, propagation| Mount {
        source: "/src".into(),
        target: target.into(),
        read_only: true,
        recursive_read_only: target == "/data",
        inert: false,
        propagation,
    };
    let mounts = vec![wanted("/etc/hosts", Propagation::Private), wanted("/data", Propagation::HostToContainer)];
    let spec = ContainerSpec { mounts, ..ContainerSpec::default() };
    let made = config(&SandboxSpec::default(), &spec, &image()).unwrap();
    let hosts: Vec<_> =
        made["mounts"].as_array().unwrap().iter().filter(|m| m["destination"] == "/etc/hosts").cloned().collect();
    assert_eq!(hosts.len(), 1);
    assert_eq!(hosts[0]["source"], "/src");
    assert_eq!(made["linux"]["rootfsPropagation"], "slave");
    let mounts = vec![wanted("/data", Propagation::Bidirectional)];
    let spec = ContainerSpec { mounts, ..ContainerSpec::default() };
    assert!(matches!(config(&SandboxSpec::default(), &spec, &image()), Err(RuntimeError::Invalid(_))));
}

#[test]
fn a_volume_in_proc_is_refused() {
    let at = |source: &str, target: &str| {
        let mount = Mount {
            source: source.into(),
            target: target.into(),
            read_only: false,
            recursive_read_only: false,
            inert: false,
            propagation: crate::runtime::Propagation::Private,
        };
        let container = ContainerSpec { command: vec!["x".into()], mounts: vec![mount], ..ContainerSpec::default() };
        config(&SandboxSpec::default(), &container, &ImageDefaults::default()).map(drop).map_err(|e| e.to_string())
    };
    assert_eq!(at("/v", "/proc").unwrap_err(), "\"/proc\" cannot be mounted because it is not of type proc");
    for inside in ["/proc/sys", "/proc//self/attr", "/proc/./keys", "/proc/cpuinfo/x"] {
        assert!(at("/v", inside).unwrap_err().contains("inside /proc"), "{inside}");
    }
    for fine in [("/proc", "/proc"), ("/v", "/proc/cpuinfo"), ("/v", "/process"), ("/proc", "/host/proc")] {
        assert_eq!(at(fine.0, fine.1), Ok(()), "{fine:?}");
    }
}

#[test]
fn binds_of_a_pod_with_its_own_users_come_from_mapped_views() {
    let sandbox = SandboxSpec { own_users: true, ..SandboxSpec::default() };
    let mount = Mount {
        source: "/v".into(),
        target: "/data".into(),
        read_only: false,
        recursive_read_only: false,
        inert: false,
        propagation: crate::runtime::Propagation::Private,
    };
    let container = ContainerSpec { command: vec!["x".into()], mounts: vec![mount], ..ContainerSpec::default() };
    let mut document = config(&sandbox, &container, &ImageDefaults::default()).unwrap();
    let user = document["linux"]["namespaces"].as_array().unwrap().iter().find(|n| n["type"] == "user").cloned();
    assert!(user.unwrap()["path"].as_str().unwrap().ends_with("/ns/user"));
    let views = mapped(&mut document, std::path::Path::new("/run/pods/p"));
    let data = views.iter().find(|v| v.source == std::path::Path::new("/v")).unwrap();
    let mounts = document["mounts"].as_array().unwrap();
    let of = |target: &str| mounts.iter().find(|m| m["destination"] == target).unwrap();
    assert_eq!(of("/data")["source"], serde_json::json!(data.at));
    assert!(data.at.starts_with("/run/pods") && !data.at.starts_with("/run/pods/p"));
    assert_eq!(of("/proc")["source"], "proc");
    // Each view has a place of its own.
    let places: std::collections::BTreeSet<_> = views.iter().map(|v| &v.at).collect();
    assert_eq!(places.len(), views.len());
}
