//! Drivers come by putting a socket into the registry folder, as with a kubelet, and go by taking it away.

use std::collections::BTreeMap;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use base::backoff::Backoff;
use base::rt::Drain;
use k8s_openapi::api::storage::v1::CSINodeDriver;
use tokio::time::Instant;

use super::driver::{Driver, call, dial};
use super::proto::{Empty, NodeInfo, PluginInfo, RegistrationStatus};
use super::{Csi, csinode, text};
use crate::server::DirWatch;

/// Sockets that are looked at; more would be a mistake of somebody's.
const SOCKETS: usize = 256;
/// A failed registration is tried again, at the longest after this.
const RETRY_MAX: Duration = Duration::from_secs(30);
/// Should the kernel have no watch to give, the folder is looked at this often.
const LOOK_EVERY: Duration = Duration::from_secs(10);

const GET_INFO: &str = "/pluginregistration.Registration/GetInfo";
const NOTIFY: &str = "/pluginregistration.Registration/NotifyRegistrationStatus";

/// Which file a path is: a socket that was made anew is another plugin.
type Identity = (u64, i64, i64);

struct Plugin {
    identity: Identity,
    /// The driver, once it is registered.
    driver: Option<(Driver, CSINodeDriver)>,
    retry: Option<(Instant, Backoff)>,
}

/// Registers drivers until the agent drains.
pub(crate) async fn run(csi: Arc<Csi>, node_uid: String, drain: Drain) {
    if let Err(error) = csi.root.make() {
        tracing::error!(%error, "no folder for drivers of storage: none can register");
        return;
    }
    let mut registry = Registry { csi, node_uid, plugins: BTreeMap::new(), written: None, unwritten: None };
    let folder = registry.csi.root.registry();
    // Before the first look, so that nothing falls between.
    let mut watch =
        DirWatch::new(&folder).inspect_err(|error| tracing::warn!(%error, "registry folder not watched")).ok();
    loop {
        registry.look(&folder).await;
        let soon = registry.wake().unwrap_or_else(|| Instant::now() + Duration::from_secs(86_400));
        let changed = async {
            match &mut watch {
                Some(watch) => watch.changed().await,
                None => {
                    tokio::time::sleep(LOOK_EVERY).await;
                    Ok(())
                }
            }
        };
        let lost = tokio::select! {
            result = changed => result.is_err(),
            () = tokio::time::sleep_until(soon) => false,
            () = drain.cancelled() => return,
        };
        if lost {
            watch = None;
        }
    }
}

struct Registry {
    csi: Arc<Csi>,
    node_uid: String,
    plugins: BTreeMap<PathBuf, Plugin>,
    /// What the node's object says of drivers.
    written: Option<Vec<CSINodeDriver>>,
    unwritten: Option<(Instant, Backoff)>,
}

fn backoff() -> Backoff {
    Backoff::exact(Duration::from_millis(200), RETRY_MAX)
}

fn later(before: Option<(Instant, Backoff)>) -> (Instant, Backoff) {
    let mut backoff = before.map_or_else(backoff, |(_, backoff)| backoff);
    (Instant::now() + backoff.next_delay(), backoff)
}

/// The sockets of a folder.
fn sockets(folder: &Path) -> BTreeMap<PathBuf, Identity> {
    let mut found = BTreeMap::new();
    for entry in std::fs::read_dir(folder).into_iter().flatten().flatten().take(SOCKETS) {
        let hidden = entry.file_name().as_encoded_bytes().starts_with(b".");
        if let Ok(meta) = entry.metadata()
            && meta.file_type().is_socket()
            && !hidden
        {
            found.insert(entry.path(), (meta.ino(), meta.ctime(), meta.ctime_nsec()));
        }
    }
    found
}

impl Registry {
    fn wake(&self) -> Option<Instant> {
        let plugins = self.plugins.values().filter_map(|p| p.retry.as_ref());
        plugins.chain(self.unwritten.as_ref()).map(|(at, _)| *at).min()
    }

    /// Brings what is registered in line with what is in the folder.
    async fn look(&mut self, folder: &Path) {
        let there = sockets(folder);
        self.plugins.retain(|path, plugin| there.get(path) == Some(&plugin.identity));
        let mut news = Vec::new();
        for (path, identity) in there {
            let now = Instant::now();
            let plugin = self.plugins.entry(path.clone()).or_insert(Plugin { identity, driver: None, retry: None });
            if plugin.driver.is_some() || plugin.retry.as_ref().is_some_and(|(at, _)| *at > now) {
                continue;
            }
            let retry = plugin.retry.take();
            match self.csi.introduce(&path).await {
                Ok(found) => {
                    tracing::info!(driver = found.0.name, "driver of storage registers");
                    news.push(path.clone());
                    self.set(&path, Some(found), None);
                }
                Err(error) => {
                    tracing::warn!(socket = %path.display(), error, "plugin not registered");
                    self.set(&path, None, Some(later(retry)));
                }
            }
        }
        self.tell(&news).await;
    }

    fn set(&mut self, path: &Path, driver: Option<(Driver, CSINodeDriver)>, retry: Option<(Instant, Backoff)>) {
        if let Some(plugin) = self.plugins.get_mut(path) {
            (plugin.driver, plugin.retry) = (driver, retry);
        }
    }

