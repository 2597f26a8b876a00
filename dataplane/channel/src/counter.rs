//! What is counted, with what an operator needs to read it. Every drop has a name here; those of Linux's
//! `/proc/net/xfrm_stat` where one fits.

use std::fmt;

/// How much a counter that grows should worry an operator.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Severity {
    /// Traffic and work.
    Info,
    /// Policy did its work, or somebody else's packets are odd.
    Notice,
    /// A misconfiguration, an attack or a lossy path.
    Warning,
    /// We lost something that we should not have.
    Error,
}

impl fmt::Display for Severity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Info => "info",
            Self::Notice => "notice",
            Self::Warning => "warning",
            Self::Error => "error",
        })
    }
}

/// What a counter counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Unit {
    /// Packets.
    Packets,
    /// Bytes.
    Bytes,
    /// Nanoseconds of the monotonic clock.
    Nanoseconds,
    /// Bursts, that is rounds of a worker that found packets.
    Bursts,
    /// Anything else, one by one.
    Times,
}

impl fmt::Display for Unit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Packets => "packets",
            Self::Bytes => "bytes",
            Self::Nanoseconds => "nanoseconds",
            Self::Bursts => "bursts",
            Self::Times => "times",
        })
    }
}

macro_rules! counters {
    (
        $(#[$meta:meta])* $list:ident;
        $($name:ident $severity:ident $unit:ident $sentence:literal,)+
    ) => {
        $(#[$meta])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
        #[repr(u16)]
        pub enum $list {
            $(#[doc = $sentence] $name,)+
        }

        impl $list {
            /// All of them, in the order of their indices.
            pub const ALL: &'static [Self] = &[$(Self::$name),+];
            /// How many there are.
            pub const COUNT: usize = Self::ALL.len();

            /// Its place in a block of counters.
            pub const fn index(self) -> usize {
                self as usize
            }

            /// Its name.
            pub const fn name(self) -> &'static str {
                match self { $(Self::$name => stringify!($name),)+ }
            }

            /// How much it should worry when it grows.
            pub const fn severity(self) -> Severity {
                match self { $(Self::$name => Severity::$severity,)+ }
            }

            /// What it counts.
            pub const fn unit(self) -> Unit {
                match self { $(Self::$name => Unit::$unit,)+ }
            }

            /// What it means, in a sentence.
            pub const fn sentence(self) -> &'static str {
                match self { $(Self::$name => $sentence,)+ }
            }
        }

        impl fmt::Display for $list {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.pad(self.name())
            }
        }
    };
}

