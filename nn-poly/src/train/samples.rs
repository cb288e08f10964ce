//! Network inputs with labels.

use ndarray::Array2;

use crate::error::{Error, Result};
use crate::import::check_labels;
use crate::tensor::{Shape, check_finite};

/// Preprocessed inputs with one label each.
///
/// Invariants: at least one sample; inputs finite and in standard layout; labels below `n_classes`.
#[derive(Clone, Debug, PartialEq)]
pub struct LabeledSamples {
    shape: Shape,
    inputs: Array2<f32>,
    labels: Vec<u32>,
    n_classes: usize,
}

impl LabeledSamples {
    /// Check and keep `inputs` (one row per sample) and `labels`.
    ///
    /// # Errors
    /// - [`Error::NoSamples`] if there is no row.
    /// - [`Error::ShapeMismatch`] if rows do not have the shape, or labels are not one per row.
    /// - [`Error::NonFiniteInput`] if a value is NaN or infinite.
    /// - [`Error::InvalidLabel`] if a label is not below `n_classes`.
    pub fn new(
        shape: Shape,
        inputs: Array2<f32>,
        labels: Vec<u32>,
        n_classes: usize,
    ) -> Result<Self> {
        if inputs.nrows() == 0 {
            return Err(Error::NoSamples { what: "the labeled samples" });
        }
        if inputs.ncols() != shape.len() {
            let (expected, actual) = (shape.dims().to_vec(), vec![inputs.ncols()]);
            return Err(Error::ShapeMismatch { what: "a row of inputs", expected, actual });
        }
        if labels.len() != inputs.nrows() {
            let (expected, actual) = (vec![inputs.nrows()], vec![labels.len()]);
            return Err(Error::ShapeMismatch { what: "labels", expected, actual });
        }
        check_finite("inputs", inputs.view())?;
        check_labels(&labels, n_classes)?;
        let inputs = if inputs.is_standard_layout() {
            inputs
        } else {
            inputs.as_standard_layout().into_owned()
        };
        Ok(Self { shape, inputs, labels, n_classes })
    }

    /// Shape of one sample.
    #[must_use]
    pub fn shape(&self) -> &Shape {
        &self.shape
    }

    /// The inputs, one row per sample.
    #[must_use]
    pub fn inputs(&self) -> &Array2<f32> {
        &self.inputs
    }

    /// The labels, one per sample.
    #[must_use]
    pub fn labels(&self) -> &[u32] {
        &self.labels
    }

    /// Number of classes.
    #[must_use]
    pub fn n_classes(&self) -> usize {
        self.n_classes
    }

    /// Number of samples.
    #[must_use]
    pub fn n_samples(&self) -> usize {
        self.labels.len()
    }

    /// BLAKE3 digest of shape, inputs and labels: whether two runs see the same data.
    #[must_use]
    pub fn digest(&self) -> [u8; 32] {
        let mut hasher = blake3::Hasher::new();
        let counts = [self.n_classes, self.labels.len()];
        for &number in self.shape.dims().iter().chain(&counts) {
            hasher.update(&(number as u64).to_le_bytes());
        }
        let mut buffer = Vec::new();
        for row in self.inputs.rows() {
            buffer.clear();
            buffer.extend(row.iter().flat_map(|value| value.to_le_bytes()));
            hasher.update(&buffer);
        }
        for label in &self.labels {
            hasher.update(&label.to_le_bytes());
        }
        hasher.finalize().into()
    }
}
