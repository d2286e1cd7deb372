//! The socket, and the connections to it.

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
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::Semaphore;
use tokio_util::task::TaskTracker;

use crate::containers::exec::Execs;
use crate::containers::life;
use crate::containers::record::Records;
use crate::events::Events;
use crate::face::{Container, Face};
use crate::networks::{self, Nets};
use crate::swarm::Manager;
use crate::volumes::Volumes;
use crate::{ServeError, containers_dir, mounts_dir, networks_dir, route, socket_path, unmount_all, volumes_dir};

/// Connections at once at most, hijacked ones included; further ones wait to be accepted.
const CONNECTIONS: usize = 1024;
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

/// Serves Docker's API for an engine until told to drain. Containers go on running after it. What is asked of the swarm goes to
/// `manager`.
///
/// # Errors
/// When the socket or its folders cannot be made.
pub async fn serve(engine: Arc<Engine>, manager: Option<Arc<dyn Manager>>, drain: Drain) -> Result<(), ServeError> {
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
    let tasks = Tasks::new(drain.clone());
    let face = Arc::new(Face {
        engine,
        dir,
        records,
        volumes,
        nets,
        events: Events::default(),
        execs: Execs::default(),
        builds: crate::images::building::Builds::default(),
        manager,
        tasks: tasks.clone(),
        containers: parking_lot::Mutex::new(known),
        making: parking_lot::Mutex::default(),
        pods: parking_lot::Mutex::default(),
    });
    networks::resume(&face).await;
    life::resume(&face).await;
    let path = socket_path(&instance);
    let listener = listen(&path).map_err(at(&path))?;
    tracing::info!(socket = %path.display(), "the Docker API is served");
    accept(&face, listener, &drain).await;
    let _ = std::fs::remove_file(&path);
    if let Err(failure) = tasks.shutdown(DRAIN).await {
        tracing::warn!(%failure, "a task of the Docker API");
    }
    Ok(())
}

/// Root's alone. What a killed agent left there is replaced: only one agent of an instance runs.
fn listen(path: &Path) -> io::Result<UnixListener> {
    match std::fs::remove_file(path) {
        Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(e),
        _ => {}
    }
    let listener = UnixListener::bind(path)?;
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o660))?;
    Ok(listener)
}

async fn accept(face: &Arc<Face>, listener: UnixListener, drain: &Drain) {
    let (slots, open) = (Arc::new(Semaphore::new(CONNECTIONS)), TaskTracker::new());
    loop {
        let Ok(slot) = slots.clone().acquire_owned().await else { break };
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            () = drain.cancelled() => break,
        };
        match accepted {
            Ok((stream, _)) => {
                let (face, drain) = (face.clone(), drain.clone());
                open.spawn(async move {
                    connection(face, stream, drain).await;
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

async fn connection(face: Arc<Face>, stream: UnixStream, drain: Drain) {
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
