//! What is written is read back; what is not a record is refused, whatever it is.

use super::*;
use crate::{
    CaptureOrder, Command, CommandError, DfPolicy, Direction, Event, InboundSa, KeyMaterial, Label,
    Lifetime, Original, OutboundSa, Policy, PolicyAction, PolicyId, PortId, Prefix, SaRecord,
    SaState, SaStatistics, Selector, Sequence, Share, Tfc, Transform, UdpPorts, WorkerId,
};
use proptest::{prelude::*, sample::select};

fn sa_id() -> impl Strategy<Value = SaId> {
    (256..=u32::MAX).prop_map(|value| SaId::new(value).unwrap())
}

fn policy_id() -> impl Strategy<Value = PolicyId> {
    any::<u64>().prop_map(PolicyId)
}

fn port_id() -> impl Strategy<Value = PortId> {
    any::<u8>().prop_map(PortId)
}

fn prefix() -> impl Strategy<Value = Prefix> {
    (any::<IpAddr>(), 0..=128_u8).prop_map(|(address, length)| {
        let longest = if address.is_ipv4() { 32 } else { 128 };
        Prefix::new(address, length.min(longest)).unwrap()
    })
}

/// Two addresses of one family, the lower first.
fn addresses() -> impl Strategy<Value = (IpAddr, IpAddr)> {
    prop_oneof![
        any::<(Ipv4Addr, Ipv4Addr)>().prop_map(|(a, b)| (a.min(b).into(), a.max(b).into())),
        any::<(Ipv6Addr, Ipv6Addr)>().prop_map(|(a, b)| (a.min(b).into(), a.max(b).into())),
    ]
}

fn transform() -> impl Strategy<Value = Transform> {
    any::<[u16; 3]>().prop_map(|[encryption, key_bits, integrity]| Transform {
        encryption,
        key_bits,
        integrity,
    })
}

fn key() -> impl Strategy<Value = KeyMaterial> {
    prop::collection::vec(any::<u8>(), 0..=KeyMaterial::CAPACITY)
        .prop_map(|key| KeyMaterial::new(&key).unwrap())
}

fn encapsulation() -> impl Strategy<Value = Option<UdpPorts>> {
    let ports = |(local, remote)| UdpPorts { local, remote };
    prop::option::of(any::<(u16, u16)>().prop_map(ports))
}

fn lifetime() -> impl Strategy<Value = Lifetime> {
    any::<[u64; 4]>().prop_map(
        |[soft_packets, hard_packets, soft_bytes, hard_bytes]| Lifetime {
            soft_packets,
            hard_packets,
            soft_bytes,
            hard_bytes,
        },
    )
}

fn label() -> impl Strategy<Value = Label> {
    ".{0,70}".prop_map(|text| Label::new(&text))
}

fn outbound() -> impl Strategy<Value = OutboundSa> {
    let flags = any::<[bool; 2]>();
    let numbers = (sa_id(), sa_id(), policy_id(), any::<u16>(), any::<u16>());
    let df = select(vec![DfPolicy::Copy, DfPolicy::Set, DfPolicy::Clear]);
    let marks = (df, prop::option::of(0..64_u8));
    let key = (transform(), key());
    let more = (key, addresses(), encapsulation(), lifetime(), label());
    (numbers, more, flags, marks, mode(), tfc()).prop_map(
        |(
            (sa, spi, policy, owner, path_mtu),
            ((transform, key), (local, remote), encapsulation, lifetime, label),
            [esn, fragment_sealed],
            (df, dscp),
            mode,
            tfc,
        )| OutboundSa {
            sa,
            spi: spi.value(),
            policy,
            transform,
            key,
            esn,
            local,
            remote,
            encapsulation,
            mode,
            tfc,
            owner: WorkerId(owner),
            lifetime,
            dscp,
            df,
            fragment_sealed,
            path_mtu,
            label,
        },
    )
}

fn share() -> impl Strategy<Value = Share> {
    (any::<Option<u16>>(), 1..=u64::MAX).prop_map(|(worker, dscps)| Share {
        worker: worker.map(WorkerId),
        dscps,
    })
}

fn mode() -> impl Strategy<Value = Mode> {
    select(vec![Mode::Tunnel, Mode::Transport])
}

fn tfc() -> impl Strategy<Value = Tfc> {
    any::<[u16; 3]>().prop_map(|[size, multiple, dummies]| Tfc {
        size,
        multiple,
        dummies,
    })
}

fn original() -> impl Strategy<Value = Option<Original>> {
    let original = |(local, remote)| Original { local, remote };
    prop::option::of(addresses().prop_map(original))
}

