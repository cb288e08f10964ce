//! Pictures as text for pages: PNG in a `data:` address.

use anyhow::{Context, Result};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use image::{ExtendedColorType, ImageEncoder, codecs::png::PngEncoder};
use serde::Serialize;

/// Width of a picture of bytes, in pixels.
const BYTES_WIDTH: usize = 128;

/// A picture, and what it shows for those who do not see it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(crate) struct Drawing {
    /// `data:image/png;base64,…`.
    pub(crate) source: String,
    pub(crate) width: usize,
    pub(crate) height: usize,
    pub(crate) description: String,
}

impl Drawing {
    /// The picture of a sample with axes `dims` (`[height, width, channels]`, values in `[0, 1]`);
    /// nothing if the sample is no image.
    ///
    /// # Errors
    /// Only broken invariants.
    pub(crate) fn of_sample(
        dims: &[usize],
        features: &[f32],
        description: &str,
    ) -> Result<Option<Self>> {
        let [height, width, channels] = *dims else { return Ok(None) };
        let color = match channels {
            1 => ExtendedColorType::L8,
            3 => ExtendedColorType::Rgb8,
            _ => return Ok(None),
        };
        if features.len() != height * width * channels {
            return Ok(None);
        }
        let pixels: Vec<u8> = features.iter().map(|&value| byte(value)).collect();
        Self::encode(&pixels, (width, height), color, description).map(Some)
    }

    /// Bytes as gray pixels, row by row; nothing if there are too few for a row.
    ///
    /// # Errors
    /// Only broken invariants.
    pub(crate) fn of_bytes(bytes: &[u8], description: &str) -> Result<Option<Self>> {
        let height = bytes.len() / BYTES_WIDTH;
        let Some(pixels) = bytes.get(..height * BYTES_WIDTH).filter(|pixels| !pixels.is_empty())
        else {
            return Ok(None);
        };
        Self::encode(pixels, (BYTES_WIDTH, height), ExtendedColorType::L8, description).map(Some)
    }

    fn encode(
        pixels: &[u8],
        (width, height): (usize, usize),
        color: ExtendedColorType,
        description: &str,
    ) -> Result<Self> {
        let mut png = Vec::new();
        PngEncoder::new(&mut png)
            .write_image(pixels, u32::try_from(width)?, u32::try_from(height)?, color)
            .context("a picture cannot be encoded")?;
        let source = format!("data:image/png;base64,{}", STANDARD.encode(&png));
        Ok(Self { source, width, height, description: description.to_owned() })
    }
}

#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "clamped to the range of a byte just before"
)]
fn byte(value: f32) -> u8 {
    (value.clamp(0.0, 1.0) * 255.0).round() as u8
}

#[cfg(test)]
mod tests {
    use super::*;

    fn decoded(drawing: &Drawing) -> image::DynamicImage {
        let text = drawing.source.strip_prefix("data:image/png;base64,").unwrap();
        image::load_from_memory(&STANDARD.decode(text).unwrap()).unwrap()
    }

    #[test]
    fn pictures_hold_what_they_are_made_of() {
        let sample = [0.0, 1.0, 0.5, 2.0, -1.0, 0.2];
        let drawing = Drawing::of_sample(&[2, 3, 1], &sample, "a digit").unwrap().unwrap();
        assert_eq!(decoded(&drawing).into_luma8().into_raw(), [0, 255, 128, 255, 0, 51]);
        let bytes: Vec<u8> = (0..300_u32).map(|i| i.to_le_bytes()[0]).collect();
        let drawing = Drawing::of_bytes(&bytes, "bytes").unwrap().unwrap();
        assert_eq!((drawing.width, drawing.height), (128, 2));
        assert_eq!(decoded(&drawing).into_luma8().into_raw(), bytes[..256]);
        assert!(Drawing::of_sample(&[4], &[0.0; 4], "").unwrap().is_none());
        assert!(Drawing::of_sample(&[2, 2, 1], &[0.0; 3], "").unwrap().is_none());
        assert!(Drawing::of_bytes(&[1, 2, 3], "").unwrap().is_none());
    }
}
