//! Buffers that parallel tasks share in turn.
//!
//! Fresh zeroed memory costs a page fault per page when it is read and another when it is written;
//! tasks therefore keep their buffers from one piece of work to the next.

use std::sync::{Mutex, MutexGuard, PoisonError};

use zeroize::Zeroize;

/// Values lent to tasks: there are never more than tasks at work at one time.
pub(crate) struct Pool<T>(Mutex<Vec<T>>);

impl<T> Pool<T> {
    /// A pool without values.
    pub(crate) const fn new() -> Self {
        Self(Mutex::new(Vec::new()))
    }

    /// Lends a value to `work`, or one that `make` makes when none is free.
    ///
    /// A value whose borrower panics is dropped.
    pub(crate) fn with<R>(&self, make: impl FnOnce() -> T, work: impl FnOnce(&mut T) -> R) -> R {
        let free = self.lock().pop();
        let mut value = free.unwrap_or_else(make);
        let result = work(&mut value);
        self.lock().push(value);
        result
    }

    /// Every value, when no task is at work.
    pub(crate) fn values_mut(&mut self) -> &mut Vec<T> {
        self.0.get_mut().unwrap_or_else(PoisonError::into_inner)
    }

    fn lock(&self) -> MutexGuard<'_, Vec<T>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<T> Default for Pool<T> {
    fn default() -> Self {
        Self::new()
    }
}

/// `len` zeros that are written, not promised: their pages are faulted in once.
pub(crate) fn written_zeros<T: Clone + Default>(len: usize) -> Vec<T> {
    let mut values = Vec::with_capacity(len);
    values.resize(len, T::default());
    values
}

/// Makes room for `len` values in a buffer of secrets. One that is too small is wiped and replaced:
/// growing it would leave what it holds behind, in memory that was given back.
pub(crate) fn reserve_secret<T: Zeroize>(buffer: &mut Vec<T>, len: usize) {
    if buffer.capacity() < len {
        buffer.zeroize();
        *buffer = Vec::with_capacity(len);
    }
}

#[cfg(test)]
mod tests {
    use core::cell::Cell;

    use super::*;

    thread_local! {
        static WIPED: Cell<u32> = const { Cell::new(0) };
    }

    struct Noted(#[expect(dead_code, reason = "values without a size need no room")] u8);

    impl Zeroize for Noted {
        fn zeroize(&mut self) {
            WIPED.set(WIPED.get() + 1);
        }
    }

    #[test]
    fn a_buffer_of_secrets_is_wiped_before_it_is_outgrown() {
        let mut buffer = Vec::with_capacity(2);
        buffer.extend([Noted(1), Noted(2)]);
        let room = buffer.capacity();
        reserve_secret(&mut buffer, room);
        assert_eq!((buffer.len(), WIPED.get()), (2, 0));
        reserve_secret(&mut buffer, room + 1);
        assert_eq!((buffer.len(), WIPED.get()), (0, 2));
        assert!(buffer.capacity() > room);
    }
}
