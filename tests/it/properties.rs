//! Random small plans, end to end in the process: whatever the shape, encrypted equals simulated.

use nn_poly::plan::ActivationSide;
use proptest::prelude::*;
use securedl_tests::batch::{Outcome, run_batch};
use securedl_tests::dishonest::{Cheat, DishonestHost, Victims, outputs_of_weight};
use securedl_tests::loopback::shelf;
use securedl_tests::models::{TinyModel, client_plan, samples, session_options};

#[derive(Debug, Clone)]
struct Run {
    seed: u64,
    side: ActivationSide,
    expected_samples: u64,
    n_samples: usize,
    canaries: usize,
    replicas: usize,
}

fn runs() -> impl Strategy<Value = Run> {
    let side = prop_oneof![Just(ActivationSide::Server), Just(ActivationSide::Client)];
    let expected = prop_oneof![Just(1_u64), Just(100), Just(8192), Just(100_000)];
    (any::<u64>(), side, expected, 1_usize..200, 0_usize..8, 1_usize..4).prop_map(
        |(seed, side, expected_samples, n_samples, canaries, replicas)| Run {
            seed,
            side,
            expected_samples,
            n_samples,
            canaries,
            replicas,
        },
    )
}

impl Run {
    fn model(&self) -> TinyModel {
        TinyModel::random(self.seed, self.side == ActivationSide::Client)
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, ..ProptestConfig::default() })]

    #[test]
    fn encrypted_equals_simulated(run in runs()) {
        let plan = run.model().plan(run.side, run.expected_samples);
        let owner = client_plan(&plan, session_options(run.canaries, run.replicas));
        let inputs = samples(&plan, run.n_samples, run.seed);
        let outcome = run_batch(&owner, &inputs, shelf(&plan), run.seed).unwrap();
        let Outcome::Verified(result) = outcome else { panic!("{outcome:?}") };
        prop_assert!(result.verdict.is_intact());
        prop_assert_eq!(result.scores, plan.simulate(&inputs).unwrap().scores);
    }

    #[test]
    fn one_unit_of_any_weight_is_noticed_and_located(
        run in runs(),
        position in any::<prop::sample::Index>(),
        segment in any::<prop::sample::Index>(),
        up in any::<bool>(),
    ) {
        let plan = run.model().plan(run.side, run.expected_samples);
        let segment = segment.index(plan.public().segments.len());
        let (_, weights) = plan.network().stage(segment).unwrap();
        let index = position.index(weights.weights.len());
        let neurons = outputs_of_weight(&plan, segment, index);
        let cheat = Cheat::Weight { index, by: if up { 1 } else { -1 } };
        let host = DishonestHost::new(&plan, segment, cheat, Victims::All);
        let owner = client_plan(&plan, session_options(run.canaries, run.replicas));
        let inputs = samples(&plan, run.n_samples, run.seed);
        let outcome = run_batch(&owner, &inputs, host, run.seed).unwrap();
        if neurons.is_empty() {
            // A weight that only ever multiplies padding changes nothing.
            prop_assert!(matches!(outcome, Outcome::Verified(_)));
            return Ok(());
        }
        let Outcome::Rejected { verdict, .. } = outcome else { panic!("released") };
        let expected = fingerprint::Verdict::ModelModified { segment: segment as u32, neurons };
        prop_assert_eq!(verdict, expected);
    }
}
