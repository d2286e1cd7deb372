//! `hostPath` and its types.

use std::io;
use std::os::unix::fs::{DirBuilderExt, FileTypeExt, OpenOptionsExt};
use std::path::Path;

/// Checks a path of the host against the type a pod gave, making it where the type says so.
pub(crate) fn check(path: &Path, kind: &str) -> io::Result<()> {
    if !path.is_absolute() || path.components().any(|c| c == std::path::Component::ParentDir) {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, format!("{} is not an absolute path", path.display())));
    }
    match kind {
        "FileOrCreate" if !path.exists() => {
            let flags = nix::libc::O_CLOEXEC;
            std::fs::OpenOptions::new().write(true).create_new(true).mode(0o644).custom_flags(flags).open(path)?;
        }
        // Without a type a missing path is made as a folder, as container runtimes do.
        "" | "DirectoryOrCreate" if !path.exists() => {
            std::fs::DirBuilder::new().recursive(true).mode(0o755).create(path)?
        }
        _ => {}
    }
    let meta = std::fs::metadata(path).map_err(|e| {
        let kind = if kind.is_empty() { "path" } else { kind };
        io::Error::new(e.kind(), format!("hostPath type check failed: {} is not a {kind}: {e}", path.display()))
    })?;
    let t = meta.file_type();
    let right = match kind {
        "" => true,
        "Directory" | "DirectoryOrCreate" => t.is_dir(),
        "File" | "FileOrCreate" => t.is_file(),
        "Socket" => t.is_socket(),
        "CharDevice" => t.is_char_device(),
        "BlockDevice" => t.is_block_device(),
        _ => false,
    };
    if right {
        return Ok(());
    }
    Err(io::Error::new(
        io::ErrorKind::InvalidInput,
        format!("hostPath type check failed: {} is not a {kind}", path.display()),
    ))
}

#[cfg(test)]
mod tests {
    use super::check;

    #[test]
    fn types_are_checked_and_made() {
        let dir = tempfile::tempdir().expect("dir");
        let d = dir.path();
        std::fs::write(d.join("file"), "").expect("file");
        assert!(check(&d.join("file"), "File").is_ok());
        assert!(check(&d.join("file"), "Directory").is_err());
        assert!(check(&d.join("none"), "Directory").is_err());
        assert!(check(&d.join("new/dir"), "DirectoryOrCreate").is_ok());
        assert!(check(&d.join("newfile"), "FileOrCreate").is_ok());
        assert!(check(&d.join("plain"), "").is_ok() && d.join("plain").is_dir());
        assert!(check(std::path::Path::new("/dev/null"), "CharDevice").is_ok());
        assert!(check(std::path::Path::new("relative"), "").is_err());
    }
}
