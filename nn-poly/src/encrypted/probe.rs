//! A self-test: the real code in the real rings, on parts of a network small enough to measure.
//!
//! A client's and a server's work per ciphertext depends on the ring only, so it is measured on some
//! ciphertexts and multiplied. The linear map is measured on a part of the stage: some positions, and
//! two numbers of inputs per output, which tell what grows with the products from what does not.
//! No step's time depends on what is encrypted: it is zeros, under keys that are dropped at once.

mod crop;

use std::fmt;
use std::hint::black_box;
use std::ops::ControlFlow;
use std::time::{Duration, Instant};

use rand::SeedableRng;
use rand::rngs::StdRng;
use rayon::prelude::*;

use super::client::{BlockEncryption, decrypt_reply, encrypt_block};
use super::error::Error as EncryptedError;
use super::{ClientTimes, ReplyCheckStream, SegmentEvaluator, linear_map};
use crate::error::Result;
use crate::integer::{
    Arrivals, IntegerNetwork, Interval, LinearGeometry, Refresher, StageOutput, StageStructure,
    StageWeights,
};
use crate::plan::planner::{BlockSeconds, ByteSeconds, CostSource, evaluate_nanoseconds};
use crate::plan::{Packing, RingSpec, Segment};

use crop::{Crop, crops, dense, weights_of};

/// Repetitions of a measurement, of which the median counts, as long as the time allows.
const REPETITIONS: usize = 3;
/// Residues of the ciphertexts whose encryption and decryption is measured.
const PROBED_RESIDUES: usize = 1 << 19;
/// Most ciphertexts that are encrypted and decrypted in one measurement.
const MOST_PROBED: usize = 128;
/// Random points of a block with a square, and rows of a word check, with default settings.
const POINTS: usize = 2;
const CHECK_ROWS: usize = 2;
/// Bytes hashed to learn how fast payloads are hashed.
const HASHED_BYTES: usize = 4 << 20;
/// Bytes first used to learn how fast that is: more than allocators ever keep at hand.
const FRESH_BYTES: usize = 48 << 20;
/// Bytes of the smallest page.
const PAGE_BYTES: usize = 4096;

/// Measures what segments cost on this machine, each ring and each stage once.
///
/// Answers [`CostSource`]. About two seconds for the networks of the benchmark; once `budget` is used
/// up, measurements are no longer repeated.
pub struct SelfTest<'a> {
    budget: Duration,
    spent: Duration,
    rings: Vec<(RingKey, PerCiphertext)>,
    maps: Vec<(MapKey, f64)>,
    points: Vec<(PointsKey, f64)>,
    per_byte: Option<ByteSeconds>,
    told: Box<dyn FnMut(usize) + 'a>,
}

/// What the cost of a ciphertext depends on.
#[derive(PartialEq)]
struct RingKey {
    ring: RingSpec,
    packing: Packing,
    evaluates_activation: bool,
}

/// What the cost of an evaluation depends on.
#[derive(PartialEq)]
struct MapKey {
    ring: RingKey,
    linear: LinearGeometry,
    n_outputs: u32,
}

/// What the cost of random points depends on.
#[derive(PartialEq)]
struct PointsKey {
    linear: LinearGeometry,
    modulus: u64,
    n_points: usize,
}

/// Wall seconds on all cores.
#[derive(Clone, Copy)]
struct PerCiphertext {
    encrypt: f64,
    receive: f64,
    check: f64,
    decrypt: f64,
    /// Preparation of a word check, per weight that is multiplied.
    prepare: f64,
}

impl<'a> SelfTest<'a> {
    /// A self-test that repeats measurements until `budget` is used up.
    #[must_use]
    pub fn new(budget: Duration) -> Self {
        Self::with_progress(budget, |_| {})
    }

    /// As [`Self::new`], calling `told` with the number of measurements before each.
    #[must_use]
    pub fn with_progress(budget: Duration, told: impl FnMut(usize) + 'a) -> Self {
        Self {
            budget,
            spent: Duration::ZERO,
            rings: Vec::new(),
            maps: Vec::new(),
            points: Vec::new(),
            per_byte: None,
            told: Box::new(told),
        }
    }

    /// Time spent on measuring so far.
    #[must_use]
    pub fn spent(&self) -> Duration {
        self.spent
    }

