//! The kernel: netlink, namespaces, conntrack, settings under `/proc/sys`, and the `nft` program. Nothing here decides
//! anything; all of it blocks and is called from blocking threads, but for `nft`.

pub(crate) mod conntrack;
pub(crate) mod link;
pub(crate) mod netlink;
pub(crate) mod netns;
pub(crate) mod nft;
pub(crate) mod sysctl;
