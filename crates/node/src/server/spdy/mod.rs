//! SPDY/3.1, the part that `kubectl exec`, `attach` and `port-forward` use: the client opens streams, both sides write
//! and half-close them.
//!
//! Flow control: the clients in use (moby/spdystream) neither keep to windows nor send WINDOW_UPDATE. So we never wait
//! for one; what is in flight is bounded by short queues and the socket's own backpressure. We do send WINDOW_UPDATE as
//! bytes are taken, for clients that keep to the specification.

mod connection;
mod dictionary;
mod frame;
mod headers;

pub use connection::{Connection, Stream, connect};
#[cfg(test)]
pub use frame::Decoder;
pub use frame::Frame;
#[cfg(test)]
pub use headers::Decompressor;
pub use headers::{Compressor, Headers};

/// What ends a connection.
#[derive(Debug, thiserror::Error)]
pub enum SpdyError {
    /// Bytes that are no frame.
    #[error("malformed {0}")]
    Malformed(&'static str),
    /// Not SPDY/3.
    #[error("version {0} is not spoken here")]
    Version(u16),
    /// A control frame beyond the limit.
    #[error("control frame of {0} bytes is too large")]
    FrameTooLarge(usize),
    /// Headers beyond the limit.
    #[error("headers are too large")]
    HeadersTooLarge,
    /// A stream id that is not a client's, or not greater than the last.
    #[error("invalid stream id {0}")]
    StreamId(u32),
    /// The connection broke.
    #[error("connection failed")]
    Io(#[from] std::io::Error),
    /// The writing side ended first.
    #[error("connection is closing")]
    Closing,
}
