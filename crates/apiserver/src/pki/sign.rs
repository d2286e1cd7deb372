//! Certificates for requests of others (certificates.k8s.io): what each of Kubernetes' signers accepts, and the signing.
//!
//! Subject and key go into the certificate byte for byte as they were asked for: what the approver saw is what is signed.

use jiff::Timestamp;
use rcgen::SigningKey as _;
use rustls_pki_types::CertificateDer;
use rustls_pki_types::pem::PemObject;
use x509_parser::certification_request::X509CertificationRequest;
use x509_parser::cri_attributes::ParsedCriAttribute;
use x509_parser::extensions::{GeneralName, ParsedExtension, X509Extension};
use x509_parser::prelude::FromDer;

use super::{NODES, Pki, subject_key_id};

mod der;

/// Clients of the API server.
pub const CLIENT: &str = "kubernetes.io/kube-apiserver-client";
const KUBELET_CLIENT: &str = "kubernetes.io/kube-apiserver-client-kubelet";
const KUBELET_SERVING: &str = "kubernetes.io/kubelet-serving";
const LEGACY: &str = "kubernetes.io/legacy-unknown";

/// Longest and shortest life of a certificate, in seconds.
const LONGEST_S: i64 = 365 * 86_400;
const SHORTEST_S: i64 = 600;
/// Certificates begin a little before they are made, for clocks that are behind.
const BACKDATE_S: i64 = 300;
/// Those that live shorter lose nothing of their life by that.
const SHORT_S: i64 = 8 * 3600;

/// Why a request is not signed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SignError {
    /// The signer is not one of this authority: somebody else signs.
    #[error("signer {0:?} is not this authority's")]
    NotOurs(String),
    /// The request is not what its signer accepts.
    #[error("{0}")]
    Refused(String),
    /// The authority cannot sign.
    #[error("the authority cannot sign: {0}")]
    Authority(String),
}

fn refused(why: impl Into<String>) -> SignError {
    SignError::Refused(why.into())
}

/// What is asked for.
#[derive(Debug, Clone, Copy)]
pub struct SigningRequest<'a> {
    /// The PKCS #10 request, PEM.
    pub pem: &'a [u8],
    /// `spec.signerName`.
    pub signer: &'a str,
    /// `spec.usages`.
    pub usages: &'a [String],
    /// `spec.expirationSeconds`.
    pub seconds: Option<i64>,
}

/// The subject of a request, as far as it decides something.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Subject {
    /// Common names.
    pub names: Vec<String>,
    /// Organizations: the groups of a client.
    pub organizations: Vec<String>,
}

/// Reads and verifies a PEM request, and says for whom it is.
///
/// # Errors
/// A sentence on what is wrong with it.
pub fn inspect(pem: &[u8]) -> Result<Subject, String> {
    with_request(pem, subject_of)
}

/// The user of a node's agent for whom a request wants a client certificate; `None` when it is for anything else, or not
/// as the signer of such certificates wants it.
pub fn agent_of(asked: &SigningRequest<'_>) -> Option<String> {
    if asked.signer != KUBELET_CLIENT {
        return None;
    }
    let user = with_request(asked.pem, |request| {
        accepted(asked, request).ok().and_then(|()| subject_of(request).names.into_iter().next())
    });
    user.ok().flatten()
}

fn with_request<T>(pem: &[u8], f: impl FnOnce(&X509CertificationRequest<'_>) -> T) -> Result<T, String> {
    let der = rustls_pki_types::CertificateSigningRequestDer::from_pem_slice(pem)
        .map_err(|_| "PEM block type must be CERTIFICATE REQUEST".to_owned())?;
    let (rest, request) =
        X509CertificationRequest::from_der(&der).map_err(|_| "malformed certificate request".to_owned())?;
    if !rest.is_empty() {
        return Err("trailing data after the certificate request".to_owned());
    }
    request.verify_signature().map_err(|_| "the signature of the certificate request is not valid".to_owned())?;
    Ok(f(&request))
}

fn subject_of(request: &X509CertificationRequest<'_>) -> Subject {
    let subject = &request.certification_request_info.subject;
    let text = |a: &x509_parser::x509::AttributeTypeAndValue<'_>| a.as_str().unwrap_or("").to_owned();
    Subject {
        names: subject.iter_common_name().map(text).collect(),
        organizations: subject.iter_organization().map(text).collect(),
    }
}

/// The extension with other names of the subject.
fn other_names<'r>(request: &'r X509CertificationRequest<'_>) -> Option<&'r X509Extension<'r>> {
    request.certification_request_info.iter_attributes().find_map(|attribute| match attribute.parsed_attribute() {
        ParsedCriAttribute::ExtensionRequest(asked) => {
            asked.extensions.iter().find(|e| matches!(e.parsed_extension(), ParsedExtension::SubjectAlternativeName(_)))
        }
        _ => None,
    })
}

