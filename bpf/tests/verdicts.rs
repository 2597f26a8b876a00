//! What becomes of each kind of packet, asked of the kernel itself (BPF_PROG_TEST_RUN). Needs root.

use esplanade_bpf::{Action, Prefix, Role, Steering, Verdict};
use std::net::Ipv4Addr;

const GATEWAY: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 1);
const PEER: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 2);
const LOCAL_HOST: Ipv4Addr = Ipv4Addr::new(10, 1, 0, 7);
const REMOTE_HOST: Ipv4Addr = Ipv4Addr::new(10, 2, 0, 7);
const STRANGER: Ipv4Addr = Ipv4Addr::new(203, 0, 113, 9);

/// The interface that BPF_PROG_TEST_RUN pretends to receive on.
const LOOPBACK: u32 = 1;

fn root() -> bool {
    let root = rustix::process::geteuid().is_root();
    if !root {
        eprintln!("SKIPPED: needs root");
    }
    root
}

fn steering(role: Role) -> Steering {
    let mut steering = Steering::load().unwrap();
    steering.set_port(LOOPBACK, 3, role).unwrap();
    steering.add_local(GATEWAY).unwrap();
    steering
        .add_protected(
            Prefix::new(Ipv4Addr::new(10, 1, 0, 0), 16),
            Prefix::new(Ipv4Addr::new(10, 2, 0, 0), 16),
        )
        .unwrap();
    steering
}

/// An Ethernet frame with an IPv4 packet, with `tags` VLAN tags.
struct Packet {
    source: Ipv4Addr,
    destination: Ipv4Addr,
    protocol: u8,
    fragment: u16,
    tags: usize,
    options: usize,
    payload: Vec<u8>,
}

impl Packet {
    fn new(source: Ipv4Addr, destination: Ipv4Addr, protocol: u8, payload: &[u8]) -> Self {
        Self {
            source,
            destination,
            protocol,
            fragment: 0,
            tags: 0,
            options: 0,
            payload: payload.to_vec(),
        }
    }

    fn udp(source: Ipv4Addr, destination: Ipv4Addr, port: u16, payload: &[u8]) -> Self {
        let mut udp = vec![0x11, 0x94];
        udp.extend(port.to_be_bytes());
        udp.extend((8 + payload.len() as u16).to_be_bytes());
        udp.extend([0, 0]);
        udp.extend(payload);
        Self::new(source, destination, 17, &udp)
    }

    fn fragment(mut self, field: u16) -> Self {
        self.fragment = field;
        self
    }

    fn bytes(&self) -> Vec<u8> {
        let mut bytes = vec![2; 12];
        for tag in 0..self.tags {
            let ether_type: u16 = if tag == 0 && self.tags == 2 {
                0x88a8
            } else {
                0x8100
            };
            bytes.extend(ether_type.to_be_bytes());
            bytes.extend([0, 5]);
        }
        bytes.extend([8, 0]);
        let header = 20 + self.options;
        bytes.extend([0x40 | (header / 4) as u8, 0]);
        bytes.extend(((header + self.payload.len()) as u16).to_be_bytes());
        bytes.extend([0, 1]);
        bytes.extend(self.fragment.to_be_bytes());
        bytes.extend([64, self.protocol, 0, 0]);
        bytes.extend(self.source.octets());
        bytes.extend(self.destination.octets());
        bytes.extend(vec![1; self.options]);
        bytes.extend(&self.payload);
        // As the wire does: short frames are padded, here with bytes that are not zero.
        bytes.resize(bytes.len().max(60), 0xa5);
        bytes
    }
}

/// Runs the program on a packet. What it would take shows as dropped for want of a socket.
#[track_caller]
fn expect(steering: &Steering, packet: &[u8], verdict: Verdict) {
    let before = steering.counters().unwrap();
    let action = steering.dry_run(packet).unwrap();
    let after = steering.counters().unwrap();
    let counted: Vec<_> = before
        .iter()
        .zip(&after)
        .filter(|(before, after)| before.1 != after.1)
        .map(|(before, after)| (before.0, after.1 - before.1))
        .collect();
    assert_eq!(counted, [(verdict, 1)]);
    let expected = match verdict {
        Verdict::DropNoSocket => Action::Drop,
        _ => Action::Pass,
    };
    assert_eq!(action, expected);
}

