//! Folders of PNG and JPEG files, one folder per class or without classes.
//!
//! ```text
//!  data/cat/1.png  data/cat/2.jpg  data/dog/7.png …                one set, cut by the seeded split
//!  data/train/cat/…  data/train/dog/…  data/test/cat/…             two parts
//!  data/1.png  data/2.jpg …                                        to be classified: no labels
//! ```
//!
//! Values are `v/255` (`v/65535` for 16 bits); one channel if every image is gray, else three. Colors are
//! taken as stored: profiles, gamma and orientation marks are not applied. JPEG does not define pixels to
//! the last bit; those here are of the `image` crate.

use std::io::Cursor;
use std::path::{Path, PathBuf};

use image::{DynamicImage, ImageDecoder, ImageFormat, ImageReader, Limits};
use ndarray::Array2;
use rayon::prelude::*;

use super::classes::{Labels, MAX_CLASSES};
use super::files::Part;
use super::{MAX_FEATURE_VALUES, excerpt};
use crate::artifact;
use crate::error::{Error, Result};
use crate::tensor::Shape;

/// Largest image file: 64 MiB.
const MAX_IMAGE_BYTES: usize = 1 << 26;
/// Most image files of one part.
const MAX_IMAGES: usize = 1 << 22;
/// Memory one decoder may use: the largest sample in 16 bits and four channels, with room to work.
const MAX_DECODER_BYTES: u64 = 1 << 28;
/// Images decoded at a time, in parallel.
const CHUNK_IMAGES: usize = 256;

/// The image files of one part, with the position of their class.
#[derive(Debug)]
pub(super) struct ImageFolder {
    classes: Vec<String>,
    files: Vec<(PathBuf, u32)>,
}

impl ImageFolder {
    /// List `folder`, if it holds folders with PNG or JPEG files: classes and files in the order of
    /// their names. Names that begin with a dot are skipped; so are files beside the classes. A folder
    /// without classes may hold images itself: they have no labels.
    ///
    /// # Errors
    /// - [`Error::Io`] if a folder cannot be listed.
    /// - [`Error::InFile`] around [`Error::UnsupportedImage`] for a file of another kind in a class.
    /// - [`Error::TooLarge`] beyond [`MAX_CLASSES`] classes or [`MAX_IMAGES`] files.
    pub(super) fn find(folder: &Path) -> Result<Option<Self>> {
        if !folder.is_dir() {
            return Ok(None);
        }
        let mut found = Self { classes: Vec::new(), files: Vec::new() };
        let mut strangers = Vec::new();
        for class in list(folder)?.into_iter().filter(|path| path.is_dir()) {
            let position = u32::try_from(found.classes.len()).unwrap_or(u32::MAX);
            if found.classes.len() == MAX_CLASSES {
                let (actual, limit) = (MAX_CLASSES as u64 + 1, MAX_CLASSES as u64);
                let error = Error::TooLarge { what: "number of class folders", actual, limit };
                return Err(error.in_file(folder));
            }
            for path in list(&class)? {
                if is_image(&path) {
                    found.files.push((path, position));
                } else {
                    strangers.push(path);
                }
            }
            if found.files.len() > MAX_IMAGES {
                let (actual, limit) = (found.files.len() as u64, MAX_IMAGES as u64);
                let error = Error::TooLarge { what: "number of images", actual, limit };
                return Err(error.in_file(folder));
            }
            found.classes.push(class_name(&class)?);
        }
        if found.files.is_empty() {
            return Self::without_classes(folder);
        }
        match strangers.first() {
            None => Ok(Some(found)),
            Some(path) => {
                let reason =
                    "is not named .png, .jpg or .jpeg; folders of classes hold nothing else";
                Err(Error::UnsupportedImage { reason }.in_file(path))
            }
        }
    }

    fn without_classes(folder: &Path) -> Result<Option<Self>> {
        let images = list(folder)?.into_iter().filter(|path| is_image(path));
        let files: Vec<_> = images.map(|path| (path, 0)).take(MAX_IMAGES + 1).collect();
        if files.len() > MAX_IMAGES {
            let (actual, limit) = (files.len() as u64, MAX_IMAGES as u64);
            return Err(Error::TooLarge { what: "number of images", actual, limit }.in_file(folder));
        }
        Ok((!files.is_empty()).then_some(Self { classes: Vec::new(), files }))
    }

