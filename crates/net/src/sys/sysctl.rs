//! Kernel settings of the network namespace this thread is in.

use std::fs;

use crate::NetError;

/// Sets `/proc/sys/<key>` unless it has the value already: some hosts mount it read-only with the right values, and
/// writing `ip_forward` resets others.
pub(crate) fn set(key: &str, value: &str) -> Result<(), NetError> {
    let path = format!("/proc/sys/{key}");
    let failed = |source| NetError::Sysctl { key: key.to_owned(), source };
    if fs::read_to_string(&path).map_err(failed)?.trim() == value {
        return Ok(());
    }
    fs::write(&path, value).map_err(failed)
}

/// The interface with the IPv4 default route, if there is one. Read from the thread's own namespace: `/proc/net` is
/// that of the process' first thread.
pub(crate) fn default_route_interface() -> Option<String> {
    let table = fs::read_to_string("/proc/thread-self/net/route").ok()?;
    parse_default_route(&table)
}

fn parse_default_route(table: &str) -> Option<String> {
    table.lines().skip(1).find_map(|line| {
        let mut columns = line.split_ascii_whitespace();
        let (name, destination) = (columns.next()?, columns.next()?);
        (destination == "00000000").then(|| name.to_owned())
    })
}

#[cfg(test)]
mod tests {
    #[test]
    fn the_default_route_is_the_one_to_zero() {
        let table = "Iface\tDestination\tGateway\neth1\t0002000A\t0\neth0\t00000000\t0100000A\n";
        assert_eq!(super::parse_default_route(table).as_deref(), Some("eth0"));
        assert_eq!(super::parse_default_route("Iface\n"), None);
    }
}
