//! The daemon: one task that owns the gateway, fed by sockets, the dataplane, the kernel and operators.

use std::{
    collections::BTreeSet,
    io::{self, Read},
    net::IpAddr,
    path::PathBuf,
    sync::Arc,
    time::{Duration, Instant},
};

use tokio::{
    runtime::Runtime,
    signal::unix::{SignalKind, signal},
    sync::mpsc,
    time::{sleep, sleep_until, timeout},
};
use tracing::{info, warn};

mod agreements;
mod api;
mod balance;
mod captures;
mod children;
mod concern;
mod courier;
mod dataplane;
mod events;
mod explain;
mod file;
mod gateway;
mod ike_io;
mod intent;
mod leases;
mod links;
mod next_hops;
mod outbox;
mod picture;
mod policies;
mod protected;
mod refusals;
mod report;
mod requests;
mod slots;
mod totals;
mod waiters;

use crate::{
    configuration,
    guard::Guard,
    logging,
    netlink::{self, Monitor},
    privileges,
    readiness::Readiness,
};
use dataplane::Progress;
use esplanade_config::Config;
use gateway::Gateway;
use ike_io::{Bound, Datagram, Sockets};

pub use api::ApiError;
pub use ike_io::BindError;
pub(crate) use refusals::Told;

/// Questions that wait for the gateway.
const WAITING_QUESTIONS: usize = 32;
/// Datagrams handled before the consequences are carried on.
const DATAGRAM_BURST: usize = 32;
/// How long the dataplane may take to remove the last SAs at the end.
const LAST_COMMANDS: Duration = Duration::from_millis(200);

/// How to run.
#[derive(Clone, Debug)]
pub struct Options {
    /// The YAML file.
    pub config: PathBuf,
    /// Where the sockets are.
    pub run_dir: PathBuf,
    /// Leave the tunnels up at the end.
    pub keep: bool,
    /// End when standard input does.
    pub supervised: bool,
}

