//! Samples of any number through a plan: read, run and kept batch by batch.

use std::collections::VecDeque;
use std::path::Path;

use anyhow::{Context, Result, bail};
use fingerprint::Soundness;
use nn_poly::Error;
use nn_poly::import::{SampleStream, Split};
use nn_poly::integer::IntegerMatrix;
use nn_poly::plan::Plan;
use protocol::error::Source;
use protocol::journal::{FinishedBatch, Journal, Task};
use protocol::runner::Batches;
use protocol::session::BatchResult;

use super::inference::draw_numbers;
use super::source::DataSource;
use crate::output::OutputFile;
use crate::report::distribution::Distribution;
use crate::report::predictions::{Format, Predictions, PredictionsWriter};

/// Open samples for a plan: as many as wanted, with the plan's classes.
///
/// # Errors
/// Data that are missing, damaged, of another shape, or with labels the plan does not know.
pub(crate) fn open(
    plan: &Plan,
    source: &DataSource<'_>,
    split: Split,
    samples: Option<u64>,
) -> Result<SampleStream> {
    let public = plan.public();
    let (path, stream) =
        source.open(split, &public.split, &public.input_shape).map_err(|error| {
            match shape_found(&error) {
                Some(shape) => anyhow::anyhow!(
                    "samples in {source} have shape {shape}, the plan `{}` reads {}: use the data the model was trained for",
                    public.name,
                    public.input_shape
                ),
                None => error,
            }
        })?;
    let n_samples = samples.and_then(|n| usize::try_from(n).ok()).unwrap_or(usize::MAX);
    stream
        .take(n_samples)?
        .with_classes(&public.class_names)
        .with_context(|| format!("{} does not fit the plan `{}`", path.display(), public.name))
}

/// The shape of samples that were refused for it, as people write it.
fn shape_found(error: &anyhow::Error) -> Option<String> {
    let found = error.chain().find_map(|cause| cause.downcast_ref::<Error>())?;
    let found = if let Error::InFile { error, .. } = found { error } else { found };
    if let Error::ShapeMismatch { actual, .. } = found {
        return Some(actual.iter().map(usize::to_string).collect::<Vec<_>>().join("×"));
    }
    None
}

/// What is known about the samples that are finished.
#[derive(Debug, Clone, Default)]
pub(crate) struct Counts {
    /// Samples finished.
    pub(crate) n_samples: usize,
    /// Predictions by class, and the first ones.
    pub(crate) distribution: Distribution,
    /// Samples with a value out of calibration.
    pub(crate) n_out: usize,
    /// Samples with a score that is not the integer network's.
    pub(crate) n_different: usize,
    /// The weakest soundness of batches that an earlier run had finished.
    pub(crate) earlier: Option<Soundness>,
    /// Batches that an earlier run had finished, and their samples.
    pub(crate) n_earlier: usize,
    pub(crate) n_earlier_samples: usize,
}

/// The samples of a run on their way: read when they are needed, kept when they are finished.
pub(crate) struct Work<'a> {
    plan: &'a Plan,
    samples: SampleStream,
    per_batch: usize,
    keeper: Option<Keeper>,
    /// Inputs of the batches under way.
    waiting: VecDeque<IntegerMatrix>,
    pub(crate) counts: Counts,
}

/// Where finished batches are kept until all of them are.
enum Keeper {
    /// A journal beside the predictions: made with the first finished batch.
    Planned { path: std::path::PathBuf, task: Task },
    /// A journal that exists; `lasting`: it outlives the run if that fails.
    Open { journal: Journal, lasting: bool },
}

impl<'a> Work<'a> {
    /// Samples in batches of `per_batch`.
    pub(crate) fn new(plan: &'a Plan, samples: SampleStream, per_batch: usize) -> Self {
        Self {
            plan,
            samples,
            per_batch: per_batch.max(1),
            keeper: None,
            waiting: VecDeque::new(),
            counts: Counts::default(),
        }
    }

    /// The same samples in batches of another size, before any was read.
    pub(crate) fn in_batches(self, per_batch: usize) -> Self {
        Self { per_batch: per_batch.max(1), ..self }
    }

