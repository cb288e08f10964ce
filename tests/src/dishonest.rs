//! A zoo of dishonest servers behind the honest protocol.
//!
//! A [`DishonestHost`] serves one plan and cheats in one segment, on every request or on one of
//! them. What it can do is what a real server could: it has the weights, the request's ciphertexts
//! and all of `he_core`, but no secret key. Wrong *messages* (receipts, frames) are the business of
//! [`crate::relay`].
//!
//! | kind | cheats |
//! |---|---|
//! | another model | weight ±1, bias, swapped, pruned |
//! | another computation | stale, slot-selective, trigger, flipped word, permuted, dropped neuron, returned input, noise |
//! | other bytes | degree, level, number of ciphertexts, residue out of range, too short, too long |

mod reply;

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use nn_poly::encrypted::{self, SegmentEvaluator};
use nn_poly::integer::{StageOutput, StageStructure, StageWeights};
use nn_poly::plan::Plan;
use protocol::hosting::PlanShelf;
use protocol::identifiers::Digest;
use protocol::message::{ModelCard, Refusal};
use protocol::server::service::{
    Evaluated, PlanHost, ReplySink, RequestReceiver, SegmentService, ServiceError,
};

use reply::ReplyForge;

/// One way to cheat in one segment.
#[derive(Debug, Clone, PartialEq)]
pub enum Cheat {
    /// One weight is another.
    Weight {
        /// Which, in the order of the plan.
        index: usize,
        /// What is added to it.
        by: i16,
    },
    /// The bias of one channel is another.
    Bias {
        /// Which channel.
        channel: usize,
        /// What is added to it.
        by: i64,
    },
    /// The numbers of another model of the same shape.
    SwappedModel {
        /// Weights of this stage.
        weights: StageWeights,
    },
    /// Small weights are zero.
    Pruned {
        /// Weights of at most this magnitude.
        up_to: i16,
    },
    /// The reply to the first request answers every later one, too.
    StaleReply,
    /// An encoded plaintext, nonzero in a few slots, is added to one output.
    SlotChange {
        /// The output.
        output: usize,
        /// Slots (for coefficient packing: values of a block).
        slots: Vec<usize>,
        /// What is added there.
        by: i64,
    },
    /// The square of the first input is added to the first output: a map of the same degree that
    /// differs wherever that input is not zero. Segments with a square only.
    Trigger,
    /// One word of one ciphertext is one higher.
    FlippedWord {
        /// The output.
        output: usize,
        /// The word, counted through the polynomials of its first limb.
        word: usize,
    },
    /// Two outputs change places.
    PermutedOutputs {
        /// One of them.
        first: usize,
        /// The other.
        second: usize,
    },
    /// One output is a ciphertext of zeros.
    DroppedNeuron {
        /// The output.
        output: usize,
    },
    /// The request's own ciphertexts come back.
    ReturnedInput,
    /// Multiples of the plaintext modulus are added to one output: pure noise.
    Noise {
        /// The output.
        output: usize,
        /// How much.
        strength: Strength,
    },
    /// Ciphertexts of one more polynomial.
    WrongDegree,
    /// Ciphertexts over another number of moduli (of another plan, if there is only one).
    WrongLevel,
    /// One ciphertext less.
    MissingCiphertext,
    /// A residue that is not below its modulus.
    ResidueOutOfRange,
    /// The reply ends early.
    Truncated,
    /// Bytes follow the reply.
    TrailingBytes,
}

/// How much noise.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Strength {
    /// As little as there is, in one coefficient: decryption still gives the right values.
    Harmless,
    /// As much as an integer holds, in every coefficient: nothing can be decrypted.
    Overwhelming,
}

/// Which requests to a segment are answered dishonestly.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Victims {
    /// All of them.
    All,
    /// The one with this number, from 0: a block, when nothing is sent twice.
    Only(usize),
}

/// A server's view of one plan, honest but for one segment.
#[derive(Debug)]
pub struct DishonestHost {
    shelf: PlanShelf,
    digest: Digest,
    segment: u32,
    service: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    honest: SegmentEvaluator,
    /// Present when the cheat is another model.
    altered: Option<SegmentEvaluator>,
    forge: ReplyForge,
    cheat: Cheat,
    victims: Victims,
    n_requests: AtomicUsize,
    first_reply: Mutex<Option<Vec<u8>>>,
}

