//! What the runtime says, in the words of `reconcile::pod`, with the last words of containers that ended.

use std::collections::HashMap;
use std::io::{Read, Seek, SeekFrom};
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use engine::runtime::{ContainerState, ContainerStatus, ProcessUser, SandboxStatus};
use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Container, LinuxContainerUser, Pod, PodStatus};
use reconcile::pod::{ContainerView, Exit, Run, Sandbox};

use crate::spec::container::{IMAGE_LABEL, TERMINATION_LABEL};

/// Longest termination message (the API's limit), and what is taken from a log instead.
const MESSAGE_MAX: u64 = 4096;
const LOG_TAIL_MAX: u64 = 2048;
const LOG_TAIL_LINES: usize = 80;

/// What is known of a pod's sandbox and containers.
#[derive(Debug, Clone)]
pub(super) struct Seen {
    pub(super) sandbox: Sandbox,
    pub(super) containers: Vec<ContainerView>,
}

impl Seen {
    /// The pod's addresses; those it had last, when it has no sandbox.
    pub(super) fn ips(&self, reported: &PodStatus) -> Vec<IpAddr> {
        match self.sandbox {
            Sandbox::Ready { ip: Some(ip) } => vec![ip],
            _ => reported.pod_ips.iter().flatten().filter_map(|p| p.ip.parse().ok()).collect(),
        }
    }
}

pub(super) fn time(ms: i64) -> Timestamp {
    Timestamp::from_millisecond(ms).unwrap_or(Timestamp::UNIX_EPOCH)
}

/// A pod's ephemeral containers.
pub(super) fn added(pod: &Pod) -> Vec<Container> {
    pod.spec.as_ref().map(reconcile::pod::ephemeral).unwrap_or_default()
}

/// When a timer is to fire for a time of day.
pub(super) fn instant(at: Timestamp, now: Timestamp) -> tokio::time::Instant {
    let wait = Duration::try_from(at.duration_since(now)).unwrap_or(Duration::ZERO);
    // A millisecond more, so that the time has come when the timer fires.
    tokio::time::Instant::now() + wait + Duration::from_millis(1)
}

/// What happened has happened: it lies in the future when the clock was set back since.
fn past(ms: i64, now: Timestamp) -> Timestamp {
    time(ms).min(now)
}

pub(super) fn sandbox(status: Option<&SandboxStatus>) -> Sandbox {
    match status {
        None => Sandbox::Absent,
        Some(s) if s.ready => Sandbox::Ready { ip: s.ip },
        Some(_) => Sandbox::Lost,
    }
}

fn label<'a>(status: &'a ContainerStatus, key: &str) -> Option<&'a str> {
    status.spec.labels.iter().find(|(k, _)| k == key).map(|(_, v)| v.as_str())
}

/// Termination messages already read, by container id: a message does not change once its container ended.
#[derive(Default)]
pub(super) struct Messages {
    read: HashMap<String, Option<String>>,
}

impl Messages {
    fn of(&mut self, pod: &Pod, status: &ContainerStatus, exit_code: i32) -> Option<String> {
        if let Some(message) = self.read.get(&status.spec.id) {
            return message.clone();
        }
        let c = pod.spec.as_ref().and_then(|s| reconcile::pod::find_any(s, &status.spec.name)).map(|(_, c)| c);
        let path = label(status, TERMINATION_LABEL).map(PathBuf::from);
        let message = read_message(path.as_deref(), c.as_deref(), &status.spec.log_path, exit_code);
        self.read.insert(status.spec.id.clone(), message.clone());
        message
    }

    fn keep(&mut self, statuses: &[ContainerStatus]) {
        self.read.retain(|id, _| statuses.iter().any(|s| s.spec.id == *id));
    }
}

