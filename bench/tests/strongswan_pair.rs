//! The test-bed proves itself: two strongSwans, of which each version is the other end of
//! Esplanade in the interop tests, talk to each other through it.

use esplanade_bench::peer::strongswan::{CONNECTION, Connection, Proof, StrongSwan, Version};
use esplanade_bench::testbed::{self, Layout, OUTSIDE_A, OUTSIDE_B, PREFIX_A, PREFIX_B, Testbed};
use esplanade_bench::wire_tap::{Depth, WireTap};

#[test]
fn two_versions_of_strongswan_talk_through_the_testbed() {
    let missing = testbed::unavailable()
        .or_else(|| Version::Five.unavailable())
        .or_else(|| Version::Six.unavailable());
    if let Some(reason) = missing {
        println!("SKIPPED: {reason}");
        return;
    }
    let bed = Testbed::new(&Layout::default()).expect("a test-bed");
    let wire = bed.wire.as_ref().expect("a bridged wire");
    assert_eq!(
        bed.ping(2).expect("ping"),
        2,
        "the test-bed forwards before there is a tunnel"
    );

    let side_a = Connection {
        name: CONNECTION.to_owned(),
        local: OUTSIDE_A.into(),
        remote: OUTSIDE_B.into(),
        local_id: "gw-a.example.org".to_owned(),
        remote_id: "gw-b.example.org".to_owned(),
        proof: Proof::Key("correct horse battery staple".to_owned()),
        local_prefix: PREFIX_A.to_owned(),
        remote_prefix: PREFIX_B.to_owned(),
        ike: "aes256gcm16-prfsha384-x25519".to_owned(),
        esp: "aes256gcm16-x25519".to_owned(),
    };
    let a = StrongSwan::start(Version::Five, &bed.gateway_a, &side_a, bed.log_dir())
        .expect("strongSwan 5.9");
    let b = StrongSwan::start(
        Version::Six,
        &bed.gateway_b,
        &side_a.mirrored(),
        bed.log_dir(),
    )
    .expect("strongSwan 6");
    assert!(
        b.version().expect("a version").contains(" 6."),
        "{:?}",
        b.version()
    );

    let tap = WireTap::start(wire, Testbed::TAP, Depth::Whole, b"").expect("a listener");
    a.initiate().expect("a tunnel");
    assert_eq!(
        bed.ping(5).expect("ping"),
        5,
        "{}",
        a.list().unwrap_or_default()
    );
    let before = a.children().expect("children");
    assert_eq!(before.len(), 1);

    b.rekey_child().expect("a rekey of the child");
    testbed::wait_until(
        "the child SA to be replaced",
        std::time::Duration::from_secs(5),
        || {
            a.children().is_ok_and(|now| {
                now.iter()
                    .any(|sa| sa.installed && sa.inbound != before[0].inbound)
            })
        },
    )
    .expect("a new child SA");
    assert_eq!(bed.ping(5).expect("ping"), 5);

    let seen = tap.stop().expect("what was seen");
    assert!(seen.only_protected(), "{seen:?}");
    assert!(seen.esp >= 20 && seen.ike >= 6, "{seen:?}");
    assert_eq!(seen.repeated_nonces, 0, "{seen:?}");
}
