//! Forged replies, made with what a server has: ciphertexts, public parameters, no key.

use he_core::{
    CiphertextBlock, CoefficientEncoder, LinearMap, Params, ParamsSpec, Plaintext, SlotEncoder,
    bytes,
};
use nn_poly::plan::{Packing, Segment};

use super::{Cheat, Strength};

/// Public parameters of one segment, for taking replies apart and putting them together.
#[derive(Debug)]
pub(super) struct ReplyForge {
    params: Params,
    packing: Packing,
    n_outputs: usize,
    degree: usize,
    n_moduli: usize,
}

impl ReplyForge {
    pub(super) fn new(segment: &Segment) -> Self {
        let ring = &segment.ring;
        let spec = ParamsSpec {
            ring_degree: ring.ring_degree as usize,
            plaintext_modulus: ring.plaintext_modulus,
            moduli: ring.moduli.clone(),
        };
        let special = ring.special_modulus.into_iter().collect();
        let params = Params::with_special_moduli(spec, special)
            .expect("a checked plan has secure parameters");
        Self {
            params,
            packing: segment.packing,
            n_outputs: segment.n_outputs as usize,
            degree: segment.reply_degree() as usize,
            n_moduli: ring.reply_moduli as usize,
        }
    }

    pub(super) fn ciphertext_bytes(&self) -> usize {
        bytes::reply_bytes(&self.params, self.degree, self.n_moduli)
    }

    /// Ciphertexts the server says its reply has.
    pub(super) fn declared_outputs(&self, cheat: &Cheat) -> usize {
        if *cheat == Cheat::MissingCiphertext { self.n_outputs - 1 } else { self.n_outputs }
    }

    /// Bytes the server says its reply has.
    pub(super) fn declared_bytes(&self, cheat: &Cheat) -> u64 {
        let all = self.params.moduli().len();
        let size = if *cheat == Cheat::WrongDegree {
            bytes::reply_bytes(&self.params, self.degree + 1, self.n_moduli)
        } else if *cheat != Cheat::WrongLevel {
            self.ciphertext_bytes()
        } else if self.n_moduli < all {
            bytes::reply_bytes(&self.params, self.degree, all)
        } else if all > 1 {
            bytes::reply_bytes(&self.params, self.degree, all - 1)
        } else {
            // One modulus only: as if there were a second one of the same size.
            2 * self.ciphertext_bytes()
        };
        (self.declared_outputs(cheat) * size) as u64
    }

    /// Adds `by` to the given slots of one output, and to no other slot.
    pub(super) fn add_to_slots(
        &self,
        reply: &[u8],
        output: usize,
        slots: &[usize],
        by: i64,
    ) -> Vec<u8> {
        let mut block = self.decode(reply);
        let delta = self.trivial(&self.encode_for(&block, slots, by), 1);
        block.add_assign(&self.at_output(&delta, output)).expect("one form");
        encode(&block)
    }

    /// Adds multiples of the plaintext modulus to one output.
    pub(super) fn add_noise(&self, reply: &[u8], output: usize, strength: Strength) -> Vec<u8> {
        let mut block = self.decode(reply);
        let t = i64::try_from(self.params.plaintext_modulus()).expect("one sample per coefficient");
        let (shape, factor) = match strength {
            Strength::Harmless => (self.encode_with(|_| 1), t),
            Strength::Overwhelming => {
                (self.encode_with(|slot| slot as i64 % t), (i64::MAX / 4) / t * t)
            }
        };
        block.add_assign(&self.at_output(&self.trivial(&shape, factor), output)).expect("one form");
        encode(&block)
    }

    /// Adds the square of input 0 to output 0.
    pub(super) fn add_square_of_input(&self, reply: &[u8], request: &CiphertextBlock) -> Vec<u8> {
        let mut block = self.decode(reply);
        let square = request
            .select(&[0])
            .and_then(|input| input.square())
            .and_then(|square| square.mod_switch_to(self.n_moduli))
            .expect("segments with a square only");
        block.add_assign(&self.at_output(&square, 0)).expect("one form");
        encode(&block)
    }

    pub(super) fn flip_word(&self, reply: &[u8], output: usize, word: usize) -> Vec<u8> {
        let mut block = self.decode(reply);
        block.tamper_word(0, output, word).expect("the word exists");
        encode(&block)
    }

    pub(super) fn swap_outputs(&self, reply: &[u8], first: usize, second: usize) -> Vec<u8> {
        let mut order: Vec<usize> = (0..self.n_outputs).collect();
        order.swap(first, second);
        encode(&self.decode(reply).select(&order).expect("a permutation"))
    }

