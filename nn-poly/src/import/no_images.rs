//! Folders of images in builds without a decoder: they are recognized, and refused by name.

use std::path::Path;

use super::files::Part;
use crate::error::Result;

/// No folder of images can be read.
#[derive(Debug)]
pub(super) enum ImageFolder {}

impl ImageFolder {
    /// Nothing; such a folder is then in no format that this build knows.
    pub(super) fn find(_folder: &Path) -> Result<Option<Self>> {
        Ok(None)
    }

    pub(super) fn read(&self) -> Result<Part> {
        match *self {}
    }
}
