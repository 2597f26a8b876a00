//! The two ends of a measurement in the manner of RFC 2544: a generator that sends marked frames at a
//! rate, and a receiver that tells from the marks what was lost, what came out of order, and how long
//! each took. Both poll their AF_XDP ports, and may share a thread.

use std::net::Ipv4Addr;
use std::time::Duration;

use anyhow::{Context, Result};
use arrayvec::ArrayVec;
use esplanade_bpf::{Prefix, Role, Steering};
use esplanade_dataplane::port::{BURST, Losses, Port, RxFrame};
use hdrhistogram::Histogram;
use rustix::time::{ClockId, clock_gettime};

use super::frame::{Mark, Template, mark_of_frame};

/// How long what was sent may be on its way.
const STRAGGLERS: Duration = Duration::from_millis(200);

/// The longest latency that is told apart from longer ones: a minute.
const LONGEST_LATENCY: u64 = 60_000_000_000;

/// The monotonic clock in nanoseconds, the same in all processes.
#[inline]
pub fn now() -> u64 {
    let now = clock_gettime(ClockId::Monotonic);
    (now.tv_sec as u64) * 1_000_000_000 + now.tv_nsec as u64
}

/// Sends marked frames through a port.
#[derive(Debug)]
pub struct Generator<P> {
    port: P,
    template: Template,
    sent: u64,
}

impl<P: Port> Generator<P> {
    /// A generator that has sent nothing yet.
    pub fn new(port: P, template: Template) -> Self {
        Self {
            port,
            template,
            sent: 0,
        }
    }

    /// Sends frames of another make from now on, numbered from 0 again.
    pub fn set_template(&mut self, template: Template) {
        self.template = template;
        self.sent = 0;
    }

    /// How many frames were handed to the kernel.
    pub fn sent(&self) -> u64 {
        self.sent
    }

    /// Sends up to `count` frames, at most a burst, and returns how many the port took.
    #[inline]
    pub fn send(&mut self, count: u64) -> u64 {
        let left = now();
        let mut taken = 0;
        while taken < count.min(BURST as u64) {
            let Some(mut frame) = self.port.allocate() else {
                break;
            };
            let mark = Mark {
                number: self.sent,
                left,
            };
            let Some(length) = self.template.write(&mut frame, mark) else {
                self.port.discard(frame);
                break;
            };
            frame.set_len(length);
            if let Err(frame) = self.port.transmit(frame) {
                self.port.discard(frame);
                break;
            }
            self.sent += 1;
            taken += 1;
        }
        self.port.flush();
        taken
    }
}

/// What a receiver makes of a frame.
pub trait Reader {
    /// Whether the frame is one to be counted, and its mark if it is to be looked at.
    fn read(&mut self, frame: &[u8]) -> Reading;
}

/// See [`Reader::read`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reading {
    /// Not of the traffic that is measured.
    Foreign,
    /// Of it, and that is all that was looked at.
    Counted,
    /// Of it, with its mark.
    Marked(Mark),
}

/// Reads the marks of frames that come as they were sent.
#[derive(Debug, Clone, Copy)]
pub struct Plain;

impl Reader for Plain {
    #[inline]
    fn read(&mut self, frame: &[u8]) -> Reading {
        mark_of_frame(frame).map_or(Reading::Foreign, Reading::Marked)
    }
}

/// What has arrived.
#[derive(Debug, Clone)]
pub struct Tally {
    /// Frames of the measured traffic.
    pub packets: u64,
    /// Their bytes.
    pub bytes: u64,
    /// Frames that came after a later one, of those whose mark was read.
    pub reordered: u64,
    /// Frames of other traffic.
    pub foreign: u64,
    /// Arrival of the first and of the last, in nanoseconds of the monotonic clock.
    pub span: Option<(u64, u64)>,
    /// Nanoseconds on the way, of those whose mark was read.
    pub latency: Histogram<u64>,
    next: u64,
}

impl Tally {
    fn new() -> Result<Self> {
        Ok(Self {
            packets: 0,
            bytes: 0,
            reordered: 0,
            foreign: 0,
            span: None,
            latency: Histogram::new_with_bounds(1, LONGEST_LATENCY, 3)
                .context("a histogram of latencies")?,
            next: 0,
        })
    }

    #[inline]
    fn note(&mut self, reading: Reading, length: usize, arrived: u64) {
        match reading {
            Reading::Foreign => {
                self.foreign += 1;
                return;
            }
            Reading::Counted => {}
            Reading::Marked(mark) => {
                if mark.number < self.next {
                    self.reordered += 1;
                } else {
                    self.next = mark.number + 1;
                }
                self.latency
                    .saturating_record(arrived.saturating_sub(mark.left).max(1));
            }
        }
        self.packets += 1;
        self.bytes += length as u64;
        let first = self.span.map_or(arrived, |(first, _)| first);
        self.span = Some((first, arrived));
    }

    /// Marked frames up to the last that came that did not come themselves.
    pub fn missing(&self) -> u64 {
        self.next.saturating_sub(self.packets)
    }

    /// Packets a second, in millions, over the time in which they arrived.
    pub fn mpps(&self) -> f64 {
        match self.span {
            Some((first, last)) if last > first => {
                self.packets as f64 * 1e3 / (last - first) as f64
            }
            _ => 0.0,
        }
    }

    /// A percentile of the latency, in microseconds.
    pub fn latency_us(&self, percentile: f64) -> f64 {
        self.latency.value_at_quantile(percentile / 100.0) as f64 / 1e3
    }
}

