//! Huge pages.

use std::path::{Path, PathBuf};

use anyhow::{Result, ensure};
use e2e::{Ctx, IDLE, container, eventually, merge, skip};
use serde_json::{Value, json};

use crate::api::{Api, LIMIT, is};

/// More pages of 2 MiB than there were; they are given back at the end.
struct Reserve {
    file: PathBuf,
    before: u64,
}

impl Reserve {
    fn take(more: u64) -> Result<Reserve> {
        let file = Path::new("/sys/kernel/mm/hugepages/hugepages-2048kB/nr_hugepages").to_path_buf();
        let count = || -> Option<u64> { std::fs::read_to_string(&file).ok()?.trim().parse().ok() };
        let Some(before) = count() else { return Err(skip("the kernel has no huge pages of 2 MiB")) };
        let reserve = Reserve { before, file: file.clone() };
        let written = std::fs::write(&file, (before + more).to_string());
        match count() {
            Some(now) if written.is_ok() && now >= before + more => Ok(reserve),
            _ => Err(skip("the host has no memory in one piece for huge pages, or lets nobody reserve it")),
        }
    }
}

impl Drop for Reserve {
    fn drop(&mut self) {
        let _ = std::fs::write(&self.file, self.before.to_string());
    }
}

fn asking(name: &str, pages: &str) -> Value {
    let limits = json!({"hugepages-2Mi": pages, "memory": "64Mi", "cpu": "100m"});
    let main = merge(
        container("main", IDLE),
        json!({
            "resources": {"limits": limits},
            "volumeMounts": [{"name": "huge", "mountPath": "/huge"}, {"name": "sized", "mountPath": "/sized"}],
            "env": [{"name": "PAGES", "valueFrom": {"resourceFieldRef": {"resource": "limits.hugepages-2Mi"}}}],
        }),
    );
    json!({"metadata": {"name": name}, "spec": {
    "terminationGracePeriodSeconds": 2, "containers": [main], "volumes": [
        {"name": "huge", "emptyDir": {"medium": "HugePages"}},
        {"name": "sized", "emptyDir": {"medium": "HugePages-2Mi"}},
    ]}})
}

pub fn huge_pages_are_counted_mounted_and_limited(ctx: &Ctx) -> Result<()> {
    let reserve = Reserve::take(8)?;
    let api = Api::new(ctx)?;
    eventually(LIMIT, "the node says what it has", || {
        let node = api.get("/api/v1/nodes")?["items"][0].clone();
        let pages = &node["status"]["allocatable"]["hugepages-2Mi"];
        let wanted = format!("{}Mi", (reserve.before + 8) * 2);
        ensure!(*pages == wanted.as_str(), "{pages}, not {wanted}");
        Ok(())
    })?;
    api.create("pods", &asking("some", "8Mi"))?;
    api.until_pod("some", "ready", |p| is(p, "Ready"))?;
    let mounts = ctx.sh("some", "cat /proc/mounts; echo PAGES=$PAGES")?;
    for at in ["/huge", "/sized"] {
        let line = mounts.lines().find(|l| l.split(' ').nth(1) == Some(at)).unwrap_or_default();
        ensure!(line.contains(" hugetlbfs ") && line.contains("pagesize=2M"), "{at}: {mounts}");
    }
    ensure!(mounts.contains("PAGES=8388608"), "{mounts}");
    let limit = ctx.sh(
        "some",
        "cat /sys/fs/cgroup/hugetlb.2MB.max /sys/fs/cgroup/hugetlb/hugetlb.2MB.limit_in_bytes \
                                2>/dev/null || true",
    )?;
    // A host of v1 may have no tree of that controller.
    ensure!(limit.is_empty() || limit.trim() == "8388608", "{limit}");
    let too_many = format!("{}Mi", (reserve.before + 8) * 2);
    api.create("pods", &asking("many", &too_many))?;
    api.until_pod("many", "waits", |p| {
        let mut all = p["status"]["conditions"].as_array().into_iter().flatten();
        all.any(|c| c["message"].as_str().is_some_and(|m| m.contains("Insufficient hugepages-2Mi")))
    })?;
    api.delete(&api.at("pods/some"), &json!({}))?;
    api.until_pod("many", "ready", |p| is(p, "Ready"))?;
    api.delete(&api.at("pods/many"), &json!({}))?;
    api.gone("many")
}
