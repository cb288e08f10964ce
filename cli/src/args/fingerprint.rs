//! Flags of `securedl fingerprint` and `securedl verify`.

use std::path::PathBuf;

use clap::{ArgGroup, Args, Subcommand, ValueEnum};
use fingerprint::{ComparisonRule, GeneratorKind, OptimizerKind, SelectionRule};

use super::{CredentialArguments, OutputPath, ReadingArguments, SplitName};

/// Fingerprints: samples whose answers give a modified model away.
#[derive(Debug, Subcommand)]
pub(crate) enum FingerprintCommand {
    Generate(GenerateArguments),
    Show(ShowArguments),
}

/// Make a fingerprint of a model or a plan.
///
/// Searches for inputs whose answers move when any weight moves, rounds them to what the endpoint can
/// receive, and chooses a few. A fingerprint of a model audits endpoints in the clear; that of a plan
/// rides in encrypted batches and holds the exact integers of every segment. Keep it secret: who knows
/// the samples can answer them right and cheat elsewhere.
#[derive(Debug, Args)]
#[command(after_help = "\
Generators: tie (default), boundary-entropy, ssf, ssf-reference, securedl, non-sensitive, random.
Selection: class-cover (default), manc, active-sensitivity, greedy, random.

Examples:
  securedl fingerprint generate mnist.model --data mnist --out mnist.fp
  securedl fingerprint generate mnist.model --data mnist --generator ssf --ball 25 --count 10 \\
                                --select manc --out natural.fp
  securedl fingerprint generate mnist.model --data mnist --bag 5000 --checkpoint bag.part --resume \
                                --out large.fp
  securedl fingerprint generate plans/mnist.plan --model mnist.model --data mnist --out plan.fp")]
pub(crate) struct GenerateArguments {
    /// A model or a plan.
    #[arg(value_name = "MODEL|PLAN")]
    pub(crate) file: PathBuf,
    /// The model a plan was compiled from: where gradients come from.
    #[arg(long, value_name = "MODEL")]
    pub(crate) model: Option<PathBuf>,
    /// Natural samples to start from: a path, or a name in $SECUREDL_DATA.
    #[arg(long, value_name = "PATH")]
    pub(crate) data: String,
    #[command(flatten)]
    pub(crate) reading: ReadingArguments,
    /// Which part of the data.
    #[arg(long, value_enum, value_name = "PART", default_value_t = SplitName::Test)]
    pub(crate) split: SplitName,
    /// How samples are found.
    #[arg(long, value_name = "NAME", default_value_t)]
    pub(crate) generator: GeneratorKind,
    /// How smooth objectives are climbed, by ssf, ssf-reference, securedl and boundary-entropy: adam,
    /// projected-gradient, or l-bfgs (without --ball) [default: adam].
    #[arg(long, value_name = "NAME")]
    pub(crate) optimizer: Option<OptimizerKind>,
    /// Samples of the fingerprint.
    #[arg(long, value_name = "K", default_value_t = 8, value_parser = clap::value_parser!(u32).range(1..=65_536))]
    pub(crate) count: u32,
    /// Samples generated, of which the fingerprint's are chosen [default: 100, or K if that is more].
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    pub(crate) bag: Option<u32>,
    /// How they are chosen.
    #[arg(long, value_name = "RULE", default_value_t)]
    pub(crate) select: SelectionRule,
    /// How answers are compared: top-1, top-K, decimals-N, tolerance-R, exact [default: top-1 for
    /// models, exact for plans].
    #[arg(long, value_name = "RULE")]
    pub(crate) rule: Option<ComparisonRule>,
    /// Bits of the endpoint's inputs (models; plans have their own) [default: 8].
    #[arg(long, value_name = "B", value_parser = clap::value_parser!(u32).range(1..=16))]
    pub(crate) input_bits: Option<u32>,
    /// Stay within so many grey levels (root mean square) of the natural sample.
    #[arg(long, value_name = "RMS")]
    pub(crate) ball: Option<f64>,
    /// Smallest distance of the two largest scores, relative to the largest: the tolerance the file
    /// declares [default: 1e-5 for models, 0 for plans].
    #[arg(long, value_name = "R")]
    pub(crate) margin: Option<f64>,
    /// Seed of everything random.
    #[arg(long, value_name = "S", default_value_t = 0)]
    pub(crate) seed: u64,
    /// Keep the samples found so far in this file, as secret as the fingerprint; removed in the end.
    #[arg(long, value_name = "FILE")]
    pub(crate) checkpoint: Option<PathBuf>,
    /// Go on from the checkpoint, if there is one.
    #[arg(long, requires = "checkpoint")]
    pub(crate) resume: bool,
    /// Where to write the fingerprint.
    #[arg(long, value_name = "FP")]
    pub(crate) out: PathBuf,
    /// Write what it holds, but for the samples themselves, as JSON (`-` = standard output).
    #[arg(long, value_name = "FILE")]
    pub(crate) json: Option<OutputPath>,
}

