//! Proposals and their selection (RFC 7296 2.7, 3.3): from configured suites to the wire, and
//! from the peer's offer to the one suite that is taken.

use crate::suite::{
    AdditionalKex, AhIntegrity, ChildProposal, Encryption, EspEncryption, EspIntegrity,
    IkeProposal, Integrity, KeyExchangeMethod, Prf, Protection,
};
use crate::wire::proposal::{Proposal, Transform, protocol, transform};

/// A transform that a suite needs of a proposal.
struct Wanted {
    kind: u8,
    id: u16,
    key_bits: Option<u16>,
    /// A proposal that does not name the type at all means the same.
    implied: bool,
}

impl Wanted {
    const fn new(kind: u8, id: u16, key_bits: Option<u16>) -> Self {
        Self {
            kind,
            id,
            key_bits,
            implied: false,
        }
    }

    /// The value zero, NONE, which an absent transform type means too.
    const fn none(kind: u8) -> Self {
        Self {
            kind,
            id: 0,
            key_bits: None,
            implied: true,
        }
    }

    fn method(kind: u8, kex: Option<KeyExchangeMethod>) -> Self {
        kex.map_or(Self::none(kind), |kex| Self::new(kind, kex.id(), None))
    }

    fn additional(additional: &AdditionalKex) -> impl Iterator<Item = Self> {
        let kinds = transform::FIRST_ADDITIONAL..=transform::LAST_ADDITIONAL;
        kinds
            .zip(additional.places())
            .map(|(kind, method)| Self::method(kind, method))
    }
}

/// A suite that is a list of transforms.
trait Suite: Copy {
    /// The Protocol ID of its proposals.
    fn protocol(self) -> u8;

    fn wanted(self) -> Vec<Wanted>;
}

impl Suite for IkeProposal {
    fn protocol(self) -> u8 {
        protocol::IKE
    }

    fn wanted(self) -> Vec<Wanted> {
        let (encryption, integrity) = (self.encryption, self.integrity);
        let mut wanted = vec![
            Wanted::new(
                transform::ENCRYPTION,
                encryption.id(),
                encryption.key_bits(),
            ),
            // RFC 5282 8: a combined mode comes without an integrity algorithm, or with NONE
            integrity.map_or(Wanted::none(transform::INTEGRITY), |i| {
                Wanted::new(transform::INTEGRITY, i.id(), None)
            }),
            Wanted::new(transform::PRF, self.prf.id(), None),
            Wanted::method(transform::KEY_EXCHANGE, Some(self.kex)),
        ];
        wanted.extend(Wanted::additional(&self.additional));
        wanted
    }
}

impl Suite for ChildProposal {
    fn protocol(self) -> u8 {
        self.protection.protocol()
    }

    fn wanted(self) -> Vec<Wanted> {
        let mut wanted = match self.protection {
            Protection::Esp(esp) => vec![
                Wanted::new(
                    transform::ENCRYPTION,
                    esp.encryption.id(),
                    esp.encryption.key_bits(),
                ),
                // RFC 7296 3.3: "Combined-mode ciphers (...) MUST either offer no integrity
                // algorithm or a single integrity algorithm of "NONE""
                esp.integrity
                    .map_or(Wanted::none(transform::INTEGRITY), |i| {
                        Wanted::new(transform::INTEGRITY, i.id(), None)
                    }),
            ],
            // RFC 7296 3.3.3: AH has INTEG and ESN for mandatory types, D-H for an optional one.
            Protection::Ah(integrity) => {
                vec![Wanted::new(transform::INTEGRITY, integrity.id(), None)]
            }
        };
        let esn = transform::ESN;
        wanted.extend([
            Wanted::method(transform::KEY_EXCHANGE, self.kex),
            if self.esn {
                Wanted::new(esn, 1, None)
            } else {
                Wanted::none(esn)
            },
        ]);
        wanted.extend(Wanted::additional(&self.additional));
        wanted
    }
}

