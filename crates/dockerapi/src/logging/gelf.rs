//! Graylog's extended log format 1.1: JSON, over UDP in chunks or over TCP with a zero byte at the end.

use std::io::Write;

use flate2::Compression;
use flate2::write::{GzEncoder, ZlibEncoder};
use rand::Rng;
use serde_json::{Map, Value, json};

use super::{Entry, Facts};

/// Bytes of a datagram, as Docker's library cuts them.
const CHUNK: usize = 1420;
/// The head of a chunk: two magic bytes, eight of the message's, its number, how many there are.
const HEAD: usize = 12;
/// More are not allowed.
const CHUNKS: usize = 128;

/// How a message is packed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Packing {
    /// For a stream.
    Stream,
    /// Plain.
    None,
    /// By gzip.
    Gzip,
    /// By zlib.
    Zlib,
}

impl Packing {
    /// By the name that the option has.
    pub fn parse(text: &str) -> Option<Packing> {
        match text {
            "none" => Some(Packing::None),
            "gzip" => Some(Packing::Gzip),
            "zlib" => Some(Packing::Zlib),
            _ => None,
        }
    }
}

fn document(facts: &Facts, entry: &Entry) -> Value {
    let mut fields: Map<String, Value> = facts.attributes.iter().map(|(k, v)| (format!("_{k}"), json!(v))).collect();
    let seconds = std::time::Duration::try_from(entry.time.duration_since(jiff::Timestamp::UNIX_EPOCH));
    let document = json!({
        "version": "1.1", "host": facts.host, "short_message": String::from_utf8_lossy(&entry.text),
        "timestamp": (seconds.unwrap_or_default().as_secs_f64() * 1000.0).round() / 1000.0,
        "level": if entry.stderr { 3 } else { 6 },
        "_container_id": facts.id, "_container_name": facts.name, "_image_id": facts.image_id, "_image_name": facts.image,
        "_command": facts.command, "_created": crate::face::stamp(facts.created_ms), "_tag": facts.tag,
    });
    if let Value::Object(own) = document {
        fields.extend(own);
    }
    Value::Object(fields)
}

/// One line, as the datagrams it takes.
pub fn encode(facts: &Facts, entry: &Entry, packing: Packing) -> Vec<Vec<u8>> {
    let mut plain = document(facts, entry).to_string().into_bytes();
    let packed = match packing {
        Packing::Stream => {
            plain.push(0);
            return vec![plain];
        }
        Packing::None => Ok(plain),
        Packing::Gzip => {
            let mut encoder = GzEncoder::new(Vec::new(), Compression::fast());
            encoder.write_all(&plain).and_then(|()| encoder.finish())
        }
        Packing::Zlib => {
            let mut encoder = ZlibEncoder::new(Vec::new(), Compression::fast());
            encoder.write_all(&plain).and_then(|()| encoder.finish())
        }
    };
    // Writing to memory does not fail.
    let packed = packed.unwrap_or_default();
    if packed.len() <= CHUNK {
        return vec![packed];
    }
    let id = rand::rng().random::<[u8; 8]>();
    let chunks: Vec<&[u8]> = packed.chunks(CHUNK - HEAD).take(CHUNKS).collect();
    let count = u8::try_from(chunks.len()).unwrap_or(u8::MAX);
    let numbered = chunks.iter().zip(0u8..);
    numbered.map(|(chunk, n)| [&[0x1e, 0x0f][..], &id, &[n, count], chunk].concat()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::logging::sample;
    use std::io::Read;

    #[test]
    fn a_message_says_what_docker_says() {
        let (facts, entry) = sample();
        let [plain] = &encode(&facts, &entry, Packing::None)[..] else { panic!("one packet") };
        let said: Value = serde_json::from_slice(plain).unwrap();
        assert_eq!(said["short_message"], "a line");
        assert_eq!((&said["level"], &said["timestamp"]), (&json!(6), &json!(1_704_164_645.0)));
        assert_eq!((&said["_container_name"], &said["_tier"]), (&json!("web"), &json!("front")));
        let [zipped] = &encode(&facts, &entry, Packing::Gzip)[..] else { panic!("one packet") };
        let mut back = Vec::new();
        flate2::read::GzDecoder::new(&zipped[..]).read_to_end(&mut back).unwrap();
        assert_eq!(&back, plain);
        assert_eq!(encode(&facts, &entry, Packing::Stream)[0].last(), Some(&0));
    }

    #[test]
    fn a_long_message_comes_in_chunks() {
        let (facts, mut entry) = sample();
        entry.text = (0..16_000u32).map(|i| b'a' + (i * i % 26) as u8).collect();
        let chunks = encode(&facts, &entry, Packing::None);
        assert!(chunks.len() > 10 && chunks.iter().all(|c| c.len() <= CHUNK));
        let joined: Vec<u8> = chunks.iter().flat_map(|c| c[HEAD..].to_vec()).collect();
        assert_eq!(serde_json::from_slice::<Value>(&joined).unwrap()["short_message"].as_str().unwrap().len(), 16_000);
        assert_eq!((chunks[0][10], usize::from(chunks[0][11])), (0, chunks.len()));
    }
}
