//! From models, plans and data to fingerprints, and fingerprints in files.

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};

use anyhow::{Context, Result, bail};
use fingerprint::generate::MAX_UNFINISHED_BAG_BYTES;
use fingerprint::{
    Fingerprint, GenerateConfig, GenerateProgress, Made, Maker, SampleBag, Subject, UnfinishedBag,
};
use ndarray::Array2;
use nn_poly::artifact;
use nn_poly::import::Split;
use nn_poly::model::Model;
use nn_poly::plan::{Digest, Plan};

use super::source::DataSource;
use crate::failure::Hint;
use crate::kind::FileKind;
use crate::output::OutputFile;
use crate::report::progress::Bar;

/// What a fingerprint is made of, as read from files.
#[derive(Debug)]
pub(crate) struct Originals {
    pub(crate) model: Model,
    pub(crate) plan: Option<Plan>,
}

impl Originals {
    /// What the maker works on.
    pub(crate) fn subject(&self) -> Subject<'_> {
        Subject { model: &self.model, plan: self.plan.as_ref() }
    }
}

/// Natural samples as the network sees them.
///
/// # Errors
/// Data that are missing, damaged or of another shape.
pub(crate) fn starts(
    subject: &Subject<'_>,
    source: &DataSource<'_>,
    split: Split,
) -> Result<Array2<f32>> {
    let (path, data) = source.load(split, subject.split())?;
    if data.shape() != subject.shape() {
        bail!(
            "samples in {} have shape {}, `{}` reads {}: start from the data it was trained on",
            path.display(),
            data.shape(),
            subject.name(),
            subject.shape(),
        );
    }
    Ok(subject.preprocessing().apply(data.features())?)
}

/// Generate, sift, choose, and bind to the model or plan, with what there is of the samples kept in a
/// file if there is one.
///
/// # Errors
/// A network without gradients, samples that keep no margin, a file of another generation.
pub(crate) fn make(
    maker: &Maker<'_>,
    file: Option<&BagFile>,
    starts: &Array2<f32>,
    progress: &dyn GenerateProgress,
) -> Result<Made> {
    let bag = complete_bag(file, starts, maker.config(), progress, |bag, progress| {
        Ok(maker.extend(bag, starts, progress)?)
    })?;
    Ok(maker.finish(&bag, starts)?)
}

/// Samples begun between two writes of a checkpoint, at least.
const SAMPLES_PER_CHECKPOINT: usize = 64;

/// Where an unfinished bag is kept.
#[derive(Debug, Clone)]
pub(crate) struct BagFile {
    pub(crate) path: PathBuf,
    /// Digests of what the samples are made for.
    pub(crate) subjects: Vec<Digest>,
    /// Whether to go on from there.
    pub(crate) resume: bool,
}

/// Complete a bag by `go_on`, in portions that are kept in a file if there is one.
///
/// # Errors
/// Those of `go_on`, a file of another generation, a folder that cannot be written.
pub(crate) fn complete_bag(
    file: Option<&BagFile>,
    starts: &Array2<f32>,
    config: &GenerateConfig,
    progress: &dyn GenerateProgress,
    mut go_on: impl FnMut(SampleBag, &dyn GenerateProgress) -> Result<SampleBag>,
) -> Result<SampleBag> {
    let empty = config.empty_bag(starts.ncols());
    let Some(BagFile { path, subjects, resume }) = file else { return go_on(empty, progress) };
    let output = OutputFile::check(path)?;
    let mut bag = if *resume && path.exists() {
        let bytes = artifact::read_file(path, MAX_UNFINISHED_BAG_BYTES)?;
        UnfinishedBag::from_bytes(&bytes)
            .and_then(|unfinished| unfinished.into_bag(subjects, starts, config))
            .with_context(|| format!("cannot go on from {}", path.display()))
            .hint(|| "repeat the settings of that run, or start anew without --resume")?
    } else {
        empty
    };
    // A bag that is whole already is checked all the same.
    loop {
        // Longer and longer, so that writing never takes more than a share of the time.
        let until = bag.len() + SAMPLES_PER_CHECKPOINT.max(bag.len() / 4);
        bag = go_on(bag, &Portion { progress, until, done: AtomicUsize::new(0) })?;
        output.write(&UnfinishedBag::new(subjects, starts, config, bag.clone())?.to_bytes()?)?;
        if bag.len() >= config.spec().count {
            return Ok(bag);
        }
    }
}

impl BagFile {
    /// Remove the checkpoint of a fingerprint that is written: its samples are a secret.
    ///
    /// # Errors
    /// A file that cannot be removed.
    pub(crate) fn discard(&self) -> Result<()> {
        if !self.path.exists() {
            return Ok(());
        }
        std::fs::remove_file(&self.path)
            .with_context(|| format!("cannot remove the checkpoint {}", self.path.display()))
    }
}

/// Stops a generation when there are so many samples.
struct Portion<'a> {
    progress: &'a dyn GenerateProgress,
    until: usize,
    done: AtomicUsize,
}

impl GenerateProgress for Portion<'_> {
    fn advanced(&self, done: usize, total: usize) {
        self.done.fetch_max(done, Ordering::Relaxed);
        self.progress.advanced(done, total);
    }

    fn is_cancelled(&self) -> bool {
        self.done.load(Ordering::Relaxed) >= self.until || self.progress.is_cancelled()
    }
}

/// Read a fingerprint file.
///
/// # Errors
/// A file that cannot be read, of another kind, or damaged.
pub(crate) fn load(path: &Path) -> Result<Fingerprint> {
    FileKind::Fingerprint.expect_of(path)?;
    let limit = fingerprint::fingerprint::MAX_FINGERPRINT_BYTES;
    let bytes = artifact::read_file(path, limit)?;
    Fingerprint::from_bytes(&bytes)
        .with_context(|| format!("cannot use {}", path.display()))
        .hint(|| "make it again with this program: `securedl fingerprint generate …`")
}

/// Shows how many samples are ready.
#[derive(Debug)]
pub(crate) struct SampleBar(pub(crate) Bar);

impl GenerateProgress for SampleBar {
    fn advanced(&self, done: usize, total: usize) {
        self.0.at(done as u64);
        self.0.message(format!("{done}/{total}"));
    }
}
