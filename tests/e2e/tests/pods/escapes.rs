//! The ways out of a container that other runtimes had: each is tried, and leads nowhere.

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use e2e::{Ctx, IDLE, IMAGE, eventually, pod};
use serde_json::{Value, json};

/// A file of the host that no container has. What can read it is out.
fn marker(ctx: &Ctx, name: &str) -> Result<PathBuf> {
    let path = ctx.instance.dir().join(format!("marker-{name}"));
    std::fs::write(&path, "the host")?;
    Ok(path)
}

/// Words of a script that says ESCAPED when the host's file can be reached from where it stands, up to ten folders up.
fn look_for(marker: &Path) -> String {
    let marker = marker.display();
    format!("p=.; for i in 1 2 3 4 5 6 7 8 9 10; do [ -e $p{marker} ] && echo ESCAPED; p=$p/..; done; echo looked; ")
}

fn container(name: &str, script: &str, more: Value) -> Value {
    e2e::merge(e2e::container(name, script), more)
}

/// What a container has said, also one that never ran.
fn said(ctx: &Ctx, pod: &str, container: &str) -> Result<String> {
    let out = ctx.run(&["logs", pod, "-c", container])?;
    Ok(out.stdout + &out.stderr)
}

/// The log of a pod as soon as it ends with that word: a pod is ready before its script has said all.
fn spoken(ctx: &Ctx, pod: &str, last: &str) -> Result<String> {
    eventually(Duration::from_secs(60), &format!("{pod} has said {last:?}"), || {
        let log = ctx.ok(&["logs", pod])?.trim().to_owned();
        ensure!(log.lines().next_back() == Some(last), "it said: {log}");
        Ok(log)
    })
}

/// Waits until none of the pod's containers of that list is about to start: each has run to its end, or was refused.
/// Answers what became of each: the reason, and the message.
fn settled(ctx: &Ctx, pod: &str, containers: &[&str]) -> Result<Vec<(String, String)>> {
    eventually(Duration::from_secs(60), &format!("the containers of {pod} have ended or are refused"), || {
        let status = ctx.json(&format!("pod/{pod}"))?["status"]["containerStatuses"].take();
        let list = status.as_array().context("no container statuses yet")?;
        let of = |name: &&str| {
            let state = &list.iter().find(|c| c["name"] == **name).context("no status of it yet")?["state"];
            let ended = state["terminated"].is_object();
            let reason = state["waiting"]["reason"].as_str().unwrap_or_default();
            let refused =
                ["Create", "RunContainerError", "StartError", "CrashLoop"].iter().any(|r| reason.starts_with(r));
            ensure!(ended || refused, "{name}: {state}");
            let of = if ended { &state["terminated"] } else { &state["waiting"] };
            let text = |field: &str| of[field].as_str().unwrap_or_default().to_owned();
            Ok((text("reason"), text("message")))
        };
        containers.iter().map(of).collect()
    })
}

/// Descriptors that a runtime leaves open are doors to the host's files.
pub fn a_container_and_an_exec_have_no_descriptors_but_their_streams(ctx: &Ctx) -> Result<()> {
    // Of a process that was started as any is, without what the shell that lists them has open for itself, and that is no
    // copy of this shell any more.
    let list = "sleep 1000 & until grep -qx sleep /proc/$!/comm; do sleep 0.1; done; ls /proc/$!/fd; kill $!";
    ctx.ready_pod(pod("few", &format!("{list}; echo listed; {IDLE}"), json!({})))?;
    let listed = spoken(ctx, "few", "listed")?;
    ensure!(listed == "0\n1\n2\nlisted", "{listed}");
    ensure!(ctx.sh("few", list)? == "0\n1\n2", "{}", ctx.sh("few", list)?);
    // A terminal's `ls` would set the names side by side.
    let plain = list.replace("ls ", "ls -1 ");
    let typed = ctx.in_terminal(&["--namespace", &ctx.ns, "exec", "-it", "few", "--", "sh", "-c", &plain], b"")?;
    // The terminal echoes what the end of the input makes of it ("^@"), before the first line or between two.
    let lines = typed.stdout.lines().map(|l| l.trim().trim_start_matches(|c: char| !c.is_ascii_digit()));
    let seen: Vec<&str> = lines.filter(|l| l.parse::<u32>().is_ok()).collect();
    ensure!(seen == ["0", "1", "2"], "with a terminal: {:?}", typed.stdout);
    Ok(())
}

