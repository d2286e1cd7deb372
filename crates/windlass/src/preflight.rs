//! What must hold before anything is bound or made: each failure is one sentence and its fix.

use std::net::{SocketAddr, TcpListener};
use std::path::Path;

use crate::exit::Unfit;

/// Least free space in the data directory, bytes.
const FREE_BYTES_MIN: u64 = 512 << 20;
/// The same for an instance that is there: its start writes little, and without it nobody could make room through its API.
const FREE_BYTES_AGAIN: u64 = 16 << 20;
/// clone3, pidfds, close_range, openat2 and overlayfs features that are relied upon.
const KERNEL_MIN: (u32, u32) = (5, 10);

/// Refuses anyone but root: namespaces, mounts and nftables need it.
pub fn root() -> anyhow::Result<()> {
    if nix::unistd::geteuid().is_root() {
        return Ok(());
    }
    Err(Unfit::error("this needs root: containers need namespaces, mounts and nftables", "run it again with sudo"))
}

/// Refuses kernels older than [`KERNEL_MIN`].
pub fn kernel() -> anyhow::Result<()> {
    let release = std::fs::read_to_string("/proc/sys/kernel/osrelease")?;
    if kernel_is_new_enough(&release) {
        return Ok(());
    }
    Err(Unfit::error(
        format!("the kernel is {}, and {}.{} is the oldest that works", release.trim(), KERNEL_MIN.0, KERNEL_MIN.1),
        "boot a newer kernel (Debian 12 has 6.1)",
    ))
}

fn kernel_is_new_enough(release: &str) -> bool {
    let mut parts = release.split(|c: char| !c.is_ascii_digit()).map(|n| n.parse::<u32>().unwrap_or(0));
    let version = (parts.next().unwrap_or(0), parts.next().unwrap_or(0));
    version >= KERNEL_MIN
}

/// Refuses a data directory that cannot be made or has too little room.
pub fn data_dir(dir: &Path) -> anyhow::Result<()> {
    std::fs::create_dir_all(dir).map_err(|e| {
        Unfit::error(format!("cannot make the data directory {}: {e}", dir.display()), "choose another --data-dir")
    })?;
    let stat = nix::sys::statvfs::statvfs(dir)?;
    let free = stat.blocks_available() * stat.fragment_size();
    let least = if dir.join("store.redb").exists() { FREE_BYTES_AGAIN } else { FREE_BYTES_MIN };
    if free >= least {
        return Ok(());
    }
    Err(Unfit::error(
        format!("the disk of {} is full: {} MiB free, {} MiB needed", dir.display(), free >> 20, least >> 20),
        "free some space, or choose another --data-dir",
    ))
}

/// Refuses a taken port, naming who has it when that can be seen.
pub fn port_free(addr: SocketAddr, what: &str, flag: &str) -> anyhow::Result<()> {
    if addr.port() == 0 {
        return Ok(());
    }
    match TcpListener::bind(addr) {
        Ok(_) => Ok(()),
        Err(e) if e.kind() == std::io::ErrorKind::AddrInUse => {
            let who = holder(addr.port()).map(|h| format!(" by {h}")).unwrap_or_default();
            Err(Unfit::error(
                format!("port {} for the {what} is taken{who}", addr.port()),
                format!("stop that, or choose another with {flag}"),
            ))
        }
        Err(e) => Err(Unfit::error(format!("cannot listen on {addr} for the {what}: {e}"), format!("check {flag}"))),
    }
}

/// The process that listens on a TCP port, as `name (pid N)`.
fn holder(port: u16) -> Option<String> {
    let inode = ["/proc/net/tcp", "/proc/net/tcp6"].iter().find_map(|f| listening_inode(f, port))?;
    let target = format!("socket:[{inode}]");
    for entry in std::fs::read_dir("/proc").ok()?.flatten() {
        let Ok(pid) = entry.file_name().to_string_lossy().parse::<i32>() else { continue };
        let Ok(fds) = std::fs::read_dir(entry.path().join("fd")) else { continue };
        let has = fds.flatten().any(|fd| std::fs::read_link(fd.path()).is_ok_and(|l| l.as_os_str() == target.as_str()));
        if has {
            let name = std::fs::read_to_string(entry.path().join("comm")).unwrap_or_default();
            return Some(format!("{} (pid {pid})", name.trim()));
        }
    }
    None
}

fn listening_inode(file: &str, port: u16) -> Option<String> {
    const LISTEN: &str = "0A";
    let suffix = format!(":{port:04X}");
    std::fs::read_to_string(file).ok()?.lines().skip(1).find_map(|line| {
        let f: Vec<&str> = line.split_whitespace().collect();
        (f.len() > 9 && f[1].ends_with(&suffix) && f[3] == LISTEN).then(|| f[9].to_owned())
    })
}

/// Refuses a host without the `nft` program: Services are nftables rules.
pub fn nft() -> anyhow::Result<()> {
    if program("nft").is_some() {
        return Ok(());
    }
    Err(Unfit::error("the nft program is missing: Services are nftables rules", "apt-get install nftables"))
}

/// Where a program is, by PATH and the usual system folders.
pub fn program(name: &str) -> Option<std::path::PathBuf> {
    let path = std::env::var("PATH").unwrap_or_default();
    path.split(':').chain(["/usr/sbin", "/sbin"]).map(|d| Path::new(d).join(name)).find(|p| p.is_file())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kernel_versions_compare_by_number() {
        assert!(kernel_is_new_enough("6.1.0-18-amd64\n"));
        assert!(kernel_is_new_enough("5.10.0"));
        assert!(!kernel_is_new_enough("5.9.16"));
        assert!(!kernel_is_new_enough("4.19.0-26-amd64"));
    }

    #[test]
    fn a_taken_port_names_its_holder() {
        let held = TcpListener::bind("127.0.0.1:0").unwrap();
        let error = port_free(held.local_addr().unwrap(), "Kubernetes API", "--api-port").unwrap_err().to_string();
        assert!(error.contains("is taken by") && error.contains("--api-port"), "{error}");
    }
}
