//! Masked plans under encryption: equal to the exact network with the same masks, bit for bit; a pure
//! function of the request; and closed to requests that name masks they should not.
#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::cast_possible_truncation,
    clippy::cast_possible_wrap,
    missing_docs,
    reason = "tests"
)]

#[path = "masked_encrypted/residues.rs"]
mod residues;

use std::collections::HashSet;
use std::ops::ControlFlow;
use std::sync::{Arc, LazyLock};

use ndarray::Array2;
use nn_poly::encrypted::Error as EncryptedError;
use nn_poly::encrypted::masked::{
    BlockMasks, MaskKey, MaskToken, MaskedBlock, MaskedEvaluator, MaskedOpening, MaskedStage,
    RequestHash, StageKeys,
};
use nn_poly::import::{Preprocessing, SplitSpec};
use nn_poly::integer::{
    ActivationKind, ConvGeometry, Grouping, InputGrid, IntegerMatrix, IntegerNetwork,
    LinearGeometry, MASK_MARGIN_BITS, MaskSource, NoMasks, Pool, Quadratic, Reduction, Refresh,
    StageStructure, StageWeights, ValueRef, Volume,
};
use nn_poly::plan::{
    ActivationSide, ModelFacts, Plan, PlanOptions, PublicPlan, PublicPlanSpec, Trust, compile,
};
use nn_poly::{Error, layer::Padding, tensor::Shape};
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha20Rng;

fn layer(
    sources: Vec<ValueRef>,
    linear: LinearGeometry,
    pool: Option<Pool>,
    refresh: Option<Refresh>,
) -> StageStructure {
    let is_last = refresh.is_none();
    let activation = if is_last { ActivationKind::Identity } else { ActivationKind::Quadratic };
    StageStructure { sources, linear, activation, pool, refresh, chain: None }
}

/// Three stages: squares with a pool, quadratics with a negative multiplier, scores that read both.
fn network() -> IntegerNetwork {
    let mut rng = ChaCha20Rng::seed_from_u64(5);
    let conv = ConvGeometry {
        input: Volume { height: 4, width: 4, channels: 1 },
        kernel: (3, 3),
        stride: (1, 1),
        padding: Padding::NONE,
        out_channels: 2,
        grouping: Grouping::Full,
    };
    let (window, stride) = ((2, 2), (2, 2));
    let (reduction, padding) = (Reduction::Sum, Padding::NONE);
    let pool = Pool { reduction, input: conv.output(), window, stride, padding };
    let refresh = |multipliers: &[i64], shift| {
        Some(Refresh { multipliers: multipliers.to_vec(), shift, min: 0, max: 15 })
    };
    let structure = vec![
        layer(vec![ValueRef::Input], LinearGeometry::Conv2d(conv), Some(pool), refresh(&[3], 9)),
        layer(
            vec![ValueRef::Stage(0)],
            LinearGeometry::Dense { n_in: 2, n_out: 3 },
            None,
            refresh(&[1_999, -731, 1 << 10], 21),
        ),
        layer(
            vec![ValueRef::Stage(1), ValueRef::Input, ValueRef::Stage(0)],
            LinearGeometry::Dense { n_in: 21, n_out: 2 },
            None,
            None,
        ),
    ];
    let weights = structure
        .iter()
        .enumerate()
        .map(|(i, shape)| StageWeights {
            weights: (0..shape.linear.n_weights()).map(|_| rng.random_range(-7..=7)).collect(),
            bias: (0..shape.linear.n_channels()).map(|_| rng.random_range(-9..=9)).collect(),
            quadratic: match i {
                0 => Some(Quadratic::square()),
                1 => Some(Quadratic { a: vec![1, 2, -1], b: vec![-5, 0, 7], c: vec![11, -3, 0] }),
                _ => None,
            },
            chain: Vec::new(),
        })
        .collect();
    let grid = InputGrid { bits: 4, signed: false, step: 1.0 / 15.0 };
    IntegerNetwork::new(grid, 16, structure, weights).unwrap()
}

