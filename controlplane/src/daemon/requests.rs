//! What an operator asks of the gateway, turned into commands for the endpoint and goals to wait for.

use std::{
    collections::BTreeSet,
    path::Path,
    time::{Duration, Instant},
};

use esplanade_config as config;
use esplanade_ike::ChildSaView;
use tokio::sync::oneshot;
use tracing::{info, warn};

use super::{gateway::Gateway, intent, policies, protected::guarded, report, waiters::Goal};
use crate::{
    api::{Layer, Reloaded, Report, Request, Response, Target},
    configuration,
};

/// The longest that an operator may wait.
const LONGEST_WAIT: Duration = Duration::from_secs(3600);

impl Gateway {
    /// Answers a request, or has its sender wait for an outcome.
    pub(super) async fn on_request(&mut self, request: Request, reply: oneshot::Sender<Response>) {
        let now = Instant::now();
        let response = match request {
            Request::Status => {
                Response::Ok(Report::Status(Box::new(report::status(self, now).await)))
            }
            Request::Sas => Response::Ok(Report::Sas(report::sas(self))),
            Request::Leases => Response::Ok(Report::Leases(report::leases(self, now))),
            Request::ReleaseLease { address } => {
                let released = self.endpoint.release_lease(address);
                let done = released.map(|()| format!("{address} is free"));
                answer(done.map_err(|error| error.to_string()), Report::Done)
            }
            Request::Counters { all } => {
                let mut rows = report::counters(self);
                rows.retain(|row| all || row.value != 0);
                Response::Ok(Report::Counters(rows))
            }
            Request::Explain { target } => {
                answer(self.explain(&target, now).await, Report::Explained)
            }
            Request::Reload => answer(self.reload().await, Report::Reloaded),
            Request::Capture { target, limits } => answer(
                self.start_capture(target.as_ref(), &limits, now),
                Report::Capture,
            ),
            Request::Captured { capture } => answer(self.captured(capture, now), Report::Packets),
            Request::EndCapture { capture } => answer(self.stop_capture(capture), Report::Done),
            Request::Initiate { target, timeout_ms } => {
                let outcome = self.initiate(&target, now);
                return self.answer_later(outcome, timeout_ms, now, reply);
            }
            Request::Terminate { target, timeout_ms } => {
                let outcome = self.terminate(&target, now);
                return self.answer_later(outcome, timeout_ms, now, reply);
            }
            Request::Rekey {
                target,
                layer,
                timeout_ms,
            } => {
                let outcome = match layer {
                    Layer::Ike => self.rekey_ike(&target, now),
                    Layer::Child => self.rekey_children(&target, now),
                };
                return self.answer_later(outcome, timeout_ms, now, reply);
            }
        };
        // A client that has gone away meanwhile loses nothing.
        let _ = reply.send(response);
    }

    fn answer_later(
        &mut self,
        outcome: Result<Begun, String>,
        timeout_ms: u64,
        now: Instant,
        reply: oneshot::Sender<Response>,
    ) {
        match outcome {
            Ok(Begun::Waits { goal, done }) => {
                let limit = Duration::from_millis(timeout_ms).min(LONGEST_WAIT);
                self.waiters.add(goal, done, now, limit, reply);
            }
            Ok(Begun::Done(what)) => {
                let _ = reply.send(Response::Ok(Report::Done(what)));
            }
            Err(why) => {
                let _ = reply.send(Response::Error(why));
            }
        }
    }

    /// The tunnel's children that a target means.
    pub(super) fn children_of(&self, target: &Target) -> Result<BTreeSet<String>, String> {
        let name = policies::tunnel_of(&target.tunnel);
        let known = |tunnel: &&config::Tunnel| tunnel.name == name;
        let tunnel = self.config.tunnels.iter().find(known).ok_or_else(|| {
            let names: Vec<&str> = self
                .config
                .tunnels
                .iter()
                .map(|tunnel| tunnel.name.as_str())
                .collect();
            format!(
                "no tunnel is called `{}`; configured are: {}",
                target.tunnel,
                names.join(", ")
            )
        })?;
        if name != target.tunnel && self.endpoint.identity_of(&target.tunnel).is_none() {
            return Err(format!(
                "nobody is connected as `{}`; `esplanade status` shows who is",
                target.tunnel
            ));
        }
        let all: BTreeSet<String> = tunnel
            .children
            .iter()
            .map(|child| child.name.clone())
            .collect();
        match &target.child {
            None => Ok(all),
            Some(child) if all.contains(child) => Ok([child.clone()].into()),
            Some(child) => Err(format!(
                "tunnel `{}` has no child called `{child}`; it has: {}",
                tunnel.name,
                all.into_iter().collect::<Vec<_>>().join(", ")
            )),
        }
    }

    fn initiate(&mut self, target: &Target, now: Instant) -> Result<Begun, String> {
        let mut children = self.children_of(target)?;
        self.taken_down
            .retain(|(tunnel, child)| *tunnel != target.tunnel || !children.contains(child));
        if self.dataplane.is_none() {
            let why = self
                .dataplane_trouble
                .as_deref()
                .unwrap_or("it is not connected");
            return Err(format!("there is no dataplane to carry the traffic: {why}"));
        }
        children.retain(|child| !self.is_up(&target.tunnel, child));
        if children.is_empty() {
            return Ok(Begun::Done(format!("{target} is up already")));
        }
        let child = target.child.as_deref();
        self.endpoint
            .initiate(now, &target.tunnel, child)
            .map_err(|error| error.to_string())?;
        let peer = target.tunnel.clone();
        let done = format!("{target} is up");
        Ok(Begun::Waits {
            goal: Goal::Up { peer, children },
            done,
        })
    }

