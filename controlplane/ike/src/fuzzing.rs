//! The parsers of what an Encrypted payload holds, for the fuzz targets: who has authenticated may still write anything, and
//! who speaks EAP has not even done that.

use crate::wire::configuration::{Given, Wish};
use crate::wire::payload::{emit_chain, parse_chain};

/// Reads octets as the payloads of an Encrypted payload; the first octet is the type of the first one (RFC 7296 3.2,
/// 3.14).
///
/// # Panics
///
/// When what was read, once written, does not read the same.
pub fn read_decrypted(octets: &[u8]) {
    let Some((&first, body)) = octets.split_first() else {
        return;
    };
    let Ok(chain) = parse_chain(first, body) else {
        return;
    };
    let (first, written) = emit_chain(&chain.payloads);
    let again = parse_chain(first, &written);
    assert!(
        again.is_ok_and(|again| again.payloads == chain.payloads),
        "what was written reads otherwise"
    );
}

/// Reads octets as a packet of EAP, of which either end makes what it can, and as the messages of MSCHAPv2.
///
/// # Panics
///
/// When anybody succeeds without the password, or what was read, once written, does not read the same.
pub fn read_eap(octets: &[u8]) {
    crate::eap::read_anything(octets);
}

/// Reads octets as attributes of a Configuration payload, of whatever kind.
pub fn read_configuration(octets: &[u8]) {
    for kind in 0..=4 {
        let body = [&[kind, 0, 0, 0], octets].concat();
        let Ok(chain) = parse_chain(47, &[&header(body.len()), body.as_slice()].concat()) else {
            return;
        };
        for payload in &chain.payloads {
            let _ = Wish::read(payload);
            let _ = Given::read(payload);
        }
    }
}

/// The generic header of the only payload, with a body of so many octets (RFC 7296 3.2).
fn header(body: usize) -> [u8; 4] {
    let [high, low] = u16::try_from(4 + body).unwrap_or(u16::MAX).to_be_bytes();
    [0, 0, high, low]
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::collection::vec;
    use proptest::prelude::*;

    /// A chain of payloads of any types and bodies, whose generic headers are right.
    fn chain() -> impl Strategy<Value = Vec<u8>> {
        let payload = (33..=50_u8, vec(any::<u8>(), 0..60));
        vec(payload, 1..6).prop_map(|payloads| {
            let kinds: Vec<u8> = payloads.iter().map(|(kind, _)| *kind).collect();
            let mut octets = vec![kinds[0]];
            for (at, (_, body)) in payloads.iter().enumerate() {
                let next = kinds.get(at + 1).copied().unwrap_or(0);
                let len = u8::try_from(4 + body.len()).unwrap();
                octets.extend([next, 0, 0, len]);
                octets.extend(body);
            }
            octets
        })
    }

    proptest! {
        #[test]
        fn any_octets_are_survived(octets in vec(any::<u8>(), 0..400)) {
            read_decrypted(&octets);
        }

        #[test]
        fn any_configuration_and_any_eap_is_survived(octets in vec(any::<u8>(), 0..200)) {
            read_configuration(&octets);
            read_eap(&octets);
        }

        #[test]
        fn any_chain_is_survived(mut octets in chain(), at in any::<prop::sample::Index>(), value: u8) {
            read_decrypted(&octets);
            let at = at.index(octets.len());
            octets[at] = value;
            read_decrypted(&octets);
        }
    }

    /// The seeds of the fuzz target are read to their ends, so that it starts from something.
    #[test]
    fn the_seeds_are_chains() {
        let seeds = concat!(
            env!("CARGO_MANIFEST_DIR"),
            "/../../bench/fuzz/seeds/payloads"
        );
        let mut found = 0;
        for seed in std::fs::read_dir(seeds).unwrap() {
            let octets = std::fs::read(seed.unwrap().path()).unwrap();
            let chain = parse_chain(octets[0], &octets[1..]).unwrap();
            assert!(!chain.payloads.is_empty());
            found += 1;
        }
        assert!(found >= 5);
    }
}
