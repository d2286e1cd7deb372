//! The files of a sandbox that its containers see: hosts, host name, resolver, shared memory.

use std::io;
use std::net::IpAddr;
use std::path::Path;

use nix::mount::{MntFlags, MsFlags, mount, umount2};

use crate::runtime::{DnsConfig, Owner, SandboxSpec};

/// `/etc/hosts`.
pub const HOSTS: &str = "hosts";
/// `/etc/hostname`.
pub const HOSTNAME: &str = "hostname";
/// `/etc/resolv.conf`.
pub const RESOLV: &str = "resolv.conf";
/// `/dev/shm`, one for all containers of the sandbox, as they share its IPC namespace.
pub const SHM: &str = "shm";

/// Docker's and containerd's size of `/dev/shm`.
const SHM_OPTIONS: &str = "mode=1777,size=67108864";

/// Writes the files and mounts the shared memory. Doing it again is fine.
pub fn prepare(pod_dir: &Path, spec: &SandboxSpec, ip: Option<IpAddr>) -> io::Result<()> {
    std::fs::write(pod_dir.join(HOSTS), hosts(spec, ip, &host_file("/etc/hosts")))?;
    let name = if spec.host_network { host_file("/etc/hostname") } else { format!("{}\n", spec.hostname) };
    std::fs::write(pod_dir.join(HOSTNAME), name)?;
    std::fs::write(pod_dir.join(RESOLV), resolv_conf(spec, &host_file("/etc/resolv.conf")))?;
    let shm = pod_dir.join(SHM);
    if !spec.host_ipc && !shm.exists() {
        std::fs::create_dir(&shm)?;
        let flags = MsFlags::MS_NOSUID | MsFlags::MS_NODEV | MsFlags::MS_NOEXEC;
        mount(Some("shm"), &shm, Some("tmpfs"), flags, Some(SHM_OPTIONS))?;
    }
    Ok(())
}

/// Unmounts the shared memory.
pub fn release(pod_dir: &Path) {
    let _ = umount2(&pod_dir.join(SHM), MntFlags::MNT_DETACH);
}

fn host_file(path: &str) -> String {
    std::fs::read_to_string(path).unwrap_or_default()
}

fn hosts(spec: &SandboxSpec, ip: Option<IpAddr>, of_host: &str) -> String {
    if spec.host_network && spec.host_aliases.is_empty() {
        // The host's own, as it is.
        return of_host.to_owned();
    }
    let mut text = if spec.host_network {
        format!("{}{}\n", header(spec, " (host network)"), of_host.trim_end())
    } else {
        let common = "127.0.0.1\tlocalhost\n\
            ::1\tlocalhost ip6-localhost ip6-loopback\n\
            fe00::0\tip6-localnet\nfe00::0\tip6-mcastprefix\nfe00::1\tip6-allnodes\nfe00::2\tip6-allrouters\n";
        header(spec, "") + common
    };
    if let (Some(ip), false) = (ip, spec.host_network) {
        let fqdn = spec.fqdn.iter().filter(|f| **f != spec.hostname).map(|f| format!("{f}\t")).collect::<String>();
        text.push_str(&format!("{ip}\t{fqdn}{}\n", spec.hostname));
    }
    for (address, names) in &spec.host_aliases {
        text.push_str(&format!("{address}\t{}\n", names.join("\t")));
    }
    text
}

/// The first line, by which programs in pods know the file.
fn header(spec: &SandboxSpec, note: &str) -> String {
    match spec.owner {
        Owner::Pod => format!("# Kubernetes-managed hosts file{note}.\n"),
        Owner::Docker => String::new(),
    }
}

/// Writes the resolver's file anew, in place: containers have it mounted.
pub fn change_resolver(pod_dir: &Path, dns: &DnsConfig) -> io::Result<()> {
    let mut file = std::fs::OpenOptions::new().write(true).truncate(true).open(pod_dir.join(RESOLV))?;
    io::Write::write_all(&mut file, resolver(dns).as_bytes())
}

fn resolv_conf(spec: &SandboxSpec, of_host: &str) -> String {
    spec.dns.as_ref().map_or_else(|| of_host.to_owned(), resolver)
}

fn resolver(dns: &DnsConfig) -> String {
    let mut text: String = dns.nameservers.iter().map(|n| format!("nameserver {n}\n")).collect();
    if !dns.searches.is_empty() {
        text.push_str(&format!("search {}\n", dns.searches.join(" ")));
    }
    if !dns.options.is_empty() {
        text.push_str(&format!("options {}\n", dns.options.join(" ")));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hosts_and_resolver_say_what_the_pod_asks_for() {
        let dns = DnsConfig {
            nameservers: vec!["10.96.0.10".into()],
            searches: vec!["a.svc".into(), "svc".into()],
            options: vec!["ndots:5".into()],
        };
        let spec = SandboxSpec {
            hostname: "web-0".into(),
            dns: Some(dns),
            host_aliases: vec![("1.2.3.4".into(), vec!["a".into(), "b".into()])],
            ..SandboxSpec::default()
        };
        let hosts = hosts(&spec, Some("10.0.0.9".parse().unwrap()), "");
        assert!(hosts.contains("127.0.0.1\tlocalhost\n"));
        assert!(hosts.ends_with("10.0.0.9\tweb-0\n1.2.3.4\ta\tb\n"));
        let on_host = SandboxSpec { host_network: true, ..spec.clone() };
        assert!(super::hosts(&on_host, None, "9.9.9.9 h\n").ends_with("9.9.9.9 h\n1.2.3.4\ta\tb\n"));
        let bare = SandboxSpec { host_aliases: Vec::new(), ..on_host };
        assert_eq!(super::hosts(&bare, None, "9.9.9.9 h\n"), "9.9.9.9 h\n");
        assert_eq!(resolv_conf(&spec, "x"), "nameserver 10.96.0.10\nsearch a.svc svc\noptions ndots:5\n");
        assert_eq!(resolv_conf(&SandboxSpec::default(), "nameserver 9.9.9.9\n"), "nameserver 9.9.9.9\n");
    }
}