    /// Number of images.
    pub(super) fn n_images(&self) -> usize {
        self.files.len()
    }

    /// Whether the images are sorted by class.
    pub(super) fn has_classes(&self) -> bool {
        !self.classes.is_empty()
    }

    /// Classes of the images, if they are sorted by class.
    pub(super) fn labels(&self) -> Option<Labels> {
        let positions = self.files.iter().map(|&(_, class)| class).collect();
        self.has_classes().then(|| Labels::of_names(positions, self.classes.clone()))
    }

    /// Decode the images at `positions` as samples of a shape known in advance: gray ones are taken for
    /// colored if that has three channels.
    ///
    /// # Errors
    /// - [`Error::InFile`] naming the first file that cannot be read, is of another size, or colored
    ///   where gray is wanted.
    pub(super) fn decode_as(&self, positions: &[usize], shape: &Shape) -> Result<Vec<f32>> {
        let &[height, width, n_channels] = shape.dims() else {
            let (expected, actual) = (shape.dims().to_vec(), vec![3]);
            return Err(Error::ShapeMismatch { what: "an image", expected, actual });
        };
        let mut values = Vec::with_capacity(positions.len() * shape.len());
        for chunk in positions.chunks(CHUNK_IMAGES) {
            let paths = chunk.iter().filter_map(|&position| self.files.get(position));
            let paths: Vec<&PathBuf> = paths.map(|(path, _)| path).collect();
            let images: Vec<Result<Image>> =
                paths.par_iter().map(|path| decode(path, Some((height, width)))).collect();
            for (image, path) in images.into_iter().zip(paths) {
                let image = image?;
                if image.n_channels == n_channels {
                    values.extend(image.values);
                } else if image.n_channels == 1 {
                    values.extend(image.values.into_iter().flat_map(|v| [v; 3]));
                } else {
                    let reason = "is in color; the model reads gray images";
                    return Err(Error::UnsupportedImage { reason }.in_file(path));
                }
            }
        }
        Ok(values)
    }

    /// Decode every image.
    ///
    /// # Errors
    /// - [`Error::InFile`] naming the first file that cannot be read or is of another size.
    /// - [`Error::TooLarge`] beyond [`MAX_FEATURE_VALUES`] values, before they are allocated.
    pub(super) fn read(&self) -> Result<Part> {
        let Some((first, _)) = self.files.first() else {
            return Err(Error::NoSamples { what: "the data set" });
        };
        let size = decode(first, None)?.size;
        let mut pixels = Pixels::new(size, self.files.len())?;
        for chunk in self.files.chunks(CHUNK_IMAGES) {
            let images: Vec<Result<Image>> =
                chunk.par_iter().map(|(path, _)| decode(path, Some(size))).collect();
            for image in images {
                pixels.push(image?)?;
            }
        }
        let shape = Shape::image(size.0, size.1, pixels.n_channels)?;
        let features = Array2::from_shape_vec((self.files.len(), shape.len()), pixels.values)
            .expect("invariant: all images have one size");
        Ok(Part { shape, features, labels: self.labels() })
    }
}

/// Entries of a folder in the order of their names, without hidden ones.
fn list(folder: &Path) -> Result<Vec<PathBuf>> {
    let io = |cause| Error::Io { action: "list", path: folder.to_path_buf(), cause };
    let mut paths = Vec::new();
    for entry in std::fs::read_dir(folder).map_err(io)? {
        let path = entry.map_err(io)?.path();
        let is_hidden =
            path.file_name().is_some_and(|name| name.as_encoded_bytes().starts_with(b"."));
        if !is_hidden {
            paths.push(path);
        }
    }
    paths.sort_unstable();
    Ok(paths)
}

fn is_image(path: &Path) -> bool {
    let ending = path.extension().unwrap_or_default().to_ascii_lowercase();
    ["png", "jpg", "jpeg"].iter().any(|known| ending == *known) && path.is_file()
}

