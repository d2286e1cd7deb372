//! `windlass agent`: the node. Runs pods, probes them, reports them, and routes traffic to them.

use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::Context;
use base::instance::Instance;
use futures::future::BoxFuture;
use nix::fcntl::{Flock, FlockArg};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use tokio_util::sync::CancellationToken;

use crate::cli::AgentArgs;
use crate::exit::Unfit;
use crate::instance_file::start_ticks;
use crate::kubeapi;

/// Where resolvers ask (RFC 1035).
const DNS_PORT: u16 = 53;
/// How long an agent of before may take to hand over.
const HAND_OVER_MAX: Duration = Duration::from_secs(15);
/// How often to ask for the lock: flock(2) cannot wait with a limit.
const LOCK_EVERY: Duration = Duration::from_millis(10);

/// Runs the agent until it is told to stop; containers go on running.
pub fn run(instance: Instance, args: AgentArgs) -> anyhow::Result<ExitCode> {
    crate::preflight::root()?;
    crate::preflight::nft()?;
    let (pods, services) = (instance.pod_cidr(), instance.service_cidr());
    let instance = instance.with_ranges(args.pod_cidr.unwrap_or(pods), args.service_cidr.unwrap_or(services));
    // Started by way of /proc/self/exe, it would be called `exe` in listings of processes.
    nix::sys::prctl::set_name(c"windlass")?;
    let _lock = take_over(&instance)?;
    super::raise_open_files();
    let _ = rustls::crypto::ring::default_provider().install_default();
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    runtime.block_on(serve(instance, args))?;
    runtime.shutdown_timeout(Duration::from_secs(1));
    Ok(ExitCode::SUCCESS)
}

/// Where the server of this host puts the rights of who manages a swarm; an agent without a server beside it has none.
pub fn docker_kubeconfig(instance: &Instance) -> PathBuf {
    instance.data_dir().join("docker.kubeconfig")
}

/// What Docker's clients ask of the whole cluster is answered beside a server.
async fn swarm(instance: &Instance, node: &str, dns: Option<IpAddr>) -> anyhow::Result<Option<Arc<swarm::Swarm>>> {
    let kubeconfig = docker_kubeconfig(instance);
    let Some(IpAddr::V4(dns)) = dns.filter(|_| kubeconfig.exists()) else { return Ok(None) };
    let client = kubeapi::client(&kubeconfig).await?;
    Ok(Some(Arc::new(swarm::Swarm::new(client, node, dns))))
}

fn lock_path(instance: &Instance) -> PathBuf {
    instance.run_dir().join("agent.lock")
}

/// The agent that runs, as process id and start time.
pub fn running(instance: &Instance) -> anyhow::Result<Option<(i32, u64)>> {
    let text = match std::fs::read_to_string(lock_path(instance)) {
        Ok(text) => text,
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        Err(e) => return Err(e).context("read the agent's lock file"),
    };
    let mut numbers = text.split_whitespace().map(str::parse::<u64>);
    let (Some(Ok(pid)), Some(Ok(ticks))) = (numbers.next(), numbers.next()) else { return Ok(None) };
    let pid = i32::try_from(pid).context("read the agent's lock file")?;
    Ok((start_ticks(pid) == Some(ticks)).then_some((pid, ticks)))
}

/// One agent per instance: one that outlived its server ends first, and its containers are taken over.
fn take_over(instance: &Instance) -> anyhow::Result<Flock<std::fs::File>> {
    std::fs::create_dir_all(instance.run_dir()).with_context(|| format!("make {}", instance.run_dir().display()))?;
    let path = lock_path(instance);
    let open = || {
        std::fs::OpenOptions::new()
            .create(true)
            .truncate(false)
            .read(true)
            .write(true)
            .open(&path)
            .with_context(|| format!("open {}", path.display()))
    };
    let deadline = Instant::now() + HAND_OVER_MAX;
    let mut file = open()?;
    let mut asked = false;
    loop {
        match Flock::lock(file, FlockArg::LockExclusiveNonblock) {
            Ok(lock) => {
                let pid = i32::try_from(std::process::id()).context("the process id fits")?;
                let ticks = start_ticks(pid).context("read /proc/self/stat")?;
                std::fs::write(&path, format!("{pid} {ticks}\n"))?;
                return Ok(lock);
            }
            Err((back, _)) => file = back,
        }
        if let Some((pid, _)) = running(instance)?.filter(|_| !asked) {
            let _ = kill(Pid::from_raw(pid), Signal::SIGTERM);
            asked = true;
        }
        if Instant::now() > deadline {
            return Err(Unfit::error("another agent of this instance does not end", "end it: windlass down"));
        }
        std::thread::sleep(LOCK_EVERY);
    }
}

