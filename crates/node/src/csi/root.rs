//! The folder that drivers and this node share. Manifests of drivers name it as the kubelet's, `/var/lib/kubelet`; where it is on
//! this host follows from the instance, of which there may be several.

use std::io;
use std::path::{Path, PathBuf};

use nix::mount::{MsFlags, mount};
use sha2::{Digest, Sha256};

use crate::volumes::mounts;

/// What manifests call it.
const VIEW: &str = "/var/lib/kubelet";
/// Where volumes of pods are, below the pod's folder.
const VOLUMES: &str = "volumes/kubernetes.io~csi";

/// Whether a driver names the shared folder as the kubelet's or as this host's: it is spoken to as it speaks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum View {
    Kubelet,
    Host,
}

/// The shared folder.
#[derive(Debug, Clone)]
pub(crate) struct Root {
    own: PathBuf,
}

impl Root {
    pub(crate) fn new(own: PathBuf) -> Self {
        Root { own }
    }

    /// Makes the folders that drivers expect to be there.
    pub(super) fn make(&self) -> io::Result<()> {
        for folder in [self.registry(), self.own.join("plugins"), self.pods()] {
            std::fs::create_dir_all(folder)?;
        }
        Ok(())
    }

    /// Where drivers put the sockets with which they register.
    pub(super) fn registry(&self) -> PathBuf {
        self.own.join("plugins_registry")
    }

    pub(super) fn pods(&self) -> PathBuf {
        self.own.join("pods")
    }

    /// Where a path that a manifest or a driver names is on this host, and in whose words it was.
    pub(crate) fn on_host(&self, path: &Path) -> (PathBuf, View) {
        match path.strip_prefix(VIEW) {
            // A name that leads up and out is not of this folder.
            Ok(rest) if rest.components().all(|c| matches!(c, std::path::Component::Normal(_))) => {
                let own = if rest.as_os_str().is_empty() { self.own.clone() } else { self.own.join(rest) };
                (own, View::Kubelet)
            }
            _ => (path.to_path_buf(), View::Host),
        }
    }

    /// What a driver calls a path of the shared folder.
    pub(super) fn seen(&self, path: &Path, view: View) -> String {
        match (view, path.strip_prefix(&self.own)) {
            (View::Kubelet, Ok(rest)) => Path::new(VIEW).join(rest).display().to_string(),
            _ => path.display().to_string(),
        }
    }

    /// The folders of volumes of a pod.
    pub(super) fn volumes(&self, uid: &str) -> PathBuf {
        self.pods().join(uid).join(VOLUMES)
    }

    /// The folder of a driver's volume that all pods of the node share.
    pub(super) fn staging(&self, driver: &str, handle: &str) -> PathBuf {
        let folder = self.stagings().join(driver);
        folder.join(hash(&[handle]))
    }

    pub(super) fn stagings(&self) -> PathBuf {
        self.own.join("plugins/kubernetes.io/csi")
    }

    /// Lets mounts that a container makes in the shared folder reach the host: the folder becomes a mount of its own whose
    /// mounts are shared (mount_namespaces(7)), whatever those of the host around it are.
    pub(crate) fn share(&self) -> io::Result<()> {
        if mounts::is_mounted(&self.own)? {
            return Ok(());
        }
        mounts::bind(&self.own, &self.own)?;
        Ok(mount(None::<&str>, &self.own, None::<&str>, MsFlags::MS_SHARED | MsFlags::MS_REC, None::<&str>)?)
    }
}

/// A name for these texts, as the kubelet makes them.
pub(super) fn hash(texts: &[&str]) -> String {
    let mut sum = Sha256::new();
    texts.iter().for_each(|text| sum.update(text));
    sum.finalize().iter().map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_manifests_name_as_the_kubelets_is_the_instances() {
        let root = Root::new(PathBuf::from("/data/kubelet"));
        for (named, own, view) in [
            ("/var/lib/kubelet", "/data/kubelet", View::Kubelet),
            ("/var/lib/kubelet/", "/data/kubelet", View::Kubelet),
            ("/var/lib/kubelet/plugins/x/csi.sock", "/data/kubelet/plugins/x/csi.sock", View::Kubelet),
            ("/var/lib/kubelet/../x", "/var/lib/kubelet/../x", View::Host),
            ("/var/lib/kubelets", "/var/lib/kubelets", View::Host),
            ("/data/kubelet/plugins", "/data/kubelet/plugins", View::Host),
        ] {
            let (path, seen) = root.on_host(Path::new(named));
            assert_eq!((path.to_str().expect("text"), seen), (own, view), "{named}");
        }
        let volume = root.volumes("uid").join("v/mount");
        assert_eq!(root.seen(&volume, View::Kubelet), "/var/lib/kubelet/pods/uid/volumes/kubernetes.io~csi/v/mount");
        assert_eq!(root.seen(&volume, View::Host), "/data/kubelet/pods/uid/volumes/kubernetes.io~csi/v/mount");
    }
}
