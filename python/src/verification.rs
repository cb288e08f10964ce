//! Fingerprints: is the model behind an endpoint the one it should be?

use std::path::PathBuf;
use std::sync::{Mutex, MutexGuard, PoisonError};

use fingerprint::endpoint::{EndpointError, IntegerEndpoint, LocalEndpoint, check_width};
use fingerprint::fingerprint::MAX_FINGERPRINT_BYTES;
use fingerprint::{
    Answers, AuditOutcome, ComparisonRule, Endpoint, GenerateProgress, InputGrid, Maker,
    MakerSettings, Repetition, ScoreKind, Subject, audit,
};
use ndarray::Array2;
use nn_poly::artifact;
use nn_poly::import::Preprocessing;
use numpy::{IntoPyArray, PyReadonlyArray2};
use pyo3::exceptions::{PyTypeError, PyValueError};
use pyo3::prelude::*;

use crate::arrays;
use crate::failure::Outcome;
use crate::model::Model;
use crate::plan::Plan;
use crate::waiting::check_signals;

/// Samples whose answers identify a model, with the true model's answers. Keep it secret.
#[pyclass(frozen, module = "securedl")]
pub(crate) struct Fingerprint {
    inner: Mutex<fingerprint::Fingerprint>,
    path: PathBuf,
}

/// What an audit found.
#[pyclass(frozen, get_all, module = "securedl")]
pub(crate) struct Audit {
    /// `Same`, `Different`, `Unsteady`, `DoesNotFit` or `Undecided`. Only the first two say something about
    /// the model.
    outcome: &'static str,
    /// Whether every answer agrees with the true model's.
    is_same: bool,
    /// Positions of the samples whose answers differ, or change from one time to the next.
    samples: Vec<usize>,
    /// Samples asked.
    n_samples: usize,
    /// How answers were compared.
    rule: String,
}

#[pymethods]
impl Audit {
    fn __repr__(&self) -> String {
        let Self { outcome, samples, n_samples, rule, .. } = self;
        format!("Audit({outcome}, {} of {n_samples} samples, by {rule})", samples.len())
    }
}

impl Audit {
    fn of(audit: fingerprint::Audit) -> Self {
        let (outcome, samples) = match audit.outcome {
            AuditOutcome::Same => ("Same", Vec::new()),
            AuditOutcome::Different { samples } => ("Different", samples),
            AuditOutcome::Unsteady { samples } => ("Unsteady", samples),
            AuditOutcome::DoesNotFit { .. } => ("DoesNotFit", audit.differing),
            AuditOutcome::Undecided | _ => ("Undecided", Vec::new()),
        };
        let is_same = outcome == "Same";
        Self { outcome, is_same, samples, n_samples: audit.n_samples, rule: audit.rule.to_string() }
    }
}

impl Fingerprint {
    /// A panic while it was held leaves it usable.
    fn inner(&self) -> MutexGuard<'_, fingerprint::Fingerprint> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn copy(&self) -> fingerprint::Fingerprint {
        self.inner().clone()
    }

    /// Count a use in the clear before anything is shown: what an endpoint may have seen counts as seen.
    fn record_use(&self) -> Outcome<()> {
        let mut inner = self.inner();
        inner.record_use();
        Ok(artifact::write_file(&self.path, &inner.to_bytes()?)?)
    }
}

#[pymethods]
impl Fingerprint {
    /// Read and check a fingerprint file, as `securedl fingerprint generate` writes it.
    #[staticmethod]
    fn load(py: Python<'_>, path: PathBuf) -> Outcome<Self> {
        let inner = py.detach(|| -> Outcome<_> {
            let bytes = artifact::read_file(&path, MAX_FINGERPRINT_BYTES)?;
            Ok(fingerprint::Fingerprint::from_bytes(&bytes)?)
        })?;
        Ok(Self { inner: Mutex::new(inner), path })
    }

