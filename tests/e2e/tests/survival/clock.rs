//! The host's clock is set by an hour, forward and back, while pods run. What a host has is not to be touched, and the kernel
//! has no time of day of its own for a namespace (time_namespaces(7)): a preloaded library stands in for it.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use e2e::{Instance, Kubectl, command, eventually, httpd, merge, pod, skip};
use serde_json::{Value, json};

const HOUR: i64 = 3_600;
/// What a busy machine may take.
const LIMIT: Duration = Duration::from_secs(120);

/// The time of day of an instance.
struct Clock {
    library: PathBuf,
    page: PathBuf,
}

impl Clock {
    fn made(dir: &Path) -> Result<Clock> {
        let (library, page) = (dir.join("clock.so"), dir.join("clock"));
        let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/survival/clock.c");
        let mut compiler = Command::new("cc");
        compiler.args(["-O1", "-shared", "-fPIC", "-o"]).arg(&library).arg(source);
        match command::run(&mut compiler, None, command::LIMIT) {
            Ok(output) => output.ok().map(drop)?,
            Err(_) => return Err(skip("there is no C compiler")),
        }
        std::fs::write(&page, 0i64.to_ne_bytes())?;
        Ok(Clock { library, page })
    }

    /// Moves the clock to so many seconds from the host's.
    fn set(&self, seconds: i64) -> Result<()> {
        Ok(File::options().write(true).open(&self.page)?.write_all_at(&seconds.to_ne_bytes(), 0)?)
    }
}

struct Host<'a> {
    instance: &'a Instance,
    clock: &'a Clock,
}

impl Host<'_> {
    fn kubectl(&self) -> &Kubectl {
        self.instance.kubectl()
    }

    fn apply(&self, objects: &[Value]) -> Result<String> {
        let list = json!({"apiVersion": "v1", "kind": "List", "items": objects}).to_string();
        self.kubectl().run_for(&["apply", "-f", "-"], Some(list.as_bytes()), LIMIT)?.ok()
    }

    fn wait(&self, resource: &str, condition: &str) -> Result<()> {
        let (condition, limit) = (format!("--for={condition}"), format!("--timeout={}s", LIMIT.as_secs()));
        self.kubectl().run_for(&["wait", resource, &condition, &limit], None, LIMIT * 2)?.ok()?;
        Ok(())
    }

    fn json(&self, args: &[&str]) -> Result<Value> {
        Ok(serde_json::from_str(&self.kubectl().ok(&[args, &["-o", "json"]].concat())?)?)
    }

    /// Containers of pods that run all along, with their restarts; and the processes above them.
    fn running(&self) -> Result<Vec<String>> {
        let line = "{range .items[*]}{.metadata.uid} {.status.containerStatuses[0].containerID} {.status.containerStatuses[0].restartCount}{\"\\n\"}{end}";
        let text = self.kubectl().ok(&["get", "pods", "-l", "runs=on", "-o", &format!("jsonpath={line}")])?;
        let mut all: Vec<String> = text.lines().map(str::to_owned).collect();
        all.sort();
        all.push(format!("server {} agent {}", self.instance.server_pid()?, self.instance.agent_pid()?));
        Ok(all)
    }

    /// By how many seconds the server's clock differs from the host's.
    fn offset(&self) -> Result<i64> {
        let review = json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "clock"}}).to_string();
        let args = ["create", "--dry-run=server", "-o", "jsonpath={.metadata.creationTimestamp}", "-f", "-"];
        let made: jiff::Timestamp = self.kubectl().run_for(&args, Some(review.as_bytes()), LIMIT)?.ok()?.parse()?;
        Ok(made.as_second() - jiff::Timestamp::now().as_second())
    }

    /// The lease of the node is renewed by the clock of now, and nobody thinks that the node was gone.
    fn lives(&self) -> Result<()> {
        let offset = self.offset()?;
        eventually(LIMIT, "the node goes on renewing its lease", || {
            let lease = self.json(&["get", "leases", "-n", "kube-node-lease"])?;
            let renewed: jiff::Timestamp =
                lease["items"][0]["spec"]["renewTime"].as_str().context("a renewal")?.parse()?;
            let age = jiff::Timestamp::now().as_second() + offset - renewed.as_second();
            ensure!((-5..60).contains(&age), "renewed {age} s ago");
            Ok(())
        })?;
        let node = &self.json(&["get", "nodes"])?["items"][0];
        let ready = node["status"]["conditions"].as_array().into_iter().flatten().find(|c| c["type"] == "Ready");
        ensure!(ready.is_some_and(|c| c["status"] == "True"), "{ready:?}");
        ensure!(node["spec"]["taints"].is_null(), "{}", node["spec"]["taints"]);
        Ok(())
    }

    /// The readiness probe of the pod notices within a few periods: probes go on.
    fn probes_go_on(&self) -> Result<()> {
        let sh = |script: &str| self.kubectl().ok(&["exec", "probed", "--", "sh", "-c", script]);
        sh("mv /tmp/www/index.html /tmp/www/away")?;
        self.wait("pod/probed", "condition=Ready=false")?;
        sh("mv /tmp/www/away /tmp/www/index.html")?;
        self.wait("pod/probed", "condition=Ready")
    }

    fn jobs(&self) -> Result<usize> {
        Ok(self.json(&["get", "jobs"])?["items"].as_array().map_or(0, Vec::len))
    }
}

