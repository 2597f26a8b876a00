//! The same for all algorithms: every size and so every alignment, replays, forgeries, and what differs on the wire.

use super::{tunnel::skip, *};
use esplanade_channel::CommandError;
use esplanade_crypto::{Encryption, IvForm};
use esplanade_ipsec::esp::Shape;
use esplanade_wire::esp;

/// Every algorithm that can be asked for, each with and without ESN and UDP.
pub fn every_kind() -> Vec<Tunnel> {
    let named = |algorithm: &Algorithm| transform::numbers(*algorithm).is_some();
    let mut kinds = Vec::new();
    for algorithm in Algorithm::ALL.into_iter().filter(named) {
        for (esn, udp) in [(false, false), (false, true), (true, false), (true, true)] {
            kinds.push(Tunnel {
                algorithm,
                esn,
                udp,
                ..Tunnel::default()
            });
        }
    }
    kinds
}

pub fn encrypts(algorithm: Algorithm) -> bool {
    use Algorithm::{AesGmac, EncryptThenMac};
    !matches!(algorithm, AesGmac(_) | EncryptThenMac(Encryption::Null, _))
}

/// Where ESP begins in the frames of a tunnel.
fn esp_at(tunnel: &Tunnel) -> usize {
    14 + 20 + if tunnel.udp { 8 } else { 0 }
}

fn shape(tunnel: &Tunnel) -> Shape {
    Shape::new(tunnel.algorithm, tunnel.outer, tunnel.udp)
}

#[test]
fn packets_of_every_size_arrive() {
    for tunnel in every_kind() {
        let (mut a, mut b) = pair(&tunnel);
        let mtu = shape(&tunnel).inner_mtu(1500);
        // Every alignment around every length that is special: the shortest, some blocks, the longest.
        let lengths = (20..90).chain(500..520).chain(mtu - 40..=mtu);
        let sent: Vec<_> = lengths
            .map(|length| {
                let payload: Vec<u8> = (0..length - 20).map(|at| (at % 251) as u8).collect();
                let header = ipv4::Repr {
                    protocol: Protocol(200),
                    ..header(A, B)
                };
                packet(header, &payload)
            })
            .collect();
        for burst in sent.chunks(50) {
            let wire = a.protect(burst);
            for (frame, sent) in wire.iter().zip(burst) {
                let outside = ip(frame).total_len();
                assert_eq!(outside, shape(&tunnel).outer_len(sent.len()), "{tunnel:?}");
                assert!(outside <= 1500, "{tunnel:?}");
            }
            let arrived = b.unprotect(&wire);
            assert_eq!(arrived.len(), burst.len(), "{tunnel:?}");
            for (arrived, sent) in arrived.iter().zip(burst) {
                assert_eq!(ip(arrived).payload(), &sent[20..], "{tunnel:?}");
            }
        }
        a.audit();
        b.audit();
    }
}

#[test]
fn what_does_not_fit_is_answered_or_cut() {
    for tunnel in every_kind() {
        let (mut a, mut b) = pair(&tunnel);
        let mtu = shape(&tunnel).inner_mtu(1500);
        let longer = usize::from(mtu) + 1 - 28;
        assert!(a.protect(&[greeting(A, B, longer)]).is_empty());
        assert_eq!(a.count(Counter::OutTooBig), 1, "{tunnel:?}");
        let may_fragment = ipv4::Repr {
            dont_fragment: false,
            ..header(A, B)
        };
        drain(&mut a.inside[0]);
        let wire = a.protect(&[packet(may_fragment, &datagram(longer))]);
        assert_eq!(wire.len(), 2, "{tunnel:?}");
        assert!(wire.iter().all(|frame| ip(frame).total_len() <= 1500));
        assert_eq!(b.unprotect(&wire).len(), 2, "{tunnel:?}");
        let wire = a.protect(&[syn(A, B, 1460)]);
        let arrived = b.unprotect(&wire);
        let segment = tcp::Segment::new_checked(ip(&arrived[0]).payload()).unwrap();
        assert_eq!(segment.mss(), Some(mtu - 40), "{tunnel:?}");
    }
}

#[test]
fn replays_and_forgeries_are_dropped() {
    for tunnel in every_kind() {
        let (mut a, mut b) = pair(&tunnel);
        let wire = a.protect(&[greeting(A, B, 21), greeting(A, B, 22)]);
        let first = &wire[0];
        // Padding of short frames is the link's, and nobody's to protect.
        let end = 14 + ip(first).total_len();
        for at in esp_at(&tunnel) + 4..end {
            let mut forged = first.clone();
            forged[at] ^= 1 << (at % 8);
            assert!(b.unprotect(&[forged]).is_empty(), "{tunnel:?}: byte {at}");
        }
        let forgeries = (end - esp_at(&tunnel) - 4) as u64;
        let noticed = [
            Counter::InStateProtoError,
            Counter::InStateSeqErrorLate,
            Counter::InHdrError,
        ];
        let noticed: u64 = noticed.map(|counter| b.count(counter)).iter().sum();
        assert_eq!(noticed, forgeries, "{tunnel:?}");
        assert_eq!(b.unprotect(&wire).len(), 2, "{tunnel:?}");
        assert!(b.unprotect(&wire).is_empty(), "{tunnel:?}");
        assert_eq!(b.count(Counter::InStateSeqError), 2, "{tunnel:?}");
        b.audit();
    }
}

