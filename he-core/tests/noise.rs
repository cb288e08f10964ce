//! Noise: what is measured stays below the bound and close to the prediction of `he_core::noise`.
//!
//! Run with `--features hazmat -- --nocapture` to see the table of `docs/noise.md`. All figures are
//! log2 of a coefficient of the phase `m + t·e`.

#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::cast_possible_truncation,
    clippy::cast_precision_loss,
    clippy::print_stdout,
    reason = "tests"
)]

#[allow(dead_code, reason = "shared with the property tests, which use all of it")]
#[path = "properties/reference.rs"]
mod reference;

use he_core::{
    BlockEncryptor, CiphertextBlock, CoefficientEncoder, Decryptor, LinearMap, Params, ParamsSpec,
    SecretKey, SlotEncoder,
    hazmat::measure_phase,
    noise::{KEY_SPREAD, Phase, rounding_deviation},
};
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha20Rng;

/// Tolerance of a measured deviation, in bits.
const TOLERANCE: f64 = 0.15;

/// Largest coefficient and root mean square over all ciphertexts of a block, as log2.
fn measure(key: &SecretKey, block: &CiphertextBlock) -> (f64, f64) {
    let mut largest = f64::NEG_INFINITY;
    let mut mean_square = 0.0;
    for index in 0..block.count() {
        let (max, deviation) = measure_phase(key, block, index).unwrap();
        largest = largest.max(max);
        mean_square += deviation.exp2().powi(2) / block.count() as f64;
    }
    (largest, mean_square.sqrt().log2())
}

/// Compares one step with its prediction and prints a row of the table.
///
/// `spread` is an allowance in the prediction that an average key does not need.
fn check(step: &str, key: &SecretKey, block: &CiphertextBlock, predicted: Phase, spread: f64) {
    let (largest, deviation) = measure(key, block);
    let moduli = &block.params().moduli()[..block.n_moduli()];
    let capacity = moduli.iter().map(|&q| (q as f64).log2()).sum::<f64>() - 1.0;
    let (expected, bound) = (predicted.deviation.log2(), predicted.log2_bound());
    println!(
        "| {step} | {largest:.2} | {deviation:.2} | {expected:.2} | {bound:.2} | {capacity:.2} | {:.2} |",
        capacity - bound
    );
    assert!(largest <= bound, "{step}: largest coefficient 2^{largest:.2} above 2^{bound:.2}");
    assert!(bound <= capacity, "{step}: bound 2^{bound:.2} above half the modulus");
    let error = deviation - (expected - spread.log2());
    assert!(
        error.abs() < TOLERANCE,
        "{step}: measured 2^{deviation:.2}, predicted 2^{expected:.2}"
    );
}

/// `n_outputs` rows of `n_taps` uniform weights in `[-max, max]`.
fn weights(n_outputs: usize, n_taps: usize, max: i32) -> Vec<i32> {
    let mut rng = ChaCha20Rng::seed_from_u64(1);
    (0..n_outputs * n_taps).map(|_| rng.random_range(-max..=max)).collect()
}

/// The root mean square of the rows' norms: what a block of all rows measures.
fn mean_l2(weights: &[i32], n_taps: usize) -> f64 {
    let squares: f64 = weights.iter().map(|&w| f64::from(w) * f64::from(w)).sum();
    (squares / (weights.len() / n_taps) as f64).sqrt()
}

/// 800 taps of 4-bit weights, 4-bit inputs, `k` 16-bit samples per coefficient, one prime.
fn linear_segment(k: usize, bits: u32) -> (Params, LinearMap, CoefficientEncoder, f64) {
    let spec = ParamsSpec::with_bits(2048, 1 << (16 * k), &[bits]).unwrap();
    let params = Params::new(spec).unwrap();
    let encoder = CoefficientEncoder::new(&params, 16, k).unwrap();
    let weights = weights(8, 800, 7);
    let bias = [1000, -1000, 0, 1, -1, 77, -78, 4321];
    let l2 = mean_l2(&weights, 800);
    let map = LinearMap::dense(8, 800, &weights, &bias).unwrap().with_unit(&encoder.ones());
    (params, map, encoder, l2)
}

