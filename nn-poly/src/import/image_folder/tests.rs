#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "tests")]

use image::{GrayImage, ImageBuffer, Luma, LumaA, Rgb, RgbImage, Rgba};
use proptest::prelude::*;

use super::*;

fn png(image: impl Into<DynamicImage>) -> Vec<u8> {
    encode(image, ImageFormat::Png)
}

fn encode(image: impl Into<DynamicImage>, format: ImageFormat) -> Vec<u8> {
    let mut bytes = Cursor::new(Vec::new());
    image.into().write_to(&mut bytes, format).unwrap();
    bytes.into_inner()
}

/// Every byte occurs.
fn gray() -> GrayImage {
    GrayImage::from_fn(16, 16, |x, y| Luma([u8::try_from(x + 16 * y).unwrap()]))
}

#[test]
fn pixels_are_bytes_over_255_in_rows_with_channels_last() {
    let image = decode_bytes(&png(gray()), None).unwrap();
    assert_eq!((image.size, image.n_channels), ((16, 16), 1));
    for (byte, value) in (0..=255_u8).zip(image.values) {
        assert_eq!(value, f32::from(byte) / 255.0);
    }
    let color = RgbImage::from_fn(3, 2, |x, y| Rgb([x, y, 200].map(|v| u8::try_from(v).unwrap())));
    let image = decode_bytes(&png(color), Some((2, 3))).unwrap();
    let pixel = |values: &[f32]| values.iter().map(|v| v * 255.0).collect::<Vec<_>>();
    assert_eq!((image.size, image.n_channels), ((2, 3), 3));
    assert_eq!(pixel(&image.values[3 * (3 + 2)..]), [2.0, 1.0, 200.0]);
}

#[test]
fn sixteen_bits_keep_their_precision() {
    let deep = ImageBuffer::<Luma<u16>, _>::from_pixel(1, 1, Luma([257 * 7 + 1]));
    let image = decode_bytes(&png(deep), None).unwrap();
    assert_eq!(image.values, [1800.0 / 65535.0]);
}

#[test]
fn only_opaque_alpha_channels_are_dropped() {
    let with = |alpha| {
        png(ImageBuffer::<Rgba<u8>, _>::from_fn(2, 1, |x, _| {
            Rgba([51, 0, 0, if x == 0 { 255 } else { alpha }])
        }))
    };
    let image = decode_bytes(&with(255), None).unwrap();
    assert_eq!(image.values, [0.2, 0.0, 0.0, 0.2, 0.0, 0.0]);
    let error = decode_bytes(&with(254), None).unwrap_err().to_string();
    assert!(error.contains("transparent pixels; flatten it"), "{error}");
    let gray = ImageBuffer::<LumaA<u8>, _>::from_pixel(1, 1, LumaA([51, 255]));
    assert_eq!(decode_bytes(&png(gray), None).unwrap().values, [0.2]);
}

#[test]
fn jpeg_is_read_within_its_loss() {
    let flat = RgbImage::from_pixel(8, 8, Rgb([200, 100, 50]));
    let image = decode_bytes(&encode(flat, ImageFormat::Jpeg), None).unwrap();
    assert_eq!((image.size, image.n_channels), ((8, 8), 3));
    for (&value, expected) in image.values.iter().zip([200.0, 100.0, 50.0].iter().cycle()) {
        assert!((value * 255.0 - expected).abs() < 6.0, "{value}");
    }
}

#[test]
fn a_gray_image_among_colored_ones_gets_three_channels() {
    let flat =
        |values: &[f32], n_channels| Image { size: (1, 1), n_channels, values: values.to_vec() };
    let mut pixels = Pixels::new((1, 1), 3).unwrap();
    pixels.push(flat(&[0.5], 1)).unwrap();
    pixels.push(flat(&[0.1, 0.2, 0.3], 3)).unwrap();
    pixels.push(flat(&[0.7], 1)).unwrap();
    assert_eq!(pixels.n_channels, 3);
    assert_eq!(pixels.values, [0.5, 0.5, 0.5, 0.1, 0.2, 0.3, 0.7, 0.7, 0.7]);
}

#[test]
fn too_many_pixels_are_refused_before_they_are_allocated() {
    let error = Pixels::new((4096, 4096), 33).err().unwrap();
    assert!(matches!(error, Error::TooLarge { what: "number of pixel values", .. }));
    // The header of a PNG that claims 2^31 − 1 columns and rows of 16-bit RGBA.
    let mut bytes = png(gray());
    bytes[16..24].copy_from_slice(&[0x7f, 0xff, 0xff, 0xff, 0x7f, 0xff, 0xff, 0xff]);
    bytes[24..26].copy_from_slice(&[16, 6]);
    let mut crc = flate2::Crc::new();
    crc.update(&bytes[12..29]);
    bytes[29..33].copy_from_slice(&crc.sum().to_be_bytes());
    assert!(decode_bytes(&bytes, None).is_err());
    let error = decode_bytes(&bytes, Some((16, 16))).unwrap_err();
    assert!(matches!(error, Error::ImageSize { .. } | Error::Decode { .. }), "{error}");
}

#[test]
fn other_formats_and_sizes_are_named() {
    let error = decode_bytes(b"GIF89a........", None).unwrap_err().to_string();
    assert!(error.contains("neither PNG nor JPEG"), "{error}");
    let error = decode_bytes(&png(gray()), Some((16, 15))).unwrap_err().to_string();
    let expected = "the image has 16 by 16 pixels, others of this data set 16 by 15; \
                    bring all to one size first";
    assert_eq!(error, expected);
}

proptest! {
    #[test]
    fn mutated_images_never_panic(
        is_jpeg in any::<bool>(),
        changes in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..5),
        cut in prop::option::of(any::<prop::sample::Index>()),
    ) {
        let mut bytes = encode(gray(), if is_jpeg { ImageFormat::Jpeg } else { ImageFormat::Png });
        for (position, value) in changes {
            let position = position.index(bytes.len());
            bytes[position] = value;
        }
        if let Some(cut) = cut {
            bytes.truncate(cut.index(bytes.len()));
        }
        if let Ok(image) = decode_bytes(&bytes, Some((16, 16))) {
            prop_assert_eq!(image.values.len(), 256 * image.n_channels);
            prop_assert!(image.values.iter().all(|v| (0.0..=1.0).contains(v)));
        }
    }
}
