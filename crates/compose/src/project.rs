//! From the tree to the project.

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};

use crate::deploy;
use crate::error::{Error, Result};
use crate::fields::{Fields, Notes};
use crate::load::{Host, Options, Tree, tree};
use crate::model::{Condition, Project, Service};
use crate::service::{self, Context};
use crate::top::Top;
use crate::yaml::Node;

/// Label of everything that is applied here; with the project's it says what is to be removed when the files no longer name it.
pub const MANAGED_BY: (&str, &str) = ("app.kubernetes.io/managed-by", "windlass-up");

/// Reads a project.
///
/// # Errors
/// The place of the first thing that is wrong.
pub fn load(options: &Options, host: &dyn Host) -> Result<Project> {
    let Tree { root, env, dir, unset, .. } = tree(options, host)?;
    let notes: Notes = RefCell::default();
    for name in unset {
        notes.borrow_mut().push(format!("the variable {name} is not set and stands for nothing"));
    }
    let fields = Fields::of(&root, "", &notes)?;
    if fields.take("version").is_some() {
        fields.note("version", "it is obsolete and not looked at");
    }
    let name = name(options, host, &fields, &dir)?;
    let top = Top::read(&fields)?;
    fields.refuse(&[("models", "language models are not run")])?;
    let services = fields.named("services")?;
    fields.finish()?;
    let mut profiles: BTreeSet<String> = options.profiles.iter().cloned().collect();
    if options.profiles.is_empty() {
        let named = env.get("COMPOSE_PROFILES").unwrap_or_default();
        profiles.extend(named.split(',').filter(|p| !p.is_empty()).map(str::to_owned));
    }
    let context = Context { env: &env, host, top: &top, project: &name };
    let mut read = BTreeMap::new();
    let mut inactive = BTreeSet::new();
    for (service, node) in &services {
        if !active(service, node, &profiles, options, &notes)? {
            inactive.insert(service.clone());
            continue;
        }
        read.insert(service.clone(), service::read(service, node, &context, &notes)?);
    }
    dependencies(&mut read, &inactive)?;
    unique(&read)?;
    let namespace = convert::name(&name);
    let mut project =
        Project { namespace, dir, services: read, claims: top.made.clone(), data: Vec::new(), notes: Vec::new(), name };
    project.data = needed(&project, &top);
    shared(&project, &notes);
    project.notes = notes.into_inner();
    finish(&mut project);
    Ok(project)
}

/// The project's name: said, in the environment, in the files, or the folder's (compose-spec, "Name").
fn name(options: &Options, host: &dyn Host, fields: &Fields<'_>, dir: &std::path::Path) -> Result<String> {
    let in_file = fields.text("name")?.filter(|n| !n.is_empty());
    let said = options.name.clone().or_else(|| host.env("COMPOSE_PROJECT_NAME").filter(|n| !n.is_empty())).or(in_file);
    if let Some(name) = said {
        let fine = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-' || c == '_';
        if !name.chars().all(fine) || !name.starts_with(|c: char| c.is_ascii_lowercase() || c.is_ascii_digit()) {
            let message = format!(
                "{name:?} is not the name of a project: lower case letters, digits, dashes and underscores, first a letter or digit"
            );
            return Err(Error::plain(message));
        }
        return Ok(name);
    }
    let folder = dir.file_name().map(|n| n.to_string_lossy().to_lowercase()).unwrap_or_default();
    let kept: String = folder.chars().filter(|c| c.is_ascii_alphanumeric() || *c == '-' || *c == '_').collect();
    let name = kept.trim_start_matches(['-', '_']);
    if name.is_empty() {
        return Err(Error::plain(format!(
            "the project needs a name: that of the folder {} has no letter",
            dir.display()
        )));
    }
    Ok(name.to_owned())
}

fn active(name: &str, node: &Node, profiles: &BTreeSet<String>, options: &Options, notes: &Notes) -> Result<bool> {
    let own = Fields::of(node, format!("services.{name}"), notes)?.texts("profiles")?;
    let wanted = own.is_empty() || profiles.contains("*") || own.iter().any(|p| profiles.contains(p));
    Ok(wanted || options.services.iter().any(|s| s == name))
}

