//! Which kernels a machine can run, and which one is used.

use crate::{Error, Result};

/// A set of kernels. All give the same bits; they differ in speed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
#[non_exhaustive]
pub enum Backend {
    /// Plain Rust, everywhere: the specification.
    Scalar,
    /// Plain Rust arranged for a vectorising compiler, everywhere.
    Portable,
    /// `pmaddwd` on 128-bit vectors (every x86-64).
    Sse2,
    /// `vpmaddwd` on 256-bit vectors (x86-64 with AVX2).
    Avx2,
    /// `vpdpwssd` on 512-bit vectors (x86-64 with AVX-512 F, BW, DQ and VNNI).
    Avx512,
    /// `tdpbsud` on tiles for wide layers, [`Backend::Avx512`] for the others (x86-64 with AMX-INT8
    /// and an operating system that grants it).
    Amx,
}

impl Backend {
    /// Every backend, slowest first.
    pub const ALL: [Self; 6] =
        [Self::Scalar, Self::Portable, Self::Sse2, Self::Avx2, Self::Avx512, Self::Amx];

    /// Name as `HE_BACKEND` spells it.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Scalar => "scalar",
            Self::Portable => "portable",
            Self::Sse2 => "sse2",
            Self::Avx2 => "avx2",
            Self::Avx512 => "avx512",
            Self::Amx => "amx",
        }
    }

    /// Whether this machine can run it.
    ///
    /// Cost: a cached probe. The first question about [`Backend::Amx`] asks the operating system
    /// for permission to use tiles, for the whole process, and compares a few products with exact
    /// integers.
    #[must_use]
    pub fn is_available(self) -> bool {
        match self {
            Self::Scalar | Self::Portable => true,
            #[cfg(target_arch = "x86_64")]
            Self::Sse2 => true,
            #[cfg(target_arch = "x86_64")]
            Self::Avx2 => is_x86_feature_detected!("avx2"),
            #[cfg(target_arch = "x86_64")]
            Self::Avx512 => {
                is_x86_feature_detected!("avx512f")
                    && is_x86_feature_detected!("avx512bw")
                    && is_x86_feature_detected!("avx512dq")
                    && is_x86_feature_detected!("avx512vnni")
            }
            #[cfg(target_arch = "x86_64")]
            Self::Amx => Self::Avx512.is_available() && super::amx::is_usable(),
            #[cfg(not(target_arch = "x86_64"))]
            Self::Sse2 | Self::Avx2 | Self::Avx512 | Self::Amx => false,
        }
    }

    /// The backends this machine can run, slowest first.
    #[must_use]
    pub fn available() -> Vec<Self> {
        Self::ALL.into_iter().filter(|b| b.is_available()).collect()
    }

    /// The fastest available backend, or the one `HE_BACKEND` names.
    pub(crate) fn detect() -> Result<Self> {
        let fastest = Self::available().last().copied().unwrap_or(Self::Scalar);
        let Ok(name) = std::env::var("HE_BACKEND") else {
            return Ok(fastest);
        };
        if name.is_empty() || name == "auto" {
            return Ok(fastest);
        }
        Self::available()
            .into_iter()
            .find(|b| b.name() == name)
            .ok_or_else(|| Self::unavailable(&name))
    }

    pub(crate) fn check_available(self) -> Result<()> {
        if self.is_available() { Ok(()) } else { Err(Self::unavailable(self.name())) }
    }

    fn unavailable(name: &str) -> Error {
        let names: Vec<_> = Self::available().into_iter().map(Self::name).collect();
        Error::Backend { name: name.to_owned(), available: names.join(", ") }
    }
}
