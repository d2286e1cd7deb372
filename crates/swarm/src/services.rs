//! Services: made, changed, listed, removed.

use std::collections::BTreeSet;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, URL_SAFE};
use dockerapi::swarm::{Asked, Fault, Query, Result, Said};
use http::StatusCode;
use serde_json::{Value, json};

use crate::cluster::{
    CLAIMS, DAEMON_SETS, DEPLOYMENTS, JOBS, Kind, LABEL, NAMESPACE, PODS, RECORD, Refused, SECRETS, SERVICES, text,
};
use crate::logs::Seen;
use crate::model::{PortConfig, ServiceSpec};
use crate::record::{Record, Rollout, Service, pick};
use crate::tasks::{self, Task};
use crate::workload::{self, Around, Built};
use crate::{Swarm, created, now, ok};

/// Ports that are given to those who ask for any (swarmkit's range).
const DYNAMIC: std::ops::RangeInclusive<u16> = 30_000..=32_767;
/// How long a port of this host may take to be free.
const LET_GO_MAX: Duration = Duration::from_secs(3);
/// How often it is looked at meanwhile: nothing tells.
const LOOK_EVERY: Duration = Duration::from_millis(100);
/// How often a write is tried that somebody else's came before.
const TRIES: usize = 8;

/// Somebody else has written meanwhile.
pub fn out_of_sequence() -> Fault {
    Fault::broken("rpc error: code = Unknown desc = update out of sequence")
}

fn unsupported(why: &str) -> Fault {
    Fault::new(StatusCode::NOT_IMPLEMENTED, format!("rpc error: code = Unimplemented desc = {why}"))
}

fn kind_of(workload: &Value) -> Kind {
    match text(&workload["kind"]) {
        "DaemonSet" => DAEMON_SETS,
        "Job" => JOBS,
        _ => DEPLOYMENTS,
    }
}

/// The name of a service's Secret with the credentials for its image.
fn pull_name(service: &str) -> String {
    convert::name(&format!("{}-pull", workload::object_name(service)))
}

/// The credentials that a request brings, as a Secret of Kubernetes.
fn pull_secret(service: &str, image: &str, header: Option<&str>) -> Option<Value> {
    let bytes = header.map(|h| URL_SAFE.decode(h).or_else(|_| STANDARD.decode(h)))?.ok()?;
    let given: Value = serde_json::from_slice(&bytes).ok()?;
    let (user, word) = (text(&given["username"]), text(&given["password"]));
    if user.is_empty() {
        return None;
    }
    let of_image = image.split_once('/').map(|(first, _)| first).filter(|first| first.contains(['.', ':']));
    let server = match (text(&given["serveraddress"]), of_image) {
        ("", Some(host)) => host,
        ("", None) => "https://index.docker.io/v1/",
        (server, _) => server,
    };
    let auth = STANDARD.encode(format!("{user}:{word}"));
    let config = json!({"auths": {server: {"username": user, "password": word, "auth": auth}}}).to_string();
    Some(json!({
        "apiVersion": "v1", "kind": "Secret", "type": "kubernetes.io/dockerconfigjson",
        "metadata": {"name": pull_name(service), "namespace": NAMESPACE, "labels": {LABEL: "credentials"}},
        "data": {".dockerconfigjson": STANDARD.encode(config)},
    }))
}

/// Whether nobody on this host listens at a port.
fn is_free(protocol: &str, port: u16) -> bool {
    match protocol {
        "udp" => std::net::UdpSocket::bind(("0.0.0.0", port)).is_ok(),
        _ => std::net::TcpListener::bind(("0.0.0.0", port)).is_ok(),
    }
}

fn protocol(of: &PortConfig) -> &str {
    if of.protocol.is_empty() { "tcp" } else { &of.protocol }
}

impl Swarm {
    /// All services.
    pub(crate) async fn services(&self) -> Result<Vec<Service>> {
        let selector = format!("{LABEL}=service");
        let list = |kind| self.cluster.list(kind, &selector);
        let (deployments, daemons, jobs) = futures::try_join!(list(DEPLOYMENTS), list(DAEMON_SETS), list(JOBS))?;
        let of = |kind: Kind, list: Vec<Value>| list.into_iter().filter_map(move |o| Service::of(kind, o));
        let all = of(DEPLOYMENTS, deployments).chain(of(DAEMON_SETS, daemons)).chain(of(JOBS, jobs));
        // One that is being removed is gone, as with Docker.
        Ok(all.filter(|s| s.object["metadata"]["deletionTimestamp"].is_null()).collect())
    }

