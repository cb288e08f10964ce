#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "tests")]

use rand::SeedableRng;
use rand_chacha::ChaCha20Rng;

use super::*;
use crate::canary::{LayoutOptions, LayoutSpec, SlotLayout, SlotRole};

const N_SLOTS: usize = 64;

/// A block of honest zeros whose reply `cheat(neuron, role)` may add to.
fn observe(
    seed: u64,
    n_neurons: usize,
    cheat: impl Fn(usize, SlotRole) -> i64,
) -> BlockObservation {
    let options =
        LayoutOptions { replicas: 2, network_canaries: 3, random_points: 2, max_random_points: 4 };
    let spec = LayoutSpec::new(N_SLOTS, options).unwrap();
    let layout = SlotLayout::draw(&spec, 20, &mut ChaCha20Rng::seed_from_u64(seed)).unwrap();
    let roles = layout.roles();
    let mut observation = BlockObservation::new(n_neurons);
    for neuron in 0..n_neurons {
        let reply: Vec<i64> = roles.iter().map(|&role| cheat(neuron, role)).collect();
        layout.compare(neuron, &reply, &[0; 3], &[0; 4], &mut observation, &mut [0; 20]).unwrap();
    }
    observation
}

fn honest(_: usize, _: SlotRole) -> i64 {
    0
}

fn verdict(blocks: &[BlockObservation]) -> Verdict {
    judge(7, blocks, &Soundness::unchecked()).unwrap()
}

fn modified(neurons: &[u32]) -> Verdict {
    Verdict::ModelModified { segment: 7, neurons: neurons.to_vec() }
}

fn tampered(blocks: &[u32]) -> Verdict {
    Verdict::ComputationTampered { segment: 7, blocks: blocks.to_vec() }
}

#[test]
fn honest_blocks_are_intact() {
    let blocks = [observe(1, 5, honest), observe(2, 5, honest)];
    assert_eq!(verdict(&blocks), Verdict::Intact { soundness: Soundness::unchecked() });
}

#[test]
fn the_same_neurons_wrong_everywhere_are_a_modified_model() {
    let model = |neuron: usize, _: SlotRole| i64::from(neuron % 3 == 1);
    assert_eq!(verdict(&[observe(1, 5, model), observe(2, 5, model)]), modified(&[1, 4]));
}

#[test]
fn a_change_that_natural_inputs_never_excite_is_a_modified_model() {
    let points_only = |neuron: usize, role: SlotRole| {
        i64::from(neuron == 2 && matches!(role, SlotRole::RandomPoint(_)))
    };
    assert_eq!(verdict(&[observe(1, 5, points_only)]), modified(&[2]));
}

#[test]
fn whatever_does_not_look_like_a_model_is_tampering() {
    let everywhere = |neuron: usize, _: SlotRole| i64::from(neuron == 1);
    // One block only.
    assert_eq!(verdict(&[observe(1, 3, honest), observe(2, 3, everywhere)]), tampered(&[1]));
    // Other neurons in the other block.
    let other = |neuron: usize, _: SlotRole| i64::from(neuron == 2);
    assert_eq!(verdict(&[observe(1, 3, other), observe(2, 3, everywhere)]), tampered(&[0, 1]));
    // A canary fails where the points hold.
    let canary = |_: usize, role| i64::from(role == SlotRole::NetworkCanary(2));
    assert_eq!(verdict(&[observe(1, 3, canary)]), tampered(&[0]));
    // … or at a neuron more than the points do.
    let more = |neuron: usize, role: SlotRole| match role {
        SlotRole::NetworkCanary(0) => 1,
        SlotRole::NetworkCanary(_) | SlotRole::Sample { .. } | SlotRole::RandomPoint(_) => {
            i64::from(neuron == 1)
        }
    };
    assert_eq!(verdict(&[observe(1, 3, more)]), tampered(&[0]));
    // One of four points holds.
    let three_points = |_: usize, role: SlotRole| i64::from(role != SlotRole::RandomPoint(1));
    assert_eq!(verdict(&[observe(1, 3, three_points)]), tampered(&[0]));
    // Replicas disagree.
    let replica =
        |_: usize, role: SlotRole| i64::from(role != SlotRole::Sample { sample: 4, replica: 1 });
    assert_eq!(verdict(&[observe(1, 3, replica)]), tampered(&[0]));
    let only_replica = |neuron: usize, role: SlotRole| {
        i64::from(neuron == 0 && role == SlotRole::Sample { sample: 4, replica: 1 })
    };
    assert_eq!(verdict(&[observe(1, 3, only_replica)]), tampered(&[0]));
}

