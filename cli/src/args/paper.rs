//! Flags of `securedl paper`; those about time and traffic are in `tables`.

use std::path::PathBuf;

use clap::{Args, Subcommand, ValueEnum};

use super::{ComparisonArguments, TableArguments, TabularArguments};

/// Repeat the papers' experiments and write CSV, SVG and a report with their numbers beside ours.
#[derive(Debug, Subcommand)]
pub(crate) enum PaperCommand {
    /// Detection over the number of samples, and over the share of changed weights (figure 4 of
    /// SecureDL).
    Fig4(PaperArguments),
    /// Missing rates by attack and by how much the endpoint tells (tables 3 and 4 of
    /// Sensitive-Sample Fingerprinting).
    TableMissingRates(PaperArguments),
    /// Queries needed for a missing rate, against ordinary samples (table 5 there).
    Efficiency(PaperArguments),
    SingleWeight(SingleWeightArguments),
    /// Six tables as batches of 576, on the benchmark network and a small one (table 2 of SecureDL).
    Table2(TabularArguments),
    Table3(ComparisonArguments),
    /// The same on the benchmark network with one, two and three more convolutions (tables 10 to 12
    /// there).
    #[command(name = "table10-12")]
    Table10To12(TabularArguments),
    /// Time over the size of the batch (figure 5 there).
    Fig5(TableArguments),
}

/// Change single weights by one behind an encrypted batch, and count what stays unnoticed.
///
/// First by trial: changes of random weights, the same number in every segment, against the random
/// points or the random rows that check it. Then for good: encrypted batches on servers inside this
/// process that run the changed network. Without --plan, `cryptonets` with random weights, once per
/// activation side.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  securedl paper single-weight --out reports
  securedl paper single-weight --plan plans/mnist.plan --changes 1000000 --runs 20 --out reports")]
pub(crate) struct SingleWeightArguments {
    /// Plan to try; may be repeated.
    #[arg(long, value_name = "PLAN")]
    pub(crate) plan: Vec<PathBuf>,
    /// Changes tried per plan, in all segments together.
    #[arg(long, value_name = "N", default_value_t = 4_000_000, value_parser = clap::value_parser!(u64).range(1..))]
    pub(crate) changes: u64,
    /// Encrypted batches per plan.
    #[arg(long, value_name = "R", default_value_t = 100)]
    pub(crate) runs: u32,
    /// Samples of an encrypted batch.
    #[arg(long, value_name = "N", default_value_t = 8, value_parser = clap::value_parser!(u32).range(1..=4096))]
    pub(crate) samples: u32,
    /// Folder for the results, created if need be.
    #[arg(long, value_name = "DIR")]
    pub(crate) out: PathBuf,
    /// Seed of the changes and of the samples; keys, positions and points of encrypted batches come
    /// from the operating system.
    #[arg(long, value_name = "S", default_value_t = 0)]
    pub(crate) seed: u64,
}

/// Data sets of the papers' experiments.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum StudyData {
    /// Handwritten digits.
    Mnist,
    /// Traffic signs.
    Gtsrb,
    /// Small photographs.
    Cifar10,
}

impl StudyData {
    /// Name of its folder.
    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Mnist => "mnist",
            Self::Gtsrb => "gtsrb",
            Self::Cifar10 => "cifar10",
        }
    }
}

/// Data, place and size of an experiment on fingerprints.
#[derive(Debug, Args)]
#[command(after_help = "\
Networks are trained here, on MNIST, GTSRB and CIFAR-10, and attacked with samples of the training part.

Examples:
  securedl paper fig4 --data ../shared/data --out reports --quick
  securedl paper table-missing-rates --data ../shared/data --out reports")]
pub(crate) struct PaperArguments {
    /// Folder with the data sets mnist, gtsrb and cifar10.
    #[arg(long, value_name = "DIR")]
    pub(crate) data: PathBuf,
    /// Folder for the results, created if need be. Networks, samples and single results are kept in
    /// its folder `study`: a run that was interrupted goes on from there, and the experiments share
    /// them.
    #[arg(long, value_name = "DIR")]
    pub(crate) out: PathBuf,
    /// Small networks, bags and draws: minutes instead of hours.
    #[arg(long)]
    pub(crate) quick: bool,
    /// Only this data set; may be repeated [default: all three].
    #[arg(long, value_enum, value_name = "NAME")]
    pub(crate) only: Vec<StudyData>,
    /// Training samples at most, of networks and of attackers [default: all, and 4000; 4000 and 1500
    /// with --quick].
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(50..))]
    pub(crate) samples: Option<u32>,
    /// Samples generated per generator and network [default: 500; 60 with --quick].
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(10..=4000))]
    pub(crate) bag: Option<u32>,
    /// Networks trained per data set, architecture and activation [default: 3; 1 with --quick].
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=100))]
    pub(crate) networks: Option<u32>,
    /// Instances of each attack per network [default: 5; 1 with --quick].
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=100))]
    pub(crate) instances: Option<u32>,
    /// Choices drawn from each bag [default: 10000; 2000 with --quick].
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    pub(crate) draws: Option<u32>,
    /// Seed of everything random.
    #[arg(long, value_name = "S", default_value_t = 0)]
    pub(crate) seed: u64,
}
