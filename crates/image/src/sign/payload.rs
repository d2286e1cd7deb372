//! What is signed: a document that names the digest (containers/image, "Simple signing").

use serde::Deserialize;
use serde_json::json;

use crate::digest::Digest;
use crate::reference::Reference;

const TYPE: &str = "cosign container image signature";

#[derive(Deserialize)]
struct Payload {
    critical: Critical,
}

#[derive(Deserialize)]
struct Critical {
    image: Image,
    #[serde(rename = "type")]
    kind: String,
}

#[derive(Deserialize)]
struct Image {
    #[serde(rename = "docker-manifest-digest")]
    digest: String,
}

/// The payload for a digest of a repository.
pub(super) fn of(name: &Reference, digest: &Digest) -> String {
    // Who reads names of Docker Hub in their long form calls its registry so.
    let repository = match name.registry() {
        crate::reference::DEFAULT_REGISTRY => format!("index.docker.io/{}", name.path()),
        _ => name.repository(),
    };
    json!({"critical": {"identity": {"docker-reference": repository}, "image": {"docker-manifest-digest": digest.as_str()},
        "type": TYPE}, "optional": null})
    .to_string()
}

/// Whether a payload, whose signature is good, is about the digest; its text, or why it is not.
pub(super) fn check(bytes: &[u8], digest: &Digest) -> Result<String, String> {
    let payload: Payload =
        serde_json::from_slice(bytes).map_err(|e| format!("what was signed is no payload of cosign: {e}"))?;
    if payload.critical.kind != TYPE {
        return Err(format!("what was signed is of the type {:?}", payload.critical.kind));
    }
    if payload.critical.image.digest != digest.as_str() {
        return Err(format!("what was signed is the image {}", payload.critical.image.digest));
    }
    Ok(String::from_utf8_lossy(bytes).into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_payload_is_about_one_digest() {
        let (one, other) = (Digest::of(b"1"), Digest::of(b"2"));
        let text = of(&"reg.example/a:1".parse().unwrap(), &one);
        assert_eq!(
            text,
            format!(
                r#"{{"critical":{{"identity":{{"docker-reference":"reg.example/a"}},"image":{{"docker-manifest-digest":"{one}"}},"type":"cosign container image signature"}},"optional":null}}"#
            )
        );
        assert!(of(&"busybox".parse().unwrap(), &one).contains("\"index.docker.io/library/busybox\""));
        assert_eq!(check(text.as_bytes(), &one).unwrap(), text);
        assert!(check(text.as_bytes(), &other).unwrap_err().contains(one.as_str()));
        assert!(check(text.replace("cosign container", "other").as_bytes(), &one).is_err());
        assert!(check(b"{}", &one).is_err());
    }
}
