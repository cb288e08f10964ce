//! Features of a table as an image.

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
    Ok(Dataset::new(
        Shape::image(side, side, 1)?,
        cells,
        data.labels().map(<[u32]>::to_vec),
        data.class_names().to_vec(),
        data.source().to_owned(),
    )?)
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
}
