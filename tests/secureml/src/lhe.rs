//! The honest offline phase: cross products of masks by linearly homomorphic encryption.
//!
//! Server `i` holds halves `V_i` of the weights' masks and `U_i` of the inputs'. Of
//! `V·U = V_0U_0 + V_1U_1 + V_1U_0 + V_0U_1` the first two are local. For the third, server 0 sends
//! its `U_0` encrypted under its own key; server 1 multiplies by its `V_1`, adds a uniform mask `R`
//! and returns the ciphertexts: server 0 decrypts `V_1U_0 + R`, server 1 keeps `-R`. The fourth is the
//! same with the roles exchanged. Of `(a_0 + a_1)²` only `2a_0a_1` needs server 0 to ask.
//!
//! # What a reply shows
//! - *In its plaintext*: nothing. Matrix products are computed with plaintext modulus exactly `2^64`
//!   ([`linear`]): there is no wrap to bound, and `R` is uniform. Products of slots go through four
//!   plaintext primes; the integer `a_0a_1 + r` stays below their product and `r` is `2^41` times
//!   larger than `a_0a_1` ([`square`]).
//! - *In its noise*: the multiple of the plaintext modulus in the phase depends on the masks. A uniform
//!   multiple is added that is at least `2^40` times larger ([`STATISTICAL_BITS`]; the bounds are worst
//!   cases).
//! - *In its polynomial `c_1`*: an encryption of zero under the asker's public key is added, so that
//!   `c_1` is pseudorandom under ring-LWE even to who holds the key. Without it `c_1` would be a linear
//!   equation in the masks.
//!
//! Keys are fresh for every batch. Security is against servers that follow the protocol
//! (semi-honest) and do not collude, as in the paper; ring parameters have 128 bits.
//!
//! # Source
//! Mohassel, Zhang: SecureML (IEEE S&P 2017), section 4.1 (LHE-based triples, there with DGK); noise
//! flooding and re-randomization: Gentry, *Fully homomorphic encryption* (2009), section 21.1.

use core::ops::Range;

use he_core::{PublicKey, SecretKey};
use rand::{CryptoRng, SeedableRng};
use rand_chacha::ChaCha20Rng;

use crate::error::{Error, Result};
use crate::fixed::Party;
use crate::material::{BatchMaterial, Material};
use crate::message::{self, Expected, Kind, Machine};
use crate::model::ServerModel;
use crate::network::{Step, Structure};

pub mod linear;
pub mod residues;
pub mod square;

use linear::LinearScheme;
use square::SquareScheme;

/// Ring degree of all ciphertexts, and values per ciphertext.
pub const RING_DEGREE: usize = 8192;

/// What is hidden by noise is at least `2^40` times smaller than the noise, for every value.
pub const STATISTICAL_BITS: u32 = 40;

/// Values of a square whose encryptions travel in one message.
const SQUARES_PER_JOB: usize = 64 * RING_DEGREE;

/// A piece of work that takes a query and a reply in every direction that asks.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Job {
    /// The products of one linear step, for some samples.
    Linear { step: usize, samples: Range<usize> },
    /// The products of one square step, for some of its values in row-major order.
    Square { step: usize, values: Range<usize> },
}

impl Job {
    fn list(structure: &Structure, n_samples: usize) -> Vec<Self> {
        let mut jobs = Vec::new();
        for (step, kind) in structure.steps().iter().enumerate() {
            match kind {
                Step::Linear(_) => {
                    let samples = pieces(n_samples, RING_DEGREE);
                    jobs.extend(samples.map(|samples| Self::Linear { step, samples }));
                }
                Step::Square { n_neurons } => {
                    let values = pieces(n_neurons * n_samples, SQUARES_PER_JOB);
                    jobs.extend(values.map(|values| Self::Square { step, values }));
                }
                Step::Pool { .. } => {}
            }
        }
        jobs
    }

    /// Whether a server sends encryptions of its masks.
    fn asks(&self, party: Party) -> bool {
        matches!(self, Self::Linear { .. }) || party == Party::First
    }
}

fn pieces(len: usize, size: usize) -> impl Iterator<Item = Range<usize>> {
    (0..len).step_by(size).map(move |start| start..(start + size).min(len))
}

/// What the machine waits for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    Keys,
    Query(usize),
    Reply(usize),
    Finished,
}