/// Random 4-bit inputs and what the map makes of them.
fn inputs(map: &LinearMap, count: usize) -> (Vec<Vec<i64>>, Vec<Vec<i64>>) {
    let mut rng = ChaCha20Rng::seed_from_u64(2);
    let planes: Vec<Vec<i64>> = (0..map.n_inputs())
        .map(|_| (0..count).map(|_| rng.random_range(0..16)).collect())
        .collect();
    let weights = weights(map.n_outputs(), map.n_inputs(), 7);
    let rows = weights.chunks(map.n_inputs()).zip(map.bias()).map(|(row, &bias)| {
        let sum =
            |i: usize| row.iter().zip(&planes).fold(bias, |s, (&w, p)| s + i64::from(w) * p[i]);
        (0..count).map(sum).collect()
    });
    let expected = rows.collect();
    (planes, expected)
}

/// What a linear segment leaves behind.
struct Run {
    key: SecretKey,
    fresh: CiphertextBlock,
    reply: CiphertextBlock,
    l2: f64,
    n_wrong: usize,
}

fn run_linear_segment(k: usize, bits: u32) -> Run {
    let (params, map, encoder, l2) = linear_segment(k, bits);
    let mut rng = ChaCha20Rng::seed_from_u64(3);
    let key = SecretKey::generate(&params, &mut rng);
    let (planes, expected) = inputs(&map, encoder.value_count());
    let plaintexts: Vec<_> = planes.iter().map(|p| encoder.encode(p).unwrap()).collect();
    let fresh = BlockEncryptor::new(&key, &mut rng).encrypt_next(&plaintexts).unwrap();
    let reply = map.apply(&fresh).unwrap();
    let mut n_wrong = 0;
    for (index, expected) in expected.iter().enumerate() {
        let message = Decryptor::new(&key).decrypt(&reply, index).unwrap();
        let decoded = encoder.decode_from(&message, -32_768).unwrap();
        n_wrong += decoded.iter().zip(expected).filter(|(a, b)| a != b).count();
    }
    Run { key, fresh, reply, l2, n_wrong }
}

#[test]
fn linear_segments_of_one_and_two_samples_per_coefficient() {
    for (k, bits) in [(1, 30), (2, 46), (2, 47)] {
        println!("N = 2048, t = 2^{}, {bits}-bit prime, 800 taps of 4-bit weights:", 16 * k);
        let run = run_linear_segment(k, bits);
        assert_eq!(run.n_wrong, 0);
        let t = (1_u64 << (16 * k)) as f64;
        check("fresh", &run.key, &run.fresh, Phase { offset: t, ..Phase::fresh(t) }, 1.0);
        // The message is a sum of digits below half a radix: at most t/2 and a little.
        let predicted = Phase::fresh(t).linear(run.l2, 0.51 * t);
        check("linear", &run.key, &run.reply, predicted, 1.0);
    }
}

/// Negative control: where the bound exceeds half the modulus by far, decryption does fail.
#[test]
fn a_modulus_below_the_bound_decrypts_wrongly() {
    for (k, bits) in [(1, 26), (2, 42)] {
        let Run { l2, n_wrong, .. } = run_linear_segment(k, bits);
        let t = (1_u64 << (16 * k)) as f64;
        let predicted = Phase::fresh(t).linear(l2, 0.51 * t);
        assert!(predicted.log2_bound() > f64::from(bits - 1), "the bound says so");
        assert!(n_wrong > 1000, "{bits} bits: only {n_wrong} values are wrong");
    }
}

/// 845 taps, then the square, a sum of four and a switch, at N = 4096.
#[test]
fn square_segments_before_and_after_the_switch() {
    for log2_t in [29, 30] {
        let t = ParamsSpec::smallest_slot_modulus(4096, 1 << log2_t).unwrap();
        let spec = ParamsSpec::with_bits(4096, t.into(), &[46, 47]).unwrap();
        let params = Params::new(spec).unwrap();
        let encoder = SlotEncoder::new(&params).unwrap();
        let mut rng = ChaCha20Rng::seed_from_u64(4);
        let key = SecretKey::generate(&params, &mut rng);
        let plaintexts: Vec<_> = (0..845)
            .map(|_| {
                let slots: Vec<i64> =
                    (0..4096).map(|_| rng.random_range(0..t.cast_signed())).collect();
                encoder.encode(&slots).unwrap()
            })
            .collect();
        let block = BlockEncryptor::new(&key, &mut rng).encrypt_next(&plaintexts).unwrap();
        let weights = weights(8, 845, 5);
        let l2 = mean_l2(&weights, 845);
        println!("N = 4096, t = {t}, 46 + 47-bit primes, 845 taps, ‖w‖₂ = {l2:.1}:");

        let fresh = Phase::fresh_with_uniform_message(t as f64);
        check("fresh", &key, &block, fresh, 1.0);
        let map = LinearMap::dense(8, 845, &weights, &[3; 8]).unwrap();
        let linear = map.apply(&block).unwrap();
        let predicted = fresh.linear(l2, 3.0);
        check("linear", &key, &linear, predicted, 1.0);
        let square = linear.square().unwrap();
        let predicted = predicted.quadratic(4096, 1.0, 0.0, 0.0);
        check("square", &key, &square, predicted, 1.0);
        let dropped = params.moduli()[1] as f64;
        let switched = predicted.switched(dropped, 4096, 2);
        check("switched", &key, &square.mod_switch_down().unwrap(), switched, KEY_SPREAD);
        // Four independent squares add in quadrature; the bound takes them as correlated.
        let sum = square.sums(&[vec![0, 1, 2, 3], vec![4, 5, 6, 7]]).unwrap();
        let predicted = predicted.sum(4);
        check("sum of 4", &key, &sum, predicted, 2.0);
        let switched = predicted.switched(dropped, 4096, 2);
        let (largest, _) = measure(&key, &sum.mod_switch_down().unwrap());
        assert!(largest <= switched.log2_bound() && switched.log2_bound() < 45.0);
    }
}

