//! Dishonest servers: every cheat ends in the right verdict or in an error, never in scores.

use std::sync::Arc;

use fingerprint::Verdict;
use nn_poly::integer::IntegerMatrix;
use nn_poly::plan::{ActivationSide, Plan};
use protocol::error::{Error, PeerFault, ResourceError};
use protocol::hosting::PlanShelf;
use protocol::message::RefusalCode;
use protocol::runner::{RunOptions, RunOutcome, RunProgress, Silent, run};
use protocol::session::{ClientPlan, Result, SessionError};
use securedl_tests::batch::{Outcome, run_batch, run_on};
use securedl_tests::dishonest::{
    Cheat, DishonestHost, Strength, Victims, outputs_of_channel, outputs_of_weight,
};
use securedl_tests::loopback::{Loopback, client, impatient, in_process, runtime, server};
use securedl_tests::models::{TinyModel, client_plan, samples, session_options};

/// How a batch must end.
#[derive(Debug, Clone, PartialEq)]
enum Expected {
    /// `ModelModified` at exactly these neurons.
    Modified(Vec<u32>),
    /// `ComputationTampered` in exactly these blocks.
    Tampered(Vec<u32>),
    /// Either of the two, in the right segment: nothing distinguishes them.
    Caught,
    /// `Intact` with the right scores: the cheat changes no value.
    Released,
    /// The reply announced another size than the plan's.
    WrongSize,
    /// A word of the reply is no residue.
    NoResidue,
    /// The server gave up on its own reply.
    Refused,
}

struct Setting {
    plan: Plan,
    owner: Arc<ClientPlan>,
    inputs: IntegerMatrix,
    segment: usize,
}

impl Setting {
    fn new(model: &TinyModel, side: ActivationSide, segment: usize, n_samples: usize) -> Self {
        let plan = model.plan(side, 100);
        let owner = client_plan(&plan, session_options(4, 1));
        let inputs = samples(&plan, n_samples, 31);
        Self { plan, owner, inputs, segment }
    }

    fn with_canaries(mut self, n: usize) -> Self {
        self.owner = client_plan(&self.plan, session_options(n, 1));
        self
    }

    fn is_linear(&self) -> bool {
        !self.plan.public().segments[self.segment].evaluates_activation
    }

    fn all_outputs(&self) -> Vec<u32> {
        (0..self.plan.public().segments[self.segment].n_outputs).collect()
    }

    fn channel(&self, channel: usize) -> Vec<u32> {
        outputs_of_channel(&self.plan, self.segment, channel)
    }

    fn weight(&self, index: usize) -> Vec<u32> {
        outputs_of_weight(&self.plan, self.segment, index)
    }

    fn weights(&self) -> &[i16] {
        &self.plan.network().stage(self.segment).unwrap().1.weights
    }

    /// Plays the cheat and compares how the batch ends.
    fn check(&self, cheat: &Cheat, victims: Victims, expected: &Expected) {
        let host = DishonestHost::new(&self.plan, self.segment, cheat.clone(), victims);
        let ended = run_batch(&self.owner, &self.inputs, host.clone(), 99);
        let name = &self.plan.public().name;
        let side = self.plan.public().activation_side;
        let context = format!(
            "{name}, activation at the {side}, segment {}: {cheat:?} to {victims:?}",
            self.segment
        );
        assert!(host.n_requests() > 0, "{context}: no opportunity");
        self.compare(ended, expected, &context);
    }