    /// One of them.
    pub(crate) async fn service(&self, wanted: &str) -> Result<Service> {
        let all = self.services().await?;
        pick(&all, "service", wanted, Service::id, |s| s.name().to_owned()).cloned()
    }

    pub(crate) async fn pods(&self) -> Result<Vec<Value>> {
        Ok(self.cluster.list(PODS, &format!("{LABEL}=service")).await?)
    }

    /// All that tasks are made of.
    pub(crate) async fn look(&self) -> Result<Seen> {
        let (services, pods, nodes) = futures::try_join!(self.services(), self.pods(), self.nodes())?;
        Ok(Seen { services, pods, nodes })
    }

    /// The tasks of what was seen.
    pub(crate) fn tasks_of<'a>(&self, seen: &'a Seen) -> Vec<(Task, &'a Service)> {
        let slots = {
            let mut known = self.slots.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
            *known = tasks::slots(&seen.pods, &known);
            known.clone()
        };
        tasks::all(&seen.pods, &seen.services, &slots, &Self::node_ids(&seen.nodes))
    }

    pub(crate) async fn list_tasks(&self, query: &Query) -> Result<Said> {
        let known = ["desired-state", "id", "label", "name", "node", "runtime", "service", "_up-to-date", "up-to-date"];
        let filters = query.filters(&known)?;
        let seen = self.look().await?;
        let all = self.tasks_of(&seen);
        ok(all.into_iter().filter(|(t, s)| t.fits(&filters, s)).map(|(t, _)| t.document).collect::<Vec<_>>())
    }

    pub(crate) async fn show_task(&self, wanted: &str) -> Result<Said> {
        let seen = self.look().await?;
        let all = self.tasks_of(&seen);
        ok(tasks::find(&all, wanted)?.0.document.clone())
    }

    pub(crate) async fn list_services(&self, query: &Query) -> Result<Said> {
        let filters = query.filters(&["id", "label", "mode", "name", "runtime"])?;
        let fits = |service: &&Service| {
            let labels = serde_json::from_value(service.record.spec["Labels"].clone()).unwrap_or_default();
            let mode = match service.kind {
                DAEMON_SETS => "global",
                JOBS => "replicated-job",
                _ => "replicated",
            };
            filters.any("id", |v| service.id().starts_with(v))
                && filters.any("name", |v| service.name().starts_with(v))
                && filters.any("mode", |v| v == mode)
                && filters.any("runtime", |v| v == "container")
                && filters.labels(&labels)
        };
        let (services, pods) = futures::try_join!(self.services(), self.pods())?;
        let with_status = query.flag("status");
        ok(services.iter().filter(fits).map(|s| s.document(&pods, with_status)).collect::<Vec<_>>())
    }

    pub(crate) async fn show_service(&self, wanted: &str) -> Result<Said> {
        let service = self.service(wanted).await?;
        let pods = if service.record.update.is_some() { self.pods().await? } else { Vec::new() };
        ok(service.document(&pods, false))
    }

    /// What a spec means here and now.
    async fn around(&self, spec: &ServiceSpec, asked: Local<'_>, rollback: bool, pull: bool) -> Result<Around> {
        self.look_for_files(spec).await?;
        let (networks, host_network) = self.join(spec, asked).await?;
        let nodes = self.nodes().await?;
        Ok(Around {
            networks,
            host_network,
            nodes: self.places(&nodes),
            dns: self.dns,
            pull_secret: pull.then(|| pull_name(&spec.name)),
            rollback,
        })
    }

    pub(crate) async fn create_service(&self, asked: &Asked) -> Result<Said> {
        let _one = self.making.lock().await;
        let document = normal(&asked.body);
        let mut spec = ServiceSpec::read(&document)?;
        let all = self.services().await?;
        let object_name = workload::object_name(&spec.name);
        if all.iter().any(|s| s.name() == spec.name || s.object_name() == object_name) {
            let why = format!("name conflicts with an existing object: service {} already exists", spec.name);
            return Err(Fault::conflict(format!("rpc error: code = AlreadyExists desc = {why}")));
        }
        let ports = patiently(&mut spec, &all, None).await?;
        let pull = pull_secret(&spec.name, &spec.container()?.image, asked.auth.as_deref());
        let around = self.around(&spec, &asked.local, false, pull.is_some()).await?;
        let mut built = workload::build(&spec, &around)?;
        let record =
            Record { spec: document, version: 1, updated: now(), ports, pull: pull.is_some(), ..Record::default() };
        built.workload["metadata"]["annotations"][RECORD] = json!(record).to_string().into();
        let kind = kind_of(&built.workload);
        let made = self.cluster.create(kind, &built.workload).await?;
        let rest = self.surround(&built, kind, &made, pull).await;
        if let Err(refused) = rest {
            // Half a service is none.
            self.cluster.delete(kind, &object_name).await?;
            return Err(refused.into());
        }
        let warnings = if built.warnings.is_empty() { Value::Null } else { json!(built.warnings) };
        created(json!({"ID": crate::cluster::id(&made), "Warnings": warnings}))
    }

    /// What is around a workload: its Services, claims and credentials.
    async fn surround(
        &self,
        built: &Built,
        kind: Kind,
        workload: &Value,
        pull: Option<Value>,
    ) -> std::result::Result<(), Refused> {
        let (name, uid) = (&workload["metadata"]["name"], &workload["metadata"]["uid"]);
        let api = if kind == JOBS { "batch/v1" } else { "apps/v1" };
        let word = match kind {
            DEPLOYMENTS => "Deployment",
            DAEMON_SETS => "DaemonSet",
            _ => "Job",
        };
        let owners = json!([{"apiVersion": api, "kind": word, "name": name, "uid": uid}]);
        for claim in &built.claims {
            match self.cluster.create(CLAIMS, claim).await {
                Err(refused) if !refused.is_taken() => return Err(refused),
                _ => {}
            }
        }
        let services = built.services.iter().map(|s| (SERVICES, s.clone()));
        for (kind, mut object) in services.chain(pull.map(|p| (SECRETS, p))) {
            object["metadata"]["ownerReferences"] = owners.clone();
            match self.cluster.create(kind, &object).await {
                Err(refused) if refused.is_taken() => {
                    self.cluster.patch(kind, text(&object["metadata"]["name"]), &object).await?;
                }
                done => drop(done?),
            }
        }
        Ok(())
    }

    pub(crate) async fn update_service(&self, wanted: &str, asked: &Asked) -> Result<Said> {
        let _one = self.making.lock().await;
        let version = asked.query.number::<u64>("version")?;
        let version = version.ok_or_else(|| Fault::bad("invalid service version ''"))?;
        let rollback = match asked.query.get("rollback") {
            None => false,
            Some("previous") => true,
            Some(other) => return Err(Fault::bad(format!("unrecognized rollback option {other}"))),
        };
        let body = (!rollback).then_some(&asked.body);
        let warnings = self.change(wanted, Some(version), body, asked, "").await?;
        ok(json!({"Warnings": if warnings.is_empty() { Value::Null } else { json!(warnings) }}))
    }

    /// Gives a service another spec, or the one of before. `because` is the task whose failure made it go back.
    pub(crate) async fn change(
        &self,
        wanted: &str,
        version: Option<u64>,
        body: Option<&Value>,
        asked: &Asked,
        because: &str,
    ) -> Result<Vec<String>> {
        for _ in 0..TRIES {
            let all = self.services().await?;
            let service = pick(&all, "service", wanted, Service::id, |s| s.name().to_owned())?;
            if version.is_some_and(|v| v != service.record.version) {
                return Err(out_of_sequence());
            }
            let next = next_spec(service, body)?;
            let mut spec = ServiceSpec::read(&next)?;
            allowed(service, &spec)?;
            let ports = patiently(&mut spec, &all, Some(service)).await?;
            let rollback = body.is_none();
            let pull = pull_secret(&spec.name, &spec.container()?.image, asked.auth.as_deref());
            let has_pull = pull.is_some() || service.record.pull;
            let around = self.around(&spec, &asked.local, rollback, has_pull).await?;
            let built = workload::build(&spec, &around)?;
            if kind_of(&built.workload) != service.kind {
                return Err(unsupported("service mode change is not allowed"));
            }
            let record = record_after(service, next, &built, ports, has_pull, rollback, because);
            match self.cluster.replace(service.kind, &object_after(service, &built, &record)).await {
                // Its controller wrote: what Docker knows may still be what the client has seen.
                Err(refused) if refused.is_conflict() => continue,
                done => drop(done?),
            }
            self.surround(&built, service.kind, &service.object, pull).await?;
            let published = workload::published_name(&spec.name);
            if !built.services.iter().any(|s| s["metadata"]["name"] == published) {
                self.cluster.delete(SERVICES, &published).await?;
            }
            return Ok(built.warnings);
        }
        Err(out_of_sequence())
    }

    pub(crate) async fn remove_service(&self, wanted: &str) -> Result<Said> {
        let _one = self.making.lock().await;
        let service = self.service(wanted).await?;
        // At once, so that the ports are free; they would go with the workload otherwise.
        self.cluster.delete(SERVICES, &workload::published_name(service.name())).await?;
        self.cluster.delete(service.kind, service.object_name()).await?;
        self.cluster.delete(SERVICES, service.object_name()).await?;
        Ok(Said::Nothing(StatusCode::OK))
    }
}

