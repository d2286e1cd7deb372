//! Keys: ECDSA P-256 with SHA-256, which is what cosign makes and every signer of images takes.

use std::fmt;

use ring::rand::SystemRandom;
use ring::signature::{
    ECDSA_P256_SHA256_ASN1, ECDSA_P256_SHA256_ASN1_SIGNING, EcdsaKeyPair, KeyPair as _, UnparsedPublicKey,
};

use super::{envelope, pem};

const SEALED: &str = "ENCRYPTED SIGSTORE PRIVATE KEY";
/// As cosign called it before its second version.
const SEALED_OLD: &str = "ENCRYPTED COSIGN PRIVATE KEY";
const PLAIN: &str = "PRIVATE KEY";
const PUBLIC: &str = "PUBLIC KEY";
/// A SubjectPublicKeyInfo (RFC 5480) of a point of P-256, up to the point.
const SPKI: [u8; 26] = [
    0x30, 0x59, 0x30, 0x13, 0x06, 0x07, 0x2a, 0x86, 0x48, 0xce, 0x3d, 0x02, 0x01, 0x06, 0x08, 0x2a, 0x86, 0x48, 0xce,
    0x3d, 0x03, 0x01, 0x07, 0x03, 0x42, 0x00,
];
/// A point that is not compressed.
const POINT: usize = 65;
/// Most keys of one text.
const KEYS_MAX: usize = 64;

/// Why a key cannot be used. Never tells what is in it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum KeyError {
    /// There is no key in the text.
    #[error("there is no {0} in it (PEM)")]
    None(&'static str),
    /// The key is damaged or of another kind.
    #[error("the key cannot be read: {0}")]
    Malformed(&'static str),
    /// Another algorithm.
    #[error("the key is not ECDSA P-256, which is the only kind that is supported")]
    Unsupported,
    /// The password does not open it.
    #[error("the password does not open the key")]
    WrongPassword,
    /// There is no source of random numbers.
    #[error("no random numbers")]
    NoRandom,
}

/// A public key.
#[derive(Clone, PartialEq, Eq)]
pub struct PublicKey {
    point: Vec<u8>,
}

/// Shows which key it is.
impl fmt::Debug for PublicKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "PublicKey({})", hex::encode(&self.point[1..9]))
    }
}

impl PublicKey {
    /// All public keys of a text (`PUBLIC KEY`, PEM), of which there is at least one.
    ///
    /// # Errors
    /// [`KeyError::None`], [`KeyError::Unsupported`].
    pub fn read_all(text: &str) -> Result<Vec<PublicKey>, KeyError> {
        let blocks = pem::read(text).into_iter().filter(|(label, _)| label == PUBLIC).take(KEYS_MAX);
        let keys = blocks.map(|(_, der)| {
            let point = der.strip_prefix(&SPKI).filter(|p| p.len() == POINT && p[0] == 4);
            point.map(|point| PublicKey { point: point.to_vec() }).ok_or(KeyError::Unsupported)
        });
        let keys = keys.collect::<Result<Vec<_>, _>>()?;
        if keys.is_empty() { Err(KeyError::None(PUBLIC)) } else { Ok(keys) }
    }

    /// As text.
    pub fn to_pem(&self) -> String {
        pem::write(PUBLIC, &[&SPKI, self.point.as_slice()].concat())
    }

    /// Whether a signature (ASN.1, as OpenSSL writes it) is one of this key over the message.
    pub fn verifies(&self, message: &[u8], signature: &[u8]) -> bool {
        UnparsedPublicKey::new(&ECDSA_P256_SHA256_ASN1, &self.point).verify(message, signature).is_ok()
    }
}

/// A private key.
pub struct SigningKey {
    pair: EcdsaKeyPair,
    random: SystemRandom,
}

/// A new pair, as text.
pub struct KeyPair {
    /// `cosign.key`: sealed with the password.
    pub private: String,
    /// `cosign.pub`.
    pub public: String,
}

