//! The protocol against plain fixed point, its byte counts, and what hostile messages meet.

use ndarray::Array2;
use proptest::prelude::*;
use rand::{Rng, SeedableRng, rngs::StdRng};
use secureml::lhe::TripleGeneration;
use secureml::{
    BatchMaterial, Channel, Convolution, Error, FRACTION_BITS, Gather, Inference, Machine, Network,
    OpenedWeights, Party, Phase, Pipe, ServerModel, Shares, TcpChannel, WeightOpening,
    deal_trusted, drive_pair, reconstruct_words, share_inputs, share_model, truncate_share,
};

fn matrix(rows: usize, columns: usize, limit: f64, rng: &mut StdRng) -> Array2<f64> {
    Array2::from_shape_simple_fn((rows, columns), || rng.random_range(-limit..limit))
}

fn bias(rows: usize, rng: &mut StdRng) -> Vec<f64> {
    (0..rows).map(|_| rng.random_range(-1.0..1.0)).collect()
}

/// Convolution, square, mean, dense, square, dense, sum.
fn network(rng: &mut StdRng) -> Network {
    let shape = Convolution { input: [6, 5, 2], kernel: [3, 3], stride: [2, 1], padding: [1, 0] };
    let weights = matrix(3, 18, 0.5, rng);
    let network = Network::new(60).expect("inputs");
    let network = network.convolution(&shape, weights.view(), &bias(3, rng)).expect("shapes");
    assert_eq!(network.structure().n_outputs(), 27);
    let thirds = (0..9).map(|i| vec![3 * i, 3 * i + 1, 3 * i + 2]).collect();
    let network = network.square().expect("a square").mean_pool(thirds).expect("windows");
    let (w1, w2) = (matrix(7, 9, 1.0, rng), matrix(4, 7, 1.0, rng));
    let network =
        network.dense(w1.view(), &bias(7, rng)).expect("shapes").square().expect("square");
    let network = network.dense(w2.view(), &bias(4, rng)).expect("shapes");
    network.sum_pool(vec![vec![0, 1], vec![2, 3], vec![0, 3]]).expect("windows")
}

fn open_weights(models: &[ServerModel; 2]) -> ([OpenedWeights; 2], Phase) {
    let mut machines = models.each_ref().map(WeightOpening::new);
    let phase = drive_pair(machines.each_mut(), Pipe::pair()).expect("an honest exchange");
    (machines.map(|m| m.finish().expect("finished")), phase)
}

fn infer<C: Channel + Send>(
    models: &[ServerModel; 2],
    weights: &[OpenedWeights; 2],
    materials: [BatchMaterial; 2],
    inputs: [Shares; 2],
    channels: [C; 2],
) -> (Vec<u64>, Phase) {
    let ([m0, m1], [x0, x1]) = (materials, inputs);
    let mut machines = [
        Inference::new(&models[0], &weights[0], m0, x0).expect("one model"),
        Inference::new(&models[1], &weights[1], m1, x1).expect("one model"),
    ];
    let phase = drive_pair(machines.each_mut(), channels).expect("an honest exchange");
    let [y0, y1] = machines.map(|m| m.finish().expect("finished"));
    (reconstruct_words(&y0, &y1).expect("one shape"), phase)
}

/// Runs a network with dealt triples and compares with plain fixed point.
fn check(network: &Network, n_samples: usize, limit: f64, rng: &mut StdRng) {
    let models = share_model(network, rng);
    let (weights, opening) = open_weights(&models);
    assert_eq!(weights[0], weights[1]);
    let structure = network.structure();
    assert_eq!(opening.payload_bytes(), structure.weight_bytes());
    // Two batches under one opening of the weights.
    for _ in 0..2 {
        let x = matrix(structure.n_inputs(), n_samples, limit, rng);
        let shares = share_inputs(x.view(), rng).expect("small inputs");
        let words = reconstruct_words(&shares[0], &shares[1]).expect("one shape");
        let words: Vec<i64> = words.into_iter().map(u64::cast_signed).collect();
        let plain = network.evaluate_plain(&words, n_samples).expect("small values");
        assert!(plain.n_truncations == 0 || plain.log2_failure_probability() < -16.0);
        let materials = deal_trusted(&models, n_samples, rng).expect("models");
        let (outputs, phase) = infer(&models, &weights, materials, shares, Pipe::pair());
        assert_eq!(phase.payload_bytes(), structure.online_bytes(n_samples));
        assert_eq!(phase.rounds(), structure.online_rounds());
        assert_eq!(outputs.len(), plain.values.len());
        for ((&y, &expected), &error) in outputs.iter().zip(&plain.values).zip(&plain.error_ulp) {
            let difference = y.cast_signed().abs_diff(expected);
            assert!(difference <= error, "{difference} ulp, {error} allowed");
        }
    }
}

