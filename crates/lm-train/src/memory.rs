//! Memory of the process: where large buffers lie, keeping what was allocated, and how much there was at most.

use std::alloc::{GlobalAlloc, Layout, System};
use std::ptr;

/// Tells glibc to keep freed memory for reuse instead of returning it to the kernel. Half of a plainly written training
/// step is page faults on freshly mapped tensors; this one call removes them. Call it once, before training starts.
pub fn keep_freed_pages() {
    #[cfg(all(target_os = "linux", target_env = "gnu"))]
    // SAFETY: mallopt only sets parameters of the allocator; it is called before threads are started.
    unsafe {
        libc::mallopt(libc::M_MMAP_MAX, 0);
        libc::mallopt(libc::M_TRIM_THRESHOLD, i32::MAX);
        libc::mallopt(libc::M_TOP_PAD, 64 << 20);
    }
}

/// Highest resident memory of this process so far, MiB.
pub fn peak_rss_mb() -> f64 {
    // SAFETY: getrusage fills the struct it is given; zeroed is a valid value of it.
    let usage = unsafe {
        let mut usage: libc::rusage = std::mem::zeroed();
        libc::getrusage(libc::RUSAGE_SELF, &mut usage);
        usage
    };
    // Linux counts KiB, macOS bytes.
    let unit = if cfg!(target_os = "macos") { 1024.0 * 1024.0 } else { 1024.0 };
    usage.ru_maxrss as f64 / unit
}

/// The system's allocator, but for large buffers, which begin at a cache line, so that vectors of 64 bytes are not cut by the ends
/// of lines, and of which Linux is asked to make huge pages, so that fewer addresses have to be looked up. A program takes it as its
/// `#[global_allocator]`.
pub struct LargeBuffers;

impl LargeBuffers {
    /// Bytes from which on a buffer is large: then the gap in front of it is nothing beside it.
    const LARGE: usize = 4096;

    /// Bytes of a cache line.
    const LINE: usize = 64;

    /// Bytes that the system aligns to, with room for an address.
    const ALIGNED: usize = 16;

    /// Bytes of a huge page on most systems.
    #[cfg(target_os = "linux")]
    const HUGE_PAGE: usize = 2 << 20;

    /// Bytes from which on huge pages are asked for.
    #[cfg(target_os = "linux")]
    const WITH_HUGE_PAGES: usize = Self::HUGE_PAGE / 2;

    /// What is asked of the system for a large buffer: room for a gap in front of it, up to the next line. (Asked for alignment, glibc
    /// does not find the place again that a buffer of the same size has left.)
    fn with_gap(wanted: Layout) -> Option<Layout> {
        let is_large = wanted.size() >= Self::LARGE && wanted.align() <= Self::ALIGNED;
        let layout = Layout::from_size_align(wanted.size().checked_add(Self::LINE)?, Self::ALIGNED);
        if is_large { layout.ok() } else { None }
    }

    /// The buffer in a place that the system gave, which is noted in the gap.
    ///
    /// # Safety
    /// The place has the layout of [`LargeBuffers::with_gap`], or is null.
    unsafe fn behind_gap(place: *mut u8) -> *mut u8 {
        if place.is_null() {
            return place;
        }
        // At least as far on as the system's places are aligned.
        let gap = Self::LINE - place.addr() % Self::LINE;
        // SAFETY: the gap is no longer than what there is beyond the buffer's size, and has room for an address.
        unsafe {
            let buffer = place.add(gap);
            buffer.cast::<*mut u8>().sub(1).write(place);
            buffer
        }
    }

    /// A buffer in what `system` gives.
    ///
    /// # Safety
    /// It gives places of the layouts that it is asked for, or null.
    unsafe fn place(wanted: Layout, system: impl Fn(Layout) -> *mut u8) -> *mut u8 {
        let Some(layout) = Self::with_gap(wanted) else { return system(wanted) };
        let place = system(layout);
        Self::advise(place, layout);
        // SAFETY: the caller's promise.
        unsafe { Self::behind_gap(place) }
    }

