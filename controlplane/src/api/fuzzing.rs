//! The parsers of the control API, for the fuzz targets: whoever may open the socket may write anything.

use serde::{Serialize, de::DeserializeOwned};

use super::{Request, Response};

/// Reads octets as a request, and as a response.
///
/// # Panics
///
/// When a message that was read cannot be written, or does not read again. A request reads the same; a response holds
/// fractions, which JSON does not keep to the last digit.
pub fn read_as_everything(octets: &[u8]) {
    if let Some((request, again)) = twice::<Request>(octets) {
        assert_eq!(request, again);
    }
    twice::<Response>(octets);
}

fn twice<M: Serialize + DeserializeOwned>(octets: &[u8]) -> Option<(M, M)> {
    let message: M = serde_json::from_slice(octets).ok()?;
    let again = serde_json::to_vec(&message).and_then(|line| {
        assert!(!line.contains(&b'\n'), "a message is one line");
        serde_json::from_slice(&line)
    });
    assert!(again.is_ok(), "what was written cannot be read");
    again.ok().map(|again| (message, again))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn seeds() -> Vec<Vec<u8>> {
        let seeds = concat!(env!("CARGO_MANIFEST_DIR"), "/../bench/fuzz/seeds/api");
        let entries = std::fs::read_dir(seeds).unwrap();
        entries
            .map(|seed| std::fs::read(seed.unwrap().path()).unwrap())
            .collect()
    }

    proptest! {
        #[test]
        fn any_octets_are_survived(octets in prop::collection::vec(any::<u8>(), 0..400)) {
            read_as_everything(&octets);
        }

        #[test]
        fn damaged_messages_are_survived(
            seed in any::<prop::sample::Selector>(),
            changes in prop::collection::vec((any::<prop::sample::Index>(), 0x20..0x7f_u8), 1..4),
        ) {
            let mut octets = seed.select(seeds());
            for (at, value) in changes {
                let at = at.index(octets.len());
                octets[at] = value;
            }
            read_as_everything(&octets);
        }
    }

    /// The fuzz target starts from these.
    #[test]
    fn the_seeds_are_messages() {
        let seeds = seeds();
        assert!(seeds.len() >= 5);
        for seed in seeds {
            let text = String::from_utf8_lossy(&seed);
            let request = twice::<Request>(&seed).is_some();
            assert!(request || twice::<Response>(&seed).is_some(), "{text}");
        }
    }
}
