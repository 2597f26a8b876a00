//! The fixed IPv6 header (RFC 8200 3). Extension headers are part of the payload.

use crate::{
    Dscp, Ecn, Malformed, NoRoom, Protocol,
    ecn::{split_traffic_class, traffic_class},
    put, split_header,
};
use core::net::Ipv6Addr;

/// The length of the fixed header.
pub const HEADER_LEN: usize = 40;

/// A checked view of a packet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Packet<'a> {
    header: &'a [u8; HEADER_LEN],
    payload: &'a [u8],
}

impl<'a> Packet<'a> {
    /// Checks version and length. Bytes behind the packet's end are left out.
    ///
    /// # Errors
    ///
    /// It is not IPv6, or shorter than it says.
    #[inline]
    pub fn new_checked(bytes: &'a [u8]) -> Result<Self, Malformed> {
        let (header, rest) = split_header::<HEADER_LEN>(bytes)?;
        if header[0] >> 4 != 6 {
            return Err(Malformed::Version(header[0] >> 4));
        }
        let stated = usize::from(u16::from_be_bytes([header[4], header[5]]));
        let payload = rest.get(..stated).ok_or(Malformed::Length {
            stated,
            found: rest.len(),
        })?;
        Ok(Self { header, payload })
    }

    #[inline]
    fn traffic_class(&self) -> (Dscp, Ecn) {
        split_traffic_class(self.header[0] << 4 | self.header[1] >> 4)
    }

    /// The differentiated services code point.
    #[inline]
    pub fn dscp(&self) -> Dscp {
        self.traffic_class().0
    }

    /// The ECN field.
    #[inline]
    pub fn ecn(&self) -> Ecn {
        self.traffic_class().1
    }

    /// The flow label.
    #[inline]
    pub fn flow_label(&self) -> u32 {
        u32::from_be_bytes([0, self.header[1] & 15, self.header[2], self.header[3]])
    }

    /// What follows the fixed header.
    #[inline]
    pub fn next_header(&self) -> Protocol {
        Protocol(self.header[6])
    }

    /// How many more routers may forward it.
    #[inline]
    pub fn hop_limit(&self) -> u8 {
        self.header[7]
    }

    /// Who sent it.
    #[inline]
    pub fn source(&self) -> Ipv6Addr {
        let [
            _,
            _,
            _,
            _,
            _,
            _,
            _,
            _,
            a,
            b,
            c,
            d,
            e,
            f,
            g,
            h,
            i,
            j,
            k,
            l,
            m,
            n,
            o,
            p,
            ..,
        ] = *self.header;
        Ipv6Addr::from([a, b, c, d, e, f, g, h, i, j, k, l, m, n, o, p])
    }

    /// Whom it is for.
    #[inline]
    pub fn destination(&self) -> Ipv6Addr {
        let [.., a, b, c, d, e, f, g, h, i, j, k, l, m, n, o, p] = *self.header;
        Ipv6Addr::from([a, b, c, d, e, f, g, h, i, j, k, l, m, n, o, p])
    }

    /// What follows the fixed header.
    #[inline]
    pub fn payload(&self) -> &'a [u8] {
        self.payload
    }
}

/// A fixed header as a value.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Repr {
    /// Who sends it.
    pub source: Ipv6Addr,
    /// Whom it is for.
    pub destination: Ipv6Addr,
    /// What follows the header.
    pub next_header: Protocol,
    /// How many bytes follow the header.
    pub payload_len: u16,
    /// The differentiated services code point.
    pub dscp: Dscp,
    /// The ECN field.
    pub ecn: Ecn,
    /// The flow label: its low 20 bits.
    pub flow_label: u32,
    /// How many more routers may forward it.
    pub hop_limit: u8,
}

impl Repr {
    /// The header of a packet.
    #[inline]
    pub fn parse(packet: &Packet<'_>) -> Self {
        Self {
            source: packet.source(),
            destination: packet.destination(),
            next_header: packet.next_header(),
            // It came out of a length field of 16 bits.
            payload_len: packet.payload().len() as u16,
            dscp: packet.dscp(),
            ecn: packet.ecn(),
            flow_label: packet.flow_label(),
            hop_limit: packet.hop_limit(),
        }
    }

    /// The header's bytes.
    #[inline]
    pub fn bytes(&self) -> [u8; HEADER_LEN] {
        let class = u32::from(traffic_class(self.dscp, self.ecn));
        let first = 6 << 28 | class << 20 | (self.flow_label & 0x000f_ffff);
        let mut header = [0; HEADER_LEN];
        let (fixed, addresses) = header.split_at_mut(8);
        fixed.copy_from_slice(&[
            (first >> 24) as u8,
            (first >> 16) as u8,
            (first >> 8) as u8,
            first as u8,
            (self.payload_len >> 8) as u8,
            self.payload_len as u8,
            self.next_header.0,
            self.hop_limit,
        ]);
        let (source, destination) = addresses.split_at_mut(16);
        source.copy_from_slice(&self.source.octets());
        destination.copy_from_slice(&self.destination.octets());
        header
    }

    /// Writes the header at the start of `buffer`.
    ///
    /// # Errors
    ///
    /// The buffer is too short.
    #[inline]
    pub fn emit(&self, buffer: &mut [u8]) -> Result<(), NoRoom> {
        put(self.bytes(), buffer)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn any_bytes_are_survived(bytes in prop::collection::vec(any::<u8>(), 0..80), length in 0u8..50) {
            let mut bytes = bytes;
            if let Some(start) = bytes.get_mut(..6) {
                start.copy_from_slice(&[0x60, 0, 0, 0, 0, length]);
            }
            match Packet::new_checked(&bytes) {
                Ok(packet) => prop_assert_eq!(packet.payload().len(), length.into()),
                Err(_) => prop_assert!(bytes.len() < HEADER_LEN + usize::from(length)),
            }
        }

        #[test]
        fn what_is_emitted_is_parsed(
            source: [u8; 16], destination: [u8; 16], next_header: u8, class: u8, flow_label in 0u32..1 << 20,
            hop_limit: u8, payload in prop::collection::vec(any::<u8>(), 0..100), behind in 0usize..9,
        ) {
            let (dscp, ecn) = split_traffic_class(class);
            let repr = Repr {
                source: source.into(), destination: destination.into(), next_header: Protocol(next_header),
                payload_len: payload.len() as u16, dscp, ecn, flow_label, hop_limit,
            };
            let mut bytes = vec![0; HEADER_LEN];
            repr.emit(&mut bytes).unwrap();
            bytes.extend(&payload);
            bytes.extend(vec![0; behind]);
            let packet = Packet::new_checked(&bytes).unwrap();
            prop_assert_eq!(Repr::parse(&packet), repr);
            prop_assert_eq!(packet.payload(), &payload);
        }
    }

    #[test]
    fn ipv4_is_told_apart() {
        assert_eq!(Packet::new_checked(&[0x45; 60]), Err(Malformed::Version(4)));
    }
}
