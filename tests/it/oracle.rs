//! Everything fast against the slow reference: integer networks, plans, random points, encrypted
//! runs, and polynomial arithmetic.

use std::ops::RangeInclusive;

use he_core::{
    BlockEncryptor, CiphertextBlock, CoefficientEncoder, Decryptor, LinearMap, Params, ParamsSpec,
    SecretKey, SlotEncoder,
};
use nn_poly::integer::{CrtWindow, StageOutput};
use nn_poly::plan::{ActivationSide, Plan};
use num_bigint::BigInt;
use proptest::prelude::*;
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha20Rng;
use securedl_tests::batch::{Outcome, run_batch};
use securedl_tests::loopback::shelf;
use securedl_tests::models::{TinyModel, client_plan, samples, session_options};
use securedl_tests::oracle;

const BOTH_SIDES: [ActivationSide; 2] = [ActivationSide::Server, ActivationSide::Client];

fn plans(model: &TinyModel) -> Vec<Plan> {
    let suited = BOTH_SIDES.into_iter().filter(|&side| model.suits(side));
    suited.map(|side| model.plan(side, 100)).collect()
}

/// The fast network, its definition and the plan, all against the oracle, stage by stage.
fn check_network(model: &TinyModel) {
    let network = model.network();
    for plan in plans(model) {
        let inputs = samples(&plan, 12, model.seed);
        let fast = network.trace(&inputs).unwrap();
        let simulated = plan.simulate_trace(&inputs).unwrap();
        let windows: Vec<(StageOutput, CrtWindow)> = (plan.public().segments.iter().enumerate())
            .map(|(index, segment)| {
                (plan.public().segment_output(index).unwrap(), segment.window.into())
            })
            .collect();
        for (column, sample) in inputs.columns().into_iter().enumerate() {
            let sample = sample.to_vec();
            let plain = oracle::run_unreduced(network.structure(), network.weights(), &sample);
            let reduced = oracle::run(&plan, &sample);
            let definition = network.reference(&sample, &[]).unwrap();
            let windowed = network.reference(&sample, &windows).unwrap();
            for (stage, slow) in plain.iter().enumerate() {
                assert_eq!(oracle::narrow(&slow.linear), definition[stage].linear);
                assert_eq!(oracle::narrow(&slow.pooled), definition[stage].pooled);
                assert_eq!(oracle::narrow(&reduced[stage].linear), windowed[stage].linear);
                assert_eq!(oracle::narrow(&reduced[stage].pooled), windowed[stage].pooled);
            }
            let last = network.structure().len() - 1;
            let scores = oracle::narrow(&plain[last].pooled);
            assert_eq!(fast.scores.column(column).to_vec(), scores, "{}", model.name);
            for stage in 0..last {
                let refreshed: Vec<i64> =
                    fast.refreshed[stage].column(column).iter().map(|&v| v.into()).collect();
                assert_eq!(refreshed, oracle::narrow(&plain[stage].refreshed));
                let refreshed: Vec<i64> =
                    simulated.refreshed[stage].column(column).iter().map(|&v| v.into()).collect();
                assert_eq!(refreshed, oracle::narrow(&reduced[stage].refreshed));
            }
        }
        assert_eq!(simulated.scores, oracle::scores(&plan, &inputs));
    }
}

/// Segments at uniform points of `Z_t`, as random-point canaries use them.
fn check_random_points(model: &TinyModel, seed: u64) {
    let mut rng = ChaCha20Rng::seed_from_u64(seed);
    for plan in plans(model) {
        check_points(&plan, &mut rng);
    }
}

