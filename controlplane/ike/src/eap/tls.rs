//! EAP-TLS (RFC 5216, with TLS 1.3 RFC 9190): rustls as the engine, and its records in packets of EAP.

use std::fmt;
use std::io::Read;
use std::sync::Arc;

use esplanade_pki::{Certificate, OwnCertificate, PublicKeyKind, Scheme, Trust, hash};
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::client::{ResolvesClientCert, Resumption};
use rustls::crypto::{CryptoProvider, aws_lc_rs, verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::server::{ClientHello, NoServerSessionStorage, ResolvesServerCert};
use rustls::sign::{CertifiedKey, Signer, SigningKey};
use rustls::time_provider::TimeProvider;
use rustls::{
    CertificateError, ClientConfig, ClientConnection, Connection, DigitallySignedStruct,
    DistinguishedName, Error, ProtocolVersion, ServerConfig, ServerConnection, SignatureAlgorithm,
    SignatureScheme,
};

use crate::secret::Secret;

/// Flags of a packet (RFC 5216 3.1): its length is included, more fragments follow, the server starts.
const LENGTH: u8 = 0x80;
const MORE: u8 = 0x40;
const START: u8 = 0x20;

/// Octets of TLS in one packet; IKE has fragments of its own where even that is too long.
const FRAGMENT: usize = 1000;
/// Octets of a message of TLS that we put together.
const LONGEST: usize = 64 * 1024;
/// Octets of Key_Material, and of the MSK that it begins with (RFC 9190 2.3).
const KEY_MATERIAL: usize = 128;
const MSK: usize = 64;

/// One end of a conversation.
pub(crate) struct Tls {
    connection: Connection,
    /// What is to be sent, and how much of it has been.
    outgoing: Vec<u8>,
    sent: usize,
    incoming: Vec<u8>,
    /// RFC 9190 2.1.1: the server has said, protected, that it will say no more.
    committed: bool,
}

/// What a packet has come to.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Took {
    /// The server starts.
    Start,
    /// It acknowledges what we sent.
    Acknowledgement,
    /// More of it follows.
    Fragment,
    /// A whole message of TLS, which has been handed on.
    Message,
}

impl fmt::Debug for Tls {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Tls(..)")
    }
}

/// The packet with which a server starts.
pub(super) const fn start() -> [u8; 1] {
    [START]
}

impl Tls {
    /// The server's end: it proves by `ours` and checks the client's certificate by `trust` at this time of day.
    pub(crate) fn server(
        ours: &Arc<OwnCertificate>,
        trust: &Arc<Trust>,
        seconds: u64,
    ) -> Result<Self, Error> {
        let provider = Arc::new(aws_lc_rs::default_provider());
        let check = Arc::new(Check::new(trust, seconds, &provider));
        let config = ServerConfig::builder_with_details(provider, Arc::new(Clock(seconds)));
        let config = config.with_safe_default_protocol_versions()?;
        let config = config.with_client_cert_verifier(check);
        let mut config = config.with_cert_resolver(Arc::new(Own::new(ours)));
        config.session_storage = Arc::new(NoServerSessionStorage {});
        config.send_tls13_tickets = 0;
        Ok(Self::new(ServerConnection::new(Arc::new(config))?.into()))
    }

    /// The client's end.
    pub(crate) fn client(
        ours: &Arc<OwnCertificate>,
        trust: &Arc<Trust>,
        seconds: u64,
    ) -> Result<Self, Error> {
        let provider = Arc::new(aws_lc_rs::default_provider());
        let check = Arc::new(Check::new(trust, seconds, &provider));
        let config = ClientConfig::builder_with_details(provider, Arc::new(Clock(seconds)));
        let config = config.with_safe_default_protocol_versions()?;
        let config = config.dangerous().with_custom_certificate_verifier(check);
        let mut config = config.with_client_cert_resolver(Arc::new(Own::new(ours)));
        config.resumption = Resumption::disabled();
        config.enable_sni = false;
        // Who the server is, IKE has found out; this name is not sent.
        let name = ServerName::try_from("eap").map_err(|_| Error::General("no name".into()))?;
        Ok(Self::new(
            ClientConnection::new(Arc::new(config), name)?.into(),
        ))
    }

