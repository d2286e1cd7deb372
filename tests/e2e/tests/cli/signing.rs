//! Signatures of images, where cosign looks for them and as openssl reads them.

use std::process::Command;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use base64::Engine as _;
use e2e::{IMAGE, Instance, command};
use serde_json::Value;

use crate::registry::{Registry, skopeo};

const LIMIT: Duration = Duration::from_secs(60);

fn openssl(args: &[&str]) -> Result<String> {
    command::run(Command::new("openssl").args(args), None, LIMIT)?.ok()
}

/// Of `Digest: sha256:…`.
fn digest_of(said: &str) -> Result<&str> {
    said.lines().find_map(|line| line.strip_prefix("Digest: ")).with_context(|| format!("no digest in {said:?}"))
}

pub fn a_signature_is_where_cosign_looks_and_openssl_finds_it_good() -> Result<()> {
    let instance = Instance::builder("signing").prepare()?;
    let dir = instance.dir().to_path_buf();
    let path = |name: &str| dir.join(name).display().to_string();
    let image = |args: &[&str], typed: &str| {
        instance.windlass_with(&[&["image"], args].concat(), Some(typed.as_bytes()), LIMIT)
    };
    let registry = Registry::start(&dir.join("registry"), &[])?;
    let name = format!("{}/team/box:1", registry.host());
    image(&["tag", IMAGE, &name], "")?.ok()?;
    image(&["push", &name], "")?.ok()?;

    let (prefix, other) = (path("cosign"), path("other"));
    for prefix in [&prefix, &other] {
        image(&["generate-key-pair", "--output-key-prefix", prefix], "s3cret\n")?.ok()?;
    }
    ensure!(image(&["generate-key-pair", "--output-key-prefix", &prefix], "x\n")?.code() == 1, "a key was overwritten");
    let (key, public, wrong) = (path("cosign.key"), path("cosign.pub"), path("other.pub"));
    let sealed = std::fs::read_to_string(&key)?;
    ensure!(sealed.starts_with("-----BEGIN ENCRYPTED SIGSTORE PRIVATE KEY-----\n"), "{sealed}");

    let verify = |keys: &[&str]| {
        let keys: Vec<&str> = keys.iter().flat_map(|key| ["--key", key]).collect();
        image(&[&["verify", name.as_str()], &keys[..]].concat(), "")
    };
    let unsigned = verify(&[&public])?;
    ensure!(unsigned.code() == 1 && unsigned.stderr.contains("no signatures found"), "{unsigned:?}");
    let refused = image(&["sign", &name, "--key", &key], "wrong\n")?;
    ensure!(refused.code() == 1 && refused.stderr.contains("password"), "{refused:?}");
    let signed = image(&["sign", &name, "--key", &key], "s3cret\n")?.ok()?;
    let digest = digest_of(&signed)?.to_owned();
    let payloads: Value = serde_json::from_str(&verify(&[&wrong, &public])?.ok()?)?;
    ensure!(payloads[0]["critical"]["image"]["docker-manifest-digest"] == digest.as_str(), "{payloads}");
    ensure!(payloads[0]["critical"]["type"] == "cosign container image signature", "{payloads}");
    let unknown = verify(&[&wrong])?;
    ensure!(unknown.code() == 1 && unknown.stderr.contains("no signature is of a key"), "{unknown:?}");

    // Where cosign looks for it, and as openssl reads it.
    let tag = digest.replace(':', "-") + ".sig";
    let at = format!("docker://{}/team/box:{tag}", registry.host());
    let kept = dir.join("kept");
    skopeo(&["copy", "--src-tls-verify=false", &at, &format!("dir:{}", kept.display())])?.ok()?;
    let manifest: Value = serde_json::from_slice(&std::fs::read(kept.join("manifest.json"))?)?;
    let layer = &manifest["layers"][0];
    ensure!(layer["mediaType"] == "application/vnd.dev.cosign.simplesigning.v1+json", "{manifest}");
    let text = layer["annotations"]["dev.cosignproject.cosign/signature"].as_str().context("no signature")?;
    let signature = dir.join("signature");
    std::fs::write(&signature, base64::engine::general_purpose::STANDARD.decode(text)?)?;
    let payload = kept.join(layer["digest"].as_str().unwrap_or_default().trim_start_matches("sha256:"));
    let [signature, payload] = [&signature, &payload].map(|p| p.display().to_string());
    openssl(&["dgst", "-sha256", "-verify", &public, "-signature", &signature, &payload])?;

    // Signing again with the same key adds nothing, with another one more.
    image(&["sign", &name, "--key", &key], "s3cret\n")?.ok()?;
    image(&["sign", &name, "--key", &path("other.key")], "s3cret\n")?.ok()?;
    let both: Value = serde_json::from_str(&skopeo(&["inspect", "--raw", "--tls-verify=false", &at])?.ok()?)?;
    ensure!(both["layers"].as_array().is_some_and(|layers| layers.len() == 2), "{both}");
    verify(&[&wrong])?.ok()?;

    // A key of openssl's signs too.
    let plain = path("plain.key");
    openssl(&["genpkey", "-algorithm", "EC", "-pkeyopt", "ec_paramgen_curve:P-256", "-out", &plain])?;
    openssl(&["pkey", "-in", &plain, "-pubout", "-out", &path("plain.pub")])?;
    image(&["sign", &name, "--key", &plain], "")?.ok()?;
    verify(&[&path("plain.pub")])?.ok()?;
    instance.down()
}
