//! Pod and container init, exec, stdio, logs, reaping and exit records, in one single-threaded process per pod.
//!
//! ```text
//! engine ──spawn── launcher (sealed copy of the binary) ──fork── shim, one per pod ──fork── worker per start or exec
//!    └───────────── shim.sock: calls, replies, events, descriptors ──┘  └─ parent of every container's processes
//! ```
//!
//! Invariants: a shim has one thread, never blocks in its loop, outlives launcher and engine, and is the parent of all
//! that runs in its pod. An exit is on disk before anyone is told of it. libcontainer is called in workers only.

use std::process::ExitCode;

pub mod cgroup;
pub mod client;
mod container;
mod devices;
mod executor;
pub mod exit;
pub mod launch;
pub mod limits;
pub mod log;
pub mod proto;
pub mod sandbox;
mod serve;
mod server;
pub mod sys;
pub mod time;
pub mod users;
mod verify;
pub mod wire;
mod worker;

/// Runs this process as a launcher of shims if it was started as one (`windlass shim`); otherwise does nothing. To be
/// called first in `main`: forking is sound only while there is one thread.
pub fn main_if_shim() -> Option<ExitCode> {
    let is_shim = std::env::args_os().nth(1).is_some_and(|verb| verb == launch::VERB);
    is_shim.then(launch::main)
}