#[test]
fn a_network_of_every_step_is_within_its_error_bound() {
    for seed in 0..12 {
        let mut rng = StdRng::seed_from_u64(seed);
        let network = network(&mut rng);
        check(&network, 5, 2.0, &mut rng);
    }
}

#[test]
fn the_error_bound_of_one_product_is_one_ulp() {
    let mut rng = StdRng::seed_from_u64(3);
    let weights = matrix(4, 6, 2.0, &mut rng);
    let network =
        Network::new(6).expect("inputs").dense(weights.view(), &[0.5; 4]).expect("shapes");
    let plain = network.evaluate_plain(&[12_345; 6], 1).expect("small values");
    assert_eq!(plain.error_ulp, [1; 4]);
    check(&network, 200, 8.0, &mut rng);
}

#[test]
fn steps_without_truncation_are_exact() {
    let mut rng = StdRng::seed_from_u64(4);
    let windows = vec![vec![0, 1, 2], vec![3, 4, 4], vec![0, 0, 0]];
    let network = Network::new(5).expect("inputs").sum_pool(windows).expect("windows");
    let plain = network.evaluate_plain(&[1, 2, 3, 4, 5], 1).expect("small values");
    assert_eq!((plain.values, plain.error_ulp), (vec![6, 14, 3], vec![0; 3]));
    check(&network, 7, 100.0, &mut rng);
}

#[test]
fn an_honest_offline_phase_gives_the_same_kind_of_results_over_tcp() {
    let mut rng = StdRng::seed_from_u64(5);
    let network = network(&mut rng);
    let models = share_model(&network, &mut rng);
    let (weights, _) = open_weights(&models);
    let mut machines =
        models.each_ref().map(|m| TripleGeneration::new(m, 3, &mut rng).expect("parameters"));
    let offline = drive_pair(machines.each_mut(), tcp_pair()).expect("an honest exchange");
    let expected = TripleGeneration::total_bytes(network.structure(), 3).expect("parameters");
    assert_eq!(offline.payload_bytes(), expected);
    let materials = machines.map(|m| m.finish().expect("finished"));
    let x = matrix(60, 3, 2.0, &mut rng);
    let shares = share_inputs(x.view(), &mut rng).expect("small inputs");
    let words = reconstruct_words(&shares[0], &shares[1]).expect("one shape");
    let words: Vec<i64> = words.into_iter().map(u64::cast_signed).collect();
    let plain = network.evaluate_plain(&words, 3).expect("small values");
    let (outputs, _) = infer(&models, &weights, materials, shares, tcp_pair());
    for ((&y, &expected), &error) in outputs.iter().zip(&plain.values).zip(&plain.error_ulp) {
        assert!(y.cast_signed().abs_diff(expected) <= error);
    }
}

fn tcp_pair() -> [TcpChannel; 2] {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("loopback");
    let address = listener.local_addr().expect("an address");
    let first = std::net::TcpStream::connect(address).expect("loopback");
    let (second, _) = listener.accept().expect("loopback");
    [first, second].map(|stream| TcpChannel::new(stream).expect("a stream"))
}

/// Messages of both servers up to the first opening.
struct Started {
    models: [ServerModel; 2],
    weights: [OpenedWeights; 2],
    rng: StdRng,
}

fn started() -> Started {
    let mut rng = StdRng::seed_from_u64(6);
    let network = network(&mut rng);
    let models = share_model(&network, &mut rng);
    let (weights, _) = open_weights(&models);
    Started { models, weights, rng }
}

