//! What is done to one container: start, stop, kill, wait, rename, update and the like.

use std::sync::Arc;
use std::time::Duration;

use engine::runtime::ContainerRuntime;
use http::StatusCode;
use serde_json::{Value, json};
use tokio::sync::mpsc;

use crate::containers::life;
use crate::containers::model::{HostConfig, only_empty, without_nulls};
use crate::containers::names;
use crate::containers::spec;
use crate::face::{Container, Face, Seen};
use crate::fault::{Fault, Result};
use crate::http::{Answer, Call, empty, json, streaming};
use crate::query::Query;

/// Rows and columns of a terminal.
///
/// # Errors
/// 400 when they are missing or no numbers.
pub fn size(query: &Query) -> Result<(u16, u16)> {
    let rows = query.number::<u16>("h")?.ok_or_else(|| Fault::bad("invalid resize height \"\""))?;
    let columns = query.number::<u16>("w")?.ok_or_else(|| Fault::bad("invalid resize width \"\""))?;
    Ok((rows, columns))
}

/// `POST /containers/{id}/start`.
///
/// # Errors
/// 404, and why it cannot be started.
pub async fn start(call: Call, id: &str) -> Result<Answer> {
    let container = call.face.container(id)?;
    if call.query.get("checkpoint").is_some() {
        return Err(Fault::unsupported("starting from a checkpoint"));
    }
    // Not given up when the client goes away: a start is whole or not at all.
    let face = call.face.clone();
    let started = tokio::spawn(async move { life::start(&face, &container).await });
    let started = started.await.map_err(|e| Fault::broken(e.to_string()))??;
    Ok(empty(if started { StatusCode::NO_CONTENT } else { StatusCode::NOT_MODIFIED }))
}

fn signal_of(query: &Query) -> Result<Option<i32>> {
    query.get("signal").map(spec::signal).transpose()
}

/// `POST /containers/{id}/stop`.
///
/// # Errors
/// 404, and what the engine says.
pub async fn stop(call: Call, id: &str) -> Result<Answer> {
    let container = call.face.container(id)?;
    let (seconds, signal) = (call.query.number("t")?, signal_of(&call.query)?);
    let stopped = life::stop(&call.face, &container, seconds, signal).await?;
    Ok(empty(if stopped { StatusCode::NO_CONTENT } else { StatusCode::NOT_MODIFIED }))
}

/// `POST /containers/{id}/restart`.
///
/// # Errors
/// As stop and start.
pub async fn restart(call: Call, id: &str) -> Result<Answer> {
    let container = call.face.container(id)?;
    let (seconds, signal) = (call.query.number("t")?, signal_of(&call.query)?);
    if container.record().host.auto_remove && container.phase().is_live() {
        return Err(Fault::unsupported("restarting a container that is removed when it stops (--rm)"));
    }
    life::stop(&call.face, &container, seconds, signal).await?;
    life::start(&call.face, &container).await?;
    call.face.tell(&container.record(), "restart", &[]);
    Ok(empty(StatusCode::NO_CONTENT))
}

/// `POST /containers/{id}/kill`.
///
/// # Errors
/// 404, 409 when it does not run.
pub async fn kill(call: Call, id: &str) -> Result<Answer> {
    let container = call.face.container(id)?;
    let signal = signal_of(&call.query)?.unwrap_or(9);
    life::kill(&call.face, &container, signal).await?;
    Ok(empty(StatusCode::NO_CONTENT))
}

/// `POST /containers/{id}/pause` and `/unpause`.
///
/// # Errors
/// 404, 409.
pub async fn freeze(call: Call, id: &str, frozen: bool) -> Result<Answer> {
    let container = call.face.container(id)?;
    life::freeze(&call.face, &container, frozen).await?;
    Ok(empty(StatusCode::NO_CONTENT))
}

/// `DELETE /containers/{id}`.
///
/// # Errors
/// 404, 409 when it runs.
pub async fn remove(call: Call, id: &str) -> Result<Answer> {
    let container = call.face.container(id)?;
    if call.query.flag("link") {
        return Err(Fault::unsupported("removing a link"));
    }
    let (face, force, volumes) = (call.face.clone(), call.query.flag("force"), call.query.flag("v"));
    let removed = tokio::spawn(async move { life::remove(&face, &container, force, volumes).await });
    removed.await.map_err(|e| Fault::broken(e.to_string()))??;
    Ok(empty(StatusCode::NO_CONTENT))
}

