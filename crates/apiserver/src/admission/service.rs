//! Cluster addresses and node ports of Services. What is taken is what the cache shows plus what is reserved by writes
//! under way, so nothing has to be rebuilt or repaired after a crash.

use std::collections::HashSet;
use std::net::Ipv4Addr;
use std::sync::Arc;

use api::status::{ApiError, FieldError};
use base::instance::Cidr;
use bytes::Bytes;
use parking_lot::Mutex;
use rand::Rng as _;
use serde_json::{Value, json};
use store::{Compare, Op, RangeRequest};

use crate::cache::Caches;
use crate::cache::entry::Claims;
use crate::config::Config;
use crate::handlers::write::store_error;

/// Written by every Service that takes something, when several servers share the store: each sees by its revision whether it
/// has seen what the others gave out.
const TAKEN: &str = "/registry/allocations/services/newest";

/// Random draws before the range is searched from one end.
const DRAWS: usize = 32;

/// Hands out addresses and ports.
pub struct Allocator {
    cidr: Cidr,
    ports: (u16, u16),
    /// Given out only to who asks for them by number.
    set_aside: [Ipv4Addr; 2],
    reserved: Arc<Mutex<Reserved>>,
}

#[derive(Default)]
struct Reserved {
    ips: HashSet<Ipv4Addr>,
    ports: HashSet<u16>,
}

/// Addresses and ports that nobody else gets while it lives.
#[derive(Default)]
pub struct Reservation {
    reserved: Arc<Mutex<Reserved>>,
    ips: Vec<Ipv4Addr>,
    ports: Vec<u16>,
}

impl Reservation {
    /// Other servers reserve in their own memory. With them on the same store, the write that takes something must carry this:
    /// it fails when one of them has given out something that is not in the cache yet.
    ///
    /// # Errors
    /// 409 when another server has given out the same meanwhile.
    pub async fn guard(&self, caches: &Caches, own_key: &str) -> Result<Option<(Compare, Op)>, ApiError> {
        if !caches.store().is_shared() || (self.ips.is_empty() && self.ports.is_empty()) {
            return Ok(None);
        }
        let found = caches.store().range(RangeRequest::key(TAKEN)).await.map_err(|e| store_error(&e))?;
        let newest = found.kvs.first().map_or(0, |kv| kv.mod_revision);
        caches.written(newest).await?;
        let clash = caches.core("services").find_map(|entry| {
            let claims = entry.facts.claims()?;
            let same = self.ips.iter().any(|ip| claims.ips.contains(ip))
                || self.ports.iter().any(|port| claims.ports.contains(port));
            (same && *entry.key != *own_key).then(|| entry.key.to_string())
        });
        if let Some(other) = clash {
            let (_, name) = own_key.split_once('/').unwrap_or_default();
            let cause = format!("an address or port was given to {other} at the same time, please try again");
            return Err(ApiError::conflict("services", "", name, &cause));
        }
        let op = Op::Put { key: TAKEN.into(), value: Bytes::new(), lease_ttl_s: None };
        Ok(Some((Compare::ModRevision(TAKEN.into(), newest), op)))
    }
}

impl Drop for Reservation {
    fn drop(&mut self) {
        let mut reserved = self.reserved.lock();
        for ip in &self.ips {
            reserved.ips.remove(ip);
        }
        for port in &self.ports {
            reserved.ports.remove(port);
        }
    }
}

/// What other Services have.
struct Taken {
    ips: HashSet<Ipv4Addr>,
    ports: HashSet<u16>,
}

/// One allocation under way: findings gather, the reservation grows.
struct Draft<'a> {
    allocator: &'a Allocator,
    taken: Taken,
    own: Claims,
    held: Reservation,
    errors: Vec<FieldError>,
}

impl Allocator {
    /// For the ranges of the configuration.
    pub fn new(config: &Config) -> Self {
        Allocator {
            cidr: config.service_cidr,
            ports: config.node_ports,
            set_aside: [config.kubernetes_ip(), config.dns_ip()],
            reserved: Arc::default(),
        }
    }