fn check_points(plan: &Plan, rng: &mut ChaCha20Rng) {
    for (index, segment) in plan.public().segments.iter().enumerate() {
        let stage = segment.stage as usize;
        let (structure, weights) = plan.network().stage(stage).unwrap();
        let t = segment.window.modulus;
        let mut points: Vec<Vec<u64>> = (0..3)
            .map(|_| (0..structure.n_inputs()).map(|_| rng.random_range(0..t)).collect())
            .collect();
        points.push(vec![t - 1; structure.n_inputs()]);
        let fast = plan.evaluate_segment_modular(index, &points).unwrap();
        for (point, fast) in points.iter().zip(fast) {
            let slow = oracle::segment_modular(structure, weights, segment, point);
            let fast: Vec<BigInt> = fast.into_iter().map(BigInt::from).collect();
            assert_eq!(fast, slow, "{} segment {index}", plan.public().name);
        }
    }
}

#[test]
fn a_chain_equals_the_oracle() {
    let plan = securedl_tests::chains::plan();
    let inputs = samples(&plan, 60, 2);
    assert_eq!(plan.simulate(&inputs).unwrap().scores, oracle::scores(&plan, &inputs));
    check_points(&plan, &mut ChaCha20Rng::seed_from_u64(4));
}

#[test]
fn every_tiny_network_equals_the_oracle() {
    for model in TinyModel::zoo() {
        check_network(&model);
        check_random_points(&model, 3);
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 20, ..ProptestConfig::default() })]

    #[test]
    fn random_networks_equal_the_oracle(seed in any::<u64>()) {
        let model = TinyModel::random(seed, true);
        check_network(&model);
        check_random_points(&model, seed);
    }
}

/// Values that leave a narrowed window wrap alike in the oracle, the simulation and the encrypted run.
#[test]
fn values_outside_their_window_wrap_in_the_same_way_everywhere() {
    use nn_poly::plan::{Evidence, Packing, PublicPlan, ValueRange};
    let model = TinyModel::dense_quadratic();
    let honest = model.plan(ActivationSide::Client, 100);
    let mut spec = honest.public().spec().clone();
    let segment = &mut spec.segments[0];
    // Half the digits: proven ranges no longer fit, calibrated ones may wrap.
    let Packing::Coefficients { radix_bits, samples_per_coefficient: 1 } = segment.packing else {
        panic!("one sample per coefficient");
    };
    let radix_bits = radix_bits - 2;
    segment.packing = Packing::Coefficients { radix_bits, samples_per_coefficient: 1 };
    segment.ring.plaintext_modulus = 1 << radix_bits;
    segment.window.modulus = 1 << radix_bits;
    let ring = &mut segment.ring;
    let params = Params::new(ParamsSpec {
        ring_degree: ring.ring_degree as usize,
        plaintext_modulus: ring.plaintext_modulus,
        moduli: ring.moduli.clone(),
    });
    ring.params_digest = params.unwrap().digest();
    segment.window.low /= 4;
    let (low, high) = (segment.window.low, segment.window.high());
    segment.range = ValueRange { low, high, evidence: Evidence::Calibrated };
    let weights = honest.network().weights().to_vec();
    let plan = Plan::new(PublicPlan::new(spec).unwrap(), weights).unwrap();

    let inputs = samples(&plan, 60, 12);
    let simulated = plan.simulate(&inputs).unwrap();
    assert_eq!(simulated.scores, oracle::scores(&plan, &inputs));
    let unwrapped = plan.network().evaluate(&inputs).unwrap().scores;
    assert_ne!(simulated.scores, unwrapped, "the case wraps");
    let owner = client_plan(&plan, session_options(2, 1));
    let Outcome::Verified(result) = run_batch(&owner, &inputs, shelf(&plan), 4).unwrap() else {
        panic!("an honest run");
    };
    assert_eq!(result.scores, simulated.scores);
    assert_eq!(result.out_of_calibration, simulated.out_of_range);
}

#[test]
fn encrypted_runs_equal_the_oracle() {
    for model in TinyModel::zoo() {
        for plan in plans(&model) {
            let inputs = samples(&plan, 7, 5);
            let owner = client_plan(&plan, session_options(2, 1));
            let Outcome::Verified(result) = run_batch(&owner, &inputs, shelf(&plan), 4).unwrap()
            else {
                panic!("an honest run");
            };
            assert_eq!(result.scores, oracle::scores(&plan, &inputs), "{}", model.name);
        }
    }
}

