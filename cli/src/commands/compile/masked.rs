//! `securedl compile --trust masked`: a plan for the server; its public part and a pack for data owners.

use std::path::{Path, PathBuf};

use anyhow::{Result, bail};
use fingerprint::{CanaryPack, CanarySet, LayoutOptions, MaskedSoundness};
use ndarray::Axis;
use nn_poly::compiler::Prepared;
use nn_poly::encrypted::masked::{BlockMasks, MaskKey, RequestHash};
use nn_poly::integer::IntegerMatrix;
use nn_poly::plan::{ActivationSide, Plan, PlanOptions, Trust, compile};
use rand_chacha::ChaCha20Rng;
use rand_chacha::rand_core::SeedableRng;

use crate::args::{CompileArguments, DEFAULT_PACK_CANARIES, SideName};
use crate::failure::{Hint, Outcome};
use crate::output::OutputFile;
use crate::report::terminal::{Ink, Screen};
use crate::report::units;

/// Samples of the calibration data on which masked labels are compared with plain ones.
pub(super) const COMPARED_SAMPLES: usize = 256;

/// Refuse what a masked plan cannot have, before any work.
///
/// # Errors
/// A flag that asks for it.
pub(super) fn check(arguments: &CompileArguments) -> Result<()> {
    let planning = &arguments.planning;
    for (is_set, flag, reason) in [
        (
            arguments.activation == Some(SideName::Client),
            "--activation client",
            "its client must not see the values that activations are applied to",
        ),
        (planning.rounds.is_some(), "--rounds", "its values are refreshed after every layer"),
        (
            planning.relinearize.is_some(),
            "--relinearize",
            "its values are refreshed after every layer",
        ),
        (planning.calibrated, "--calibrated", "its masks hide values of proven ranges only"),
        (
            arguments.target_drop.is_some(),
            "--target-drop",
            "the search looks at plans of the owner's setting: choose --bits",
        ),
        (arguments.json.is_some(), "--json", "the report is about plans of the owner's setting"),
        (arguments.report, "--report", "the report is about plans of the owner's setting"),
        (arguments.reference.is_some(), "--reference", "it belongs to the report"),
        (planning.objective.is_some(), "--objective", "there is one plan, nothing to choose from"),
        (planning.memory.is_some(), "--memory", "there is one plan, whatever memory it takes"),
        (planning.link.is_some(), "--link", UNTIMED),
        (planning.latency.is_some(), "--latency", UNTIMED),
        (planning.server_cores.is_some(), "--server-cores", UNTIMED),
        (planning.no_self_test, "--no-self-test", UNTIMED),
    ] {
        if is_set {
            bail!("a masked plan takes no {flag}: {reason}");
        }
    }
    Ok(())
}

/// Why machines and the link do not matter.
const UNTIMED: &str = "its rings are the cheapest that hold the values, and no time is forecast";

/// Where the parts go: beside the plan, for whoever owns data.
fn beside(plan: &Path, suffix: &str) -> PathBuf {
    let mut name = plan.as_os_str().to_owned();
    name.push(suffix);
    name.into()
}

/// What the setting does not hold.
const LEAK: &str = "experimental: masks hide single values, but masked values and scores of about as many samples as the \
                    last hidden layer has neurons (a single block is enough) determine the weights of the last layer (SECURITY.md, \
                    trust settings): do not rely on this to keep a model secret";

