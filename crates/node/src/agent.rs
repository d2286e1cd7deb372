//! Putting the parts together.

use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use base::rt::{Drain, Tasks};
use k8s_openapi::api::core::v1::Node;
use k8s_openapi::api::discovery::v1::EndpointSlice;
use kube::runtime::reflector::Store;
use net::dns::{DnsServer, Upstreams};
use tokio::sync::Notify;

use crate::apparmor::AppArmor;
use crate::config::{AgentConfig, AgentError, ServerConfig};
use crate::context::Context;
use crate::cpus::{self, Cpus};
use crate::csi::{self, Csi};
use crate::events::Recorder;
use crate::host::Host;
use crate::images::Puller;
use crate::mirror::{self, Mirrors};
use crate::objects::Objects;
use crate::parts::Parts;
use crate::paths::Paths;
use crate::pods::garbage;
use crate::pods::manager::{Manager, Pods};
use crate::server::{self, Server};
use crate::services::{self, Dns, follow};
use crate::volumes::stats::Registry;
use crate::{eviction, node_object, shutdown, volumes};

/// Tasks are given this long to end when the agent drains.
const DRAIN_LIMIT: Duration = Duration::from_secs(10);

/// The node agent.
pub struct Agent {
    ctx: Arc<Context>,
    pods: Pods,
    tasks: Tasks,
    parts: Parts,
    /// The pods of Docker's containers.
    mirrors: Option<Arc<Mirrors>>,
    slices: Store<EndpointSlice>,
    forward_mark: Arc<Notify>,
    route_mark: Arc<Notify>,
}

impl Agent {
    /// Runs an agent until it is told to drain. Pods go on running after it; the next agent adopts them.
    ///
    /// # Errors
    /// A listener cannot be bound, a folder not be made, or a part of the agent panics. An API server that does not answer
    /// is waited for.
    pub async fn run(config: AgentConfig, parts: Parts, drain: Drain) -> Result<(), AgentError> {
        let tasks = Tasks::new(drain);
        let (pods, volumes) = (Pods::default(), Arc::<Registry>::default());
        let mirrors = parts.docker.clone().map(|docker| Arc::new(Mirrors::new(docker)));
        let server = match &config.server {
            Some(settings) => {
                let (server, port) = bind(settings, &config, &parts, pods.clone(), volumes.clone()).await?;
                Some((server.with_mirrors(mirrors.clone()), port))
            }
            None => None,
        };
        let port = server.as_ref().map(|(_, port)| *port);
        let agent = Agent { mirrors, ..Agent::new(config, parts, pods, volumes, tasks, port)? };
        if let Some((server, _)) = server {
            agent.tasks.spawn("server", server.run(agent.tasks.drain()));
        }
        agent.serve().await
    }

    fn new(
        config: AgentConfig,
        parts: Parts,
        pods: Pods,
        volume_stats: Arc<Registry>,
        tasks: Tasks,
        server_port: Option<u16>,
    ) -> Result<Self, AgentError> {
        let paths = Paths::of(&config.instance);
        for path in [paths.pods(), paths.logs()] {
            std::fs::create_dir_all(&path).map_err(|source| AgentError::Folder { path, source })?;
        }
        let host = Host::read(paths.data());
        let (recorder, writer) = Recorder::new(config.client.clone(), &config.node_name);
        let drain = tasks.drain();
        tasks.spawn("events", async move {
            tokio::select! {
                () = writer => {}
                () = drain.cancelled() => {}
            }
        });
        let (forward_mark, route_mark) = (Arc::new(Notify::new()), Arc::new(Notify::new()));
        let marks = vec![forward_mark.clone(), route_mark.clone()];
        let services = follow(&config.client, &tasks, "services", marks.clone());
        let slices = follow(&config.client, &tasks, "endpoints", marks);
        let host_ips: Vec<IpAddr> = vec![config.node_ip];
        let csi = Arc::new(Csi::new(paths.kubelet(), &config.node_name, config.client.clone()));
        volume_stats.with(csi.clone());
        let cpus = Cpus::open(config.cpus.clone(), paths.data())?;
        let ctx = Context {
            volume_stats,
            puller: Puller::new(parts.images.clone()),
            objects: Objects::new(config.client.clone()),
            csi,
            runtime: parts.runtime.clone(),
            server_port,
            paths,
            host,
            app_armor: AppArmor::of(Path::new("/")),
            recorder,
            services,
            host_ips,
            cpus,
            ending: tokio::sync::watch::Sender::new(false),
            pressure: tokio::sync::watch::Sender::default(),
            config,
        };
        Ok(Agent { ctx: Arc::new(ctx), pods, tasks, parts, mirrors: None, slices, forward_mark, route_mark })
    }

