//! Volumes of an NFS server. Version 4 needs nothing of the host but its kernel: the address is looked up here, and `mount -i`
//! hands it over (nfs(5), section "TEXT-BASED MOUNT OPTIONS"). Where a server speaks only what the kernel does not try by
//! itself, or version 3 is asked for, `mount.nfs` is used if the host has it.

use std::io;
use std::net::{IpAddr, ToSocketAddrs, UdpSocket};
use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use k8s_openapi::api::core::v1::NFSVolumeSource;
use nix::mount::{MntFlags, umount2};
use tokio::process::Command;

use super::mounts;

const PORT: u16 = 2049;
/// Versions that are tried, newest first, when nobody asks for one.
const VERSIONS: [&str; 3] = ["4.2", "4.1", "4.0"];
/// A server that does not answer is given up after this long; the pod tries again.
const MOUNT_MAX: Duration = Duration::from_secs(60);
/// How mount(8) says EPROTONOSUPPORT.
const OTHER_VERSION: &str = "Protocol not supported";
/// All options of a mount together (the kernel takes a page of them).
const OPTIONS_MAX: usize = 4000;
/// Where the helper is that does what the kernel leaves to it.
const HELPERS: [&str; 2] = ["/sbin/mount.nfs", "/usr/sbin/mount.nfs"];

/// What to mount.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Export {
    server: String,
    path: String,
    /// As `mount -o` takes them; none is empty.
    options: Vec<String>,
}

impl Export {
    /// The export that a volume names, with the options of its persistent volume.
    pub(super) fn of(source: &NFSVolumeSource, mount_options: &[String]) -> Result<Self, String> {
        if source.server.is_empty() || source.server.contains(['/', ',', '\0']) || source.path.contains('\0') {
            return Err(format!("{:?} is no name of an NFS server", source.server));
        }
        let mut options: Vec<String> =
            mount_options.iter().flat_map(|o| o.split(',')).filter(|o| !o.is_empty()).map(str::to_owned).collect();
        if source.read_only == Some(true) {
            options.insert(0, "ro".to_owned());
        }
        if options.iter().map(|o| o.len() + 1).sum::<usize>() > OPTIONS_MAX {
            return Err(format!("mount options of more than {OPTIONS_MAX} characters"));
        }
        Ok(Export { server: source.server.clone(), path: source.path.clone(), options })
    }

    fn source(&self) -> String {
        let bare = self.server.trim_start_matches('[').trim_end_matches(']');
        let six = bare.contains(':');
        if six { format!("[{bare}]:{}", self.path) } else { format!("{}:{}", self.server, self.path) }
    }

    fn given(&self, key: &str) -> Option<&str> {
        self.options.iter().find_map(|o| o.strip_prefix(key)?.strip_prefix('='))
    }

    /// The version that the options ask for.
    fn version(&self) -> Option<&str> {
        let named =
            self.given("vers").or_else(|| self.given("nfsvers")).or_else(|| self.given("minorversion").map(|_| "4"));
        let short = |o: &&String| matches!(o.as_str(), "v2" | "v3" | "v4" | "v4.0" | "v4.1" | "v4.2");
        named.or_else(|| self.options.iter().find(short).map(|o| &o[1..]))
    }

    /// The options with which the kernel mounts it by itself, in the order in which they are tried; none for versions that it
    /// leaves to the helper.
    fn attempts(&self, server: IpAddr, client: Option<IpAddr>) -> Vec<String> {
        let mut common = self.options.clone();
        let mut add = |key: &str, value: String| {
            if self.given(key).is_none() {
                common.push(format!("{key}={value}"));
            }
        };
        add("addr", server.to_string());
        if let Some(client) = client {
            add("clientaddr", client.to_string());
        }
        match self.version() {
            Some(version) if !version.starts_with('4') => Vec::new(),
            Some(_) => vec![common.join(",")],
            None => VERSIONS.iter().map(|v| format!("{},vers={v}", common.join(","))).collect(),
        }
    }

    fn resolve(&self) -> Result<IpAddr, String> {
        let bare = self.server.trim_start_matches('[').trim_end_matches(']');
        let found = (bare, PORT).to_socket_addrs().map_err(|e| format!("Failed to resolve server {bare}: {e}"))?;
        // As mount.nfs: IPv4 first, where a server has both.
        let all: Vec<IpAddr> = found.map(|a| a.ip()).collect();
        let first = all.iter().find(|a| a.is_ipv4()).or_else(|| all.first());
        first.copied().ok_or_else(|| format!("Failed to resolve server {bare}: it has no address"))
    }

