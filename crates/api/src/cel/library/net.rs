//! `ip('10.0.0.1')` and `cidr('10.0.0.0/8')`.

use std::net::IpAddr;

use cel::common::types::{CelBool, CelInt, CelString};
use cel::{DeclarationError, Env, ExecutionError, add_member_overload, add_overload};

use super::failed;
use super::value::value;

#[derive(Debug, Clone, PartialEq)]
pub(super) struct Ip(IpAddr);

/// An address, not necessarily the first of its network, and a length.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Cidr {
    ip: IpAddr,
    bits: u8,
}

value!(Ip, "net.IP");
value!(Cidr, "net.CIDR");

pub(super) fn extension(env: &mut Env) -> Result<(), DeclarationError> {
    env.add_type(Ip::TYPE)?;
    add_overload!(env, fn ip: (CelString) -> Result<Ip>, name = "ip")?;
    add_overload!(env, fn is_ip: (CelString) -> CelBool, name = "isIP")?;
    add_overload!(env, fn is_canonical: (CelString) -> Result<CelBool>, name = "ip.isCanonical")?;
    add_overload!(env, fn ip_text: (Ip) -> CelString, name = "string")?;
    add_member_overload!(env, fn family: (Ip) -> CelInt, name = "family")?;
    add_member_overload!(env, fn is_unspecified: (Ip) -> CelBool, name = "isUnspecified")?;
    add_member_overload!(env, fn is_loopback: (Ip) -> CelBool, name = "isLoopback")?;
    add_member_overload!(env, fn is_link_multicast: (Ip) -> CelBool, name = "isLinkLocalMulticast")?;
    add_member_overload!(env, fn is_link_unicast: (Ip) -> CelBool, name = "isLinkLocalUnicast")?;
    add_member_overload!(env, fn is_global: (Ip) -> CelBool, name = "isGlobalUnicast")?;
    env.add_type(Cidr::TYPE)?;
    add_overload!(env, fn cidr: (CelString) -> Result<Cidr>, name = "cidr")?;
    add_overload!(env, fn is_cidr: (CelString) -> CelBool, name = "isCIDR")?;
    add_overload!(env, fn cidr_text: (Cidr) -> CelString, name = "string")?;
    add_member_overload!(env, fn contains_ip: (Cidr, Ip) -> CelBool, name = "containsIP")?;
    add_member_overload!(env, fn contains_ip_text: (Cidr, CelString) -> Result<CelBool>, name = "containsIP")?;
    add_member_overload!(env, fn contains_cidr: (Cidr, Cidr) -> CelBool, name = "containsCIDR")?;
    add_member_overload!(env, fn contains_cidr_text: (Cidr, CelString) -> Result<CelBool>, name = "containsCIDR")?;
    add_member_overload!(env, fn ip_of: (Cidr) -> Ip, name = "ip")?;
    add_member_overload!(env, fn masked: (Cidr) -> Cidr, name = "masked")?;
    add_member_overload!(env, fn prefix_length: (Cidr) -> CelInt, name = "prefixLength")?;
    Ok(())
}

/// No zones, no leading zeros, no IPv4 dressed up as IPv6.
fn parse_ip(text: &str) -> Result<IpAddr, String> {
    match text.parse::<IpAddr>() {
        Ok(IpAddr::V6(v6)) if v6.to_ipv4_mapped().is_some() => {
            Err(format!("IPv4-mapped IPv6 address {text:?} is not allowed"))
        }
        Ok(ip) => Ok(ip),
        Err(_) if text.contains('%') => Err(format!("IP address {text:?} with zone value is not allowed")),
        Err(_) => Err(format!("IP Address {text:?} parse error during conversion from string")),
    }
}

fn width(ip: IpAddr) -> u8 {
    if ip.is_ipv4() { 32 } else { 128 }
}

fn parse_cidr(text: &str) -> Result<Cidr, String> {
    let wrong = || format!("network address parse error during conversion from string: {text:?}");
    let (ip, bits) = text.split_once('/').ok_or_else(wrong)?;
    let ip = parse_ip(ip)?;
    let plain = bits.bytes().all(|b| b.is_ascii_digit()) && (bits == "0" || !bits.starts_with('0'));
    let bits = bits.parse::<u8>().ok().filter(|bits| plain && *bits <= width(ip)).ok_or_else(wrong)?;
    Ok(Cidr { ip, bits })
}

fn ip(text: &CelString<'_>) -> Result<Ip, ExecutionError> {
    parse_ip(text.inner()).map(Ip).map_err(|e| failed("ip", e))
}

