//! `windlass up`, `ps`, `logs`, `rollback`, `rm`, `convert`: what a folder describes, as one project.
//!
//! ```text
//! folder → source (Compose, manifests, kustomization) → release (units of objects) → rollout (applied in waves, waited for)
//!                                                          └── history: releases as Secrets, of which rollbacks are made
//! ```

pub mod convert;
mod history;
mod images;
pub mod logs;
pub mod ps;
pub mod rm;
pub mod rollback;
mod rollout;
mod source;
mod things;
pub mod up;