fn facts() -> ModelFacts {
    ModelFacts {
        name: "masked".to_owned(),
        input_shape: Shape::image(4, 4, 1).unwrap(),
        preprocessing: Preprocessing::UnitRange,
        split: SplitSpec::default(),
        class_names: vec!["no".to_owned(), "yes".to_owned()],
        score_step: 1.0,
    }
}

fn options() -> PlanOptions {
    PlanOptions { trust: Trust::Masked, expected_samples: 100, ..PlanOptions::default() }
}

static PLAN: LazyLock<Plan> =
    LazyLock::new(|| compile(&network(), &[], facts(), &options()).unwrap());

fn key(byte: u8) -> Arc<MaskKey> {
    Arc::new(MaskKey::from_bytes(&[byte; 32]))
}

fn inputs(seed: u64) -> IntegerMatrix {
    let n = MaskedStage::new(PLAN.public(), 0).unwrap().capacity();
    let mut rng = ChaCha20Rng::seed_from_u64(seed);
    Array2::from_shape_simple_fn((16, n), || match rng.random_range(0..5) {
        0 => 0,
        1 => 15,
        _ => rng.random_range(0..=15),
    })
}

fn reply(
    evaluator: &MaskedEvaluator,
    seed: [u8; 32],
    payload: &[u8],
    cut: usize,
) -> Result<Vec<u8>, EncryptedError> {
    let mut receiver = evaluator.receive(seed);
    for piece in payload.chunks(cut) {
        receiver.push(piece)?;
    }
    let request = evaluator.open(receiver)?;
    let mut reply = Vec::new();
    let flow = evaluator.evaluate(&request, &mut |piece| {
        reply.extend(piece);
        ControlFlow::Continue(())
    })?;
    assert!(flow.is_continue());
    Ok(reply)
}

/// A client in the middle of a run.
struct Client {
    inputs: IntegerMatrix,
    rng: ChaCha20Rng,
    opened: Vec<MaskedOpening>,
    hashes: Vec<RequestHash>,
}

impl Client {
    fn new(seed: u64) -> Self {
        let rng = ChaCha20Rng::seed_from_u64(seed);
        Self { inputs: inputs(seed), rng, opened: Vec::new(), hashes: Vec::new() }
    }

    /// The request of the next stage; what is sent for earlier stages is what the client holds.
    fn request(&mut self) -> (MaskedStage, StageKeys, MaskedBlock) {
        let number = self.opened.len();
        let stage = MaskedStage::new(PLAN.public(), number).unwrap();
        let keys = stage.generate_keys(&mut self.rng).unwrap();
        let tokens: Vec<MaskToken> =
            stage.token_stages().iter().map(|&k| self.opened[k].token).collect();
        let capacity = stage.capacity();
        let mut rows: Vec<Vec<i128>> = Vec::new();
        for source in &PLAN.public().stages[number].sources {
            match *source {
                ValueRef::Input => rows.extend(
                    self.inputs.rows().into_iter().map(|r| r.iter().map(|&x| x.into()).collect()),
                ),
                ValueRef::Stage(k) => rows
                    .extend(self.opened[k as usize].values.chunks(capacity).map(<[i128]>::to_vec)),
            }
        }
        let fill = |i: usize, row: &mut [i128]| {
            row.copy_from_slice(&rows[i]);
            Ok::<(), EncryptedError>(())
        };
        let digest = PLAN.digest();
        let block = stage.encrypt(&digest, &keys, &tokens, fill, &mut self.rng).unwrap();
        assert_eq!(block.payload.len() as u64, stage.request_bytes());
        (stage, keys, block)
    }

    fn open(&mut self, stage: &MaskedStage, keys: &StageKeys, block: &MaskedBlock, reply: &[u8]) {
        assert_eq!(reply.len() as u64, stage.reply_bytes());
        self.hashes.push(block.hash);
        self.opened.push(stage.open(keys, block.hash, reply).unwrap());
    }

    /// All rounds with an honest server.
    fn run(mut self, mask_key: &Arc<MaskKey>) -> Self {
        for number in 0..PLAN.public().stages.len() {
            let evaluator = MaskedEvaluator::new(&PLAN, number, Arc::clone(mask_key)).unwrap();
            let (stage, keys, block) = self.request();
            let reply = reply(&evaluator, block.seed, &block.payload, 100_003).unwrap();
            self.open(&stage, &keys, &block, &reply);
        }
        self
    }
}