#[test]
fn copies_of_a_point_that_disagree_are_tampering() {
    // 64 slots − 40 − 3 leave 21 point slots for 4 points; alter all of them but one slot.
    let spec = LayoutSpec::new(
        N_SLOTS,
        LayoutOptions { replicas: 2, network_canaries: 3, random_points: 2, max_random_points: 4 },
    )
    .unwrap();
    let layout = SlotLayout::draw(&spec, 20, &mut ChaCha20Rng::seed_from_u64(9)).unwrap();
    let spared = layout.roles().iter().position(|&r| r == SlotRole::RandomPoint(3)).unwrap();
    // At one neuron of one, or of sixteen, where a coincidence of the point would be tolerated.
    for n_neurons in [1, 16] {
        let mut observation = BlockObservation::new(n_neurons);
        for neuron in 0..n_neurons {
            let mut reply = [1; N_SLOTS];
            reply[spared] = i64::from(neuron > 0);
            layout
                .compare(neuron, &reply, &[0; 3], &[0; 4], &mut observation, &mut [0; 20])
                .unwrap();
        }
        let (_, comparison) = observation.failed_neurons().next().unwrap();
        assert_eq!((comparison.points_failed, comparison.points_split), (3, 1));
        assert_eq!(verdict(&[observation]), tampered(&[0]));
    }
}

#[test]
fn a_canary_that_fails_where_points_hold_is_tampering_among_many_modified_neurons_too() {
    let cheat = |neuron: usize, role: SlotRole| {
        i64::from(neuron < 16 || role == SlotRole::NetworkCanary(0))
    };
    assert_eq!(verdict(&[observe(1, 17, cheat)]), tampered(&[0]));
}

#[test]
fn rare_coincidences_at_random_points_do_not_hide_a_modified_model() {
    // 40 modified neurons; each point agrees by chance at 5 of them, the most tolerated.
    let lucky = |n_lucky: usize| {
        move |neuron: usize, role: SlotRole| match role {
            SlotRole::RandomPoint(point) => i64::from(neuron / n_lucky != point),
            SlotRole::Sample { .. } | SlotRole::NetworkCanary(_) => 1,
        }
    };
    let all: Vec<u32> = (0..40).collect();
    assert_eq!(verdict(&[observe(1, 40, lucky(5)), observe(2, 40, lucky(5))]), modified(&all));
    assert_eq!(verdict(&[observe(1, 40, lucky(6))]), tampered(&[0]));
}

#[test]
fn incomplete_or_ill_fitting_observations_are_errors() {
    let soundness = Soundness::unchecked();
    assert!(matches!(judge(0, &[], &soundness), Err(Error::NothingToJudge { .. })));
    let blocks = [observe(1, 3, honest), BlockObservation::new(3)];
    let incomplete = Error::IncompleteObservation { block: 1, compared: 0, expected: 3 };
    assert_eq!(judge(0, &blocks, &soundness), Err(incomplete));
    let blocks = [observe(1, 3, honest), observe(1, 4, honest)];
    assert!(matches!(judge(0, &blocks, &soundness), Err(Error::LengthMismatch { .. })));
}

#[test]
fn workers_observations_merge_into_one() {
    let spec =
        LayoutSpec::new(8, LayoutOptions { network_canaries: 1, ..LayoutOptions::default() });
    let layout = SlotLayout::draw(&spec.unwrap(), 3, &mut ChaCha20Rng::seed_from_u64(1)).unwrap();
    let n_points = layout.counts().random_points();
    let compare = |observation: &mut BlockObservation, neuron, value| {
        layout
            .compare(neuron, &[value; 8], &[0], &vec![0; n_points], observation, &mut [0; 3])
            .unwrap();
    };
    let mut left = BlockObservation::new(4);
    let mut right = BlockObservation::new(4);
    compare(&mut left, 0, 0);
    compare(&mut left, 2, 1);
    compare(&mut right, 3, 1);
    compare(&mut right, 1, 0);
    left.merge(&right).unwrap();
    assert!(left.is_complete());
    assert_eq!(verdict(core::slice::from_ref(&left)), modified(&[2, 3]));
    assert_eq!(left.merge(&right), Err(Error::ComparedTwice { neuron: 1 }));
    assert!(left.merge(&BlockObservation::new(5)).is_err());
    left.merge(&BlockObservation::new(4)).unwrap();
    assert_eq!(
        format!("{left:?}"),
        "BlockObservation { n_neurons: 4, n_compared: 4, n_failed: 2, .. }"
    );
}

