//! The worker's own reading of headers, from the Ethernet header to the ESP packet, and what it rewrites: strangers
//! send to the outside port.

#![no_main]

use esplanade_dataplane::worker::fuzzing::read_as_frame;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|octets: &[u8]| read_as_frame(octets));