/// One server's side of the honest offline phase for one batch.
///
/// Both servers send their public keys, then work through the steps: encrypted masks, blinded
/// products. The result is [`BatchMaterial`] that nobody else knows.
///
/// Cost: see [`TripleGeneration::total_bytes`]; a ciphertext holds 8192 values, so batches of fewer
/// samples pay for matrix products as if they had 8192 (squares are packed densely).
pub struct TripleGeneration<'m> {
    model: &'m ServerModel,
    material: BatchMaterial,
    jobs: Vec<Job>,
    state: State,
    linear: Option<Keyed<LinearScheme>>,
    squares: Option<Keyed<SquareScheme>>,
    rng: ChaCha20Rng,
}

/// A scheme with this server's secret keys and the peer's public ones.
struct Keyed<S> {
    scheme: S,
    own: Vec<SecretKey>,
    peer: Vec<PublicKey>,
}

impl<'m> TripleGeneration<'m> {
    /// Draws this server's masks and keys.
    ///
    /// # Errors
    /// [`Error::Length`] without samples, [`Error::Encryption`] when there are no secure parameters
    /// for a step.
    pub fn new(
        model: &'m ServerModel,
        n_samples: usize,
        rng: &mut (impl CryptoRng + ?Sized),
    ) -> Result<Self> {
        let material = BatchMaterial::draw(model, n_samples, rng)?;
        let structure = model.structure();
        let jobs = Job::list(structure, n_samples);
        let mut rng = ChaCha20Rng::from_rng(&mut Reborrowed(rng));
        let party = model.party();
        let linear = linear_scheme(structure)?.map(|scheme| {
            let own = vec![SecretKey::generate(scheme.params(), &mut rng)];
            Keyed { scheme, own, peer: Vec::new() }
        });
        let squares = square_scheme(structure)?.map(|scheme| {
            let asks = party == Party::First;
            let params = scheme.params().filter(|_| asks);
            let own = params.map(|params| SecretKey::generate(params, &mut rng)).collect();
            Keyed { scheme, own, peer: Vec::new() }
        });
        Ok(Self { model, material, jobs, state: State::Keys, linear, squares, rng })
    }

    /// The material.
    ///
    /// # Errors
    /// [`Error::State`] while a message is due.
    pub fn finish(self) -> Result<BatchMaterial> {
        if self.state == State::Finished {
            return Ok(self.material);
        }
        Err(Error::State { needed: "finished", actual: "waiting for a message" })
    }

    /// Payload bytes of a whole offline phase, both directions together: keys, queries and replies.
    ///
    /// # Errors
    /// [`Error::Encryption`] when there are no secure parameters for a step.
    pub fn total_bytes(structure: &Structure, n_samples: usize) -> Result<u64> {
        let (linear, squares) = (linear_scheme(structure)?, square_scheme(structure)?);
        let sizes = Sizes { structure, linear: linear.as_ref(), squares: squares.as_ref() };
        let mut total = 0;
        for party in [Party::First, Party::Second] {
            total += sizes.keys(party);
            for job in Job::list(structure, n_samples).iter().filter(|job| job.asks(party)) {
                total += sizes.query(job) + sizes.reply(job);
            }
        }
        Ok(total as u64)
    }

