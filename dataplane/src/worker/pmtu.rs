//! ICMP errors about what our SAs sent, from routers on the way: "fragmentation needed" and "packet too big" make the path's MTU
//! smaller (RFC 4301 8.2, RFC 1191, RFC 8201), and with it the largest inner packet, which hosts inside are told then.
//!
//! Nobody signs these errors. One is believed when the packet that it quotes is one that an SA of ours can have sent: the SA's
//! addresses, ports and SPI, and a sequence number that was taken. RFC 4301 8.2 asks for such a check; whoever does not see our
//! packets has to guess all of it.

use super::{
    core::{Arrived, Core},
    packet::{ETHERNET, Ip},
    reports::EventSink,
    tables::Tables,
    way::way,
};
use crate::port::Port;
use esplanade_channel::Counter;
use esplanade_ipsec::{
    pmtu::{Told, judge},
    sa::{OutboundSa, UdpPorts},
    sad::{Place, Whereabouts},
    spd::Action,
};
use esplanade_wire::{Protocol, ah, esp, icmp, ip, udp};
use std::net::IpAddr;

/// The port of ESP in UDP (RFC 3948 2.1).
const NAT_TRAVERSAL: u16 = 4500;

/// A packet of ours as an error quotes it.
struct Quoted {
    from: IpAddr,
    to: IpAddr,
    length: usize,
    ports: Option<UdpPorts>,
    is_ah: bool,
    spi: u32,
    sequence: Option<u32>,
}

/// Takes an ICMP error about what our SAs sent; gives back what is none.
pub fn take<P: Port, E: EventSink>(
    core: &mut Core<P, E>,
    arrived: Arrived,
    ip: &Ip,
) -> Option<Arrived> {
    let Some((error, quoted)) = read(&arrived.frame, ip) else {
        return Some(arrived);
    };
    if !core.told_limit.take(core.now_ms) {
        core.drop(arrived, Counter::IcmpAboutOursLimited);
        return None;
    }
    let (place, owner) = quoted.as_ref().map_or((None, None), |it| find(core, it));
    if place.is_none() && owner.is_none() {
        // A host behind us may speak ESP itself, where policy lets it.
        let policy = core.tables.spd.lookup(&ip.flow_in());
        if policy.is_some_and(|policy| policy.action == Action::Bypass) {
            return Some(arrived);
        }
    }
    let reason = match (error, quoted, place, owner) {
        (Some(icmp::Error::TooBig { mtu }), Some(quoted), Some(place), _) => {
            believe(core, place, &quoted, mtu)
        }
        (Some(icmp::Error::TooBig { .. }), _, None, Some(by)) => {
            core.lend(arrived, by, Counter::PathMtuRefused);
            return None;
        }
        (Some(icmp::Error::TooBig { .. }), ..) => Counter::PathMtuRefused,
        _ => Counter::IcmpAboutOurs,
    };
    core.drop(arrived, reason);
    None
}

/// Forgets what routers told too long ago.
#[inline]
pub fn age(tables: &mut Tables, now_ms: u64) {
    if tables.path_mtus.age(now_ms) {
        tables.fib.forget();
    }
}

/// The error of a packet, when it is about ESP, AH or ESP in UDP that its receiver sent: what it says, if we know that, and what
/// is left of the packet, if that is enough to tell its SA.
fn read(frame: &[u8], ip: &Ip) -> Option<(Option<icmp::Error>, Option<Quoted>)> {
    let family = ip.family();
    if ip.protocol != family.icmp() || ip.is_fragment {
        return None;
    }
    let message = frame.get(ETHERNET + ip.header..ETHERNET + ip.length)?;
    let message = icmp::Message::new_checked(family, message).ok()?;
    if !message.is_error() || !message.checksum_is_right(ip.source(), ip.destination()) {
        return None;
    }
    let about = ip::Packet::new_quoted(message.payload()).ok()?;
    if about.source() != ip.destination() {
        return None;
    }
    let upper = about.upper().ok()?;
    let is_ours = match upper.protocol {
        Protocol::ESP | Protocol::AH => true,
        Protocol::UDP => udp::Datagram::new_quoted(upper.payload)
            .is_ok_and(|datagram| datagram.source_port() == NAT_TRAVERSAL),
        _ => false,
    };
    let whole = upper.fragment_offset == 0;
    let quoted = || quote(&about, &upper).filter(|_| whole);
    let error = message.error().and_then(Result::ok).map(|(error, _)| error);
    is_ours.then(|| (error, quoted()))
}

