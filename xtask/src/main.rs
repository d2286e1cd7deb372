//! Development tasks, run as `cargo xtask <task>`.

mod codegen;
mod codegen_protos;
mod tidy;

use std::path::Path;
use std::process::ExitCode;

fn main() -> ExitCode {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("xtask lies inside the workspace");
    let args: Vec<String> = std::env::args().skip(1).collect();
    let outcome = match args.split_first() {
        Some((task, rest)) if task == "codegen" => codegen::run(rest, root).map(|()| true),
        Some((task, [])) if task == "tidy" => tidy::run(root),
        Some((task, [])) if task == "conformance" => tidy::conformance(root).map(|()| true),
        _ => Err(anyhow::anyhow!(
            "usage: cargo xtask tidy | conformance | codegen --openapi FILE | codegen --protos DIR"
        )),
    };
    match outcome {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}
