//! `windlass registry`: an OCI registry over a folder, and its garbage collection.

use std::process::ExitCode;
use std::time::{Duration, SystemTime};

use anyhow::Context;
use base::instance::Instance;
use image::{Auth, Upstream};
use registry::{Access, Config, Proxying, RegistryStore, Server, StartError, Tls, sweep};
use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;

use crate::cli::{RegistryArgs, RegistryVerb, ServeRegistryArgs};
use crate::exit::Unfit;
use crate::printer;

/// Serves until SIGTERM or SIGINT, or sweeps once.
pub fn run(instance: &Instance, args: RegistryArgs) -> anyhow::Result<ExitCode> {
    let dir = args.dir.unwrap_or_else(|| instance.data_dir().join("registry"));
    let store = RegistryStore::open(&dir).with_context(|| format!("open the registry in {}", dir.display()))?;
    match args.verb {
        Some(RegistryVerb::Gc { grace, untagged }) => {
            let swept = sweep(&store, Duration::from_secs(grace), untagged, SystemTime::now())?;
            println!("Removed blobs: {}", swept.blobs);
            println!("Total reclaimed space: {}", printer::size(swept.bytes));
        }
        None => {
            let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
            runtime.block_on(serve(store, args.serve))?;
            runtime.shutdown_timeout(Duration::from_secs(1));
        }
    }
    Ok(ExitCode::SUCCESS)
}

async fn serve(store: RegistryStore, args: ServeRegistryArgs) -> anyhow::Result<()> {
    let mut access = args.htpasswd.as_deref().map(Access::read).transpose()?.unwrap_or_else(Access::open);
    access.anonymous_pull = args.anonymous_pull;
    let proxy = args.proxy.as_deref().map(|url| proxying(url, &args)).transpose()?;
    let tls = args.tls_cert.zip(args.tls_key).map(|(certificate, key)| Tls { certificate, key });
    let scheme = if tls.is_some() { "https" } else { "http" };
    let config = Config { listen: args.listen, tls, access, max_blob: args.max_blob_gib << 30, proxy };
    let server = Server::start(store, config).await.map_err(fix)?;
    println!("Registry: {scheme}://{}/v2/", server.address()?);
    let stop = CancellationToken::new();
    let (mut term, mut interrupt) = (signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?);
    let told = stop.clone();
    tokio::spawn(async move {
        tokio::select! {
            _ = term.recv() => {}
            _ = interrupt.recv() => {}
        }
        told.cancel();
    });
    server.run(stop).await;
    Ok(())
}

fn proxying(url: &str, args: &ServeRegistryArgs) -> anyhow::Result<Proxying> {
    let auth = args.proxy_user_file.as_deref().map(user_of).transpose()?;
    let upstream = Upstream::new(url, auth)?;
    Ok(Proxying { upstream, ttl: Duration::from_secs(args.proxy_ttl), max_bytes: args.proxy_max_gib << 30 })
}

/// The first line of a file, `USER:PASSWORD`.
fn user_of(path: &std::path::Path) -> anyhow::Result<Auth> {
    let text = std::fs::read_to_string(path).with_context(|| format!("read {}", path.display()))?;
    let pair = text.lines().next().and_then(|line| line.split_once(':'));
    let (username, password) = pair.with_context(|| format!("{}: want one line USER:PASSWORD", path.display()))?;
    Ok(Auth::Basic { username: username.to_owned(), password: password.to_owned() })
}

fn fix(error: StartError) -> anyhow::Error {
    match error {
        StartError::Unprotected(_) => {
            Unfit::error(error.to_string(), "give --tls-cert, --tls-key and --htpasswd, or listen on 127.0.0.1")
        }
        StartError::Listen { address, source } => {
            Unfit::error(format!("cannot listen on {address}: {source}"), "choose another with --listen IP:PORT")
        }
        other => other.into(),
    }
}
