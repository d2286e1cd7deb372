//! `windlass server`: the store, the API, the controllers, and the node agent as a child process.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use apiserver::{ApiServer, UserInfo};
use base::instance::{DEFAULT_NAME, Instance};
use nix::fcntl::{Flock, FlockArg};
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

use crate::cli::{Global, ServerArgs, TracingArgs};
use crate::exit::Unfit;
use crate::instance_file::{InstanceFile, start_ticks};
use crate::preflight;

mod access;
mod authority;
mod child;
mod components;
mod detach;
pub mod sealing;
mod shared;

pub use child::serving_dir;

/// Set for the process that `--detach` starts: it leads a session of its own and says on standard output when it is ready.
const DETACHED: &str = "WINDLASS_DETACHED";
/// The HTTP ingress of the default instance.
const HTTP_PORT: u16 = 80;
/// How long work under way may take to end.
const DRAIN_MAX: Duration = Duration::from_secs(20);

/// What the server runs with, once flags and defaults are settled.
pub struct Settings {
    pub instance: Instance,
    pub api: SocketAddr,
    pub http: SocketAddr,
    pub node_name: String,
    pub agent: bool,
    pub node: crate::cli::NodeArgs,
    pub docker_tcp: Option<SocketAddr>,
    /// What the agent is told of it.
    pub docker: Vec<String>,
    pub audit: Option<apiserver::AuditConfig>,
    pub oidc: Option<apiserver::OidcConfig>,
    pub etcd: Option<store::EtcdConfig>,
    pub pki_dir: PathBuf,
    pub tracing: TracingArgs,
    pub log_format: &'static str,
    pub log_level: String,
}

/// Runs the server in the foreground, or starts it in the background and waits until it is ready.
pub fn run(instance: Instance, args: &ServerArgs, global: &Global) -> anyhow::Result<ExitCode> {
    let detached = std::env::var_os(DETACHED).is_some();
    let settings = settle(instance, args, global)?;
    if args.detach && !detached {
        return detach::start(&settings);
    }
    if detached {
        nix::unistd::setsid().context("lead a session")?;
    }
    check(&settings)?;
    let _lock = lock(&settings.instance)?;
    super::raise_open_files();
    let _ = rustls::crypto::ring::default_provider().install_default();
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    let outcome = runtime.block_on(serve(&settings, detached));
    runtime.shutdown_timeout(Duration::from_secs(1));
    outcome.map(|()| ExitCode::SUCCESS)
}

fn settle(instance: Instance, args: &ServerArgs, global: &Global) -> anyhow::Result<Settings> {
    // What the agent would refuse is refused here, where somebody sees it.
    args.node.periods()?;
    args.node.cpus()?;
    args.node.eviction.config()?;
    args.node.memory.policy()?;
    args.docker.remote()?;
    let (pods, services) = (instance.pod_cidr(), instance.service_cidr());
    let (pods, services) = (args.pod_cidr.unwrap_or(pods), args.service_cidr.unwrap_or(services));
    if pods.contains(services.base) || services.contains(pods.base) {
        return Err(Unfit::error(
            format!("the ranges of pods ({pods}) and Services ({services}) overlap"),
            "choose others with --pod-cidr and --service-cidr",
        ));
    }
    let instance = instance.with_ranges(pods, services);
    // A restart keeps the port that was picked before: clients know it.
    let before = InstanceFile::read(&instance)?.and_then(|f| f.http).map(|a| a.port());
    let default_http = match before {
        _ if instance.name() == DEFAULT_NAME => HTTP_PORT,
        Some(port) => port,
        None => free_port(args.http_bind)?,
    };
    let node_name = match &args.node_name {
        Some(name) => name.clone(),
        None => nix::unistd::gethostname()?.to_string_lossy().to_lowercase(),
    };
    Ok(Settings {
        api: SocketAddr::new(args.api_bind, args.api_port),
        http: SocketAddr::new(args.http_bind, args.http_port.unwrap_or(default_http)),
        node_name,
        agent: !args.no_agent,
        node: args.node.clone(),
        docker_tcp: args.docker.docker_tcp,
        docker: args.docker.words()?,
        audit: access::audit(&args.audit)?,
        oidc: access::oidc(&args.oidc)?,
        etcd: shared::config(&args.etcd)?,
        pki_dir: match &args.pki_dir {
            Some(dir) => std::path::absolute(dir)?,
            None => instance.data_dir().join("pki"),
        },
        tracing: args.tracing.clone(),
        log_format: if matches!(global.log_format, crate::cli::LogFormat::Json) { "json" } else { "text" },
        log_level: global.log_level.clone(),
        instance,
    })
}

