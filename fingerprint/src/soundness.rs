//! How likely a cheating server stays unnoticed.
//!
//! No single number says how safe a batch is: two random points expose a modified model with
//! near certainty, and say next to nothing about a server that spoils one sample among
//! thousands. [`Soundness`] therefore holds one figure per kind of cheating, each the weakest over
//! all segments and blocks. Every formula is derived in `docs/soundness.md`, and measured against
//! simulated cheating servers in `tests/cheating_servers.rs`.
//!
//! | field | the server … | slot segment | linear segment |
//! |---|---|---|---|
//! | `every_slot_change_bits` | applies another polynomial map to every slot | `p·log2(t/D)` | `s·log2 q` |
//! | `one_percent_bits` | alters at least 1 % of a block's samples | `C(n,j)/C(N,j·r)`, `j ≥ ⌈n/100⌉` | `s·log2 q` |
//! | `one_sample_bits` | alters at least one sample | the same, `j ≥ 1` | `s·log2 q` |
//! | `reply_word_bits` | alters any word of a reply | not checked | `s·log2 q` |
//!
//! (`N` slots, `n` samples in `r` slots each, `p` distinct random points, plaintext modulus `t`,
//! degree `D`; `s` random rows modulo `q`.)
#![cfg_attr(doc, doc = "")]
#![cfg_attr(doc, doc = include_str!("../../docs/soundness.md"))]

use core::fmt;

use serde::{Deserialize, Serialize};

use crate::canary::BlockCounts;
use crate::error::{Error, Result};
use crate::statistics::{Hypergeometric, ln_binomial};
use crate::word_check::WordCheck;

/// No figure exceeds this: the slots are hidden, and the masks of the check drawn, by primitives
/// of 128-bit security.
pub const MAX_BITS: f64 = 128.0;

/// Total degree of a segment with one squaring; every further one doubles it.
pub const SQUARE_DEGREE: u32 = 2;

/// What protects the replies of one segment in one block.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub enum SegmentCheck {
    /// Canaries, random points and replicas in secret slots.
    Slots(SlotCheck),
    /// A random linear check of every word.
    Words(WordCheck),
}

/// A slot segment as the soundness formulas see it.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct SlotCheck {
    counts: BlockCounts,
    plaintext_modulus: u128,
    degree: u32,
}

impl SlotCheck {
    /// Describes a block with these counts in a segment of total degree `degree` over the field
    /// `Z_t`, `t = plaintext_modulus` prime.
    ///
    /// `degree` is the larger of the honest map's degree and of the highest degree a server can
    /// reach; 2 with one squaring, since a reply must have the plan's degree and level, and the
    /// server holds no evaluation key. Where it holds one, its noise bounds the degree.
    ///
    /// # Errors
    /// [`Error::CountOutOfRange`] if the degree is zero or the modulus below 2.
    pub fn new(counts: BlockCounts, plaintext_modulus: u128, degree: u32) -> Result<Self> {
        if plaintext_modulus < 2 {
            return Err(Error::CountOutOfRange {
                name: "the plaintext modulus",
                actual: u64::try_from(plaintext_modulus).unwrap_or(u64::MAX),
                min: 2,
                max: u64::MAX,
            });
        }
        if degree == 0 {
            return Err(Error::CountOutOfRange {
                name: "the degree of a segment",
                actual: 0,
                min: 1,
                max: u64::from(u32::MAX),
            });
        }
        Ok(Self { counts, plaintext_modulus, degree })
    }

    /// Bits against another polynomial map on every slot: `p·log2(t/D)` (Schwartz–Zippel).
    #[expect(clippy::cast_precision_loss, reason = "a logarithm needs no exact integers")]
    pub fn every_slot_change_bits(&self) -> f64 {
        let per_point = (self.plaintext_modulus as f64 / f64::from(self.degree)).log2();
        cap(self.counts.random_points() as f64 * per_point.max(0.0))
    }

    /// Bits against a server that alters the values of at least `n_altered` samples of this block
    /// in slots of its choice, counted as 1 at least.
    ///
    /// To stay unnoticed it must hit exactly the `j·r` slots of some `j ≥ n_altered` samples, out
    /// of `C(N, j·r)` equally likely sets: `max_j C(n, j) / C(N, j·r)`.
    pub fn altered_samples_bits(&self, n_altered: usize) -> f64 {
        let n_slots = self.counts.n_slots() as u64;
        let n_samples = self.counts.samples() as u64;
        let replicas = self.counts.replicas() as u64;
        let fewest = (n_altered as u64).clamp(1, n_samples);
        let ln_miss = if replicas == 1 {
            // Falls with every further sample. Kept as a product: it may be close to 1.
            Hypergeometric::new(n_slots, n_slots - n_samples, fewest)
                .map_or(0.0, |draw| draw.ln_none())
        } else {
            (fewest..=n_samples)
                .map(|j| ln_binomial(n_samples, j) - ln_binomial(n_slots, j * replicas))
                .fold(f64::NEG_INFINITY, f64::max)
        };
        cap(-ln_miss / core::f64::consts::LN_2)
    }