/// CVE-2024-21626: a working directory that is one of the runtime's own open folders.
pub fn a_working_directory_cannot_be_a_folder_of_the_runtime(ctx: &Ctx) -> Result<()> {
    let marker = marker(ctx, "cwd")?;
    let names: Vec<String> = (3..13).map(|n| format!("fd{n}")).collect();
    let containers: Vec<Value> = (3..13)
        .map(|n| container(&format!("fd{n}"), &look_for(&marker), json!({"workingDir": format!("/proc/self/fd/{n}")})))
        .collect();
    ctx.apply(&[json!({
        "apiVersion": "v1", "kind": "Pod", "metadata": {"name": "cwd"},
        "spec": {"restartPolicy": "Never", "terminationGracePeriodSeconds": 1, "containers": containers},
    })])?;
    let names: Vec<&str> = names.iter().map(String::as_str).collect();
    settled(ctx, "cwd", &names)?;
    for name in names {
        ensure!(!said(ctx, "cwd", name)?.contains("ESCAPED"), "{name} is out");
    }
    Ok(())
}

/// CVE-2024-21626 again, for commands: the folder that the container was started in is swapped for a link afterwards.
pub fn a_command_is_not_run_in_a_folder_of_the_runtime(ctx: &Ctx) -> Result<()> {
    let marker = marker(ctx, "exec")?;
    let mount = json!([{"name": "v", "mountPath": "/vol"}]);
    ctx.ready_pod(json!({
        "apiVersion": "v1", "kind": "Pod", "metadata": {"name": "cwd-exec"},
        "spec": {
            "terminationGracePeriodSeconds": 1,
            "volumes": [{"name": "v", "emptyDir": {}}],
            "containers": [
                container("main", IDLE, json!({"workingDir": "/vol/d", "volumeMounts": mount})),
                container("other", IDLE, json!({"volumeMounts": mount})),
            ],
        },
    }))?;
    let other = |script: &str| ctx.ok(&["exec", "cwd-exec", "-c", "other", "--", "sh", "-c", script]);
    for n in [3, 5, 7, 8, 9] {
        other(&format!("rm -rf /vol/d; ln -s /proc/self/fd/{n} /vol/d"))?;
        let out = ctx.run(&["exec", "cwd-exec", "-c", "main", "--", "sh", "-c", &look_for(&marker)])?;
        ensure!(!out.stdout.contains("ESCAPED"), "descriptor {n}: {}", out.stdout);
    }
    other("rm -rf /vol/d; mkdir /vol/d")?;
    let out = ctx.ok(&["exec", "cwd-exec", "-c", "main", "--", "sh", "-c", &look_for(&marker)])?;
    ensure!(out.trim() == "looked", "{out}");
    Ok(())
}

