//! Steps at which a test may have the agent, or a sandbox's shim, end without a word.
//!
//! The file that `WINDLASS_FAULT_FILE` names, if it is set when the process starts, holds a step and who is to die at it
//! (`agent` or `shim`). It is removed first, so that a fault strikes once. Without the variable a step costs nothing.

use std::path::{Path, PathBuf};
use std::sync::LazyLock;

use nix::sys::signal::{Signal, kill};
use nix::unistd::{Pid, getpid};

use super::driver::teardown::shim_pid;

/// Where the next fault is written.
static FILE: LazyLock<Option<PathBuf>> = LazyLock::new(|| std::env::var_os("WINDLASS_FAULT_FILE").map(PathBuf::from));

/// Says that a sandbox's driver is at this step.
pub(crate) fn at(step: &str, pod_dir: &Path) {
    let Some(file) = &*FILE else { return };
    let wanted = std::fs::read_to_string(file).unwrap_or_default();
    let Some(victim) = victim(&wanted, step) else { return };
    let _ = std::fs::remove_file(file);
    match victim {
        Victim::Agent => drop(kill(getpid(), Signal::SIGKILL)),
        Victim::Shim => {
            if let Some(pid) = shim_pid(pod_dir) {
                let _ = kill(Pid::from_raw(pid), Signal::SIGKILL);
            }
        }
    }
}

#[derive(Debug, PartialEq, Eq)]
enum Victim {
    Agent,
    Shim,
}

fn victim(wanted: &str, step: &str) -> Option<Victim> {
    match wanted.split_whitespace().collect::<Vec<_>>()[..] {
        [at, "agent"] if at == step => Some(Victim::Agent),
        [at, "shim"] if at == step => Some(Victim::Shim),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_step_that_is_named_is_struck() {
        assert_eq!(victim("sandbox-recorded agent\n", "sandbox-recorded"), Some(Victim::Agent));
        assert_eq!(victim("sandbox-recorded shim", "sandbox-recorded"), Some(Victim::Shim));
        for other in ["", "sandbox-recorded", "sandbox agent", "sandbox-recorded nobody"] {
            assert_eq!(victim(other, "sandbox-recorded"), None, "{other:?}");
        }
    }
}
