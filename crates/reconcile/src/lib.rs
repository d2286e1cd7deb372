//! Every decision of the cluster, as pure functions from what is seen to what should be done. No async, no clock, no
//! random numbers, no IO: time and state are arguments, actions are data ([`plan::Action`]).

pub mod certificates;
pub mod clusterrole;
pub mod deployment;
pub mod endpointslice;
pub mod gc;
pub mod job;
pub mod labels;
pub mod namespace;
pub mod node_lifecycle;
pub mod plan;
pub mod pod;
pub mod pods;
pub mod probe;
pub mod replicaset;
pub mod scheduler;
pub mod serviceaccount;
pub mod statefulset;
pub mod volume;