/// Why the daemon does not run.
#[derive(Debug, thiserror::Error)]
pub enum DaemonError {
    /// Mistakes in the configuration.
    #[error("the configuration has mistakes\n\n{0}")]
    Config(String),
    /// Capabilities that are not there.
    #[error(transparent)]
    Privileges(#[from] privileges::Missing),
    /// The API cannot be served.
    #[error(transparent)]
    Api(#[from] ApiError),
    /// A socket of IKE cannot be had.
    #[error(transparent)]
    Bind(#[from] BindError),
    /// Privileges cannot be given up.
    #[error("privileges cannot be given up: {0}")]
    Reduce(#[source] io::Error),
    /// The kernel's routes and neighbours cannot be followed.
    #[error("the kernel's routes and neighbours cannot be followed: {0}")]
    Monitor(String),
    /// The kernel's guard cannot be installed.
    #[error(
        "the kernel's guard cannot be installed: {0}. `guard: off` in the configuration does without it"
    )]
    Guard(String),
    /// The runtime or a signal.
    #[error("the control plane does not start: {0}")]
    Runtime(#[source] io::Error),
}

/// Runs the daemon until it is told to end.
///
/// # Errors
///
/// See [`DaemonError`]: everything that keeps it from starting.
pub fn run(options: &Options) -> Result<(), DaemonError> {
    logging::start();
    let config = configuration::load(&options.config).map_err(DaemonError::Config)?;
    for warning in &config.warnings {
        warn!("{warning}");
    }
    privileges::check()?;
    let server = api::Server::bind(&options.run_dir);
    // Whatever keeps this daemon from starting, its prefixes are guarded; but not at the cost of a control plane that
    // serves the directory already and has a guard of its own.
    if !matches!(server, Err(ApiError::Taken(_))) {
        guard_first(&config)?;
    }
    let server = server?;
    let addresses: BTreeSet<IpAddr> = config.tunnels.iter().map(|tunnel| tunnel.local).collect();
    let bound: Vec<Bound> = addresses
        .into_iter()
        .map(Bound::new)
        .collect::<Result<_, _>>()?;
    // Threads inherit what this one holds, so the runtime's come after.
    privileges::reduce().map_err(|error| DaemonError::Reduce(error.into()))?;
    esplanade_channel::make_undumpable().map_err(|error| DaemonError::Reduce(error.into()))?;
    let runtime = runtime()?;
    let outcome = runtime.block_on(serve(options, config, server, bound));
    // A connect to a dataplane that does not answer would hold up the end.
    runtime.shutdown_background();
    outcome
}

fn runtime() -> Result<Runtime, DaemonError> {
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(DaemonError::Runtime)
}

/// Installs the kernel's guard by a runtime of its own, which ends, without having had any thread, before privileges
/// are given up.
fn guard_first(config: &Config) -> Result<(), DaemonError> {
    runtime()?.block_on(async {
        let monitor = Monitor::start()
            .await
            .map_err(|error| DaemonError::Monitor(error.to_string()))?;
        let pairs = protected::guarded(config);
        let wanted = protected::wanted_guard(pairs, monitor.tables(), &config.dataplane);
        let guard = Guard::open().map_err(|error| DaemonError::Guard(error.to_string()))?;
        guard
            .apply(&wanted)
            .await
            .map_err(|error| DaemonError::Guard(error.to_string()))
    })
}

/// Where inputs come from, besides the gateway itself.
struct Inputs {
    datagrams: mpsc::Receiver<Datagram>,
    questions: mpsc::Receiver<api::Question>,
    progress: mpsc::Receiver<Progress>,
    progress_sender: mpsc::Sender<Progress>,
    /// Whether somebody looks for the dataplane.
    searching: bool,
    ends: mpsc::Receiver<()>,
    reloads: tokio::signal::unix::Signal,
}

async fn serve(
    options: &Options,
    config: Config,
    server: api::Server,
    bound: Vec<Bound>,
) -> Result<(), DaemonError> {
    let (sockets, datagrams) = Sockets::serve(bound).map_err(DaemonError::Runtime)?;
    let monitor = Monitor::start()
        .await
        .map_err(|error| DaemonError::Monitor(error.to_string()))?;
    let guard = Guard::open().map_err(|error| DaemonError::Guard(error.to_string()))?;
    if !config.dataplane.guard {
        warn!(
            "the kernel's guard is off: plaintext of protected prefixes may pass while the dataplane is dead"
        );
    }
    let (question_sender, questions) = mpsc::channel(WAITING_QUESTIONS);
    let served = tokio::spawn(server.serve(question_sender));
    let (progress_sender, progress) = mpsc::channel(4);
    let mut inputs = Inputs {
        datagrams,
        questions,
        progress,
        progress_sender,
        searching: false,
        ends: ends(options.supervised).map_err(DaemonError::Runtime)?,
        reloads: signal(SignalKind::hangup()).map_err(DaemonError::Runtime)?,
    };
    let mut gateway = Gateway::new(
        options.config.clone(),
        &options.run_dir,
        config,
        sockets,
        monitor,
        guard,
    );
    // Before any dataplane is told to attach its XDP programs.
    gateway
        .guard()
        .await
        .map_err(|error| DaemonError::Guard(error.to_string()))?;
    info!("the control plane runs with {}", options.config.display());
    inputs.look_for_dataplane(options, &gateway);
    gateway.work(Instant::now());
    while inputs.handle_next(options, &mut gateway).await {
        gateway.work(Instant::now());
    }
    if options.keep {
        info!("the control plane ends; tunnels stay up");
        gateway.work(Instant::now());
    } else {
        info!("the control plane ends: saying goodbye to peers");
        inputs.say_goodbye(options, &mut gateway).await;
    }
    // Dropping the server removes its socket.
    served.abort();
    let _ = served.await;
    Ok(())
}

impl Inputs {
    fn look_for_dataplane(&mut self, options: &Options, gateway: &Gateway) {
        self.searching = true;
        let setups = gateway.setups();
        tokio::spawn(dataplane::find(
            options.run_dir.clone(),
            setups,
            self.progress_sender.clone(),
        ));
    }

    /// Waits for one input, or until something is due, and handles it. `false` when it is time to end.
    async fn handle_next(&mut self, options: &Options, gateway: &mut Gateway) -> bool {
        let now = Instant::now();
        let (due, impatient) = (gateway.deadline(now), gateway.is_impatient(now));
        let events = gateway
            .dataplane
            .as_ref()
            .map(|dataplane| dataplane.events.clone());
        let gone = gateway
            .dataplane
            .as_ref()
            .map(|dataplane| dataplane.gone.clone());
        tokio::select! {
            Some(datagram) = self.datagrams.recv() => self.handle_datagrams(&datagram, gateway),
            () = readable(events) => gateway.on_dataplane_events(Instant::now()),
            () = readable(gone) => gateway.on_dataplane_gone(),
            Some(progress) = self.progress.recv() => match progress {
                Progress::Connected(channel) => {
                    self.searching = false;
                    gateway.on_dataplane(*channel, Instant::now());
                }
                Progress::Trouble(why) => gateway.dataplane_trouble = Some(why),
            },
            followed = gateway.monitor.changed() => match followed {
                Ok(()) => gateway.on_network().await,
                Err(error) => follow_again(&error, gateway).await,
            },
            Some((request, reply)) = self.questions.recv() => gateway.on_request(request, reply).await,
            _ = self.reloads.recv() => { let _ = gateway.reload().await; }
            () = tokio::task::yield_now(), if impatient => {}
            () = sleep_until(due.into()) => {}
            _ = self.ends.recv() => return false,
        }
        let search = gateway.dataplane.is_none() && !self.searching;
        if search || gateway.is_guard_due() {
            gateway.restore_guard().await;
        }
        if gateway.is_unsettled() {
            gateway.settle_addresses().await;
        }
        if search {
            self.look_for_dataplane(options, gateway);
        }
        true
    }

    fn handle_datagrams(&mut self, first: &Datagram, gateway: &mut Gateway) {
        gateway.on_datagram(first, Instant::now());
        for _ in 1..DATAGRAM_BURST {
            let Ok(datagram) = self.datagrams.try_recv() else {
                return;
            };
            gateway.on_datagram(&datagram, Instant::now());
        }
    }

    /// Tells all peers that their tunnels end, as long as they have time to answer, and clears the dataplane.
    async fn say_goodbye(&mut self, options: &Options, gateway: &mut Gateway) {
        gateway.shutdown(Instant::now());
        let goodbye = async {
            loop {
                gateway.work(Instant::now());
                if gateway.is_idle() || !self.handle_next(options, gateway).await {
                    return;
                }
            }
        };
        let _ = timeout(gateway::GOODBYE, goodbye).await;
        gateway.remove_all_children();
        let deadline = Instant::now() + LAST_COMMANDS;
        while !gateway.is_applied() && Instant::now() < deadline {
            sleep(Duration::from_millis(1)).await;
        }
    }
}

/// Readable once there is something; never without a descriptor.
async fn readable(descriptor: Option<Arc<Readiness>>) {
    match descriptor {
        Some(descriptor) => descriptor.readable().await,
        None => std::future::pending().await,
    }
}

/// Follows the kernel's tables by a new socket; until there is one, the old picture stands.
async fn follow_again(error: &netlink::Error, gateway: &mut Gateway) {
    warn!("the kernel's routes and neighbours cannot be followed: {error}; trying again");
    match Monitor::start().await {
        Ok(monitor) => {
            gateway.monitor = monitor;
            gateway.on_network().await;
        }
        Err(_) => sleep(Duration::from_secs(1)).await,
    }
}

/// SIGTERM, SIGINT, and with a supervisor the end of standard input.
fn ends(supervised: bool) -> io::Result<mpsc::Receiver<()>> {
    let (sender, ends) = mpsc::channel(1);
    for kind in [SignalKind::terminate(), SignalKind::interrupt()] {
        let mut signals = signal(kind)?;
        let sender = sender.clone();
        tokio::spawn(async move {
            while signals.recv().await.is_some() && sender.send(()).await.is_ok() {}
        });
    }
    if supervised {
        // A thread of its own: a read that lasts as long as the process would keep tokio's from ending.
        std::thread::spawn(move || {
            let mut byte = [0];
            while matches!(io::stdin().read(&mut byte), Ok(1..)) {}
            let _ = sender.blocking_send(());
        });
    }
    Ok(ends)
}
