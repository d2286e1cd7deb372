//! What an instance costs when nobody asks anything of it, and how fast it starts.

use std::net::TcpStream;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, bail};

use crate::{median, percentile};

/// A start that takes longer has failed.
const START_MAX: Duration = Duration::from_secs(60);

/// The server of a running instance.
#[derive(Debug, Clone, Copy)]
pub struct Server {
    pid: i64,
}

/// CPU time of a process so far.
#[derive(Debug, Clone, Copy)]
pub struct Usage {
    /// User and system time, seconds.
    pub cpu_s: f64,
}

/// Memory of a process.
#[derive(Debug, Clone, Copy)]
pub struct Memory {
    /// Resident, KiB.
    pub rss_kib: u64,
    /// The most that ever was, KiB.
    pub peak_kib: u64,
}

impl Server {
    /// The one that `instance.json` in the run directory names.
    pub fn of(run_dir: &Path) -> anyhow::Result<Self> {
        let file = std::fs::read(run_dir.join("instance.json")).context("read instance.json")?;
        let file: serde_json::Value = serde_json::from_slice(&file)?;
        Ok(Server { pid: file["pid"].as_i64().context("instance.json has a pid")? })
    }

    /// What it has used (proc(5), stat: fields 14 and 15, in ticks of 10 ms).
    pub fn usage(self) -> Option<Usage> {
        let stat = std::fs::read_to_string(format!("/proc/{}/stat", self.pid)).ok()?;
        let mut fields = stat.rsplit_once(") ")?.1.split(' ').skip(11).map(|f| f.parse::<f64>().unwrap_or(0.0));
        Some(Usage { cpu_s: (fields.next()? + fields.next()?) / 100.0 })
    }

    /// What it has in memory (proc(5), status).
    pub fn memory(self) -> Option<Memory> {
        let text = std::fs::read_to_string(format!("/proc/{}/status", self.pid)).ok()?;
        let field = |name: &str| -> Option<u64> {
            text.lines().find(|l| l.starts_with(name))?.split_whitespace().nth(1)?.parse().ok()
        };
        Some(Memory { rss_kib: field("VmRSS:")?, peak_kib: field("VmHWM:")? })
    }
}

/// Prints PSS and private memory of every process that belongs to the run directory's instance.
pub fn idle(run_dir: &Path) -> anyhow::Result<()> {
    let server = Server::of(run_dir)?.pid;
    let exe = std::fs::read_link(format!("/proc/{server}/exe"))?;
    let marker = run_dir.display().to_string();
    println!("| process | PSS KiB | private KiB |\n|---|---|---|");
    let (mut pss, mut private, mut count) = (0, 0, 0);
    for entry in std::fs::read_dir("/proc")?.flatten() {
        let Ok(pid) = entry.file_name().to_string_lossy().parse::<i64>() else { continue };
        let command = std::fs::read(entry.path().join("cmdline")).unwrap_or_default();
        let command = String::from_utf8_lossy(&command).replace('\0', " ");
        let parent = parent_of(pid);
        let ours = pid == server || parent == Some(server) || (command.contains("shim") && command.contains(&marker));
        let Some(memory) = rollup(pid).filter(|_| ours) else { continue };
        let words: Vec<&str> = command.split_whitespace().take(2).collect();
        println!("| {} | {} | {} |", words.join(" "), memory.0, memory.1);
        pss += memory.0;
        private += memory.1;
        count += 1;
    }
    println!("| together ({count} processes) | {pss} ({:.1} MiB) | {private} |", pss as f64 / 1024.0);
    println!("\nbinary: {:.1} MiB", std::fs::metadata(exe)?.len() as f64 / (1 << 20) as f64);
    Ok(())
}

/// Private memory of what belongs to pods.
#[derive(Debug, Clone, Copy, Default)]
pub struct OfPods {
    /// Shims, of which there is one for each running pod.
    pub shims: u64,
    /// Theirs together, KiB.
    pub shims_kib: u64,
    /// The agent's, KiB.
    pub agent_kib: u64,
}

/// What the shims and the agent of the run directory's instance have for themselves.
pub fn of_pods(run_dir: &Path) -> anyhow::Result<OfPods> {
    let server = Server::of(run_dir)?.pid;
    let marker = run_dir.display().to_string();
    let mut found = OfPods::default();
    for entry in std::fs::read_dir("/proc")?.flatten() {
        let Ok(pid) = entry.file_name().to_string_lossy().parse::<i64>() else { continue };
        let command = std::fs::read(entry.path().join("cmdline")).unwrap_or_default();
        let command = String::from_utf8_lossy(&command).replace('\0', " ");
        let is_shim = command.contains("shim") && command.contains(&marker);
        let is_agent = parent_of(pid) == Some(server) && command.split(' ').any(|word| word == "agent");
        let Some((_, private)) = (is_shim || is_agent).then(|| rollup(pid)).flatten() else { continue };
        if is_shim {
            found.shims += 1;
            found.shims_kib += private;
        } else {
            found.agent_kib = private;
        }
    }
    Ok(found)
}

fn parent_of(pid: i64) -> Option<i64> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    stat.rsplit_once(") ")?.1.split(' ').nth(1)?.parse().ok()
}

/// PSS and private memory, KiB (proc(5), smaps_rollup).
fn rollup(pid: i64) -> Option<(u64, u64)> {
    let text = std::fs::read_to_string(format!("/proc/{pid}/smaps_rollup")).ok()?;
    let field = |name: &str| -> u64 {
        let line = text.lines().find(|l| l.starts_with(name));
        line.and_then(|l| l.split_whitespace().nth(1)).and_then(|v| v.parse().ok()).unwrap_or(0)
    };
    Some((field("Pss:"), field("Private_Clean:") + field("Private_Dirty:")))
}

/// Starts a server without an agent several times and prints how long /readyz took.
pub async fn start(binary: &Path, name: &str, data_dir: &Path, port: u16, count: usize) -> anyhow::Result<()> {
    let mut times = Vec::new();
    for _ in 0..count {
        let started = Instant::now();
        let mut child = Command::new(binary)
            .args(["server", "--no-agent", "--name", name, "--api-port", &port.to_string(), "--data-dir"])
            .arg(data_dir)
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()?;
        while TcpStream::connect(("127.0.0.1", port)).is_err() {
            if started.elapsed() > START_MAX {
                bail!("the server does not listen");
            }
            tokio::time::sleep(Duration::from_micros(500)).await;
        }
        let target = crate::client::Target::read(&data_dir.join("admin.kubeconfig"))?;
        target.connect().await?.call(http::Method::GET, "/readyz", None).await?;
        times.push(started.elapsed().as_secs_f64() * 1000.0);
        Command::new("kill").arg(child.id().to_string()).status()?;
        child.wait()?;
    }
    println!("| measurement | median | worst |\n|---|---|---|");
    println!("| start → /readyz | {:.0} ms | {:.0} ms |", median(&times), percentile(&times, 1.0));
    Ok(())
}
