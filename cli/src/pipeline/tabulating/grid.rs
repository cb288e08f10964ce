//! Features of a table as an image, and images in fewer pixels.

use anyhow::{Result, bail};
use ndarray::{Array2, Axis};
use nn_poly::import::Dataset;
use nn_poly::tensor::Shape;

/// Lay the features of every sample on the middle of a square of zeros, row by row, in a block that is
/// as square as can be.
///
/// The paper classifies tables with a network of convolutions and does not say how features become
/// pixels; this is the natural way. Every cell of the grid is encrypted, the zeros too.
///
/// # Errors
/// More features than the grid has cells.
pub(super) fn on_grid(data: &Dataset, side: usize) -> Result<Dataset> {
    let features = data.features();
    let n_features = features.ncols();
    let width = (1..).find(|width| width * width >= n_features).unwrap_or(1);
    if width > side {
        bail!("{n_features} features of {} do not fit {side} × {side} cells", data.source());
    }
    let height = n_features.div_ceil(width);
    let (top, left) = ((side - height) / 2, (side - width) / 2);
    let mut cells = Array2::zeros((features.nrows(), side * side));
    for (feature, column) in features.axis_iter(Axis(1)).enumerate() {
        let cell = (top + feature / width) * side + left + feature % width;
        cells.column_mut(cell).assign(&column);
    }
    with_features(data, Shape::image(side, side, 1)?, cells)
}

/// Replace every square of `factor × factor` pixels by its mean; what is left over at the right and at
/// the bottom is cut off.
///
/// # Errors
/// Samples that are no images, or smaller than a square.
pub(super) fn coarse(data: &Dataset, factor: usize) -> Result<Dataset> {
    let &[height, width, channels] = data.shape().dims() else {
        bail!("the samples of {} are no images", data.source());
    };
    let shape = Shape::image(height / factor, width / factor, channels)?;
    let (rows, columns) = (height / factor * factor, width / factor * factor);
    let mut means = Array2::zeros((data.n_samples(), shape.len()));
    #[expect(clippy::cast_precision_loss, reason = "a few pixels")]
    let share = ((factor * factor) as f32).recip();
    for (y, x) in (0..rows).flat_map(|y| (0..columns).map(move |x| (y, x))) {
        for channel in 0..channels {
            let pixel = data.features().column((y * width + x) * channels + channel);
            let place = (y / factor * (width / factor) + x / factor) * channels + channel;
            means.column_mut(place).scaled_add(share, &pixel);
        }
    }
    with_features(data, shape, means)
}

/// The same samples with other features.
fn with_features(data: &Dataset, shape: Shape, features: Array2<f32>) -> Result<Dataset> {
    let labels = data.labels().map(<[u32]>::to_vec);
    let (names, source) = (data.class_names().to_vec(), data.source().to_owned());
    Ok(Dataset::new(shape, features, labels, names, source)?)
}

#[cfg(test)]
mod tests {
    use ndarray::array;

    use super::*;

    #[test]
    fn features_lie_in_the_middle_in_their_order() {
        let features = array![[1.0, 2.0, 3.0, 4.0, 5.0], [6.0, 7.0, 8.0, 9.0, 10.0]];
        let shape = Shape::vector(5).unwrap();
        let names = vec!["a".to_owned(), "b".to_owned()];
        let data = Dataset::new(shape, features, Some(vec![0, 1]), names, "t".to_owned()).unwrap();
        let grid = on_grid(&data, 5).unwrap();
        assert_eq!(grid.shape().dims(), [5, 5, 1]);
        let image = grid.features().row(0).to_vec();
        let mut expected = vec![0.0; 25];
        for (cell, value) in [(6, 1.0), (7, 2.0), (8, 3.0), (11, 4.0), (12, 5.0)] {
            expected[cell] = value;
        }
        assert_eq!(image, expected);
        assert_eq!((grid.labels(), grid.class_names()), (data.labels(), data.class_names()));
        assert!(on_grid(&data, 2).unwrap_err().to_string().contains("5 features of t"));
    }

    #[test]
    fn coarse_pixels_are_means_and_edges_are_cut() {
        let image: Vec<f32> = (0..15).map(|i: u8| f32::from(i)).collect();
        let features = Array2::from_shape_vec((1, 15), image).unwrap();
        let shape = Shape::image(3, 5, 1).unwrap();
        let data = Dataset::new(shape, features, None, vec![], "t".to_owned()).unwrap();
        let small = coarse(&data, 2).unwrap();
        assert_eq!(small.shape().dims(), [1, 2, 1]);
        assert_eq!(small.features(), array![[3.0, 5.0]]);
        assert!(coarse(&data, 4).is_err());
    }
}
