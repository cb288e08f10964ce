//! The data owner's side of a masked stage: everything from the public part of the plan.

use he_core::PublicKey;
use rand::CryptoRng;
use zeroize::Zeroizing;

use super::key::{MaskToken, RequestHash, RequestHasher, TOKEN};
use crate::encrypted::client::{BlockEncryption, ClientTimes, ReplyDecryption};
use crate::encrypted::context::{SegmentContext, SegmentKey};
use crate::encrypted::error::{Error, Result};
use crate::integer::{CrtWindow, Reduction128, Refresh};
use crate::plan::{Digest, PublicPlan, token_stages};

/// A stage of a masked plan as the key holder sees it. Immutable.
#[derive(Clone, Debug)]
pub struct MaskedStage {
    stage: u32,
    residues: Vec<SegmentContext>,
    window: CrtWindow,
    refresh: Option<Refresh>,
    n_channels: usize,
    token_stages: Vec<usize>,
    request_bytes: u64,
    reply_bytes: u64,
}

/// The secret keys of one stage of one block, one per residue. Wiped on drop, never printed.
#[derive(Debug)]
pub struct StageKeys(Vec<SegmentKey>);

/// An encrypted request: what is sent, and the hash that names it.
#[derive(Debug)]
pub struct MaskedBlock {
    /// Public seed of the first residue.
    pub seed: [u8; 32],
    /// Everything else.
    pub payload: Vec<u8>,
    /// What the server's token must name.
    pub hash: RequestHash,
    /// Time spent.
    pub times: ClientTimes,
}

/// A decrypted reply.
#[derive(Debug)]
pub struct MaskedOpening {
    /// One row of [`MaskedStage::capacity`] values per output: scaled masked values to send to later
    /// stages, or scores of the last one.
    pub values: Zeroizing<Vec<i128>>,
    /// Names the masks: to be carried by requests that send these values.
    pub token: MaskToken,
    /// Time spent.
    pub times: ClientTimes,
}

impl MaskedStage {
    /// Rebuilds the parameters of stage `stage` and checks their security.
    ///
    /// # Errors
    /// - [`crate::Error::TrustSetting`] unless the plan is masked, [`crate::Error::OutOfRange`] if there is no
    ///   such stage.
    /// - [`crate::Error::Encrypted`] as [`SegmentContext::new`].
    pub fn new(plan: &PublicPlan, stage: usize) -> crate::error::Result<Self> {
        let window = plan.masked_window(stage)?;
        let range = plan.segments_of(stage)?;
        let segments = plan.segments.get(range.clone()).unwrap_or_default();
        let contexts = range.zip(segments).map(|(idx, segment)| SegmentContext::new(idx, segment));
        let residues = contexts.collect::<Result<Vec<_>>>()?;
        let structure = plan.stages.get(stage);
        Ok(Self {
            stage: u32::try_from(stage).unwrap_or(u32::MAX),
            residues,
            window,
            refresh: structure.and_then(|structure| structure.refresh.clone()),
            n_channels: structure.map_or(1, |structure| structure.n_channels().max(1)),
            token_stages: structure.map(token_stages).unwrap_or_default(),
            request_bytes: segments.iter().map(crate::plan::Segment::request_bytes).sum(),
            reply_bytes: segments.iter().map(crate::plan::Segment::reply_bytes).sum(),
        })
    }

    /// Values one ciphertext carries: N slots.
    #[must_use]
    pub fn capacity(&self) -> usize {
        self.first().map_or(0, SegmentContext::capacity)
    }

    /// Values a request carries per slot.
    #[must_use]
    pub fn n_inputs(&self) -> usize {
        self.first().map_or(0, SegmentContext::n_inputs)
    }

    /// Values a reply carries per slot.
    #[must_use]
    pub fn n_outputs(&self) -> usize {
        self.first().map_or(0, SegmentContext::n_outputs)
    }

    /// Ciphertexts of a request, of all residues.
    #[must_use]
    pub fn n_request_ciphertexts(&self) -> usize {
        self.n_inputs() * self.residues.len()
    }

    /// Ciphertexts of a reply, of all residues.
    #[must_use]
    pub fn n_reply_ciphertexts(&self) -> usize {
        self.n_outputs() * self.residues.len()
    }

    /// Exact bytes of a request payload.
    #[must_use]
    pub fn request_bytes(&self) -> u64 {
        self.request_bytes
    }

    /// Exact bytes of a reply payload.
    #[must_use]
    pub fn reply_bytes(&self) -> u64 {
        self.reply_bytes
    }

    /// The earlier stages whose tokens a request carries, in this order.
    #[must_use]
    pub fn token_stages(&self) -> &[usize] {
        &self.token_stages
    }

    fn first(&self) -> Option<&SegmentContext> {
        self.residues.first()
    }

    /// Draws fresh keys: for one request.
    ///
    /// # Errors
    /// As [`SegmentContext::generate_key`].
    pub fn generate_keys(&self, rng: &mut (impl CryptoRng + ?Sized)) -> Result<StageKeys> {
        let keys = self.residues.iter().map(|context| context.generate_key(rng));
        Ok(StageKeys(keys.collect::<Result<_>>()?))
    }

