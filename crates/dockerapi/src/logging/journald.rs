//! journald's native protocol (systemd, JOURNAL_NATIVE_PROTOCOL): fields in one datagram, named as Docker names them.

use super::{Entry, Facts};

/// Priorities of syslog(3).
const INFO: &str = "6";
const ERR: &str = "3";

fn field(out: &mut Vec<u8>, name: &str, value: &[u8]) {
    out.extend_from_slice(name.as_bytes());
    if value.contains(&b'\n') {
        // Its length stands before it: 64 bits, little-endian.
        out.push(b'\n');
        out.extend_from_slice(&(value.len() as u64).to_le_bytes());
    } else {
        out.push(b'=');
    }
    out.extend_from_slice(value);
    out.push(b'\n');
}

/// A name that journald takes: capitals, digits and underscores, beginning with a letter.
fn name(text: &str) -> String {
    let mapped = text.chars().map(|c| if c.is_ascii_alphanumeric() { c.to_ascii_uppercase() } else { '_' });
    let name: String = mapped.collect();
    name.trim_start_matches(|c: char| !c.is_ascii_uppercase()).chars().take(64).collect()
}

/// One line.
pub fn encode(facts: &Facts, entry: &Entry) -> Vec<u8> {
    let mut out = Vec::with_capacity(entry.text.len() + 512);
    for (key, value) in &facts.attributes {
        let key = name(key);
        // Those of the driver itself are not for others to say.
        if !key.is_empty() && !key.starts_with("CONTAINER_") && !matches!(key.as_str(), "MESSAGE" | "PRIORITY") {
            field(&mut out, &key, value.as_bytes());
        }
    }
    field(&mut out, "MESSAGE", &entry.text);
    field(&mut out, "PRIORITY", if entry.stderr { ERR } else { INFO }.as_bytes());
    let time = format!("{:.9}", entry.time);
    for (name, value) in [
        ("CONTAINER_ID", facts.short_id()),
        ("CONTAINER_ID_FULL", &facts.id),
        ("CONTAINER_NAME", &facts.name),
        ("CONTAINER_TAG", &facts.tag),
        ("IMAGE_NAME", &facts.image),
        ("SYSLOG_IDENTIFIER", &facts.tag),
        ("SYSLOG_TIMESTAMP", &time),
    ] {
        field(&mut out, name, value.as_bytes());
    }
    if let Some(part) = &entry.part {
        field(&mut out, "CONTAINER_PARTIAL_ID", part.id.as_bytes());
        field(&mut out, "CONTAINER_PARTIAL_ORDINAL", part.ordinal.to_string().as_bytes());
        field(&mut out, "CONTAINER_PARTIAL_LAST", part.last.to_string().as_bytes());
        if !part.last {
            field(&mut out, "CONTAINER_PARTIAL_MESSAGE", b"true");
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::logging::{Part, sample};

    #[test]
    fn fields_are_named_as_docker_names_them() {
        let (mut facts, mut entry) = sample();
        facts.attributes.insert("container_id".into(), "forged".into());
        facts.attributes.insert("_9.odd-name".into(), "x".into());
        let said = String::from_utf8(encode(&facts, &entry)).unwrap();
        for line in [
            "MESSAGE=a line",
            "PRIORITY=6",
            "CONTAINER_ID=0123456789ab",
            "CONTAINER_ID_FULL=0123456789abcdef",
            "CONTAINER_NAME=web",
            "CONTAINER_TAG=0123456789ab",
            "IMAGE_NAME=shop:1",
            "SYSLOG_TIMESTAMP=2024-01-02T03:04:05.000000006Z",
            "TIER=front",
            "ODD_NAME=x",
        ] {
            assert!(said.lines().any(|l| l == line), "{line} in {said}");
        }
        assert!(!said.contains("forged"));
        entry.part = Some(Part { id: "p".into(), ordinal: 2, last: false });
        entry.text = b"two\nlines".to_vec();
        entry.stderr = true;
        let said = encode(&facts, &entry);
        let framed = b"MESSAGE\n\x09\0\0\0\0\0\0\0two\nlines\nPRIORITY=3\n";
        assert!(said.windows(framed.len()).any(|w| w == framed));
        assert!(String::from_utf8_lossy(&said).contains("CONTAINER_PARTIAL_MESSAGE=true"));
    }
}
