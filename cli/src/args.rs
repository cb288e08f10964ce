//! The command line as people type it. [`crate::options`] checks what the types here cannot.

mod attack;
mod bench;
mod fingerprint;
mod import;
mod inference;
mod paper;
mod planning;
mod polynomial;
mod serve;
mod tables;
mod training;
mod trust;
mod ui;
mod values;

use std::net::SocketAddr;
use std::path::PathBuf;

use clap::builder::styling::{AnsiColor, Styles};
use clap::{Args, Parser, Subcommand, ValueEnum};
use nn_poly::model::LayerBits;

pub(crate) use self::fingerprint::{
    AnswerName, FingerprintCommand, GenerateArguments, LayoutName, ShowArguments, UnitsName,
    VerifyArguments,
};
pub(crate) use self::paper::{PaperArguments, PaperCommand, SingleWeightArguments};
pub(crate) use self::trust::{
    AccessAddArguments, AccessCheckArguments, AccessCommand, CredentialArguments, EvidenceCommand,
    EvidenceVerifyArguments, KeysCommand, SignArguments, TlsClientArguments,
};
pub(crate) use attack::AttackArguments;
pub(crate) use bench::{
    BenchCommand, FaultsArguments, FiguresArguments, KernelsArguments, LoadArguments,
    NetworkArguments, PeersArguments, TransportName,
};
pub(crate) use import::ImportArguments;
pub(crate) use inference::{CheckArguments, ConnectionArguments, InferArguments};
pub(crate) use planning::{LinkArgument, ObjectiveName, PlanningArguments, RelinearizeName};
pub(crate) use polynomial::{
    ApproximateArguments, FunctionArgument, IntervalArgument, MethodArgument,
    PolynomializeArguments,
};
pub(crate) use serve::ServeArguments;
pub(crate) use tables::{ComparisonArguments, TableArguments, TabularArguments, TabularData};
pub(crate) use training::{
    ArchitectureArguments, CrossValidateArguments, FineTuneArguments, TrainArguments,
    TrainedModelArguments, TrainingRunArguments,
};
pub(crate) use ui::UiArguments;
pub(crate) use values::{BitsArgument, OutputPath};

const STYLES: Styles = Styles::styled()
    .header(AnsiColor::Cyan.on_default().bold())
    .usage(AnsiColor::Cyan.on_default().bold())
    .literal(AnsiColor::Green.on_default())
    .placeholder(AnsiColor::Yellow.on_default());

const ABOUT: &str = "Private, verified neural-network inference: a server evaluates your model on \
                     encrypted inputs, and every batch comes with evidence that it ran your model, \
                     unmodified, on all of your samples.";

const EXAMPLES: &str = "\
Examples:
  securedl demo                                  everything at once, nothing to configure
  securedl demo --ui                             the same to try out, in a browser
  securedl train --data mnist --network cryptonets --out mnist.model
  securedl import digits.onnx --out digits.model
  securedl compile mnist.model --calibrate mnist --out plans/mnist.plan
  securedl tls init tls
  securedl access add me --file access.toml --plan '*'
  securedl serve --plans plans --listen 127.0.0.1:7443 --tls tls --access access.toml
  securedl infer --plan plans/mnist.plan --data mnist --samples 8000 \\
                 --server localhost:7443 --tls tls --out predictions.csv --json report.json
  securedl fingerprint generate mnist.model --data mnist --out mnist.fp
  securedl verify --endpoint https://example.org/classify --fingerprint mnist.fp
  securedl attack trojan mnist.model --data mnist --out trojan.model
  securedl bench network --network cryptonets --activation client

Exit codes:
  0  intact, or the command succeeded
  1  the server ran a modified model or tampered with the computation: no predictions
  2  an error, or a result that nothing vouches for

Data sets are paths, or names looked up in the folder $SECUREDL_DATA (default ../shared/data).
Colors follow the terminal; NO_COLOR switches them off. RUST_LOG sets what is logged.";

