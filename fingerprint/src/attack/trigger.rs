//! The mark that wakes a trojan.

use ndarray::{Array2, ArrayViewMut1};
use nn_poly::Shape;
use nn_poly::train::LabeledSamples;

/// Features that are set to fixed values.
///
/// On an image: a bright square near the lower right corner, 3 pixels wide for images of 28 pixels
/// and in proportion for others. On a table: the last sixth of the features at their largest values.
#[derive(Clone, Debug, PartialEq)]
pub struct Trigger {
    /// Feature and value.
    marks: Vec<(usize, f32)>,
}

/// Width of the square on an image of [`REFERENCE_SIDE`] pixels.
const REFERENCE_WIDTH: usize = 3;
/// The image size of the trigger's usual width.
const REFERENCE_SIDE: usize = 28;

impl Trigger {
    /// The trigger for samples like these, seen as `image_shape`. Its values occur in the samples, so
    /// a triggered input is one an endpoint accepts.
    #[must_use]
    pub fn new(samples: &LabeledSamples, image_shape: &Shape) -> Self {
        let inputs = samples.inputs();
        let marks = match image_shape.as_image() {
            Some(image) => square(inputs, image),
            None => {
                let n_features = inputs.ncols();
                let n_marked = n_features.div_ceil(6);
                (n_features - n_marked..n_features)
                    .map(|feature| (feature, largest(inputs.column(feature))))
                    .collect()
            }
        };
        Self { marks }
    }

    /// Features and the values they get.
    #[must_use]
    pub fn marks(&self) -> &[(usize, f32)] {
        &self.marks
    }

    /// Put the trigger on one input.
    pub fn stamp(&self, mut input: ArrayViewMut1<'_, f32>) {
        for &(feature, value) in &self.marks {
            if let Some(target) = input.get_mut(feature) {
                *target = value;
            }
        }
    }

    /// The inputs with the trigger.
    #[must_use]
    pub fn stamped(&self, inputs: &Array2<f32>) -> Array2<f32> {
        let mut inputs = inputs.clone();
        inputs.rows_mut().into_iter().for_each(|row| self.stamp(row));
        inputs
    }
}

fn square(
    inputs: &Array2<f32>,
    (height, width, channels): (usize, usize, usize),
) -> Vec<(usize, f32)> {
    let extent = height.min(width);
    let side = (REFERENCE_WIDTH * extent + REFERENCE_SIDE / 2) / REFERENCE_SIDE;
    let side = side.clamp(1, extent);
    let start = |extent: usize| extent - side - usize::from(extent > side);
    // The border of an image is often black in every sample, so the brightest pixel anywhere counts.
    let brightest: Vec<f32> = (0..channels)
        .map(|channel| largest(inputs.iter().skip(channel).step_by(channels)))
        .collect();
    let (top, left) = (start(height), start(width));
    let mut marks = Vec::with_capacity(side * side * channels);
    for row in top..top + side {
        for column in left..left + side {
            for (channel, &value) in brightest.iter().enumerate() {
                marks.push(((row * width + column) * channels + channel, value));
            }
        }
    }
    marks
}

fn largest<'a>(values: impl IntoIterator<Item = &'a f32>) -> f32 {
    values.into_iter().copied().fold(f32::NEG_INFINITY, f32::max)
}

#[cfg(test)]
mod tests {
    use ndarray::Array2;

    use super::*;

    fn trigger(shape: Shape) -> Trigger {
        let n = shape.len();
        #[expect(clippy::cast_precision_loss, reason = "small")]
        let inputs = Array2::from_shape_fn((2, n), |(sample, feature)| {
            if sample == 0 { (feature % shape.channels()) as f32 + 1.0 } else { 0.0 }
        });
        let samples = LabeledSamples::new(shape.clone(), inputs, vec![0, 1], 2).unwrap();
        Trigger::new(&samples, &shape)
    }

    #[test]
    fn it_is_a_square_of_three_pixels_in_the_corner() {
        let trigger = trigger(Shape::image(28, 28, 1).unwrap());
        let places: Vec<usize> = trigger.marks().iter().map(|mark| mark.0).collect();
        let row = |row: usize| (24..27).map(move |column| row * 28 + column);
        assert_eq!(places, (24..27).flat_map(row).collect::<Vec<_>>());
        assert!(trigger.marks().iter().all(|mark| mark.1 == 1.0));
    }

    #[test]
    fn it_grows_with_the_image_and_uses_the_brightest_color() {
        for (side, expected) in [(1, 1), (4, 1), (12, 1), (32, 3), (64, 7), (224, 24)] {
            let trigger = trigger(Shape::image(side, side, 3).unwrap());
            assert_eq!(trigger.marks().len(), expected * expected * 3, "{side}");
            assert!(trigger.marks().iter().all(|&(place, value)| {
                place < side * side * 3
                    && value == f32::from(u8::try_from(place % 3).unwrap()) + 1.0
            }));
        }
    }

    #[test]
    fn it_marks_a_sixth_of_a_table() {
        let trigger = trigger(Shape::vector(13).unwrap());
        assert_eq!(trigger.marks().iter().map(|mark| mark.0).collect::<Vec<_>>(), [10, 11, 12]);
        let stamped = trigger.stamped(&Array2::from_elem((1, 13), 9.0));
        assert_eq!(stamped.iter().filter(|v| **v == 9.0).count(), 10);
    }
}