const TAKEN: Verdict = Verdict::DropNoSocket;

#[test]
fn esp_and_ah_to_us_are_taken_on_both_sides() {
    if !root() {
        return;
    }
    for role in [Role::Inside, Role::Outside] {
        let steering = steering(role);
        for protocol in [50, 51] {
            let mut packet = Packet::new(PEER, GATEWAY, protocol, &[1; 40]);
            expect(&steering, &packet.bytes(), TAKEN);
            packet.options = 8;
            expect(&steering, &packet.bytes(), TAKEN);
            for tags in 1..=2 {
                packet.tags = tags;
                expect(&steering, &packet.bytes(), TAKEN);
            }
            packet.tags = 3;
            expect(&steering, &packet.bytes(), Verdict::PassNotOurs);
            let transit = Packet::new(PEER, STRANGER, protocol, &[1; 40]);
            expect(&steering, &transit.bytes(), Verdict::PassNotOurs);
        }
    }
}

#[test]
fn udp_4500_is_told_apart_by_its_length_and_first_word() {
    if !root() {
        return;
    }
    let steering = steering(Role::Outside);
    let to_us = |port, payload: &[u8]| Packet::udp(PEER, GATEWAY, port, payload).bytes();
    // RFC 3948 2.2: "The SPI field in the ESP header MUST NOT be a zero value."
    expect(&steering, &to_us(4500, &[0, 0, 0, 9, 0, 0, 0, 1]), TAKEN);
    expect(&steering, &to_us(4500, &[1; 100]), TAKEN);
    expect(&steering, &to_us(4500, &[0; 100]), Verdict::PassIke);
    // RFC 3948 2.3: a keepalive is one octet 0xFF; the padding of the frame behind it is not its payload.
    expect(&steering, &to_us(4500, &[0xff]), Verdict::PassIke);
    expect(&steering, &to_us(4500, &[1; 7]), Verdict::PassIke);
    expect(&steering, &to_us(4500, &[]), Verdict::PassIke);
    expect(&steering, &to_us(500, &[1; 100]), Verdict::PassNotOurs);
    let mut with_options = Packet::udp(PEER, GATEWAY, 4500, &[1; 20]);
    with_options.options = 40;
    expect(&steering, &with_options.bytes(), TAKEN);
    let transit = Packet::udp(PEER, STRANGER, 4500, &[1; 100]);
    expect(&steering, &transit.bytes(), Verdict::PassNotOurs);
}

#[test]
fn fragments_of_ours_pass_for_now() {
    if !root() {
        return;
    }
    let steering = steering(Role::Outside);
    let esp = || Packet::new(PEER, GATEWAY, 50, &[1; 40]);
    let pass = Verdict::PassFragment;
    expect(&steering, &esp().fragment(0x2000).bytes(), pass);
    expect(&steering, &esp().fragment(0x0010).bytes(), pass);
    expect(&steering, &esp().fragment(0x4000).bytes(), TAKEN);
    let udp = Packet::udp(PEER, GATEWAY, 4500, &[1; 40]).fragment(0x2000);
    expect(&steering, &udp.bytes(), pass);
}

#[test]
fn plain_packets_are_taken_in_the_right_direction() {
    if !root() {
        return;
    }
    let (inside, outside) = (steering(Role::Inside), steering(Role::Outside));
    let out = Packet::new(LOCAL_HOST, REMOTE_HOST, 6, &[0; 20]);
    expect(&inside, &out.bytes(), TAKEN);
    expect(&outside, &out.bytes(), Verdict::PassNotOurs);
    expect(&inside, &out.fragment(0x2000).bytes(), TAKEN);
    let back = Packet::new(REMOTE_HOST, LOCAL_HOST, 1, &[0; 20]);
    expect(&outside, &back.bytes(), TAKEN);
    expect(&inside, &back.bytes(), Verdict::PassNotOurs);
    let half = Packet::new(LOCAL_HOST, STRANGER, 1, &[0; 20]);
    expect(&inside, &half.bytes(), Verdict::PassNotOurs);
    let other_half = Packet::new(STRANGER, REMOTE_HOST, 1, &[0; 20]);
    expect(&inside, &other_half.bytes(), Verdict::PassNotOurs);
}

