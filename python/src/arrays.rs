//! NumPy arrays in and out.
//!
//! Samples come as one row each. What is computed goes out without a copy: the array owns the memory it was
//! computed in.

use ndarray::Array2;
use nn_poly::integer::{IntegerMatrix, ScoreMatrix};
use numpy::{Element, IntoPyArray, PyArray1, PyArray2, PyReadonlyArray1, PyReadonlyArray2};
use pyo3::exceptions::PyValueError;
use pyo3::prelude::*;
use pyo3::types::PyDict;

/// Raw features as `samples × features`. Samples of more than one axis are read in C order: images with
/// their channels last.
pub(crate) fn features(samples: &Bound<'_, PyAny>) -> PyResult<Array2<f32>> {
    let rows: PyReadonlyArray2<'_, f32> = rows(samples, "float32")?.extract()?;
    Ok(rows.as_array().as_standard_layout().into_owned())
}

/// Integers of a plan's input grid, `samples × features`, as the crates below take them: one column per
/// sample.
pub(crate) fn inputs(samples: &Bound<'_, PyAny>) -> PyResult<IntegerMatrix> {
    let rows: PyReadonlyArray2<'_, i32> = rows(samples, "int32")?.extract()?;
    Ok(rows.as_array().reversed_axes().as_standard_layout().into_owned())
}

/// Labels, one per sample.
pub(crate) fn labels(labels: &Bound<'_, PyAny>) -> PyResult<Vec<u32>> {
    let array: PyReadonlyArray1<'_, i64> = converted(labels, "int64")?.extract()?;
    let label = |&label: &i64| {
        u32::try_from(label).map_err(|_| PyValueError::new_err(format!("{label} is no label")))
    };
    array.as_array().iter().map(label).collect()
}

/// An array of at least two axes as one of two.
fn rows<'py>(samples: &Bound<'py, PyAny>, dtype: &str) -> PyResult<Bound<'py, PyAny>> {
    let array = converted(samples, dtype)?;
    let shape: Vec<usize> = array.getattr("shape")?.extract()?;
    match shape.split_first() {
        Some((_, [_])) => Ok(array),
        Some((&n_samples, axes @ [_, ..])) => {
            array.call_method1("reshape", (n_samples, axes.iter().product::<usize>()))
        }
        _ => {
            let text =
                "samples are rows: give an array of two or more axes, such as x[None] for one";
            Err(PyValueError::new_err(text))
        }
    }
}

fn converted<'py>(values: &Bound<'py, PyAny>, dtype: &str) -> PyResult<Bound<'py, PyAny>> {
    let options = PyDict::new(values.py());
    options.set_item("dtype", dtype)?;
    values.py().import("numpy")?.call_method("asarray", (values,), Some(&options))
}

/// Bytes that Python holds: `bytes`, an array of them, or anything else that lends its memory.
pub(crate) struct Lent<'py>(PyReadonlyArray1<'py, u8>);

impl<'py> Lent<'py> {
    pub(crate) fn new(bytes: &Bound<'py, PyAny>) -> PyResult<Self> {
        let numpy = bytes.py().import("numpy")?;
        let array = numpy.call_method1("frombuffer", (bytes, "uint8"))?;
        Ok(Self(array.extract()?))
    }

    pub(crate) fn as_slice(&self) -> PyResult<&[u8]> {
        Ok(self.0.as_slice()?)
    }
}

/// One row per sample, of a matrix with one column each.
pub(crate) fn by_sample<T: Element>(py: Python<'_>, matrix: Array2<T>) -> Py<PyArray2<T>> {
    matrix.reversed_axes().into_pyarray(py).unbind()
}

/// The class with the largest score of every sample; the first one of several.
pub(crate) fn best_classes(scores: &ScoreMatrix) -> Vec<i64> {
    let best = |column: ndarray::ArrayView1<'_, i64>| {
        let first = (0_i64, i64::MIN);
        let better = |best: (i64, i64), (class, &score): (i64, &i64)| {
            if score > best.1 { (class, score) } else { best }
        };
        (0..).zip(column).fold(first, better).0
    };
    scores.columns().into_iter().map(best).collect()
}

/// A list of numbers as an array.
pub(crate) fn column<T: Element>(py: Python<'_>, values: Vec<T>) -> Py<PyArray1<T>> {
    values.into_pyarray(py).unbind()
}