    fn compare(&self, ended: Result<Outcome>, expected: &Expected, context: &str) {
        let at = self.segment as u32;
        match (ended, expected) {
            (Ok(Outcome::Verified(result)), Expected::Released) => {
                assert_eq!(result.scores, self.plan.simulate(&self.inputs).unwrap().scores);
            }
            (Ok(Outcome::Rejected { verdict, tally }), expected) => {
                assert_eq!(tally.rounds, at + 1, "{context}: stopped at the round of the cheat");
                match (&verdict, expected) {
                    (Verdict::ModelModified { segment, neurons }, Expected::Modified(wanted)) => {
                        assert_eq!((*segment, neurons), (at, wanted), "{context}");
                    }
                    (
                        Verdict::ComputationTampered { segment, blocks },
                        Expected::Tampered(wanted),
                    ) => assert_eq!((*segment, blocks), (at, wanted), "{context}"),
                    (
                        Verdict::ModelModified { segment, .. }
                        | Verdict::ComputationTampered { segment, .. },
                        Expected::Caught,
                    ) => assert_eq!(*segment, at, "{context}"),
                    _ => panic!("{context}: {verdict:?}, expected {expected:?}"),
                }
            }
            (Err(error), expected) => {
                let fits = match expected {
                    // A slow server says how far it is, of the same wrong size, before its header.
                    Expected::WrongSize => matches!(
                        peer_fault(&error),
                        Some(
                            PeerFault::WrongReplySize { .. } | PeerFault::ImpossibleProgress { .. }
                        )
                    ),
                    Expected::NoResidue => {
                        matches!(error, SessionError::Encrypted(_))
                            && error.to_string().contains("not below its modulus")
                    }
                    Expected::Refused => matches!(
                        peer_fault(&error),
                        Some(PeerFault::Refused { code: RefusalCode::Internal, .. })
                    ),
                    Expected::Modified(_)
                    | Expected::Tampered(_)
                    | Expected::Caught
                    | Expected::Released => false,
                };
                assert!(fits, "{context}: {error:?}, expected {expected:?}");
            }
            (Ok(Outcome::Verified(_)), _) => panic!("{context}: released, expected {expected:?}"),
        }
    }
}

/// What the server did wrong, perhaps after giving up on it.
fn peer_fault(error: &SessionError) -> Option<&PeerFault> {
    let SessionError::Protocol(error) = error else { return None };
    match error {
        Error::Peer(fault) => Some(fault),
        Error::Resource(ResourceError::GaveUp { last, .. }) => match &**last {
            Error::Peer(fault) => Some(fault),
            _ => None,
        },
        _ => None,
    }
}

/// Every cheat with how a batch of one block must end.
fn table(setting: &Setting) -> Vec<(Cheat, Expected)> {
    let linear = setting.is_linear();
    let n_weights = setting.weights().len();
    let structure = setting.plan.network().stage(setting.segment).unwrap().0;
    let (last_output, last_channel) =
        (setting.all_outputs().len() - 1, structure.linear.n_channels() - 1);
    let pruned: Vec<u32> = {
        let weights = setting.weights().iter().enumerate();
        let small = weights.filter(|(_, w)| w.abs() == 1).flat_map(|(i, _)| setting.weight(i));
        small.collect::<std::collections::BTreeSet<_>>().into_iter().collect()
    };
    let other = other_weights(setting);
    let mut table = vec![
        (Cheat::Weight { index: 0, by: 1 }, Expected::Modified(setting.weight(0))),
        (
            Cheat::Weight { index: n_weights / 2, by: -1 },
            Expected::Modified(setting.weight(n_weights / 2)),
        ),
        (
            Cheat::Weight { index: n_weights - 1, by: 1 },
            Expected::Modified(setting.weight(n_weights - 1)),
        ),
        (
            Cheat::Bias { channel: last_channel, by: 1 },
            Expected::Modified(setting.channel(last_channel)),
        ),
        (Cheat::SwappedModel { weights: other }, Expected::Modified(setting.all_outputs())),
        (
            Cheat::SlotChange {
                output: last_output,
                slots: vec![0, 1000, 1500, 2000, 2001],
                by: 1,
            },
            Expected::Tampered(vec![0]),
        ),
        (
            Cheat::FlippedWord { output: last_output, word: 1234 },
            // In a square segment the whole neuron becomes noise.
            if linear { Expected::Tampered(vec![0]) } else { Expected::Caught },
        ),
        (Cheat::PermutedOutputs { first: 0, second: 1 }, Expected::Modified(vec![0, 1])),
        (Cheat::DroppedNeuron { output: 1 }, Expected::Modified(vec![1])),
        (Cheat::ReturnedInput, Expected::Modified(setting.all_outputs())),
        (
            Cheat::Noise { output: 1, strength: Strength::Harmless },
            // The word check sees words, not values.
            if linear { Expected::Modified(vec![1]) } else { Expected::Released },
        ),
        (
            Cheat::Noise { output: 1, strength: Strength::Overwhelming },
            if linear { Expected::Tampered(vec![0]) } else { Expected::Caught },
        ),
        // Nothing is stale yet.
        (Cheat::StaleReply, Expected::Released),
        (Cheat::WrongDegree, Expected::WrongSize),
        (Cheat::WrongLevel, Expected::WrongSize),
        (Cheat::MissingCiphertext, Expected::WrongSize),
        (Cheat::ResidueOutOfRange, Expected::NoResidue),
        (Cheat::Truncated, Expected::Refused),
        (Cheat::TrailingBytes, Expected::Refused),
    ];
    if !pruned.is_empty() {
        table.push((Cheat::Pruned { up_to: 1 }, Expected::Modified(pruned)));
    }
    if !linear {
        table.push((Cheat::Trigger, Expected::Modified(vec![0])));
    }
    table
}

