//! The headers that the packets of a tunnel begin with, made once, and copied and filled in for each packet.

use crate::{
    Dscp, Ecn,
    ecn::traffic_class,
    esp, ethernet,
    ip::{self, Family},
    ipv4, ipv6, udp,
};

/// The longest headers: Ethernet's with two tags, IPv6's, UDP's and ESP's, and room to copy them in large pieces.
const ROOM: usize = 80;

const _: () = assert!(
    ethernet::HEADER_LEN
        + 2 * ethernet::VLAN_TAG_LEN
        + ipv6::HEADER_LEN
        + udp::HEADER_LEN
        + esp::HEADER_LEN
        <= ROOM
);

/// Headers of Ethernet, IP, UDP where there is one, and ESP.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Template {
    /// With zeros where packets differ.
    bytes: [u8; ROOM],
    /// The sum of what IPv4's checksum covers, in words as they lie in memory.
    sum: u16,
    ip_at: u8,
    esp_at: u8,
    in_udp: bool,
    family: Family,
}

/// What differs from packet to packet.
#[derive(Debug, Clone, Copy)]
pub struct Fill {
    /// The length of the IP packet.
    pub total: u16,
    /// The differentiated services code point.
    pub dscp: Dscp,
    /// The ECN field.
    pub ecn: Ecn,
    /// IPv4: what tells the fragments of one packet from those of another.
    pub identification: u16,
    /// IPv4: whether routers must not fragment it.
    pub dont_fragment: bool,
    /// The low half of ESP's sequence number.
    pub sequence: u32,
}

impl Template {
    /// No headers: nothing can be written by it.
    pub const NONE: Self = Self {
        bytes: [0; ROOM],
        sum: 0,
        ip_at: 0,
        esp_at: u8::MAX,
        in_udp: false,
        family: Family::V4,
    };

    /// Of these headers. What a [`Fill`] brings is left out, whatever they say.
    pub fn new(
        ethernet: &ethernet::Repr,
        ip: ip::Repr,
        udp: Option<udp::Repr>,
        spi: esp::Spi,
    ) -> Self {
        let mut made = Self::NONE;
        let rest = &mut made.bytes[..];
        let mut at = 0;
        let mut put = |header: &[u8]| {
            if let Some(space) = rest.get_mut(at..at + header.len()) {
                space.copy_from_slice(header);
            }
            at += header.len();
            at as u8
        };
        let mut head = [0; ethernet::HEADER_LEN + 2 * ethernet::VLAN_TAG_LEN];
        let length = ethernet
            .emit(&mut head)
            .map_or(0, |()| ethernet.header_len());
        let ip_at = put(head.get(..length).unwrap_or_default());
        let mut sum = 0;
        let mut esp_at = match ip {
            ip::Repr::V4(ip) => {
                let mut bytes = ip.bytes();
                for varies in [1, 2, 3, 4, 5, 6, 7, 10, 11] {
                    bytes[varies] = 0;
                }
                let (words, _) = bytes.as_chunks();
                sum = fold(
                    words
                        .iter()
                        .map(|word| u32::from(u16::from_ne_bytes(*word)))
                        .sum(),
                );
                put(&bytes)
            }
            ip::Repr::V6(ip) => put(&ipv6::Repr {
                dscp: Dscp::DEFAULT,
                ecn: Ecn::NotEct,
                payload_len: 0,
                ..ip
            }
            .bytes()),
        };
        if let Some(udp) = &udp {
            esp_at = put(&udp.bytes());
        }
        put(&esp::Repr { spi, sequence: 0 }.bytes());
        Self {
            sum,
            ip_at,
            esp_at,
            in_udp: udp.is_some(),
            family: ip.family(),
            ..made
        }
    }

    /// Writes the headers of a packet at the start of a frame, which has room for the longest ones. `None` when it has not, or
    /// when this is the template [of nothing](Self::NONE).
    ///
    /// RFC 3948 2.1: "the IPv4 UDP Checksum SHOULD be transmitted as a zero value"; over IPv6 it is left zero, too.
    #[inline(always)]
    pub fn emit(&self, frame: &mut [u8], fill: &Fill) -> Option<()> {
        let frame = frame.first_chunk_mut::<ROOM>()?;
        *frame = self.bytes;
        let class = traffic_class(fill.dscp, fill.ecn);
        let (head, esp) = frame.split_at_mut_checked(self.esp_at.into())?;
        let esp = esp.first_chunk_mut::<{ esp::HEADER_LEN }>()?;
        [esp[4], esp[5], esp[6], esp[7]] = fill.sequence.to_be_bytes();
        let ip = head.get_mut(self.ip_at.into()..)?;
        let header_len = match self.family {
            Family::V4 => {
                self.fill_v4(ip.first_chunk_mut()?, class, fill);
                ipv4::HEADER_LEN
            }
            Family::V6 => {
                fill_v6(ip.first_chunk_mut()?, class, fill);
                ipv6::HEADER_LEN
            }
        };
        if self.in_udp {
            let udp = ip.last_chunk_mut::<{ udp::HEADER_LEN }>()?;
            [udp[4], udp[5]] = (fill.total - header_len as u16).to_be_bytes();
        }
        Some(())
    }

