//! The tile instructions, in inline assembly: stable Rust has no intrinsics for them.
//!
//! Tile registers live across the blocks of assembly. No code that the compiler emits touches them:
//! it does so only for functions that enable the feature `amx-tile`, and there are none.

use core::arch::{
    asm,
    x86_64::{__cpuid, __cpuid_count},
};
use core::marker::PhantomData;
use std::sync::OnceLock;

use super::{A, B, Tiles, weights::TILE_LANES};

/// Whether the processor has AMX-INT8 and the operating system lets this process use it.
///
/// Asks once; on Linux this requests the permission for the process, which its threads share.
pub(crate) fn is_granted() -> bool {
    static GRANTED: OnceLock<bool> = OnceLock::new();
    *GRANTED.get_or_init(|| has_instructions() && has_enabled_state() && request_permission())
}

/// CPUID leaf 7: AMX-TILE and AMX-INT8; leaf 0x1D: eight tiles of 16 rows of 64 bytes.
#[allow(unused_unsafe, reason = "safe since a later release than the declared minimum")]
fn has_instructions() -> bool {
    const AMX_TILE: u32 = 1 << 24;
    const AMX_INT8: u32 = 1 << 25;
    const TILE_LEAF: u32 = 0x1D;
    // SAFETY: every x86-64 has CPUID, and leaves are read up to the reported largest only.
    unsafe {
        if __cpuid(0).eax < TILE_LEAF {
            return false;
        }
        let features = __cpuid_count(7, 0).edx;
        let palette = __cpuid_count(TILE_LEAF, 1);
        features & AMX_TILE != 0
            && features & AMX_INT8 != 0
            && palette.ebx == (8 << 16 | 64)
            && palette.ecx & 0xFFFF == 16
    }
}

/// XCR0 bits 17 and 18: the operating system saves tile configuration and data.
#[allow(unused_unsafe, reason = "as above")]
fn has_enabled_state() -> bool {
    const OSXSAVE: u32 = 1 << 27;
    const TILE_STATE: u32 = 1 << 17 | 1 << 18;
    // SAFETY: as above.
    if unsafe { __cpuid(1) }.ecx & OSXSAVE == 0 {
        return false;
    }
    let low: u32;
    // SAFETY: OSXSAVE says that XGETBV may be executed; register 0 exists.
    unsafe {
        asm!(
            "xgetbv",
            in("ecx") 0,
            out("eax") low,
            out("edx") _,
            options(nomem, nostack, preserves_flags),
        );
    }
    low & TILE_STATE == TILE_STATE
}

/// Linux grants the large tile state on request: `arch_prctl(ARCH_REQ_XCOMP_PERM, 18)`.
#[cfg(target_os = "linux")]
fn request_permission() -> bool {
    const ARCH_PRCTL: i64 = 158;
    const ARCH_REQ_XCOMP_PERM: u64 = 0x1023;
    const XFEATURE_XTILEDATA: u64 = 18;
    let result: i64;
    // SAFETY: the call changes which state the process may use and no memory of it; the kernel
    // clobbers rcx and r11.
    unsafe {
        asm!(
            "syscall",
            inlateout("rax") ARCH_PRCTL => result,
            in("rdi") ARCH_REQ_XCOMP_PERM,
            in("rsi") XFEATURE_XTILEDATA,
            lateout("rcx") _,
            lateout("r11") _,
            options(nostack),
        );
    }
    result == 0
}

/// Other systems have other ways to ask, which nobody has tested.
#[cfg(not(target_os = "linux"))]
fn request_permission() -> bool {
    false
}

/// The configured tile registers of the current thread, released on drop.
#[derive(Debug)]
pub(crate) struct Hardware {
    rows: usize,
    /// Registers belong to a thread.
    not_send: PhantomData<*const ()>,
}

/// Palette 1: bytes per row and rows of each register (`LDTILECFG`).
#[repr(C, align(64))]
struct Configuration {
    palette: u8,
    start_row: u8,
    reserved: [u8; 14],
    row_bytes: [u16; 16],
    rows: [u8; 16],
}