    fn sizes(&self) -> Sizes<'_> {
        Sizes {
            structure: self.model.structure(),
            linear: self.linear.as_ref().map(|k| &k.scheme),
            squares: self.squares.as_ref().map(|k| &k.scheme),
        }
    }

    /// Begins the next job: a query if this server asks.
    fn start(&mut self, index: usize) -> Result<Vec<Vec<u8>>> {
        let Some(job) = self.jobs.get(index).cloned() else {
            self.state = State::Finished;
            return Ok(Vec::new());
        };
        let party = self.model.party();
        self.state = if job.asks(party.peer()) { State::Query(index) } else { State::Reply(index) };
        if !job.asks(party) {
            return Ok(Vec::new());
        }
        let mut bytes = message::begin(Kind::Query, number(index), self.sizes().query(&job));
        match job {
            Job::Linear { step, samples } => {
                let (keyed, u) = (keyed(self.linear.as_ref())?, mask(&self.material, step)?);
                let own = keyed.own.first().ok_or_else(broken)?;
                let rows = (0..u.n_rows()).map(|row| u.part(row, &samples));
                keyed.scheme.query(own, rows, &mut self.rng, &mut bytes)?;
            }
            Job::Square { step, values } => {
                let (keyed, a) = (keyed(self.squares.as_ref())?, mask(&self.material, step)?);
                let values = a.words().get(values).unwrap_or_default();
                keyed.scheme.query(&keyed.own, values, &mut self.rng, &mut bytes)?;
            }
        }
        Ok(vec![bytes])
    }

    /// Computes the blinded products of a query and keeps the negative of the mask.
    fn answer(&mut self, index: usize, query: &[u8]) -> Result<Vec<Vec<u8>>> {
        let job = self.jobs.get(index).cloned().ok_or_else(broken)?;
        let mut bytes = message::begin(Kind::Reply, number(index), self.sizes().reply(&job));
        match &job {
            Job::Linear { step, samples } => {
                let keyed = keyed(self.linear.as_ref())?;
                let peer = keyed.peer.first().ok_or_else(broken)?;
                let (Some(Step::Linear(gather)), Some(layer)) =
                    (self.model.structure().steps().get(*step), self.model.layer(*step))
                else {
                    return Err(broken());
                };
                let Some(Material::Triple { z, .. }) = self.material.steps.get_mut(*step) else {
                    return Err(broken());
                };
                let subtract = |output, masks: &[u64]| {
                    for (z, &r) in z.part_mut(output, samples).iter_mut().zip(masks) {
                        *z = z.wrapping_sub(r);
                    }
                };
                let scheme = &keyed.scheme;
                scheme.reply(
                    peer,
                    gather,
                    &layer.mask,
                    query,
                    &mut self.rng,
                    subtract,
                    &mut bytes,
                )?;
            }
            Job::Square { step, values } => {
                let keyed = keyed(self.squares.as_ref())?;
                let Some(Material::Square { a, c }) = self.material.steps.get_mut(*step) else {
                    return Err(broken());
                };
                let a = a.words().get(values.clone()).unwrap_or_default();
                let rng = &mut self.rng;
                let masks = keyed.scheme.reply(&keyed.peer, a, query, rng, &mut bytes)?;
                let c = c.words_mut().get_mut(values.clone()).unwrap_or_default();
                for (c, &r) in c.iter_mut().zip(masks.iter()) {
                    *c = c.wrapping_sub(r.wrapping_mul(2));
                }
            }
        }
        let mut messages = vec![bytes];
        if job.asks(self.model.party()) {
            self.state = State::Reply(index);
        } else {
            messages.extend(self.start(index + 1)?);
        }
        Ok(messages)
    }

    /// Decrypts blinded products and adds them to the shares.
    fn open(&mut self, index: usize, reply: &[u8]) -> Result<Vec<Vec<u8>>> {
        match self.jobs.get(index).cloned().ok_or_else(broken)? {
            Job::Linear { step, samples } => {
                let keyed = keyed(self.linear.as_ref())?;
                let own = keyed.own.first().ok_or_else(broken)?;
                let Some(Step::Linear(gather)) = self.model.structure().steps().get(step) else {
                    return Err(broken());
                };
                let Some(Material::Triple { z, .. }) = self.material.steps.get_mut(step) else {
                    return Err(broken());
                };
                keyed.scheme.open(own, gather, reply, |output, products| {
                    for (z, &p) in z.part_mut(output, &samples).iter_mut().zip(products) {
                        *z = z.wrapping_add(p);
                    }
                })?;
            }
            Job::Square { step, values } => {
                let keyed = keyed(self.squares.as_ref())?;
                let Some(Material::Square { c, .. }) = self.material.steps.get_mut(step) else {
                    return Err(broken());
                };
                let c = c.words_mut().get_mut(values).unwrap_or_default();
                let products = keyed.scheme.open(&keyed.own, reply, c.len())?;
                for (c, &p) in c.iter_mut().zip(products.iter()) {
                    *c = c.wrapping_add(p.wrapping_mul(2));
                }
            }
        }
        self.start(index + 1)
    }

    fn take_keys(&mut self, payload: &[u8]) -> Result<Vec<Vec<u8>>> {
        let mut rest = payload;
        let mut next = |params| {
            let (bytes, after) =
                rest.split_at_checked(PublicKey::byte_len(params)).ok_or_else(broken)?;
            rest = after;
            Ok::<_, Error>(PublicKey::from_bytes(params, bytes)?)
        };
        if let Some(keyed) = &mut self.linear {
            keyed.peer = vec![next(keyed.scheme.params())?];
        }
        if let Some(keyed) = &mut self.squares
            && self.model.party() == Party::Second
        {
            keyed.peer = keyed.scheme.params().map(next).collect::<Result<_>>()?;
        }
        self.start(0)
    }
}

