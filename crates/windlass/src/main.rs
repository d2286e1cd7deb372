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

/// What a shell reports of a program that SIGPIPE ended (signal(7)).
const PIPE_CLOSED: i32 = 128 + 13;

/// `windlass convert | head` ends as other programs do when nobody reads on: printing would panic, as SIGPIPE is ignored.
fn end_with_reader() {
    let usual = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |info| {
        let closed = |text: &str| text.starts_with("failed printing to std") && text.contains("Broken pipe");
        if info.payload().downcast_ref::<String>().is_some_and(|text| closed(text)) {
            std::process::exit(PIPE_CLOSED);
        }
        usual(info);
    }));
}

fn main() -> ExitCode {
    // Before any runtime, thread or logger exists: libcontainer forks, and a fork copies only the calling thread.
    if let Some(code) = shim::main_if_shim() {
        return code;
    }
    let args = cli::Cli::parse();
    if !matches!(args.verb, cli::Verb::Server(_) | cli::Verb::Agent(_)) {
        end_with_reader();
    }
    let logged = base::log::init(args.global.log_format.into(), &args.global.log_level);
    match logged.map_err(anyhow::Error::from).and_then(|()| verbs::run(args)) {
        Ok(code) => code,
        Err(error) => exit::report(&error),
    }
}