/// A spec with its mode's words as Docker shows them: the Python client writes them small, and Go reads them so.
fn normal(spec: &Value) -> Value {
    let mut spec = spec.clone();
    if let Some(mode) = spec["Mode"].as_object_mut() {
        for (small, word) in [("replicated", "Replicated"), ("global", "Global")] {
            if let Some(value) = mode.remove(small) {
                mode.insert(word.to_owned(), if value.is_null() { json!({}) } else { value });
            }
        }
    } else {
        spec["Mode"] = json!({"Replicated": {"Replicas": 1}});
    }
    spec
}

/// This host's networks.
type Local<'a> = &'a [(String, String, String)];

fn next_spec(service: &Service, body: Option<&Value>) -> Result<Value> {
    if let Some(body) = body {
        return Ok(normal(body));
    }
    if service.record.previous.is_null() {
        let why = format!("service {} does not have a previous spec", service.id());
        return Err(Fault::bad(format!("rpc error: code = FailedPrecondition desc = {why}")));
    }
    Ok(service.record.previous.clone())
}

/// What of a service never changes.
fn allowed(service: &Service, spec: &ServiceSpec) -> Result<()> {
    if spec.name != service.name() {
        return Err(unsupported("renaming services is not supported"));
    }
    if service.kind == JOBS {
        return Err(unsupported("changing a job is not supported by Windlass: remove it and create another"));
    }
    Ok(())
}