/// Show what a fingerprint holds, and draw its samples beside the natural ones.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  securedl fingerprint show mnist.fp
  securedl fingerprint show mnist.fp --out sheet.svg")]
pub(crate) struct ShowArguments {
    /// The fingerprint.
    #[arg(value_name = "FP")]
    pub(crate) file: PathBuf,
    /// Where to write a contact sheet of the samples: a name that ends in .svg or .png.
    #[arg(long, value_name = "FILE")]
    pub(crate) out: Option<PathBuf>,
    /// Go on only if this owner has signed it (`owner.pub`); may be repeated.
    #[arg(long = "owner", value_name = "PUB")]
    pub(crate) owners: Vec<PathBuf>,
    /// Write what it holds, but for the samples themselves, as JSON (`-` = standard output).
    #[arg(long, value_name = "FILE")]
    pub(crate) json: Option<OutputPath>,
}

/// Check whether the model behind an endpoint is the one a fingerprint was made of.
///
/// An HTTP endpoint sees the samples, may log them, and is asked twice to find out whether it answers
/// the same every time (samples that differ five times more); each such use is counted in the
/// fingerprint. The natural samples behind the fingerprint are the control: if most of them come out
/// wrong, the description of the service does not fit. Proxies are used only if named by --proxy. A SecureDL server sees ciphertexts
/// only, and the exact integers of every segment are compared.
#[derive(Debug, Args)]
#[command(group(ArgGroup::new("where").args(["endpoint", "server"]).required(true)))]
#[command(after_help = "\
The request template is JSON with one placeholder: \"{{inputs}}\" (all samples, flat), \"{{images}}\"
(all, nested by shape), \"{{input}}\" or \"{{image}}\" (one sample per request). The response pointer leads
to the list of answers; `*` stands for the number of the sample.

Exit codes: 0 every answer agrees, 1 the model is another one, 2 an error, an endpoint whose answers
change from one time to the next, or a description that does not fit it.

Examples:
  securedl verify --endpoint https://api.example.org/v1/classify --fingerprint mnist.fp \\
                  --request '{\"instances\": \"{{images}}\"}' --response /predictions --answers probabilities
  securedl verify --endpoint http://localhost:8000/ --fingerprint mnist.fp --answers labels \\
                  --response '/results/*/label' --header @secret-headers.txt
  securedl verify --server localhost:7443 --tls tls --plan plans/mnist.plan --fingerprint plan.fp")]