/// A parsed command line.
#[derive(Debug, Parser)]
#[command(name = "securedl", version, about = ABOUT, after_help = EXAMPLES, styles = STYLES)]
#[command(arg_required_else_help = true, disable_help_subcommand = true, max_term_width = 100)]
pub(crate) struct Arguments {
    #[command(subcommand)]
    pub(crate) command: Command,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    Demo(DemoArguments),
    Train(TrainArguments),
    CrossValidate(CrossValidateArguments),
    Approximate(ApproximateArguments),
    Polynomialize(PolynomializeArguments),
    FineTune(FineTuneArguments),
    Import(ImportArguments),
    Compile(CompileArguments),
    Inspect(InspectArguments),
    /// Manage the certificates of a server.
    #[command(subcommand, arg_required_else_help = true)]
    Tls(TlsCommand),
    /// Manage who may enter a server.
    #[command(subcommand, arg_required_else_help = true)]
    Access(AccessCommand),
    /// Make the keys of a model's owner.
    #[command(subcommand, arg_required_else_help = true)]
    Keys(KeysCommand),
    Sign(SignArguments),
    Serve(ServeArguments),
    Infer(InferArguments),
    Ui(UiArguments),
    /// Judge what a failed run has kept.
    #[command(subcommand, arg_required_else_help = true)]
    Evidence(EvidenceCommand),
    Attack(AttackArguments),
    /// Make and show fingerprints: samples whose answers give a modified model away.
    #[command(subcommand, arg_required_else_help = true)]
    Fingerprint(FingerprintCommand),
    Verify(VerifyArguments),
    /// Repeat the papers' experiments, with their numbers beside ours.
    #[command(subcommand, arg_required_else_help = true)]
    Paper(PaperCommand),
    /// Measure this machine: kernels, whole networks, and another library beside them.
    #[command(subcommand, arg_required_else_help = true)]
    Bench(BenchCommand),
}

/// Show everything on this machine: train, serve over TLS, classify encrypted, catch a cheat.
///
/// Draws handwritten-like digits, trains a small polynomial network on them, serves it on a
/// loopback port and classifies an encrypted batch. Then the server's copy of the model is changed
/// by one unit in one weight, and the same batch is sent again. Succeeds if the first batch is found
/// intact and the second is not. Nothing to configure, nothing is kept.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  securedl demo
  securedl demo --ui
  securedl demo --samples 500 --activation client --json demo.json")]
pub(crate) struct DemoArguments {
    /// Samples in the encrypted batch.
    #[arg(long, value_name = "N", default_value_t = 64, value_parser = clap::value_parser!(u32).range(1..=100_000))]
    pub(crate) samples: u32,
    /// Seed of the digits and of the training. Never reaches keys, errors or slot positions.
    #[arg(long, value_name = "S", default_value_t = 0)]
    pub(crate) seed: u64,
    /// Who evaluates the activations.
    #[arg(long, value_enum, value_name = "SIDE", default_value_t = SideName::Server)]
    pub(crate) activation: SideName,
    /// Write a report of both runs (`-` = standard output).
    #[arg(long, value_name = "FILE", conflicts_with = "ui")]
    pub(crate) json: Option<OutputPath>,
    /// Instead of the two runs: a page on this machine on which to draw digits, watch them being
    /// classified, and let the server cheat. Prints the page's address and serves it until Ctrl-C.
    #[arg(long)]
    pub(crate) ui: bool,
    /// With `--ui`: address of the page; loopback addresses only. Port 0 takes any free one.
    #[arg(long, value_name = "ADDR", requires = "ui", default_value = ui::LISTEN)]
    pub(crate) listen: SocketAddr,
}

/// Canaries of a pack unless a number is given.
pub(crate) const DEFAULT_PACK_CANARIES: u32 = 64;

