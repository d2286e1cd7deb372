//! The messages of the Container Storage Interface, as far as a node needs them (CSI 1.11, `csi.proto`), and of the kubelet's
//! plugin registration (`pluginregistration/v1/api.proto`). Fields that nobody here reads or writes are left out.

use std::collections::HashMap;

use prost::{Enumeration, Message, Oneof};

/// Text by text, as contexts and secrets are given.
pub(crate) type Texts = HashMap<String, String>;

/// A request or an answer that says nothing.
#[derive(Clone, Copy, PartialEq, Eq, Message)]
pub(crate) struct Empty {}

/// What a plugin says of itself.
#[derive(Clone, PartialEq, Eq, Message)]
pub(crate) struct PluginInfo {
    #[prost(string, tag = "1")]
    pub kind: String,
    #[prost(string, tag = "2")]
    pub name: String,
    #[prost(string, tag = "3")]
    pub endpoint: String,
    #[prost(string, repeated, tag = "4")]
    pub versions: Vec<String>,
}

/// What became of a plugin's registration.
#[derive(Clone, PartialEq, Eq, Message)]
pub(crate) struct RegistrationStatus {
    #[prost(bool, tag = "1")]
    pub registered: bool,
    #[prost(string, tag = "2")]
    pub error: String,
}

/// What a driver says of the node.
#[derive(Clone, PartialEq, Message)]
pub(crate) struct NodeInfo {
    #[prost(string, tag = "1")]
    pub node_id: String,
    #[prost(int64, tag = "2")]
    pub max_volumes: i64,
    #[prost(message, optional, tag = "3")]
    pub topology: Option<Topology>,
}

/// From where volumes can be reached.
#[derive(Clone, PartialEq, Message)]
pub(crate) struct Topology {
    #[prost(map = "string, string", tag = "1")]
    pub segments: Texts,
}

/// What a driver's node service can do.
#[derive(Clone, PartialEq, Message)]
pub(crate) struct Capabilities {
    #[prost(message, repeated, tag = "1")]
    pub list: Vec<Capability>,
}

#[derive(Clone, Copy, PartialEq, Eq, Message)]
pub(crate) struct Capability {
    #[prost(message, optional, tag = "1")]
    pub rpc: Option<Rpc>,
}

#[derive(Clone, Copy, PartialEq, Eq, Message)]
pub(crate) struct Rpc {
    #[prost(enumeration = "RpcKind", tag = "1")]
    pub kind: i32,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Enumeration)]
#[repr(i32)]
pub(crate) enum RpcKind {
    Unknown = 0,
    StageUnstage = 1,
    Stats = 2,
    Expand = 3,
    Condition = 4,
    SingleNodeMultiWriter = 5,
    MountGroup = 6,
}

/// How a volume is to be used.
#[derive(Clone, PartialEq, Message)]
pub(crate) struct VolumeCapability {
    #[prost(oneof = "AccessType", tags = "1, 2")]
    pub access: Option<AccessType>,
    #[prost(message, optional, tag = "3")]
    pub mode: Option<AccessMode>,
}

#[derive(Clone, PartialEq, Oneof)]
pub(crate) enum AccessType {
    #[prost(message, tag = "1")]
    Block(Empty),
    #[prost(message, tag = "2")]
    Mount(MountVolume),
}

#[derive(Clone, PartialEq, Eq, Message)]
pub(crate) struct MountVolume {
    #[prost(string, tag = "1")]
    pub fs_type: String,
    #[prost(string, repeated, tag = "2")]
    pub flags: Vec<String>,
    #[prost(string, tag = "3")]
    pub group: String,
}

#[derive(Clone, Copy, PartialEq, Eq, Message)]
pub(crate) struct AccessMode {
    #[prost(enumeration = "Access", tag = "1")]
    pub mode: i32,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Enumeration)]
#[repr(i32)]
pub(crate) enum Access {
    Unknown = 0,
    SingleNodeWriter = 1,
    SingleNodeReaderOnly = 2,
    MultiNodeReaderOnly = 3,
    MultiNodeSingleWriter = 4,
    MultiNodeMultiWriter = 5,
    SingleNodeSingleWriter = 6,
    SingleNodeMultiWriter = 7,
}

