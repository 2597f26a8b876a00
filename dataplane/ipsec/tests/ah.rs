//! Packets of AH that scapy 2.8 made: transport and tunnel mode, IPv4 with options, IPv6 with extension headers, ESN. Each key is
//! the bytes 0, 1, 2, ...; the SPI is 0x11223344, the sequence number's low half 5.

use esplanade_crypto::{EngineKind, Hmac, Integrity, IntegrityKey, Verdict};
use esplanade_ipsec::{
    ah::{Shape, sign, verify},
    sequence::OutboundSequence,
};
use esplanade_wire::{
    ah::{Covered, Packet},
    splice::Place,
};

struct Vector {
    hmac: Hmac,
    /// The high half of the sequence number, with ESN.
    high: Option<u64>,
    packet: &'static str,
}

const VECTORS: &[Vector] = &[
    Vector {
        hmac: Hmac::Sha1,
        high: None,
        packet: "48b80045004d40003d33106ec0000201c0000202940400000707040102030400110400001122334400000005abdd4a11b136\
            cf6308b6ba9c00010002000d37fb68656c6c6f",
    },
    Vector {
        hmac: Hmac::Sha1,
        high: Some(3),
        packet: "603123450035000320010db800000000000000000000000120010db80000000000000000000000023301050200003e020809\
            0104000000001104000011223344000000059b6128f5cf4a9499eaa6ad5800010002000d608a68656c6c6f",
    },
    Vector {
        hmac: Hmac::Sha2_256,
        high: None,
        packet: "48b80049004d40003d33106ac0000201c0000202940400000707040102030400110500001122334400000005ddb9e4d0158e\
            6c04948a1e890110b5fe00010002000d37fb68656c6c6f",
    },
    Vector {
        hmac: Hmac::Sha2_256,
        high: Some(3),
        packet: "48b80049004d40003d33106ac0000201c0000202940400000707040102030400110500001122334400000005923c27d35011\
            62a69abc319b85d4436300010002000d37fb68656c6c6f",
    },
    Vector {
        hmac: Hmac::Sha2_256,
        high: None,
        packet: "60312345003d000320010db800000000000000000000000120010db80000000000000000000000023301050200003e020809\
            0104000000001106000011223344000000059b8d20fccad5ee8e41c372e01a2c409e0000000000010002000d608a68656c6c\
            6f",
    },
    Vector {
        hmac: Hmac::Sha2_256,
        high: Some(3),
        packet: "60312345003d000320010db800000000000000000000000120010db80000000000000000000000023301050200003e020809\
            010400000000110600001122334400000005dfbcfd9f709753bc7e68097d0989c1b80000000000010002000d608a68656c6c\
            6f",
    },
    Vector {
        hmac: Hmac::Sha2_256,
        high: None,
        packet: "45b8005d004d00003d33f865c0000201c0000202040500001122334400000005841cf8945eab1abfc2aa224da383b16c48b8\
            002d004d40003d1110a8c0000201c000020294040000070704010203040000010002000d37fb68656c6c6f",
    },
    Vector {
        hmac: Hmac::Sha2_256,
        high: None,
        packet: "600000000055334020010db800000000000000000000000120010db800000000000000000000000229060000112233440000\
            0005c72ed53cd0b85cd4ecb39c0a402040510000000060312345000d3b0320010db800000000000000000000000120010db8\
            00000000000000000000000200010002000d000068656c6c6f",
    },
    Vector {
        hmac: Hmac::Sha2_384,
        high: None,
        packet: "48b80051004d40003d331062c0000201c0000202940400000707040102030400110700001122334400000005e962bf852a93\
            56dcdd9605b36d4630dd892e8934feb6db6b00010002000d37fb68656c6c6f",
    },
    Vector {
        hmac: Hmac::Sha2_384,
        high: Some(3),
        packet: "603123450045000320010db800000000000000000000000120010db80000000000000000000000023301050200003e020809\
            0104000000001108000011223344000000057c4c7994dbf6c690a095e966ad4c21d3a8b2a9af11b0bcef0000000000010002\
            000d608a68656c6c6f",
    },
    Vector {
        hmac: Hmac::Sha2_512,
        high: None,
        packet: "48b80059004d40003d33105ac0000201c00002029404000007070401020304001109000011223344000000056ecb815d73f7\
            fafd07690f473663aa34321428c8b8152d5063e4df3f122715c500010002000d37fb68656c6c6f",
    },
    Vector {
        hmac: Hmac::Sha2_512,
        high: Some(3),
        packet: "48b80059004d40003d33105ac0000201c0000202940400000707040102030400110900001122334400000005eb241f693870\
            2e46cce3dfb60d00495810042d5eb035f679bd8a5ce07e4a898a00010002000d37fb68656c6c6f",
    },
    Vector {
        hmac: Hmac::Sha2_512,
        high: None,
        packet: "60312345004d000320010db800000000000000000000000120010db80000000000000000000000023301050200003e020809\
            010400000000110a00001122334400000005172f3b0b9ea07049da78c04edd446f5b25455751a646aeebc3e1ae27cf0bf782\
            0000000000010002000d608a68656c6c6f",
    },
    Vector {
        hmac: Hmac::Sha2_512,
        high: Some(3),
        packet: "60312345004d000320010db800000000000000000000000120010db80000000000000000000000023301050200003e020809\
            010400000000110a00001122334400000005803de821e9b4da8306e11974030890de12d6f9430a669aa33e8bc6313fc72df1\
            0000000000010002000d608a68656c6c6f",
    },
    Vector {
        hmac: Hmac::Sha2_512,
        high: None,
        packet: "45b8006d004d00003d33f855c0000201c0000202040900001122334400000005b071bdd4bc8617dade8ab46eebc4a4faf4fb\
            8b2b7d555f8f39f959e2c8dd3e3b48b8002d004d40003d1110a8c0000201c000020294040000070704010203040000010002\
            000d37fb68656c6c6f",
    },
    Vector {
        hmac: Hmac::Sha2_512,
        high: None,
        packet: "600000000065334020010db800000000000000000000000120010db8000000000000000000000002290a0000112233440000\
            00050b5e7489889ba5965063dbde4abb18a2083598427d77e5a1131dff8a2282eec30000000060312345000d3b0320010db8\
            00000000000000000000000120010db800000000000000000000000200010002000d000068656c6c6f",
    },
];