#[test]
fn messages_of_wrong_length_kind_or_number_are_errors() {
    let Started { models, weights, mut rng } = started();
    let mut inference = || {
        let [m0, _] = deal_trusted(&models, 2, &mut rng).expect("models");
        let zeros = Shares::new(60, 2, vec![0; 120]).expect("a shape");
        let mut machine = Inference::new(&models[0], &weights[0], m0, zeros).expect("one model");
        let sent = machine.begin().expect("an opening");
        (machine, sent[0].clone())
    };
    let (_, good) = inference();
    let altered = |change: &dyn Fn(&mut Vec<u8>)| {
        let mut message = good.clone();
        change(&mut message);
        message
    };
    type Check = fn(&Error) -> bool;
    let length: Check = |e| matches!(e, Error::MessageLength { .. });
    let order: Check = |e| matches!(e, Error::Order { .. });
    for (message, wanted) in [
        (Vec::new(), length),
        (good[..4].to_vec(), length),
        (altered(&|m| m.truncate(m.len() - 1)), length),
        (altered(&|m| m.push(0)), length),
        (altered(&|m| m[0] = 1), order),
        (altered(&|m| m[0] = 255), order),
        (altered(&|m| m[1] = 1), order),
        (altered(&|m| m[4] = 255), order),
    ] {
        let (mut machine, _) = inference();
        let error = machine.receive(&message).expect_err("a bad message");
        assert!(wanted(&error), "{error}");
    }
    // The same opening twice is out of order.
    let (mut machine, _) = inference();
    machine.receive(&good).expect("the opening that is due");
    assert!(order(&machine.receive(&good).expect_err("a repeated message")));
    assert!(matches!(machine.finish(), Err(Error::State { .. })));
}

#[test]
fn parts_of_the_other_server_and_finished_machines_are_refused() {
    let Started { models, weights, mut rng } = started();
    let [m0, m1] = deal_trusted(&models, 2, &mut rng).expect("models");
    let zeros =
        |rows, samples| Shares::new(rows, samples, vec![0; rows * samples]).expect("a shape");
    let refused = Inference::new(&models[0], &weights[0], m1, zeros(60, 2));
    assert!(matches!(refused, Err(Error::Party { .. })));
    let refused = Inference::new(&models[0], &weights[0], m0, zeros(60, 3));
    assert!(matches!(refused, Err(Error::Length { .. })));
    let mut opening = WeightOpening::new(&models[0]);
    let sent = opening.begin().expect("an opening");
    opening.receive(&sent[0]).expect("some weights");
    assert!(matches!(opening.receive(&sent[0]), Err(Error::State { .. })));
}

/// At least the bytes of the last limb: below a modulus of 46 bits or less, none of its residues is all
/// ones.
const LIMB_BYTES: usize = 8192 * 46 / 8;

#[test]
fn malformed_keys_and_ciphertexts_are_errors() {
    let Started { models, mut rng, .. } = started();
    let mut machines =
        models.each_ref().map(|m| TripleGeneration::new(m, 2, &mut rng).expect("parameters"));
    let [mut keys0, mut keys1] = machines.each_mut().map(|m| m.begin().expect("keys").remove(0));
    // Another version of the key format.
    let good = keys0.clone();
    keys0[secureml::HEADER_BYTES] ^= 1;
    let mut other = TripleGeneration::new(&models[1], 2, &mut rng).expect("parameters");
    other.begin().expect("keys");
    assert!(matches!(other.receive(&keys0), Err(Error::Encryption(_))));
    // A residue that is not below its modulus.
    let end = keys1.len();
    keys1[end - LIMB_BYTES..].fill(255);
    assert!(matches!(machines[0].receive(&keys1), Err(Error::Encryption(_))));
    let mut query = machines[1].receive(&good).expect("keys").remove(0);
    let end = query.len();
    query[end - LIMB_BYTES..].fill(255);
    let mut first = TripleGeneration::new(&models[0], 2, &mut rng).expect("parameters");
    let mut second = TripleGeneration::new(&models[1], 2, &mut rng).expect("parameters");
    first.begin().expect("keys");
    let keys = second.begin().expect("keys").remove(0);
    first.receive(&keys).expect("keys");
    assert!(matches!(first.receive(&query), Err(Error::Encryption(_))));
}

