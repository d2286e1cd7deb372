//! Where the agent keeps what belongs to pods.

use std::path::{Path, PathBuf};

use base::instance::Instance;
use k8s_openapi::api::core::v1::Pod;

/// The folders of one instance.
#[derive(Debug, Clone)]
pub(crate) struct Paths {
    data: PathBuf,
}

impl Paths {
    pub(crate) fn of(instance: &Instance) -> Self {
        Paths { data: instance.data_dir().to_path_buf() }
    }

    /// All pods' folders.
    pub(crate) fn pods(&self) -> PathBuf {
        self.data.join("pods")
    }

    /// Volumes and container files of one pod, by UID.
    pub(crate) fn pod(&self, uid: &str) -> PathBuf {
        self.pods().join(uid)
    }

    /// One volume of a pod.
    pub(crate) fn volume(&self, uid: &str, name: &str) -> PathBuf {
        self.pod(uid).join("volumes").join(name)
    }

    /// Where subpaths of volumes are bound for one container.
    pub(crate) fn subpaths(&self, uid: &str, container: &str) -> PathBuf {
        self.pod(uid).join("subpaths").join(container)
    }

    /// The termination message of one run of a container.
    pub(crate) fn termination_log(&self, uid: &str, container: &str, attempt: u32) -> PathBuf {
        self.pod(uid).join("containers").join(container).join(format!("{attempt}.termination"))
    }

    /// All pods' logs.
    pub(crate) fn logs(&self) -> PathBuf {
        self.data.join("logs").join("pods")
    }

    /// The logs of one pod, named as the kubelet names them.
    pub(crate) fn pod_logs(&self, namespace: &str, name: &str, uid: &str) -> PathBuf {
        self.logs().join(format!("{namespace}_{name}_{uid}"))
    }

    /// The log of one run of a container.
    pub(crate) fn log(&self, pod: &PodId, container: &str, attempt: u32) -> PathBuf {
        self.pod_logs(&pod.namespace, &pod.name, &pod.uid).join(container).join(format!("{attempt}.log"))
    }

    /// All volumes made by the local-path class.
    pub(crate) fn local_volumes(&self) -> PathBuf {
        self.data.join("volumes")
    }

    /// The folder of one of them.
    pub(crate) fn local_volume(&self, pv: &str) -> PathBuf {
        self.local_volumes().join(pv)
    }

    /// All snapshots of volumes of that class.
    pub(crate) fn local_snapshots(&self) -> PathBuf {
        self.local_volumes().join(".snapshots")
    }

    /// The folder of one of them.
    pub(crate) fn local_snapshot(&self, name: &str) -> PathBuf {
        self.local_snapshots().join(name)
    }

    /// What manifests of storage drivers know as `/var/lib/kubelet`.
    pub(crate) fn kubelet(&self) -> PathBuf {
        self.data.join("kubelet")
    }

    /// Seccomp profiles of the node, by the name a pod gives.
    pub(crate) fn seccomp(&self) -> PathBuf {
        self.data.join("seccomp")
    }

    /// Images, and what containers write.
    pub(crate) fn images(&self) -> PathBuf {
        self.data.join("images")
    }

    /// The data folder itself.
    pub(crate) fn data(&self) -> &Path {
        &self.data
    }
}

/// Which pod.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) struct PodId {
    pub(crate) namespace: String,
    pub(crate) name: String,
    pub(crate) uid: String,
}

impl PodId {
    pub(crate) fn of(pod: &Pod) -> Self {
        let m = &pod.metadata;
        PodId {
            namespace: m.namespace.clone().unwrap_or_default(),
            name: m.name.clone().unwrap_or_default(),
            uid: m.uid.clone().unwrap_or_default(),
        }
    }
}

impl std::fmt::Display for PodId {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}/{}", self.namespace, self.name)
    }
}
