//! Images from Dockerfiles.
//!
//! ```text
//! dockerfile (pure) → plan (pure: stages, names, what is needed) → solve (stages side by side) → stage → step → layer
//!                                   context, .dockerignore ────────────────────────────┘      └── runner (a trait)
//! ```
//!
//! A step that changes files mounts an overlay, works in it, and what was written becomes a layer of the image store, which
//! remembers it by a digest over all that it was made from: the files below, the instruction, the content of what it
//! copies. A step whose key is known is not done again. Nothing of a context or an image leads out of its folder.

mod client;
mod committed;
mod configure;
mod context;
mod copying;
pub mod dockerfile;
mod error;
pub mod expand;
mod files;
mod mount_points;
mod options;
mod output;
pub mod pattern;
mod plan;
mod progress;
mod run;
mod running;
mod solve;
mod stage;
mod state;
mod step;

pub use client::{Client, Definition, Remote, Used};
pub use committed::Commit;
pub use context::{is_git, text_in};
pub use error::{BuildError, Place, Result};
pub use options::{Context, DockerConfig, Environment, Named, Options, Output, Source};
pub use progress::{Event, Plain, Progress};
pub use run::{RunMount, RunSpec, Runner, Sink, Stream, canceled};
pub use solve::{Built, build, remove_leftovers};
