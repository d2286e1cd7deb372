//! Address ranges in CIDR notation.

use std::net::IpAddr;

use super::check::Check;

/// What Kubernetes says of a malformed range.
pub(super) const BAD_CIDR: &str = "must be a valid CIDR value, (e.g. 10.9.8.0/24 or 2001:db8::/64)";

/// An address and the number of leading bits that make the network.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Cidr {
    /// The address as written, host bits included.
    pub(super) address: IpAddr,
    /// Length of the network part, in bits.
    pub(super) bits: u32,
}

impl Cidr {
    /// Parses `ADDRESS/BITS`.
    pub(super) fn parse(text: &str) -> Option<Self> {
        let (address, bits) = text.split_once('/')?;
        let address: IpAddr = address.parse().ok()?;
        let canonical = bits.bytes().all(|b| b.is_ascii_digit()) && (bits == "0" || !bits.starts_with('0'));
        let bits: u32 = bits.parse().ok().filter(|_| canonical)?;
        (bits <= width(address)).then_some(Self { address, bits })
    }

    /// Bits of an address of the family.
    pub(super) fn width(self) -> u32 {
        width(self.address)
    }

    /// The address with all host bits zero, as a number.
    fn network(self) -> u128 {
        let host = width(self.address) - self.bits;
        let number = number(self.address);
        if host >= 128 { 0 } else { number >> host << host }
    }

    /// Whether no host bit is set.
    pub(super) fn is_network(self) -> bool {
        self.network() == number(self.address)
    }

    /// The range with its host bits cleared, as text.
    pub(super) fn masked(self) -> String {
        let network = self.network();
        let address = match self.address {
            IpAddr::V4(_) => IpAddr::V4(u32::try_from(network).unwrap_or(0).into()),
            IpAddr::V6(_) => IpAddr::V6(network.into()),
        };
        format!("{address}/{}", self.bits)
    }

    /// Whether `other` is a part of this range, and smaller.
    pub(super) fn strictly_contains(self, other: Self) -> bool {
        let family = self.address.is_ipv4() == other.address.is_ipv4();
        family && self.bits < other.bits && Self { bits: self.bits, ..other }.network() == self.network()
    }
}

fn width(address: IpAddr) -> u32 {
    if address.is_ipv4() { 32 } else { 128 }
}

fn number(address: IpAddr) -> u128 {
    match address {
        IpAddr::V4(a) => u128::from(u32::from(a)),
        IpAddr::V6(a) => a.into(),
    }
}

/// Parses a range; a malformed one is a finding.
pub(super) fn check_cidr(check: &mut Check, text: &str, field: &str) -> Option<Cidr> {
    let cidr = Cidr::parse(text);
    if cidr.is_none() {
        check.invalid(field, text, BAD_CIDR);
    }
    cidr
}

#[cfg(test)]
mod tests {
    use super::Cidr;

    #[test]
    fn ranges_know_their_parts() {
        let cidr = |s: &str| Cidr::parse(s).unwrap();
        assert!(cidr("10.0.0.0/8").strictly_contains(cidr("10.1.0.0/16")));
        assert!(!cidr("10.0.0.0/8").strictly_contains(cidr("10.0.0.0/8")));
        assert!(!cidr("10.0.0.0/8").strictly_contains(cidr("11.0.0.0/16")));
        assert!(!cidr("0.0.0.0/0").strictly_contains(cidr("2001:db8::/32")));
        assert!(cidr("::/0").strictly_contains(cidr("2001:db8::/32")));
        assert!(cidr("10.0.0.0/24").is_network() && !cidr("10.0.0.1/24").is_network());
        assert_eq!(cidr("10.0.0.77/24").masked(), "10.0.0.0/24");
        assert_eq!(cidr("2001:db8::1/64").masked(), "2001:db8::/64");
        for bad in ["10.0.0.0", "10.0.0.0/33", "10.0.0.0/08", "10.0.0/8", "x/8", "10.0.0.0/+8", "10.0.0.0/"] {
            assert!(Cidr::parse(bad).is_none(), "{bad}");
        }
    }
}