#[test]
fn encrypted_equals_the_network_with_the_same_masks() {
    let mask_key = key(1);
    for seed in [1, 2] {
        let client = Client::new(seed).run(&mask_key);
        let masks = BlockMasks::new(&mask_key, &PLAN, &client.hashes);
        let expected = PLAN.simulate_masked(&client.inputs, &masks).unwrap();
        let n = client.inputs.ncols();
        for (row, class) in client.opened[2].values.chunks(n).zip(expected.scores.rows()) {
            assert!(row.iter().zip(class).all(|(&got, &score)| got == i128::from(score)));
        }
        // What the client holds between rounds, less what the server subtracts.
        for (number, refreshed) in expected.refreshed.iter().enumerate() {
            let shape = &PLAN.public().stages[number];
            let refresh = shape.refresh.as_ref().unwrap();
            for (output, row) in client.opened[number].values.chunks(n).enumerate() {
                let mut of_output = vec![0; n];
                masks.fill(number, output, &mut of_output);
                let channel = output % shape.n_channels();
                for (slot, (&c, &mask)) in row.iter().zip(&of_output).enumerate() {
                    let u = c - refresh.scale_mask(channel, mask);
                    assert_eq!(u, i128::from(refreshed[[output, slot]]));
                }
            }
        }
        assert!(expected.n_raised > 0, "some values are one unit higher");
        let plain = PLAN.simulate_masked(&client.inputs, &NoMasks).unwrap();
        assert_ne!(plain.scores, expected.scores);
    }
}

#[test]
fn identical_requests_get_identical_replies_and_others_other_masks() {
    let evaluator = MaskedEvaluator::new(&PLAN, 0, key(1)).unwrap();
    let twin = MaskedEvaluator::new(&PLAN, 0, key(1)).unwrap();
    let other_key = MaskedEvaluator::new(&PLAN, 0, key(2)).unwrap();
    let mut client = Client::new(3);
    let (stage, keys, block) = client.request();
    let first = reply(&evaluator, block.seed, &block.payload, 1 << 20).unwrap();
    assert_eq!(first, reply(&twin, block.seed, &block.payload, 977).unwrap());
    assert_ne!(first, reply(&other_key, block.seed, &block.payload, 1 << 20).unwrap());
    let opened = stage.open(&keys, block.hash, &first).unwrap();
    // The same inputs again, encrypted afresh: the same values under other masks.
    let (stage, keys, again) = client.request();
    assert_ne!(block.hash, again.hash);
    let second = reply(&evaluator, again.seed, &again.payload, 1 << 20).unwrap();
    let reopened = stage.open(&keys, again.hash, &second).unwrap();
    assert_ne!(opened.token, reopened.token);
    let seen: HashSet<i128> = opened.values.iter().copied().collect();
    let n_shared = reopened.values.iter().filter(|value| seen.contains(value)).count();
    assert!(n_shared < 4, "{n_shared} masked values occur twice");
    assert!(matches!(
        stage.open(&keys, block.hash, &second),
        Err(EncryptedError::OtherRequest { stage: 0 })
    ));
}

#[test]
fn requests_that_name_other_masks_are_refused() {
    let mut client = Client::new(4);
    let first = MaskedEvaluator::new(&PLAN, 0, key(1)).unwrap();
    let (stage, keys, block) = client.request();
    let answer = reply(&first, block.seed, &block.payload, 1 << 20).unwrap();
    client.open(&stage, &keys, &block, &answer);
    let second = MaskedEvaluator::new(&PLAN, 1, key(1)).unwrap();
    let (_, _, block) = client.request();
    assert!(reply(&second, block.seed, &block.payload, 1 << 20).is_ok());
    let refused = |evaluator: &MaskedEvaluator, payload: &[u8]| {
        assert!(matches!(
            reply(evaluator, block.seed, payload, 1 << 20),
            Err(EncryptedError::MaskToken { stage: 0 })
        ));
    };
    for byte in [0, 31, 32, 63] {
        let mut altered = block.payload.clone();
        altered[byte] ^= 1;
        refused(&second, &altered);
    }
    // The token of a stage is none of another; nor of another key, or of another plan.
    let of_other = |plan: &Plan, stage| {
        key(1).token(&plan.digest(), stage, RequestHash(block.payload[..32].try_into().unwrap()))
    };
    let mut altered = block.payload.clone();
    altered[..64].copy_from_slice(&of_other(&PLAN, 1).0);
    refused(&second, &altered);
    refused(&MaskedEvaluator::new(&PLAN, 1, key(2)).unwrap(), &block.payload);
    let facts = ModelFacts { name: "another".to_owned(), ..facts() };
    let other = compile(&network(), &[], facts, &options()).unwrap();
    assert_ne!(other.digest(), PLAN.digest());
    refused(&MaskedEvaluator::new(&other, 1, key(1)).unwrap(), &block.payload);
}