#[test]
fn a_long_message_is_refused_before_it_is_read() {
    let [mut first, mut second] = tcp_pair();
    first.send(vec![0; 100]).expect("an open stream");
    assert!(matches!(second.receive(99), Err(Error::MessageLength { expected: 99, actual: 100 })));
    let [first, mut second] = Pipe::pair();
    drop(first);
    assert!(matches!(second.receive(1), Err(Error::Closed { .. })));
}

#[test]
fn values_that_leave_no_room_for_sharing_are_refused() {
    let network = Network::new(1).expect("inputs").square().expect("a square");
    assert!(network.evaluate_plain(&[(1 << 24) - 1], 1).is_ok());
    let overflow = network.evaluate_plain(&[1 << 26], 1);
    assert!(matches!(overflow, Err(Error::Overflow { .. })));
}

proptest! {
    /// Theorem 1 of SecureML: for `|x| < 2^30` it fails with probability below `2^-33`.
    #[test]
    fn truncated_shares_add_up_to_the_floor_or_one_more(
        x in -(1_i64 << 30)..1 << 30,
        share in any::<u64>(),
    ) {
        let other = x.cast_unsigned().wrapping_sub(share);
        let first = truncate_share(Party::First, share);
        let sum = first.wrapping_add(truncate_share(Party::Second, other)).cast_signed();
        let floor = x >> FRACTION_BITS;
        prop_assert!(sum == floor || sum == floor + 1, "{sum} for {x}");
    }

    /// A convolution is its definition, padding included.
    #[test]
    fn convolutions_equal_their_definition(
        height in 1_usize..7,
        width in 1_usize..7,
        channels in 1_usize..3,
        kernel in proptest::array::uniform2(1_usize..4),
        stride in proptest::array::uniform2(1_usize..3),
        padding in proptest::array::uniform2(0_usize..3),
        seed in any::<u64>(),
    ) {
        prop_assume!(height + 2 * padding[0] >= kernel[0] && width + 2 * padding[1] >= kernel[1]);
        let mut rng = StdRng::seed_from_u64(seed);
        let shape = Convolution { input: [height, width, channels], kernel, stride, padding };
        let n_taps = kernel[0] * kernel[1] * channels;
        prop_assert_eq!(Gather::convolution(&shape, 2).expect("a shape").n_taps(), n_taps);
        let integers = |n: usize, rng: &mut StdRng| -> Vec<i32> {
            (0..n).map(|_| rng.random_range(-50..50)).collect()
        };
        let (weights, x) = (integers(2 * n_taps, &mut rng), integers(height * width * channels, &mut rng));
        let whole = Array2::from_shape_fn((2, n_taps), |(r, k)| f64::from(weights[r * n_taps + k]));
        let network = Network::new(x.len()).expect("inputs");
        let network = network.convolution(&shape, whole.view(), &[1.0, -1.0]).expect("a shape");
        let result = network.evaluate_plain(&x.iter().map(|&x| x.into()).collect::<Vec<i64>>(), 1).expect("small values").values;
        let mut at = 0;
        let n_down = (height + 2 * padding[0] - kernel[0]) / stride[0] + 1;
        let n_right = (width + 2 * padding[1] - kernel[1]) / stride[1] + 1;
        for (down, right) in (0..n_down).flat_map(|d| (0..n_right).map(move |r| (d, r))) {
            for row in 0..2 {
                let mut sum = if row == 0 { 1 << FRACTION_BITS } else { -(1 << FRACTION_BITS) };
                for (y, z) in (0..kernel[0]).flat_map(|y| (0..kernel[1]).map(move |z| (y, z))) {
                    let (i, j) = (down * stride[0] + y, right * stride[1] + z);
                    let inside = (padding[0]..height + padding[0]).contains(&i)
                        && (padding[1]..width + padding[1]).contains(&j);
                    for c in 0..if inside { channels } else { 0 } {
                        let input = ((i - padding[0]) * width + j - padding[1]) * channels + c;
                        sum += weights[row * n_taps + (y * kernel[1] + z) * channels + c] * x[input];
                    }
                }
                prop_assert_eq!(result[at], i64::from(sum));
                at += 1;
            }
        }
        prop_assert_eq!(at, result.len());
    }
}
