//! Columns of each kind, in kubectl's order and with its headings.

mod access;
mod admission;
mod apps;
mod autoscaling;
mod control_plane;
mod core;
mod infra;
mod network;
mod node;
mod pod;
mod scheduling;
mod storage;
mod workloads;

use crate::kinds::{Column, Columns};

pub use access::ROLE_BINDING;
pub use admission::{MUTATING_POLICY, POLICY_BINDING, VALIDATING_POLICY, WEBHOOKS};
pub use autoscaling::AUTOSCALER;
pub use control_plane::{API_SERVICE, COMPONENT_STATUS, FLOW_SCHEMA, PRIORITY_LEVEL, SIGNING_REQUEST};
pub use infra::{
    ATTACHMENT, ATTRIBUTES_CLASS, CLAIM, CSI_CAPACITY, CSI_DRIVER, CSI_NODE, IP_ADDRESS, NETWORK_POLICY, SERVICE_CIDR,
    SLICE,
};
pub use scheduling::{PRIORITY_CLASS, RESOURCE_QUOTA, RUNTIME_CLASS};
pub use workloads::{CRON_JOB, DAEMON_SET, DISRUPTION_BUDGET, POD_TEMPLATE, REPLICATION_CONTROLLER};

pub(super) use self::pod::status_word as pod_status_word;

const fn col(name: &'static str, kind: &'static str, description: &'static str) -> Column {
    Column { name, kind, format: "", description, priority: 0 }
}

/// Shown with `-o wide` only.
const fn wide(name: &'static str, description: &'static str) -> Column {
    Column { name, kind: "string", format: "", description, priority: 1 }
}

const NAME: Column = Column { format: "name", ..col("Name", "string", "Name must be unique within a namespace.") };
const CONTAINERS: Column = wide("Containers", "Container names of the template.");
const IMAGES: Column = wide("Images", "Container images of the template.");
const AGE: Column = col("Age", "string", "Time since the object was created.");

/// Columns of kinds that have nothing more to show.
pub const PLAIN: Columns = Columns { list: &[NAME, AGE], row: self::core::plain };

/// Columns of kinds whose time of creation is shown as it is.
pub const CREATED_AT: Columns =
    Columns { list: &[NAME, col("Created At", "date", "Time the object was created.")], row: self::core::created_at };

/// Columns of config maps.
pub const CONFIG_MAP: Columns = Columns {
    list: &[NAME, col("Data", "string", "Number of keys in the config map."), AGE],
    row: self::core::config_map,
};

/// Columns of endpoints.
pub const ENDPOINTS: Columns = Columns {
    list: &[NAME, col("Endpoints", "string", "Addresses and ports that back the service."), AGE],
    row: self::network::endpoints,
};

/// Columns of events.
pub const EVENT: Columns = Columns {
    list: &[
        col("Last Seen", "string", "Time since the event was last observed."),
        col("Type", "string", "Normal or Warning."),
        col("Reason", "string", "Short, machine-readable reason of the event."),
        col("Object", "string", "What the event is about."),
        wide("Subobject", "Part of the object the event is about."),
        wide("Source", "Who reported the event."),
        col("Message", "string", "What happened."),
        wide("First Seen", "Time since the event was first observed."),
        wide("Count", "How often the event was observed."),
        Column { priority: 1, ..NAME },
    ],
    row: self::core::event,
};

/// Columns of namespaces.
pub const NAMESPACE: Columns =
    Columns { list: &[NAME, col("Status", "string", "Phase of the namespace."), AGE], row: self::core::namespace };

/// Columns of nodes.
pub const NODE: Columns = Columns {
    list: &[
        NAME,
        col("Status", "string", "Readiness of the node."),
        col("Roles", "string", "Roles of the node."),
        AGE,
        col("Version", "string", "Version of the node agent."),
        wide("Internal-IP", "Address inside the cluster."),
        wide("External-IP", "Address outside the cluster."),
        wide("OS-Image", "Operating system."),
        wide("Kernel-Version", "Kernel release."),
        wide("Container-Runtime", "Container runtime and its version."),
    ],
    row: self::node::node,
};

/// Columns of persistent volume claims.
pub const PVC: Columns = Columns {
    list: &[
        NAME,
        col("Status", "string", "Phase of the claim."),
        col("Volume", "string", "Volume the claim is bound to."),
        col("Capacity", "string", "Size of the bound volume."),
        col("Access Modes", "string", "How the volume may be mounted."),
        col("StorageClass", "string", "Class the claim asks for."),
        col("VolumeAttributesClass", "string", "Attributes class the claim asks for."),
        AGE,
        wide("VolumeMode", "Filesystem or block device."),
    ],
    row: self::storage::claim,
};

/// Columns of persistent volumes.
pub const PV: Columns = Columns {
    list: &[
        NAME,
        col("Capacity", "string", "Size of the volume."),
        col("Access Modes", "string", "How the volume may be mounted."),
        col("Reclaim Policy", "string", "What becomes of the volume when its claim goes."),
        col("Status", "string", "Phase of the volume."),
        col("Claim", "string", "Claim the volume is bound to."),
        col("StorageClass", "string", "Class of the volume."),
        col("VolumeAttributesClass", "string", "Attributes class of the volume."),
        col("Reason", "string", "Why the volume is in its phase."),
        AGE,
        wide("VolumeMode", "Filesystem or block device."),
    ],
    row: self::storage::volume,
};

