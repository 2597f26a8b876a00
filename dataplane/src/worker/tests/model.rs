//! The worker beside a model of RFC 4301 made of lists and loops: any order of commands and packets, and after each packet
//! exactly what the model lets through has left, by the SA and with the number that the model says.
//!
//! The world is small, so that names meet: four slots of two tags, six groups of policies, a few hosts and ports.

use super::*;
use esplanade_crypto::{Aad, SealJob, SealingKey, seal_batch};
use esplanade_ipsec::{esp::Shape, sequence::OutboundSequence};
use proptest::prelude::*;

const WINDOW: u32 = 32;
const KIND: Algorithm = Algorithm::AES_128_GCM_16;

/// An SA's name by slot and tag.
type Name = (u8, u8);

/// A packet's addresses and ports: ours, the peer's.
#[derive(Debug, Clone, Copy)]
struct Talk {
    hosts: (u8, u8),
    ports: (u16, u16),
}

#[derive(Debug, Clone)]
enum Step {
    InstallInbound(Name, u8),
    InstallOutbound(Name, u8),
    Remove(Name),
    Select(u8, Name),
    Set(Rule),
    RemovePolicy(u8, u8),
    Sync(Vec<Rule>),
    /// From a host of ours.
    Leave(Talk, u8),
    /// From a host of the peer's, in clear.
    Enter(Talk, u8),
    /// From a host of the peer's, by an SA and with a number; perhaps damaged.
    Arrive(Name, u32, Talk, bool, u8),
    Junk(bool, Vec<u8>, u8),
}

/// A policy. What it does goes with its group: an SA's are all of one kind.
#[derive(Debug, Clone, Copy)]
struct Rule {
    group: u8,
    number: u8,
    priority: u8,
    ours: (u8, u8),
    theirs: (u8, u8),
    ports: (u16, u16),
    fresh: bool,
}

fn action(group: u8) -> PolicyAction {
    match group {
        4 => PolicyAction::Bypass,
        5 => PolicyAction::Discard,
        _ => PolicyAction::Protect,
    }
}

fn ours(host: u8) -> Ipv4Addr {
    Ipv4Addr::new(10, B, 0, 1 + host)
}

fn theirs(host: u8) -> Ipv4Addr {
    Ipv4Addr::new(10, A, 0, 1 + host)
}

fn sa_id((slot, tag): Name) -> SaId {
    SaId::from_parts(1 + u32::from(slot), 0x300 + u32::from(tag)).unwrap()
}

fn policy_id(group: u8, number: u8) -> PolicyId {
    PolicyId(u64::from(group + 1) << 8 | u64::from(number))
}

fn material((slot, tag): Name) -> Vec<u8> {
    vec![slot << 4 | tag | 8; KIND.key_material_len()]
}

/// What the peer calls the SA that we send by.
fn peer_spi(name: Name) -> u32 {
    0x9000_0000 | sa_id(name).value()
}

impl Rule {
    fn policy(&self) -> Policy {
        let side = |(first, last): (Ipv4Addr, Ipv4Addr), ports| Selector {
            first: first.into(),
            last: last.into(),
            ports,
        };
        Policy {
            id: policy_id(self.group, self.number),
            priority: self.priority.into(),
            action: action(self.group),
            local: side((ours(self.ours.0), ours(self.ours.1)), (0, u16::MAX)),
            remote: side((theirs(self.theirs.0), theirs(self.theirs.1)), self.ports),
            protocol: Some(17),
        }
    }

    fn matches(&self, talk: Talk) -> bool {
        let within = |(first, last): (u8, u8), host: u8| first <= host && host <= last;
        within(self.ours, talk.hosts.0)
            && within(self.theirs, talk.hosts.1)
            && self.ports.0 <= talk.ports.1
            && talk.ports.1 <= self.ports.1
    }
}

/// An SA that receives.
struct In {
    name: Name,
    group: u8,
    /// Every number that was received.
    seen: Vec<u32>,
}

/// An SA that sends.
struct Out {
    name: Name,
    next: u32,
}

