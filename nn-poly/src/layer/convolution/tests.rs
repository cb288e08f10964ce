#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "tests")]
use ndarray::{Array1, Array4};
use proptest::prelude::*;

use super::*;

/// The definition in the documentation of [`Conv2d`], term by term.
fn reference(input: &Shape, conv: &Conv2d<f64>, image: &[f64]) -> Vec<f64> {
    let (height, width, channels) = input.as_image().unwrap();
    let shape = ConvShape::new(input, conv).unwrap();
    let (out_c, kernel_h, kernel_w, _) = conv.weights.dim();
    let mut output = Vec::new();
    for (i, j, o) in ndarray::indices((shape.out_h, shape.out_w, out_c)) {
        let mut sum = conv.bias[o];
        for (u, v, c) in ndarray::indices((kernel_h, kernel_w, channels)) {
            let row = i * conv.stride.0 + u;
            let column = j * conv.stride.1 + v;
            let (top, left) = (conv.padding.top, conv.padding.left);
            let inside =
                (top..top + height).contains(&row) && (left..left + width).contains(&column);
            if inside {
                let offset = ((row - top) * width + column - left) * channels + c;
                sum += conv.weights[[o, u, v, c]] * image[offset];
            }
        }
        output.push(sum);
    }
    output
}

prop_compose! {
    fn any_convolution()(
        (height, width, channels) in (1_usize..8, 1_usize..8, 1_usize..4),
        (out_c, kernel_h, kernel_w) in (1_usize..4, 1_usize..5, 1_usize..5),
        stride in (1_usize..4, 1_usize..4),
        pads in prop::array::uniform4(0_usize..4),
    ) -> Option<(Shape, Conv2d<f64>)> {
        let [top, bottom, left, right] = pads;
        let padding = Padding {
            top: top % kernel_h,
            bottom: bottom % kernel_h,
            left: left % kernel_w,
            right: right % kernel_w,
        };
        // Small integers, so that every order of summation gives the same number.
        let mut next = 0_i32;
        let weights = Array4::from_shape_simple_fn((out_c, kernel_h, kernel_w, channels), || {
            next = (next * 7 + 3) % 11;
            f64::from(next - 5)
        });
        let bias = Array1::from_iter((0..out_c).map(|o| f64::from(u32::try_from(o).unwrap())));
        let conv = Conv2d::new(weights, bias, stride, padding);
        let input = Shape::image(height, width, channels).unwrap();
        conv.output_shape(&input).is_ok().then_some((input, conv))
    }
}

proptest! {
    #[test]
    fn the_matrix_product_equals_the_definition(case in any_convolution(), n_samples in 1_usize..13) {
        let Some((input, conv)) = case else { return Ok(()) };
        let shape = ConvShape::new(&input, &conv).unwrap();
        let images: Vec<f64> =
            (0..n_samples * input.len()).map(|i| f64::from(u32::try_from(i * i % 17).unwrap()) - 8.0).collect();
        let weights =
            conv.weights.view().into_shape_with_order((shape.out_c, shape.patch_len())).unwrap();
        let mut output = vec![0.0; n_samples * shape.out_len()];
        forward(&shape, weights, &conv.bias, &images, &mut output);
        let expected: Vec<f64> =
            images.chunks(input.len()).flat_map(|image| reference(&input, &conv, image)).collect();
        prop_assert_eq!(output, expected);
    }

    /// ⟨scatter(P), X⟩ = ⟨P, gather(X)⟩: the two directions are adjoint, so they visit the same pairs.
    #[test]
    fn scattering_is_the_adjoint_of_gathering(case in any_convolution()) {
        let Some((input, conv)) = case else { return Ok(()) };
        let shape = ConvShape::new(&input, &conv).unwrap();
        let len = shape.positions() * shape.patch_len();
        let image: Vec<f64> = (0..input.len()).map(|i| f64::from(u32::try_from(i % 13).unwrap())).collect();
        let patches: Vec<f64> = (0..len).map(|i| f64::from(u32::try_from(i % 7).unwrap()) - 3.0).collect();
        let mut gathered = vec![0.0; len];
        shape.gather(&image, &mut gathered);
        let mut scattered = vec![0.0; input.len()];
        shape.scatter_add(&patches, &mut scattered);
        let dot = |a: &[f64], b: &[f64]| a.iter().zip(b).map(|(x, y)| x * y).sum::<f64>();
        prop_assert_eq!(dot(&scattered, &image), dot(&patches, &gathered));
    }
}

#[test]
fn impossible_geometry_is_refused() {
    let input = Shape::image(4, 4, 1).unwrap();
    let conv = |kernel, stride, padding| {
        let weights = Array4::<f64>::zeros((1, kernel, kernel, 1));
        Conv2d::new(weights, Array1::zeros(1), (stride, stride), padding).output_shape(&input)
    };
    assert_eq!(conv(3, 1, Padding::NONE), Ok(Shape::image(2, 2, 1).unwrap()));
    assert_eq!(conv(5, 2, Padding::uniform(1)), Ok(Shape::image(1, 1, 1).unwrap()));
    assert!(conv(5, 1, Padding::NONE).is_err());
    assert!(conv(0, 1, Padding::NONE).is_err());
    assert!(conv(3, 0, Padding::NONE).is_err());
    assert!(conv(3, 1, Padding::uniform(3)).is_err());
    let large = Shape::image(4000, 4000, 1).unwrap();
    let weights = Array4::<f32>::zeros((1, 1000, 1000, 1));
    let conv = Conv2d::new(weights, Array1::zeros(1), (1, 1), Padding::NONE);
    assert!(conv.output_shape(&large).is_err(), "its patches would fill the memory");
}
