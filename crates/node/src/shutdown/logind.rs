//! systemd-logind: it asks before the machine goes down, and waits while a lock of ours is held
//! (<https://systemd.io/INHIBITOR_LOCKS>).

use std::io;
use std::os::fd::OwnedFd;
use std::path::Path;
use std::time::Duration;

use base::backoff::Backoff;
use base::rt::Drain;
use tokio::sync::watch;

use super::dbus::{Bus, Reader, Target, Word};

const LOGIND: Target<'static> = Target {
    service: "org.freedesktop.login1",
    path: "/org/freedesktop/login1",
    interface: "org.freedesktop.login1.Manager",
};
const LOGIND_PROPERTIES: Target<'static> = Target { interface: "org.freedesktop.DBus.Properties", ..LOGIND };
const SYSTEMD: Target<'static> = Target {
    service: "org.freedesktop.systemd1",
    path: "/org/freedesktop/systemd1",
    interface: "org.freedesktop.systemd1.Manager",
};
const SIGNAL: &str = "PrepareForShutdown";
const SIGHUP: i32 = 1;
/// The file that lets logind wait longer than its default of five seconds (logind.conf(5)).
const OVERRIDE: &str = "99-windlass.conf";
/// logind reads its configuration some time after it was told to.
const RELOAD_FIRST: Duration = Duration::from_millis(100);
const RELOAD_TRIES: u32 = 6;
/// Waits between attempts to connect again.
const RETRY_FIRST: Duration = Duration::from_secs(1);
const RETRY_MAX: Duration = Duration::from_secs(60);

/// What logind is told and where it is.
pub(super) struct Settings<'a> {
    /// The system bus.
    pub(super) bus: &'a Path,
    /// Folder of logind's additional configuration.
    pub(super) conf: &'a Path,
    /// How long the node needs.
    pub(super) needs: Duration,
}

/// Tells through `wanted` that the machine is to go down, and holds it back until `done` says that the pods have ended.
/// Connects again when the bus was restarted.
pub(super) async fn run(s: Settings<'_>, wanted: watch::Sender<bool>, done: watch::Receiver<bool>, drain: Drain) {
    let mut backoff = Backoff::new(RETRY_FIRST, RETRY_MAX, rand::random());
    loop {
        let ended = tokio::select! {
            ended = follow(&s, &wanted, done.clone()) => ended,
            () = drain.cancelled() => return,
        };
        let Err(error) = ended;
        if !s.bus.exists() {
            tracing::info!(bus = %s.bus.display(), "no system bus: SIGPWR alone announces that the node goes down");
            return;
        }
        tracing::warn!(%error, "systemd-logind is not followed");
        tokio::select! {
            () = tokio::time::sleep(backoff.next_delay()) => {}
            () = drain.cancelled() => return,
        }
    }
}

async fn follow(
    s: &Settings<'_>,
    wanted: &watch::Sender<bool>,
    mut done: watch::Receiver<bool>,
) -> io::Result<std::convert::Infallible> {
    let mut bus = Bus::connect(s.bus).await?;
    let delay = delay(&mut bus).await?;
    if delay < s.needs {
        lengthen(&mut bus, s).await?;
    }
    bus.subscribe(LOGIND, SIGNAL).await?;
    let mut lock = Some(inhibit(&mut bus).await?);
    tracing::info!("systemd-logind waits for the pods of this node");
    loop {
        let message = bus.signal(SIGNAL).await?;
        let down = Reader::new(&message.body).number()? != 0;
        wanted.send_replace(down);
        if down {
            // The other end lives as long as the agent.
            let _ = done.wait_for(|done| *done).await;
            lock = None;
        } else if lock.is_none() {
            lock = Some(inhibit(&mut bus).await?);
        }
    }
}

/// The longest that logind waits.
async fn delay(bus: &mut Bus) -> io::Result<Duration> {
    let words = [Word::Text(LOGIND.interface), Word::Text("InhibitDelayMaxUSec")];
    let answer = bus.call(LOGIND_PROPERTIES, "Get", &words).await?;
    let mut r = Reader::new(&answer.body);
    match r.signature()?.as_str() {
        "t" => Ok(Duration::from_micros(r.long()?)),
        other => Err(io::Error::other(format!("InhibitDelayMaxUSec of type {other:?}"))),
    }
}

async fn inhibit(bus: &mut Bus) -> io::Result<OwnedFd> {
    let words = ["shutdown", "windlass", "Windlass ends its pods", "delay"].map(Word::Text);
    let mut answer = bus.call(LOGIND, "Inhibit", &words).await?;
    answer.descriptors.pop_front().ok_or_else(|| io::Error::other("Inhibit: no descriptor"))
}

/// Has logind wait as long as the node needs.
async fn lengthen(bus: &mut Bus, s: &Settings<'_>) -> io::Result<()> {
    let seconds = s.needs.as_secs();
    std::fs::create_dir_all(s.conf)?;
    std::fs::write(s.conf.join(OVERRIDE), format!("# Written by windlass.\n[Login]\nInhibitDelayMaxSec={seconds}\n"))?;
    let words = [Word::Text("systemd-logind.service"), Word::Text("all"), Word::Number(SIGHUP)];
    bus.call(SYSTEMD, "KillUnit", &words).await?;
    let mut pause = RELOAD_FIRST;
    for _ in 0..RELOAD_TRIES {
        if delay(bus).await? >= s.needs {
            return Ok(());
        }
        // Nothing tells when it has read it.
        tokio::time::sleep(pause).await;
        pause *= 2;
    }
    Err(io::Error::other(format!("systemd-logind does not wait for {seconds} s")))
}