/// Where a segment ends decides what the key holder still has to do; the oracle does both.
#[test]
fn both_sides_give_the_same_scores() {
    for model in TinyModel::zoo() {
        let Ok([server, client]) = <[Plan; 2]>::try_from(plans(&model)) else { continue };
        let inputs = samples(&server, 30, 8);
        assert_eq!(server.public().segment_output(0).unwrap() == StageOutput::Pooled, {
            server.public().segments[0].evaluates_activation
        });
        let scores = oracle::scores(&server, &inputs);
        assert_eq!(scores, oracle::scores(&client, &inputs));
        assert_eq!(scores, client.simulate(&inputs).unwrap().scores);
    }
}

// INSECURE toy parameters: a ring small enough for schoolbook products.
fn toy(t: u128, bits: &[u32]) -> Params {
    Params::insecure_new(ParamsSpec::with_bits(32, t, bits).unwrap()).unwrap()
}

/// Polynomials of a ciphertext in one limb.
fn polynomials(block: &CiphertextBlock, limb: usize, index: usize) -> Vec<Vec<BigInt>> {
    let row = block.limb(limb).chunks(block.row_len()).nth(index).unwrap();
    row.chunks(block.params().ring_degree())
        .map(|words| words.iter().map(|&word| BigInt::from(word)).collect())
        .collect()
}

/// `ψ`: what the transform makes of `X` at the first point.
fn psi(params: &Params, limb: usize) -> BigInt {
    let encoder = CoefficientEncoder::new(params, 16, 1).unwrap();
    let mut x = vec![0; params.ring_degree()];
    x[1] = 1;
    let x = encoder.encode(&x).unwrap();
    let zero = CiphertextBlock::zeros(params, 1, 1, params.moduli().len()).unwrap();
    let map = LinearMap::dense(1, 1, &[0], &[1]).unwrap().with_unit(&x);
    BigInt::from(map.apply(&zero).unwrap().limb(limb)[0])
}

#[test]
fn squared_ciphertexts_are_schoolbook_products_of_their_polynomials() {
    let params = toy(1 << 16, &[30, 40]);
    let encoder = CoefficientEncoder::new(&params, 16, 1).unwrap();
    let mut rng = ChaCha20Rng::seed_from_u64(2);
    let key = SecretKey::generate(&params, &mut rng);
    let message: Vec<i64> = (0..32).map(|i| i * i - 300).collect();
    let plaintext = encoder.encode(&message).unwrap();
    let fresh = BlockEncryptor::new(&key, &mut rng).encrypt_next(&[plaintext]).unwrap();
    let square = fresh.square().unwrap();
    for (limb, &q) in params.moduli().iter().enumerate() {
        let q = BigInt::from(q);
        let points = oracle::canonical_points(&psi(&params, limb), 32, &q);
        let coefficients = |block: &CiphertextBlock| -> Vec<Vec<BigInt>> {
            let values = polynomials(block, limb, 0);
            values.iter().map(|v| oracle::interpolate(v, &points, &q)).collect()
        };
        let [c0, c1] = &coefficients(&fresh)[..] else { panic!("degree 1") };
        assert_eq!(oracle::evaluate(c0, &points, &q), polynomials(&fresh, limb, 0)[0]);
        let double: Vec<BigInt> = oracle::negacyclic_product(c0, c1, &q)
            .iter()
            .map(|v| oracle::modulo(&(v * 2), &q))
            .collect();
        let expected = [
            oracle::negacyclic_product(c0, c0, &q),
            double,
            oracle::negacyclic_product(c1, c1, &q),
        ];
        assert_eq!(coefficients(&square), expected);
    }
    // And what they decrypt to is the square of the message.
    let decrypted = Decryptor::new(&key).decrypt(&square, 0).unwrap();
    let decoded = encoder.decode_from(&decrypted, 0).unwrap();
    let message: Vec<BigInt> = message.into_iter().map(BigInt::from).collect();
    let expected = oracle::negacyclic_product(&message, &message, &BigInt::from(1 << 16));
    assert_eq!(oracle::narrow(&expected), decoded.to_vec());
}

