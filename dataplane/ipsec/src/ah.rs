//! The shape of AH packets (RFC 4302 2 and 3.3.3), and their ICV: made and verified where the packet lies.

use crate::sequence::SequenceNumber;
use esplanade_crypto::{
    ComputeJob, Integrity, IntegrityKey, JobError, ReceivedIv, Verdict, VerifyJob, compute_batch,
    verify_batch,
};
use esplanade_wire::{
    Protocol,
    ah::{Covered, FIXED_LEN, Packet, Repr},
    esp::Spi,
};

/// The longest ICV, with GMAC's IV before it or not.
const MAX_DATA: usize = 32;
static ZEROS: [u8; MAX_DATA] = [0; MAX_DATA];

/// The lengths of an SA's header: computed once, when the SA is installed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Shape {
    iv: u8,
    icv: u8,
    padding: u8,
}

impl Shape {
    /// The shape of an algorithm's headers in IPv4 or IPv6.
    ///
    /// RFC 4302 3.3.3.2.1: "the ICV field may include explicit padding if required to ensure that the AH header is a multiple
    /// of 32 bits (IPv4) or 64 bits (IPv6)."
    pub const fn new(integrity: Integrity, ipv6: bool) -> Self {
        let (iv, icv) = (integrity.iv_len(), integrity.icv_len());
        assert!(iv + icv <= MAX_DATA);
        let length = FIXED_LEN + iv + icv;
        let alignment = if ipv6 { 8 } else { 4 };
        Self {
            iv: iv as u8,
            icv: icv as u8,
            padding: (length.next_multiple_of(alignment) - length) as u8,
        }
    }

    #[inline]
    const fn iv(self) -> usize {
        self.iv as usize
    }

    #[inline]
    const fn icv(self) -> usize {
        self.icv as usize
    }

    /// IV, ICV and padding.
    #[inline]
    const fn data(self) -> usize {
        self.iv() + self.icv() + self.padding as usize
    }

    /// The length of the header.
    #[inline]
    pub const fn header_len(self) -> usize {
        FIXED_LEN + self.data()
    }

    /// Whether a header of the SA may carry so many bytes of IV, ICV and padding.
    ///
    /// "Inclusion of padding in excess of the minimum amount required to satisfy IPv4/IPv6 alignment requirements is
    /// prohibited": we send none. Linux pads to 64 bits in IPv4, too, unless it is told otherwise, so that much is taken;
    /// the ICV covers it.
    #[inline]
    const fn accepts(self, data: usize) -> bool {
        data == self.data() || data == (FIXED_LEN + self.data()).next_multiple_of(8) - FIXED_LEN
    }

    /// The largest packet that fits a path behind so many bytes of headers and AH; 0 when there is none.
    pub const fn room(self, path_mtu: u16, before: usize) -> u16 {
        (path_mtu as usize).saturating_sub(before + self.header_len()) as u16
    }

    /// Writes the header in front of a payload, all but IV and ICV, which are zero as the ICV wants them.
    #[inline]
    pub fn write(self, header: &mut [u8], next_header: Protocol, spi: Spi, sequence: u32) {
        let repr = Repr {
            next_header,
            data_len: self.data(),
            spi,
            sequence,
        };
        let header = header.get_mut(..self.header_len()).unwrap_or_default();
        header.fill(0);
        // A frame without room was refused before.
        let _ = repr.emit(header);
    }
}

/// The high half of a sequence number, which ESN authenticates and does not send.
///
/// RFC 4302 3.3.3.2.2: "these bits are appended (implicitly) immediately after the end of the payload".
#[inline]
fn high_half(number: u64) -> [u8; 4] {
    ((number >> 32) as u32).to_be_bytes()
}

/// Writes IV and ICV into a packet that is complete but for them: `covered` are the headers before AH, `authenticated` is AH
/// and everything behind it.
///
/// # Errors
///
/// One of the lengths; nothing was written then.
#[inline]
pub fn sign(
    key: &IntegrityKey,
    shape: Shape,
    number: SequenceNumber,
    extended: bool,
    covered: &Covered,
    authenticated: &mut [u8],
) -> Result<(), JobError> {
    let high = high_half(number.number());
    let iv = number.into_iv();
    let carried = iv.explicit();
    let mut icv = [0; MAX_DATA];
    let icv = icv.get_mut(..shape.icv()).unwrap_or_default();
    let all = [covered.as_bytes(), &*authenticated, &high];
    let [before @ .., _] = &all;
    let segments = if extended { &all[..] } else { before };
    let job = ComputeJob::new(key, iv, segments, icv)?;
    compute_batch(&mut [job]);
    let data = authenticated.get_mut(FIXED_LEN..).unwrap_or_default();
    let values = carried.iter().take(shape.iv()).chain(&*icv);
    for (to, from) in data.iter_mut().zip(values) {
        *to = *from;
    }
    Ok(())
}

