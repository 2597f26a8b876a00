//! A batch allocates nothing, whatever becomes of its packets.

mod common;

use common::{iv, pairs, pattern, received_iv, trailer};
use esplanade_crypto::{
    Aad, Algorithm, ComputeJob, EngineKind, Integrity, IntegrityKey, OpenJob, OpeningKey, SealJob,
    SealingKey, Verdict, VerifyJob, compute_batch, open_batch, seal_batch, verify_batch,
};
use stats_alloc::{INSTRUMENTED_SYSTEM, Region, StatsAlloc};
use std::alloc::System;

#[global_allocator]
static ALLOCATOR: &StatsAlloc<System> = &INSTRUMENTED_SYSTEM;

// One test alone in its process: another thread's allocations would count too.
#[test]
fn batches_allocate_nothing() {
    esp();
    ah();
}

/// What it allocates each time: the test harness's own thread may allocate meanwhile, but not again and again.
fn allocations(mut work: impl FnMut()) -> usize {
    let once = |_| {
        let region = Region::new(ALLOCATOR);
        work();
        region.change().allocations
    };
    (0..8).map(once).min().unwrap_or_default()
}

const LENGTH: usize = 1400;

/// All kinds of keys in one batch, two packets of each, first in segments and then not, every third one forged.
fn esp() {
    let kinds: Vec<_> = pairs().chain(pairs()).collect();
    let material = |algorithm: Algorithm| pattern(algorithm.key_material_len(), 1);
    let plaintext = pattern(LENGTH, 2);
    let aad = Aad::plain(256, 1);

    let keys: Vec<_> = kinds
        .iter()
        .map(|(engine, kind)| SealingKey::new(*engine, *kind, &material(*kind)).unwrap())
        .collect();
    let mut sealed: Vec<_> = kinds
        .iter()
        .map(|(_, kind)| vec![0; LENGTH + trailer(*kind, LENGTH).len() + kind.icv_len()])
        .collect();
    let cut = plaintext.split_at(77);
    let source = [cut.0, cut.1];
    let mut segments: Vec<_> = sealed
        .iter_mut()
        .map(|out| <[&mut [u8]; 2]>::from(out.split_at_mut(1000)))
        .collect();
    let mut jobs: Vec<_> = (0..)
        .zip(&keys)
        .zip(&mut segments)
        .map(|((number, key), out)| {
            let kind = key.algorithm();
            let (iv, trailer) = (iv(kind, number), trailer(kind, LENGTH));
            SealJob::in_segments(key, iv, aad, &source, trailer, out).unwrap()
        })
        .collect();
    assert_eq!(allocations(|| seal_batch(&mut jobs)), 0);
    drop(jobs);
    let in_segments = sealed.clone();
    let mut jobs: Vec<_> = (0..)
        .zip(&keys)
        .zip(&mut sealed)
        .map(|((number, key), out)| {
            let kind = key.algorithm();
            let (iv, trailer) = (iv(kind, number), trailer(kind, LENGTH));
            SealJob::new(key, iv, aad, &plaintext, trailer, out).unwrap()
        })
        .collect();
    assert_eq!(allocations(|| seal_batch(&mut jobs)), 0);
    drop(jobs);
    assert_eq!(sealed, in_segments);

    let keys: Vec<_> = kinds
        .iter()
        .map(|(engine, kind)| OpeningKey::new(*engine, *kind, &material(*kind)).unwrap())
        .collect();
    sealed
        .iter_mut()
        .step_by(3)
        .for_each(|packet| packet[9] ^= 1);
    let mut opened: Vec<_> = (sealed.iter().zip(&kinds))
        .map(|(sealed, (_, kind))| vec![0; sealed.len() - kind.icv_len()])
        .collect();
    let mut jobs: Vec<_> = (0..)
        .zip(&keys)
        .zip(sealed.iter().zip(&mut opened))
        .map(|((number, key), (packet, out))| {
            let iv = received_iv(key.algorithm(), number);
            OpenJob::new(key, iv, aad, packet, out).unwrap()
        })
        .collect();
    let mut verdicts = vec![Verdict::Forged; kinds.len()];
    assert_eq!(allocations(|| open_batch(&mut jobs, &mut verdicts)), 0);
    for (at, verdict) in verdicts.into_iter().enumerate() {
        assert_eq!(verdict == Verdict::Forged, at % 3 == 0, "{:?}", kinds[at]);
    }
}

fn ah() {
    let message = pattern(LENGTH, 2);
    let segments = [&message[..20], &[0; 2], &message[22..]];
    for (engine, integrity) in EngineKind::available()
        .iter()
        .flat_map(|engine| Integrity::ALL.map(|integrity| (*engine, integrity)))
    {
        let material = pattern(integrity.key_material_len(), 1);
        let key = IntegrityKey::new(engine, integrity, &material).unwrap();
        let mut icv = vec![0; integrity.icv_len()];
        let iv = common::numbered(1);
        let mut jobs = [ComputeJob::new(&key, iv, &segments, &mut icv).unwrap()];
        assert_eq!(allocations(|| compute_batch(&mut jobs)), 0);
        let jobs = [VerifyJob::new(&key, 1u64.to_be_bytes(), &segments, &icv).unwrap()];
        let mut verdicts = [Verdict::Forged];
        assert_eq!(allocations(|| verify_batch(&jobs, &mut verdicts)), 0);
        assert_eq!(verdicts, [Verdict::Authentic], "{engine} {integrity}");
    }
}
