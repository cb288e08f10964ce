//! Tile registers in plain Rust, after the Intel 64 and IA-32 Architectures Software Developer's
//! Manual, volume 2: `TILEZERO`, `TILELOADD`, `TDPBSUD`, `TILESTORED`.

#![allow(clippy::indexing_slicing, clippy::needless_range_loop, reason = "tests")]

use super::{A, B, Tiles, weights::TILE_LANES};

/// One register: 16 rows of 64 bytes, whatever is configured.
type Register = [[u8; 64]; 16];

/// Eight registers and the configured rows of weights and sums; all rows are 64 bytes.
#[derive(Debug)]
pub(crate) struct Emulated {
    registers: [Register; 8],
    rows: usize,
}

impl Emulated {
    fn rows_of(&self, register: usize) -> usize {
        if register == B { 16 } else { self.rows }
    }

    /// `TILELOADD`: rows beyond the configured ones become zero.
    fn load(&mut self, register: usize, lanes: &[u32], stride: usize) {
        let rows = self.rows_of(register);
        self.registers[register] = [[0; 64]; 16];
        for (row, target) in self.registers[register].iter_mut().enumerate().take(rows) {
            for (bytes, lane) in target.chunks_exact_mut(4).zip(&lanes[row * stride..][..16]) {
                bytes.copy_from_slice(&lane.to_le_bytes());
            }
        }
    }

    fn sum(&self, register: usize, row: usize, column: usize) -> i32 {
        let bytes = &self.registers[register][row][4 * column..4 * column + 4];
        i32::from_le_bytes([bytes[0], bytes[1], bytes[2], bytes[3]])
    }
}

impl Tiles for Emulated {
    fn configure(rows: usize) -> Self {
        assert!((1..=16).contains(&rows));
        // `LDTILECFG` zeroes; anything the kernel does not load itself would show.
        Self { registers: [[[0; 64]; 16]; 8], rows }
    }

    fn zero(&mut self, index: usize) {
        self.registers[index] = [[0; 64]; 16];
    }

    fn load_weights(&mut self, lanes: &[u32]) {
        self.load(A, lanes, 16);
    }

    fn load_inputs(&mut self, lanes: &[u32], stride: usize) {
        self.load(B, lanes, stride);
    }

    /// `TDPBSUD`: for every row m of A, lane k and column n, adds the four products of the signed
    /// bytes `A[m][k]` and the unsigned bytes `B[k][n]`, modulo 2^32; rows beyond become zero.
    fn dot(&mut self, index: usize) {
        let mut result: Register = [[0; 64]; 16];
        for (m, result) in result.iter_mut().enumerate().take(self.rows) {
            for n in 0..16 {
                let mut sum = self.sum(index, m, n);
                for k in 0..16 {
                    for i in 0..4 {
                        let a = i32::from(self.registers[A][m][4 * k + i].cast_signed());
                        let b = i32::from(self.registers[B][k][4 * n + i]);
                        sum = sum.wrapping_add(a * b);
                    }
                }
                result[4 * n..4 * n + 4].copy_from_slice(&sum.to_le_bytes());
            }
        }
        self.registers[index] = result;
    }

    /// `TILESTORED`: the configured rows only.
    fn store(&mut self, index: usize, sums: &mut [i32; TILE_LANES]) {
        for row in 0..self.rows_of(index) {
            for column in 0..16 {
                sums[row * 16 + column] = self.sum(index, row, column);
            }
        }
    }
}
