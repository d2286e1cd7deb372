//! Files on their way from a context, a stage or an image into a layer.

mod choose;
mod copy;
mod modes;
mod owner;
pub mod root;

pub use choose::{Chosen, Request, choose, digest};
pub use copy::{Put, put};
pub use modes::Modes;
pub use owner::{Owner, owner_of};
