//! The parsers of what the other plane writes, for the fuzz targets: any octets may be in shared memory or on the
//! socket.

use crate::{
    handshake::{decode_answer, decode_setup},
    record::{decode_command, decode_event, decode_sa},
};

/// Reads octets as every message and every record that the planes exchange. The results do not matter; that there is one
/// does.
pub fn read_as_everything(octets: &[u8]) {
    let _ = decode_setup(octets);
    let _ = decode_answer(octets);
    let _ = decode_command(&words(octets));
    decode_event(&words(octets));
    decode_sa(&words(octets));
}

/// The octets as words, as many as asked for; those that are not there are zero.
fn words<const N: usize>(octets: &[u8]) -> [u64; N] {
    let mut words = [0; N];
    for (word, octets) in words.iter_mut().zip(octets.as_chunks().0) {
        *word = u64::from_le_bytes(*octets);
    }
    words
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn any_octets_are_survived(octets in prop::collection::vec(any::<u8>(), 0..2048)) {
            read_as_everything(&octets);
        }
    }
}
