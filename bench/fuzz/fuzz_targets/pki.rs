//! Certificates, names, signature identifiers, keys and revocation lists: a peer sends the first three before anybody
//! knows who it is.

#![no_main]

use esplanade_pki::fuzzing::read_as_everything;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|octets: &[u8]| read_as_everything(octets));