fn record_after(
    service: &Service,
    spec: Value,
    built: &Built,
    ports: Vec<Value>,
    pull: bool,
    rollback: bool,
    because: &str,
) -> Record {
    let template = &built.workload["spec"]["template"]["metadata"]["annotations"][workload::TEMPLATE];
    let changes = *template != service.template();
    let started = now();
    Record {
        spec,
        previous: service.record.spec.clone(),
        version: service.record.version + 1,
        update: (changes || rollback).then(|| Rollout { started, rollback, because: because.to_owned() }),
        updated: now(),
        ports,
        pull,
    }
}

/// The workload as it will be; what others have written of it stays.
fn object_after(service: &Service, built: &Built, record: &Record) -> Value {
    let mut object = service.object.clone();
    object["spec"] = built.workload["spec"].clone();
    object["metadata"]["labels"] = built.workload["metadata"]["labels"].clone();
    object["metadata"]["annotations"][RECORD] = json!(record).to_string().into();
    object
}

/// Gives ports; one that a service had just now is waited for: its node lets it go once it has seen that.
async fn patiently(spec: &mut ServiceSpec, all: &[Service], own: Option<&Service>) -> Result<Vec<Value>> {
    let end = tokio::time::Instant::now() + LET_GO_MAX;
    loop {
        match give_ports(spec, all, own) {
            Err(fault) if fault.status == StatusCode::CONFLICT && tokio::time::Instant::now() < end => {
                tokio::time::sleep(LOOK_EVERY).await;
            }
            done => return done,
        }
    }
}

