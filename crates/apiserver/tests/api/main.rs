//! The API server as its clients see it, in process over a memory store; one binary, because what each of thirty would
//! link is the same.
#![allow(missing_docs, clippy::unwrap_used)]

mod common;

mod access;
mod admission;
mod admission_api;
mod admission_policies;
mod aggregation;
mod audit;
mod bad_input;
mod certificates;
mod crd;
mod crd_conversion;
mod crd_rules;
mod crd_versions;
mod crud;
mod deletion;
mod flow;
mod hostile;
mod http_proxy;
mod kinds;
mod kube_client;
mod kubectl;
mod lists;
mod mutating_policies;
mod oidc;
mod openapi_v2;
mod pod_parts;
mod policies;
mod protobuf;
mod proxy;
mod quota_scopes;
mod rbac;
mod shared;
mod storage;
mod webhooks;
