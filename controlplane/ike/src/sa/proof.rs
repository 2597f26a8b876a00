//! The AUTH payload (RFC 7296 2.15): a pre-shared key, or a signature (RFC 7427) with the certificates
//! that go with it (RFC 7296 3.6, 3.7, RFC 4945).

use std::time::Instant;

use esplanade_pki::{Certificate, ChainError, Check, OwnCertificate, Scheme, Trust};

use super::Proof;
use crate::config::{Authentication, PeerConfig};
use crate::crypto::keys::{End, IkeKeys, SignedOctets};
use crate::error::Refusal;
use crate::gateway::Gateway;
use crate::peers::Welcome;
use crate::wire::message::Payloads;
use crate::wire::payload::{Identification, Payload, X509_SIGNATURE};

/// Auth Method "Shared Key Message Integrity Code" (RFC 7296 3.8).
const SHARED_KEY: u8 = 2;
/// Auth Method "Digital Signature" (RFC 7427 3).
const DIGITAL_SIGNATURE: u8 = 14;

impl Proof {
    pub(super) fn signed<'a>(
        &'a self,
        end: End,
        id: &'a Identification,
        int_auth: &'a [u8],
    ) -> SignedOctets<'a> {
        let (message, nonce) = match end {
            End::Initiator => (&self.message_i, &self.nonce_r),
            End::Responder => (&self.message_r, &self.nonce_i),
        };
        SignedOctets {
            message,
            nonce,
            id,
            int_auth,
        }
    }

    /// Who we say we are, our certificates, and our AUTH payload.
    pub(super) fn ours(
        &self,
        gw: &Gateway,
        keys: &IkeKeys,
        peer: &PeerConfig,
        end: End,
    ) -> Result<(Identification, Vec<Payload>, Payload), Refusal> {
        let id = Identification::new(peer.local_id.clone());
        let int_auth = self.int_auth.octets(self.auth_id);
        let signed = self.signed(end, &id, &int_auth);
        let (certificates, method, data) = match &peer.authentication {
            Authentication::Psk(psk) => {
                let data = keys.psk_auth(end, psk, &signed).to_vec();
                (Vec::new(), SHARED_KEY, data)
            }
            Authentication::EapClient { .. } => return Err(Refusal::CannotSign),
            Authentication::Certificate { ours, .. } | Authentication::EapServer { ours, .. } => {
                let octets = keys.signed(end, &signed);
                let data = self.signature(gw, ours, &octets)?;
                (certificates_of(ours), DIGITAL_SIGNATURE, data)
            }
        };
        let auth = Payload::Authentication { method, data };
        Ok((id, certificates, auth))
    }

    /// RFC 7427 3: the length of the AlgorithmIdentifier, itself, and the signature.
    fn signature(
        &self,
        gw: &Gateway,
        ours: &OwnCertificate,
        octets: &[u8],
    ) -> Result<Vec<u8>, Refusal> {
        let key = ours.key();
        let scheme =
            key.scheme(&self.hashes, ours.padding())
                .ok_or_else(|| Refusal::NoCommonHash {
                    key: key.kind().to_string(),
                })?;
        let signature = gw.provider.sign(key, scheme, octets);
        let signature = signature.map_err(|_| Refusal::CannotSign)?;
        let identifier = scheme.identifier();
        let len = u8::try_from(identifier.len()).unwrap_or(u8::MAX);
        Ok([&[len], identifier, &signature].concat())
    }

    /// Checks the peer's AUTH payload, and what it comes with.
    pub(super) fn check(
        &self,
        gw: &Gateway,
        now: Instant,
        keys: &IkeKeys,
        peer: &PeerConfig,
        (end, id): (End, &Identification),
        payloads: Payloads<'_>,
    ) -> Result<(), Refusal> {
        // A request without AUTH asks for EAP, which is method 0 here.
        let (method, auth) = payloads.authentication().unwrap_or((0, &[]));
        let expected = peer.authentication.method();
        if method != expected {
            return Err(Refusal::OtherMethod { method, expected });
        }
        let int_auth = self.int_auth.octets(self.auth_id);
        let signed = self.signed(end, id, &int_auth);
        match &peer.authentication {
            Authentication::Psk(psk) => {
                let fits = keys.psk_verify(end, psk, &signed, auth);
                let theirs = id.identity.clone();
                fits.then_some(()).ok_or(Refusal::WrongKey { theirs })
            }
            // EAP is not checked here, and method 0 has been.
            Authentication::EapServer { .. } => Err(Refusal::OtherMethod { method, expected }),
            Authentication::Certificate { trust, .. } | Authentication::EapClient { trust, .. } => {
                let certificate = believed(gw, now, trust, id, payloads)?;
                check_signature(gw, &certificate, &keys.signed(end, &signed), auth)
            }
        }
    }
}