/// Numbers of another model of the same shape, different in every channel.
fn other_weights(setting: &Setting) -> nn_poly::integer::StageWeights {
    let mut weights = setting.plan.network().stage(setting.segment).unwrap().1.clone();
    weights.weights.iter_mut().for_each(|w| *w = if *w == 2 { -1 } else { 2 });
    weights
}

fn check_table(model: &TinyModel, side: ActivationSide) {
    let n_segments = model.stages.len();
    for segment in 0..n_segments {
        let setting = Setting::new(model, side, segment, 40);
        for (cheat, expected) in table(&setting) {
            setting.check(&cheat, Victims::All, &expected);
        }
    }
}

#[test]
fn every_cheat_in_every_segment_of_dense_layers_with_the_activation_at_the_server() {
    check_table(&TinyModel::dense_quadratic(), ActivationSide::Server);
}

#[test]
fn every_cheat_in_every_segment_of_dense_layers_with_the_activation_at_the_client() {
    check_table(&TinyModel::dense_quadratic(), ActivationSide::Client);
}

#[test]
fn every_cheat_in_every_segment_of_a_convolution_with_the_activation_at_the_server() {
    check_table(&TinyModel::conv_pool_square(), ActivationSide::Server);
}

#[test]
fn every_cheat_in_every_segment_of_a_convolution_with_the_activation_at_the_client() {
    check_table(&TinyModel::conv_pool_square(), ActivationSide::Client);
}

#[test]
fn a_weight_that_no_sample_excites_is_guarded_like_any_other() {
    for side in [ActivationSide::Server, ActivationSide::Client] {
        let mut setting = Setting::new(&TinyModel::dense_quadratic(), side, 0, 40);
        let silent = 5;
        setting.inputs.row_mut(silent).fill(0);
        let n_inputs = setting.inputs.nrows();
        for neuron in 0..3 {
            for by in [-1, 1] {
                let cheat = Cheat::Weight { index: neuron * n_inputs + silent, by };
                let expected = Expected::Modified(vec![neuron as u32]);
                setting.check(&cheat, Victims::All, &expected);
            }
        }
    }
}

