//! The two fields of the former TOS byte: DSCP (RFC 2474 3) and ECN (RFC 3168 5), and what a tunnel's exit makes
//! of two ECN fields (RFC 6040 4.2).

/// A differentiated services code point: six bits.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Dscp(u8);

impl Dscp {
    /// Best effort.
    pub const DEFAULT: Self = Self(0);
    /// Network control: what routers say to hosts (RFC 1812 4.3.2.5 asks for precedence 6 or 7).
    pub const CS6: Self = Self(48);

    /// The code point, `None` above 63.
    #[inline]
    pub const fn new(value: u8) -> Option<Self> {
        if value < 64 { Some(Self(value)) } else { None }
    }

    /// The six bits.
    #[inline]
    pub const fn value(self) -> u8 {
        self.0
    }
}

/// Explicit congestion notification.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
#[repr(u8)]
pub enum Ecn {
    /// The sender's transport does not know ECN.
    #[default]
    NotEct = 0,
    /// ECN-capable, ECT(1).
    Ect1 = 1,
    /// ECN-capable, ECT(0).
    Ect0 = 2,
    /// Congestion was experienced.
    Ce = 3,
}

impl Ecn {
    /// The field from the low two bits.
    #[inline]
    pub const fn from_bits(bits: u8) -> Self {
        match bits & 3 {
            0 => Self::NotEct,
            1 => Self::Ect1,
            2 => Self::Ect0,
            _ => Self::Ce,
        }
    }

    /// What leaves a tunnel by whose outer header came `outer` and whose inner header says `inner`; `None` when
    /// the packet must be dropped.
    ///
    /// RFC 6040 4.2: "If the inner ECN field is Not-ECT, the decapsulator MUST NOT propagate any other ECN
    /// codepoint onwards. [...] If the outer ECN field is CE, the decapsulator MUST drop the packet."
    #[inline]
    pub const fn decapsulate(outer: Self, inner: Self) -> Option<Self> {
        match (inner, outer) {
            (Self::NotEct, Self::Ce) => None,
            (Self::NotEct, _) => Some(Self::NotEct),
            (_, Self::Ce) => Some(Self::Ce),
            (Self::Ect0, Self::Ect1) => Some(Self::Ect1),
            (inner, _) => Some(inner),
        }
    }
}

/// The traffic class byte of two fields.
#[inline]
pub(crate) const fn traffic_class(dscp: Dscp, ecn: Ecn) -> u8 {
    dscp.0 << 2 | ecn as u8
}

/// The two fields of a traffic class byte.
#[inline]
pub(crate) const fn split_traffic_class(byte: u8) -> (Dscp, Ecn) {
    (Dscp(byte >> 2), Ecn::from_bits(byte))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn decapsulation_is_the_table_of_rfc_6040() {
        use Ecn::{Ce, Ect0, Ect1, NotEct};
        // Figure 4: rows are the inner field, columns the outer: Not-ECT, ECT(0), ECT(1), CE.
        let table = [
            (NotEct, [Some(NotEct), Some(NotEct), Some(NotEct), None]),
            (Ect0, [Some(Ect0), Some(Ect0), Some(Ect1), Some(Ce)]),
            (Ect1, [Some(Ect1), Some(Ect1), Some(Ect1), Some(Ce)]),
            (Ce, [Some(Ce), Some(Ce), Some(Ce), Some(Ce)]),
        ];
        for (inner, row) in table {
            for (outer, expected) in [NotEct, Ect0, Ect1, Ce].into_iter().zip(row) {
                assert_eq!(
                    Ecn::decapsulate(outer, inner),
                    expected,
                    "{inner:?} in {outer:?}"
                );
            }
        }
    }

    #[test]
    fn traffic_classes_split_and_join() {
        for byte in 0..=u8::MAX {
            let (dscp, ecn) = split_traffic_class(byte);
            assert_eq!(traffic_class(dscp, ecn), byte);
            assert_eq!(Dscp::new(dscp.value()), Some(dscp));
        }
        assert_eq!(Dscp::new(64), None);
    }
}
