//! Bytes both ways between two upgraded connections, until both have ended.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};

use hyper::upgrade::OnUpgrade;
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt as _, ReadBuf};
use tokio::sync::OwnedSemaphorePermit;
use tokio_util::sync::CancellationToken;

/// A TLS stream whose end without farewell is an end like any other: programs that exit seldom say goodbye, and what
/// they wrote last must not be lost over it. The protocols inside mark their own ends.
struct Lenient<S>(S);

impl<S: AsyncRead + Unpin> AsyncRead for Lenient<S> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        match Pin::new(&mut self.0).poll_read(cx, buf) {
            Poll::Ready(Err(error)) if error.kind() == io::ErrorKind::UnexpectedEof => Poll::Ready(Ok(())),
            other => other,
        }
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Lenient<S> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.0).poll_write(cx, buf)
    }
    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_flush(cx)
    }
    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_shutdown(cx)
    }
}

/// Copies between two connections once both have been upgraded, until both have ended or this server ends its streams. The
/// place among the streams is held as long.
pub(super) fn join(client: OnUpgrade, other: OnUpgrade, end: CancellationToken, place: Option<OwnedSemaphorePermit>) {
    tokio::spawn(async move {
        let piped = async {
            let (client, other) = tokio::try_join!(client, other)?;
            run(TokioIo::new(client), TokioIo::new(other)).await;
            Ok::<_, hyper::Error>(())
        };
        tokio::select! {
            done = piped => if let Err(error) = done { tracing::debug!(%error, "stream was not upgraded") },
            () = end.cancelled() => {}
        }
        drop(place);
    });
}

/// Copies until both directions have ended or one has failed, then closes both.
async fn run<A, B>(a: A, b: B)
where
    A: AsyncRead + AsyncWrite + Unpin,
    B: AsyncRead + AsyncWrite + Unpin,
{
    let (mut a, mut b) = (Lenient(a), Lenient(b));
    if let Err(error) = tokio::io::copy_bidirectional(&mut a, &mut b).await {
        tracing::debug!(%error, "stream broke");
    }
    let _ = tokio::join!(a.shutdown(), b.shutdown());
}
