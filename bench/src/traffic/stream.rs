//! A steady stream of numbered datagrams from one host to another, through the hosts' own kernels:
//! slow, and exact about what was lost and how long the longest silence was.

use std::io::ErrorKind;
use std::net::{Ipv4Addr, UdpSocket};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};

use crate::testbed::Namespace;

const PORT: u16 = 40_000;

/// How long a datagram may be on its way after the last was sent.
const STRAGGLERS: Duration = Duration::from_millis(500);

/// What became of a stream.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Outcome {
    /// Datagrams sent.
    pub sent: u64,
    /// Datagrams received, each counted once.
    pub received: u64,
    /// Datagrams that came a second time.
    pub repeated: u64,
    /// Datagrams that came after a later one.
    pub reordered: u64,
    /// The longest time without a datagram between the first and the last.
    pub longest_silence: Duration,
}

impl Outcome {
    /// Datagrams that never came.
    pub fn lost(&self) -> u64 {
        self.sent - self.received
    }
}

/// A stream under way.
#[derive(Debug)]
pub struct Stream {
    stop: Arc<AtomicBool>,
    sender: JoinHandle<Result<u64>>,
    receiver: JoinHandle<Result<Arrivals>>,
}

#[derive(Debug, Default)]
struct Arrivals {
    seen: Vec<bool>,
    received: u64,
    repeated: u64,
    reordered: u64,
    next: u64,
    longest_silence: Duration,
}

impl Stream {
    /// Starts sending `rate` datagrams of `length` bytes a second.
    pub fn start(
        from: &Namespace,
        to: (&Namespace, Ipv4Addr),
        rate: u32,
        length: usize,
    ) -> Result<Self> {
        let (to, address) = to;
        let sink = to.enter(|| Ok(UdpSocket::bind((Ipv4Addr::UNSPECIFIED, PORT))?))?;
        let source = from.enter(|| Ok(UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0))?))?;
        source
            .connect((address, PORT))
            .context("no route to the other host")?;
        sink.set_read_timeout(Some(Duration::from_millis(20)))?;
        let stop = Arc::new(AtomicBool::new(false));
        let finished = Arc::new(AtomicBool::new(false));
        let receiver = std::thread::spawn({
            let finished = finished.clone();
            move || receive(&sink, &finished)
        });
        let sender = std::thread::spawn({
            let stop = stop.clone();
            move || {
                let sent = send(&source, rate, length.max(8), &stop);
                std::thread::sleep(STRAGGLERS);
                finished.store(true, Ordering::Relaxed);
                sent
            }
        });
        Ok(Self {
            stop,
            sender,
            receiver,
        })
    }

    /// Stops sending, waits for the stragglers and says what became of it all.
    pub fn stop(self) -> Result<Outcome> {
        self.stop.store(true, Ordering::Relaxed);
        let sent = joined(self.sender)?;
        let arrivals = joined(self.receiver)?;
        Ok(Outcome {
            sent,
            received: arrivals.received,
            repeated: arrivals.repeated,
            reordered: arrivals.reordered,
            longest_silence: arrivals.longest_silence,
        })
    }
}

fn joined<T>(thread: JoinHandle<Result<T>>) -> Result<T> {
    thread
        .join()
        .unwrap_or_else(|panic| std::panic::resume_unwind(panic))
}

fn send(source: &UdpSocket, rate: u32, length: usize, stop: &AtomicBool) -> Result<u64> {
    let start = Instant::now();
    let mut datagram = vec![0; length];
    let mut sent = 0;
    while !stop.load(Ordering::Relaxed) {
        let due = (start.elapsed().as_secs_f64() * f64::from(rate)) as u64;
        while sent < due {
            datagram[..8].copy_from_slice(&u64::to_be_bytes(sent));
            match source.send(&datagram) {
                Ok(_) => {}
                // The kernel reports on this send what an ICMP error said of an earlier one. The
                // datagram is counted as sent: the stream's receiver knows what came.
                Err(error) if is_about_the_path(&error) => {}
                Err(error) => return Err(error).context("cannot send"),
            }
            sent += 1;
        }
        std::thread::sleep(Duration::from_micros(500));
    }
    Ok(sent)
}

fn is_about_the_path(error: &std::io::Error) -> bool {
    matches!(
        error.kind(),
        ErrorKind::ConnectionRefused
            | ErrorKind::HostUnreachable
            | ErrorKind::NetworkUnreachable
            | ErrorKind::PermissionDenied
            | ErrorKind::WouldBlock
    )
}

fn receive(sink: &UdpSocket, finished: &AtomicBool) -> Result<Arrivals> {
    let mut arrivals = Arrivals::default();
    let mut datagram = [0; 65_536];
    let mut last: Option<Instant> = None;
    while !finished.load(Ordering::Relaxed) {
        let number = match sink.recv(&mut datagram) {
            Ok(length) if length >= 8 => {
                let mut number = [0; 8];
                number.copy_from_slice(&datagram[..8]);
                u64::from_be_bytes(number)
            }
            Ok(_) => continue,
            Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => {
                continue;
            }
            Err(error) => return Err(error).context("cannot receive"),
        };
        let now = Instant::now();
        let silence = last.map_or(Duration::ZERO, |last| now - last);
        arrivals.longest_silence = arrivals.longest_silence.max(silence);
        last = Some(now);
        arrivals.note(number);
    }
    Ok(arrivals)
}

impl Arrivals {
    fn note(&mut self, number: u64) {
        let Ok(index) = usize::try_from(number) else {
            return;
        };
        if self.seen.len() <= index {
            self.seen.resize(index + 1, false);
        }
        if std::mem::replace(&mut self.seen[index], true) {
            self.repeated += 1;
            return;
        }
        self.received += 1;
        if number < self.next {
            self.reordered += 1;
        } else {
            self.next = number + 1;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn arrivals_know_loss_order_and_repetition() {
        let mut arrivals = Arrivals::default();
        for number in [0, 1, 3, 2, 3, 6] {
            arrivals.note(number);
        }
        assert_eq!(
            (arrivals.received, arrivals.repeated, arrivals.reordered),
            (5, 1, 1)
        );
    }
}
