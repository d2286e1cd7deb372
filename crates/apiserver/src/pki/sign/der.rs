//! The little of DER (X.690) that a certificate is made of.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use jiff::Timestamp;

/// A value with its tag and length.
pub fn tlv(tag: u8, content: &[u8]) -> Vec<u8> {
    let mut out = vec![tag];
    match content.len() {
        short @ 0..=0x7f => out.push(short as u8),
        long => {
            let bytes = long.to_be_bytes();
            let used: Vec<u8> = bytes.into_iter().skip_while(|&b| b == 0).collect();
            out.push(0x80 | used.len() as u8);
            out.extend(used);
        }
    }
    out.extend_from_slice(content);
    out
}

/// A bit string that leaves out so many bits at its end.
pub fn bits(unused: u8, bytes: &[u8]) -> Vec<u8> {
    tlv(0x03, &[&[unused], bytes].concat())
}

/// A key usage, without the zero bits at its end, as DER wants named bits.
pub fn key_usage(named: u16) -> Vec<u8> {
    let bytes = named.to_be_bytes();
    let used = if bytes[1] == 0 { &bytes[..1] } else { &bytes[..] };
    let unused = used.last().map_or(0, |b| b.trailing_zeros() as u8);
    bits(unused, used)
}

/// A positive serial number.
pub fn serial(random: &[u8; 16]) -> Vec<u8> {
    let mut bytes = *random;
    // Neither negative nor beginning with a zero byte.
    bytes[0] = bytes[0] & 0x7f | 0x40;
    tlv(0x02, &bytes)
}

/// A time, in seconds since 1970: two digits of the year until 2049 (RFC 5280, 4.1.2.5).
pub fn time(second: i64) -> Vec<u8> {
    let at = Timestamp::from_second(second).unwrap_or(Timestamp::MAX).to_zoned(jiff::tz::TimeZone::UTC);
    if at.year() < 2050 {
        tlv(0x17, at.strftime("%y%m%d%H%M%SZ").to_string().as_bytes())
    } else {
        tlv(0x18, at.strftime("%Y%m%d%H%M%SZ").to_string().as_bytes())
    }
}

/// An extension of that object identifier.
pub fn extension(oid: &[u8], critical: bool, value: &[u8]) -> Vec<u8> {
    let critical = if critical { tlv(0x01, &[0xff]) } else { Vec::new() };
    tlv(0x30, &[tlv(0x06, oid), critical, tlv(0x04, value)].concat())
}

/// The identifier of a signature algorithm.
pub fn algorithm(of: &rcgen::SignatureAlgorithm) -> Option<Vec<u8>> {
    const ECDSA: [u8; 7] = [0x2a, 0x86, 0x48, 0xce, 0x3d, 0x04, 0x03];
    let ecdsa = |last: u8| tlv(0x30, &tlv(0x06, &[&ECDSA[..], &[last]].concat()));
    if *of == rcgen::PKCS_ECDSA_P256_SHA256 {
        Some(ecdsa(2))
    } else if *of == rcgen::PKCS_ECDSA_P384_SHA384 {
        Some(ecdsa(3))
    } else if *of == rcgen::PKCS_RSA_SHA256 {
        let oid = tlv(0x06, &[0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 0x01, 0x01, 0x0b]);
        Some(tlv(0x30, &[oid, vec![0x05, 0x00]].concat()))
    } else {
        None
    }
}

/// The text form (RFC 7468).
pub fn pem(label: &str, der: &[u8]) -> String {
    let text = STANDARD.encode(der);
    let mut out = format!("-----BEGIN {label}-----\n");
    for line in text.as_bytes().chunks(64) {
        out.push_str(&String::from_utf8_lossy(line));
        out.push('\n');
    }
    out.push_str(&format!("-----END {label}-----\n"));
    out
}
