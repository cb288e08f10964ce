//! Chains whose ciphertexts are relinearized: keys in requests, the planner's choice, what a server can reach.

use std::ops::ControlFlow;

use he_core::{
    BlockEncryptor, CiphertextBlock, Decryptor, EvaluationKeys, KeySet, Params, ParamsSpec,
    SecretKey, SlotEncoder,
};
use nn_poly::encrypted::{Error, SegmentContext, SegmentEvaluator, encrypt_block};
use nn_poly::integer::chain::{Chain, ChainStep, Exponents, StepWeights};
use nn_poly::integer::{
    ActivationKind, InputGrid, IntegerNetwork, LinearGeometry, Quadratic, StageOutput,
    StageStructure, StageWeights, ValueRef,
};
use nn_poly::plan::planner::{Objective, PlanGoal, ReferenceRates, Subject, search};
use nn_poly::plan::{Relinearization, RingSpec, RunSize};
use rand::{Rng, SeedableRng, rngs::StdRng};

use super::segments::evaluate;
use super::{plan_with, sketch};

/// Key and request sizes follow from the plan; a byte of a key that is another is refused or changes the
/// reply.
#[test]
fn a_request_begins_with_the_relinearization_key() {
    let plan = plan_with(&sketch(StageOutput::Pooled), Relinearization::Always);
    let segment = &plan.public().segments[0];
    let (structure, weights) = plan.network().stage(0).unwrap();
    let server = SegmentEvaluator::new(0, segment, structure, weights).unwrap();
    let client = SegmentContext::new(0, segment).unwrap();
    let key_bytes = client.relinearization_key_bytes();
    assert!(key_bytes > 0);
    assert_eq!(segment.relinearization_key_bytes(), key_bytes as u64);
    assert_eq!(client.request_bytes(), segment.request_bytes());
    let mut rng = StdRng::seed_from_u64(1);
    let key = client.generate_key(&mut rng).unwrap();
    assert!(!format!("{key:?}").contains("relinearization"));
    let fill = |_: usize, row: &mut [i64]| {
        row[0] = 3;
        Ok::<(), Error>(())
    };
    let request = encrypt_block(&client, &key, None, fill, &mut rng).unwrap();
    let honest = evaluate(&server, request.seed, &request.payload);
    let n_polynomials = 3;
    let of_one = n_polynomials * segment.ring.ring_degree as usize;
    let bits = segment.ring.reply_bits() as usize;
    assert_eq!(honest.len(), segment.n_outputs as usize * of_one * bits / 8);
    // In any cut the same.
    let mut receiver = server.receive(request.seed).unwrap();
    for piece in request.payload.chunks(key_bytes / 3) {
        receiver.push(piece).unwrap();
    }
    let mut cut = Vec::new();
    let mut sink = |piece: Vec<u8>| {
        cut.extend(piece);
        ControlFlow::Continue(())
    };
    let received = receiver.finish().unwrap();
    assert!(server.evaluate(&received, &mut sink).unwrap().is_continue() && cut == honest);
    for position in [0, 1, 2, 33, 34, 35, 38, 39, 70, 71, key_bytes - 1] {
        let mut altered = request.payload.clone();
        altered[position] ^= 1;
        let mut receiver = server.receive(request.seed).unwrap();
        match receiver.push(&altered) {
            Err(error) => assert!(matches!(error, Error::Arithmetic(_)), "{error}"),
            Ok(()) => {
                assert!(position >= 39, "byte {position} of the header is checked");
                assert_ne!(evaluate(&server, request.seed, &altered), honest, "byte {position}");
            }
        }
    }
    let mut early = server.receive(request.seed).unwrap();
    early.push(&request.payload[..key_bytes - 1]).unwrap();
    assert!(matches!(early.finish(), Err(Error::ByteCount { .. })));
}

/// Dense layers with squares in between, all in one chain.
fn dense_chain(widths: &[usize]) -> IntegerNetwork {
    let mut rng = StdRng::seed_from_u64(9);
    let mut weights = |n: usize| (0..n).map(|_| rng.random_range(-1..=1)).collect::<Vec<i16>>();
    let dense = |pair: &[usize]| LinearGeometry::Dense { n_in: pair[0], n_out: pair[1] };
    let pairs: Vec<&[usize]> = widths.windows(2).collect();
    let (last, hidden) = pairs.split_last().unwrap();
    let mut chain: Vec<StepWeights> = hidden
        .iter()
        .map(|pair| StepWeights {
            weights: weights(pair[0] * pair[1]),
            bias: vec![0; pair[1]],
            quadratic: Quadratic::square(),
        })
        .collect();
    // A weight more in magnitude, for a range that needs more than one prime.
    chain.iter_mut().for_each(|step| step.weights[0] = 3);
    let steps = hidden.iter().map(|pair| ChainStep {
        linear: dense(pair),
        pool: None,
        exponents: Exponents::default(),
    });
    let structure = StageStructure {
        sources: vec![ValueRef::Input],
        linear: dense(last),
        activation: ActivationKind::Identity,
        pool: None,
        refresh: None,
        chain: Some(Chain {
            steps: steps.collect(),
            exponents: Exponents::default(),
            ends: StageOutput::Linear,
            descale: 20,
        }),
    };
    let weights = StageWeights {
        weights: weights(last[0] * last[1]),
        bias: vec![0; last[1]],
        quadratic: None,
        chain,
    };
    let grid = InputGrid { bits: 1, signed: false, step: 1.0 };
    IntegerNetwork::new(grid, widths[0], vec![structure], vec![weights]).unwrap()
}