/// RFC 4301 4.4 in lists.
#[derive(Default)]
struct Model {
    rules: Vec<Rule>,
    inbound: Vec<In>,
    outbound: Vec<Out>,
    /// Which outbound SA each group sends by.
    selected: Vec<(u8, Name)>,
    refused: u64,
}

impl Model {
    fn set(&mut self, rule: Rule) {
        self.rules
            .retain(|other| (other.group, other.number) != (rule.group, rule.number));
        self.rules.push(Rule {
            fresh: true,
            ..rule
        });
    }

    fn has_group(&self, group: u8) -> bool {
        self.rules.iter().any(|rule| rule.group == group)
    }

    /// A group without policies is gone, and with it what it sends by.
    fn forget_unused(&mut self) {
        let groups: Vec<u8> = self.rules.iter().map(|rule| rule.group).collect();
        self.selected.retain(|(group, _)| groups.contains(group));
    }

    /// RFC 4301 4.4.1: policies are ordered, and the first that matches decides.
    fn decide(&self, talk: Talk) -> Option<&Rule> {
        let mut best: Option<&Rule> = None;
        for rule in self.rules.iter().filter(|rule| rule.matches(talk)) {
            let order = |rule: &Rule| (rule.priority, rule.group, rule.number);
            if best.is_none_or(|best| order(rule) < order(best)) {
                best = Some(rule);
            }
        }
        best
    }

    fn is_slot_of_others(&self, name: Name, inbound: bool) -> bool {
        let same_way = |other: Name| other.0 == name.0 && other != name;
        let other_way = |other: Name| other.0 == name.0;
        self.inbound.iter().any(|sa| {
            if inbound {
                same_way(sa.name)
            } else {
                other_way(sa.name)
            }
        }) || self.outbound.iter().any(|sa| {
            if inbound {
                other_way(sa.name)
            } else {
                same_way(sa.name)
            }
        })
    }

    /// Obeys a command, or counts it as refused.
    fn obey(&mut self, step: &Step) {
        let obeyed = match step {
            Step::InstallInbound(name, group) => {
                let free = !self.is_slot_of_others(*name, true);
                if free && !self.inbound.iter().any(|sa| sa.name == *name) {
                    self.inbound.push(In {
                        name: *name,
                        group: *group,
                        seen: Vec::new(),
                    });
                }
                free
            }
            Step::InstallOutbound(name, _) => {
                let free = !self.is_slot_of_others(*name, false);
                if free && !self.outbound.iter().any(|sa| sa.name == *name) {
                    self.outbound.push(Out {
                        name: *name,
                        next: 1,
                    });
                }
                free
            }
            Step::Remove(name) => {
                let before = self.inbound.len() + self.outbound.len();
                self.inbound.retain(|sa| sa.name != *name);
                self.outbound.retain(|sa| sa.name != *name);
                self.selected.retain(|(_, sa)| sa != name);
                self.inbound.len() + self.outbound.len() < before
            }
            Step::Select(group, name) => {
                let known = self.outbound.iter().any(|sa| sa.name == *name);
                let known = known && self.has_group(*group);
                if known {
                    self.selected
                        .retain(|(other, sa)| other != group && sa != name);
                    self.selected.push((*group, *name));
                }
                known
            }
            Step::Set(rule) => {
                self.set(*rule);
                true
            }
            Step::RemovePolicy(group, number) => {
                let before = self.rules.len();
                self.rules
                    .retain(|rule| (rule.group, rule.number) != (*group, *number));
                self.forget_unused();
                self.rules.len() < before
            }
            Step::Sync(rules) => {
                self.rules.iter_mut().for_each(|rule| rule.fresh = false);
                rules.iter().for_each(|rule| self.set(*rule));
                self.rules.retain(|rule| rule.fresh);
                self.forget_unused();
                true
            }
            _ => true,
        };
        self.refused += u64::from(!obeyed);
    }

    /// RFC 4301 5.1: the SA and the number that a packet leaves by; `Some(None)` for one that leaves in clear.
    fn leave(&mut self, talk: Talk) -> Option<Option<(u32, u32)>> {
        let group = self.decide(talk)?.group;
        match action(group) {
            PolicyAction::Discard => None,
            PolicyAction::Bypass => Some(None),
            PolicyAction::Protect => {
                let (_, name) = *self.selected.iter().find(|(other, _)| *other == group)?;
                let sa = self.outbound.iter_mut().find(|sa| sa.name == name)?;
                sa.next += 1;
                Some(Some((peer_spi(name), sa.next - 1)))
            }
        }
    }