impl DishonestHost {
    /// A host that cheats in segment `segment` of `plan`.
    #[must_use]
    pub fn new(plan: &Plan, segment: usize, cheat: Cheat, victims: Victims) -> Arc<Self> {
        let mut shelf = PlanShelf::new();
        let digest = shelf.insert(plan).expect("a checked plan can be hosted");
        let description = &plan.public().segments[segment];
        let (structure, weights) = plan.network().stage(description.stage as usize).unwrap();
        let evaluator = |weights: &StageWeights| {
            SegmentEvaluator::new(segment, description, structure, weights)
                .expect("a dishonest model has the plan's shape")
        };
        let altered = altered_weights(weights, &cheat);
        let service = Arc::new(Inner {
            honest: evaluator(weights),
            altered: altered.as_ref().map(evaluator),
            forge: ReplyForge::new(description),
            cheat,
            victims,
            n_requests: AtomicUsize::new(0),
            first_reply: Mutex::new(None),
        });
        Arc::new(Self { shelf, digest, segment: segment as u32, service })
    }

    /// Requests for the dishonest segment so far.
    #[must_use]
    pub fn n_requests(&self) -> usize {
        self.service.n_requests.load(Ordering::SeqCst)
    }
}

/// The weights of the cheats that are another model.
fn altered_weights(honest: &StageWeights, cheat: &Cheat) -> Option<StageWeights> {
    let mut weights = honest.clone();
    match cheat {
        Cheat::Weight { index, by } => weights.weights[*index] += by,
        Cheat::Bias { channel, by } => weights.bias[*channel] += by,
        Cheat::SwappedModel { weights: other } => weights.clone_from(other),
        Cheat::Pruned { up_to } => {
            weights.weights.iter_mut().filter(|w| w.abs() <= *up_to).for_each(|w| *w = 0);
        }
        Cheat::StaleReply
        | Cheat::SlotChange { .. }
        | Cheat::Trigger
        | Cheat::FlippedWord { .. }
        | Cheat::PermutedOutputs { .. }
        | Cheat::DroppedNeuron { .. }
        | Cheat::ReturnedInput
        | Cheat::Noise { .. }
        | Cheat::WrongDegree
        | Cheat::WrongLevel
        | Cheat::MissingCiphertext
        | Cheat::ResidueOutOfRange
        | Cheat::Truncated
        | Cheat::TrailingBytes => return None,
    }
    Some(weights)
}

impl PlanHost for DishonestHost {
    fn models(&self) -> Vec<ModelCard> {
        self.shelf.models()
    }

    fn public_plan(&self, plan: &Digest) -> Option<Arc<[u8]>> {
        self.shelf.public_plan(plan)
    }

    fn segment(&self, plan: &Digest, segment: u32) -> Result<Arc<dyn SegmentService>, Refusal> {
        if *plan == self.digest && segment == self.segment {
            return Ok(Arc::new(DishonestSegment(Arc::clone(&self.service))));
        }
        self.shelf.segment(plan, segment)
    }
}

#[derive(Debug)]
struct DishonestSegment(Arc<Inner>);

impl SegmentService for DishonestSegment {
    fn request_bytes(&self) -> u64 {
        self.0.honest.context().request_bytes()
    }

    fn reply_bytes(&self) -> u64 {
        self.0.forge.declared_bytes(&self.0.cheat)
    }

    fn n_inputs(&self) -> u32 {
        self.0.honest.context().n_inputs() as u32
    }

    fn n_outputs(&self) -> u32 {
        self.0.forge.declared_outputs(&self.0.cheat) as u32
    }

    fn memory_bytes(&self) -> u64 {
        self.0.honest.memory_bytes()
    }

    fn begin(&self, seed: [u8; 32]) -> Result<Box<dyn RequestReceiver>, ServiceError> {
        let number = self.0.n_requests.fetch_add(1, Ordering::SeqCst);
        let is_victim = match self.0.victims {
            Victims::All => true,
            Victims::Only(victim) => victim == number,
        };
        let receiver = self.0.honest.receive(seed).map_err(failed)?;
        Ok(Box::new(DishonestRequest { inner: Arc::clone(&self.0), receiver, is_victim }))
    }
}

struct DishonestRequest {
    inner: Arc<Inner>,
    receiver: encrypted::RequestReceiver,
    is_victim: bool,
}

impl RequestReceiver for DishonestRequest {
    fn push(&mut self, bytes: &[u8]) -> Result<(), ServiceError> {
        self.receiver.push(bytes).map_err(failed)
    }

