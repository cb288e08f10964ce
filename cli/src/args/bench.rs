//! Flags of `securedl bench`.

use std::path::PathBuf;

use clap::{Args, Subcommand, ValueEnum};

use super::{NetworkName, OutputPath, ReadingArguments, SideName};

/// Measure this machine: kernels, whole networks, and another library beside them.
#[derive(Debug, Subcommand)]
pub(crate) enum BenchCommand {
    Kernels(KernelsArguments),
    Network(NetworkArguments),
    Peers(PeersArguments),
    Load(LoadArguments),
    Faults(FaultsArguments),
}

/// Put a server process under load: many connections, and more batches than it has room for.
///
/// The server is this program in a process of its own. Most connections are idle; the clients send
/// batches of a network with random weights until the time is over, and finish what they began. Fails
/// unless every batch completes with the right scores (perhaps after refusals with a time to come
/// back), memory stays under the limit, nothing panics, and /healthz answers within 100 ms (p99).
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  securedl bench load
  securedl bench load --connections 100 --clients 8 --seconds 10 --json load.json")]
pub(crate) struct LoadArguments {
    /// Connections held open, those of the clients included.
    #[arg(long, value_name = "N", default_value_t = 1000, value_parser = clap::value_parser!(u16).range(1..=50_000))]
    pub(crate) connections: u16,
    /// Clients that send batches, one after the other, each on one connection.
    #[arg(long, value_name = "N", default_value_t = 64, value_parser = clap::value_parser!(u16).range(1..=1024))]
    pub(crate) clients: u16,
    /// How long to begin new batches.
    #[arg(long, value_name = "S", default_value_t = 60, value_parser = clap::value_parser!(u16).range(1..=3600))]
    pub(crate) seconds: u16,
    #[command(flatten)]
    pub(crate) batch: BatchArguments,
    /// The server's memory limit; its program and plan count as well here.
    #[arg(long, value_name = "SIZE", default_value = "1GiB")]
    pub(crate) memory: String,
    /// Milliseconds within which 99 of 100 questions for health must be answered.
    #[arg(long, value_name = "MS", default_value_t = 100)]
    pub(crate) health_ms: u32,
    /// Seconds that anything may take besides the load itself: the server's start, the connections, the
    /// batches under way after the last one was begun, the questions to the idle connections.
    #[arg(long, value_name = "S", default_value_t = 300, value_parser = clap::value_parser!(u16).range(1..))]
    pub(crate) patience: u16,
    /// Who evaluates the activations.
    #[arg(long, value_enum, value_name = "SIDE", default_value_t = SideName::Client)]
    pub(crate) activation: SideName,
    #[command(flatten)]
    pub(crate) figures: FiguresArguments,
}

/// Disturb a run: kill the server, cut, stall and corrupt connections, meddle with messages, tamper.
///
/// Below TLS (kill, cut, stall, a corrupt byte) every batch must complete with the scores of the
/// undisturbed run. Above TLS, frames that are reordered, repeated, too large, altered or of another
/// client must end in the error that names it (or, on their way to the server, in a repetition that
/// completes), and words that the server alters and signs must end in a verdict. The server is this program in a process of its own, restarted on its port when killed.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  securedl bench faults
  securedl bench faults --batches 5 --faults 20 --seed 7 --markdown")]
pub(crate) struct FaultsArguments {
    /// Batches that are sent.
    #[arg(long, value_name = "N", default_value_t = 50, value_parser = clap::value_parser!(u16).range(1..=10_000))]
    pub(crate) batches: u16,
    /// Faults, spread over the batches; one of each batch's is above TLS.
    #[arg(long, value_name = "N", default_value_t = 200, value_parser = clap::value_parser!(u16).range(1..=50_000))]
    pub(crate) faults: u16,
    /// Seconds that a start of the server, or a batch with its faults, may take.
    #[arg(long, value_name = "S", default_value_t = 300, value_parser = clap::value_parser!(u16).range(1..))]
    pub(crate) patience: u16,
    #[command(flatten)]
    pub(crate) batch: BatchArguments,
    #[command(flatten)]
    pub(crate) figures: FiguresArguments,
}

/// The batches that a server process gets.
#[derive(Debug, Clone, Args)]
pub(crate) struct BatchArguments {
    /// Samples of a batch.
    #[arg(long, value_name = "N", default_value_t = 64, value_parser = clap::value_parser!(u32).range(1..=100_000))]
    pub(crate) samples: u32,
    /// Which network, with random weights.
    #[arg(long, value_enum, value_name = "NAME", default_value_t = NetworkName::Mlp)]
    pub(crate) network: NetworkName,
    /// Seed of weights, digits, and faults.
    #[arg(long, value_name = "S", default_value_t = 0)]
    pub(crate) seed: u64,
}

/// A batch that is measured more than once.
#[derive(Debug, Clone, Args)]
pub(crate) struct RepeatedArguments {
    /// Samples in the batch.
    #[arg(long, value_name = "N", default_value_t = 8000, value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    pub(crate) samples: u32,
    /// How often to repeat the batch; figures are medians.
    #[arg(long, value_name = "R", default_value_t = 3, value_parser = clap::value_parser!(u16).range(1..=1000))]
    pub(crate) repeat: u16,
}

