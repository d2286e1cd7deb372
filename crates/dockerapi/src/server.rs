//! The socket, the port if one is asked for, and the connections to them.

use std::convert::Infallible;
use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use base::rt::{Drain, Tasks};
use engine::Engine;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream, UnixListener, UnixStream};
use tokio::sync::Semaphore;
use tokio_rustls::TlsAcceptor;
use tokio_util::task::TaskTracker;

use crate::containers::exec::Execs;
use crate::containers::life;
use crate::containers::record::Records;
use crate::containers::watches::Watches;
use crate::events::Events;
use crate::face::{Container, Face};
use crate::networks::{self, Nets};
use crate::remote::Remote;
use crate::swarm::Manager;
use crate::volumes::Volumes;
use crate::{ServeError, containers_dir, mounts_dir, networks_dir, route, socket_path, unmount_all, volumes_dir};

/// Connections at once at most, hijacked ones included; further ones wait to be accepted.
const CONNECTIONS: usize = 1024;
/// The same of the port: its own, so that strangers who never finish a handshake keep nobody from the socket.
const REMOTE_CONNECTIONS: usize = 512;
/// How long a TLS handshake may take.
const HANDSHAKE: Duration = Duration::from_secs(10);
/// Whose members may use the socket, where the host has such a group. They can become root with it, as with Docker's.
const GROUP: &str = "windlass";
/// A client that has said nothing for this long has its connection closed.
const HEADERS: Duration = Duration::from_secs(300);
/// How long requests under way may take once the agent drains.
const DRAIN: Duration = Duration::from_secs(3);
/// After an error of accept (out of descriptors), so that the loop does not spin.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

fn at(path: &Path) -> impl Fn(io::Error) -> ServeError {
    let path = path.to_path_buf();
    move |source| ServeError::Io { path: path.clone(), source }
}

/// Docker's containers on an engine, and the API to them.
#[derive(Clone)]
pub struct Docker(pub(crate) Arc<Face>);

impl Docker {
    /// Takes up the containers of an engine where the one before left them. They go on running after it. What is asked of
    /// the swarm goes to `manager`.
    ///
    /// # Errors
    /// When a folder cannot be made or read.
    pub async fn open(
        engine: Arc<Engine>,
        manager: Option<Arc<dyn Manager>>,
        drain: Drain,
    ) -> Result<Self, ServeError> {
        let face = Arc::new(face(engine, manager, drain)?);
        networks::resume(&face).await;
        life::resume(&face).await;
        Ok(Docker(face))
    }

    /// Serves the API until told to drain, on its socket and perhaps on a port.
    ///
    /// # Errors
    /// When the socket cannot be made.
    pub async fn serve(self, remote: Option<Remote>) -> Result<(), ServeError> {
        let face = self.0;
        let drain = face.drain();
        let path = socket_path(face.engine.instance());
        let listener = listen(&path).map_err(at(&path))?;
        tracing::info!(socket = %path.display(), "the Docker API is served");
        let port = async {
            let Some(remote) = remote else { return };
            match TcpListener::bind(remote.address).await {
                Ok(port) => accept(&face, Door::Port(port, TlsAcceptor::from(remote.tls)), &drain).await,
                // Whoever is on this host still has the socket.
                Err(error) => {
                    tracing::error!(address = %remote.address, %error, "the Docker API is not served on its port");
                }
            }
        };
        tokio::join!(accept(&face, Door::Socket(listener), &drain), port);
        let _ = std::fs::remove_file(&path);
        if let Err(failure) = face.tasks.clone().shutdown(DRAIN).await {
            tracing::warn!(%failure, "a task of the Docker API");
        }
        Ok(())
    }
}

fn face(engine: Arc<Engine>, manager: Option<Arc<dyn Manager>>, drain: Drain) -> Result<Face, ServeError> {
    let instance = engine.instance().clone();
    let dir = instance.data_dir().join("docker");
    let containers = containers_dir(&instance);
    let records = Records::open(&containers).map_err(at(&containers))?;
    let volumes = Volumes::open(&volumes_dir(&instance)).map_err(at(&dir))?;
    unmount_all(&instance);
    std::fs::create_dir_all(mounts_dir(&instance)).map_err(at(&mounts_dir(&instance)))?;
    let networks = networks_dir(&instance);
    let nets = Nets::open(&networks).map_err(at(&networks))?;
    let known = records.load().map_err(at(&containers))?;
    let known = known.into_iter().map(|r| (r.id.clone(), Arc::new(Container::new(r)))).collect();
    let tasks = Tasks::new(drain);
    Ok(Face {
        engine,
        dir,
        records,
        volumes,
        nets,
        events: Events::default(),
        execs: Execs::default(),
        builds: crate::images::building::Builds::default(),
        watches: Watches::new(&tasks).map_err(at(&containers))?,
        shipping: crate::logging::Shipping::default(),
        buildkit: crate::buildkit::Buildkit::default(),
        tasks,
        manager,
        containers: parking_lot::Mutex::new(known),
        making: parking_lot::Mutex::default(),
        pods: parking_lot::Mutex::default(),
    })
}

