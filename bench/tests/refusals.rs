//! What stops a gateway from starting, each in a sentence that says what to do.

mod common;

use std::net::{Ipv4Addr, UdpSocket};
use std::thread;
use std::time::Duration;

use common::{bed, ready};
use esplanade_bench::gateway::{Gateway, Site, binary, write_config, write_site};
use esplanade_bench::testbed::{OUTSIDE, Testbed, run, wait_until};
use esplanade_bpf::{Role, Steering};
use esplanade_dataplane::port::Settings;
use esplanade_dataplane::port::xdp::XdpPort;
use rustix::net::AddressFamily;
use seccompiler::{
    BpfProgram, SeccompAction, SeccompCmpArgLen, SeccompCmpOp, SeccompCondition, SeccompFilter,
    SeccompRule,
};

const SOON: Duration = Duration::from_secs(10);

/// Runs a gateway that cannot start, and returns what it said before it ended or went on trying.
fn refused(bed: &Testbed, yaml: &str, prefix: &[&str], expected: &[&str]) -> String {
    let config = write_config(&bed.gateway_a, yaml, "secret").expect("a configuration");
    let mut gateway =
        Gateway::launch(&bed.gateway_a, &config, prefix, false, bed.log_dir()).expect("esplanade");
    let process = gateway.supervisor();
    let start = process.said().len();
    let said_all = |said: &str| expected.iter().all(|text| said.contains(text));
    let _ = wait_until("a refusal", SOON, || {
        let ended = process.ended().is_some();
        ended || said_all(&process.said()[start.min(process.said().len())..])
    });
    let said = process.said();
    for text in expected {
        assert!(said.contains(text), "it does not name {text}:\n{said}");
    }
    assert!(!said.contains("panicked"), "{said}");
    said
}

#[test]
fn another_xdp_program_is_named_and_left_alone() {
    if !ready() {
        return;
    }
    let bed = bed();
    let interface = bed.gateway_a.interface(OUTSIDE).expect("an interface");
    let theirs = bed
        .gateway_a
        .enter(|| {
            let mut steering = Steering::load()?;
            steering.attach(interface.index, OUTSIDE, 0, Role::Outside)?;
            Ok(steering)
        })
        .expect("somebody's program");
    let link = bed
        .gateway_a
        .run(&["ip", "-details", "link", "show", OUTSIDE])
        .expect("ip")
        .stdout;
    let id = link
        .split("prog/xdp id ")
        .nth(1)
        .and_then(|rest| rest.split(' ').next())
        .unwrap_or_else(|| panic!("no program: {link}"))
        .to_owned();
    let said = refused(
        &bed,
        &Site::a().yaml(),
        &[],
        &[OUTSIDE, "esplanade_steer", &id],
    );
    println!("{said}");
    let after = bed
        .gateway_a
        .run(&["ip", "-details", "link", "show", OUTSIDE])
        .expect("ip")
        .stdout;
    assert!(
        after.contains(&format!("prog/xdp id {id}")),
        "it was replaced: {after}"
    );
    drop(theirs);
    // Gone is gone: now it starts.
    Gateway::start(&bed.gateway_a, &Site::a(), bed.log_dir()).expect("gateway A");
}

#[test]
fn a_missing_interface_is_named() {
    if !ready() {
        return;
    }
    let bed = bed();
    let yaml = Site::a()
        .yaml()
        .replace("interface: eth2", "interface: eth9");
    refused(&bed, &yaml, &[], &["eth9"]);
}

#[test]
fn a_queue_that_is_taken_is_named() {
    if !ready() {
        return;
    }
    let bed = bed();
    let interface = bed.gateway_a.interface(OUTSIDE).expect("an interface");
    let settings = Settings {
        interface,
        queue: 0,
        frames: 64,
        force_copy: false,
    };
    let theirs = bed
        .gateway_a
        .enter(|| Ok(XdpPort::open(&settings)?))
        .expect("somebody's socket");
    refused(&bed, &Site::a().yaml(), &[], &["queue 0", OUTSIDE]);
    drop(theirs);
}

#[test]
fn missing_capabilities_are_named() {
    if !ready() {
        return;
    }
    let bed = bed();
    let prefix = [
        "setpriv",
        "--bounding-set=-net_admin,-net_raw,-bpf,-sys_admin,-perfmon",
    ];
    refused(&bed, &Site::a().yaml(), &prefix, &["CAP_NET_ADMIN"]);
}

