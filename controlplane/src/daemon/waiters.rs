//! Operators who wait for an outcome: what each waits for, and which events bring it about.

use std::{
    collections::BTreeSet,
    time::{Duration, Instant},
};

use esplanade_ike::{CloseReason, Event, Refusal, RemovalReason, Subject};
use tokio::sync::oneshot;

use crate::api::{Report, Response};

/// Operators that may wait at once.
const MAX_WAITERS: usize = 256;

/// What an operator waits for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Goal {
    /// These children of a peer are up.
    Up {
        peer: String,
        children: BTreeSet<String>,
    },
    /// These child SAs, by inbound SPI, are gone, and the IKE SA too if `ike`.
    Down {
        peer: String,
        inbound: BTreeSet<u32>,
        ike: bool,
    },
    /// The IKE SA has fresh keys.
    FreshIke { peer: String },
    /// Each of these child SAs, by inbound SPI, has a successor.
    FreshChildren {
        peer: String,
        inbound: BTreeSet<u32>,
    },
}

/// What an event means for a goal.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Verdict {
    Pending,
    Reached,
    Failed(String),
}

impl Goal {
    /// Takes note of an event.
    fn observe(&mut self, event: &Event) -> Verdict {
        if let Some(why) = self.failure(event) {
            return Verdict::Failed(why);
        }
        let reached = match self {
            Self::Up { peer, children } => {
                if let Event::ChildInstalled(sa) = event
                    && sa.peer == *peer
                {
                    children.remove(&sa.child);
                }
                children.is_empty()
            }
            Self::Down { peer, inbound, ike } => {
                match event {
                    Event::ChildRemoved { inbound: gone, .. } => {
                        inbound.remove(gone);
                    }
                    Event::IkeClosed { peer: closed, .. } if closed == peer => *ike = false,
                    _ => {}
                }
                inbound.is_empty() && !*ike
            }
            Self::FreshIke { peer } => {
                matches!(event, Event::IkeEstablished { peer: of, rekeyed: true, .. } if of == peer)
            }
            Self::FreshChildren { inbound, .. } => {
                if let Event::ChildInstalled(sa) = event
                    && let Some(replaced) = sa.replaces
                {
                    inbound.remove(&replaced);
                }
                inbound.is_empty()
            }
        };
        if reached {
            Verdict::Reached
        } else {
            Verdict::Pending
        }
    }

    /// Why this event rules the goal out, if it does.
    fn failure(&self, event: &Event) -> Option<String> {
        let (Self::Up { peer, .. }
        | Self::Down { peer, .. }
        | Self::FreshIke { peer }
        | Self::FreshChildren { peer, .. }) = self;
        match (self, event) {
            (Self::Down { .. }, _) => None,
            (Self::Up { children, .. }, Event::Refused { reason, .. })
                if child_of(reason).is_some_and(|child| !children.contains(child)) =>
            {
                None
            }
            (
                _,
                Event::Refused {
                    peer: Some(of),
                    reason,
                    ..
                },
            ) if of == peer => Some(reason.to_string()),
            (_, Event::IkeClosed { peer: of, reason }) if of == peer => match reason {
                CloseReason::Rekeyed
                | CloseReason::Redundant
                | CloseReason::Supplanted
                | CloseReason::Displaced
                | CloseReason::Refused => None,
                _ => Some(format!("the IKE SA is gone: {reason}")),
            },
            (
                Self::FreshChildren { inbound, .. },
                Event::ChildRemoved {
                    inbound: of,
                    reason,
                    ..
                },
            ) => {
                let lost = inbound.contains(of)
                    && !matches!(reason, RemovalReason::Replaced | RemovalReason::Redundant);
                lost.then(|| format!("the child SA is gone: {reason}"))
            }
            _ => None,
        }
    }
}

/// The child that a refusal is about, if it is about one.
fn child_of(reason: &Refusal) -> Option<&String> {
    match reason {
        Refusal::ProposalMismatch { subject, .. }
        | Refusal::ProposalRefused { subject, .. }
        | Refusal::ProposalNotOurs { subject, .. }
        | Refusal::PeerError { subject, .. } => match subject {
            Subject::Child(child) => Some(child),
            _ => None,
        },
        Refusal::SelectorsRefused { child, .. } | Refusal::SelectorsWidened { child } => {
            Some(child)
        }
        _ => None,
    }
}

#[derive(Debug)]
struct Waiter {
    goal: Goal,
    /// What to say on success.
    done: String,
    started: Instant,
    deadline: Instant,
    reply: oneshot::Sender<Response>,
}

/// Everybody who waits.
#[derive(Debug, Default)]
pub(super) struct Waiters(Vec<Waiter>);

impl Waiters {
    /// Has somebody wait until `goal` is reached or `limit` is over. `done` is what is said on success.
    pub(super) fn add(
        &mut self,
        goal: Goal,
        done: String,
        now: Instant,
        limit: Duration,
        reply: oneshot::Sender<Response>,
    ) {
        if self.0.len() >= MAX_WAITERS {
            let why = format!(
                "{MAX_WAITERS} commands wait for their outcome already; this one goes on unwatched"
            );
            let _ = reply.send(Response::Error(why));
            return;
        }
        let deadline = now + limit;
        self.0.push(Waiter {
            goal,
            done,
            started: now,
            deadline,
            reply,
        });
    }

