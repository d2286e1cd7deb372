//! Names and labels that Kubernetes takes.

/// Label of every object: the workload's name (a recommended label of Kubernetes).
pub const NAME: &str = "app.kubernetes.io/name";
/// Label of every object: the project, stack or application that the workload is part of.
pub const PROJECT: &str = "app.kubernetes.io/part-of";

/// The longest DNS label (RFC 1123).
const LONGEST: usize = 63;

/// A name as a DNS label (RFC 1123): lower case, every other character a dash. What had to be changed gets the name's checksum at its
/// end when it was cut, so that two long names stay two.
pub fn name(text: &str) -> String {
    let plain = |c: char| match c.to_ascii_lowercase() {
        c @ ('a'..='z' | '0'..='9') => c,
        _ => '-',
    };
    let mapped: String = text.chars().map(plain).collect();
    let trimmed = mapped.trim_matches('-');
    if trimmed.is_empty() {
        return format!("x{:08x}", checksum(text));
    }
    if trimmed.len() <= LONGEST {
        return trimmed.to_owned();
    }
    format!("{}-{:08x}", trimmed[..LONGEST - 9].trim_end_matches('-'), checksum(text))
}

/// A text as the value of a label: what is not allowed there is a dash, 63 characters at most.
pub fn label_value(text: &str) -> String {
    let plain = |c: char| if c.is_ascii_alphanumeric() || "-_.".contains(c) { c } else { '-' };
    let mapped: String = text.chars().take(LONGEST).map(plain).collect();
    mapped.trim_matches(|c: char| !c.is_ascii_alphanumeric()).to_owned()
}

/// FNV-1a of 32 bits: the same on every machine and in every build.
pub fn checksum(text: &str) -> u32 {
    text.bytes().fold(0x811c_9dc5, |sum, byte| (sum ^ u32::from(byte)).wrapping_mul(0x0100_0193))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_dns_labels() {
        assert_eq!(name("orders_api"), "orders-api");
        assert_eq!(name("/Web.1/"), "web-1");
        assert_eq!(name("ä"), format!("x{:08x}", checksum("ä")));
        let (a, b) = (name(&"a".repeat(70)), name(&"a".repeat(71)));
        assert!(a.len() == 63 && b.len() == 63 && a != b, "{a} {b}");
        assert_eq!(label_value("a b/c!"), "a-b-c");
        assert_eq!(label_value("***"), "");
    }
}
