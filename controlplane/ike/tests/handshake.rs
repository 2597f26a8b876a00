//! IKE_SA_INIT and IKE_AUTH between two endpoints.

mod link;

use std::time::Duration;

use esplanade_ike::config::Secret;
use esplanade_ike::{Counter, Settings};
use link::*;

#[test]
fn an_initiator_and_a_responder_agree() {
    let link = Link::connected(1, Weather::fair());
    assert_eq!((link.ike_sas(A), link.ike_sas(B)), (1, 1));
    assert!(link.refusals(A).is_empty() && link.refusals(B).is_empty());
}

#[test]
fn bad_weather_only_delays() {
    for seed in 0..60 {
        let link = Link::connected(seed, Weather::foul());
        assert_eq!((link.ike_sas(A), link.ike_sas(B)), (1, 1), "seed {seed}");
    }
}
