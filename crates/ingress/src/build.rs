//! From Ingress objects, Services and EndpointSlices to a route table. Pure.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::net::{IpAddr, SocketAddr};

use k8s_openapi::api::core::v1::{Service, ServicePort};
use k8s_openapi::api::discovery::v1::{Endpoint, EndpointSlice};
use k8s_openapi::api::networking::v1::{HTTPIngressPath, Ingress, IngressBackend, IngressClass};

use crate::route::{Backend, BackendIndex, CertificatePem, HostRoutes, Problem, RouteTable};

/// The class name that is ours even without an IngressClass object.
pub const CLASS: &str = "windlass";

/// `spec.controller` of the IngressClasses that are ours.
pub const CONTROLLER: &str = "windlass.dev/ingress";

const CLASS_ANNOTATION: &str = "kubernetes.io/ingress.class";
const SERVICE_LABEL: &str = "kubernetes.io/service-name";

/// What a table is built from. Order does not matter.
#[derive(Debug, Default)]
pub struct Input<'a> {
    /// All Ingress objects; those of other controllers are left out.
    pub ingresses: Vec<&'a Ingress>,
    /// All IngressClasses.
    pub classes: Vec<&'a IngressClass>,
    /// All Services.
    pub services: Vec<&'a Service>,
    /// All EndpointSlices.
    pub endpoint_slices: Vec<&'a EndpointSlice>,
    /// Certificates by namespace and name of their Secret.
    pub certificates: BTreeMap<(String, String), CertificatePem>,
}

/// Whether an Ingress is for this controller: its class (or, as of old, its annotation) names one of ours, or it has
/// none at all.
pub fn is_ours<'a>(ingress: &Ingress, classes: impl IntoIterator<Item = &'a IngressClass>) -> bool {
    let annotation = || ingress.metadata.annotations.as_ref()?.get(CLASS_ANNOTATION);
    let class = ingress.spec.as_ref().and_then(|s| s.ingress_class_name.as_ref()).or_else(annotation);
    let Some(class) = class else { return true };
    let object = classes.into_iter().find(|c| c.metadata.name.as_ref() == Some(class));
    match object.and_then(|c| c.spec.as_ref()).and_then(|s| s.controller.as_deref()) {
        Some(controller) => controller == CONTROLLER,
        None => class == CLASS,
    }
}

impl RouteTable {
    /// The table for these objects. Never fails: what cannot be served is left out and is in [`RouteTable::problems`].
    /// When two rules say the same host, path and type, that of the older Ingress holds.
    pub fn build(input: &Input<'_>) -> RouteTable {
        let mut ours: Vec<&Ingress> =
            input.ingresses.iter().copied().filter(|i| is_ours(i, input.classes.iter().copied())).collect();
        ours.sort_by_key(|i| {
            let m = &i.metadata;
            (m.creation_timestamp.as_ref().map(|t| t.0), m.namespace.as_deref(), m.name.as_deref())
        });
        let mut builder = Builder::new(input);
        for ingress in ours {
            builder.add(ingress);
        }
        builder.finish()
    }
}

struct Builder<'a> {
    services: HashMap<(&'a str, &'a str), &'a Service>,
    slices: HashMap<(&'a str, &'a str), Vec<&'a EndpointSlice>>,
    certificates: &'a BTreeMap<(String, String), CertificatePem>,
    known: HashMap<(String, String, i32), BackendIndex>,
    table: RouteTable,
    /// The Ingress at hand.
    namespace: &'a str,
    name: &'a str,
}

impl<'a> Builder<'a> {
    fn new(input: &'a Input<'a>) -> Self {
        let mut services = HashMap::new();
        for service in &input.services {
            let m = &service.metadata;
            services.insert((text(&m.namespace), text(&m.name)), *service);
        }
        let mut slices: HashMap<_, Vec<_>> = HashMap::new();
        for slice in &input.endpoint_slices {
            let labels = slice.metadata.labels.as_ref();
            if let Some(service) = labels.and_then(|l| l.get(SERVICE_LABEL)) {
                slices.entry((text(&slice.metadata.namespace), service.as_str())).or_default().push(*slice);
            }
        }
        Builder {
            services,
            slices,
            certificates: &input.certificates,
            known: HashMap::new(),
            table: RouteTable::default(),
            namespace: "",
            name: "",
        }
    }