    /// Answers those whose outcome this event brings.
    pub(super) fn observe(&mut self, event: &Event) {
        self.settle(|waiter| match waiter.goal.observe(event) {
            Verdict::Pending => None,
            Verdict::Reached => Some(Response::Ok(Report::Done(waiter.done.clone()))),
            Verdict::Failed(why) => Some(Response::Error(why)),
        });
    }

    /// Answers those who waited long enough.
    pub(super) fn expire(&mut self, now: Instant) {
        self.settle(|waiter| {
            (now >= waiter.deadline).then(|| {
                let waited = waiter
                    .deadline
                    .saturating_duration_since(waiter.started)
                    .as_secs();
                Response::Error(format!(
                    "no outcome within {waited} s; the negotiation goes on, see `esplanade status`"
                ))
            })
        });
    }

    /// When [`Waiters::expire`] is to be called next.
    pub(super) fn deadline(&self) -> Option<Instant> {
        self.0.iter().map(|waiter| waiter.deadline).min()
    }

    fn settle(&mut self, mut outcome: impl FnMut(&mut Waiter) -> Option<Response>) {
        let mut at = 0;
        while let Some(waiter) = self.0.get_mut(at) {
            if let Some(response) = outcome(waiter) {
                // A client that has gone away meanwhile loses nothing.
                let _ = self.0.swap_remove(at).reply.send(response);
            } else {
                at += 1;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn wait_for(goal: Goal) -> (Waiters, oneshot::Receiver<Response>, Instant) {
        let (reply, outcome) = oneshot::channel();
        let now = Instant::now();
        let mut waiters = Waiters::default();
        waiters.add(goal, "done".into(), now, Duration::from_secs(5), reply);
        (waiters, outcome, now)
    }

    fn removed(inbound: u32, reason: RemovalReason) -> Event {
        Event::ChildRemoved {
            peer: "b".into(),
            child: "lan".into(),
            inbound,
            reason,
        }
    }

    fn closed(reason: CloseReason) -> Event {
        Event::IkeClosed {
            peer: "b".into(),
            reason,
        }
    }

    #[test]
    fn a_termination_needs_every_sa_gone() {
        let (mut waiters, mut outcome, _) = wait_for(Goal::Down {
            peer: "b".into(),
            inbound: [1, 2].into(),
            ike: true,
        });
        waiters.observe(&removed(1, RemovalReason::Terminated));
        waiters.observe(&closed(CloseReason::Terminated));
        assert!(outcome.try_recv().is_err());
        waiters.observe(&removed(2, RemovalReason::Terminated));
        assert_eq!(
            outcome.try_recv().unwrap(),
            Response::Ok(Report::Done("done".into()))
        );
    }

    #[test]
    fn a_refusal_reaches_the_operator_in_its_own_words() {
        let (mut waiters, mut outcome, _) = wait_for(Goal::Up {
            peer: "b".into(),
            children: ["lan".to_owned()].into(),
        });
        waiters.observe(&Event::Refused {
            peer: Some("b".into()),
            remote: "192.0.2.2:500".parse().unwrap(),
            reason: esplanade_ike::Refusal::NoSpi,
        });
        let Response::Error(why) = outcome.try_recv().unwrap() else {
            panic!()
        };
        assert_eq!(why, esplanade_ike::Refusal::NoSpi.to_string());
    }

    #[test]
    fn the_refusal_of_another_child_is_not_ours() {
        let (mut waiters, mut outcome, _) = wait_for(Goal::Up {
            peer: "b".into(),
            children: ["lan".to_owned()].into(),
        });
        let refused = |child: &str| Event::Refused {
            peer: Some("b".into()),
            remote: "192.0.2.2:500".parse().unwrap(),
            reason: Refusal::SelectorsWidened {
                child: child.to_owned(),
            },
        };
        waiters.observe(&refused("voice"));
        assert!(outcome.try_recv().is_err());
        waiters.observe(&refused("lan"));
        assert!(matches!(outcome.try_recv().unwrap(), Response::Error(_)));
    }

    #[test]
    fn a_rekey_survives_the_end_of_the_old_sa_but_not_its_loss() {
        let goal = Goal::FreshChildren {
            peer: "b".into(),
            inbound: [7].into(),
        };
        let (mut waiters, mut outcome, _) = wait_for(goal.clone());
        waiters.observe(&closed(CloseReason::Rekeyed));
        waiters.observe(&removed(7, RemovalReason::Replaced));
        assert!(outcome.try_recv().is_err());
        let (mut waiters, mut outcome, _) = wait_for(goal);
        waiters.observe(&removed(7, RemovalReason::DeletedByPeer));
        assert!(matches!(outcome.try_recv().unwrap(), Response::Error(_)));
    }

    #[test]
    fn nobody_waits_for_ever() {
        let (mut waiters, mut outcome, now) = wait_for(Goal::FreshIke { peer: "b".into() });
        let deadline = waiters.deadline().unwrap();
        assert_eq!(deadline, now + Duration::from_secs(5));
        waiters.expire(deadline);
        let Response::Error(why) = outcome.try_recv().unwrap() else {
            panic!()
        };
        assert!(why.starts_with("no outcome within 5 s"), "{why}");
        assert_eq!(waiters.deadline(), None);
    }
}
