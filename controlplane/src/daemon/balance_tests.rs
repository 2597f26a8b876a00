use std::time::{Duration, Instant};

use esplanade_channel::{
    Direction, Label, Mode, PolicyId, SaId, SaRecord, SaState, SaStatistics, Transform, WorkerId,
};

use super::Balance;

const SECOND: Duration = Duration::from_secs(1);

fn name(slot: u32) -> SaId {
    SaId::from_parts(slot, 0x123).unwrap()
}

/// An SA that has carried so many packets of a thousand bytes.
fn record(slot: u32, owner: u16, packets: u64) -> SaRecord {
    SaRecord {
        sa: name(slot),
        spi: name(slot).value(),
        direction: Direction::Inbound,
        policy: PolicyId(256),
        owner: WorkerId(owner),
        state: SaState::Mature,
        selected: false,
        label: Label::new("site-b/lan"),
        transform: Transform::AES_128_GCM_16,
        local: "192.0.2.1".parse().unwrap(),
        remote: "192.0.2.2".parse().unwrap(),
        encapsulation: None,
        mode: Mode::Tunnel,
        esn: true,
        window: 1024,
        statistics: SaStatistics {
            packets,
            bytes: packets * 1000,
            ..SaStatistics::default()
        },
    }
}

/// SAs by slot, owner and thousands of packets a second, seen for a second.
fn watched(sas: &[(u32, u16, u64)]) -> (Balance, Instant) {
    let mut balance = Balance::default();
    balance.reset(2);
    let start = Instant::now();
    for (_, owner, _) in sas {
        balance.add(WorkerId(*owner), 1);
    }
    for second in 0..2 {
        let records: Vec<_> = sas
            .iter()
            .map(|(slot, owner, rate)| record(*slot, *owner, 7 + second * rate * 1000))
            .collect();
        balance.look(&records, start + SECOND * second as u32);
    }
    (balance, start + SECOND)
}

fn pairs(sas: &[(u32, u16, u64)]) -> Vec<(SaId, Option<SaId>, WorkerId)> {
    let pair = |(slot, owner, _): &(u32, u16, u64)| (name(*slot), None, WorkerId(*owner));
    sas.iter().map(pair).collect()
}

#[test]
fn who_has_least_to_do_gets_the_next_whatever_it_has() {
    // One busy SA on the first worker, three idle ones on the second.
    let (mut balance, _) = watched(&[(1, 0, 100), (2, 1, 0), (3, 1, 0), (4, 1, 0)]);
    assert_eq!(balance.choose(None), WorkerId(1));
    // Where nobody has anything to do, numbers decide.
    let (mut balance, _) = watched(&[(1, 0, 0), (2, 1, 0), (3, 1, 0)]);
    assert_eq!(balance.choose(None), WorkerId(0));
}

/// What a successor will carry is known before it has carried anything.
#[test]
fn what_is_replaced_counts_for_its_successor() {
    let replacing =
        |balance: &mut Balance, slot| balance.choose(Some((WorkerId(0), &[name(slot)])));
    let (mut balance, _) = watched(&[(1, 0, 100), (2, 0, 60), (3, 1, 50)]);
    assert_eq!(replacing(&mut balance, 1), WorkerId(1));
    assert_eq!(
        replacing(&mut balance, 2),
        WorkerId(0),
        "its own place, 0 and 150"
    );
    assert_eq!(balance.choose(None), WorkerId(0), "60 and 150");
}

#[test]
fn an_imbalance_is_evened_out_by_the_fitting_pair_once() {
    let sas = [(1, 0, 100), (2, 0, 40), (3, 0, 2), (4, 1, 10)];
    let (mut balance, now) = watched(&sas);
    assert_eq!(
        balance.even_out(pairs(&sas).into_iter(), now),
        Some(name(2))
    );
    // While it is on its way, another; then none that would help.
    let again = balance.even_out(pairs(&sas).into_iter(), now);
    assert_eq!(again, Some(name(1)));
    assert_eq!(balance.uneven, 2);
    // The successor stays where it is.
    balance.replaced(name(2).value(), name(9), now);
    let sas = [(9, 0, 40), (3, 0, 2), (4, 1, 10)];
    let records = |packets: u64| -> Vec<_> {
        sas.iter()
            .map(|(slot, owner, rate)| record(*slot, *owner, packets * rate))
            .collect()
    };
    balance.look(&records(0), now + SECOND);
    balance.look(&records(1000), now + 2 * SECOND);
    let third = balance.even_out(pairs(&sas).into_iter(), now + 2 * SECOND);
    assert_eq!(third, Some(name(3)), "little, and all that may be moved");
}

#[test]
fn what_is_even_or_idle_or_a_single_pair_stays() {
    for sas in [
        &[(1, 0, 100), (2, 1, 60)][..],
        &[(1, 0, 1), (2, 0, 1), (3, 1, 0)],
        // All there is: it would only be another worker's.
        &[(1, 0, 100), (2, 1, 0)],
        &[],
    ] {
        let (mut balance, now) = watched(sas);
        assert_eq!(
            balance.even_out(pairs(sas).into_iter(), now),
            None,
            "{sas:?}"
        );
    }
    let (mut balance, now) = watched(&[(1, 0, 100), (2, 1, 0)]);
    let _ = balance.even_out(pairs(&[(1, 0, 100)]).into_iter(), now);
    assert_eq!(balance.uneven, 1, "said all the same");
}