#[test]
fn residues_out_of_order_and_wrong_lengths_are_refused() {
    let evaluator = MaskedEvaluator::new(&PLAN, 0, key(1)).unwrap();
    let (stage, _, block) = Client::new(5).request();
    let range = PLAN.public().segments_of(0).unwrap();
    let segments = &PLAN.public().segments[range];
    assert!(segments.len() > 1, "masks need several primes");
    // The first residue's seed is announced, the second's stands before it.
    let first = segments[0].request_bytes() as usize;
    let second = first + 32..first + segments[1].request_bytes() as usize;
    let mut swapped = block.payload.clone();
    swapped[..first].copy_from_slice(&block.payload[second.clone()]);
    swapped[second].copy_from_slice(&block.payload[..first]);
    assert_eq!(swapped.len(), block.payload.len());
    let outcome = reply(&evaluator, block.seed, &swapped, 1 << 20);
    assert!(matches!(outcome, Err(EncryptedError::Arithmetic(_))), "{outcome:?}");
    let short = &block.payload[..block.payload.len() - 1];
    assert!(matches!(
        reply(&evaluator, block.seed, short, 1 << 20),
        Err(EncryptedError::ByteCount { .. })
    ));
    let mut long = block.payload.clone();
    long.push(0);
    assert!(matches!(
        reply(&evaluator, block.seed, &long, 1 << 20),
        Err(EncryptedError::ByteCount { .. })
    ));
    let key = stage.generate_keys(&mut ChaCha20Rng::seed_from_u64(1)).unwrap();
    assert!(matches!(
        stage.open(&key, block.hash, &vec![0; stage.reply_bytes() as usize - 1]),
        Err(EncryptedError::ByteCount { .. })
    ));
}

#[test]
fn a_masked_plan_says_what_it_needs_and_hides() {
    let public = PLAN.public();
    assert_eq!(public.trust, Trust::Masked);
    assert_eq!(public.activation_side, ActivationSide::Server);
    let degree = public.segments[0].ring.ring_degree;
    let proven = PLAN.network().masked_ranges().unwrap();
    for (idx, found) in proven.iter().enumerate() {
        let segments = &public.segments[public.segments_of(idx).unwrap()];
        let product: u128 = segments.iter().map(|s| u128::from(s.window.modulus)).product();
        let is_last = idx + 1 == proven.len();
        for segment in segments {
            let part = segment.mask.unwrap();
            let bits = if is_last { 0 } else { found.range_bits() + MASK_MARGIN_BITS };
            assert_eq!(part.mask_bits, bits);
            assert!(part.flood_bits >= 50 && segment.noise.margin_bits() >= 0.0);
            assert_eq!(segment.ring.ring_degree, degree);
        }
        assert!(is_last || product >= 1 << (found.range_bits() + 42));
        let stage = MaskedStage::new(public, idx).unwrap();
        let (up, down): (u64, u64) = segments
            .iter()
            .fold((0, 0), |(up, down), s| (up + s.request_bytes(), down + s.reply_bytes()));
        assert_eq!((stage.request_bytes(), stage.reply_bytes()), (up, down));
    }
    let decoded = Plan::from_bytes(&PLAN.to_bytes().unwrap()).unwrap();
    assert_eq!(decoded.digest(), PLAN.digest());
    let fetched = PublicPlan::from_bytes(&public.to_bytes().unwrap()).unwrap();
    assert_eq!(fetched.digest(), PLAN.public_digest());
    let wrong = PLAN.simulate(&inputs(1));
    assert!(matches!(wrong, Err(Error::TrustSetting { expected: Trust::Owner, .. })));
    let owner =
        compile(&network(), &[], facts(), &PlanOptions { trust: Trust::Owner, ..options() });
    let owner = owner.unwrap();
    assert!(matches!(
        MaskedEvaluator::new(&owner, 0, key(1)),
        Err(Error::TrustSetting { expected: Trust::Masked, .. })
    ));
    assert!(MaskedStage::new(owner.public(), 0).is_err());
    let at_client = PlanOptions { activation_side: ActivationSide::Client, ..options() };
    assert!(compile(&network(), &[], facts(), &at_client).is_err());
}