fn inbound() -> impl Strategy<Value = InboundSa> {
    let more = (any::<u32>(), original(), any::<bool>());
    (outbound(), more).prop_map(|(sa, (window, original, follow))| InboundSa {
        mode: sa.mode,
        original,
        follow,
        sa: sa.sa,
        policy: sa.policy,
        transform: sa.transform,
        key: sa.key,
        esn: sa.esn,
        window,
        local: sa.local,
        remote: sa.remote,
        encapsulation: sa.encapsulation,
        owner: sa.owner,
        lifetime: sa.lifetime,
        label: sa.label,
    })
}

fn policy() -> impl Strategy<Value = Policy> {
    let action = select(vec![
        PolicyAction::Protect,
        PolicyAction::Bypass,
        PolicyAction::Discard,
    ]);
    let sides = prop_oneof![
        any::<[Ipv4Addr; 4]>().prop_map(|all| all.map(IpAddr::from)),
        any::<[Ipv6Addr; 4]>().prop_map(|all| all.map(IpAddr::from)),
    ];
    let selector = |a: IpAddr, b: IpAddr, p: u16, q: u16| Selector {
        first: a.min(b),
        last: a.max(b),
        ports: (p.min(q), p.max(q)),
    };
    let head = (policy_id(), any::<u32>(), any::<Option<u8>>());
    (head, action, sides, any::<[u16; 4]>()).prop_map(
        move |((id, priority, protocol), action, [a, b, c, d], [p, q, r, s])| Policy {
            id,
            priority,
            action,
            local: selector(a, b, p, q),
            remote: selector(c, d, r, s),
            protocol,
        },
    )
}

fn command() -> impl Strategy<Value = Command> {
    let route = (
        prefix(),
        prop::option::of(port_id()),
        any::<Option<IpAddr>>(),
    );
    let port = (
        port_id(),
        any::<[u8; 6]>(),
        any::<u16>(),
        any::<Option<Ipv4Addr>>(),
    );
    prop_oneof![
        inbound().prop_map(Command::InstallInbound),
        outbound().prop_map(Command::InstallOutbound),
        policy().prop_map(Command::SetPolicy),
        sa_id().prop_map(|sa| Command::RemoveSa { sa }),
        (policy_id(), sa_id(), share()).prop_map(|(policy, sa, share)| Command::SelectOutbound {
            policy,
            sa,
            share
        }),
        (sa_id(), any::<IpAddr>(), any::<u16>()).prop_map(|(sa, remote, port)| Command::MovePeer {
            sa,
            remote,
            port
        }),
        policy_id().prop_map(|id| Command::RemovePolicy { id }),
        (route, any::<u16>(), any::<bool>()).prop_map(
            |((prefix, port, gateway), mtu, unreachable)| Command::SetRoute {
                prefix,
                port,
                gateway,
                mtu,
                unreachable,
            }
        ),
        prefix().prop_map(|prefix| Command::RemoveRoute { prefix }),
        (port_id(), any::<IpAddr>(), any::<[u8; 6]>())
            .prop_map(|(port, address, mac)| Command::SetNeighbor { port, address, mac }),
        (port_id(), any::<IpAddr>())
            .prop_map(|(port, address)| Command::RemoveNeighbor { port, address }),
        (port, any::<Option<Ipv6Addr>>(), any::<[bool; 3]>()).prop_map(
            |(
                (port, mac, mtu, address),
                address_v6,
                [mss_clamp, udp_checksum, partial_checksums],
            )| Command::SetPort {
                port,
                mac,
                mtu,
                address,
                address_v6,
                mss_clamp,
                udp_checksum,
                partial_checksums,
            }
        ),
        (
            any::<u64>(),
            1..u32::MAX,
            1..=crate::MAX_SNAP,
            any::<[bool; 2]>()
        )
            .prop_map(
                |(until_ms, rate, snap, [drops_only, chosen])| Command::StartCapture(
                    CaptureOrder {
                        until_ms,
                        rate,
                        snap,
                        drops_only,
                        chosen,
                    }
                )
            ),
        policy_id().prop_map(|policy| Command::CaptureGroup { policy }),
        Just(Command::StopCapture),
        Just(Command::BeginSync),
        Just(Command::EndSync),
        any::<IpAddr>().prop_map(|address| Command::SetLocalAddress { address }),
        any::<IpAddr>().prop_map(|address| Command::RemoveLocalAddress { address }),
        (prefix(), prefix()).prop_map(|(local, remote)| Command::SetProtected { local, remote }),
        (prefix(), prefix()).prop_map(|(local, remote)| Command::RemoveProtected { local, remote }),
        prefix().prop_map(|prefix| Command::SetInside { prefix }),
        prefix().prop_map(|prefix| Command::RemoveInside { prefix }),
    ]
}

