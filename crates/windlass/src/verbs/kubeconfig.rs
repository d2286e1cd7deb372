//! `windlass kubeconfig`: what kubectl needs, on standard output.

use std::process::ExitCode;

use base::instance::Instance;

use crate::exit::Unfit;
use crate::kubeapi::admin_kubeconfig;

/// Prints the admin kubeconfig, or its path.
pub fn run(instance: &Instance, path_only: bool) -> anyhow::Result<ExitCode> {
    let path = admin_kubeconfig(instance);
    let text = match std::fs::read_to_string(&path) {
        Ok(text) => text,
        Err(e) if e.kind() == std::io::ErrorKind::PermissionDenied => {
            return Err(Unfit::error(format!("{} is root's alone", path.display()), "run it again with sudo"));
        }
        Err(_) => {
            return Err(Unfit::error(
                format!("instance {:?} has no kubeconfig at {}", instance.name(), path.display()),
                "start it with: windlass server --detach",
            ));
        }
    };
    if path_only {
        println!("{}", path.display());
    } else {
        print!("{text}");
    }
    Ok(ExitCode::SUCCESS)
}
