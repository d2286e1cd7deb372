//! Tokens of another identity provider, which is a small HTTPS server here.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use crate::common::*;
use apiserver::{ApiServer, Config, OidcConfig};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use jsonwebtoken::{Algorithm, EncodingKey, Header};
use rcgen::KeyPair;
use rustls_pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer};
use serde_json::{Value, json};
use store::memory::MemoryStore;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpListener;
use tokio_rustls::TlsAcceptor;
use tokio_util::sync::CancellationToken;

struct Provider {
    issuer: String,
    key: KeyPair,
    asked: Arc<AtomicUsize>,
}

fn jwks(key: &KeyPair) -> Value {
    let raw = key.public_key_raw();
    let part = |bytes: &[u8]| URL_SAFE_NO_PAD.encode(bytes);
    json!({"keys": [{
        "kty": "EC", "crv": "P-256", "alg": "ES256", "use": "sig", "kid": "k1",
        "x": part(&raw[1..33]), "y": part(&raw[33..65]),
    }]})
}

async fn provider(ca_file: &std::path::Path) -> Provider {
    let tls_key = KeyPair::generate().unwrap();
    let cert = rcgen::CertificateParams::new(vec!["127.0.0.1".to_owned()]).unwrap().self_signed(&tls_key).unwrap();
    std::fs::write(ca_file, cert.pem()).unwrap();
    let chain = vec![CertificateDer::from(cert.der().to_vec())];
    let der = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(tls_key.serialize_der()));
    let ring = Arc::new(rustls::crypto::ring::default_provider());
    let tls = rustls::ServerConfig::builder_with_provider(ring).with_safe_default_protocol_versions().unwrap();
    let tls = TlsAcceptor::from(Arc::new(tls.with_no_client_auth().with_single_cert(chain, der).unwrap()));
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let issuer = format!("https://{}", listener.local_addr().unwrap());
    let key = KeyPair::generate().unwrap();
    let asked = Arc::new(AtomicUsize::new(0));
    let (discovery, keys) = (json!({"issuer": issuer, "jwks_uri": format!("{issuer}/keys")}), jwks(&key));
    let count = asked.clone();
    tokio::spawn(async move {
        loop {
            let (tcp, _) = listener.accept().await.unwrap();
            let Ok(mut stream) = tls.accept(tcp).await else { continue };
            let mut request = vec![0; 4096];
            let Ok(read) = stream.read(&mut request).await else { continue };
            count.fetch_add(1, Ordering::SeqCst);
            let known = request[..read].starts_with(b"GET /.well-known/openid-configuration ");
            let body = if known { &discovery } else { &keys }.to_string();
            let head = format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\nconnection: close\r\n\r\n", body.len());
            let _ = stream.write_all(format!("{head}{body}").as_bytes()).await;
            let _ = stream.shutdown().await;
        }
    });
    Provider { issuer, key, asked }
}

fn token(provider: &Provider, kid: &str, claims: &Value) -> String {
    let mut header = Header::new(Algorithm::ES256);
    header.kid = Some(kid.to_owned());
    let key = EncodingKey::from_ec_pem(provider.key.serialize_pem().as_bytes()).unwrap();
    jsonwebtoken::encode(&header, claims, &key).unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
// allow-long: one provider and one server, for all that can be wrong with a token
async fn users_come_from_the_provider_with_their_groups() {
    let _ = rustls::crypto::ring::default_provider().install_default();
    let dir = tempfile::tempdir().unwrap();
    let ca_file = dir.path().join("ca.pem");
    let provider = provider(&ca_file).await;
    let advertise = "127.0.0.1:6443".parse().unwrap();
    let mut config = Config::new(dir.path().join("pki"), advertise, "10.96.0.0/20".parse().unwrap());
    let mut oidc = OidcConfig::new(&provider.issuer, "windlass");
    oidc.groups_claim = Some("groups".into());
    oidc.groups_prefix = "oidc:".into();
    oidc.required_claims.insert("team".into(), "logistics".into());
    oidc.ca_file = Some(ca_file);
    oidc.algorithms = vec!["ES256".into()];
    config.oidc = Some(oidc);
    let store: Arc<dyn store::Store> = Arc::new(MemoryStore::new());
    let server = ApiServer::new(store.clone(), config).await.unwrap();
    let cluster = Cluster { server, store, pki: dir };
    // The path that reviews take is the one that connections take.
    let review = |token: String| {
        let admin = cluster.admin();
        async move {
            let body =
                json!({"apiVersion": "authentication.k8s.io/v1", "kind": "TokenReview", "spec": {"token": token}});
            admin.post("/apis/authentication.k8s.io/v1/tokenreviews", &body).await.body["status"].clone()
        }
    };
    let now = std::time::UNIX_EPOCH.elapsed().unwrap().as_secs();
    let good = json!({
        "iss": provider.issuer, "aud": "windlass", "sub": "ann", "exp": now + 600, "team": "logistics",
        "groups": ["drivers"],
    });
    let status = review(token(&provider, "k1", &good)).await;
    assert_eq!(status["authenticated"], true, "{status}");
    assert_eq!(status["user"]["username"], format!("{}#ann", provider.issuer));
    assert_eq!(status["user"]["groups"], json!(["oidc:drivers", "system:authenticated"]));
    assert_eq!(provider.asked.load(Ordering::SeqCst), 2);
    for (key, value) in [
        ("aud", json!("other")),
        ("exp", json!(now - 10)),
        ("nbf", json!(now + 600)),
        ("team", json!("finance")),
        ("sub", json!("")),
        ("groups", json!({"a": 1})),
    ] {
        let mut bad = good.clone();
        bad[key] = value;
        let status = review(token(&provider, "k1", &bad)).await;
        assert!(status.get("authenticated").is_none(), "{key}: {status}");
    }
    let forged = Provider { issuer: provider.issuer.clone(), key: KeyPair::generate().unwrap(), asked: Arc::default() };
    assert!(review(token(&forged, "k1", &good)).await.get("authenticated").is_none());
    // Unknown keys do not make this server a burden to the provider.
    for kid in ["k2", "k3", "k4"] {
        assert!(review(token(&provider, kid, &good)).await.get("authenticated").is_none());
    }
    assert_eq!(provider.asked.load(Ordering::SeqCst), 2);

    let port = cluster.listen(CancellationToken::new()).await.port();
    let ca = rustls_ca(&cluster);
    let client = reqwest::Client::builder().tls_certs_only([ca]).no_proxy().build().unwrap();
    let at = |path: &str| format!("https://127.0.0.1:{port}{path}");
    let answer = client.get(at("/api")).bearer_auth(token(&provider, "k1", &good)).send().await.unwrap();
    assert_eq!(answer.status(), 200);
    let answer = client.get(at(PODS)).bearer_auth(token(&provider, "k1", &good)).send().await.unwrap();
    assert_eq!(answer.status(), 403);
    assert!(answer.text().await.unwrap().contains("#ann"));
    let answer = client.get(at("/api")).bearer_auth(token(&forged, "k1", &good)).send().await.unwrap();
    assert_eq!(answer.status(), 401);
}

fn rustls_ca(cluster: &Cluster) -> reqwest::Certificate {
    reqwest::Certificate::from_pem(cluster.server.pki().ca_pem().as_bytes()).unwrap()
}
