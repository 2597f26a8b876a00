//! Packets that nobody should have sent.

use super::*;
use proptest::prelude::*;

#[test]
fn replays_are_dropped_within_a_burst_and_later() {
    let (mut a, mut b) = pair(&Tunnel::default());
    let wire = a.protect(&[greeting(A, B, 10), greeting(A, B, 10)]);
    let twice = [wire.clone(), wire.clone()].concat();
    assert_eq!(b.unprotect(&twice).len(), 2);
    assert_eq!(b.count(Counter::InStateSeqError), 2);
    assert!(b.unprotect(&wire).is_empty());
    assert_eq!(b.count(Counter::InStateSeqError), 4);
    b.audit();
}

#[test]
fn what_is_older_than_the_window_is_late() {
    // With ESN such a number is taken for one of the next 2^32 (RFC 4303 A2.2), and fails authentication.
    let (mut a, mut b) = pair(&Tunnel {
        esn: false,
        window: 32,
        ..Tunnel::default()
    });
    let wire = a.protect(&vec![greeting(A, B, 10); 40]);
    assert_eq!(b.unprotect(&wire[8..]).len(), 32);
    assert!(b.unprotect(&wire[..8]).is_empty());
    assert_eq!(b.count(Counter::InStateSeqErrorLate), 8);
    b.audit();
}

#[test]
fn a_changed_bit_anywhere_is_noticed() {
    for udp in [false, true] {
        let (mut a, mut b) = pair(&Tunnel {
            udp,
            ..Tunnel::default()
        });
        let wire = a.protect(&[greeting(A, B, 10)]).remove(0);
        let esp_at = if udp { 42 } else { 34 };
        for at in esp_at..wire.len() {
            let mut forged = wire.clone();
            forged[at] ^= 1 << (at % 8);
            assert!(b.unprotect(&[forged]).is_empty(), "byte {at}");
        }
        assert!(b.count(Counter::InStateProtoError) > 0);
        assert_eq!(b.unprotect(&[wire]).len(), 1, "the window was left alone");
        b.audit();
    }
}

#[test]
fn a_truncated_packet_is_noticed_at_every_length() {
    let (mut a, mut b) = pair(&Tunnel::default());
    let wire = a.protect(&[greeting(A, B, 10)]).remove(0);
    for length in 0..wire.len() {
        // Cut by a careless link, and cut by someone who corrects the header.
        assert!(b.unprotect(&[wire[..length].to_vec()]).is_empty());
        if length >= 34 {
            let header = ipv4::Repr::parse(&ip(&wire));
            let cut = packet(header, &wire[34..length]);
            let cut = frame(gateway_mac(A, OUTSIDE), gateway_mac(B, OUTSIDE), &cut);
            assert!(b.unprotect(&[cut]).is_empty());
        }
    }
    let counted = [
        Counter::InTruncated,
        Counter::InHdrError,
        Counter::InNotOurs,
        Counter::InStateProtoError,
    ];
    let total: u64 = counted.iter().map(|counter| b.count(*counter)).sum();
    assert_eq!(
        total,
        (wire.len() + wire.len() - 34) as u64,
        "each has a reason"
    );
    b.audit();
}

#[test]
fn spis_that_lead_nowhere_are_told_apart() {
    let (mut a, mut b) = pair(&Tunnel::default());
    let wire = a.protect(&[greeting(A, B, 10)]).remove(0);
    let with_spi = |spi: u32| {
        let mut frame = wire.clone();
        frame[34..38].copy_from_slice(&spi.to_be_bytes());
        frame
    };
    let stale = inbound_id(B).value() ^ 1;
    let cases = [
        (0, Counter::InNoStates),
        (255, Counter::InNoStates),
        (0x1300, Counter::InNoStates),
        (u32::MAX, Counter::InNoStates),
        (stale, Counter::InNoStatesStale),
        (outbound_id(B).value(), Counter::InStateInvalid),
    ];
    for (spi, counter) in cases {
        let before = b.count(counter);
        assert!(b.unprotect(&[with_spi(spi)]).is_empty());
        assert_eq!(b.count(counter), before + 1, "{spi:x}");
    }
    b.audit();
}