fn read_message(path: Option<&Path>, c: Option<&Container>, log: &Path, exit_code: i32) -> Option<String> {
    let from_file = path.and_then(|p| {
        let mut text = Vec::new();
        std::fs::File::open(p).ok()?.take(MESSAGE_MAX).read_to_end(&mut text).ok()?;
        Some(String::from_utf8_lossy(&text).into_owned()).filter(|t| !t.is_empty())
    });
    let fallback = c.and_then(|c| c.termination_message_policy.as_deref()) == Some("FallbackToLogsOnError");
    from_file.or_else(|| if fallback && exit_code != 0 { log_tail(log) } else { None })
}

/// The end of a log, without the stamps of its lines.
fn log_tail(log: &Path) -> Option<String> {
    let mut file = std::fs::File::open(log).ok()?;
    let length = file.metadata().ok()?.len();
    // Stamps and stream names take room too: read more than is kept.
    file.seek(SeekFrom::Start(length.saturating_sub(LOG_TAIL_MAX * 4))).ok()?;
    let mut text = Vec::new();
    file.take(LOG_TAIL_MAX * 4).read_to_end(&mut text).ok()?;
    let text = String::from_utf8_lossy(&text);
    let lines: Vec<&str> = text.lines().filter_map(|l| l.splitn(4, ' ').nth(3)).collect();
    let kept = lines[lines.len().saturating_sub(LOG_TAIL_LINES)..].join("\n");
    let mut start = kept.len().saturating_sub(LOG_TAIL_MAX as usize);
    while !kept.is_char_boundary(start) {
        start += 1;
    }
    Some(kept[start..].to_owned()).filter(|t| !t.is_empty())
}

fn user(u: &ProcessUser) -> LinuxContainerUser {
    let groups = u.groups.iter().map(|g| i64::from(*g)).collect();
    LinuxContainerUser { uid: i64::from(u.uid), gid: i64::from(u.gid), supplemental_groups: Some(groups) }
}

pub(super) fn containers(pod: &Pod, statuses: &[ContainerStatus], messages: &mut Messages) -> Vec<ContainerView> {
    messages.keep(statuses);
    let now = Timestamp::now();
    statuses
        .iter()
        .map(|s| ContainerView {
            id: s.spec.id.clone(),
            name: s.spec.name.clone(),
            attempt: s.spec.attempt,
            image: label(s, IMAGE_LABEL).unwrap_or(&s.spec.image).to_owned(),
            image_id: s.image_id.clone(),
            user: s.user.as_ref().map(user),
            stop_signal: Some(s.stop_signal.clone()).filter(|name| !name.is_empty()),
            run: match &s.state {
                ContainerState::Created => Run::Created,
                ContainerState::Running { started_at_ms } => Run::Running { started_at: past(*started_at_ms, now) },
                ContainerState::Exited(e) => Run::Exited(Exit {
                    code: e.exit_code,
                    oom_killed: e.oom_killed,
                    started_at: (e.started_at_ms > 0).then(|| time(e.started_at_ms)),
                    finished_at: past(e.finished_at_ms, now),
                    start_error: e.start_error.clone(),
                    message: messages.of(pod, s, e.exit_code),
                }),
            },
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn last_words_come_from_the_file_or_on_request_from_the_log() {
        let dir = tempfile::tempdir().expect("dir");
        let (file, log) = (dir.path().join("m"), dir.path().join("log"));
        std::fs::write(&log, "2024-01-01T00:00:00Z stdout F one\n2024-01-01T00:00:01Z stderr F two words\n")
            .expect("log");
        let c = Container { termination_message_policy: Some("FallbackToLogsOnError".into()), ..Container::default() };
        assert_eq!(read_message(Some(&file), None, &log, 1), None);
        assert_eq!(read_message(Some(&file), Some(&c), &log, 0), None);
        assert_eq!(read_message(Some(&file), Some(&c), &log, 1).as_deref(), Some("one\ntwo words"));
        std::fs::write(&file, "said").expect("file");
        assert_eq!(read_message(Some(&file), Some(&c), &log, 1).as_deref(), Some("said"));
    }
}
