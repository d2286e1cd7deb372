//! What the end-to-end suites share: a runner that counts skips, an instance of the real binary, kubectl, a base image made
//! on the spot, a small HTTP client with a load generator, and the check that nothing is left on the host.
//!
//! The suites see Windlass only from outside: its command line, its API through kubectl, the kernel. The one thing taken from
//! the product is `base::instance`, which names what an instance makes on a host and so what must be gone afterwards.

mod busybox;
pub mod command;
mod disk;
pub mod http;
mod instance;
mod kubectl;
pub mod leaks;
mod manifest;
mod registry;
mod runner;
mod wait;

pub use busybox::rootfs_tar;
pub use disk::{Disk, Small, on_small_disk};
pub use instance::{Instance, InstanceBuilder, free_port, signal_pid, windlass};
pub use kubectl::{Ctx, Kubectl};
pub use manifest::{IDLE, IMAGE, container, deployment, httpd, merge, pod, service};
pub use registry::DebianRegistry;
pub use runner::{Suite, Test, needs_root, skip};
pub use wait::{eventually, patient};
