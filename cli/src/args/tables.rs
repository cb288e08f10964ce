//! Flags of those commands below `securedl paper` that measure time and traffic.

use std::path::PathBuf;

use clap::{Args, ValueEnum};

/// Data, place and size of a measurement.
#[derive(Debug, Args)]
pub(crate) struct TableArguments {
    /// Folder with the data sets `mnist` and `tabular`.
    #[arg(long, value_name = "DIR")]
    pub(crate) data: PathBuf,
    /// Folder for the results, created if need be. Networks and single results are kept in its folder
    /// `study`: a run that was interrupted goes on from there, and the tables share them.
    #[arg(long, value_name = "DIR")]
    pub(crate) out: PathBuf,
    /// Small networks and batches, measured once: seconds instead of an hour.
    #[arg(long)]
    pub(crate) quick: bool,
    /// Seed of training; keys, positions and points of encrypted batches come from the operating
    /// system.
    #[arg(long, value_name = "S", default_value_t = 0)]
    pub(crate) seed: u64,
}

/// Time and traffic of encrypted batches of tables.
#[derive(Debug, Args)]
#[command(after_help = "\
Every batch is checked: intact, equal to the integer network, as many bytes as forecast.

Examples:
  securedl paper table2 --data ../shared/data --out reports --quick --only wine
  securedl paper table10-12 --data ../shared/data --out reports")]
pub(crate) struct TabularArguments {
    #[command(flatten)]
    pub(crate) common: TableArguments,
    /// Only this data set; may be repeated [default: all six].
    #[arg(long, value_enum, value_name = "NAME")]
    pub(crate) only: Vec<TabularData>,
}

/// Ways to classify MNIST in private, side by side.
///
/// SecureDL with the activation at the client and at the server, CryptoNets (non-interactive, squares,
/// plaintext moduli put together by the Chinese remainder theorem) and SecureML (two servers on additive
/// shares; its offline phase is homomorphic, without a trusted dealer).
#[derive(Debug, Args)]
#[command(after_help = "\
Every encrypted batch is checked: intact, equal to the integer network, as many bytes as forecast.

Examples:
  cargo run --release --features secureml -- paper table3 --data ../shared/data --out reports
  securedl paper table3 --data ../shared/data --out reports --without-secureml")]
pub(crate) struct ComparisonArguments {
    #[command(flatten)]
    pub(crate) common: TableArguments,
    /// Leave the baseline on two servers out: it is only in builds with the feature `secureml`.
    #[arg(long)]
    pub(crate) without_secureml: bool,
}

/// Data sets of the paper's table 2.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
#[value(rename_all = "snake_case")]
pub(crate) enum TabularData {
    /// Breast tissue, 9 features.
    BreastTissue,
    /// Crabs, 6 features.
    Crabs,
    /// Ovarian cancer, 100 features.
    Ovarian,
    /// Wines, 13 features.
    Wine,
    /// Climate simulations, 18 features.
    Climate,
    /// Fertility, 9 features.
    Fertility,
}

impl TabularData {
    /// Name of its file, without the ending.
    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::BreastTissue => "breast_tissue",
            Self::Crabs => "crabs",
            Self::Ovarian => "ovarian",
            Self::Wine => "wine",
            Self::Climate => "climate",
            Self::Fertility => "fertility",
        }
    }
}
