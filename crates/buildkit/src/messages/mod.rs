//! Messages, as far as they are read or written here: field numbers are those of BuildKit's `api/services/control`,
//! `frontend/gateway/pb` and `solver/pb`.

mod session;

use std::collections::BTreeMap;
use std::time::SystemTime;

use prost::Message;

pub use session::*;

/// `google.protobuf.Timestamp`.
#[derive(Clone, Copy, PartialEq, Eq, Message)]
pub struct Timestamp {
    /// Since the epoch.
    #[prost(int64, tag = "1")]
    pub seconds: i64,
    /// Of the second.
    #[prost(int32, tag = "2")]
    pub nanos: i32,
}

impl Timestamp {
    /// Of a time; before the epoch is the epoch.
    pub fn of(time: SystemTime) -> Self {
        let since = time.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        Timestamp {
            seconds: i64::try_from(since.as_secs()).unwrap_or(i64::MAX),
            nanos: i32::try_from(since.subsec_nanos()).unwrap_or_default(),
        }
    }

    /// Now.
    pub fn now() -> Self {
        Timestamp::of(SystemTime::now())
    }
}

/// `google.protobuf.Any`.
#[derive(Clone, PartialEq, Eq, Message)]
pub struct Any {
    /// What it is.
    #[prost(string, tag = "1")]
    pub type_url: String,
    /// It.
    #[prost(bytes = "vec", tag = "2")]
    pub value: Vec<u8>,
}

/// `google.rpc.Status`.
#[derive(Clone, PartialEq, Eq, Message)]
pub struct Status {
    /// gRPC's code.
    #[prost(int32, tag = "1")]
    pub code: i32,
    /// For the user.
    #[prost(string, tag = "2")]
    pub message: String,
    /// More, for programs.
    #[prost(message, repeated, tag = "3")]
    pub details: Vec<Any>,
}

/// A message whose content is not looked at, only whether it is there.
#[derive(Clone, Copy, PartialEq, Eq, Message)]
pub struct Present {}

/// A message without fields.
#[derive(Clone, Copy, PartialEq, Eq, Message)]
pub struct Nothing {}

/// `pb.Definition`: only whether there is one.
#[derive(Clone, PartialEq, Eq, Message)]
pub struct Definition {
    /// Operations.
    #[prost(bytes = "vec", repeated, tag = "1")]
    pub def: Vec<Vec<u8>>,
}

/// What is made of a result, or where caches come from and go to: a type and its attributes.
#[derive(Clone, PartialEq, Eq, Message)]
pub struct Typed {
    /// `moby`, `local`, `registry`…
    #[prost(string, tag = "1")]
    pub kind: String,
    /// Its attributes.
    #[prost(btree_map = "string, string", tag = "2")]
    pub attrs: BTreeMap<String, String>,
}

/// `CacheOptions`.
#[derive(Clone, PartialEq, Eq, Message)]
pub struct CacheOptions {
    /// The older way to say where it goes to.
    #[prost(string, tag = "1")]
    pub export_ref: String,
    /// The older way to say where it comes from.
    #[prost(string, repeated, tag = "2")]
    pub import_refs: Vec<String>,
    /// Where it goes to.
    #[prost(message, repeated, tag = "4")]
    pub exports: Vec<Typed>,
    /// Where it comes from.
    #[prost(message, repeated, tag = "5")]
    pub imports: Vec<Typed>,
}

