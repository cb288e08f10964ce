//! Folders of images in builds without a decoder: they are recognized, and refused by name.

use std::path::Path;

use super::classes::Labels;
use super::files::Part;
use crate::error::Result;
use crate::tensor::Shape;

/// No folder of images can be read.
#[derive(Debug)]
pub(super) enum ImageFolder {}

impl ImageFolder {
    /// Nothing; such a folder is then in no format that this build knows.
    pub(super) fn find(_folder: &Path) -> Result<Option<Self>> {
        Ok(None)
    }

    pub(super) fn n_images(&self) -> usize {
        match *self {}
    }

    pub(super) fn has_classes(&self) -> bool {
        match *self {}
    }

    pub(super) fn labels(&self) -> Option<Labels> {
        match *self {}
    }

    pub(super) fn decode_as(&self, _positions: &[usize], _shape: &Shape) -> Result<Vec<f32>> {
        match *self {}
    }

    pub(super) fn read(&self) -> Result<Part> {
        match *self {}
    }
}
