//! What an operator can do about a refusal, beyond what it says itself.

use std::collections::BTreeSet;

use esplanade_ike::{EapError, Refusal};

/// The kind of a refusal, for programs.
pub(super) fn code(refusal: &Refusal) -> &'static str {
    match refusal {
        Refusal::UnknownAddress => "unknown-address",
        Refusal::UnknownIdentity { .. } | Refusal::OtherIdentity { .. } => "identities-differ",
        Refusal::WrongKey { .. } => "keys-differ",
        Refusal::OtherMethod { .. } => "methods-differ",
        Refusal::NoCertificate { .. }
        | Refusal::Certificate(_)
        | Refusal::NotNamed { .. }
        | Refusal::UnknownSignature { .. }
        | Refusal::WrongSignature { .. } => "certificate-refused",
        Refusal::NoCommonHash { .. } | Refusal::CannotSign | Refusal::NoClock => "cannot-prove",
        Refusal::RefusedByPeer { .. } => "refused-by-peer",
        Refusal::ProposalMismatch { .. }
        | Refusal::ProposalRefused { .. }
        | Refusal::ProposalNotOurs { .. }
        | Refusal::GroupNotOurs { .. } => "proposals-differ",
        Refusal::SelectorMismatch { .. }
        | Refusal::SelectorsRefused { .. }
        | Refusal::SelectorsWidened { .. } => "selectors-differ",
        Refusal::TransportRefused { .. } => "modes-differ",
        Refusal::ConnectedAlready { .. } => "connected-already",
        Refusal::SelectorsTaken { .. } => "selectors-taken",
        Refusal::NoAddress { .. } | Refusal::PoolExhausted { .. } => "no-address",
        Refusal::Eap { .. } => "eap-failed",
        Refusal::NoAddressWanted { .. } => "no-address-wanted",
        Refusal::NoAddressGiven => "no-address-given",
        Refusal::AhThroughNat { .. } => "ah-through-nat",
        Refusal::NoAnswer { .. } => "no-answer",
        Refusal::NoSpi | Refusal::TooManyIkeSas => "no-room",
        Refusal::BadKeyExchange { .. }
        | Refusal::Unending
        | Refusal::PeerError { .. }
        | Refusal::Malformed { .. } => "peer-error",
    }
}

/// What to change.
pub(super) fn remedy(refusal: &Refusal) -> Option<String> {
    let text = match refusal {
        Refusal::ProposalMismatch { theirs, ours, .. } => return nearest(ours, theirs),
        Refusal::UnknownAddress => {
            "write the peer's address as the `address` of its `remote`, or `any`"
        }
        Refusal::UnknownIdentity { .. } => {
            "write what the peer says into `identity` of `remote`, and what it asks for into that of `local`; or change the peer"
        }
        Refusal::OtherIdentity { .. } => {
            "if that is the right peer, write what it says into `identity` of `remote`"
        }
        Refusal::WrongKey { .. } => {
            "write the same key into both configurations: look for blanks and line ends"
        }
        Refusal::OtherMethod { .. } => {
            "let both ends use keys, or both certificates: see `authentication` here and there"
        }
        Refusal::NoCertificate { .. } => {
            "have the peer send its certificate, as strongSwan does with `send_cert = always`"
        }
        Refusal::Certificate(_) => {
            "if the authority is right, put it into `ca`; a certificate that is revoked, out of date or for another use is for the peer to replace"
        }
        Refusal::NotNamed { .. } => {
            "have the peer say one of those names, or issue it a certificate with this one"
        }
        Refusal::UnknownSignature { .. } => "have the peer sign with SHA-2 (RFC 7427)",
        Refusal::WrongSignature { .. } => {
            "look whether the peer's private key is that of its certificate"
        }
        Refusal::NoCommonHash { .. } => {
            "take a key of another kind, or let the peer announce SHA-2"
        }
        Refusal::CannotSign => "look at the private key that `key` names",
        Refusal::NoClock => "set the clock, and start the control plane again",
        Refusal::RefusedByPeer { .. } => {
            "the peer's log says why: compare both identities, the pre-shared key, or the authorities and lists that it trusts"
        }
        Refusal::ProposalRefused { .. } => {
            "look at the peer's proposals: one of ours has to be among them, key exchange of the child (PFS) included"
        }
        Refusal::ProposalNotOurs { .. } | Refusal::GroupNotOurs { .. } => {
            "write what the peer wants into `proposals`, or have it take one of ours"
        }
        Refusal::SelectorMismatch { .. } => {
            "write these prefixes into a child, ours into `local` and the peer's into `remote`, or change the peer's"
        }
        Refusal::SelectorsRefused { .. } => {
            "compare with the peer's configuration, where ours are its remote ones: each side has to have the other's"
        }
        Refusal::SelectorsWidened { .. } => "narrow the peer's selectors to those of this child",
        Refusal::TransportRefused { .. } => {
            "write `mode: tunnel` or `mode: transport-if-possible`, or change the peer"
        }
        Refusal::ConnectedAlready { .. } => {
            "end the other one with `esplanade terminate`, or write `unique: replace`, or how often it may be"
        }
        Refusal::NoAddress { .. } => "give the pool addresses of that family",
        Refusal::PoolExhausted { .. } => {
            "add addresses to the pool, shorten its `hold`, or release what `esplanade leases` shows as kept"
        }
        Refusal::Eap { error, .. } => match error {
            EapError::UnknownUser => {
                "add the user to the file that `eap: { users: ... }` names, and reload"
            }
            EapError::NotAuthorised => {
                "write a `remote: { identity: ... }` that this name matches, or `any`"
            }
            EapError::Reconfigured => "have the client call again",
            EapError::Nameless => {
                "give the client a certificate with a subject alternative name: its mail address, or a domain name"
            }
            EapError::OtherMethod { .. } => "write the same `eap: { method: ... }` on both sides",
            EapError::ServerUnproven => {
                "have the server prove itself by a certificate before EAP (strongSwan: `auth = pubkey` in its `local`)"
            }
            _ => "write the same name and password on both sides",
        },
        Refusal::NoAddressWanted { .. } => {
            "have the client ask for an address (strongSwan: `vips = 0.0.0.0`), or take `pool` out of the tunnel"
        }
        Refusal::NoAddressGiven => "give the peer a pool for us, or leave `request` out",
        Refusal::SelectorsTaken { .. } => "give each client an address of its own",
        Refusal::AhThroughNat { .. } => "write `protocol: esp`",
        Refusal::NoAnswer { .. } => return None,
        Refusal::NoSpi => "raise `sa-capacity` in `dataplane`, and restart the dataplane",
        Refusal::TooManyIkeSas => {
            "terminate tunnels that nobody needs, or spread them over several gateways"
        }
        Refusal::PeerError { .. } => "the peer's log says why",
        Refusal::BadKeyExchange { .. } | Refusal::Unending | Refusal::Malformed { .. } => {
            "look whether the peer runs a current version; `tcpdump -ni any udp port 500 or udp port 4500` shows who talks"
        }
    };
    Some(text.to_owned())
}