    /// Search for samples whose answers give a modified model away, and write them to a file with the true
    /// model's answers, as `securedl fingerprint generate` does.
    ///
    /// `samples` are raw natural samples to start from. With a `plan` compiled from the model it is the plan's
    /// fingerprint: it holds the exact integers of every segment, and rides in encrypted batches. `count`
    /// samples are chosen by `select` from `bag` generated ones (100, or `count` if that is more, unless given).
    /// `generator`, `optimizer`, `select` and `rule` have the names of the command line; `input_bits` are those
    /// of the endpoint's inputs (8 unless given; models only), `ball` keeps samples within so many grey levels
    /// of the natural ones, `margin` is the smallest relative distance of the two largest scores.
    /// `progress(done, total)` is called after each sample, by the thread that found it.
    #[staticmethod]
    #[pyo3(signature = (
        model, samples, out, *, plan=None, generator="tie", optimizer=None, count=8, bag=None,
        select="class-cover", rule=None, input_bits=None, ball=None, margin=None, seed=0, progress=None,
    ))]
    #[expect(clippy::too_many_arguments, reason = "keyword arguments of Python")]
    fn generate(
        py: Python<'_>,
        model: &Model,
        samples: &Bound<'_, PyAny>,
        out: PathBuf,
        plan: Option<&Plan>,
        generator: &str,
        optimizer: Option<&str>,
        count: usize,
        bag: Option<usize>,
        select: &str,
        rule: Option<&str>,
        input_bits: Option<u32>,
        ball: Option<f64>,
        margin: Option<f64>,
        seed: u64,
        progress: Option<Py<PyAny>>,
    ) -> Outcome<Self> {
        let samples = arrays::features(samples)?;
        let settings = MakerSettings {
            generator: generator.parse()?,
            optimizer: optimizer.map(str::parse).transpose()?,
            count,
            bag,
            selection: select.parse()?,
            rule: rule.map(str::parse).transpose()?,
            input_bits,
            ball,
            margin,
            seed,
        };
        let model = &model.inner;
        let plan = plan.map(|plan| &*plan.inner);
        let inner = py.detach(|| -> Outcome<_> {
            let subject = Subject { model, plan };
            let maker = Maker::new(subject, settings)?;
            let starts = subject.preprocessing().apply(&samples)?;
            let watch = Watch { progress, raised: Mutex::new(None) };
            let made = maker.make(&starts, &watch);
            if let Some(error) = watch.raised.into_inner().unwrap_or_else(PoisonError::into_inner) {
                return Err(error.into());
            }
            let fingerprint = made?.fingerprint;
            artifact::write_file(&out, &fingerprint.to_bytes()?)?;
            Ok(fingerprint)
        })?;
        Ok(Self { inner: Mutex::new(inner), path: out })
    }

    /// Ask an endpoint for its answers to the samples and compare them with the true model's.
    ///
    /// The endpoint is a `Model`, a `Plan`, or a function from an array of samples to their labels (one axis) or
    /// scores (two axes). Functions get samples as `units` says: `raw` (as before preprocessing),
    /// `preprocessed`, or `levels` (whole numbers, 0 to 255 for pixels of one byte), with the shape of the
    /// model's samples, channels last. `probabilities` says that scores sum to 1. Asking a function counts as
    /// a use, which is written to the file first.
    #[pyo3(signature = (endpoint, *, units="raw", probabilities=false, rule=None, once=false))]
    fn verify(
        &self,
        py: Python<'_>,
        endpoint: &Bound<'_, PyAny>,
        units: &str,
        probabilities: bool,
        rule: Option<&str>,
        once: bool,
    ) -> Outcome<Audit> {
        let rule = rule.map(str::parse::<ComparisonRule>).transpose()?;
        let repetition = if once { Repetition::Once } else { Repetition::Twice };
        let fingerprint = self.copy();
        let found = if let Ok(model) = endpoint.cast::<Model>() {
            let model = &model.get().inner;
            py.detach(|| -> Outcome<_> {
                let grid = Some(fingerprint.grid().clone());
                let mut endpoint = LocalEndpoint::new(model.network(), grid)?;
                Ok(audit(&mut endpoint, &fingerprint, rule, repetition)?)
            })
        } else if let Ok(plan) = endpoint.cast::<Plan>() {
            let plan = &plan.get().inner;
            py.detach(|| -> Outcome<_> {
                let mut endpoint = IntegerEndpoint::new(plan.network())?;
                Ok(audit(&mut endpoint, &fingerprint, rule, repetition)?)
            })
        } else if endpoint.is_callable() {
            let kind = if probabilities { ScoreKind::Probabilities } else { ScoreKind::Logits };
            let mut function = Function {
                function: endpoint.clone().unbind(),
                units: Units::named(units)?,
                kind,
                preprocessing: fingerprint.preprocessing().clone(),
                grid: fingerprint.grid().clone(),
                shape: fingerprint.shape().dims().to_vec(),
                n_classes: fingerprint.class_names().len(),
                raised: None,
            };
            let rule_in_force = rule.unwrap_or_else(|| fingerprint.rule());
            rule_in_force.check_reference(&fingerprint.reference())?;
            self.record_use()?;
            let found = py.detach(|| audit(&mut function, &fingerprint, rule, repetition));
            // As it was raised: an interruption is no error of this package.
            match function.raised {
                Some(raised) => Err(raised.into()),
                None => Ok(found?),
            }
        } else {
            let text = "an endpoint is a Model, a Plan or a function";
            return Err(PyTypeError::new_err(text).into());
        }?;
        Ok(Audit::of(found))
    }

    /// The name of the model.
    #[getter]
    fn name(&self) -> String {
        self.inner().name().to_owned()
    }

    /// Number of samples.
    #[getter]
    fn n_samples(&self) -> usize {
        self.inner().n_samples()
    }

    /// How answers are compared unless told otherwise.
    #[getter]
    fn rule(&self) -> String {
        self.inner().rule().to_string()
    }

    /// How often its samples were shown to an endpoint in the clear.
    #[getter]
    fn uses(&self) -> u64 {
        self.inner().uses()
    }

    fn __repr__(&self) -> String {
        let inner = self.inner();
        format!("Fingerprint({:?}, {} samples)", inner.name(), inner.n_samples())
    }
}

