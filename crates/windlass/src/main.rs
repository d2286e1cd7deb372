//! The `windlass` binary. `main` decides one thing: is this process a shim (single-threaded, nothing else may run first)
//! or the command line.

mod cli;
mod docker_flags;
mod exit;
mod instance_file;
mod kubeapi;
mod node_flags;
mod preflight;
mod printer;
mod verbs;

use std::process::ExitCode;

use clap::Parser;

/// A write makes and drops thousands of small values; the C library's allocator takes a fifth more time for it.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    // Before any runtime, thread or logger exists: libcontainer forks, and a fork copies only the calling thread.
    if let Some(code) = shim::main_if_shim() {
        return code;
    }
    let args = cli::Cli::parse();
    let logged = base::log::init(args.global.log_format.into(), &args.global.log_level);
    match logged.map_err(anyhow::Error::from).and_then(|()| verbs::run(args)) {
        Ok(code) => code,
        Err(error) => exit::report(&error),
    }
}
