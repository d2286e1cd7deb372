//! Port forwarding: connections into a sandbox, each a pair of streams, one for bytes and one for what went wrong.

use std::collections::HashMap;
use std::io;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use engine::runtime::Duplex;
use futures::StreamExt;
use futures::stream::FuturesUnordered;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::sync::mpsc;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::channel::{ByteStream, Outgoing, Outlet};
use super::spdy::Stream;
use crate::runtime::Runtime;

const CHUNK: usize = 32 << 10;
/// How long the second stream of a pair may be late.
const PAIRING: Duration = Duration::from_secs(30);
/// Once the client has half-closed, silence of the pod for so long ends the connection: the kubelet's clients do not tell
/// a half-close from having gone.
const HALF_CLOSED: Duration = Duration::from_secs(60);

/// Where connections go.
pub struct Target<'a> {
    /// Makes them.
    pub runtime: &'a dyn Runtime,
    /// The sandbox.
    pub sandbox: &'a str,
}

/// One connection's way to the client.
pub struct Pair {
    /// The port in the sandbox.
    pub port: u16,
    /// Bytes from the client.
    pub input: ByteStream,
    /// Bytes to the client.
    pub data: Outlet,
    /// Errors to the client.
    pub error: Outlet,
    /// The client wants no more.
    pub reset: CancellationToken,
}

impl Target<'_> {
    /// Makes one connection and carries it to its end.
    pub async fn forward(&self, pair: Pair) {
        let Pair { port, input, data, error, reset } = pair;
        let work = async {
            let connection = self.runtime.connect(self.sandbox, port).await.map_err(|e| e.to_string())?;
            pipe(connection, input, &data).await.map_err(|e| e.to_string())
        };
        let result = tokio::select! {
            result = work => result,
            () = reset.cancelled() => Ok(()),
        };
        if let Err(message) = result {
            let message = format!("error forwarding port {port} to pod {}, uid : {message}", self.sandbox);
            let _ = error.send(message.into()).await;
        }
        let _ = data.end().await;
        let _ = error.end().await;
    }

    /// Serves the streams of a SPDY connection for as long as it lasts. `_keep` lets the connection be written to.
    pub async fn serve(&self, mut streams: mpsc::Receiver<Stream>, _keep: mpsc::Sender<Outgoing>) {
        let mut halves: HashMap<String, (Stream, Instant)> = HashMap::new();
        let mut running = FuturesUnordered::new();
        loop {
            let oldest = halves.values().map(|(_, since)| *since).min();
            let late = async {
                match oldest {
                    Some(since) => tokio::time::sleep_until(since + PAIRING).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                stream = streams.recv() => {
                    let Some(stream) = stream else { return };
                    let key = key(&stream);
                    match halves.remove(&key) {
                        Some((other, _)) => running.push(self.paired(stream, other)),
                        None => drop(halves.insert(key, (stream, Instant::now()))),
                    }
                }
                Some(()) = running.next() => {}
                () = late => {
                    let now = Instant::now();
                    let expired: Vec<_> = halves.extract_if(|_, (_, since)| *since + PAIRING <= now).collect();
                    for (_, (stream, _)) in expired {
                        let _ = stream.outlet.end().await;
                    }
                }
            }
        }
    }

    async fn paired(&self, a: Stream, b: Stream) {
        let (error, data) = if kind(&a) == Some("error") { (a, b) } else { (b, a) };
        let port = data.headers.get("port").and_then(|port| port.parse().ok()).filter(|&port: &u16| port > 0);
        let sound = kind(&error) == Some("error") && kind(&data) == Some("data");
        let (_, error_out, _, _error) = error.split();
        match port.filter(|_| sound) {
            Some(port) => {
                let (input, data, reset, _data) = data.split();
                self.forward(Pair { port, input, data, error: error_out, reset }).await;
            }
            None => {
                let message = Bytes::from_static(b"a connection needs an error stream, a data stream and a port");
                let _ = error_out.send(message).await;
                let _ = data.outlet.end().await;
                let _ = error_out.end().await;
            }
        }
    }
}

fn kind(stream: &Stream) -> Option<&str> {
    stream.headers.get("streamtype")
}

/// Both streams of a pair have it. Clients that send no request id open the error stream first and the data stream next.
fn key(stream: &Stream) -> String {
    match stream.headers.get("requestid") {
        Some(id) => format!("r{id}"),
        None if kind(stream) == Some("error") => format!("s{}", stream.id),
        None => format!("s{}", stream.id.wrapping_sub(2)),
    }
}

/// Carries bytes both ways until the pod has ended its side.
async fn pipe(connection: Box<dyn Duplex>, mut input: ByteStream, output: &Outlet) -> io::Result<()> {
    let (mut read, mut write) = tokio::io::split(connection);
    let half_closed = CancellationToken::new();
    let up = async {
        while let Some(bytes) = input.next().await {
            if write.write_all(&bytes).await.is_err() || write.flush().await.is_err() {
                // The pod reads no more, but may still have something to say.
                while input.next().await.is_some() {}
                break;
            }
        }
        let _ = write.shutdown().await;
        half_closed.cancel();
        std::future::pending().await
    };
    let down = async {
        let mut buf = BytesMut::new();
        loop {
            buf.reserve(CHUNK);
            let silence = async {
                half_closed.cancelled().await;
                tokio::time::sleep(HALF_CLOSED).await;
            };
            let length = tokio::select! {
                length = read.read_buf(&mut buf) => length?,
                () = silence => return Ok(()),
            };
            if length == 0 {
                return Ok(());
            }
            output.send(buf.split().freeze()).await?;
        }
    };
    tokio::select! {
        result = down => result,
        never = up => never,
    }
}
