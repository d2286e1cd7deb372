//! What a container cannot do, read where the kernel says it.

use std::path::Path;

use anyhow::{Result, ensure};
use e2e::{Ctx, IDLE, pod};
use serde_json::{Value, json};

fn secured(context: Value) -> Value {
    json!({"restartPolicy": "Never", "containers": [{"name": "main", "securityContext": context}]})
}

/// A hexadecimal field of `/proc/PID/status`.
fn mask(status: &str, field: &str) -> u64 {
    let value = status.lines().find_map(|l| l.strip_prefix(field)).unwrap_or("").trim_start_matches(':').trim();
    u64::from_str_radix(value, 16).unwrap_or(u64::MAX)
}

pub fn run_as_non_root_refuses_root(ctx: &Ctx) -> Result<()> {
    ctx.apply(&[pod("rooted", IDLE, secured(json!({"runAsNonRoot": true})))])?;
    ctx.wait("pod/rooted", "jsonpath={.status.containerStatuses[0].state.waiting.reason}=CreateContainerConfigError")?;
    let message = ctx.field("pod/rooted", ".status.containerStatuses[0].state.waiting.message")?;
    ensure!(message.contains("runAsNonRoot") && message.contains("root"), "{message}");
    let user = secured(json!({"runAsNonRoot": true, "runAsUser": 1000}));
    ensure!(ctx.output_of(pod("user", "id -u", user))? == "1000\n");
    Ok(())
}

pub fn a_read_only_root_cannot_be_written(ctx: &Ctx) -> Result<()> {
    let said =
        ctx.output_of(pod("frozen", "touch /etc/x 2>&1 || true", secured(json!({"readOnlyRootFilesystem": true}))))?;
    ensure!(said.contains("Read-only file system"), "{said}");
    Ok(())
}

pub fn dropped_capabilities_are_gone_and_added_ones_there(ctx: &Ctx) -> Result<()> {
    let status = |name: &str, context: Value| ctx.output_of(pod(name, "cat /proc/self/status", secured(context)));
    let none = status("none", json!({"capabilities": {"drop": ["ALL"]}}))?;
    for field in ["CapEff", "CapPrm", "CapBnd", "CapInh", "CapAmb"] {
        ensure!(mask(&none, field) == 0, "{field} is {:x}", mask(&none, field));
    }
    // capabilities(7): CAP_NET_BIND_SERVICE is bit 10, CAP_SYS_TIME 25, CAP_SYS_ADMIN 21, CAP_CHOWN 0.
    let one = status("one", json!({"capabilities": {"drop": ["ALL"], "add": ["NET_BIND_SERVICE"]}}))?;
    ensure!(mask(&one, "CapEff") == 1 << 10, "{:x}", mask(&one, "CapEff"));
    let ordinary = status("ordinary", json!({}))?;
    let caps = mask(&ordinary, "CapEff");
    ensure!(caps & 1 == 1 && caps & (1 << 21) == 0 && caps & (1 << 25) == 0, "{caps:x}");
    Ok(())
}

pub fn seccomp_and_no_new_privileges_are_set_in_the_kernel(ctx: &Ctx) -> Result<()> {
    let field = |status: &str, name: &str| {
        status.lines().find_map(|l| l.strip_prefix(name)).unwrap_or("").trim_start_matches(':').trim().to_owned()
    };
    let script = "cat /proc/self/status; unshare -U true 2>&1 || true";
    let strict = json!({"allowPrivilegeEscalation": false, "seccompProfile": {"type": "RuntimeDefault"}});
    let said = ctx.output_of(pod("strict", script, secured(strict)))?;
    ensure!(field(&said, "NoNewPrivs") == "1", "no_new_privs is not set:\n{said}");
    ensure!(field(&said, "Seccomp") == "2", "no filter is set:\n{said}");
    // A filter that lets everything pass would be none: this call is one that the default profile refuses.
    ensure!(
        said.contains("Operation not permitted") || said.contains("ermission denied"),
        "unshare is allowed:\n{said}"
    );
    let open = json!({"seccompProfile": {"type": "Unconfined"}});
    let said = ctx.output_of(pod("open", "cat /proc/self/status", secured(open)))?;
    ensure!(field(&said, "NoNewPrivs") == "0" && field(&said, "Seccomp") == "0", "{said}");
    Ok(())
}

pub fn the_host_is_masked_from_an_ordinary_container(ctx: &Ctx) -> Result<()> {
    let script = "head -c 1 /proc/kcore 2>/dev/null | wc -c; (echo 1 > /proc/sys/kernel/panic) 2>&1 || true; \
                  (echo x > /proc/sysrq-trigger) 2>&1 || true; mount -t tmpfs none /tmp 2>&1 || true; \
                  touch /sys/x 2>&1 || true; mknod /tmp/d b 8 0 2>/dev/null && head -c1 /tmp/d 2>&1; ls /proc | grep -c '^[0-9]'";
    let said = ctx.output_of(pod("masked", script, json!({"restartPolicy": "Never"})))?;
    let lines: Vec<&str> = said.lines().collect();
    ensure!(lines[0] == "0", "kernel memory can be read:\n{said}");
    ensure!(lines[1].contains("Read-only") && lines[2].contains("can't create"), "/proc/sys can be written:\n{said}");
    ensure!(said.contains("mount:") || said.contains("permission denied"), "mount is allowed:\n{said}");
    ensure!(
        lines.last().and_then(|l| l.parse::<u32>().ok()).is_some_and(|n| n < 20),
        "the host's processes are seen:\n{said}"
    );
    Ok(())
}

