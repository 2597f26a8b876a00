//! EAP and the Configuration payload: who has not authenticated yet, or has, writes into them.

#![no_main]

use esplanade_ike::fuzzing::{read_configuration, read_eap};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|octets: &[u8]| {
    read_eap(octets);
    read_configuration(octets);
});
