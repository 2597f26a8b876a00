//! Leases: the same again, never one to two, and all of a pool can be had.

use proptest::prelude::*;

use super::*;

const HOLD: Duration = Duration::from_secs(600);

fn address(text: &str) -> IpAddr {
    text.parse().unwrap()
}

fn who(number: usize) -> Identity {
    format!("client-{number}@example.org").parse().unwrap()
}

fn holder(number: usize) -> Arc<str> {
    format!("clients#{number}").into()
}

fn config() -> PoolConfig {
    PoolConfig {
        name: "staff".into(),
        ranges: vec![
            (address("10.9.0.1"), address("10.9.0.4")),
            (address("2001:db8::1"), address("2001:db8::4")),
        ],
        dns: vec![address("10.1.0.53"), address("2001:db8:1::53")],
        networks: vec![(address("10.1.0.0"), 16)],
        hold: HOLD,
        fixed: vec![(who(7), address("10.9.0.2"))],
    }
}

fn pools(now: Instant) -> Pools {
    let mut pools = Pools::default();
    pools.configure(now, vec![config()]);
    pools
}

fn v4() -> Wish {
    Wish {
        v4: Some(None),
        ..Wish::default()
    }
}

fn take(pools: &mut Pools, now: Instant, number: usize) -> Result<String, Refusal> {
    let given = pools.lease(now, "staff", &who(number), &holder(number), &v4())?;
    Ok(given.addresses[0].to_string())
}

#[test]
fn who_comes_back_gets_the_same_until_it_is_held_no_more() {
    let now = Instant::now();
    let mut pools = pools(now);
    assert_eq!(take(&mut pools, now, 1).unwrap(), "10.9.0.1");
    assert_eq!(take(&mut pools, now, 1).unwrap(), "10.9.0.1");
    assert_eq!(take(&mut pools, now, 2).unwrap(), "10.9.0.3");
    pools.let_go(now, &holder(1));
    assert_eq!(take(&mut pools, now, 3).unwrap(), "10.9.0.4");
    assert!(matches!(
        take(&mut pools, now, 4),
        Err(Refusal::PoolExhausted { .. })
    ));
    assert_eq!(take(&mut pools, now + HOLD / 2, 1).unwrap(), "10.9.0.1");
    pools.let_go(now, &holder(1));
    assert_eq!(take(&mut pools, now + HOLD, 4).unwrap(), "10.9.0.1");
}

#[test]
fn a_fixed_address_is_one_clients_alone() {
    let now = Instant::now();
    let mut pools = pools(now);
    for number in 1..4 {
        assert_ne!(take(&mut pools, now, number).unwrap(), "10.9.0.2");
    }
    assert!(take(&mut pools, now, 4).is_err());
    assert_eq!(take(&mut pools, now, 7).unwrap(), "10.9.0.2");
}

#[test]
fn a_client_gets_what_it_asks_for_if_it_is_free() {
    let now = Instant::now();
    let mut pools = pools(now);
    let wish = |text: &str| Wish {
        v4: Some(Some(text.parse().unwrap())),
        v6: Some(None),
        netmask: false,
    };
    let mut ask = |number: usize, text: &str| {
        let given = pools.lease(now, "staff", &who(number), &holder(number), &wish(text));
        given.unwrap()
    };
    assert_eq!(
        ask(1, "10.9.0.3").addresses,
        [address("10.9.0.3"), address("2001:db8::1")]
    );
    // Taken, fixed and foreign ones are not given.
    let second = ask(2, "10.9.0.3");
    assert_eq!(
        second.addresses,
        [address("10.9.0.1"), address("2001:db8::2")]
    );
    assert_eq!(second.dns.len(), 2);
    assert_eq!(ask(3, "192.0.2.1").addresses[0], address("10.9.0.4"));
}

/// RFC 7296 3.15.4: "If the initiator requests multiple addresses (...) and some (but not all) of the requests fail, the
/// responder replies with the successful addresses only."
#[test]
fn a_family_that_is_full_does_not_take_the_other_with_it() {
    let now = Instant::now();
    let mut narrow = config();
    narrow.ranges[1].1 = address("2001:db8::1");
    let mut pools = Pools::default();
    pools.configure(now, vec![narrow]);
    let both = Wish {
        v4: Some(None),
        v6: Some(None),
        netmask: false,
    };
    let mut ask = |number| pools.lease(now, "staff", &who(number), &holder(number), &both);
    assert_eq!(ask(1).unwrap().addresses.len(), 2);
    assert_eq!(ask(2).unwrap().addresses, [address("10.9.0.3")]);
    assert_eq!(ask(3).unwrap().addresses, [address("10.9.0.4")]);
    assert!(matches!(ask(4), Err(Refusal::PoolExhausted { .. })));
    assert_eq!(pools.leases().count(), 4);
}

