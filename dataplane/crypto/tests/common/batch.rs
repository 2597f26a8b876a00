//! Batches of packets of any kind, sealed and opened by any engines: what must hold of them all. Proptest makes them, and a
//! fuzzer by [`read_packets`].

use super::{Guarded, able, iv, pattern, received_iv, seal};
use esplanade_crypto::{
    Aad, Algorithm, EngineKind, MAX_TRAILER, OpenJob, OpeningKey, SealJob, SealingKey, Trailer,
    Verdict, open_batch, seal_batch,
};

/// How a job has its buffers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Form {
    Apart,
    InPlace,
    Segments,
    SegmentsInPlace,
}

/// One packet of a batch, with a key of its own.
#[derive(Debug, Clone)]
pub struct Packet {
    pub algorithm: Algorithm,
    /// Which seals and which opens.
    pub engines: (EngineKind, EngineKind),
    /// Of the key and of the IV.
    pub number: u64,
    pub plaintext: Vec<u8>,
    pub trailer: Vec<u8>,
    pub aad: Aad,
    /// How far source and destination are off their alignment.
    pub shifts: (usize, usize),
    /// To seal and to open.
    pub forms: (Form, Form),
    /// Where segments are cut, of source and destination, each modulo the length.
    pub cuts: [usize; 4],
    /// The bit to flip on the way, modulo the length.
    pub flip: Option<usize>,
}

impl Packet {
    fn key_material(&self) -> Vec<u8> {
        pattern(self.algorithm.key_material_len(), self.number ^ 1 << 40)
    }

    /// As it was drawn, or in CBC, as much as fills the last block.
    fn trailer(&self) -> Trailer {
        let length = match self.algorithm.alignment() {
            16 => self.plaintext.len().wrapping_neg() % 16,
            _ => self.trailer.len(),
        };
        let drawn = self.trailer.iter().copied().chain(std::iter::repeat(7));
        Trailer::new(&drawn.take(length).collect::<Vec<_>>()).unwrap()
    }

    fn text(&self) -> Vec<u8> {
        [&self.plaintext, self.trailer().as_bytes()].concat()
    }
}

/// One of the engines that do the algorithm.
pub fn engine(algorithm: Algorithm, choice: usize) -> EngineKind {
    let able: Vec<_> = able(algorithm).collect();
    able[choice % able.len()]
}

/// A bit flipped.
pub fn flipped(bytes: &[u8], bit: usize) -> Vec<u8> {
    let mut bytes = bytes.to_vec();
    bytes[bit / 8] ^= 1 << (bit % 8);
    bytes
}

/// Packets as bytes choose them: 17 bytes each.
pub fn read_packets(bytes: &[u8]) -> Vec<Packet> {
    let read = |chunk: &[u8; 17]| {
        let [
            kind,
            sealing,
            opening,
            forms,
            shifts,
            low,
            high,
            trailer,
            aad,
            rest @ ..,
        ] = *chunk;
        let algorithm = Algorithm::ALL[usize::from(kind) % Algorithm::ALL.len()];
        let form = |bits: u8| match bits % 4 {
            0 => Form::Apart,
            1 => Form::InPlace,
            2 => Form::Segments,
            _ => Form::SegmentsInPlace,
        };
        let number = u64::from_le_bytes(rest) >> 1;
        let [first, second, third, fourth, flip, ..] = rest.map(usize::from);
        Packet {
            algorithm,
            engines: (
                engine(algorithm, sealing.into()),
                engine(algorithm, opening.into()),
            ),
            number,
            plaintext: pattern(usize::from(u16::from_le_bytes([low, high])) % 2048, number),
            trailer: pattern(usize::from(trailer) % (MAX_TRAILER + 1), number),
            aad: match aad % 2 {
                0 => Aad::plain(number as u32, low.into()),
                _ => Aad::extended(number as u32, number << 7),
            },
            shifts: (usize::from(shifts % 16), usize::from(shifts / 16)),
            forms: (form(forms), form(forms >> 2)),
            cuts: [first, second, third, fourth],
            flip: (forms & 0x80 != 0).then_some(flip << 3 | usize::from(aad >> 5)),
        }
    };
    bytes.as_chunks().0.iter().map(read).collect()
}

/// Three pieces.
fn cut<'a>(bytes: &'a [u8], cuts: &[usize]) -> [&'a [u8]; 3] {
    let (start, rest) = bytes.split_at(cuts[0] % (bytes.len() + 1));
    let (middle, end) = rest.split_at(cuts[1] % (rest.len() + 1));
    [start, middle, end]
}

fn cut_mut<'a>(bytes: &'a mut [u8], cuts: &[usize]) -> [&'a mut [u8]; 3] {
    let (start, rest) = bytes.split_at_mut(cuts[0] % (bytes.len() + 1));
    let (middle, end) = rest.split_at_mut(cuts[1] % (rest.len() + 1));
    [start, middle, end]
}

