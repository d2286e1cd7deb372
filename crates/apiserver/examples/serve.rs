//! A server over a memory store, for trying things by hand: `cargo run -p apiserver --example serve -- DIR 127.0.0.1:6443`.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;

use apiserver::{ApiServer, Config};

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut args = std::env::args().skip(1);
    let dir = PathBuf::from(args.next().unwrap_or_else(|| "windlass-serve".into()));
    let listen: SocketAddr = args.next().unwrap_or_else(|| "127.0.0.1:6443".into()).parse()?;
    let config = Config::new(dir.join("pki"), listen, "10.96.0.0/20".parse()?);
    let server = ApiServer::new(Arc::new(store::memory::MemoryStore::new()), config).await?;
    let listener = tokio::net::TcpListener::bind(listen).await?;
    let path = dir.join("kubeconfig");
    server.pki().kubeconfig("windlass", &format!("https://{listen}"), "admin", server.pki().admin()).write(&path)?;
    println!("export KUBECONFIG={}", path.display());
    let drain = tokio_util::sync::CancellationToken::new();
    let stop = drain.clone();
    tokio::spawn(async move {
        if tokio::signal::ctrl_c().await.is_ok() {
            stop.cancel();
        }
    });
    server.serve(listener, drain).await;
    Ok(())
}