/// Whether a packet's ICV is right for the full sequence number that it claims. `covered` are the headers before AH.
#[inline]
pub fn verify(
    key: &IntegrityKey,
    shape: Shape,
    number: u64,
    extended: bool,
    covered: &Covered,
    packet: &Packet<'_>,
) -> Verdict {
    if !shape.accepts(packet.data().len()) {
        return Verdict::Forged;
    }
    let parts = packet
        .data()
        .split_at_checked(shape.iv())
        .and_then(|(iv, rest)| Some((iv, rest.split_at_checked(shape.icv())?)));
    let Some((iv, (icv, padding))) = parts else {
        return Verdict::Forged;
    };
    let iv: ReceivedIv = <[u8; 8]>::try_from(iv)
        .unwrap_or(number.to_be_bytes())
        .into();
    let high = high_half(number);
    let all = [
        covered.as_bytes(),
        packet.fixed(),
        ZEROS.get(..shape.iv() + shape.icv()).unwrap_or_default(),
        padding,
        packet.payload(),
        &high,
    ];
    let [before @ .., _] = &all;
    let segments = if extended { &all[..] } else { before };
    let mut verdict = [Verdict::Forged];
    if let Ok(job) = VerifyJob::new(key, iv, segments, icv) {
        verify_batch(&[job], &mut verdict);
    }
    let [verdict] = verdict;
    verdict
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sequence::OutboundSequence;
    use esplanade_crypto::{EngineKind, Hmac};
    use esplanade_wire::{ipv4, splice::Place};
    use proptest::prelude::*;

    const SPI: Spi = Spi(0x1234_5678);

    fn key(integrity: Integrity) -> IntegrityKey {
        let material: Vec<u8> = (0..integrity.key_material_len() as u8).collect();
        IntegrityKey::new(EngineKind::Portable, integrity, &material).unwrap()
    }

    fn number(of: u64) -> SequenceNumber {
        let mut sequence = OutboundSequence::new(true);
        sequence.skip_to(of);
        sequence.take().unwrap()
    }

    /// An IPv4 packet with AH in front of a payload, in transport mode.
    fn signed(integrity: Integrity, of: u64, extended: bool, payload: &[u8]) -> Vec<u8> {
        let shape = Shape::new(integrity, false);
        let repr = ipv4::Repr::new(
            [192, 0, 2, 1].into(),
            [192, 0, 2, 2].into(),
            Protocol::UDP,
            payload.len() as u16,
        );
        let mut packet = repr.bytes().to_vec();
        packet.extend(payload);
        let place = Place::in_ipv4(&ipv4::Packet::new_checked(&packet).unwrap());
        packet.splice(20..20, vec![0xee; shape.header_len()]);
        let total = packet.len();
        place.rewrite(&mut packet, Protocol::AH, total).unwrap();
        let covered = Covered::ipv4(&packet[..20]).unwrap();
        let number = number(of);
        shape.write(&mut packet[20..], Protocol::UDP, SPI, number.low());
        sign(
            &key(integrity),
            shape,
            number,
            extended,
            &covered,
            &mut packet[20..],
        )
        .unwrap();
        packet
    }

    fn check(integrity: Integrity, of: u64, extended: bool, bytes: &[u8]) -> Verdict {
        let Ok(packet) = ipv4::Packet::new_checked(bytes) else {
            return Verdict::Forged;
        };
        let Ok(covered) = Covered::ipv4(packet.header()) else {
            return Verdict::Forged;
        };
        let Ok(ah) = Packet::new_checked(packet.payload()) else {
            return Verdict::Forged;
        };
        let shape = Shape::new(integrity, false);
        verify(&key(integrity), shape, of, extended, &covered, &ah)
    }

    proptest! {
        #[test]
        fn what_is_signed_is_verified_and_nothing_else(
            integrity in prop::sample::select(&Integrity::ALL[..]), of in 1u64..1 << 40, extended: bool,
            payload in prop::collection::vec(any::<u8>(), 0..200), flip: (prop::sample::Index, u8),
        ) {
            let packet = signed(integrity, of, extended, &payload);
            prop_assert_eq!(check(integrity, of, extended, &packet), Verdict::Authentic);
            let high = check(integrity, of ^ 1 << 35, extended, &packet);
            prop_assert_eq!(high == Verdict::Authentic, !extended, "ESN's high half");

            let at = flip.0.index(packet.len());
            let mut changed = packet.clone();
            changed[at] ^= 1 << (flip.1 % 8);
            // DSCP and ECN, flags and offset, TTL, checksum.
            let mutable = matches!(at, 1 | 6 | 7 | 8 | 10 | 11);
            let verdict = check(integrity, of, extended, &changed);
            prop_assert_eq!(verdict == Verdict::Authentic, mutable, "bit {} of byte {}", flip.1 % 8, at);
        }
    }

    #[test]
    fn headers_are_as_long_as_the_rfcs_say() {
        // Fixed part, IV and ICV, and padding: in IPv4 none, in IPv6 to 64 bits.
        for (integrity, v4, v6) in [
            (Integrity::Hmac(Hmac::Sha1), 24, 24),
            (Integrity::Hmac(Hmac::Sha2_256), 28, 32),
            (Integrity::Hmac(Hmac::Sha2_384), 36, 40),
            (Integrity::Hmac(Hmac::Sha2_512), 44, 48),
            (
                Integrity::AesGmac(esplanade_crypto::AesKey::Bits128),
                36,
                40,
            ),
        ] {
            assert_eq!(
                Shape::new(integrity, false).header_len(),
                v4,
                "{integrity:?}"
            );
            assert_eq!(
                Shape::new(integrity, true).header_len(),
                v6,
                "{integrity:?}"
            );
        }
        let shape = Shape::new(Integrity::Hmac(Hmac::Sha2_256), false);
        assert_eq!(shape.room(1500, 20), 1452);
        assert_eq!(shape.room(40, 20), 0);
        for (data, accepted) in [(12, false), (16, true), (20, true), (24, false)] {
            assert_eq!(shape.accepts(data), accepted, "{data}");
        }
    }
}
