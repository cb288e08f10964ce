//! Flags of `securedl attack`.

use std::path::PathBuf;
use std::str::FromStr;

use clap::Args;
use clap::builder::{PossibleValuesParser, TypedValueParser};
use fingerprint::GeneratorKind;
use fingerprint::attack::AttackKind;

use super::{OutputPath, ReadingArguments};

/// Tamper with a model as an attacker would, to try a detector on.
///
/// Writes the tampered model and reports whether the attack worked: clean accuracy before and after,
/// and how far it reached its goal. An attack that did not work must not be counted as detected, nor
/// as missed.
#[derive(Debug, Args)]
#[command(after_help = "\
Kinds, what --strength means, and its default:
  trojan              share of training samples with the trigger                    0.17
  trojan-matched      the same, and clean samples keep their scores                 0.17
  adaptive            the same, and own sensitive samples keep their scores         0.17
  error-generic       share of the source class that is mislabeled                  1
  error-specific      share of the source class that is labeled as the target       1
  precision           bits per weight, then retraining                              8
  quantize            bits per weight, without retraining                           8
  prune               share of weights set to zero, then retraining                 0.75
  low-rank            share of the weights' storage kept as factors                 0.25
  arbitrary-weights   share of weights that get N(0, 1) noise                       0.001
  noise               noise on all weights, over their layer's deviation            0.01
  fine-tune-last      learning rate on the last layer                               0.001
  fine-tune-all       learning rate on all layers                                   0.00001
  single-weight       change of one weight in steps of a 4-bit grid                 1
  bit-flip            flipped bits of 32-bit floating-point weights                 1
  quantized-bit-flip  flipped bits of 8-bit integer weights                         1
  distill             random share of the student's initial weights                 1

Examples:
  securedl attack trojan mnist.model --data mnist --out trojan.model
  securedl attack error-specific signs.model --data gtsrb --source 14 --target 2 --out poisoned.model
  securedl attack adaptive mnist.model --data mnist --generator boundary-entropy --out hidden.model
  securedl attack prune mnist.model --data mnist --strength 0.5 --json report.json --out small.model")]
pub(crate) struct AttackArguments {
    /// What to do to the model.
    #[arg(value_name = "KIND", value_parser = kinds(), hide_possible_values = true)]
    pub(crate) kind: AttackKind,
    /// The model to attack.
    #[arg(value_name = "MODEL")]
    pub(crate) model: PathBuf,
    /// Data set to retrain with and to measure on: a path, or a name in $SECUREDL_DATA.
    #[arg(long, value_name = "PATH")]
    pub(crate) data: String,
    #[command(flatten)]
    pub(crate) reading: ReadingArguments,
    /// How strong; what the number means depends on the kind [default: the papers' setting].
    #[arg(long, value_name = "X")]
    pub(crate) strength: Option<f64>,
    /// Seed of everything random.
    #[arg(long, value_name = "S", default_value_t = 0)]
    pub(crate) seed: u64,
    /// Passes over the training samples [default: depends on the kind and the number of samples].
    #[arg(long, value_name = "E", value_parser = clap::value_parser!(u32).range(1..=100_000))]
    pub(crate) epochs: Option<u32>,
    /// Training samples the attacker has, from the start of the data [default: all].
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    pub(crate) samples: Option<u64>,
    /// Class that poisoning damages, by name or number [default: 14 of 43, else 7 or the last].
    #[arg(long, value_name = "CLASS")]
    pub(crate) source: Option<String>,
    /// Class that poisoning or a trigger leads to [default: 2 of 43, else 1; for triggers 0].
    #[arg(long, value_name = "CLASS")]
    pub(crate) target: Option<String>,
    /// Data set of sensitive samples the adaptive attacker made, never those of the fingerprint
    /// [default: 200 generated from training samples].
    #[arg(long, value_name = "PATH")]
    pub(crate) sensitive: Option<String>,
    /// How the adaptive attacker generates samples [default: tie, as `securedl fingerprint generate`].
    #[arg(long, value_name = "NAME", conflicts_with = "sensitive")]
    pub(crate) generator: Option<GeneratorKind>,
    /// Where to write the tampered model.
    #[arg(long, value_name = "MODEL")]
    pub(crate) out: PathBuf,
    /// Write the report as JSON (`-` = standard output).
    #[arg(long, value_name = "FILE")]
    pub(crate) json: Option<OutputPath>,
}

fn kinds() -> impl TypedValueParser<Value = AttackKind> {
    PossibleValuesParser::new(AttackKind::ALL.map(AttackKind::name))
        .try_map(|name| AttackKind::from_str(&name))
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;
    use crate::args::Arguments;

    #[test]
    fn the_help_lists_every_kind_with_its_default() {
        let mut command = Arguments::command();
        let attack = command.find_subcommand_mut("attack").unwrap();
        let help = attack.render_long_help().to_string();
        for kind in AttackKind::ALL {
            let line = help.lines().find(|line| line.trim_start().starts_with(&format!("{kind} ")));
            let default: f64 = line.unwrap().split_whitespace().last().unwrap().parse().unwrap();
            assert_eq!(default, kind.dial().default, "{kind}");
        }
    }
}
