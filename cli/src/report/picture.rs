//! Small pictures made of characters: half blocks in color, or a ramp of characters without.
//!
//! A terminal cell is about twice as high as wide. With colors one cell shows two pixels, the upper
//! in the foreground of `▀` and the lower in the background; without colors one cell shows the mean
//! of the two as a character whose darkness grows with the value.

use std::fmt::Write;

use super::terminal::{Colors, Ink, Screen};

/// Characters from empty to full.
const RAMP: [char; 10] = [' ', '.', ':', '-', '=', '+', '*', '#', '%', '@'];

/// An image with red, green and blue in `[0, 1]`.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Picture {
    width: usize,
    /// Row by row; a multiple of `width` long.
    pixels: Vec<[f32; 3]>,
}

impl Picture {
    /// The picture of a sample with axes `dims` (`[height, width, channels]`, one or three channels,
    /// channel fastest), at most `max_width` cells wide.
    ///
    /// `None` if the sample is no image, or not as long as its axes say.
    pub(crate) fn of_sample(dims: &[usize], features: &[f32], max_width: usize) -> Option<Self> {
        let [height, width, channels] = *dims else { return None };
        if !matches!(channels, 1 | 3) || features.len() != height * width * channels {
            return None;
        }
        let pixels = features
            .chunks_exact(channels)
            .map(|pixel| match *pixel {
                [red, green, blue] => [red, green, blue],
                _ => [pixel.first().copied().unwrap_or_default(); 3],
            })
            .map(|pixel| pixel.map(|value| value.clamp(0.0, 1.0)))
            .collect();
        let picture = Self { width, pixels };
        Some(picture.reduced(width.div_ceil(max_width.max(1))))
    }

    /// Width in cells.
    pub(crate) fn width(&self) -> usize {
        self.width
    }

    /// The mean of every `factor × factor` pixels.
    fn reduced(self, factor: usize) -> Self {
        let factor = factor.max(1);
        if factor == 1 {
            return self;
        }
        let width = self.width.div_ceil(factor);
        let height = (self.pixels.len() / self.width.max(1)).div_ceil(factor);
        let mut sums = vec![([0.0_f32; 3], 0.0_f32); width * height];
        for (position, pixel) in self.pixels.iter().enumerate() {
            let (row, column) = (position / self.width / factor, position % self.width / factor);
            let Some((sum, n)) = sums.get_mut(row * width + column) else { continue };
            sum.iter_mut().zip(pixel).for_each(|(sum, value)| *sum += value);
            *n += 1.0;
        }
        let pixels = sums.into_iter().map(|(sum, n)| sum.map(|value| value / n)).collect();
        Self { width, pixels }
    }

    /// One string per line of cells, each `width` cells wide.
    pub(crate) fn lines(&self, colors: Colors) -> Vec<String> {
        let rows: Vec<&[[f32; 3]]> = self.pixels.chunks_exact(self.width.max(1)).collect();
        rows.chunks(2)
            .map(|pair| {
                let upper = pair.first().copied().unwrap_or_default();
                let lower = pair.get(1).copied();
                line(upper, lower, colors)
            })
            .collect()
    }
}

/// One line of cells from two rows of pixels, or from the last row alone.
fn line(upper: &[[f32; 3]], lower: Option<&[[f32; 3]]>, colors: Colors) -> String {
    const BLACK: [f32; 3] = [0.0; 3];
    let mut text = String::new();
    let mut current = None;
    for (column, &above) in upper.iter().enumerate() {
        let below = lower.and_then(|row| row.get(column)).copied().unwrap_or(BLACK);
        let code = match colors {
            Colors::None | Colors::Named => {
                text.push(shade((luminance(above) + luminance(below)) / 2.0));
                continue;
            }
            Colors::Palette => {
                format!("\x1b[38;5;{};48;5;{}m", palette(above), palette(below))
            }
            Colors::True => {
                let ([r, g, b], [s, h, c]) = (above.map(byte), below.map(byte));
                format!("\x1b[38;2;{r};{g};{b};48;2;{s};{h};{c}m")
            }
        };
        if current.as_ref() != Some(&code) {
            text.push_str(&code);
            current = Some(code);
        }
        text.push('▀');
    }
    if current.is_some() {
        text.push_str("\x1b[0m");
    }
    text
}

/// Perceived brightness.
///
/// # Source
/// ITU-R BT.601.
fn luminance([red, green, blue]: [f32; 3]) -> f32 {
    0.299 * red + 0.587 * green + 0.114 * blue
}

fn shade(value: f32) -> char {
    RAMP.get(usize::from(level(value, 9))).copied().unwrap_or(' ')
}

fn byte(value: f32) -> u8 {
    level(value, 255)
}

/// The nearest entry of the 256-color palette: its 24 greys for grey pixels, its 6×6×6 cube for
/// the rest.
fn palette([red, green, blue]: [f32; 3]) -> u8 {
    let spread = red.max(green).max(blue) - red.min(green).min(blue);
    if spread < 0.04 {
        return match level(red, 25) {
            0 => 16,
            25 => 231,
            grey => 231 + grey,
        };
    }
    16 + 36 * level(red, 5) + 6 * level(green, 5) + level(blue, 5)
}