    /// Median seconds of `work`, after a first time that counts only if the budget is used up.
    fn time(&self, started: Instant, mut work: impl FnMut() -> Result<()>) -> Result<f64> {
        let mut seconds = Vec::with_capacity(REPETITIONS + 1);
        while seconds.len() <= REPETITIONS && (seconds.is_empty() || !self.is_late(started)) {
            let begun = Instant::now();
            work()?;
            seconds.push(begun.elapsed().as_secs_f64());
        }
        let first = seconds.first().copied().unwrap_or_default();
        match seconds.get_mut(1..) {
            Some(counted) if !counted.is_empty() => {
                counted.sort_by(f64::total_cmp);
                Ok(counted.get(counted.len() / 2).copied().unwrap_or_default())
            }
            _ => Ok(first),
        }
    }

    /// Whether the budget is used up, by a measurement that began at `started` too.
    fn is_late(&self, started: Instant) -> bool {
        self.spent + started.elapsed() > self.budget
    }

    /// Runs a measurement, on the record.
    fn measured<T>(&mut self, measure: impl FnOnce(&Self, Instant) -> Result<T>) -> Result<T> {
        let n_measured = self.rings.len() + self.maps.len() + self.points.len();
        (self.told)(n_measured);
        let started = Instant::now();
        let result = measure(self, started);
        self.spent += started.elapsed();
        result
    }

    fn per_ciphertext(&mut self, segment: &Segment) -> Result<PerCiphertext> {
        let key = RingKey::of(segment);
        if let Some((_, known)) = self.rings.iter().find(|(known, _)| *known == key) {
            return Ok(*known);
        }
        let found = self.measured(|test, started| test.measure_ring(started, segment))?;
        self.rings.push((key, found));
        Ok(found)
    }

    /// Encryption, reception, check and decryption of some ciphertexts.
    #[expect(clippy::cast_precision_loss, reason = "small counts")]
    fn measure_ring(&self, started: Instant, segment: &Segment) -> Result<PerCiphertext> {
        let residues = segment.ring.ring_degree as usize * segment.ring.moduli.len();
        let count = (PROBED_RESIDUES / residues.max(1)).clamp(8, MOST_PROBED);
        let structure = dense(count, count, segment.evaluates_activation);
        let weights = weights_of(&structure, &[1]);
        let segment = part(segment, count, count);
        let server = SegmentEvaluator::new(0, &segment, &structure, &weights)?;
        let client = server.context();
        let mut rng = StdRng::seed_from_u64(0);
        let key = client.generate_key(&mut rng)?;
        let map = linear_map(client, &structure, &weights)?;
        let check = client.is_linear().then_some((&map, CHECK_ROWS));
        let fill = |_: usize, _: &mut [i64]| Ok::<(), EncryptedError>(());

        let prepare = match check {
            None => 0.0,
            Some(_) => self.time(started, || {
                BlockEncryption::new(client, &key, check, &mut rng)?;
                Ok(())
            })?,
        };
        let mut request = encrypt_block(client, &key, check, fill, &mut rng)?;
        let encrypt = self.time(started, || {
            request = encrypt_block(client, &key, check, fill, &mut rng)?;
            Ok(())
        })?;
        let receive = self.time(started, || receive(&server, &request.payload))?;
        let reply = vec![0; count * client.reply_ciphertext_bytes()];
        let check = match request.check.take() {
            None => 0.0,
            Some(check) => {
                let mut stream = ReplyCheckStream::new(client, check);
                self.time(started, || {
                    stream.restart();
                    Ok(stream.push(&reply)?)
                })?
            }
        };
        let decrypt = self.time(started, || {
            let mut refresher = refresher(&segment, &structure, &weights, client.capacity())?;
            decrypt_reply(client, &key, &reply, &mut ClientTimes::default(), |output, values| {
                refresher.absorb(output, values)
            })
        })?;
        let n = count as f64;
        Ok(PerCiphertext {
            encrypt: (encrypt - prepare).max(0.0) / n,
            receive: receive / n,
            check: check / n,
            decrypt: decrypt / n,
            prepare: prepare / (n * n),
        })
    }

    fn evaluation(&mut self, network: &IntegerNetwork, segment: &Segment) -> Result<f64> {
        let (structure, weights) = network.stage(segment.stage as usize)?;
        let linear = structure.linear.clone();
        let key = MapKey { ring: RingKey::of(segment), linear, n_outputs: segment.n_outputs };
        if let Some((_, known)) = self.maps.iter().find(|(known, _)| *known == key) {
            return Ok(*known);
        }
        let found = self.measured(|test, started| {
            test.measure_evaluation(started, segment, structure, weights)
        })?;
        self.maps.push((key, found));
        Ok(found)
    }