    /// RFC 4301 5.2: whether a packet that came by an SA goes on.
    fn arrive(&mut self, name: Name, number: u32, talk: Talk, damaged: bool) -> bool {
        let Some(sa) = self.inbound.iter_mut().find(|sa| sa.name == name) else {
            return false;
        };
        let highest = sa.seen.iter().copied().max().unwrap_or(0);
        let late = number == 0 || number + WINDOW <= highest;
        if late || sa.seen.contains(&number) || damaged {
            return false;
        }
        sa.seen.push(number);
        let group = sa.group;
        action(group) == PolicyAction::Protect
            && self
                .rules
                .iter()
                .any(|rule| rule.group == group && rule.matches(talk))
    }

    /// RFC 4301 5.2 step 3: whether a packet in clear comes in.
    fn enter(&self, talk: Talk) -> bool {
        self.decide(talk)
            .is_some_and(|rule| action(rule.group) == PolicyAction::Bypass)
    }
}

/// A datagram between two hosts, from us or to us.
fn inner(talk: Talk, leaving: bool) -> Vec<u8> {
    let (ours, theirs) = (ours(talk.hosts.0), theirs(talk.hosts.1));
    let (source, destination) = if leaving {
        (ours, theirs)
    } else {
        (theirs, ours)
    };
    let (first, second) = talk.ports;
    let head = udp::Repr {
        source_port: if leaving { first } else { second },
        destination_port: if leaving { second } else { first },
        payload_len: 20,
    };
    let mut bytes = head.bytes().to_vec();
    bytes.extend(&MARKER[..20]);
    packet(
        ipv4::Repr::new(source, destination, Protocol::UDP, 0),
        &bytes,
    )
}

/// What the peer makes of a packet by an SA that we receive by.
fn sealed(name: Name, number: u32, inner: &[u8]) -> Vec<u8> {
    let key = SealingKey::new(EngineKind::Portable, KIND, &material(name)).unwrap();
    let shape = Shape::new(KIND, Family::V4, false);
    let mut sequence = OutboundSequence::new(false);
    sequence.skip_to(number.into());
    let iv = sequence.take().unwrap().into_iv();
    let spi = sa_id(name).value();
    let mut esp = [spi.to_be_bytes(), number.to_be_bytes()].concat();
    esp.extend(iv.explicit());
    let mut out = vec![0; shape.outer_len(inner.len()) - shape.head()];
    let trailer = shape.trailer(inner.len(), Protocol::IPV4);
    let job = SealJob::new(&key, iv, Aad::plain(spi, number), inner, trailer, &mut out);
    seal_batch(&mut [job.unwrap()]);
    esp.extend(out);
    packet(ipv4::Repr::new(outer(A), outer(B), Protocol::ESP, 0), &esp)
}

/// A packet after one hop.
fn hop(packet: &[u8]) -> Vec<u8> {
    let mut frame = frame(host_mac(A), host_mac(B), packet);
    crate::worker::packet::decrement_ttl(&mut frame);
    frame.split_off(14)
}

