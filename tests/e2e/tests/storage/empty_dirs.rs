//! Empty folders on a disk and in memory.

use anyhow::{Result, ensure};
use e2e::{Ctx, container, merge, pod};
use serde_json::{Value, json};

use crate::table::{self, Case, mounts};

/// What is mounted at /v, in memory or not; mode of the folder; then mode, owner and content of a file that is made in it.
const SCRIPT: &str = "grep -q '^tmpfs /v ' /proc/mounts && echo memory || echo disk; stat -c %A /v; \
    umask 0; echo mount-tester > /v/file; chmod MODE /v/file; stat -c '%A %u' /v/file; cat /v/file";

fn spec(memory: bool, user: Option<u32>) -> Value {
    let source = if memory { json!({"medium": "Memory"}) } else { json!({}) };
    let security = user.map_or(json!({}), |user| json!({"runAsUser": user}));
    json!({
        "containers": [{"name": "main", "securityContext": security, "volumeMounts": mounts(&[("v", "/v")])}],
        "volumes": [{"name": "v", "emptyDir": source}],
    })
}

// conformance: [sig-storage] EmptyDir volumes should support (non-root,0644,default)
// conformance: [sig-storage] EmptyDir volumes should support (non-root,0644,tmpfs)
// conformance: [sig-storage] EmptyDir volumes should support (non-root,0666,default)
// conformance: [sig-storage] EmptyDir volumes should support (non-root,0666,tmpfs)
// conformance: [sig-storage] EmptyDir volumes should support (non-root,0777,default)
// conformance: [sig-storage] EmptyDir volumes should support (non-root,0777,tmpfs)
// conformance: [sig-storage] EmptyDir volumes should support (root,0644,default)
// conformance: [sig-storage] EmptyDir volumes should support (root,0644,tmpfs)
// conformance: [sig-storage] EmptyDir volumes should support (root,0666,default)
// conformance: [sig-storage] EmptyDir volumes should support (root,0666,tmpfs)
// conformance: [sig-storage] EmptyDir volumes should support (root,0777,default)
// conformance: [sig-storage] EmptyDir volumes should support (root,0777,tmpfs)
// conformance: [sig-storage] EmptyDir volumes volume on default medium should have the correct mode
// conformance: [sig-storage] EmptyDir volumes volume on tmpfs should have the correct mode
pub fn an_empty_dir_has_the_mode_and_medium_asked_for(ctx: &Ctx) -> Result<()> {
    let mut cases = Vec::new();
    for (user, uid) in [(None, 0), (Some(1001), 1001)] {
        for (memory, medium) in [(false, "disk"), (true, "memory")] {
            for (mode, shown) in [("0644", "-rw-r--r--"), ("0666", "-rw-rw-rw-"), ("0777", "-rwxrwxrwx")] {
                let expected = format!("{medium}\ndrwxrwxrwx\n{shown} {uid}\nmount-tester");
                let name = format!("{medium}-{mode}-{uid}");
                cases.push(Case::new(&name, &SCRIPT.replace("MODE", mode), spec(memory, user), expected));
            }
        }
    }
    table::check(ctx, &cases)
}

// conformance: [sig-storage] EmptyDir volumes pod should support shared volumes between containers
pub fn containers_share_an_empty_dir(ctx: &Ctx) -> Result<()> {
    let volume_mounts = json!({"volumeMounts": mounts(&[("v", "/v")])});
    let main = merge(container("main", "until [ -s /v/file ]; do sleep 0.1; done; cat /v/file"), volume_mounts.clone());
    let sub = merge(container("sub", "echo from the other > /v/new && mv /v/new /v/file"), volume_mounts);
    let spec = json!({"restartPolicy": "Never", "containers": [main, sub], "volumes": [{"name": "v", "emptyDir": {}}]});
    ctx.apply(&[pod("shares", "", spec)])?;
    table::ends_well(ctx, "shares")?;
    let said = ctx.ok(&["logs", "shares", "-c", "main"])?;
    ensure!(said == "from the other\n", "{said}");
    Ok(())
}