impl Machine for TripleGeneration<'_> {
    fn begin(&mut self) -> Result<Vec<Vec<u8>>> {
        let size = self.sizes().keys(self.model.party());
        let mut bytes = message::begin(Kind::Keys, 0, size);
        let linear = self.linear.iter().flat_map(|k| &k.own);
        for own in linear.chain(self.squares.iter().flat_map(|k| &k.own)) {
            bytes.extend(PublicKey::generate(own, &mut self.rng).to_bytes());
        }
        Ok(vec![bytes])
    }

    fn expected(&self) -> Option<Expected> {
        let sizes = self.sizes();
        let (kind, step, payload_bytes) = match self.state {
            State::Keys => (Kind::Keys, 0, sizes.keys(self.model.party().peer())),
            State::Query(index) => (Kind::Query, index, sizes.query(self.jobs.get(index)?)),
            State::Reply(index) => (Kind::Reply, index, sizes.reply(self.jobs.get(index)?)),
            State::Finished => return None,
        };
        Some(Expected { kind, step: number(step), payload_bytes })
    }

    fn receive(&mut self, message: &[u8]) -> Result<Vec<Vec<u8>>> {
        let expected = self.expected();
        let expected =
            expected.ok_or(Error::State { needed: "waiting for a message", actual: "finished" })?;
        let payload = expected.open(message)?;
        match self.state {
            State::Keys => self.take_keys(payload),
            State::Query(index) => self.answer(index, payload),
            State::Reply(index) => self.open(index, payload),
            State::Finished => Err(broken()),
        }
    }
}

impl core::fmt::Debug for TripleGeneration<'_> {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.debug_struct("TripleGeneration")
            .field("party", &self.model.party())
            .field("n_samples", &self.material.n_samples)
            .field("state", &self.state)
            .finish_non_exhaustive()
    }
}

/// Payload lengths: functions of public shapes.
struct Sizes<'a> {
    structure: &'a Structure,
    linear: Option<&'a LinearScheme>,
    squares: Option<&'a SquareScheme>,
}

impl Sizes<'_> {
    fn keys(&self, party: Party) -> usize {
        let linear = self.linear.map_or(0, |s| PublicKey::byte_len(s.params()));
        let asks = party == Party::First;
        let squares = self.squares.filter(|_| asks).into_iter().flat_map(SquareScheme::params);
        linear + squares.map(PublicKey::byte_len).sum::<usize>()
    }

    fn query(&self, job: &Job) -> usize {
        match job {
            Job::Linear { step, .. } => {
                let n_inputs = self.structure.steps().get(*step).map_or(0, Step::n_inputs);
                self.linear.map_or(0, |s| s.query_bytes(n_inputs))
            }
            Job::Square { values, .. } => self.squares.map_or(0, |s| s.query_bytes(values.len())),
        }
    }

    fn reply(&self, job: &Job) -> usize {
        match job {
            Job::Linear { step, .. } => {
                let n_outputs = self.structure.steps().get(*step).map_or(0, Step::n_outputs);
                self.linear.map_or(0, |s| s.reply_bytes(n_outputs))
            }
            Job::Square { values, .. } => self.squares.map_or(0, |s| s.reply_bytes(values.len())),
        }
    }
}

fn linear_scheme(structure: &Structure) -> Result<Option<LinearScheme>> {
    let taps = structure.steps().iter().filter_map(|step| match step {
        Step::Linear(gather) => Some(gather.n_taps()),
        Step::Square { .. } | Step::Pool { .. } => None,
    });
    taps.max().map(LinearScheme::new).transpose()
}

fn square_scheme(structure: &Structure) -> Result<Option<SquareScheme>> {
    let squares = structure.steps().iter().any(|step| matches!(step, Step::Square { .. }));
    squares.then(SquareScheme::new).transpose()
}

fn mask(material: &BatchMaterial, step: usize) -> Result<&crate::Shares> {
    match material.steps.get(step) {
        Some(Material::Triple { u: mask, .. } | Material::Square { a: mask, .. }) => Ok(mask),
        Some(Material::None) | None => Err(broken()),
    }
}

fn keyed<S>(scheme: Option<&Keyed<S>>) -> Result<&Keyed<S>> {
    scheme.ok_or_else(broken)
}

/// A machine after an error: its parts no longer fit.
fn broken() -> Error {
    Error::State { needed: "intact", actual: "stopped by an earlier error" }
}

fn number(index: usize) -> u32 {
    u32::try_from(index).unwrap_or(u32::MAX)
}

/// Lets a generator that may be unsized seed another one.
struct Reborrowed<'r, R: ?Sized>(&'r mut R);

impl<R: CryptoRng + ?Sized> rand::RngCore for Reborrowed<'_, R> {
    fn next_u32(&mut self) -> u32 {
        self.0.next_u32()
    }

    fn next_u64(&mut self) -> u64 {
        self.0.next_u64()
    }

    fn fill_bytes(&mut self, dest: &mut [u8]) {
        self.0.fill_bytes(dest);
    }
}
