//! The same computations with an independent scheme: BFV of the crate `fhe`.
//!
//! Another scheme, other keys, other noise, another order of slots: only the plaintext results must
//! agree. Sizes are small because BFV multiplies plaintexts by transforms.

#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "tests")]

use std::sync::Arc;

use fhe::bfv::{BfvParameters, BfvParametersBuilder, Ciphertext, Encoding};
use fhe_traits::{FheDecoder, FheDecrypter, FheEncoder, FheEncrypter};
use he_core::{
    BlockEncryptor, CoefficientEncoder, Decryptor, LinearMap, Message, Params, ParamsSpec,
    Plaintext, SecretKey, SlotEncoder,
};
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha20Rng;

const N: usize = 2048;
const N_INPUTS: usize = 5;
const N_OUTPUTS: usize = 3;

/// One problem: inputs, a map, and a modulus.
struct Problem {
    t: u64,
    planes: Vec<Vec<u64>>,
    weights: Vec<i32>,
    bias: Vec<i64>,
}

impl Problem {
    fn new(t: u64, seed: u64) -> Self {
        let mut rng = ChaCha20Rng::seed_from_u64(seed);
        let mut plane = || (0..N).map(|_| rng.random_range(0..t)).collect();
        let planes = (0..N_INPUTS).map(|_| plane()).collect();
        let weights = (0..N_INPUTS * N_OUTPUTS).map(|_| rng.random_range(-127..=127)).collect();
        let bias = (0..N_OUTPUTS).map(|_| rng.random_range(-5000..=5000)).collect();
        Self { t, planes, weights, bias }
    }

    fn residue(&self, x: i64) -> u64 {
        x.rem_euclid(self.t.cast_signed()).cast_unsigned()
    }

    /// The problem under BFV: `W·x + b`, and its square.
    fn run_bfv(&self, encoding: &Encoding) -> (Vec<Vec<u64>>, Vec<Vec<u64>>) {
        let mut builder = BfvParametersBuilder::new();
        builder.set_degree(N).set_plaintext_modulus(self.t).set_moduli_sizes(&[50, 50, 50]);
        let params: Arc<BfvParameters> = builder.build_arc().unwrap();
        let mut rng = ChaCha20Rng::seed_from_u64(1);
        let key = fhe::bfv::SecretKey::random(&params, &mut rng);
        let encode = |values: &[u64]| {
            fhe::bfv::Plaintext::try_encode(values, encoding.clone(), &params).unwrap()
        };
        let inputs: Vec<Ciphertext> =
            self.planes.iter().map(|p| key.try_encrypt(&encode(p), &mut rng).unwrap()).collect();
        // A scalar is a constant in every slot, but a single coefficient.
        let scalar = |x: i64| match *encoding == Encoding::simd() {
            true => encode(&[self.residue(x); N]),
            false => encode(&[self.residue(x)]),
        };
        let decode = |ciphertext: &Ciphertext| {
            let plaintext = key.try_decrypt(ciphertext).unwrap();
            Vec::<u64>::try_decode(&plaintext, encoding.clone()).unwrap()
        };
        let rows = self.weights.chunks(N_INPUTS).zip(&self.bias).map(|(row, &bias)| {
            let mut sum = &inputs[0] * &scalar(row[0].into());
            for (input, &w) in inputs.iter().zip(row).skip(1) {
                sum += &(input * &scalar(w.into()));
            }
            &sum + &encode(&[self.residue(bias); N])
        });
        let rows: Vec<Ciphertext> = rows.collect();
        (rows.iter().map(decode).collect(), rows.iter().map(|c| decode(&(c * c))).collect())
    }

    /// The problem under this crate.
    fn run(
        &self,
        encode: &dyn Fn(&Params, &[i64]) -> Plaintext,
        decode: &dyn Fn(&Params, &Message) -> Vec<i64>,
    ) -> (Vec<Vec<u64>>, Vec<Vec<u64>>) {
        // INSECURE: the moduli BFV needs at this degree are too large, here as there.
        let spec = ParamsSpec::with_bits(N, self.t.into(), &[47, 46]).unwrap();
        let params = Params::insecure_new(spec).unwrap();
        let mut rng = ChaCha20Rng::seed_from_u64(2);
        let key = SecretKey::generate(&params, &mut rng);
        let signed = |p: &Vec<u64>| p.iter().map(|&x| x.cast_signed()).collect::<Vec<_>>();
        let plaintexts: Vec<_> = self.planes.iter().map(|p| encode(&params, &signed(p))).collect();
        let block = BlockEncryptor::new(&key, &mut rng).encrypt_next(&plaintexts).unwrap();
        let map = LinearMap::dense(N_OUTPUTS, N_INPUTS, &self.weights, &self.bias).unwrap();
        let linear = map.with_unit(&encode(&params, &[1; N])).apply(&block).unwrap();
        let square = linear.square().unwrap().mod_switch_down().unwrap();
        let decryptor = Decryptor::new(&key);
        let read = |block, index| {
            let message = decryptor.decrypt(block, index).unwrap();
            decode(&params, &message).iter().map(|&x| self.residue(x)).collect()
        };
        let rows = |block| (0..N_OUTPUTS).map(|index| read(block, index)).collect();
        (rows(&linear), rows(&square))
    }
}

#[test]
fn slots_agree_with_bfv() {
    for t in [40_961, 65_537] {
        let problem = Problem::new(t, t);
        let ours = problem.run(
            &|params, values| SlotEncoder::new(params).unwrap().encode(values).unwrap(),
            &|params, message| SlotEncoder::new(params).unwrap().decode(message).unwrap().to_vec(),
        );
        assert_eq!(ours, problem.run_bfv(&Encoding::simd()), "t = {t}");
    }
}

