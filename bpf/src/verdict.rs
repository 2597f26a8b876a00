//! What the program says of a packet, in the order of its counters.

/// What the program decided, one counter each (maps.bpf.h).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u32)]
pub enum Verdict {
    /// Passed: no IP, or nothing that we take.
    PassNotOurs = 0,
    /// Passed: a fragment of IKE to one of our addresses, or one whose first is not known.
    PassFragment = 1,
    /// Passed: IKE, or a keepalive.
    PassIke = 2,
    /// Passed: an IP or UDP header that does not fit its packet.
    PassMalformed = 3,
    /// Taken: ESP to one of our addresses.
    TakeEsp = 4,
    /// Taken: AH to one of our addresses.
    TakeAh = 5,
    /// Taken: ESP in UDP 4500 to one of our addresses.
    TakeEspInUdp = 6,
    /// Taken: a plain packet on an inside port, to be protected.
    TakeProtect = 7,
    /// Taken: a plain packet of a protected prefix on an outside port, to be dropped.
    TakeUnprotected = 8,
    /// Dropped: it is ours, but no dataplane listens on its queue.
    DropNoSocket = 9,
    /// Passed: a protect selector covers it, but it comes from inside and stays there.
    PassInside = 10,
    /// Passed: a protect selector covers it, but it is an ICMP error about our own IKE; or it is one about our ESP or AH,
    /// and no dataplane listens.
    PassIcmpError = 11,
    /// Taken: an ICMP error about our own ESP or AH, plain or in UDP 4500.
    TakeIcmpError = 12,
    /// Passed: neighbour discovery, or multicast listener discovery.
    PassNeighbor = 13,
}

impl Verdict {
    /// How many there are.
    pub const COUNT: usize = 14;

    /// Every verdict, in the order of the counters.
    pub const ALL: [Self; Self::COUNT] = [
        Self::PassNotOurs,
        Self::PassFragment,
        Self::PassIke,
        Self::PassMalformed,
        Self::TakeEsp,
        Self::TakeAh,
        Self::TakeEspInUdp,
        Self::TakeProtect,
        Self::TakeUnprotected,
        Self::DropNoSocket,
        Self::PassInside,
        Self::PassIcmpError,
        Self::TakeIcmpError,
        Self::PassNeighbor,
    ];

    /// The counter's name.
    pub fn name(self) -> &'static str {
        match self {
            Self::PassNotOurs => "steer_pass_not_ours",
            Self::PassFragment => "steer_pass_fragment",
            Self::PassIke => "steer_pass_ike",
            Self::PassMalformed => "steer_pass_malformed",
            Self::TakeEsp => "steer_take_esp",
            Self::TakeAh => "steer_take_ah",
            Self::TakeEspInUdp => "steer_take_esp_in_udp",
            Self::TakeProtect => "steer_take_protect",
            Self::TakeUnprotected => "steer_take_unprotected",
            Self::DropNoSocket => "steer_drop_no_socket",
            Self::PassInside => "steer_pass_inside",
            Self::PassIcmpError => "steer_pass_icmp_error",
            Self::TakeIcmpError => "steer_take_icmp_error",
            Self::PassNeighbor => "steer_pass_neighbor",
        }
    }
}

/// What the kernel is to do with a packet: the program's return value.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Action {
    /// XDP_DROP.
    Drop,
    /// XDP_PASS: the kernel's.
    Pass,
    /// XDP_REDIRECT: the dataplane's.
    Redirect,
    /// Anything else, which the program never returns.
    Other(u32),
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn verdicts_stand_in_the_order_of_their_numbers() {
        for (index, verdict) in Verdict::ALL.into_iter().enumerate() {
            assert_eq!(verdict as usize, index);
        }
    }
}