impl Vector {
    fn bytes(&self) -> Vec<u8> {
        let digits = self.packet.as_bytes().chunks(2);
        digits
            .map(|pair| u8::from_str_radix(std::str::from_utf8(pair).unwrap(), 16).unwrap())
            .collect()
    }

    fn number(&self) -> u64 {
        self.high.unwrap_or(0) << 32 | 5
    }

    fn key(&self) -> (IntegrityKey, Shape, bool) {
        let integrity = Integrity::Hmac(self.hmac);
        let material: Vec<u8> = (0..integrity.key_material_len() as u8).collect();
        let key = IntegrityKey::new(EngineKind::Portable, integrity, &material).unwrap();
        let ipv6 = self.packet.starts_with('6');
        (key, Shape::new(integrity, ipv6), self.high.is_some())
    }
}

/// The headers before AH.
fn covered(bytes: &[u8]) -> (Covered, usize) {
    if bytes[0] >> 4 == 4 {
        let at = usize::from(bytes[0] & 15) * 4;
        return (Covered::ipv4(&bytes[..at]).unwrap(), at);
    }
    let place = Place::in_ipv6(bytes).unwrap();
    (Covered::ipv6(&bytes[..place.at()]).unwrap(), place.at())
}

#[test]
fn they_are_verified_and_changed_ones_are_not() {
    for vector in VECTORS {
        let (key, shape, extended) = vector.key();
        let check = |bytes: &[u8], number| {
            let (covered, at) = covered(bytes);
            let packet = Packet::new_checked(&bytes[at..]).unwrap();
            assert_eq!(packet.header_len(), shape.header_len());
            verify(&key, shape, number, extended, &covered, &packet)
        };
        let bytes = vector.bytes();
        assert_eq!(check(&bytes, vector.number()), Verdict::Authentic);
        let mut changed = bytes.clone();
        *changed.last_mut().unwrap() ^= 1;
        assert_eq!(check(&changed, vector.number()), Verdict::Forged);
        let other = check(&bytes, vector.number() ^ 1 << 32);
        assert_eq!(other == Verdict::Forged, extended);
    }
}

#[test]
fn ours_are_the_same() {
    for vector in VECTORS {
        let (key, shape, extended) = vector.key();
        let expected = vector.bytes();
        let mut bytes = expected.clone();
        let (covered, at) = covered(&bytes);
        let next = Packet::new_checked(&bytes[at..]).unwrap().next_header();
        let mut sequence = OutboundSequence::new(extended);
        sequence.skip_to(vector.number());
        let number = sequence.take().unwrap();
        let spi = esplanade_wire::esp::Spi(0x1122_3344);
        shape.write(&mut bytes[at..], next, spi, number.low());
        sign(&key, shape, number, extended, &covered, &mut bytes[at..]).unwrap();
        assert_eq!(bytes, expected, "{:?}", vector.hmac);
    }
}
