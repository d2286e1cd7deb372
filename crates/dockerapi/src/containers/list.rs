//! `containers/json`: a line for each container.

use std::sync::Arc;

use serde_json::{Value, json};

use crate::containers::control::written;
use crate::containers::inspect;
use crate::containers::record::{Phase, Record};
use crate::face::{Container, Face, now_ms};
use crate::fault::{Fault, Result};
use crate::http::{Answer, Call, json};
use crate::networks;
use crate::query::Filters;

const FILTERS: [&str; 15] = [
    "ancestor", "before", "exited", "expose", "health", "id", "is-task", "label", "label!", "name", "network",
    "publish", "since", "status", "volume",
];
const STATES: [&str; 7] = ["created", "dead", "exited", "paused", "removing", "restarting", "running"];

/// `GET /containers/json`.
///
/// # Errors
/// 400 for filters that are none, 404 for a container that one names.
pub async fn respond(call: Call) -> Result<Answer> {
    let filters = call.query.filters(&FILTERS)?;
    let (all, limit) = (call.query.flag("all"), call.query.number::<i64>("limit")?.unwrap_or(0));
    if let Some(bad) = filters.of("status").iter().find(|s| !STATES.contains(&s.as_str())) {
        return Err(Fault::bad(format!("invalid filter 'status={bad}'")));
    }
    let shows_all = all || limit > 0 || ["status", "exited", "before", "since"].iter().any(|f| filters.has(f));
    let made = |text: &String| Ok::<_, Fault>(call.face.shown(text)?.record().created_ms);
    let before = filters.of("before").first().map(made).transpose()?;
    let since = filters.of("since").first().map(made).transpose()?;
    let ancestors = ancestors(&call.face, &filters);
    let mut rows = Vec::new();
    for container in call.face.all_shown() {
        let record = container.record();
        let timely = before.is_none_or(|b| record.created_ms < b) && since.is_none_or(|s| record.created_ms > s);
        let shown = shows_all || record.state.phase.is_live() || record.state.phase == Phase::Restarting;
        let of_image = !filters.has("ancestor")
            || ancestors.contains(&record.image_id)
            || filters.of("ancestor").contains(&record.image);
        if !(timely && shown && of_image && fits(&call.face, &container, &record, &filters)?) {
            continue;
        }
        rows.push(row(&call, &container, &record).await);
        if limit > 0 && rows.len() as i64 >= limit {
            break;
        }
    }
    Ok(json(&rows))
}

/// Ids of the images that are named.
fn ancestors(face: &Arc<Face>, filters: &Filters) -> Vec<String> {
    let images = face.engine.images();
    let found = filters.of("ancestor").iter().filter_map(|name| images.get(name).ok().flatten());
    found.map(|info| info.id.to_string()).collect()
}

fn fits(face: &Face, container: &Container, record: &Record, filters: &Filters) -> Result<bool> {
    let code = |v: &str| v.parse::<i32>().map_err(|_| Fault::bad(format!("invalid filter 'exited={v}'")));
    let codes = filters.of("exited").iter().map(|v| code(v)).collect::<Result<Vec<i32>>>()?;
    let ended = record.state.phase == Phase::Exited;
    let health = container.health.lock().as_ref().map_or("none", |h| h.status);
    let volume =
        |v: &str| record.mounts.iter().any(|m| m.name == v || m.target.as_os_str() == v || m.source.as_os_str() == v);
    let port = |v: &str, number: u16, protocol: &str| {
        let (range, wanted) = v.split_once('/').unwrap_or((v, "tcp"));
        let (first, last) = range.split_once('-').unwrap_or((range, range));
        let within = first.parse::<u16>().is_ok_and(|f| f <= number) && last.parse::<u16>().is_ok_and(|l| number <= l);
        within && wanted == protocol
    };
    let exposed = |v: &str| {
        record
            .config
            .exposed_ports
            .keys()
            .filter_map(|p| crate::containers::spec::port(p).ok())
            .any(|(n, p)| port(v, n, &p))
    };
    Ok(filters.any("id", |v| record.id.starts_with(v))
        && (filters.matches("name", &format!("/{}", record.name)) || filters.matches("name", &record.name))
        && filters.any("status", |v| v == record.state.phase.word())
        && (codes.is_empty() || (ended && codes.contains(&record.state.exit_code)))
        && filters.labels(&record.config.labels)
        && filters.any("health", |v| v == health)
        && filters.any("network", |v| in_network(face, record, v))
        && filters.any("volume", volume)
        && filters.any("publish", |v| record.state.ports.iter().any(|p| port(v, p.port, &p.protocol)))
        && filters.any("expose", exposed)
        && filters.switch("is-task")? != Some(true))
}

fn in_network(face: &Face, record: &Record, wanted: &str) -> bool {
    networks::find(face, wanted).is_ok_and(|network| record.networks.contains_key(network.name()))
}