pub fn privileged_and_host_namespaces_are_what_they_say(ctx: &Ctx) -> Result<()> {
    let said = ctx.output_of(pod(
        "strong",
        "mount -t tmpfs none /mnt 2>&1 || mkdir -p /mnt && mount -t tmpfs none /mnt && echo mounted",
        secured(json!({"privileged": true})),
    ))?;
    ensure!(said.contains("mounted"), "{said}");
    let own = std::fs::read_link("/proc/self/ns/net")?.display().to_string();
    let host = json!({"restartPolicy": "Never", "hostNetwork": true, "hostPID": true});
    let said = ctx.output_of(pod(
        "hosted",
        "readlink /proc/self/ns/net; ls -d /proc/$(cat /proc/sys/kernel/ns_last_pid) >/dev/null 2>&1; hostname",
        host,
    ))?;
    ensure!(said.lines().next() == Some(own.as_str()), "{said}");
    let (pod_ip, host_ip) = (ctx.field("pod/hosted", ".status.podIP")?, ctx.field("pod/hosted", ".status.hostIP")?);
    ensure!(pod_ip == host_ip && !pod_ip.is_empty(), "{pod_ip} and {host_ip}");
    Ok(())
}

pub fn an_unsupported_field_is_refused_by_name(ctx: &Ctx) -> Result<()> {
    let claims = json!([{"name": "c", "resourceClaimName": "c"}]);
    ctx.apply(&[pod("refused", IDLE, json!({"resourceClaims": claims}))])?;
    ctx.wait("pod/refused", "jsonpath={.status.phase}=Failed")?;
    let message = ctx.field("pod/refused", ".status.message")?;
    ensure!(message.contains("spec.resourceClaims"), "{message}");
    Ok(())
}

pub fn apparmor_is_what_the_kernel_has_of_it(ctx: &Ctx) -> Result<()> {
    let enabled = std::fs::read_to_string("/sys/module/apparmor/parameters/enabled").is_ok_and(|t| t.starts_with('Y'));
    let enabled = enabled && Path::new("/sys/kernel/security/apparmor").is_dir();
    let profile = |profile: Value| json!({"securityContext": {"appArmorProfile": profile}});
    let missing = profile(json!({"type": "Localhost", "localhostProfile": "of-nobody"}));
    ctx.apply(&[
        pod("missing", IDLE, missing),
        pod("default", IDLE, profile(json!({"type": "RuntimeDefault"}))),
        pod("unconfined", IDLE, profile(json!({"type": "Unconfined"}))),
    ])?;
    ctx.wait("pod/unconfined", "condition=Ready")?;
    if enabled {
        let waiting = ".status.containerStatuses[0].state.waiting";
        ctx.wait("pod/missing", &format!("jsonpath={{{waiting}.reason}}=CreateContainerError"))?;
        let message = ctx.field("pod/missing", &format!("{waiting}.message"))?;
        ensure!(message == "apparmor profile not found of-nobody", "{message}");
        let loaded = std::fs::read_to_string("/sys/kernel/security/apparmor/profiles")?;
        let parser = std::env::var("PATH")
            .is_ok_and(|path| path.split(':').any(|p| Path::new(p).join("apparmor_parser").exists()));
        ensure!(!parser || loaded.contains("windlass-default"), "the default profile is not loaded: {loaded}");
        if parser {
            ctx.wait("pod/default", "condition=Ready")?;
            let label = |pod: &str| ctx.sh(pod, "cat /proc/self/attr/current");
            ensure!(label("default")?.trim() == "windlass-default (enforce)", "{}", label("default")?);
            ensure!(label("unconfined")?.trim() == "unconfined", "{}", label("unconfined")?);
            // What is denied is denied to root, whose file it is; what is not works.
            let denied =
                ctx.sh("default", "mkdir /tmp/m; cat /sys/kernel/security/apparmor/profiles 2>&1 || echo denied")?;
            ensure!(denied.contains("denied"), "{denied}");
        }
        return Ok(());
    }
    for name in ["missing", "default"] {
        let resource = format!("pod/{name}");
        ctx.wait(&resource, "jsonpath={.status.phase}=Failed")?;
        let told = (ctx.field(&resource, ".status.reason")?, ctx.field(&resource, ".status.message")?);
        let why = "Pod was rejected: Cannot enforce AppArmor: AppArmor is not enabled on the host";
        ensure!(told == ("AppArmor".to_owned(), why.to_owned()), "{name}: {told:?}");
    }
    Ok(())
}
