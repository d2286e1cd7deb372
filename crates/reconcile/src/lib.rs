//! Every decision of the cluster, as pure functions from what is seen to what should be done. No async, no clock, no
//! random numbers, no IO: time and state are arguments, actions are data ([`plan::Action`]).

pub mod autoscaler;
pub mod bootstraptoken;
pub mod certificates;
pub mod clusterrole;
pub mod cpus;
pub mod cronjob;
pub mod daemonset;
pub mod deployment;
pub mod disruption;
pub mod endpointslice;
pub mod endpointslicemirror;
pub mod ephemeralvolume;
pub mod eviction;
pub mod gc;
pub mod imagegc;
pub mod job;
pub mod labels;
pub mod mirror;
pub mod namespace;
pub mod node_lifecycle;
pub mod plan;
pub mod pod;
pub mod podgc;
pub mod pods;
pub mod probe;
pub mod replicas;
pub mod replicaset;
pub mod replicationcontroller;
pub mod revisions;
pub mod scheduler;
pub mod serviceaccount;
pub mod shutdown;
pub mod statefulset;
pub mod volume;
