//! The base image of all tests: the static busybox of this host, its applets as symlinks, and the few files programs expect.
//! Made here, so that no test needs a registry or the Internet.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};

use crate::command;

const PASSWD: &str = "root:x:0:0:root:/root:/bin/sh\nnobody:x:65534:65534:nobody:/nonexistent:/bin/false\napp:x:1000:1000:app:/home/app:/bin/sh\n";
const GROUP: &str = "root:x:0:\nnogroup:x:65534:\napp:x:1000:\nextra:x:2000:app\n";

/// Where the static busybox is (Debian: package `busybox-static`).
fn busybox() -> Result<PathBuf> {
    for path in ["/usr/bin/busybox", "/bin/busybox"] {
        let path = Path::new(path);
        // A dynamic one would need its libraries in the image: an ELF file without a PT_INTERP string is good enough a sign.
        if path.exists() && !contains(&std::fs::read(path)?, b"/lib64/ld-linux") {
            return Ok(path.to_path_buf());
        }
    }
    bail!("no static busybox: apt-get install busybox-static")
}

fn contains(haystack: &[u8], needle: &[u8]) -> bool {
    haystack.windows(needle.len()).any(|w| w == needle)
}

/// Writes the root file system of the image to `path` as a tarball.
pub fn rootfs_tar(path: &Path) -> Result<()> {
    let busybox = busybox()?;
    let applets = command::run(Command::new(&busybox).arg("--list"), None, command::LIMIT)?.ok()?;
    let file = std::fs::File::create(path).with_context(|| format!("make {}", path.display()))?;
    let mut tar = tar::Builder::new(file);
    for (dir, mode) in [
        ("bin", 0o755),
        ("etc", 0o755),
        ("root", 0o700),
        ("tmp", 0o1777),
        ("var", 0o755),
        ("home", 0o755),
        ("home/app", 0o755),
    ] {
        let mut header = header(tar::EntryType::Directory, mode, 0);
        if dir == "home/app" {
            header.set_uid(1000);
            header.set_gid(1000);
        }
        tar.append_data(&mut header, dir, std::io::empty())?;
    }
    let program = std::fs::read(&busybox)?;
    file_entry(&mut tar, "bin/busybox", 0o755, &program)?;
    file_entry(&mut tar, "etc/passwd", 0o644, PASSWD.as_bytes())?;
    file_entry(&mut tar, "etc/group", 0o644, GROUP.as_bytes())?;
    for applet in applets.lines().filter(|a| *a != "busybox") {
        let mut header = header(tar::EntryType::Symlink, 0o777, 0);
        tar.append_link(&mut header, format!("bin/{applet}"), "busybox")?;
    }
    tar.into_inner()?.sync_all()?;
    Ok(())
}

fn header(kind: tar::EntryType, mode: u32, size: u64) -> tar::Header {
    let mut header = tar::Header::new_gnu();
    header.set_entry_type(kind);
    header.set_mode(mode);
    header.set_size(size);
    header
}

fn file_entry(tar: &mut tar::Builder<std::fs::File>, name: &str, mode: u32, content: &[u8]) -> Result<()> {
    let mut header = header(tar::EntryType::Regular, mode, content.len() as u64);
    Ok(tar.append_data(&mut header, name, content)?)
}