impl SigningKey {
    /// Makes a pair. The private key is sealed with the password, which may be empty.
    ///
    /// # Errors
    /// [`KeyError::NoRandom`].
    pub fn generate(password: &[u8]) -> Result<KeyPair, KeyError> {
        let random = SystemRandom::new();
        let document =
            EcdsaKeyPair::generate_pkcs8(&ECDSA_P256_SHA256_ASN1_SIGNING, &random).map_err(|_| KeyError::NoRandom)?;
        let key = Self::of_pkcs8(document.as_ref())?;
        let sealed = envelope::seal(document.as_ref(), password)?;
        Ok(KeyPair { private: pem::write(SEALED, &sealed), public: key.public().to_pem() })
    }

    /// Reads a private key: one of cosign, sealed, or a plain PKCS #8, for which no password is needed.
    ///
    /// # Errors
    /// [`KeyError`].
    pub fn read(text: &str, password: &[u8]) -> Result<Self, KeyError> {
        let blocks = pem::read(text);
        let (label, content) = blocks
            .iter()
            .find(|(l, _)| [SEALED, SEALED_OLD, PLAIN].contains(&l.as_str()))
            .ok_or(KeyError::None(SEALED))?;
        match label.as_str() {
            PLAIN => Self::of_pkcs8(content),
            _ => Self::of_pkcs8(&envelope::open(content, password)?),
        }
    }

    fn of_pkcs8(document: &[u8]) -> Result<Self, KeyError> {
        let random = SystemRandom::new();
        let pair = EcdsaKeyPair::from_pkcs8(&ECDSA_P256_SHA256_ASN1_SIGNING, document, &random);
        Ok(SigningKey { pair: pair.map_err(|_| KeyError::Unsupported)?, random })
    }

    /// Its public key.
    pub fn public(&self) -> PublicKey {
        PublicKey { point: self.pair.public_key().as_ref().to_vec() }
    }

    /// Signs (ASN.1).
    ///
    /// # Panics
    /// When the kernel has no random numbers, which it always has.
    pub fn sign(&self, message: &[u8]) -> Vec<u8> {
        self.pair.sign(&self.random, message).expect("the kernel has random numbers").as_ref().to_vec()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pair_that_was_made_signs_and_verifies() {
        let pair = SigningKey::generate(b"pass").unwrap();
        let key = SigningKey::read(&pair.private, b"pass").unwrap();
        let public = PublicKey::read_all(&pair.public).unwrap();
        assert_eq!((public.len(), &public[0]), (1, &key.public()));
        let signature = key.sign(b"message");
        assert!(public[0].verifies(b"message", &signature) && !public[0].verifies(b"massage", &signature));
        assert!(matches!(SigningKey::read(&pair.private, b"other"), Err(KeyError::WrongPassword)));
        assert!(matches!(SigningKey::read(&pair.public, b""), Err(KeyError::None(_))));
        assert!(!format!("{public:?}").contains(&pair.public));
    }

    /// Made and used by OpenSSL 3.
    const PUBLIC_KEY: &str = "-----BEGIN PUBLIC KEY-----\n\
MFkwEwYHKoZIzj0CAQYIKoZIzj0DAQcDQgAE8+j0sfe4Qke3JZLyLGPLRrWCa9WY\n\
3z5E7du8oUIDMTrskZju7wuxEsWwwNYpqbdODlUlUyMNfwXxeOLcu5t/4w==\n\
-----END PUBLIC KEY-----\n\
";
    const SIGNATURE: &str =
        "MEYCIQDCc54h1Fys6yeOpKo8Vxh1joZRmi8ekQpg8EOGWTS0aQIhAK2lgo1bjVcJf95MxrTX9wLL/90ZMSklNj0GyaKYrGZU";

    #[test]
    fn what_openssl_signed_verifies() {
        use base64::Engine as _;
        let signature = base64::engine::general_purpose::STANDARD.decode(SIGNATURE).unwrap();
        let keys = PublicKey::read_all(PUBLIC_KEY).unwrap();
        assert!(keys[0].verifies(b"a message", &signature) && !keys[0].verifies(b"a massage", &signature));
        assert_eq!(keys[0].to_pem(), PUBLIC_KEY);
        assert_eq!(PublicKey::read_all(&PUBLIC_KEY.repeat(3)).unwrap().len(), 3);
        assert_eq!(PublicKey::read_all(&PUBLIC_KEY.replace("MFkw", "MFkx")), Err(KeyError::Unsupported));
    }
}
