//! The maps stay open to us once the privileges are gone, with the kernel's `unprivileged_bpf_disabled=2`.
//! Needs root, to have something to drop.

use esplanade_bpf::{Action, Prefix, Role, SteerError, Steering, Verdict, Vlan};
use rustix::thread::{
    CapabilitySet, CapabilitySets, Gid, Uid, set_capabilities, set_thread_groups,
    set_thread_res_gid, set_thread_res_uid,
};
use std::{fs, net::Ipv4Addr, thread};

const SETTING: &str = "/proc/sys/kernel/unprivileged_bpf_disabled";
const NOBODY: u32 = 65534;

/// Turns this thread (credentials belong to threads) into nobody, without any capability.
fn become_nobody() {
    let (uid, gid) = (Uid::from_raw(NOBODY), Gid::from_raw(NOBODY));
    set_thread_groups(&[]).unwrap();
    set_thread_res_gid(gid, gid, gid).unwrap();
    set_thread_res_uid(uid, uid, uid).unwrap();
    let nothing = CapabilitySet::empty();
    let sets = CapabilitySets {
        effective: nothing,
        permitted: nothing,
        inheritable: nothing,
    };
    set_capabilities(None, sets).unwrap();
}

#[test]
fn maps_are_updated_without_privileges() {
    if !rustix::process::geteuid().is_root() {
        eprintln!("SKIPPED: needs root");
        return;
    }
    let setting = fs::read_to_string(SETTING).unwrap();
    if setting.trim() == "0" {
        fs::write(SETTING, "2").unwrap();
    }
    let mut steering = Steering::load().unwrap();
    steering.set_port(1, 0, Role::Inside, Vlan::NONE).unwrap();

    let mut steering = thread::spawn(move || {
        become_nobody();
        // The kernel means it: a new program is refused, with a sentence.
        let refused = Steering::load().unwrap_err();
        assert!(
            matches!(refused, SteerError::Capabilities { .. }),
            "{refused}"
        );

        let any = Prefix::new(Ipv4Addr::UNSPECIFIED, 0);
        let gateway = Ipv4Addr::new(192, 0, 2, 1);
        let other = Ipv4Addr::new(192, 0, 2, 2);
        steering.add_local(gateway).unwrap();
        steering.add_local(other).unwrap();
        steering.remove_local(other).unwrap();
        steering.add_protected(any, any).unwrap();
        steering.set_port(1, 0, Role::Outside, Vlan::NONE).unwrap();
        steering.set_port(1, 0, Role::Inside, Vlan::NONE).unwrap();
        steering.counters().unwrap();
        steering
    })
    .join()
    .unwrap();

    // What was said without privileges is what the program does.
    let mut packet = [1; 60];
    packet[12..24].copy_from_slice(&[8, 0, 0x45, 0, 0, 40, 0, 0, 0, 0, 64, 6]);
    packet[26..30].copy_from_slice(&[10, 1, 0, 1]);
    packet[30..34].copy_from_slice(&[10, 2, 0, 1]);
    assert_eq!(steering.dry_run(&packet).unwrap().0, Action::Drop);
    packet[23] = 50;
    packet[30..34].copy_from_slice(&[192, 0, 2, 1]);
    assert_eq!(steering.dry_run(&packet).unwrap().0, Action::Drop);
    let count = steering.counters().unwrap()[Verdict::DropNoSocket as usize].1;
    assert_eq!(count, 2);
    let any = Prefix::new(Ipv4Addr::UNSPECIFIED, 0);
    steering.remove_protected(any, any).unwrap();

    if setting.trim() == "0" {
        fs::write(SETTING, "0").unwrap();
    }
}