    /// Mounts it, unless something is mounted there. What is said of a failure is what the kubelet says.
    pub(super) async fn mount(&self, target: &Path) -> Result<(), String> {
        let (at, export) = (target.to_path_buf(), self.clone());
        let prepared = tokio::task::spawn_blocking(move || -> Result<_, String> {
            std::fs::create_dir_all(&at).map_err(|e| e.to_string())?;
            if mounts::is_mounted(&at).map_err(|e| e.to_string())? {
                return Ok(None);
            }
            let server = export.resolve()?;
            Ok(Some(export.attempts(server, own_address(server))))
        });
        let Some(attempts) = prepared.await.map_err(|e| e.to_string())?? else { return Ok(()) };
        let mut last = None;
        for options in &attempts {
            match self.run(&["-i"], options, target).await {
                Ok(()) => return Ok(()),
                // The server may speak another version; everything else would be no better with one.
                Err(why) if why.contains(OTHER_VERSION) => last = Some(why),
                Err(why) => return Err(why),
            }
        }
        if HELPERS.iter().any(|h| Path::new(h).exists()) {
            return self.run(&[], &self.options.join(","), target).await;
        }
        let version = self.version().unwrap_or_default();
        Err(last.unwrap_or_else(|| {
            format!("mount failed: NFS version {version} needs mount.nfs on the node\nfix: apt-get install nfs-common")
        }))
    }

    async fn run(&self, first: &[&str], options: &str, target: &Path) -> Result<(), String> {
        let mut command = Command::new("mount");
        command.args(first).args(["-t", "nfs"]);
        if !options.is_empty() {
            command.args(["-o", options]);
        }
        command.arg("--").arg(self.source()).arg(target);
        command.env("LC_ALL", "C").stdin(Stdio::null()).kill_on_drop(true);
        let shown = format!(
            "Mounting command: mount\nMounting arguments: -t nfs -o {options} {} {}",
            self.source(),
            target.display()
        );
        let output = match tokio::time::timeout(MOUNT_MAX, command.output()).await {
            Err(_) => return Err(format!("mount failed: no answer within {MOUNT_MAX:?}\n{shown}")),
            Ok(Err(e)) => return Err(format!("mount failed: {e}\n{shown}")),
            Ok(Ok(output)) => output,
        };
        if output.status.success() {
            return Ok(());
        }
        let said: String = String::from_utf8_lossy(&output.stderr).trim().chars().take(512).collect();
        Err(format!("mount failed: {}\n{shown}\nOutput: {said}", output.status))
    }
}

/// The address by which the server sees this host, for calls back (version 4.0).
fn own_address(server: IpAddr) -> Option<IpAddr> {
    let any: IpAddr = if server.is_ipv4() { [0u8; 4].into() } else { [0u8; 16].into() };
    let socket = UdpSocket::bind((any, 0)).ok()?;
    // No packet is sent: the kernel only picks the route.
    socket.connect((server, PORT)).ok()?;
    socket.local_addr().ok().map(|a| a.ip())
}

/// Mount points of NFS in the lines of a mount table (proc_pid_mountinfo(5)).
fn points(table: &str) -> impl Iterator<Item = std::path::PathBuf> + '_ {
    table.lines().filter_map(|line| {
        let (before, after) = line.split_once(" - ")?;
        let kind = after.split(' ').next()?;
        let point = before.split(' ').nth(4)?;
        matches!(kind, "nfs" | "nfs4").then(|| mounts::unescape(point))
    })
}

