//! Flags of `infer`.

use std::path::PathBuf;

use clap::{ArgGroup, Args};

use super::{CredentialArguments, OutputPath, ReadingArguments, SplitName};

/// Classify samples with an encrypted, verified run of a plan.
///
/// Without --server, --local or --simulate, client and server run in this process (--local).
/// Predictions are written only if the verdict is Intact (WithinTolerance with the public part of a
/// masked plan), or if nothing vouches for them and --accept-unverified takes them all the same.
#[derive(Debug, Args)]
#[command(group(ArgGroup::new("where").args(["server", "local", "simulate"])))]
#[command(after_help = "\
Examples:
  securedl infer --plan plans/mnist.plan --data mnist --samples 8000 \\
                 --server localhost:7443 --tls tls --out predictions.csv --json report.json
  securedl infer --plan plans/mnist.plan --data scans/ --server gpu-1:7443,gpu-2:7443 --tls tls \\
                 --out predictions.jsonl --resume
  securedl infer --plan plans/mnist.plan --data mnist --samples 100 --local --replicas 2
  securedl infer --plan plans/mnist.plan --data mnist --simulate --accept-unverified \\
                 --out predictions.csv

predictions.csv: index,prediction,score_0,…,out_of_calibration[,label]; one line per sample, in the
order of the data. `index` counts the samples of the chosen split from 0; scores are exact integers.
predictions.jsonl has the same fields; predictions.npy the scores, one row per sample.")]
pub(crate) struct InferArguments {
    /// The plan, weights included, as `securedl compile` wrote it; of a masked plan its public part.
    #[arg(long, value_name = "PLAN")]
    pub(crate) plan: PathBuf,
    /// Canaries that the model's owner prepared: needed with the public part of a masked plan.
    #[arg(long, value_name = "PACK")]
    pub(crate) pack: Option<PathBuf>,
    /// Data set: a path, or a name in $SECUREDL_DATA.
    #[arg(long, value_name = "PATH")]
    pub(crate) data: String,
    #[command(flatten)]
    pub(crate) reading: ReadingArguments,
    /// Which part of the data.
    #[arg(long, value_enum, value_name = "PART", default_value_t = SplitName::Test)]
    pub(crate) split: SplitName,
    /// Samples to classify, from the start of the part [default: all].
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    pub(crate) samples: Option<u64>,
    #[command(flatten)]
    pub(crate) connection: ConnectionArguments,
    /// Run client and server in this process, through the same messages.
    #[arg(long)]
    pub(crate) local: bool,
    /// Evaluate the integer network alone: no encryption, no server, nothing verified.
    #[arg(long, conflicts_with = "fingerprint")]
    pub(crate) simulate: bool,
    #[command(flatten)]
    pub(crate) checks: CheckArguments,
    #[command(flatten)]
    pub(crate) in_flight: InFlight,
    /// Go on with an interrupted run: batches in the journal beside --out are not run again.
    #[arg(long, requires = "out", conflicts_with = "simulate")]
    pub(crate) resume: bool,
    /// Folder for evidence of a failed check [default: `evidence` beside --out].
    #[arg(long, value_name = "DIR", conflicts_with = "no_evidence")]
    pub(crate) evidence: Option<PathBuf>,
    /// Keep no evidence, and write no blocks to disk while a round is not judged.
    #[arg(long)]
    pub(crate) no_evidence: bool,
    /// Release predictions and exit with 0 although nothing vouches for them.
    #[arg(long)]
    pub(crate) accept_unverified: bool,
    /// Where to write the predictions: CSV, or NPY or JSON lines for names that end in .npy or .jsonl.
    /// Until all batches are finished they are kept in FILE.journal.
    #[arg(long, value_name = "FILE")]
    pub(crate) out: Option<PathBuf>,
    /// Where to write the report (`-` = standard output).
    #[arg(long, value_name = "FILE")]
    pub(crate) json: Option<OutputPath>,
    /// Where to write the report as one page for a browser, with pictures, plots and receipts.
    #[arg(long, value_name = "FILE")]
    pub(crate) report: Option<PathBuf>,
}

/// How many batches are under way.
#[derive(Debug, Clone, Copy, Args)]
pub(crate) struct InFlight {
    /// Batches under way at the same time [default: 2]. Results do not depend on it; memory does.
    #[arg(long = "in-flight", value_name = "N", value_parser = clap::value_parser!(u8).range(1..=64))]
    given: Option<u8>,
}

impl InFlight {
    /// Whether somebody has asked for a number.
    pub(crate) const fn is_given(self) -> bool {
        self.given.is_some()
    }
}

impl From<InFlight> for usize {
    fn from(in_flight: InFlight) -> Self {
        in_flight.given.unwrap_or(2).into()
    }
}

/// Where the servers of a run are, and whom to trust.
#[derive(Debug, Clone, Args)]
pub(crate) struct ConnectionArguments {
    /// Server that holds the plan, as host:port; or several, separated by commas: what one cannot
    /// answer, another does.
    #[arg(long, value_name = "ADDR,…", requires = "tls", value_delimiter = ',')]
    pub(crate) server: Vec<String>,
    /// Use only servers with this identity (64 digits), as `securedl tls init` and `serve` print it; may
    /// be repeated.
    #[arg(long = "identity", value_name = "HEX", requires = "server")]
    pub(crate) identities: Vec<String>,
    /// Folder with the servers' ca.pem.
    #[arg(long, value_name = "DIR", requires = "server")]
    pub(crate) tls: Option<PathBuf>,
    /// Seconds to wait for a server that cannot be reached any more.
    #[arg(long, value_name = "SECONDS", default_value_t = 60)]
    pub(crate) patience: u64,
    #[command(flatten)]
    pub(crate) credentials: CredentialArguments,
    /// Use the plan, and the fingerprint or the pack, only if this owner has signed them (`owner.pub`);
    /// may be repeated. The plan's signature may also come from the server.
    #[arg(long = "owner", value_name = "PUB")]
    pub(crate) owners: Vec<PathBuf>,
}

/// What a run is checked with.
#[derive(Debug, Clone, Args)]
pub(crate) struct CheckArguments {
    /// Slots of each block that carry samples with known results (segments with a square).
    #[arg(long, value_name = "K", default_value_t = 16, value_parser = clap::value_parser!(u32).range(0..=1 << 20))]
    pub(crate) canaries: u32,
    /// Secret slots each sample takes (segments with a square); 2 closes the gap for single samples.
    #[arg(long, value_name = "R", default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=1 << 20))]
    pub(crate) replicas: u32,
    /// Use the samples of this fingerprint as canaries, compared with the integers it holds [default:
    /// samples of the data].
    #[arg(long, value_name = "FP")]
    pub(crate) fingerprint: Option<PathBuf>,
}