    async fn serve(self) -> Result<(), AgentError> {
        let drain = self.tasks.drain();
        let app_armor = self.ctx.app_armor.clone();
        // It ends when it has ended: nothing waits for the kernel's answer but the containers, which are made after it.
        let _done = tokio::task::spawn_blocking(move || app_armor.load_default()).await;
        self.listen().await?;
        let node = tokio::select! {
            node = self.registered() => node,
            () = drain.cancelled() => return Ok(self.tasks.shutdown(DRAIN_LIMIT).await?),
        };
        let node_uid = node.metadata.uid.clone().unwrap_or_default();
        self.tasks.spawn("storage drivers", csi::run(self.ctx.csi.clone(), node_uid, drain.clone()));
        let own = node_object::follow(&self.ctx.config.client, &self.tasks, node.clone());
        self.tasks.spawn("attached volumes", csi::report(self.ctx.csi.clone(), own.clone(), drain.clone()));
        let heartbeat = node_object::heartbeat(self.ctx.clone(), own.clone(), drain.clone());
        self.tasks.spawn("heartbeat", heartbeat);
        // A container made before the services are known would lack their variables.
        tokio::select! {
            () = services::known(&self.ctx.services) => {}
            () = drain.cancelled() => {}
        }
        shutdown::start(&self.ctx, &self.pods, &self.tasks);
        self.tasks.spawn("cpus", cpus::run(self.ctx.clone(), drain.clone()));
        self.tasks.spawn("pressure", eviction::run(self.ctx.clone(), self.pods.clone(), drain.clone()));
        if self.ctx.config.dead_containers.most.is_some() {
            self.tasks.spawn("dead containers", garbage::collect(self.ctx.clone(), self.pods.clone(), drain.clone()));
        }
        let manager = Manager::new(self.ctx.clone(), self.pods.clone(), own, drain.clone());
        self.tasks.spawn("pods", manager.run());
        if let Some(mirrors) = self.mirrors.clone() {
            self.tasks.spawn("docker's containers", mirror::run(self.ctx.clone(), mirrors, drain.clone()));
        }
        self.tasks.spawn("reclaim", volumes::claim::reclaim(self.ctx.clone(), drain.clone()));
        self.tasks.spawn("snapshots", volumes::snapshot::keep(self.ctx.clone(), drain.clone()));
        self.tasks.draining().await;
        Ok(self.tasks.shutdown(DRAIN_LIMIT).await?)
    }

    /// Binds what others connect to, and starts what answers there.
    async fn listen(&self) -> Result<(), AgentError> {
        let config = &self.ctx.config;
        let dns = match config.dns_listen.filter(|_| self.parts.network.is_some()) {
            None => None,
            Some(address) => {
                let upstreams = Upstreams::ResolvConf(PathBuf::from("/etc/resolv.conf"));
                Some(Dns {
                    server: Arc::new(DnsServer::bind(&[address], upstreams).await?),
                    domain: config.cluster_domain.clone(),
                    service_cidr: config.instance.service_cidr(),
                    pod_cidr: config.instance.pod_cidr(),
                })
            }
        };
        let ingress = match &config.ingress {
            None => None,
            Some(settings) => Some(Arc::new(ingress::Server::bind(settings.clone()).await?)),
        };
        if dns.is_some() || self.parts.network.is_some() {
            let forward = services::forward(
                self.ctx.clone(),
                self.parts.network.clone(),
                dns,
                self.slices.clone(),
                self.forward_mark.clone(),
                self.tasks.drain(),
            );
            self.tasks.spawn("forwarding", forward);
        }
        if let Some(server) = ingress {
            let mark = self.route_mark.clone();
            let route = services::route(self.ctx.clone(), server, self.slices.clone(), mark, self.tasks.clone());
            self.tasks.spawn("routes", route);
        }
        Ok(())
    }

    /// Registers the node, however long the API server takes to answer.
    async fn registered(&self) -> Node {
        let mut backoff =
            base::backoff::Backoff::new(Duration::from_millis(200), Duration::from_secs(7), rand::random());
        loop {
            match node_object::register(&self.ctx).await {
                Ok(node) => return node,
                Err(error) => tracing::warn!(error = %base::chain(&error), "node not registered yet"),
            }
            tokio::time::sleep(backoff.next_delay()).await;
        }
    }
}

fn facts(agent: &AgentConfig, volumes: Arc<Registry>) -> server::NodeFacts {
    let data = agent.instance.data_dir().to_path_buf();
    let host = Host::read(&data);
    let (name, client) = (agent.node_name.clone(), agent.client.clone());
    server::NodeFacts { name, client, cpus: host.cpus, memory_bytes: host.memory_bytes, data, volumes }
}

/// Binds the node's HTTPS server; says at which port it answers.
async fn bind(
    settings: &ServerConfig,
    agent: &AgentConfig,
    parts: &Parts,
    pods: Pods,
    volumes: Arc<Registry>,
) -> Result<(Server, u16), AgentError> {
    let failed = |message: String| AgentError::Server { listen: settings.listen, message };
    let listener = tokio::net::TcpListener::bind(settings.listen).await.map_err(|e| failed(e.to_string()))?;
    let port = listener.local_addr().map_err(|e| failed(e.to_string()))?.port();
    let config = server::ServerConfig {
        ca_pem: settings.client_ca_pem.clone(),
        cert_pem: settings.certificate_pem.clone(),
        key_pem: settings.key_pem.clone(),
        node: Some(facts(agent, volumes)),
    };
    let all = Arc::new(move || pods.all().iter().map(|p| p.as_ref().clone()).collect());
    let server = Server::bind(listener, &config, parts.runtime.clone(), all).map_err(|e| failed(base::chain(&e)))?;
    Ok((server, port))
}