/// How to read data.
#[derive(Debug, Clone, Default, Args)]
pub(crate) struct ReadingArguments {
    /// Column of a CSV table that holds the classes, as numbers or names [default: label].
    #[arg(long, value_name = "COLUMN")]
    pub(crate) label_column: Option<String>,
}

/// Compile a model into a plan: encryption parameters, segments, and a forecast of their cost.
///
/// Compares the plans the model can have by time, bytes or rounds, shows them in a table, and writes
/// the best one. The plan holds the weights: give it to the server and keep a copy. Ranges are proven
/// over all possible inputs wherever parameters allow; the calibration data serve where they do not.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  securedl compile mnist.model --calibrate mnist --out plans/mnist.plan
  securedl compile mnist.model --calibrate mnist --activation client --out plans/mnist.plan
  securedl compile mnist.model --calibrate mnist --objective bytes --memory 1GiB --proven \
                   --out plans/mnist.plan
  securedl compile mnist.model --calibrate mnist --link 100Mbps --latency 20ms --out plans/mnist.plan
  securedl compile wine.model --calibrate wine --expected-samples 36 --out plans/wine.plan
  securedl compile mnist.model --calibrate mnist --report --out plans/mnist.plan
  securedl compile mnist.model --calibrate mnist --target-drop 0.3 --json - --out plans/mnist.plan")]
pub(crate) struct CompileArguments {
    /// The model to compile.
    #[arg(value_name = "MODEL")]
    pub(crate) model: PathBuf,
    /// Data whose training part shows which values to expect.
    #[arg(long, value_name = "PATH")]
    pub(crate) calibrate: String,
    #[command(flatten)]
    pub(crate) reading: ReadingArguments,
    /// Who evaluates the activations: the server (homomorphic squares) or the client while it
    /// refreshes (every reply word is then checked) [default: what the objective prefers].
    #[arg(long, value_enum, value_name = "SIDE")]
    pub(crate) activation: Option<SideName>,
    /// Who may see intermediate values. With `masked` (experimental) the client is a data owner without
    /// weights: PLAN.public and PLAN.pack are written for it, beside PLAN for the server.
    #[arg(long, value_enum, value_name = "WHO", default_value_t = TrustName::Owner)]
    pub(crate) trust: TrustName,
    /// With `--trust masked`: canaries in the pack, drawn from the calibration data [default: 64].
    #[arg(long, value_name = "K", value_parser = clap::value_parser!(u32).range(1..=4096))]
    pub(crate) pack_canaries: Option<u32>,
    /// Bits of inputs/weights/activations, for all layers (4/4/4) or listed for each: weights of every
    /// linear layer, values after each but the last (4/6,4,4/5,4) [default: the model's].
    #[arg(long, value_name = "I/W/A")]
    pub(crate) bits: Option<LayerBits>,
    /// Instead of --bits: search the bits that move the fewest bytes and lose at most this many points
    /// of accuracy to the network before rounding, on a fifth of the training part; for all layers
    /// first, then layer by layer.
    #[arg(long, value_name = "POINTS", conflicts_with = "bits")]
    pub(crate) target_drop: Option<f64>,
    /// Samples of a typical run: what the forecast is about, and what decides how many share a
    /// ciphertext.
    #[arg(long, value_name = "N", default_value_t = 8192, value_parser = clap::value_parser!(u64).range(1..=1 << 40))]
    pub(crate) expected_samples: u64,
    #[command(flatten)]
    pub(crate) planning: PlanningArguments,
    /// Tell what rounding costs: accuracy of every form on the test part, clamps, use of ranges, and
    /// bits that nothing uses.
    #[arg(long)]
    pub(crate) report: bool,
    /// A model to compare with in the report, such as the ReLU network it was made from.
    #[arg(long, value_name = "MODEL")]
    pub(crate) reference: Option<PathBuf>,
    /// Write the report as JSON (without FILE: to standard output).
    #[arg(long, value_name = "FILE", num_args = 0..=1, default_missing_value = "-")]
    pub(crate) json: Option<OutputPath>,
    /// Where to write the plan.
    #[arg(long, value_name = "PLAN")]
    pub(crate) out: PathBuf,
}