impl Pki {
    /// Signs a request that has been approved, valid from `now`. The answer is PEM.
    ///
    /// # Errors
    /// See [`SignError`].
    pub fn sign(&self, asked: &SigningRequest<'_>, now: Timestamp) -> Result<String, SignError> {
        if ![CLIENT, KUBELET_CLIENT, KUBELET_SERVING, LEGACY].contains(&asked.signer) {
            return Err(SignError::NotOurs(asked.signer.to_owned()));
        }
        with_request(asked.pem, |request| {
            accepted(asked, request)?;
            self.issue(asked, request, now)
        })
        .map_err(refused)?
    }

    fn issue(
        &self,
        asked: &SigningRequest<'_>,
        request: &X509CertificationRequest<'_>,
        now: Timestamp,
    ) -> Result<String, SignError> {
        let authority = |why: &str| SignError::Authority(why.to_owned());
        let ca_der: CertificateDer<'_> = self.ca_der().map_err(|e| authority(&e.to_string()))?;
        let (_, ca) = x509_parser::parse_x509_certificate(&ca_der).map_err(|e| authority(&e.to_string()))?;
        let key = self.issuer.key();
        let algorithm =
            der::algorithm(key.algorithm()).ok_or_else(|| authority("its key is of a kind that is not supported"))?;
        let seconds = asked.seconds.unwrap_or(LONGEST_S).clamp(SHORTEST_S, LONGEST_S);
        let from = now.as_second() - BACKDATE_S;
        let until = if seconds < SHORT_S { now.as_second() + seconds } else { from + seconds };
        let until = until.min(ca.validity().not_after.timestamp());
        let (names, extended) = usages(asked.usages)?;
        let mut extensions: Vec<Vec<u8>> = Vec::new();
        if names != 0 {
            extensions.push(der::extension(&[0x55, 0x1d, 0x0f], true, &der::key_usage(names)));
        }
        if !extended.is_empty() {
            extensions.push(der::extension(&[0x55, 0x1d, 0x25], false, &der::tlv(0x30, &extended.concat())));
        }
        extensions.push(der::extension(&[0x55, 0x1d, 0x13], true, &der::tlv(0x30, &[])));
        if let Some(id) = subject_key_id(&ca) {
            extensions.push(der::extension(&[0x55, 0x1d, 0x23], false, &der::tlv(0x30, &der::tlv(0x80, id))));
        }
        if let Some(san) = other_names(request) {
            // Of an empty subject they are all there is (RFC 5280, 4.2.1.6).
            let critical = request.certification_request_info.subject.iter().next().is_none();
            extensions.push(der::extension(&[0x55, 0x1d, 0x11], critical, san.value));
        }
        let info = &request.certification_request_info;
        let body = der::tlv(
            0x30,
            &[
                der::tlv(0xa0, &[0x02, 0x01, 0x02]),
                der::serial(uuid::Uuid::new_v4().as_bytes()),
                algorithm.clone(),
                ca.subject().as_raw().to_vec(),
                der::tlv(0x30, &[der::time(from), der::time(until)].concat()),
                info.subject.as_raw().to_vec(),
                info.subject_pki.raw.to_vec(),
                der::tlv(0xa3, &der::tlv(0x30, &extensions.concat())),
            ]
            .concat(),
        );
        let signature = key.sign(&body).map_err(|e| authority(&e.to_string()))?;
        let certificate = der::tlv(0x30, &[body, algorithm, der::bits(0, &signature)].concat());
        Ok(der::pem("CERTIFICATE", &certificate))
    }
}