/// The name of a class folder.
fn class_name(folder: &Path) -> Result<String> {
    const MAX_BYTES: usize = 200;
    let name = folder.file_name().unwrap_or_default();
    let fits = |name: &&str| name.len() <= MAX_BYTES && !name.chars().any(char::is_control);
    name.to_str().filter(fits).map(str::to_owned).ok_or_else(|| Error::UnexpectedHeader {
        field: "name of a class folder",
        expected: "at most 200 bytes of UTF-8 without control characters".into(),
        actual: excerpt(&name.to_string_lossy()),
    })
}

/// Values of many images of one size, gray until the first one in color.
struct Pixels {
    size: (usize, usize),
    n_images: usize,
    n_channels: usize,
    values: Vec<f32>,
}

impl Pixels {
    fn new(size: (usize, usize), n_images: usize) -> Result<Self> {
        let mut pixels = Self { size, n_images, n_channels: 1, values: Vec::new() };
        let total = pixels.check_total()?;
        pixels.values.reserve_exact(total);
        Ok(pixels)
    }

    fn push(&mut self, image: Image) -> Result<()> {
        if image.n_channels > self.n_channels {
            self.n_channels = image.n_channels;
            let total = self.check_total()?;
            let gray = std::mem::take(&mut self.values);
            self.values.reserve_exact(total);
            self.values.extend(gray.into_iter().flat_map(|v| [v; 3]));
        }
        if image.n_channels == self.n_channels {
            self.values.extend(image.values);
        } else {
            self.values.extend(image.values.into_iter().flat_map(|v| [v; 3]));
        }
        Ok(())
    }

    /// The number of values all images take.
    fn check_total(&self) -> Result<usize> {
        let one = self.size.0 * self.size.1 * self.n_channels;
        let total = one.saturating_mul(self.n_images);
        if total > MAX_FEATURE_VALUES {
            let (actual, limit) = (total as u64, MAX_FEATURE_VALUES as u64);
            return Err(Error::TooLarge { what: "number of pixel values", actual, limit });
        }
        Ok(total)
    }
}

/// One decoded image.
#[derive(Debug, PartialEq)]
struct Image {
    /// Height and width.
    size: (usize, usize),
    n_channels: usize,
    values: Vec<f32>,
}

fn decode(path: &Path, size: Option<(usize, usize)>) -> Result<Image> {
    let bytes = artifact::read_file(path, MAX_IMAGE_BYTES)?;
    decode_bytes(&bytes, size).map_err(|error| error.in_file(path))
}

/// Decode an image of the wanted size; the size is compared before pixels are allocated.
fn decode_bytes(bytes: &[u8], wanted: Option<(usize, usize)>) -> Result<Image> {
    let damaged = |cause: image::ImageError| Error::Decode { cause: Box::new(cause) };
    let mut limits = Limits::default();
    limits.max_alloc = Some(MAX_DECODER_BYTES);
    let mut reader = ImageReader::new(Cursor::new(bytes))
        .with_guessed_format()
        .map_err(|cause| Error::Decode { cause: Box::new(cause) })?;
    if !matches!(reader.format(), Some(ImageFormat::Png | ImageFormat::Jpeg)) {
        let reason = "is neither PNG nor JPEG, whatever its name says";
        return Err(Error::UnsupportedImage { reason });
    }
    reader.limits(limits);
    let decoder = reader.into_decoder().map_err(damaged)?;
    let (width, height) = decoder.dimensions();
    let size = (height as usize, width as usize);
    if let Some(expected) = wanted.filter(|&wanted| wanted != size) {
        return Err(Error::ImageSize { expected, actual: size });
    }
    Shape::image(size.0, size.1, if decoder.color_type().has_color() { 3 } else { 1 })?;
    values(&DynamicImage::from_decoder(decoder).map_err(damaged)?, size)
}

/// Pixels without transparency, from 0 to 1.
fn values(image: &DynamicImage, size: (usize, usize)) -> Result<Image> {
    let color = image.color();
    if color.has_alpha() && image.to_rgba16().pixels().any(|pixel| pixel.0[3] != u16::MAX) {
        let reason = "has transparent pixels; flatten it onto a background first";
        return Err(Error::UnsupportedImage { reason });
    }
    let (n_channels, values) = if color.has_color() {
        (3, image.to_rgb32f().into_raw())
    } else {
        (1, image.to_luma32f().into_raw())
    };
    Ok(Image { size, n_channels, values })
}

#[cfg(test)]
mod tests;