    const fn new(connection: Connection) -> Self {
        Self {
            connection,
            outgoing: Vec::new(),
            sent: 0,
            incoming: Vec::new(),
            committed: false,
        }
    }

    /// Takes what a packet of this type holds.
    pub(super) fn take(&mut self, data: &[u8]) -> Result<Took, String> {
        let (flags, mut body) = data.split_first().ok_or("a packet without flags")?;
        if flags & LENGTH != 0 {
            let (length, rest) = body
                .split_first_chunk()
                .ok_or("a packet without its length")?;
            if u32::from_be_bytes(*length) as usize > LONGEST {
                return Err("a message of TLS that is too long".to_owned());
            }
            body = rest;
        }
        if flags & START != 0 {
            return Ok(Took::Start);
        }
        if body.is_empty() {
            return Ok(Took::Acknowledgement);
        }
        if self.incoming.len() + body.len() > LONGEST {
            return Err("a message of TLS that is too long".to_owned());
        }
        self.incoming.extend(body);
        if flags & MORE != 0 {
            return Ok(Took::Fragment);
        }
        let message = std::mem::take(&mut self.incoming);
        let mut rest = message.as_slice();
        while !rest.is_empty() {
            self.connection
                .read_tls(&mut rest)
                .map_err(|error| error.to_string())?;
            let state = self.connection.process_new_packets();
            let state = state.map_err(|error| error.to_string())?;
            if state.plaintext_bytes_to_read() > 0 {
                let mut octets = [0; 2];
                let read = self.connection.reader().read(&mut octets);
                self.committed |= matches!((read, octets), (Ok(1), [0, _]));
            }
        }
        Ok(Took::Message)
    }

    /// The next of what is to be sent: flags, the length before the first of several, and a fragment; `None` where
    /// there is nothing.
    pub(super) fn next(&mut self) -> Option<Vec<u8>> {
        if self.sent == self.outgoing.len() {
            self.outgoing.clear();
            self.sent = 0;
            while self.connection.wants_write() {
                // Writing to memory does not fail.
                if self.connection.write_tls(&mut self.outgoing).is_err() {
                    break;
                }
            }
        }
        let (first, whole) = (self.sent == 0, self.outgoing.len());
        let rest = self
            .outgoing
            .get(self.sent..)
            .filter(|rest| !rest.is_empty())?;
        let (fragment, more) = rest.split_at(rest.len().min(FRAGMENT));
        self.sent += fragment.len();
        let mut flags = if more.is_empty() { 0 } else { MORE };
        let mut data = Vec::new();
        if first && !more.is_empty() {
            flags |= LENGTH;
            data.extend(u32::try_from(whole).unwrap_or(u32::MAX).to_be_bytes());
        }
        data.insert(0, flags);
        data.extend(fragment);
        Some(data)
    }

    pub(super) fn is_done(&self) -> bool {
        !self.connection.is_handshaking()
    }

    fn is_13(&self) -> bool {
        self.connection.protocol_version() == Some(ProtocolVersion::TLSv1_3)
    }

    /// RFC 9190 2.1.1: with TLS 1.3 the server says by an octet of zero that it sends nothing more.
    pub(super) fn commit(&mut self) {
        if self.is_13() && !std::mem::replace(&mut self.committed, true) {
            // Within the buffer's limit it does not fail.
            let _ = std::io::Write::write(&mut self.connection.writer(), &[0]);
        }
    }

    /// Whether the server has said that it sends nothing more, where it has to.
    pub(super) fn is_committed(&self) -> bool {
        self.committed || !self.is_13()
    }