    /// Encrypts one block: input `i` of every residue.
    ///
    /// `fill(i, row)` writes the integers of input `i` into a row of [`Self::capacity`] zeros: inputs of
    /// the network, or what [`Self::open`] gave for an earlier stage. `tokens` are those of
    /// [`Self::token_stages`]. A retry must send the same bytes: keep the payload.
    ///
    /// # Errors
    /// - [`Error::ByteCount`] unless there is one token per stage that is named.
    /// - [`Error::Arithmetic`] when keys belong to another stage.
    /// - whatever `fill` returns.
    pub fn encrypt<E: From<Error> + Send>(
        &self,
        plan: &Digest,
        keys: &StageKeys,
        tokens: &[MaskToken],
        fill: impl Fn(usize, &mut [i128]) -> core::result::Result<(), E> + Sync,
        rng: &mut (impl CryptoRng + ?Sized),
    ) -> core::result::Result<MaskedBlock, E> {
        let count = |n: usize| (n * TOKEN) as u64;
        if tokens.len() != self.token_stages.len() || keys.0.len() != self.residues.len() {
            let (expected, actual) = (count(self.token_stages.len()), count(tokens.len()));
            return Err(Error::ByteCount { what: "mask tokens", expected, actual }.into());
        }
        let mut payload = Vec::with_capacity(usize::try_from(self.request_bytes).unwrap_or(0));
        tokens.iter().for_each(|token| payload.extend_from_slice(&token.0));
        let (mut first_seed, mut times) = (None, ClientTimes::default());
        for (context, key) in self.residues.iter().zip(&keys.0) {
            let public = PublicKey::generate(key.secret(), rng);
            let mut block = BlockEncryption::new(context, key, None, rng)?;
            match first_seed {
                None => first_seed = Some(block.seed()),
                Some(_) => payload.extend_from_slice(&block.seed()),
            }
            payload.extend_from_slice(&public.to_bytes());
            let reduction = Reduction128::new(context.window().modulus);
            let residues = |input: usize, row: &mut [i64]| {
                let mut values = Zeroizing::new(vec![0_i128; row.len()]);
                fill(input, &mut values)?;
                for (residue, value) in row.iter_mut().zip(values.iter()) {
                    *residue = reduction.residue(*value).cast_signed();
                }
                Ok(())
            };
            while let Some(chunk) = block.next_chunk::<E>(&residues)? {
                payload.extend_from_slice(&chunk);
            }
            let (_, spent) = block.finish()?;
            times.add(&spent);
        }
        let seed = first_seed.unwrap_or_default();
        let mut hasher = RequestHasher::new(plan, self.stage, &seed);
        hasher.update(&payload);
        Ok(MaskedBlock { seed, payload, hash: hasher.finish(), times })
    }

    /// Decrypts a reply, puts its residues together and scales them.
    ///
    /// # Errors
    /// - [`Error::ByteCount`] when the reply has another length.
    /// - [`Error::Arithmetic`] when a residue is not below its modulus.
    /// - [`Error::OtherRequest`] when the token names another request.
    pub fn open(
        &self,
        keys: &StageKeys,
        request: RequestHash,
        reply: &[u8],
    ) -> Result<MaskedOpening> {
        if reply.len() as u64 != self.reply_bytes {
            let (expected, actual) = (self.reply_bytes, reply.len() as u64);
            return Err(Error::ByteCount { what: "reply payload", expected, actual });
        }
        let (residues, token) = reply.split_at(reply.len().saturating_sub(TOKEN));
        let token = MaskToken::read(token).unwrap_or(MaskToken([0; TOKEN]));
        if token.hash() != request {
            return Err(Error::OtherRequest { stage: self.stage });
        }
        let n_values = self.n_outputs() * self.capacity();
        let mut rows: Vec<Zeroizing<Vec<i64>>> = Vec::with_capacity(self.residues.len());
        let (mut rest, mut times) = (residues, ClientTimes::default());
        for (context, key) in self.residues.iter().zip(&keys.0) {
            let len = usize::try_from(context.reply_bytes()).unwrap_or(usize::MAX).min(rest.len());
            let (now, later) = rest.split_at(len);
            rest = later;
            let mut decrypted = Zeroizing::new(Vec::with_capacity(n_values));
            let mut stream = ReplyDecryption::new(context, key);
            stream.push(now, |_, row: &[i64]| {
                decrypted.extend_from_slice(row);
                Ok::<(), Error>(())
            })?;
            times.decrypt += stream.busy();
            stream.finish()?;
            rows.push(decrypted);
        }
        Ok(MaskedOpening { values: self.combine(&rows, n_values), token, times })
    }

    /// Puts residues together and scales what is to be refreshed.
    fn combine(&self, rows: &[Zeroizing<Vec<i64>>], n_values: usize) -> Zeroizing<Vec<i128>> {
        let mut values = Zeroizing::new(Vec::with_capacity(n_values));
        let capacity = self.capacity().max(1);
        for position in 0..n_values {
            let residues = rows.iter().map(|row| {
                let residue = row.get(position).copied().unwrap_or(0);
                // In [0, t): the window of every residue.
                residue.cast_unsigned()
            });
            let value = self.window.combine(residues);
            let channel = position / capacity % self.n_channels;
            values.push(match &self.refresh {
                Some(refresh) => refresh.scale_masked(channel, value),
                None => value,
            });
        }
        values
    }
}
