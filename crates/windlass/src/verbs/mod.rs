//! One file per verb. A verb receives its arguments and the instance, and answers an exit code.

mod agent;
mod apply;
mod build;
mod doctor;
mod down;
mod encryption;
mod image;
mod kubeconfig;
mod project;
mod promote;
mod registry;
mod server;
mod signing;
mod status;
pub mod version;

use std::process::ExitCode;

use crate::cli::{Cli, Verb};
use crate::instance_file::resolve;

/// Runs the verb that was typed.
pub fn run(cli: Cli) -> anyhow::Result<ExitCode> {
    let instance = resolve(&cli.global.name, cli.global.data_dir.as_deref())?;
    match cli.verb {
        Verb::Server(args) => server::run(instance, &args, &cli.global),
        Verb::Agent(args) => agent::run(instance, *args),
        Verb::Image(verb) => image::run(&instance, verb),
        Verb::Build(args) => build::run(&instance, *args),
        Verb::Apply(args) => short_lived(apply::run(&instance, args)),
        Verb::Up(args) => project::up::run(&instance, args),
        Verb::Ps(args) => short_lived(project::ps::run(&instance, args)),
        Verb::Logs(args) => short_lived(project::logs::run(&instance, args)),
        Verb::Rollback(args) => short_lived(project::rollback::run(&instance, args)),
        Verb::Rm(args) => short_lived(project::rm::run(&instance, args)),
        Verb::Convert(args) => project::convert::run(&instance, args),
        Verb::Promote(args) => short_lived(promote::run(&instance, *args)),
        Verb::Status => short_lived(status::run(&instance)),
        Verb::Kubeconfig { path } => kubeconfig::run(&instance, path),
        Verb::Down { purge } => down::run(&instance, purge),
        Verb::Registry(args) => registry::run(&instance, *args),
        Verb::Encryption(verb) => encryption::run(&instance, verb),
        Verb::Doctor => doctor::run(&instance),
        Verb::Version => version::run(),
    }
}

/// Takes as many open files as the process may have. With fewer it works too, for fewer clients.
fn raise_open_files() {
    if let Err(error) = shim::limits::raise_open_files() {
        tracing::warn!(%error, "the limit of open files stays as it is");
    }
}

/// Runs a verb that needs no more than one thread.
fn short_lived<T>(verb: impl Future<Output = anyhow::Result<T>>) -> anyhow::Result<T> {
    let _ = rustls::crypto::ring::default_provider().install_default();
    tokio::runtime::Builder::new_current_thread().enable_all().build()?.block_on(verb)
}