/// The transforms of `theirs` that make up the suite: exactly one of each type that is offered.
fn choose(theirs: &Proposal, suite: impl Suite) -> Option<Vec<Transform>> {
    let wanted = suite.wanted();
    // RFC 7296 3.3.6: "If the responder receives a proposal that contains a Transform Type it
    // does not understand (...) it MUST consider this proposal unacceptable"
    if theirs
        .transforms
        .iter()
        .any(|t| wanted.iter().all(|w| w.kind != t.kind))
    {
        return None;
    }
    let mut chosen = Vec::new();
    for want in &wanted {
        let mut offered = theirs.of_kind(want.kind).peekable();
        if offered.peek().is_none() && want.implied {
            continue;
        }
        let fits = |t: &&Transform| t.id == want.id && t.key_bits() == Ok(want.key_bits);
        chosen.push(offered.find(fits)?.clone());
    }
    Some(chosen)
}

fn emit(suite: impl Suite, number: usize, spi: &[u8]) -> Proposal {
    let transforms = suite
        .wanted()
        .iter()
        // Child SAs name ESN in any case: RFC 7296 3.3.3 has it among the mandatory types.
        .filter(|w| !w.implied || w.kind == transform::ESN)
        .map(|w| Transform::new(w.kind, w.id, w.key_bits))
        .collect();
    let number = u8::try_from(number).unwrap_or(u8::MAX);
    Proposal {
        number,
        protocol: suite.protocol(),
        spi: spi.to_vec(),
        transforms,
    }
}

/// Our offer for an IKE SA; the SPI is empty in IKE_SA_INIT.
pub(crate) fn ike_offer(suites: &[IkeProposal], spi: &[u8]) -> Vec<Proposal> {
    suites
        .iter()
        .enumerate()
        .map(|(at, s)| emit(*s, at + 1, spi))
        .collect()
}

/// Our offer for a child SA.
pub(crate) fn child_offer(suites: &[ChildProposal], spi: u32) -> Vec<Proposal> {
    let spi = spi.to_be_bytes();
    suites
        .iter()
        .enumerate()
        .map(|(at, s)| emit(*s, at + 1, &spi))
        .collect()
}

/// A suite and the proposal that says so to the peer.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Selected<S> {
    pub(crate) suite: S,
    /// The peer's SPI.
    pub(crate) spi: Vec<u8>,
    number: u8,
    protocol: u8,
    transforms: Vec<Transform>,
}

impl<S> Selected<S> {
    /// The answer to the peer's offer, with our SPI.
    pub(crate) fn answer(&self, spi: &[u8]) -> Vec<Proposal> {
        vec![Proposal {
            number: self.number,
            protocol: self.protocol,
            spi: spi.to_vec(),
            transforms: self.transforms.clone(),
        }]
    }
}

fn select<S: Suite>(theirs: &[Proposal], ours: &[S], spi_len: usize) -> Option<Selected<S>> {
    ours.iter().find_map(|&suite| {
        let protocol = suite.protocol();
        theirs
            .iter()
            .filter(|p| p.protocol == protocol && p.spi.len() == spi_len)
            .find_map(|p| {
                Some(Selected {
                    suite,
                    spi: p.spi.clone(),
                    number: p.number,
                    protocol,
                    transforms: choose(p, suite)?,
                })
            })
    })
}

/// Takes one of our suites from the peer's offer for an IKE SA, in our order of preference; those
/// with the group of the peer's KE payload come first, since another would cost a round trip.
pub(crate) fn select_ike(
    theirs: &[Proposal],
    ours: &[IkeProposal],
    spi_len: usize,
    group: u16,
) -> Option<Selected<IkeProposal>> {
    let (first, rest): (Vec<_>, Vec<_>) = ours.iter().partition(|s| s.kex.id() == group);
    select(theirs, &first, spi_len).or_else(|| select(theirs, &rest, spi_len))
}

