//! Loops of nothing but a kernel's multiplying instruction.

use super::Backend;

/// Independent sums of a loop: more than the instruction's latency times its rate.
#[cfg(target_arch = "x86_64")]
const SUMS: usize = 12;

/// Products of 16-bit digits (bytes on [`Backend::Amx`]) in one round of [`run_products`].
pub(crate) fn products_per_round(backend: Backend) -> Option<usize> {
    match backend {
        _ if !backend.is_available() => None,
        #[cfg(target_arch = "x86_64")]
        Backend::Sse2 => Some(SUMS * 8),
        #[cfg(target_arch = "x86_64")]
        Backend::Avx2 => Some(SUMS * 16),
        #[cfg(target_arch = "x86_64")]
        Backend::Avx512 => Some(SUMS * 32),
        #[cfg(target_arch = "x86_64")]
        Backend::Amx => Some(TILES * 16 * 16 * 64),
        _ => None,
    }
}

/// Multiplies on registers; does nothing for a backend without an instruction.
pub(crate) fn run_products(backend: Backend, rounds: usize) {
    #[cfg(target_arch = "x86_64")]
    match backend {
        // SAFETY: SSE2 belongs to x86-64; the other features were detected.
        Backend::Sse2 => unsafe { run_sse2(rounds) },
        // SAFETY: as above.
        Backend::Avx2 if backend.is_available() => unsafe { run_avx2(rounds) },
        // SAFETY: as above.
        Backend::Avx512 if backend.is_available() => unsafe { run_avx512(rounds) },
        Backend::Amx if backend.is_available() => run_amx(rounds),
        Backend::Scalar | Backend::Portable | Backend::Avx2 | Backend::Avx512 | Backend::Amx => {}
    }
    #[cfg(not(target_arch = "x86_64"))]
    let _ = (backend, rounds);
}

/// A loop over [`SUMS`] registers of one vector type.
#[cfg(target_arch = "x86_64")]
macro_rules! run_vectors {
    ($name:ident, $feature:literal, $class:ident, $vector:ident, $zero:ident, [$($scratch:tt)*], $($line:literal),+) => {
        #[target_feature(enable = $feature)]
        fn $name(rounds: usize) {
            use core::arch::x86_64::{$vector, $zero};
            let mut sums: [$vector; SUMS] = [$zero(); SUMS];
            let (a, b) = ($zero(), $zero());
            for _ in 0..rounds {
                for sum in &mut sums {
                    // SAFETY: instructions on registers, of an enabled feature.
                    unsafe {
                        core::arch::asm!(
                            $($line,)+
                            sum = inout($class) *sum,
                            $($scratch)*
                            a = in($class) a,
                            b = in($class) b,
                            options(nomem, nostack, preserves_flags),
                        );
                    }
                }
            }
            core::hint::black_box(sums);
        }
    };
}

#[cfg(target_arch = "x86_64")]
run_vectors!(
    run_sse2,
    "sse2",
    xmm_reg,
    __m128i,
    _mm_setzero_si128,
    [product = out(xmm_reg) _,],
    "movdqa {product}, {a}",
    "pmaddwd {product}, {b}",
    "paddd {sum}, {product}"
);
#[cfg(target_arch = "x86_64")]
run_vectors!(
    run_avx2,
    "avx2",
    ymm_reg,
    __m256i,
    _mm256_setzero_si256,
    [product = out(ymm_reg) _,],
    "vpmaddwd {product}, {a}, {b}",
    "vpaddd {sum}, {sum}, {product}"
);
#[cfg(target_arch = "x86_64")]
run_vectors!(
    run_avx512,
    "avx512f,avx512bw,avx512vnni",
    zmm_reg,
    __m512i,
    _mm512_setzero_si512,
    [],
    "vpdpwssd {sum}, {a}, {b}"
);

/// Registers of sums.
#[cfg(target_arch = "x86_64")]
const TILES: usize = 6;

#[cfg(target_arch = "x86_64")]
fn run_amx(rounds: usize) {
    use super::amx::{Hardware, Tiles};
    let mut tiles = Hardware::configure(16);
    for _ in 0..rounds {
        for index in 0..TILES {
            tiles.dot(index);
        }
    }
}