/// `NodeStageVolume`.
#[derive(Clone, PartialEq, Message)]
pub(crate) struct Stage {
    #[prost(string, tag = "1")]
    pub volume_id: String,
    #[prost(map = "string, string", tag = "2")]
    pub publish_context: Texts,
    #[prost(string, tag = "3")]
    pub staging_path: String,
    #[prost(message, optional, tag = "4")]
    pub capability: Option<VolumeCapability>,
    #[prost(map = "string, string", tag = "5")]
    pub secrets: Texts,
    #[prost(map = "string, string", tag = "6")]
    pub volume_context: Texts,
}

/// `NodeUnstageVolume` and `NodeUnpublishVolume`, which have one shape.
#[derive(Clone, PartialEq, Eq, Message)]
pub(crate) struct Undo {
    #[prost(string, tag = "1")]
    pub volume_id: String,
    #[prost(string, tag = "2")]
    pub path: String,
}

/// `NodePublishVolume`.
#[derive(Clone, PartialEq, Message)]
pub(crate) struct Publish {
    #[prost(string, tag = "1")]
    pub volume_id: String,
    #[prost(map = "string, string", tag = "2")]
    pub publish_context: Texts,
    #[prost(string, tag = "3")]
    pub staging_path: String,
    #[prost(string, tag = "4")]
    pub target_path: String,
    #[prost(message, optional, tag = "5")]
    pub capability: Option<VolumeCapability>,
    #[prost(bool, tag = "6")]
    pub read_only: bool,
    #[prost(map = "string, string", tag = "7")]
    pub secrets: Texts,
    #[prost(map = "string, string", tag = "8")]
    pub volume_context: Texts,
}

/// `NodeExpandVolume`.
#[derive(Clone, PartialEq, Message)]
pub(crate) struct Expand {
    #[prost(string, tag = "1")]
    pub volume_id: String,
    #[prost(string, tag = "2")]
    pub volume_path: String,
    #[prost(message, optional, tag = "3")]
    pub range: Option<CapacityRange>,
    #[prost(string, tag = "4")]
    pub staging_path: String,
    #[prost(message, optional, tag = "5")]
    pub capability: Option<VolumeCapability>,
    #[prost(map = "string, string", tag = "6")]
    pub secrets: Texts,
}

#[derive(Clone, Copy, PartialEq, Eq, Message)]
pub(crate) struct CapacityRange {
    #[prost(int64, tag = "1")]
    pub required: i64,
    #[prost(int64, tag = "2")]
    pub limit: i64,
}

/// The size a volume has now, bytes; 0 when the driver does not say.
#[derive(Clone, Copy, PartialEq, Eq, Message)]
pub(crate) struct Expanded {
    #[prost(int64, tag = "1")]
    pub capacity: i64,
}

/// `NodeGetVolumeStats`.
#[derive(Clone, PartialEq, Eq, Message)]
pub(crate) struct AskStats {
    #[prost(string, tag = "1")]
    pub volume_id: String,
    #[prost(string, tag = "2")]
    pub volume_path: String,
    #[prost(string, tag = "3")]
    pub staging_path: String,
}

#[derive(Clone, PartialEq, Eq, Message)]
pub(crate) struct Stats {
    #[prost(message, repeated, tag = "1")]
    pub usage: Vec<VolumeUsage>,
}

/// What is in a volume, by unit; 0 is also what a driver does not know.
#[derive(Clone, Copy, PartialEq, Eq, Message)]
pub(crate) struct VolumeUsage {
    #[prost(int64, tag = "1")]
    pub available: i64,
    #[prost(int64, tag = "2")]
    pub total: i64,
    #[prost(int64, tag = "3")]
    pub used: i64,
    #[prost(enumeration = "Unit", tag = "4")]
    pub unit: i32,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Enumeration)]
#[repr(i32)]
pub(crate) enum Unit {
    Unknown = 0,
    Bytes = 1,
    Inodes = 2,
}
