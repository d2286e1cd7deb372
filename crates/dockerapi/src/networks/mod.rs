//! Networks: the instance's bridge, the host's own and none, which are always there, and those that users make.
//!
//! ```text
//! definition ── what a network is, on disk        pools ── ranges and addresses (pure)
//! ground ────── what a container that runs has in its networks; names ── what it finds there (pure)
//! join ──────── connect, disconnect               show ─── documents
//! ```
//! A member has an address while it runs. `net` keeps the bridges, the places on them and their rules also while there is no
//! agent; names are answered by the agent, in each member's own namespace.

mod definition;
mod ground;
mod join;
mod names;
mod pools;
mod show;

use std::collections::BTreeMap;
use std::io;
use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use base::instance::Cidr;
use http::{Method, StatusCode};
use parking_lot::Mutex;
use serde_json::{Value, json};

use crate::face::Face;
use crate::fault::{Fault, Result};
use crate::http::{Answer, Call, empty, json, status_json};
use crate::query::Filters;
use crate::swarm;

use definition::{Asked, Net};
pub use ground::{Ground, RESOLVER, adopt, let_go, names_changed, prepare, resume, stand};
pub use join::asked;
pub use show::of_container;

/// The network that is the instance's own bridge.
pub const BRIDGE: &str = "bridge";
/// Those that are always there.
const BUILT_IN: [&str; 3] = [BRIDGE, "host", "none"];

/// The networks that users made, and who is in them.
pub struct Nets {
    dir: PathBuf,
    /// By name.
    all: Mutex<BTreeMap<String, Arc<Net>>>,
    /// One network is made or removed at a time: ranges do not overlap.
    making: tokio::sync::Mutex<()>,
    /// Addresses in use, by network and address: whose.
    leases: Mutex<BTreeMap<(String, Ipv4Addr), String>>,
    /// Servers of names, by container.
    servers: Mutex<BTreeMap<String, ground::Server>>,
}

impl Nets {
    /// Those of a folder, which is made if it is not there.
    ///
    /// # Errors
    /// When the folder cannot be made or read.
    pub fn open(dir: &Path) -> io::Result<Self> {
        let all = definition::load(dir)?.into_iter().map(|n| (n.name.clone(), Arc::new(n))).collect();
        Ok(Nets {
            dir: dir.to_owned(),
            all: Mutex::new(all),
            making: tokio::sync::Mutex::default(),
            leases: Mutex::default(),
            servers: Mutex::default(),
        })
    }

    fn put(&self, network: &Net) -> Result<()> {
        let write = || {
            crate::containers::record::put(&self.dir, &format!("{}.json", network.id), &serde_json::to_vec(network)?)
        };
        write().map_err(|e| Fault::io("write the network's file", &e))
    }

    fn forget(&self, network: &Net) -> Result<()> {
        match std::fs::remove_file(self.dir.join(format!("{}.json", network.id))) {
            Err(e) if e.kind() != io::ErrorKind::NotFound => Err(Fault::io("remove the network's file", &e)),
            _ => Ok(()),
        }
    }
}

/// A network.
#[derive(Clone)]
pub enum Network {
    /// One that is always there, by name.
    Built(&'static str),
    /// One that a user made.
    Own(Arc<Net>),
}

impl Network {
    /// Its name.
    pub fn name(&self) -> &str {
        match self {
            Network::Built(name) => name,
            Network::Own(network) => &network.name,
        }
    }

    /// Its id.
    pub fn id(&self, face: &Face) -> String {
        match self {
            Network::Built(name) => id(face, name),
            Network::Own(network) => network.id.clone(),
        }
    }