/// `Control.Solve`.
#[derive(Clone, PartialEq, Eq, Message)]
pub struct SolveRequest {
    /// What the build is called.
    #[prost(string, tag = "1")]
    pub id: String,
    /// Operations of the client's own.
    #[prost(message, optional, tag = "2")]
    pub definition: Option<Definition>,
    /// The older way to say what is made of it.
    #[prost(string, tag = "3")]
    pub exporter: String,
    /// Its attributes.
    #[prost(btree_map = "string, string", tag = "4")]
    pub exporter_attrs: BTreeMap<String, String>,
    /// The client's session.
    #[prost(string, tag = "5")]
    pub session: String,
    /// `dockerfile.v0`; empty when the client asks by [`crate::BRIDGE`].
    #[prost(string, tag = "6")]
    pub frontend: String,
    /// What is asked of it.
    #[prost(btree_map = "string, string", tag = "7")]
    pub frontend_attrs: BTreeMap<String, String>,
    /// Caches elsewhere.
    #[prost(message, optional, tag = "8")]
    pub cache: Option<CacheOptions>,
    /// What the user allows.
    #[prost(string, repeated, tag = "9")]
    pub entitlements: Vec<String>,
    /// Inputs that are operations.
    #[prost(btree_map = "string, message", tag = "10")]
    pub frontend_inputs: BTreeMap<String, Definition>,
    /// Rules about sources.
    #[prost(message, optional, tag = "12")]
    pub source_policy: Option<Present>,
    /// What is made of it.
    #[prost(message, repeated, tag = "13")]
    pub exporters: Vec<Typed>,
    /// The session decides what is made of it.
    #[prost(bool, tag = "14")]
    pub session_exporter: bool,
    /// The session has rules about sources.
    #[prost(string, tag = "15")]
    pub source_policy_session: String,
    /// Commands reach the network through a proxy only.
    #[prost(bool, tag = "17")]
    pub proxy_network: bool,
}

/// Of `Control.Solve`.
#[derive(Clone, PartialEq, Eq, Message)]
pub struct SolveResponse {
    /// What came of it.
    #[prost(btree_map = "string, string", tag = "1")]
    pub exporter_response: BTreeMap<String, String>,
}

/// `Control.Status`.
#[derive(Clone, PartialEq, Eq, Message)]
pub struct StatusRequest {
    /// What the build is called.
    #[prost(string, tag = "1")]
    pub id: String,
}

/// What happened in a build.
#[derive(Clone, PartialEq, Message)]
pub struct StatusResponse {
    /// Steps.
    #[prost(message, repeated, tag = "1")]
    pub vertexes: Vec<Vertex>,
    /// How far they are.
    #[prost(message, repeated, tag = "2")]
    pub statuses: Vec<VertexStatus>,
    /// What they say.
    #[prost(message, repeated, tag = "3")]
    pub logs: Vec<VertexLog>,
    /// What is not as it should be.
    #[prost(message, repeated, tag = "4")]
    pub warnings: Vec<VertexWarning>,
}

/// A step.
#[derive(Clone, PartialEq, Eq, Message)]
pub struct Vertex {
    /// What it is known by.
    #[prost(string, tag = "1")]
    pub digest: String,
    /// Steps it needs.
    #[prost(string, repeated, tag = "2")]
    pub inputs: Vec<String>,
    /// For the user.
    #[prost(string, tag = "3")]
    pub name: String,
    /// Its result was there.
    #[prost(bool, tag = "4")]
    pub cached: bool,
    /// When it began.
    #[prost(message, optional, tag = "5")]
    pub started: Option<Timestamp>,
    /// When it ended.
    #[prost(message, optional, tag = "6")]
    pub completed: Option<Timestamp>,
    /// Why it failed.
    #[prost(string, tag = "7")]
    pub error: String,
}

/// How far a part of a step is.
#[derive(Clone, PartialEq, Eq, Message)]
pub struct VertexStatus {
    /// Of this part.
    #[prost(string, tag = "1")]
    pub id: String,
    /// The digest of its step.
    #[prost(string, tag = "2")]
    pub vertex: String,
    /// For the user.
    #[prost(string, tag = "3")]
    pub name: String,
    /// Bytes so far.
    #[prost(int64, tag = "4")]
    pub current: i64,
    /// Bytes in all; 0 is not known.
    #[prost(int64, tag = "5")]
    pub total: i64,
    /// Of this news.
    #[prost(message, optional, tag = "6")]
    pub timestamp: Option<Timestamp>,
    /// When it began.
    #[prost(message, optional, tag = "7")]
    pub started: Option<Timestamp>,
    /// When it ended.
    #[prost(message, optional, tag = "8")]
    pub completed: Option<Timestamp>,
}

