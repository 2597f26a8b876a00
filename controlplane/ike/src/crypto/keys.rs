//! The keys of an IKE SA and those of its children (RFC 7296 2.14, 2.17, 2.18), and the proof of
//! a pre-shared key (2.15).

use std::fmt;

use rand_chacha::rand_core::Rng;
use zeroize::Zeroizing;

use super::Failed;
use super::protect::DirectionKey;
use crate::secret::Secret;
use crate::suite::{IkeProposal, Integrity, Prf, Protection};
use crate::wire::header::Header;
use crate::wire::message::{Encrypted, protected_head_len};
use crate::wire::payload::{Fragment, Identification, Payload, emit_chain};

/// What the keys of an IKE SA are bound to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Binding {
    pub(crate) nonce_i: Vec<u8>,
    pub(crate) nonce_r: Vec<u8>,
    pub(crate) spi_i: u64,
    pub(crate) spi_r: u64,
}

/// The keys of one IKE SA, as one end holds them.
pub(crate) struct IkeKeys {
    pub(crate) suite: IkeProposal,
    sk_d: Secret,
    sk_pi: Secret,
    sk_pr: Secret,
    from_initiator: DirectionKey,
    from_responder: DirectionKey,
    /// Whether we are the original initiator.
    initiator: bool,
    /// Messages sealed so far, for the IV.
    sealed: u64,
}

impl fmt::Debug for IkeKeys {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "IkeKeys({})", self.suite)
    }
}

/// Which end of an exchange.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum End {
    Initiator,
    Responder,
}

impl IkeKeys {
    /// Keys of a first IKE SA.
    pub(crate) fn first(
        suite: IkeProposal,
        binding: &Binding,
        shared: &Secret,
        initiator: bool,
    ) -> Result<Self, Failed> {
        // RFC 7296 2.14: "SKEYSEED = prf(Ni | Nr, g^ir)"
        let key = [binding.nonce_i.as_slice(), &binding.nonce_r].concat();
        let skeyseed = suite.prf.compute(&key, &[shared.expose()]);
        Self::derive(suite, &skeyseed, binding, initiator)
    }

    /// Keys of the IKE SA that takes this one's place, or of this one after an additional key
    /// exchange in IKE_INTERMEDIATE: both are derived alike (RFC 9370 2.2.2, 2.2.4).
    pub(crate) fn rekeyed(
        &self,
        suite: IkeProposal,
        binding: &Binding,
        shared: &[Secret],
        initiator: bool,
    ) -> Result<Self, Failed> {
        // RFC 7296 2.18: "SKEYSEED = prf(SK_d (old), g^ir (new) | Ni | Nr)", with the old SA's prf
        let parts = mixed(shared, &binding.nonce_i, &binding.nonce_r);
        let skeyseed = self.suite.prf.compute(self.sk_d.expose(), &parts);
        Self::derive(suite, &skeyseed, binding, initiator)
    }

    fn derive(
        suite: IkeProposal,
        skeyseed: &[u8],
        binding: &Binding,
        initiator: bool,
    ) -> Result<Self, Failed> {
        let prf = suite.prf;
        let a = suite.integrity.map_or(0, Integrity::key_len);
        let e = suite.encryption.keymat_len();
        // RFC 7296 2.14: "{SK_d | SK_ai | SK_ar | SK_ei | SK_er | SK_pi | SK_pr} =
        // prf+ (SKEYSEED, Ni | Nr | SPIi | SPIr)"
        let (spi_i, spi_r) = (binding.spi_i.to_be_bytes(), binding.spi_r.to_be_bytes());
        let seed = [binding.nonce_i.as_slice(), &binding.nonce_r, &spi_i, &spi_r];
        let keymat = prf.expand(skeyseed, &seed, 3 * prf.len() + 2 * a + 2 * e);
        let mut rest = keymat.as_slice();
        let mut take = |len: usize| {
            let (head, tail) = rest.split_at_checked(len).ok_or(Failed)?;
            rest = tail;
            Ok(head)
        };
        let sk_d = Secret::from(take(prf.len())?);
        let (sk_ai, sk_ar) = (take(a)?, take(a)?);
        let (sk_ei, sk_er) = (take(e)?, take(e)?);
        let (sk_pi, sk_pr) = (take(prf.len())?.into(), take(prf.len())?.into());
        let direction =
            |sk_e, sk_a| DirectionKey::new(suite.encryption, suite.integrity, sk_e, sk_a);
        Ok(Self {
            suite,
            sk_d,
            sk_pi,
            sk_pr,
            from_initiator: direction(sk_ei, sk_ai)?,
            from_responder: direction(sk_er, sk_ar)?,
            initiator,
            sealed: 0,
        })
    }

    /// A protected message of ours: in one piece, or in fragments of at most `limit` octets where
    /// it is longer than that (RFC 7383 2.5).
    pub(crate) fn seal(
        &mut self,
        header: Header,
        payloads: &[Payload],
        limit: Option<usize>,
        rng: &mut dyn Rng,
    ) -> Result<Vec<Vec<u8>>, Failed> {
        let (first, inner) = emit_chain(payloads);
        let key = if self.initiator {
            &self.from_initiator
        } else {
            &self.from_responder
        };
        let capacity = |limit: usize, fragmented| {
            key.capacity(limit.saturating_sub(protected_head_len(fragmented)))
        };
        let Some(limit) = limit.filter(|&limit| capacity(limit, false) < inner.len()) else {
            self.sealed += 1;
            return Ok(vec![key.seal(
                header,
                (first, inner),
                None,
                self.sealed,
                rng,
            )?]);
        };
        let chunks = inner.chunks(capacity(limit, true).max(1));
        let total = u16::try_from(chunks.len()).map_err(|_| Failed)?;
        (1..=total)
            .zip(chunks)
            .map(|(number, chunk)| {
                // RFC 7383 2.5: Next Payload is that of the first inner payload in the first
                // fragment; "In the rest of the Fragment messages (...), this field MUST be set to
                // zero."
                let first = if number == 1 { first } else { 0 };
                self.sealed += 1;
                let fragment = Some(Fragment { number, total });
                key.seal(header, (first, chunk.to_vec()), fragment, self.sealed, rng)
            })
            .collect()
    }

