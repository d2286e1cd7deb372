//! Decisions: from what is wanted (services, host ports) to nftables text. Pure.

pub(crate) mod bridges;
pub(crate) mod flows;
pub(crate) mod ruleset;
pub(crate) mod services;
