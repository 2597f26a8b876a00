//! Packets of every algorithm, engine and form of buffers, mixed in batches, sealed and opened.

#![no_main]

#[path = "../../../dataplane/crypto/tests/common/mod.rs"]
mod common;

use common::batch::{check, read_packets};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| check(&read_packets(bytes)));