    /// Gives a new Service what its type needs.
    ///
    /// # Errors
    /// 422 for what is taken, outside the range, or not configured here.
    pub fn create(&self, caches: &Caches, service: &mut Value) -> Result<Reservation, ApiError> {
        self.run(caches, service, &Value::Null)
    }

    /// Keeps, adds and releases what the change of a Service asks for.
    ///
    /// # Errors
    /// 422 for what is taken, outside the range, or not configured here.
    pub fn update(&self, caches: &Caches, service: &mut Value, old: &Value) -> Result<Reservation, ApiError> {
        carry_over(service, old);
        self.run(caches, service, old)
    }

    fn run(&self, caches: &Caches, service: &mut Value, old: &Value) -> Result<Reservation, ApiError> {
        if !service["spec"].is_object() {
            return Ok(Reservation::default());
        }
        let own_key = format!("{}/{}", api::meta::namespace(old), api::meta::name(old));
        let mut taken = Taken { ips: HashSet::new(), ports: HashSet::new() };
        // Nobody else reserves until this draft has what it needs: two requests never see the same gap.
        let mut guard = self.reserved.lock();
        caches.core("services").find_map(|entry| {
            if let Some(claims) = entry.facts.claims().filter(|_| *entry.key != *own_key) {
                taken.ips.extend(&claims.ips);
                taken.ports.extend(&claims.ports);
            }
            None::<()>
        });
        taken.ips.extend(&guard.ips);
        taken.ports.extend(&guard.ports);
        let held = Reservation { reserved: self.reserved.clone(), ips: Vec::new(), ports: Vec::new() };
        let mut draft = Draft { allocator: self, taken, own: Claims::of(old), held, errors: Vec::new() };
        draft.address(&mut service["spec"]);
        draft.node_ports(&mut service["spec"]);
        guard.ips.extend(&draft.held.ips);
        guard.ports.extend(&draft.held.ports);
        drop(guard);
        if draft.errors.is_empty() {
            return Ok(draft.held);
        }
        Err(ApiError::invalid("Service", "", api::meta::name(service), draft.errors))
    }
}