#[test]
fn blocks_of_different_occupancy_do_not_share_an_observation() {
    let spec = LayoutSpec::new(32, LayoutOptions::default()).unwrap();
    let mut observation = BlockObservation::new(2);
    for (neuron, n_samples) in [(0, 14), (1, 13)] {
        let layout =
            SlotLayout::draw(&spec, n_samples, &mut ChaCha20Rng::seed_from_u64(1)).unwrap();
        let points = vec![0; layout.counts().random_points()];
        let samples = &mut vec![0; n_samples];
        let compared =
            layout.compare(neuron, &[0; 32], &[0; 16], &points, &mut observation, samples);
        assert_eq!(compared.is_ok(), n_samples == 14);
    }
}

#[test]
fn word_findings_tell_a_modified_model_from_tampering() {
    let at = |row, extent| RowDifference { row, extent };
    let failed = |rows: &[RowDifference]| WordCheckFinding::FailedAt { rows: rows.to_vec() };
    let weight = at(3, RowExtent::Everywhere);
    let bias = at(1, RowExtent::ConstantPolynomial);
    let word = at(3, RowExtent::Scattered);
    let check = |blocks: &[WordCheckFinding], expected: Verdict| {
        assert_eq!(judge_words(7, blocks, &Soundness::unchecked()).unwrap(), expected);
    };
    check(
        &[WordCheckFinding::Passed, WordCheckFinding::Passed],
        Verdict::Intact { soundness: Soundness::unchecked() },
    );
    check(&[failed(&[weight, bias]), failed(&[bias, weight])], modified(&[1, 3]));
    check(&[WordCheckFinding::Passed, failed(&[weight])], tampered(&[1]));
    check(&[failed(&[weight]), failed(&[weight, bias])], tampered(&[0, 1]));
    check(&[failed(&[weight]), failed(&[at(3, RowExtent::ConstantPolynomial)])], tampered(&[0, 1]));
    check(&[failed(&[weight, word])], tampered(&[0]));
    check(&[WordCheckFinding::Failed, failed(&[weight])], tampered(&[0, 1]));

    let judged = |blocks: &[WordCheckFinding]| judge_words(7, blocks, &Soundness::unchecked());
    assert!(matches!(judged(&[]), Err(Error::NothingToJudge { .. })));
    assert_eq!(judged(&[failed(&[])]), Err(Error::CheckContradiction { block: 0 }));
}

#[test]
fn verdicts_have_an_exit_code_a_name_and_one_sentence() {
    let cases = [
        (Verdict::Intact { soundness: Soundness::unchecked() }, 0, "Intact", "intact: every check"),
        (
            modified(&[1, 2, 3, 4, 5, 6, 7, 8, 9]),
            1,
            "ModelModified",
            "model modified: segment 7 of the server's model differs from the plan in 9 of its \
             outputs (1, 2, 3, 4, 5, 6, 7, 8, …)",
        ),
        (
            tampered(&[0, 2]),
            1,
            "ComputationTampered",
            "computation tampered: in segment 7 the replies to 2 block(s) (0, 2)",
        ),
        (
            Verdict::Unverified { reason: UnverifiedReason::SegmentNotChecked { segment: 2 } },
            2,
            "Unverified",
            "unverified: the batch ended before segment 2 was checked",
        ),
    ];
    for (verdict, exit_code, name, beginning) in cases {
        assert_eq!((verdict.exit_code(), verdict.name()), (exit_code, name));
        assert_eq!(verdict.is_intact(), exit_code == 0);
        let sentence = verdict.to_string();
        assert!(sentence.starts_with(beginning), "{sentence}");
        let json = serde_json::to_string(&verdict).unwrap();
        assert_eq!(serde_json::from_str::<Verdict>(&json).unwrap(), verdict, "{json}");
    }
}
