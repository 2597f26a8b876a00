//! ICMP errors about what we sent.

use crate::{
    GATEWAY, PEER, STRANGER,
    common::{Live, Packet, expect, root},
    covered, ipv6,
};
use esplanade_bpf::{Role, Verdict};
use std::net::IpAddr;

/// An ICMP error of a type to the sender of a packet, about that packet.
fn error(from: impl Into<IpAddr>, kind: u8, quoted: &Packet) -> Packet {
    let from = from.into();
    let mut message = vec![kind, 4, 0, 0, 0, 0, 5, 0];
    let header = if from.is_ipv4() { 20 } else { 40 };
    message.extend(&quoted.ip()[..header + 8]);
    let protocol = if from.is_ipv4() { 1 } else { 58 };
    let to = if from.is_ipv4() {
        IpAddr::from(GATEWAY)
    } else {
        ipv6::GATEWAY.into()
    };
    Packet::new(from, to, protocol, &message)
}

/// For both families: the gateway, its peer, a router on the way, and the types of errors.
fn families() -> [(IpAddr, IpAddr, IpAddr, &'static [u8]); 2] {
    [
        (GATEWAY.into(), PEER.into(), STRANGER.into(), &[3, 11, 12]),
        (
            ipv6::GATEWAY.into(),
            ipv6::PEER.into(),
            ipv6::STRANGER.into(),
            &[1, 2, 3, 4],
        ),
    ]
}

fn from_port(ours: IpAddr, peer: IpAddr, port: u16) -> Packet {
    let mut udp = Packet::udp(ours, peer, 500, &[1; 40]);
    udp.payload[..2].copy_from_slice(&port.to_be_bytes());
    udp
}

/// Gateways, one whose addresses no pair covers and one where a tunnel of everything does.
fn gateways() -> [Live; 2] {
    let mut plain = Live::new(Role::Outside);
    plain.add_local(GATEWAY).unwrap();
    plain.add_local(ipv6::GATEWAY).unwrap();
    let mut everything = covered();
    ipv6::cover(&mut everything);
    [plain, everything]
}

#[test]
fn errors_about_our_esp_are_taken() {
    if !root() {
        return;
    }
    for gateway in gateways() {
        for (ours, peer, router, kinds) in families() {
            let sent = |protocol| Packet::new(ours, peer, protocol, &[1; 40]);
            for quoted in [sent(50), sent(51), from_port(ours, peer, 4500)] {
                for kind in kinds {
                    let packet = error(router, *kind, &quoted).bytes();
                    expect(&gateway, &packet, Verdict::TakeIcmpError);
                }
            }
        }
    }
}

#[test]
fn errors_about_our_ike_pass() {
    if !root() {
        return;
    }
    let [plain, everything] = gateways();
    for (ours, peer, router, kinds) in families() {
        for kind in kinds {
            let packet = error(router, *kind, &from_port(ours, peer, 500)).bytes();
            expect(&plain, &packet, Verdict::PassNotOurs);
            expect(&everything, &packet, Verdict::PassIcmpError);
        }
    }
}

#[test]
fn errors_about_our_esp_pass_where_no_dataplane_listens() {
    if !root() {
        return;
    }
    let mut deaf = Live::deaf(Role::Outside);
    deaf.add_local(GATEWAY).unwrap();
    let sent = Packet::new(GATEWAY, PEER, 50, &[1; 40]);
    let packet = error(STRANGER, 3, &sent).bytes();
    expect(&deaf, &packet, Verdict::PassIcmpError);
}

#[test]
fn errors_about_what_we_did_not_send_are_plaintext() {
    if !root() {
        return;
    }
    let [plain, everything] = gateways();
    let both = |packet: &[u8]| {
        expect(&plain, packet, Verdict::PassNotOurs);
        expect(&everything, packet, Verdict::TakeUnprotected);
    };
    for (ours, peer, router, kinds) in families() {
        let forged = Packet::new(router, peer, 50, &[1; 40]);
        let tcp = Packet::new(ours, peer, 6, &[1; 40]);
        for quoted in [tcp, from_port(ours, peer, 53), forged] {
            both(&error(router, kinds[0], &quoted).bytes());
        }
        // An echo request and, of IPv4, a redirect, which would change our routes, are no errors.
        let esp = Packet::new(ours, peer, 50, &[1; 40]);
        let others: &[u8] = if ours.is_ipv4() { &[5, 8] } else { &[128, 5] };
        for kind in others {
            both(&error(router, *kind, &esp).bytes());
        }
        // Half a quotation proves nothing.
        let packet = error(router, kinds[0], &esp);
        let mut cut = packet.bytes();
        cut.truncate(14 + packet.ip().len() - 1);
        both(&cut);
    }
}

#[test]
fn errors_from_inside_are_the_kernels() {
    if !root() {
        return;
    }
    let mut inside = Live::new(Role::Inside);
    inside.add_local(GATEWAY).unwrap();
    let sent = Packet::new(GATEWAY, PEER, 50, &[1; 40]);
    let packet = error(STRANGER, 3, &sent).bytes();
    expect(&inside, &packet, Verdict::PassNotOurs);
}
