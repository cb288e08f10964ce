//! Models: networks trained here or elsewhere.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use nn_poly::import::{InputScale, ModelOptions, ReadOptions, read_network};
use nn_poly::network::predictions;
use nn_poly::quantize::check_form;
use nn_poly::{Predictor, Shape};
use numpy::{IntoPyArray, PyArray1, PyArray2};
use pyo3::prelude::*;

use crate::arrays;
use crate::failure::Outcome;
use crate::waiting::interruptible;

/// Limit of standardized features, in standard deviations, as on the command line.
const CLIP: f32 = 3.0;
/// Longest name that is made of a file's.
const NAME_CHARS: usize = 40;

/// A trained network with its preprocessing and classes.
///
/// Models come from files of the command line (`load`), from ONNX (`from_onnx`) or from a description of the
/// layers beside a file of weights (`from_description`).
#[pyclass(frozen, module = "securedl")]
pub(crate) struct Model {
    pub(crate) inner: Arc<nn_poly::model::Model>,
}

impl Model {
    fn read(
        path: &Path,
        options: ModelOptions,
        output: Option<String>,
    ) -> Outcome<nn_poly::model::Model> {
        let reading = ReadOptions { output, input_shape: options.input_shape.clone() };
        let model = read_network(path, &reading)?.into_model(options)?;
        check_form(model.network())?;
        Ok(model)
    }
}

/// What the keyword arguments of an import say.
fn options(
    path: &Path,
    name: Option<String>,
    labels: Option<Vec<String>>,
    input_scale: Option<&str>,
    input_shape: Option<Vec<usize>>,
    clip: f32,
) -> Outcome<ModelOptions> {
    let stem = || {
        path.file_stem().unwrap_or_default().to_string_lossy().chars().take(NAME_CHARS).collect()
    };
    Ok(ModelOptions {
        name: name.unwrap_or_else(stem),
        labels,
        input_scale: input_scale.map(str::parse::<InputScale>).transpose()?,
        clip,
        input_shape: input_shape.map(Shape::new).transpose()?,
    })
}

#[pymethods]
impl Model {
    /// Read a model file, as `securedl train` and `securedl import` write it.
    #[staticmethod]
    fn load(py: Python<'_>, path: PathBuf) -> Outcome<Self> {
        let model = py.detach(|| nn_poly::model::Model::load(&path))?;
        Ok(Self { inner: Arc::new(model) })
    }

    /// Read a network from an ONNX file.
    ///
    /// `labels` names the classes; without it they are numbered. `input_scale` says how features were scaled
    /// before training: `unit`, `bytes`, `raw:LIMIT` or `MEAN/DEVIATION`, as for `securedl import`.
    #[staticmethod]
    #[pyo3(signature = (path, labels=None, *, name=None, input_scale=None, input_shape=None, clip=CLIP, output=None))]
    #[expect(clippy::too_many_arguments, reason = "keyword arguments of Python")]
    fn from_onnx(
        py: Python<'_>,
        path: PathBuf,
        labels: Option<Vec<String>>,
        name: Option<String>,
        input_scale: Option<&str>,
        input_shape: Option<Vec<usize>>,
        clip: f32,
        output: Option<String>,
    ) -> Outcome<Self> {
        let options = options(&path, name, labels, input_scale, input_shape, clip)?;
        let inner = interruptible(py, move || Self::read(&path, options, output))?;
        Ok(Self { inner: Arc::new(inner) })
    }

    /// Read a network from a description of its layers (TOML) beside a file of weights (safetensors or NPZ).
    #[staticmethod]
    #[pyo3(signature = (path, labels=None, *, name=None, input_scale=None, input_shape=None, clip=CLIP))]
    fn from_description(
        py: Python<'_>,
        path: PathBuf,
        labels: Option<Vec<String>>,
        name: Option<String>,
        input_scale: Option<&str>,
        input_shape: Option<Vec<usize>>,
        clip: f32,
    ) -> Outcome<Self> {
        let options = options(&path, name, labels, input_scale, input_shape, clip)?;
        let inner = interruptible(py, move || Self::read(&path, options, None))?;
        Ok(Self { inner: Arc::new(inner) })
    }

    /// Write the model to a file, completely or not at all.
    fn save(&self, py: Python<'_>, path: PathBuf) -> Outcome<()> {
        Ok(py.detach(|| self.inner.save(&path))?)
    }

    /// The scores of raw samples, `(samples, classes)`, in floating point.
    fn scores<'py>(
        &self,
        py: Python<'py>,
        samples: &Bound<'py, PyAny>,
    ) -> Outcome<Bound<'py, PyArray2<f64>>> {
        let features = arrays::features(samples)?;
        Ok(py.detach(|| self.inner.scores(&features))?.into_pyarray(py))
    }

    /// The class of every raw sample, in floating point.
    fn predict<'py>(
        &self,
        py: Python<'py>,
        samples: &Bound<'py, PyAny>,
    ) -> Outcome<Bound<'py, PyArray1<i64>>> {
        let features = arrays::features(samples)?;
        let scores = py.detach(|| self.inner.scores(&features))?;
        let classes =
            predictions(&scores).into_iter().filter_map(|class| i64::try_from(class).ok());
        Ok(classes.collect::<Vec<_>>().into_pyarray(py))
    }

    /// Its name.
    #[getter]
    fn name(&self) -> &str {
        &self.inner.spec().name
    }

    /// Shape of one sample: images with their channels last.
    #[getter]
    fn input_shape(&self) -> Vec<usize> {
        self.inner.network().input_shape().dims().to_vec()
    }

    /// One name per class.
    #[getter]
    fn class_names(&self) -> Vec<String> {
        self.inner.spec().class_names.clone()
    }

    /// Its layers, in order.
    #[getter]
    fn layers(&self) -> Vec<&'static str> {
        self.inner.network().layers().iter().map(nn_poly::layer::Layer::name).collect()
    }

    /// Number of trained numbers.
    #[getter]
    fn n_parameters(&self) -> usize {
        self.inner.network().n_parameters()
    }

    fn __repr__(&self) -> String {
        let spec = self.inner.spec();
        let (shape, n_classes) = (spec.network.input_shape(), spec.class_names.len());
        format!("Model({:?}, input {shape}, {n_classes} classes)", spec.name)
    }
}
