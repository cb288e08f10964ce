//! Many ciphertexts in one contiguous allocation.

use crate::{
    Error, Params, Result, correction::multiply_modulo, evaluator::MAX_DEGREE, ring::Ring,
};

/// A block of ciphertexts of one form: same degree, same moduli, same correction.
///
/// All polynomials are in evaluation form (the canonical order of the crate docs). Layout, outermost
/// first: `[limb][ciphertext][polynomial][N]`, so that for each modulus `q_i` the block is a
/// row-major matrix with one ciphertext per row of `(degree + 1)·N` residues: a linear map is an
/// integer matrix product on it.
///
/// A ciphertext `(c_0, …, c_d)` decrypts to `c_0 + c_1 s + … + c_d s^d = m + t·e (mod Q)`; the
/// plaintext is `m · correction mod t`. Each dropped modulus multiplies the correction by itself,
/// each product of ciphertexts multiplies their corrections.
#[derive(Clone)]
pub struct CiphertextBlock {
    params: Params,
    count: usize,
    degree: usize,
    n_moduli: usize,
    correction: u128,
    words: Vec<u64>,
}

impl CiphertextBlock {
    /// A block of `count` zero ciphertexts of the given degree over the first `n_moduli` moduli,
    /// with the correction a ciphertext switched down from all moduli has.
    ///
    /// Allocates `8·n_moduli·count·(degree + 1)·N` bytes: limit counts from outside first.
    ///
    /// # Errors
    /// - [`Error::Form`] when `degree` is 0 or above 15, or `n_moduli` is 0 or above the parameters'.
    /// - [`Error::Index`] when the block cannot be addressed in memory.
    pub fn zeros(params: &Params, count: usize, degree: usize, n_moduli: usize) -> Result<Self> {
        // Fresh memory is zero.
        Self::stale(params, count, degree, n_moduli, Storage::default())
    }

    /// As [`CiphertextBlock::zeros`], in memory of an earlier block.
    ///
    /// # Errors
    /// As [`CiphertextBlock::zeros`].
    pub fn zeros_in(
        params: &Params,
        count: usize,
        degree: usize,
        n_moduli: usize,
        storage: Storage,
    ) -> Result<Self> {
        let mut block = Self::stale(params, count, degree, n_moduli, storage)?;
        block.words.fill(0);
        Ok(block)
    }

    /// As [`CiphertextBlock::zeros`], in given memory and with words that mean nothing: the caller
    /// overwrites every one before the block is seen.
    pub(crate) fn stale(
        params: &Params,
        count: usize,
        degree: usize,
        n_moduli: usize,
        storage: Storage,
    ) -> Result<Self> {
        if !(1..=MAX_DEGREE).contains(&degree) || !(1..=params.moduli().len()).contains(&n_moduli) {
            return Err(Error::Form {
                operation: "a new block",
                requirement: "degree 1 to 15 and between one and all moduli",
                degree,
                n_moduli,
            });
        }
        let mut correction = 1;
        for &q in params.moduli().iter().skip(n_moduli) {
            correction = multiply_modulo(correction, u128::from(q), params.plaintext_modulus());
        }
        let per_ciphertext = n_moduli * (degree + 1) * params.ring_degree();
        let max = isize::MAX.unsigned_abs() / size_of::<u64>() / per_ciphertext;
        if count > max {
            return Err(Error::Index { what: "ciphertext", index: count, count: max });
        }
        let words = storage.words_of_len(count * per_ciphertext);
        Ok(Self { params: params.clone(), count, degree, n_moduli, correction, words })
    }

    /// Gives up the ciphertexts and keeps their memory, for [`crate::RequestDecoder::new`].
    #[must_use]
    pub fn into_storage(self) -> Storage {
        Storage(self.words)
    }

    /// A block of another shape over the same parameters, with an explicit correction.
    pub(crate) fn like(&self, count: usize, degree: usize, correction: u128) -> Self {
        let words = vec![0; self.n_moduli * count * (degree + 1) * self.params.ring_degree()];
        Self { count, degree, correction, words, params: self.params.clone(), ..*self }
    }

