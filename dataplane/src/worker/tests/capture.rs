//! Copies of packets: what is seen, what is not, and that nothing is while nobody watches.

use super::*;
use esplanade_channel::{CaptureOrder, Captured, Heading, MAX_SNAP};

const IN: Heading = Heading::In;
const OUT: Heading = Heading::Out;

fn order(gateway: &Gateway) -> CaptureOrder {
    CaptureOrder {
        until_ms: gateway.now.as_millis() as u64 + 1000,
        rate: 100_000,
        snap: MAX_SNAP,
        drops_only: false,
        chosen: false,
    }
}

fn seen(gateway: &mut Gateway) -> Vec<Captured> {
    std::iter::from_fn(|| gateway.channel.next_packet()).collect()
}

/// Where, which way, and why not.
fn ways(captured: &[Captured]) -> Vec<(u8, Heading, Option<Counter>)> {
    let way = |seen: &Captured| {
        let sighting = seen.sighting;
        (sighting.port.0, sighting.heading, sighting.dropped)
    };
    captured.iter().map(way).collect()
}

#[test]
fn packets_are_seen_before_and_after_esp_and_only_on_request() {
    let (mut a, mut b) = pair(&Tunnel::default());
    let greeting = greeting(A, B, 100);
    let sealed = a.protect(std::slice::from_ref(&greeting));
    b.unprotect(&sealed);
    assert_eq!(seen(&mut a), [], "nobody asked");

    a.tell_all(&[Command::StartCapture(order(&a))]);
    b.tell_all(&[Command::StartCapture(order(&b))]);
    let sealed = a.protect(std::slice::from_ref(&greeting));
    let opened = b.unprotect(&sealed);
    let (at_a, at_b) = (seen(&mut a), seen(&mut b));
    assert_eq!(ways(&at_a), [(INSIDE, IN, None), (OUTSIDE, OUT, None)]);
    assert_eq!(ways(&at_b), [(OUTSIDE, IN, None), (INSIDE, OUT, None)]);
    let plain = frame(host_mac(A), gateway_mac(A, INSIDE), &greeting);
    assert_eq!(at_a[0].bytes, plain);
    assert_eq!(at_a[1].bytes, sealed[0]);
    assert_eq!(at_b[0].bytes, sealed[0]);
    assert_eq!(at_b[1].bytes, opened[0]);
    assert!(!shows_marker(&at_a[1].bytes) && shows_marker(&at_b[1].bytes));
    assert_eq!(at_a[0].sighting.length as usize, plain.len());
    assert_eq!(at_a[0].sighting.at_ns, a.now.as_nanos() as u64);
    assert_eq!(a.count(Counter::Captured), 2);

    a.tell_all(&[Command::StopCapture]);
    a.protect(std::slice::from_ref(&greeting));
    assert_eq!(seen(&mut a), [], "it was stopped");
    // One that nobody stops ends by itself.
    b.now += Duration::from_secs(1);
    b.round();
    let sealed = a.protect(&[greeting]);
    assert_eq!(b.unprotect(&sealed).len(), 1);
    assert_eq!(seen(&mut b), []);
    a.audit();
    b.audit();
}

#[test]
fn drops_are_seen_with_their_reason() {
    let (mut a, mut b) = pair(&Tunnel::default());
    let only = CaptureOrder {
        drops_only: true,
        ..order(&b)
    };
    a.tell_all(&[Command::StartCapture(only)]);
    b.tell_all(&[Command::StartCapture(only)]);
    let sealed = a.protect(&[greeting(A, B, 100), greeting(A, B, 200)]);
    assert_eq!(b.unprotect(&sealed).len(), 2);
    assert_eq!(seen(&mut b), [], "nothing was dropped");

    let mut forged = a.protect(&[greeting(A, B, 100)]).remove(0);
    let last = forged.len() - 1;
    forged[last] ^= 1;
    let mut stray = sealed[0].clone();
    stray[14 + 20] ^= 0x80;
    // What the selectors of the SA do not cover, and what came before its route.
    let frames = [sealed[0].clone(), forged.clone(), stray.clone()];
    assert_eq!(b.unprotect(&frames).len(), 0);
    let at_b = seen(&mut b);
    let expected = [
        Counter::InNoStates,
        Counter::InStateSeqError,
        Counter::InStateProtoError,
    ];
    assert_eq!(
        ways(&at_b),
        expected.map(|reason| (OUTSIDE, IN, Some(reason)))
    );
    let bytes: Vec<_> = at_b.iter().map(|seen| &seen.bytes).collect();
    assert_eq!(bytes, [&stray, &sealed[0], &forged]);

    // From an address that the policy does not have.
    let elsewhere = ipv4::Repr {
        source: Ipv4Addr::new(10, 9, 0, 1),
        ..header(A, B)
    };
    let elsewhere = packet(elsewhere, &datagram(50));
    assert_eq!(a.protect(std::slice::from_ref(&elsewhere)).len(), 0);
    let at_a = seen(&mut a);
    assert_eq!(ways(&at_a), [(INSIDE, IN, Some(Counter::OutNoPols))]);
    assert!(at_a[0].bytes.ends_with(&elsewhere));
    a.audit();
    b.audit();
}