counters! {
    /// What a worker counts, and the steward.
    Counter;

    // The worker's own time.
    TimeBusy Info Nanoseconds "Time spent on rounds that found packets or commands; with TimeIdle it gives the worker's load.",
    TimeIdle Info Nanoseconds "Time spent on rounds that found nothing, asleep or not.",
    Bursts Info Bursts "Rounds that found packets; packets received by bursts is the mean size of a burst.",
    Sleeps Info Times "Times that the worker went to sleep with adaptive polling.",
    CommandsApplied Info Times "Commands of the control plane that were obeyed.",
    CommandsFailed Warning Times "Commands of the control plane that were not obeyed; an event told it why.",
    CommandsMalformed Error Times "Command records that made no sense; the two planes disagree, restart both from the same build.",
    CommandRingCorrupt Error Times "Times that the command ring was found with a count that cannot be, and left alone.",
    EventsLost Warning Times "Events that found their ring full because the control plane did not read it.",

    // Inbound.
    InEspPackets Info Packets "ESP packets received, plain or in UDP, before any check.",
    InEspBytes Info Bytes "Bytes of the ESP packets received, outer IP headers included.",
    InAhPackets Info Packets "AH packets received, before any check.",
    InAhBytes Info Bytes "Bytes of the AH packets received, outer IP headers included.",
    InPackets Info Packets "Packets decrypted, checked and sent on.",
    InBytes Info Bytes "Bytes of the packets decrypted, checked and sent on, inner IP headers included.",
    InBypassPackets Info Packets "Plain packets let in unprotected because a policy says bypass.",
    InDummy Info Packets "Packets of next header 59, sent by the peer to hide its traffic (RFC 4303 2.6) and discarded.",
    InHdrError Notice Packets "Outer headers that are malformed, or ESP or AH that is too short (XfrmInHdrError).",
    InTruncated Notice Packets "Packets shorter than their headers claim.",
    InBadChecksum Notice Packets "IPv4 headers with a wrong checksum.",
    InExtensions Notice Packets "IPv6 packets with too many extension headers, or with one where it must not be (RFC 8200 4.1).",
    InFragments Info Packets "Fragments of ESP or AH received, to be put together.",
    InReassembled Info Packets "ESP or AH packets put together of fragments; the path or the peer would better fragment before ESP.",
    InFragment Warning Packets "Fragments of which no packet can be made: malformed, too many, or of one that no frame can hold.",
    InFragmentOverlap Warning Packets "Fragments that lie over others, and all that came of such packets: an attack (RFC 5722).",
    InFragmentTimeout Notice Packets "Packets given up because not all of their fragments came within a second.",
    InFragmentLimit Warning Packets "Packets given up for others of which fragments came, because too many were in the making.",
    InNotOurs Notice Packets "Packets that are neither ours nor covered by a policy, and were dropped.",
    InNextHeader Warning Packets "Decrypted packets whose next header is not one that this gateway carries.",
    InTrailerError Warning Packets "Authenticated packets whose padding or inner header is malformed; the peer is broken.",
    InNoStates Warning Packets "ESP or AH with an SPI whose slot has no SA of that protocol: a peer that has not noticed our restart, or a probe (XfrmInNoStates).",
    InNoStatesStale Notice Packets "ESP with an SPI whose slot has another SA by now: a peer that still uses an old SA (XfrmInNoStates).",
    InStateInvalid Warning Packets "ESP for an outbound SA, or for one that its owner is removing (XfrmInStateInvalid).",
    InStateMismatch Warning Packets "ESP to another of our addresses than its SA's (XfrmInStateMismatch).",
    InStateModeError Warning Packets "Decrypted packets that are not of tunnel mode (XfrmInStateModeError).",
    InStateProtoError Warning Packets "Packets that failed authentication: forged, damaged, or sealed under another key (XfrmInStateProtoError).",
    InStateSeqError Warning Packets "Replays: sequence numbers that were received before (XfrmInStateSeqError).",
    InStateSeqErrorLate Notice Packets "Sequence numbers older than the anti-replay window: long delayed, or replays (XfrmInStateSeqError).",
    InStateExpired Warning Packets "Packets for an SA that has reached its hard lifetime (XfrmInStateExpired).",
    InTmplMismatch Warning Packets "Decrypted packets that the selectors of their SA do not cover (XfrmInTmplMismatch).",
    InNoPols Warning Packets "Plain packets from outside that should have come through a tunnel, and were dropped (XfrmInNoPols).",
    InPolBlock Notice Packets "Packets from outside dropped because a policy says discard (XfrmInPolBlock).",
    InEcnError Warning Packets "Packets dropped because the outer header says congestion and the inner one knows no ECN (RFC 6040 4.2).",
    InRelayed Info Packets "Decrypted packets that leave by an outside port again, in another tunnel or by a policy that says bypass.",
    InHairpin Warning Packets "Decrypted packets whose route leaves by an outside port, and which no policy covers on their way out.",
    PeerMoved Info Times "Peers behind a NAT that were followed to another address or port of it (RFC 7296 2.23).",
    InTtlExpired Notice Packets "Decrypted packets whose TTL or hop limit ended here.",

    // Outbound.
    OutPackets Info Packets "Packets sealed and sent.",
    OutBytes Info Bytes "Bytes of the packets sealed and sent, inner IP headers included.",
    OutEspBytes Info Bytes "Bytes of the ESP packets sent, outer IP headers included.",
    OutAhBytes Info Bytes "Bytes of the AH packets sent, outer IP headers included.",
    OutTfcBytes Info Bytes "Bytes of padding that hides the size of inner packets (RFC 4303 2.7).",
    OutDummies Info Packets "Dummy packets sent to hide how many others are (RFC 4303 2.6).",
    OutBypassPackets Info Packets "Plain packets sent unprotected because a policy says bypass.",
    OutMssClamped Info Packets "TCP SYNs whose MSS was lowered to what fits through the tunnel.",
    OutHdrError Notice Packets "Plain packets to be protected that are malformed or truncated.",
    OutBadChecksum Notice Packets "Plain packets to be protected whose IPv4 header has a wrong checksum.",
    OutExtensions Notice Packets "Plain IPv6 packets to be protected with too many extension headers, or with one where it must not be (RFC 8200 4.1).",
    OutFragmented Info Packets "Sealed packets sent in fragments: the child fragments after sealing, or the path is narrower than what IPv6 carries at least, 1280 bytes (RFC 8200 5).",
    OutReassembled Info Packets "Packets of the gateway itself put together of fragments, for transport mode carries whole packets only (RFC 4303 3.3.4).",
    OutTtlExpired Notice Packets "Packets whose TTL or hop limit ended here before they could be protected.",
    OutFragmentNoPorts Notice Packets "Later fragments without ports, which a policy that tells ports apart cannot match (RFC 4301 7).",
    OutNoPols Notice Packets "Packets from inside that no policy covers, and were dropped (XfrmOutNoPols).",
    OutPolBlock Notice Packets "Packets from inside dropped because a policy says discard (XfrmOutPolBlock).",
    OutNoStates Warning Packets "Packets whose policy has no SA yet, and were dropped while IKE is asked for one (XfrmOutNoStates).",
    OutStateExpired Warning Packets "Packets whose SA has reached its hard lifetime (XfrmOutStateExpired).",
    OutStateSeqError Error Packets "Packets whose SA has used all its sequence numbers (XfrmOutStateSeqError).",
    OutStateInvalid Error Packets "Packets whose policy names an SA that cannot send (XfrmOutStateInvalid).",
    OutStateProtoError Error Packets "Packets that could not be sealed; this is a bug (XfrmOutStateProtoError).",
    OutStateModeError Notice Packets "Packets that their SA's transport mode cannot carry: they are not between its own two ends (XfrmOutStateModeError).",
    OutTooBig Notice Packets "Packets with DF that do not fit through the tunnel, and were dropped.",
    OutTooBigNoDf Warning Packets "Packets without DF that do not fit through the tunnel, and were dropped.",

    // Next hops, both directions.
    NoRoute Warning Packets "Packets without a route.",
    RouteUnreachable Notice Packets "Packets whose route says unreachable.",
    RouteElsewhere Warning Packets "Packets whose route leaves by an interface that is not one of our ports.",
    NeighborHeld Info Packets "Packets that had to wait until their next hop's link address is known.",
    NeighborUnresolved Warning Packets "Packets dropped because their next hop's link address did not become known in time, or because later ones took their place.",
    PacketTooBig Notice Packets "Packets that do not fit the MTU of the port they would leave by.",

    // ICMP errors of our own.
    IcmpSent Info Packets "ICMP errors sent: fragmentation needed or packet too big, time exceeded or unreachable.",
    IcmpRateLimited Notice Packets "ICMP errors not sent because enough were.",
    IcmpSuppressed Notice Packets "ICMP errors not sent because the packet must not cause one (RFC 1812 4.3.2.7, RFC 4443 2.4), or the port has no address to send it from.",

    // ICMP errors of others about our packets.
    PathMtuLowered Info Packets "ICMP errors that made the MTU of the path to a peer smaller (RFC 1191, RFC 8201).",
    PathMtuKnown Info Packets "ICMP errors that said nothing new about the path to a peer.",
    PathMtuRefused Notice Packets "ICMP errors about an MTU that were not believed: what they quote was sent by no SA of ours, or no path is so narrow.",
    IcmpAboutOurs Notice Packets "ICMP errors about packets of our SAs that say nothing of an MTU: the peer or a way to it is gone, or refuses them.",
    IcmpAboutOursLimited Notice Packets "ICMP errors about packets of our SAs that were not looked into because enough were.",

    // Virtual links.
    ChecksumsFinished Info Packets "Packets whose transport checksum a virtual link had left to hardware that is not there, and which got it here.",

    // Rings and frames.
    NoTxFrame Error Packets "Packets dropped because no frame was free to send them in.",
    TxRingFull Error Packets "Packets dropped because the transmit ring was full.",
    HandoffSent Info Packets "Packets lent to the worker that owns their SA.",
    HandoffReceived Info Packets "Packets borrowed from other workers.",
    HandoffFull Error Packets "Packets dropped because the ring to the worker that owns their SA was full.",
    DropsUnlisted Notice Packets "Drops that are in their counter, but not under their SA or policy, because the table of these is full.",
    Captured Info Packets "Packets copied for `esplanade capture`.",
    CaptureLost Notice Packets "Packets that `esplanade capture` was to have and were not copied: its rate was reached, or its ring was full.",
    RxRingFull Error Packets "Packets that the kernel dropped because the worker did not empty its receive ring in time.",
    RxFillEmpty Error Packets "Packets that the kernel dropped because it had no empty frame to receive into.",
    RxDropped Warning Packets "Packets that the kernel dropped for other reasons, such as one that no frame can hold.",
    InvalidDescriptors Error Times "Descriptors that the kernel refused or that made no sense; this is a bug.",
    FramesLeaked Error Times "Frames that were lost instead of returned; this is a bug.",

    // What the XDP program decided; the steward copies them.
    SteerPassNotOurs Info Packets "Passed to the kernel by XDP: not IP, or nothing that the dataplane takes.",
    SteerPassFragment Notice Packets "Passed to the kernel by XDP: fragments of ESP, AH or UDP to our addresses.",
    SteerPassIke Info Packets "Passed to the kernel by XDP: IKE on UDP 4500, or a keepalive.",
    SteerPassMalformed Notice Packets "Passed to the kernel by XDP: an IPv4 or UDP header that does not fit its packet.",
    SteerTakeEsp Info Packets "Taken by XDP: ESP to our addresses.",
    SteerTakeAh Info Packets "Taken by XDP: AH to our addresses.",
    SteerTakeEspInUdp Info Packets "Taken by XDP: ESP in UDP 4500 to our addresses.",
    SteerTakeProtect Info Packets "Taken by XDP: plain packets on inside ports, to be protected.",
    SteerTakeUnprotected Warning Packets "Taken by XDP: plain packets of protected prefixes on outside ports, to be dropped.",
    SteerPassInside Info Packets "Passed to the kernel by XDP: covered by a protect selector, but from inside and for inside.",
    SteerPassIcmpError Info Packets "Passed to the kernel by XDP: ICMP errors about IKE, or about our ESP while no dataplane listens.",
    SteerTakeIcmpError Info Packets "Taken by XDP: ICMP errors about our ESP and AH.",
    SteerPassNeighbor Info Packets "Passed to the kernel by XDP: neighbour discovery and multicast listener discovery.",
    SteerDropNoSocket Error Packets "Dropped by XDP: ours, but no dataplane listens on the queue.",
}

counters! {
    /// What a worker counts for each port.
    PortCounter;
    RxPackets Info Packets "Packets received by the dataplane on this port.",
    RxBytes Info Bytes "Bytes received by the dataplane on this port, Ethernet headers included.",
    TxPackets Info Packets "Packets sent by the dataplane on this port.",
    TxBytes Info Bytes "Bytes sent by the dataplane on this port, Ethernet headers included.",
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_counter_has_its_place_and_its_sentence() {
        for (place, counter) in Counter::ALL.iter().enumerate() {
            assert_eq!(counter.index(), place);
            assert!(counter.sentence().ends_with('.'), "{counter}");
        }
        assert_eq!(Counter::InStateProtoError.name(), "InStateProtoError");
        assert_eq!(Counter::InStateProtoError.severity(), Severity::Warning);
        assert_eq!(Counter::InEspBytes.unit(), Unit::Bytes);
        assert_eq!(PortCounter::COUNT, 4);
    }
}
