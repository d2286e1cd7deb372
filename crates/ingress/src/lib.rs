//! The HTTP entry point of a node: Ingress objects become a route table, requests go to ready endpoints.
//!
//! [`RouteTable::build`] is pure; [`Server`] serves whatever table it was given last, swapped at once. Requests go
//! straight to endpoints, not to service addresses: the server sees which endpoint failed and tries another.

mod body;
mod build;
mod headers;
mod pool;
mod proxy;
mod route;
mod server;
mod state;
mod stats;
mod tls;

pub use build::{CLASS, CONTROLLER, Input, is_ours};
pub use route::{Backend, CertificateError, CertificatePem, Problem, RouteTable};
pub use server::{Config, Limits, Server, ServerError};
pub use stats::StatsSnapshot;