impl Draft<'_> {
    fn address(&mut self, spec: &mut Value) {
        if spec["type"] == "ExternalName" {
            return;
        }
        // Headless without a selector: whoever writes the endpoints decides, so both families are declared everywhere.
        let foreign = spec["clusterIP"] == "None" && spec["selector"].as_object().is_none_or(serde_json::Map::is_empty);
        if !foreign {
            self.families(spec);
        }
        let wanted = match spec["clusterIP"].as_str().unwrap_or("") {
            "" => spec["clusterIPs"][0].as_str().unwrap_or("").to_owned(),
            ip => ip.to_owned(),
        };
        let ip = match wanted.as_str() {
            "None" => "None".to_owned(),
            "" => match self.draw_ip() {
                Some(ip) => ip.to_string(),
                None => {
                    let detail = "failed to allocate a serviceIP: range is full";
                    return self.errors.push(FieldError::invalid("spec.clusterIPs", Value::Array(vec![]), detail));
                }
            },
            _ => match self.claim_ip(&wanted) {
                Ok(()) => wanted,
                Err(why) => {
                    let detail = format!("failed to allocate IP {wanted}: {why}");
                    return self.errors.push(FieldError::invalid("spec.clusterIPs", json!([wanted]), detail));
                }
            },
        };
        spec["clusterIP"] = ip.as_str().into();
        if spec["clusterIPs"].as_array().is_none_or(Vec::is_empty) {
            spec["clusterIPs"] = json!([ip]);
        }
    }

    fn families(&mut self, spec: &mut Value) {
        for (i, family) in spec["ipFamilies"].as_array().cloned().unwrap_or_default().iter().enumerate() {
            if family != "IPv4" {
                let field = format!("spec.ipFamilies[{i}]");
                self.errors.push(FieldError::invalid(field, family.clone(), "not configured on this cluster"));
            }
        }
        if spec["ipFamilyPolicy"] == "RequireDualStack" {
            let detail = "this cluster is not configured for dual-stack services";
            self.errors.push(FieldError::invalid("spec.ipFamilyPolicy", "RequireDualStack", detail));
        }
        if spec["ipFamilies"].as_array().is_none_or(Vec::is_empty) {
            spec["ipFamilies"] = json!(["IPv4"]);
        }
        if spec["ipFamilyPolicy"].as_str().is_none_or(str::is_empty) {
            spec["ipFamilyPolicy"] = "SingleStack".into();
        }
    }

    fn claim_ip(&mut self, wanted: &str) -> Result<(), String> {
        // A malformed address is the validation's to report.
        let Ok(ip) = wanted.parse::<Ipv4Addr>() else { return Ok(()) };
        let cidr = self.allocator.cidr;
        if !self.usable(ip) {
            return Err(format!("the provided IP ({ip}) is not in the valid range. The range of valid IPs is {cidr}"));
        }
        if self.own.ips.contains(&ip) {
            return Ok(());
        }
        if self.taken.ips.contains(&ip) {
            return Err("provided IP is already allocated".into());
        }
        self.held.ips.push(ip);
        Ok(())
    }

    /// Neither the network's own address nor its broadcast address.
    fn usable(&self, ip: Ipv4Addr) -> bool {
        let cidr = self.allocator.cidr;
        let last = cidr.nth(u32::try_from(cidr.len() - 1).unwrap_or(u32::MAX));
        cidr.contains(ip) && ip != cidr.base && Some(ip) != last
    }

    /// A free address, from the upper part of the range as long as there is one: the lower part is where people pick
    /// addresses by hand.
    fn draw_ip(&mut self) -> Option<Ipv4Addr> {
        let cidr = self.allocator.cidr;
        let size = u32::try_from(cidr.len()).unwrap_or(u32::MAX);
        let band = if size < 64 { 1 } else { (size / 16).clamp(16, 256) };
        let free = |n: u32| {
            let ip = cidr.nth(n)?;
            let ok = self.usable(ip) && !self.taken.ips.contains(&ip) && !self.allocator.set_aside.contains(&ip);
            ok.then_some(ip)
        };
        let mut rng = rand::rng();
        let drawn = (0..DRAWS).find_map(|_| free(rng.random_range(band..size)));
        let ip = drawn.or_else(|| (band..size).chain(1..band).find_map(free))?;
        self.held.ips.push(ip);
        Some(ip)
    }

    fn node_ports(&mut self, spec: &mut Value) {
        let kind = spec["type"].as_str().unwrap_or("ClusterIP").to_owned();
        let balancer = kind == "LoadBalancer";
        let wanted = kind == "NodePort" || (balancer && spec["allocateLoadBalancerNodePorts"] != false);
        if kind != "NodePort" && !balancer {
            return;
        }
        let health = balancer && spec["externalTrafficPolicy"] == "Local";
        let mut seen: Vec<(u16, String)> = Vec::new();
        for (i, port) in spec.get_mut("ports").and_then(Value::as_array_mut).into_iter().flatten().enumerate() {
            let protocol = port["protocol"].as_str().unwrap_or("TCP").to_owned();
            let field = format!("spec.ports[{i}].nodePort");
            let given = port["nodePort"].as_u64().and_then(|p| u16::try_from(p).ok()).filter(|&p| p != 0);
            match given {
                // One number for several protocols of one port is what DNS servers want; a repeated pair is refused
                // by the validation.
                Some(given) if seen.iter().any(|(p, proto)| *p == given && *proto != protocol) => {}
                Some(given) => {
                    if let Err(why) = self.claim_port(given) {
                        self.errors.push(FieldError::invalid(field, given, why));
                    }
                    seen.push((given, protocol));
                }
                None if wanted => match self.draw_port() {
                    Some(drawn) => {
                        port["nodePort"] = drawn.into();
                        seen.push((drawn, protocol));
                    }
                    None => {
                        self.errors.push(FieldError::invalid(field, 0, "failed to allocate a nodePort: range is full"))
                    }
                },
                None => {}
            }
        }
        if health {
            self.health_port(spec);
        }
    }

    fn health_port(&mut self, spec: &mut Value) {
        match spec["healthCheckNodePort"].as_u64().and_then(|p| u16::try_from(p).ok()).filter(|&p| p != 0) {
            Some(given) => {
                if let Err(why) = self.claim_port(given) {
                    self.errors.push(FieldError::invalid("spec.healthCheckNodePort", given, why));
                }
            }
            None => {
                if let Some(drawn) = self.draw_port() {
                    spec["healthCheckNodePort"] = drawn.into();
                }
            }
        }
    }

    fn claim_port(&mut self, port: u16) -> Result<(), String> {
        let (first, last) = self.allocator.ports;
        if self.own.ports.contains(&port) || self.held.ports.contains(&port) {
            return Ok(());
        }
        if !(first..=last).contains(&port) {
            return Err(format!("provided port is not in the valid range. The range of valid ports is {first}-{last}"));
        }
        if self.taken.ports.contains(&port) {
            return Err("provided port is already allocated".into());
        }
        self.held.ports.push(port);
        Ok(())
    }

    fn draw_port(&mut self) -> Option<u16> {
        let (first, last) = self.allocator.ports;
        let free = |port: u16| {
            let used =
                self.taken.ports.contains(&port) || self.own.ports.contains(&port) || self.held.ports.contains(&port);
            (!used).then_some(port)
        };
        let mut rng = rand::rng();
        let drawn = (0..DRAWS).find_map(|_| free(rng.random_range(first..=last)));
        let port = drawn.or_else(|| (first..=last).find_map(free))?;
        self.held.ports.push(port);
        Some(port)
    }
}