/// Where the figures go, besides the terminal.
#[derive(Debug, Clone, Args)]
pub(crate) struct FiguresArguments {
    /// Print the tables as Markdown.
    #[arg(long)]
    pub(crate) markdown: bool,
    /// Write every figure as JSON (`-` = standard output).
    #[arg(long, value_name = "FILE")]
    pub(crate) json: Option<OutputPath>,
}

/// Measure the arithmetic on one core: linear maps per backend and layer, then every other step.
///
/// Linear maps are given in residue multiply-accumulates per second, as a share of what the
/// backend's multiply instruction allows, and in bytes per second beside a copy of memory; all
/// measured in this run. Wide layers are measured on a part: at most 64 MiB of outputs, written over
/// and over, as the server writes them.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  securedl bench kernels
  securedl bench kernels --backend avx2 --seconds-per-case 1 --json kernels.json
  securedl bench kernels --markdown")]
pub(crate) struct KernelsArguments {
    /// Which kernels: a name as HE_BACKEND takes it, or `all` this machine can run.
    #[arg(long, value_name = "NAME", default_value = "all")]
    pub(crate) backend: String,
    /// About how long to repeat each case, in seconds.
    #[arg(long, value_name = "S", default_value_t = 0.5, value_parser = seconds)]
    pub(crate) seconds_per_case: f64,
    #[command(flatten)]
    pub(crate) figures: FiguresArguments,
}

/// Measure encrypted inference from end to end, client and server in this process.
///
/// Without a model the network has random weights (seeded) and classifies drawn digits: no training,
/// no data, the same arithmetic. Reports the wall time of a batch, busy time by phase, bytes, blocks,
/// memory, CPU time, the time of one image alone, and the share of the floor: the time that counted
/// operations would take at the speeds measured in this run.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  securedl bench network --network cryptonets --activation client
  securedl bench network --network securedl --activation server --samples 8000 --threads 2 --json -
  securedl bench network --model mnist.model --data mnist --activation server --transport tls")]
pub(crate) struct NetworkArguments {
    /// Which network, with random weights.
    #[arg(long, value_enum, value_name = "NAME", required_unless_present = "model")]
    pub(crate) network: Option<NetworkName>,
    /// A trained model instead.
    #[arg(long, value_name = "MODEL", conflicts_with = "network", requires = "data")]
    pub(crate) model: Option<PathBuf>,
    /// The data for the model: a path, or a name in $SECUREDL_DATA.
    #[arg(long, value_name = "PATH", requires = "model")]
    pub(crate) data: Option<String>,
    #[command(flatten)]
    pub(crate) reading: ReadingArguments,
    /// Who evaluates the activations.
    #[arg(long, value_enum, value_name = "SIDE", default_value_t = SideName::Server)]
    pub(crate) activation: SideName,
    #[command(flatten)]
    pub(crate) batch: RepeatedArguments,
    /// Threads that compute, client and server together [default: one per core].
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=1024))]
    pub(crate) threads: Option<u16>,
    /// How client and server talk.
    #[arg(long, value_enum, value_name = "NAME", default_value_t = TransportName::Pipe)]
    pub(crate) transport: TransportName,
    /// Seed of weights and digits.
    #[arg(long, value_name = "S", default_value_t = 0)]
    pub(crate) seed: u64,
    #[command(flatten)]
    pub(crate) figures: FiguresArguments,
}

/// Measure the CryptoNets shape with another library in the same run, on one core each.
///
/// The peer is BFV of the crate `fhe`, used as its authors intend: one sample per slot, plaintext
/// moduli that together hold the result of the whole network, scalar weights, squares with
/// relinearization. It would take minutes, so each layer is measured on a part and scaled; the table
/// says from what. Needs a build with the feature `peers`.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  cargo run --release --features peers -- bench peers
  cargo run --release --features peers -- bench peers --part 20 --json peers.json")]
pub(crate) struct PeersArguments {
    /// Outputs of each layer that the peer computes; the rest is scaled.
    #[arg(long, value_name = "N", default_value_t = 8, value_parser = clap::value_parser!(u16).range(1..=100))]
    pub(crate) part: u16,
    // Ours; the peer fills its slots.
    #[command(flatten)]
    pub(crate) batch: RepeatedArguments,
    #[command(flatten)]
    pub(crate) figures: FiguresArguments,
}

/// How client and server of a measured run talk.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum TransportName {
    /// Through memory, with the same messages.
    Pipe,
    /// TLS 1.3 over TCP on a loopback port.
    Tls,
}

/// A time between a millisecond and an hour.
fn seconds(text: &str) -> Result<f64, String> {
    let value: f64 = text.parse().map_err(|_| format!("`{text}` is not a number of seconds"))?;
    if (1e-3..=3600.0).contains(&value) {
        Ok(value)
    } else {
        Err(format!("{text} seconds are not between 0.001 and 3600"))
    }
}
