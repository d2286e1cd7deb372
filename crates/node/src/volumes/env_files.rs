//! Files of variables in a pod's volumes (`env.valueFrom.fileKeyRef`).

use std::collections::BTreeMap;
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use k8s_openapi::api::core::v1::{Container, FileKeySelector};
use nix::fcntl::{OFlag, OpenHow, ResolveFlag, openat2};
use nix::sys::stat::Mode;

use super::Volumes;
use crate::spec::ConfigError;

/// Longest file of variables, bytes: no program is started with more.
const FILE_MAX: u64 = 1 << 20;

/// Texts by volume and path; `None` for a file that is not there.
pub(crate) type EnvFiles = BTreeMap<(String, String), Option<String>>;

/// The file keys a container's environment is made of.
fn wanted(c: &Container) -> impl Iterator<Item = &FileKeySelector> {
    c.env.iter().flatten().filter_map(|e| e.value_from.as_ref()?.file_key_ref.as_ref())
}

/// Reads a file below `root`. What is in the volume is the containers': links are followed as if `root` were the root, and
/// what is no file is not waited for.
fn read(root: &Path, path: &str) -> io::Result<Option<String>> {
    let folder = nix::fcntl::open(root, OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC, Mode::empty())?;
    let how = OpenHow::new()
        .flags(OFlag::O_RDONLY | OFlag::O_NONBLOCK | OFlag::O_NOCTTY | OFlag::O_CLOEXEC)
        .resolve(ResolveFlag::RESOLVE_IN_ROOT | ResolveFlag::RESOLVE_NO_MAGICLINKS);
    let file = match openat2(&folder, path, how) {
        Ok(fd) => std::fs::File::from(fd),
        Err(nix::errno::Errno::ENOENT) => return Ok(None),
        Err(e) => return Err(e.into()),
    };
    if !file.metadata()?.is_file() {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, "it is not a file"));
    }
    let mut text = String::new();
    if file.take(FILE_MAX + 1).read_to_string(&mut text)? as u64 > FILE_MAX {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, format!("it is longer than {FILE_MAX} bytes")));
    }
    Ok(Some(text))
}

impl Volumes {
    /// The files that the environment of a container is read from.
    pub(crate) async fn env_files(&self, c: &Container) -> Result<EnvFiles, ConfigError> {
        let mut files = EnvFiles::new();
        for key in wanted(c) {
            let place = (key.volume_name.clone(), key.path.clone());
            if files.contains_key(&place) {
                continue;
            }
            let root: PathBuf = self.path_of(&key.volume_name).await.ok_or_else(|| {
                ConfigError::new(format!("cannot find the volume {:?} referenced by FileKeyRef", key.volume_name))
            })?;
            let path = key.path.clone();
            let found = tokio::task::spawn_blocking(move || read(&root, &path)).await.map_err(io::Error::other);
            let text = found.and_then(|f| f).map_err(|e| {
                ConfigError::new(format!("couldn't parse env file {:?} of volume {:?}: {e}", key.path, key.volume_name))
            })?;
            files.insert(place, text);
        }
        Ok(files)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_is_read_only_from_within_its_volume() {
        let dir = tempfile::tempdir().expect("dir");
        let (volume, outside) = (dir.path().join("v"), dir.path().join("secret"));
        std::fs::create_dir_all(volume.join("sub")).expect("folders");
        std::fs::write(&outside, "A='host'").expect("file");
        std::fs::write(volume.join("sub/env"), "A='own'").expect("file");
        std::os::unix::fs::symlink(&outside, volume.join("out")).expect("link");
        std::os::unix::fs::symlink("/sub/env", volume.join("in")).expect("link");
        assert_eq!(read(&volume, "sub/env").expect("read").as_deref(), Some("A='own'"));
        assert_eq!(read(&volume, "in").expect("read").as_deref(), Some("A='own'"));
        assert_eq!(read(&volume, "out").expect("read"), None, "the host's file is not reached");
        assert_eq!(read(&volume, "none").expect("read"), None);
        assert!(read(&volume, "sub").is_err(), "a folder is no file");
        nix::unistd::mkfifo(&volume.join("pipe"), nix::sys::stat::Mode::from_bits_truncate(0o600)).expect("pipe");
        assert!(read(&volume, "pipe").is_err(), "nobody waits for a pipe");
        std::fs::write(volume.join("big"), vec![b'#'; FILE_MAX as usize + 1]).expect("file");
        assert!(read(&volume, "big").is_err());
    }
}
