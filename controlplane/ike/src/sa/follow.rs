//! Peers that their NAT moves to another address or port (RFC 7296 2.23).

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use super::IkeSa;
use crate::children::ChildState;
use crate::event::{Event, Path};
use crate::gateway::Gateway;

/// A child SA younger than this is not rekeyed because its peer has moved: a NAT that gives each
/// message another port would have us rekey without end.
const MOVE_PAUSE: Duration = Duration::from_secs(10);

impl IkeSa {
    /// RFC 7296 2.23: a host "that is not behind a NAT, SHOULD send all packets (including
    /// retransmission packets) to the IP address and port in the validated packet". Only fresh
    /// messages come here, as it asks for: "dynamic address update should only be done in response
    /// to a new packet; otherwise, an attacker can revert the addresses with old replayed packets."
    ///
    /// Child SAs in tunnel mode go with it. Transport mode has the addresses in its selectors, so it
    /// follows by a rekey, which is made to the new address.
    pub(super) fn follow(&mut self, gw: &mut Gateway, now: Instant, path: Path) {
        if !self.nat.theirs_alone() || path == self.path {
            return;
        }
        let same_end = path.local == self.path.local;
        self.path = path;
        gw.note_standing(self);
        self.hasten(gw, now);
        let mut moved = Vec::new();
        for inbound in gw.children.of_owner(self.key) {
            gw.children.update(inbound, |child| {
                if child.state != ChildState::Live {
                    // What it still gets by the old way is late, and no news.
                } else if same_end && child.move_to(path.remote) {
                    moved.push(inbound);
                } else {
                    let at = now.max(child.installed + MOVE_PAUSE);
                    child.rekey_at = Some(child.rekey_at.map_or(at, |before| before.min(at)));
                }
            });
        }
        let Some(peer) = self.peer_name().filter(|_| self.established.is_some()) else {
            return;
        };
        if let Some(mut peer) = gw.peers.get_mut(peer) {
            peer.last_remote = Some(path.remote);
        }
        gw.events.push_back(Event::PeerMoved {
            peer: peer.to_owned(),
            remote: path.remote,
            children: moved,
        });
    }

    /// An authentic packet of a child SA, newer than all before it, came from here.
    pub(crate) fn heard_from(&mut self, gw: &mut Gateway, now: Instant, remote: SocketAddr) {
        if self.established.is_some() && !self.is_over() {
            let local = self.path.local;
            self.follow(gw, now, Path { local, remote });
        }
    }
}
