//! Buffers that parallel tasks share in turn.
//!
//! Fresh zeroed memory costs a page fault per page when it is read and another when it is written;
//! tasks therefore keep their buffers from one piece of work to the next.

use std::sync::{Mutex, MutexGuard, PoisonError};

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