/// Three blocks, one of them answered dishonestly: the verdict names that block.
#[test]
fn a_block_that_is_treated_differently_is_named() {
    for side in [ActivationSide::Server, ActivationSide::Client] {
        for segment in [0, 2] {
            let setting = Setting::new(&TinyModel::dense_quadratic(), side, segment, 4096 * 2 + 9);
            let setting = setting.with_canaries(16);
            let cheats = [
                Cheat::Weight { index: 3, by: 1 },
                Cheat::SlotChange { output: 0, slots: (0..4096).step_by(2).collect(), by: 1 },
                Cheat::FlippedWord { output: 1, word: 17 },
                Cheat::DroppedNeuron { output: 2 },
            ];
            for cheat in cheats {
                setting.check(&cheat, Victims::Only(1), &Expected::Tampered(vec![1]));
            }
        }
    }
}

#[test]
fn a_modified_model_is_recognized_over_several_blocks() {
    for side in [ActivationSide::Server, ActivationSide::Client] {
        let setting = Setting::new(&TinyModel::dense_quadratic(), side, 0, 4096 + 9);
        let cheat = Cheat::Weight { index: 14, by: -1 };
        setting.check(&cheat, Victims::All, &Expected::Modified(vec![1]));
    }
}

/// The whole plan is another one, hosted under the digest of the right one.
#[test]
fn another_plan_under_the_same_digest_is_noticed() {
    for side in [ActivationSide::Server, ActivationSide::Client] {
        let mut setting = Setting::new(&TinyModel::dense_quadratic(), side, 0, 40);
        // The same rings and windows, weights rounded towards zero in every segment but the first.
        let honest = setting.plan.network().weights();
        let mut weights = honest.to_vec();
        for stage in &mut weights[1..] {
            stage.weights.iter_mut().for_each(|w| *w /= 2);
        }
        let swapped = Plan::new(setting.plan.public().clone(), weights).unwrap();
        let host_of = |plan: &Plan| {
            let mut shelf = PlanShelf::new();
            shelf.insert_as(plan, setting.owner.digest()).unwrap();
            Arc::new(shelf)
        };
        let ended = run_batch(&setting.owner, &setting.inputs, host_of(&swapped), 5);
        // Another model altogether: other rings, so even the sizes may be others.
        let stranger = TinyModel::dense_quadratic().with_seed(77).plan(side, 100_000);
        let other = run_batch(&setting.owner, &setting.inputs, host_of(&stranger), 5);
        assert!(
            matches!(other, Err(SessionError::Protocol(_)) | Ok(Outcome::Rejected { .. })),
            "{other:?}"
        );
        setting.segment = 1;
        setting.compare(ended, &Expected::Modified(setting.all_outputs()), "rounded weights");
    }
}

#[test]
fn over_tls_a_modified_model_gets_the_same_verdict() {
    for side in [ActivationSide::Server, ActivationSide::Client] {
        let setting = Setting::new(&TinyModel::conv_pool_square(), side, 0, 40);
        let cheat = Cheat::Weight { index: 11, by: 1 };
        let host = DishonestHost::new(&setting.plan, 0, cheat, Victims::All);
        let ended = runtime().block_on(async {
            let loopback = Loopback::start(server(host)).await;
            let remote = client(loopback.endpoint(), impatient());
            let ended = run_on(&setting.owner, &setting.inputs, &remote, 3).await;
            remote.close().await;
            loopback.shut_down().await;
            ended
        });
        setting.compare(ended, &Expected::Modified(setting.weight(11)), "over TLS");
    }
}

#[test]
fn a_reply_to_an_earlier_block_or_an_earlier_batch_is_noticed() {
    for side in [ActivationSide::Server, ActivationSide::Client] {
        for segment in [0, 2] {
            let setting = Setting::new(&TinyModel::dense_quadratic(), side, segment, 4096 * 2);
            let stale = Cheat::StaleReply;
            setting.check(&stale, Victims::All, &later_blocks(&setting));

            // Another batch of the same samples, under new keys.
            let setting = Setting::new(&TinyModel::dense_quadratic(), side, segment, 40);
            let host = DishonestHost::new(&setting.plan, segment, stale, Victims::All);
            runtime().block_on(async {
                let remote = in_process(server(host));
                let first = run_on(&setting.owner, &setting.inputs, &remote, 1).await;
                setting.compare(first, &Expected::Released, "first batch");
                let second = run_on(&setting.owner, &setting.inputs, &remote, 2).await;
                setting.compare(second, &Expected::Caught, "second batch");
            });
        }
    }
}

