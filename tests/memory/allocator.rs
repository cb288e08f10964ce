//! The system's allocator, watched.

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;
use std::sync::atomic::{AtomicUsize, Ordering};

static IN_USE: AtomicUsize = AtomicUsize::new(0);
static PEAK: AtomicUsize = AtomicUsize::new(0);
static N_CLEAN: AtomicUsize = AtomicUsize::new(0);
static N_DIRTY: AtomicUsize = AtomicUsize::new(0);
static DIRTY_BYTES: AtomicUsize = AtomicUsize::new(0);

thread_local! {
    /// Whether this thread looks at what it gives back. Others, such as those of the test harness, go on
    /// with their own memory meanwhile.
    static IS_LOOKING: Cell<bool> = const { Cell::new(false) };
}

/// Smaller pieces are headers and counters, not vectors of values.
const LEAST_BYTES: usize = 256;

struct Watched;

#[global_allocator]
static ALLOCATOR: Watched = Watched;

// SAFETY: every call goes to the system's allocator with the caller's arguments; besides, only counters
// are touched, and bytes are read of a block that is still allocated.
unsafe impl GlobalAlloc for Watched {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        let in_use = IN_USE.fetch_add(layout.size(), Ordering::Relaxed) + layout.size();
        PEAK.fetch_max(in_use, Ordering::Relaxed);
        // SAFETY: as the caller promised.
        unsafe { System.alloc(layout) }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        let in_use = IN_USE.fetch_add(layout.size(), Ordering::Relaxed) + layout.size();
        PEAK.fetch_max(in_use, Ordering::Relaxed);
        // SAFETY: as the caller promised.
        unsafe { System.alloc_zeroed(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        IN_USE.fetch_sub(layout.size(), Ordering::Relaxed);
        if IS_LOOKING.get() && layout.size() >= LEAST_BYTES {
            // SAFETY: the block is allocated, with this size, until it is given back below.
            let is_clean = (0..layout.size())
                .all(|offset| unsafe { pointer.add(offset).read_volatile() } == 0);
            if is_clean {
                N_CLEAN.fetch_add(1, Ordering::Relaxed);
            } else {
                N_DIRTY.fetch_add(1, Ordering::Relaxed);
                DIRTY_BYTES.fetch_add(layout.size(), Ordering::Relaxed);
            }
        }
        // SAFETY: as the caller promised.
        unsafe { System.dealloc(pointer, layout) }
    }
}

/// Run something and say how many bytes it had allocated at a time.
pub(crate) fn peak_of(work: impl FnOnce()) -> usize {
    let before = IN_USE.load(Ordering::Relaxed);
    PEAK.store(before, Ordering::Relaxed);
    work();
    PEAK.load(Ordering::Relaxed).saturating_sub(before)
}

/// What was in the blocks of memory that were given back.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Remains {
    /// Blocks of zeros.
    pub(crate) n_clean: usize,
    /// Blocks with anything else, and their bytes.
    pub(crate) n_dirty: usize,
    pub(crate) dirty_bytes: usize,
}

/// Run something and look at the larger blocks of memory it gives back on this thread.
pub(crate) fn remains_of(work: impl FnOnce()) -> Remains {
    for counter in [&N_CLEAN, &N_DIRTY, &DIRTY_BYTES] {
        counter.store(0, Ordering::Relaxed);
    }
    IS_LOOKING.set(true);
    work();
    IS_LOOKING.set(false);
    Remains {
        n_clean: N_CLEAN.load(Ordering::Relaxed),
        n_dirty: N_DIRTY.load(Ordering::Relaxed),
        dirty_bytes: DIRTY_BYTES.load(Ordering::Relaxed),
    }
}
