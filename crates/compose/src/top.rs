//! What stands beside the services: volumes, networks, configs and secrets.

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use convert::{Claim, Data};
use sha2::{Digest, Sha256};

use crate::error::{Error, Result};
use crate::fields::Fields;
use crate::service::Context;

/// Size of a claim that says none.
const VOLUME_BYTES: u64 = 10 << 30;
/// Most bytes of a config or secret: an object holds 1 MiB with all that is around it.
const DATA_MAX: usize = 1_000_000;
/// The key that says a volume's size.
const SIZE: &str = "x-windlass-size";

/// What they are.
#[derive(Default)]
pub struct Top {
    /// Name in the file → name of the claim.
    pub claims: BTreeMap<String, String>,
    /// Claims to be made.
    pub made: Vec<Claim>,
    /// Networks that are defined.
    pub networks: BTreeSet<String>,
    files: BTreeMap<(bool, String), Origin>,
    kept: RefCell<BTreeMap<String, Data>>,
}

/// Where the content of a config or secret comes from.
enum Origin {
    /// An object that is there already.
    Outside(String),
    File(String),
    Variable(String),
    Text(String),
}

impl Top {
    /// Reads them from the root of a file.
    pub fn read(root: &Fields<'_>) -> Result<Top> {
        let mut top = Top::default();
        for (name, node) in root.named("volumes")? {
            let fields = Fields::of(&node, format!("volumes.{name}"), root.notes())?;
            top.volume(&name, &fields)?;
        }
        let mut internal = false;
        for (name, node) in root.named("networks")? {
            let fields = Fields::of(&node, format!("networks.{name}"), root.notes())?;
            network(&fields)?;
            internal |= fields.truth("internal")? == Some(true);
            if internal {
                fields.note("internal", "pods reach whatever the node reaches");
            }
            fields.finish()?;
            top.networks.insert(name);
        }
        if top.networks.len() > 1 {
            root.note("networks", "all services of the project reach each other: pods have one network");
        }
        for (key, secret) in [("configs", false), ("secrets", true)] {
            for (name, node) in root.named(key)? {
                let fields = Fields::of(&node, format!("{key}.{name}"), root.notes())?;
                let origin = origin(&name, secret, &fields)?;
                fields.finish()?;
                top.files.insert((secret, name), origin);
            }
        }
        Ok(top)
    }

    fn volume(&mut self, name: &str, fields: &Fields<'_>) -> Result<()> {
        let outside = external(fields)?;
        let own = fields.text("name")?;
        let claim = convert::name(own.as_deref().or(outside.name.as_deref()).unwrap_or(name));
        if let Some(driver) = fields.text("driver")?.filter(|d| d != "local") {
            return Err(fields.wrong(
                "driver",
                format!("{driver:?} is not supported: volumes are claims of the cluster's default class"),
            ));
        }
        fields.refuse(&[("driver_opts", "volumes are claims of the cluster's default class; use a bind mount")])?;
        let mut annotations = BTreeMap::new();
        for (key, value) in fields.pairs("labels")? {
            if crate::service::annotation(&key) {
                annotations.insert(key, value.unwrap_or_default());
            } else {
                fields.note("labels", &format!("{key:?} cannot be the name of an annotation and is left out"));
            }
        }
        let size = fields.bytes(SIZE)?.unwrap_or(VOLUME_BYTES);
        fields.finish()?;
        if !outside.is {
            self.made.push(Claim { name: claim.clone(), annotations, size, ..Claim::default() });
        }
        self.claims.insert(name.to_owned(), claim);
        Ok(())
    }

    /// Keeps data under a name that ends with a checksum of it: a change is another object, so pods of the old release keep theirs.
    pub fn keep(&self, name: &str, secret: bool, entries: BTreeMap<String, Vec<u8>>) -> String {
        let mut digest = Sha256::new();
        for (key, value) in &entries {
            for part in [key.as_bytes(), value] {
                digest.update((part.len() as u64).to_le_bytes());
                digest.update(part);
            }
        }
        let name = convert::name(&format!("{name}-{}", &hex::encode(digest.finalize())[..10]));
        let data = Data { name: name.clone(), secret, immutable: true, entries, ..Data::default() };
        self.kept.borrow_mut().insert(format!("{secret}/{name}"), data);
        name
    }