pub fn a_clock_that_is_set_disturbs_nothing() -> Result<()> {
    let builder = Instance::builder("clock");
    let folder = tempfile::tempdir()?;
    let clock = Clock::made(folder.path())?;
    let (library, page) = (clock.library.display().to_string(), clock.page.display().to_string());
    let instance = builder.env("LD_PRELOAD", &library).env("WINDLASS_E2E_CLOCK", &page).start()?;
    let outcome = set_clock(&Host { instance: &instance, clock: &clock });
    if outcome.is_err() {
        let show = |args: &[&str]| instance.kubectl().run(args).map(|o| o.stdout).unwrap_or_default();
        eprintln!("{}{}", show(&["get", "nodes,pods,jobs,cronjobs", "-o", "wide"]), show(&["get", "events"]));
        eprintln!("{}", instance.log_tail());
    }
    outcome?;
    instance.down()
}

/// Once an hour, half an hour from now: an hour forward passes one of its times, and the next is far.
fn hourly() -> Value {
    let minute = (jiff::Timestamp::now().as_second() / 60 + 30) % 60;
    let container = e2e::container("main", "true");
    let template = json!({"spec": {"restartPolicy": "Never", "containers": [container]}});
    json!({
        "apiVersion": "batch/v1", "kind": "CronJob", "metadata": {"name": "hourly"},
        "spec": {"schedule": format!("{minute} * * * *"), "jobTemplate": {"spec": {"template": template}}},
    })
}

fn set_clock(host: &Host<'_>) -> Result<()> {
    let labelled = |object: Value| merge(object, json!({"metadata": {"labels": {"runs": "on"}}}));
    let mut probed = labelled(pod("probed", "true", json!({})));
    probed["spec"]["containers"] = json!([httpd("up")]);
    host.apply(&[probed, labelled(pod("plain", e2e::IDLE, json!({}))), hourly()])?;
    host.wait("pod/probed", "condition=Ready")?;
    host.wait("pod/plain", "condition=Ready")?;
    let before = host.running()?;
    // Forward, back, and back to before the pods were there.
    for (n, seconds) in [HOUR, 0, -HOUR].into_iter().enumerate() {
        let crashes = format!("crashes-{n}");
        host.apply(&[pod(&crashes, "exit 3", json!({}))])?;
        held_back_again(host, &crashes, 0)?;
        host.clock.set(seconds)?;
        let offset = host.offset()?;
        ensure!((offset - seconds).abs() < 60, "the server's clock is {offset} s off, and {seconds} s were asked for");
        host.lives()?;
        host.probes_go_on()?;
        eventually(LIMIT, "the job of the time that passed is made", || {
            ensure!(host.jobs()? == 1, "{} jobs", host.jobs()?);
            Ok(())
        })?;
        // Held back for as long as it was to be, not for an hour.
        held_back_again(host, &crashes, 1)?;
        host.kubectl().ok(&["delete", "pod", &crashes])?;
        let (done, stubborn) = (format!("done-{n}"), format!("stubborn-{n}"));
        let script = "trap '' TERM; while :; do sleep 1; done";
        host.apply(&[
            pod(&done, "echo done", json!({"restartPolicy": "Never"})),
            pod(&stubborn, script, json!({"terminationGracePeriodSeconds": 3})),
        ])?;
        host.wait(&format!("pod/{done}"), "jsonpath={.status.phase}=Succeeded")?;
        host.wait(&format!("pod/{stubborn}"), "condition=Ready")?;
        host.kubectl().ok(&["delete", "pod", &stubborn])?;
        host.lives()?;
        ensure!(host.running()? == before, "before {before:#?}\nnow {:#?}", host.running()?);
    }
    ensure!(host.jobs()? == 1, "{} jobs", host.jobs()?);
    Ok(())
}

/// Waits until a container that ends was started more than so many times again, and is held back.
fn held_back_again(host: &Host<'_>, pod: &str, more_than: i64) -> Result<()> {
    eventually(LIMIT, &format!("{pod} is started again"), || {
        let status = host.json(&["get", "pod", pod])?["status"]["containerStatuses"][0].clone();
        let waits = status["state"]["waiting"]["reason"] == "CrashLoopBackOff";
        ensure!(status["restartCount"].as_i64() > Some(more_than) && waits, "{status}");
        Ok(())
    })
}
