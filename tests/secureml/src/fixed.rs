//! Fixed point in `Z_2^64`, additive shares, and truncation of shares.

use ndarray::{Array2, ArrayView2};
use rand::CryptoRng;
use zeroize::Zeroizing;

use crate::error::{Error, Result, check_length};

/// Fractional bits of every shared number: one unit in the last place (ulp) is `2^-13`.
pub const FRACTION_BITS: u32 = 13;

/// Largest magnitude that [`encode`] accepts: `2^31`, far from where truncation fails.
pub const MAX_MAGNITUDE: f64 = 2_147_483_648.0;

/// Which of the two servers: they compute shares by slightly different formulas.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Party {
    /// Server 0.
    First,
    /// Server 1.
    Second,
}

impl Party {
    /// The other server.
    #[must_use]
    pub const fn peer(self) -> Self {
        match self {
            Self::First => Self::Second,
            Self::Second => Self::First,
        }
    }
}

/// Rounds a number to fixed point with `fraction_bits` bits, in two's complement modulo `2^64`.
///
/// # Errors
/// [`Error::Value`] unless the magnitude is below [`MAX_MAGNITUDE`].
///
/// # Panics
/// Never for at most 31 fractional bits, which is all the crate uses.
///
/// # Example
///
/// ```
/// assert_eq!(secureml::encode(-0.5, secureml::FRACTION_BITS)?, (-4096_i64).cast_unsigned());
/// # Ok::<(), secureml::Error>(())
/// ```
pub fn encode(value: f64, fraction_bits: u32) -> Result<u64> {
    if value.abs() < MAX_MAGNITUDE && fraction_bits <= 31 {
        let scaled = (value * f64::from(1_u32 << fraction_bits)).round();
        #[expect(clippy::cast_possible_truncation, reason = "a whole number of at most 2^62")]
        return Ok((scaled as i64).cast_unsigned());
    }
    Err(Error::Value { value, max: MAX_MAGNITUDE })
}

/// The number that a word with [`FRACTION_BITS`] stands for.
#[must_use]
pub fn decode(word: u64) -> f64 {
    #[expect(clippy::cast_precision_loss, reason = "reported numbers are far below 2^53")]
    let value = word.cast_signed() as f64;
    value / f64::from(1_u32 << FRACTION_BITS)
}

/// Drops [`FRACTION_BITS`] of a share, without talking to the other server.
///
/// Server 0 shifts its share, server 1 the negative of its own. The truncated shares add up to
/// `floor(x/2^13)` or one more, except with probability at most `2^(l+1-64)` over the randomness of
/// the shares, for `|x| < 2^l`; then the sum is off by `±2^51`.
///
/// # Source
/// Mohassel, Zhang: SecureML (IEEE S&P 2017), section 4.1 and theorem 1.
#[must_use]
pub const fn truncate_share(party: Party, share: u64) -> u64 {
    match party {
        Party::First => share >> FRACTION_BITS,
        Party::Second => (share.wrapping_neg() >> FRACTION_BITS).wrapping_neg(),
    }
}

/// One server's shares of a matrix: row = neuron, column = sample. Zeroized on drop.
///
/// Alone the words are uniform and say nothing.
#[derive(Clone)]
pub struct Shares {
    n_rows: usize,
    n_samples: usize,
    words: Zeroizing<Vec<u64>>,
}

impl Shares {
    /// Wraps row-major words.
    ///
    /// # Errors
    /// [`Error::Length`] unless there are `n_rows·n_samples`, and at least one.
    pub fn new(n_rows: usize, n_samples: usize, words: Vec<u64>) -> Result<Self> {
        let words = Zeroizing::new(words);
        check_length("words of the shares", n_rows.saturating_mul(n_samples), words.len())?;
        if words.is_empty() {
            return Err(Error::Length { what: "neurons and samples", expected: 1, actual: 0 });
        }
        Ok(Self { n_rows, n_samples, words })
    }

    pub(crate) fn zeros(n_rows: usize, n_samples: usize) -> Self {
        Self { n_rows, n_samples, words: Zeroizing::new(vec![0; n_rows * n_samples]) }
    }