    /// The request's ciphertexts in the form of a reply, over again if there are too few.
    pub(super) fn inputs_as_reply(&self, request: &CiphertextBlock) -> Vec<u8> {
        let order: Vec<usize> = (0..self.n_outputs).map(|i| i % request.count()).collect();
        let block = request
            .select(&order)
            .and_then(|inputs| inputs.mod_switch_to(self.n_moduli))
            .expect("requests have all moduli");
        let short = encode(&block);
        let (long, size) = (self.ciphertext_bytes(), short.len() / self.n_outputs);
        short
            .chunks(size)
            .flat_map(|ciphertext| {
                let mut padded = ciphertext.to_vec();
                padded.resize(long, 0);
                padded
            })
            .collect()
    }

    /// All ones in the first limb: at least the modulus, which is a prime of as many bits.
    pub(super) fn overflow_first_residue(&self, reply: &mut [u8]) {
        reply[..bytes::polynomial_bytes(&self.params, 1)].fill(0xFF);
    }

    fn decode(&self, reply: &[u8]) -> CiphertextBlock {
        let mut block = self.zeros(self.n_outputs);
        bytes::read_reply_into(&mut block, 0, reply).expect("an honest reply");
        block
    }

    fn zeros(&self, count: usize) -> CiphertextBlock {
        CiphertextBlock::zeros(&self.params, count, self.degree, self.n_moduli)
            .expect("the plan's form")
    }

    /// A block of zeros with a single ciphertext at `output`.
    fn at_output(&self, ciphertext: &CiphertextBlock, output: usize) -> CiphertextBlock {
        let members: Vec<Vec<usize>> =
            (0..self.n_outputs).map(|i| if i == output { vec![0] } else { Vec::new() }).collect();
        ciphertext.sums(&members).expect("the only ciphertext")
    }

    /// The plaintext that adds `by` to the given slots of a reply with this block's correction.
    fn encode_for(&self, block: &CiphertextBlock, slots: &[usize], by: i64) -> Plaintext {
        let value = match self.packing {
            Packing::Slots => {
                let t = i128::try_from(self.params.plaintext_modulus()).expect("below 2^47");
                let correction = i128::try_from(block.correction()).expect("below t");
                (i128::from(by) * power(correction, t - 2, t) % t) as i64
            }
            // Linear replies have dropped no modulus.
            Packing::Coefficients { .. } => by,
        };
        self.encode_with(|slot| if slots.contains(&slot) { value } else { 0 })
    }

    /// The plaintext with this value in each slot.
    fn encode_with(&self, value: impl Fn(usize) -> i64) -> Plaintext {
        match self.packing {
            Packing::Slots => {
                let encoder = SlotEncoder::new(&self.params).expect("a plan with slots");
                let values: Vec<i64> = (0..encoder.slot_count()).map(value).collect();
                encoder.encode(&values).expect("one value per slot")
            }
            Packing::Coefficients { radix_bits, samples_per_coefficient } => {
                let k = samples_per_coefficient as usize;
                let encoder = CoefficientEncoder::new(&self.params, radix_bits, k)
                    .expect("a plan with coefficients");
                let values: Vec<i64> = (0..encoder.value_count()).map(value).collect();
                encoder.encode(&values).expect("small values")
            }
        }
    }

    /// The ciphertext `(factor·plaintext, 0, …)` in the form of a reply.
    fn trivial(&self, plaintext: &Plaintext, factor: i64) -> CiphertextBlock {
        let zero = CiphertextBlock::zeros(&self.params, 1, 1, self.params.moduli().len())
            .expect("fresh form");
        let map = LinearMap::dense(1, 1, &[0], &[factor]).expect("a map").with_unit(plaintext);
        let mut words = Vec::new();
        bytes::write_request(&map.apply(&zero).expect("one input"), &mut words);
        // Limbs follow each other, so a prefix is the polynomial over fewer moduli.
        words.truncate(bytes::polynomial_bytes(&self.params, self.n_moduli));
        words.resize(self.ciphertext_bytes(), 0);
        let mut block = self.zeros(1);
        bytes::read_reply_into(&mut block, 0, &words).expect("residues of an encoding");
        block
    }
}

fn encode(block: &CiphertextBlock) -> Vec<u8> {
    let mut reply = Vec::new();
    bytes::write_reply(block, &mut reply);
    reply
}

/// `base^exponent mod t`.
fn power(base: i128, exponent: i128, t: i128) -> i128 {
    let (mut result, mut base, mut exponent) = (1, base % t, exponent);
    while exponent > 0 {
        if exponent & 1 == 1 {
            result = result * base % t;
        }
        base = base * base % t;
        exponent >>= 1;
    }
    result
}