/// `POST /containers/{id}/wait`: the head goes out at once, the status when there is one.
///
/// # Errors
/// 404, 400 for a condition that is none.
pub fn wait(call: &Call, id: &str) -> Result<Answer> {
    let container = call.face.container(id)?;
    let condition = call.query.get("condition").unwrap_or("not-running").to_owned();
    if !["not-running", "next-exit", "removed"].contains(&condition.as_str()) {
        return Err(Fault::bad(format!("invalid condition: {condition:?}")));
    }
    let (tx, rx) = mpsc::channel(1);
    let mut seen = container.seen.subscribe();
    let exits = seen.borrow().exits;
    tokio::spawn(async move {
        let over = |s: &Seen| match condition.as_str() {
            "next-exit" => s.exits > exits || s.removed,
            "removed" => s.removed,
            _ => !s.phase.is_live() || s.removed,
        };
        let code = tokio::select! {
            found = seen.wait_for(over) => found.map(|s| s.exit_code),
            () = tx.closed() => return,
        };
        let record = container.record();
        let mut document = json!({ "StatusCode": code.unwrap_or(record.state.exit_code) });
        if !record.state.error.is_empty() {
            document["Error"] = json!({ "Message": record.state.error });
        }
        let _ = tx.send(format!("{document}\n").into()).await;
    });
    Ok(streaming("application/json", rx))
}

/// `POST /containers/{id}/rename`.
///
/// # Errors
/// 404, 400 for a name that is none, 409 for one that is taken.
pub async fn rename(call: Call, id: &str) -> Result<Answer> {
    let container = call.face.container(id)?;
    let wanted = call.query.get("name").unwrap_or_default();
    let name = wanted.strip_prefix('/').unwrap_or(wanted).to_owned();
    if name.is_empty() {
        return Err(Fault::bad("Neither old nor new names may be empty"));
    }
    if !names::valid(&name) {
        return Err(Fault::bad(format!("Invalid container name ({name}), only [a-zA-Z0-9][a-zA-Z0-9_.-] are allowed")));
    }
    let old = container.name();
    if name == old {
        return Err(Fault::bad("Renaming a container with the same name as its current name"));
    }
    let other = call.face.all().into_iter().find(|c| c.name() == name);
    if let Some(other) = other {
        return Err(Fault::conflict(format!(
            "Conflict. The container name \"/{name}\" is already in use by container \"{}\". You have to remove (or rename) \
             that container to be able to reuse that name.",
            other.id
        )));
    }
    let record = call.face.change(&container, |r| r.name = name);
    crate::networks::names_changed(&call.face, record.networks.keys());
    call.face.tell(&record, "rename", &[("oldName", format!("/{old}"))]);
    Ok(empty(StatusCode::NO_CONTENT))
}

/// `POST /containers/{id}/resize`.
///
/// # Errors
/// 404, 400 without a size, 409 without a terminal.
pub async fn resize(call: Call, id: &str) -> Result<Answer> {
    let container = call.face.container(id)?;
    let (rows, columns) = size(&call.query)?;
    if !container.phase().is_live() {
        return Err(Fault::conflict(format!("container {} is not running", container.id)));
    }
    call.face.engine.resize(&container.id, columns, rows).await?;
    Ok(empty(StatusCode::OK))
}

/// `POST /containers/{id}/update`.
///
/// # Errors
/// 404, 400 for what cannot be changed.
pub async fn update(mut call: Call, id: &str) -> Result<Answer> {
    let container = call.face.container(id)?;
    let document: Value = call.json().await?;
    let change: HostConfig =
        serde_json::from_value(without_nulls(document)).map_err(|e| Fault::bad(format!("invalid JSON: {e}")))?;
    only_empty("", &change.rest)?;
    let mut wanted = container.record();
    let host = &mut wanted.host;
    for (slot, value) in [
        (&mut host.cpu_shares, change.cpu_shares),
        (&mut host.memory, change.memory),
        (&mut host.nano_cpus, change.nano_cpus),
        (&mut host.cpu_period, change.cpu_period),
        (&mut host.cpu_quota, change.cpu_quota),
        (&mut host.memory_swap, change.memory_swap),
    ] {
        if value != 0 {
            *slot = value;
        }
    }
    if change.pids_limit.is_some_and(|n| n != 0) {
        host.pids_limit = change.pids_limit;
    }
    if !change.restart_policy.name.is_empty() {
        host.restart_policy = change.restart_policy;
    }
    let asked = crate::containers::model::Creation {
        host: wanted.host.clone(),
        ..crate::containers::model::Creation::default()
    };
    crate::containers::check::creation(&asked, &mut Vec::new())?;
    let before = spec::resources(&container.record());
    let resources = spec::resources(&wanted);
    if before != resources && container.phase().is_live() {
        call.face.engine.update_resources(&container.id, resources).await?;
    }
    let record = call.face.change(&container, |r| r.host = wanted.host);
    call.face.tell(&record, "update", &[]);
    Ok(json(&json!({ "Warnings": [] })))
}