/// Takes the mounts of NFS below a path out of the way at once: a server that is gone would hold up an ordinary unmount. What
/// was written is sent on by the kernel for as long as it takes.
pub(super) fn let_go(below: &Path) -> io::Result<()> {
    let table = std::fs::read_to_string("/proc/self/mountinfo")?;
    let mut found: Vec<_> = points(&table).filter(|p| p.starts_with(below)).collect();
    found.reverse();
    for point in found {
        match umount2(&point, MntFlags::MNT_DETACH | MntFlags::UMOUNT_NOFOLLOW) {
            Ok(()) | Err(nix::errno::Errno::EINVAL | nix::errno::Errno::ENOENT) => {}
            Err(e) => return Err(e.into()),
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn export(server: &str, read_only: bool, options: &[&str]) -> Result<Export, String> {
        let source = NFSVolumeSource { path: "/e".into(), server: server.into(), read_only: Some(read_only) };
        Export::of(&source, &options.iter().map(|o| (*o).to_owned()).collect::<Vec<_>>())
    }

    fn attempts(read_only: bool, options: &[&str]) -> Vec<String> {
        let own = Some([10, 0, 0, 1].into());
        export("s", read_only, options).expect("an export").attempts([10, 0, 0, 9].into(), own)
    }

    #[test]
    fn the_kernel_is_told_addresses_and_tried_with_each_version() {
        assert_eq!(
            attempts(true, &[]),
            [
                "ro,addr=10.0.0.9,clientaddr=10.0.0.1,vers=4.2",
                "ro,addr=10.0.0.9,clientaddr=10.0.0.1,vers=4.1",
                "ro,addr=10.0.0.9,clientaddr=10.0.0.1,vers=4.0",
            ]
        );
        for asked in ["nfsvers=4.1", "vers=4", "v4.2", "minorversion=1"] {
            let expected = format!("hard,{asked},addr=10.0.0.9,clientaddr=10.0.0.1");
            assert_eq!(attempts(false, &[&format!("hard,{asked}"), ""]), [expected]);
        }
        assert_eq!(
            attempts(false, &["addr=1.2.3.4", "clientaddr=5.6.7.8", "vers=4"]),
            ["addr=1.2.3.4,clientaddr=5.6.7.8,vers=4"]
        );
        for asked in ["vers=3", "nfsvers=3", "v3"] {
            assert!(attempts(false, &[asked]).is_empty(), "that is the helper's");
        }
    }

    #[test]
    fn an_export_is_named_as_mount_takes_it() {
        let named = |server: &str| export(server, false, &[]).map(|e| e.source());
        assert_eq!(named("files.example.com").as_deref(), Ok("files.example.com:/e"));
        assert_eq!(named("fd00::1").as_deref(), Ok("[fd00::1]:/e"));
        assert_eq!(named("[fd00::1]").as_deref(), Ok("[fd00::1]:/e"));
        for wrong in ["", "a/b", "a,addr=1.2.3.4"] {
            assert!(named(wrong).is_err(), "{wrong}");
        }
        assert!(export("s", false, &["x".repeat(5000).as_str()]).is_err());
    }

    #[test]
    fn addresses_are_looked_up_here() {
        let resolve = |server: &str| export(server, false, &[]).expect("an export").resolve();
        assert_eq!(resolve("127.0.0.1"), Ok([127, 0, 0, 1].into()));
        assert_eq!(resolve("::1"), Ok(std::net::Ipv6Addr::LOCALHOST.into()));
        assert_eq!(own_address([127, 0, 0, 1].into()), Some([127, 0, 0, 1].into()));
    }

    #[test]
    fn mounts_of_nfs_are_told_from_others() {
        let table = "36 35 98:0 / /a rw - ext4 /dev/x rw\n37 36 0:9 / /b\\040c rw - nfs4 s:/e rw\n38 36 0:9 / /d rw x:1 - nfs s:/e rw";
        let found: Vec<_> = points(table).collect();
        assert_eq!(found, [Path::new("/b c"), Path::new("/d")]);
        let_go(Path::new("/nothing/here")).expect("there is nothing to do");
    }

    #[tokio::test]
    async fn a_failure_is_told_as_the_kubelet_does() {
        if !nix::unistd::geteuid().is_root() {
            println!("skipped: needs root");
            return;
        }
        let dir = tempfile::tempdir().expect("dir");
        // Nobody listens there; a kernel without NFS says so sooner.
        let export = export("127.0.0.253", false, &["port=9", "soft", "retry=0", "vers=4.2"]).expect("an export");
        let told = export.mount(&dir.path().join("v")).await.expect_err("there is no server");
        assert!(told.starts_with("mount failed: ") && told.contains("Mounting arguments: -t nfs -o "), "{told}");
        assert!(told.contains("127.0.0.253:/e"), "{told}");
    }
}