/// Show what a model or a plan holds: shapes, bits, ranges, parameters, forecast.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  securedl inspect mnist.model
  securedl inspect plans/mnist.plan --json | jq .digest")]
pub(crate) struct InspectArguments {
    /// A model or a plan; which of them is read from the file.
    #[arg(value_name = "FILE")]
    pub(crate) file: PathBuf,
    /// Write JSON instead of tables (without FILE: to standard output).
    #[arg(long, value_name = "FILE", num_args = 0..=1, default_missing_value = "-")]
    pub(crate) json: Option<OutputPath>,
}

#[derive(Debug, Subcommand)]
pub(crate) enum TlsCommand {
    Init(TlsInitArguments),
    Client(TlsClientArguments),
}

/// Make a development certificate authority and one server certificate.
///
/// Clients need only DIR/ca.pem. The other files stay with the server.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  securedl tls init tls
  securedl tls init tls --name gpu.example.org --name 10.0.0.7
  securedl tls init tls --client ward-7          also what `tls client tls ward-7` makes")]
pub(crate) struct TlsInitArguments {
    /// Folder to create.
    #[arg(value_name = "DIR")]
    pub(crate) directory: PathBuf,
    /// Host name or address of the server besides localhost; may be repeated.
    #[arg(long = "name", value_name = "HOST")]
    pub(crate) names: Vec<String>,
    /// Make a certificate for this client, too, in the folder DIR/client-NAME; may be repeated.
    #[arg(long = "client", value_name = "NAME")]
    pub(crate) clients: Vec<String>,
}

/// Names of networks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum NetworkName {
    /// Convolution 5×5 (5 maps, stride 2), two dense layers; small and fast.
    Cryptonets,
    /// The paper's benchmark: two convolutions with pools, two dense layers.
    Securedl,
    /// Dense 64 and 32, for tables.
    Mlp,
}

/// Names of activations.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum ActivationName {
    /// (z + β)² with β learned.
    Square,
    /// max(z, 0), evaluated by the client.
    Relu,
    /// a z² + b z + c, learned per channel.
    Poly,
}

/// Who evaluates activations.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum SideName {
    /// Homomorphically; checked by canaries and random points.
    Server,
    /// While refreshing; every word of every reply is checked.
    Client,
}

/// Trust settings.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum TrustName {
    /// The client owns the model and may see intermediate values.
    Owner,
    /// The client owns the data only: it gets no weights, and masked intermediate values.
    Masked,
}

/// Parts of a data set.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum SplitName {
    /// The training part.
    Train,
    /// The test part; cut off by the seeded split stored in the model if the data have none.
    Test,
    /// Both, training part first.
    All,
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn the_definition_is_consistent() {
        Arguments::command().debug_assert();
    }

    #[test]
    fn contradictory_flags_are_refused() {
        let infer = |extra: &[&str]| {
            let base = ["securedl", "infer", "--plan", "p", "--data", "d"];
            Arguments::try_parse_from(base.iter().chain(extra))
        };
        assert!(infer(&[]).is_ok());
        assert!(infer(&["--server", "localhost:1", "--tls", "t"]).is_ok());
        assert!(infer(&["--server", "a:1,b:2", "--tls", "t", "--resume", "--out", "o"]).is_ok());
        for wrong in [
            &["--local", "--simulate"] as &[&str],
            &["--server", "localhost:1"],
            &["--tls", "t"],
            &["--server", "localhost:1", "--tls", "t", "--local"],
            &["--samples", "0"],
            &["--replicas", "0"],
            &["--split", "validation"],
            &["--resume"],
            &["--in-flight", "0"],
            &["--identity", "ab"],
        ] {
            assert!(infer(wrong).is_err(), "{wrong:?}");
        }
    }
}
