//! What Docker's world says of a workload, as Kubernetes objects: services of a compose file, services of a swarm and containers
//! that are promoted all come through here, so that all three end alike.
//!
//! ```text
//! compose.yaml ─┐
//! service spec ─┼─→ Workload ── objects() ─→ Deployment | StatefulSet | DaemonSet | Job, Service
//! container    ─┘   Data, Claim ───────────→ ConfigMap | Secret, PersistentVolumeClaim
//! ```
//!
//! Invariants: the same workload gives the same objects, byte for byte; they apply unchanged on stock Kubernetes; what Kubernetes
//! cannot say has no place in the model, so that whoever fills it must refuse it or say that it is lost.

mod inspect;
mod model;
mod names;
mod objects;
mod pod;
mod promote;

pub use inspect::{Config as InspectConfig, Healthcheck, Inspect, is_secret};
pub use model::{
    Claim, Container, Data, From, Health, HealthTest, Host, Item, Kind, Mount, Pod, Port, Protocol, Published,
    Resources, Restart, Source, Update, Value, Variable, Volume, Workload,
};
pub use names::{NAME, PROJECT, checksum, label_value, name};
pub use objects::{claim, data, objects};
pub use promote::{Place, Promoted, project_of, promote, workload_name};