/// Both ways are compared by what they cost, and the objective decides: a key switch costs as much as some
/// hundred products, so time is saved where more outputs than that read each value.
#[test]
fn the_planner_relinearizes_where_that_is_cheaper() {
    let size = RunSize { n_samples: 8000, canaries_per_block: 18, replicas: 1 };
    let mut faster = Vec::new();
    for widths in [&[16, 400, 4][..], &[64, 900, 900, 4]] {
        let network = dense_chain(widths);
        let subject = Subject { network: &network, observed: &[] };
        for objective in [Objective::Time, Objective::Bytes] {
            let goal = PlanGoal { objective, ..PlanGoal::new(size) };
            let found = search(&[subject], &goal, &mut ReferenceRates::new(2)).unwrap();
            let cost = |relinearizes: bool| {
                let mut of_way = found.iter().filter(|way| way.relinearizes() == relinearizes);
                let best = of_way.next().expect("both ways are compared");
                match objective {
                    Objective::Time => best.time.total,
                    Objective::Bytes | Objective::Rounds => best.bytes() as f64,
                }
            };
            assert!(cost(found[0].relinearizes()) <= cost(!found[0].relinearizes()), "{widths:?}");
            if objective == Objective::Time {
                faster.push(found[0].relinearizes());
            }
        }
    }
    assert_eq!(faster, [false, true]);
}

/// A server that multiplies as often as it can, switching as it likes, gets no further than the bound that
/// soundness rests on, and not so far below it that the bound would be idle. Moduli are as small as the noise of
/// one product, so that little is lost by dropping whole ones.
#[test]
fn nothing_decrypts_beyond_the_multiplicative_depth() {
    let mut rng = StdRng::seed_from_u64(4);
    for (log2_t, bits) in [(14, [22_u32; 9]), (20, [28; 9]), (17, [25; 9])] {
        let degree = 1024;
        let t = ParamsSpec::smallest_slot_modulus(degree, 1 << log2_t).unwrap();
        let spec = ParamsSpec::with_bits(degree, t.into(), &bits).unwrap();
        let special = spec.further_primes(&bits[..1]).unwrap();
        let moduli = spec.moduli.clone();
        let params = Params::insecure_with_special_moduli(spec, special.clone()).unwrap();
        let ring = RingSpec {
            ring_degree: degree as u32,
            moduli,
            plaintext_modulus: t.into(),
            reply_moduli: 1,
            special_modulus: Some(special[0]),
            params_digest: params.digest(),
        };
        let bound = ring.multiplicative_depth();
        let secret = SecretKey::generate(&params, &mut rng);
        let set = KeySet::new().with_relinearization();
        let keys = EvaluationKeys::generate(&secret, &set, &mut rng).unwrap();
        let encoder = SlotEncoder::new(&params).unwrap();
        let half = i64::try_from(t / 2).unwrap();
        let mut values: Vec<i64> = (0..degree).map(|_| rng.random_range(-half..=half)).collect();
        let plaintext = encoder.encode(&values).unwrap();
        let fresh = BlockEncryptor::new(&secret, &mut rng).encrypt_next(&[plaintext]).unwrap();
        let decrypts = |block: &CiphertextBlock, values: &[i64]| {
            let message = Decryptor::new(&secret).decrypt(block, 0).unwrap();
            **encoder.decode(&message).unwrap() == *values
        };
        assert!(decrypts(&fresh, &values));
        // What was right last, by level.
        let mut right = vec![fresh];
        let mut depth = 0;
        while !right.is_empty() && depth <= bound {
            values = values
                .iter()
                .map(|&v| {
                    let square = (i128::from(v) * i128::from(v)).rem_euclid(t.into());
                    let square = i64::try_from(square).unwrap();
                    if square > half { square - 2 * half - 1 } else { square }
                })
                .collect();
            let mut next: Vec<CiphertextBlock> = Vec::new();
            // More moduli dropped at one time leave less noise, fewer leave more room: of each level several.
            for block in right.iter().rev() {
                let product = block.multiply_relinearized(block, &keys).unwrap();
                for level in 1..=product.n_moduli() {
                    let n_known = next.iter().filter(|other| other.n_moduli() == level).count();
                    let switched = product.mod_switch_to(level).unwrap();
                    if n_known < 8 && decrypts(&switched, &values) {
                        next.push(switched);
                    }
                }
            }
            next.sort_by_key(CiphertextBlock::n_moduli);
            depth += u32::from(!next.is_empty());
            right = next;
        }
        assert!(depth <= bound, "depth {depth} of {bound} at most");
        assert!(2 * depth >= bound, "depth {depth} of {bound}: the bound says little");
    }
}

/// What a server could compute with the key decides how many points a block carries.
#[test]
fn more_points_make_up_for_a_higher_reachable_degree() {
    let sketch = sketch(StageOutput::Linear);
    for relinearization in [Relinearization::Never, Relinearization::Always] {
        let plan = plan_with(&sketch, relinearization);
        for segment in plan.public().segments.iter().filter(|segment| segment.chain.is_some()) {
            let log2_t = segment.ring.log2_plaintext_modulus();
            let bits = |n_points: u64| {
                n_points as f64 * (log2_t - f64::from(segment.log2_reachable_degree()))
            };
            let growing = 2.0 * (log2_t - f64::from(segment.n_squares()));
            let n_points = 2 + segment.n_further_points();
            assert!(bits(n_points) >= growing, "{n_points} points");
            if relinearization == Relinearization::Never {
                assert_eq!((segment.n_further_points(), bits(2)), (0, growing));
            } else {
                assert!(segment.log2_reachable_degree() > segment.n_squares());
            }
        }
    }
}
