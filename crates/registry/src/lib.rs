//! A registry of images: the OCI distribution specification 1.1 over files in one folder.
//!
//! `route` and `manifest` are pure; `store` has the files; `uploads` what is on its way in; `handlers` answers requests; `server`
//! listens. Content is named by its digest, checked before it is visible, and on disk before it is acknowledged. What no
//! manifest names is removed by `gc` once it is old enough not to be part of a push. `proxy` makes it a cache of another registry.

mod access;
mod error;
mod gc;
mod handlers;
mod manifest;
mod proxy;
mod route;
mod server;
mod store;
mod uploads;

pub use access::{Access, AccessError};
pub use error::StartError;
pub use gc::{Swept, sweep};
pub use proxy::Proxying;
pub use server::{Config, Server, Tls};
pub use store::{RegistryStore, StoreError};
