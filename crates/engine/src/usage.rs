//! What a cgroup uses, read from its files; v1 and v2.

use std::path::PathBuf;

use shim::cgroup::{dir_of, flat};

use crate::runtime::Usage;

fn number(dir: &Option<PathBuf>, file: &str) -> Option<u64> {
    std::fs::read_to_string(dir.as_ref()?.join(file)).ok()?.trim().parse().ok()
}

fn text(dir: &Option<PathBuf>, file: &str) -> String {
    dir.as_ref().and_then(|d| std::fs::read_to_string(d.join(file)).ok()).unwrap_or_default()
}

/// Usage of cgroup `path`; what a controller that is not there would say is 0. Blocks for a few reads.
pub fn of_cgroup(path: &str) -> Usage {
    let (cpu, memory, pids) = (dir_of("cpuacct", path), dir_of("memory", path), dir_of("pids", path));
    let stat = text(&memory, "memory.stat");
    if shim::cgroup::is_unified() {
        let memory_bytes = number(&memory, "memory.current").unwrap_or(0);
        return Usage {
            cpu_ns: flat(&text(&cpu, "cpu.stat"), "usage_usec").unwrap_or(0) * 1000,
            memory_bytes,
            working_set_bytes: memory_bytes.saturating_sub(flat(&stat, "inactive_file").unwrap_or(0)),
            pids: number(&pids, "pids.current").unwrap_or(0),
        };
    }
    let memory_bytes = number(&memory, "memory.usage_in_bytes").unwrap_or(0);
    Usage {
        cpu_ns: number(&cpu, "cpuacct.usage").unwrap_or(0),
        memory_bytes,
        // The totals count the cgroups below too, as the usage does.
        working_set_bytes: memory_bytes.saturating_sub(flat(&stat, "total_inactive_file").unwrap_or(0)),
        pids: number(&pids, "pids.current").unwrap_or(0),
    }
}

/// Usage of the host as a whole, or of the container that this runs in, as far as its root cgroup says it: that of v2 says
/// nothing of memory.
pub fn of_host() -> Usage {
    of_cgroup("")
}