/// Whether a child SA is negotiated with a key exchange of its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum ChildExchange {
    /// In IKE_AUTH, where there can be none.
    WithAuth,
    /// In CREATE_CHILD_SA, with a KE payload of this group, if any.
    OnItsOwn(Option<u16>),
}

/// The suites as they can be had in this exchange.
pub(crate) fn suites_for(ours: &[ChildProposal], exchange: ChildExchange) -> Vec<ChildProposal> {
    let mut suites = ours.to_vec();
    if exchange == ChildExchange::WithAuth {
        // RFC 7296 1.2: "the SA payloads in the IKE_AUTH exchange cannot contain Transform Type 4
        // (Diffie-Hellman group) with any value other than NONE. Implementations SHOULD omit the
        // whole transform substructure instead of sending value NONE."
        for suite in &mut suites {
            (suite.kex, suite.additional) = (None, AdditionalKex::default());
        }
        let mut seen = Vec::new();
        suites.retain(|s| {
            !seen.contains(s) && {
                seen.push(*s);
                true
            }
        });
    }
    suites
}

/// Takes one of our suites from the peer's offer for a child SA.
pub(crate) fn select_child(
    theirs: &[Proposal],
    ours: &[ChildProposal],
    exchange: ChildExchange,
) -> Option<Selected<ChildProposal>> {
    let ours = suites_for(ours, exchange);
    match exchange {
        ChildExchange::WithAuth => {
            let mut theirs = theirs.to_vec();
            for proposal in &mut theirs {
                proposal.transforms.retain(|t| {
                    t.kind != transform::KEY_EXCHANGE && !transform::is_additional(t.kind)
                });
            }
            select(&theirs, &ours, 4)
        }
        ChildExchange::OnItsOwn(group) => {
            let same = |s: &&ChildProposal| s.kex.map(KeyExchangeMethod::id) == group;
            let (first, rest): (Vec<_>, Vec<_>) = ours.iter().partition(same);
            select(theirs, &first, 4).or_else(|| select(theirs, &rest, 4))
        }
    }
}

/// The peer's answer to our offer: one proposal with one transform of each type, one of ours.
/// RFC 7296 2.7: "The initiator of an exchange MUST check that the accepted offer is consistent
/// with one of its proposals".
fn accepted<S: Suite>(answer: &[Proposal], ours: &[S], spi_len: usize) -> Option<Selected<S>> {
    let [proposal] = answer else { return None };
    let selected = select(answer, ours, spi_len)?;
    (selected.transforms.len() == proposal.transforms.len()).then_some(selected)
}

/// The peer's answer to our offer for an IKE SA.
pub(crate) fn accepted_ike(
    answer: &[Proposal],
    ours: &[IkeProposal],
    spi_len: usize,
) -> Option<Selected<IkeProposal>> {
    accepted(answer, ours, spi_len)
}

/// The peer's answer to our offer for a child SA.
pub(crate) fn accepted_child(
    answer: &[Proposal],
    ours: &[ChildProposal],
    exchange: ChildExchange,
) -> Option<Selected<ChildProposal>> {
    accepted(answer, &suites_for(ours, exchange), 4)
}

/// Renders proposals for an operator.
pub(crate) fn describe(proposals: &[Proposal]) -> Vec<String> {
    proposals
        .iter()
        .take(MAX_DESCRIBED)
        .map(describe_one)
        .collect()
}

/// Proposals and transforms of a peer that a message names.
const MAX_DESCRIBED: usize = 16;

fn describe_one(proposal: &Proposal) -> String {
    let parts: Vec<String> = proposal
        .transforms
        .iter()
        .take(2 * MAX_DESCRIBED)
        .filter_map(|t| describe_transform(t, proposal.protocol))
        .collect();
    match proposal.protocol {
        protocol::IKE | protocol::ESP => parts.join("-"),
        protocol::AH => format!("ah-{}", parts.join("-")),
        other => format!("protocol {other}"),
    }
}

