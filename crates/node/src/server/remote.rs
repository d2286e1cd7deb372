//! Exec, attach and port-forward tied to a transport.

use std::collections::HashMap;
use std::time::Duration;

use bytes::Bytes;
use engine::runtime::{RuntimeError, Session};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::mpsc;

use super::Shared;
use super::channel::{Outgoing, Outlet, QUEUE};
use super::forward::Target;
use super::session::{self, Kind, Remote};
use super::spdy::{self, Connection, Stream};
use super::status::Outcome;
use super::streaming::Command;
use super::ws::{self, Inputs, LINGER, Socket, Wire};

/// How long a client may take to open the streams of a session.
const STREAMS: Duration = Duration::from_secs(30);
/// A forwarded connection that takes nothing for so long is given up: it holds up all others of its client.
const STALL: Duration = Duration::from_secs(30);

const STDIN: u8 = 0;
const STDOUT: u8 = 1;
const STDERR: u8 = 2;
const ERROR: u8 = 3;
const RESIZE: u8 = 4;

impl Command {
    async fn open(&self, shared: &Shared) -> Result<Session, RuntimeError> {
        match self.kind {
            Kind::Exec => shared.runtime.exec(self.spec.clone()).await,
            Kind::Attach => shared.runtime.attach(&self.spec.container_id).await,
        }
    }

    /// Runs to the end, then says how it ended; `status`: as JSON.
    async fn run(&self, shared: &Shared, mut remote: Remote, status: bool) {
        let outcome = match self.open(shared).await {
            Ok(session) => session::run(session, self.kind, &mut remote).await,
            Err(error) => {
                let doing = if self.kind == Kind::Exec { "executing command in" } else { "attaching to" };
                Outcome::Failed(format!("error {doing} container: {error}"))
            }
        };
        let Remote { stdout, stderr, error, .. } = remote;
        for outlet in [stdout, stderr].into_iter().flatten() {
            let _ = outlet.end().await;
        }
        let said = if status { outcome.json() } else { outcome.text() };
        if !said.is_empty() {
            let _ = error.send(said).await;
        }
        let _ = error.end().await;
    }
}

/// Exec or attach over WebSocket channels.
pub async fn over_channels(shared: &Shared, socket: Socket, wire: Wire, command: Command) {
    let (out, queue) = mpsc::channel(QUEUE);
    let alive = out.downgrade();
    let mut inputs = Inputs::default();
    let outlet = |channel: u8| Outlet::new(out.clone(), u32::from(channel));
    let spec = &command.spec;
    let remote = Remote {
        stdin: spec.stdin.then(|| inputs.open(STDIN)),
        resize: spec.tty.then(|| inputs.open(RESIZE)),
        stdout: spec.stdout.then(|| outlet(STDOUT)),
        stderr: spec.stderr.then(|| outlet(STDERR)),
        error: outlet(ERROR),
    };
    drop(out);
    let core = async move {
        // An empty message tells the client that it is connected.
        let first = remote.stdout.as_ref().or(remote.stderr.as_ref()).unwrap_or(&remote.error);
        if first.send(Bytes::new()).await.is_ok() {
            command.run(shared, remote, wire.status).await;
        }
    };
    ws::drive(socket, wire, inputs, (alive, queue), core).await;
}

/// Exec or attach over SPDY; `version` of the channel protocol.
pub async fn over_spdy<T: AsyncRead + AsyncWrite>(shared: &Shared, io: T, version: u8, command: Command) {
    let connection = spdy::connect(io, None);
    drive(connection, async |mut streams, keep| {
        let wanted = wanted(&command, version);
        let collected = tokio::time::timeout(STREAMS, collect(&mut streams, &wanted)).await;
        let Ok(Some(mut found)) = collected else {
            return tracing::debug!("timed out waiting for the client to create streams");
        };
        drop(keep);
        let mut entries = Vec::new();
        let mut take = |name| {
            let (input, outlet, _, entry) = found.remove(name)?.split();
            entries.push(entry);
            Some((input, outlet))
        };
        let Some((_, error)) = take("error") else { return };
        let remote = Remote {
            stdin: take("stdin").map(|(input, _)| input),
            resize: take("resize").map(|(input, _)| input),
            stdout: take("stdout").map(|(_, outlet)| outlet),
            stderr: take("stderr").map(|(_, outlet)| outlet),
            error,
        };
        command.run(shared, remote, version >= 4).await;
    })
    .await;
}

/// The streams that a client of that version opens.
fn wanted(command: &Command, version: u8) -> Vec<&'static str> {
    let spec = &command.spec;
    let streams = [
        ("error", true),
        ("stdin", spec.stdin),
        ("stdout", spec.stdout),
        ("stderr", spec.stderr),
        ("resize", spec.tty && version >= 3),
    ];
    streams.into_iter().filter(|(_, wanted)| *wanted).map(|(name, _)| name).collect()
}

async fn collect(
    streams: &mut mpsc::Receiver<Stream>,
    wanted: &[&'static str],
) -> Option<HashMap<&'static str, Stream>> {
    let mut found = HashMap::new();
    while found.len() < wanted.len() {
        let stream = streams.recv().await?;
        let kind = stream.headers.get("streamtype").unwrap_or_default();
        match wanted.iter().find(|name| **name == kind) {
            Some(name) => drop(found.insert(*name, stream)),
            None => tracing::debug!(kind, "a stream that nobody asked for"),
        }
    }
    Some(found)
}

/// Port-forward over SPDY.
pub async fn forward_spdy<T: AsyncRead + AsyncWrite>(shared: &Shared, io: T, sandbox: &str) {
    let target = Target { runtime: shared.runtime.as_ref(), sandbox };
    drive(spdy::connect(io, Some(STALL)), async |streams, keep| target.serve(streams, keep).await).await;
}

/// Carries a connection until `core` has ended and all it sent is written; drops it when the client goes.
async fn drive<T, F>(connection: Connection<T>, core: F)
where
    T: AsyncRead + AsyncWrite,
    F: AsyncFnOnce(mpsc::Receiver<Stream>, mpsc::Sender<Outgoing>),
{
    let Connection { reader, mut writer, streams, keep } = connection;
    let mut reader = std::pin::pin!(reader.run());
    {
        let mut writing = std::pin::pin!(writer.run());
        {
            let mut core = std::pin::pin!(core(streams, keep));
            tokio::select! {
                () = &mut core => {}
                result = &mut reader => return left(result),
                result = &mut writing => return left(result),
            }
        }
        tokio::select! {
            result = &mut reader => return left(result),
            _ = &mut writing => {}
        }
    }
    // The client closes when it has read all; closing first could take from it what it has not read yet.
    let _ = tokio::time::timeout(LINGER, reader).await;
    writer.close().await;
}

fn left(result: Result<(), spdy::SpdyError>) {
    if let Err(error) = result {
        tracing::debug!(error = %base::chain(&error), "a client's connection broke");
    }
}