/// Takes frames from a port and tallies them.
#[derive(Debug)]
pub struct Receiver<P, R> {
    port: P,
    reader: R,
    tally: Tally,
}

impl<P: Port, R: Reader> Receiver<P, R> {
    /// A receiver that has seen nothing yet.
    pub fn new(port: P, reader: R) -> Result<Self> {
        Ok(Self {
            port,
            reader,
            tally: Tally::new()?,
        })
    }

    /// Takes what is there, at most a burst, and returns how much it was.
    #[inline]
    pub fn receive(&mut self) -> usize {
        let mut burst = ArrayVec::<RxFrame, BURST>::new();
        self.port.receive(&mut burst);
        if burst.is_empty() {
            return 0;
        }
        let arrived = now();
        for frame in &burst {
            let reading = self.reader.read(frame);
            self.tally.note(reading, frame.len(), arrived);
        }
        let count = burst.len();
        self.port.release(burst);
        count
    }

    /// What has arrived so far.
    pub fn tally(&self) -> &Tally {
        &self.tally
    }

    /// What was read with, to be asked what it saw or told what to expect.
    pub fn reader(&mut self) -> &mut R {
        &mut self.reader
    }

    /// What has arrived so far; counts from nothing again.
    pub fn take(&mut self) -> Result<Tally> {
        Ok(std::mem::replace(&mut self.tally, Tally::new()?))
    }

    /// What the kernel dropped in front of this receiver since it was opened.
    pub fn losses(&self) -> Losses {
        self.port.losses()
    }
}

/// How much to send, and how fast.
#[derive(Debug, Clone, Copy)]
pub struct Load {
    /// Packets a second; `None` sends as fast as the port takes them.
    pub rate: Option<f64>,
    /// For how long.
    pub duration: Duration,
}

/// Sends a load and receives what comes of it, both on this thread. `between` is called every
/// now and then, some ten thousand times a second, with the time since the start.
pub fn run<P: Port, Q: Port, R: Reader>(
    generator: &mut Generator<P>,
    receiver: &mut Receiver<Q, R>,
    load: Load,
    mut between: impl FnMut(Duration, &mut R),
) -> Result<(u64, Tally)> {
    // What an earlier load left on its way is not of this one.
    drain(receiver);
    receiver.take()?;
    let first = generator.sent();
    let start = now();
    let mut rounds = 0_u64;
    loop {
        let elapsed = now() - start;
        if elapsed >= load.duration.as_nanos() as u64 {
            break;
        }
        let due = match load.rate {
            None => BURST as u64,
            Some(rate) => {
                let due = (elapsed as f64 / 1e9 * rate) as u64;
                due.saturating_sub(generator.sent() - first)
            }
        };
        if due > 0 {
            generator.send(due);
        }
        // As much as a worker may have sent meanwhile, and no more, so that sending goes on.
        for _ in 0..2 {
            if receiver.receive() < BURST {
                break;
            }
        }
        rounds += 1;
        if rounds.is_multiple_of(16) {
            between(Duration::from_nanos(elapsed), receiver.reader());
        }
    }
    drain(receiver);
    Ok((generator.sent() - first, receiver.take()?))
}

/// Receives until nothing has come for a while.
pub fn drain<P: Port, R: Reader>(receiver: &mut Receiver<P, R>) {
    let mut last = now();
    while now() - last < STRAGGLERS.as_nanos() as u64 {
        if receiver.receive() > 0 {
            last = now();
        }
    }
}

/// What is to be received on an interface: plain packets from one prefix to another, and ESP to an
/// address.
#[derive(Debug, Clone, Copy)]
pub struct Wanted {
    /// Where plain packets come from.
    pub from: Prefix,
    /// Where plain packets go to.
    pub to: Prefix,
    /// Where ESP goes to.
    pub esp_to: Option<Ipv4Addr>,
}

/// Steers what is wanted on an interface to a socket, for as long as the result lives. All else
/// stays with the kernel.
pub fn steer(
    interface: &esplanade_dataplane::port::Interface,
    socket: std::os::fd::BorrowedFd<'_>,
    wanted: Wanted,
) -> Result<Steering> {
    let mut steering = Steering::load()?;
    steering.set_socket(0, 0, socket)?;
    steering.add_protected(wanted.from, wanted.to)?;
    if let Some(address) = wanted.esp_to {
        steering.add_local(address)?;
    }
    steering.attach(interface.index, &interface.name, 0, Role::Inside)?;
    Ok(steering)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn marked(number: u64) -> Reading {
        Reading::Marked(Mark {
            number,
            left: 1_000,
        })
    }

    #[test]
    fn a_tally_knows_rate_order_and_latency() {
        let mut tally = Tally::new().expect("a tally");
        tally.note(marked(0), 100, 2_000);
        tally.note(marked(2), 100, 3_000);
        tally.note(marked(1), 100, 4_000);
        tally.note(Reading::Counted, 100, 5_000);
        tally.note(Reading::Foreign, 100, 9_000);
        assert_eq!(
            (tally.packets, tally.bytes, tally.reordered, tally.foreign),
            (4, 400, 1, 1)
        );
        assert_eq!(tally.span, Some((2_000, 5_000)));
        assert!((tally.mpps() - 4.0 / 3.0).abs() < 0.01, "{}", tally.mpps());
        assert!(
            (tally.latency_us(50.0) - 2.0).abs() < 0.01,
            "{}",
            tally.latency_us(50.0)
        );
    }
}