    /// Keep finished batches for `output`; `description` says what results depend on.
    ///
    /// With `resume`, batches in the journal of an earlier run are taken from there: their samples are
    /// read once more and compared with what the journal says they were. Returns what to tell about it.
    ///
    /// # Errors
    /// A journal that is there and not to be resumed, is of another run, damaged, or in use.
    pub(crate) fn keep_for(
        &mut self,
        output: &OutputFile,
        description: String,
        resume: bool,
    ) -> Result<Option<String>> {
        let n_scores = u32::try_from(self.plan.network().n_scores())?;
        let task = Task { n_scores, samples_per_batch: self.per_batch as u64, description };
        let Some(path) = output.beside(protocol::journal::JOURNAL_EXTENSION) else {
            return self.keep_for_now(task).map(|()| None);
        };
        if !resume {
            if path.exists() {
                bail!(
                    "{} is the journal of a run that was interrupted: add --resume to go on with it, or remove it to start over",
                    path.display()
                );
            }
            self.keeper = Some(Keeper::Planned { path, task });
            return Ok(None);
        }
        if !path.exists() {
            self.keeper = Some(Keeper::Planned { path, task });
            return Ok(Some("there is no journal: starting from the first sample".to_owned()));
        }
        let (mut journal, recovered) = Journal::open(&path, task)?;
        for batch in 0..journal.n_batches() {
            let inputs = self.read(self.per_batch)?.unwrap_or_default();
            journal.check_inputs(batch, &inputs)?;
            let kept = journal.read(batch)?;
            self.note_earlier(&kept);
        }
        self.keeper = Some(Keeper::Open { journal, lasting: true });
        let mut text = match recovered.batches {
            1 => "1 batch is finished already".to_owned(),
            n => format!("{n} batches are finished already"),
        };
        if recovered.dropped_bytes > 0 {
            text.push_str("; the end of the journal was incomplete and is run again");
        }
        Ok(Some(text))
    }

    /// Keep finished batches in a file without a name.
    ///
    /// # Errors
    /// It cannot be made.
    fn keep_for_now(&mut self, task: Task) -> Result<()> {
        let file = tempfile::tempfile().context("a temporary file cannot be made")?;
        let journal = Journal::in_file(file, Path::new("temporary file"), task)?;
        self.keeper = Some(Keeper::Open { journal, lasting: false });
        Ok(())
    }

    /// As [`keep_for`](Self::keep_for) for results that can be made again at any time.
    ///
    /// # Errors
    /// No temporary file can be made.
    pub(crate) fn keep_until_written(&mut self) -> Result<()> {
        let n_scores = u32::try_from(self.plan.network().n_scores())?;
        let samples_per_batch = self.per_batch as u64;
        self.keep_for_now(Task { n_scores, samples_per_batch, description: String::new() })
    }

    /// Samples in all.
    pub(crate) fn n_samples(&self) -> usize {
        self.samples.n_samples()
    }

    /// Batches in all.
    pub(crate) fn n_batches(&self) -> usize {
        self.n_samples().div_ceil(self.per_batch)
    }

    /// Share of right predictions among the finished ones, where labels are known.
    pub(crate) fn accuracy(&self) -> Option<f64> {
        self.samples.labels().map(|_| {
            crate::report::units::share(self.counts.distribution.n_right, self.counts.n_samples)
        })
    }

    /// Where finished batches of a run that failed are kept, if any are.
    pub(crate) fn kept(&self) -> Option<&Path> {
        match &self.keeper {
            Some(Keeper::Open { journal, lasting: true }) if journal.n_batches() > 0 => {
                Some(journal.path())
            }
            Some(Keeper::Open { .. } | Keeper::Planned { .. }) | None => None,
        }
    }

    /// Evaluate the integer network alone on all samples.
    ///
    /// # Errors
    /// Samples that cannot be read.
    pub(crate) fn simulate(&mut self) -> Result<()> {
        while let Some(inputs) = self.read(self.per_batch)? {
            let evaluation = self.plan.simulate(&inputs)?;
            let result = BatchResult {
                scores: evaluation.scores,
                out_of_calibration: evaluation.out_of_range,
                verdict: fingerprint::Verdict::Unverified {
                    reason: fingerprint::UnverifiedReason::NoServer,
                },
                tally: protocol::session::Tally::default(),
            };
            if let Some(Keeper::Open { journal, .. }) = &mut self.keeper {
                journal.append(&inputs, &result)?;
            }
            self.note(&result);
        }
        Ok(())
    }