/// What a writer that left allocated fields out (or whose type no longer has them) means.
fn carry_over(new: &mut Value, old: &Value) {
    let (old, new) = (&old["spec"], &mut new["spec"]);
    if !new.is_object() || !old.is_object() {
        return;
    }
    let kind = |spec: &Value| spec["type"].as_str().unwrap_or("ClusterIP").to_owned();
    let (was, is) = (kind(old), kind(new));
    let has_ip = |kind: &str| kind != "ExternalName";
    let has_ports = |kind: &str| matches!(kind, "NodePort" | "LoadBalancer");
    let unset = |v: &Value| v.is_null() || v == "" || v.as_array().is_some_and(Vec::is_empty) || v == 0;
    if has_ip(&was) && has_ip(&is) {
        for key in ["clusterIP", "clusterIPs", "ipFamilies", "ipFamilyPolicy"] {
            if unset(&new[key]) && !unset(&old[key]) {
                new[key] = old[key].clone();
            }
        }
    }
    if has_ip(&was) && !has_ip(&is) {
        for key in ["clusterIP", "clusterIPs", "ipFamilies", "ipFamilyPolicy"] {
            if new[key] == old[key] {
                remove(new, key);
            }
        }
    }
    let same_port = |a: &Value, b: &Value| a["port"] == b["port"] && a["protocol"] == b["protocol"];
    let old_ports = old["ports"].as_array().cloned().unwrap_or_default();
    let given: Vec<Value> = new["ports"].as_array().into_iter().flatten().map(|p| p["nodePort"].clone()).collect();
    for port in new.get_mut("ports").and_then(Value::as_array_mut).into_iter().flatten() {
        let before = old_ports.iter().find(|p| same_port(p, port)).map(|p| &p["nodePort"]).filter(|p| !unset(p));
        match before {
            Some(before) if has_ports(&is) && unset(&port["nodePort"]) && !given.contains(before) => {
                port["nodePort"] = before.clone();
            }
            Some(before) if !has_ports(&is) && has_ports(&was) && port["nodePort"] == *before => {
                remove(port, "nodePort")
            }
            _ => {}
        }
    }
    if is == "LoadBalancer" && new["externalTrafficPolicy"] == "Local" && unset(&new["healthCheckNodePort"]) {
        if !unset(&old["healthCheckNodePort"]) {
            new["healthCheckNodePort"] = old["healthCheckNodePort"].clone();
        }
    } else if !(is == "LoadBalancer" && new["externalTrafficPolicy"] == "Local") {
        remove(new, "healthCheckNodePort");
    }
}

fn remove(object: &mut Value, key: &str) {
    if let Some(map) = object.as_object_mut() {
        map.remove(key);
    }
}