/// `value` in `[0, 1]` rounded to one of `0..=max`.
#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "clamped to the range of a byte just before"
)]
fn level(value: f32, max: u8) -> u8 {
    (value.clamp(0.0, 1.0) * f32::from(max)).round() as u8
}

/// A picture with lines of text under it.
#[derive(Debug, Clone)]
pub(crate) struct Exhibit {
    /// The picture.
    pub(crate) picture: Picture,
    /// Lines under it; longer ones than the picture is wide are cut.
    pub(crate) captions: Vec<(String, Ink)>,
}

/// Print exhibits side by side, as many in a row as fit.
pub(crate) fn gallery(screen: &Screen, exhibits: &[Exhibit]) {
    const MARGIN: usize = 2;
    const GAP: usize = 2;
    let Some(widest) = exhibits.iter().map(|exhibit| exhibit.picture.width()).max() else { return };
    let fitting = ((screen.width().saturating_sub(MARGIN) + GAP) / (widest + GAP)).max(1);
    // Rows of about the same length.
    let per_row = exhibits.len().div_ceil(exhibits.len().div_ceil(fitting));
    for (i, row) in exhibits.chunks(per_row).enumerate() {
        if i > 0 {
            screen.gap();
        }
        let pictures: Vec<Vec<String>> =
            row.iter().map(|exhibit| exhibit.picture.lines(screen.colors())).collect();
        let height = pictures.iter().map(Vec::len).max().unwrap_or(0);
        let n_captions = row.iter().map(|exhibit| exhibit.captions.len()).max().unwrap_or(0);
        for idx in 0..height {
            let mut text = " ".repeat(MARGIN);
            for (exhibit, lines) in row.iter().zip(&pictures) {
                let (cells, used) = match lines.get(idx) {
                    Some(cells) => (cells.as_str(), exhibit.picture.width()),
                    None => ("", 0),
                };
                text.push_str(cells);
                text.push_str(&" ".repeat(widest - used + GAP));
            }
            screen.line(text.trim_end_matches(' '));
        }
        for idx in 0..n_captions {
            let mut text = " ".repeat(MARGIN);
            for exhibit in row {
                let (caption, ink) = match exhibit.captions.get(idx) {
                    Some((caption, ink)) => (caption.as_str(), *ink),
                    None => ("", Ink::Plain),
                };
                let cut: String = caption.chars().take(widest).collect();
                let padding = " ".repeat(widest + GAP - cut.chars().count());
                // Writing to a string does not fail.
                let _ = write!(text, "{}{padding}", screen.paint(ink, cut));
            }
            screen.line(text.trim_end_matches(' '));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn stripes() -> Picture {
        let features = [0.0, 1.0, 0.0, 1.0, 0.0, 1.0];
        Picture::of_sample(&[3, 2, 1], &features, 80).unwrap()
    }

    #[test]
    fn only_images_have_pictures() {
        assert!(Picture::of_sample(&[4], &[0.0; 4], 10).is_none());
        assert!(Picture::of_sample(&[2, 2, 2], &[0.0; 8], 10).is_none());
        assert!(Picture::of_sample(&[2, 2, 1], &[0.0; 5], 10).is_none());
        assert!(Picture::of_sample(&[2, 2, 3], &[0.0; 12], 10).is_some());
    }

    #[test]
    fn plain_text_shades_pairs_of_rows() {
        assert_eq!(stripes().lines(Colors::None), [" @", " +"]);
    }

    #[test]
    fn colored_cells_hold_two_pixels_and_repeat_no_code() {
        let white = Picture::of_sample(&[2, 3, 1], &[1.0; 6], 80).unwrap();
        let lines = white.lines(Colors::True);
        assert_eq!(lines, ["\x1b[38;2;255;255;255;48;2;255;255;255m▀▀▀\x1b[0m"]);
        let lines = stripes().lines(Colors::Palette);
        assert_eq!(lines[0], "\x1b[38;5;16;48;5;16m▀\x1b[38;5;231;48;5;231m▀\x1b[0m");
        assert_eq!(lines.len(), 2);
    }

    #[test]
    fn the_palette_has_its_greys_and_its_cube() {
        assert_eq!(palette([0.5; 3]), 244);
        assert_eq!(palette([1.0, 0.0, 0.0]), 196);
        assert_eq!(palette([0.0, 0.0, 1.0]), 21);
    }

    #[test]
    fn wide_pictures_are_averaged() {
        let features = [0.0, 1.0, 1.0, 1.0, 0.5, 0.5, 0.25, 0.75];
        let picture = Picture::of_sample(&[2, 4, 1], &features, 2).unwrap();
        assert_eq!(picture.width(), 2);
        assert_eq!(picture.pixels, [[0.5; 3], [0.75; 3]]);
    }
}
