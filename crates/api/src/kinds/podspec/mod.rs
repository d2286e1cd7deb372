//! Rules of pod specs, shared by pods and every kind with a pod template.

mod containers;
mod defaults;
mod ephemeral;
mod probes;
mod processes;
mod resize;
mod restarts;
mod scheduling;
mod security;
mod update;
mod validate;
mod volumes;

pub(super) use defaults::default_pv_source;
pub(super) use defaults::{default_pod_level, default_spec, default_template};
pub use ephemeral::{prepare_ephemeral, validate_ephemeral_update};
pub use resize::{prepare_resize, validate_resize};
pub(super) use restarts::may_run_again;
pub(super) use scheduling::{validate_node_selector, validate_toleration};
pub(super) use update::validate_update;
pub(super) use validate::{validate_spec, validate_template};
pub(super) use volumes::validate_claims_of_pod;
