//! The Kubernetes API over HTTPS, and over a `tower::Service` for clients in the same process.
//!
//! A request is authenticated, authorized, decoded, completed by admission, validated, and written to the store at the
//! revision it was based on. Reads are answered from a cache that holds every object encoded, so that a list is a
//! concatenation of bytes; a write is answered when the cache shows it.

mod admission;
mod aggregation;
mod audit;
mod authn;
mod authz;
mod bootstrap;
mod cache;
mod config;
mod conversion;
mod extension;
mod flow;
#[doc(hidden)]
pub mod fuzz;
mod handlers;
mod http;
mod meter;
mod outbound;
pub mod pki;
mod proxy;
mod server;
mod webhook;

pub use audit::{AuditConfig, AuditError};
pub use authn::{OidcConfig, OidcError, UserInfo};
pub use authz::{Attributes, Authorizer, Decision};
pub use cache::Caches;
pub use config::{Config, Limits};
pub use handlers::{CONTROLLERS, Components, SCHEDULER, version};
pub use http::Body;
pub use http::listener::TlsError;
pub use server::{ApiServer, InProcess, StartError};
