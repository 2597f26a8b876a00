//! Every packet parser of the dataplane, layer under layer: any bytes may be on the wire.

#![no_main]

use esplanade_ipsec::esp::check_trailer;
use esplanade_wire::{
    Ecn, esp, ethernet, icmp,
    ip::{self, Family},
    ipv4, ipv6, tcp, udp,
};
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
        if let Some(mut fragments) = ipv6::fragments(packet, 1280, 7) {
            assert!(fragments.all(|fragment| fragment.total_len() <= 1280));
        }
    }
    for packet in [ip::Packet::new_checked(bytes), ip::Packet::new_quoted(bytes)] {
        let Ok(packet) = packet else { continue };
        if let Ok(upper) = packet.upper() {
            transport(upper.payload);
        }
        error_about(&packet);
    }
    let mut bytes = bytes.to_vec();
    ip::decrement_ttl(&mut bytes);
    ip::set_ecn(&mut bytes, Ecn::Ce);
    transport(&bytes);
}

/// What a packet may be answered with is itself a packet that must not be answered.
fn error_about(packet: &ip::Packet<'_>) {
    let error = icmp::Error::TooBig { mtu: 1280 };
    let mut buffer = [0; 1300];
    if icmp::may_be_answered(packet, error)
        && let Some(length) = error.emit(packet, packet.destination(), &mut buffer)
    {
        let answer = ip::Packet::new_checked(&buffer[..length]).expect("an answer is a packet");
        assert!(!icmp::may_be_answered(&answer, error));
    }
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
    for family in Family::ALL {
        if let Ok(message) = icmp::Message::new_checked(family, bytes) {
            message.error();
            message.is_error();
        }
    }
}
