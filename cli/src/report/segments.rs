//! Stages and segments of a plan as tables.

use nn_poly::integer::{ActivationKind, Grouping, LinearGeometry, StageStructure};
use nn_poly::plan::{Forecast, Packing, PublicPlan, Segment};

use super::table::{Grid, Lean};
use super::terminal::{Ink, Screen};
use super::units;

/// Print the forecast: what each segment computes, how it is encrypted, what it costs.
pub(crate) fn print_forecast(screen: &Screen, plan: &PublicPlan, forecast: &Forecast) {
    let mut grid = Grid::new(
        screen,
        &[
            ("", Lean::Right),
            ("computes", Lean::Left),
            ("values", Lean::Right),
            ("range", Lean::Right),
            ("N", Lean::Right),
            ("t", Lean::Right),
            ("Q", Lean::Right),
            ("packing", Lean::Left),
            ("margin", Lean::Right),
            ("blocks", Lean::Right),
            ("filled", Lean::Right),
            ("up", Lean::Right),
            ("down", Lean::Right),
        ],
    );
    for (idx, (segment, cost)) in plan.segments.iter().zip(&forecast.segments).enumerate() {
        let stage = plan.stages.get(segment.stage as usize);
        grid.row([
            idx.to_string(),
            stage.map_or_else(String::new, |stage| describe(stage, segment)),
            format!("{}→{}", units::count(segment.n_inputs), units::count(segment.n_outputs)),
            range(segment),
            segment.ring.ring_degree.to_string(),
            format!("{:.1} b", cost.plaintext_modulus_bits),
            format!("{:.0} b", cost.ciphertext_modulus_bits),
            packing(segment.packing),
            format!("{:.1} b", cost.noise_margin_bits),
            units::count(cost.blocks),
            format!("{:.0} %", 100.0 * cost.occupancy),
            units::bytes(cost.bytes_up + cost.seed_bytes),
            units::bytes(cost.bytes_down),
        ]);
    }
    grid.print(screen);
    screen.line(format_args!(
        "  {}",
        screen.paint(
            Ink::Dim,
            "N ring degree, t plaintext and Q ciphertext modulus, margin between noise bound and capacity"
        )
    ));
}

/// What a segment computes: `conv 5×5/2, square`, `dense`, with what the client does in brackets.
pub(crate) fn describe(stage: &StageStructure, segment: &Segment) -> String {
    let linear = match &stage.linear {
        LinearGeometry::Dense { .. } => "dense".to_owned(),
        LinearGeometry::Conv2d(conv) => {
            let kind = match conv.grouping {
                Grouping::Full => "conv",
                Grouping::Depthwise => "depthwise",
            };
            let (height, width) = conv.kernel;
            let stride = if conv.stride == (1, 1) { String::new() } else { format!("/{}", conv.stride.0) };
            format!("{kind} {height}×{width}{stride}")
        }
    };
    let mut tail = Vec::new();
    match stage.activation {
        ActivationKind::Identity => {}
        ActivationKind::Relu => tail.push("relu".to_owned()),
        ActivationKind::Quadratic => tail.push("square".to_owned()),
    }
    if let Some(pool) = &stage.pool {
        tail.push(format!("pool {}×{}", pool.window.0, pool.window.1));
    }
    match (tail.is_empty(), segment.evaluates_activation) {
        (true, _) => linear,
        (false, true) => format!("{linear}, {}", tail.join(", ")),
        (false, false) => format!("{linear} [{}]", tail.join(", ")),
    }
}

/// Width of the values on the wire, and why it can be believed: `18 b proven`.
pub(crate) fn range(segment: &Segment) -> String {
    let values = segment.range.high.abs_diff(segment.range.low);
    format!("{} b {}", 64 - values.leading_zeros(), segment.range.evidence)
}

fn packing(packing: Packing) -> String {
    match packing {
        Packing::Slots => "slots".to_owned(),
        Packing::Coefficients { radix_bits, samples_per_coefficient } => {
            format!("{samples_per_coefficient}×{radix_bits} b")
        }
    }
}
