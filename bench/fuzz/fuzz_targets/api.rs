//! The control API: requests as the daemon reads them, responses as the command line does.

#![no_main]

use esplanade_controlplane::api::fuzzing::read_as_everything;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|octets: &[u8]| read_as_everything(octets));