    fn evaluate(self: Box<Self>, sink: &mut ReplySink<'_>) -> Result<Evaluated, ServiceError> {
        let Self { inner, receiver, is_victim } = *self;
        let request = receiver.finish().map_err(failed)?;
        let reply = if is_victim {
            let altered = inner.altered.as_ref().unwrap_or(&inner.honest);
            inner.falsify(request.ciphertexts(), evaluate(altered, &request))
        } else {
            evaluate(&inner.honest, &request)
        };
        for piece in reply.chunks(10_007) {
            if sink(Bytes::copy_from_slice(piece)).is_break() {
                return Err(ServiceError::Stopped);
            }
        }
        Ok(Evaluated { busy: Duration::from_micros(1) })
    }
}

impl Inner {
    /// What is sent instead of `reply`, which is the honest one unless the model is another.
    fn falsify(&self, request: &he_core::CiphertextBlock, mut reply: Vec<u8>) -> Vec<u8> {
        match &self.cheat {
            Cheat::Weight { .. }
            | Cheat::Bias { .. }
            | Cheat::SwappedModel { .. }
            | Cheat::Pruned { .. } => reply,
            Cheat::StaleReply => {
                let mut first = self.first_reply.lock().unwrap_or_else(PoisonError::into_inner);
                first.get_or_insert(reply).clone()
            }
            Cheat::SlotChange { output, slots, by } => {
                self.forge.add_to_slots(&reply, *output, slots, *by)
            }
            Cheat::Trigger => self.forge.add_square_of_input(&reply, request),
            Cheat::FlippedWord { output, word } => self.forge.flip_word(&reply, *output, *word),
            Cheat::PermutedOutputs { first, second } => {
                self.forge.swap_outputs(&reply, *first, *second)
            }
            Cheat::DroppedNeuron { output } => {
                let size = self.forge.ciphertext_bytes();
                reply[output * size..(output + 1) * size].fill(0);
                reply
            }
            Cheat::Noise { output, strength } => self.forge.add_noise(&reply, *output, *strength),
            Cheat::ReturnedInput => self.forge.inputs_as_reply(request),
            Cheat::ResidueOutOfRange => {
                self.forge.overflow_first_residue(&mut reply);
                reply
            }
            Cheat::WrongDegree | Cheat::WrongLevel | Cheat::MissingCiphertext => {
                reply.resize(self.forge.declared_bytes(&self.cheat) as usize, 0);
                reply
            }
            Cheat::Truncated => {
                reply.truncate(reply.len() / 2);
                reply
            }
            Cheat::TrailingBytes => {
                reply.push(0);
                reply
            }
        }
    }
}

fn evaluate(evaluator: &SegmentEvaluator, request: &encrypted::ReceivedRequest) -> Vec<u8> {
    let mut reply = Vec::new();
    let mut sink = |bytes: Vec<u8>| {
        reply.extend(bytes);
        std::ops::ControlFlow::Continue(())
    };
    assert!(evaluator.evaluate(request, &mut sink).expect("the segment evaluates").is_continue());
    reply
}

fn failed(source: encrypted::Error) -> ServiceError {
    ServiceError::Failed { source: Box::new(source) }
}

/// The outputs of a segment that depend on one weight.
#[must_use]
pub fn outputs_of_weight(plan: &Plan, segment: usize, weight: usize) -> Vec<u32> {
    outputs_where(plan, segment, |structure, output| {
        let mut found = false;
        structure.linear.for_each_tap(output, |_, tap| found |= tap == weight);
        found
    })
}

/// The outputs of a segment that belong to one channel.
#[must_use]
pub fn outputs_of_channel(plan: &Plan, segment: usize, channel: usize) -> Vec<u32> {
    outputs_where(plan, segment, |structure, output| {
        output % structure.linear.n_channels() == channel
    })
}

/// The outputs of a segment that depend on a linear output for which `holds`.
fn outputs_where(
    plan: &Plan,
    segment: usize,
    holds: impl Fn(&StageStructure, usize) -> bool,
) -> Vec<u32> {
    let stage = plan.public().segments[segment].stage as usize;
    let (structure, _) = plan.network().stage(stage).unwrap();
    let linear: Vec<usize> =
        (0..structure.linear.n_outputs()).filter(|&output| holds(structure, output)).collect();
    let pool = (plan.public().segment_output(segment).unwrap() == StageOutput::Pooled)
        .then_some(structure.pool)
        .flatten();
    let Some(pool) = pool else { return linear.into_iter().map(|output| output as u32).collect() };
    (0..structure.n_outputs())
        .filter(|&output| {
            let mut found = false;
            pool.for_each_term(output, |term| found |= linear.contains(&term));
            found
        })
        .map(|output| output as u32)
        .collect()
}