async fn serve(instance: Instance, args: AgentArgs) -> anyhow::Result<()> {
    let drain = CancellationToken::new();
    super::server::stop_on_signal(drain.clone())?;
    let kubeconfig = args.kubeconfig.unwrap_or_else(|| instance.data_dir().join("agent.kubeconfig"));
    let client = kubeapi::client(&kubeconfig).await?;
    let node_name = match args.node_name {
        Some(name) => name,
        None => nix::unistd::gethostname()?.to_string_lossy().to_lowercase(),
    };
    let engine = engine::Engine::open(engine::EngineConfig::of(&instance)).await.context("open the engine")?;
    // The bridge's own address: the host and every pod can reach it.
    let node_ip = IpAddr::V4(engine.network().gateway());
    let mut config = node::AgentConfig::new(instance.clone(), &node_name, node_ip, client);
    config.tracer = args.tracing.start("kubelet", &node_name);
    config.server = Some(serving(&instance, node_ip)?);
    config.dns_listen = config.dns_ip.map(|ip| SocketAddr::new(ip, DNS_PORT));
    config.ingress = args.http_listen.map(|address| ingress::Config { http: vec![address], ..Default::default() });
    config.cpus = args.node.cpus()?;
    config.eviction = args.node.eviction.config()?;
    config.dead_containers = args.node.dead.policy();
    config.memory_qos = args.node.memory.policy()?;
    config.shutdown.periods = args.node.periods()?;
    config.shutdown.power_failure = Some(power_failure(!config.shutdown.periods.is_empty())?);
    let engine = Arc::new(engine);
    // Containers of Docker's API are none of the cluster's business: they are served also while its API is away.
    let swarm = swarm(&instance, &node_name, config.dns_ip).await?;
    let guard = swarm.clone().map(|swarm| tokio::spawn(async move { swarm.watch_over_updates().await }));
    let manager = swarm.map(|swarm| swarm as Arc<dyn dockerapi::swarm::Manager>);
    let remote = args.docker.remote()?;
    let mut parts = node::Parts::of(engine.clone());
    let unserved = |error: dockerapi::ServeError| {
        // Pods do not depend on it.
        tracing::error!(error = %base::chain(&error), "the Docker API is not served");
    };
    let docker = dockerapi::Docker::open(engine, manager, drain.clone()).await.map_err(unserved).ok();
    if let Some(docker) = &docker {
        parts = parts.with_docker(Arc::new(Shown(docker.clone())));
    }
    let docker = tokio::spawn(async move {
        if let Some(docker) = docker {
            docker.serve(remote).await.unwrap_or_else(unserved);
        }
    });
    let ran = node::Agent::run(config, parts, drain.clone()).await;
    drain.cancel();
    if let Some(guard) = guard {
        guard.abort();
    }
    docker.await.context("serve the Docker API")?;
    Ok(ran?)
}

/// Docker's containers, as the node shows them.
struct Shown(dockerapi::Docker);

impl node::mirror::Docker for Shown {
    fn containers(&self) -> BoxFuture<'_, Vec<serde_json::Value>> {
        Box::pin(self.0.containers())
    }

    fn changes(&self) -> tokio::sync::watch::Receiver<()> {
        self.0.changes()
    }

    fn remove<'a>(&'a self, id: &'a str, seconds: i64) -> BoxFuture<'a, Result<(), String>> {
        Box::pin(async move { self.0.remove(id, seconds).await.map_err(|refused| refused.to_string()) })
    }
}

/// Whether SIGPWR came: whoever watches the machine's power says that it goes down.
fn power_failure(heeded: bool) -> anyhow::Result<tokio::sync::watch::Receiver<bool>> {
    use tokio::signal::unix::{SignalKind, signal};
    let (tell, told) = tokio::sync::watch::channel(false);
    // Without a handler the signal would end the agent.
    let mut power = signal(SignalKind::from_raw(Signal::SIGPWR as i32))?;
    tokio::spawn(async move {
        while power.recv().await.is_some() {
            match heeded {
                true => drop(tell.send_replace(true)),
                false => tracing::warn!("SIGPWR: pods have no time to end, see --shutdown-grace-period"),
            }
        }
    });
    Ok(told)
}

/// What the server has put down for the node's HTTPS server.
fn serving(instance: &Instance, node_ip: IpAddr) -> anyhow::Result<node::ServerConfig> {
    let dir = super::server::serving_dir(instance.data_dir());
    let read = |name: &str| {
        let path = dir.join(name);
        std::fs::read_to_string(&path).with_context(|| format!("read {}", path.display()))
    };
    Ok(node::ServerConfig {
        listen: SocketAddr::new(node_ip, 0),
        certificate_pem: read("tls.crt")?,
        key_pem: read("tls.key")?,
        client_ca_pem: read("ca.crt")?,
    })
}