/// A matrix with weights and residues at the ends of their ranges, word by word in big integers.
fn check_linear_map(n_in: usize, weights: RangeInclusive<i32>, seed: u64) {
    let params = toy(1 << 16, &[26, 47]);
    let mut rng = ChaCha20Rng::seed_from_u64(seed);
    let key = SecretKey::generate(&params, &mut rng);
    let encoder = CoefficientEncoder::new(&params, 16, 1).unwrap();
    let plaintexts: Vec<_> = (0..n_in).map(|_| encoder.encode(&[65_535; 32]).unwrap()).collect();
    let block = BlockEncryptor::new(&key, &mut rng).encrypt_next(&plaintexts).unwrap();
    let n_out = 5;
    let matrix: Vec<i32> = (0..n_in * n_out)
        .map(|i| match i % 5 {
            0 => *weights.start(),
            1 => *weights.end(),
            _ => rng.random_range(weights.clone()),
        })
        .collect();
    let bias = [i64::MIN / 2, -1, 0, 1, i64::MAX / 2];
    let result = LinearMap::dense(n_out, n_in, &matrix, &bias).unwrap().apply(&block).unwrap();
    for (limb, &q) in params.moduli().iter().enumerate() {
        let q = BigInt::from(q);
        let inputs: Vec<_> = (0..n_in).map(|i| polynomials(&block, limb, i)).collect();
        for output in 0..n_out {
            let have = polynomials(&result, limb, output);
            for (degree, polynomial) in have.iter().enumerate() {
                for (word, value) in polynomial.iter().enumerate() {
                    let row = &matrix[output * n_in..(output + 1) * n_in];
                    let mut sum: BigInt =
                        row.iter().zip(&inputs).map(|(&w, x)| w * &x[degree][word]).sum();
                    if degree == 0 {
                        sum += bias[output];
                    }
                    assert_eq!(*value, oracle::modulo(&sum, &q));
                }
            }
        }
    }
}

#[test]
fn linear_maps_equal_big_integers_at_the_ends_of_every_range() {
    for (n_in, weights) in [(1, -1..=1), (7, -7..=7), (300, -32_767..=32_767), (1025, -7..=7)] {
        check_linear_map(n_in, weights, 6);
    }
}

#[test]
fn slots_are_values_at_the_canonical_points() {
    let t = ParamsSpec::smallest_slot_modulus(32, 1 << 16).unwrap();
    let params = toy(t.into(), &[47]);
    let encoder = SlotEncoder::new(&params).unwrap();
    let mut rng = ChaCha20Rng::seed_from_u64(9);
    let key = SecretKey::generate(&params, &mut rng);
    // A square in slots is a negacyclic square of the interpolated polynomial.
    let values: Vec<i64> = (0..32).map(|i| 1000 * i - 9000).collect();
    let plaintext = encoder.encode(&values).unwrap();
    let fresh = BlockEncryptor::new(&key, &mut rng).encrypt_next(&[plaintext]).unwrap();
    let t = BigInt::from(t);
    let decrypt = |block: &CiphertextBlock| {
        encoder.decode_from(&Decryptor::new(&key).decrypt(block, 0).unwrap(), 0).unwrap().to_vec()
    };
    let squared = decrypt(&fresh.square().unwrap());
    for (value, square) in values.iter().zip(squared) {
        assert_eq!(BigInt::from(square), oracle::modulo(&BigInt::from(value * value), &t));
    }
}