fn describe_transform(t: &Transform, protocol: u8) -> Option<String> {
    let bits = t.key_bits().ok().flatten();
    let known = match t.kind {
        transform::ENCRYPTION if protocol == protocol::ESP => {
            EspEncryption::from_wire(t.id, bits).map(|a| a.name().to_owned())
        }
        transform::ENCRYPTION => Encryption::from_wire(t.id, bits).map(|a| a.name().to_owned()),
        transform::PRF => Prf::from_wire(t.id, bits).map(|a| format!("prf{a}")),
        transform::INTEGRITY if t.id == 0 => return None,
        transform::INTEGRITY if protocol == protocol::AH => {
            AhIntegrity::from_wire(t.id, bits).map(|a| a.name().to_owned())
        }
        transform::INTEGRITY if protocol != protocol::IKE => {
            EspIntegrity::from_wire(t.id, bits).map(|a| a.name().to_owned())
        }
        transform::INTEGRITY => Integrity::from_wire(t.id, bits).map(|a| a.name().to_owned()),
        kind if t.id == 0 && transform::is_additional(kind) => return None,
        kind if transform::is_additional(kind) => {
            let place = kind - transform::FIRST_ADDITIONAL + 1;
            let method = KeyExchangeMethod::from_wire(t.id, bits);
            let method = method.map_or_else(|| t.id.to_string(), |m| m.name().to_owned());
            Some(format!("ke{place}_{method}"))
        }
        transform::KEY_EXCHANGE if t.id == 0 => return None,
        transform::KEY_EXCHANGE => {
            KeyExchangeMethod::from_wire(t.id, bits).map(|a| a.name().to_owned())
        }
        transform::ESN if t.id == 0 => return None,
        transform::ESN => Some("esn".to_owned()),
        _ => None,
    };
    let label = match t.kind {
        transform::ENCRYPTION => "encryption",
        transform::PRF => "prf",
        transform::INTEGRITY => "integrity",
        transform::KEY_EXCHANGE => "group",
        _ => "transform",
    };
    Some(known.unwrap_or_else(|| match bits {
        Some(bits) => format!("{label}({}/{bits})", t.id),
        None => format!("{label}({})", t.id),
    }))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ike(text: &str) -> IkeProposal {
        text.parse().unwrap()
    }

    fn child(text: &str) -> ChildProposal {
        text.parse().unwrap()
    }

    #[test]
    fn many_transforms_in_one_proposal_are_sifted() {
        let mut offer = emit(ike("aes256-sha256-x25519"), 3, &[]);
        offer.transforms.splice(
            0..0,
            [
                Transform::new(transform::ENCRYPTION, 12, Some(192)),
                Transform::new(transform::ENCRYPTION, 12, Some(128)),
                Transform::new(transform::INTEGRITY, 2, None),
                Transform::new(transform::KEY_EXCHANGE, 14, None),
            ],
        );
        let ours = [ike("aes128-sha256-x25519"), ike("aes256-sha256-x25519")];
        let selected = select_ike(&[offer], &ours, 0, 31).unwrap();
        assert_eq!(selected.suite, ours[0]);
        let answer = selected.answer(&[]);
        assert_eq!(answer[0].number, 3);
        assert_eq!(answer[0].transforms.len(), 4);
        assert_eq!(accepted_ike(&answer, &ours, 0).unwrap().suite, ours[0]);
    }

    #[test]
    fn the_group_of_the_key_exchange_payload_goes_first() {
        let offer = ike_offer(&IkeProposal::defaults(), &[]);
        for group in [31, 19, 14] {
            let selected = select_ike(&offer, &IkeProposal::defaults(), 0, group).unwrap();
            assert_eq!(selected.suite.kex.id(), group);
        }
        let selected = select_ike(&offer, &IkeProposal::defaults(), 0, 2).unwrap();
        assert_eq!(selected.suite.kex, KeyExchangeMethod::X25519);
    }

    #[test]
    fn unknown_transform_types_and_attributes_are_not_chosen() {
        let mut offer = child_offer(&[child("aes256gcm16")], 7);
        offer[0].transforms.push(Transform::new(13, 36, None));
        assert!(select_child(&offer, &[child("aes256gcm16")], ChildExchange::WithAuth).is_none());
    }

    /// RFC 9370: types 6 to 12 are chosen from like type 4; NONE may be among them.
    #[test]
    fn additional_key_exchanges_are_chosen_as_offered() {
        let (plain, hybrid) = (
            ike("aes256gcm16-sha384-x25519"),
            ike("aes256gcm16-sha384-x25519-ke1_mlkem768"),
        );
        let offer = ike_offer(&[hybrid, plain], &[]);
        assert_eq!(
            describe(&offer),
            [
                "aes256gcm16-prfsha384-x25519-ke1_mlkem768",
                "aes256gcm16-prfsha384-x25519"
            ]
        );
        let select = |offer: &[Proposal], ours: &[IkeProposal]| {
            select_ike(offer, ours, 0, 31).map(|s| (s.suite, s.answer(&[])))
        };
        let (suite, answer) = select(&offer, &[hybrid, plain]).unwrap();
        assert_eq!((suite, answer[0].number), (hybrid, 1));
        assert_eq!(accepted_ike(&answer, &[hybrid], 0).unwrap().suite, hybrid);
        assert!(accepted_ike(&answer, &[plain], 0).is_none(), "a downgrade");
        // Who does not do it takes the other proposal, and none where there is only the hybrid.
        let (suite, answer) = select(&offer, &[plain]).unwrap();
        assert_eq!((suite, answer[0].number), (plain, 2));
        assert!(select(&offer[..1], &[plain]).is_none());
        assert!(select(&offer[1..], &[hybrid]).is_none());
        let other = ike("aes256gcm16-sha384-x25519-ke2_mlkem768");
        assert!(select(&offer, &[other]).is_none(), "another place");
        // ADDKE1 may be offered with NONE as an alternative.
        let mut offer = offer[..1].to_vec();
        offer[0].transforms.push(Transform::new(6, 0, None));
        let (suite, answer) = select(&offer, &[plain]).unwrap();
        assert_eq!((suite, answer[0].transforms.len()), (plain, 4));
        assert!(accepted_ike(&answer, &[plain], 0).is_some());
    }

    #[test]
    fn with_auth_the_key_exchange_is_left_out() {
        let ours = [
            child("aes256gcm16-x25519"),
            child("aes256gcm16-ecp256"),
            child("aes128gcm16"),
        ];
        assert_eq!(suites_for(&ours, ChildExchange::WithAuth).len(), 2);
        // libreswan and others offer the group in IKE_AUTH all the same
        let offer = child_offer(&ours, 7);
        let selected = select_child(&offer, &ours, ChildExchange::WithAuth).unwrap();
        assert_eq!(selected.suite, child("aes256gcm16"));
        let hybrid = [child("aes256gcm16-x25519-ke1_mlkem768")];
        let with_hybrid = child_offer(&hybrid, 7);
        let selected = select_child(&with_hybrid, &hybrid, ChildExchange::WithAuth).unwrap();
        assert_eq!(selected.suite, child("aes256gcm16"));
        let own = ChildExchange::OnItsOwn(Some(19));
        assert_eq!(select_child(&offer, &ours, own).unwrap().suite, ours[1]);
    }

    #[test]
    fn none_is_as_good_as_absent_and_answered_in_kind() {
        let mut offer = child_offer(&[child("aes256gcm16")], 7);
        offer[0]
            .transforms
            .push(Transform::new(transform::INTEGRITY, 0, None));
        let ours = [child("aes256gcm16")];
        let own = ChildExchange::OnItsOwn(None);
        let selected = select_child(&offer, &ours, own).unwrap();
        assert_eq!(selected.answer(&[0; 4])[0].transforms.len(), 3);
        assert!(accepted_child(&selected.answer(&[0; 4]), &ours, own).is_some());
    }

    #[test]
    fn ciphers_without_integrity_of_their_own_come_with_an_hmac() {
        let own = ChildExchange::OnItsOwn(None);
        let ours = [child("aes256-sha512"), child("chacha20poly1305")];
        let offer = child_offer(&ours, 7);
        let kinds = |p: &Proposal| {
            p.transforms
                .iter()
                .map(|t| (t.kind, t.id))
                .collect::<Vec<_>>()
        };
        use transform::{ENCRYPTION, ESN, INTEGRITY};
        assert_eq!(
            kinds(&offer[0]),
            [(ENCRYPTION, 12), (INTEGRITY, 14), (ESN, 0)]
        );
        assert_eq!(kinds(&offer[1]), [(ENCRYPTION, 28), (ESN, 0)]);
        assert_eq!(describe(&offer), ["aes256-sha512", "chacha20poly1305"]);
        // strongSwan puts all ciphers of a kind and all HMACs into one proposal.
        let mut offer = child_offer(&ours[..1], 7);
        offer[0].transforms.extend([
            Transform::new(ENCRYPTION, 12, Some(128)),
            Transform::new(INTEGRITY, 12, None),
            Transform::new(INTEGRITY, 2, None),
        ]);
        for taken in ["aes128-sha256", "aes256-sha1", "aes128-sha512"] {
            let selected = select_child(&offer, &[child(taken)], own).unwrap();
            let answer = selected.answer(&[0; 4]);
            assert_eq!(describe(&answer), [taken]);
            assert!(accepted_child(&answer, &[child(taken)], own).is_some());
        }
        for refused in [
            "aes128gcm16",
            "aes192-sha256",
            "aes128-sha384",
            "null-sha256",
        ] {
            assert!(select_child(&offer, &[child(refused)], own).is_none());
        }
        // A combined mode with an HMAC beside it is nobody's proposal.
        let mut offer = child_offer(&ours[1..], 7);
        offer[0]
            .transforms
            .push(Transform::new(INTEGRITY, 12, None));
        assert!(select_child(&offer, &ours, own).is_none());
    }

    #[test]
    fn ah_is_offered_with_integrity_and_esn() {
        let own = ChildExchange::OnItsOwn(None);
        let ours = [child("ah-sha256-esn"), child("ah-aes128gmac")];
        let offer = child_offer(&ours, 7);
        let kinds = |p: &Proposal| {
            let kinds = p.transforms.iter().map(|t| (t.kind, t.id));
            (p.protocol, kinds.collect::<Vec<_>>())
        };
        use transform::{ESN, INTEGRITY};
        assert_eq!(kinds(&offer[0]), (2, vec![(INTEGRITY, 12), (ESN, 1)]));
        assert_eq!(kinds(&offer[1]), (2, vec![(INTEGRITY, 9), (ESN, 0)]));
        assert_eq!(describe(&offer), ["ah-sha256-esn", "ah-aes128gmac"]);
        let selected = select_child(&offer, &ours[1..], own).unwrap();
        let answer = selected.answer(&[0; 4]);
        assert_eq!(accepted_child(&answer, &ours, own).unwrap().suite, ours[1]);
        // Neither takes the other's, though the integrity algorithm is one.
        assert!(select_child(&offer, &[child("null-sha256-esn")], own).is_none());
        let esp = child_offer(&[child("null-sha256-esn")], 7);
        assert!(select_child(&esp, &ours, own).is_none());
    }

    #[test]
    fn an_answer_must_be_one_of_ours() {
        let ours = [ike("aes256gcm16-sha384-x25519")];
        let other = ike_offer(&[ike("aes128gcm16-sha256-x25519")], &[]);
        assert!(accepted_ike(&other, &ours, 0).is_none());
        let two = ike_offer(&IkeProposal::defaults(), &[]);
        assert!(accepted_ike(&two, &ours, 0).is_none());
        assert_eq!(describe(&other), ["aes128gcm16-prfsha256-x25519"]);
    }
}
