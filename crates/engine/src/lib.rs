//! Containers, sandboxes and their file systems on one node.
//!
//! ```text
//! Engine ── one driver task per sandbox ── link ── shim (a process per sandbox, outlives us) ── containers
//!    ├── image store: layers, writable file systems        ├── records: what we remember across restarts
//!    └── network: address and interface per sandbox        └── run folder: namespaces, sockets, mounts; gone at reboot
//! ```
//!
//! Invariants: one task changes one sandbox's state; a record is written before what it describes is made and removed
//! after it is gone, so that a crash at any step leaves nothing nameless; `Exited` is said of what was reaped or killed.

mod builder;
mod context;
mod control;
mod down;
mod driver;
mod engine;
mod fault;
mod fdio;
mod files;
mod in_root;
mod link;
pub mod oci;
mod record;
pub mod runtime;
mod session;
pub mod signal;
mod usage;
mod user;
mod users;
pub mod weights;

pub use build;
pub use builder::Builder;
pub use control::Choice;
pub use down::{destroy_all, leftovers};
pub use engine::{Engine, EngineConfig, OpenError};
pub use image;
pub use shim::wire::read_with_descriptors;
pub use usage::of_host;
