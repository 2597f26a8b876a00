//! The one capture that may run: ordered from the workers, read from their rings for who asks, ended when nobody does.

use std::{
    collections::BTreeSet,
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

use esplanade_channel::{
    CaptureOrder, Captured, Command, ControlChannel, Counter, Heading, PolicyId,
};

use super::{gateway::Gateway, policies, report};
use crate::api::{Capture, CaptureLimits, CapturePort, CapturedPacket, Octets, Packets, Target};

/// A reader that has not asked for so long is gone.
const PATIENCE: Duration = Duration::from_secs(5);
/// The longest capture, in seconds.
pub(super) const LONGEST_S: u32 = 3600;
/// Octets of packets in one answer, after which it ends.
const AN_ANSWER: usize = 1 << 20;

/// A capture that runs.
#[derive(Debug)]
pub(super) struct Running {
    number: u64,
    /// When it began, by the dataplane's clock: what the rings have from before is not of it.
    began_ns: u64,
    /// What had been lost before it began.
    lost_before: u64,
    ends: Instant,
    asked: Instant,
}

impl Running {
    /// When it is given up, if nobody asks.
    pub(super) fn deadline(&self) -> Instant {
        self.asked + PATIENCE
    }
}

fn lost(channel: &ControlChannel) -> u64 {
    channel.counters().total(Counter::CaptureLost)
}

/// What has to be added to the dataplane's clock for the time of day, in nanoseconds.
fn clock_offset_ns() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH);
    let since = since.map_or(0, |since| since.as_nanos() as u64);
    since.saturating_sub(report::monotonic_ns())
}

fn packet(captured: Captured, offset_ns: u64) -> CapturedPacket {
    let seen = captured.sighting;
    CapturedPacket {
        time_ns: seen.at_ns.saturating_add(offset_ns),
        port: seen.port.0,
        inbound: seen.heading == Heading::In,
        dropped: seen.dropped.map(|reason| reason.name().to_owned()),
        length: seen.length,
        octets: Octets(captured.bytes),
    }
}

impl Gateway {
    /// Has the workers copy packets.
    ///
    /// # Errors
    ///
    /// In words for an operator.
    pub(super) fn start_capture(
        &mut self,
        target: Option<&Target>,
        limits: &CaptureLimits,
        now: Instant,
    ) -> Result<Capture, String> {
        if let Some(running) = &self.capture {
            let left = running.ends.saturating_duration_since(now).as_secs();
            return Err(format!(
                "a capture runs already, for {left} s more at most: end that one first (it ends by itself {} s after its reader does)",
                PATIENCE.as_secs()
            ));
        }
        let groups = target.map(|target| self.groups_of(target)).transpose()?;
        if !(1..=LONGEST_S).contains(&limits.seconds) {
            return Err(format!(
                "a capture lasts 1 to {LONGEST_S} s, not {} s",
                limits.seconds
            ));
        }
        let length = Duration::from_secs(limits.seconds.into());
        let order = CaptureOrder {
            until_ms: report::monotonic_ms() + length.as_millis() as u64,
            rate: limits.rate.max(1),
            snap: limits.snap.clamp(1, esplanade_channel::MAX_SNAP),
            drops_only: limits.drops_only,
            chosen: groups.is_some(),
        };
        let Some(dataplane) = &mut self.dataplane else {
            return Err("there is no dataplane to watch".to_owned());
        };
        let channel = dataplane.channel();
        let ports = channel.setup().ports.iter().map(|port| CapturePort {
            interface: port.interface.clone(),
            role: port.role.to_string(),
        });
        let ports = ports.collect();
        let lost_before = lost(channel);
        self.captures += 1;
        let number = self.captures;
        self.capture = Some(Running {
            number,
            began_ns: report::monotonic_ns(),
            lost_before,
            ends: now + length,
            asked: now,
        });
        let chosen = groups.into_iter().flatten();
        let chosen = chosen.map(|policy| Command::CaptureGroup { policy });
        let commands: Vec<Command> = std::iter::once(Command::StartCapture(order))
            .chain(chosen)
            .collect();
        self.tell_workers(&commands);
        Ok(Capture {
            capture: number,
            ports,
        })
    }

    /// The groups of policies of a tunnel or a child: what is configured, and what peers narrowed it to.
    fn groups_of(&self, target: &Target) -> Result<BTreeSet<PolicyId>, String> {
        let children = self.children_of(target)?;
        let meant = |name: &(String, String)| {
            policies::is_meant(&name.0, &target.tunnel) && children.contains(&name.1)
        };
        let configured = self.groups.iter().filter(|(_, name)| meant(name));
        let configured = configured.map(|(group, _)| PolicyId::first_of(*group));
        let installed = self.children.iter().filter(|pair| meant(&pair.name));
        Ok(configured
            .chain(installed.map(|pair| pair.policy))
            .collect())
    }

    /// The next packets.
    ///
    /// # Errors
    ///
    /// In words for an operator.
    pub(super) fn captured(&mut self, number: u64, now: Instant) -> Result<Packets, String> {
        let ended = || "this capture has ended".to_owned();
        let running = self.capture.as_mut().ok_or_else(ended)?;
        if running.number != number {
            return Err(ended());
        }
        running.asked = now;
        // What was copied up to the end is there by now, or in a round's time.
        let over = now > running.ends + Duration::from_millis(200);
        let Some(dataplane) = &mut self.dataplane else {
            self.capture = None;
            return Err("this capture has ended: the dataplane went away".to_owned());
        };
        let (channel, offset_ns) = (dataplane.channel(), clock_offset_ns());
        let mut answer = Packets::default();
        let mut octets = 0;
        while octets < AN_ANSWER
            && let Some(captured) = channel.next_packet()
        {
            if captured.sighting.at_ns + 1_000_000 >= running.began_ns {
                octets += captured.bytes.len() + 64;
                answer.packets.push(packet(captured, offset_ns));
            }
        }
        answer.lost = lost(channel).wrapping_sub(running.lost_before);
        answer.more = !over || octets >= AN_ANSWER;
        if !answer.more {
            self.end_capture();
        }
        Ok(answer)
    }

    /// Ends a capture at its reader's wish.
    ///
    /// # Errors
    ///
    /// In words for an operator.
    pub(super) fn stop_capture(&mut self, number: u64) -> Result<String, String> {
        if self
            .capture
            .as_ref()
            .is_none_or(|running| running.number != number)
        {
            return Err("this capture has ended".to_owned());
        }
        self.end_capture();
        Ok("the capture has ended".to_owned())
    }

    /// Ends a capture whose reader is gone.
    pub(super) fn look_after_capture(&mut self, now: Instant) {
        if self
            .capture
            .as_ref()
            .is_some_and(|running| running.deadline() <= now)
        {
            self.end_capture();
        }
    }

    /// Has the workers copy no more, and wipes what they have copied.
    fn end_capture(&mut self) {
        self.capture = None;
        self.tell_workers(&[Command::StopCapture]);
        if let Some(dataplane) = &mut self.dataplane {
            while dataplane.channel().next_packet().is_some() {}
        }
    }
}