    /// The payloads within a message of the peer's, if it is authentic.
    pub(crate) fn open(&self, datagram: &[u8], encrypted: Encrypted) -> Result<Vec<u8>, Failed> {
        let key = if self.initiator {
            &self.from_responder
        } else {
            &self.from_initiator
        };
        key.open(datagram, encrypted)
    }

    /// The keys of a child SA: from the exchange's initiator to its responder, and back.
    pub(crate) fn child(
        &self,
        protection: Protection,
        shared: &[Secret],
        nonce_i: &[u8],
        nonce_r: &[u8],
    ) -> ChildKeys {
        // RFC 7296 2.17: "KEYMAT = prf+(SK_d, g^ir (new) | Ni | Nr)"
        let parts = mixed(shared, nonce_i, nonce_r);
        let len = protection.keymat_len();
        let keymat = self.suite.prf.expand(self.sk_d.expose(), &parts, 2 * len);
        // "All keys for SAs carrying data from the initiator to the responder are taken before
        // SAs going from the responder to the initiator."
        let (there, back) = keymat.split_at(len);
        ChildKeys {
            there: there.into(),
            back: back.into(),
        }
    }

    /// The AUTH value of one end for a pre-shared key.
    pub(crate) fn psk_auth(
        &self,
        end: End,
        psk: &Secret,
        signed: &SignedOctets<'_>,
    ) -> Zeroizing<Vec<u8>> {
        let key = psk_pad(self.suite.prf, psk);
        self.suite.prf.compute(&key, &[&self.signed(end, signed)])
    }

    /// Whether `auth` is the AUTH value of that end, in constant time.
    pub(crate) fn psk_verify(
        &self,
        end: End,
        psk: &Secret,
        signed: &SignedOctets<'_>,
        auth: &[u8],
    ) -> bool {
        let key = psk_pad(self.suite.prf, psk);
        self.suite.prf.verify(&key, &self.signed(end, signed), auth)
    }

    /// RFC 9242 3.3.2: "IntAuth_i2 = prf(SK_pi2, IntAuth_i1 | IntAuth_i2A [| IntAuth_i2P])", and so
    /// for the responder.
    pub(crate) fn int_auth(&self, end: End, before: &[u8], head: &[u8], inner: &[u8]) -> Vec<u8> {
        let sk_p = self.sk_p(end).expose();
        self.suite
            .prf
            .compute(sk_p, &[before, head, inner])
            .to_vec()
    }

    const fn sk_p(&self, end: End) -> &Secret {
        match end {
            End::Initiator => &self.sk_pi,
            End::Responder => &self.sk_pr,
        }
    }

    /// RFC 7296 2.15: "InitiatorSignedOctets = RealMessage1 | NonceRData | MACedIDForI", and so
    /// for the responder; RFC 9242 3.3.2 appends IntAuth to both.
    pub(crate) fn signed(&self, end: End, signed: &SignedOctets<'_>) -> Zeroizing<Vec<u8>> {
        let sk_p = self.sk_p(end).expose();
        let maced_id = self.suite.prf.compute(sk_p, &[&signed.id.body()]);
        Zeroizing::new([signed.message, signed.nonce, &maced_id, signed.int_auth].concat())
    }
}

/// What AUTH covers.
pub(crate) struct SignedOctets<'a> {
    /// The first message of the end that proves.
    pub(crate) message: &'a [u8],
    /// The nonce of the other end.
    pub(crate) nonce: &'a [u8],
    /// The identity of the end that proves.
    pub(crate) id: &'a Identification,
    /// What IKE_INTERMEDIATE came to; empty where there was none.
    pub(crate) int_auth: &'a [u8],
}

/// What is derived from after several key exchanges (RFC 9370 2.2.4): SK(0) | Ni | Nr | SK(1) | ...
fn mixed<'a>(shared: &'a [Secret], nonce_i: &'a [u8], nonce_r: &'a [u8]) -> Vec<&'a [u8]> {
    let (first, further) = shared.split_at(shared.len().min(1));
    let further = further.iter().map(Secret::expose);
    let nonces = [nonce_i, nonce_r];
    let first = first.iter().map(Secret::expose);
    first.chain(nonces).chain(further).collect()
}

/// RFC 7296 2.15: "prf( prf(Shared Secret, "Key Pad for IKEv2"), <signed octets>)".
fn psk_pad(prf: Prf, psk: &Secret) -> Zeroizing<Vec<u8>> {
    prf.compute(psk.expose(), &[b"Key Pad for IKEv2"])
}

/// The keying material of a child SA.
#[derive(Debug)]
pub(crate) struct ChildKeys {
    /// From the exchange's initiator to its responder.
    pub(crate) there: Secret,
    /// From the exchange's responder to its initiator.
    pub(crate) back: Secret,
}
