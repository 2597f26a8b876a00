//! "No allocation after start": a worker on memory ports carries packets through both halves of the pipeline while the
//! allocator counts.

use esplanade_channel::{
    Command, CopyMode, DfPolicy, Epoch, Facts, InboundSa, KeyMaterial, Label, Lifetime, Mode,
    OutboundSa, Policy, PolicyAction, PolicyId, Polling, PortFacts, PortId, PortMode, PortSetup,
    Prefix, Role, SaId, Segment, Selector, Setup, Share, Tfc, Transform, UdpPorts, WorkerId,
    WorkerSetup,
};
use esplanade_crypto::{EngineKind, IvGenerator};
use esplanade_dataplane::{
    port::{Port, memory},
    worker::{Handoff, Settings, Worker},
};
use esplanade_wire::{
    Protocol,
    ethernet::{self, EtherType, MacAddress},
    ipv4,
};
use stats_alloc::{INSTRUMENTED_SYSTEM, Region, StatsAlloc};
use std::{alloc::System, net::Ipv4Addr, time::Duration};

#[global_allocator]
static ALLOCATOR: &StatsAlloc<System> = &INSTRUMENTED_SYSTEM;

const HERE: Ipv4Addr = Ipv4Addr::new(10, 1, 0, 1);
const THERE: Ipv4Addr = Ipv4Addr::new(10, 2, 0, 1);
const OUR_END: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 1);
const MAC: [u8; 6] = [2, 0, 0, 0, 0, 1];

/// One transform for each way that a packet takes through the crypto engines, and the length of its key material: AES-GCM with
/// explicit and implicit IV, ChaCha20-Poly1305, AES-CCM, AES-GMAC, AES-CBC and NULL with HMACs.
const TRANSFORMS: [(Transform, usize); 7] = [
    (Transform::AES_128_GCM_16, 20),
    (Transform::combined(30, 256), 36),
    (Transform::combined(28, 0), 36),
    (Transform::combined(16, 128), 19),
    (Transform::combined(21, 192), 28),
    (
        Transform {
            integrity: 12,
            ..Transform::combined(12, 128)
        },
        48,
    ),
    (
        Transform {
            integrity: 14,
            ..Transform::combined(11, 0)
        },
        64,
    ),
];

/// A gateway whose tunnel ends at itself: what it seals, it can open, as if the peer had sent it.
fn commands(transform: Transform, key: usize, udp: bool) -> Vec<Command> {
    let side = |address: Ipv4Addr| Selector {
        first: address.into(),
        last: address.into(),
        ports: (0, u16::MAX),
    };
    let policy = |id, local, remote| {
        Command::SetPolicy(Policy {
            id,
            priority: 1,
            action: PolicyAction::Protect,
            local: side(local),
            remote: side(remote),
            protocol: None,
        })
    };
    let (out, back) = (PolicyId(1 << 8), PolicyId(2 << 8));
    let (sending, receiving) = (SaId::new(0x1300).unwrap(), SaId::new(0x2300).unwrap());
    let key = KeyMaterial::new(&vec![7; key]).unwrap();
    let encapsulation = udp.then_some(UdpPorts {
        local: 4500,
        remote: 4500,
    });
    let mut commands = vec![
        policy(out, HERE, THERE),
        policy(back, THERE, HERE),
        Command::InstallInbound(InboundSa {
            sa: receiving,
            policy: back,
            transform,
            key: key.clone(),
            esn: true,
            window: 1024,
            local: OUR_END.into(),
            remote: OUR_END.into(),
            encapsulation,
            mode: Mode::Tunnel,
            original: None,
            follow: false,
            owner: WorkerId(0),
            lifetime: Lifetime::default(),
            label: Label::new("loop"),
        }),
        Command::InstallOutbound(OutboundSa {
            sa: sending,
            spi: receiving.value(),
            policy: out,
            transform,
            key,
            esn: true,
            local: OUR_END.into(),
            remote: OUR_END.into(),
            encapsulation,
            mode: Mode::Tunnel,
            tfc: Tfc::default(),
            owner: WorkerId(0),
            lifetime: Lifetime::default(),
            dscp: None,
            fragment_sealed: false,
            df: DfPolicy::Copy,
            path_mtu: 0,
            label: Label::new("loop"),
        }),
        Command::SelectOutbound {
            policy: out,
            sa: sending,
            share: Share::ALL,
        },
    ];
    for (port, address) in [(0, THERE), (1, OUR_END)] {
        let port = PortId(port);
        commands.push(Command::SetPort {
            port,
            mac: MAC,
            mtu: 1500,
            address: Some(HERE),
            address_v6: None,
            mss_clamp: true,
            udp_checksum: true,
            partial_checksums: false,
        });
        commands.push(Command::SetRoute {
            prefix: Prefix::new(address.into(), 32).unwrap(),
            port: Some(port),
            gateway: None,
            mtu: 0,
            unreachable: false,
        });
        commands.push(Command::SetNeighbor {
            port,
            address: address.into(),
            mac: MAC,
        });
    }
    commands
}

