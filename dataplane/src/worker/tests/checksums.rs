//! Ports on virtual links, whose senders leave transport checksums unfinished.

use super::{
    families::{any_ip, header_v6, packet_v6},
    *,
};
use esplanade_wire::{checksum::Sum, ip as wire_ip};

const CHECKSUM_OF_UDP: usize = 6;
const CHECKSUM_OF_TCP: usize = 16;

fn pseudo_header(packet: &[u8]) -> Sum {
    let view = wire_ip::Packet::new_checked(packet).unwrap();
    let upper = view.upper().unwrap();
    let (protocol, length) = (upper.protocol, upper.payload.len() as u16);
    match (view.source(), view.destination()) {
        (IpAddr::V4(from), IpAddr::V4(to)) => Sum::pseudo_header_v4(from, to, protocol, length),
        (IpAddr::V6(from), IpAddr::V6(to)) => {
            Sum::pseudo_header_v6(from, to, protocol, length.into())
        }
        _ => panic!("two families"),
    }
}

/// A packet of each family and protocol, with the sum of its pseudo-header where the checksum goes.
fn unfinished() -> Vec<Vec<u8>> {
    let datagram_v6 = packet_v6(header_v6(A, B), &datagram(33));
    let mut packets = [
        (greeting(A, B, 33), 20 + CHECKSUM_OF_UDP),
        (syn(A, B, 500), 20 + CHECKSUM_OF_TCP),
        (datagram_v6, 40 + CHECKSUM_OF_UDP),
    ];
    for (packet, at) in &mut packets {
        let partial = !pseudo_header(packet).complement();
        packet[*at..*at + 2].copy_from_slice(&partial.to_be_bytes());
    }
    packets.map(|(packet, _)| packet).into()
}

fn is_right(frame: &[u8]) -> bool {
    let packet = any_ip(frame);
    let payload = packet.upper().unwrap().payload;
    pseudo_header(packet.as_bytes())
        .add_bytes(payload)
        .complement()
        == 0
}

#[test]
fn they_are_finished_on_ports_so_configured_and_only_there() {
    let (mut a, mut b) = pair(&Tunnel::default());
    let arrived = b.unprotect(&a.protect(&unfinished()));
    assert_eq!(arrived.len(), 3);
    assert!(!arrived.iter().any(|frame| is_right(frame)));
    assert_eq!(a.count(Counter::ChecksumsFinished), 0);
    a.tell_all(&[Command::SetPort {
        port: PortId(INSIDE),
        mac: gateway_mac(A, INSIDE).0,
        mtu: 1500,
        address: None,
        address_v6: None,
        mss_clamp: true,
        udp_checksum: true,
        partial_checksums: true,
    }]);
    let arrived = b.unprotect(&a.protect(&unfinished()));
    assert_eq!(arrived.len(), 3);
    assert!(arrived.iter().all(|frame| is_right(frame)));
    assert_eq!(a.count(Counter::ChecksumsFinished), 3);
    // What is right already, or has none, stays.
    let none = greeting(A, B, 20);
    let mut right = unfinished();
    right.iter_mut().for_each(|packet| {
        esplanade_wire::partial::finish(packet);
    });
    let arrived = b.unprotect(&a.protect(&[right, vec![none.clone()]].concat()));
    assert_eq!(arrived.len(), 4);
    assert_eq!(ip(&arrived[3]).payload(), &none[20..]);
    assert_eq!(a.count(Counter::ChecksumsFinished), 3);
    a.audit();
    b.audit();
}
