//! Kubernetes API machinery as pure functions over `serde_json::Value`.
//!
//! Nothing here does IO, reads a clock or draws a random number: callers pass the time and fresh identifiers in. The API
//! server, the controllers and the tests therefore share one definition of what an object means.

pub mod cel;
pub mod crd;
pub mod cron;
pub mod discovery;
pub mod duration;
pub mod kinds;
pub mod labels;
pub mod managed_fields;
pub mod meta;
pub mod names;
pub mod openapi;
pub mod patch;
pub mod policy;
pub mod protobuf;
pub mod quantity;
pub mod schema;
pub mod selectors;
pub mod ssa;
pub mod status;
pub mod table;

pub(crate) mod json;