/// A frame of `payload` bytes over IP.
fn frame(payload: u16, dont_fragment: bool, ttl: u8) -> Vec<u8> {
    let mut frame = vec![0; 14 + 20 + usize::from(payload)];
    ethernet::Repr::untagged(MacAddress(MAC), MacAddress(MAC), EtherType::IPV4)
        .emit(&mut frame)
        .unwrap();
    let header = ipv4::Repr {
        dont_fragment,
        ttl,
        ..ipv4::Repr::new(HERE, THERE, Protocol::UDP, payload)
    };
    header.emit(&mut frame[14..]).unwrap();
    frame
}

#[test]
fn carrying_packets_allocates_nothing() {
    for ((transform, key), udp) in TRANSFORMS
        .into_iter()
        .flat_map(|transform| [(transform, false), (transform, true)])
    {
        let setup = Setup {
            workers: vec![WorkerSetup { core: None }],
            ports: [Role::Inside, Role::Outside]
                .map(|role| PortSetup {
                    vlan: None,
                    interface: role.to_string(),
                    role,
                })
                .into(),
            polling: Polling::Busy,
            sa_capacity: 16,
            engine: None,
            ring_frames: 256,
        };
        let fact = PortFacts {
            mode: PortMode::Native,
            copy: CopyMode::Copy,
            queues: 1,
        };
        let facts = Facts {
            epoch: Epoch(1),
            engine: String::new(),
            ports: vec![fact; 2],
        };
        let (segment, _) = Segment::create(&setup, &facts).unwrap();
        let (mut channel, _connection) = segment.connect_locally().unwrap();
        let (near_inside, mut inside) = memory::pair(256);
        let (near_outside, mut outside) = memory::pair(256);
        let settings = Settings {
            id: WorkerId(0),
            roles: vec![Role::Inside, Role::Outside],
            links: Vec::new(),
            polling: Polling::Busy,
            engine: EngineKind::best(),
            sa_capacity: 16,
        };
        let handoff = Handoff::mesh(1).unwrap().remove(0);
        let end = segment.worker(WorkerId(0)).unwrap();
        let ports = vec![near_inside, near_outside];
        let mut worker = Worker::new(settings, ports, end, handoff, IvGenerator::new([3; 32]));
        for command in commands(transform, key, udp) {
            channel.sender(WorkerId(0)).unwrap().push(&command).unwrap();
        }
        let packets = [
            frame(80, true, 64),
            frame(1400, true, 64),
            frame(1480, true, 64),
            frame(1480, false, 64),
            frame(80, true, 1),
        ];

        let mut now = Duration::from_secs(1);
        let mut delivered = 0;
        let mut region = Region::new(ALLOCATOR);
        for round in 0..200 {
            if round == 20 {
                region.reset();
            }
            for packet in packets.iter().cycle().take(20) {
                assert!(inside.send(packet));
            }
            now += Duration::from_millis(50);
            worker.round(now);
            // What left comes back in, as it is.
            let mut burst = arrayvec::ArrayVec::new();
            outside.receive(&mut burst);
            for frame in &burst {
                assert!(outside.send(frame));
            }
            outside.release(burst);
            worker.round(now);
            let mut burst = arrayvec::ArrayVec::new();
            inside.receive(&mut burst);
            delivered += burst.len();
            inside.release(burst);
            inside.flush();
            outside.flush();
        }
        let change = region.change();
        let allocated = change.allocations + change.reallocations;
        assert!(
            delivered > 200 * 16,
            "{delivered} packets made the round with {transform:?}"
        );
        assert_eq!(allocated, 0, "allocations in 180 rounds of {transform:?}");
    }
}
