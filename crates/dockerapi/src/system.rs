//! What is asked of the whole: is it there, what is it, what happens, what does it use.

use std::sync::Arc;

use bytes::Bytes;
use http::{HeaderValue, Method, header};
use serde_json::{Value, json};
use tokio::sync::{broadcast, mpsc};

use crate::containers::control::written;
use crate::containers::record::Phase;
use crate::events::{Event, FILTERS};
use crate::face::{Face, stamp};
use crate::fault::{Result, blocking};
use crate::http::{Answer, CHUNKS, Call, json, streaming, whole};
use crate::query::{Filters, time};
use crate::{API_MAX, API_MIN, logging, volumes};

const VERSION: &str = env!("CARGO_PKG_VERSION");

/// `GET` and `HEAD /_ping`.
pub fn ping(call: &Call) -> Answer {
    let head = call.request.method() == Method::HEAD;
    let mut answer = http::Response::new(whole(if head { "" } else { "OK" }));
    let headers = answer.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("text/plain; charset=utf-8"));
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-cache, no-store, must-revalidate"));
    headers.insert(header::PRAGMA, HeaderValue::from_static("no-cache"));
    let swarm = if call.face.manager.is_some() { "active/manager" } else { "inactive" };
    headers.insert("swarm", HeaderValue::from_static(swarm));
    answer
}

fn kernel() -> String {
    nix::sys::utsname::uname().map(|u| u.release().to_string_lossy().into_owned()).unwrap_or_default()
}

/// `GET /version`.
pub fn version() -> Answer {
    let (api, least) = (API_MAX.to_string(), API_MIN.to_string());
    let details = json!({
        "ApiVersion": api, "MinAPIVersion": least, "Arch": crate::architecture(), "Os": "linux", "KernelVersion": kernel(),
        "Experimental": "false", "GitCommit": "", "GoVersion": "", "BuildTime": "",
    });
    json(&json!({
        "Platform": { "Name": "Windlass" },
        "Components": [{ "Name": "Engine", "Version": VERSION, "Details": details }],
        "Version": VERSION, "ApiVersion": api, "MinAPIVersion": least, "GitCommit": "", "GoVersion": "", "Os": "linux",
        "Arch": crate::architecture(), "KernelVersion": kernel(), "BuildTime": "",
    }))
}

fn file_line(path: &str, key: &str) -> Option<String> {
    let text = std::fs::read_to_string(path).ok()?;
    let line = text.lines().find_map(|l| l.strip_prefix(key).map(str::to_owned))?;
    Some(line.trim().trim_matches('"').to_owned())
}

/// `GET /info`.
///
/// # Errors
/// When the image store cannot be read.
pub async fn info(call: Call) -> Result<Answer> {
    let face = call.face.clone();
    let of = face.clone();
    let images = blocking(move || of.engine.images().list()).await?.len();
    let all: Vec<Phase> = face.all().iter().map(|c| c.phase()).collect();
    let count = |phase: Phase| all.iter().filter(|p| **p == phase).count();
    let memory = file_line("/proc/meminfo", "MemTotal:").and_then(|l| l.split(' ').next()?.parse::<u64>().ok());
    let unified = std::path::Path::new("/sys/fs/cgroup/cgroup.controllers").exists();
    let cpus = std::thread::available_parallelism().map_or(1, usize::from);
    let name = nix::unistd::gethostname().map(|n| n.to_string_lossy().into_owned()).unwrap_or_default();
    let running = count(Phase::Running);
    let counts = json!({
        "Containers": all.len(), "ContainersRunning": running, "ContainersPaused": count(Phase::Paused),
        "ContainersStopped": all.len() - running - count(Phase::Paused), "Images": images,
    });
    let host = json!({
        "ID": crate::networks::id(&face, "engine"), "Name": name, "NCPU": cpus, "MemTotal": memory.unwrap_or(0) * 1024,
        "CgroupVersion": if unified { "2" } else { "1" }, "KernelVersion": kernel(), "Architecture": std::env::consts::ARCH,
        "OperatingSystem": file_line("/etc/os-release", "PRETTY_NAME=").unwrap_or_else(|| "Linux".to_owned()),
        "OSVersion": file_line("/etc/os-release", "VERSION_ID=").unwrap_or_default(),
        "SystemTime": jiff::Timestamp::now().to_string(), "DockerRootDir": face.dir,
    });
    let mut document = constant();
    document["Swarm"] = match &face.manager {
        Some(manager) => manager.standing().await,
        None => crate::swarm::inactive(),
    };
    for part in [counts, host] {
        if let (Some(document), Value::Object(part)) = (document.as_object_mut(), part) {
            document.extend(part);
        }
    }
    Ok(json(&document))
}

