//! Every packet parser of the dataplane, layer under layer: any bytes may be on the wire.

#![no_main]

use esplanade_ipsec::esp::check_trailer;
use esplanade_wire::{esp, ethernet, icmpv4, ipv4, ipv6, tcp, udp};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    if let Ok(frame) = ethernet::Frame::new_checked(bytes) {
        ethernet::Repr::parse(&frame);
        network(frame.payload());
    }
    network(bytes);
});

fn network(bytes: &[u8]) {
    if let Ok(packet) = ipv4::Packet::new_checked(bytes) {
        ipv4::Repr::parse(&packet);
        transport(packet.payload());
    }
    if let Ok(packet) = ipv6::Packet::new_checked(bytes) {
        ipv6::Repr::parse(&packet);
        transport(packet.payload());
    }
    transport(bytes);
}

fn transport(bytes: &[u8]) {
    // What comes out of a decrypted packet.
    let _ = check_trailer(bytes);
    if let Ok(datagram) = udp::Datagram::new_checked(bytes) {
        udp::Repr::parse(&datagram);
    }
    if let Ok(segment) = tcp::Segment::new_checked(bytes) {
        tcp::Repr::parse(&segment);
        segment.mss();
        tcp::clamp_mss(&mut bytes.to_vec(), 1300);
    }
    if let Ok(packet) = esp::Packet::new_checked(bytes) {
        esp::Repr::parse(&packet);
    }
    if let Ok(message) = icmpv4::Message::new_checked(bytes) {
        message.payload();
    }
}
