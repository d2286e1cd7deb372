//! Compose files (compose-spec.io), and the workloads that they describe.
//!
//! ```text
//! files → yaml (places, anchors, merge keys) → interpolate → extends, include → merge → tree
//! tree → top, service (fields: an unknown key is an error) → Project → convert → Kubernetes objects
//! ```
//!
//! Pure: files and variables come through [`Host`]. What a file says is obeyed, refused with its place, or noted in
//! [`Project::notes`]; nothing is dropped in silence.

mod build;
mod deploy;
mod dotenv;
mod error;
mod fields;
mod interpolate;
mod load;
mod merge;
mod model;
mod objects;
mod ports;
mod project;
mod service;
mod short;
mod top;
mod volumes;
mod words;
mod yaml;

pub use error::{Error, Result};
pub use load::{Host, Options, PathKind, find};
pub use model::{Build, Condition, Dependency, Project, Service};
pub use project::{MANAGED_BY, load};

#[cfg(test)]
mod tests;