    /// Writes the node's objects, tells the new ones that they are registered, and lets pods have them.
    async fn tell(&mut self, news: &[PathBuf]) {
        let registered = || self.plugins.values().filter_map(|p| p.driver.as_ref());
        let mut listed: Vec<CSINodeDriver> = registered().map(|(_, entry)| entry.clone()).collect();
        listed.sort_by(|a, b| a.name.cmp(&b.name));
        listed.dedup_by(|a, b| a.name == b.name);
        let drivers: BTreeMap<String, Driver> = registered().map(|(d, _)| (d.name.clone(), d.clone())).collect();
        let due = self.unwritten.as_ref().is_none_or(|(at, _)| *at <= Instant::now());
        if (self.written.as_ref() != Some(&listed) || !news.is_empty()) && (due || !news.is_empty()) {
            match csinode::write(&self.csi.client, &self.csi.node, &self.node_uid, &listed).await {
                Ok(()) => (self.written, self.unwritten) = (Some(listed), None),
                Err(error) => {
                    tracing::warn!(error = %base::chain(&error), "drivers of this node not written to its CSINode");
                    self.unwritten = Some(later(self.unwritten.take()));
                }
            }
        }
        for path in news {
            notify(path, None).await;
        }
        let drivers = Arc::new(drivers);
        let changed = self.csi.drivers.send_if_modified(|known| {
            let changed = *known != drivers;
            *known = drivers.clone();
            changed
        });
        if changed || !news.is_empty() {
            self.csi.retry_left().await;
        }
    }
}

/// Tells a plugin what became of its registration. It may be gone again: then there is nobody to tell.
async fn notify(socket: &Path, error: Option<&str>) {
    let status = RegistrationStatus { registered: error.is_none(), error: error.unwrap_or_default().to_owned() };
    let told = async {
        let connection = dial(socket).await.map_err(text)?;
        call::<Empty>(&connection, NOTIFY, &status).await.map_err(text)
    };
    if let Err(error) = told.await {
        tracing::warn!(socket = %socket.display(), error, "plugin not told of its registration");
    }
}

/// Whether one of the versions a plugin speaks is ours (CSI 1.x).
fn speaks(versions: &[String]) -> bool {
    let major = |v: &String| v.trim_start_matches('v').split('.').next().and_then(|m| m.parse::<u32>().ok());
    versions.iter().any(|v| major(v) == Some(1))
}

impl Csi {
    /// Asks a plugin who it is, and the driver behind it what it says of this node.
    async fn introduce(&self, socket: &Path) -> Result<(Driver, CSINodeDriver), String> {
        let connection = dial(socket).await.map_err(text)?;
        let info: PluginInfo = call(&connection, GET_INFO, &Empty {}).await.map_err(text)?;
        let found = self.join(socket, &info).await;
        if let Err(error) = &found {
            notify(socket, Some(error)).await;
        }
        found
    }

    async fn join(&self, socket: &Path, info: &PluginInfo) -> Result<(Driver, CSINodeDriver), String> {
        if info.kind != "CSIPlugin" {
            return Err(format!("no handler registered for plugin type: {} at socket {}", info.kind, socket.display()));
        }
        if info.name.is_empty() || info.name.len() > 63 || info.name.contains('/') || info.name.starts_with('.') {
            return Err(format!("{:?} is no name of a driver", info.name));
        }
        if !speaks(&info.versions) {
            return Err(format!("none of the CSI versions {:?} is supported", info.versions));
        }
        let endpoint = info.endpoint.trim_start_matches("unix://");
        let endpoint = if endpoint.is_empty() { socket } else { Path::new(endpoint) };
        let (path, view) = self.root.on_host(endpoint);
        let driver = Driver { name: info.name.clone(), socket: path, view };
        let session = driver.open().await.map_err(text)?;
        let said: NodeInfo = session.info().await.map_err(text)?;
        if said.node_id.is_empty() {
            return Err(format!("driver {} says no id of this node", info.name));
        }
        let segments: BTreeMap<String, String> =
            said.topology.map(|t| t.segments).unwrap_or_default().into_iter().collect();
        csinode::label(&self.client, &self.node, &info.name, &said.node_id, &segments).await?;
        let keys: Vec<String> = segments.into_keys().collect();
        Ok((driver, csinode::entry(&info.name, &said.node_id, said.max_volumes, keys)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn any_first_version_is_spoken() {
        let speaks = |versions: &[&str]| super::speaks(&versions.iter().map(|v| (*v).to_owned()).collect::<Vec<_>>());
        assert!(speaks(&["1.0.0"]) && speaks(&["v1"]) && speaks(&["0.3.0", "1.11.0"]));
        assert!(!speaks(&["0.3.0"]) && !speaks(&[]) && !speaks(&["10.0.0"]));
    }

    #[test]
    fn only_sockets_are_plugins() {
        let dir = tempfile::tempdir().expect("dir");
        std::fs::write(dir.path().join("file-reg.sock"), "").expect("file");
        let _listener = std::os::unix::net::UnixListener::bind(dir.path().join("a-reg.sock")).expect("socket");
        let _hidden = std::os::unix::net::UnixListener::bind(dir.path().join(".b-reg.sock")).expect("socket");
        let found: Vec<_> = sockets(dir.path()).into_keys().collect();
        assert_eq!(found, [dir.path().join("a-reg.sock")]);
    }
}
