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