/// The pair of proposals that comes nearest to agreeing, and what keeps it from that.
fn nearest(ours: &[String], theirs: &[String]) -> Option<String> {
    let pairs = ours
        .iter()
        .flat_map(|ours| theirs.iter().map(move |theirs| (ours, theirs)));
    let compared = pairs.map(|(ours, theirs)| {
        let (own, other) = (transforms(ours), transforms(theirs));
        let lacking: Vec<&str> = own.difference(&other).copied().collect();
        let besides: Vec<&str> = other.difference(&own).copied().collect();
        (lacking.len(), besides.len(), ours, theirs, lacking, besides)
    });
    let (.., ours, theirs, lacking, besides) =
        compared.min_by_key(|(lacking, besides, ..)| (*lacking, *besides))?;
    let difference = match (lacking.is_empty(), besides.is_empty()) {
        (false, _) => format!("the peer's has no {}", lacking.join(" and no ")),
        (true, false) => format!("ours has no {}", besides.join(" and no ")),
        (true, true) => "they differ in extended sequence numbers only".to_owned(),
    };
    Some(format!(
        "nearest are `{ours}` here and `{theirs}` there: {difference}; write the same into `proposals` on both sides"
    ))
}

/// The transforms that a proposal names. A peer's names its pseudo-random function as such, ours by its hash, and its
/// hash once where integrity has the same.
fn transforms(proposal: &str) -> BTreeSet<&str> {
    let parts = proposal.split('-');
    parts
        .map(|part| part.strip_prefix("prf").unwrap_or(part))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(ours: &[&str], theirs: &[&str]) -> String {
        let owned =
            |list: &[&str]| -> Vec<String> { list.iter().map(ToString::to_string).collect() };
        nearest(&owned(ours), &owned(theirs)).unwrap()
    }

    #[test]
    fn the_nearest_pair_is_named_with_what_differs() {
        let ours = [
            "aes256gcm16-sha384-x25519-ke1_mlkem768",
            "aes256gcm16-sha384-x25519",
            "aes256-sha256-modp2048",
        ];
        assert_eq!(
            of(
                &ours,
                &[
                    "aes128-sha1-prfsha1-modp1024",
                    "aes256-sha256-prfsha256-modp3072"
                ]
            ),
            "nearest are `aes256-sha256-modp2048` here and `aes256-sha256-prfsha256-modp3072` there: \
             the peer's has no modp2048; write the same into `proposals` on both sides"
        );
        // A peer may put all that it takes into one proposal.
        assert!(
            of(&ours, &["aes256gcm16-aes128gcm16-prfsha384-prfsha256-ecp256-ecp384"])
                .contains("here and `aes256gcm16-aes128gcm16-prfsha384-prfsha256-ecp256-ecp384` there: the peer's has no x25519;")
        );
        assert!(
            of(
                &["aes256gcm16-x25519"],
                &["aes256gcm16-x25519-ke1_mlkem768"]
            )
            .contains("ours has no ke1_mlkem768")
        );
    }
}
