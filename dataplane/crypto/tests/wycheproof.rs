//! Project Wycheproof's vectors of AES-GCM, those with our nonce and tag lengths, against every engine.

mod common;

use common::{open, seal, split_nonce};
use esplanade_crypto::{Algorithm, EngineKind, Trailer};
use wycheproof::{
    TestResult,
    aead::{TestName, TestSet},
};

#[test]
fn aes_gcm() {
    let set = TestSet::load(TestName::AesGcm).unwrap();
    let ours = set
        .test_groups
        .iter()
        .filter(|group| group.nonce_size == 96 && group.tag_size == 128);
    let mut run = 0;
    for group in ours {
        let algorithm = match group.key_size {
            128 => Algorithm::Aes128Gcm16,
            256 => Algorithm::Aes256Gcm16,
            _ => continue,
        };
        for test in &group.tests {
            let (key_material, iv) = split_nonce(&test.key, &test.nonce);
            let ciphertext = [&test.ct[..], &test.tag].concat();
            for engine in EngineKind::available() {
                let opened = open(
                    *engine,
                    algorithm,
                    &key_material,
                    iv,
                    &test.aad[..],
                    &ciphertext,
                );
                let expected = match test.result {
                    TestResult::Valid => {
                        let sealed = seal(
                            *engine,
                            algorithm,
                            &key_material,
                            iv,
                            &test.aad[..],
                            &test.pt,
                            Trailer::NONE,
                        );
                        assert_eq!(sealed, ciphertext, "{engine}: test {}", test.tc_id);
                        Some(test.pt.to_vec())
                    }
                    TestResult::Invalid => None,
                    TestResult::Acceptable => continue,
                };
                assert_eq!(
                    opened, expected,
                    "{engine}: test {} {}",
                    test.tc_id, test.comment
                );
                run += 1;
            }
        }
    }
    assert!(run > 200, "only {run} vectors fit");
}
