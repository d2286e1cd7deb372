//! Packets with descriptors over a SOCK_SEQPACKET unix socket: boundaries are kept by the kernel, so there is no framing
//! to get wrong.

use std::io::{self, IoSlice, IoSliceMut};
use std::os::fd::{AsRawFd, BorrowedFd, OwnedFd};
use std::path::Path;

use nix::errno::Errno;
use nix::fcntl::{OFlag, open};
use nix::sys::socket::{
    AddressFamily, Backlog, ControlMessage, ControlMessageOwned, MsgFlags, SockFlag, SockType, UnixAddr, bind, connect,
    listen, recvmsg, sendmsg, socket,
};
use nix::sys::stat::Mode;

/// Most bytes in one packet; the kernel's default socket buffer holds it.
pub const PACKET_MAX: usize = 128 * 1024;
/// Most descriptors in one packet.
pub const FDS_MAX: usize = 4;

/// Sends one packet. `WouldBlock` when the peer's buffer is full and the socket does not block.
pub fn send(socket: BorrowedFd<'_>, bytes: &[u8], fds: &[BorrowedFd<'_>]) -> io::Result<()> {
    if bytes.len() > PACKET_MAX || fds.len() > FDS_MAX {
        return Err(io::Error::from_raw_os_error(libc::EMSGSIZE));
    }
    let raw: Vec<_> = fds.iter().map(AsRawFd::as_raw_fd).collect();
    let rights = [ControlMessage::ScmRights(&raw)];
    let control: &[ControlMessage<'_>] = if raw.is_empty() { &[] } else { &rights };
    loop {
        match sendmsg::<UnixAddr>(socket.as_raw_fd(), &[IoSlice::new(bytes)], control, MsgFlags::MSG_NOSIGNAL, None) {
            Ok(_) => return Ok(()),
            Err(Errno::EINTR) => {}
            Err(e) => return Err(e.into()),
        }
    }
}

/// Receives one packet; `None` at the end. Only as much memory is taken as the packet needs.
pub fn recv(socket: BorrowedFd<'_>) -> io::Result<Option<(Vec<u8>, Vec<OwnedFd>)>> {
    let size = loop {
        let peek = MsgFlags::MSG_PEEK | MsgFlags::MSG_TRUNC;
        match nix::sys::socket::recv(socket.as_raw_fd(), &mut [], peek) {
            Ok(size) => break size,
            Err(Errno::EINTR) => {}
            Err(e) => return Err(e.into()),
        }
    };
    if size > PACKET_MAX {
        return Err(io::Error::from_raw_os_error(libc::EMSGSIZE));
    }
    let mut bytes = vec![0u8; size];
    let mut control = nix::cmsg_space!([std::os::fd::RawFd; FDS_MAX]);
    let mut fds = Vec::new();
    loop {
        let mut iov = [IoSliceMut::new(&mut bytes)];
        match recvmsg::<UnixAddr>(socket.as_raw_fd(), &mut iov, Some(&mut control), MsgFlags::MSG_CMSG_CLOEXEC) {
            Ok(message) => {
                for control in message.cmsgs()? {
                    if let ControlMessageOwned::ScmRights(raw) = control {
                        fds.extend(raw.into_iter().map(crate::sys::adopt));
                    }
                }
                break;
            }
            Err(Errno::EINTR) => {}
            Err(e) => return Err(e.into()),
        }
    }
    // A packet of no bytes is how SEQPACKET tells the end; we never send one.
    if bytes.is_empty() { Ok(None) } else { Ok(Some((bytes, fds))) }
}

/// Receives the descriptors that come with the next bytes of a stream socket.
pub(crate) fn recv_stream(socket: BorrowedFd<'_>) -> io::Result<Vec<OwnedFd>> {
    Ok(read_with_descriptors(socket, &mut [0u8; 256])?.1)
}

/// Reads some bytes of a stream socket, and the descriptors that came with them: at most [`FDS_MAX`]. No bytes at the end.
///
/// # Errors
/// The kernel's; `WouldBlock` when nothing is there and the socket does not block.
pub fn read_with_descriptors(socket: BorrowedFd<'_>, bytes: &mut [u8]) -> io::Result<(usize, Vec<OwnedFd>)> {
    let mut control = nix::cmsg_space!([std::os::fd::RawFd; FDS_MAX]);
    let mut iov = [IoSliceMut::new(bytes)];
    let flags = MsgFlags::MSG_CMSG_CLOEXEC;
    let message = recvmsg::<UnixAddr>(socket.as_raw_fd(), &mut iov, Some(&mut control), flags)?;
    let mut fds = Vec::new();
    for control in message.cmsgs()? {
        if let ControlMessageOwned::ScmRights(raw) = control {
            fds.extend(raw.into_iter().map(crate::sys::adopt));
        }
    }
    Ok((message.bytes, fds))
}

/// Two connected ends, blocking, close-on-exec.
pub fn pair() -> io::Result<(OwnedFd, OwnedFd)> {
    Ok(nix::sys::socket::socketpair(AddressFamily::Unix, SockType::SeqPacket, None, SockFlag::SOCK_CLOEXEC)?)
}

/// The address of a socket file below its opened folder: a unix address holds 108 bytes, a path may be longer.
fn short_address(path: &Path) -> io::Result<(OwnedFd, UnixAddr)> {
    let (Some(dir), Some(name)) = (path.parent(), path.file_name()) else {
        return Err(io::Error::from_raw_os_error(libc::EINVAL));
    };
    let dir = open(dir, OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC, Mode::empty())?;
    let address = UnixAddr::new(&Path::new("/proc/self/fd").join(dir.as_raw_fd().to_string()).join(name))?;
    Ok((dir, address))
}

/// Listens at `path`, readable and writable by its owner alone, not blocking.
pub fn listen_at(path: &Path) -> io::Result<OwnedFd> {
    match std::fs::remove_file(path) {
        Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(e),
        _ => {}
    }
    let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
    let listener = socket(AddressFamily::Unix, SockType::SeqPacket, flags, None)?;
    let (_dir, address) = short_address(path)?;
    let before = nix::sys::stat::umask(Mode::from_bits_truncate(0o177));
    let bound = bind(listener.as_raw_fd(), &address);
    nix::sys::stat::umask(before);
    bound?;
    listen(&listener, Backlog::new(16)?)?;
    Ok(listener)
}

/// Connects to the socket at `path`. The result does not block.
pub fn connect_to(path: &Path) -> io::Result<OwnedFd> {
    let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
    let socket = socket(AddressFamily::Unix, SockType::SeqPacket, flags, None)?;
    let (_dir, address) = short_address(path)?;
    connect(socket.as_raw_fd(), &address)?;
    Ok(socket)
}

/// Sets or clears O_NONBLOCK.
pub fn set_nonblocking(fd: BorrowedFd<'_>, on: bool) -> io::Result<()> {
    let now = OFlag::from_bits_retain(nix::fcntl::fcntl(fd, nix::fcntl::FcntlArg::F_GETFL)?);
    let then = if on { now | OFlag::O_NONBLOCK } else { now - OFlag::O_NONBLOCK };
    nix::fcntl::fcntl(fd, nix::fcntl::FcntlArg::F_SETFL(then))?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::os::fd::AsFd;

    use super::*;

    #[test]
    fn packets_keep_their_bounds_and_descriptors() {
        let (a, b) = pair().unwrap();
        let (r, w) = nix::unistd::pipe().unwrap();
        send(a.as_fd(), b"one", &[w.as_fd()]).unwrap();
        send(a.as_fd(), b"second", &[]).unwrap();
        drop(w);
        let (bytes, mut fds) = recv(b.as_fd()).unwrap().unwrap();
        assert_eq!((bytes.as_slice(), fds.len()), (&b"one"[..], 1));
        nix::unistd::write(fds.pop().unwrap(), b"x").unwrap();
        let mut byte = [0];
        assert_eq!(nix::unistd::read(&r, &mut byte).unwrap(), 1);
        assert_eq!(recv(b.as_fd()).unwrap().unwrap().0, b"second");
        drop(a);
        assert!(recv(b.as_fd()).unwrap().is_none());
    }

    #[test]
    fn a_long_path_is_no_obstacle() {
        let dir = tempfile::tempdir().unwrap();
        let deep = dir.path().join("x".repeat(150));
        std::fs::create_dir(&deep).unwrap();
        let path = deep.join("s.sock");
        let _listener = listen_at(&path).unwrap();
        connect_to(&path).unwrap();
    }

    #[test]
    fn an_oversized_packet_is_refused() {
        let (a, _b) = pair().unwrap();
        assert!(send(a.as_fd(), &vec![0; PACKET_MAX + 1], &[]).is_err());
    }
}
