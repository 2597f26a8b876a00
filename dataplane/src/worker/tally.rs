//! What a worker counts, kept in its own memory and added to the shared counters once a burst.

use esplanade_channel::{Counter, PortCounter};

/// The most ports that a mask of one word tells of.
const _: () = assert!(Counter::COUNT <= 128);

/// Counts since the last flush.
#[derive(Debug)]
pub struct Tally {
    counts: [u64; Counter::COUNT],
    /// The counters that are not zero.
    touched: u128,
    ports: Vec<[u64; PortCounter::COUNT]>,
}

impl Tally {
    /// Nothing counted, for this many ports.
    pub fn new(ports: usize) -> Self {
        Self {
            counts: [0; Counter::COUNT],
            touched: 0,
            ports: vec![[0; PortCounter::COUNT]; ports],
        }
    }

    /// Counts one.
    #[inline]
    pub fn one(&mut self, counter: Counter) {
        self.add(counter, 1);
    }

    /// Counts several.
    #[inline]
    pub fn add(&mut self, counter: Counter, amount: u64) {
        if let Some(count) = self.counts.get_mut(counter.index()) {
            *count += amount;
            self.touched |= 1 << counter.index();
        }
    }

    /// Counts on a port.
    #[inline]
    pub fn on_port(&mut self, port: u8, counter: PortCounter, amount: u64) {
        let counts = self.ports.get_mut(usize::from(port));
        if let Some(count) = counts.and_then(|counts| counts.get_mut(counter.index())) {
            *count += amount;
        }
    }

    /// Counts a packet of so many bytes that a port sent.
    #[inline(always)]
    pub fn sent(&mut self, port: u8, bytes: u64) {
        if let Some(counts) = self.ports.get_mut(usize::from(port)) {
            counts[PortCounter::TxPackets as usize] += 1;
            counts[PortCounter::TxBytes as usize] += bytes;
        }
    }

    /// Hands out what was counted, and forgets it.
    pub fn flush(
        &mut self,
        mut counter: impl FnMut(Counter, u64),
        mut port_counter: impl FnMut(u8, PortCounter, u64),
    ) {
        while self.touched != 0 {
            let index = self.touched.trailing_zeros() as usize;
            self.touched &= self.touched - 1;
            if let (Some(name), Some(count)) = (Counter::ALL.get(index), self.counts.get_mut(index))
            {
                counter(*name, std::mem::take(count));
            }
        }
        for (port, counts) in (0u8..).zip(&mut self.ports) {
            for (name, count) in PortCounter::ALL.iter().zip(counts) {
                if *count != 0 {
                    port_counter(port, *name, std::mem::take(count));
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_counted_is_handed_out_once() {
        let mut tally = Tally::new(2);
        tally.one(Counter::InNoStates);
        tally.add(Counter::OutBytes, 100);
        tally.add(Counter::OutBytes, 1);
        tally.on_port(1, PortCounter::TxPackets, 3);
        tally.on_port(7, PortCounter::TxPackets, 3);
        let mut seen = Vec::new();
        let mut on_ports = Vec::new();
        tally.flush(|c, n| seen.push((c, n)), |p, c, n| on_ports.push((p, c, n)));
        assert_eq!(seen, [(Counter::InNoStates, 1), (Counter::OutBytes, 101)]);
        assert_eq!(on_ports, [(1, PortCounter::TxPackets, 3)]);
        tally.flush(|_, _| panic!("again"), |_, _, _| panic!("again"));
    }
}
