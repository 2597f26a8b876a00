//! The payloads within IKE's Encrypted payload: a peer that authenticates may write anything into it.

#![no_main]

use esplanade_ike::fuzzing::read_decrypted;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|octets: &[u8]| read_decrypted(octets));
