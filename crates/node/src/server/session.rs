//! Exec and attach, whatever the transport: bytes both ways, then how it ended.

use std::io;
use std::time::Duration;

use bytes::BytesMut;
use engine::runtime::{Input, Output, Session};
use futures::StreamExt;
use nix::errno::Errno;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use super::channel::{ByteStream, Outlet};
use super::status::Outcome;

const CHUNK: usize = 32 << 10;
/// How long after the command's end its output may be silent before it is taken to be over: a process left behind may
/// hold the pipes open for ever.
const SILENCE: Duration = Duration::from_secs(5);
/// A resize message is a few dozen bytes.
const RESIZE_MAX: usize = 4 << 10;

/// The client's side.
pub struct Remote {
    /// Bytes for standard input.
    pub stdin: Option<ByteStream>,
    /// Messages about the terminal's size, JSON.
    pub resize: Option<ByteStream>,
    /// Takes standard output.
    pub stdout: Option<Outlet>,
    /// Takes standard error.
    pub stderr: Option<Outlet>,
    /// Takes the outcome.
    pub error: Outlet,
}

/// What the exit means to the client.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// The exit status is the outcome.
    Exec,
    /// The end of the container is success, whatever its status: that is in the pod's status.
    Attach,
}

/// Connects the two until the command has ended and all of its output is delivered. Dropping the future ends the
/// session.
pub async fn run(session: Session, kind: Kind, remote: &mut Remote) -> Outcome {
    let Session { stdin, stdout, stderr, resize, exit } = session;
    let (remote_stdin, remote_sizes) = (remote.stdin.take(), remote.resize.take());
    let ended = CancellationToken::new();
    let outputs = async {
        let (a, b) = futures::join!(
            output(stdout, remote.stdout.as_ref(), &ended),
            output(stderr, remote.stderr.as_ref(), &ended)
        );
        a.and(b)
    };
    let exit = async {
        let exit = exit.await;
        ended.cancel();
        exit
    };
    let inputs = async {
        futures::join!(input(stdin, remote_stdin), sizes(resize, remote_sizes));
        std::future::pending().await
    };
    let result = tokio::select! {
        result = async { futures::join!(exit, outputs) } => result,
        never = inputs => never,
    };
    match result {
        (_, Err(error)) => Outcome::Failed(format!("error reading from the container: {error}")),
        (Err(error), _) => Outcome::Failed(format!("error executing command in container: {error}")),
        (Ok(_), _) if kind == Kind::Attach => Outcome::Success,
        (Ok(code), _) => Outcome::Exit(code),
    }
}

async fn output(from: Option<Output>, to: Option<&Outlet>, ended: &CancellationToken) -> io::Result<()> {
    let (Some(mut from), Some(to)) = (from, to) else { return Ok(()) };
    let mut buf = BytesMut::new();
    loop {
        buf.reserve(CHUNK);
        let silence = async {
            ended.cancelled().await;
            tokio::time::sleep(SILENCE).await;
        };
        let read = tokio::select! {
            read = from.read_buf(&mut buf) => read,
            () = silence => return Ok(()),
        };
        match read {
            Ok(0) => return Ok(()),
            Ok(_) => to.send(buf.split().freeze()).await?,
            // A terminal whose last process is gone.
            Err(error) if error.raw_os_error() == Some(Errno::EIO as i32) => return Ok(()),
            Err(error) => return Err(error),
        }
    }
}

async fn input(mut to: Option<Input>, from: Option<ByteStream>) {
    let Some(mut from) = from else {
        // Held, not closed: the client did not ask for standard input, which says nothing about its end.
        let _held = to;
        return std::future::pending().await;
    };
    while let Some(bytes) = from.next().await {
        if let Some(pipe) = &mut to
            && (pipe.write_all(&bytes).await.is_err() || pipe.flush().await.is_err())
        {
            // Nobody reads it any more; what still comes is dropped, so that the client can go on writing.
            to = None;
        }
    }
    if let Some(mut pipe) = to {
        let _ = pipe.shutdown().await;
    }
}

#[derive(serde::Deserialize)]
struct Size {
    #[serde(rename = "Width", alias = "width")]
    width: u16,
    #[serde(rename = "Height", alias = "height")]
    height: u16,
}

/// Takes the whole JSON objects off `buf`: the last size among them. What is no JSON is dropped.
fn newest(buf: &mut BytesMut) -> Option<Size> {
    let mut objects = serde_json::Deserializer::from_slice(buf).into_iter::<Size>();
    let (mut last, mut used, mut broken) = (None, 0, false);
    while let Some(object) = objects.next() {
        match object {
            Ok(size) => (last, used) = (Some(size), objects.byte_offset()),
            Err(error) => {
                broken = !error.is_eof();
                break;
            }
        }
    }
    match broken || buf.len() - used > RESIZE_MAX {
        true => buf.clear(),
        false => drop(buf.split_to(used)),
    }
    last.filter(|size| size.width > 0 && size.height > 0)
}

/// Sizes come as JSON objects one after the other, cut anyhow.
async fn sizes(to: Option<mpsc::Sender<(u16, u16)>>, from: Option<ByteStream>) {
    let Some(mut from) = from else { return };
    let mut buf = BytesMut::new();
    while let Some(bytes) = from.next().await {
        buf.extend_from_slice(&bytes);
        if let (Some(size), Some(to)) = (newest(&mut buf), &to) {
            let _ = to.send((size.width, size.height)).await;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_read_however_they_are_cut() {
        let mut buf = BytesMut::from(&br#"{"Width":80,"Height":24}"#[..]);
        buf.extend_from_slice(b"\n{\"Width\":100,\"Hei");
        assert_eq!(newest(&mut buf).map(|s| (s.width, s.height)), Some((80, 24)));
        buf.extend_from_slice(b"ght\":50}\n");
        assert_eq!(newest(&mut buf).map(|s| (s.width, s.height)), Some((100, 50)));
        buf.extend_from_slice(b"nonsense");
        assert!(newest(&mut buf).is_none() && buf.is_empty());
    }
}
