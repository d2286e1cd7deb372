//! How cosign keeps a private key under a password: scrypt makes a key of it, and NaCl's secretbox (XSalsa20 and Poly1305) seals.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use crypto_secretbox::aead::Aead as _;
use crypto_secretbox::{KeyInit as _, XSalsa20Poly1305};
use ring::rand::{SecureRandom as _, SystemRandom};
use serde::{Deserialize, Serialize};

use super::keys::KeyError;

/// What is written: 64 MiB and a quarter of a second.
const COST: Cost = Cost { n: 65_536, r: 8, p: 1 };
/// The older setting, which is read too. Others are refused: they would be too weak, or take all memory.
const OLD_N: u32 = 32_768;
const SALT: usize = 32;
const NONCE: usize = 24;

#[derive(Serialize, Deserialize)]
struct Envelope {
    kdf: Kdf,
    cipher: Cipher,
    ciphertext: String,
}

#[derive(Serialize, Deserialize)]
struct Kdf {
    name: String,
    params: Cost,
    salt: String,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
struct Cost {
    #[serde(rename = "N")]
    n: u32,
    r: u32,
    p: u32,
}

#[derive(Serialize, Deserialize)]
struct Cipher {
    name: String,
    nonce: String,
}

fn cipher(password: &[u8], salt: &[u8], cost: Cost) -> Result<XSalsa20Poly1305, KeyError> {
    let log_n = u8::try_from(cost.n.ilog2()).unwrap_or(u8::MAX);
    let params =
        scrypt::Params::new(log_n, cost.r, cost.p, 32).map_err(|_| KeyError::Malformed("its scrypt settings"))?;
    let mut key = [0; 32];
    scrypt::scrypt(password, salt, &params, &mut key).map_err(|_| KeyError::Malformed("its scrypt settings"))?;
    Ok(XSalsa20Poly1305::new(&key.into()))
}

/// Seals.
pub(super) fn seal(content: &[u8], password: &[u8]) -> Result<Vec<u8>, KeyError> {
    let random = SystemRandom::new();
    let (mut salt, mut nonce) = ([0; SALT], [0; NONCE]);
    random.fill(&mut salt).and_then(|()| random.fill(&mut nonce)).map_err(|_| KeyError::NoRandom)?;
    let sealed = cipher(password, &salt, COST)?.encrypt(&nonce.into(), content).map_err(|_| KeyError::NoRandom)?;
    let envelope = Envelope {
        kdf: Kdf { name: "scrypt".to_owned(), params: COST, salt: STANDARD.encode(salt) },
        cipher: Cipher { name: "nacl/secretbox".to_owned(), nonce: STANDARD.encode(nonce) },
        ciphertext: STANDARD.encode(sealed),
    };
    serde_json::to_vec(&envelope).map_err(|_| KeyError::Malformed("its envelope"))
}

/// Opens.
pub(super) fn open(bytes: &[u8], password: &[u8]) -> Result<Vec<u8>, KeyError> {
    // serde's message may quote the document.
    let envelope: Envelope = serde_json::from_slice(bytes).map_err(|_| KeyError::Malformed("its envelope"))?;
    if (envelope.kdf.name.as_str(), envelope.cipher.name.as_str()) != ("scrypt", "nacl/secretbox") {
        return Err(KeyError::Malformed("its cipher: it is scrypt and nacl/secretbox"));
    }
    let cost = envelope.kdf.params;
    if cost != COST && cost != (Cost { n: OLD_N, ..COST }) {
        return Err(KeyError::Malformed("its scrypt settings: N is 65536 or 32768, r is 8 and p is 1"));
    }
    let decode = |text: &str| STANDARD.decode(text).map_err(|_| KeyError::Malformed("its base64"));
    let nonce: [u8; NONCE] =
        decode(&envelope.cipher.nonce)?.try_into().map_err(|_| KeyError::Malformed("its nonce"))?;
    let (salt, sealed) = (decode(&envelope.kdf.salt)?, decode(&envelope.ciphertext)?);
    cipher(password, &salt, cost)?.decrypt(&nonce.into(), &sealed[..]).map_err(|_| KeyError::WrongPassword)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Sealed by another implementation, which opens what cosign sealed.
    const OTHER: &str = r#"{"kdf":{"name":"scrypt","params":{"N":32768,"r":8,"p":1},"salt":"3/AQO0bWxfRespgHH/IRuquKmSFOfC/56jzfFhZh3ag="},"cipher":{"name":"nacl/secretbox","nonce":"dk9Bf6Qxxx/uhgyRzF7t5mSfLfpahROe"},"ciphertext":"ieK8Hl6XgLHAcd/2VheUlXxiGUuMYV8="}"#;

    #[test]
    fn what_others_sealed_opens() {
        assert_eq!(open(OTHER.as_bytes(), b"secret").unwrap(), b"content");
    }

    #[test]
    fn what_was_sealed_opens_with_its_password_only() {
        let sealed = seal(b"content", b"secret").unwrap();
        assert_eq!(open(&sealed, b"secret").unwrap(), b"content");
        assert!(matches!(open(&sealed, b"other"), Err(KeyError::WrongPassword)));
        let text = String::from_utf8(sealed).unwrap();
        for (from, to) in [("65536", "1024"), ("65536", "1073741824"), ("scrypt", "none"), ("\"r\":8", "\"r\":800")] {
            let changed = text.replace(from, to);
            assert!(matches!(open(changed.as_bytes(), b"secret"), Err(KeyError::Malformed(_))), "{to}");
        }
    }
}
