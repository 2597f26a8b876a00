//! The keys that Poly1305 takes for one packet each (RFC 8439 2.6), of sixteen packets at once.

use super::{
    chacha::{LANES, States, store},
    hash::SIDE_BY_SIDE,
    packet::Packet,
};
use core::arch::x86_64::*;

/// Sixteen packets' keys, word by word.
#[repr(C, align(64))]
pub(super) struct OneTimeKeys([[u32; LANES]; 8]);

impl OneTimeKeys {
    pub(super) const fn new() -> Self {
        Self([[0; LANES]; 8])
    }

    /// Makes those of sixteen packets at most. RFC 8439 2.6: "The block counter is set to zero", and "we take the first 256
    /// bits of the serialized state".
    #[inline]
    #[target_feature(enable = "avx512bw,avx512dq,avx512vl,avx512ifma,avx512vbmi2,bmi2")]
    pub(super) fn make(&mut self, states: &mut States, packets: &[&Packet<'_>]) {
        let Some(first) = packets.first() else {
            return;
        };
        let mut all = [*first; LANES];
        all[..packets.len()].copy_from_slice(packets);
        states.set_starts(&all.map(|packet| &packet.start));
        states.set_keys(&all.map(|packet| packet.schedule));
        for (row, words) in self.0.iter_mut().zip(states.stream()) {
            store(row, words);
        }
    }

    /// The keys of eight consecutive lanes: r, then s, by their halves.
    #[inline]
    #[target_feature(enable = "avx512bw,avx512dq,avx512vl,avx512ifma,avx512vbmi2,bmi2")]
    pub(super) fn halves(&self, lanes: usize) -> [[__m512i; 2]; 2] {
        let word = |at: usize| {
            let (eights, _) = self.0[at].as_chunks::<SIDE_BY_SIDE>();
            let eight = &eights[lanes / SIDE_BY_SIDE];
            // SAFETY: reads the 32 bytes of the reference.
            _mm512_cvtepu32_epi64(unsafe { _mm256_loadu_si256(eight.as_ptr().cast()) })
        };
        let half = |at: usize| _mm512_or_si512(word(at), _mm512_slli_epi64::<32>(word(at + 1)));
        [[half(0), half(2)], [half(4), half(6)]]
    }
}
