//! Other amounts of processor time and memory for containers that run.

use anyhow::{Result, ensure};
use e2e::{Ctx, IDLE, container, eventually, merge};
use serde_json::{Value, json};

use crate::api::{Api, LIMIT, is};

/// Requests and limits of one container, each as CPU and memory; an empty word is not set.
type Row = [&'static str; 4];

fn amounts(row: &Row) -> Value {
    let list = |cpu: &str, memory: &str| {
        let set = [("cpu", cpu), ("memory", memory)].into_iter().filter(|(_, v)| !v.is_empty());
        set.map(|(k, v)| (k.to_owned(), Value::from(v))).collect::<serde_json::Map<_, _>>()
    };
    let (requests, limits) = (list(row[0], row[1]), list(row[2], row[3]));
    let both = [("requests", requests), ("limits", limits)].into_iter().filter(|(_, m)| !m.is_empty());
    Value::Object(both.map(|(k, m)| (k.to_owned(), Value::Object(m))).collect())
}

fn pod_of(name: &str, rows: &[Row]) -> Value {
    let one =
        |(i, row): (usize, &Row)| merge(container(&format!("c{}", i + 1), IDLE), json!({"resources": amounts(row)}));
    let containers: Vec<Value> = rows.iter().enumerate().map(one).collect();
    json!({"metadata": {"name": name}, "spec": {"terminationGracePeriodSeconds": 2, "containers": containers}})
}

fn patch_of(rows: &[Row]) -> Value {
    let one = |(i, row): (usize, &Row)| json!({"name": format!("c{}", i + 1), "resources": amounts(row)});
    json!({"spec": {"containers": rows.iter().enumerate().map(one).collect::<Vec<_>>()}})
}

fn milli(text: &str) -> i64 {
    match text.strip_suffix('m') {
        Some(milli) => milli.parse().unwrap_or(0),
        None => text.parse::<i64>().unwrap_or(0) * 1000,
    }
}

fn mib(text: &str) -> i64 {
    text.strip_suffix("Mi").and_then(|m| m.parse().ok()).unwrap_or(0)
}

/// Whether spec and status say these amounts, with none of the containers restarted.
fn told(pod: &Value, rows: &[Row]) -> bool {
    let same = |(i, row): (usize, &Row)| {
        let (spec, wanted) = (&pod["spec"]["containers"][i], amounts(row));
        let name = format!("c{}", i + 1);
        let mut all = pod["status"]["containerStatuses"].as_array().into_iter().flatten();
        let Some(status) = all.find(|s| s["name"] == name.as_str()) else { return false };
        let requests = &wanted["requests"];
        spec["resources"] == wanted
            && status["resources"] == wanted
            && (requests.is_null() || status["allocatedResources"] == *requests)
            && status["restartCount"] == 0
    };
    rows.iter().enumerate().all(same) && !is(pod, "PodResizePending") && !is(pod, "PodResizeInProgress")
}

/// What the kernel has for a container: quota of processor time in microseconds, memory in bytes.
fn in_the_kernel(ctx: &Ctx, pod: &str, container: &str) -> Result<(String, String)> {
    let script = "cd /sys/fs/cgroup; cat cpu.max cpu/cpu.cfs_quota_us 2>/dev/null | cut -d' ' -f1; \
                  cat memory.max memory/memory.limit_in_bytes 2>/dev/null || true";
    let text = ctx.ok(&["exec", pod, "-c", container, "--", "sh", "-c", script])?;
    let mut lines = text.lines().map(str::to_owned);
    Ok((lines.next().unwrap_or_default(), lines.next().unwrap_or_default()))
}

fn check(ctx: &Ctx, api: &Api, pod: &str, rows: &[Row]) -> Result<()> {
    api.until_pod(pod, "has the amounts", |p| told(p, rows))?;
    for (i, row) in rows.iter().enumerate() {
        let name = format!("c{}", i + 1);
        eventually(LIMIT, &format!("the kernel has the amounts of {pod}/{name}"), || {
            let (quota, memory) = in_the_kernel(ctx, pod, &name)?;
            let least = 1000;
            let wanted = (milli(row[2]) * 100).max(least).to_string();
            ensure!(if row[2].is_empty() { quota == "max" || quota == "-1" } else { quota == wanted }, "quota {quota}");
            ensure!(row[3].is_empty() || memory == (mib(row[3]) << 20).to_string(), "memory {memory}");
            Ok(())
        })?;
    }
    Ok(())
}

fn there_and_back(ctx: &Ctx, api: &Api, name: &str, from: &[Row], to: &[Row], back: bool) -> Result<()> {
    api.ready(&pod_of(name, from))?;
    check(ctx, api, name, from)?;
    let path = api.at(&format!("pods/{name}/resize"));
    api.patch(&path, &patch_of(to))?;
    check(ctx, api, name, to)?;
    if back {
        api.patch(&path, &patch_of(from))?;
        check(ctx, api, name, from)?;
    }
    api.delete(&api.at(&format!("pods/{name}")), &json!({"gracePeriodSeconds": 0}))?;
    Ok(())
}

/// Requests and limits alike.
const fn full(cpu: &'static str, memory: &'static str) -> Row {
    [cpu, memory, cpu, memory]
}

fn three(ctx: &Ctx, name: &str, to: [Row; 3]) -> Result<()> {
    let api = Api::new(ctx)?;
    let from = [full("20m", "20Mi"), full("22m", "22Mi"), full("24m", "24Mi")];
    there_and_back(ctx, &api, name, &from, &to, true)?;
    api.clear()
}

// conformance: [sig-node] Pod InPlace Resize Container guaranteed pods with multiple containers 3 containers - increase cpu & mem on c1, c2, decrease cpu & mem on c3 - net increase
pub fn three_guaranteed_containers_are_resized_to_more_in_all(ctx: &Ctx) -> Result<()> {
    three(ctx, "net-increase", [full("30m", "30Mi"), full("32m", "32Mi"), full("19m", "19Mi")])
}

// conformance: [sig-node] Pod InPlace Resize Container guaranteed pods with multiple containers 3 containers - increase cpu & mem on c1, decrease cpu & mem on c2, c3 - net decrease
pub fn three_guaranteed_containers_are_resized_to_less_in_all(ctx: &Ctx) -> Result<()> {
    three(ctx, "net-decrease", [full("30m", "30Mi"), full("17m", "17Mi"), full("19m", "19Mi")])
}

// conformance: [sig-node] Pod InPlace Resize Container guaranteed pods with multiple containers 3 containers - increase: CPU (c1,c3), memory (c2, c3) ; decrease: CPU (c2)
pub fn three_guaranteed_containers_are_resized_each_its_own_way(ctx: &Ctx) -> Result<()> {
    three(ctx, "various", [full("30m", "20Mi"), full("17m", "32Mi"), full("34m", "34Mi")])
}

// conformance: [sig-node] Pod InPlace Resize Container burstable pods - extended 6 containers - various operations performed (including adding limits and requests)
// conformance: [sig-node] Pod InPlace Resize Container burstable pods - extended resize with equivalents
pub fn burstable_containers_are_given_requests_and_limits_they_had_not(ctx: &Ctx) -> Result<()> {
    let api = Api::new(ctx)?;
    let from =
        [["20m", "", "", ""], ["", "20Mi", "", ""], ["20m", "20Mi", "", ""], ["20m", "", "", ""], ["", "20Mi", "", ""]];
    let to = [
        ["30m", "", "50m", ""],
        ["", "15Mi", "", "50Mi"],
        ["20m", "15Mi", "", ""],
        ["15m", "20Mi", "", ""],
        ["20m", "30Mi", "", ""],
    ];
    there_and_back(ctx, &api, "various", &from, &to, false)?;
    // The kernel has no less than a millisecond for either; the status tells what was asked for.
    there_and_back(ctx, &api, "equivalents", &[["2m", "", "10m", ""]], &[["1m", "", "5m", ""]], true)?;
    api.clear()
}

// conformance: [sig-node] Pod InPlace Resize Container resize pod via the replace endpoint
pub fn a_pod_is_resized_by_replacing_it(ctx: &Ctx) -> Result<()> {
    let api = Api::new(ctx)?;
    let (from, to) = ([["20m", "20Mi", "", ""]], [["30m", "30Mi", "", ""]]);
    let up = api.ready(&pod_of("replaced", &from))?;
    ensure!(up["metadata"]["generation"] == 1);
    let path = api.at("pods/replaced/resize");
    // The node writes the status meanwhile: what was read may be old by the time it is sent back.
    eventually(LIMIT, "it is replaced", || {
        let mut pod = api.pod("replaced")?;
        pod["spec"]["containers"][0]["resources"] = amounts(&to[0]);
        let (code, answer) = api.put(&path, &pod)?;
        ensure!(code == 200, "{code} {answer}");
        Ok(())
    })?;
    ensure!(api.pod("replaced")?["metadata"]["generation"] == 2);
    check(ctx, &api, "replaced", &to)?;
    eventually(LIMIT, "both paths have the same pod", || {
        let (whole, part) = (api.pod("replaced")?, api.get(&path)?);
        ensure!(whole == part, "{whole}\nis not\n{part}");
        Ok(())
    })?;
    api.clear()
}
