//! Project Wycheproof's vectors of the AEADs, those with our nonce and tag lengths, against every engine.

mod common;

use common::{able, open, seal, split_nonce};
use esplanade_crypto::{Algorithm, Trailer};
use wycheproof::{
    TestResult,
    aead::{TestName, TestSet},
};

#[test]
fn aes_gcm() {
    run(TestName::AesGcm, 300, |bits| {
        Some(match bits {
            128 => Algorithm::AES_128_GCM_16,
            192 => Algorithm::AES_192_GCM_16,
            256 => Algorithm::AES_256_GCM_16,
            _ => return None,
        })
    });
}

#[test]
fn chacha20_poly1305() {
    run(TestName::ChaCha20Poly1305, 600, |bits| {
        (bits == 256).then_some(Algorithm::CHACHA20_POLY1305)
    });
}

/// Runs what fits, which must be as many as `least` with each engine together.
fn run(name: TestName, least: usize, algorithm: impl Fn(usize) -> Option<Algorithm>) {
    let set = TestSet::load(name).unwrap();
    let ours = set
        .test_groups
        .iter()
        .filter(|group| group.nonce_size == 96 && group.tag_size == 128);
    let mut run = 0;
    for group in ours {
        let Some(algorithm) = algorithm(group.key_size) else {
            continue;
        };
        for test in &group.tests {
            let (material, iv) = split_nonce(&test.key, &test.nonce);
            let ciphertext = [&test.ct[..], &test.tag].concat();
            let aad = &test.aad[..];
            for engine in able(algorithm) {
                let what = format!("{engine}: test {} {}", test.tc_id, test.comment);
                let opened = open(engine, algorithm, &material, iv, aad, &ciphertext);
                let expected = match test.result {
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