    /// The certificate of the other end.
    pub(super) fn certificate(&self) -> Option<Certificate> {
        let certificate = self.connection.peer_certificates()?.first()?;
        Certificate::from_der(certificate).ok()
    }

    /// The MSK: RFC 9190 2.3 with TLS 1.3, RFC 5216 2.3 before. It is the first half of Key_Material, all of which has to be
    /// exported: with TLS 1.3 the length is part of what the octets are made of.
    pub(super) fn msk(&self) -> Option<Secret> {
        let octets = zeroize::Zeroizing::new([0; KEY_MATERIAL]);
        let exported = if self.is_13() {
            let label = b"EXPORTER_EAP_TLS_Key_Material";
            self.connection
                .export_keying_material(*octets, label, Some(&[super::kind::TLS]))
        } else {
            self.connection
                .export_keying_material(*octets, b"client EAP encryption", None)
        };
        let exported = zeroize::Zeroizing::new(exported.ok()?);
        exported.get(..MSK).map(Secret::from)
    }
}

/// The time of day, as it was told.
#[derive(Debug)]
struct Clock(u64);

impl TimeProvider for Clock {
    fn current_time(&self) -> Option<UnixTime> {
        Some(UnixTime::since_unix_epoch(std::time::Duration::from_secs(
            self.0,
        )))
    }
}

/// The other end's certificate is checked as IKE's are.
#[derive(Debug)]
struct Check {
    trust: Arc<Trust>,
    seconds: u64,
    provider: Arc<CryptoProvider>,
}

impl Check {
    fn new(trust: &Arc<Trust>, seconds: u64, provider: &Arc<CryptoProvider>) -> Self {
        Self {
            trust: trust.clone(),
            seconds,
            provider: provider.clone(),
        }
    }

    fn verify(
        &self,
        end: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
    ) -> Result<(), Error> {
        let ders = std::iter::once(end).chain(intermediates);
        let chain: Result<Vec<Certificate>, _> = ders
            .take(esplanade_pki::MAX_CHAIN + 1)
            .map(|der| Certificate::from_der(der))
            .collect();
        let chain = chain.map_err(|_| Error::InvalidCertificate(CertificateError::BadEncoding))?;
        let verified = self.trust.verify(&chain, self.seconds);
        verified.map_err(|error| Error::General(error.to_string()))
    }

    fn tls12(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        let algorithms = &self.provider.signature_verification_algorithms;
        verify_tls12_signature(message, certificate, signed, algorithms)
    }

    fn tls13(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        let algorithms = &self.provider.signature_verification_algorithms;
        verify_tls13_signature(message, certificate, signed, algorithms)
    }

    fn schemes(&self) -> Vec<SignatureScheme> {
        self.provider
            .signature_verification_algorithms
            .supported_schemes()
    }
}

impl ServerCertVerifier for Check {
    fn verify_server_cert(
        &self,
        end: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        self.verify(end, intermediates)
            .map(|()| ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.tls12(message, certificate, signed)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.tls13(message, certificate, signed)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.schemes()
    }
}

impl ClientCertVerifier for Check {
    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        &[]
    }

    fn verify_client_cert(
        &self,
        end: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        _: UnixTime,
    ) -> Result<ClientCertVerified, Error> {
        self.verify(end, intermediates)
            .map(|()| ClientCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.tls12(message, certificate, signed)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.tls13(message, certificate, signed)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.schemes()
    }
}

/// Our certificate, which is given to whoever asks.
#[derive(Debug)]
struct Own(Arc<CertifiedKey>);

impl Own {
    fn new(ours: &Arc<OwnCertificate>) -> Self {
        let chain = ours.chain().iter();
        let chain = chain
            .map(|one| CertificateDer::from(one.der().to_vec()))
            .collect();
        Self(Arc::new(CertifiedKey::new(
            chain,
            Arc::new(Key(ours.clone())),
        )))
    }
}

impl ResolvesServerCert for Own {
    fn resolve(&self, _: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        Some(self.0.clone())
    }
}

impl ResolvesClientCert for Own {
    fn resolve(&self, _: &[&[u8]], _: &[SignatureScheme]) -> Option<Arc<CertifiedKey>> {
        Some(self.0.clone())
    }