    /// Bits against a server that applies another polynomial *map* in `n_slots_changed` slots of
    /// its choice, a map that may leave natural inputs alone (a trigger, say): only random points
    /// are sure to notice, so network canaries and replicas do not count.
    ///
    /// With `P` slots that carry a point, `h = C(N−P, m)/C(N, m)`: `h + (1−h)·D/t`.
    #[expect(clippy::cast_precision_loss, reason = "a logarithm needs no exact integers")]
    pub fn changed_map_bits(&self, n_slots_changed: usize) -> f64 {
        let n_slots = self.counts.n_slots() as u64;
        let changed = (n_slots_changed as u64).min(n_slots);
        let point_slots = self.counts.point_slots() as u64;
        let ln_avoided =
            Hypergeometric::new(n_slots, point_slots, changed).map_or(0.0, |draw| draw.ln_none());
        let agrees = (f64::from(self.degree) / self.plaintext_modulus as f64).min(1.0);
        // h + (1−h)·a = 1 − (1−h)(1−a), exact also when h is close to 1.
        let noticed = -ln_avoided.exp_m1() * (1.0 - agrees);
        cap(-(-noticed).ln_1p() / core::f64::consts::LN_2)
    }
}

/// `−log2` of the probability that cheating stays unnoticed, per kind of cheating.
///
/// Each figure is the weakest over the segments and blocks it was computed from; `None` where
/// nothing of the kind is checked. A figure near 0 means that such cheating mostly succeeds.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Soundness {
    /// The server changes what it computes on every slot: another model, other weights.
    pub every_slot_change_bits: Option<f64>,
    /// The server alters at least one percent of the samples of some block.
    pub one_percent_bits: Option<f64>,
    /// The server alters at least one sample.
    pub one_sample_bits: Option<f64>,
    /// The server alters at least one word of a reply. `None` unless *every* segment's replies are
    /// checked word by word.
    pub reply_word_bits: Option<f64>,
}

impl Soundness {
    /// Nothing is checked: every figure is `None` (a simulation, or checks switched off).
    pub fn unchecked() -> Self {
        Self {
            every_slot_change_bits: None,
            one_percent_bits: None,
            one_sample_bits: None,
            reply_word_bits: None,
        }
    }

    /// The weaker figure of each kind: what holds for two runs together.
    #[must_use]
    pub fn weaker(self, other: Self) -> Self {
        let least = |a: Option<f64>, b: Option<f64>| Some(a?.min(b?));
        Self {
            every_slot_change_bits: least(
                self.every_slot_change_bits,
                other.every_slot_change_bits,
            ),
            one_percent_bits: least(self.one_percent_bits, other.one_percent_bits),
            one_sample_bits: least(self.one_sample_bits, other.one_sample_bits),
            reply_word_bits: least(self.reply_word_bits, other.reply_word_bits),
        }
    }

    /// The weakest figure of each kind over all segments, and over all blocks of different
    /// occupancy: pass one check for each.
    ///
    /// No union bound over segments or blocks is needed: a server that cheats in several places
    /// must stay unnoticed in the first of them, and altering more never helps.
    ///
    /// # Errors
    /// [`Error::NothingToJudge`] if there is no check.
    pub fn weakest(checks: &[SegmentCheck]) -> Result<Self> {
        if checks.is_empty() {
            return Err(Error::NothingToJudge { what: "the soundness of no segment" });
        }
        let least = |bits: fn(&SegmentCheck) -> Option<f64>| {
            checks.iter().map(bits).reduce(|a, b| Some(a?.min(b?))).flatten()
        };
        Ok(Self {
            every_slot_change_bits: least(|check| {
                Some(match check {
                    SegmentCheck::Slots(slots) => slots.every_slot_change_bits(),
                    SegmentCheck::Words(words) => cap(words.reply_word_bits()),
                })
            }),
            one_percent_bits: least(|check| {
                Some(match check {
                    SegmentCheck::Slots(slots) => {
                        slots.altered_samples_bits(slots.counts.samples().div_ceil(100))
                    }
                    SegmentCheck::Words(words) => cap(words.reply_word_bits()),
                })
            }),
            one_sample_bits: least(|check| {
                Some(match check {
                    SegmentCheck::Slots(slots) => slots.altered_samples_bits(1),
                    SegmentCheck::Words(words) => cap(words.reply_word_bits()),
                })
            }),
            reply_word_bits: least(|check| match check {
                SegmentCheck::Slots(_) => None,
                SegmentCheck::Words(words) => Some(cap(words.reply_word_bits())),
            }),
        })
    }
}