/// Checks whom services wait for, and makes jobs of those that are waited for until they end.
fn dependencies(services: &mut BTreeMap<String, Service>, inactive: &BTreeSet<String>) -> Result<()> {
    let mut ending = BTreeSet::new();
    for (name, service) in services.iter() {
        for (other, dependency) in &service.depends_on {
            let there = services.contains_key(other);
            if !there && dependency.required {
                let why = if inactive.contains(other) { "whose profile is not active" } else { "that is not defined" };
                return Err(Error::plain(format!("services.{name}.depends_on: it depends on {other:?} {why}")));
            }
            if dependency.condition == Condition::Completed {
                ending.insert(other.clone());
            }
        }
    }
    let known: BTreeSet<String> = services.keys().cloned().collect();
    for service in services.values_mut() {
        service.depends_on.retain(|other, _| known.contains(other));
        if ending.contains(&service.name) {
            deploy::once(&mut service.workload, None);
            service.workload.headless = false;
        }
    }
    let waves = waves(services);
    let placed: usize = waves.iter().map(Vec::len).sum();
    if placed < services.len() {
        let placed: BTreeSet<&String> = waves.iter().flatten().collect();
        let circle: Vec<&str> = services.keys().filter(|n| !placed.contains(n)).map(String::as_str).collect();
        return Err(Error::plain(format!("services wait for each other in a circle: {}", circle.join(", "))));
    }
    Ok(())
}

/// The services in the order in which they can be started: those of one wave wait for earlier waves only.
pub fn waves(services: &BTreeMap<String, Service>) -> Vec<Vec<String>> {
    let mut done: BTreeSet<&String> = BTreeSet::new();
    let mut waves = Vec::new();
    loop {
        let ready = |s: &&Service| !done.contains(&s.name) && s.depends_on.keys().all(|d| done.contains(d));
        let wave: Vec<&String> = services.values().filter(ready).map(|s| &s.name).collect();
        if wave.is_empty() {
            return waves;
        }
        done.extend(wave.iter().copied());
        waves.push(wave.into_iter().cloned().collect());
    }
}

/// Two services cannot have one name or one port of the host.
fn unique(services: &BTreeMap<String, Service>) -> Result<()> {
    let mut names: BTreeMap<String, &str> = BTreeMap::new();
    let mut ports: BTreeMap<(u16, convert::Protocol), &str> = BTreeMap::new();
    for service in services.values() {
        let own = [service.workload.name.clone()];
        let published = service.workload.ports.iter().filter_map(|p| match p.published {
            convert::Published::Cluster => None,
            convert::Published::Everywhere(n) | convert::Published::Loopback(n) | convert::Published::OnNode(n) => {
                Some((n, p.protocol))
            }
        });
        for port in published {
            if let Some(other) = ports.insert(port, &service.name) {
                let (number, both) = (port.0, [other, &service.name]);
                return Err(Error::plain(format!(
                    "services.{}: port {number} of the host is published twice, also by {}",
                    both[1], both[0]
                )));
            }
        }
        for name in own.into_iter().chain(service.aliases.iter().cloned()) {
            if let Some(other) = names.insert(name.clone(), &service.name)
                && other != service.name
            {
                return Err(Error::plain(format!(
                    "{other} and {} are both called {name} in the cluster",
                    service.name
                )));
            }
        }
    }
    Ok(())
}

/// The data that pods of active services mention.
fn needed(project: &Project, top: &Top) -> Vec<convert::Data> {
    let all = serde_json::Value::Array(project.services.values().flat_map(|s| convert::objects(&s.workload)).collect());
    let text = all.to_string();
    top.data().into_iter().filter(|d| text.contains(&format!("{:?}", d.name))).collect()
}

/// A claim is for one node at a time.
fn shared(project: &Project, notes: &Notes) {
    for claim in &project.claims {
        let source = convert::Source::Claim(claim.name.clone());
        let uses = |s: &&Service| s.workload.pod.volumes.iter().any(|v| v.source == source);
        let users: Vec<&str> = project.services.values().filter(uses).map(|s| s.name.as_str()).collect();
        if users.len() > 1 {
            notes.borrow_mut().push(format!(
                "volumes: {} is used by {}: in a cluster of several nodes their pods must be on one",
                claim.name,
                users.join(" and ")
            ));
        }
    }
}

/// Namespaces and labels of everything.
fn finish(project: &mut Project) {
    let labels = BTreeMap::from([
        (MANAGED_BY.0.to_owned(), MANAGED_BY.1.to_owned()),
        (convert::PROJECT.to_owned(), convert::label_value(&project.name)),
    ]);
    let namespace = Some(project.namespace.clone());
    for service in project.services.values_mut() {
        service.workload.namespace.clone_from(&namespace);
        service.workload.labels.extend(labels.clone());
    }
    for claim in &mut project.claims {
        claim.namespace.clone_from(&namespace);
        claim.labels.extend(labels.clone());
    }
    for data in &mut project.data {
        data.namespace.clone_from(&namespace);
        data.labels.extend(labels.clone());
    }
}
