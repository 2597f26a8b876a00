//! The steward: the dataplane's main thread, which carries no packets. It waits for the control plane's setup,
//! opens the ports, gives up its privileges, starts the workers, and keeps the XDP program's maps.
//!
//! Ports come with the setup, and the control plane asks for them only once the kernel's guard stands: so XDP is never
//! attached to a gateway that could leak.

mod engine;
mod opening;
mod signals;
mod steering;

use crate::{
    privileges,
    worker::{Handoff, Settings, Worker},
};
use clap::Parser;
use esplanade_bpf::Steering;
use esplanade_channel::{
    Connection, Epoch, Event, Facts, Listener, Peer, Segment, Setup, WorkerEnd, WorkerId,
};
use esplanade_crypto::IvGenerator;
use opening::Opened;
use rustix::{
    event::{PollFd, PollFlags, Timespec, poll},
    io::Errno,
    rand::{GetRandomFlags, getrandom},
};
use signals::Signals;
use std::{
    io,
    path::PathBuf,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread,
    time::{Duration, Instant},
};
use steering::SteeringTable;

/// How often the steward looks whether its workers live, when nothing else wakes it.
const LOOK_EVERY: Duration = Duration::from_secs(1);

/// How long a control plane that has connected may take to say what it wants.
const ACCEPT_TIMEOUT: Duration = Duration::from_millis(100);

/// The AF_XDP dataplane of an Esplanade gateway.
///
/// It takes its ports, workers and security associations from `esplanade-controlplane`, which it
/// meets in the run directory. `esplanade run CONFIG` starts both.
#[derive(Debug, Parser)]
#[command(name = "esplanade-dataplane", version)]
pub struct Options {
    /// The directory where both planes meet; made if it is not there.
    #[arg(long, env = "ESPLANADE_RUN_DIR", default_value = "/run/esplanade")]
    pub run_dir: PathBuf,
    /// End when standard input closes: whoever started this holds its other end.
    #[arg(long)]
    pub supervised: bool,
}

