//! What all parts of the agent share.

use std::net::IpAddr;
use std::sync::Arc;

use k8s_openapi::api::core::v1::Service;
use kube::runtime::reflector::Store;
use reconcile::eviction::Pressure;
use tokio::sync::watch;

use crate::apparmor::AppArmor;
use crate::config::AgentConfig;
use crate::cpus::Cpus;
use crate::csi::Csi;
use crate::events::Recorder;
use crate::host::Host;
use crate::images::Puller;
use crate::objects::Objects;
use crate::paths::Paths;
use crate::runtime::Runtime;
use crate::volumes::stats::Registry;

pub(crate) struct Context {
    pub(crate) config: AgentConfig,
    pub(crate) runtime: Arc<dyn Runtime>,
    pub(crate) puller: Puller,
    pub(crate) paths: Paths,
    pub(crate) host: Host,
    pub(crate) app_armor: AppArmor,
    pub(crate) recorder: Recorder,
    pub(crate) objects: Objects,
    pub(crate) csi: Arc<Csi>,
    pub(crate) volume_stats: Arc<Registry>,
    pub(crate) services: Store<Service>,
    pub(crate) host_ips: Vec<IpAddr>,
    pub(crate) cpus: Cpus,
    /// Whether the node is going down.
    pub(crate) ending: watch::Sender<bool>,
    /// What the node runs out of.
    pub(crate) pressure: watch::Sender<Pressure>,
    /// Port of the HTTPS server.
    pub(crate) server_port: Option<u16>,
}

impl Context {
    pub(crate) fn client(&self) -> kube::Client {
        self.config.client.clone()
    }
}