#[test]
fn a_packet_that_is_refused_once_it_is_authentic_is_seen_in_clear() {
    let (mut a, mut b) = pair(&Tunnel::default());
    // The last hop, and nobody forwards it.
    let last = ipv4::Repr {
        ttl: 2,
        ..header(A, B)
    };
    let mut inner = packet(last, &datagram(60));
    let sealed = a.protect(std::slice::from_ref(&inner));
    b.tell_all(&[Command::StartCapture(CaptureOrder {
        drops_only: true,
        ..order(&b)
    })]);
    assert_eq!(b.unprotect(&sealed).len(), 0);
    let at_b = seen(&mut b);
    assert_eq!(ways(&at_b), [(INSIDE, OUT, Some(Counter::InTtlExpired))]);
    crate::worker::packet::decrement_ttl(&mut frame(host_mac(A), host_mac(B), &inner));
    inner[8] -= 1;
    let shown = &at_b[0].bytes[14..];
    assert_eq!(shown[..10], inner[..10]);
    assert_eq!(shown[12..], inner[12..]);
    a.audit();
    b.audit();
}

#[test]
fn a_capture_of_one_tunnel_leaves_out_the_others() {
    let (mut a, mut b) = pair(&Tunnel::default());
    let chosen = |gateway: &Gateway| CaptureOrder {
        chosen: true,
        ..order(gateway)
    };
    let other = PolicyId::first_of(POLICY.group() + 1);
    let mut exchange = |group: Option<PolicyId>| {
        for gateway in [&mut a, &mut b] {
            let start = Command::StartCapture(chosen(gateway));
            let group = group.map(|policy| Command::CaptureGroup { policy });
            let commands: Vec<_> = std::iter::once(start).chain(group).collect();
            gateway.tell_all(&commands);
        }
        let sealed = a.protect(&[greeting(A, B, 100)]);
        assert_eq!(b.unprotect(&sealed).len(), 1);
        assert_eq!(b.unprotect(&sealed).len(), 0, "a replay");
        (ways(&seen(&mut a)), ways(&seen(&mut b)))
    };
    assert_eq!(exchange(None), (vec![], vec![]), "none was chosen");
    assert_eq!(exchange(Some(other)), (vec![], vec![]));
    let (at_a, at_b) = exchange(Some(POLICY));
    assert_eq!(at_a, [(INSIDE, IN, None), (OUTSIDE, OUT, None)]);
    let replay = Some(Counter::InStateSeqError);
    assert_eq!(
        at_b,
        [
            (OUTSIDE, IN, None),
            (INSIDE, OUT, None),
            (OUTSIDE, IN, None),
            (OUTSIDE, IN, replay)
        ]
    );
    // An SA that replaces another while the capture runs is of the tunnel too.
    let (mut a, _b) = pair(&Tunnel::default());
    let group = Command::CaptureGroup { policy: POLICY };
    a.tell_all(&[Command::StartCapture(chosen(&a)), group]);
    a.tell_all(&a.tunnel(B, &Tunnel::default(), 1));
    a.protect(&[greeting(A, B, 100)]);
    assert_eq!(
        ways(&seen(&mut a)),
        [(INSIDE, IN, None), (OUTSIDE, OUT, None)]
    );
}

#[test]
fn no_more_is_copied_than_ordered_and_what_is_not_is_counted() {
    let (mut a, _b) = pair(&Tunnel::default());
    let slow = CaptureOrder {
        rate: 50,
        snap: 64,
        ..order(&a)
    };
    a.tell_all(&[Command::StartCapture(slow)]);
    let burst: Vec<_> = (0..20).map(|_| greeting(A, B, 400)).collect();
    assert_eq!(a.protect(&burst).len(), 20);
    let copies = seen(&mut a);
    assert_eq!(copies.len(), 5);
    assert!(
        copies
            .iter()
            .all(|seen| seen.bytes.len() == 64 && seen.sighting.length > 400)
    );
    assert_eq!(a.count(Counter::CaptureLost), 35);
    // Nobody reads: packets go on, copies do not.
    let all = CaptureOrder {
        rate: 1_000_000,
        ..order(&a)
    };
    a.tell_all(&[Command::StartCapture(all)]);
    for _ in 0..40 {
        let burst: Vec<_> = (0..32).map(|_| greeting(A, B, 1000)).collect();
        assert_eq!(a.protect(&burst).len(), 32);
    }
    assert!(a.count(Counter::CaptureLost) > 1000);
    a.audit();
}

#[test]
fn a_packet_lent_to_its_owner_is_seen_once() {
    let mut b = Gateway::new(B, 2);
    let mut a = Gateway::new(A, 1);
    let lent = Tunnel {
        owner: 1,
        ..Tunnel::default()
    };
    a.tell_all(&a.tunnel(B, &Tunnel::default(), 0));
    b.tell_all(&b.tunnel(A, &lent, 0));
    for chosen in [false, true] {
        let order = CaptureOrder {
            chosen,
            ..order(&b)
        };
        let group = Command::CaptureGroup { policy: POLICY };
        b.tell_all(&[Command::StartCapture(order), group]);
        let sealed = a.protect(&[greeting(A, B, 100)]);
        b.unprotect(&sealed);
        b.round();
        let ways = ways(&seen(&mut b));
        assert_eq!(ways, [(OUTSIDE, IN, None), (INSIDE, OUT, None)], "{chosen}");
    }
}
