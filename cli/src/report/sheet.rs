//! Contact sheets: samples below the natural ones they started from, as PNG or SVG.

use std::fmt::Write;
use std::io::Cursor;

use anyhow::{Context, Result, bail};
use fingerprint::Fingerprint;
use image::{ImageFormat, Rgb, RgbImage};
use ndarray::{Array2, ArrayView1};

/// Pictures per row.
const PER_ROW: usize = 8;
/// Width of a picture on the sheet, at least, in pixels.
const LEAST_WIDTH: u32 = 96;
const GAP: u32 = 10;
const CAPTION: u32 = 16;
const LINES: u32 = 2;

/// What a file's name asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum SheetFormat {
    Png,
    Svg,
}

impl SheetFormat {
    /// By the end of the name.
    ///
    /// # Errors
    /// Neither .png nor .svg.
    pub(crate) fn of(path: &std::path::Path) -> Result<Self> {
        match path.extension().and_then(|extension| extension.to_str()) {
            Some("png") => Ok(Self::Png),
            Some("svg") => Ok(Self::Svg),
            _ => bail!("{}: a contact sheet is a .svg or .png file", path.display()),
        }
    }
}

/// One sample and the one it started from.
struct Entry {
    original: Option<RgbImage>,
    sample: RgbImage,
    captions: [String; LINES as usize],
}

/// Draw all samples of a fingerprint of images.
///
/// # Errors
/// Samples that are no images of one or three channels.
pub(crate) fn contact_sheet(fingerprint: &Fingerprint, format: SheetFormat) -> Result<Vec<u8>> {
    let [height, width, channels] = *fingerprint.shape().dims() else {
        bail!("the samples of `{}` are no images", fingerprint.name())
    };
    if !matches!(channels, 1 | 3) {
        bail!("images of {channels} channels cannot be drawn, only grey and color")
    }
    let size = (u32::try_from(width)?, u32::try_from(height)?);
    let n_steps = fingerprint.grid().n_steps();
    let picture =
        |levels: &Array2<u32>, row: usize| pixels(levels.row(row), size, channels, n_steps);
    let (levels, originals) = (fingerprint.levels(), fingerprint.original_levels());
    let entries: Vec<Entry> = fingerprint
        .samples()
        .iter()
        .enumerate()
        .map(|(row, info)| {
            let class = |class: u32| {
                fingerprint.class_names().get(class as usize).map_or("?", String::as_str)
            };
            let tied: Vec<&str> = info.tied.iter().map(|&c| class(c)).collect();
            Entry {
                original: originals.as_ref().map(|levels| picture(levels, row)),
                sample: picture(&levels, row),
                captions: [
                    format!("{row}: {}", class(info.label)),
                    format!("{} tied, {:.1e}", tied.len().max(1), info.margin),
                ],
            }
        })
        .collect();
    match format {
        SheetFormat::Png => png(&entries, size),
        SheetFormat::Svg => svg(fingerprint.name(), &entries, size),
    }
}

fn pixels(
    levels: ArrayView1<'_, u32>,
    (width, height): (u32, u32),
    channels: usize,
    n_steps: u32,
) -> RgbImage {
    RgbImage::from_fn(width, height, |x, y| {
        let first = (y as usize * width as usize + x as usize) * channels;
        let value = |channel: usize| {
            let level = levels.get(first + channel.min(channels - 1)).copied().unwrap_or(0);
            u8::try_from(u64::from(level) * 255 / u64::from(n_steps.max(1))).unwrap_or(u8::MAX)
        };
        Rgb([value(0), value(1), value(2)])
    })
}

/// Size of one picture on the sheet, and of the cell around a pair.
fn layout(entries: &[Entry], (width, height): (u32, u32)) -> ([u32; 2], [u32; 2], u32) {
    let zoom = LEAST_WIDTH.div_ceil(width.max(1)).max(1);
    let shown = [width * zoom, height * zoom];
    let rows = if entries.iter().any(|entry| entry.original.is_some()) { 2 } else { 1 };
    let cell = [shown[0] + GAP, rows * (shown[1] + GAP / 2) + GAP];
    (shown, cell, zoom)
}

fn places(n: usize) -> impl Iterator<Item = (u32, u32)> {
    // A fingerprint has at most 65,536 samples.
    (0..n).map(|i| {
        let place = |n: usize| u32::try_from(n).unwrap_or(u32::MAX);
        (place(i % PER_ROW), place(i / PER_ROW))
    })
}

fn png(entries: &[Entry], size: (u32, u32)) -> Result<Vec<u8>> {
    let (shown, cell, zoom) = layout(entries, size);
    let columns = u32::try_from(entries.len().min(PER_ROW))?;
    let rows = u32::try_from(entries.len().div_ceil(PER_ROW))?;
    let mut sheet =
        RgbImage::from_pixel(columns * cell[0] + GAP, rows * cell[1] + GAP, Rgb([255, 255, 255]));
    for (entry, (column, row)) in entries.iter().zip(places(entries.len())) {
        let (left, mut top) = (GAP + column * cell[0], GAP + row * cell[1]);
        for picture in entry.original.iter().chain([&entry.sample]) {
            for (x, y, pixel) in sheet_area(picture, zoom) {
                sheet.put_pixel(left + x, top + y, pixel);
            }
            top += shown[1] + GAP / 2;
        }
    }
    encode(&sheet)
}

