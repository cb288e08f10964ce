//! Masks and tokens from a server's key: functions of the whole request, so that no state is kept.

use rand::CryptoRng;
use zeroize::Zeroizing;

use crate::encrypted::error::{Error, Result};
use crate::integer::MaskSource;
use crate::plan::{Digest, MASK_TOKEN_BYTES, Plan};

/// Bytes of a mask key.
pub const MASK_KEY_BYTES: usize = 32;
/// Bytes of a mask as it is drawn.
const DRAW: usize = 16;
const HASH: usize = 32;
pub(super) const TOKEN: usize = 2 * HASH;
const _: () = assert!(TOKEN as u64 == MASK_TOKEN_BYTES, "what plans count on");

const REQUEST: &str = "SecureDL masked request 1";
const VALUES: &str = "SecureDL mask key 1 values";
const TOKENS: &str = "SecureDL mask key 1 tokens";

/// Hash of every byte that decides what a masked request means: plan, stage, seed, payload.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct RequestHash(pub [u8; HASH]);

/// Hashes a request while it is made or arrives.
#[derive(Clone, Debug)]
pub struct RequestHasher(blake3::Hasher);

impl RequestHasher {
    /// Begins with what a request announces.
    #[must_use]
    pub fn new(plan: &Digest, stage: u32, seed: &[u8; 32]) -> Self {
        let mut hasher = blake3::Hasher::new_derive_key(REQUEST);
        hasher.update(&plan.0).update(&stage.to_le_bytes()).update(seed);
        Self(hasher)
    }

    /// The next bytes of the payload.
    pub fn update(&mut self, bytes: &[u8]) {
        self.0.update(bytes);
    }

    /// The hash of all bytes so far.
    #[must_use]
    pub fn finish(&self) -> RequestHash {
        RequestHash(*self.0.finalize().as_bytes())
    }
}

/// Names the masks of a round that a server answered: the hash of the round's request, and a MAC by
/// which a server with the same key recognizes its own words.
///
/// Public: without the key it says nothing about the masks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MaskToken(pub [u8; TOKEN]);

impl MaskToken {
    /// The token at the start of these bytes.
    #[must_use]
    pub fn read(bytes: &[u8]) -> Option<Self> {
        bytes.first_chunk::<TOKEN>().map(|token| Self(*token))
    }

    /// The hash of the request whose masks it names.
    #[must_use]
    pub fn hash(&self) -> RequestHash {
        RequestHash(self.0.first_chunk::<HASH>().copied().unwrap_or_default())
    }

    fn mac(&self) -> [u8; HASH] {
        self.0.last_chunk::<HASH>().copied().unwrap_or_default()
    }
}

/// A server's secret from which masks, flooding noise and tokens are derived. Wiped on drop, never
/// printed.
///
/// Servers that stand in for one another must hold the same key.
#[derive(Clone)]
pub struct MaskKey {
    values: Zeroizing<[u8; HASH]>,
    tokens: Zeroizing<[u8; HASH]>,
}

impl MaskKey {
    /// The key with these bytes, which must be secret and uniform.
    #[must_use]
    pub fn from_bytes(bytes: &[u8; MASK_KEY_BYTES]) -> Self {
        let derive = |context| Zeroizing::new(blake3::derive_key(context, bytes));
        Self { values: derive(VALUES), tokens: derive(TOKENS) }
    }

    /// Draws a key: what it answered cannot be taken up by a server with another one.
    pub fn generate(rng: &mut (impl CryptoRng + ?Sized)) -> Self {
        let mut bytes = Zeroizing::new([0; MASK_KEY_BYTES]);
        rng.fill_bytes(bytes.as_mut_slice());
        Self::from_bytes(&bytes)
    }

    /// The token of an answered request.
    #[must_use]
    pub fn token(&self, plan: &Digest, stage: u32, hash: RequestHash) -> MaskToken {
        let mut token = [0; TOKEN];
        let (name, mac) = token.split_at_mut(HASH);
        name.copy_from_slice(&hash.0);
        mac.copy_from_slice(self.mac(plan, stage, hash).as_bytes());
        MaskToken(token)
    }

    /// The secret of the round that a token names, if this key made the token for a request of this
    /// plan and stage. Compared in constant time.
    ///
    /// # Errors
    /// [`Error::MaskToken`] otherwise.
    pub(super) fn open(&self, plan: &Digest, stage: u32, token: &MaskToken) -> Result<RoundSecret> {
        let hash = token.hash();
        // `blake3::Hash` compares in constant time.
        if self.mac(plan, stage, hash) == blake3::Hash::from_bytes(token.mac()) {
            return Ok(self.round(plan, stage, hash));
        }
        Err(Error::MaskToken { stage })
    }

    /// The secret of one round.
    pub(super) fn round(&self, plan: &Digest, stage: u32, hash: RequestHash) -> RoundSecret {
        RoundSecret(Zeroizing::new(*keyed(&self.values, plan, stage, hash).as_bytes()))
    }

    fn mac(&self, plan: &Digest, stage: u32, hash: RequestHash) -> blake3::Hash {
        keyed(&self.tokens, plan, stage, hash)
    }
}

impl core::fmt::Debug for MaskKey {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.debug_struct("MaskKey").finish_non_exhaustive()
    }
}

fn keyed(key: &[u8; HASH], plan: &Digest, stage: u32, hash: RequestHash) -> blake3::Hash {
    let mut hasher = blake3::Hasher::new_keyed(key);
    hasher.update(&plan.0).update(&stage.to_le_bytes()).update(&hash.0);
    hasher.finalize()
}

/// What all randomness of the reply to one request is derived from. Wiped on drop.
pub(super) struct RoundSecret(Zeroizing<[u8; HASH]>);