fn event() -> impl Strategy<Value = Event> {
    let packet = (any::<(IpAddr, IpAddr)>(), any::<u8>(), any::<(u16, u16)>());
    prop_oneof![
        sa_id().prop_map(|sa| Event::FirstPacket { sa }),
        sa_id().prop_map(|sa| Event::SoftLifetime { sa }),
        sa_id().prop_map(|sa| Event::HardLifetime { sa }),
        sa_id().prop_map(|sa| Event::SequenceNearEnd { sa }),
        (sa_id(), any::<IpAddr>(), any::<u16>()).prop_map(|(sa, remote, port)| Event::PeerMoved {
            sa,
            remote,
            port
        }),
        (policy_id(), packet).prop_map(|(policy, ((source, destination), protocol, ports))| {
            Event::Acquire {
                policy,
                source,
                destination,
                protocol,
                ports,
            }
        }),
        (port_id(), any::<IpAddr>())
            .prop_map(|(port, address)| Event::NeighborMissing { port, address }),
        (any::<u64>(), select(CommandError::ALL.to_vec())).prop_map(|(sequence, reason)| {
            Event::CommandFailed {
                sequence: Sequence(sequence),
                reason,
            }
        }),
    ]
}

fn sa_record() -> impl Strategy<Value = SaRecord> {
    let direction = select(vec![Direction::Inbound, Direction::Outbound]);
    let state = select(vec![SaState::Mature, SaState::Dying, SaState::Dead]);
    let numbers = (any::<u32>(), any::<[u64; 6]>(), any::<bool>(), any::<u16>());
    (outbound(), direction, state, numbers).prop_map(
        |(sa, direction, state, (window, statistics, selected, path_mtu))| {
            let [packets, bytes, sequence, replays, forged, last_used_ms] = statistics;
            SaRecord {
                sa: sa.sa,
                spi: sa.spi,
                direction,
                policy: sa.policy,
                owner: sa.owner,
                state,
                selected,
                label: sa.label,
                transform: sa.transform,
                local: sa.local,
                remote: sa.remote,
                encapsulation: sa.encapsulation,
                mode: sa.mode,
                esn: sa.esn,
                window,
                statistics: SaStatistics {
                    packets,
                    bytes,
                    sequence,
                    replays,
                    forged,
                    last_used_ms,
                    path_mtu,
                },
            }
        },
    )
}

proptest! {
    #[test]
    fn a_command_is_read_as_it_was_written(command in command()) {
        let mut words = [0; COMMAND_WORDS];
        encode_command(&command, &mut words);
        prop_assert_eq!(decode_command(&words), Ok(command));
    }

    #[test]
    fn an_event_is_read_as_it_was_written(event in event()) {
        let mut words = [0; EVENT_WORDS];
        encode_event(&event, &mut words);
        prop_assert_eq!(decode_event(&words), Some(event));
    }

    #[test]
    fn an_sa_is_read_as_it_was_written(record in sa_record()) {
        let mut words = [7; SA_WORDS];
        words[1..].copy_from_slice(&encode_sa(&record));
        prop_assert_eq!(decode_sa(&words), Some(record));
    }

    #[test]
    fn any_words_are_a_record_or_refused(
        mut words in any::<[u64; COMMAND_WORDS]>(),
        kind in 0..23_u64,
        small in any::<[u8; COMMAND_WORDS - 1]>(),
    ) {
        let sa = |words: &[u64; COMMAND_WORDS]| words[..SA_WORDS].try_into().unwrap();
        let _ = (decode_command(&words), decode_sa(&sa(&words)));
        words[0] = kind;
        let _ = decode_command(&words);
        // Small numbers pass more of the checks.
        for (word, small) in words.iter_mut().skip(1).zip(small) {
            *word = small.into();
        }
        let _ = (decode_command(&words), decode_sa(&sa(&words)));
        let _ = decode_event(&words[..EVENT_WORDS].try_into().unwrap());
    }

    // One bit wrong in a good record: another record, or refused, never a panic.
    #[test]
    fn a_damaged_command_is_a_command_or_refused(command in command(), bit in 0..COMMAND_WORDS * 64) {
        let mut words = [0; COMMAND_WORDS];
        encode_command(&command, &mut words);
        words[bit / 64] ^= 1 << (bit % 64);
        let _ = decode_command(&words);
    }
}

#[test]
fn a_wiped_slot_is_no_record() {
    assert_eq!(
        decode_command(&[0; COMMAND_WORDS]),
        Err(CommandError::Malformed)
    );
    assert_eq!(decode_event(&[0; EVENT_WORDS]), None);
    assert_eq!(decode_sa(&[0; SA_WORDS]), None);
}

#[test]
fn a_key_that_is_too_long_is_none() {
    assert_eq!(KeyMaterial::new(&[1; KeyMaterial::CAPACITY + 1]), None);
}
