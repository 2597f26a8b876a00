//! The parser of IKE messages: strangers write to UDP 500.

#![no_main]

use esplanade_ike::wire::message::Message;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    let Ok(message) = Message::parse(bytes) else {
        return;
    };
    if message.encrypted.is_some() {
        return;
    }
    // What was read can be written, and reads the same.
    let written = Message::emit(message.header, &message.payloads);
    let again = Message::parse(&written).expect("what we wrote can be read");
    assert_eq!(again.payloads, message.payloads);
});
