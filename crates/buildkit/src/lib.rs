//! What BuildKit's clients (`docker buildx`, and through it `docker build`) speak, as far as it knows nothing of how images are
//! built: messages, sessions, and the transfer of files.
//!
//! ```text
//! client ── POST /grpc ────→ calls of `Control` and `LLBBridge` come in       (messages)
//!        ── POST /session ─→ and on this connection we call the client:       (session)
//!                            files (receive), results (send), secrets, credentials, SSH agents
//! ```
//!
//! A client is root's equal, since it may run containers; still no path that it sends leads out of the folder it is for, and
//! all that it sends has a limit.

pub mod messages;
mod mode;
mod receive;
mod send;
mod session;

pub use receive::{ReceiveLimits, Received, Wanted};
pub use session::{Credentials, Session, SessionError, Sessions};

/// `Control`, which answers the client.
pub const CONTROL: &str = "/moby.buildkit.v1.Control/";
/// `LLBBridge`, through which a client asks for a frontend's result.
pub const BRIDGE: &str = "/moby.buildkit.v1.frontend.LLBBridge/";
/// The metadata that says of which build a call of [`BRIDGE`] is.
pub const BUILD_ID: &str = "buildkit-controlapi-buildid";
/// Most bytes of one message, as with BuildKit's own clients.
const MESSAGE_MAX: usize = 16 << 20;

/// The limits of a connection with a client.
pub const LIMITS: grpc::Limits =
    grpc::Limits { message_max: MESSAGE_MAX, stream_window: 1 << 20, connection_window: 4 << 20, keep_alive: None };