#[test]
fn too_little_locked_memory_is_named() {
    if !ready() {
        return;
    }
    let bed = bed();
    let prefix = [
        "setpriv",
        "--bounding-set=-ipc_lock,-sys_resource",
        "prlimit",
        "--memlock=65536:65536",
    ];
    let expected = ["locked memory", "the limit is 64 KiB", "CAP_IPC_LOCK"];
    refused(&bed, &Site::a().yaml(), &prefix, &expected);
}

/// Has the calling thread, and every process that it starts, run on a kernel without AF_XDP: `socket` answers as one built
/// without CONFIG_XDP_SOCKETS does.
fn without_af_xdp() {
    const EAFNOSUPPORT: u32 = 97;
    let is_xdp = SeccompCondition::new(
        0,
        SeccompCmpArgLen::Dword,
        SeccompCmpOp::Eq,
        AddressFamily::XDP.as_raw().into(),
    );
    let rule = SeccompRule::new(vec![is_xdp.expect("a condition")]).expect("a rule");
    let filter = SeccompFilter::new(
        [(libc::SYS_socket, vec![rule])].into(),
        SeccompAction::Allow,
        SeccompAction::Errno(EAFNOSUPPORT),
        std::env::consts::ARCH.try_into().expect("an architecture"),
    );
    let program: BpfProgram = filter
        .and_then(TryInto::try_into)
        .expect("a seccomp program");
    seccompiler::apply_filter(&program).expect("the filter");
}

#[test]
fn a_kernel_without_af_xdp_is_named() {
    if !ready() {
        return;
    }
    let bed = bed();
    thread::scope(|scope| {
        scope.spawn(|| {
            without_af_xdp();
            let expected = ["no AF_XDP sockets", "CONFIG_XDP_SOCKETS"];
            refused(&bed, &Site::a().yaml(), &[], &expected);
        });
    });
}

#[test]
fn a_port_that_another_daemon_holds_is_named() {
    if !ready() {
        return;
    }
    let bed = bed();
    for port in [500, 4500] {
        let theirs = bed
            .gateway_a
            .enter(|| Ok(UdpSocket::bind((Ipv4Addr::UNSPECIFIED, port))?))
            .expect("a socket");
        // The holder is this test, by its process id.
        let id = std::process::id().to_string();
        refused(&bed, &Site::a().yaml(), &[], &[&port.to_string(), &id]);
        drop(theirs);
    }
}

#[test]
fn a_mistake_in_the_configuration_names_its_place() {
    if !ready() {
        return;
    }
    let bed = bed();
    let yaml = Site::a()
        .yaml()
        .replace("polling: adaptive", "poling: adaptive");
    let said = refused(&bed, &yaml, &[], &["esplanade.yaml", "poling", "polling"]);
    assert!(said.contains("esplanade.yaml:3:"), "line 3: {said}");
    let config = write_site(&bed.gateway_a, &Site::a()).expect("a configuration");
    let checked = bed
        .gateway_a
        .command(binary("esplanade").expect("esplanade"))
        .arg("check")
        .arg(&config)
        .output()
        .expect("esplanade check");
    assert!(checked.status.success(), "{checked:?}");
}

#[test]
fn a_second_gateway_on_the_same_run_directory_is_refused() {
    if !ready() {
        return;
    }
    let bed = bed();
    let first = Gateway::start(&bed.gateway_a, &Site::a(), bed.log_dir()).expect("gateway A");
    let mut second = Gateway::launch(&bed.gateway_a, first.config(), &[], false, bed.log_dir())
        .expect("esplanade");
    let status = second.supervisor().wait(SOON).expect("an end");
    assert!(!status.success());
    assert!(first.status().is_ok(), "the first goes on");
}

#[test]
fn without_a_daemon_the_command_line_says_so() {
    if !ready() {
        return;
    }
    let mut command = std::process::Command::new(binary("esplanade").expect("esplanade"));
    command.args(["status", "--run-dir", "/nonexistent"]);
    let said = run(&mut command, SOON).expect("an answer");
    assert_eq!(said.status.code(), Some(3), "{said:?}");
    assert!(said.stderr.contains("/nonexistent"), "{said:?}");
}