#[test]
fn the_next_life_keeps_what_this_one_gave() {
    let now = Instant::now();
    let mut first = pools(now);
    assert_eq!(take(&mut first, now, 1).unwrap(), "10.9.0.1");
    assert_eq!(take(&mut first, now, 2).unwrap(), "10.9.0.3");
    let written: Vec<_> = first
        .leases()
        .map(|lease| (lease.pool.clone(), lease.address, lease.identity.clone()))
        .collect();
    let mut next = pools(now);
    next.restore(now, written);
    assert_eq!(take(&mut next, now, 3).unwrap(), "10.9.0.4");
    assert_eq!(take(&mut next, now, 2).unwrap(), "10.9.0.3");
    // What an adopted child SA uses is not given to others, however long that lasts.
    let selectors = [TrafficSelector::prefix(address("10.9.0.1"), 32).unwrap()];
    let used = next.occupy("staff", &holder(1), &who(1), &selectors);
    assert_eq!(used, [address("10.9.0.1")]);
    assert!(take(&mut next, now + 2 * HOLD, 5).is_err());
}

#[test]
fn what_is_held_can_be_released_and_what_is_used_cannot() {
    let now = Instant::now();
    let mut pools = pools(now);
    take(&mut pools, now, 1).unwrap();
    let used = pools.release(address("10.9.0.1")).unwrap_err();
    assert!(
        used.to_string()
            .contains("`esplanade terminate clients#1` first")
    );
    pools.let_go(now, &holder(1));
    pools.release(address("10.9.0.1")).unwrap();
    let gone = pools.release(address("10.9.0.1")).unwrap_err();
    assert_eq!(gone, ReleaseError::NotLeased(address("10.9.0.1")));
}

#[test]
fn a_changed_pool_keeps_what_is_in_use() {
    let now = Instant::now();
    let mut pools = pools(now);
    take(&mut pools, now, 1).unwrap();
    let mut other = config();
    other.ranges = vec![(address("10.9.1.1"), address("10.9.1.1"))];
    pools.configure(now, vec![other]);
    assert_eq!(pools.leases().count(), 1);
    pools.let_go(now, &holder(1));
    assert_eq!(pools.leases().count(), 0);
    assert_eq!(take(&mut pools, now, 1).unwrap(), "10.9.1.1");
    let unknown = pools.lease(now, "guests", &who(1), &holder(1), &v4());
    assert!(matches!(unknown, Err(Refusal::NoAddress { .. })));
}

proptest! {
    /// Whatever comes and goes, no two hold the same address, and who cannot get one finds all of them taken or kept.
    #[test]
    fn no_address_has_two_holders(steps in proptest::collection::vec((0..8_usize, 0..3_u8, 0..400_u64), 0..80)) {
        let mut now = Instant::now();
        let mut pools = pools(now);
        for (number, step, wait) in steps {
            now += Duration::from_secs(wait);
            match step {
                0 => pools.let_go(now, &holder(number)),
                _ => {
                    let taken = take(&mut pools, now, number);
                    if taken.is_err() {
                        let open: Vec<_> = pools.leases().filter(|l| l.address != address("10.9.0.2")).collect();
                        prop_assert_eq!(open.len(), 3);
                        prop_assert!(open.iter().all(|lease| lease.identity != who(number)));
                    }
                }
            }
            let held: Vec<_> = pools.leases().filter_map(|lease| lease.holder.clone()).collect();
            let distinct: BTreeSet<_> = held.iter().collect();
            prop_assert_eq!(held.len(), distinct.len());
            for pool in pools.all.values() {
                prop_assert_eq!(pool.by_identity.len(), pool.leases.len());
                let unused = pool.leases.values().filter(|lease| lease.holder.is_none()).count();
                prop_assert_eq!(pool.ending.len(), unused);
                prop_assert_eq!(pool.by_holder.len() + unused, pool.leases.len());
            }
        }
    }
}
