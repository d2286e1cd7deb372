//! Containers: what clients ask for, what is known of one on disk, its life, and what is read out of it.

pub(crate) mod archive;
pub(crate) mod attach;
pub(crate) mod check;
pub(crate) mod control;
pub(crate) mod create;
pub(crate) mod exec;
pub(crate) mod health;
pub(crate) mod inspect;
pub(crate) mod keys;
pub(crate) mod life;
pub(crate) mod list;
pub(crate) mod logs;
pub(crate) mod model;
pub(crate) mod names;
pub(crate) mod pods;
pub(crate) mod ports;
pub(crate) mod record;
pub(crate) mod seed;
pub(crate) mod spec;
pub(crate) mod stats;
pub(crate) mod tree;
pub(crate) mod watches;