/// A block with few samples has equal planes: their messages add coherently, not as if they were
/// independent. One uniform slot per plane restores independence.
#[test]
fn equal_planes_add_coherently_unless_a_slot_is_random() {
    let t = ParamsSpec::smallest_slot_modulus(4096, 1 << 20).unwrap();
    let spec = ParamsSpec::with_bits(4096, t.into(), &[46, 47]).unwrap();
    let params = Params::new(spec).unwrap();
    let encoder = SlotEncoder::new(&params).unwrap();
    let mut rng = ChaCha20Rng::seed_from_u64(5);
    let key = SecretKey::generate(&params, &mut rng);
    let (n_taps, weight) = (400, 5);
    let map = LinearMap::dense(1, n_taps, &vec![weight; n_taps], &[0]).unwrap();
    let mut run = |random: bool| {
        let plaintexts: Vec<_> = (0..n_taps)
            .map(|_| {
                let mut slots = vec![0; 4096];
                slots[0] = 15;
                if random {
                    slots[4095] = rng.random_range(0..t.cast_signed());
                }
                encoder.encode(&slots).unwrap()
            })
            .collect();
        let block = BlockEncryptor::new(&key, &mut rng).encrypt_next(&plaintexts).unwrap();
        measure(&key, &map.apply(&block).unwrap())
    };
    let independent = Phase::fresh_with_uniform_message(t as f64).linear(map.max_l2(), 0.0);
    let (_, equal) = run(false);
    assert!(equal > independent.deviation.log2() + 1.0, "coherent: 2^{equal:.2}");
    let noise = Phase::fresh(t as f64).linear(map.max_l2(), 0.0).deviation;
    let coherent = noise.hypot(map.max_l1() as f64 * t as f64 / 12_f64.sqrt());
    assert!((equal - coherent.log2()).abs() < TOLERANCE, "2^{equal:.2}, {:.2}", coherent.log2());
    let (_, filled) = run(true);
    assert!((filled - independent.deviation.log2()).abs() < TOLERANCE, "2^{filled:.2}");
}

/// The rounding of a switch alone, for every degree up to 4, averaged over keys.
#[test]
fn rounding_follows_the_powers_of_the_secret() {
    let (n, t) = (256, 12_289);
    let spec = ParamsSpec::with_bits(n, t, &[40, 47, 47]).unwrap();
    let params = Params::insecure_new(spec).unwrap();
    for degree in 1..=4 {
        let mut mean_square = 0.0;
        let n_keys = 24;
        for seed in 0..n_keys {
            let mut rng = ChaCha20Rng::seed_from_u64(seed);
            let key = SecretKey::generate(&params, &mut rng);
            let zero = SlotEncoder::new(&params).unwrap().encode(&vec![0; n]).unwrap();
            let fresh = BlockEncryptor::new(&key, &mut rng).encrypt_next(&[zero]).unwrap();
            let block =
                reference::block_of(&params, degree, &reference::power_words(&fresh, degree));
            // Two primes of 47 bits bury the phase itself below the rounding.
            let (_, deviation) = measure(&key, &block.mod_switch_to(1).unwrap());
            mean_square += deviation.exp2().powi(2) / n_keys as f64;
        }
        let measured = mean_square.sqrt().log2();
        let predicted = (rounding_deviation(n, degree) * t as f64).log2();
        println!("degree {degree}: rounding 2^{measured:.2}, predicted 2^{predicted:.2}");
        assert!((measured - predicted).abs() < 0.3, "degree {degree}: {measured} {predicted}");
    }
}