async fn row(call: &Call, container: &Arc<Container>, record: &Record) -> Value {
    let (face, sized) = (&call.face, call.query.flag("size"));
    let mut row = json!({
        "Id": record.id,
        "Names": [format!("/{}", record.name)],
        "Image": inspect::image_name(face, record),
        "ImageID": record.image_id,
        "Command": record.argv.join(" "),
        "Created": record.created_ms / 1000,
        "Ports": ports(record),
        "Labels": record.config.labels,
        "State": record.state.phase.word(),
        "Status": status(container, record),
        "HostConfig": { "NetworkMode": record.host.network_mode },
        "NetworkSettings": { "Networks": networks::of_container(face, record, call.version) },
        "Mounts": inspect::mounts(record),
    });
    if sized {
        let own = written(face, container).await;
        let of_image = face.engine.images().get(&record.image_id).ok().flatten().map_or(0, |i| i.size_bytes);
        row["SizeRw"] = json!(own);
        row["SizeRootFs"] = json!(own + of_image);
    }
    row
}

fn ports(record: &Record) -> Vec<Value> {
    let mut rows: Vec<Value> = Vec::new();
    if !record.state.phase.is_live() {
        return rows;
    }
    for text in record.config.exposed_ports.keys() {
        let Ok((number, protocol)) = crate::containers::spec::port(text) else { continue };
        let published = record.state.ports.iter().filter(|p| p.port == number && p.protocol == protocol);
        let before = rows.len();
        rows.extend(published.map(|p| {
            let ip = p.host_ip.map_or_else(|| "0.0.0.0".to_owned(), |ip| ip.to_string());
            json!({ "IP": ip, "PrivatePort": p.port, "PublicPort": p.host_port, "Type": p.protocol })
        }));
        if rows.len() == before {
            rows.push(json!({ "PrivatePort": number, "Type": protocol }));
        }
    }
    rows
}

/// How long, in the words of Docker's clients.
fn ago(ms: i64) -> String {
    let seconds = (ms / 1000).max(0);
    let (minutes, hours, days) = (seconds / 60, seconds / 3600, seconds / 86_400);
    match seconds {
        0 => "Less than a second".to_owned(),
        1 => "1 second".to_owned(),
        2..60 => format!("{seconds} seconds"),
        60..120 => "About a minute".to_owned(),
        _ if minutes < 60 => format!("{minutes} minutes"),
        _ if hours < 2 => "About an hour".to_owned(),
        _ if hours < 48 => format!("{hours} hours"),
        _ if days < 14 => format!("{days} days"),
        _ if days < 60 => format!("{} weeks", days / 7),
        _ if days < 730 => format!("{} months", days / 30),
        _ => format!("{} years", days / 365),
    }
}

fn status(container: &Container, record: &Record) -> String {
    let state = &record.state;
    let up = || format!("Up {}", ago(now_ms() - state.started_at_ms));
    let since_end = || format!("({}) {} ago", state.exit_code, ago(now_ms() - state.finished_at_ms));
    match state.phase {
        Phase::Created => "Created".to_owned(),
        Phase::Paused => format!("{} (Paused)", up()),
        Phase::Restarting => format!("Restarting {}", since_end()),
        Phase::Exited => format!("Exited {}", since_end()),
        Phase::Running => match container.health.lock().as_ref().map(|h| h.status) {
            Some("starting") => format!("{} (health: starting)", up()),
            Some(health) => format!("{} ({health})", up()),
            None => up(),
        },
    }
}

/// A moment, as filters give it: a time, or how long ago. Milliseconds since the epoch.
///
/// # Errors
/// 400 when it is neither.
pub fn until(text: &str) -> Result<i64> {
    if let Ok(time) = crate::query::time(text) {
        return Ok(time.as_millisecond());
    }
    let invalid = || Fault::bad(format!("invalid filter 'until={text}'"));
    let (mut seconds, mut number) = (0i64, String::new());
    for c in text.chars() {
        if c.is_ascii_digit() {
            number.push(c);
            continue;
        }
        let unit = match c {
            'h' => 3600,
            'm' => 60,
            's' => 1,
            _ => return Err(invalid()),
        };
        seconds = seconds.saturating_add(number.parse::<i64>().map_err(|_| invalid())?.saturating_mul(unit));
        number.clear();
    }
    if number.is_empty() && !text.is_empty() {
        Ok(now_ms().saturating_sub(seconds.saturating_mul(1000)))
    } else {
        Err(invalid())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ages_read_as_docker_writes_them() {
        for (ms, words) in [
            (10, "Less than a second"),
            (59_000, "59 seconds"),
            (61_000, "About a minute"),
            (600_000, "10 minutes"),
            (4_000_000, "About an hour"),
            (90_000_000, "25 hours"),
            (300_000_000, "3 days"),
        ] {
            assert_eq!(ago(ms), words);
        }
        assert!(until("1h30m").unwrap() < now_ms() - 5_000_000);
        assert!(until("soon").is_err());
    }
}
