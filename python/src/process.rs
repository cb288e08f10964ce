//! Objects that must stay in the process that made them.

use crate::failure::{Outcome, told};

/// The process that made an object.
///
/// After `fork` a child has a copy of every generator of random numbers: two processes that go on would encrypt
/// different values with the same randomness. It also lacks the threads of its parent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Process(u32);

impl Process {
    pub(crate) fn this() -> Self {
        Self(std::process::id())
    }

    /// Refuse to go on in another process than the one that made `what`.
    pub(crate) fn check(self, what: &str) -> Outcome<()> {
        if self == Self::this() {
            return Ok(());
        }
        Err(told(format!(
            "{what} cannot be used after a fork: its random numbers would repeat, and its threads are gone; \
             make it in the child, or start children with \"spawn\""
        )))
    }
}
