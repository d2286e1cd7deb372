//! Ranges of networks and addresses in them. Pure.

use std::net::Ipv4Addr;

use base::instance::Cidr;

/// What a network gives addresses from.
#[derive(Debug, Clone)]
pub struct Pool {
    /// The whole range.
    pub subnet: Cidr,
    /// The part from which addresses are given that nobody names.
    pub range: Cidr,
    /// Not given: the bridge's own, and those set aside.
    pub reserved: Vec<Ipv4Addr>,
}

/// Why there is no address.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NoAddress {
    /// All are in use.
    Exhausted,
    /// The one that was named is in use.
    Taken,
}

/// Whether two ranges have an address in common.
pub fn overlap(a: Cidr, b: Cidr) -> bool {
    a.contains(b.base) || b.contains(a.base)
}

/// The ranges given to networks that name none, in the order of dockerd's default: 172.18.0.0/16 to 172.31.0.0/16, then
/// 192.168.0.0/20 and on.
fn pools() -> Vec<Cidr> {
    let wide = (18..=31).map(|n| Cidr { base: Ipv4Addr::new(172, n, 0, 0), prefix: 16 });
    let narrow = (0..16u8).map(|n| Cidr { base: Ipv4Addr::new(192, 168, n * 16, 0), prefix: 20 });
    wide.chain(narrow).collect()
}

/// The first of the default ranges, from the `start`th on, that overlaps none of these.
pub fn free_pool(start: usize, taken: &[Cidr]) -> Option<Cidr> {
    let all = pools();
    let turned = all.iter().cycle().skip(start % all.len()).take(all.len());
    turned.copied().find(|pool| !taken.iter().any(|t| overlap(*pool, *t)))
}

/// The ranges that a host reaches by more than its default route, from the text of `/proc/net/route`.
pub fn routes(text: &str) -> Vec<Cidr> {
    let number = |hex: &str| u32::from_str_radix(hex, 16).ok().map(u32::swap_bytes);
    let rows = text.lines().skip(1).filter_map(|line| {
        let columns: Vec<&str> = line.split_ascii_whitespace().collect();
        let (base, mask) = (number(columns.get(1)?)?, number(columns.get(7)?)?);
        let prefix = u8::try_from(mask.leading_ones()).ok()?;
        (prefix > 0).then(|| Cidr { base: Ipv4Addr::from(base), prefix })
    });
    rows.collect()
}

/// The range that a text names, which must name its first address.
///
/// # Errors
/// What is wrong with it.
pub fn parse(text: &str) -> Result<Cidr, String> {
    if text.contains(':') {
        return Err(format!("{text}: IPv6 is not supported by Windlass"));
    }
    let invalid = || format!("invalid CIDR address: {text}");
    let (base, _) = text.split_once('/').ok_or_else(invalid)?;
    let base: Ipv4Addr = base.parse().map_err(|_| invalid())?;
    let cidr: Cidr = text.parse().map_err(|_| invalid())?;
    match cidr.base == base {
        true => Ok(cidr),
        false => Err(format!("invalid subnet {text}: it should be {cidr}")),
    }
}

impl Pool {
    fn usable(&self, ip: Ipv4Addr) -> bool {
        let last = u32::from(self.subnet.base).wrapping_add((self.subnet.len() - 1) as u32);
        self.subnet.contains(ip) && ip != self.subnet.base && u32::from(ip) != last && !self.reserved.contains(&ip)
    }

    /// An address that is not taken: the one that is wanted, or the lowest.
    ///
    /// # Errors
    /// When there is none.
    pub fn address(&self, wanted: Option<Ipv4Addr>, taken: impl Fn(Ipv4Addr) -> bool) -> Result<Ipv4Addr, NoAddress> {
        if let Some(ip) = wanted {
            return if self.usable(ip) && !taken(ip) { Ok(ip) } else { Err(NoAddress::Taken) };
        }
        let first = u32::from(self.range.base);
        let all = (0..self.range.len()).map(|n| Ipv4Addr::from(first.wrapping_add(n as u32)));
        all.into_iter().find(|ip| self.usable(*ip) && !taken(*ip)).ok_or(NoAddress::Exhausted)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cidr(text: &str) -> Cidr {
        parse(text).unwrap()
    }

    #[test]
    fn ranges_are_given_where_nobody_is() {
        assert_eq!(free_pool(0, &[]).unwrap(), cidr("172.18.0.0/16"));
        assert_eq!(free_pool(0, &[cidr("172.16.0.0/14")]).unwrap(), cidr("172.20.0.0/16"));
        assert_eq!(free_pool(29, &[]).unwrap(), cidr("192.168.240.0/20"));
        assert_eq!(free_pool(30, &[]).unwrap(), cidr("172.18.0.0/16"));
        let wide = [cidr("172.16.0.0/12"), cidr("192.168.0.0/16")];
        assert_eq!(free_pool(3, &wide), None);
    }

    #[test]
    fn the_routes_of_a_host_are_read() {
        let text = "Iface\tDestination\tGateway\tFlags\tRefCnt\tUse\tMetric\tMask\tMTU\n\
            eth0\t00000000\t0100000A\t0003\t0\t0\t0\t00000000\t0\n\
            br0\t000012AC\t00000000\t0001\t0\t0\t0\t0000FFFF\t0\n";
        assert_eq!(routes(text), [cidr("172.18.0.0/16")]);
    }

    #[test]
    fn addresses_are_the_lowest_or_those_named() {
        let gateway = Ipv4Addr::new(10, 7, 0, 1);
        let pool = Pool { subnet: cidr("10.7.0.0/29"), range: cidr("10.7.0.4/30"), reserved: vec![gateway] };
        let ip = |n| Ipv4Addr::new(10, 7, 0, n);
        assert_eq!(pool.address(None, |_| false), Ok(ip(4)));
        assert_eq!(pool.address(None, |t| t <= ip(5)), Ok(ip(6)));
        assert_eq!(pool.address(None, |t| t <= ip(6)), Err(NoAddress::Exhausted), "the last one is the broadcast");
        assert_eq!(pool.address(Some(ip(3)), |_| false), Ok(ip(3)));
        for bad in [gateway, ip(0), ip(7), ip(9)] {
            assert_eq!(pool.address(Some(bad), |_| false), Err(NoAddress::Taken), "{bad}");
        }
        assert_eq!(pool.address(Some(ip(3)), |_| true), Err(NoAddress::Taken));
    }

    #[test]
    fn what_is_no_range_is_told() {
        assert!(parse("10.0.0.1/24").unwrap_err().contains("it should be 10.0.0.0/24"));
        for bad in ["10.0.0.0", "x/8", "10.0.0.0/31", "fd00::/64"] {
            assert!(parse(bad).is_err(), "{bad}");
        }
    }
}
