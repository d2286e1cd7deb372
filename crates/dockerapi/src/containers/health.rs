//! Health checks: a command in the container, asked again and again.

use std::sync::Arc;
use std::time::Duration;

use engine::runtime::{ContainerRuntime, ExecSpec};
use serde_json::{Value, json};
use tokio::io::AsyncReadExt;

use crate::containers::model::Healthcheck;
use crate::containers::record::Phase;
use crate::face::{Container, Face, now_ms, stamp};
use crate::fault::{Fault, Result};

/// Docker's defaults.
const INTERVAL: Duration = Duration::from_secs(30);
const START_INTERVAL: Duration = Duration::from_secs(5);
const RETRIES: i64 = 3;
/// What is kept of the output of a check, bytes, and how many checks are.
const OUTPUT_MAX: u64 = 4096;
const KEPT: usize = 5;
/// Docker takes nothing shorter.
const LEAST: i64 = 1_000_000;

/// How a container feels.
#[derive(Debug, Clone)]
pub struct Health {
    /// `starting`, `healthy`, `unhealthy`.
    pub status: &'static str,
    /// Failures in a row.
    pub failing: i64,
    /// The last checks, as Docker shows them.
    pub log: Vec<Value>,
}

/// Whether a check can be carried out.
///
/// # Errors
/// 400 says what is wrong.
pub fn check(asked: Option<&Healthcheck>) -> Result<()> {
    let Some(asked) = asked else { return Ok(()) };
    let kind = asked.test.first().map(String::as_str);
    if !matches!(kind, None | Some("NONE" | "CMD" | "CMD-SHELL" | "")) {
        return Err(Fault::bad(format!("unknown type of healthcheck: {:?}", asked.test[0])));
    }
    let times = [
        ("Interval", asked.interval),
        ("Timeout", asked.timeout),
        ("StartPeriod", asked.start_period),
        ("StartInterval", asked.start_interval),
    ];
    for (name, value) in times {
        if value != 0 && value < LEAST {
            return Err(Fault::bad(format!("{name} in Healthcheck cannot be less than 1ms")));
        }
    }
    if asked.retries < 0 {
        return Err(Fault::bad("Retries in Healthcheck cannot be negative"));
    }
    Ok(())
}

/// The command of a check; `None` when there is none.
fn command(asked: &Healthcheck) -> Option<Vec<String>> {
    match asked.test.split_first() {
        Some((kind, rest)) if kind == "CMD" && !rest.is_empty() => Some(rest.to_vec()),
        Some((kind, rest)) if kind == "CMD-SHELL" && !rest.is_empty() => {
            Some(vec!["/bin/sh".to_owned(), "-c".to_owned(), rest.join(" ")])
        }
        _ => None,
    }
}

fn nanos(given: i64, default: Duration) -> Duration {
    if given > 0 { Duration::from_nanos(given.unsigned_abs()) } else { default }
}

/// Starts asking a container that has just been started, if it is to be asked.
pub fn begin(face: &Arc<Face>, container: &Arc<Container>) {
    let record = container.record();
    let Some(asked) = record.config.healthcheck else { return };
    let Some(command) = command(&asked) else { return };
    *container.health.lock() = Some(Health { status: "starting", failing: 0, log: Vec::new() });
    let run = container.seen.borrow().exits;
    let (face, container) = (face.clone(), container.clone());
    let (tasks, drain) = (face.tasks.clone(), face.drain());
    tasks.spawn("docker health", async move {
        let mut seen = container.seen.subscribe();
        let over = async { drop(seen.wait_for(|s| s.exits != run || s.removed || !s.phase.is_live()).await) };
        tokio::select! {
            () = ask(&face, &container, &asked, &command) => {}
            () = over => {}
            () = drain.cancelled() => {}
        }
    });
}

/// One check after the other, for ever.
async fn ask(face: &Arc<Face>, container: &Arc<Container>, asked: &Healthcheck, command: &[String]) {
    let started = tokio::time::Instant::now();
    let period = nanos(asked.start_period, Duration::ZERO);
    let retries = if asked.retries > 0 { asked.retries } else { RETRIES };
    loop {
        let starting = container.health.lock().as_ref().is_some_and(|h| h.status == "starting");
        let in_period = starting && started.elapsed() < period;
        let pause = match in_period {
            true => nanos(asked.start_interval, START_INTERVAL),
            false => nanos(asked.interval, INTERVAL),
        };
        tokio::time::sleep(pause).await;
        if container.phase() != Phase::Running {
            continue;
        }
        let begun = now_ms();
        let (code, output) = once(face, container, command, nanos(asked.timeout, INTERVAL)).await;
        let entry = json!({ "Start": stamp(begun), "End": stamp(now_ms()), "ExitCode": code, "Output": output });
        let before_after = {
            let mut health = container.health.lock();
            let Some(health) = health.as_mut() else { return };
            let before = health.status;
            if code == 0 {
                (health.failing, health.status) = (0, "healthy");
            } else if !(before == "starting" && started.elapsed() < period) {
                health.failing += 1;
                if health.failing >= retries {
                    health.status = "unhealthy";
                }
            }
            health.log.push(entry);
            let surplus = health.log.len().saturating_sub(KEPT);
            health.log.drain(..surplus);
            (before, health.status)
        };
        if before_after.0 != before_after.1 {
            face.tell(&container.record(), &format!("health_status: {}", before_after.1), &[]);
        }
    }
}

/// The status and output of one check; -1 when it took too long or could not be made.
async fn once(face: &Arc<Face>, container: &Container, command: &[String], limit: Duration) -> (i32, String) {
    let spec = ExecSpec {
        container_id: container.id.clone(),
        command: command.to_vec(),
        stdout: true,
        stderr: true,
        ..ExecSpec::default()
    };
    let check = async {
        let mut session = face.engine.exec(spec).await?;
        let (mut text, mut errors) = (Vec::new(), Vec::new());
        let (stdout, stderr) = (session.stdout.take(), session.stderr.take());
        let read = |stream: Option<engine::runtime::Output>| async move {
            let mut bytes = Vec::new();
            if let Some(mut stream) = stream {
                let _ = (&mut stream).take(OUTPUT_MAX).read_to_end(&mut bytes).await;
                // The rest is let through, so that the command does not wait for us.
                let _ = tokio::io::copy(&mut stream, &mut tokio::io::sink()).await;
            }
            bytes
        };
        let (out, err, code) = tokio::join!(read(stdout), read(stderr), session.exit);
        text.extend(out);
        errors.extend(err);
        text.extend(errors);
        Ok::<_, engine::runtime::RuntimeError>((code?, String::from_utf8_lossy(&text).into_owned()))
    };
    match tokio::time::timeout(limit, check).await {
        Ok(Ok((code, text))) => (code, text),
        Ok(Err(error)) => (-1, base::chain(&error)),
        Err(_) => (-1, format!("Health check exceeded timeout ({limit:?})")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_check_is_a_command_or_a_line_for_the_shell() {
        let of = |words: &[&str]| {
            let test = words.iter().map(|w| (*w).to_owned()).collect();
            command(&Healthcheck { test, ..Healthcheck::default() })
        };
        assert_eq!(of(&["CMD", "a", "b"]).unwrap(), ["a", "b"]);
        assert_eq!(of(&["CMD-SHELL", "a b"]).unwrap(), ["/bin/sh", "-c", "a b"]);
        assert!(of(&["NONE"]).is_none() && of(&[]).is_none());
        let short = Healthcheck { interval: 5, ..Healthcheck::default() };
        assert!(check(Some(&short)).unwrap_err().message.contains("Interval"));
    }
}
