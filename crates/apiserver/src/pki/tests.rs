use std::os::unix::fs::PermissionsExt;

use super::*;

fn mode(path: &Path) -> u32 {
    std::fs::metadata(path).unwrap().permissions().mode() & 0o777
}

#[test]
fn made_once_private_and_reused() {
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path().join("pki");
    let first = ensure(&dir, &["api.example".into()], &["10.0.0.1".parse().unwrap()]).unwrap();
    let agent = first.agent("node-1").unwrap();
    assert_eq!(mode(&dir), 0o700);
    for entry in std::fs::read_dir(&dir).unwrap() {
        assert_eq!(mode(&entry.unwrap().path()), 0o600);
    }
    let second = ensure(&dir, &["api.example".into()], &["10.0.0.1".parse().unwrap()]).unwrap();
    assert_eq!(first.ca_pem(), second.ca_pem());
    assert_eq!(first.server().cert_pem, second.server().cert_pem);
    assert_eq!(first.admin().key_pem, second.admin().key_pem);
    assert_eq!(agent.cert_pem, second.agent("node-1").unwrap().cert_pem);
    assert_eq!(first.service_account_key_pem(), second.service_account_key_pem());
}

#[test]
fn a_new_address_or_a_damaged_file_makes_a_new_certificate_from_the_same_authority() {
    let dir = tempfile::tempdir().unwrap();
    let first = ensure(dir.path(), &[], &[]).unwrap();
    let second = ensure(dir.path(), &["other.example".into()], &["192.0.2.7".parse().unwrap()]).unwrap();
    assert_eq!(first.ca_pem(), second.ca_pem());
    assert_ne!(first.server().cert_pem, second.server().cert_pem);
    std::fs::write(dir.path().join("admin.crt"), "nonsense").unwrap();
    let third = ensure(dir.path(), &[], &[]).unwrap();
    assert_ne!(first.admin().cert_pem, third.admin().cert_pem);
}

#[test]
fn an_authority_without_its_key_is_not_replaced() {
    let dir = tempfile::tempdir().unwrap();
    ensure(dir.path(), &[], &[]).unwrap();
    std::fs::remove_file(dir.path().join("ca.key")).unwrap();
    assert!(matches!(ensure(dir.path(), &[], &[]), Err(PkiError::HalfAuthority(..))));
}

#[test]
fn a_certificate_of_another_authority_is_replaced() {
    let (a, b) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    ensure(a.path(), &[], &[]).unwrap();
    let own = ensure(b.path(), &[], &[]).unwrap();
    for file in ["admin.crt", "admin.key"] {
        std::fs::copy(a.path().join(file), b.path().join(file)).unwrap();
    }
    let again = ensure(b.path(), &[], &[]).unwrap();
    assert_eq!(own.ca_pem(), again.ca_pem());
    assert_ne!(std::fs::read_to_string(a.path().join("admin.crt")).unwrap(), again.admin().cert_pem);
}

#[test]
fn kubeconfig_quotes_names_and_embeds_the_certificates() {
    let dir = tempfile::tempdir().unwrap();
    let pki = ensure(dir.path(), &[], &[]).unwrap();
    let config = pki.kubeconfig("a: \"b\"", "https://127.0.0.1:6443", "admin", pki.admin());
    assert!(config.as_str().contains(r#"current-context: "a: \"b\"""#));
    assert!(config.as_str().contains("client-key-data: LS0t"));
}
