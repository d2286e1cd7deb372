//! A cluster in memory, run by a seed: an API server of maps, controllers that see it late, nodes that run pods, and
//! faults. The controllers are the real decisions of `reconcile`; everything else here is as small as it can be.
//!
//! What is simulated of the world's unreliability: each kind is seen with its own delay; a plan may stop after any of its
//! actions; an answer may be lost although the action was carried out; controllers lose what they remember; pods fail.

pub mod drive;
pub mod world;

pub use drive::{Faults, Sim};
pub use world::World;
