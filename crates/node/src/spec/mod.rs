//! From a pod's spec to what the runtime is asked for. Everything here is pure: objects it needs are fetched before.

pub(crate) mod container;
pub(crate) mod downward;
pub(crate) mod env;
pub(crate) mod env_file;
pub(crate) mod expand;
pub(crate) mod refs;
pub(crate) mod resources;
pub(crate) mod sandbox;
pub(crate) mod security;

use std::collections::BTreeMap;
use std::sync::Arc;

use crate::objects::{Content, Key};

/// Objects a pod refers to, as they were when they were looked up.
pub(crate) type Lookup = BTreeMap<Key, Option<Arc<Content>>>;

/// The pod asks for something that is not there (yet) or not right: `CreateContainerConfigError`.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub(crate) struct ConfigError(pub(crate) String);

impl ConfigError {
    pub(crate) fn new(message: impl Into<String>) -> Self {
        ConfigError(message.into())
    }
}