/// What a quoted packet says of its SA. ESP in UDP needs a router that quotes more than the 8 bytes that RFC 792 asked for.
fn quote(about: &ip::Packet<'_>, upper: &ip::Upper<'_>) -> Option<Quoted> {
    let esp = |bytes| {
        let esp = esp::Packet::new_checked(bytes).ok()?;
        Some((esp.spi(), Some(esp.sequence())))
    };
    let (ports, (spi, sequence)) = match upper.protocol {
        Protocol::UDP => {
            let datagram = udp::Datagram::new_quoted(upper.payload).ok()?;
            let ports = UdpPorts {
                local: datagram.source_port(),
                remote: datagram.destination_port(),
            };
            (Some(ports), esp(datagram.payload())?)
        }
        Protocol::AH => (None, ah::quoted(upper.payload)?),
        _ => (None, esp(upper.payload)?),
    };
    Some(Quoted {
        from: about.source(),
        to: about.destination(),
        length: match about {
            ip::Packet::V4(packet) => packet.total_len(),
            ip::Packet::V6(packet) => packet.total_len(),
        },
        ports,
        is_ah: upper.protocol == Protocol::AH,
        spi: spi.0,
        sequence,
    })
}

/// The place of the SA that sent a packet, or the worker that may have it.
fn find<P: Port, E: EventSink>(core: &Core<P, E>, quoted: &Quoted) -> (Option<Place>, Option<u16>) {
    let outbound = &core.tables.outbound;
    let mut owner = None;
    for id in core.tables.peer_spis.find(quoted.to, quoted.spi) {
        match outbound.locate(id) {
            Whereabouts::Here(place) => {
                let record = outbound.records.get(place);
                if record.is_some_and(|sa| sent(sa, quoted)) {
                    return (Some(place), None);
                }
            }
            Whereabouts::Owned { by } => owner = Some(by),
            Whereabouts::Unknown { .. } => {}
        }
    }
    (None, owner)
}

/// Whether an SA can have sent a packet.
fn sent(sa: &OutboundSa, quoted: &Quoted) -> bool {
    let next = sa.sequence.next();
    // Only the low half is sent: with ESN, of the last so many numbers.
    let taken = quoted.sequence.is_none_or(|low| {
        let behind = (next as u32).wrapping_sub(low);
        behind != 0 && (u64::from(behind) < next || next > u64::from(u32::MAX))
    });
    sa.local == quoted.from
        && sa.remote == quoted.to
        && sa.spi == quoted.spi
        && sa.ah.is_some() == quoted.is_ah
        && sa.cold.encapsulation == quoted.ports
        && taken
}

/// Notes what a router told of the path of an SA, which takes effect with the next packet of each SA on the path. Gives what to
/// count it as.
fn believe<P: Port, E: EventSink>(
    core: &mut Core<P, E>,
    place: Place,
    quoted: &Quoted,
    mtu: u16,
) -> Counter {
    let Ok(now) = way(core, place) else {
        return Counter::PathMtuRefused;
    };
    let family = ip::Family::of(quoted.to);
    match judge(family, mtu, quoted.length, now.next_hop.mtu) {
        Told::Impossible => Counter::PathMtuRefused,
        Told::Known => {
            if mtu == now.next_hop.mtu {
                core.tables.path_mtus.confirm(quoted.to, core.now_ms);
            }
            Counter::PathMtuKnown
        }
        Told::Narrower(mtu) => {
            core.tables.path_mtus.learn(quoted.to, mtu, core.now_ms);
            core.tables.fib.forget();
            // So that the SA's record shows it, and SYNs that come by its other half are clamped to it.
            let _ = way(core, place);
            if let Some(sa) = core.tables.outbound.records.get_mut(place) {
                Core::<P, E>::touch(&mut core.dirty, &mut sa.dirty, sa.id);
            }
            Counter::PathMtuLowered
        }
    }
}
