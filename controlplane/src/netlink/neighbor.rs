//! Has the kernel resolve a neighbour and keep it fresh. Packets through AF_XDP pass the kernel by, so it would never
//! ask for the addresses that they go to, and would forget those that it knows.

use std::net::IpAddr;

use futures_util::StreamExt;
use rtnetlink::{
    Handle,
    packet_core::{NLM_F_ACK, NLM_F_CREATE, NLM_F_REQUEST, NetlinkMessage, NetlinkPayload},
    packet_route::{
        AddressFamily, RouteNetlinkMessage,
        neighbour::{
            NeighbourAddress, NeighbourAttribute, NeighbourExtFlags, NeighbourFlags,
            NeighbourMessage, NeighbourState,
        },
    },
};

use super::Error;

/// Asks for a neighbour. From Linux 5.16 on (NTF_MANAGED) the kernel then keeps it fresh by itself; an older kernel does
/// not know that flag, and probes once (NTF_USE). Not for entries that an administrator made: the probe would take
/// their permanence.
pub(super) async fn ask(mut handle: Handle, link: u32, address: IpAddr) -> Result<(), Error> {
    let mut message = NeighbourMessage::default();
    let (family, destination) = match address {
        IpAddr::V4(address) => (AddressFamily::Inet, NeighbourAddress::Inet(address)),
        IpAddr::V6(address) => (AddressFamily::Inet6, NeighbourAddress::Inet6(address)),
    };
    message.header.family = family;
    message.header.ifindex = link;
    message.header.state = NeighbourState::None;
    message.header.flags = NeighbourFlags::Use;
    message.attributes = vec![
        NeighbourAttribute::Destination(destination),
        NeighbourAttribute::ExtFlags(NeighbourExtFlags::Managed),
    ];
    let what = || Error::refused(format!("resolve the neighbour {address}"));
    let mut request = NetlinkMessage::from(RouteNetlinkMessage::NewNeighbour(message));
    request.header.flags = NLM_F_REQUEST | NLM_F_ACK | NLM_F_CREATE;
    let mut answers = handle.request(request).map_err(what())?;
    while let Some(answer) = answers.next().await {
        if let NetlinkPayload::Error(error) = answer.payload
            && error.code.is_some()
        {
            return Err(what()(rtnetlink::Error::NetlinkError(error)));
        }
    }
    Ok(())
}