    /// What a segment with a chain costs: ciphertexts as in any segment of its ring; the evaluation by
    /// counting its operations, as much faster or slower than stored rates say as one linear map and
    /// square of the same ring is.
    fn chain_seconds(
        &mut self,
        network: &IntegerNetwork,
        segment: &Segment,
    ) -> Result<BlockSeconds> {
        const PROBED: usize = 160;
        let single = Segment { chain: None, evaluates_activation: true, ..segment.clone() };
        let each = self.per_ciphertext(&single)?;
        let structure = dense(PROBED, PROBED, true);
        let weights = weights_of(&structure, &[1, -2, 3]);
        let probed = part(&single, PROBED, PROBED);
        let (linear, n_outputs) = (structure.linear.clone(), probed.n_outputs);
        let key = MapKey { ring: RingKey::of(&probed), linear, n_outputs };
        let known = self.maps.iter().find(|(known, _)| *known == key).map(|(_, known)| *known);
        let measured = match known {
            Some(known) => known,
            None => {
                let found = self.measured(|test, started| {
                    test.measure_evaluation(started, &probed, &structure, &weights)
                })?;
                self.maps.push((key, found));
                found
            }
        };
        let (stage, _) = network.stage(segment.stage as usize)?;
        let ratio = measured / evaluate_nanoseconds(&structure, &probed);
        let (n_in, n_out) = (f64::from(segment.n_inputs), f64::from(segment.n_outputs));
        Ok(BlockSeconds {
            encrypt: n_in * each.encrypt + self.random_points(network, segment)?,
            receive: n_in * each.receive,
            evaluate: evaluate_nanoseconds(stage, segment) * ratio,
            check: 0.0,
            decrypt: n_out * each.decrypt * f64::from(segment.reply_degree() + 1) / 3.0,
        })
    }

    /// The whole stage from parts of it, straight through what two numbers of taps take.
    fn measure_evaluation(
        &self,
        started: Instant,
        segment: &Segment,
        structure: &StageStructure,
        weights: &StageWeights,
    ) -> Result<f64> {
        let mut measured = Vec::new();
        for crop in crops(segment, structure) {
            let of_crop = weights_of(&crop.structure, &weights.weights);
            let whole = part(segment, crop.structure.n_inputs(), outputs(segment, &crop.structure));
            let server = SegmentEvaluator::new(0, &whole, &crop.structure, &of_crop)?;
            let mut receiver = server.receive([0; 32])?;
            receiver.push(&vec![0; bytes(&whole)])?;
            let block = receiver.finish()?;
            let mut sink = |_: Vec<u8>| ControlFlow::Continue(());
            let seconds = self.time(started, || {
                let _ = server.evaluate(&block, &mut sink)?;
                Ok(())
            })?;
            measured.push((crop, seconds));
        }
        Ok(extrapolated(&measured))
    }

    /// What the client computes at random points of a block with a square.
    fn random_points(&mut self, network: &IntegerNetwork, segment: &Segment) -> Result<f64> {
        let stage = segment.stage as usize;
        let (structure, _) = network.stage(stage)?;
        let modulus = segment.window.modulus;
        let output =
            if segment.evaluates_activation { StageOutput::Pooled } else { StageOutput::Linear };
        let n_further = usize::try_from(segment.n_further_points()).unwrap_or(0);
        let n_points = POINTS + n_further;
        let key = PointsKey { linear: structure.linear.clone(), modulus, n_points };
        if let Some((_, known)) = self.points.iter().find(|(known, _)| *known == key) {
            return Ok(*known);
        }
        let points = vec![vec![modulus - 1; structure.n_inputs()]; n_points];
        let found = self.measured(|test, started| {
            test.time(started, || {
                network.evaluate_stage_modular(stage, &points, modulus, output)?;
                Ok(())
            })
        })?;
        self.points.push((key, found));
        Ok(found)
    }
}

