//! `containers/{id}/json`: all that is known of a container.

use std::sync::Arc;

use serde_json::{Map, Value, json};

use crate::Version;
use crate::containers::control::written;
use crate::containers::record::{Phase, Record};
use crate::face::{Container, Face, stamp};
use crate::fault::Result;
use crate::http::{Answer, Call, json};
use crate::networks;

/// `GET /containers/{id}/json`.
///
/// # Errors
/// 404.
pub async fn respond(call: Call, id: &str) -> Result<Answer> {
    let container = call.face.shown(id)?;
    let mut document = document(&call.face, &container, call.version).await;
    if call.query.flag("size") {
        let own = written(&call.face, &container).await;
        let image = call.face.engine.images().get(&container.record().image_id).ok().flatten();
        document["SizeRw"] = json!(own);
        document["SizeRootFs"] = json!(own + image.map_or(0, |i| i.size_bytes));
    }
    Ok(json(&document))
}

/// The image as it is called now: by the name that was given while that still means it, else by its digest.
pub fn image_name(face: &Arc<Face>, record: &Record) -> String {
    let named = face.engine.images().get(&record.image).ok().flatten();
    match named.is_some_and(|i| i.id.to_string() == record.image_id) {
        true => record.image.clone(),
        false => record.image_id.clone(),
    }
}

/// The document.
pub async fn document(face: &Arc<Face>, container: &Arc<Container>, version: Version) -> Value {
    let record = container.record();
    let (path, args) = record.argv.split_first().map_or(("", &[][..]), |(p, a)| (p.as_str(), a));
    let log = if !matches!(record.host.log_config.kind.as_str(), "json-file" | "local") {
        String::new()
    } else {
        face.log(container).display().to_string()
    };
    let execs = face.execs.of(&record.id);
    json!({
        "Id": record.id,
        "Created": stamp(record.created_ms),
        "Path": path,
        "Args": args,
        "State": state(face, container, &record).await,
        "Image": record.image_id,
        "ResolvConfPath": "",
        "HostnamePath": "",
        "HostsPath": "",
        "LogPath": log,
        "Name": format!("/{}", record.name),
        "RestartCount": record.state.restarts,
        "Driver": "overlay2",
        "Platform": "linux",
        "MountLabel": "",
        "ProcessLabel": "",
        "AppArmorProfile": "",
        "ExecIDs": if execs.is_empty() { Value::Null } else { json!(execs) },
        "HostConfig": host_config(&record),
        "GraphDriver": { "Name": "overlay2", "Data": null },
        "Mounts": mounts(&record),
        "Config": record.config,
        "NetworkSettings": network_settings(face, &record, version),
    })
}

async fn state(face: &Arc<Face>, container: &Container, record: &Record) -> Value {
    let state = &record.state;
    let live = state.phase.is_live();
    let pid = if live { face.engine.pid(&record.id).await.unwrap_or(0) } else { 0 };
    let mut document = json!({
        "Status": state.phase.word(),
        "Running": live || state.phase == Phase::Restarting,
        "Paused": state.phase == Phase::Paused,
        "Restarting": state.phase == Phase::Restarting,
        "OOMKilled": state.oom_killed,
        "Dead": false,
        "Pid": pid,
        "ExitCode": state.exit_code,
        "Error": state.error,
        "StartedAt": stamp(state.started_at_ms),
        "FinishedAt": stamp(state.finished_at_ms),
    });
    if let Some(health) = container.health.lock().as_ref() {
        document["Health"] = json!({ "Status": health.status, "FailingStreak": health.failing, "Log": health.log });
    }
    document
}

fn host_config(record: &Record) -> Value {
    let mut document = serde_json::to_value(&record.host).unwrap_or_default();
    let list = |list: &[String]| if list.is_empty() { Value::Null } else { json!(list) };
    for (name, value) in [
        ("Binds", list(&record.host.binds)),
        ("CapAdd", list(&record.host.cap_add)),
        ("CapDrop", list(&record.host.cap_drop)),
        ("ExtraHosts", list(&record.host.extra_hosts)),
        ("GroupAdd", list(&record.host.group_add)),
        ("SecurityOpt", list(&record.host.security_opt)),
    ] {
        document[name] = value;
    }
    if record.host.shm_size == 0 {
        document["ShmSize"] = json!(64 << 20);
    }
    if record.host.restart_policy.name.is_empty() {
        document["RestartPolicy"]["Name"] = json!("no");
    }
    document
}

/// The mounts, as listings have them.
pub fn mounts(record: &Record) -> Vec<Value> {
    let rows = record.mounts.iter().map(|m| {
        let mut row = json!({
            "Type": m.kind, "Source": m.source, "Destination": m.target, "Mode": "", "RW": m.writable,
            "Propagation": if m.kind == "bind" && m.propagation.is_empty() { "rprivate" } else { &m.propagation },
        });
        if m.kind == "volume" {
            row["Name"] = json!(m.name);
            row["Driver"] = json!("local");
            row["Propagation"] = json!("");
        }
        if m.kind != "tmpfs" {
            row["Mode"] = json!(m.options.first().cloned().unwrap_or_default());
        }
        row
    });
    rows.collect()
}

fn network_settings(face: &Arc<Face>, record: &Record, version: Version) -> Value {
    let networks = networks::of_container(face, record, version);
    let empty = json!({
        "EndpointID": "", "Gateway": "", "IPAddress": "", "IPPrefixLen": 0, "MacAddress": "",
    });
    // The fields beside the networks are about the default one.
    let only = networks.get(networks::BRIDGE).cloned().unwrap_or(empty);
    let mut ports = Map::new();
    if record.state.phase.is_live() {
        for text in record.config.exposed_ports.keys() {
            let Ok((number, protocol)) = crate::containers::spec::port(text) else { continue };
            let published = record.state.ports.iter().filter(|p| p.port == number && p.protocol == protocol);
            let rows: Vec<Value> = published
                .map(|p| {
                    let ip = p.host_ip.map_or_else(|| "0.0.0.0".to_owned(), |ip| ip.to_string());
                    json!({ "HostIp": ip, "HostPort": p.host_port.to_string() })
                })
                .collect();
            ports.insert(format!("{number}/{protocol}"), if rows.is_empty() { Value::Null } else { json!(rows) });
        }
    }
    json!({
        "Bridge": "", "SandboxID": if record.state.phase.is_live() { record.id.as_str() } else { "" },
        "SandboxKey": "", "Ports": ports, "HairpinMode": false,
        "LinkLocalIPv6Address": "", "LinkLocalIPv6PrefixLen": 0,
        "SecondaryIPAddresses": null, "SecondaryIPv6Addresses": null,
        "EndpointID": only["EndpointID"], "Gateway": only["Gateway"], "GlobalIPv6Address": "", "GlobalIPv6PrefixLen": 0,
        "IPAddress": only["IPAddress"], "IPPrefixLen": only["IPPrefixLen"], "IPv6Gateway": "",
        "MacAddress": only["MacAddress"], "Networks": networks,
    })
}
