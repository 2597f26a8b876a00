//! What the worker reads of a frame before anything in it is authentic, for the fuzz target: any octets may be on the
//! wire.

use super::packet::{self, ETHERNET, Ip};
use esplanade_wire::{Ecn, checksum::checksum, ip::Family, ipv6};

/// What a SYN's MSS is clamped to: the inner MTU of a common path.
const INNER_MTU: u16 = 1_400;

/// Reads octets as a frame and rewrites what the stages rewrite; once as they are, and for each family once with an Ethernet and
/// IP header that chance does not make: of the right type and length, with the right checksum.
///
/// # Panics
///
/// If what was read does not lie within the frame, or a rewritten packet is not what was meant.
pub fn read_as_frame(octets: &[u8]) {
    read(octets);
    for family in Family::ALL {
        let mut mended = octets.to_vec();
        if mend(&mut mended, family).is_some() {
            read(&mended);
        }
    }
}

fn read(frame: &[u8]) {
    let _ = packet::macs(frame);
    let Ok(ip) = packet::read_frame(frame) else {
        return;
    };
    let end = ETHERNET + ip.length;
    assert!(ip.header <= ip.length && end <= frame.len(), "{ip:?}");
    if let Ok(Some(esp)) = packet::find_esp(frame, &ip) {
        let payload = esp.payload;
        assert!(ETHERNET + ip.header < payload.start, "{payload:?}");
        assert!(payload.start <= payload.end, "{payload:?}");
        assert!(payload.end <= end, "{payload:?} of {ip:?}");
    }
    rewrite(frame.to_vec(), &ip);
}

/// What a packet undergoes on its way into a tunnel or out of it.
fn rewrite(mut frame: Vec<u8>, ip: &Ip) {
    let mut expected = *ip;
    if ip.ttl > 1 {
        packet::decrement_ttl(&mut frame);
        expected.ttl -= 1;
    }
    packet::set_ecn(&mut frame, Ecn::Ce);
    expected.ecn = Ecn::Ce;
    packet::clamp_mss(&mut frame, ip, INNER_MTU);
    assert_eq!(packet::read_frame(&frame), Ok(expected));
}

/// Gives octets the headers of a frame with a packet that fills it, options included. `None` when they are too few.
fn mend(octets: &mut [u8], family: Family) -> Option<()> {
    let (ethernet, packet) = octets.split_at_mut_checked(ETHERNET)?;
    let ether_type = ethernet.get_mut(ETHERNET - 2..)?;
    ether_type.copy_from_slice(&family.ethertype().0.to_be_bytes());
    if family == Family::V6 {
        let payload = packet.len().checked_sub(ipv6::HEADER_LEN)?;
        let payload = u16::try_from(payload).ok()?.to_be_bytes();
        *packet.first_mut()? = 0x60;
        packet.get_mut(4..6)?.copy_from_slice(&payload);
        return Some(());
    }
    let length = u16::try_from(packet.len()).ok()?;
    let words = packet.first()? & 0x0f;
    let header = usize::from(words.max(5)) * 4;
    let header = packet.get_mut(..header)?;
    header[0] = 0x40 | (header.len() / 4) as u8;
    header[2..4].copy_from_slice(&length.to_be_bytes());
    header[10..12].fill(0);
    let sum = checksum(header);
    header[10..12].copy_from_slice(&sum.to_be_bytes());
    Some(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use packet::Refused;
    use proptest::prelude::*;

    /// Names and octets.
    fn seeds() -> Vec<(String, Vec<u8>)> {
        let seeds = concat!(env!("CARGO_MANIFEST_DIR"), "/../bench/fuzz/seeds/frame");
        let entries = std::fs::read_dir(seeds).unwrap().map(Result::unwrap);
        entries
            .map(|seed| {
                let name = seed.file_name().into_string().unwrap();
                (name, std::fs::read(seed.path()).unwrap())
            })
            .collect()
    }

    proptest! {
        #[test]
        fn any_octets_are_survived(octets in prop::collection::vec(any::<u8>(), 0..200)) {
            read_as_frame(&octets);
        }

        #[test]
        fn damaged_frames_are_survived(
            seed in any::<prop::sample::Selector>(),
            changes in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..5),
            length in any::<prop::sample::Index>(),
        ) {
            let (_, mut octets) = seed.select(seeds());
            for (at, value) in changes {
                let at = at.index(octets.len());
                octets[at] = value;
            }
            read_as_frame(&octets);
            octets.truncate(length.index(octets.len()));
            read_as_frame(&octets);
        }
    }

    /// The fuzz target starts from these.
    #[test]
    fn the_seeds_are_frames() {
        let seeds = seeds();
        assert!(seeds.len() >= 10);
        for (name, octets) in seeds {
            let read = packet::read_frame(&octets);
            if name == "vlan" {
                assert_eq!(read, Err(Refused::NotIp));
                continue;
            }
            let found = packet::find_esp(&octets, &read.unwrap());
            let expected = match name.as_str() {
                "esp" | "esp-in-udp" | "options" | "v6-esp" | "v6-esp-in-udp" => Ok(true),
                "v6-extensions" => Ok(true),
                "first-fragment" | "v6-fragment" => Err(Refused::Fragment),
                _ => Ok(false),
            };
            assert_eq!(found.map(|esp| esp.is_some()), expected, "{name}");
        }
    }

    #[test]
    fn a_mended_frame_is_read() {
        let mut octets = vec![7; 100];
        mend(&mut octets, Family::V4).unwrap();
        let ip = packet::read_frame(&octets).unwrap();
        assert_eq!((ip.header, ip.length), (28, 100 - ETHERNET));
        mend(&mut octets, Family::V6).unwrap();
        let ip = packet::read_frame(&octets).unwrap();
        assert_eq!((ip.header, ip.length), (40, 100 - ETHERNET));
    }
}