#[test]
fn packets_of_any_length_are_judged() {
    for tunnel in every_kind().into_iter().filter(|tunnel| tunnel.esn) {
        let (mut a, mut b) = pair(&tunnel);
        let wire = a.protect(&[greeting(A, B, 10)]).remove(0);
        let payload = &ip(&wire).payload()[if tunnel.udp { 8 } else { 0 }..];
        // An empty datagram and one of a byte are none of ESP's.
        for length in 2..payload.len() {
            let cut = &payload[..length];
            let (protocol, bytes) = if tunnel.udp {
                let head = udp::Repr {
                    source_port: 4500,
                    destination_port: 4500,
                    payload_len: length as u16,
                };
                (Protocol::UDP, [&head.bytes()[..], cut].concat())
            } else {
                (Protocol::ESP, cut.to_vec())
            };
            let outside = packet(ipv4::Repr::new(outer(A), outer(B), protocol, 0), &bytes);
            let cut = frame(gateway_mac(A, OUTSIDE), gateway_mac(B, OUTSIDE), &outside);
            assert!(b.unprotect(&[cut]).is_empty(), "{tunnel:?}: {length}");
        }
        let reasons = [
            Counter::InTruncated,
            Counter::InHdrError,
            Counter::InStateProtoError,
        ];
        let counted: u64 = reasons.map(|reason| b.count(reason)).iter().sum();
        assert_eq!(counted, payload.len() as u64 - 2, "{tunnel:?}");
        assert_eq!(b.unprotect(&[wire]).len(), 1, "{tunnel:?}");
        b.audit();
    }
}

#[test]
fn extended_numbers_are_authenticated_though_not_sent() {
    for tunnel in every_kind().into_iter().filter(|tunnel| tunnel.esn) {
        let (mut a, mut b) = pair(&tunnel);
        skip(&mut a, &mut b, (1 << 32) - 4);
        let wire = a.protect(&vec![greeting(A, B, 10); 10]);
        // One who has the same window but is 2^32 packets away takes them for others.
        let (_, mut elsewhere) = pair(&tunnel);
        assert!(elsewhere.unprotect(&wire[5..]).is_empty(), "{tunnel:?}");
        assert_eq!(elsewhere.count(Counter::InStateProtoError), 5, "{tunnel:?}");
        assert_eq!(b.unprotect(&wire).len(), 10, "{tunnel:?}");
        for (frame, low) in wire.iter().zip((u32::MAX - 3..=u32::MAX).chain(0..6)) {
            let bytes = &frame[esp_at(&tunnel)..];
            let sent = esp::Packet::new_checked(bytes).unwrap().sequence();
            assert_eq!(sent, low, "{tunnel:?}");
        }
    }
}

#[test]
fn ivs_are_as_the_algorithm_wants_them() {
    for tunnel in every_kind().into_iter().filter(|tunnel| !tunnel.udp) {
        let (mut a, _) = pair(&tunnel);
        let wire = a.protect(&vec![greeting(A, B, 10); 20]);
        let payloads = wire.iter().map(|frame| {
            let packet = esp::Packet::new_checked(ip(frame).payload()).unwrap();
            packet.payload().to_vec()
        });
        let mut seen = std::collections::BTreeSet::new();
        for (number, payload) in (1u64..).zip(payloads) {
            let iv = &payload[..tunnel.algorithm.iv_len()];
            match iv.len() {
                0 => continue,
                8 => assert_eq!(iv, number.to_be_bytes(), "{tunnel:?}"),
                _ => assert!(!iv.starts_with(&[0; 4]), "{tunnel:?}: nobody foresees it"),
            }
            assert!(seen.insert(iv.to_vec()), "{tunnel:?}: {iv:?} again");
        }
    }
}

#[test]
fn what_the_dataplane_does_not_have_is_refused_by_name() {
    let mut b = Gateway::new(B, 1);
    let tunnel = Tunnel::default();
    let mut install = b.tunnel(A, &tunnel, 0).remove(1);
    let Command::InstallInbound(sa) = &mut install else {
        panic!("{install:?}");
    };
    let cases = [
        (
            esplanade_channel::Transform::combined(18, 128),
            CommandError::NoSuchTransform,
        ),
        (
            esplanade_channel::Transform::combined(20, 192),
            CommandError::KeyLength,
        ),
    ];
    for (transform, expected) in cases {
        sa.transform = transform;
        let command = Command::InstallInbound(sa.clone());
        b.tell_all(&[command]);
        let events = b.events();
        let [Event::CommandFailed { reason, .. }] = events[..] else {
            panic!("{events:?}");
        };
        assert_eq!(reason, expected);
    }
    assert_eq!(b.channel.sa_record(inbound_id(B)), None);
}

#[test]
fn records_name_the_algorithm() {
    for tunnel in every_kind().into_iter().filter(|tunnel| !tunnel.udp) {
        let (a, _) = pair(&tunnel);
        let record = a.channel.sa_record(outbound_id(A)).unwrap();
        assert_eq!(
            transform::algorithm(record.transform),
            Some(tunnel.algorithm)
        );
        let implicit = matches!(
            tunnel.algorithm,
            Algorithm::AesGcm(_, IvForm::Implicit) | Algorithm::ChaCha20Poly1305(IvForm::Implicit)
        );
        // RFC 8750 5: "ENCR_AES_GCM_16_IIV" is 30, "ENCR_CHACHA20_POLY1305_IIV" 31.
        assert_eq!((30..=31).contains(&record.transform.encryption), implicit);
    }
}
