//! Measures a running instance the way its users meet it: over HTTPS with the admin's certificate, and by its processes.
//! Every number is a median of rounds that are printed too; nothing here fails a build.
//!
//! `bench/run.sh` starts a fresh instance of the release binary, runs everything and takes it down again.

mod api;
mod client;
mod docker;
mod memory;
mod pods;
mod processes;
mod raw;
mod report;
mod stock;
mod traces;

use std::path::PathBuf;

use clap::{Parser, Subcommand};

#[derive(Parser)]
#[command(name = "bench", about = "Measure a running Windlass instance")]
struct Cli {
    #[command(subcommand)]
    what: What,
}

/// Pods that are made one after the other.
#[derive(clap::Args)]
struct OneAtATime {
    /// Admin kubeconfig
    #[arg(long)]
    kubeconfig: PathBuf,
    /// Image that is on the node, with a shell
    #[arg(long)]
    image: String,
    /// How many pods, one after the other
    #[arg(long, default_value_t = 20)]
    count: usize,
}

#[derive(Subcommand)]
enum What {
    /// Requests per second of ConfigMaps: create, get, patch, list, watch
    Api {
        /// Admin kubeconfig
        #[arg(long)]
        kubeconfig: PathBuf,
        /// Run directory of the instance: its server's CPU time is measured, too
        #[arg(long)]
        run_dir: Option<PathBuf>,
        /// Seconds per measurement
        #[arg(long, default_value_t = 3)]
        seconds: u64,
        /// Connections
        #[arg(long, default_value_t = 32)]
        connections: usize,
    },
    /// Memory of the server with many pods of 3 KiB
    Memory {
        /// Admin kubeconfig
        #[arg(long)]
        kubeconfig: PathBuf,
        /// Run directory of the instance
        #[arg(long)]
        run_dir: PathBuf,
        /// How many pods
        #[arg(long, default_value_t = 100_000)]
        pods: usize,
        /// Make none: measure a server that was started again with those of before
        #[arg(long)]
        restarted: bool,
        /// Connections
        #[arg(long, default_value_t = 32)]
        connections: usize,
    },
    /// Writes and reads of the stores alone: the embedded one and etcd, in turn
    Raw {
        /// Folder for the files, on the disk that is to be measured
        #[arg(long)]
        dir: PathBuf,
        /// The etcd to run; without one only the embedded store is measured
        #[arg(long)]
        etcd: Option<PathBuf>,
        /// Seconds per measurement
        #[arg(long, default_value_t = 3)]
        seconds: u64,
        /// Callers at a time
        #[arg(long, default_value_t = 32)]
        callers: usize,
    },
    /// Pods: create to Ready one at a time, at a rate and all at once, exec, deletion, memory of each; image present
    Pods {
        #[command(flatten)]
        of: OneAtATime,
        /// Run directory of the instance: memory of pods is measured, too
        #[arg(long)]
        run_dir: Option<PathBuf>,
    },
    /// Where the time of a pod goes, from the spans of an instance that was started with --tracing-endpoint
    Traces {
        #[command(flatten)]
        of: OneAtATime,
        /// Where the instance sends its spans
        #[arg(long, default_value = "127.0.0.1:4318")]
        listen: std::net::SocketAddr,
    },
    /// The Docker face beside Docker and Podman: run, exec, start, pull, build, published ports (bench/docker.sh)
    Docker(docker::Options),
    /// Answers every request of HTTP/1.1 with `ok`: the server behind a published port
    Answer {
        /// Where
        #[arg(long, default_value = "0.0.0.0:8080")]
        listen: std::net::SocketAddr,
    },
    /// Memory of all processes of an instance together, and the size of the binary
    Idle {
        /// Run directory of the instance
        #[arg(long)]
        run_dir: PathBuf,
    },
    /// Time from starting the server to /readyz, on a data directory of before
    Start {
        /// The binary
        #[arg(long)]
        binary: PathBuf,
        /// Name of the instance to start and stop
        #[arg(long)]
        name: String,
        /// Its data directory
        #[arg(long)]
        data_dir: PathBuf,
        /// Its API port
        #[arg(long)]
        port: u16,
        /// How many starts
        #[arg(long, default_value_t = 5)]
        count: usize,
    },
}

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let _ = rustls::crypto::ring::default_provider().install_default();
    match Cli::parse().what {
        What::Api { kubeconfig, run_dir, seconds, connections } => {
            let server = run_dir.as_deref().map(processes::Server::of).transpose()?;
            api::run(&kubeconfig, server, seconds, connections).await
        }
        What::Memory { kubeconfig, run_dir, restarted: true, .. } => {
            memory::restarted(&kubeconfig, processes::Server::of(&run_dir)?).await
        }
        What::Memory { kubeconfig, run_dir, pods, connections, .. } => {
            memory::run(&kubeconfig, processes::Server::of(&run_dir)?, pods, connections).await
        }
        What::Raw { dir, etcd, seconds, callers } => raw::run(&dir, etcd.as_deref(), seconds, callers).await,
        What::Pods { of, run_dir } => pods::run(&of.kubeconfig, &of.image, of.count, run_dir.as_deref()).await,
        What::Traces { of, listen } => traces::run(&of.kubeconfig, &of.image, of.count, listen).await,
        What::Docker(options) => docker::run(&options).await,
        What::Answer { listen } => docker::answer(listen).await,
        What::Idle { run_dir } => processes::idle(&run_dir),
        What::Start { binary, name, data_dir, port, count } => {
            processes::start(&binary, &name, &data_dir, port, count).await
        }
    }
}

/// The middle value.
pub fn median(values: &[f64]) -> f64 {
    percentile(values, 0.5)
}

/// The value below which that share of the values lies.
pub fn percentile(values: &[f64], share: f64) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    let last = sorted.len().saturating_sub(1);
    let at = (last as f64 * share).round() as usize;
    sorted.get(at).copied().unwrap_or(f64::NAN)
}