    fn finish(mut self) -> RouteTable {
        let sort = |routes: &mut HostRoutes| {
            // Stable: of the same prefix, the older Ingress stays first.
            routes.prefixes.sort_by_key(|(prefix, _)| std::cmp::Reverse(prefix.len()));
        };
        self.table.exact_hosts.values_mut().chain(self.table.wildcard_hosts.values_mut()).for_each(sort);
        sort(&mut self.table.any_host);
        self.table.problems.sort();
        self.table.problems.dedup();
        self.table
    }

    fn problem(&mut self, message: String) {
        self.table.problems.push(Problem { namespace: self.namespace.into(), name: self.name.into(), message });
    }

    fn add(&mut self, ingress: &'a Ingress) {
        self.namespace = text(&ingress.metadata.namespace);
        self.name = text(&ingress.metadata.name);
        let Some(spec) = &ingress.spec else { return };
        let default = spec.default_backend.as_ref().and_then(|backend| self.backend(backend));
        let rules = spec.rules.as_deref().unwrap_or_default();
        let mut hosts = BTreeSet::new();
        for rule in rules {
            let host = rule.host.as_deref().unwrap_or_default().to_ascii_lowercase();
            let paths = rule.http.as_ref().map(|http| http.paths.as_slice()).unwrap_or_default();
            if paths.is_empty() && default.is_none() {
                self.problem(format!("the rule for host {host:?} has no paths and there is no default backend"));
            }
            for path in paths {
                if let Some(backend) = self.backend(&path.backend) {
                    self.add_path(&host, path, backend);
                }
            }
            hosts.insert(host);
        }
        if let Some(default) = default {
            if hosts.is_empty() {
                hosts.insert(String::new());
            }
            for host in &hosts {
                self.host(host).default.get_or_insert(default);
            }
        }
        for tls in spec.tls.iter().flatten() {
            let secret = tls.secret_name.as_deref().unwrap_or_default();
            let Some(pem) = self.certificates.get(&(self.namespace.to_owned(), secret.to_owned())) else {
                self.problem(format!("there is no TLS secret {secret:?}"));
                continue;
            };
            let named = tls.hosts.as_deref().unwrap_or_default();
            if named.is_empty() {
                self.table.default_certificate.get_or_insert_with(|| pem.clone());
            }
            for host in named {
                self.table.certificates.entry(host.to_ascii_lowercase()).or_insert_with(|| pem.clone());
            }
        }
    }

    fn host(&mut self, host: &str) -> &mut HostRoutes {
        if host.is_empty() || host == "*" {
            &mut self.table.any_host
        } else if let Some(suffix) = host.strip_prefix("*.") {
            self.table.wildcard_hosts.entry(suffix.to_owned()).or_default()
        } else {
            self.table.exact_hosts.entry(host.to_owned()).or_default()
        }
    }

    fn add_path(&mut self, host: &str, path: &HTTPIngressPath, backend: BackendIndex) {
        let text = path.path.as_deref().filter(|p| !p.is_empty()).unwrap_or("/");
        let taken = match path.path_type.as_str() {
            "Exact" => {
                let routes = self.host(host);
                let taken = routes.exact.get(text).is_some_and(|held| *held != backend);
                routes.exact.entry(text.to_owned()).or_insert(backend);
                taken
            }
            // What an implementation-specific path means is ours to say: a prefix, as everywhere.
            "Prefix" | "ImplementationSpecific" | "" => {
                let prefix = text.trim_end_matches('/');
                let routes = self.host(host);
                match routes.prefixes.iter().find(|(held, _)| held == prefix) {
                    Some((_, held)) => *held != backend,
                    None => {
                        routes.prefixes.push((prefix.to_owned(), backend));
                        false
                    }
                }
            }
            other => {
                self.problem(format!("path {text:?} has the unknown type {other:?}"));
                return;
            }
        };
        if taken {
            self.problem(format!("path {text:?} of host {host:?} is served by an older ingress"));
        }
    }

