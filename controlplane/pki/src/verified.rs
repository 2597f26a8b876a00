//! Remembers which signatures have held, so that an authority's certificates and lists, which come again with each peer, are not
//! computed anew each time. All other checks of a chain are made every time.

use std::collections::HashSet;
use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};

use aws_lc_rs::digest::{Context, SHA256};
use rustls_pki_types::{AlgorithmIdentifier, InvalidSignature, SignatureVerificationAlgorithm};
use webpki::ALL_VERIFICATION_ALGS;

/// Signatures that are remembered at least; those that come again stay, others go after twice as many.
const REMEMBERED: usize = 256;

/// Of key, message and signature together.
type Fingerprint = [u8; 32];

/// Signatures that have held, in two generations.
#[derive(Default)]
struct Memory {
    young: HashSet<Fingerprint>,
    old: HashSet<Fingerprint>,
}

impl Memory {
    fn recalls(&mut self, fingerprint: &Fingerprint) -> bool {
        if self.young.contains(fingerprint) {
            return true;
        }
        let recalled = self.old.remove(fingerprint);
        if recalled {
            self.keep(*fingerprint);
        }
        recalled
    }

    fn keep(&mut self, fingerprint: Fingerprint) {
        if self.young.len() >= REMEMBERED {
            self.old = std::mem::take(&mut self.young);
        }
        self.young.insert(fingerprint);
    }
}

/// An algorithm that computes each signature that holds only once.
struct Remembering {
    algorithm: &'static dyn SignatureVerificationAlgorithm,
    memory: Arc<Mutex<Memory>>,
}

impl fmt::Debug for Remembering {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Remembering({:?})", self.algorithm)
    }
}

impl SignatureVerificationAlgorithm for Remembering {
    fn verify_signature(
        &self,
        public_key: &[u8],
        message: &[u8],
        signature: &[u8],
    ) -> Result<(), InvalidSignature> {
        let fingerprint = self.fingerprint(&[public_key, message, signature]);
        let memory = || self.memory.lock().unwrap_or_else(PoisonError::into_inner);
        if memory().recalls(&fingerprint) {
            return Ok(());
        }
        self.algorithm
            .verify_signature(public_key, message, signature)?;
        memory().keep(fingerprint);
        Ok(())
    }

    fn public_key_alg_id(&self) -> AlgorithmIdentifier {
        self.algorithm.public_key_alg_id()
    }

    fn signature_alg_id(&self) -> AlgorithmIdentifier {
        self.algorithm.signature_alg_id()
    }
}

impl Remembering {
    fn fingerprint(&self, parts: &[&[u8]]) -> Fingerprint {
        let mut context = Context::new(&SHA256);
        let (key, signature) = (self.public_key_alg_id(), self.signature_alg_id());
        for part in [key.as_ref(), signature.as_ref()].iter().chain(parts) {
            context.update(&part.len().to_be_bytes());
            context.update(part);
        }
        let mut fingerprint = Fingerprint::default();
        fingerprint.copy_from_slice(context.finish().as_ref());
        fingerprint
    }
}

/// All algorithms that are taken, with one memory.
pub(crate) struct Verifiers(Vec<Remembering>);

impl Verifiers {
    pub(crate) fn new() -> Self {
        let memory = Arc::new(Mutex::new(Memory::default()));
        let remembering = |algorithm: &&'static dyn SignatureVerificationAlgorithm| Remembering {
            algorithm: *algorithm,
            memory: memory.clone(),
        };
        Self(ALL_VERIFICATION_ALGS.iter().map(remembering).collect())
    }

    pub(crate) fn all(&self) -> Vec<&dyn SignatureVerificationAlgorithm> {
        let each = self.0.iter();
        each.map(|algorithm| algorithm as &dyn SignatureVerificationAlgorithm)
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use super::*;

    /// Holds every signature that ends with its message, and counts how often it is asked.
    #[derive(Debug, Default)]
    struct Counting(AtomicUsize);

    impl SignatureVerificationAlgorithm for Counting {
        fn verify_signature(
            &self,
            _key: &[u8],
            message: &[u8],
            signature: &[u8],
        ) -> Result<(), InvalidSignature> {
            self.0.fetch_add(1, Ordering::Relaxed);
            let holds = signature.ends_with(message);
            holds.then_some(()).ok_or(InvalidSignature)
        }

        fn public_key_alg_id(&self) -> AlgorithmIdentifier {
            AlgorithmIdentifier::from_slice(b"key")
        }

        fn signature_alg_id(&self) -> AlgorithmIdentifier {
            AlgorithmIdentifier::from_slice(b"signature")
        }
    }

    fn remembering() -> (&'static Counting, Remembering) {
        let counting: &'static Counting = Box::leak(Box::default());
        let memory = Arc::default();
        (
            counting,
            Remembering {
                algorithm: counting,
                memory,
            },
        )
    }

    #[test]
    fn what_held_is_computed_once_and_what_did_not_each_time() {
        let (counting, remembering) = remembering();
        let asked = || counting.0.load(Ordering::Relaxed);
        for _ in 0..3 {
            assert!(remembering.verify_signature(b"k", b"m", b"sm").is_ok());
        }
        assert_eq!(asked(), 1);
        for _ in 0..3 {
            assert!(remembering.verify_signature(b"k", b"m", b"s").is_err());
        }
        assert_eq!(asked(), 4);
        // The same octets with other borders are another signature.
        assert!(remembering.verify_signature(b"km", b"", b"sm").is_ok());
        assert!(remembering.verify_signature(b"", b"km", b"sm").is_err());
        assert_eq!(asked(), 6);
    }

    #[test]
    fn what_comes_again_stays_and_the_rest_is_bounded() {
        let (counting, remembering) = remembering();
        let asked = || counting.0.load(Ordering::Relaxed);
        for leaf in 0..10 * REMEMBERED {
            let leaf = leaf.to_be_bytes();
            assert!(
                remembering
                    .verify_signature(b"k", b"authority", b"authority")
                    .is_ok()
            );
            assert!(remembering.verify_signature(b"k", &leaf, &leaf).is_ok());
        }
        assert_eq!(asked(), 1 + 10 * REMEMBERED);
        let memory = remembering.memory.lock().unwrap();
        assert!(memory.young.len() + memory.old.len() <= 2 * REMEMBERED);
    }
}
