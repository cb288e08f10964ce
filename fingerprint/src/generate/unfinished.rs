//! Bags that were cut short, in files, and which generation they belong to.

use ndarray::Array2;
use nn_poly::artifact::{self, Magic};
use nn_poly::plan::Digest;

use super::{GenerateConfig, GenerateSpec};
use crate::error::{Error, Result};
use crate::sample::SampleBag;

/// First bytes of a file with an unfinished bag.
pub const UNFINISHED_BAG_MAGIC: Magic = *b"SDLSMPBG";
/// Format version written and read by this build.
pub const UNFINISHED_BAG_VERSION: u32 = 1;
/// Largest file: 2 GiB.
pub const MAX_UNFINISHED_BAG_BYTES: usize = 1 << 31;

const TASK_CONTEXT: &str = "SecureDL fingerprint 1 generation";

/// The beginning of a bag, bound to the generation it belongs to.
///
/// Samples are independent of one another, so that [`resume`](super::resume) with the same arguments
/// completes it to the very bag an undisturbed generation gives. As secret as a fingerprint.
#[derive(Clone, Debug, PartialEq)]
pub struct UnfinishedBag {
    task: Digest,
    bag: SampleBag,
}

impl UnfinishedBag {
    /// What there is so far of the bag that `config` describes, generated from `starts` for the
    /// networks that `subjects` are digests of.
    ///
    /// # Errors
    /// - [`Error::Network`] never for checked settings.
    pub fn new(
        subjects: &[Digest],
        starts: &Array2<f32>,
        config: &GenerateConfig,
        bag: SampleBag,
    ) -> Result<Self> {
        Ok(Self { task: task(subjects, starts, config.spec())?, bag })
    }

    /// Number of samples there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.bag.len()
    }

    /// Whether there is no sample yet.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.bag.is_empty()
    }

    /// The bag, if it belongs to this generation.
    ///
    /// # Errors
    /// - [`Error::ForeignBag`] if anything differs that decides about samples.
    pub fn into_bag(
        self,
        subjects: &[Digest],
        starts: &Array2<f32>,
        config: &GenerateConfig,
    ) -> Result<SampleBag> {
        if self.task == task(subjects, starts, config.spec())? {
            Ok(self.bag)
        } else {
            Err(Error::ForeignBag)
        }
    }

    /// The file.
    ///
    /// # Errors
    /// - [`Error::Network`] never for a bag from a generator.
    pub fn to_bytes(&self) -> Result<Vec<u8>> {
        let content = (&self.task, &self.bag);
        Ok(artifact::encode(UNFINISHED_BAG_MAGIC, UNFINISHED_BAG_VERSION, &content)?)
    }

    /// Decode bytes from anywhere. Memory: proportional to the bytes.
    ///
    /// # Errors
    /// - [`Error::Network`] around what is wrong with the file: too long, of another kind or version,
    ///   damaged.
    /// - [`Error::LengthMismatch`] if it does not describe every sample.
    /// - [`Error::MalformedBag`] if a value, margin or sensitivity is no finite number. Whether samples
    ///   lie on the grid and labels are classes is for [`resume`](super::resume) to check, which knows
    ///   them.
    pub fn from_bytes(bytes: &[u8]) -> Result<Self> {
        let (magic, version) = (UNFINISHED_BAG_MAGIC, UNFINISHED_BAG_VERSION);
        let (task, bag): (Digest, SampleBag) =
            artifact::decode(magic, version, bytes, MAX_UNFINISHED_BAG_BYTES)?;
        let (expected, actual) = (bag.inputs.nrows(), bag.len());
        if expected != actual {
            let what = "descriptions of samples";
            return Err(Error::LengthMismatch { what, expected, actual });
        }
        check_numbers(&bag)?;
        Ok(Self { task, bag })
    }
}

/// Refuse values that no generator gives. A sensitivity of 0 has the logarithm `-inf`.
fn check_numbers(bag: &SampleBag) -> Result<()> {
    if bag.inputs.iter().any(|value| !value.is_finite()) {
        return Err(Error::MalformedBag { what: "value of a sample" });
    }
    for info in &bag.samples {
        if !(info.margin.is_finite() && info.margin >= 0.0) {
            return Err(Error::MalformedBag { what: "margin of a sample" });
        }
        if info.log_sensitivity.is_nan() || info.log_sensitivity == f64::INFINITY {
            return Err(Error::MalformedBag { what: "sensitivity of a sample" });
        }
    }
    Ok(())
}