    fn backend(&mut self, backend: &IngressBackend) -> Option<BackendIndex> {
        let Some(reference) = &backend.service else {
            self.problem("a backend that is a resource, not a service, is not supported".into());
            return None;
        };
        let port = reference.port.as_ref();
        let port_name = port.and_then(|p| p.name.clone()).unwrap_or_default();
        let port_number = port.and_then(|p| p.number).unwrap_or_default();
        let key = (format!("{}/{}", self.namespace, reference.name), port_name.clone(), port_number);
        if let Some(index) = self.known.get(&key) {
            return Some(*index);
        }
        // A backend that cannot be resolved stays as one without endpoints: 503 is truer than 404 or somebody else's page.
        let endpoints = self.resolve(&reference.name, &port_name, port_number).unwrap_or_else(|message| {
            self.problem(message);
            Vec::new()
        });
        let label = if port_name.is_empty() { port_number.to_string() } else { port_name };
        self.table.backends.push(Backend { name: format!("{}:{label}", key.0), endpoints });
        let index = self.table.backends.len() - 1;
        self.known.insert(key, index);
        Some(index)
    }

    fn resolve(&self, service: &str, port_name: &str, port_number: i32) -> Result<Vec<SocketAddr>, String> {
        let object = self.services.get(&(self.namespace, service)).ok_or(format!("there is no service {service:?}"))?;
        let spec = object.spec.as_ref().ok_or(format!("service {service:?} has no spec"))?;
        if spec.type_.as_deref() == Some("ExternalName") {
            return Err(format!("service {service:?} is an external name, which is not supported as a backend"));
        }
        let ports = spec.ports.as_deref().unwrap_or_default();
        let wanted = |p: &&ServicePort| {
            if port_name.is_empty() { p.port == port_number } else { p.name.as_deref() == Some(port_name) }
        };
        let port = ports
            .iter()
            .find(|p| wanted(p) && matches!(p.protocol.as_deref(), None | Some("TCP" | "")))
            .ok_or_else(|| format!("service {service:?} has no TCP port {port_name}{port_number}"))?;
        match port.app_protocol.as_deref() {
            None | Some("" | "http" | "kubernetes.io/ws") => {}
            Some(other) => return Err(format!("service {service:?} speaks {other:?}, and only HTTP/1.1 is supported")),
        }
        Ok(self.endpoints(service, port.name.as_deref().unwrap_or_default()))
    }

    /// The endpoints that are ready, or, when none is, those that still serve while they terminate.
    fn endpoints(&self, service: &str, port_name: &str) -> Vec<SocketAddr> {
        let (mut ready, mut draining) = (BTreeSet::new(), BTreeSet::new());
        for slice in self.slices.get(&(self.namespace, service)).into_iter().flatten() {
            let port = slice.ports.iter().flatten().find(|p| p.name.as_deref().unwrap_or_default() == port_name);
            let Some(port) = port.and_then(|p| p.port).and_then(|p| u16::try_from(p).ok()) else { continue };
            for endpoint in slice.endpoints.iter().flatten() {
                let Some(set) = fitness(endpoint).map(|f| if f == Fit::Ready { &mut ready } else { &mut draining })
                else {
                    continue;
                };
                // All addresses of one endpoint are the same pod: the first one is used, as everywhere.
                if let Some(ip) = endpoint.addresses.first().and_then(|a| a.parse::<IpAddr>().ok()) {
                    set.insert(SocketAddr::new(ip, port));
                }
            }
        }
        if ready.is_empty() { draining } else { ready }.into_iter().collect()
    }
}

#[derive(PartialEq)]
enum Fit {
    Ready,
    Draining,
}

fn fitness(endpoint: &Endpoint) -> Option<Fit> {
    let conditions = endpoint.conditions.as_ref();
    let ready = conditions.and_then(|c| c.ready).unwrap_or(true);
    let serving = conditions.and_then(|c| c.serving).unwrap_or(ready);
    let terminating = conditions.and_then(|c| c.terminating).unwrap_or(false);
    if ready { Some(Fit::Ready) } else { (serving && terminating).then_some(Fit::Draining) }
}

fn text(value: &Option<String>) -> &str {
    value.as_deref().unwrap_or_default()
}

#[cfg(test)]
mod tests;