/// Whether the signer accepts the request (Kubernetes' documentation of certificate signing requests, "Signers").
fn accepted(asked: &SigningRequest<'_>, request: &X509CertificationRequest<'_>) -> Result<(), SignError> {
    let has = |usage: &str| asked.usages.iter().any(|u| u == usage);
    let only = |purpose: &str| {
        let allowed = ["digital signature", "key encipherment", purpose];
        asked.usages.iter().find(|u| !allowed.contains(&u.as_str())).cloned()
    };
    let subject = subject_of(request);
    let node = || {
        if subject.organizations != [NODES] {
            return Err(refused("subject organization is not system:nodes"));
        }
        match subject.names.as_slice() {
            [name] if name.starts_with("system:node:") => Ok(()),
            _ => Err(refused("subject common name does not begin with system:node: ")),
        }
    };
    let names = other_names(request).map(|e| match e.parsed_extension() {
        ParsedExtension::SubjectAlternativeName(san) => san.general_names.as_slice(),
        _ => &[],
    });
    match asked.signer {
        CLIENT => {
            if let Some(usage) = only("client auth") {
                return Err(refused(format!("invalid usage for client certificate: {usage}")));
            }
            if !has("client auth") {
                return Err(refused("missing required usage for client certificate: client auth"));
            }
        }
        KUBELET_CLIENT => {
            node()?;
            if names.is_some_and(|n| !n.is_empty()) {
                return Err(refused("subject alternative names are not allowed"));
            }
            if only("client auth").is_some() || !has("client auth") || !has("digital signature") {
                return Err(refused("usages did not match [client auth digital signature key encipherment]"));
            }
        }
        KUBELET_SERVING => {
            node()?;
            let names = names.unwrap_or_default();
            let place = |n: &GeneralName<'_>| matches!(n, GeneralName::DNSName(_) | GeneralName::IPAddress(_));
            if !names.iter().any(place) {
                return Err(refused("DNS or IP subjectAltName is required"));
            }
            if !names.iter().all(place) {
                return Err(refused("only DNS and IP subjectAltNames are allowed"));
            }
            if only("server auth").is_some() || !has("server auth") || !has("digital signature") {
                return Err(refused("usages did not match [digital signature key encipherment server auth]"));
            }
        }
        _ => {}
    }
    Ok(())
}

/// Bits of the key usage (RFC 5280, 4.2.1.3, the first in the highest bit), and the extended usages.
fn usages(list: &[String]) -> Result<(u16, Vec<Vec<u8>>), SignError> {
    let (mut bits, mut extended) = (0u16, Vec::new());
    for usage in list {
        let purpose = |last: u8| der::tlv(0x06, &[0x2b, 0x06, 0x01, 0x05, 0x05, 0x07, 0x03, last]);
        match usage.as_str() {
            "signing" | "digital signature" => bits |= 1 << 15,
            "content commitment" => bits |= 1 << 14,
            "key encipherment" => bits |= 1 << 13,
            "data encipherment" => bits |= 1 << 12,
            "key agreement" => bits |= 1 << 11,
            "cert sign" => bits |= 1 << 10,
            "crl sign" => bits |= 1 << 9,
            "encipher only" => bits |= 1 << 8,
            "decipher only" => bits |= 1 << 7,
            "any" => extended.push(der::tlv(0x06, &[0x55, 0x1d, 0x25, 0x00])),
            "server auth" => extended.push(purpose(1)),
            "client auth" => extended.push(purpose(2)),
            "code signing" => extended.push(purpose(3)),
            "email protection" | "s/mime" => extended.push(purpose(4)),
            "ipsec end system" => extended.push(purpose(5)),
            "ipsec tunnel" => extended.push(purpose(6)),
            "ipsec user" => extended.push(purpose(7)),
            "timestamping" => extended.push(purpose(8)),
            "ocsp signing" => extended.push(purpose(9)),
            other => return Err(refused(format!("unrecognized usage values: {other:?}"))),
        }
    }
    extended.sort();
    extended.dedup();
    Ok((bits, extended))
}

#[cfg(test)]
mod tests;