impl fmt::Display for Soundness {
    /// One clause with the chance of staying unnoticed, e.g. `chance to cheat unnoticed: on every
    /// slot 2^-56.0, on 1 % of samples 83 %, on one sample 99.6 %, on one reply word (not checked)`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "chance to cheat unnoticed: on every slot {}, on 1 % of samples {}, on one sample {}, \
             on one reply word {}",
            Chance(self.every_slot_change_bits),
            Chance(self.one_percent_bits),
            Chance(self.one_sample_bits),
            Chance(self.reply_word_bits),
        )
    }
}

/// A miss probability, in percent while that reads well.
struct Chance(Option<f64>);

impl fmt::Display for Chance {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            None => write!(f, "(not checked)"),
            Some(bits) if bits < 7.0 => write!(f, "{:.1} %", 100.0 * (-bits).exp2()),
            Some(bits) => write!(f, "2^-{bits:.1}"),
        }
    }
}

fn cap(bits: f64) -> f64 {
    bits.clamp(0.0, MAX_BITS)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]

    use super::*;
    use crate::canary::{LayoutOptions, LayoutSpec};

    fn slots(n_slots: usize, options: LayoutOptions, n_samples: Option<usize>) -> SlotCheck {
        let spec = LayoutSpec::new(n_slots, options).unwrap();
        let counts = spec.counts(n_samples.unwrap_or(spec.samples_per_block())).unwrap();
        SlotCheck::new(counts, 536_813_569, SQUARE_DEGREE).unwrap()
    }

    fn with(replicas: usize, network_canaries: usize) -> LayoutOptions {
        LayoutOptions { replicas, network_canaries, ..LayoutOptions::default() }
    }

    #[test]
    fn figures_of_a_full_block_match_hand_computation() {
        let check = slots(4_096, with(1, 16), None);
        // t = 536813569, D = 2, two points.
        assert!(
            (check.every_slot_change_bits() - 2.0 * (536_813_569f64 / 2.0).log2()).abs() < 1e-9
        );
        // 18 of 4096 slots are checked: one altered slot is missed with 4078/4096.
        assert!((check.altered_samples_bits(1) + (4_078f64 / 4_096.0).log2()).abs() < 1e-12);
        // 41 altered slots: C(4078, 41)/C(4096, 41) as a product.
        let miss: f64 = (0..41).map(|i| f64::from(4_078 - i) / f64::from(4_096 - i)).product();
        assert!((check.altered_samples_bits(41) + miss.log2()).abs() < 1e-12);
    }

    #[test]
    fn the_table_in_the_derivations_is_what_the_code_computes() {
        // docs/soundness.md, section 5: N = 4096, t = 536813569, printed digits.
        for (replicas, canaries, points, samples, one_sample, one_percent, every_slot) in [
            (1, 16, 2, 4_078, 0.006, 0.26, 56.0),
            (1, 64, 2, 4_030, 0.02, 0.97, 56.0),
            (1, 400, 2, 3_694, 0.15, 5.54, 56.0),
            (2, 16, 2, 2_039, 12.0, 128.0, 56.0),
            (3, 16, 3, 1_359, 23.0, 128.0, 84.0),
            (1, 16, 32, 1_000, 2.0, 20.4, 128.0),
            (1, 16, 32, 10, 8.7, 8.7, 128.0),
        ] {
            let check = slots(4_096, with(replicas, canaries), Some(samples));
            assert_eq!(check.counts.random_points(), points);
            let soundness = Soundness::weakest(&[SegmentCheck::Slots(check)]).unwrap();
            for (figure, printed) in [
                (soundness.one_sample_bits, one_sample),
                (soundness.one_percent_bits, one_percent),
                (soundness.every_slot_change_bits, every_slot),
            ] {
                let error = (figure.unwrap() - printed).abs();
                let last_digit = if printed < 0.01 {
                    0.001
                } else if printed < 1.0 {
                    0.01
                } else {
                    0.1
                };
                assert!(error <= 0.5 * last_digit, "{figure:?} against {printed}");
            }
        }
    }

    #[test]
    fn two_replicas_hide_one_sample_among_all_pairs_of_slots() {
        let check = slots(4_096, with(2, 16), None);
        let expected = (4_096f64 * 4_095.0 / 2.0 / 2_039.0).log2();
        assert!((check.altered_samples_bits(1) - expected).abs() < 1e-9);
        assert_eq!(check.altered_samples_bits(21), MAX_BITS);
    }

    #[test]
    fn altering_all_slots_but_one_is_counted_when_replicas_are_many() {
        // 7 slots: two samples in three slots each, one point. Sparing only the point: 1/7.
        let options = LayoutOptions {
            replicas: 3,
            network_canaries: 0,
            random_points: 1,
            max_random_points: 1,
        };
        let check = slots(7, options, Some(2));
        assert!((check.altered_samples_bits(1) - 7f64.log2()).abs() < 1e-9);
        // One sample only would be 2/C(7,3) = 2/35: harder than 1/7.
        assert!((35f64 / 2.0).log2() > 7f64.log2());
    }

    #[test]
    fn a_nearly_empty_block_is_nearly_all_canaries() {
        let check = slots(4_096, with(1, 16), Some(10));
        assert!((check.altered_samples_bits(1) - (4_096f64 / 10.0).log2()).abs() < 1e-9);
        assert_eq!(check.every_slot_change_bits(), MAX_BITS);
        assert!(check.changed_map_bits(41) > 27.0);
    }

    #[test]
    fn copies_of_points_do_not_count_as_points() {
        let options = LayoutOptions { max_random_points: 3, ..with(1, 0) };
        let check = slots(4_096, options, Some(10));
        let per_point = (536_813_569f64 / 2.0).log2();
        assert!((check.every_slot_change_bits() - 3.0 * per_point).abs() < 1e-9);
    }

    #[test]
    fn maps_that_spare_natural_inputs_are_left_to_the_points() {
        let full = slots(4_096, with(1, 16), None);
        // Two of 4096 slots hold a point, 41 are changed: C(4094, 41)/C(4096, 41).
        let avoided: f64 = (0..41).map(|i| f64::from(4_094 - i) / f64::from(4_096 - i)).product();
        assert!((full.changed_map_bits(41) + avoided.log2()).abs() < 1e-8);
        assert!((full.changed_map_bits(41) - 0.03).abs() < 5e-3, "docs/soundness.md, section 5");
        assert!(full.changed_map_bits(41) < full.altered_samples_bits(41));
        // Every slot changed: one point is what the bound claims.
        assert!((full.changed_map_bits(4_096) - (536_813_569f64 / 2.0).log2()).abs() < 1e-6);
    }

    #[test]
    fn the_weakest_segment_counts_for_each_kind() {
        let slot = SegmentCheck::Slots(slots(4_096, with(1, 16), None));
        let words = SegmentCheck::Words(WordCheck::new(2, &[15.0]).unwrap());
        let linear_only = Soundness::weakest(&[words]).unwrap();
        for bits in [
            linear_only.every_slot_change_bits,
            linear_only.one_percent_bits,
            linear_only.one_sample_bits,
            linear_only.reply_word_bits,
        ] {
            assert_eq!(bits, Some(30.0));
        }
        let mixed = Soundness::weakest(&[words, slot]).unwrap();
        assert_eq!(mixed.every_slot_change_bits, Some(30.0));
        assert!(mixed.one_sample_bits.unwrap() < 0.01);
        assert_eq!(mixed.reply_word_bits, None);
        assert!(Soundness::weakest(&[]).is_err());
    }

    #[test]
    fn json_has_exactly_the_four_fields_and_null_for_what_is_not_checked() {
        let json = serde_json::to_value(Soundness {
            one_sample_bits: Some(0.5),
            ..Soundness::unchecked()
        });
        let expected = serde_json::json!({
            "every_slot_change_bits": null, "one_percent_bits": null,
            "one_sample_bits": 0.5, "reply_word_bits": null,
        });
        assert_eq!(json.unwrap(), expected);
    }

    #[test]
    fn display_shows_weak_figures_as_percentages() {
        let soundness = Soundness {
            every_slot_change_bits: Some(56.0),
            one_percent_bits: Some(1.0),
            ..Soundness::unchecked()
        };
        let text = soundness.to_string();
        assert!(text.contains("on every slot 2^-56.0, on 1 % of samples 50.0 %"), "{text}");
        assert!(text.ends_with("on one reply word (not checked)"), "{text}");
    }

    #[test]
    fn impossible_segments_are_refused() {
        let counts = LayoutSpec::new(64, with(1, 4)).unwrap().counts(10).unwrap();
        assert!(SlotCheck::new(counts, 1, 2).is_err());
        assert!(SlotCheck::new(counts, 97, 0).is_err());
        assert_eq!(SlotCheck::new(counts, 2, 2).unwrap().every_slot_change_bits(), 0.0);
    }
}
