//! What one plane reads of the other: messages, commands, events, SA records.

#![no_main]

use esplanade_channel::fuzzing::read_as_everything;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|octets: &[u8]| read_as_everything(octets));
