//! The way to one member: TCP or TLS, and gRPC over it.

use std::sync::Arc;
use std::time::Duration;

pub use ::grpc::{CallError, Connection, Messages, UNAVAILABLE};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

use super::config::{Endpoint, Tls};

const LIMITS: ::grpc::Limits = ::grpc::Limits {
    // A page of keys, each as large as it may be, fits in.
    message_max: 512 << 20,
    // A slow watch must not stop the other calls.
    stream_window: 2 << 20,
    connection_window: 32 << 20,
    // etcd refuses to be asked more often than every 5 s.
    keep_alive: Some(Duration::from_secs(10)),
};

/// A member that has lost the others ends a stream instead of falling silent (etcd's WithRequireLeader).
pub const REQUIRE_LEADER: [(&str, &str); 1] = [("hasleader", "true")];

/// Connects.
pub async fn dial(endpoint: &Endpoint, tls: Option<&Tls>) -> Result<Connection, CallError> {
    let failed = |error: &(dyn std::error::Error + 'static)| CallError::NotSent(Arc::from(base::chain(error)));
    let tcp = TcpStream::connect((endpoint.dial_host(), endpoint.port)).await.map_err(|e| failed(&e))?;
    tcp.set_nodelay(true).map_err(|e| failed(&e))?;
    match tls.filter(|_| endpoint.https) {
        Some(tls) => {
            let connector = TlsConnector::from(tls.0.clone());
            let stream = connector.connect(endpoint.server_name.clone(), tcp).await.map_err(|e| failed(&e))?;
            Connection::over(stream, &endpoint.url, LIMITS).await
        }
        None => Connection::over(tcp, &endpoint.url, LIMITS).await,
    }
}
