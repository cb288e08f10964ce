//! One finished batch as bytes.

use fingerprint::{Soundness, Verdict};
use nn_poly::integer::ScoreMatrix;

use super::{DIGEST_BYTES, FinishedBatch};
use crate::session::{BatchResult, Tally};

/// How a record begins: enough to know its length.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct RecordHead {
    pub(super) batch: u64,
    pub(super) n_samples: u32,
    pub(super) inputs: [u8; DIGEST_BYTES],
}

impl RecordHead {
    pub(super) const BYTES: usize = 8 + 4 + DIGEST_BYTES;
    /// Soundness and counts.
    const FIGURES: usize = 4 * 8 + 4 + 4 * 8;

    pub(super) fn parse(bytes: &[u8; Self::BYTES]) -> Self {
        let mut reader = Reader(bytes);
        Self {
            batch: u64::from_le_bytes(reader.array().unwrap_or_default()),
            n_samples: u32::from_le_bytes(reader.array().unwrap_or_default()),
            inputs: reader.array().unwrap_or([0; DIGEST_BYTES]),
        }
    }

    /// Bytes of the whole record, without its digest.
    pub(super) fn record_bytes(&self, n_scores: u32) -> u64 {
        let fixed = (Self::BYTES + Self::FIGURES) as u64;
        let per_sample = 8 * u64::from(n_scores) + 1;
        fixed + u64::from(self.n_samples) * per_sample
    }
}

/// A record, checked.
pub(super) struct Record {
    batch: FinishedBatch,
}

impl Record {
    pub(super) fn into_batch(self) -> FinishedBatch {
        self.batch
    }

    /// The bytes of a result.
    pub(super) fn bytes(batch: u64, inputs: &[u8; DIGEST_BYTES], result: &BatchResult) -> Vec<u8> {
        let n_samples = u32::try_from(result.out_of_calibration.len()).unwrap_or(u32::MAX);
        let mut bytes = Vec::new();
        bytes.extend_from_slice(&batch.to_le_bytes());
        bytes.extend_from_slice(&n_samples.to_le_bytes());
        bytes.extend_from_slice(inputs);
        let soundness = if let Verdict::Intact { soundness } = &result.verdict {
            *soundness
        } else {
            Soundness::unchecked()
        };
        for figure in [
            soundness.every_slot_change_bits,
            soundness.one_percent_bits,
            soundness.one_sample_bits,
            soundness.reply_word_bits,
        ] {
            bytes.extend_from_slice(&figure.unwrap_or(f64::NAN).to_le_bytes());
        }
        let tally = &result.tally;
        bytes.extend_from_slice(&tally.rounds.to_le_bytes());
        for count in [tally.blocks, tally.bytes_up, tally.bytes_down, tally.n_clamped] {
            bytes.extend_from_slice(&count.to_le_bytes());
        }
        bytes.extend(result.out_of_calibration.iter().map(|&flag| u8::from(flag)));
        for sample in result.scores.columns() {
            bytes.extend(sample.iter().flat_map(|score| score.to_le_bytes()));
        }
        bytes
    }

    /// Read a whole record; `None` if the bytes are none.
    pub(super) fn parse(bytes: &[u8], n_scores: u32) -> Option<Self> {
        let head = RecordHead::parse(bytes.first_chunk()?);
        if head.record_bytes(n_scores) != bytes.len() as u64 {
            return None;
        }
        let mut reader = Reader(bytes.get(RecordHead::BYTES..)?);
        let mut figure = || -> Option<Option<f64>> {
            let figure = f64::from_le_bytes(reader.array()?);
            (figure.is_nan() || figure >= 0.0).then(|| (!figure.is_nan()).then_some(figure))
        };
        let soundness = Soundness {
            every_slot_change_bits: figure()?,
            one_percent_bits: figure()?,
            one_sample_bits: figure()?,
            reply_word_bits: figure()?,
        };
        let rounds = u32::from_le_bytes(reader.array()?);
        let mut count = || reader.array().map(u64::from_le_bytes);
        let (blocks, bytes_up, bytes_down, n_clamped) = (count()?, count()?, count()?, count()?);
        let tally = Tally { rounds, blocks, bytes_up, bytes_down, n_clamped, ..Tally::default() };
        let (n_samples, n_scores) = (head.n_samples as usize, n_scores as usize);
        let flags = reader.take(n_samples)?;
        let out_of_calibration = flags
            .iter()
            .map(|&byte| (byte < 2).then_some(byte == 1))
            .collect::<Option<Vec<bool>>>()?;
        let scores = reader.0.chunks_exact(8).filter_map(|b| b.try_into().ok());
        let scores = scores.map(i64::from_le_bytes).collect();
        let scores = ScoreMatrix::from_shape_vec((n_samples, n_scores), scores).ok()?;
        let scores = scores.reversed_axes().as_standard_layout().into_owned();
        Some(Self { batch: FinishedBatch { scores, out_of_calibration, soundness, tally } })
    }
}

struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    fn take(&mut self, n: usize) -> Option<&'a [u8]> {
        let (head, rest) = self.0.split_at_checked(n)?;
        self.0 = rest;
        Some(head)
    }

    fn array<const N: usize>(&mut self) -> Option<[u8; N]> {
        self.take(N)?.try_into().ok()
    }
}
