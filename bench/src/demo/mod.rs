//! The demonstration: two gateways join two sites, and a person watches what the tunnel carries, what it
//! costs, and what a listener on the wire makes of it.

mod narrator;
mod show;
mod speed;

use std::time::Duration;

use anyhow::{Result, bail};

use crate::gateway::Gateway;
use crate::peer::strongswan::{CONNECTION, Connection, Proof, StrongSwan, Version};
use crate::testbed::{Layout, OUTSIDE_A, OUTSIDE_B, PREFIX_A, PREFIX_B, Testbed};
use crate::wire_tap::{Depth, WireTap};
use narrator::Narrator;

/// The configurations that a user would start from.
const SITE_A: &str = include_str!("../../../deploy/examples/site-a.yaml");
const SITE_B: &str = include_str!("../../../deploy/examples/site-b.yaml");
/// The file that both name.
const SECRET_FILE: &str = "sites.psk";
/// The tunnel of gateway A.
const TUNNEL: &str = "site-b";

/// How long a tunnel may take to come up.
const UP: Duration = Duration::from_secs(10);

/// Who is at the other end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Peer {
    /// A second Esplanade.
    Esplanade,
    /// strongSwan, in both versions one after the other.
    StrongSwan,
}

/// Shows it all; fails when something is not as it must be.
pub fn run(peer: Peer) -> Result<()> {
    let mut narrator = Narrator::new();
    match peer {
        Peer::Esplanade => with_esplanade(&mut narrator)?,
        Peer::StrongSwan => {
            for version in [Version::Five, Version::Six] {
                with_strongswan(&mut narrator, version)?;
            }
        }
    }
    if !narrator.summarize() {
        bail!("not everything was as it must be");
    }
    Ok(())
}

fn make_testbed(narrator: &Narrator) -> Result<Testbed> {
    narrator.step("Making two hosts and two gateways from network namespaces");
    let bed = Testbed::new(&Layout::default())?;
    narrator.fact(
        "host-a 10.1.0.2 --- gw-a 192.0.2.1 ===[listener]=== 192.0.2.2 gw-b --- 10.2.0.2 host-b",
    );
    narrator.fact(&format!("logs: {}", bed.log_dir().display()));
    Ok(bed)
}

fn with_esplanade(narrator: &mut Narrator) -> Result<()> {
    let bed = make_testbed(narrator)?;
    let secret = show::random_secret()?;
    let tap = start_tap(&bed)?;

    narrator.step("Starting both gateways from deploy/examples/site-a.yaml and site-b.yaml");
    let config_b = show::write_example(&bed.gateway_b, SITE_B, &secret)?;
    let config_a = show::write_example(&bed.gateway_a, SITE_A, &secret)?;
    let b = Gateway::run(&bed.gateway_b, &config_b, false, bed.log_dir())?;
    let a = Gateway::run(&bed.gateway_a, &config_a, false, bed.log_dir())?;
    show::tunnel(narrator, &a, &b)?;

    show::ping(narrator, &bed)?;
    show::file(narrator, &bed)?;
    show::wire(narrator, tap.stop()?);
    show::iperf(narrator, &bed)?;
    let through_tunnel = speed::tunnel(narrator, &bed, &a, &b)?;
    show::drops(narrator, &[("gw-a", &a), ("gw-b", &b)])?;
    narrator.fact(
        "The search for the highest rate goes beyond it on purpose; what that lost is among these.",
    );

    narrator.step("Ending both gateways");
    a.stop()?;
    b.stop()?;
    speed::beside_forwarding(narrator, &bed, &through_tunnel)
}

fn with_strongswan(narrator: &mut Narrator, version: Version) -> Result<()> {
    narrator.step(&format!("Making {version} ready"));
    if let Some(reason) = version.unavailable() {
        bail!("{version} cannot run here: {reason}");
    }
    let bed = make_testbed(narrator)?;
    let secret = show::random_secret()?;
    let tap = start_tap(&bed)?;

    narrator.step(&format!(
        "Starting {version} as gateway B and Esplanade as gateway A from deploy/examples/site-a.yaml"
    ));
    let theirs = Connection {
        name: CONNECTION.to_owned(),
        local: OUTSIDE_B.into(),
        remote: OUTSIDE_A.into(),
        local_id: "gw-b.example.org".to_owned(),
        remote_id: "gw-a.example.org".to_owned(),
        proof: Proof::Key(secret.clone()),
        local_prefix: PREFIX_B.to_owned(),
        remote_prefix: PREFIX_A.to_owned(),
        ike: "aes256gcm16-prfsha384-x25519".to_owned(),
        esp: "aes256gcm16-x25519".to_owned(),
    };
    let b = StrongSwan::start(version, &bed.gateway_b, &theirs, bed.log_dir())?;
    narrator.result("peer", &b.version()?);
    let config_a = show::write_example(&bed.gateway_a, SITE_A, &secret)?;
    let a = Gateway::run(&bed.gateway_a, &config_a, false, bed.log_dir())?;
    a.wait_until_up(UP)?;
    narrator.fact(b.list()?.trim_end());

    show::ping(narrator, &bed)?;
    show::file(narrator, &bed)?;
    show::rekeys_with_strongswan(narrator, &bed, &a, &b)?;
    show::wire(narrator, tap.stop()?);
    show::drops(narrator, &[("gw-a", &a)])?;
    narrator.step("Ending Esplanade; its peer hears the goodbye");
    a.stop()?;
    narrator.fact(&format!("SAs left at {version}: {}", b.children()?.len()));
    Ok(())
}

fn start_tap(bed: &Testbed) -> Result<WireTap> {
    let Some(wire) = &bed.wire else {
        bail!("this test-bed has no wire to listen on")
    };
    WireTap::start(wire, Testbed::TAP, Depth::Whole, show::MARKER)
}
