//! HTTP: connections, paths, parameters, bodies.

pub mod accept;
pub mod body;
pub mod decode;
pub mod listener;
pub mod path;
pub mod query;
pub mod respond;
pub mod yaml;

pub use body::Body;
