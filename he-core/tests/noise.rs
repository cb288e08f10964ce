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
    BlockEncryptor, CiphertextBlock, CoefficientEncoder, Decryptor, EvaluationKeys, KeySet,
    LinearMap, Params, ParamsSpec, PublicKey, RowEncoder, SecretKey, SlotEncoder,
    hazmat::measure_phase,
    leveled::{Arithmetic, Ciphertext, Evaluator},
    noise::{KEY_SPREAD, Phase, TAIL, rounding_deviation},
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

/// Tolerance of bounds on leveled computation, in bits: correlations and tails are allowed for.
const SLACK: f64 = 3.0;

/// Measures a value over one or two moduli and compares it with its bound, both ways.
fn check_leveled(step: &str, key: &SecretKey, value: &Ciphertext) {
    check_leveled_within(step, key, value, SLACK);
}

fn check_leveled_within(step: &str, key: &SecretKey, value: &Ciphertext, slack: f64) {
    let (largest, deviation) = measure(key, value.block());
    let forecast = value.forecast();
    let (expected, bound) = (forecast.phase().deviation.log2(), forecast.phase().log2_bound());
    println!(
        "| {step} | {largest:.2} | {deviation:.2} | {expected:.2} | {bound:.2} | {:.2} | {:.2} |",
        forecast.margin() + bound,
        forecast.margin()
    );
    assert!(largest <= bound, "{step}: largest coefficient 2^{largest:.2} above 2^{bound:.2}");
    // A heavy tail is allowed for, but does not show in a few thousand coefficients.
    let slack = slack + (forecast.phase().tail / TAIL).log2();
    assert!(largest >= bound - slack, "{step}: 2^{largest:.2} far below 2^{bound:.2}");
    assert!((deviation - expected).abs() < 1.2, "{step}: 2^{deviation:.2}, 2^{expected:.2}");
}

/// Every leveled operation where its noise can be measured: over two moduli, or over one.
#[test]
fn leveled_operations_stay_within_three_bits_of_their_bounds() {
    for log2_t in [16, 20] {
        let t = ParamsSpec::smallest_slot_modulus(8192, 1 << log2_t).unwrap();
        let spec = ParamsSpec::with_bits(8192, t.into(), &[47, 46]).unwrap();
        let special = spec.further_primes(&[47]).unwrap();
        let params = Params::with_special_moduli(spec, special).unwrap();
        let mut rng = ChaCha20Rng::seed_from_u64(6);
        let key = SecretKey::generate(&params, &mut rng);
        let public = PublicKey::generate(&key, &mut rng);
        let set = KeySet::new().with_relinearization().with_rotation(1).with_row_swap();
        let keys = EvaluationKeys::generate(&key, &set, &mut rng).unwrap();
        let evaluator = Evaluator::new(&keys).unwrap();
        let encoder = RowEncoder::new(&params).unwrap();
        let mut plaintext = || {
            let slots: Vec<i64> = (0..8192).map(|_| rng.random_range(0..t.cast_signed())).collect();
            encoder.encode(&slots).unwrap()
        };
        println!("N = 8192, t = {t}, 47 + 46-bit primes, special prime of 47 bits:");
        let (p, q, r) = (plaintext(), plaintext(), plaintext());
        let x = Ciphertext::encrypt(&p, &key, &mut rng).unwrap();
        let y = Ciphertext::encrypt_public(&q, &public, &mut rng).unwrap();
        check_leveled("fresh", &key, &x);
        check_leveled("fresh, public key", &key, &y);
        check_leveled("rotation", &key, &evaluator.rotate_rows(&x, 1).unwrap());
        // Messages are not random to the bound: it allows for the largest product of two of them.
        let plain = evaluator.multiply_plain(&x, &r).unwrap();
        check_leveled_within("product with a plaintext", &key, &plain, SLACK + 1.0);
        let product = evaluator.multiply(&x, &y).unwrap();
        check_leveled("product", &key, &product);
        check_leveled("square", &key, &evaluator.square(&y).unwrap());
        let swapped = evaluator.swap_rows(&x).unwrap();
        // The coherent part is bounded with the noise of the swap, which is larger than the value here.
        let coherent = evaluator.multiply(&x, &swapped).unwrap();
        check_leveled_within("product with the swapped", &key, &coherent, 2.0 * SLACK);
        let low = evaluator.compress(&product).unwrap();
        assert_eq!(low.n_moduli(), 1);
        check_leveled("product, switched", &key, &low);
        check_leveled("product, switched, rotated", &key, &evaluator.rotate_rows(&low, 1).unwrap());
    }
}

/// One product after the other down the levels, each of independent values: the bound of the last is not
/// looser than that of the first.
#[test]
fn products_down_the_levels_stay_within_three_bits_of_their_bounds() {
    let t = ParamsSpec::smallest_slot_modulus(8192, 1 << 16).unwrap();
    let spec = ParamsSpec::with_bits(8192, t.into(), &[41; 4]).unwrap();
    let special = spec.further_primes(&[47]).unwrap();
    let params = Params::with_special_moduli(spec, special).unwrap();
    let mut rng = ChaCha20Rng::seed_from_u64(9);
    let key = SecretKey::generate(&params, &mut rng);
    let set = KeySet::new().with_relinearization();
    let keys = EvaluationKeys::generate(&key, &set, &mut rng).unwrap();
    let evaluator = Evaluator::new(&keys).unwrap();
    let encoder = RowEncoder::new(&params).unwrap();
    let mut values: Vec<Ciphertext> = (0..8)
        .map(|_| {
            let slots: Vec<i64> = (0..8192).map(|_| rng.random_range(0..t.cast_signed())).collect();
            Ciphertext::encrypt(&encoder.encode(&slots).unwrap(), &key, &mut rng).unwrap()
        })
        .collect();
    println!("N = 8192, t = {t}, four primes of 41 bits, special prime of 47 bits, in a chain:");
    let mut levels = Vec::new();
    while values.len() > 1 {
        values =
            values.chunks(2).map(|pair| evaluator.multiply(&pair[0], &pair[1]).unwrap()).collect();
        levels.push(values[0].n_moduli());
        // A phase is measured over two moduli at most.
        if levels.last() == Some(&2) {
            check_leveled("product at the end of a chain", &key, &values[0]);
        }
        let low = evaluator.compress(&values[0]).unwrap();
        check_leveled("the same, switched", &key, &low);
    }
    assert_eq!(levels, [4, 3, 2], "a level is used up by every product but the first");
}