/// Compile, write the three files, and say what they are for.
///
/// Canaries are drawn from `inputs`, the calibration data on the plan's grid; masked labels are compared with
/// plain ones on `compared`, some of them.
///
/// # Errors
/// A network that masks cannot serve, or files that cannot be written.
pub(super) fn run(
    screen: &Screen,
    arguments: &CompileArguments,
    prepared: Prepared,
    inputs: &IntegerMatrix,
    compared: &IntegerMatrix,
) -> Result<Outcome> {
    let files =
        [arguments.out.clone(), beside(&arguments.out, ".public"), beside(&arguments.out, ".pack")];
    let checked = files.iter().map(|file| OutputFile::check(file)).collect::<Result<Vec<_>>>()?;
    let Prepared { network, facts, .. } = prepared;
    let options = PlanOptions {
        activation_side: ActivationSide::Server,
        trust: Trust::Masked,
        expected_samples: arguments.expected_samples,
        ..PlanOptions::default()
    };
    let plan = compile(&network, &[], facts, &options).hint(|| {
        "nothing is clamped under --trust masked, so that ranges grow from layer to layer: fewer bits \
         (--bits) or fewer layers make the numbers smaller"
    })?;
    let mut rng = ChaCha20Rng::from_os_rng();
    let wanted = arguments.pack_canaries.unwrap_or(DEFAULT_PACK_CANARIES) as usize;
    let n_canaries = wanted.min(inputs.ncols());
    let drawn = CanarySet::draw_from(inputs.ncols(), n_canaries, &mut rng)?;
    let pack = CanaryPack::make(&plan, &inputs.select(Axis(1), &drawn))?;
    let (n_equal, raised) = agreement(&plan, compared, &mut rng)?;
    let bytes = [plan.to_bytes()?, plan.public().to_bytes()?, pack.to_bytes()?];
    for (file, bytes) in checked.iter().zip(&bytes) {
        file.write(bytes)?;
    }

    screen.paragraph(2, screen.paint(Ink::Warn, LEAK));
    screen.gap();
    super::print_plan(screen, &plan)?;
    screen.heading("Masks");
    let public = plan.public();
    for stage in 0..public.stages.len() {
        let segments = public.segments_of(stage)?;
        let first = public.first_segment(stage)?;
        let Some(part) = first.mask else { continue };
        let text = if part.mask_bits == 0 {
            format!("scores, {} primes, no mask: they are the result", segments.len())
        } else {
            format!(
                "masks of {} bits, 40 beyond the proven range; {} primes",
                part.mask_bits,
                segments.len()
            )
        };
        screen.fact(&format!("Stage {stage}"), text);
    }
    let share = format!(
        "{} of {} samples, spread over the {} for calibration, keep their label; {} of the refreshed values are one \
         unit high",
        units::count(n_equal as u64),
        units::count(compared.ncols() as u64),
        units::count(inputs.ncols() as u64),
        units::percent(raised)
    );
    screen.fact("Masked", share);
    print_pack(screen, &pack);
    screen.gap();
    let told = [
        ("Plan", "holds the weights: for the server and the owner only"),
        ("Public", "no weights: for data owners"),
        (
            "Pack",
            "canaries with tolerated scores: for data owners, not for the server; sign it like the plan",
        ),
    ];
    for (((name, advice), file), bytes) in told.iter().zip(&files).zip(&bytes) {
        let size = units::bytes(bytes.len() as u64);
        screen.fact(name, format!("{} ({size}); {advice}", file.display()));
    }
    screen.fact("Digest", plan.digest());
    screen.finish()?;
    Ok(Outcome::Success)
}

fn print_pack(screen: &Screen, pack: &CanaryPack) {
    let sharpness = pack.sharpness();
    let text = format!(
        "{} canaries; scores tolerated within {} of a canary's spread; {} keep their label whatever the masks; \
         {} at most tolerate the same scores",
        sharpness.n_canaries,
        units::percent(sharpness.width_share),
        sharpness.n_decided,
        sharpness.n_alike
    );
    screen.fact("Pack", text);
    // As `infer` draws them unless told otherwise; its figures also depend on the samples of a block.
    let n_drawn = sharpness.n_canaries.min(LayoutOptions::default().network_canaries);
    let soundness = MaskedSoundness::new(1, n_drawn, sharpness, pack.false_alarm_bits());
    if !soundness.vouches() {
        let text = "these canaries vouch for nothing: `infer` will end as not verified, whatever the server does. \
                    More bits of activations (--bits) narrow the tolerances, and samples of several classes \
                    tell more";
        screen.paragraph(2, screen.paint(Ink::Warn, text));
    } else if sharpness.width_share > 1.0 {
        let text = "the tolerance is wider than the scores lie apart: canaries notice gross cheating \
                    only; more bits of activations (--bits) narrow it";
        screen.paragraph(2, screen.paint(Ink::Warn, text));
    }
}

/// Labels that masks leave as they are without clamps, and the share of raised values.
#[expect(clippy::cast_precision_loss, reason = "a share for people")]
fn agreement(plan: &Plan, inputs: &IntegerMatrix, rng: &mut ChaCha20Rng) -> Result<(usize, f64)> {
    let network = plan.network();
    // A key that is used nowhere else: draws like a server's.
    let key = MaskKey::generate(rng);
    let requests = vec![RequestHash([0; 32]); plan.public().stages.len()];
    let masked = plan.simulate_masked(inputs, &BlockMasks::new(&key, plan, &requests))?;
    let plain = network.evaluate(inputs)?.predictions();
    let best = |column: ndarray::ArrayView1<'_, i64>| {
        let highest = column.iter().max().copied();
        column.iter().position(|score| Some(*score) == highest)
    };
    let labels = masked.scores.columns().into_iter().map(best);
    let n_equal = labels.zip(&plain).filter(|(label, plain)| *label == Some(**plain)).count();
    let n_values: usize = masked.refreshed.iter().map(ndarray::ArrayBase::len).sum();
    Ok((n_equal, masked.n_raised as f64 / n_values.max(1) as f64))
}