#[test]
fn coefficients_agree_with_bfv() {
    let problem = Problem::new(1 << 14, 14);
    let encoder = |params: &Params| CoefficientEncoder::new(params, 14, 1).unwrap();
    let ours = problem
        .run(&|params, values| encoder(params).encode(values).unwrap(), &|params, message| {
            encoder(params).decode_from(message, 0).unwrap().to_vec()
        });
    assert_eq!(ours, problem.run_bfv(&Encoding::poly()));
}

/// Products of ciphertexts, rotations, swaps and sums, with evaluation keys on both sides.
mod evaluation_keys {
    use super::{Arc, BfvParameters, BfvParametersBuilder, Ciphertext, Encoding, N, Rng};
    use fhe::bfv::{EvaluationKeyBuilder, Multiplicator, RelinearizationKey};
    use fhe_traits::{FheDecoder, FheDecrypter, FheEncoder, FheEncrypter};
    use he_core::{
        CiphertextBlock, Decryptor, EvaluationKeys, KeySet, Params, ParamsSpec, PublicKey,
        RowEncoder, SecretKey,
    };
    use rand::SeedableRng;
    use rand_chacha::ChaCha20Rng;

    const ROTATIONS: [usize; 3] = [1, 7, 1000];

    fn planes(t: u64) -> [Vec<u64>; 2] {
        let mut rng = ChaCha20Rng::seed_from_u64(t);
        [0, 1].map(|_| (0..N).map(|_| rng.random_range(0..t)).collect())
    }

    /// Product, its sum over all slots, the rotations of the first input, its swap.
    fn run_bfv(t: u64) -> Vec<Vec<u64>> {
        let mut builder = BfvParametersBuilder::new();
        builder.set_degree(N).set_plaintext_modulus(t).set_moduli_sizes(&[50, 50, 50]);
        let params: Arc<BfvParameters> = builder.build_arc().unwrap();
        let mut rng = ChaCha20Rng::seed_from_u64(1);
        let key = fhe::bfv::SecretKey::random(&params, &mut rng);
        let public = fhe::bfv::PublicKey::new(&key, &mut rng);
        let relinearization = RelinearizationKey::new(&key, &mut rng).unwrap();
        let mut builder = EvaluationKeyBuilder::new(&key).unwrap();
        builder.enable_inner_sum().unwrap().enable_row_rotation().unwrap();
        for steps in ROTATIONS {
            builder.enable_column_rotation(steps).unwrap();
        }
        let evaluation = builder.build(&mut rng).unwrap();
        let [x, y]: [Ciphertext; 2] = planes(t).map(|plane| {
            let plaintext =
                fhe::bfv::Plaintext::try_encode(&plane, Encoding::simd(), &params).unwrap();
            public.try_encrypt(&plaintext, &mut rng).unwrap()
        });
        let product = Multiplicator::default(&relinearization).unwrap().multiply(&x, &y).unwrap();
        let sum = evaluation.computes_inner_sum(&product).unwrap();
        let mut results = vec![product, sum, evaluation.rotates_rows(&x).unwrap()];
        results.extend(ROTATIONS.map(|steps| evaluation.rotates_columns_by(&x, steps).unwrap()));
        let decode = |ciphertext: &Ciphertext| {
            let plaintext = key.try_decrypt(ciphertext).unwrap();
            Vec::<u64>::try_decode(&plaintext, Encoding::simd()).unwrap()
        };
        results.iter().map(decode).collect()
    }

    fn run(t: u64) -> Vec<Vec<u64>> {
        // INSECURE: as large as what BFV needs at this degree.
        let spec = ParamsSpec::with_bits(N, t.into(), &[45, 45, 45]).unwrap();
        let special = spec.further_primes(&[47]).unwrap();
        let params = Params::insecure_with_special_moduli(spec, special).unwrap();
        let mut rng = ChaCha20Rng::seed_from_u64(2);
        let key = SecretKey::generate(&params, &mut rng);
        let public = PublicKey::generate(&key, &mut rng);
        let set = KeySet::new().with_relinearization().with_slot_sum().with_row_swap();
        let set = ROTATIONS
            .iter()
            .fold(set, |set, &steps| set.with_rotation(i64::try_from(steps).unwrap()));
        let keys = EvaluationKeys::generate(&key, &set, &mut rng).unwrap();
        let encoder = RowEncoder::new(&params).unwrap();
        let [x, y] = planes(t).map(|plane| {
            let values: Vec<i64> = plane.iter().map(|&x| x.cast_signed()).collect();
            public.encrypt(&[encoder.encode(&values).unwrap()], &mut rng).unwrap()
        });
        let product = x.multiply_relinearized(&y, &keys).unwrap().mod_switch_down().unwrap();
        let sum = product.sum_slots(&keys).unwrap();
        let mut results = vec![product, sum, x.swap_rows(&keys).unwrap()];
        results.extend(
            ROTATIONS.map(|steps| x.rotate_rows(i64::try_from(steps).unwrap(), &keys).unwrap()),
        );
        let decode = |block: &CiphertextBlock| -> Vec<u64> {
            let message = Decryptor::new(&key).decrypt(block, 0).unwrap();
            let slots = encoder.decode_from(&message, 0).unwrap();
            slots.iter().map(|&x| x.cast_unsigned()).collect()
        };
        results.iter().map(decode).collect()
    }

    #[test]
    fn products_rotations_and_sums_agree_with_bfv() {
        for t in [40_961, 65_537] {
            let (ours, theirs) = (run(t), run_bfv(t));
            assert_eq!(ours.len(), theirs.len());
            for (index, (ours, theirs)) in ours.iter().zip(&theirs).enumerate() {
                assert!(ours == theirs, "result {index} modulo {t} differs");
            }
        }
    }
}