/// Calls a function for the register of sums that a number from 0 to 5 names.
macro_rules! on_sums {
    ($index:expr, $function:ident($($argument:expr),*)) => {
        // SAFETY: a value of this type exists, so AMX is granted and configured; memory operands
        // are those of the caller, which states why they suffice.
        unsafe {
            match $index {
                0 => $function::<0>($($argument),*),
                1 => $function::<1>($($argument),*),
                2 => $function::<2>($($argument),*),
                3 => $function::<3>($($argument),*),
                4 => $function::<4>($($argument),*),
                _ => $function::<5>($($argument),*),
            }
        }
    };
}
impl Tiles for Hardware {
    /// # Panics
    /// When AMX is not granted.
    fn configure(rows: usize) -> Self {
        assert!(is_granted(), "invariant: the backend is available");
        assert!((1..=16).contains(&rows), "invariant: tiles have 1 to 16 rows");
        let mut configuration = Configuration {
            palette: 1,
            start_row: 0,
            reserved: [0; 14],
            row_bytes: [0; 16],
            rows: [0; 16],
        };
        let registers = configuration.row_bytes.iter_mut().zip(&mut configuration.rows);
        for (register, (row_bytes, n_rows)) in registers.enumerate().take(8) {
            *row_bytes = 64;
            #[expect(clippy::cast_possible_truncation, reason = "16 at most")]
            {
                *n_rows = if register == B { 16 } else { rows as u8 };
            }
        }
        // SAFETY: AMX is granted; the configuration is 64 valid bytes of palette 1.
        unsafe {
            asm!(
                "ldtilecfg [{}]",
                in(reg) &raw const configuration,
                options(readonly, nostack, preserves_flags),
            );
        }
        Self { rows, not_send: PhantomData }
    }

    #[inline(always)]
    fn zero(&mut self, index: usize) {
        on_sums!(index, zero());
    }

    #[inline(always)]
    fn load_weights(&mut self, lanes: &[u32]) {
        assert!(lanes.len() >= 16 * self.rows, "a tile of weights");
        // SAFETY: AMX is configured, and A reads `rows` rows of 16 lanes, which exist.
        unsafe { load::<A>(lanes.as_ptr(), 64) }
    }

    #[inline(always)]
    fn load_inputs(&mut self, lanes: &[u32], stride: usize) {
        assert!(lanes.len() >= 15 * stride + 16, "a tile of inputs");
        // SAFETY: AMX is configured, and B reads 16 rows of 16 lanes, `stride` lanes apart: the
        // last one exists.
        unsafe { load::<B>(lanes.as_ptr(), 4 * stride) }
    }

    #[inline(always)]
    fn dot(&mut self, index: usize) {
        on_sums!(index, dot());
    }

    #[inline(always)]
    fn store(&mut self, index: usize, sums: &mut [i32; TILE_LANES]) {
        let sums = sums.as_mut_ptr();
        // At most 16 rows of 16 lanes are written: `TILE_LANES`.
        on_sums!(index, store(sums));
    }
}

/// # Safety
/// AMX must be configured.
#[inline(always)]
unsafe fn zero<const T: usize>() {
    // SAFETY: the caller's promise.
    unsafe { asm!("tilezero tmm{t}", t = const T, options(nomem, nostack, preserves_flags)) }
}

/// # Safety
/// AMX must be configured, and every row of the register readable, `stride` bytes apart.
#[inline(always)]
unsafe fn load<const T: usize>(lanes: *const u32, stride: usize) {
    // SAFETY: the caller's promise.
    unsafe {
        asm!(
            "tileloadd tmm{t}, [{lanes} + {stride}*1]",
            t = const T,
            lanes = in(reg) lanes,
            stride = in(reg) stride,
            options(readonly, nostack, preserves_flags),
        );
    }
}

/// # Safety
/// AMX must be configured.
#[inline(always)]
unsafe fn dot<const T: usize>() {
    // SAFETY: the caller's promise.
    unsafe {
        asm!(
            "tdpbsud tmm{t}, tmm{a}, tmm{b}",
            t = const T,
            a = const A,
            b = const B,
            options(nomem, nostack, preserves_flags),
        );
    }
}

/// # Safety
/// AMX must be configured, and every row of the register writable, one after another.
#[inline(always)]
unsafe fn store<const T: usize>(sums: *mut i32) {
    // SAFETY: the caller's promise.
    unsafe {
        asm!(
            "tilestored [{sums} + {stride}*1], tmm{t}",
            t = const T,
            sums = in(reg) sums,
            stride = in(reg) 64_usize,
            options(nostack, preserves_flags),
        );
    }
}

impl Drop for Hardware {
    fn drop(&mut self) {
        // SAFETY: AMX is granted (see `configure`); the state is this value's own.
        unsafe { asm!("tilerelease", options(nomem, nostack, preserves_flags)) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn probing_is_harmless_on_every_machine() {
        // All three, whatever the first says: the system refuses what the processor has not.
        let probes = [has_instructions(), has_enabled_state(), request_permission()];
        assert_eq!(is_granted(), probes == [true; 3]);
        assert!(probes[0] || !is_granted());
    }
}