    /// RFC 1071 2 (B): the sum is the same in either order of bytes, so words are added as they lie in memory.
    #[inline(always)]
    fn fill_v4(&self, ip: &mut [u8; ipv4::HEADER_LEN], class: u8, fill: &Fill) {
        let length = fill.total.to_be_bytes();
        let identification = fill.identification.to_be_bytes();
        let flags = [if fill.dont_fragment { 0x40 } else { 0 }, 0];
        let word = |bytes| u32::from(u16::from_ne_bytes(bytes));
        let sum = word([0, class]) + word(length) + word(identification) + word(flags);
        let sum = !fold(sum + u32::from(self.sum));
        ip[1] = class;
        [ip[2], ip[3]] = length;
        [ip[4], ip[5]] = identification;
        [ip[6], ip[7]] = flags;
        [ip[10], ip[11]] = sum.to_ne_bytes();
    }
}

/// A sum of a few words in one.
#[inline(always)]
fn fold(sum: u32) -> u16 {
    let sum = (sum & 0xffff) + (sum >> 16);
    (sum + (sum >> 16)) as u16
}

#[inline(always)]
fn fill_v6(ip: &mut [u8; ipv6::HEADER_LEN], class: u8, fill: &Fill) {
    ip[0] |= class >> 4;
    ip[1] |= class << 4;
    [ip[4], ip[5]] = (fill.total - ipv6::HEADER_LEN as u16).to_be_bytes();
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Protocol, ethernet::MacAddress, ip::Marks};
    use proptest::prelude::*;
    use std::net::IpAddr;

    fn ends() -> impl Strategy<Value = (IpAddr, IpAddr)> {
        prop_oneof![
            any::<([u8; 4], [u8; 4])>().prop_map(|(a, b)| (a.into(), b.into())),
            any::<([u8; 16], [u8; 16])>().prop_map(|(a, b)| (a.into(), b.into())),
        ]
    }

    proptest! {
        #[test]
        fn equals_headers_that_are_emitted_one_by_one(
            (source, destination) in ends(),
            (macs, tagged) in any::<([u8; 12], bool)>(),
            ports: Option<(u16, u16)>,
            (spi, sequence) in any::<(u32, u32)>(),
            (class, identification, dont_fragment) in any::<(u8, u16, bool)>(),
            flow_label in 0u32..1 << 20,
            payload in 100u16..10_000,
        ) {
            let marks = Marks {
                dscp: Dscp::new(class >> 2).unwrap(),
                ecn: Ecn::from_bits(class),
                identification,
                dont_fragment,
                flow_label,
            };
            let protocol = if ports.is_some() { Protocol::UDP } else { Protocol::ESP };
            let ip = ip::Repr::new(source, destination, protocol, payload, marks).unwrap();
            let (to, from) = (MacAddress(*macs.first_chunk().unwrap()), MacAddress(*macs.last_chunk().unwrap()));
            let mut ethernet = ethernet::Repr::untagged(to, from, ip.family().ethertype());
            if tagged {
                ethernet.tags[0] = Some(ethernet::VlanTag { service: false, control: 77 });
            }
            let udp = ports.map(|(source_port, destination_port)| udp::Repr {
                source_port,
                destination_port,
                payload_len: payload - udp::HEADER_LEN as u16,
            });

            let mut expected = [0xaa; 100];
            let mut rest = &mut expected[..];
            ethernet.emit(rest).unwrap();
            rest = &mut rest[ethernet.header_len()..];
            ip.emit(rest).unwrap();
            rest = &mut rest[ip.header_len()..];
            if let Some(udp) = &udp {
                udp.emit(rest).unwrap();
                rest = &mut rest[udp::HEADER_LEN..];
            }
            esp::Repr { spi: esp::Spi(spi), sequence }.emit(rest).unwrap();
            let behind = rest[esp::HEADER_LEN..].len();
            let length = expected.len() - behind;

            let total = payload + ip.header_len() as u16;
            let fill = Fill { total, dscp: marks.dscp, ecn: marks.ecn, identification, dont_fragment, sequence };
            let template = Template::new(&ethernet, ip, udp, esp::Spi(spi));
            let mut written = [0xaa; 100];
            template.emit(&mut written, &fill).unwrap();
            prop_assert_eq!(&written[..length], &expected[..length]);
            prop_assert_eq!(template.emit(&mut written[..ROOM - 1], &fill), None);
        }
    }

    #[test]
    fn nothing_is_written_without_headers() {
        let fill = Fill {
            total: 100,
            dscp: Dscp::DEFAULT,
            ecn: Ecn::NotEct,
            identification: 1,
            dont_fragment: true,
            sequence: 1,
        };
        assert_eq!(Template::NONE.emit(&mut [0; 2048], &fill), None);
    }
}