fn is_ip(text: &CelString<'_>) -> CelBool {
    CelBool::from(parse_ip(text.inner()).is_ok())
}

fn is_canonical(text: &CelString<'_>) -> Result<CelBool, ExecutionError> {
    let ip = parse_ip(text.inner()).map_err(|e| failed("ip.isCanonical", e))?;
    Ok(CelBool::from(ip.to_string() == text.inner()))
}

fn ip_text(this: &Ip) -> CelString<'static> {
    this.0.to_string().into()
}

fn family(this: &Ip) -> CelInt {
    CelInt::from(if this.0.is_ipv4() { 4 } else { 6 })
}

fn is_unspecified(this: &Ip) -> CelBool {
    CelBool::from(this.0.is_unspecified())
}

fn is_loopback(this: &Ip) -> CelBool {
    CelBool::from(this.0.is_loopback())
}

fn link_multicast(ip: IpAddr) -> bool {
    match ip {
        IpAddr::V4(v4) => v4.octets()[..3] == [224, 0, 0],
        IpAddr::V6(v6) => v6.segments()[0] & 0xff0f == 0xff02,
    }
}

fn link_unicast(ip: IpAddr) -> bool {
    match ip {
        IpAddr::V4(v4) => v4.is_link_local(),
        IpAddr::V6(v6) => v6.is_unicast_link_local(),
    }
}

fn is_link_multicast(this: &Ip) -> CelBool {
    CelBool::from(link_multicast(this.0))
}

fn is_link_unicast(this: &Ip) -> CelBool {
    CelBool::from(link_unicast(this.0))
}

fn is_global(this: &Ip) -> CelBool {
    let ip = this.0;
    let broadcast = matches!(ip, IpAddr::V4(v4) if v4.is_broadcast());
    let special = broadcast || ip.is_unspecified() || ip.is_loopback() || ip.is_multicast() || link_unicast(ip);
    CelBool::from(!special)
}

fn number(ip: IpAddr) -> u128 {
    match ip {
        IpAddr::V4(v4) => u128::from(v4.to_bits()),
        IpAddr::V6(v6) => v6.to_bits(),
    }
}

impl Cidr {
    fn contains(&self, ip: IpAddr) -> bool {
        let low = u32::from(width(self.ip) - self.bits);
        let network = |ip| number(ip).checked_shr(low).unwrap_or(0);
        ip.is_ipv4() == self.ip.is_ipv4() && network(ip) == network(self.ip)
    }

    fn contains_network(&self, other: &Cidr) -> bool {
        other.bits >= self.bits && self.contains(other.ip)
    }
}

fn cidr(text: &CelString<'_>) -> Result<Cidr, ExecutionError> {
    parse_cidr(text.inner()).map_err(|e| failed("cidr", e))
}

fn is_cidr(text: &CelString<'_>) -> CelBool {
    CelBool::from(parse_cidr(text.inner()).is_ok())
}

fn cidr_text(this: &Cidr) -> CelString<'static> {
    format!("{}/{}", this.ip, this.bits).into()
}

fn contains_ip(this: &Cidr, ip: &Ip) -> CelBool {
    CelBool::from(this.contains(ip.0))
}

fn contains_ip_text(this: &Cidr, text: &CelString<'_>) -> Result<CelBool, ExecutionError> {
    parse_ip(text.inner()).map(|ip| CelBool::from(this.contains(ip))).map_err(|e| failed("containsIP", e))
}

fn contains_cidr(this: &Cidr, other: &Cidr) -> CelBool {
    CelBool::from(this.contains_network(other))
}

fn contains_cidr_text(this: &Cidr, text: &CelString<'_>) -> Result<CelBool, ExecutionError> {
    let other = parse_cidr(text.inner()).map_err(|e| failed("containsCIDR", e))?;
    Ok(CelBool::from(this.contains_network(&other)))
}

fn ip_of(this: &Cidr) -> Ip {
    Ip(this.ip)
}

fn masked(this: &Cidr) -> Cidr {
    let low = u32::from(width(this.ip) - this.bits);
    let bits = number(this.ip).checked_shr(low).and_then(|n| n.checked_shl(low)).unwrap_or(0);
    let ip = match this.ip {
        IpAddr::V4(_) => IpAddr::V4((bits as u32).into()),
        IpAddr::V6(_) => IpAddr::V6(bits.into()),
    };
    Cidr { ip, bits: this.bits }
}

fn prefix_length(this: &Cidr) -> CelInt {
    CelInt::from(i64::from(this.bits))
}
