//! Pods on this node: a manager that follows them and a worker for each.

pub(crate) mod garbage;
pub(crate) mod job;
mod line;
pub(crate) mod manager;
mod orphans;
pub(crate) mod pull;
pub(crate) mod report;
mod view;
mod way;
mod worker;