    /// Takes another shape over the same parameters as `other`, keeping the allocation. The words
    /// are whatever they were: the caller overwrites every one.
    pub(crate) fn reshape(&mut self, other: &Self, count: usize, degree: usize) {
        self.params = other.params.clone();
        self.n_moduli = other.n_moduli;
        self.correction = other.correction;
        (self.count, self.degree) = (count, degree);
        let len = self.n_moduli * count * (degree + 1) * self.params.ring_degree();
        self.words.resize(len, 0);
    }

    /// The parameters.
    #[must_use]
    pub fn params(&self) -> &Params {
        &self.params
    }

    /// Number of ciphertexts.
    #[must_use]
    pub fn count(&self) -> usize {
        self.count
    }

    /// Degree of every ciphertext in the secret key (1 when fresh, 2 after a square).
    #[must_use]
    pub fn degree(&self) -> usize {
        self.degree
    }

    /// Number of moduli left.
    #[must_use]
    pub fn n_moduli(&self) -> usize {
        self.n_moduli
    }

    /// Number of moduli that can still be dropped (0 at the last one).
    #[must_use]
    pub fn level(&self) -> usize {
        self.n_moduli - 1
    }

    /// What the decrypted message must be multiplied by, modulo t.
    #[must_use]
    pub fn correction(&self) -> u128 {
        self.correction
    }

    /// Words of one ciphertext in one limb: `(degree + 1)·N`.
    #[must_use]
    pub fn row_len(&self) -> usize {
        (self.degree + 1) * self.params.ring_degree()
    }

    /// Residues of one limb: `count` rows of [`CiphertextBlock::row_len`] words, or an empty slice
    /// when there is no such limb.
    #[must_use]
    pub fn limb(&self, limb: usize) -> &[u64] {
        if limb >= self.n_moduli {
            return &[];
        }
        let len = self.count * self.row_len();
        self.words.get(limb * len..(limb + 1) * len).unwrap_or_default()
    }

    /// The words of every ciphertext, one slice per limb: for tasks that work on all limbs at once.
    pub(crate) fn rows_mut(&mut self) -> Vec<Vec<&mut [u64]>> {
        let (n_moduli, row_len) = (self.n_moduli, self.row_len());
        pieces_mut(&mut self.words, n_moduli, row_len)
    }

    pub(crate) fn set_correction(&mut self, correction: u128) {
        self.correction = correction;
    }

    pub(crate) fn limb_mut(&mut self, limb: usize) -> &mut [u64] {
        let len = self.count * self.row_len();
        self.words.get_mut(limb * len..(limb + 1) * len).unwrap_or_default()
    }

    /// One ciphertext's words in one limb; empty when out of range.
    pub(crate) fn row(&self, limb: usize, index: usize) -> &[u64] {
        let len = self.row_len();
        self.limb(limb).get(index * len..(index + 1) * len).unwrap_or_default()
    }

    /// A block of `count` zero ciphertexts of this block's form, in memory of an earlier block.
    ///
    /// # Errors
    /// - [`Error::Index`] when the block cannot be addressed in memory.
    pub fn zeros_like(&self, count: usize, storage: Storage) -> Result<Self> {
        let mut block = Self::zeros_in(&self.params, count, self.degree, self.n_moduli, storage)?;
        block.correction = self.correction;
        Ok(block)
    }

    /// Overwrites the ciphertexts from number `first` on by those of a block of the same form.
    ///
    /// # Errors
    /// - [`Error::ParamsMismatch`] or [`Error::Form`] when the forms differ.
    /// - [`Error::Index`] when there are too many.
    pub fn write_at(&mut self, first: usize, other: &Self) -> Result<()> {
        self.check_same_form(other, "a copy")?;
        let end = first.saturating_add(other.count);
        if end > self.count {
            return Err(Error::Index { what: "ciphertext", index: end, count: self.count });
        }
        let row_len = self.row_len();
        for limb in 0..self.n_moduli {
            let rows = self.limb_mut(limb).get_mut(first * row_len..end * row_len);
            rows.unwrap_or_default().copy_from_slice(other.limb(limb));
        }
        Ok(())
    }

