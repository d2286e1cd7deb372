//! What the caches know of the kinds that they hold.

use k8s_openapi::api::apps::v1::{ControllerRevision, DaemonSet, Deployment, ReplicaSet, StatefulSet};
use k8s_openapi::api::autoscaling::v2::HorizontalPodAutoscaler;
use k8s_openapi::api::batch::v1::{CronJob, Job};
use k8s_openapi::api::certificates::v1::CertificateSigningRequest;
use k8s_openapi::api::coordination::v1::Lease;
use k8s_openapi::api::core::v1::{
    ConfigMap, Endpoints, Namespace, Node, PersistentVolume, PersistentVolumeClaim, Pod, ReplicationController, Secret,
    Service, ServiceAccount,
};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use k8s_openapi::api::policy::v1::PodDisruptionBudget;
use k8s_openapi::api::rbac::v1::ClusterRole;
use k8s_openapi::api::storage::v1::{CSIDriver, CSINode, CSIStorageCapacity, StorageClass, VolumeAttachment};
use reconcile::labels::{Labelled, Labels};
use reconcile::plan::{controller, terminating};
use reconcile::volume::snapshot::{VolumeSnapshot, VolumeSnapshotClass, VolumeSnapshotContent};

use super::shelf::Kept;

macro_rules! plain {
    ($($kind:ty),* $(,)?) => {
        $(impl Kept for $kind {
            type Sketch = ();
            const OPEN: usize = usize::MAX;
            fn sketch(&self) {}
        })*
    };
}

// There are few of these beside the pods, and controllers read whole namespaces of them.
plain!(
    CSIDriver,
    CSINode,
    CSIStorageCapacity,
    CertificateSigningRequest,
    ClusterRole,
    ConfigMap,
    ControllerRevision,
    CronJob,
    DaemonSet,
    Deployment,
    EndpointSlice,
    Endpoints,
    HorizontalPodAutoscaler,
    Job,
    Lease,
    Namespace,
    Node,
    PersistentVolume,
    PersistentVolumeClaim,
    PodDisruptionBudget,
    ReplicaSet,
    ReplicationController,
    Secret,
    Service,
    ServiceAccount,
    StatefulSet,
    StorageClass,
    VolumeAttachment,
    VolumeSnapshot,
    VolumeSnapshotClass,
    VolumeSnapshotContent,
);

/// What controllers pick pods by.
#[derive(Debug)]
pub struct PodSketch {
    labels: Labels,
    /// UID of the managing owner; empty without one.
    pub owner: Box<str>,
    /// The node that it is on; empty without one.
    pub node: Box<str>,
    /// Names of the claims of its volumes, those that are made for it too; nearly always none.
    claims: Option<Box<[Box<str>]>>,
    /// Whether it has ended, and its deletion has not been asked for.
    pub is_left: bool,
}

impl PodSketch {
    /// Whether a volume of the pod is that of the claim.
    pub fn names_claim(&self, claim: &str) -> bool {
        self.claims.iter().flatten().any(|name| **name == *claim)
    }
}

impl Labelled for PodSketch {
    fn label(&self, key: &str) -> Option<&str> {
        self.labels.label(key)
    }
}

impl Kept for Pod {
    type Sketch = PodSketch;
    const OPEN: usize = 2048;

    fn sketch(&self) -> PodSketch {
        let spec = self.spec.as_ref();
        let claims: Box<[Box<str>]> =
            reconcile::ephemeralvolume::claims(self).map(|(_, claim)| claim.as_ref().into()).collect();
        PodSketch {
            labels: Labels::of_typed(self.metadata.labels.as_ref()),
            owner: controller(&self.metadata).map_or("", |o| o.uid.as_str()).into(),
            node: spec.and_then(|s| s.node_name.as_deref()).unwrap_or_default().into(),
            claims: (!claims.is_empty()).then_some(claims),
            is_left: reconcile::pods::finished(self) && !terminating(&self.metadata),
        }
    }
}