/// Why the dataplane ended, or did not start. What only concerns one setup is told to the control plane instead.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Not enough rights to open any port.
    #[error(transparent)]
    Capabilities(#[from] privileges::Missing),
    /// The run directory or its socket.
    #[error(transparent)]
    Bind(#[from] esplanade_channel::BindError),
    /// The kernel refuses something that it always grants.
    #[error("the kernel refuses {what}: {error}")]
    Kernel {
        /// What.
        what: &'static str,
        /// Its answer.
        error: io::Error,
    },
    /// A worker ended, which only a bug makes it do.
    #[error("worker {0} ended by itself; this is a bug")]
    WorkerEnded(usize),
}

fn refuses<E: Into<io::Error>>(what: &'static str) -> impl FnOnce(E) -> Error {
    move |error| Error::Kernel {
        what,
        error: error.into(),
    }
}

/// Runs the dataplane until SIGTERM, SIGINT, or the end of standard input under a supervisor.
///
/// # Errors
///
/// What keeps it from starting at all, or makes going on unsafe.
pub fn run(options: &Options) -> Result<(), Error> {
    esplanade_channel::make_undumpable()
        .map_err(refuses("to keep its memory out of core dumps"))?;
    privileges::check()?;
    let signals = Signals::watch(options.supervised).map_err(refuses("to hand over signals"))?;
    let listener = Listener::bind(&options.run_dir)?;
    let mut plant: Option<Plant> = None;
    loop {
        match wait(&listener, &signals, plant.as_ref())? {
            Wake::Stop => return Ok(()),
            Wake::Look => {}
        }
        meet(&listener, &mut plant)?;
        if let Some(plant) = &mut plant {
            plant.obey();
            plant.look_after_workers()?;
            plant.count();
        }
    }
}

enum Wake {
    Stop,
    Look,
}

/// Sleeps until somebody wants something, or it is time to look around.
fn wait(listener: &Listener, signals: &Signals, plant: Option<&Plant>) -> Result<Wake, Error> {
    let mut fds = vec![
        PollFd::from_borrowed_fd(signals.fd(), PollFlags::IN),
        PollFd::from_borrowed_fd(listener.fd(), PollFlags::IN),
    ];
    if let Some(input) = signals.input() {
        fds.push(PollFd::from_borrowed_fd(input, PollFlags::IN));
    }
    if let Some(plant) = plant {
        fds.push(PollFd::from_borrowed_fd(plant.end.wake.fd(), PollFlags::IN));
    }
    let timeout = Timespec {
        tv_sec: LOOK_EVERY.as_secs() as i64,
        tv_nsec: 0,
    };
    match poll(&mut fds, Some(&timeout)) {
        Ok(_) | Err(Errno::INTR) => {}
        Err(error) => return Err(refuses("to wait")(error)),
    }
    Ok(if signals.stop() {
        Wake::Stop
    } else {
        Wake::Look
    })
}

/// Answers a control plane, if one is at the door: the first gets its ports opened, the next ones the segment that is
/// there.
fn meet(listener: &Listener, plant: &mut Option<Plant>) -> Result<(), Error> {
    let mut ready = [PollFd::from_borrowed_fd(listener.fd(), PollFlags::IN)];
    if !matches!(poll(&mut ready, Some(&Timespec::default())), Ok(1)) {
        return Ok(());
    }
    let pending = match listener.accept(ACCEPT_TIMEOUT) {
        Ok(Some(pending)) => pending,
        Ok(None) => return Ok(()),
        Err(error) => {
            eprintln!("esplanade-dataplane: {error}");
            return Ok(());
        }
    };
    if let Some(peer) = plant.as_ref().and_then(Plant::held_by) {
        let sentence = format!(
            "the control plane of process {} holds this dataplane: stop that one first, or take another run directory",
            peer.pid
        );
        pending.refuse(&sentence);
        return Ok(());
    }
    if plant.is_none() {
        match Plant::build(pending.setup()) {
            Ok(built) => *plant = Some(built),
            Err(Unbuilt::Refused(sentence)) => {
                eprintln!("esplanade-dataplane: {sentence}");
                pending.refuse(&sentence);
                return Ok(());
            }
            Err(Unbuilt::Fatal(error)) => {
                pending.refuse(&error.to_string());
                return Err(error);
            }
        }
    }
    if let Some(plant) = plant {
        match pending.grant(&plant.segment) {
            Ok(connection) => plant.connection = Some(connection),
            Err(error) => eprintln!("esplanade-dataplane: {error}"),
        }
    }
    Ok(())
}

/// What a setup has become: open ports and running workers. Dropping it stops the workers and detaches the program.
struct Plant {
    workers: Vec<thread::JoinHandle<()>>,
    stop: Arc<AtomicBool>,
    segment: Segment,
    end: WorkerEnd,
    steering: SteeringTable<Steering>,
    /// When it was last told what the XDP program has counted.
    counted: Option<Instant>,
    /// Held open: its end tells the control plane that we are gone.
    connection: Option<Connection>,
}

enum Unbuilt {
    /// This setup cannot be had; another may.
    Refused(String),
    /// We are halfway between privileged and not, and must not go on.
    Fatal(Error),
}

impl<E: std::error::Error> From<E> for Unbuilt {
    fn from(error: E) -> Self {
        Self::Refused(error.to_string())
    }
}

impl Plant {
    fn build(setup: &Setup) -> Result<Self, Unbuilt> {
        let forced = std::env::var_os(engine::VARIABLE);
        let engine = engine::choose(forced.as_deref(), setup.engine.as_deref())?;
        let Opened {
            steering,
            ports,
            links,
            facts,
        } = opening::open(setup)?;
        let facts = Facts {
            epoch: Epoch::draw()?,
            engine: engine.to_string(),
            ports: facts,
        };
        let (segment, not_locked) = Segment::create(setup, &facts)?;
        if let Some(warning) = not_locked {
            eprintln!("esplanade-dataplane: warning: {warning}");
        }
        let end = segment.worker(WorkerId(setup.workers.len() as u16))?;
        let handoffs = Handoff::mesh(setup.workers.len())?;
        let ends = (0..setup.workers.len())
            .map(|worker| segment.worker(WorkerId(worker as u16)))
            .collect::<Result<Vec<_>, _>>()?;
        let ivs = (0..setup.workers.len())
            .map(|_| draw_ivs())
            .collect::<Result<Vec<_>, _>>()?;

        privileges::drop_all()
            .map_err(refuses("to take our privileges away"))
            .map_err(Unbuilt::Fatal)?;

        let mut plant = Self {
            workers: Vec::with_capacity(ports.len()),
            stop: Arc::default(),
            segment,
            end,
            steering: SteeringTable::new(steering),
            counted: None,
            connection: None,
        };
        let shares = ports.into_iter().zip(ends).zip(handoffs).zip(ivs);
        for (number, (((ports, end), handoff), ivs)) in shares.enumerate() {
            let settings = Settings {
                id: WorkerId(number as u16),
                roles: setup.ports.iter().map(|port| port.role).collect(),
                links: links.clone(),
                polling: setup.polling,
                engine,
                sa_capacity: setup.sa_capacity,
            };
            let core = setup.workers.get(number).and_then(|worker| worker.core);
            let stop = plant.stop.clone();
            let work = move || {
                pin(core);
                Worker::new(settings, ports, end, handoff, ivs).run(&stop);
            };
            let thread = thread::Builder::new()
                .name(format!("worker-{number}"))
                .spawn(work)
                .map_err(refuses("a thread for a worker"))
                .map_err(Unbuilt::Fatal)?;
            plant.workers.push(thread);
        }
        Ok(plant)
    }

    /// Obeys what the control plane says of steering.
    fn obey(&mut self) {
        self.end.wake.drain();
        while let Some(received) = self.end.commands.receive() {
            let outcome = received
                .command
                .and_then(|command| self.steering.apply(&command));
            if let Err(reason) = outcome {
                let sequence = received.sequence;
                // A full ring is counted by the ring.
                let _ = self
                    .end
                    .events
                    .push(&Event::CommandFailed { sequence, reason });
            }
            self.end.commands.applied();
        }
        self.end.events.flush();
        if self.connection.as_ref().is_some_and(|open| !open.is_open()) {
            self.connection = None;
        }
    }

    /// The control plane that is connected: rings have one producer, so a second one must wait until it is gone.
    fn held_by(&self) -> Option<Peer> {
        let connection = self.connection.as_ref()?;
        connection.is_open().then(|| connection.peer())
    }

    /// Tells what the XDP program has counted, a while after the last time.
    fn count(&mut self) {
        if self.counted.is_none_or(|last| last.elapsed() >= LOOK_EVERY) {
            self.counted = Some(Instant::now());
            self.steering.count(&self.end.counters);
        }
    }

    fn look_after_workers(&self) -> Result<(), Error> {
        match self
            .workers
            .iter()
            .position(thread::JoinHandle::is_finished)
        {
            Some(worker) => Err(Error::WorkerEnded(worker)),
            None => Ok(()),
        }
    }
}

impl Drop for Plant {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        for worker in 0..self.workers.len() {
            if let Some(waker) = self.segment.waker(WorkerId(worker as u16)) {
                waker.wake();
            }
        }
        for worker in self.workers.drain(..) {
            // One that panicked has said so on standard error.
            let _ = worker.join();
        }
    }
}

/// A worker's generator of IVs, which nobody else has the seed of.
fn draw_ivs() -> Result<IvGenerator, Errno> {
    let mut seed = [0; 32];
    getrandom(&mut seed, GetRandomFlags::empty())?;
    Ok(IvGenerator::new(seed))
}

/// Ties the calling thread to a core, if one is asked for.
fn pin(core: Option<u16>) {
    let Some(core) = core else { return };
    let id = core_affinity::CoreId { id: core.into() };
    if !core_affinity::set_for_current(id) {
        eprintln!(
            "esplanade-dataplane: warning: core {core} cannot be had (not there, or outside this process's cpuset); the \
             worker runs wherever the scheduler puts it"
        );
    }
}