    pub(crate) fn random(
        n_rows: usize,
        n_samples: usize,
        rng: &mut (impl CryptoRng + ?Sized),
    ) -> Self {
        Self { n_rows, n_samples, words: random_words(n_rows * n_samples, rng) }
    }

    /// Number of neurons.
    #[must_use]
    pub fn n_rows(&self) -> usize {
        self.n_rows
    }

    /// Number of samples.
    #[must_use]
    pub fn n_samples(&self) -> usize {
        self.n_samples
    }

    /// The words, row-major.
    #[must_use]
    pub fn words(&self) -> &[u64] {
        &self.words
    }

    pub(crate) fn words_mut(&mut self) -> &mut [u64] {
        &mut self.words
    }

    /// Words of some samples of one neuron; empty when out of range.
    pub(crate) fn part(&self, row: usize, samples: &core::ops::Range<usize>) -> &[u64] {
        let start = row * self.n_samples;
        self.words.get(start + samples.start..start + samples.end).unwrap_or_default()
    }

    pub(crate) fn part_mut(&mut self, row: usize, samples: &core::ops::Range<usize>) -> &mut [u64] {
        let start = row * self.n_samples;
        self.words.get_mut(start + samples.start..start + samples.end).unwrap_or_default()
    }

    /// Adds other shares word by word.
    pub(crate) fn add_assign(&mut self, other: &Self) {
        for (x, &y) in self.words.iter_mut().zip(other.words.iter()) {
            *x = x.wrapping_add(y);
        }
    }
}

impl core::fmt::Debug for Shares {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.debug_struct("Shares")
            .field("n_rows", &self.n_rows)
            .field("n_samples", &self.n_samples)
            .finish_non_exhaustive()
    }
}

/// Encodes inputs (row = neuron, column = sample) and splits them for the two servers.
///
/// # Errors
/// [`Error::Value`] for a number that does not fit, [`Error::Length`] when there is none.
pub fn share_inputs(
    inputs: ArrayView2<'_, f64>,
    rng: &mut (impl CryptoRng + ?Sized),
) -> Result<[Shares; 2]> {
    let words = inputs.iter().map(|&x| encode(x, FRACTION_BITS)).collect::<Result<Vec<_>>>()?;
    let plain = Shares::new(inputs.nrows(), inputs.ncols(), words)?;
    let first = Shares::random(plain.n_rows, plain.n_samples, rng);
    let mut second = plain;
    for (x, &mask) in second.words.iter_mut().zip(first.words.iter()) {
        *x = x.wrapping_sub(mask);
    }
    Ok([first, second])
}

/// Adds the two servers' shares and decodes them: the client's last step.
///
/// # Errors
/// [`Error::Length`] when their shapes differ.
pub fn reconstruct(first: &Shares, second: &Shares) -> Result<Array2<f64>> {
    let words = reconstruct_words(first, second)?;
    let decoded = words.iter().map(|&x| decode(x)).collect();
    Array2::from_shape_vec((first.n_rows, first.n_samples), decoded).map_err(|_| Error::Length {
        what: "words of the shares",
        expected: first.n_rows * first.n_samples,
        actual: words.len(),
    })
}

/// Adds the two servers' shares: words in two's complement, row-major.
///
/// # Errors
/// [`Error::Length`] when their shapes differ.
pub fn reconstruct_words(first: &Shares, second: &Shares) -> Result<Vec<u64>> {
    check_length("neurons of the second share", first.n_rows, second.n_rows)?;
    check_length("samples of the second share", first.n_samples, second.n_samples)?;
    Ok(first.words.iter().zip(second.words.iter()).map(|(x, &y)| x.wrapping_add(y)).collect())
}

/// Uniform words.
pub(crate) fn random_words(
    count: usize,
    rng: &mut (impl CryptoRng + ?Sized),
) -> Zeroizing<Vec<u64>> {
    let mut words = Zeroizing::new(vec![0; count]);
    for word in words.iter_mut() {
        *word = rng.next_u64();
    }
    words
}
