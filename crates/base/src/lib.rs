//! What every layer may know: identities and names. No wire types, no "misc".

pub mod backoff;
pub mod clock;
mod errors;
pub mod instance;
pub mod log;
pub mod prometheus;
pub mod rt;
pub mod trace;

pub use errors::chain;