#[test]
fn what_is_for_the_gateway_or_stays_on_the_link_passes_whatever_the_selectors() {
    if !root() {
        return;
    }
    let everything = Prefix::new(Ipv4Addr::UNSPECIFIED, 0);
    for role in [Role::Inside, Role::Outside] {
        let mut steering = steering(role);
        steering.add_protected(everything, everything).unwrap();
        let ike = Packet::udp(PEER, GATEWAY, 500, &[1; 100]);
        expect(&steering, &ike.bytes(), Verdict::PassNotOurs);
        let ssh = Packet::new(LOCAL_HOST, GATEWAY, 6, &[0; 20]);
        expect(&steering, &ssh.bytes(), Verdict::PassNotOurs);
        let ospf = Packet::new(LOCAL_HOST, Ipv4Addr::new(224, 0, 0, 5), 89, &[0; 20]);
        expect(&steering, &ospf.bytes(), Verdict::PassNotOurs);
        let dhcp = Packet::udp(Ipv4Addr::UNSPECIFIED, Ipv4Addr::BROADCAST, 67, &[0; 200]);
        expect(&steering, &dhcp.bytes(), Verdict::PassNotOurs);
        let plain = Packet::new(LOCAL_HOST, STRANGER, 6, &[0; 20]);
        expect(&steering, &plain.bytes(), TAKEN);
    }
}

#[test]
fn malformed_and_foreign_packets_pass() {
    if !root() {
        return;
    }
    let steering = steering(Role::Inside);
    let mut short_header = Packet::new(PEER, GATEWAY, 50, &[1; 40]).bytes();
    short_header[14] = 0x44;
    expect(&steering, &short_header, Verdict::PassMalformed);
    let mut version = Packet::new(PEER, GATEWAY, 50, &[1; 40]).bytes();
    version[14] = 0x65;
    expect(&steering, &version, Verdict::PassMalformed);
    let cut = &Packet::new(PEER, GATEWAY, 50, &[1; 40]).bytes()[..30];
    expect(&steering, cut, Verdict::PassMalformed);
    let cut = &Packet::udp(PEER, GATEWAY, 4500, &[1; 40]).bytes()[..40];
    expect(&steering, cut, Verdict::PassMalformed);
    let cut = &Packet::udp(PEER, GATEWAY, 4500, &[1; 40]).bytes()[..44];
    expect(&steering, cut, Verdict::PassMalformed);
    let mut arp = vec![0xff; 60];
    arp[12..14].copy_from_slice(&[8, 6]);
    expect(&steering, &arp, Verdict::PassNotOurs);
    let mut ipv6 = vec![0x60; 100];
    ipv6[12..14].copy_from_slice(&[0x86, 0xdd]);
    expect(&steering, &ipv6, Verdict::PassNotOurs);
}

#[test]
fn an_interface_that_is_no_port_passes_everything() {
    if !root() {
        return;
    }
    let steering = Steering::load().unwrap();
    steering.add_local(GATEWAY).unwrap();
    let esp = Packet::new(PEER, GATEWAY, 50, &[1; 40]);
    expect(&steering, &esp.bytes(), Verdict::PassNotOurs);
}

#[test]
fn removal_undoes_addition() {
    if !root() {
        return;
    }
    let mut steering = steering(Role::Inside);
    let local = Prefix::new(Ipv4Addr::new(10, 1, 0, 0), 16);
    let remote = Prefix::new(Ipv4Addr::new(10, 2, 0, 0), 16);
    let plain = Packet::new(LOCAL_HOST, REMOTE_HOST, 6, &[0; 20]).bytes();
    steering.add_protected(local, remote).unwrap();
    steering.remove_protected(local, remote).unwrap();
    expect(&steering, &plain, TAKEN);
    steering.remove_protected(local, remote).unwrap();
    expect(&steering, &plain, Verdict::PassNotOurs);
    steering.remove_protected(local, remote).unwrap();

    let esp = Packet::new(PEER, GATEWAY, 50, &[1; 40]).bytes();
    expect(&steering, &esp, TAKEN);
    steering.remove_local(GATEWAY).unwrap();
    steering.remove_local(GATEWAY).unwrap();
    expect(&steering, &esp, Verdict::PassNotOurs);
}
