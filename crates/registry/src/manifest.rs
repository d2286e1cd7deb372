//! What a manifest says that the registry must know: what it needs, and what it is about.

use image::Digest;
use serde::Deserialize;
use serde_json::{Map, Value, json};

use crate::error::Refusal;

const OCI_MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
const OCI_INDEX: &str = "application/vnd.oci.image.index.v1+json";
const DOCKER_MANIFEST: &str = "application/vnd.docker.distribution.manifest.v2+json";
const DOCKER_LIST: &str = "application/vnd.docker.distribution.manifest.list.v2+json";
/// Most references of one manifest.
const REFERENCES: usize = 10_000;

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Document {
    schema_version: u32,
    media_type: Option<String>,
    artifact_type: Option<String>,
    config: Option<Descriptor>,
    #[serde(default)]
    layers: Vec<Descriptor>,
    #[serde(default)]
    manifests: Vec<Descriptor>,
    subject: Option<Descriptor>,
    #[serde(default)]
    annotations: Map<String, Value>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Descriptor {
    media_type: String,
    digest: String,
    #[serde(default)]
    urls: Vec<String>,
}

/// A manifest as the registry sees it.
#[derive(Debug)]
pub(crate) struct Manifest {
    pub media_type: String,
    /// Blobs that must be there.
    pub blobs: Vec<Digest>,
    /// Manifests that must be there.
    pub manifests: Vec<Digest>,
    /// What it refers to; that need not be there.
    pub subject: Option<Digest>,
    artifact_type: String,
    annotations: Map<String, Value>,
}

impl Manifest {
    /// Reads a document of that content type (without parameters; empty when the client did not say).
    ///
    /// # Errors
    /// It is no manifest, or not of that type.
    pub fn read(bytes: &[u8], content_type: &str) -> Result<Self, Refusal> {
        let document: Document =
            serde_json::from_slice(bytes).map_err(|e| Refusal::manifest_invalid(format!("manifest invalid: {e}")))?;
        if document.schema_version != 2 {
            return Err(Refusal::manifest_invalid("manifest invalid: schemaVersion must be 2"));
        }
        let index = document.config.is_none();
        let said = document.media_type.clone().filter(|m| !m.is_empty());
        let media_type = match (content_type, said) {
            ("" | "application/json" | "application/octet-stream", Some(said)) => said,
            ("" | "application/json" | "application/octet-stream", None) => {
                (if index { OCI_INDEX } else { OCI_MANIFEST }).to_owned()
            }
            (given, Some(said)) if given != said => {
                let message = format!("manifest invalid: mediaType is {said}, and the Content-Type {given}");
                return Err(Refusal::manifest_invalid(message));
            }
            (given, _) => given.to_owned(),
        };
        let fits = match media_type.as_str() {
            OCI_MANIFEST | DOCKER_MANIFEST => !index,
            OCI_INDEX | DOCKER_LIST => index && document.layers.is_empty(),
            _ => return Err(Refusal::manifest_invalid(format!("manifest invalid: {media_type} is not kept here"))),
        };
        if !fits {
            return Err(Refusal::manifest_invalid(format!("manifest invalid: not what {media_type} is made of")));
        }
        if document.layers.len() + document.manifests.len() > REFERENCES {
            return Err(Refusal::manifest_invalid(format!("manifest invalid: more than {REFERENCES} references")));
        }
        // Layers that are elsewhere need not be here (image-spec, "urls").
        let here = document.config.iter().chain(document.layers.iter().filter(|layer| layer.urls.is_empty()));
        let digests = |descriptor: &Descriptor| crate::route::digest(&descriptor.digest);
        Ok(Manifest {
            blobs: here.map(digests).collect::<Result<_, _>>()?,
            manifests: document.manifests.iter().map(digests).collect::<Result<_, _>>()?,
            subject: document.subject.as_ref().map(digests).transpose()?,
            // Of an image, the type of its configuration stands in (distribution-spec, "Listing Referrers").
            artifact_type: document
                .artifact_type
                .filter(|t| !t.is_empty())
                .or(document.config.map(|c| c.media_type))
                .unwrap_or_default(),
            annotations: document.annotations,
            media_type,
        })
    }

    /// How an index of referrers lists it.
    pub fn descriptor(&self, digest: &Digest, size: usize) -> Value {
        let mut out = json!({"mediaType": self.media_type, "digest": digest.as_str(), "size": size});
        if !self.artifact_type.is_empty() {
            out["artifactType"] = self.artifact_type.as_str().into();
        }
        if !self.annotations.is_empty() {
            out["annotations"] = Value::Object(self.annotations.clone());
        }
        out
    }
}

/// The index of what refers to a manifest; `artifact_type` leaves out others.
pub(crate) fn referrers(descriptors: Vec<Value>, artifact_type: Option<&str>) -> Value {
    let keep = |d: &Value| artifact_type.is_none_or(|wanted| d["artifactType"] == wanted);
    let manifests: Vec<Value> = descriptors.into_iter().filter(keep).collect();
    json!({"schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": manifests})
}

/// The descriptors of an index of referrers; none of what is no index.
pub(crate) fn listed(index: &[u8]) -> Vec<Value> {
    let read = serde_json::from_slice::<Value>(index).ok();
    read.and_then(|mut index| index["manifests"].as_array_mut().map(std::mem::take)).unwrap_or_default()
}

/// The type of an index of referrers.
pub(crate) const REFERRERS_TYPE: &str = OCI_INDEX;

#[cfg(test)]
mod tests {
    use super::*;

    fn descriptor(of: &str) -> Value {
        json!({"mediaType": "application/x", "digest": Digest::of(of.as_bytes()).as_str(), "size": of.len()})
    }

    #[test]
    fn an_image_needs_its_config_and_the_layers_that_are_not_elsewhere() {
        let mut away = descriptor("away");
        away["urls"] = json!(["https://example.com/l"]);
        let image = json!({"schemaVersion": 2, "mediaType": OCI_MANIFEST, "config": descriptor("c"),
            "layers": [descriptor("l"), away], "subject": descriptor("s"), "annotations": {"a": "b"}});
        let read = Manifest::read(image.to_string().as_bytes(), OCI_MANIFEST).unwrap();
        assert_eq!(read.blobs, [Digest::of(b"c"), Digest::of(b"l")]);
        assert_eq!((read.manifests.len(), read.subject.clone()), (0, Some(Digest::of(b"s"))));
        let listed = read.descriptor(&Digest::of(b"m"), 7);
        assert_eq!((&listed["artifactType"], &listed["annotations"]["a"]), (&json!("application/x"), &json!("b")));
        let both = vec![listed, json!({"artifactType": "other"})];
        assert_eq!(referrers(both.clone(), Some("other"))["manifests"].as_array().unwrap().len(), 1);
        assert_eq!(referrers(both, None)["manifests"].as_array().unwrap().len(), 2);
    }

    #[test]
    fn what_is_no_manifest_is_refused() {
        let index = json!({"schemaVersion": 2, "manifests": [descriptor("m")]});
        for (document, content_type) in [
            (json!({"schemaVersion": 1}), ""),
            (json!({"schemaVersion": 2, "config": descriptor("c"), "mediaType": OCI_INDEX}), ""),
            (index.clone(), OCI_MANIFEST),
            (index.clone(), "text/plain"),
            (json!({"schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": []}), DOCKER_LIST),
            (json!([]), OCI_INDEX),
            (json!({"schemaVersion": 2, "manifests": [{"mediaType": "x", "digest": "sha256:1"}]}), OCI_INDEX),
        ] {
            assert!(
                Manifest::read(document.to_string().as_bytes(), content_type).is_err(),
                "{document} {content_type}"
            );
        }
        let read = Manifest::read(index.to_string().as_bytes(), "application/json").unwrap();
        assert_eq!((read.media_type.as_str(), read.manifests), (OCI_INDEX, vec![Digest::of(b"m")]));
    }
}