fn certificates_of(ours: &OwnCertificate) -> Vec<Payload> {
    let certificate = |certificate: &Certificate| Payload::Certificate {
        encoding: X509_SIGNATURE,
        data: certificate.der().to_vec(),
    };
    ours.chain().iter().map(certificate).collect()
}

/// The peer's certificate, if an authority that we trust has issued it and it is of whom the peer says
/// it is.
fn believed(
    gw: &Gateway,
    now: Instant,
    trust: &Trust,
    id: &Identification,
    payloads: Payloads<'_>,
) -> Result<Certificate, Refusal> {
    let theirs = || id.identity.clone();
    let unreadable = |(place, error): (usize, _)| {
        Refusal::Certificate(Box::new(ChainError {
            certificate: format!("the peer's CERT payload {place}"),
            check: Check::Other(format!("{error}")),
        }))
    };
    // One more than is looked at, so that a longer chain is refused as such.
    let ders = payloads.certificates().take(esplanade_pki::MAX_CHAIN + 1);
    let chain: Vec<Certificate> = (1..)
        .zip(ders)
        .map(|(place, der)| Certificate::from_der(der).map_err(|error| unreadable((place, error))))
        .collect::<Result<_, _>>()?;
    if chain.is_empty() {
        return Err(Refusal::NoCertificate { theirs: theirs() });
    }
    let time = gw.wall_clock(now).ok_or(Refusal::NoClock)?;
    trust
        .verify(&chain, time)
        .map_err(|error| Refusal::Certificate(Box::new(error)))?;
    let certificate = chain
        .into_iter()
        .next()
        .ok_or_else(|| Refusal::NoCertificate { theirs: theirs() })?;
    if !id.identity.is_in(&certificate) {
        return Err(Refusal::NotNamed {
            theirs: theirs(),
            certificate: certificate.subject().to_string(),
            names: certificate.names(),
        });
    }
    Ok(certificate)
}

fn check_signature(
    gw: &Gateway,
    certificate: &Certificate,
    octets: &[u8],
    auth: &[u8],
) -> Result<(), Refusal> {
    let unknown = || Refusal::UnknownSignature {
        certificate: certificate.title(),
    };
    let (len, rest) = auth.split_first().ok_or_else(unknown)?;
    let (identifier, signature) = rest.split_at_checked((*len).into()).ok_or_else(unknown)?;
    let scheme = Scheme::from_identifier(identifier).ok_or_else(unknown)?;
    let verified = gw.provider.verify(certificate, scheme, octets, signature);
    verified.map_err(|_| Refusal::WrongSignature {
        certificate: certificate.title(),
        scheme: scheme.to_string(),
    })
}

/// RFC 7427 4: the hashes with which the peer may sign.
pub(super) fn hash_algorithms() -> Payload {
    let numbers = esplanade_pki::hash::ALL.map(u16::to_be_bytes).concat();
    Payload::notify(crate::wire::notify::SIGNATURE_HASH_ALGORITHMS, &numbers)
}

/// The hashes with which we may sign for a peer.
pub(super) fn hashes_of(payloads: Payloads<'_>) -> Vec<u16> {
    let notify = payloads.notify(crate::wire::notify::SIGNATURE_HASH_ALGORITHMS);
    let numbers = notify
        .map(|notify| notify.data.as_slice())
        .unwrap_or_default();
    let numbers = numbers.as_chunks::<2>().0.iter();
    numbers.map(|octets| u16::from_be_bytes(*octets)).collect()
}

/// RFC 7296 3.7: asks for certificates of these authorities, "a concatenated list of SHA-1 hashes of
/// the public keys of trusted Certification Authorities"; nothing where no certificate is wanted.
pub(super) fn certificate_request(welcome: &Welcome) -> Option<Payload> {
    let hashes = &welcome.authorities;
    (!hashes.is_empty()).then(|| Payload::CertificateRequest {
        encoding: X509_SIGNATURE,
        data: hashes.concat(),
    })
}