    /// Everything that was kept.
    pub fn data(&self) -> Vec<Data> {
        self.kept.borrow().values().cloned().collect()
    }

    /// The object of a config or secret and the entry in it; none when it is not defined.
    pub fn file(&self, name: &str, secret: bool, context: &Context<'_>) -> Result<Option<(String, String)>> {
        let Some(origin) = self.files.get(&(secret, name.to_owned())) else { return Ok(None) };
        let entry = entry(name);
        if let Origin::Outside(object) = origin {
            return Ok(Some((convert::name(object), entry)));
        }
        let bytes = content(origin, context)?;
        if bytes.len() > DATA_MAX {
            let message = format!("{name} has {} bytes; a config or secret may have {DATA_MAX}", bytes.len());
            return Err(Error::plain(message));
        }
        Ok(Some((self.keep(name, secret, BTreeMap::from([(entry.clone(), bytes)])), entry)))
    }

    /// The content of a secret that is the project's own.
    pub fn secret_bytes(&self, name: &str, context: &Context<'_>) -> Option<Vec<u8>> {
        content(self.files.get(&(true, name.to_owned()))?, context).ok()
    }
}

/// A key that an object takes.
fn entry(name: &str) -> String {
    name.chars().map(|c| if c.is_ascii_alphanumeric() || "-_.".contains(c) { c } else { '_' }).collect()
}

fn content(origin: &Origin, context: &Context<'_>) -> Result<Vec<u8>> {
    match origin {
        Origin::File(path) => context.host.read(Path::new(path)).map_err(|e| Error::plain(format!("read {path}: {e}"))),
        Origin::Variable(name) => match context.env.get(name) {
            Some(value) => Ok(value.into_bytes()),
            None => Err(Error::plain(format!(
                "environment variable {name:?} is required by a config or secret and not set"
            ))),
        },
        Origin::Text(text) => Ok(text.clone().into_bytes()),
        Origin::Outside(name) => Err(Error::plain(format!("{name} is outside of the project"))),
    }
}

struct External {
    is: bool,
    name: Option<String>,
}

/// `external`: true, or (of old) a mapping with a name.
fn external(fields: &Fields<'_>) -> Result<External> {
    let old = fields.take("external").filter(|n| n.text().is_none());
    if let Some(node) = old {
        let one = Fields::of(node, fields.at("external"), fields.notes())?;
        let name = one.text("name")?;
        one.finish()?;
        return Ok(External { is: true, name });
    }
    Ok(External { is: fields.truth("external")?.unwrap_or(false), name: None })
}

fn network(fields: &Fields<'_>) -> Result<()> {
    fields.text("name")?;
    match fields.text("driver")?.as_deref() {
        None | Some("bridge" | "overlay") => {}
        Some(other) => {
            return Err(fields.wrong("driver", format!("{other:?} is not supported: pods have the cluster's network")));
        }
    }
    if external(fields)?.is {
        fields.note("external", "pods have the cluster's network, and reach nothing of Docker's networks");
    }
    fields.truth("enable_ipv4")?;
    let cluster = "pods have the cluster's network";
    fields.lose(&[
        ("driver_opts", cluster),
        ("ipam", cluster),
        ("enable_ipv6", cluster),
        ("attachable", cluster),
        ("labels", cluster),
    ]);
    Ok(())
}

fn origin(name: &str, secret: bool, fields: &Fields<'_>) -> Result<Origin> {
    let own = fields.text("name")?;
    let outside = external(fields)?;
    let file = fields.text("file")?.map(Origin::File);
    let variable = fields.text("environment")?.map(Origin::Variable);
    let content = if secret { None } else { fields.text("content")?.map(Origin::Text) };
    fields.lose(&[("labels", "the object is named after its content and has the project's labels")]);
    fields.refuse(&[("template_driver", "contents are taken as they are")])?;
    if secret {
        let here = "secrets come from files, variables or the cluster";
        fields.refuse(&[("driver", here), ("driver_opts", here)])?;
    }
    let outside = outside.is.then(|| Origin::Outside(own.or(outside.name).unwrap_or_else(|| name.to_owned())));
    let mut all: Vec<Origin> = [file, variable, content, outside].into_iter().flatten().collect();
    match (all.pop(), all.is_empty()) {
        (Some(one), true) => Ok(one),
        _ => Err(fields.wrong("", "it comes from one of file, environment, content or external")),
    }
}
