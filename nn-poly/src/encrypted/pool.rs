//! Memory of finished requests, kept for the next ones.

use std::sync::{Mutex, MutexGuard, PoisonError};

use he_core::Storage;

/// Blocks kept at most.
const MAX_BLOCKS: usize = 8;

/// Spare memory that requests to one or several evaluators share.
///
/// A request occupies hundreds of megabytes for a second; fresh pages would cost as much time as the
/// arithmetic on them. What is kept never exceeds the limit, nor what requests have occupied at one
/// time. A request gets no piece much larger than it needs, so that a pool adds to the memory of a
/// process what it keeps, and to a request what [`StoragePool::most_for`] says.
#[derive(Debug)]
pub struct StoragePool {
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    /// The largest first.
    spare: Vec<Storage>,
    max_bytes: usize,
}

impl StoragePool {
    /// Keeps up to `max_bytes` bytes, in up to eight pieces. With 0 nothing is kept.
    #[must_use]
    pub fn new(max_bytes: usize) -> Self {
        Self { state: Mutex::new(State { spare: Vec::new(), max_bytes }) }
    }

    /// Most bytes kept while nothing runs.
    #[must_use]
    pub fn max_bytes(&self) -> usize {
        self.state().max_bytes
    }

    /// Keeps no more than `max_bytes` bytes from now on, nor than before; gives back what is beyond.
    pub fn limit(&self, max_bytes: usize) {
        let mut state = self.state();
        state.max_bytes = state.max_bytes.min(max_bytes);
        state.trim();
    }

    /// Largest piece given to a request that asks for `bytes` bytes: an eighth more.
    #[must_use]
    pub const fn most_for(bytes: usize) -> usize {
        bytes.saturating_add(bytes / 8)
    }

    /// The smallest piece of at least `bytes` bytes, or an empty one if none is that large, or all
    /// that are would be wasted on it.
    pub(super) fn take(&self, bytes: usize) -> Storage {
        let spare = &mut self.state().spare;
        let fitting = spare.iter().rposition(|piece| piece.bytes() >= bytes);
        let fitting = fitting
            .filter(|&i| spare.get(i).is_some_and(|piece| piece.bytes() <= Self::most_for(bytes)));
        fitting.map(|i| spare.remove(i)).unwrap_or_default()
    }

    /// Keeps a piece, at the cost of smaller ones if there is no room for all.
    pub(super) fn give(&self, storage: Storage) {
        let mut state = self.state();
        state.spare.push(storage);
        state.trim();
    }

    /// A panic while the list was held leaves pieces of memory in it, whatever their order.
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    /// Sorts the pieces and drops those for which there is no room.
    fn trim(&mut self) {
        self.spare.sort_by_key(|piece| core::cmp::Reverse(piece.bytes()));
        let mut left = self.max_bytes;
        self.spare.retain(|piece| {
            let keeps = piece.bytes() > 0 && piece.bytes() <= left;
            left -= if keeps { piece.bytes() } else { 0 };
            keeps
        });
        self.spare.truncate(MAX_BLOCKS);
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
        let take = |n: usize| pool.take(n * size - size / 9).bytes() / size;
        assert_eq!([take(2), take(2), take(3), take(3)], [2, 0, 3, 0]);
        pool.give(storage(4));
        pool.give(storage(3));
        // 4 + 1 blocks stay, 3 more would exceed the limit.
        assert_eq!([take(3), take(1), take(4)], [0, 1, 4]);
        let none = StoragePool::new(0);
        none.give(storage(1));
        assert_eq!(none.take(size).bytes(), 0);
    }

    #[test]
    fn no_request_occupies_much_more_than_it_declares() {
        let size = storage(1).bytes();
        let pool = StoragePool::default();
        pool.give(storage(64));
        for declared in [1, size, 32 * size, 56 * size] {
            assert_eq!(pool.take(declared).bytes(), 0, "{declared} bytes");
        }
        let close = 57 * size;
        assert!(pool.take(close).bytes() <= StoragePool::most_for(close));
        assert_eq!(pool.take(64 * size).bytes(), 0, "the piece was taken");
    }

    #[test]
    fn a_limit_only_falls_and_frees_what_is_beyond() {
        let size = storage(1).bytes();
        let pool = StoragePool::new(6 * size);
        for count in [1, 3, 2] {
            pool.give(storage(count));
        }
        pool.limit(4 * size);
        assert_eq!(pool.max_bytes(), 4 * size);
        pool.limit(9 * size);
        assert_eq!(pool.max_bytes(), 4 * size);
        let take = |n: usize| pool.take(n * size).bytes() / size;
        assert_eq!([take(2), take(3), take(1)], [0, 3, 1]);
    }
}