    fn terminate(&mut self, target: &Target, now: Instant) -> Result<Begun, String> {
        let children = self.children_of(target)?;
        let sas = self.child_sas(target);
        let established = self
            .endpoint
            .ike_sas()
            .any(|sa| sa.peer.as_deref() == Some(&target.tunnel));
        let child = target.child.as_deref();
        self.endpoint
            .terminate(now, &target.tunnel, child)
            .map_err(|error| error.to_string())?;
        if policies::tunnel_of(&target.tunnel) == target.tunnel {
            let names = children
                .into_iter()
                .map(|child| (target.tunnel.clone(), child));
            self.taken_down.extend(names);
        }
        let inbound = sas.iter().map(|sa| sa.inbound).collect();
        let ike = child.is_none() && established;
        let peer = target.tunnel.clone();
        Ok(Begun::Waits {
            goal: Goal::Down { peer, inbound, ike },
            done: format!("{target} is down"),
        })
    }

    /// Refuses a tunnel that many may be where one of them is to be named.
    fn one_of(&self, target: &Target) -> Result<(), String> {
        let tunnels = &self.config.tunnels;
        let many = |tunnel: &config::Tunnel| tunnel.name == target.tunnel && tunnel.admits_many();
        match tunnels.iter().any(many) {
            true => Err(format!(
                "many may be connected as `{0}`: name one, such as `{0}#1`; `esplanade status` shows who is",
                target.tunnel
            )),
            false => Ok(()),
        }
    }

    fn rekey_ike(&mut self, target: &Target, now: Instant) -> Result<Begun, String> {
        self.children_of(target)?;
        self.one_of(target)?;
        if target.child.is_some() {
            return Err(format!(
                "the IKE SA belongs to the tunnel, not to a child: ask for `{}`",
                target.tunnel
            ));
        }
        self.endpoint
            .rekey_ike(now, &target.tunnel)
            .map_err(|error| error.to_string())?;
        let peer = target.tunnel.clone();
        Ok(Begun::Waits {
            goal: Goal::FreshIke { peer },
            done: format!("the IKE SA of {target} has fresh keys"),
        })
    }

    fn rekey_children(&mut self, target: &Target, now: Instant) -> Result<Begun, String> {
        self.children_of(target)?;
        self.one_of(target)?;
        let sas = self.child_sas(target);
        let child = target.child.as_deref();
        self.endpoint
            .rekey_child(now, &target.tunnel, child)
            .map_err(|error| error.to_string())?;
        let inbound = sas
            .iter()
            .filter(|sa| sa.selected)
            .map(|sa| sa.inbound)
            .collect();
        let peer = target.tunnel.clone();
        Ok(Begun::Waits {
            goal: Goal::FreshChildren { peer, inbound },
            done: format!("{target} has fresh keys"),
        })
    }

    fn child_sas(&self, target: &Target) -> Vec<ChildSaView> {
        let meant = |sa: &ChildSaView| {
            policies::is_meant(&sa.peer, &target.tunnel)
                && target.child.as_ref().is_none_or(|child| *child == sa.child)
        };
        self.endpoint.child_sas().filter(meant).collect()
    }

    /// Reads the configuration file again and applies what changed. A bad file changes nothing.
    pub(super) async fn reload(&mut self) -> Result<Reloaded, String> {
        let path = self.config_path.clone();
        let outcome = self.try_reload(&path).await;
        match &outcome {
            Ok(changes) => info!("{} is loaded: {changes}", path.display()),
            Err(why) => warn!(
                "{} is not loaded, the running configuration stays:\n{why}",
                path.display()
            ),
        }
        outcome
    }

    async fn try_reload(&mut self, path: &Path) -> Result<Reloaded, String> {
        let new = configuration::load(path)?;
        let changes = config::diff(&self.config, &new);
        let addresses = new.tunnels.iter().map(|tunnel| tunnel.local).collect();
        self.sockets
            .open(&addresses)
            .map_err(|error| error.to_string())?;
        // What is new is guarded before its tunnel comes up; what is gone is let go once it has left the dataplane.
        let both = guarded(&self.config)
            .into_iter()
            .chain(guarded(&new))
            .collect();
        self.apply_guard(both)
            .await
            .map_err(|error| error.to_string())?;
        let now = Instant::now();
        self.endpoint.configure(now, intent::peers(&new));
        self.endpoint.configure_pools(now, intent::pools(&new));
        if changes.needs_restart.is_empty() {
            self.running = new.dataplane.clone();
        }
        let known = |name: &str| new.tunnels.iter().any(|tunnel| tunnel.name == name);
        self.troubles.retain(|name, _| known(name));
        self.refusals.retain(known);
        let tunnels = new.tunnels.len();
        self.groups = policies::groups(&new);
        self.config = new;
        self.refresh();
        if let Err(error) = self.guard().await {
            warn!(
                "the kernel's guard still holds prefixes that are not protected any more: {error}"
            );
        }
        let changed: Vec<String> = changes
            .changed
            .into_iter()
            .map(|tunnel| tunnel.name)
            .collect();
        Ok(Reloaded {
            unchanged: tunnels - changes.added.len() - changed.len(),
            added: changes.added,
            removed: changes.removed,
            changed,
            needs_restart: changes.needs_restart,
        })
    }
}

fn answer<T>(outcome: Result<T, String>, report: impl FnOnce(T) -> Report) -> Response {
    outcome.map_or_else(Response::Error, |value| Response::Ok(report(value)))
}

/// What came of a command.
enum Begun {
    /// There was nothing to do.
    Done(String),
    /// It is on its way.
    Waits { goal: Goal, done: String },
}