/// What a step says.
#[derive(Clone, PartialEq, Eq, Message)]
pub struct VertexLog {
    /// The digest of the step.
    #[prost(string, tag = "1")]
    pub vertex: String,
    /// When.
    #[prost(message, optional, tag = "2")]
    pub timestamp: Option<Timestamp>,
    /// 1 or 2, as file descriptors.
    #[prost(int64, tag = "3")]
    pub stream: i64,
    /// What.
    #[prost(bytes = "vec", tag = "4")]
    pub msg: Vec<u8>,
}

/// What is not as it should be.
#[derive(Clone, PartialEq, Eq, Message)]
pub struct VertexWarning {
    /// The digest of the step.
    #[prost(string, tag = "1")]
    pub vertex: String,
    /// From 1.
    #[prost(int64, tag = "2")]
    pub level: i64,
    /// In one line.
    #[prost(bytes = "vec", tag = "3")]
    pub short: Vec<u8>,
}

/// `pb.Platform`.
#[derive(Clone, PartialEq, Eq, Message)]
pub struct Platform {
    /// `amd64`.
    #[prost(string, tag = "1")]
    pub architecture: String,
    /// `linux`.
    #[prost(string, tag = "2")]
    pub os: String,
    /// `v7`.
    #[prost(string, tag = "3")]
    pub variant: String,
}

/// Who builds.
#[derive(Clone, PartialEq, Eq, Message)]
pub struct WorkerRecord {
    /// Stays the same.
    #[prost(string, tag = "1")]
    pub id: String,
    /// What it can.
    #[prost(btree_map = "string, string", tag = "2")]
    pub labels: BTreeMap<String, String>,
    /// What it builds for.
    #[prost(message, repeated, tag = "3")]
    pub platforms: Vec<Platform>,
    /// What it is.
    #[prost(message, optional, tag = "5")]
    pub version: Option<Version>,
}

/// `BuildkitVersion`.
#[derive(Clone, PartialEq, Eq, Message)]
pub struct Version {
    /// The program.
    #[prost(string, tag = "1")]
    pub package: String,
    /// Its version.
    #[prost(string, tag = "2")]
    pub version: String,
    /// Its commit.
    #[prost(string, tag = "3")]
    pub revision: String,
}

/// Of `Control.ListWorkers`.
#[derive(Clone, PartialEq, Eq, Message)]
pub struct ListWorkersResponse {
    /// Those there are.
    #[prost(message, repeated, tag = "1")]
    pub record: Vec<WorkerRecord>,
}

/// `Control.ListWorkers` and `Control.DiskUsage`, whose first field is the same.
#[derive(Clone, PartialEq, Eq, Message)]
pub struct Filtered {
    /// Rules, each of which must be met.
    #[prost(string, repeated, tag = "1")]
    pub filter: Vec<String>,
    /// Of disk usage: unused for longer than this only, nanoseconds.
    #[prost(int64, tag = "2")]
    pub age_limit: i64,
}

/// Of `Control.Info`.
#[derive(Clone, PartialEq, Eq, Message)]
pub struct InfoResponse {
    /// What answers.
    #[prost(message, optional, tag = "1")]
    pub version: Option<Version>,
}

/// `Control.Prune`.
#[derive(Clone, PartialEq, Eq, Message)]
pub struct PruneRequest {
    /// Rules, each of which must be met.
    #[prost(string, repeated, tag = "1")]
    pub filter: Vec<String>,
    /// What images use, too.
    #[prost(bool, tag = "2")]
    pub all: bool,
    /// What was used within this time stays, nanoseconds.
    #[prost(int64, tag = "3")]
    pub keep_duration: i64,
    /// Bytes that may stay.
    #[prost(int64, tag = "4")]
    pub reserved_space: i64,
    /// The same, as a limit.
    #[prost(int64, tag = "5")]
    pub max_used_space: i64,
    /// Bytes of the disk that are to be free.
    #[prost(int64, tag = "6")]
    pub min_free_space: i64,
}