/// Columns of pods.
pub const POD: Columns = Columns {
    list: &[
        NAME,
        col("Ready", "string", "Ready containers of all containers."),
        col("Status", "string", "What the pod is doing."),
        col("Restarts", "string", "How often containers were restarted, and when last."),
        AGE,
        wide("IP", "Address of the pod."),
        wide("Node", "Node the pod runs on."),
        wide("Nominated Node", "Node the pod is promised after preemption."),
        wide("Readiness Gates", "Passed readiness gates of all gates."),
    ],
    row: self::pod::pod,
};

/// Columns of secrets.
pub const SECRET: Columns = Columns {
    list: &[
        NAME,
        col("Type", "string", "What the secret is for."),
        col("Data", "string", "Number of keys in the secret."),
        AGE,
    ],
    row: self::core::secret,
};

/// Columns of service accounts.
pub const SERVICE_ACCOUNT: Columns = Columns { list: &[NAME, AGE], row: self::core::plain };

/// Columns of services.
pub const SERVICE: Columns = Columns {
    list: &[
        NAME,
        col("Type", "string", "How the service is exposed."),
        col("Cluster-IP", "string", "Virtual address inside the cluster."),
        col("External-IP", "string", "Addresses outside the cluster."),
        col("Port(s)", "string", "Ports and protocols."),
        AGE,
        wide("Selector", "Labels of the pods behind the service."),
    ],
    row: self::network::service,
};

/// Columns of controller revisions.
pub const CONTROLLER_REVISION: Columns = Columns {
    list: &[
        NAME,
        col("Controller", "string", "Controller of the revision."),
        col("Revision", "integer", "Number of the revision."),
        AGE,
    ],
    row: self::apps::controller_revision,
};

/// Columns of deployments.
pub const DEPLOYMENT: Columns = Columns {
    list: &[
        NAME,
        col("Ready", "string", "Ready pods of desired pods."),
        col("Up-to-date", "integer", "Pods of the newest template."),
        col("Available", "integer", "Pods ready for long enough."),
        AGE,
        CONTAINERS,
        IMAGES,
        wide("Selector", "Labels of the pods."),
    ],
    row: self::apps::deployment,
};

/// Columns of replica sets.
pub const REPLICA_SET: Columns = Columns {
    list: &[
        NAME,
        col("Desired", "integer", "Wanted pods."),
        col("Current", "integer", "Existing pods."),
        col("Ready", "integer", "Ready pods."),
        AGE,
        CONTAINERS,
        IMAGES,
        wide("Selector", "Labels of the pods."),
    ],
    row: self::apps::replica_set,
};

/// Columns of stateful sets.
pub const STATEFUL_SET: Columns = Columns {
    list: &[NAME, col("Ready", "string", "Ready pods of desired pods."), AGE, CONTAINERS, IMAGES],
    row: self::apps::stateful_set,
};

/// Columns of jobs.
pub const JOB: Columns = Columns {
    list: &[
        NAME,
        col("Status", "string", "State of the job."),
        col("Completions", "string", "Succeeded pods of wanted completions."),
        col("Duration", "string", "Time the job has taken."),
        AGE,
        CONTAINERS,
        IMAGES,
        wide("Selector", "Labels of the pods."),
    ],
    row: self::apps::job,
};

/// Columns of leases.
pub const LEASE: Columns =
    Columns { list: &[NAME, col("Holder", "string", "Who holds the lease."), AGE], row: self::core::lease };

/// Columns of endpoint slices.
pub const ENDPOINT_SLICE: Columns = Columns {
    list: &[
        NAME,
        col("AddressType", "string", "Family of the addresses."),
        col("Ports", "string", "Ports of the endpoints."),
        col("Endpoints", "string", "Addresses of the endpoints."),
        AGE,
    ],
    row: self::network::endpoint_slice,
};

/// Columns of ingress class.
pub const INGRESS_CLASS: Columns = Columns {
    list: &[
        NAME,
        col("Controller", "string", "Controller that serves the class."),
        col("Parameters", "string", "Object with further settings."),
        AGE,
    ],
    row: self::network::ingress_class,
};

/// Columns of ingress.
pub const INGRESS: Columns = Columns {
    list: &[
        NAME,
        col("Class", "string", "Ingress class."),
        col("Hosts", "string", "Host names that are routed."),
        col("Address", "string", "Addresses clients connect to."),
        col("Ports", "string", "Ports clients connect to."),
        AGE,
    ],
    row: self::network::ingress,
};

/// Columns of storage class.
pub const STORAGE_CLASS: Columns = Columns {
    list: &[
        NAME,
        col("Provisioner", "string", "Who makes the volumes."),
        col("ReclaimPolicy", "string", "What becomes of a volume when its claim goes."),
        col("VolumeBindingMode", "string", "When claims are bound."),
        col("AllowVolumeExpansion", "boolean", "Whether volumes can grow."),
        AGE,
    ],
    row: self::storage::class,
};
