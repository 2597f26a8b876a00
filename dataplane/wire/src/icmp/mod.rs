//! ICMP of both families (RFC 792, RFC 4443): a checked view, and the errors that a router sends (RFC 1812 4.3.2, RFC 4443
//! 2.4), "too big" with the next hop's MTU (RFC 1191 4, RFC 8201 4) above all.

mod v4;
mod v6;

use crate::{
    Dscp, Ecn, Malformed, Protocol,
    checksum::{Sum, checksum},
    ip::{self, Family, Marks},
    split_header,
};
use core::net::IpAddr;

/// The length of a header.
pub const HEADER_LEN: usize = 8;

/// A checked view of a message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Message<'a> {
    family: Family,
    header: &'a [u8; HEADER_LEN],
    bytes: &'a [u8],
    payload: &'a [u8],
}

impl<'a> Message<'a> {
    /// Checks the length. The checksum is not looked at: see [`Self::checksum_is_right`].
    ///
    /// # Errors
    ///
    /// The header is not whole.
    #[inline]
    pub fn new_checked(family: Family, bytes: &'a [u8]) -> Result<Self, Malformed> {
        let (header, payload) = split_header(bytes)?;
        Ok(Self {
            family,
            header,
            bytes,
            payload,
        })
    }

    /// Whether a message between these addresses agrees with its checksum, which covers them in IPv6 (RFC 4443 2.3).
    pub fn checksum_is_right(&self, source: IpAddr, destination: IpAddr) -> bool {
        match (source, destination) {
            (IpAddr::V6(source), IpAddr::V6(destination)) => {
                let length = self.bytes.len() as u32;
                Sum::pseudo_header_v6(source, destination, Protocol::ICMPV6, length)
                    .add_bytes(self.bytes)
                    .complement()
                    == 0
            }
            _ => checksum(self.bytes) == 0,
        }
    }

    /// The type.
    #[inline]
    pub fn kind(&self) -> u8 {
        self.header[0]
    }

    /// The code.
    #[inline]
    pub fn code(&self) -> u8 {
        self.header[1]
    }

    /// What follows the header.
    #[inline]
    pub fn payload(&self) -> &'a [u8] {
        self.payload
    }

    /// Whether it must never be answered with an error: it reports one itself, or is a redirect (RFC 1812 4.3.2.7, RFC 4443
    /// 2.4 (e.1) and (e.2)).
    #[inline]
    pub fn is_error(&self) -> bool {
        match self.family {
            Family::V4 => v4::is_error(self.kind()),
            Family::V6 => v6::is_error(self.kind()),
        }
    }

    /// The error, when it is one that we know, and the packet that it is about.
    ///
    /// # Errors
    ///
    /// What is quoted is no packet of the family.
    pub fn error(&self) -> Option<Result<(Error, ip::Packet<'a>), Malformed>> {
        let error = match self.family {
            Family::V4 => v4::read(self.header),
            Family::V6 => v6::read(self.header),
        }?;
        let quoted = ip::Packet::new_quoted(self.payload).and_then(|quoted| {
            if quoted.family() == self.family {
                Ok(quoted)
            } else {
                Err(Malformed::Version(quoted.as_bytes()[0] >> 4))
            }
        });
        Some(quoted.map(|quoted| (error, quoted)))
    }
}

/// An error that a router reports.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Error {
    /// No route to the network.
    NetworkUnreachable,
    /// A route, but nobody at its end.
    HostUnreachable,
    /// Too long for the next hop, and not to be fragmented.
    TooBig {
        /// The longest packet that would pass; 0 from a router older than RFC 1191, the highest for all that are beyond 16 bits.
        mtu: u16,
    },
    /// Policy forbids it.
    AdministrativelyProhibited,
    /// The TTL or hop limit ran out on the way.
    TtlExceeded,
}

impl Error {
    /// The length of the whole packet that reports the error about `about`.
    pub fn packet_len(about: &ip::Packet<'_>) -> usize {
        let family = about.family();
        let longest = match family {
            Family::V4 => v4::MAX_ERROR_LEN,
            Family::V6 => v6::MAX_ERROR_LEN,
        };
        (family.header_len() + HEADER_LEN + about.as_bytes().len()).min(longest)
    }

    /// Writes the packet that reports the error about `about` to its sender, from address `from`, into `buffer`, and gives its
    /// length. Whether it may be sent is [`may_be_answered`]'s to say. `None` when the buffer is too short, or `from` of the
    /// other family.
    pub fn emit(self, about: &ip::Packet<'_>, from: IpAddr, buffer: &mut [u8]) -> Option<usize> {
        let (family, to) = (about.family(), about.source());
        let needed = Self::packet_len(about);
        let (outer, message) = buffer
            .get_mut(..needed)?
            .split_at_mut_checked(family.header_len())?;
        // At most the longest of an error.
        let length = message.len() as u16;
        let marks = Marks {
            dscp: Dscp::CS6,
            ecn: Ecn::NotEct,
            identification: 0,
            dont_fragment: false,
            flow_label: 0,
        };
        let ip = ip::Repr::new(from, to, family.icmp(), length, marks)?;

        let (header, quote) = message.split_first_chunk_mut::<HEADER_LEN>()?;
        quote.copy_from_slice(about.as_bytes().get(..quote.len())?);
        let ((kind, code, last_word), sum) = match (from, to) {
            (IpAddr::V6(from), IpAddr::V6(to)) => (
                v6::parts(self),
                Sum::pseudo_header_v6(from, to, Protocol::ICMPV6, length.into()),
            ),
            _ => (v4::parts(self), Sum::ZERO),
        };
        let [a, b, c, d] = last_word.to_be_bytes();
        *header = [kind, code, 0, 0, a, b, c, d];
        let sum = sum.add_bytes(header).add_bytes(quote);
        [header[2], header[3]] = sum.complement().to_be_bytes();
        ip.emit(outer).ok()?;
        Some(needed)
    }
}

/// Whether this error about this packet may be sent.
///
/// RFC 1812 4.3.2.7: "An ICMP error message MUST NOT be sent as the result of receiving: an ICMP error message, [...] a
/// packet destined to an IP broadcast or IP multicast address, [...] a packet whose source address has a network prefix
/// of zero or is an invalid source address, [...] any fragment of a datagram other then the first fragment".
///
/// RFC 4443 2.4 (e.3), of a packet destined to an IPv6 multicast address: "There are two exceptions to this rule: (1) the Packet
/// Too Big Message".
pub fn may_be_answered(packet: &ip::Packet<'_>, error: Error) -> bool {
    let Ok(upper) = packet.upper() else {
        return false;
    };
    let family = packet.family();
    let is_error = upper.protocol == family.icmp()
        && Message::new_checked(family, upper.payload).map_or(true, |message| message.is_error());
    let about_a_group = ip::is_group(packet.destination()) && !is_told_to_groups(family, error);
    ip::is_one_host(packet.source()) && !about_a_group && upper.fragment_offset == 0 && !is_error
}

/// Whether an error is sent although the packet went to a group of hosts: IPv6's "too big", so that path MTU discovery works for
/// multicast.
pub const fn is_told_to_groups(family: Family, error: Error) -> bool {
    matches!((family, error), (Family::V6, Error::TooBig { .. }))
}

#[cfg(test)]
mod tests;
