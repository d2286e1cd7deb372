//! What can go wrong between a pod and its network.

use std::net::Ipv4Addr;
use std::path::PathBuf;

use base::instance::Cidr;

/// A failed network operation. The message names the thing it was about; the source says why.
#[derive(Debug, thiserror::Error)]
pub enum NetError {
    /// Every address of the range is taken.
    #[error("no free pod address: all {capacity} addresses of {cidr} are taken")]
    Exhausted {
        /// The pods' range.
        cidr: Cidr,
        /// How many pods fit in it.
        capacity: u64,
    },
    /// The range is too small to hold a gateway and a pod.
    #[error("pod range {0} is too small: it needs at least 4 addresses")]
    RangeTooSmall(Cidr),
    /// Two pods or Services of this node ask for the same port of the host.
    #[error("host port {port}/{protocol} is already taken by {holder}")]
    HostPortTaken {
        /// The port asked for.
        port: u16,
        /// `tcp`, `udp` or `sctp`.
        protocol: crate::Protocol,
        /// The pod or Service that holds it, in words.
        holder: String,
    },
    /// A program of the host has the port.
    #[error("port {port}/{protocol} of the host is not free")]
    HostPortBusy {
        /// The port asked for.
        port: u16,
        /// `tcp`, `udp` or `sctp`.
        protocol: crate::Protocol,
        /// The kernel's answer.
        source: std::io::Error,
    },
    /// The pinned network namespace of a pod cannot be opened or entered.
    #[error("network namespace {path}")]
    Netns {
        /// Where it is pinned.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// The kernel refused a netlink request.
    #[error("{what}")]
    Netlink {
        /// What was being done.
        what: String,
        /// The kernel's answer.
        source: std::io::Error,
    },
    /// A reply of the kernel could not be decoded.
    #[error("netlink reply: {0}")]
    BadReply(String),
    /// A kernel setting cannot be read or written.
    #[error("kernel setting {key}")]
    Sysctl {
        /// Its path below `/proc/sys`.
        key: String,
        /// Why.
        source: std::io::Error,
    },
    /// A state file cannot be read or written.
    #[error("state file {path}")]
    State {
        /// The file.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// The `nft` program is not installed.
    #[error("the nft program was not found: install the package nftables")]
    NftMissing,
    /// `nft` refused a transaction. Nothing of it was applied.
    #[error("nft refused the transaction: {stderr}")]
    Nft {
        /// What it printed, shortened.
        stderr: String,
    },
    /// `nft` could not be run, or did not finish in time.
    #[error("cannot run nft")]
    NftRun(#[source] std::io::Error),
    /// A DNS listener cannot be bound.
    #[error("cannot listen for DNS on {addr}:{port}")]
    DnsBind {
        /// The address.
        addr: Ipv4Addr,
        /// The port.
        port: u16,
        /// Why.
        source: std::io::Error,
    },
    /// No further bridge of that key.
    #[error("there is no bridge {0}")]
    NoBridge(String),
    /// A worker thread of the network ended without an answer.
    #[error("a network worker ended without an answer")]
    WorkerLost,
}
