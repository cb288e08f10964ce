//! Memory of finished requests, kept for the next ones.

use std::sync::{Mutex, PoisonError};

use he_core::Storage;

/// Blocks kept at most.
const MAX_BLOCKS: usize = 8;

/// Spare memory that requests to one or several evaluators share.
///
/// A request occupies hundreds of megabytes for a second; fresh pages would cost as much time as the
/// arithmetic on them. What is kept never exceeds the limit, nor what requests have occupied at one
/// time.
#[derive(Debug)]
pub struct StoragePool {
    spare: Mutex<Vec<Storage>>,
    max_bytes: usize,
}

impl StoragePool {
    /// Keeps up to `max_bytes` bytes, in up to eight pieces. With 0 nothing is kept.
    #[must_use]
    pub fn new(max_bytes: usize) -> Self {
        Self { spare: Mutex::new(Vec::new()), max_bytes }
    }

    /// Most bytes kept while nothing runs.
    #[must_use]
    pub fn max_bytes(&self) -> usize {
        self.max_bytes
    }

    /// The smallest piece of at least `bytes` bytes, or an empty one.
    pub(super) fn take(&self, bytes: usize) -> Storage {
        let mut spare = self.spare.lock().unwrap_or_else(PoisonError::into_inner);
        let fitting = (0..spare.len())
            .filter_map(|i| Some((spare.get(i)?.bytes(), i)))
            .filter(|&(size, _)| size >= bytes)
            .min();
        fitting.map(|(_, i)| spare.swap_remove(i)).unwrap_or_default()
    }

    /// Keeps a piece, at the cost of smaller ones if there is no room for all.
    pub(super) fn give(&self, storage: Storage) {
        let mut spare = self.spare.lock().unwrap_or_else(PoisonError::into_inner);
        spare.push(storage);
        spare.sort_by_key(|piece| core::cmp::Reverse(piece.bytes()));
        let mut left = self.max_bytes;
        spare.retain(|piece| {
            let keeps = piece.bytes() > 0 && piece.bytes() <= left;
            left -= if keeps { piece.bytes() } else { 0 };
            keeps
        });
        spare.truncate(MAX_BLOCKS);
    }
}

impl Default for StoragePool {
    /// Up to 1 GiB.
    fn default() -> Self {
        Self::new(1 << 30)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]
    use super::*;
    use he_core::{CiphertextBlock, Params, ParamsSpec};

    fn storage(count: usize) -> Storage {
        let spec = ParamsSpec::with_bits(2048, 65_537, &[30]).unwrap();
        let params = Params::new(spec).unwrap();
        CiphertextBlock::zeros(&params, count, 1, 1).unwrap().into_storage()
    }

    #[test]
    fn the_smallest_fitting_piece_is_taken_and_the_limit_holds() {
        let size = storage(1).bytes();
        let pool = StoragePool::new(6 * size);
        for count in [1, 3, 2] {
            pool.give(storage(count));
        }
        assert_eq!(pool.take(size + 1).bytes(), 2 * size);
        assert_eq!(pool.take(size + 1).bytes(), 3 * size);
        assert_eq!(pool.take(size + 1).bytes(), 0);
        pool.give(storage(4));
        pool.give(storage(3));
        // 4 + 1 blocks stay, 3 more would exceed the limit.
        assert_eq!([pool.take(0), pool.take(0), pool.take(0)].map(|s| s.bytes() / size), [1, 4, 0]);
        let none = StoragePool::new(0);
        none.give(storage(1));
        assert_eq!(none.take(0).bytes(), 0);
    }
}