/// Gives numbers to the published ports that have none; says all of them, as an endpoint does.
fn give_ports(spec: &mut ServiceSpec, all: &[Service], own: Option<&Service>) -> Result<Vec<Value>> {
    let others = || all.iter().filter(|s| own.is_none_or(|own| own.id() != s.id()));
    let published = |service: &Service| {
        let ports = service.record.ports.iter().filter(|p| p["PublishMode"] != "host");
        ports.map(|p| (text(&p["Protocol"]).to_owned(), p["PublishedPort"].clone())).collect::<Vec<_>>()
    };
    let own_ports: BTreeSet<String> =
        own.into_iter().flat_map(published).map(|(protocol, port)| format!("{port}/{protocol}")).collect();
    let mut given = BTreeSet::new();
    let mut said = Vec::new();
    for port in &mut spec.endpoint_spec.ports {
        let name = protocol(port).to_owned();
        let ingress = port.publish_mode != "host";
        let user = |n: u16| others().find(|s| published(s).contains(&(name.clone(), json!(n))));
        let mine = |n: u16| own_ports.contains(&format!("{n}/{name}"));
        if ingress && port.published_port == 0 {
            let before = own.into_iter().flat_map(|o| &o.record.ports);
            let before = before.filter(|p| p["TargetPort"] == port.target_port && p["Protocol"] == name.as_str());
            let before = before.filter_map(|p| u16::try_from(p["PublishedPort"].as_u64()?).ok()).next();
            let free = |n: &u16| user(*n).is_none() && !given.contains(&(name.clone(), *n)) && is_free(&name, *n);
            let found = before.or_else(|| DYNAMIC.clone().find(free));
            port.published_port = found.ok_or_else(|| Fault::broken("no port is left to be published"))?;
        } else if ingress {
            let n = port.published_port;
            if let Some(user) = user(n) {
                let why = format!(
                    "port '{n}' is already in use by service '{}' ({}) as an ingress port",
                    user.name(),
                    user.id()
                );
                return Err(Fault::bad(format!("rpc error: code = InvalidArgument desc = {why}")));
            }
            if !mine(n) && !is_free(&name, n) {
                return Err(Fault::conflict(format!("port '{n}' is already in use on this host")));
            }
        }
        given.insert((name.clone(), port.published_port));
        said.push(json!({
            "Protocol": name, "TargetPort": port.target_port, "PublishedPort": port.published_port,
            "PublishMode": if ingress { "ingress" } else { "host" },
        }));
    }
    Ok(said)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn credentials_are_those_of_the_images_registry() {
        let header = |given: Value| URL_SAFE.encode(given.to_string());
        let auth = header(json!({"username": "a", "password": "b"}));
        let secret = pull_secret("shop_web", "reg.example:5000/web:1", Some(&auth)).unwrap();
        assert_eq!(secret["metadata"]["name"], "shop-web-pull");
        let config = STANDARD.decode(text(&secret["data"][".dockerconfigjson"])).unwrap();
        let config: Value = serde_json::from_slice(&config).unwrap();
        assert_eq!(config["auths"]["reg.example:5000"]["auth"], STANDARD.encode("a:b"));
        assert!(pull_secret("web", "web", Some(&header(json!({})))).is_none());
        assert!(pull_secret("web", "web", Some("?")).is_none());
    }

    #[test]
    fn a_published_port_is_given_once() {
        let spec = |port: u16| {
            let document =
                json!({"Name": "web", "EndpointSpec": {"Ports": [{"TargetPort": 80, "PublishedPort": port}]}});
            ServiceSpec::read(&document).unwrap()
        };
        let mut any = spec(0);
        let given = give_ports(&mut any, &[], None).unwrap();
        let port = any.endpoint_spec.ports[0].published_port;
        assert!(DYNAMIC.contains(&port));
        assert_eq!((&given[0]["PublishMode"], &given[0]["Protocol"]), (&json!("ingress"), &json!("tcp")));
        let record = Record { spec: json!({"Name": "first"}), ports: given, ..Record::default() };
        let object = json!({"metadata": {"uid": "1", "annotations": {RECORD: json!(record).to_string()}}});
        let first = Service::of(DEPLOYMENTS, object).unwrap();
        let fault = give_ports(&mut spec(port), std::slice::from_ref(&first), None).unwrap_err();
        assert!(fault.message.contains("is already in use by service 'first'"), "{fault}");
        // Its own port it keeps.
        let mut again = spec(0);
        give_ports(&mut again, std::slice::from_ref(&first), Some(&first)).unwrap();
        assert_eq!(again.endpoint_spec.ports[0].published_port, port);
    }
}