    fn has_certs(&self) -> bool {
        true
    }
}

/// Our private key.
#[derive(Debug)]
struct Key(Arc<OwnCertificate>);

impl Key {
    /// How it signs in TLS: with RSA by PSS, on a curve with the hash that goes with it.
    fn scheme(&self) -> (SignatureScheme, &'static [u16]) {
        match self.0.key().kind() {
            PublicKeyKind::Rsa => (SignatureScheme::RSA_PSS_SHA256, &[hash::SHA2_256]),
            PublicKeyKind::P256 => (SignatureScheme::ECDSA_NISTP256_SHA256, &[hash::SHA2_256]),
            PublicKeyKind::P384 => (SignatureScheme::ECDSA_NISTP384_SHA384, &[hash::SHA2_384]),
            PublicKeyKind::P521 => (SignatureScheme::ECDSA_NISTP521_SHA512, &[hash::SHA2_512]),
            PublicKeyKind::Ed25519 => (SignatureScheme::ED25519, &[hash::IDENTITY]),
        }
    }
}

impl SigningKey for Key {
    fn choose_scheme(&self, offered: &[SignatureScheme]) -> Option<Box<dyn Signer>> {
        let (name, hashes) = self.scheme();
        let scheme = self
            .0
            .key()
            .scheme(hashes, esplanade_pki::RsaPadding::Pss)?;
        let ours = self.0.clone();
        offered
            .contains(&name)
            .then(|| Box::new(Signing { ours, scheme, name }) as Box<dyn Signer>)
    }

    fn algorithm(&self) -> SignatureAlgorithm {
        match self.0.key().kind() {
            PublicKeyKind::Rsa => SignatureAlgorithm::RSA,
            PublicKeyKind::Ed25519 => SignatureAlgorithm::ED25519,
            PublicKeyKind::P256 | PublicKeyKind::P384 | PublicKeyKind::P521 => {
                SignatureAlgorithm::ECDSA
            }
        }
    }
}

#[derive(Debug)]
struct Signing {
    ours: Arc<OwnCertificate>,
    scheme: Scheme,
    name: SignatureScheme,
}

impl Signer for Signing {
    fn sign(&self, message: &[u8]) -> Result<Vec<u8>, Error> {
        let signed = self.ours.key().sign(self.scheme, message);
        signed.map_err(|_| Error::General("the key does not sign".into()))
    }

    fn scheme(&self) -> SignatureScheme {
        self.name
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::eap::tests::pki;

    fn hand(from: &mut Tls, to: &mut Tls) {
        while let Some(data) = from.next() {
            to.take(&data).unwrap();
        }
    }

    /// Whoever exports 64 octets has another key than the rest of the world.
    #[test]
    fn the_msk_is_the_first_half_of_what_is_exported() {
        let root = pki::authority("root", None);
        let trust = Arc::new(pki::trust(&[&root]));
        let own = |name| {
            let (pem, key) = pki::Leaf::new(name).issue(&root);
            Arc::new(pki::own(&[&pem], &key))
        };
        let mut server = Tls::server(&own("gw.example.org"), &trust, pki::NOW).unwrap();
        let mut client = Tls::client(&own("carol.example.org"), &trust, pki::NOW).unwrap();
        for _ in 0..2 {
            hand(&mut client, &mut server);
            hand(&mut server, &mut client);
        }
        assert!(server.is_done() && client.is_done() && server.is_13());
        let label = b"EXPORTER_EAP_TLS_Key_Material";
        for end in [server, client] {
            let exported = end
                .connection
                .export_keying_material([0; 128], label, Some(&[13]));
            assert_eq!(end.msk().unwrap().expose(), &exported.unwrap()[..64]);
        }
    }
}
