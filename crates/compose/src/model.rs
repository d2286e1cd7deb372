//! A project as it was understood.

use std::collections::BTreeMap;
use std::path::PathBuf;

use convert::{Claim, Data, Workload};

/// What the files describe.
#[derive(Debug, Clone)]
pub struct Project {
    /// Its name.
    pub name: String,
    /// Where it lives.
    pub namespace: String,
    /// The folder it was read from.
    pub dir: PathBuf,
    /// The services that are wanted, by name.
    pub services: BTreeMap<String, Service>,
    /// Claims of named volumes.
    pub claims: Vec<Claim>,
    /// ConfigMaps and Secrets, named after their content.
    pub data: Vec<Data>,
    /// What is lost or means something else, each with its place.
    pub notes: Vec<String>,
}

/// One service.
#[derive(Debug, Clone)]
pub struct Service {
    /// Its name in the file.
    pub name: String,
    /// What it becomes.
    pub workload: Workload,
    /// How its image is made.
    pub build: Option<Build>,
    /// The image as it was named; what is built has a default name.
    pub image: String,
    /// Whom it waits for.
    pub depends_on: BTreeMap<String, Dependency>,
    /// Whether the file says how its health is checked; if not, its image may.
    pub health_said: bool,
    /// Further names that lead to it.
    pub aliases: Vec<String>,
}

/// What is waited for of another service.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Dependency {
    /// What must be true of it.
    pub condition: Condition,
    /// Whether it must be there at all.
    pub required: bool,
}

/// What must be true of a dependency.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Condition {
    /// It was started.
    Started,
    /// It is well.
    Healthy,
    /// It ended well.
    Completed,
}

/// How an image is made.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Build {
    /// A folder or an address.
    pub context: String,
    /// The Dockerfile in it.
    pub dockerfile: Option<String>,
    /// The Dockerfile itself.
    pub inline: Option<String>,
    /// Values of `ARG`s; without one it is taken from the environment.
    pub args: BTreeMap<String, String>,
    /// Labels of the image.
    pub labels: BTreeMap<String, String>,
    /// Other contexts.
    pub contexts: BTreeMap<String, String>,
    /// Secrets of the build.
    pub secrets: BTreeMap<String, Vec<u8>>,
    /// The stage.
    pub target: Option<String>,
    /// Further names of the image.
    pub tags: Vec<String>,
    /// Nothing from the cache.
    pub no_cache: bool,
    /// Base images are asked for anew.
    pub pull: bool,
    /// `none`, `host` or nothing.
    pub network: Option<String>,
    /// Lines of /etc/hosts that commands see.
    pub hosts: Vec<(String, std::net::IpAddr)>,
}