/// A digest of everything that decides about the samples of a generation.
fn task(subjects: &[Digest], starts: &Array2<f32>, spec: &GenerateSpec) -> Result<Digest> {
    let content = (subjects, spec, starts);
    let bytes = artifact::encode(UNFINISHED_BAG_MAGIC, UNFINISHED_BAG_VERSION, &content)?;
    Ok(Digest(blake3::derive_key(TASK_CONTEXT, &bytes)))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]
    use ndarray::array;
    use proptest::prelude::*;

    use super::*;
    use crate::generate::GeneratorKind;
    use crate::sample::{InputGrid, SampleInfo};

    fn config(seed: u64) -> GenerateConfig {
        GenerateSpec::new(GeneratorKind::Tie, 5, seed, InputGrid::bytes()).check().unwrap()
    }

    fn bag() -> SampleBag {
        let tied = vec![1, 0];
        let info = SampleInfo { source: None, label: 1, margin: 0.5, log_sensitivity: 0.0, tied };
        let inputs = array![[0.0, 1.0]];
        SampleBag { inputs, generator: GeneratorKind::Tie, seed: 3, samples: vec![info] }
    }

    #[test]
    fn a_file_gives_back_the_bag_to_its_own_generation_only() {
        let (subject, starts) = (Digest([1; 32]), array![[0.5_f32, 0.5]]);
        let unfinished = UnfinishedBag::new(&[subject], &starts, &config(3), bag()).unwrap();
        let read = UnfinishedBag::from_bytes(&unfinished.to_bytes().unwrap()).unwrap();
        assert_eq!((&read, read.len(), read.is_empty()), (&unfinished, 1, false));
        let other = Digest([2; 32]);
        for (subjects, starts, config) in [
            (vec![other], starts.clone(), config(3)),
            (vec![subject, other], starts.clone(), config(3)),
            (vec![subject], &starts * 2.0, config(3)),
            (vec![subject], starts.clone(), config(4)),
        ] {
            let refused = read.clone().into_bag(&subjects, &starts, &config);
            assert_eq!(refused, Err(Error::ForeignBag));
        }
        assert_eq!(read.into_bag(&[subject], &starts, &config(3)).unwrap(), bag());
    }

    #[test]
    fn the_bytes_of_a_file_are_fixed() {
        let unfinished =
            UnfinishedBag::new(&[Digest([1; 32])], &array![[0.5_f32]], &config(3), bag()).unwrap();
        let bytes = unfinished.to_bytes().unwrap();
        assert_eq!(&bytes[..12], b"SDLSMPBG\x01\0\0\0");
        let digest = blake3::hash(&bytes).to_hex();
        assert_eq!((bytes.len(), &digest[..16]), (174, "9428a3c5f4dd7cb1"));
    }

    #[test]
    fn numbers_that_no_generator_gives_are_refused_whatever_the_digest() {
        type Alter = fn(&mut SampleBag);
        let cases: [Alter; 6] = [
            |bag| bag.inputs[[0, 0]] = f32::NAN,
            |bag| bag.inputs[[0, 1]] = f32::NEG_INFINITY,
            |bag| bag.samples[0].margin = f64::NAN,
            |bag| bag.samples[0].margin = -1.0,
            |bag| bag.samples[0].log_sensitivity = f64::NAN,
            |bag| bag.samples[0].log_sensitivity = f64::INFINITY,
        ];
        for alter in cases {
            let mut bag = bag();
            alter(&mut bag);
            let starts = array![[0.5_f32, 0.5]];
            let made = UnfinishedBag::new(&[], &starts, &config(3), bag).unwrap();
            let error = UnfinishedBag::from_bytes(&made.to_bytes().unwrap()).unwrap_err();
            assert!(matches!(error, Error::MalformedBag { .. }), "{error}");
        }
    }

    proptest! {
        #[test]
        fn changed_bytes_with_a_valid_digest_never_panic(
            changes in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..4),
        ) {
            let starts = array![[0.5_f32, 0.5]];
            let made = UnfinishedBag::new(&[], &starts, &config(3), bag()).unwrap();
            let mut bytes = made.to_bytes().unwrap();
            let end = bytes.len() - 32;
            for (position, value) in changes {
                bytes[20 + position.index(end - 20)] = value;
            }
            let digest = blake3::hash(&bytes[..end]);
            bytes[end..].copy_from_slice(digest.as_bytes());
            if let Ok(read) = UnfinishedBag::from_bytes(&bytes) {
                prop_assert_eq!(read.to_bytes().unwrap(), bytes);
                prop_assert_eq!(read.bag.inputs.nrows(), read.len());
                prop_assert!(read.bag.inputs.iter().all(|value| value.is_finite()));
                prop_assert!(read.bag.samples.iter().all(|info| info.margin >= 0.0));
            }
        }
    }

    #[test]
    fn damaged_files_are_refused() {
        let subject = Digest([1; 32]);
        let mut short = bag();
        short.samples.clear();
        let starts = array![[0.5_f32, 0.5]];
        let make = |bag| UnfinishedBag::new(&[subject], &starts, &config(3), bag).unwrap();
        assert!(UnfinishedBag::from_bytes(&make(short).to_bytes().unwrap()).is_err());
        let bytes = make(bag()).to_bytes().unwrap();
        for position in 0..bytes.len() {
            let mut altered = bytes.clone();
            altered[position] ^= 1;
            assert!(UnfinishedBag::from_bytes(&altered).is_err(), "byte {position}");
            assert!(UnfinishedBag::from_bytes(&bytes[..position]).is_err());
        }
    }
}