/// `POST /containers/prune`.
///
/// # Errors
/// 400 for filters that are none.
pub async fn prune(call: Call) -> Result<Answer> {
    let filters = call.query.filters(&["label", "label!", "until"])?;
    let until = filters.of("until").first().map(|t| crate::containers::list::until(t)).transpose()?;
    let (mut removed, mut freed) = (Vec::new(), 0u64);
    for container in call.face.all() {
        let record = container.record();
        let idle = !record.state.phase.is_live() && record.state.phase != crate::containers::record::Phase::Restarting;
        let old = until.is_none_or(|u| record.created_ms < u);
        if !(idle && old && filters.labels(&record.config.labels)) {
            continue;
        }
        let written = written(&call.face, &container).await;
        if life::remove(&call.face, &container, false, false).await.is_ok() {
            removed.push(record.id);
            freed += written;
        }
    }
    Ok(json(&json!({ "ContainersDeleted": removed, "SpaceReclaimed": freed })))
}

/// Bytes that a container wrote to its own file system.
pub async fn written(face: &Arc<Face>, container: &Container) -> u64 {
    let (of, key) = (face.clone(), crate::containers::create::root_key(&container.id));
    let measured = crate::fault::blocking(move || of.engine.images().snapshot_usage(&key)).await;
    measured.unwrap_or(0)
}

/// `GET /containers/{id}/top`: the host's ps(1), of which only the container's processes are shown.
///
/// # Errors
/// 404, 409 when it does not run, 400 for arguments of which ps makes no list with process ids.
pub async fn top(call: Call, id: &str) -> Result<Answer> {
    const LIMIT: Duration = Duration::from_secs(20);
    let container = call.face.shown(id)?;
    if !container.phase().is_live() {
        return Err(Fault::conflict(format!("container {} is not running", container.id)));
    }
    let pids = call.face.engine.processes(&container.id).await?;
    let args: Vec<String> = call.query.get("ps_args").unwrap_or("-ef").split_whitespace().map(str::to_owned).collect();
    // ps would write to a file or show what is not asked for with no option of it; only its columns are chosen here.
    let run = tokio::process::Command::new("ps").args(&args).kill_on_drop(true).output();
    let output = tokio::time::timeout(LIMIT, run).await.map_err(|_| Fault::broken("ps did not end"))?;
    let output = output.map_err(|e| Fault::io("run ps", &e))?;
    if !output.status.success() {
        let words = String::from_utf8_lossy(&output.stderr).trim().to_owned();
        return Err(Fault::bad(format!("ps: {words}")));
    }
    let (titles, processes) = table(&String::from_utf8_lossy(&output.stdout), &pids)
        .ok_or_else(|| Fault::bad("Couldn't find PID field in ps output"))?;
    Ok(json(&json!({ "Titles": titles, "Processes": processes })))
}

fn table(text: &str, pids: &[i32]) -> Option<(Vec<String>, Vec<Vec<String>>)> {
    let mut lines = text.lines();
    let titles: Vec<String> = lines.next()?.split_whitespace().map(str::to_owned).collect();
    let at = titles.iter().position(|t| t == "PID")?;
    let rows = lines.filter_map(|line| {
        let words: Vec<&str> = line.split_whitespace().collect();
        let pid = words.get(at)?.parse::<i32>().ok()?;
        if !pids.contains(&pid) || words.len() < titles.len() {
            return None;
        }
        // The last column has blanks.
        let (fixed, last) = words.split_at(titles.len() - 1);
        Some(fixed.iter().map(|w| (*w).to_owned()).chain([last.join(" ")]).collect())
    });
    let rows = rows.collect();
    Some((titles, rows))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_containers_processes_are_shown() {
        let text = "UID   PID  PPID CMD\nroot    1     0 init\nroot   42     1 sleep 100 x\n";
        let (titles, rows) = table(text, &[42, 43]).unwrap();
        assert_eq!(titles, ["UID", "PID", "PPID", "CMD"]);
        assert_eq!(rows, [["root", "42", "1", "sleep 100 x"]]);
        assert!(table("A B\n", &[1]).is_none());
    }
}