    /// Its driver.
    pub fn driver(&self) -> &str {
        match self {
            Network::Built("none") => "null",
            Network::Built(name) => name,
            Network::Own(network) => network.driver(),
        }
    }
}

/// The id of a network that is always there, the same for as long as the instance has its name.
pub fn id(face: &Face, name: &str) -> String {
    let text = format!("{}/{name}", face.engine.instance().name());
    // FNV-1a four times over, each begun elsewhere: no secret, only a name of 64 digits.
    let hash = |seed: u64| {
        text.bytes().fold(0xcbf2_9ce4_8422_2325 ^ seed, |h: u64, b| (h ^ u64::from(b)).wrapping_mul(0x0100_0000_01b3))
    };
    (0..4).map(|n| format!("{:016x}", hash(n))).collect()
}

fn all(face: &Face) -> Vec<Network> {
    let own: Vec<Network> = face.nets.all.lock().values().cloned().map(Network::Own).collect();
    BUILT_IN.into_iter().map(Network::Built).chain(own).collect()
}

/// Id, name and driver of this host's networks.
pub fn named(face: &Face) -> Vec<(String, String, String)> {
    all(face).iter().map(|n| (n.id(face), n.name().to_owned(), n.driver().to_owned())).collect()
}

/// The network of that id, name, or beginning of an id.
///
/// # Errors
/// 404; 400 when several ids begin so.
pub fn find(face: &Face, text: &str) -> Result<Network> {
    let text = if text.is_empty() || text == "default" { BRIDGE } else { text };
    let all = all(face);
    if let Some(found) = all.iter().find(|n| n.id(face) == text).or_else(|| all.iter().find(|n| n.name() == text)) {
        return Ok(found.clone());
    }
    let mut fitting = all.into_iter().filter(|n| n.id(face).starts_with(text));
    match (fitting.next(), fitting.next()) {
        (Some(one), None) => Ok(one),
        (Some(_), Some(_)) => Err(Fault::bad(format!("network {text} is ambiguous (2 matches found on ID prefix)"))),
        _ => Err(Fault::missing(format!("network {text} not found"))),
    }
}

/// Tells of a network.
fn tell(face: &Face, action: &str, network: &Network, container: Option<&str>) {
    let mut attributes = BTreeMap::from([
        ("name".to_owned(), network.name().to_owned()),
        ("type".to_owned(), network.driver().to_owned()),
    ]);
    attributes.extend(container.map(|id| ("container".to_owned(), id.to_owned())));
    face.events.tell("network", action, &network.id(face), attributes);
}

/// Tells that a container has come into all its networks, or left them.
pub fn tell_all(face: &Face, record: &crate::containers::record::Record, action: &str) {
    for name in record.networks.keys() {
        if let Ok(network) = find(face, name) {
            tell(face, action, &network, Some(&record.id));
        }
    }
}

/// Answers what is asked of networks.
///
/// # Errors
/// What the handlers say.
pub async fn respond(call: Call, method: &Method, parts: &[&str]) -> Result<Answer> {
    match (method.as_str(), parts) {
        ("GET", []) => list(&call).await,
        ("POST", ["create"]) => create(call).await,
        ("POST", ["prune"]) => prune(&call).await,
        ("GET" | "DELETE", [name]) => match find(&call.face, name) {
            Err(fault) if fault.status == StatusCode::NOT_FOUND && call.face.manager.is_some() => {
                swarm::network(&call, method, &["networks", name], json!({})).await
            }
            Ok(_) if method == Method::DELETE => remove(&call.face, name).await,
            found => Ok(json(&show::document(&call.face, &found?, true))),
        },
        ("POST", [name, "connect"]) => join::connect(call, name).await,
        ("POST", [name, "disconnect"]) => join::disconnect(call, name).await,
        _ => Err(Fault::missing("page not found")),
    }
}

/// Whether nobody who runs is in it.
fn is_idle(face: &Face, network: &Network) -> bool {
    !face.nets.leases.lock().keys().any(|(of, _)| *of == network.id(face))
}

fn fits(face: &Face, network: &Network, filters: &Filters) -> Result<bool> {
    let (own, labels) = match network {
        Network::Own(network) => (true, network.labels.clone()),
        Network::Built(_) => (false, BTreeMap::new()),
    };
    let dangling = filters.switch("dangling")?;
    Ok(filters.matches("name", network.name())
        && filters.matches("id", &network.id(face))
        && filters.any("driver", |v| v == network.driver())
        && filters.any("scope", |v| v == "local")
        && filters.any("type", |v| v == if own { "custom" } else { "builtin" })
        && filters.labels(&labels)
        && dangling.is_none_or(|d| d == (own && is_idle(face, network))))
}

async fn list(call: &Call) -> Result<Answer> {
    let known = ["dangling", "driver", "id", "label", "label!", "name", "scope", "type"];
    let filters = call.query.filters(&known)?;
    if let Some(bad) = filters.of("type").iter().find(|t| !["custom", "builtin"].contains(&t.as_str())) {
        return Err(Fault::bad(format!("invalid filter: 'type'='{bad}'")));
    }
    let mut rows = Vec::new();
    for network in all(&call.face) {
        if fits(&call.face, &network, &filters)? {
            rows.push(show::document(&call.face, &network, false));
        }
    }
    rows.extend(swarm::networks(call).await);
    Ok(json(&rows))
}

/// Ranges that a network of this instance cannot have.
fn ours(face: &Face) -> Vec<Cidr> {
    let config = face.engine.network().config();
    let own = face.nets.all.lock();
    own.values().map(|n| n.subnet.0).chain([config.pod_cidr, config.service_cidr]).collect()
}

async fn create(mut call: Call) -> Result<Answer> {
    let document: Value = call.json().await?;
    if call.face.manager.is_some() && swarm::is_of_swarm(&document) {
        let taken = document["Name"].as_str().is_some_and(|n| call.face.nets.all.lock().contains_key(n));
        return match taken {
            true => Err(Fault::conflict(format!("network with name {} already exists", document["Name"]))),
            false => swarm::network(&call, &Method::POST, &["networks", "create"], document).await,
        };
    }
    let asked = Asked::read(document)?;
    let face = call.face.clone();
    // Not given up when the client goes away: a network is whole or not at all.
    let made = tokio::spawn(async move { make(&face, asked).await });
    let network = made.await.map_err(|e| Fault::broken(e.to_string()))??;
    Ok(status_json(StatusCode::CREATED, &json!({ "Id": network.id, "Warning": "" })))
}

async fn make(face: &Arc<Face>, asked: Asked) -> Result<Arc<Net>> {
    let _one = face.nets.making.lock().await;
    if face.nets.all.lock().contains_key(&asked.name) {
        return Err(Fault::conflict(format!("network with name {} already exists", asked.name)));
    }
    if face.nets.all.lock().len() >= definition::MOST {
        return Err(Fault::bad(format!("there are {} networks already, which is the most", definition::MOST)));
    }
    let ours = ours(face);
    let of_host = pools::routes(&std::fs::read_to_string("/proc/net/route").unwrap_or_default());
    let all: Vec<Cidr> = ours.iter().copied().chain(of_host).collect();
    let network = asked.settle(&ours, &all, first_pool(face))?;
    let same = |n: &Arc<Net>| n.key() == network.key();
    if face.nets.all.lock().values().any(same) {
        return Err(Fault::broken("the network's id is another's; try again"));
    }
    if let Some(parent) = &network.parent {
        let on_it = |n: &Arc<Net>| n.parent.as_ref().is_some_and(|p| p.name == parent.name);
        if let Some(other) = face.nets.all.lock().values().find(|n| on_it(n)) {
            let message = format!("network {} is already using parent interface {}", other.name, parent.name);
            return Err(Fault::new(StatusCode::FORBIDDEN, message));
        }
    }
    face.nets.put(&network)?;
    if let Err(error) = face.engine.network().add_bridge(network.bridge()).await {
        face.nets.forget(&network)?;
        return Err(Fault::broken(format!("cannot create network {}: {}", network.id, base::chain(&error))));
    }
    let network = Arc::new(network);
    face.nets.all.lock().insert(network.name.clone(), network.clone());
    tell(face, "create", &Network::Own(network.clone()), None);
    Ok(network)
}

/// Where the search for a range begins: instances side by side, which know nothing of each other, seldom choose the same one.
fn first_pool(face: &Face) -> usize {
    let name = face.engine.instance().name();
    if name == base::instance::DEFAULT_NAME {
        return 0;
    }
    name.bytes().fold(7usize, |h, b| h.wrapping_mul(31).wrapping_add(usize::from(b)))
}

async fn remove(face: &Arc<Face>, name: &str) -> Result<Answer> {
    let network = match find(face, name)? {
        Network::Own(network) => network,
        Network::Built(name) => {
            let message = format!("{name} is a pre-defined network and cannot be removed");
            return Err(Fault::new(StatusCode::FORBIDDEN, message));
        }
    };
    let face = face.clone();
    let removed = tokio::spawn(async move { take_away(&face, &network).await });
    removed.await.map_err(|e| Fault::broken(e.to_string()))??;
    Ok(empty(StatusCode::NO_CONTENT))
}

async fn take_away(face: &Arc<Face>, network: &Arc<Net>) -> Result<()> {
    let _one = face.nets.making.lock().await;
    {
        let leases = face.nets.leases.lock();
        let users = leases.iter().filter(|((of, _), _)| *of == network.id).map(|(_, id)| id);
        let named = |id: &String| {
            let name = face.container(id).map(|c| c.name()).unwrap_or_default();
            format!("name:\"{name}\" id:\"{}\"", id.chars().take(12).collect::<String>())
        };
        let users: Vec<String> = users.map(named).collect();
        if !users.is_empty() {
            let (name, users) = (&network.name, users.join(", "));
            let message = format!("error while removing network: network {name} has active endpoints ({users})");
            return Err(Fault::new(StatusCode::FORBIDDEN, message));
        }
        // While no address can be given.
        face.nets.all.lock().remove(&network.name);
    }
    let gone = face.engine.network().remove_bridge(network.key()).await;
    if let Err(error) = gone {
        face.nets.all.lock().insert(network.name.clone(), network.clone());
        return Err(Fault::broken(format!("error while removing network: {}", base::chain(&error))));
    }
    face.nets.forget(network)?;
    tell(face, "destroy", &Network::Own(network.clone()), None);
    Ok(())
}

async fn prune(call: &Call) -> Result<Answer> {
    let filters = call.query.filters(&["label", "label!", "until"])?;
    let until = filters.of("until").first().map(|t| crate::containers::list::until(t)).transpose()?;
    let all: Vec<Arc<Net>> = call.face.nets.all.lock().values().cloned().collect();
    let mut removed = Vec::new();
    for network in all {
        let old = until.is_none_or(|u| network.created_ms < u);
        if old && filters.labels(&network.labels) && take_away(&call.face, &network).await.is_ok() {
            removed.push(network.name.clone());
        }
    }
    let attributes = BTreeMap::from([("reclaimed".to_owned(), "0".to_owned())]);
    call.face.events.tell("network", "prune", "", attributes);
    Ok(json(&json!({ "NetworksDeleted": if removed.is_empty() { Value::Null } else { json!(removed) } })))
}
