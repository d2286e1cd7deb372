//! Which capabilities a container gets.

use std::collections::BTreeSet;

use crate::runtime::{RuntimeError, Security};

/// In the order of their numbers (capabilities(7)), without `CAP_`.
const ALL: [&str; 41] = [
    "CHOWN",
    "DAC_OVERRIDE",
    "DAC_READ_SEARCH",
    "FOWNER",
    "FSETID",
    "KILL",
    "SETGID",
    "SETUID",
    "SETPCAP",
    "LINUX_IMMUTABLE",
    "NET_BIND_SERVICE",
    "NET_BROADCAST",
    "NET_ADMIN",
    "NET_RAW",
    "IPC_LOCK",
    "IPC_OWNER",
    "SYS_MODULE",
    "SYS_RAWIO",
    "SYS_CHROOT",
    "SYS_PTRACE",
    "SYS_PACCT",
    "SYS_ADMIN",
    "SYS_BOOT",
    "SYS_NICE",
    "SYS_RESOURCE",
    "SYS_TIME",
    "SYS_TTY_CONFIG",
    "MKNOD",
    "LEASE",
    "AUDIT_WRITE",
    "AUDIT_CONTROL",
    "SETFCAP",
    "MAC_OVERRIDE",
    "MAC_ADMIN",
    "SYSLOG",
    "WAKE_ALARM",
    "BLOCK_SUSPEND",
    "AUDIT_READ",
    "PERFMON",
    "BPF",
    "CHECKPOINT_RESTORE",
];

/// What Docker and containerd give.
const DEFAULT: [&str; 14] = [
    "CHOWN",
    "DAC_OVERRIDE",
    "FSETID",
    "FOWNER",
    "MKNOD",
    "NET_RAW",
    "SETGID",
    "SETUID",
    "SETFCAP",
    "SETPCAP",
    "NET_BIND_SERVICE",
    "SYS_CHROOT",
    "KILL",
    "AUDIT_WRITE",
];

/// What this process may hand on: an engine that lacks one (in a nested or restricted host) cannot give it.
pub fn available() -> BTreeSet<&'static str> {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let bits = status
        .lines()
        .find_map(|l| l.strip_prefix("CapBnd:"))
        .and_then(|v| u64::from_str_radix(v.trim(), 16).ok())
        .unwrap_or(u64::MAX);
    ALL.iter().enumerate().filter(|(bit, _)| bits & (1 << bit) != 0).map(|(_, name)| *name).collect()
}

fn known(name: &str) -> Result<&'static str, RuntimeError> {
    let upper = name.to_ascii_uppercase();
    let bare = upper.strip_prefix("CAP_").unwrap_or(&upper);
    let found = ALL.iter().find(|c| **c == bare);
    found.copied().ok_or_else(|| RuntimeError::Invalid(format!("unknown capability {name:?}")))
}

/// The capabilities (`CAP_...`) of a container: the default ones, `ALL` applied first, then single names, drops last; as
/// containerd orders them. Those that the host withholds from us are left out.
///
/// # Errors
/// [`RuntimeError::Invalid`] for a name that is none.
pub fn resolve(security: &Security, available: &BTreeSet<&'static str>) -> Result<BTreeSet<String>, RuntimeError> {
    let all = |list: &[String]| list.iter().any(|c| c.eq_ignore_ascii_case("ALL"));
    let mut set: BTreeSet<&str> = DEFAULT.into();
    if security.privileged || all(&security.cap_add) {
        set = ALL.into();
    }
    if all(&security.cap_drop) && !security.privileged {
        set.clear();
    }
    if !security.privileged {
        for name in security.cap_add.iter().filter(|c| !c.eq_ignore_ascii_case("ALL")) {
            set.insert(known(name)?);
        }
        for name in security.cap_drop.iter().filter(|c| !c.eq_ignore_ascii_case("ALL")) {
            set.remove(known(name)?);
        }
    }
    Ok(set.intersection(available).map(|c| format!("CAP_{c}")).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(privileged: bool, add: &[&str], drop: &[&str]) -> Result<Vec<String>, RuntimeError> {
        let strings = |l: &[&str]| l.iter().map(|s| (*s).to_owned()).collect();
        let security = Security { privileged, cap_add: strings(add), cap_drop: strings(drop), ..Security::default() };
        Ok(resolve(&security, &ALL.into())?.into_iter().collect())
    }

    #[test]
    fn all_comes_first_then_names_then_drops() {
        assert_eq!(of(false, &[], &[]).unwrap().len(), 14);
        assert_eq!(of(false, &["NET_ADMIN"], &["ALL"]).unwrap(), ["CAP_NET_ADMIN"]);
        assert_eq!(of(false, &["ALL"], &["SYS_ADMIN"]).unwrap().len(), 40);
        assert_eq!(of(true, &[], &["ALL"]).unwrap().len(), 41);
        assert_eq!(of(false, &["cap_sys_time"], &["all"]).unwrap(), ["CAP_SYS_TIME"]);
        assert!(matches!(of(false, &["NOPE"], &[]), Err(RuntimeError::Invalid(_))));
    }

    #[test]
    fn what_the_host_withholds_is_not_promised() {
        let security = Security { privileged: true, ..Security::default() };
        let host: BTreeSet<_> = ["CHOWN"].into();
        assert_eq!(resolve(&security, &host).unwrap().len(), 1);
    }
}
