//! The engine's end of a shim's socket, for an event loop of the caller's choice: nothing here blocks.

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};
use std::path::Path;

use crate::proto::{Call, Message};
use crate::{launch, wire};

/// A connection.
pub struct Connection {
    socket: OwnedFd,
}

impl Connection {
    /// Connects to the shim of the sandbox in `pod_dir`.
    ///
    /// Errors with `ConnectionRefused` or `NotFound` when no shim lives there.
    pub fn open(pod_dir: &Path) -> io::Result<Self> {
        wire::connect_to(&launch::socket_path(pod_dir)).map(|socket| Connection { socket })
    }

    /// Sends a call; `WouldBlock` when the shim is behind.
    pub fn send(&self, call: &Call) -> io::Result<()> {
        wire::send(self.socket.as_fd(), &serde_json::to_vec(call)?, &[])
    }

    /// The next message with its descriptors; `None` when the shim is gone, `WouldBlock` when there is none yet.
    pub fn receive(&self) -> io::Result<Option<(Message, Vec<OwnedFd>)>> {
        match wire::recv(self.socket.as_fd())? {
            Some((bytes, fds)) => Ok(Some((serde_json::from_slice(&bytes)?, fds))),
            None => Ok(None),
        }
    }
}

impl AsFd for Connection {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

impl AsRawFd for Connection {
    fn as_raw_fd(&self) -> RawFd {
        self.socket.as_raw_fd()
    }
}