/// For root and the group, if there is one. What a killed agent left there is replaced: only one agent of an instance runs.
fn listen(path: &Path) -> io::Result<UnixListener> {
    match std::fs::remove_file(path) {
        Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(e),
        _ => {}
    }
    let listener = UnixListener::bind(path)?;
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o600))?;
    let group = nix::unistd::Group::from_name(GROUP).ok().flatten();
    std::os::unix::fs::chown(path, Some(0), Some(group.map_or(0, |g| g.gid.as_raw())))?;
    // Only now: nobody had it in between who may not.
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o660))?;
    Ok(listener)
}

/// Where clients come in.
enum Door {
    Socket(UnixListener),
    Port(TcpListener, TlsAcceptor),
}

/// Who came in.
enum Guest {
    Socket(UnixStream),
    Port(TcpStream, TlsAcceptor),
}

impl Door {
    fn room(&self) -> usize {
        match self {
            Door::Socket(_) => CONNECTIONS,
            Door::Port(..) => REMOTE_CONNECTIONS,
        }
    }

    async fn accept(&self) -> io::Result<Guest> {
        match self {
            Door::Socket(listener) => Ok(Guest::Socket(listener.accept().await?.0)),
            Door::Port(listener, tls) => Ok(Guest::Port(listener.accept().await?.0, tls.clone())),
        }
    }
}

async fn accept(face: &Arc<Face>, door: Door, drain: &Drain) {
    let (slots, open) = (Arc::new(Semaphore::new(door.room())), TaskTracker::new());
    loop {
        let accepted = tokio::select! {
            accepted = async {
                let slot = slots.clone().acquire_owned().await.map_err(io::Error::other)?;
                Ok::<_, io::Error>((door.accept().await?, slot))
            } => accepted,
            () = drain.cancelled() => break,
        };
        match accepted {
            Ok((guest, slot)) => {
                let (face, drain) = (face.clone(), drain.clone());
                open.spawn(async move {
                    match guest {
                        Guest::Socket(stream) => connection(face, stream, drain).await,
                        Guest::Port(stream, tls) => remote(face, stream, &tls, drain).await,
                    }
                    drop(slot);
                });
            }
            Err(error) => {
                tracing::warn!(%error, "a connection is not accepted");
                tokio::time::sleep(ACCEPT_PAUSE).await;
            }
        }
    }
    open.close();
    let _ = tokio::time::timeout(DRAIN, open.wait()).await;
}

/// A connection to the port: nobody gets past the handshake without a certificate of the authority.
async fn remote(face: Arc<Face>, stream: TcpStream, tls: &TlsAcceptor, drain: Drain) {
    // Best effort: keystrokes must not wait.
    let _ = stream.set_nodelay(true);
    let done = tokio::select! {
        done = tokio::time::timeout(HANDSHAKE, tls.accept(stream)) => done,
        () = drain.cancelled() => return,
    };
    match done {
        Ok(Ok(stream)) => connection(face, stream, drain).await,
        Ok(Err(error)) => tracing::debug!(%error, "a TLS handshake with the Docker API failed"),
        Err(_) => tracing::debug!("a TLS handshake with the Docker API took too long"),
    }
}

async fn connection<S>(face: Arc<Face>, stream: S, drain: Drain)
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let service = service_fn(move |request| {
        let face = face.clone();
        async move { Ok::<_, Infallible>(route::answer(face, request).await) }
    });
    let mut http = http1::Builder::new();
    http.timer(TokioTimer::new()).header_read_timeout(HEADERS);
    let served = http.serve_connection(TokioIo::new(stream), service).with_upgrades();
    tokio::pin!(served);
    tokio::select! {
        result = &mut served => {
            if let Err(error) = result {
                tracing::debug!(error = %base::chain(&error), "a connection to the Docker API ended");
            }
            return;
        }
        () = drain.cancelled() => served.as_mut().graceful_shutdown(),
    }
    let _ = tokio::time::timeout(DRAIN, served).await;
}