#[test]
fn what_the_selectors_do_not_cover_does_not_come_in() {
    let (mut a, mut b) = pair(&Tunnel::default());
    let mut narrow = protect(B, A);
    narrow.local.last = Ipv4Addr::new(10, B, 0, 0).into();
    b.tell_all(&[Command::SetPolicy(narrow)]);
    let wire = a.protect(&[greeting(A, B, 10)]);
    assert!(b.unprotect(&wire).is_empty());
    assert_eq!(b.count(Counter::InTmplMismatch), 1);
    // A second pair of the same child's selectors lets it pass.
    b.tell_all(&[Command::SetPolicy(Policy {
        id: PolicyId(POLICY.0 + 1),
        ..protect(B, A)
    })]);
    let wire = a.protect(&[greeting(A, B, 10)]);
    assert_eq!(b.unprotect(&wire).len(), 1);
    // Under another child's policy that comes first, it is still what its own SA says that counts.
    b.tell_all(&[Command::SetPolicy(Policy {
        id: PolicyId(1 << 8),
        priority: 1,
        ..protect(B, A)
    })]);
    let wire = a.protect(&[greeting(A, B, 10)]);
    assert_eq!(b.unprotect(&wire).len(), 1);
    b.audit();
}

#[test]
fn plain_packets_from_outside_do_not_come_in() {
    let (_, mut b) = pair(&Tunnel::default());
    let plain = frame(
        gateway_mac(A, OUTSIDE),
        gateway_mac(B, OUTSIDE),
        &greeting(A, B, 10),
    );
    assert!(b.unprotect(std::slice::from_ref(&plain)).is_empty());
    assert_eq!(b.count(Counter::InNoPols), 1);
    b.tell_all(&[Command::SetPolicy(Policy {
        id: PolicyId(1 << 8),
        priority: 1,
        action: PolicyAction::Discard,
        ..protect(B, A)
    })]);
    assert!(b.unprotect(&[plain]).is_empty());
    assert_eq!(b.count(Counter::InPolBlock), 1);
    let stranger = packet(
        ipv4::Repr::new(outer(9), outer(B), Protocol::UDP, 0),
        &datagram(4),
    );
    let stranger = frame(gateway_mac(A, OUTSIDE), gateway_mac(B, OUTSIDE), &stranger);
    assert!(b.unprotect(&[stranger]).is_empty());
    assert_eq!(b.count(Counter::InNotOurs), 1);
    b.audit();
}

#[test]
fn an_sa_serves_one_address_of_ours() {
    let (mut a, mut b) = pair(&Tunnel::default());
    let wire = a.protect(&[greeting(A, B, 10)]).remove(0);
    let elsewhere = ipv4::Repr {
        destination: outer(9),
        ..ipv4::Repr::parse(&ip(&wire))
    };
    let elsewhere = packet(elsewhere, ip(&wire).payload());
    let elsewhere = frame(gateway_mac(A, OUTSIDE), gateway_mac(B, OUTSIDE), &elsewhere);
    assert!(b.unprotect(&[elsewhere]).is_empty());
    assert_eq!(b.count(Counter::InStateMismatch), 1);
    assert_eq!(b.unprotect(&[wire]).len(), 1);
    b.audit();
}

/// What a peer with our keys could send beyond tunnelled IPv4.
#[test]
fn authentic_oddities_are_told_apart() {
    use esplanade_crypto::{
        Aad, Algorithm, SealJob, SealingKey, Trailer, seal_batch, sequence::OutboundSequence,
    };
    let (_, mut b) = pair(&Tunnel::default());
    let key = SealingKey::new(EngineKind::Portable, Algorithm::AES_128_GCM_16, &[A; 20]).unwrap();
    let spi = inbound_id(B).value();
    let greeting = greeting(A, B, 10);
    let short = &greeting[..30];
    let cases: [(&[u8], &[u8], Counter); 8] = [
        (&greeting, &[1, 2, 2, 59], Counter::InDummy),
        (&greeting, &[0, 51], Counter::InNextHeader),
        // IPv4 that claims to be IPv6.
        (&greeting, &[0, 41], Counter::InTrailerError),
        (&greeting, &[0, 17], Counter::InStateModeError),
        (&greeting, &[1, 3, 2, 4], Counter::InTrailerError),
        (&greeting, &[200, 4], Counter::InTrailerError),
        (short, &[0, 4], Counter::InTrailerError),
        (&[], &[0, 4], Counter::InTrailerError),
    ];
    for (number, (plaintext, trailer, counter)) in (1u64..).zip(cases) {
        let mut plaintext = plaintext.to_vec();
        while (plaintext.len() + trailer.len()) % 4 != 0 {
            plaintext.push(0);
        }
        let trailer = Trailer::new(trailer).unwrap();
        let mut sealed = vec![0; plaintext.len() + trailer.len() + 16];
        let (iv, aad) = (
            OutboundSequence::starting_at(number, true)
                .take()
                .unwrap()
                .into_iv(),
            Aad::extended(spi, number),
        );
        let job = SealJob::new(&key, iv, aad, &plaintext, trailer, &mut sealed).unwrap();
        seal_batch(&mut [job]);
        let head = esplanade_wire::esp::Repr {
            spi: esplanade_wire::esp::Spi(spi),
            sequence: number as u32,
        };
        let esp = [&head.bytes()[..], &number.to_be_bytes(), &sealed].concat();
        let outside = packet(ipv4::Repr::new(outer(A), outer(B), Protocol::ESP, 0), &esp);
        let frame = frame(gateway_mac(A, OUTSIDE), gateway_mac(B, OUTSIDE), &outside);
        let before = b.count(counter);
        assert!(b.unprotect(&[frame]).is_empty());
        assert_eq!(b.count(counter), before + 1, "{number}: {counter}");
    }
    b.audit();
}

