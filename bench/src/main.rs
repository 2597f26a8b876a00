//! `esplanade-bench`: measures a gateway, and shows one.

mod crypto;
mod ike;
mod pipeline;
mod timing;

use std::net::SocketAddrV4;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Result, bail};
use clap::{Parser, Subcommand, ValueEnum};
use esplanade_bench::{commands, demo, measure, testbed};

/// Measures an Esplanade gateway, and shows one at work.
#[derive(Debug, Parser)]
#[command(version)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Two gateways, or a gateway and a real peer, at work between two hosts of this machine.
    Demo {
        /// Who is at the other end.
        #[arg(long, value_enum, default_value_t = PeerName::Esplanade)]
        peer: PeerName,
    },
    /// Throughput, loss and latency of one gateway on veth, beside plain forwarding.
    Testbed {
        /// Bytes of the frames, their check sequence not counted.
        #[arg(long, value_delimiter = ',', value_name = "BYTES")]
        frames: Vec<usize>,
        /// Each measurement once and short, for a first look.
        #[arg(long)]
        quick: bool,
        /// Write the results as JSON lines as well.
        #[arg(long, value_name = "FILE")]
        json: Option<PathBuf>,
    },
    /// What sealing and opening a packet costs: our engines beside Intel's multi-buffer library, aws-lc, ring, OpenSSL and
    /// RustCrypto.
    ///
    /// All have their turns in one process, pinned to a core; the median counts, and half the distance of the quartiles
    /// stands beside it. Everything takes three minutes at most (--seconds), and 20 seconds with --quick.
    ///
    /// The bound of AES-GCM for a packet of n bytes, with n / 16 rounded up: AES of n / 16 + 1 blocks of 10, 12 or 14
    /// rounds at the measured rate of VAESENC, and GHASH of n / 16 + 2 blocks of four products each at that of VPCLMULQDQ,
    /// four blocks to an instruction; where the two share their ports, at the rate of both together. The clock is estimated
    /// by a chain of multiplications that depend on each other, three cycles each.
    Crypto(crypto::Options),
    /// What the whole worker can do on one core, without a wire.
    Pipeline(pipeline::Options),
    /// IKE handshakes a second between two processes, and what many tunnels take.
    Ike(ike::Options),
    #[command(hide = true)]
    IkeSide(ike::SideOptions),
    /// Sends numbered and dated UDP packets through AF_XDP.
    Generate {
        /// The interface to send by.
        #[arg(long)]
        interface: String,
        /// The hardware address of the next hop.
        #[arg(long)]
        via: String,
        /// Address and port to send from; with several flows, the port of the first.
        #[arg(long)]
        from: SocketAddrV4,
        /// Address and port to send to.
        #[arg(long)]
        to: SocketAddrV4,
        /// Bytes of a frame, its check sequence not counted.
        #[arg(long, default_value_t = 512)]
        bytes: usize,
        /// Packets a second; without it as many as go.
        #[arg(long)]
        rate: Option<f64>,
        /// For how many seconds.
        #[arg(long, default_value_t = 10.0)]
        seconds: f64,
        /// At most so many packets.
        #[arg(long)]
        count: Option<u64>,
        /// How many source ports take turns.
        #[arg(long, default_value_t = 1)]
        flows: u16,
    },
    /// Receives what `generate` sends and says what was lost, what came out of order and how long it took.
    Receive {
        /// The interface to receive on.
        #[arg(long)]
        interface: String,
        /// The prefix that the packets come from.
        #[arg(long)]
        from: String,
        /// The prefix that they go to.
        #[arg(long)]
        to: String,
        /// Ends after so many seconds without a packet.
        #[arg(long, default_value_t = 5.0)]
        silence: f64,
    },
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum PeerName {
    /// A second Esplanade.
    Esplanade,
    /// strongSwan, 5.9 and 6.
    Strongswan,
}

fn main() -> ExitCode {
    match carry_out(Cli::parse().command) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("esplanade-bench: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn carry_out(command: Command) -> Result<()> {
    let needs_testbed = !matches!(
        command,
        Command::Crypto(_) | Command::Pipeline(_) | Command::Ike(_) | Command::IkeSide(_)
    );
    if let Some(reason) = testbed::unavailable().filter(|_| needs_testbed) {
        bail!("{reason}");
    }
    match command {
        Command::Crypto(options) => crypto::run(&options),
        Command::Pipeline(options) => pipeline::run(&options),
        Command::Ike(options) => ike::run(&options),
        Command::IkeSide(options) => ike::run_side(&options),
        Command::Demo {
            peer: PeerName::Esplanade,
        } => demo::run(demo::Peer::Esplanade),
        Command::Demo {
            peer: PeerName::Strongswan,
        } => demo::run(demo::Peer::StrongSwan),
        Command::Testbed {
            frames,
            quick,
            json,
        } => {
            let mut options = measure::Options {
                json,
                ..measure::Options::default()
            };
            if !frames.is_empty() {
                options.frames = frames;
            }
            if quick {
                options.trial = Duration::from_millis(500);
                options.rounds = 1;
                options.hold = Duration::from_secs(1);
                options.tries = 1;
            }
            measure::run_testbed(&options).map(drop)
        }
        Command::Generate {
            interface,
            via,
            from,
            to,
            bytes,
            rate,
            seconds,
            count,
            flows,
        } => {
            let seconds = Duration::try_from_secs_f64(seconds)?;
            let job = commands::Generate {
                interface,
                via,
                from,
                to,
                bytes,
                rate,
                seconds,
                count,
                flows,
            };
            commands::generate(&job)
        }
        Command::Receive {
            interface,
            from,
            to,
            silence,
        } => {
            let silence = Duration::try_from_secs_f64(silence)?;
            commands::receive(&commands::Receive {
                interface,
                from,
                to,
                silence,
            })
        }
    }
}