/// CVE-2019-5736: the runtime's own program, seen in `/proc`, written to by a container. Where processes are shared, the
/// pod's first one is the shim's program.
pub fn the_runtimes_program_cannot_be_written_from_a_container(ctx: &Ctx) -> Result<()> {
    // The first pod makes the copy that shims run from.
    ensure!(ctx.output_of(pod("first", "echo fine", json!({"restartPolicy": "Never"})))? == "fine\n");
    let copies = ctx.instance.names().data_dir().join("engine/exe");
    let read = || -> Result<Vec<(PathBuf, Vec<u8>)>> {
        let own = e2e::windlass().context("a binary")?;
        let kept = std::fs::read_dir(&copies)?.map(|e| Ok(e?.path())).collect::<Result<Vec<_>>>()?;
        kept.into_iter().chain([own]).map(|p| Ok((p.clone(), std::fs::read(&p)?))).collect()
    };
    let before = read()?;
    ensure!(before.len() > 1, "there is no copy in {}", copies.display());
    // Truncated: the check for a mount that cannot be written comes before the one for a program that runs.
    let script = "wc -c < /proc/1/exe; (: > /proc/1/exe) 2>&1; exec 9< /proc/1/exe; (: > /proc/self/fd/9) 2>&1; \
                  (: >> /proc/self/fd/9) 2>&1; echo tried";
    let strong = json!({"capabilities": {"add": ["SYS_PTRACE", "DAC_OVERRIDE", "DAC_READ_SEARCH"]}});
    let spec = json!({
        "restartPolicy": "Never", "shareProcessNamespace": true,
        "containers": [{"name": "main", "securityContext": strong}],
    });
    let said = ctx.output_of(pod("writer", script, spec))?;
    let size = before[0].1.len().to_string();
    ensure!(said.lines().next() == Some(&size) && said.contains("tried"), "the shim's program is not seen:\n{said}");
    let refused = said.matches("Read-only file system").count() + said.matches("Operation not permitted").count();
    ensure!(refused >= 2, "{said}");
    ensure!(read()? == before, "a program on the host was changed");
    // It still starts containers.
    ensure!(ctx.output_of(pod("after", "echo fine", json!({"restartPolicy": "Never"})))? == "fine\n");
    Ok(())
}

/// A pod that swaps `name` in the folder at `/v`: now a folder, now a link to `to`, as fast as it can.
fn swapper(ctx: &Ctx, pod_name: &str, folder: &Path, name: &str, to: &str) -> Result<()> {
    std::fs::create_dir_all(folder.join(name))?;
    let script = format!(
        "trap 'exit 0' TERM; cd /v; ln -s {to} link; while :; do mv {name} kept; mv link {name}; mv {name} link; \
         mv kept {name}; done"
    );
    ctx.ready_pod(pod(
        pod_name,
        &script,
        json!({
            "volumes": [{"name": "v", "hostPath": {"path": folder, "type": "Directory"}}],
            "containers": [{"name": "main", "volumeMounts": [{"name": "v", "mountPath": "/v"}]}],
        }),
    ))
}

/// CVE-2021-25741 (and CVE-2017-1002101): a subPath that becomes a link to the host's root between look and mount.
pub fn a_sub_path_that_is_swapped_for_a_link_stays_in_its_volume(ctx: &Ctx) -> Result<()> {
    let marker = marker(ctx, "subpath")?;
    let folder = ctx.instance.dir().join("subpath");
    swapper(ctx, "swapper", &folder, "s", "/")?;
    let script = format!("[ -e /m{} ] && echo ESCAPED; echo looked", marker.display());
    let names: Vec<String> = (0..8).map(|n| format!("m{n}")).collect();
    let containers: Vec<Value> = names
        .iter()
        .map(|n| container(n, &script, json!({"volumeMounts": [{"name": "v", "mountPath": "/m", "subPath": "s"}]})))
        .collect();
    ctx.apply(&[json!({
        "apiVersion": "v1", "kind": "Pod", "metadata": {"name": "raced"},
        "spec": {
            "restartPolicy": "Never", "terminationGracePeriodSeconds": 1, "containers": containers,
            "volumes": [{"name": "v", "hostPath": {"path": folder, "type": "Directory"}}],
        },
    })])?;
    let names: Vec<&str> = names.iter().map(String::as_str).collect();
    settled(ctx, "raced", &names)?;
    for name in names {
        ensure!(!said(ctx, "raced", name)?.contains("ESCAPED"), "{name} sees the host");
    }
    ctx.ok(&["delete", "pod", "swapper", "raced", "--wait=false"])?;
    Ok(())
}

