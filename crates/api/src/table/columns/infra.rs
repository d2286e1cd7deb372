//! Network policies and addresses, drivers of volumes, devices.

use jiff::Timestamp;
use serde_json::{Value, json};

use super::apps::selector_line;
use super::{AGE, NAME, col};
use crate::json::{at, bool_at, list_at, str_at};
use crate::kinds::Columns;
use crate::meta;
use crate::status::qualified_resource;
use crate::table::object_age;

/// Columns of network policies.
pub const NETWORK_POLICY: Columns = Columns {
    list: &[NAME, col("Pod-Selector", "string", "Pods the policy is for."), AGE],
    row: |o, now| {
        let selector = selector_line(at(o, &["spec", "podSelector"]));
        vec![json!(meta::name(o)), json!(selector), json!(object_age(o, now))]
    },
};

fn joined(o: &Value, path: &[&str]) -> String {
    list_at(o, path).iter().filter_map(Value::as_str).collect::<Vec<_>>().join(",")
}

/// Columns of service address ranges.
pub const SERVICE_CIDR: Columns = Columns {
    list: &[NAME, col("CIDRs", "string", "Ranges service addresses are taken from."), AGE],
    row: |o, now| vec![json!(meta::name(o)), json!(joined(o, &["spec", "cidrs"])), json!(object_age(o, now))],
};

/// Columns of addresses.
pub const IP_ADDRESS: Columns = Columns {
    list: &[NAME, col("ParentRef", "string", "Object that has the address.")],
    row: |o, _| {
        let parent = at(o, &["spec", "parentRef"]).map_or_else(
            || "<none>".to_owned(),
            |p| {
                let mut text = qualified_resource(str_at(p, &["resource"]), str_at(p, &["group"])).to_lowercase();
                for key in ["namespace", "name"] {
                    let part = str_at(p, &[key]);
                    if key == "name" || !part.is_empty() {
                        text.push('/');
                        text.push_str(part);
                    }
                }
                text
            },
        );
        vec![json!(meta::name(o)), json!(parent)]
    },
};

/// Columns of CSI drivers.
pub const CSI_DRIVER: Columns = Columns {
    list: &[
        NAME,
        col("AttachRequired", "boolean", "Whether volumes must be attached first."),
        col("PodInfoOnMount", "boolean", "Whether mounting needs to know the pod."),
        col("StorageCapacity", "boolean", "Whether the driver says how much room it has."),
        col("TokenRequests", "string", "Audiences of the tokens that mounting needs."),
        col("RequiresRepublish", "boolean", "Whether volumes are published again and again."),
        col("Modes", "string", "Lives that volumes of the driver can have."),
        AGE,
    ],
    row: csi_driver,
};

fn csi_driver(o: &Value, now: Timestamp) -> Vec<Value> {
    let spec = at(o, &["spec"]).unwrap_or(&Value::Null);
    let tokens = match at(spec, &["tokenRequests"]) {
        None => "<unset>".to_owned(),
        Some(_) => {
            let audiences = list_at(spec, &["tokenRequests"]).iter().map(|t| str_at(t, &["audience"]));
            audiences.collect::<Vec<_>>().join(",")
        }
    };
    let modes = joined(spec, &["volumeLifecycleModes"]);
    vec![
        json!(meta::name(o)),
        json!(at(spec, &["attachRequired"]).and_then(Value::as_bool).unwrap_or(true)),
        json!(bool_at(spec, &["podInfoOnMount"])),
        json!(bool_at(spec, &["storageCapacity"])),
        json!(tokens),
        json!(bool_at(spec, &["requiresRepublish"])),
        json!(if modes.is_empty() { "<none>" } else { &modes }),
        json!(object_age(o, now)),
    ]
}

/// Columns of what drivers say of a node.
pub const CSI_NODE: Columns = Columns {
    list: &[NAME, col("Drivers", "integer", "Number of drivers on the node."), AGE],
    row: |o, now| {
        let drivers = list_at(o, &["spec", "drivers"]).len();
        vec![json!(meta::name(o)), json!(drivers), json!(object_age(o, now))]
    },
};

/// Columns of storage capacities.
pub const CSI_CAPACITY: Columns = Columns {
    list: &[
        NAME,
        col("StorageClassName", "string", "Class the capacity is of."),
        col("Capacity", "string", "Room for volumes of the class."),
    ],
    row: |o, _| {
        let capacity = at(o, &["capacity"]).cloned().unwrap_or_else(|| json!("<unset>"));
        vec![json!(meta::name(o)), json!(str_at(o, &["storageClassName"])), capacity]
    },
};

/// Columns of volume attachments.
pub const ATTACHMENT: Columns = Columns {
    list: &[
        NAME,
        col("Attacher", "string", "Driver that attaches the volume."),
        col("PV", "string", "Volume that is attached."),
        col("Node", "string", "Node it is attached to."),
        col("Attached", "boolean", "Whether it is attached."),
        AGE,
    ],
    row: |o, now| {
        vec![
            json!(meta::name(o)),
            json!(str_at(o, &["spec", "attacher"])),
            json!(str_at(o, &["spec", "source", "persistentVolumeName"])),
            json!(str_at(o, &["spec", "nodeName"])),
            json!(bool_at(o, &["status", "attached"])),
            json!(object_age(o, now)),
        ]
    },
};

/// Columns of volume attributes classes.
pub const ATTRIBUTES_CLASS: Columns = Columns {
    list: &[NAME, col("DriverName", "string", "Driver that knows the attributes."), AGE],
    row: |o, now| vec![json!(meta::name(o)), json!(str_at(o, &["driverName"])), json!(object_age(o, now))],
};

/// Columns of resource claims.
pub const CLAIM: Columns = Columns {
    list: &[NAME, col("State", "string", "What became of the claim."), AGE],
    row: |o, now| {
        let deleted = meta::is_deleting(o);
        let reserved = !list_at(o, &["status", "reservedFor"]).is_empty();
        let mut states = Vec::new();
        if deleted {
            states.push("deleted");
        }
        match at(o, &["status", "allocation"]) {
            None if !deleted => states.push("pending"),
            None => {}
            Some(_) => {
                states.push("allocated");
                if reserved {
                    states.push("reserved");
                }
            }
        }
        vec![json!(meta::name(o)), json!(states.join(",")), json!(object_age(o, now))]
    },
};

/// Columns of resource slices.
pub const SLICE: Columns = Columns {
    list: &[
        NAME,
        col("Node", "string", "Node the devices are on."),
        col("Driver", "string", "Driver of the devices."),
        col("Pool", "string", "Pool the devices belong to."),
        AGE,
    ],
    row: |o, now: Timestamp| {
        vec![
            json!(meta::name(o)),
            json!(str_at(o, &["spec", "nodeName"])),
            json!(str_at(o, &["spec", "driver"])),
            json!(str_at(o, &["spec", "pool", "name"])),
            json!(object_age(o, now)),
        ]
    },
};
