//! Data sets that need not fit in memory.

use std::path::PathBuf;
use std::sync::{Mutex, MutexGuard, PoisonError};

use nn_poly::import::{DataOptions, SampleStream, Split, resolve_data_path};
use numpy::{IntoPyArray, PyArray1, PyArray2};
use pyo3::exceptions::PyValueError;
use pyo3::prelude::*;

use crate::arrays;
use crate::failure::Outcome;
use crate::plan::Plan;

/// The samples of a data set in their order, a few at a time, in bounded memory.
///
/// Reads what the command line reads: tables, folders of images, NumPy files, IDX and so on, or a name in the
/// data folder. `split` is `train`, `test` or `all`.
#[pyclass(frozen, module = "securedl")]
pub(crate) struct Samples {
    stream: Mutex<SampleStream>,
    n_samples: usize,
}

impl Samples {
    /// A panic while it was held leaves it usable.
    fn stream(&self) -> MutexGuard<'_, SampleStream> {
        self.stream.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[pymethods]
impl Samples {
    #[new]
    #[pyo3(signature = (data, plan, *, split="test", label_column=None, n_samples=None))]
    fn new(
        py: Python<'_>,
        data: PathBuf,
        plan: &Plan,
        split: &str,
        label_column: Option<String>,
        n_samples: Option<usize>,
    ) -> Outcome<Self> {
        let split = match split {
            "train" => Split::Train,
            "test" => Split::Test,
            "all" => Split::All,
            _ => {
                let text = format!("split is {split:?}, expected one of train, test, all");
                return Err(PyValueError::new_err(text).into());
            }
        };
        let public = plan.inner.public();
        let stream = py.detach(|| -> Outcome<_> {
            let path = resolve_data_path(&data.to_string_lossy())?;
            let options = DataOptions { label_column };
            let stream =
                SampleStream::open(&path, split, &public.split, &options, &public.input_shape)?;
            Ok(stream.take(n_samples.unwrap_or(usize::MAX))?.with_classes(&public.class_names)?)
        })?;
        Ok(Self { n_samples: stream.n_samples(), stream: Mutex::new(stream) })
    }

    /// The next samples, at most `max_samples`; None at the end.
    fn next(&self, py: Python<'_>, max_samples: usize) -> Outcome<Option<Py<PyArray2<f32>>>> {
        let features = py.detach(|| self.stream().next_features(max_samples))?;
        Ok(features.map(|rows| rows.into_pyarray(py).unbind()))
    }

    /// The samples at these positions, whatever was taken.
    fn select(&self, py: Python<'_>, positions: Vec<usize>) -> Outcome<Py<PyArray2<f32>>> {
        let features = py.detach(|| self.stream().select(&positions))?;
        Ok(features.into_pyarray(py).unbind())
    }

    /// The label of every sample, if the data have labels.
    #[getter]
    fn labels(&self, py: Python<'_>) -> Option<Py<PyArray1<i64>>> {
        let stream = self.stream();
        let labels = stream.labels()?.iter().map(|&label| i64::from(label)).collect();
        Some(arrays::column(py, labels))
    }

    fn __len__(&self) -> usize {
        self.n_samples
    }

    fn __repr__(&self) -> String {
        format!("Samples({})", self.n_samples)
    }
}