/// Something that is kept for later builds.
#[derive(Clone, PartialEq, Eq, Message)]
pub struct UsageRecord {
    /// Its id.
    #[prost(string, tag = "1")]
    pub id: String,
    /// It can change.
    #[prost(bool, tag = "2")]
    pub mutable: bool,
    /// A build uses it.
    #[prost(bool, tag = "3")]
    pub in_use: bool,
    /// Bytes.
    #[prost(int64, tag = "4")]
    pub size: i64,
    /// When it was made.
    #[prost(message, optional, tag = "6")]
    pub created_at: Option<Timestamp>,
    /// When it was used.
    #[prost(message, optional, tag = "7")]
    pub last_used_at: Option<Timestamp>,
    /// How often.
    #[prost(int64, tag = "8")]
    pub usage_count: i64,
    /// For the user.
    #[prost(string, tag = "9")]
    pub description: String,
    /// `regular`, `source.local`…
    #[prost(string, tag = "10")]
    pub record_type: String,
    /// Images have it, too.
    #[prost(bool, tag = "11")]
    pub shared: bool,
}

/// Of `Control.DiskUsage`.
#[derive(Clone, PartialEq, Eq, Message)]
pub struct DiskUsageResponse {
    /// What is kept.
    #[prost(message, repeated, tag = "1")]
    pub record: Vec<UsageRecord>,
}

/// Something that a server can, as clients ask for it.
#[derive(Clone, PartialEq, Eq, Message)]
pub struct Capability {
    /// What it is called.
    #[prost(string, tag = "1")]
    pub id: String,
    /// It is there.
    #[prost(bool, tag = "2")]
    pub enabled: bool,
}

/// Of `LLBBridge.Ping`.
#[derive(Clone, PartialEq, Eq, Message)]
pub struct PongResponse {
    /// What this service can.
    #[prost(message, repeated, tag = "1")]
    pub frontend_caps: Vec<Capability>,
    /// Operations that may be asked for.
    #[prost(message, repeated, tag = "2")]
    pub llb_caps: Vec<Capability>,
    /// Who builds.
    #[prost(message, repeated, tag = "3")]
    pub workers: Vec<WorkerRecord>,
}

/// `LLBBridge.Solve`.
#[derive(Clone, PartialEq, Eq, Message)]
pub struct FrontendRequest {
    /// Operations of the client's own.
    #[prost(message, optional, tag = "1")]
    pub definition: Option<Definition>,
    /// `dockerfile.v0`.
    #[prost(string, tag = "2")]
    pub frontend: String,
    /// What is asked of it.
    #[prost(btree_map = "string, string", tag = "3")]
    pub opt: BTreeMap<String, String>,
    /// Inputs that are operations.
    #[prost(btree_map = "string, message", tag = "13")]
    pub inputs: BTreeMap<String, Definition>,
    /// The result is wanted at once.
    #[prost(bool, tag = "14")]
    pub evaluate: bool,
    /// Rules about sources.
    #[prost(message, repeated, tag = "15")]
    pub source_policies: Vec<Present>,
}

/// A result by its name.
#[derive(Clone, PartialEq, Eq, Message)]
pub struct Ref {
    /// Its name.
    #[prost(string, tag = "1")]
    pub id: String,
}

/// Results by platform.
#[derive(Clone, PartialEq, Eq, Message)]
pub struct RefMap {
    /// By platform.
    #[prost(btree_map = "string, message", tag = "1")]
    pub refs: BTreeMap<String, Ref>,
}

/// What a frontend gives.
#[derive(Clone, PartialEq, Eq, Message)]
pub struct FrontendResult {
    /// A result (the older way).
    #[prost(string, tag = "1")]
    pub old_ref: String,
    /// A result.
    #[prost(message, optional, tag = "3")]
    pub one: Option<Ref>,
    /// Several.
    #[prost(message, optional, tag = "4")]
    pub several: Option<RefMap>,
}

/// Of `LLBBridge.Solve`.
#[derive(Clone, PartialEq, Eq, Message)]
pub struct FrontendResponse {
    /// What it gives.
    #[prost(message, optional, tag = "3")]
    pub result: Option<FrontendResult>,
}

/// `LLBBridge.Return`.
#[derive(Clone, PartialEq, Eq, Message)]
pub struct ReturnRequest {
    /// The result that is to be exported.
    #[prost(message, optional, tag = "1")]
    pub result: Option<FrontendResult>,
    /// Why there is none.
    #[prost(message, optional, tag = "2")]
    pub error: Option<Status>,
}