/// Tampering with every block of the setting's round but the first.
fn later_blocks(setting: &Setting) -> Expected {
    let per_block = setting.owner.samples_per_block()[setting.segment];
    let n_blocks = setting.inputs.ncols().div_ceil(per_block) as u32;
    assert!(n_blocks > 1, "the case needs several blocks");
    Expected::Tampered((1..n_blocks).collect())
}

/// With replicas a change of single samples is noticed even in a block full of samples.
#[test]
fn replicas_guard_single_samples_in_a_full_block() {
    let plan = TinyModel::dense_quadratic().plan(ActivationSide::Server, 100);
    let owner = client_plan(&plan, session_options(4, 2));
    let inputs = samples(&plan, owner.samples_per_block()[0], 8);
    let setting = Setting { plan, owner, inputs, segment: 0 };
    for slot in [0, 77, 4095] {
        let cheat = Cheat::SlotChange { output: 3, slots: vec![slot], by: 1 };
        setting.check(&cheat, Victims::All, &Expected::Tampered(vec![0]));
    }
}

/// The gap that soundness states: in a block full of samples, without replicas, one altered sample is
/// caught only with the probability of hitting a checked slot. The verdict prints that figure.
#[test]
fn what_may_stay_unnoticed_is_what_the_verdict_says() {
    let plan = TinyModel::dense_quadratic().plan(ActivationSide::Server, 100);
    let owner = client_plan(&plan, session_options(4, 1));
    let inputs = samples(&plan, owner.samples_per_block()[0], 8);
    let cheat = Cheat::SlotChange { output: 3, slots: vec![77], by: 1 << 20 };
    let host = DishonestHost::new(&plan, 0, cheat, Victims::All);
    let Outcome::Verified(result) = run_batch(&owner, &inputs, host, 99).unwrap() else {
        panic!("another seed of the client hits a checked slot: choose a new one");
    };
    let Verdict::Intact { soundness } = &result.verdict else { panic!("{:?}", result.verdict) };
    // 6 of 4096 slots are checked.
    let admitted = -(1.0 - 6.0 / 4096.0_f64).log2();
    assert!((soundness.one_sample_bits.unwrap() - admitted).abs() < 1e-9, "{soundness:?}");
    let right = plan.simulate(&inputs).unwrap().scores;
    let wrong = right.columns().into_iter().zip(result.scores.columns());
    assert!(wrong.filter(|(a, b)| a != b).count() <= 1);
}

#[test]
fn with_batches_side_by_side_the_one_judged_first_is_reported() {
    for side in [ActivationSide::Server, ActivationSide::Client] {
        let setting = Setting::new(&TinyModel::dense_quadratic(), side, 1, 3000);
        let cheat = Cheat::Bias { channel: 0, by: 1 };
        let host = DishonestHost::new(&setting.plan, 1, cheat, Victims::All);
        let silent: Arc<dyn RunProgress> = Arc::new(Silent);
        for batches_in_flight in [1, 3] {
            let options = RunOptions { samples_per_batch: 500, connections: 2, batches_in_flight };
            let remote = in_process(server(host.clone()));
            let outcome = runtime().block_on(async {
                run(&setting.owner, &setting.inputs, &remote, &options, &silent).await.unwrap()
            });
            let RunOutcome::Rejected { batch, tally, verdict, .. } = outcome else {
                panic!("{outcome:?}")
            };
            assert!(!verdict.is_intact());
            // Side by side, any of those in flight may be judged first; of the others nothing is
            // counted, however far they were.
            assert!(batch < batches_in_flight, "{batch}");
            assert_eq!(tally.rounds, 2);
        }
    }
}