    /// Write what is kept, in the order of the samples, and remove the journal.
    ///
    /// # Errors
    /// What cannot be read or written; the journal then stays.
    pub(crate) fn write(&mut self, output: &OutputFile, format: Format) -> Result<()> {
        let Some(Keeper::Open { mut journal, lasting }) = self.keeper.take() else {
            bail!("internal error, please report: there is nothing to write");
        };
        let labels = self.samples.labels();
        let shape = (self.samples.n_samples(), self.plan.network().n_scores());
        output.write_with(|out| {
            let mut writer = PredictionsWriter::begin(out, format, shape, labels.is_some())?;
            let mut first = 0;
            for batch in 0..journal.n_batches() {
                let FinishedBatch { scores, out_of_calibration, .. } = journal.read(batch)?;
                let range = first..first + out_of_calibration.len();
                first = range.end;
                writer.write(&Predictions {
                    scores: &scores,
                    out_of_calibration: &out_of_calibration,
                    labels: labels.and_then(|labels| labels.get(range)),
                })?;
            }
            Ok(())
        })?;
        if lasting {
            journal.remove()?;
        }
        Ok(())
    }

    /// The first samples as they are, at most `count`.
    ///
    /// # Errors
    /// Samples that cannot be read.
    pub(crate) fn first_features(&self, count: usize) -> Result<Vec<Vec<f32>>> {
        let numbers: Vec<usize> = (0..count.min(self.n_samples())).collect();
        let features = self.samples.select(&numbers)?;
        Ok(features.outer_iter().map(|row| row.to_vec()).collect())
    }

    /// Name of the data.
    pub(crate) fn source(&self) -> String {
        self.samples.source()
    }

    /// As many samples as canaries are wanted, drawn from all of them.
    ///
    /// # Errors
    /// Samples that cannot be read; no random numbers.
    pub(crate) fn draw_canaries(&self, count: usize) -> Result<IntegerMatrix> {
        let numbers = draw_numbers(self.n_samples(), count)?;
        Ok(self.plan.public().quantize(&self.samples.select(&numbers)?)?)
    }

    fn read(&mut self, max_samples: usize) -> Result<Option<IntegerMatrix>, Error> {
        let features = self.samples.next_features(max_samples)?;
        features.map(|features| self.plan.public().quantize(&features)).transpose()
    }

    fn note(&mut self, result: &BatchResult) {
        let range = self.counts.n_samples..self.counts.n_samples + result.out_of_calibration.len();
        let predictions = Predictions {
            scores: &result.scores,
            out_of_calibration: &result.out_of_calibration,
            labels: self.samples.labels().and_then(|labels| labels.get(range.clone())),
        };
        self.counts.distribution.add(&predictions);
        self.counts.n_out += result.out_of_calibration.iter().filter(|&&flag| flag).count();
        self.counts.n_samples = range.end;
    }

    fn note_earlier(&mut self, kept: &FinishedBatch) {
        let FinishedBatch { scores, out_of_calibration, soundness, tally } = kept.clone();
        let verdict = fingerprint::Verdict::Intact { soundness };
        self.note(&BatchResult { scores, out_of_calibration, verdict, tally });
        self.counts.n_earlier += 1;
        self.counts.n_earlier_samples = self.counts.n_samples;
        self.counts.earlier = Some(match self.counts.earlier {
            Some(earlier) => earlier.weaker(soundness),
            None => soundness,
        });
    }

    /// Store a finished batch; its samples are no longer needed.
    fn finish(&mut self, inputs: &IntegerMatrix, result: &BatchResult) -> Result<()> {
        self.note(result);
        let expected = self.plan.simulate(inputs)?.scores;
        let columns = result.scores.columns().into_iter().zip(expected.columns());
        self.counts.n_different += columns.filter(|(a, b)| a != b).count();
        // What the integer network contradicts is nobody's result.
        if self.counts.n_different > 0 {
            return Ok(());
        }
        if let Some(Keeper::Planned { path, task }) = &self.keeper {
            let journal = Journal::create(path, task.clone())?;
            self.keeper = Some(Keeper::Open { journal, lasting: true });
        }
        if let Some(Keeper::Open { journal, .. }) = &mut self.keeper {
            journal.append(inputs, result)?;
        }
        Ok(())
    }
}

impl Batches for Work<'_> {
    fn next_batch(&mut self, max_samples: usize) -> Result<Option<IntegerMatrix>, Source> {
        let inputs = self.read(max_samples)?;
        self.waiting.extend(inputs.clone());
        Ok(inputs)
    }

    fn batch_finished(&mut self, _: usize, result: BatchResult) -> Result<(), Source> {
        let inputs = self.waiting.pop_front().ok_or("a batch that was not begun")?;
        self.finish(&inputs, &result).map_err(Source::from)
    }

    fn n_batches(&self) -> usize {
        Work::n_batches(self)
    }
}
