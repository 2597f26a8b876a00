//! Drops under their SA and their policy, and what stays of an SA that goes.

use super::*;
use esplanade_channel::{Account, Subject};

/// How often, by subject and counter.
fn count(gateway: &Gateway, subject: Subject, counter: Counter) -> u64 {
    let is_it = |account: &&Account| account.subject == subject && account.counter == counter;
    let accounts = gateway.channel.accounts();
    accounts
        .iter()
        .filter(is_it)
        .map(|account| account.packets)
        .sum()
}

const OF_POLICY: Subject = Subject::Policy(POLICY);

fn of_inbound(site: u8) -> Subject {
    Subject::Sa(inbound_id(site))
}

#[test]
fn inbound_drops_are_those_of_their_sa_and_its_policy() {
    for ah in [
        None,
        Some(Integrity::Hmac(esplanade_crypto::Hmac::Sha2_256)),
    ] {
        let (mut a, mut b) = pair(&Tunnel {
            ah,
            ..Tunnel::default()
        });
        let sealed = a.protect(&[greeting(A, B, 100), greeting(A, B, 100)]);
        assert_eq!(b.unprotect(&sealed).len(), 2);
        assert_eq!(b.channel.accounts(), [], "nothing was dropped");
        b.unprotect(&sealed);
        let mut forged = a.protect(&[greeting(A, B, 100)]).remove(0);
        *forged.last_mut().unwrap() ^= 1;
        b.unprotect(&[forged]);
        let last = ipv4::Repr {
            ttl: 2,
            ..header(A, B)
        };
        let last = a.protect(&[packet(last, &datagram(9))]);
        b.unprotect(&last);
        for subject in [of_inbound(B), OF_POLICY] {
            assert_eq!(count(&b, subject, Counter::InStateSeqError), 2);
            assert_eq!(count(&b, subject, Counter::InStateProtoError), 1);
            assert_eq!(count(&b, subject, Counter::InTtlExpired), 1);
        }
        // What comes by no SA is nobody's.
        let stray = [sealed[0][..34].to_vec(), vec![0xff; 60]].concat();
        b.unprotect(&[stray]);
        assert_eq!(b.channel.accounts().len(), 6);
        // In clear, what should have come by the SA is the policy's alone.
        let plain = frame(
            gateway_mac(A, OUTSIDE),
            gateway_mac(B, OUTSIDE),
            &greeting(A, B, 10),
        );
        b.unprotect(&[plain]);
        assert_eq!(count(&b, OF_POLICY, Counter::InNoPols), 1);
        assert_eq!(count(&b, of_inbound(B), Counter::InNoPols), 0);
    }
}

#[test]
fn outbound_drops_are_those_of_their_policy_and_its_sa() {
    let (mut a, _b) = pair(&Tunnel::default());
    a.protect(&[greeting(A, B, 1480)]);
    let ttl = ipv4::Repr {
        ttl: 1,
        ..header(A, B)
    };
    a.protect(&[packet(ttl, &datagram(9))]);
    for subject in [Subject::Sa(outbound_id(A)), OF_POLICY] {
        assert_eq!(count(&a, subject, Counter::OutTooBig), 1);
        assert_eq!(count(&a, subject, Counter::OutTtlExpired), 1);
    }
    a.tell_all(&[Command::RemoveSa { sa: outbound_id(A) }]);
    a.protect(&[greeting(A, B, 10)]);
    assert_eq!(count(&a, OF_POLICY, Counter::OutNoStates), 1);
    let block = Policy {
        action: PolicyAction::Discard,
        priority: 1,
        id: PolicyId::first_of(99),
        ..protect(A, B)
    };
    a.tell_all(&[Command::SetPolicy(block)]);
    a.protect(&[greeting(A, B, 10)]);
    let blocked = Subject::Policy(PolicyId::first_of(99));
    assert_eq!(count(&a, blocked, Counter::OutPolBlock), 1);
    assert_eq!(a.count(Counter::DropsUnlisted), 0);
}

#[test]
fn what_an_sa_has_carried_stays_with_its_policy() {
    let (mut a, mut b) = pair(&Tunnel::default());
    for turn in 1..4 {
        let sealed = a.protect(&vec![greeting(A, B, 100); 5]);
        assert_eq!(b.unprotect(&sealed).len(), 5);
        b.unprotect(&sealed);
        for (gateway, peer) in [(&mut a, B), (&mut b, A)] {
            gateway.tell_all(&gateway.tunnel(peer, &Tunnel::default(), turn));
            let shift = u32::from(turn - 1) * 20;
            let old = [inbound_id(gateway.site), outbound_id(gateway.site)];
            let old = old.map(|id| SaId::from_parts(id.slot() + shift, id.tag()).unwrap());
            gateway.tell_all(&old.map(|sa| Command::RemoveSa { sa }));
        }
        let carried = u64::from(turn) * 5;
        assert_eq!(count(&a, OF_POLICY, Counter::OutPackets), carried);
        assert_eq!(count(&b, OF_POLICY, Counter::InPackets), carried);
        let accounts = b.channel.accounts();
        let bytes = accounts.iter().map(|account| account.bytes).sum::<u64>();
        assert_eq!(bytes, carried * 128, "inner IP headers included");
        // The SA's own accounts went with it, the policy's did not.
        let is_sas = |account: &Account| matches!(account.subject, Subject::Sa(_));
        assert!(!accounts.iter().any(is_sas));
        assert_eq!(count(&b, OF_POLICY, Counter::InStateSeqError), carried);
    }
}