/// What is the same on every host.
fn constant() -> Value {
    let mut document = json!({
        "Driver": "overlay2", "DriverStatus": [], "LoggingDriver": "json-file", "CgroupDriver": "cgroupfs", "OSType": "linux",
        "MemoryLimit": true, "SwapLimit": false, "CpuCfsPeriod": true, "CpuCfsQuota": true, "CPUShares": true,
        "CPUSet": true, "PidsLimit": true, "OomKillDisable": false, "IPv4Forwarding": true, "Debug": false, "NFd": 0,
        "NGoroutines": 0, "NEventsListener": 0, "HttpProxy": "", "HttpsProxy": "", "NoProxy": "", "Labels": [],
        "ExperimentalBuild": false, "ServerVersion": VERSION, "LiveRestoreEnabled": true, "Isolation": "", "InitBinary": "",
        "IndexServerAddress": "https://index.docker.io/v1/", "DefaultRuntime": "windlass", "Warnings": null,
    });
    document["Plugins"] = json!({
        "Volume": ["local"], "Network": ["bridge", "host", "macvlan", "null", "overlay"], "Authorization": null, "Log": logging::DRIVERS,
    });
    document["RegistryConfig"] =
        json!({ "InsecureRegistryCIDRs": ["127.0.0.0/8"], "IndexConfigs": {}, "Mirrors": null });
    document["Runtimes"] = json!({ "windlass": { "path": "windlass" } });
    for name in ["ContainerdCommit", "RuncCommit", "InitCommit"] {
        document[name] = json!({ "ID": "" });
    }
    document["SecurityOptions"] = json!(["name=seccomp,profile=builtin"]);
    document
}

/// `GET /events`.
///
/// # Errors
/// 400 for filters and times that are none.
pub fn events(call: &Call) -> Result<Answer> {
    let filters = call.query.filters(&FILTERS)?;
    let moment = |name: &str| call.query.get(name).map(time).transpose();
    let (since, until) = (moment("since")?, moment("until")?);
    let (past, coming) = call.face.events.listen();
    let past = past.into_iter().filter(|e| {
        (since.is_some() || until.is_some()) && since.is_none_or(|s| e.time >= s) && until.is_none_or(|u| e.time <= u)
    });
    let past: Vec<Event> = past.collect();
    let (tx, rx) = mpsc::channel(CHUNKS);
    let drain = call.face.drain();
    tokio::spawn(async move {
        tokio::select! {
            () = tell(past, coming, filters, until, &tx) => {}
            () = tx.closed() => {}
            () = drain.cancelled() => {}
        }
    });
    Ok(streaming("application/json", rx))
}

async fn tell(
    past: Vec<Event>,
    mut coming: broadcast::Receiver<Event>,
    filters: Filters,
    until: Option<jiff::Timestamp>,
    tx: &mpsc::Sender<Bytes>,
) {
    let line = |event: &Event| Bytes::from(format!("{}\n", event.document()));
    for event in past.iter().filter(|e| e.fits(&filters)) {
        if tx.send(line(event)).await.is_err() {
            return;
        }
    }
    let end = async {
        match until {
            None => std::future::pending().await,
            Some(until) => {
                let left = until.duration_since(jiff::Timestamp::now());
                tokio::time::sleep(std::time::Duration::try_from(left).unwrap_or_default()).await;
            }
        }
    };
    let going = async {
        loop {
            match coming.recv().await {
                Ok(event) if event.fits(&filters) => {
                    if tx.send(line(&event)).await.is_err() {
                        return;
                    }
                }
                Ok(_) => {}
                // It did not keep up: what it missed is said nowhere else, so the stream ends, which it sees.
                Err(_) => return,
            }
        }
    };
    tokio::select! {
        () = end => {}
        () = going => {}
    }
}

/// `GET /system/df`.
///
/// # Errors
/// When the image store cannot be read.
pub async fn disk(call: Call) -> Result<Answer> {
    let kinds: Vec<String> = call.query.all("type").map(str::to_owned).collect();
    let wanted = |kind: &str| kinds.is_empty() || kinds.iter().any(|k| k == kind);
    let mut document =
        json!({ "LayersSize": 0, "Images": null, "Containers": null, "Volumes": null, "BuildCache": null });
    let face = call.face.clone();
    if wanted("image") {
        let of = face.clone();
        let usage = blocking(move || of.engine.images().disk_usage()).await?;
        document["LayersSize"] = json!(usage.layer_bytes);
        document["Images"] = json!(crate::images::rows(&face, |_| true).await?);
    }
    if wanted("container") {
        document["Containers"] = json!(containers(&face).await);
    }
    if wanted("volume") {
        let of = face.clone();
        document["Volumes"] = json!(blocking(move || Ok::<_, crate::fault::Fault>(volumes::measured(&of))).await?);
    }
    if wanted("build-cache") {
        document["BuildCache"] = json!(crate::images::cache::rows(&face).await?);
    }
    Ok(json(&document))
}

async fn containers(face: &Arc<Face>) -> Vec<Value> {
    let mut rows = Vec::new();
    for container in face.all() {
        let record = container.record();
        rows.push(json!({
            "Id": record.id, "Names": [format!("/{}", record.name)], "Image": record.image, "ImageID": record.image_id,
            "Command": record.argv.join(" "), "Created": record.created_ms / 1000, "State": record.state.phase.word(),
            "Status": stamp(record.created_ms), "SizeRw": written(face, &container).await, "Labels": record.config.labels,
            "Mounts": crate::containers::inspect::mounts(&record),
        }));
    }
    rows
}
