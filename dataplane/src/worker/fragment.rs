//! Packets larger than their tunnel. One that may be cut is, and each fragment is protected on its own (RFC 4301 7). One of IPv6
//! that must not be told to be shorter than 1280 bytes is protected whole, and the outer packet is cut (RFC 8200 5).

use super::{
    core::{Batch, Core},
    outbound::{Plain, Ready, Source, hand_on},
    packet::{self, ETHERNET},
    reports::EventSink,
    way::Way,
};
use crate::port::{Port, TxFrame};
use esplanade_channel::Counter;
use esplanade_ipsec::sa::NextHop;
use esplanade_wire::{ip, ipv4, ipv6};

/// Cuts one of the plain packets, which is without DF, into fragments that fit. `false` when it cannot be cut.
#[cold]
pub(super) fn cut<P: Port, E: EventSink>(
    core: &mut Core<P, E>,
    plain: &[Plain],
    ready: &mut Batch<Ready>,
    number: usize,
    way: Way,
) -> bool {
    let inner = plain
        .get(number)
        .and_then(|packet| packet.frame().get(ETHERNET..))
        .unwrap_or_default();
    let cut = ipv4::Packet::new_checked(inner)
        .ok()
        .and_then(|packet| ipv4::fragments(packet, way.inner_mtu.into()));
    let Some(cut) = cut else {
        return false;
    };
    for piece in cut {
        let length = piece.total_len();
        let port = way.next_hop.port;
        let Some(mut frame) = core.allocate(port, ETHERNET + length) else {
            break;
        };
        let payload = inner.get(piece.payload()).unwrap_or_default();
        packet::write_fragment(&mut frame, piece.header(), payload);
        let source = Source::Built { frame, port };
        hand_on(core, plain, ready, number, source, length, way);
    }
    true
}

/// Cuts a sealed packet of `total` bytes, Ethernet's header included, into fragments that fit the path, and sends them. `false`,
/// and counted, when not all of them could be sent.
#[cold]
pub(super) fn cut_outer<P: Port, E: EventSink>(
    core: &mut Core<P, E>,
    sealed: TxFrame,
    total: usize,
    next_hop: &NextHop,
) -> bool {
    core.identification = core.identification.wrapping_add(1);
    let identification = core.identification;
    let mtu = usize::from(next_hop.mtu);
    let whole = sealed.get(ETHERNET..total).unwrap_or_default();
    let mut send =
        |header: &[u8], payload: &[u8]| send_piece(core, next_hop, header, payload).is_some();
    let sent = match ip::Packet::new_checked(whole) {
        Ok(ip::Packet::V4(packet)) => ipv4::fragments(packet, mtu).map(|mut pieces| {
            pieces.all(|piece| {
                send(
                    piece.header(),
                    whole.get(piece.payload()).unwrap_or_default(),
                )
            })
        }),
        Ok(ip::Packet::V6(packet)) => {
            ipv6::fragments(packet, mtu, identification).map(|mut pieces| {
                pieces.all(|piece| {
                    send(
                        piece.header(),
                        whole.get(piece.payload()).unwrap_or_default(),
                    )
                })
            })
        }
        Err(_) => None,
    };
    if sent.is_none() {
        core.tally.one(Counter::PacketTooBig);
    }
    core.discard(next_hop.port, sealed);
    let sent = sent.unwrap_or(false);
    core.tally.add(Counter::OutFragmented, sent.into());
    sent
}

fn send_piece<P: Port, E: EventSink>(
    core: &mut Core<P, E>,
    next_hop: &NextHop,
    header: &[u8],
    payload: &[u8],
) -> Option<()> {
    let length = ETHERNET + header.len() + payload.len();
    let mut frame = core.allocate(next_hop.port, length)?;
    let family = ip::Family::of_packet(header)?;
    packet::write_ethernet(&mut frame, next_hop, family);
    packet::write_fragment(&mut frame, header, payload);
    frame.set_len(length);
    core.transmit(next_hop.port, frame).then_some(())
}
