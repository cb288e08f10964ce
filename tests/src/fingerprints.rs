//! Fingerprints of plans without a search for samples.

use fingerprint::{
    ComparisonRule, Fingerprint, FingerprintParts, GeneratorKind, InputGrid, SampleBag, SampleInfo,
    SelectionRule,
};
use nn_poly::integer::IntegerMatrix;
use nn_poly::plan::Plan;

/// A fingerprint of these samples, one column each in the plan's integers, as a file would hold it.
///
/// Margins and sensitivities are made up: nothing was searched.
#[must_use]
pub fn fingerprint_of(plan: &Plan, integers: &IntegerMatrix, seed: u64) -> Fingerprint {
    let grid = InputGrid::of_integer(&plan.public().input).unwrap();
    let lowest = plan.public().input.min();
    let levels = integers.t().mapv(|x| (x - lowest) as u32);
    let info = |label: usize| SampleInfo {
        source: None,
        label: label as u32,
        margin: 1.0,
        log_sensitivity: 0.0,
        tied: vec![],
    };
    let labels = plan.simulate(integers).unwrap().predictions();
    let bag = SampleBag {
        inputs: grid.values(levels.view()),
        generator: GeneratorKind::Random,
        seed,
        samples: labels.into_iter().map(info).collect(),
    };
    let parts = FingerprintParts {
        bag: &bag,
        grid: &grid,
        originals: None,
        selection: SelectionRule::Random,
        rule: ComparisonRule::Exact,
        margin: 0.0,
    };
    let made = Fingerprint::of_plan(plan, &parts).unwrap();
    let read = Fingerprint::from_bytes(&made.to_bytes().unwrap()).unwrap();
    assert_eq!(made, read);
    read
}