    /// Joins the ciphertexts of several blocks of one form, in order.
    ///
    /// # Errors
    /// - [`Error::Length`] when there is no block.
    /// - [`Error::ParamsMismatch`] or [`Error::Form`] when the forms differ.
    pub fn concatenate(blocks: &[Self]) -> Result<Self> {
        let Some(first) = blocks.first() else {
            return Err(Error::Length { what: "blocks to concatenate", expected: 1, actual: 0 });
        };
        for block in blocks {
            first.check_same_form(block, "concatenation")?;
        }
        let count = blocks.iter().map(Self::count).sum();
        let mut words = Vec::with_capacity(first.n_moduli * count * first.row_len());
        for limb in 0..first.n_moduli {
            for block in blocks {
                words.extend_from_slice(block.limb(limb));
            }
        }
        Ok(Self { count, words, params: first.params.clone(), ..*first })
    }

    /// Adds one to one residue: how the test kit plays a dishonest server.
    ///
    /// `word` counts inside the ciphertext's row, [`CiphertextBlock::row_len`] words long.
    ///
    /// # Errors
    /// [`Error::Index`] when limb, ciphertext or word do not exist.
    pub fn tamper_word(&mut self, limb: usize, index: usize, word: usize) -> Result<()> {
        let (count, row_len) = (self.count, self.row_len());
        for (what, index, count) in
            [("limb", limb, self.n_moduli), ("ciphertext", index, count), ("word", word, row_len)]
        {
            if index >= count {
                return Err(Error::Index { what, index, count });
            }
        }
        let q = self.params.moduli().get(limb).copied().unwrap_or(1);
        if let Some(cell) = self.limb_mut(limb).get_mut(index * row_len + word) {
            *cell = (*cell + 1) % q;
        }
        Ok(())
    }

    pub(crate) fn rings(&self) -> &[Ring] {
        self.params.rings().get(..self.n_moduli).unwrap_or_default()
    }

    pub(crate) fn from_parts(
        like: &Self,
        n_moduli: usize,
        correction: u128,
        words: Vec<u64>,
    ) -> Self {
        Self { params: like.params.clone(), n_moduli, correction, words, ..*like }
    }

    pub(crate) fn check_same_form(&self, other: &Self, operation: &'static str) -> Result<()> {
        self.params.check_same(&other.params)?;
        if self.degree == other.degree
            && self.n_moduli == other.n_moduli
            && self.correction == other.correction
        {
            return Ok(());
        }
        Err(Error::Form {
            operation,
            requirement: "one degree, level and correction",
            degree: other.degree,
            n_moduli: other.n_moduli,
        })
    }
}

/// Memory of a block that is no longer needed. Fresh memory costs a page fault every 4 KiB, which is
/// as much as decoding into it.
#[derive(Default, Clone)]
pub struct Storage(Vec<u64>);

impl Storage {
    /// Bytes it occupies.
    #[must_use]
    pub fn bytes(&self) -> usize {
        self.0.capacity() * size_of::<u64>()
    }

    /// `len` words of any value: zeros if this is empty.
    fn words_of_len(mut self, len: usize) -> Vec<u64> {
        if self.0.capacity() < len {
            // Not `resize`, which would copy what nobody needs.
            return vec![0; len];
        }
        self.0.resize(len, 0);
        self.0
    }
}

impl core::fmt::Debug for Storage {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.debug_struct("Storage").field("bytes", &self.bytes()).finish()
    }
}

impl PartialEq for CiphertextBlock {
    fn eq(&self, other: &Self) -> bool {
        self.check_same_form(other, "comparison").is_ok() && self.words == other.words
    }
}

impl Eq for CiphertextBlock {}

impl core::fmt::Debug for CiphertextBlock {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.debug_struct("CiphertextBlock")
            .field("count", &self.count)
            .field("degree", &self.degree)
            .field("n_moduli", &self.n_moduli)
            .finish_non_exhaustive()
    }
}

/// Regroups words `[limb][piece][len]`: for every piece its slices in all limbs.
pub(crate) fn pieces_mut(words: &mut [u64], n_limbs: usize, len: usize) -> Vec<Vec<&mut [u64]>> {
    let limb_len = words.len() / n_limbs.max(1);
    let mut pieces: Vec<Vec<&mut [u64]>> = Vec::new();
    pieces.resize_with(limb_len / len.max(1), || Vec::with_capacity(n_limbs));
    for limb in words.chunks_exact_mut(limb_len.max(1)) {
        for (piece, words) in pieces.iter_mut().zip(limb.chunks_exact_mut(len.max(1))) {
            piece.push(words);
        }
    }
    pieces
}
