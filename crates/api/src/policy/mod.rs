//! Rules that admission applies to objects beyond their validity: resource limits and quotas of a namespace, and the pod
//! security standards. Pure: the objects that a rule compares with are handed in.

pub mod limits;
pub mod quota;
pub mod resources;
pub mod security;