impl Step {
    /// What the gateway is told.
    fn commands(&self, gateway: &Gateway) -> Vec<Command> {
        let workers = gateway.workers.len() as u16;
        let owner = |name: Name| WorkerId(u16::from(name.0) % workers);
        match self {
            Self::InstallInbound(name, group) => vec![Command::InstallInbound(InboundSa {
                sa: sa_id(*name),
                policy: policy_id(*group, 0),
                transform: transform::numbers(KIND).unwrap(),
                key: KeyMaterial::new(&material(*name)).unwrap(),
                esn: false,
                window: WINDOW,
                local: outer(B).into(),
                remote: outer(A).into(),
                encapsulation: None,
                mode: Mode::Tunnel,
                original: None,
                follow: false,
                owner: owner(*name),
                lifetime: Lifetime::default(),
                label: Label::new("a/b"),
            })],
            Self::InstallOutbound(name, group) => vec![Command::InstallOutbound(OutboundSa {
                sa: sa_id(*name),
                spi: peer_spi(*name),
                policy: policy_id(*group, 0),
                transform: transform::numbers(KIND).unwrap(),
                key: KeyMaterial::new(&material(*name)).unwrap(),
                esn: false,
                local: outer(B).into(),
                remote: outer(A).into(),
                encapsulation: None,
                mode: Mode::Tunnel,
                tfc: Tfc::default(),
                owner: owner(*name),
                lifetime: Lifetime::default(),
                dscp: Some(0),
                fragment_sealed: false,
                df: DfPolicy::Copy,
                path_mtu: 0,
                label: Label::new("a/b"),
            })],
            Self::Remove(name) => vec![Command::RemoveSa { sa: sa_id(*name) }],
            Self::Select(group, name) => vec![Command::SelectOutbound {
                policy: policy_id(*group, 0),
                sa: sa_id(*name),
                share: Share::ALL,
            }],
            Self::Set(rule) => vec![Command::SetPolicy(rule.policy())],
            Self::RemovePolicy(group, number) => vec![Command::RemovePolicy {
                id: policy_id(*group, *number),
            }],
            Self::Sync(rules) => std::iter::once(Command::BeginSync)
                .chain(surroundings(gateway))
                .chain(rules.iter().map(|rule| Command::SetPolicy(rule.policy())))
                .chain([Command::EndSync])
                .collect(),
            _ => Vec::new(),
        }
    }
}

/// Ports, neighbours, and the way to the peer's hosts.
fn surroundings(gateway: &Gateway) -> Vec<Command> {
    let mut commands = gateway.network();
    commands.push(Command::SetRoute {
        prefix: Prefix::new(theirs(0).into(), 16).unwrap(),
        port: Some(PortId(OUTSIDE)),
        gateway: Some(outer(A).into()),
        mtu: 0,
        unreachable: false,
    });
    commands.extend((0..3).map(|number| Command::SetNeighbor {
        port: PortId(INSIDE),
        address: ours(number).into(),
        mac: host_mac(B).0,
    }));
    commands
}

fn name() -> impl Strategy<Value = Name> {
    (0..4_u8, 0..2_u8)
}

fn talk() -> impl Strategy<Value = Talk> {
    (0..3_u8, 0..3_u8, 0..3_u16).prop_map(|(a, b, port)| Talk {
        hosts: (a, b),
        ports: (1000, 2000 + port),
    })
}

fn rule() -> impl Strategy<Value = Rule> {
    let pair = |most: u8| (0..most, 0..most).prop_map(|(a, b)| (a.min(b), a.max(b)));
    let ports = prop_oneof![
        Just((0, u16::MAX)),
        (0..3_u16).prop_map(|port| (2000 + port, 2000 + port)),
        Just((2001, 2002))
    ];
    (0..6_u8, 0..3_u8, 0..4_u8, pair(3), pair(3), ports).prop_map(
        |(group, number, priority, ours, theirs, ports)| Rule {
            group,
            number,
            priority,
            ours,
            theirs,
            ports,
            fresh: true,
        },
    )
}

fn step() -> impl Strategy<Value = Step> {
    // A number near the others, so that it is new, late or a replay by turns.
    let number = prop_oneof![4 => 0..12_u32, 1 => 30..60_u32];
    prop_oneof![
        3 => (name(), 0..6_u8).prop_map(|(name, group)| Step::InstallInbound(name, group)),
        3 => (name(), 0..6_u8).prop_map(|(name, group)| Step::InstallOutbound(name, group)),
        1 => name().prop_map(Step::Remove),
        4 => (0..6_u8, name()).prop_map(|(group, name)| Step::Select(group, name)),
        5 => rule().prop_map(Step::Set),
        1 => (0..6_u8, 0..3_u8).prop_map(|(group, number)| Step::RemovePolicy(group, number)),
        1 => prop::collection::vec(rule(), 0..6).prop_map(Step::Sync),
        8 => (talk(), any::<u8>()).prop_map(|(talk, at)| Step::Leave(talk, at)),
        3 => (talk(), any::<u8>()).prop_map(|(talk, at)| Step::Enter(talk, at)),
        8 => (name(), number, talk(), prop::bool::weighted(0.1), any::<u8>())
            .prop_map(|(name, number, talk, damaged, at)| Step::Arrive(name, number, talk, damaged, at)),
        1 => (any::<bool>(), prop::collection::vec(any::<u8>(), 0..200), any::<u8>())
            .prop_map(|(outside, bytes, at)| Step::Junk(outside, bytes, at)),
    ]
}