/// CVE-2021-30465: the place of a mount, in a volume that another container has, becomes a link out of the container.
pub fn a_mount_point_that_is_swapped_for_a_link_stays_in_the_container(ctx: &Ctx) -> Result<()> {
    let marker = marker(ctx, "target")?;
    let folder = ctx.instance.dir().join("target");
    swapper(ctx, "shifter", &folder, "t", "../../../../../../../..")?;
    let root = ctx.instance.dir().join("target-probe");
    std::fs::create_dir(&root)?;
    // Mounted on the host by mistake, the probe would be seen by the host's folder of that name.
    let target = format!("/v/t{}", root.display());
    let script = format!("[ -e /v/t{} ] && echo ESCAPED; echo looked", marker.display());
    let names: Vec<String> = (0..8).map(|n| format!("m{n}")).collect();
    let mounts = json!([{"name": "v", "mountPath": "/v"}, {"name": "probe", "mountPath": target}]);
    let containers: Vec<Value> = names.iter().map(|n| container(n, &script, json!({"volumeMounts": mounts}))).collect();
    ctx.apply(&[json!({
        "apiVersion": "v1", "kind": "Pod", "metadata": {"name": "shifted"},
        "spec": {
            "restartPolicy": "Never", "terminationGracePeriodSeconds": 1, "containers": containers,
            "volumes": [
                {"name": "v", "hostPath": {"path": folder, "type": "Directory"}},
                {"name": "probe", "emptyDir": {}},
            ],
        },
    })])?;
    let names: Vec<&str> = names.iter().map(String::as_str).collect();
    settled(ctx, "shifted", &names)?;
    for name in names {
        ensure!(!said(ctx, "shifted", name)?.contains("ESCAPED"), "{name} sees the host");
    }
    let mounted = std::fs::read_to_string("/proc/self/mountinfo")?;
    ensure!(!mounted.contains(&root.display().to_string()), "a volume is mounted on the host:\n{mounted}");
    ctx.ok(&["delete", "pod", "shifter", "shifted", "--wait=false"])?;
    Ok(())
}

/// A pod whose containers' `/dev` is a volume, in which another one swaps `name` for a link into `/proc`. The kernel's
/// setting that an escape would write is the same afterwards.
fn with_a_swapped_device(ctx: &Ctx, pod_name: &str, name: &str, tty: bool) -> Result<()> {
    let setting = "/proc/sys/kernel/core_pattern";
    let before = std::fs::read_to_string(setting)?;
    let swap = format!(
        "trap 'exit 0' TERM; mkdir -p /d; while :; do ln -sf {setting} /d/.new; mv -f /d/.new /d/{name}; rm -f /d/{name}; done"
    );
    // Everything that should be a mask is read, then written through.
    let script = "for f in kcore keys timer_list interrupts sched_debug; do head -c 16 /proc/$f 2>/dev/null; \
                  (echo pwned > /proc/$f) 2>/dev/null; done; (echo pwned > /dev/console) 2>/dev/null; echo; echo looked";
    let mount = |path: &str| json!([{"name": "dev", "mountPath": path}]);
    let names: Vec<String> = (0..5).map(|n| format!("m{n}")).collect();
    let mut containers = vec![container("swapper", &swap, json!({"volumeMounts": mount("/d")}))];
    containers.extend(names.iter().map(|n| container(n, script, json!({"tty": tty, "volumeMounts": mount("/dev")}))));
    ctx.apply(&[json!({
        "apiVersion": "v1", "kind": "Pod", "metadata": {"name": pod_name},
        "spec": {
            "restartPolicy": "Never", "terminationGracePeriodSeconds": 1, "containers": containers,
            "volumes": [{"name": "dev", "emptyDir": {}}],
        },
    })])?;
    let names: Vec<&str> = names.iter().map(String::as_str).collect();
    settled(ctx, pod_name, &names)?;
    for name in names {
        let said = said(ctx, pod_name, name)?;
        let shown = said.lines().take_while(|l| *l != "looked").collect::<String>();
        ensure!(!said.contains("looked") || shown.trim().is_empty(), "{name} reads what is masked: {said:?}");
    }
    ensure!(std::fs::read_to_string(setting)? == before, "the host's {setting} was written");
    ctx.ok(&["delete", "pod", pod_name, "--wait=false"])?;
    Ok(())
}

