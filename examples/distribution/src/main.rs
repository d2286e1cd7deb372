//! `distribution`: a small order platform in one binary, to run on Windlass or any Kubernetes. Settings come from flags
//! or the environment, as a ConfigMap and a Secret give them.

use clap::{Parser, Subcommand};
use distribution::{erp, load, orders, portal, seed, sync, telemetry};

#[derive(Parser)]
#[command(version, about = "A small order platform: orders, outbox, ERP, portal, load")]
struct Cli {
    #[command(subcommand)]
    role: Role,
}

#[derive(Subcommand)]
enum Role {
    /// Take orders over HTTP and keep them, each with an event for the ERP, in PostgreSQL
    OrdersApi(orders::Settings),
    /// Deliver the events to the ERP, again and again until it takes them
    ErpSync(sync::Settings),
    /// A simulated ERP whose latency, errors and outages can be switched
    Erp(erp::Settings),
    /// The page for people: orders, queue, dead letters
    Portal(portal::Settings),
    /// Post orders at a fixed rate and report what happened, as JSON
    Load(load::Settings),
    /// Post some demo orders, once
    Seed(seed::Settings),
}

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let role = Cli::parse().role;
    telemetry::init();
    match role {
        Role::OrdersApi(settings) => orders::run(settings).await,
        Role::ErpSync(settings) => sync::run(settings).await,
        Role::Erp(settings) => erp::run(settings).await,
        Role::Portal(settings) => portal::run(settings).await,
        Role::Load(settings) => load::run(settings).await,
        Role::Seed(settings) => seed::run(settings).await,
    }
}