impl CostSource for SelfTest<'_> {
    #[expect(clippy::cast_precision_loss, reason = "a forecast of seconds")]
    fn block_seconds(
        &mut self,
        network: &IntegerNetwork,
        segment: &Segment,
    ) -> Result<BlockSeconds> {
        if segment.chain.is_some() {
            return self.chain_seconds(network, segment);
        }
        let each = self.per_ciphertext(segment)?;
        let evaluate = self.evaluation(network, segment)?;
        let (n_in, n_out) = (f64::from(segment.n_inputs), f64::from(segment.n_outputs));
        let evidence = if segment.evaluates_activation {
            self.random_points(network, segment)?
        } else {
            let (structure, _) = network.stage(segment.stage as usize)?;
            each.prepare * structure.linear.n_products() as f64
        };
        Ok(BlockSeconds {
            encrypt: n_in * each.encrypt + evidence,
            receive: n_in * each.receive,
            evaluate,
            check: n_out * each.check,
            decrypt: n_out * each.decrypt,
        })
    }

    #[expect(clippy::cast_precision_loss, reason = "a few megabytes")]
    fn byte_seconds(&mut self) -> Result<ByteSeconds> {
        if let Some(known) = self.per_byte {
            return Ok(known);
        }
        let mut target = vec![0; HASHED_BYTES];
        let payload = vec![0x5A_u8; HASHED_BYTES];
        let hashed = self.measured(|test, started| {
            test.time(started, || {
                target.copy_from_slice(&payload);
                let hash = blake3::hash(&target);
                target.iter_mut().zip(hash.as_bytes()).for_each(|(byte, &sign)| *byte ^= sign);
                Ok(())
            })
        })?;
        let used = self.measured(|test, started| {
            test.time(started, || {
                let mut fresh = vec![0_u8; FRESH_BYTES];
                fresh.par_chunks_mut(PAGE_BYTES).for_each(|page| {
                    page.iter_mut().step_by(PAGE_BYTES).for_each(|byte| *byte = 1);
                });
                black_box(&fresh);
                Ok(())
            })
        })?;
        let threads = rayon::current_num_threads().max(1) as f64;
        let found = ByteSeconds {
            payload: hashed / HASHED_BYTES as f64 / threads,
            memory: used / FRESH_BYTES as f64,
        };
        self.per_byte = Some(found);
        Ok(found)
    }
}

impl fmt::Debug for SelfTest<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SelfTest")
            .field("n_rings", &self.rings.len())
            .field("n_maps", &self.maps.len())
            .field("spent", &self.spent)
            .finish_non_exhaustive()
    }
}

impl RingKey {
    fn of(segment: &Segment) -> Self {
        let Segment { packing, evaluates_activation, .. } = *segment;
        Self { ring: segment.ring.clone(), packing, evaluates_activation }
    }
}

/// The segment with other numbers of ciphertexts.
fn part(segment: &Segment, n_inputs: usize, n_outputs: usize) -> Segment {
    let count = |n: usize| u32::try_from(n).unwrap_or(u32::MAX);
    Segment { n_inputs: count(n_inputs), n_outputs: count(n_outputs), ..segment.clone() }
}

/// Ciphertexts of a reply when a segment like this one evaluates `structure`.
fn outputs(segment: &Segment, structure: &StageStructure) -> usize {
    if segment.evaluates_activation { structure.n_outputs() } else { structure.linear.n_outputs() }
}

fn bytes(segment: &Segment) -> usize {
    usize::try_from(segment.request_bytes()).unwrap_or(usize::MAX)
}

fn receive(server: &SegmentEvaluator, payload: &[u8]) -> Result<()> {
    let mut receiver = server.receive([0; 32])?;
    receiver.push(payload)?;
    server.recycle(receiver.finish()?);
    Ok(())
}

/// The key holder's tail of a probed segment.
fn refresher(
    segment: &Segment,
    structure: &StageStructure,
    weights: &StageWeights,
    n_samples: usize,
) -> Result<Refresher> {
    let takes =
        if segment.evaluates_activation { StageOutput::Pooled } else { StageOutput::Linear };
    let (low, high) = (segment.range.low, segment.range.high);
    let arrivals =
        Arrivals { takes, domain: segment.window.interval(), expected: Interval { low, high } };
    Refresher::new(0, structure, weights.quadratic.as_ref(), arrivals, n_samples)
}

/// The seconds of the whole stage: with one crop in proportion to its units; with two, along the line
/// through what their taps take.
fn extrapolated(measured: &[(Crop, f64)]) -> f64 {
    let Some(((crop, seconds), rest)) = measured.split_first() else { return 0.0 };
    let per_unit = match rest.first() {
        None => *seconds,
        Some((smaller, least)) => {
            let slope = ((seconds - least) / (crop.taps - smaller.taps)).max(0.0);
            seconds + slope * (crop.whole_taps - crop.taps).max(0.0)
        }
    };
    per_unit * crop.whole_units / crop.units
}