/// CVE-2025-31133: files are masked by the null device, which is swapped for a link.
pub fn a_mask_is_not_made_of_a_swapped_null_device(ctx: &Ctx) -> Result<()> {
    with_a_swapped_device(ctx, "null", "null", false)
}

/// CVE-2025-52565: the terminal is bound to `/dev/console`, which is swapped for a link.
pub fn a_terminal_is_not_bound_over_a_swapped_console(ctx: &Ctx) -> Result<()> {
    with_a_swapped_device(ctx, "console", "console", true)
}

/// CVE-2025-52881 (and CVE-2019-16884): volumes in `/proc`, so that the runtime writes or masks somewhere else.
pub fn a_volume_in_proc_is_refused_by_name_and_by_link(ctx: &Ctx) -> Result<()> {
    let paths = ["/proc", "/proc/self/attr", "/proc/sys", "/vol/proc", "/vol/sys", "/vol/keys"];
    let names: Vec<String> = (0..paths.len()).map(|n| format!("m{n}")).collect();
    let script = "echo ran; stat -f -c %T /proc; (echo 1 > /proc/sys/kernel/panic) 2>/dev/null && echo WRITTEN; \
                  head -c 8 /proc/keys 2>/dev/null";
    let containers: Vec<Value> = std::iter::zip(&names, paths)
        .map(|(name, path)| {
            let mounts = json!([{"name": "v", "mountPath": "/vol"}, {"name": "e", "mountPath": path}]);
            container(name, script, json!({"volumeMounts": mounts}))
        })
        .collect();
    let links = "ln -s /proc /vol/proc; ln -s /proc/sys /vol/sys; ln -s /proc/keys /vol/keys";
    ctx.apply(&[json!({
        "apiVersion": "v1", "kind": "Pod", "metadata": {"name": "over"},
        "spec": {
            "restartPolicy": "Never", "terminationGracePeriodSeconds": 1,
            "initContainers": [container("links", links, json!({"volumeMounts": [{"name": "v", "mountPath": "/vol"}]}))],
            "containers": containers,
            "volumes": [{"name": "v", "emptyDir": {}}, {"name": "e", "emptyDir": {}}],
        },
    })])?;
    let names: Vec<&str> = names.iter().map(String::as_str).collect();
    let ends = settled(ctx, "over", &names)?;
    for ((name, path), (reason, message)) in std::iter::zip(std::iter::zip(&names, paths), &ends) {
        let said = said(ctx, "over", name)?;
        ensure!(!said.contains("WRITTEN"), "{path}: {said}");
        ensure!(!said.starts_with("ran"), "{path} was mounted, and the container runs:\n{said}");
        // Behind a link the place is known only when everything is mounted.
        ensure!(path.starts_with("/vol") || message.contains("cannot be mounted"), "{path}: {reason}: {message}");
    }
    Ok(())
}

/// What the runtimes of Docker and Kubernetes hide or freeze, all of it.
pub fn every_path_that_tells_of_the_host_is_masked_or_read_only(ctx: &Ctx) -> Result<()> {
    // A masked file is the null device, a masked folder an empty tmpfs; what the kernel does not have is neither.
    let script = "for p in /proc/acpi /proc/asound /proc/interrupts /proc/kcore /proc/keys /proc/latency_stats \
                  /proc/sched_debug /proc/scsi /proc/timer_list /proc/timer_stats /sys/devices/virtual/powercap /sys/firmware; do \
                  [ -e $p ] || continue; \
                  if [ -d $p ]; then [ -z \"$(ls -A $p)\" ] || echo \"OPEN $p\"; \
                  elif [ \"$(stat -c %t:%T $p)\" != 1:3 ]; then echo \"OPEN $p\"; fi; done; \
                  for p in /proc/bus /proc/fs /proc/irq /proc/sys /proc/sysrq-trigger /sys /sys/fs/cgroup; do [ -e $p ] || continue; \
                  awk -v p=$p '$5 == p { o = $6 } END { if (o !~ /^ro/) print \"WRITABLE \" p }' /proc/self/mountinfo; done; echo looked";
    let said = ctx.output_of(pod("masks", script, json!({"restartPolicy": "Never"})))?;
    ensure!(said == "looked\n", "{said}");
    Ok(())
}

