use rcgen::{CertificateParams, DistinguishedName, DnType, KeyPair};

use super::*;

fn request(name: &str, organization: &str, dns: &[&str]) -> String {
    let key = KeyPair::generate().unwrap();
    let names: Vec<String> = dns.iter().map(|&s| s.to_owned()).collect();
    let mut params = CertificateParams::new(names).unwrap();
    params.distinguished_name = DistinguishedName::new();
    params.distinguished_name.push(DnType::CommonName, name);
    params.distinguished_name.push(DnType::OrganizationName, organization);
    params.serialize_request(&key).unwrap().pem().unwrap()
}

fn pki() -> (tempfile::TempDir, Pki) {
    let dir = tempfile::tempdir().unwrap();
    let pki = super::super::ensure(&dir.path().join("pki"), &[], &[]).unwrap();
    (dir, pki)
}

fn sign(pki: &Pki, pem: &str, signer: &str, usages: &[&str], seconds: Option<i64>) -> Result<String, SignError> {
    let usages: Vec<String> = usages.iter().map(|&s| s.to_owned()).collect();
    pki.sign(&SigningRequest { pem: pem.as_bytes(), signer, usages: &usages, seconds }, Timestamp::now())
}

#[test]
fn a_client_gets_what_it_asked_for_signed_by_the_authority() {
    let (_dir, pki) = pki();
    let pem = request("ann", "devs", &[]);
    let usages = ["client auth", "digital signature"];
    let signed = sign(&pki, &pem, CLIENT, &usages, Some(3600)).unwrap();
    let der = CertificateDer::from_pem_slice(signed.as_bytes()).unwrap();
    let (_, cert) = x509_parser::parse_x509_certificate(&der).unwrap();
    let ca = pki.ca_der().unwrap();
    let (_, ca) = x509_parser::parse_x509_certificate(&ca).unwrap();
    cert.verify_signature(Some(ca.public_key())).unwrap();
    let life = cert.validity().not_after.timestamp() - Timestamp::now().as_second();
    assert!((3590..=3600).contains(&life), "{life}");
    assert!(cert.key_usage().unwrap().unwrap().value.digital_signature());
    assert!(cert.extended_key_usage().unwrap().unwrap().value.client_auth);
    assert!(!cert.basic_constraints().unwrap().unwrap().value.ca);
    let user = crate::authn::user_of_certificate(&der).unwrap();
    assert_eq!((user.name.as_str(), user.in_group("devs")), ("ann", true));
    // What TLS makes of it.
    let mut roots = rustls::RootCertStore::empty();
    roots.add(pki.ca_der().unwrap()).unwrap();
    let provider = std::sync::Arc::new(rustls::crypto::ring::default_provider());
    let verifier = rustls::server::WebPkiClientVerifier::builder_with_provider(std::sync::Arc::new(roots), provider)
        .build()
        .unwrap();
    verifier.verify_client_cert(&der, &[], rustls_pki_types::UnixTime::now()).unwrap();
}

#[test]
fn each_signer_has_its_rules() {
    let (_dir, pki) = pki();
    let client = request("ann", "devs", &[]);
    let node = request("system:node:n1", "system:nodes", &[]);
    let serving = request("system:node:n1", "system:nodes", &["n1"]);
    let (auth, server) = (["client auth", "digital signature"], ["server auth", "digital signature"]);
    for (pem, signer, usages, want) in [
        (&client, CLIENT, auth, None),
        (&client, CLIENT, server, Some("invalid usage for client certificate: server auth")),
        (&client, KUBELET_CLIENT, auth, Some("subject organization is not system:nodes")),
        (&node, KUBELET_CLIENT, auth, None),
        (&serving, KUBELET_CLIENT, auth, Some("subject alternative names are not allowed")),
        (&node, KUBELET_SERVING, server, Some("DNS or IP subjectAltName is required")),
        (&serving, KUBELET_SERVING, server, None),
        (&client, LEGACY, server, None),
    ] {
        let outcome = sign(&pki, pem, signer, &usages, None).err().map(|e| e.to_string());
        assert_eq!(outcome.as_deref(), want, "{signer}");
    }
    assert_eq!(sign(&pki, &client, "example.com/x", &auth, None), Err(SignError::NotOurs("example.com/x".into())));
}

#[test]
fn damaged_requests_are_refused() {
    let pem = request("ann", "devs", &[]);
    assert_eq!(inspect(pem.as_bytes()).unwrap().organizations, ["devs"]);
    assert!(inspect(b"nonsense").is_err());
    let mut der = rustls_pki_types::CertificateSigningRequestDer::from_pem_slice(pem.as_bytes()).unwrap().to_vec();
    let at = der.windows(3).position(|w| w == b"ann").unwrap();
    der[at] = b'b';
    let forged = der::pem("CERTIFICATE REQUEST", &der);
    assert!(inspect(forged.as_bytes()).unwrap_err().contains("signature"));
}

#[test]
fn der_lengths_and_bits_are_as_short_as_can_be() {
    assert_eq!(der::tlv(0x30, &[]), [0x30, 0]);
    assert_eq!(der::tlv(4, &[0; 200])[..3], [4, 0x81, 200]);
    assert_eq!(der::tlv(4, &[0; 300])[..4], [4, 0x82, 1, 44]);
    assert_eq!(der::key_usage(1 << 15 | 1 << 13), [3, 2, 5, 0xa0]);
    assert_eq!(der::key_usage(1 << 7), [3, 3, 7, 0, 0x80]);
    assert_eq!(der::time(0)[2..], *b"700101000000Z");
}