/// A packet's buffers in its form: the source is in `out` already, if that is where it belongs.
struct Room<'a> {
    form: Form,
    sources: [&'a [u8]; 3],
    outs: [&'a mut [u8]; 3],
}

impl<'a> Room<'a> {
    fn new(form: Form, packet: &Packet, source: &'a [u8], out: &'a mut [u8]) -> Self {
        if matches!(form, Form::InPlace | Form::SegmentsInPlace) {
            out[..source.len()].copy_from_slice(source);
        }
        let (sources, outs) = match form {
            Form::Apart | Form::InPlace => ([source, &[], &[]], [out, &mut [], &mut []]),
            Form::Segments | Form::SegmentsInPlace => (
                cut(source, &packet.cuts[..2]),
                cut_mut(out, &packet.cuts[2..]),
            ),
        };
        Self {
            form,
            sources,
            outs,
        }
    }

    fn sealing_job(&'a mut self, key: &'a SealingKey, packet: &Packet) -> SealJob<'a> {
        let (iv, aad) = (iv(packet.algorithm, packet.number), packet.aad);
        let (trailer, source, outs) = (packet.trailer(), self.sources, &mut self.outs);
        match self.form {
            Form::Apart => SealJob::new(key, iv, aad, source[0], trailer, outs[0]),
            Form::InPlace => SealJob::in_place(key, iv, aad, outs[0], trailer),
            Form::Segments => SealJob::in_segments(key, iv, aad, &self.sources, trailer, outs),
            Form::SegmentsInPlace => SealJob::in_place_of_segments(key, iv, aad, outs, trailer),
        }
        .unwrap()
    }

    fn opening_job(&'a mut self, key: &'a OpeningKey, packet: &Packet) -> OpenJob<'a> {
        let (iv, aad) = (received_iv(packet.algorithm, packet.number), packet.aad);
        let (source, outs) = (self.sources, &mut self.outs);
        match self.form {
            Form::Apart => OpenJob::new(key, iv, aad, source[0], outs[0]),
            Form::InPlace => OpenJob::in_place(key, iv, aad, outs[0]),
            Form::Segments => OpenJob::in_segments(key, iv, aad, &self.sources, outs),
            Form::SegmentsInPlace => OpenJob::in_place_of_segments(key, iv, aad, outs),
        }
        .unwrap()
    }
}

/// Seals and opens all in one batch: as every engine seals each of them alone, and what arrives changed leaves zeros.
pub fn check(packets: &[Packet]) {
    let sealed = seal_all(packets);
    for (packet, sealed) in packets.iter().zip(&sealed) {
        let (material, trailer) = (packet.key_material(), packet.trailer());
        for engine in able(packet.algorithm) {
            let (algorithm, plaintext) = (packet.algorithm, &packet.plaintext);
            let number = packet.number;
            let alone = seal(
                engine, algorithm, &material, number, packet.aad, plaintext, trailer,
            );
            assert_eq!(sealed.content(), alone, "{packet:?}");
        }
    }
    for (packet, (verdict, opened)) in packets.iter().zip(open_all(packets, &sealed)) {
        if packet.flip.is_some() {
            assert_eq!(verdict, Verdict::Forged, "{packet:?}");
            let nothing = opened.content().iter().all(|byte| *byte == 0);
            assert!(nothing, "{packet:?}");
        } else {
            assert_eq!(verdict, Verdict::Authentic, "{packet:?}");
            let text = packet.text();
            assert_eq!(opened.content()[..text.len()], text, "{packet:?}");
        }
    }
}

fn seal_all(packets: &[Packet]) -> Vec<Guarded> {
    let keys: Vec<_> = packets
        .iter()
        .map(|packet| {
            let material = packet.key_material();
            SealingKey::new(packet.engines.0, packet.algorithm, &material).unwrap()
        })
        .collect();
    let sources: Vec<_> = packets
        .iter()
        .map(|packet| Guarded::holding(&packet.plaintext, packet.shifts.0))
        .collect();
    let mut sealed: Vec<_> = packets
        .iter()
        .map(|packet| {
            let length = packet.text().len() + packet.algorithm.icv_len();
            Guarded::new(length, packet.shifts.1)
        })
        .collect();
    let mut rooms: Vec<_> = packets
        .iter()
        .zip(&sources)
        .zip(&mut sealed)
        .map(|((packet, source), out)| {
            Room::new(packet.forms.0, packet, source.content(), out.room())
        })
        .collect();
    let mut jobs: Vec<_> = packets
        .iter()
        .zip(&keys)
        .zip(&mut rooms)
        .map(|((packet, key), room)| room.sealing_job(key, packet))
        .collect();
    seal_batch(&mut jobs);
    drop(jobs);
    sealed
}

fn open_all(packets: &[Packet], sealed: &[Guarded]) -> Vec<(Verdict, Guarded)> {
    let keys: Vec<_> = packets
        .iter()
        .map(|packet| {
            let material = packet.key_material();
            OpeningKey::new(packet.engines.1, packet.algorithm, &material).unwrap()
        })
        .collect();
    let arrived: Vec<_> = packets
        .iter()
        .zip(sealed)
        .map(|(packet, sealed)| {
            let sealed = sealed.content();
            let bytes = match packet.flip {
                Some(bit) => flipped(sealed, bit % (sealed.len() * 8)),
                None => sealed.to_vec(),
            };
            Guarded::holding(&bytes, packet.shifts.1)
        })
        .collect();
    let mut opened: Vec<_> = packets
        .iter()
        .zip(&arrived)
        .map(|(packet, arrived)| {
            let icv = match packet.forms.1 {
                Form::Apart | Form::Segments => packet.algorithm.icv_len(),
                Form::InPlace | Form::SegmentsInPlace => 0,
            };
            Guarded::new(arrived.content().len() - icv, packet.shifts.0)
        })
        .collect();
    let mut rooms: Vec<_> = packets
        .iter()
        .zip(&arrived)
        .zip(&mut opened)
        .map(|((packet, arrived), out)| {
            Room::new(packet.forms.1, packet, arrived.content(), out.room())
        })
        .collect();
    let mut jobs: Vec<_> = packets
        .iter()
        .zip(&keys)
        .zip(&mut rooms)
        .map(|((packet, key), room)| room.opening_job(key, packet))
        .collect();
    let mut verdicts = vec![Verdict::Authentic; packets.len()];
    open_batch(&mut jobs, &mut verdicts);
    drop(jobs);
    verdicts.into_iter().zip(opened).collect()
}
