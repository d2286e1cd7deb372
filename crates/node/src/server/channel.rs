//! What lies between a transport (WebSocket or SPDY) and those who serve its streams: short queues of bytes.

use std::io;
use std::pin::Pin;

use bytes::Bytes;
use futures::Stream;
use tokio::sync::mpsc;

/// Messages of a queue. With pieces of at most 32 KiB a slow side holds a quarter of a mebibyte.
pub const QUEUE: usize = 8;

/// Bytes from the client; the end is the client's end of file.
pub type ByteStream = Pin<Box<dyn Stream<Item = Bytes> + Send>>;

/// To be written by the transport.
#[derive(Debug)]
pub enum Outgoing {
    /// Bytes of a stream.
    Data {
        /// The stream, or channel.
        id: u32,
        /// The bytes.
        bytes: Bytes,
    },
    /// Nothing more comes on a stream.
    End {
        /// The stream, or channel.
        id: u32,
    },
    /// A sign of life.
    Alive,
}

/// Where to write to one stream of the client.
#[derive(Debug, Clone)]
pub struct Outlet {
    queue: mpsc::Sender<Outgoing>,
    id: u32,
}

impl Outlet {
    /// Writes to stream `id` through `queue`.
    pub fn new(queue: mpsc::Sender<Outgoing>, id: u32) -> Self {
        Outlet { queue, id }
    }

    /// Waits until the transport has room.
    ///
    /// # Errors
    /// The client is gone.
    pub async fn send(&self, bytes: Bytes) -> io::Result<()> {
        self.put(Outgoing::Data { id: self.id, bytes }).await
    }

    /// Half-closes the stream.
    ///
    /// # Errors
    /// The client is gone.
    pub async fn end(&self) -> io::Result<()> {
        self.put(Outgoing::End { id: self.id }).await
    }

    async fn put(&self, out: Outgoing) -> io::Result<()> {
        self.queue.send(out).await.map_err(|_| io::ErrorKind::BrokenPipe.into())
    }
}
