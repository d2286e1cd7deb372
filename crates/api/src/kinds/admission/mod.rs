//! Webhook configurations and admission policies.

mod policies;
mod rules;
mod typing;
mod webhooks;

pub(super) use policies::{MUTATING_BINDING, MUTATING_POLICY, VALIDATING_BINDING, VALIDATING_POLICY};
pub use typing::type_checking;
pub(crate) use webhooks::client_config;
pub(super) use webhooks::{MUTATING_WEBHOOKS, VALIDATING_WEBHOOKS};
