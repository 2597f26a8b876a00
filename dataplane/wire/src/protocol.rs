//! IP protocol numbers, which are ESP's next headers too (RFC 4303 2.6).

use core::fmt;

/// An IP protocol number.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Protocol(pub u8);

impl Protocol {
    /// IPv6's hop-by-hop options (RFC 8200 4.3).
    pub const HOP_BY_HOP: Self = Self(0);
    /// ICMP for IPv4.
    pub const ICMP: Self = Self(1);
    /// IPv4 within IP: tunnel mode's next header.
    pub const IPV4: Self = Self(4);
    /// TCP.
    pub const TCP: Self = Self(6);
    /// UDP.
    pub const UDP: Self = Self(17);
    /// IPv6 within IP.
    pub const IPV6: Self = Self(41);
    /// IPv6's routing header (RFC 8200 4.4).
    pub const ROUTING: Self = Self(43);
    /// IPv6's fragment header (RFC 8200 4.5).
    pub const FRAGMENT: Self = Self(44);
    /// ESP.
    pub const ESP: Self = Self(50);
    /// AH.
    pub const AH: Self = Self(51);
    /// ICMP for IPv6.
    pub const ICMPV6: Self = Self(58);
    /// No next header: in ESP a dummy packet (RFC 4303 2.6).
    pub const NONE: Self = Self(59);
    /// IPv6's destination options (RFC 8200 4.6).
    pub const DESTINATION_OPTIONS: Self = Self(60);
    /// SCTP.
    pub const SCTP: Self = Self(132);
    /// UDP-Lite.
    pub const UDP_LITE: Self = Self(136);

    /// Whether its header begins with a source and a destination port.
    #[inline]
    pub const fn has_ports(self) -> bool {
        matches!(self, Self::TCP | Self::UDP | Self::SCTP | Self::UDP_LITE)
    }

    /// Whether it is an extension header of IPv6 that selectors look behind (RFC 4301 4.4.1.1).
    #[inline]
    pub const fn is_extension(self) -> bool {
        matches!(
            self,
            Self::HOP_BY_HOP | Self::ROUTING | Self::FRAGMENT | Self::DESTINATION_OPTIONS
        )
    }
}

impl fmt::Display for Protocol {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let name = match *self {
            Self::HOP_BY_HOP => "hop-by-hop options",
            Self::ICMP => "ICMP",
            Self::IPV4 => "IPv4",
            Self::TCP => "TCP",
            Self::UDP => "UDP",
            Self::IPV6 => "IPv6",
            Self::ROUTING => "routing header",
            Self::FRAGMENT => "fragment header",
            Self::ESP => "ESP",
            Self::AH => "AH",
            Self::ICMPV6 => "ICMPv6",
            Self::NONE => "none",
            Self::DESTINATION_OPTIONS => "destination options",
            Self::SCTP => "SCTP",
            Self::UDP_LITE => "UDP-Lite",
            Self(number) => return write!(f, "protocol {number}"),
        };
        f.write_str(name)
    }
}
