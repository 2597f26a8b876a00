//! Packets larger than their tunnel that may be cut: each fragment is protected on its own (RFC 4301 7).

use super::{
    core::{Batch, Core},
    outbound::{Plain, Ready, Source, Way, hand_on},
    packet::{self, ETHERNET},
    reports::EventSink,
};
use crate::port::Port;
use esplanade_wire::ipv4;

/// Cuts one of the plain packets, which is without DF, into fragments that fit. `false` when it cannot be cut.
#[cold]
pub(super) fn cut<P: Port, E: EventSink>(
    core: &mut Core<P, E>,
    plain: &[Plain],
    ready: &mut Batch<Ready>,
    number: usize,
    way: Way,
) -> bool {
    // RFC 4303 3.3.4: transport mode is for whole packets.
    if way.is_transport {
        return false;
    }
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
