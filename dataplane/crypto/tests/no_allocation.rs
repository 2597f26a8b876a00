//! A batch allocates nothing, whatever becomes of its packets.

mod common;

use common::{pairs, pattern};
use esplanade_crypto::{
    Aad, Algorithm, Iv, OpenJob, OpeningKey, SealJob, SealingKey, Trailer, Verdict, open_batch,
    seal_batch,
};
use stats_alloc::{INSTRUMENTED_SYSTEM, Region, StatsAlloc};
use std::alloc::System;

#[global_allocator]
static ALLOCATOR: &StatsAlloc<System> = &INSTRUMENTED_SYSTEM;

// One test alone in its process: another thread's allocations would count too.
#[test]
fn batches_allocate_nothing() {
    let kinds: Vec<_> = pairs().collect();
    let material = |algorithm: Algorithm| pattern(algorithm.key_material_len(), 1);
    let sealing: Vec<_> = kinds
        .iter()
        .map(|(engine, kind)| SealingKey::new(*engine, *kind, &material(*kind)).unwrap())
        .collect();
    let opening: Vec<_> = kinds
        .iter()
        .map(|(engine, kind)| OpeningKey::new(*engine, *kind, &material(*kind)).unwrap())
        .collect();
    let plaintext = pattern(1400, 2);
    let trailer = Trailer::for_payload(plaintext.len(), 4);
    let aad = Aad::plain(256, 1);
    let mut sealed = vec![vec![0; plaintext.len() + trailer.len() + 16]; 64];
    let mut opened = vec![vec![0; plaintext.len() + trailer.len()]; 64];

    let iv = Iv::from_sequence;
    let mut jobs: Vec<_> = (0..)
        .zip(sealing.iter().cycle())
        .zip(&mut sealed)
        .map(|((number, key), out)| {
            SealJob::new(key, iv(number), aad, &plaintext, trailer, out).unwrap()
        })
        .collect();
    let region = Region::new(ALLOCATOR);
    seal_batch(&mut jobs);
    let sealing_change = region.change();
    drop(jobs);

    // Every third packet is forged.
    sealed
        .iter_mut()
        .step_by(3)
        .for_each(|packet| packet[9] ^= 1);
    let mut jobs: Vec<_> = (0u64..)
        .zip(opening.iter().cycle())
        .zip(sealed.iter().zip(&mut opened))
        .map(|((number, key), (packet, out))| {
            OpenJob::new(key, number.to_be_bytes(), aad, packet, out).unwrap()
        })
        .collect();
    let mut verdicts = [Verdict::Forged; 64];
    let region = Region::new(ALLOCATOR);
    open_batch(&mut jobs, &mut verdicts);
    let opening_change = region.change();

    assert_eq!(
        (sealing_change.allocations, opening_change.allocations),
        (0, 0)
    );
    let authentic = verdicts
        .iter()
        .filter(|verdict| **verdict == Verdict::Authentic)
        .count();
    assert_eq!(authentic, 64 - 22);
}