fn free_port(ip: IpAddr) -> anyhow::Result<u16> {
    Ok(std::net::TcpListener::bind((ip, 0)).context("find a free port for the HTTP ingress")?.local_addr()?.port())
}

fn check(s: &Settings) -> anyhow::Result<()> {
    preflight::root()?;
    preflight::kernel()?;
    preflight::data_dir(s.instance.data_dir())?;
    if let Some(file) = InstanceFile::read(&s.instance)?.filter(InstanceFile::alive) {
        return Err(Unfit::error(
            format!("instance {:?} runs already (pid {})", s.instance.name(), file.pid),
            format!("use it, or stop it with: windlass down --name {}", s.instance.name()),
        ));
    }
    preflight::port_free(s.api, "Kubernetes API", "--api-port")?;
    if s.agent {
        preflight::nft()?;
        // An agent that outlived its server has the port and hands it over to the next.
        if super::agent::running(&s.instance)?.is_none() {
            preflight::port_free(s.http, "HTTP ingress", "--http-port")?;
            if let Some(address) = s.docker_tcp {
                preflight::port_free(address, "Docker API", "--docker-tcp")?;
            }
        }
    }
    Ok(())
}

/// Two servers on one data directory would be two writers of one store.
fn lock(instance: &Instance) -> anyhow::Result<Flock<std::fs::File>> {
    std::fs::create_dir_all(instance.run_dir()).with_context(|| format!("make {}", instance.run_dir().display()))?;
    let path = instance.data_dir().join("server.lock");
    let file = std::fs::File::create(&path).with_context(|| format!("open {}", path.display()))?;
    Flock::lock(file, FlockArg::LockExclusiveNonblock).map_err(|_| {
        Unfit::error(
            format!("another server uses {}", instance.data_dir().display()),
            "stop it, or choose another --data-dir",
        )
    })
}

async fn serve(s: &Settings, detached: bool) -> anyhow::Result<()> {
    let drain = CancellationToken::new();
    stop_on_signal(drain.clone())?;
    let data = s.instance.data_dir();
    let store: Arc<dyn store::Store> = match &s.etcd {
        Some(config) => shared::open(s, config).await?,
        None => Arc::new(store::RedbStore::open(&data.join("store.redb"), store::Options::default())?),
    };
    let gateway = s.instance.pod_cidr().nth(1).context("the range of pods is too small")?;
    let advertise = SocketAddr::new(gateway.into(), s.api.port());
    let mut config = apiserver::Config::new(s.pki_dir.clone(), advertise, s.instance.service_cidr());
    config.server_ips.push(s.api.ip());
    config.server_names.push(s.node_name.clone());
    let store = sealing::open(store, s, drain.clone())?;
    config.audit.clone_from(&s.audit);
    let health = Arc::<control::Health>::default();
    config.components = Some(Arc::new(components::Controllers(health.clone())));
    config.oidc.clone_from(&s.oidc);
    config.tracer = s.tracing.start("apiserver", &s.node_name);
    let server = ApiServer::new(store, config).await?;
    write_credentials(s, &server)?;

    let main = TcpListener::bind(s.api).await.with_context(|| format!("listen on {}", s.api))?;
    let mut listeners = vec![tokio::spawn(server.clone().serve(main, drain.clone()))];
    if s.agent {
        let inner = listen_for_pods(gateway, s.api.port())?;
        listeners.push(tokio::spawn(server.clone().serve(inner, drain.clone())));
    }
    announce(s)?;
    if detached {
        println!("ready");
    }
    tracing::info!(api = %s.api, data = %data.display(), instance = s.instance.name(), "ready");

    let user = UserInfo::new("system:kube-controller-manager", &["system:masters"]);
    let client = kube::Client::new(server.in_process(user), "default");
    let control = control::ControlConfig {
        ca_pem: server.pki().ca_pem().to_owned(),
        local_volume_root: data.join("volumes").display().to_string(),
        authority: Some(Arc::new(authority::Cluster(server.clone()))),
        health,
    };
    let controllers = tokio::spawn(shared::controllers(s, client, control, drain.clone()));
    let agent = s.agent.then(|| tokio::spawn(child::keep_agent(child::command(s), drain.clone())));
    drain.cancelled().await;
    tracing::info!("stopping; containers go on running");
    let ended = async {
        if let Some(agent) = agent {
            let _ = agent.await;
        }
        for listener in listeners {
            let _ = listener.await;
        }
        let _ = controllers.await;
    };
    if tokio::time::timeout(DRAIN_MAX, ended).await.is_err() {
        tracing::warn!("some work did not end in time and is cut off");
    }
    Ok(())
}

