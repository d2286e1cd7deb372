//! The node agent: it makes the pods bound to its node run, reports what they do, and gives the cluster a way into them.
//!
//! Decisions are [`reconcile::pod`]'s; this crate carries them out. One task per pod writes that pod's state; runtime
//! events, object watches and timers only wake it. When the agent ends, pods go on running; the next agent adopts them.

pub mod config;
pub mod images;
pub mod parts;
pub mod runtime;
pub mod server;

mod agent;
mod apparmor;
mod context;
mod cpus;
mod csi;
mod events;
mod eviction;
mod host;
mod huge_pages;
pub mod mirror;
mod node_object;
mod objects;
mod paths;
mod pods;
mod probes;
mod services;
mod shutdown;
mod spec;
mod supported;
#[cfg(test)]
mod testing;
mod volumes;

pub use agent::Agent;
pub use config::{AgentConfig, AgentError, ServerConfig};
pub use cpus::{CpuError, CpuPolicy};
pub use eviction::EvictionConfig;
pub use parts::Parts;
pub use shutdown::ShutdownConfig;

/// Unmounts the volumes of all pods of an instance whose processes have ended; what is in them stays. Removing the data
/// directory is safe only after this: a volume may be a bind of a folder that is not ours.
///
/// # Errors
/// When a mount can neither be removed nor detached.
pub fn release_volumes(instance: &base::instance::Instance) -> std::io::Result<()> {
    let paths = paths::Paths::of(instance);
    for folder in [paths.pods(), paths.kubelet(), paths.local_volumes()] {
        volumes::mounts::unmount_below(&folder)?;
    }
    volumes::block::detach_all(&paths.local_volumes())
}