    /// Asks for huge pages where there is a buffer, in what it shares them with, and in what the heap has behind it: pages that have
    /// been touched before stay small.
    fn advise(place: *mut u8, layout: Layout) {
        #[cfg(target_os = "linux")]
        if !place.is_null() && layout.size() >= Self::WITH_HUGE_PAGES {
            let first = place.map_addr(|address| address & !(Self::HUGE_PAGE - 1));
            let end = place.addr().saturating_add(layout.size()).next_multiple_of(Self::HUGE_PAGE);
            // SAFETY: of no bytes it only tells where the heap ends. What is mapped elsewhere lies beyond.
            let end = end.max(unsafe { libc::sbrk(0) }.addr());
            // SAFETY: this advice changes no content. Where nothing is mapped, or nobody gives huge pages, it is refused.
            unsafe { libc::madvise(first.cast(), end - first.addr(), libc::MADV_HUGEPAGE) };
        }
        #[cfg(not(target_os = "linux"))]
        let _ = (place, layout);
    }
}

// SAFETY: all is left to the system's allocator. Whether a buffer has a gap follows from its layout alone.
unsafe impl GlobalAlloc for LargeBuffers {
    unsafe fn alloc(&self, wanted: Layout) -> *mut u8 {
        // SAFETY: the caller's promise; a layout with a gap is no smaller.
        unsafe { Self::place(wanted, |layout| System.alloc(layout)) }
    }

    unsafe fn alloc_zeroed(&self, wanted: Layout) -> *mut u8 {
        // SAFETY: as in `alloc`.
        unsafe { Self::place(wanted, |layout| System.alloc_zeroed(layout)) }
    }

    unsafe fn dealloc(&self, buffer: *mut u8, wanted: Layout) {
        // SAFETY: the place and the layout that it was allocated with.
        unsafe {
            match Self::with_gap(wanted) {
                Some(layout) => System.dealloc(buffer.cast::<*mut u8>().sub(1).read(), layout),
                None => System.dealloc(buffer, wanted),
            }
        }
    }

    unsafe fn realloc(&self, buffer: *mut u8, wanted: Layout, size: usize) -> *mut u8 {
        // SAFETY: by the caller's promise, size and alignment make a layout.
        let new = unsafe { Layout::from_size_align_unchecked(size, wanted.align()) };
        if Self::with_gap(wanted).or(Self::with_gap(new)).is_none() {
            // SAFETY: the caller's promise.
            return unsafe { System.realloc(buffer, wanted, size) };
        }
        // SAFETY: the caller's promise.
        let moved = unsafe { self.alloc(new) };
        if !moved.is_null() {
            // SAFETY: both have so many bytes, and the old one is given back with the layout that it has.
            unsafe {
                ptr::copy_nonoverlapping(buffer, moved, wanted.size().min(size));
                self.dealloc(buffer, wanted);
            }
        }
        moved
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Through all ways in and out, large or not, with what was written.
    #[test]
    fn buffers_keep_their_contents_and_large_ones_begin_at_a_line() {
        for sizes in [[16, 64], [64, 5000], [5000, 4 << 20], [4 << 20, 3000], [4 << 20, 5 << 20]] {
            let [old, new] = sizes.map(|size| Layout::from_size_align(size, 8).expect("a small alignment"));
            for zeroed in [false, true] {
                // SAFETY: every buffer is written within its size, and given back once, with its layout.
                unsafe {
                    let first = if zeroed { LargeBuffers.alloc_zeroed(old) } else { LargeBuffers.alloc(old) };
                    let begins = |place: *mut u8, layout: Layout| {
                        layout.size() < LargeBuffers::LARGE || place.addr().is_multiple_of(64)
                    };
                    assert!(!first.is_null() && begins(first, old));
                    if zeroed {
                        assert!((0..old.size()).all(|at| first.add(at).read() == 0));
                    }
                    (0..old.size()).for_each(|at| first.add(at).write(at as u8));
                    let second = LargeBuffers.realloc(first, old, new.size());
                    assert!(!second.is_null() && begins(second, new));
                    let both = old.size().min(new.size());
                    assert!((0..both).all(|at| second.add(at).read() == at as u8));
                    LargeBuffers.dealloc(second, new);
                }
            }
        }
    }
}