#[test]
fn a_full_wire_is_counted_and_leaks_nothing() {
    let (mut a, _) = pair(&Tunnel::default());
    for _ in 0..6 {
        for _ in 0..60 {
            let frame = frame(host_mac(A), gateway_mac(A, INSIDE), &greeting(A, B, 10));
            assert!(a.inside[0].send(&frame));
        }
        a.round();
        a.inside[0].flush();
    }
    let sent = a.count(Counter::OutPackets);
    assert_eq!(sent, u64::from(FRAMES));
    assert_eq!(
        sent + a.count(Counter::NoTxFrame) + a.count(Counter::TxRingFull),
        360
    );
    a.audit();
}

#[derive(Debug, Clone)]
enum Junk {
    Bytes(Vec<u8>),
    /// A frame that was right until this byte became something else and the end was cut.
    Damaged {
        valid: u8,
        at: prop::sample::Index,
        byte: u8,
        cut: usize,
    },
}

fn junk() -> impl Strategy<Value = Junk> {
    prop_oneof![
        prop::collection::vec(any::<u8>(), 0..200).prop_map(Junk::Bytes),
        (
            0u8..6,
            any::<prop::sample::Index>(),
            any::<u8>(),
            prop_oneof![4 => Just(0), 1 => 0usize..60]
        )
            .prop_map(|(valid, at, byte, cut)| Junk::Damaged {
                valid,
                at,
                byte,
                cut
            }),
    ]
}

impl Junk {
    fn frame(self, valid: &[Vec<u8>]) -> Vec<u8> {
        match self {
            Self::Bytes(bytes) => bytes,
            Self::Damaged {
                valid: which,
                at,
                byte,
                cut,
            } => {
                let mut frame = valid[usize::from(which) % valid.len()].clone();
                let at = at.index(frame.len());
                frame[at] = byte;
                frame.truncate(frame.len() - cut.min(frame.len()));
                frame
            }
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 48, ..ProptestConfig::default() })]

    #[test]
    fn no_bytes_crash_leak_a_frame_or_show_plaintext_outside(
        udp: bool,
        inside in prop::collection::vec(junk(), 0..40),
        outside in prop::collection::vec(junk(), 0..40),
    ) {
        let (mut a, mut b) = pair(&Tunnel { udp, ..Tunnel::default() });
        let mac = (host_mac(B), gateway_mac(B, INSIDE));
        let may_fragment = ipv4::Repr { dont_fragment: false, ..header(B, A) };
        let plain: Vec<_> = [greeting(B, A, 40), syn(B, A, 1460), greeting(B, A, 1470), packet(may_fragment, &datagram(1472))]
            .iter()
            .map(|packet| frame(mac.0, mac.1, packet))
            .collect();
        let sealed = a.protect(&[greeting(A, B, 40), syn(A, B, 1460), greeting(A, B, 0)]);
        let marked = shows_marker(&plain[0]);
        prop_assert!(marked);

        for junk in inside {
            prop_assert!(b.inside[0].send(&junk.frame(&plain)));
        }
        for junk in outside {
            prop_assert!(b.outside[0].send(&junk.frame(&sealed)));
        }
        b.round();
        for frame in drain(&mut b.outside[0]) {
            prop_assert!(!shows_marker(&frame));
            let outside = ip(&frame);
            prop_assert_eq!(outside.source(), outer(B));
            prop_assert_eq!(outside.destination(), outer(A));
        }
        b.audit();
        a.audit();
    }
}
