//! A counting allocator: how often memory was asked for, how much of it is in use, and how often it was given back on
//! another thread than the one that took it.
//!
//! Every block gets a header with the number of the thread that took it, so blocks are larger than they would be: times
//! taken under this allocator say nothing.

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;
use std::ops::{AddAssign, Sub};
use std::ptr;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

static ALLOCATIONS: AtomicU64 = AtomicU64::new(0);
static TAKEN: AtomicU64 = AtomicU64::new(0);
static RETURNED: AtomicU64 = AtomicU64::new(0);
static FOREIGN_FREES: AtomicU64 = AtomicU64::new(0);
static THREADS: AtomicU64 = AtomicU64::new(0);

thread_local! {
    /// This thread's number; 0 until it first allocates.
    static THREAD: Cell<u64> = const { Cell::new(0) };
}

/// Totals since the program began.
#[derive(Clone, Copy, Debug, Default)]
pub struct Counts {
    /// Blocks taken; a `realloc` counts as a free and an allocation.
    pub allocations: u64,
    /// Bytes asked for, without this allocator's headers.
    pub bytes: u64,
    /// Blocks given back on another thread than the one that took them.
    pub foreign_frees: u64,
}

impl AddAssign for Counts {
    fn add_assign(&mut self, other: Self) {
        self.allocations += other.allocations;
        self.bytes += other.bytes;
        self.foreign_frees += other.foreign_frees;
    }
}

impl Sub for Counts {
    type Output = Self;

    fn sub(self, earlier: Self) -> Self {
        Self {
            allocations: self.allocations - earlier.allocations,
            bytes: self.bytes - earlier.bytes,
            foreign_frees: self.foreign_frees - earlier.foreign_frees,
        }
    }
}

/// The totals so far; all zero where [`Counting`] is not the global allocator.
pub fn counts() -> Counts {
    Counts {
        allocations: ALLOCATIONS.load(Relaxed),
        bytes: TAKEN.load(Relaxed),
        foreign_frees: FOREIGN_FREES.load(Relaxed),
    }
}

/// Bytes in use right now.
pub fn in_use() -> u64 {
    let returned = RETURNED.load(Relaxed);
    TAKEN.load(Relaxed).saturating_sub(returned)
}

/// The system's allocator with counters before it.
#[derive(Debug)]
pub struct Counting;

/// Room for the thread's number, and for the alignment that the caller wants.
fn header(layout: Layout) -> usize {
    layout.align().max(align_of::<u64>()).max(16)
}

fn with_header(layout: Layout) -> Option<Layout> {
    let header = header(layout);
    Layout::from_size_align(layout.size().checked_add(header)?, header).ok()
}

fn this_thread() -> u64 {
    // A thread that ends frees what its thread-locals held after they are gone; this one has no destructor, so it stays.
    THREAD.with(|number| {
        if number.get() == 0 {
            number.set(THREADS.fetch_add(1, Relaxed) + 1);
        }
        number.get()
    })
}

// SAFETY: every block comes from `System` with room for a header in front, `header` of the same layout finds it again, and
// nothing here allocates or unwinds.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        let Some(whole) = with_header(layout) else {
            return ptr::null_mut();
        };
        // SAFETY: the size of `whole` is at least that of its header, so it is not zero.
        let block = unsafe { System.alloc(whole) };
        if block.is_null() {
            return block;
        }
        ALLOCATIONS.fetch_add(1, Relaxed);
        TAKEN.fetch_add(layout.size() as u64, Relaxed);
        // SAFETY: `block` is aligned to and larger than its header, which has room for one `u64`.
        unsafe {
            block.cast::<u64>().write(this_thread());
            block.add(header(layout))
        }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        RETURNED.fetch_add(layout.size() as u64, Relaxed);
        let Some(whole) = with_header(layout) else { return };
        // SAFETY: `alloc` returned `pointer` for this `layout`, so its header lies before it and holds a `u64`.
        unsafe {
            let block = pointer.sub(header(layout));
            if block.cast::<u64>().read() != this_thread() {
                FOREIGN_FREES.fetch_add(1, Relaxed);
            }
            System.dealloc(block, whole);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The tests of this crate run under the allocator that they test.
    #[global_allocator]
    static ALLOCATOR: Counting = Counting;

    #[test]
    fn counts_allocations_bytes_and_foreign_frees() {
        let before = counts();
        let block = vec![0_u8; 1_000_000];
        let taken = counts() - before;
        assert!(taken.allocations >= 1 && taken.bytes >= 1_000_000, "{taken:?}");

        let foreign = counts().foreign_frees;
        std::thread::spawn(move || drop(block)).join().expect("the thread only drops");
        assert!(counts().foreign_frees > foreign);
    }

    #[test]
    fn keeps_large_alignments() {
        #[repr(align(512))]
        struct Wide([u8; 512]);
        let wide = Box::new(Wide([7; 512]));
        assert_eq!((&raw const *wide).addr() % 512, 0);
        assert_eq!(wide.0[511], 7);
    }
}
