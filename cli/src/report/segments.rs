//! Stages and segments of a plan as tables.

use nn_poly::integer::{
    ActivationKind, ConvGeometry, Grouping, LinearGeometry, Pool, Reduction, StageStructure,
    SumTerm,
};
use nn_poly::plan::{Forecast, Packing, PublicPlan, Segment};

use super::table::{Grid, Lean};
use super::terminal::{Ink, Screen};
use super::units;

/// Print what each segment computes and how it is encrypted.
pub(crate) fn print_segments(screen: &Screen, plan: &PublicPlan) {
    let columns = [
        ("", Lean::Right),
        ("computes", Lean::Left),
        ("values", Lean::Right),
        ("range", Lean::Right),
        ("packing", Lean::Right),
        ("degree", Lean::Right),
        ("t", Lean::Right),
        ("Q", Lean::Right),
        ("margin", Lean::Right),
    ];
    let mut grid = Grid::new(screen, &columns);
    for (idx, segment) in plan.segments.iter().enumerate() {
        let stage = plan.stages.get(segment.stage as usize);
        grid.row([
            idx.to_string(),
            stage.map_or_else(String::new, |stage| describe(stage, segment)),
            format!("{} → {}", units::count(segment.n_inputs), units::count(segment.n_outputs)),
            format!("{} {}", value_bits(segment, stage), segment.range.evidence),
            packing(segment.packing),
            segment.ring.ring_degree.to_string(),
            format!("{:.1}", segment.ring.log2_plaintext_modulus()),
            modulus(segment),
            format!("{:.1}", segment.noise.margin_bits()),
        ]);
    }
    grid.print(screen);
    let legend = "range, t (plaintext modulus), Q (ciphertext modulus) and margin (left by the noise) in \
                  bits; packing in slots, or samples × bits of a coefficient; [in brackets] what \
                  the client computes";
    screen.paragraph(2, screen.paint(Ink::Dim, legend));
}

/// Bits of the ciphertext modulus, and of the special one that a relinearization key has besides.
fn modulus(segment: &Segment) -> String {
    let bits = format!("{:.0}", segment.ring.log2_ciphertext_modulus());
    match segment.ring.special_modulus {
        Some(_) => format!("{bits} + {:.0}", segment.ring.log2_special_modulus()),
        None => bits,
    }
}

/// Print what a run costs, segment by segment.
pub(crate) fn print_forecast(screen: &Screen, forecast: &Forecast) {
    let columns = [
        ("", Lean::Right),
        ("blocks", Lean::Right),
        ("filled", Lean::Right),
        ("up", Lean::Right),
        ("down", Lean::Right),
    ];
    let mut grid = Grid::new(screen, &columns);
    for segment in &forecast.segments {
        grid.row([
            segment.segment.to_string(),
            units::count(segment.blocks),
            format!("{:.0} %", 100.0 * segment.occupancy),
            units::bytes(segment.bytes_up + segment.seed_bytes),
            units::bytes(segment.bytes_down),
        ]);
    }
    grid.row([
        "all".to_owned(),
        String::new(),
        String::new(),
        units::bytes(forecast.bytes_up),
        units::bytes(forecast.bytes_down),
    ]);
    grid.print(screen);
}

/// What a segment computes: `conv 5×5/2, square`, `dense`, with what the client does in brackets.
pub(crate) fn describe(stage: &StageStructure, segment: &Segment) -> String {
    let mut steps = Vec::new();
    for step in stage.chain.iter().flat_map(|chain| &chain.steps) {
        let pool = step.pool.map(|pool| format!(", {}", pool_text(&pool)));
        steps.push(format!("{}, square{}", map_text(&step.linear), pool.unwrap_or_default()));
    }
    steps.push(stage_text(stage, segment));
    let mut steps = steps.join(", ");
    if segment.relinearizes() {
        steps.push_str(", relinearized");
    }
    let residue = segment.chain.as_ref().map(|part| part.residue);
    match residue.or(segment.mask.map(|part| part.residue)) {
        Some(residue) if segment.n_residues() > 1 => {
            format!("{steps} (residue {} of {})", residue + 1, segment.n_residues())
        }
        _ => steps,
    }
}

fn pool_text(pool: &Pool) -> String {
    let kind = match pool.reduction {
        Reduction::Sum => "pool",
        Reduction::Max => "max pool",
    };
    format!("{kind} {}×{}", pool.window.0, pool.window.1)
}

fn map_text(linear: &LinearGeometry) -> String {
    match linear {
        LinearGeometry::Dense { .. } => "dense".to_owned(),
        LinearGeometry::Conv2d(conv) => convolution(conv),
        LinearGeometry::Sum(sum) => {
            let term = |term: &SumTerm| match term.conv {
                ConvGeometry { grouping: Grouping::Depthwise, kernel: (1, 1), .. } => {
                    "input".into()
                }
                conv if conv.input.height * conv.input.width == 1 => "dense".into(),
                conv => convolution(&conv),
            };
            sum.terms.iter().map(term).collect::<Vec<String>>().join(" + ")
        }
    }
}

/// The stage's own linear map, and what follows it.
fn stage_text(stage: &StageStructure, segment: &Segment) -> String {
    let linear = map_text(&stage.linear);
    let mut tail = Vec::new();
    match &stage.activation {
        ActivationKind::Identity => {}
        ActivationKind::Relu => tail.push("relu".to_owned()),
        ActivationKind::Quadratic => tail.push("square".to_owned()),
        ActivationKind::Table(_) => tail.push("table".to_owned()),
    }
    tail.extend(stage.pool.as_ref().map(pool_text));
    match (tail.is_empty(), segment.evaluates_activation) {
        (true, _) => linear,
        (false, true) => format!("{linear}, {}", tail.join(", ")),
        (false, false) => format!("{linear} [{}]", tail.join(", ")),
    }
}

/// `conv 5×5/2`, `depthwise 3×3`, `conv 3×3 in 4 groups`.
fn convolution(conv: &ConvGeometry) -> String {
    let (kind, groups) = match conv.grouping {
        Grouping::Full => ("conv", String::new()),
        Grouping::Depthwise => ("depthwise", String::new()),
        Grouping::Groups(n) => ("conv", format!(" in {n} groups")),
    };
    let (height, width) = conv.kernel;
    let stride = if conv.stride == (1, 1) { String::new() } else { format!("/{}", conv.stride.0) };
    format!("{kind} {height}×{width}{stride}{groups}")
}

/// Bits of the values a segment computes: over all residues, before a chain divides them.
pub(crate) fn value_bits(segment: &Segment, stage: Option<&StageStructure>) -> u32 {
    let dropped = stage.and_then(|stage| stage.chain.as_ref()).map_or(0, |chain| chain.descale);
    64 - segment.range.high.abs_diff(segment.range.low).leading_zeros() + dropped
}

/// Share of refreshed values that a clamp changed, given how many it changed over `n_samples`.
#[expect(clippy::cast_precision_loss, reason = "a share for people")]
pub(crate) fn clamped_share(plan: &PublicPlan, n_samples: usize, n_clamped: u64) -> f64 {
    let refreshed = plan.stages.iter().filter(|stage| stage.refresh.is_some());
    let n_values: usize = refreshed.map(StageStructure::n_outputs).sum();
    n_clamped as f64 / (n_values as f64 * n_samples as f64).max(1.0)
}

fn packing(packing: Packing) -> String {
    match packing {
        Packing::Slots => "slots".to_owned(),
        Packing::Coefficients { radix_bits, samples_per_coefficient } => {
            format!("{samples_per_coefficient}×{radix_bits}")
        }
    }
}