/// The packets that leave by both sides when one has come by a worker's port.
fn pass(gateway: &mut Gateway, outside: bool, worker: u8, frame: &[u8]) -> [Vec<Vec<u8>>; 2] {
    let worker = usize::from(worker) % gateway.workers.len();
    let ports = if outside {
        &mut gateway.outside
    } else {
        &mut gateway.inside
    };
    assert!(ports[worker].send(frame));
    // To its owner, and on, and the frame back.
    for _ in 0..3 {
        gateway.round();
    }
    [&mut gateway.inside, &mut gateway.outside].map(|ports| {
        let frames = ports.iter_mut().flat_map(drain);
        frames.map(|frame| ip(&frame).as_bytes().to_vec()).collect()
    })
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, ..ProptestConfig::default() })]

    #[test]
    fn what_passes_is_what_the_model_lets_pass(workers in 1..3_u16, steps in prop::collection::vec(step(), 1..120)) {
        let (mut gateway, mut model) = (Gateway::new(B, workers), Model::default());
        gateway.tell_all(&surroundings(&gateway));
        for step in &steps {
            match step {
                Step::Leave(talk, at) => {
                    let inner = inner(*talk, true);
                    let came = frame(host_mac(B), gateway_mac(B, INSIDE), &inner);
                    let [inside, outside] = pass(&mut gateway, false, *at, &came);
                    prop_assert!(inside.is_empty());
                    match model.leave(*talk) {
                        None => prop_assert!(outside.is_empty(), "{step:?}"),
                        Some(None) => prop_assert_eq!(outside, [hop(&inner)]),
                        Some(Some((spi, number))) => {
                            prop_assert_eq!(outside.len(), 1, "{:?}", step);
                            let esp = [spi.to_be_bytes(), number.to_be_bytes()].concat();
                            prop_assert_eq!(&outside[0][20..28], &esp[..], "{:?}", step);
                            prop_assert!(!shows_marker(&outside[0]));
                        }
                    }
                }
                Step::Enter(talk, at) => {
                    let inner = inner(*talk, false);
                    let came = frame(gateway_mac(A, OUTSIDE), gateway_mac(B, OUTSIDE), &inner);
                    let [inside, outside] = pass(&mut gateway, true, *at, &came);
                    let expected = if model.enter(*talk) { vec![hop(&inner)] } else { vec![] };
                    prop_assert_eq!((inside, outside), (expected, vec![]), "{:?}", step);
                }
                Step::Arrive(name, number, talk, damaged, at) => {
                    let inner = inner(*talk, false);
                    let mut packet = sealed(*name, *number, &inner);
                    if *damaged {
                        let last = packet.len() - 1;
                        packet[last] ^= 0x10;
                    }
                    let came = frame(gateway_mac(A, OUTSIDE), gateway_mac(B, OUTSIDE), &packet);
                    let [inside, outside] = pass(&mut gateway, true, *at, &came);
                    let passes = model.arrive(*name, *number, *talk, *damaged);
                    let expected = if passes { vec![hop(&inner)] } else { vec![] };
                    prop_assert_eq!((inside, outside), (expected, vec![]), "{:?}", step);
                }
                Step::Junk(outside, bytes, at) => {
                    let left = pass(&mut gateway, *outside, *at, bytes);
                    prop_assert!(left.iter().all(Vec::is_empty));
                }
                command => {
                    let commands = command.commands(&gateway);
                    gateway.tell_all(&commands);
                    model.obey(command);
                    // Each worker refuses for itself.
                    prop_assert_eq!(gateway.count(Counter::CommandsFailed), model.refused * u64::from(workers), "{:?}", command);
                    gateway.events();
                }
            }
        }
        gateway.audit();
    }
}