/// CAP_CHOWN, DAC_OVERRIDE, FOWNER, FSETID, KILL, SETGID, SETUID, SETPCAP, NET_BIND_SERVICE, NET_RAW, SYS_CHROOT, MKNOD,
/// AUDIT_WRITE and SETFCAP by their numbers in capabilities(7): what Docker and containerd give, and no more; nothing
/// that an exec of another program could inherit (CVE-2022-24769).
pub fn the_default_capabilities_are_the_fourteen_known_ones(ctx: &Ctx) -> Result<()> {
    let field = |text: &str, name: &str| -> Result<u64> {
        let value = text.lines().find_map(|l| l.strip_prefix(name)?.strip_prefix(':')).context("a field")?;
        Ok(u64::from_str_radix(value.trim(), 16)?)
    };
    ctx.ready_pod(pod("caps", IDLE, json!({})))?;
    let set: u64 = [0, 1, 3, 4, 5, 6, 7, 8, 10, 13, 18, 27, 29, 31].iter().map(|bit| 1u64 << bit).sum();
    for file in ["/proc/1/status", "/proc/self/status"] {
        let status = ctx.sh("caps", &format!("cat {file}"))?;
        for name in ["CapEff", "CapPrm", "CapBnd"] {
            ensure!(field(&status, name)? == set, "{file}: {name} is {:x}, not {set:x}", field(&status, name)?);
        }
        ensure!(field(&status, "CapInh")? == 0 && field(&status, "CapAmb")? == 0, "{status}");
    }
    Ok(())
}

/// With the one capability that opens everything, but the default filter not asked for by a privileged container: what
/// the filter refuses, it refuses to container and command alike.
pub fn the_default_filter_refuses_what_reaches_the_host(ctx: &Ctx) -> Result<()> {
    let strict = json!({"seccompProfile": {"type": "RuntimeDefault"}, "allowPrivilegeEscalation": false});
    let spec = json!({"containers": [{"name": "main", "image": IMAGE, "securityContext": strict}]});
    // Each is refused; one that were not would print its name.
    let calls = "mkdir -p /tmp/m; unshare -m true 2>/dev/null && echo unshare; unshare -U true 2>/dev/null && echo userns; \
                 mount -t tmpfs x /tmp/m 2>/dev/null && echo mount; umount /proc 2>/dev/null && echo umount; \
                 pivot_root /tmp /tmp/m 2>/dev/null && echo pivot_root; \
                 nsenter -t 1 -n true 2>/dev/null && echo nsenter; \
                 date -s 2020-01-01 2>&1 | grep -q 'Operation not permitted' || echo settime; \
                 dmesg >/dev/null 2>&1 && echo syslog; hostname other 2>/dev/null && echo sethostname; \
                 grep -q '^Seccomp:.2' /proc/self/status || echo unfiltered; \
                 grep -q '^NoNewPrivs:.1' /proc/self/status || echo privileges; echo done";
    ctx.ready_pod(pod("filtered", &format!("{calls}; {IDLE}"), spec))?;
    let said = spoken(ctx, "filtered", "done")?;
    ensure!(said == "done", "{said}");
    ensure!(ctx.sh("filtered", calls)? == "done", "{}", ctx.sh("filtered", calls)?);
    Ok(())
}