/// Every pixel of a picture, `zoom` times as wide and high.
fn sheet_area(picture: &RgbImage, zoom: u32) -> impl Iterator<Item = (u32, u32, Rgb<u8>)> {
    let (width, height) = (picture.width() * zoom, picture.height() * zoom);
    (0..height)
        .flat_map(move |y| (0..width).map(move |x| (x, y, *picture.get_pixel(x / zoom, y / zoom))))
}

fn svg(name: &str, entries: &[Entry], size: (u32, u32)) -> Result<Vec<u8>> {
    let (shown, mut cell, _) = layout(entries, size);
    cell[1] += LINES * CAPTION;
    cell[0] = cell[0].max(110);
    let columns = u32::try_from(entries.len().min(PER_ROW))?;
    let rows = u32::try_from(entries.len().div_ceil(PER_ROW))?;
    let (width, height) = (columns * cell[0] + GAP, rows * cell[1] + GAP);
    let mut text = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"{width}\" height=\"{height}\" \
         viewBox=\"0 0 {width} {height}\" font-family=\"sans-serif\" font-size=\"11\">\n\
         <title>Samples of {}, below the natural ones they started from</title>\n\
         <rect width=\"100%\" height=\"100%\" fill=\"white\"/>\n",
        escaped(name)
    );
    for (entry, (column, row)) in entries.iter().zip(places(entries.len())) {
        let (left, mut top) = (GAP + column * cell[0], GAP + row * cell[1]);
        for picture in entry.original.iter().chain([&entry.sample]) {
            writeln!(
                text,
                "<image x=\"{left}\" y=\"{top}\" width=\"{}\" height=\"{}\" \
                 style=\"image-rendering:pixelated\" href=\"data:image/png;base64,{}\"/>",
                shown[0],
                shown[1],
                base64(&encode(picture)?)
            )?;
            top += shown[1] + GAP / 2;
        }
        for caption in &entry.captions {
            top += CAPTION;
            writeln!(text, "<text x=\"{left}\" y=\"{}\">{}</text>", top - 6, escaped(caption))?;
        }
    }
    text.push_str("</svg>\n");
    Ok(text.into_bytes())
}

fn encode(picture: &RgbImage) -> Result<Vec<u8>> {
    let mut bytes = Cursor::new(Vec::new());
    picture.write_to(&mut bytes, ImageFormat::Png).context("a picture cannot be encoded")?;
    Ok(bytes.into_inner())
}

fn escaped(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;")
}

/// RFC 4648, section 4.
fn base64(bytes: &[u8]) -> String {
    const DIGITS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut text = String::with_capacity(bytes.len().div_ceil(3) * 4);
    for group in bytes.chunks(3) {
        let byte = |i: usize| u32::from(group.get(i).copied().unwrap_or(0));
        let bits = byte(0) << 16 | byte(1) << 8 | byte(2);
        for digit in 0..4 {
            let value = (bits >> (18 - 6 * digit) & 63) as usize;
            let known = DIGITS.get(value).copied().unwrap_or(b'=');
            text.push(if digit <= group.len() { char::from(known) } else { '=' });
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn base64_matches_the_vectors_of_the_standard() {
        for (plain, coded) in
            [("", ""), ("f", "Zg=="), ("fo", "Zm8="), ("foo", "Zm9v"), ("foobar", "Zm9vYmFy")]
        {
            assert_eq!(base64(plain.as_bytes()), coded);
        }
    }

    #[test]
    fn pictures_grow_by_whole_factors_and_sheets_can_be_read_back() {
        let picture = RgbImage::from_fn(2, 1, |x, _| Rgb([u8::try_from(x).unwrap() * 200; 3]));
        let entry = |original: bool| Entry {
            original: original.then(|| picture.clone()),
            sample: picture.clone(),
            captions: ["<0>".into(), "1".into()],
        };
        let entries: Vec<Entry> = (0..9).map(|_| entry(true)).collect();
        let sheet = image::load_from_memory(&png(&entries, (2, 1)).unwrap()).unwrap().to_rgb8();
        assert_eq!(sheet.get_pixel(GAP, GAP), &Rgb([0; 3]));
        assert_eq!(sheet.get_pixel(GAP + LEAST_WIDTH - 1, GAP), &Rgb([200; 3]));
        let (shown, cell, _) = layout(&entries, (2, 1));
        let below = GAP + shown[1] + GAP / 2;
        assert_eq!(sheet.get_pixel(GAP + LEAST_WIDTH - 1, below), &Rgb([200; 3]), "the sample");
        assert_eq!(sheet.get_pixel(GAP, GAP + cell[1]), &Rgb([0; 3]), "a second row");
        let text = String::from_utf8(svg("a<b", &[entry(false)], (2, 1)).unwrap()).unwrap();
        assert!(text.contains("a&lt;b") && text.contains("&lt;0&gt;"));
        assert_eq!(text.matches("<image ").count(), 1);
    }
}