/// Reports progress to a function, and ends the work when it raises or a signal comes.
struct Watch {
    progress: Option<Py<PyAny>>,
    raised: Mutex<Option<PyErr>>,
}

impl GenerateProgress for Watch {
    fn advanced(&self, done: usize, total: usize) {
        let told = match &self.progress {
            Some(function) => Python::attach(|py| function.call1(py, (done, total)).map(drop)),
            None => Ok(()),
        };
        if let Err(error) = told {
            self.raised.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert(error);
        }
    }

    fn is_cancelled(&self) -> bool {
        // Before the lock: it waits for the interpreter.
        let signal = check_signals().err();
        let mut raised = self.raised.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(signal) = signal {
            raised.get_or_insert(signal);
        }
        raised.is_some()
    }
}

/// What a function takes.
#[derive(Clone, Copy, PartialEq)]
enum Units {
    Raw,
    Preprocessed,
    Levels,
}

impl Units {
    fn named(name: &str) -> PyResult<Self> {
        match name {
            "raw" => Ok(Self::Raw),
            "preprocessed" => Ok(Self::Preprocessed),
            "levels" => Ok(Self::Levels),
            _ => {
                let text = format!("units is {name:?}, expected one of raw, preprocessed, levels");
                Err(PyValueError::new_err(text))
            }
        }
    }
}

/// A Python function as an endpoint.
struct Function {
    function: Py<PyAny>,
    units: Units,
    kind: ScoreKind,
    preprocessing: Preprocessing,
    grid: InputGrid,
    shape: Vec<usize>,
    n_classes: usize,
    /// What the function raised; ends the audit.
    raised: Option<PyErr>,
}

impl Function {
    /// Samples as the function takes them.
    #[expect(
        clippy::cast_precision_loss,
        clippy::cast_possible_truncation,
        reason = "levels are below 2^16, and raw values were read in single precision"
    )]
    fn samples(&self, inputs: &Array2<f32>) -> Array2<f32> {
        let mut samples = inputs.clone();
        for ((_, feature), value) in samples.indexed_iter_mut() {
            *value = match self.units {
                Units::Preprocessed => *value,
                Units::Raw => self.preprocessing.raw(feature, *value) as f32,
                Units::Levels => self.grid.level(feature, f64::from(*value)) as f32,
            };
        }
        samples
    }

    fn ask(&self, py: Python<'_>, inputs: &Array2<f32>) -> PyResult<Answers> {
        let shape: Vec<usize> =
            std::iter::once(inputs.nrows()).chain(self.shape.iter().copied()).collect();
        let samples = self.samples(inputs).into_pyarray(py);
        let samples = samples.call_method1("reshape", (shape,))?;
        let answers =
            py.import("numpy")?.call_method1("asarray", (self.function.call1(py, (samples,))?,))?;
        let is_integer = matches!(answers.getattr("dtype")?.getattr("kind")?.extract()?, 'i' | 'u');
        let n_axes: usize = answers.getattr("ndim")?.extract()?;
        match (n_axes, is_integer) {
            (1, true) => arrays::labels(&answers).map(Answers::Labels),
            (2, true) => {
                let scores: PyReadonlyArray2<'_, i64> =
                    answers.call_method1("astype", ("int64",))?.extract()?;
                Ok(Answers::Integers(scores.as_array().to_owned()))
            }
            (2, false) => {
                let scores: PyReadonlyArray2<'_, f64> =
                    answers.call_method1("astype", ("float64",))?.extract()?;
                Ok(Answers::Scores { values: scores.as_array().to_owned(), kind: self.kind })
            }
            _ => Err(PyValueError::new_err(
                "a function answers with one label per sample, or one row of scores",
            )),
        }
    }
}

impl Endpoint for Function {
    fn n_classes(&self) -> usize {
        self.n_classes
    }

    fn n_features(&self) -> usize {
        self.shape.iter().product()
    }

    fn grid(&self) -> Option<&InputGrid> {
        Some(&self.grid)
    }

    fn query(&mut self, inputs: &Array2<f32>) -> Result<Answers, EndpointError> {
        check_width(inputs, self.n_features())?;
        let asked = check_signals().and_then(|()| Python::attach(|py| self.ask(py, inputs)));
        let answers = match asked {
            Ok(answers) => answers,
            Err(error) => {
                let text = error.to_string();
                self.raised = Some(error);
                return Err(EndpointError::Other(text.into()));
            }
        };
        let width = match &answers {
            Answers::Scores { values, .. } => values.ncols(),
            Answers::Integers(values) => values.ncols(),
            Answers::Labels(_) | Answers::Ranked(_) => self.n_classes,
        };
        if width == self.n_classes {
            return Ok(answers);
        }
        let (expected, actual) = (self.n_classes, width);
        Err(EndpointError::Malformed {
            problem: format!("{actual} scores per sample, not {expected}"),
        })
    }
}