impl RoundSecret {
    /// The masks of one output, uniform below `2^bits`, one per slot.
    pub(super) fn masks(&self, output: usize, bits: u32, masks: &mut [u128]) {
        let mut bytes = Zeroizing::new(vec![0; masks.len() * DRAW]);
        self.stream(b'm', 0, output).fill(&mut bytes);
        let kept = u128::MAX.checked_shr(128 - bits.min(128)).unwrap_or(0);
        for (mask, draw) in masks.iter_mut().zip(bytes.as_chunks::<DRAW>().0) {
            *mask = u128::from_le_bytes(*draw) & kept;
        }
    }

    /// The seed of what rerandomizes one output of one residue.
    pub(super) fn flood(&self, residue: u32, output: usize) -> [u8; 32] {
        let mut seed = [0; 32];
        self.stream(b'f', residue, output).fill(&mut seed);
        seed
    }

    fn stream(&self, purpose: u8, residue: u32, output: usize) -> blake3::OutputReader {
        let mut hasher = blake3::Hasher::new_keyed(&self.0);
        hasher.update(&[purpose]).update(&residue.to_le_bytes());
        hasher.update(&(output as u64).to_le_bytes());
        hasher.finalize_xof()
    }
}

/// The masks of a whole run of one block, for the exact reference: slot `j` is sample `j`.
pub struct BlockMasks {
    rounds: Vec<(RoundSecret, u32)>,
}

impl BlockMasks {
    /// The masks that a server with `key` uses for these requests, one per stage in order.
    #[must_use]
    pub fn new(key: &MaskKey, plan: &Plan, requests: &[RequestHash]) -> Self {
        let digest = plan.digest();
        let bits = |stage: u32| {
            let segment = plan.public().first_segment(stage as usize).ok();
            segment.and_then(|segment| segment.mask).map_or(0, |part| part.mask_bits)
        };
        let rounds = (0..).zip(requests);
        let rounds = rounds.map(|(stage, &hash)| (key.round(&digest, stage, hash), bits(stage)));
        Self { rounds: rounds.collect() }
    }
}

impl MaskSource for BlockMasks {
    fn fill(&self, stage: usize, output: usize, masks: &mut [u128]) {
        match self.rounds.get(stage) {
            Some((round, bits)) => round.masks(output, *bits, masks),
            None => masks.fill(0),
        }
    }
}

impl core::fmt::Debug for BlockMasks {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.debug_struct("BlockMasks").field("n_rounds", &self.rounds.len()).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]
    use std::collections::HashSet;

    use super::*;

    const PLAN: Digest = Digest([3; 32]);

    fn hash(i: u64) -> RequestHash {
        let mut hasher = RequestHasher::new(&PLAN, 1, &[9; 32]);
        hasher.update(&i.to_le_bytes());
        hasher.finish()
    }

    #[test]
    fn no_two_requests_share_a_mask() {
        let key = MaskKey::from_bytes(&[7; 32]);
        let mut seen = HashSet::new();
        for i in 0..500 {
            for stage in 0..2 {
                for output in 0..2 {
                    let mut masks = [0; 4];
                    key.round(&PLAN, stage, hash(i)).masks(output, 100, &mut masks);
                    assert!(masks.iter().all(|mask| mask >> 100 == 0 && seen.insert(*mask)));
                }
            }
        }
        let other = MaskKey::from_bytes(&[8; 32]);
        let mut masks = [0; 4];
        other.round(&PLAN, 0, hash(0)).masks(0, 100, &mut masks);
        assert!(masks.iter().all(|mask| seen.insert(*mask)), "another key");
    }

    #[test]
    fn every_announced_and_sent_byte_counts() {
        let base = RequestHasher::new(&PLAN, 1, &[9; 32]).finish();
        let mut altered = vec![
            RequestHasher::new(&Digest([4; 32]), 1, &[9; 32]).finish(),
            RequestHasher::new(&PLAN, 2, &[9; 32]).finish(),
            RequestHasher::new(&PLAN, 1, &[8; 32]).finish(),
            hash(0),
        ];
        altered.push(base);
        assert_eq!(altered.iter().collect::<HashSet<_>>().len(), altered.len());
    }

    #[test]
    fn a_token_is_of_one_request_of_one_stage_of_one_plan_of_one_key() {
        let key = MaskKey::from_bytes(&[7; 32]);
        let token = key.token(&PLAN, 1, hash(5));
        assert_eq!(token.hash(), hash(5));
        assert!(key.open(&PLAN, 1, &token).is_ok());
        let refused = |key: &MaskKey, plan, stage, token: &MaskToken| {
            assert!(matches!(key.open(plan, stage, token), Err(Error::MaskToken { .. })));
        };
        refused(&key, &PLAN, 0, &token);
        refused(&key, &Digest([4; 32]), 1, &token);
        refused(&MaskKey::from_bytes(&[8; 32]), &PLAN, 1, &token);
        for byte in 0..TOKEN {
            let mut altered = token;
            *altered.0.get_mut(byte).unwrap() ^= 1;
            refused(&key, &PLAN, 1, &altered);
        }
    }

    #[test]
    fn masks_fill_their_bits_and_nothing_else() {
        let round = MaskKey::from_bytes(&[1; 32]).round(&PLAN, 0, hash(1));
        for bits in [0, 1, 41, 64, 100] {
            let mut masks = vec![0; 4096];
            round.masks(3, bits, &mut masks);
            let all = masks.iter().fold(0, |all, mask| all | mask);
            assert_eq!(all, (1_u128 << bits) - 1, "{bits} bits");
        }
    }
}