/// The bytes of a masked plan, and a request and a reply from fixed secrets.
#[test]
fn golden_bytes_of_a_masked_plan_and_its_messages() {
    let evaluator = MaskedEvaluator::new(&PLAN, 0, key(1)).unwrap();
    let (_, _, block) = Client::new(6).request();
    let reply = reply(&evaluator, block.seed, &block.payload, 1 << 20).unwrap();
    let hash = |bytes: &[u8]| blake3::hash(bytes).to_string();
    let found = [
        PLAN.digest().to_string(),
        hash(&PLAN.to_bytes().unwrap()),
        hash(&block.payload),
        hash(&block.hash.0),
        hash(&reply),
    ];
    let expected = [
        "5d0c9c7f01fea374448368c44fbccab7d21d337acc3762bb56b4d119394cc28c",
        "cd1a076ecbd031cecf9564b1dc79d0d37ad62f56ef64943f47dcf0b07023575f",
        "45adef9f1961c7f36ceed7a569577b78b6b36e5c81b968844f05cbbcac11f03f",
        "430135d9bdb5c5affd5daa91bbb1129607bb3a9f07a6177d784464a9161d5a33",
        "26bb8f6261f95f985be351aa0a6d3dd2dc55a86ee8eebd693cfcd9ee2479606e",
    ];
    assert_eq!(found, expected);
}

/// Whatever of a masked plan is weakened is refused before anything uses it.
#[test]
fn weakened_masked_plans_are_refused() {
    let check = |what: &str, alter: &dyn Fn(&mut PublicPlanSpec)| {
        let mut spec = PLAN.public().spec().clone();
        alter(&mut spec);
        let weights = PLAN.network().weights().to_vec();
        let outcome = PublicPlan::new(spec).and_then(|public| Plan::new(public, weights));
        assert!(outcome.is_err(), "{what} is accepted");
    };
    check("less flooding", &|spec| {
        for segment in &mut spec.segments {
            segment.mask.as_mut().unwrap().flood_bits -= 1;
        }
    });
    check("shorter masks", &|spec| {
        spec.segments.iter_mut().for_each(|s| {
            let part = s.mask.as_mut().unwrap();
            part.mask_bits = part.mask_bits.saturating_sub(1);
        });
    });
    check("a narrower range", &|spec| {
        spec.segments.iter_mut().filter(|s| s.stage == 2).for_each(|s| s.range.high /= 2);
    });
    check("a prime less", &|spec| {
        let last = spec.segments.iter().rposition(|s| s.stage == 0).unwrap();
        spec.segments.remove(last);
        spec.segments.iter_mut().filter(|s| s.stage == 0).for_each(|s| {
            s.mask.as_mut().unwrap().n_residues -= 1;
        });
    });
    check("residues out of order", &|spec| spec.segments.swap(0, 1));
    check("no tokens", &|spec| {
        spec.segments.iter_mut().for_each(|s| s.mask.as_mut().unwrap().n_tokens = 0);
    });
    check("no masks", &|spec| spec.segments.iter_mut().for_each(|s| s.mask = None));
    check("the owner's setting", &|spec| spec.trust = Trust::Owner);
    check("another ring degree", &|spec| spec.segments[0].ring.ring_degree *= 2);
    assert!(MaskedStage::new(PLAN.public(), 3).is_err());
}
