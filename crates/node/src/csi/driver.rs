//! A driver's node service: calls over its Unix socket.

use std::os::fd::AsRawFd;
use std::path::{Path, PathBuf};
use std::time::Duration;

use grpc::{CallError, Connection, Limits};
use prost::Message;
use tokio::net::UnixStream;

use super::proto::{
    AskStats, Capabilities, Empty, Expand, Expanded, NodeInfo, Publish, Rpc, RpcKind, Stage, Stats, Undo,
};
use super::root::View;

/// A call may take this long (the kubelet's limit): staging may format a disk.
const CALL_MAX: Duration = Duration::from_secs(120);
/// A socket of this host answers at once or not at all.
const DIAL_MAX: Duration = Duration::from_secs(10);
/// Longest path of a Unix socket (unix(7)), without the byte that ends it.
const SOCKET_PATH_MAX: usize = 107;

const LIMITS: Limits =
    Limits { message_max: 4 << 20, stream_window: 1 << 20, connection_window: 1 << 20, keep_alive: None };

/// `UNIMPLEMENTED` among gRPC's codes.
const UNIMPLEMENTED: u32 = 12;

/// Why a driver did not do what it was asked.
#[derive(Debug, Clone, thiserror::Error)]
#[error("rpc error: {call}: {source}")]
pub(crate) struct DriverError {
    call: &'static str,
    source: CallError,
}

/// Connects to a Unix socket, however long its path is.
async fn connect(socket: &Path) -> std::io::Result<UnixStream> {
    if socket.as_os_str().len() <= SOCKET_PATH_MAX {
        return UnixStream::connect(socket).await;
    }
    let (Some(folder), Some(name)) = (socket.parent(), socket.file_name()) else {
        return Err(std::io::ErrorKind::InvalidInput.into());
    };
    let folder = std::fs::File::open(folder)?;
    UnixStream::connect(PathBuf::from(format!("/proc/self/fd/{}", folder.as_raw_fd())).join(name)).await
}

/// A connection to a plugin.
pub(super) async fn dial(socket: &Path) -> Result<Connection, CallError> {
    let failed = |why: String| CallError::NotSent(format!("dial unix {}: {why}", socket.display()).into());
    let dialing = async {
        let stream = connect(socket).await.map_err(|e| failed(e.to_string()))?;
        Connection::over(stream, "http://localhost", LIMITS).await
    };
    tokio::time::timeout(DIAL_MAX, dialing).await.unwrap_or_else(|_| Err(failed("no answer".to_owned())))
}

/// One call with a time limit.
pub(super) async fn call<A: Message + Default>(
    connection: &Connection,
    path: &'static str,
    request: &impl Message,
) -> Result<A, DriverError> {
    let done = tokio::time::timeout(CALL_MAX, connection.unary(path, request)).await;
    let late = || CallError::Lost(format!("no answer within {CALL_MAX:?}").into());
    let name = path.rsplit('/').next().unwrap_or(path);
    done.unwrap_or_else(|_| Err(late())).map_err(|source| DriverError { call: name, source })
}

/// Where a driver that registered answers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Driver {
    pub(super) name: String,
    pub(super) socket: PathBuf,
    pub(super) view: View,
}

/// A driver one is connected to, and what it can do.
pub(super) struct Session {
    connection: Connection,
    can: Vec<RpcKind>,
}

impl Driver {
    /// Connects and asks what it can do: a driver may have been replaced by a newer one since it was last asked.
    pub(super) async fn open(&self) -> Result<Session, DriverError> {
        let connection = dial(&self.socket).await.map_err(|source| DriverError { call: "connect", source })?;
        let answer = call::<Capabilities>(&connection, "/csi.v1.Node/NodeGetCapabilities", &Empty {}).await;
        let can = match answer {
            Ok(list) => list.list.iter().filter_map(|c| c.rpc.as_ref()).map(Rpc::kind).collect(),
            Err(DriverError { source: CallError::Status { code: UNIMPLEMENTED, .. }, .. }) => Vec::new(),
            Err(error) => return Err(error),
        };
        Ok(Session { connection, can })
    }
}

impl Session {
    pub(super) fn can(&self, what: RpcKind) -> bool {
        self.can.contains(&what)
    }

    pub(super) async fn info(&self) -> Result<NodeInfo, DriverError> {
        call(&self.connection, "/csi.v1.Node/NodeGetInfo", &Empty {}).await
    }

    pub(super) async fn stage(&self, request: &Stage) -> Result<(), DriverError> {
        call::<Empty>(&self.connection, "/csi.v1.Node/NodeStageVolume", request).await.map(drop)
    }

    pub(super) async fn unstage(&self, request: &Undo) -> Result<(), DriverError> {
        call::<Empty>(&self.connection, "/csi.v1.Node/NodeUnstageVolume", request).await.map(drop)
    }

    pub(super) async fn publish(&self, request: &Publish) -> Result<(), DriverError> {
        call::<Empty>(&self.connection, "/csi.v1.Node/NodePublishVolume", request).await.map(drop)
    }

    pub(super) async fn unpublish(&self, request: &Undo) -> Result<(), DriverError> {
        call::<Empty>(&self.connection, "/csi.v1.Node/NodeUnpublishVolume", request).await.map(drop)
    }

    pub(super) async fn expand(&self, request: &Expand) -> Result<Expanded, DriverError> {
        call(&self.connection, "/csi.v1.Node/NodeExpandVolume", request).await
    }

    pub(super) async fn stats(&self, request: &AskStats) -> Result<Stats, DriverError> {
        call(&self.connection, "/csi.v1.Node/NodeGetVolumeStats", request).await
    }
}
