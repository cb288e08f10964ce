//! Flags of the commands that train.

use std::path::PathBuf;

use clap::Args;

use super::{ActivationName, BitsArgument, NetworkName, OutputPath, ReadingArguments, SideName};

/// Train a polynomial network and write a model file.
///
/// Ends with quantization-aware fine-tuning, so that the model computes in small integers. The same
/// data, settings and seed give the same model on the same kind of machine.
#[derive(Debug, Args)]
#[command(after_help = "\
Data: a path, or the name of a data set in $SECUREDL_DATA.
  images   a folder with IDX files or CIFAR-style records (.gz allowed), or with one folder of PNG or
           JPEG files per class, perhaps below train and test
  arrays   a folder with features.npy and labels.npy, or a file .npz
  tables   a file .csv with a header line and a column of classes

Examples:
  securedl train --data mnist --network cryptonets --out mnist.model
  securedl train --data mnist --network securedl --activation relu --epochs 10 --out paper.model
  securedl train --data wine --network mlp --bits 8/6/6 --out wine.model
  securedl train --data iris.csv --label-column species --network mlp --out iris.model
  securedl train --data mnist --network securedl --checkpoint run.ckpt --resume --out paper.model")]
pub(crate) struct TrainArguments {
    /// Data set: a path, or a name in $SECUREDL_DATA.
    #[arg(long, value_name = "PATH")]
    pub(crate) data: String,
    #[command(flatten)]
    pub(crate) reading: ReadingArguments,
    #[command(flatten)]
    pub(crate) architecture: ArchitectureArguments,
    #[command(flatten)]
    pub(crate) run: TrainingRunArguments,
}

/// Fine-tune a trained model in small integers, with the activations it has.
///
/// For imported networks, models trained with `--bits none`, and models that need other bits: inputs,
/// weights and the values between stages are rounded in training as an encrypted run rounds them
/// (straight-through gradients), so that the weights adapt.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  securedl fine-tune imported.model --data mnist --bits 5/5/6 --out small.model
  securedl fine-tune imported.model --data cifar10 --bits 6/5/6 --epochs 3 --shift 2 --flip \\
                     --out small.model")]
pub(crate) struct FineTuneArguments {
    #[command(flatten)]
    pub(crate) trained: TrainedModelArguments,
    /// Passes over the training data [default: as many as `train` spends on it].
    #[arg(long, value_name = "E", value_parser = clap::value_parser!(u32).range(1..=100_000))]
    pub(crate) epochs: Option<u32>,
    /// Learning rate at the start; it falls along a cosine.
    #[arg(long, value_name = "RATE", default_value_t = 3e-4)]
    pub(crate) learning_rate: f64,
    #[command(flatten)]
    pub(crate) run: TrainingRunArguments,
}

/// Train, compile and run encrypted once per fold, to tell how good a network is on little data.
///
/// Classes are spread evenly over the folds. Each fold is held out once: preprocessing, weights, grids
/// and ranges come from the others, and its samples are classified by an encrypted, verified run
/// against a server in this process. Succeeds if every run is intact and every score exact.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  securedl cross-validate --data wine --network mlp
  securedl cross-validate --data breast_tissue.csv --network mlp --folds 10 --repeats 3 --json -")]
pub(crate) struct CrossValidateArguments {
    /// Data set: a path, or a name in $SECUREDL_DATA.
    #[arg(long, value_name = "PATH")]
    pub(crate) data: String,
    #[command(flatten)]
    pub(crate) reading: ReadingArguments,
    #[command(flatten)]
    pub(crate) architecture: ArchitectureArguments,
    /// Parts of the data.
    #[arg(long, value_name = "K", default_value_t = 5, value_parser = clap::value_parser!(u16).range(2..=1000))]
    pub(crate) folds: u16,
    /// Times to cut the data anew.
    #[arg(long, value_name = "R", default_value_t = 1, value_parser = clap::value_parser!(u16).range(1..=1000))]
    pub(crate) repeats: u16,
    /// Who evaluates the activations in the encrypted runs [default: server, or client for ReLU].
    #[arg(long, value_enum, value_name = "SIDE")]
    pub(crate) side: Option<SideName>,
    /// Seed of folds, weights and order of samples; each repetition has the next one.
    #[arg(long, value_name = "S", default_value_t = 0)]
    pub(crate) seed: u64,
    /// Write a report (`-` = standard output).
    #[arg(long, value_name = "FILE")]
    pub(crate) json: Option<OutputPath>,
}

/// What is trained.
#[derive(Debug, Args)]
pub(crate) struct ArchitectureArguments {
    /// Which network.
    #[arg(long, value_enum, value_name = "NAME")]
    pub(crate) network: NetworkName,
    /// Activation: `square` and `poly` can run at the server, `relu` at the client only.
    #[arg(long, value_enum, value_name = "NAME", default_value_t = ActivationName::Square)]
    pub(crate) activation: ActivationName,
    /// Bits of inputs/weights/activations, or `none` to skip fine-tuning [default: 4/4/4 for image
    /// networks, 6/6/6 for mlp].
    #[arg(long, value_name = "I/W/A")]
    pub(crate) bits: Option<BitsArgument>,
    /// Passes over the training data, before fine-tuning [default: depends on the network].
    #[arg(long, value_name = "E", value_parser = clap::value_parser!(u32).range(1..=100_000))]
    pub(crate) epochs: Option<u32>,
}

/// A trained model that training goes on from.
#[derive(Debug, Args)]
pub(crate) struct TrainedModelArguments {
    /// The model to start from.
    #[arg(value_name = "MODEL")]
    pub(crate) model: PathBuf,
    /// Data to train on: those of the model.
    #[arg(long, value_name = "PATH")]
    pub(crate) data: String,
    #[command(flatten)]
    pub(crate) reading: ReadingArguments,
    /// Bits of inputs/weights/activations; `polynomialize` takes `none`, too [default: the model's,
    /// else those of `train`].
    #[arg(long, value_name = "I/W/A")]
    pub(crate) bits: Option<BitsArgument>,
    /// Learn the function of the model to start from, its scores softened by this temperature, instead
    /// of labels; 0 = labels. Helps where labels are learned by heart.
    #[arg(long, value_name = "T", default_value_t = 0.0)]
    pub(crate) distill: f32,
    /// With --distill: share of the samples that are mixed with another one [default: 0.5].
    #[arg(long, value_name = "SHARE", requires = "distill")]
    pub(crate) mix: Option<f64>,
}

/// Seed, changes of samples, checkpoints and result of a training.
#[derive(Debug, Clone, Default, Args)]
pub(crate) struct TrainingRunArguments {
    /// Move each image by up to this many pixels [default: what the network's recipe says; 0 for
    /// imported networks].
    #[arg(long, value_name = "PIXELS", value_parser = clap::value_parser!(u8).range(0..=16))]
    pub(crate) shift: Option<u8>,
    /// Mirror half of the images left to right.
    #[arg(long)]
    pub(crate) flip: bool,
    /// Seed of the order of samples and their changes; for `train`, of the initial weights and of the
    /// split of data without a test part, too.
    #[arg(long, value_name = "S", default_value_t = 0)]
    pub(crate) seed: u64,
    /// Save the state of the training here after every epoch.
    #[arg(long, value_name = "FILE")]
    pub(crate) checkpoint: Option<PathBuf>,
    /// Go on from the checkpoint, if there is one.
    #[arg(long, requires = "checkpoint")]
    pub(crate) resume: bool,
    /// Where to write the model.
    #[arg(long, value_name = "MODEL")]
    pub(crate) out: PathBuf,
}
