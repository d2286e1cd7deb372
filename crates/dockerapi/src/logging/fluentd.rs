//! Fluentd's forward protocol, version 1: `[tag, time, record, option]` in MessagePack, over a stream.

use std::collections::BTreeMap;

use base64::Engine;
use rand::Rng;

use super::{Entry, Facts};

fn text(out: &mut Vec<u8>, bytes: &[u8]) {
    match bytes.len() {
        n @ 0..=31 => out.push(0xa0 | n as u8),
        n @ 32..=0xff => out.extend_from_slice(&[0xd9, n as u8]),
        n @ 0x100..=0xffff => {
            out.push(0xda);
            out.extend_from_slice(&(n as u16).to_be_bytes());
        }
        n => {
            out.push(0xdb);
            out.extend_from_slice(&u32::try_from(n).unwrap_or(u32::MAX).to_be_bytes());
        }
    }
    out.extend_from_slice(bytes);
}

fn map(out: &mut Vec<u8>, fields: &BTreeMap<&str, Vec<u8>>) {
    match fields.len() {
        n @ 0..=15 => out.push(0x80 | n as u8),
        n => {
            out.push(0xde);
            out.extend_from_slice(&u16::try_from(n).unwrap_or(u16::MAX).to_be_bytes());
        }
    }
    for (key, value) in fields {
        text(out, key.as_bytes());
        text(out, value);
    }
}

/// A name for a message that is to be acknowledged: short enough for one form of text in all encoders.
pub fn chunk() -> String {
    base64::engine::general_purpose::STANDARD.encode(rand::rng().random::<[u8; 16]>())
}

/// What comes back for it.
pub fn acknowledgement(chunk: &str) -> Vec<u8> {
    let mut out = Vec::new();
    map(&mut out, &BTreeMap::from([("ack", chunk.as_bytes().to_vec())]));
    out
}

/// One line.
pub fn encode(facts: &Facts, entry: &Entry, sub_second: bool, chunk: Option<&str>) -> Vec<u8> {
    let mut record: BTreeMap<&str, Vec<u8>> =
        facts.attributes.iter().map(|(k, v)| (k.as_str(), v.as_bytes().to_vec())).collect();
    record.insert("container_id", facts.id.as_bytes().to_vec());
    record.insert("container_name", format!("/{}", facts.name).into_bytes());
    record.insert("source", if entry.stderr { "stderr" } else { "stdout" }.into());
    record.insert("log", entry.text.clone());
    if let Some(part) = &entry.part {
        record.insert("partial_message", b"true".to_vec());
        record.insert("partial_id", part.id.as_bytes().to_vec());
        record.insert("partial_ordinal", part.ordinal.to_string().into_bytes());
        record.insert("partial_last", part.last.to_string().into_bytes());
    }
    let mut out = Vec::with_capacity(entry.text.len() + 512);
    out.push(if chunk.is_some() { 0x94 } else { 0x93 });
    text(&mut out, facts.tag.as_bytes());
    // Until the year 2106: the protocol has no more bits.
    let seconds = u32::try_from(entry.time.as_second()).unwrap_or(u32::MAX).to_be_bytes();
    if sub_second {
        // EventTime: extension 0 of eight bytes.
        out.extend_from_slice(&[0xd7, 0x00]);
        out.extend_from_slice(&seconds);
        out.extend_from_slice(&u32::try_from(entry.time.subsec_nanosecond()).unwrap_or(0).to_be_bytes());
    } else {
        out.push(0xce);
        out.extend_from_slice(&seconds);
    }
    map(&mut out, &record);
    if let Some(chunk) = chunk {
        map(&mut out, &BTreeMap::from([("chunk", chunk.as_bytes().to_vec())]));
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::logging::sample;

    #[test]
    fn a_line_is_a_tag_a_time_and_a_record() {
        let (mut facts, entry) = sample();
        facts.tag = "t".into();
        facts.attributes.clear();
        let said = encode(&facts, &entry, false, None);
        let time = 1_704_164_645_u32.to_be_bytes();
        let head = [&[0x93, 0xa1, b't', 0xce][..], &time, &[0x84, 0xac]].concat();
        assert_eq!(said[..head.len()], head[..]);
        assert!(String::from_utf8_lossy(&said).contains("log\u{fffd}a line"), "a text of six bytes");
        let said = encode(&facts, &entry, true, Some("c"));
        let head = [&[0x94, 0xa1, b't', 0xd7, 0][..], &time, &[0, 0, 0, 6, 0x84]].concat();
        assert_eq!(said[..head.len()], head[..]);
        assert!(said.ends_with(b"\x81\xa5chunk\xa1c"));
        assert_eq!(acknowledgement("c"), b"\x81\xa3ack\xa1c");
        assert_eq!(chunk().len(), 24);
    }

    #[test]
    fn long_texts_have_longer_heads() {
        for (length, head) in
            [(31, &[0xbf_u8][..]), (32, &[0xd9, 32]), (300, &[0xda, 1, 44]), (70_000, &[0xdb, 0, 1, 0x11, 0x70])]
        {
            let mut out = Vec::new();
            text(&mut out, &vec![b'x'; length]);
            assert_eq!(&out[..head.len()], head);
            assert_eq!(out.len(), head.len() + length);
        }
    }
}