/// Powers without relinearisation: their noise varies in size from one root of unity to the next.
#[test]
fn products_of_products_follow_the_order_of_the_phase() {
    let t = ParamsSpec::smallest_slot_modulus(4096, 1 << 13).unwrap();
    let spec = ParamsSpec::with_bits(4096, t.into(), &[47, 47]).unwrap();
    let params = Params::new(spec).unwrap();
    let encoder = SlotEncoder::new(&params).unwrap();
    let mut rng = ChaCha20Rng::seed_from_u64(7);
    let key = SecretKey::generate(&params, &mut rng);
    let plaintexts: Vec<_> = (0..8)
        .map(|_| {
            let slots: Vec<i64> = (0..4096).map(|_| rng.random_range(0..t.cast_signed())).collect();
            encoder.encode(&slots).unwrap()
        })
        .collect();
    let x = BlockEncryptor::new(&key, &mut rng).encrypt_next(&plaintexts).unwrap();
    let fresh = Phase::fresh_with_uniform_message(t as f64);
    let square = x.square().unwrap();
    let cube = square.multiply(&x).unwrap();
    let predicted = fresh.product(fresh, 4096);
    println!("N = 4096, t = {t}, two primes of 47 bits, powers without relinearization:");
    check("square", &key, &square, predicted, 1.0);
    let predicted = predicted.product(fresh, 4096);
    check("cube", &key, &cube, predicted, 1.0);
    let fourth = square.multiply(&square).unwrap();
    let predicted = fresh.product(fresh, 4096);
    let predicted = predicted.product(predicted, 4096);
    let (largest, deviation) = measure(&key, &fourth);
    println!(
        "fourth power: 2^{deviation:.2} and 2^{largest:.2}, bound 2^{:.2}",
        predicted.log2_bound()
    );
    assert!((deviation - predicted.deviation.log2()).abs() < 0.5, "2^{deviation:.2}");
    assert!(largest <= predicted.log2_bound());
    assert!(largest >= predicted.log2_bound() - SLACK - 1.0, "2^{largest:.2}");
}

/// Rerandomized replies: the noise of the encryption of zero as predicted, that of the flood, and
/// nothing else once it is there.
#[test]
fn rerandomized_ciphertexts() {
    let n = 8192;
    let t = ParamsSpec::smallest_slot_modulus(n, 1 << 24).unwrap();
    let spec = ParamsSpec::with_bits(n, t.into(), &[46, 46, 46]).unwrap();
    let params = Params::new(spec).unwrap();
    let mut rng = ChaCha20Rng::seed_from_u64(17);
    let key = SecretKey::generate(&params, &mut rng);
    let public = PublicKey::generate(&key, &mut rng);
    let encoder = SlotEncoder::new(&params).unwrap();
    let planes = (0..4).map(|_| {
        let values: Vec<i64> = (0..n).map(|_| rng.random_range(0..t.cast_signed())).collect();
        encoder.encode(&values).unwrap()
    });
    let planes: Vec<_> = planes.collect();
    let block = BlockEncryptor::new(&key, &mut rng).encrypt_next(&planes).unwrap();
    let t = t as f64;
    let fresh = Phase::fresh_with_uniform_message(t);
    let q2 = params.moduli()[2] as f64;
    let square = fresh.quadratic(n, 1.0, 0.0, 0.0).switched(q2, n, 2);
    let blocks = [(block.clone(), fresh, 1), (block.square().unwrap(), square, 2)];
    println!("| step | largest | rms | deviation | bound | capacity | margin |");
    for (block, before, degree) in blocks {
        let block = block.mod_switch_to(2).unwrap();
        let before = if degree == 1 { before.switched(q2, n, 1) } else { before };
        let seeds: Vec<[u8; 32]> = (0..block.count()).map(|_| rng.random()).collect();
        let mut zero = block.clone();
        zero.rerandomize(&public, 1, &seeds).unwrap();
        let spread = if degree == 2 { KEY_SPREAD } else { 1.0 };
        check("rerandomized", &key, &zero, before.rerandomized(n, degree, 1), spread);
        let bits = before.flood_bits(n, degree, 40);
        let mut flooded = block.clone();
        flooded.rerandomize(&public, bits, &seeds).unwrap();
        let (largest, rms) = measure(&key, &flooded);
        let bound = before.rerandomized(n, degree, bits).log2_bound();
        let flood = t.log2() + f64::from(bits);
        println!(
            "| flooded, {bits} bits | {largest:.2} | {rms:.2} | {:.2} | {bound:.2} | 91 | |",
            flood - 3_f64.log2() / 2.0
        );
        assert!(largest <= bound && bound < 91.0, "{largest} {bound}");
        assert!((rms - (flood - 3_f64.log2() / 2.0)).abs() < 0.02, "a uniform flood");
        // What it hides is 40 bits below it.
        let hidden = before.rerandomized(n, degree, 0).log2_bound();
        assert!(hidden + 40.0 <= flood, "{hidden} {flood}");
    }
}