/// Pods reach the API through the `kubernetes` Service, which leads to the gateway address of the bridge. The agent makes
/// the bridge later, so the address need not be there yet (ip(7), IP_FREEBIND).
fn listen_for_pods(gateway: Ipv4Addr, port: u16) -> anyhow::Result<TcpListener> {
    use nix::sys::socket::{self, AddressFamily, Backlog, SockFlag, SockType, SockaddrIn, sockopt};
    use std::os::fd::AsRawFd;
    let flags = SockFlag::SOCK_NONBLOCK | SockFlag::SOCK_CLOEXEC;
    let fd = socket::socket(AddressFamily::Inet, SockType::Stream, flags, None)?;
    socket::setsockopt(&fd, sockopt::ReuseAddr, &true)?;
    socket::setsockopt(&fd, sockopt::IpFreebind, &true)?;
    let address = SockaddrIn::from(std::net::SocketAddrV4::new(gateway, port));
    socket::bind(fd.as_raw_fd(), &address).with_context(|| format!("listen on {gateway}:{port} for pods"))?;
    socket::listen(&fd, Backlog::new(1024)?)?;
    Ok(TcpListener::from_std(std::net::TcpListener::from(fd))?)
}

fn write_credentials(s: &Settings, server: &ApiServer) -> anyhow::Result<()> {
    let pki = server.pki();
    let data = s.instance.data_dir();
    let url = format!("https://{}", s.api);
    let cluster = format!("windlass-{}", s.instance.name());
    pki.kubeconfig(&cluster, &url, "admin", pki.admin()).write(&data.join("admin.kubeconfig"))?;
    let agent = pki.agent(&s.node_name)?;
    pki.kubeconfig(&cluster, &url, &s.node_name, &agent).write(&data.join("agent.kubeconfig"))?;
    // Whoever may use the agent's Docker socket is root on this host already.
    let docker = pki.docker()?;
    pki.kubeconfig(&cluster, &url, "docker", &docker).write(&super::agent::docker_kubeconfig(&s.instance))?;
    let gateway = s.instance.pod_cidr().nth(1).context("the range of pods is too small")?;
    let ips = [IpAddr::V4(Ipv4Addr::LOCALHOST), IpAddr::V4(gateway)];
    let serving = pki.kubelet_serving(&s.node_name, std::slice::from_ref(&s.node_name), &ips)?;
    child::write_serving(s, pki.ca_pem(), &serving)
}

fn announce(s: &Settings) -> anyhow::Result<()> {
    let pid = i32::try_from(std::process::id()).context("the process id fits")?;
    InstanceFile {
        pid,
        start_ticks: start_ticks(pid).context("read /proc/self/stat")?,
        data_dir: s.instance.data_dir().to_path_buf(),
        pki_dir: Some(s.pki_dir.clone()),
        api: s.api,
        http: s.agent.then_some(s.http),
        pod_cidr: s.instance.pod_cidr().to_string(),
        service_cidr: s.instance.service_cidr().to_string(),
        node_name: s.node_name.clone(),
    }
    .write(&s.instance)
}

/// The first SIGTERM or SIGINT drains, the second ends at once.
pub fn stop_on_signal(drain: CancellationToken) -> anyhow::Result<()> {
    use tokio::signal::unix::{SignalKind, signal};
    let mut term = signal(SignalKind::terminate())?;
    let mut int = signal(SignalKind::interrupt())?;
    tokio::spawn(async move {
        let mut count = 0;
        loop {
            tokio::select! {
                _ = term.recv() => {}
                _ = int.recv() => {}
            }
            drain.cancel();
            count += 1;
            if count == 2 {
                std::process::exit(130);
            }
        }
    });
    Ok(())
}