pub(crate) struct VerifyArguments {
    /// Address of a service that takes and gives JSON.
    #[arg(long, value_name = "URL")]
    pub(crate) endpoint: Option<String>,
    /// A SecureDL server, as host:port.
    #[arg(long, value_name = "ADDR", requires_all = ["tls", "plan"])]
    pub(crate) server: Option<String>,
    /// Folder with the server's ca.pem.
    #[arg(long, value_name = "DIR", requires = "server")]
    pub(crate) tls: Option<PathBuf>,
    /// The plan the server holds.
    #[arg(long, value_name = "PLAN", requires = "server")]
    pub(crate) plan: Option<PathBuf>,
    /// Folder for evidence of a failed check of an encrypted run [default: `evidence`].
    #[arg(long, value_name = "DIR", requires = "server", conflicts_with = "no_evidence")]
    pub(crate) evidence: Option<PathBuf>,
    /// Keep no evidence.
    #[arg(long, requires = "server")]
    pub(crate) no_evidence: bool,
    /// The fingerprint.
    #[arg(long, value_name = "FP")]
    pub(crate) fingerprint: PathBuf,
    /// How answers are compared [default: the fingerprint's rule].
    #[arg(long, value_name = "RULE")]
    pub(crate) rule: Option<ComparisonRule>,
    /// Body of a request, or @FILE [default: {"inputs": "{{inputs}}"}].
    #[arg(long, value_name = "JSON", requires = "endpoint")]
    pub(crate) request: Option<String>,
    /// Where the reply holds the answers, as a JSON pointer [default: /outputs].
    #[arg(long, value_name = "POINTER", requires = "endpoint")]
    pub(crate) response: Option<String>,
    /// What the reply holds for each sample.
    #[arg(long, value_enum, value_name = "FORM", default_value_t = AnswerName::Probabilities)]
    pub(crate) answers: AnswerName,
    /// What the service takes.
    #[arg(long, value_enum, value_name = "UNITS", default_value_t = UnitsName::Levels)]
    pub(crate) units: UnitsName,
    /// Order of the axes in image requests.
    #[arg(long, value_enum, value_name = "ORDER", default_value_t = LayoutName::Hwc)]
    pub(crate) layout: LayoutName,
    /// Number of the first class in labels and ranks.
    #[arg(long, value_name = "0|1", default_value_t = 0, value_parser = clap::value_parser!(u32).range(0..=1))]
    pub(crate) first_label: u32,
    /// A header `Name: value`, or @FILE with one per line; may be repeated. Credentials belong into a
    /// file: arguments are visible to other users of the machine.
    #[arg(long, value_name = "HEADER", requires = "endpoint")]
    pub(crate) header: Vec<String>,
    /// Send headers also over plain http to another host, where everybody on the way reads them.
    #[arg(long, requires = "header")]
    pub(crate) insecure_headers_over_http: bool,
    /// Proxy to go through, http://host:port, or @FILE with one that has a password. Those of the
    /// environment are not used.
    #[arg(long, value_name = "URL", requires = "endpoint")]
    pub(crate) proxy: Option<String>,
    /// Certificate authority of the service (PEM) [default: the public ones].
    #[arg(long, value_name = "FILE", requires = "endpoint")]
    pub(crate) ca: Option<PathBuf>,
    /// Seconds for one request.
    #[arg(long, value_name = "SECONDS", default_value_t = 30, value_parser = clap::value_parser!(u64).range(1..=86_400))]
    pub(crate) timeout: u64,
    /// Attempts while the service answers 429 or 503.
    #[arg(long, value_name = "N", default_value_t = 6, value_parser = clap::value_parser!(u32).range(1..=1000))]
    pub(crate) attempts: u32,
    /// Ask the samples once, not twice: an endpoint whose answers change then looks modified.
    #[arg(long, requires = "endpoint")]
    pub(crate) once: bool,
    #[command(flatten)]
    pub(crate) credentials: CredentialArguments,
    /// Use the fingerprint, and the plan, only if this owner has signed them (`owner.pub`); may be
    /// repeated.
    #[arg(long = "owner", value_name = "PUB")]
    pub(crate) owners: Vec<PathBuf>,
    /// Seconds to wait for a SecureDL server that cannot be reached any more.
    #[arg(long, value_name = "SECONDS", default_value_t = 60)]
    pub(crate) patience: u64,
    /// Where to write a report (`-` = standard output).
    #[arg(long, value_name = "FILE")]
    pub(crate) json: Option<OutputPath>,
}

/// Forms of answers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum AnswerName {
    /// One class, by number or name; strings are names, also those of digits.
    Labels,
    /// Classes, best first.
    Ranked,
    /// One score per class, before softmax.
    Logits,
    /// One probability per class.
    Probabilities,
    /// One whole number per class.
    Integers,
}

/// Orders of the axes of images.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum LayoutName {
    /// Height, width, channels.
    Hwc,
    /// Channels, height, width.
    Chw,
}

/// Units of a service's inputs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum UnitsName {
    /// Whole numbers from 0: bytes of pixels.
    Levels,
    /// What the network sees.
    Preprocessed,
    /// Features before preprocessing.
    Raw,
}
