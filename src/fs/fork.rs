//! [`ForkMark`]: tells, without a system call, that this process is a fork of the one that made it.
//!
//! Not here: what follows from it (`broker`, `client`). A forked child has the memory of its parent
//! and none of its threads: a lock that one of them held stays locked for ever, and what the
//! parent's threads were about to write must not be written twice.
//!
//! On Linux a page of its own is wiped in every child by the kernel (`MADV_WIPEONFORK`, Linux 4.14
//! and newer). Where there is no such thing the process id is compared instead, which is a call.
//!
//! Threads   any; the byte is written once, before the mark is shared.

#![cfg_attr(
    target_os = "linux",
    expect(unsafe_code, reason = "the page is marked by madvise, and read by its address")
)]

use std::process;

/// See the [module](self).
#[derive(Debug)]
pub(crate) struct ForkMark {
    page: Option<sys::Page>,
    /// Of the process that made the mark: what is compared without a page.
    process: u32,
}

impl ForkMark {
    /// A mark of this process.
    pub(crate) fn new() -> Self {
        // Without a page (an old kernel, no memory) it is slower, and as true.
        Self { page: sys::Page::new(), process: process::id() }
    }

    /// True in a child that was forked since.
    #[inline]
    pub(crate) fn is_forked(&self) -> bool {
        match &self.page {
            Some(page) => page.is_wiped(),
            None => process::id() != self.process,
        }
    }
}

#[cfg(target_os = "linux")]
mod sys {
    use std::sync::atomic::{AtomicU8, Ordering};

    use memmap2::{MmapOptions, MmapRaw};

    /// Linux's page is 64 KiB at most.
    const PAGE_BYTES: usize = 64 << 10;

    /// A page that reads 1 here and 0 in a forked child.
    #[derive(Debug)]
    pub(super) struct Page {
        memory: MmapRaw,
    }

    impl Page {
        /// `None` where the kernel cannot do it.
        pub(super) fn new() -> Option<Self> {
            let mut memory = MmapOptions::new().len(PAGE_BYTES).map_anon().ok()?;
            *memory.first_mut()? = 1;
            let memory = MmapRaw::from(memory);
            // SAFETY: madvise needs a range of mapped pages that begins at a page, and this advice
            // one that is private and anonymous: `memory` is exactly one such mapping, alive until
            // after the call. The advice changes what a child sees, and nothing here.
            let advised = unsafe {
                libc::madvise(memory.as_mut_ptr().cast(), memory.len(), libc::MADV_WIPEONFORK)
            };
            // A kernel before 4.14 answers EINVAL.
            (advised == 0).then_some(Self { memory })
        }

        #[inline]
        pub(super) fn is_wiped(&self) -> bool {
            let first = self.memory.as_mut_ptr();
            debug_assert!(!first.is_null());
            // SAFETY: `from_ptr` needs a valid, aligned byte that lives as long as the reference,
            // and that is only accessed atomically meanwhile: the first byte of `memory`, which
            // `self` owns, of alignment 1, and written last before `self` was made.
            let byte = unsafe { AtomicU8::from_ptr(first) };
            byte.load(Ordering::Relaxed) == 0
        }
    }
}

#[cfg(not(target_os = "linux"))]
mod sys {
    /// There is no such page here.
    #[derive(Debug)]
    pub(super) struct Page;

    impl Page {
        pub(super) fn new() -> Option<Self> {
            None
        }

        pub(super) fn is_wiped(&self) -> bool {
            false
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_process_that_made_it_is_no_fork() {
        assert!(!ForkMark::new().is_forked());
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn it_is_told_by_a_page() {
        assert!(ForkMark::new().page.is_some());
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn a_forked_child_is_told() {
        let mark = ForkMark::new();
        // SAFETY: the child only reads the mark and leaves, which takes no lock and allocates
        // nothing: what fork(2) asks of the child of a process with threads.
        let child = unsafe { libc::fork() };
        if child == 0 {
            let told = i32::from(mark.is_forked());
            // SAFETY: it does not return, and runs nothing of this process's.
            unsafe { libc::_exit(told) }
        }
        assert!(child > 0, "fork failed");
        let mut status = 0;
        // SAFETY: it needs a child of this process and a place for its status; it has both.
        let ended = unsafe { libc::waitpid(child, &raw mut status, 0) };
        assert_eq!(ended, child);
        assert!(libc::WIFEXITED(status) && libc::WEXITSTATUS(status) == 1, "it was not told");
        assert!(!mark.is_forked());
    }

    #[test]
    fn without_a_page_another_process_is_told_by_its_id() {
        let own = ForkMark { page: None, process: process::id() };
        assert!(!own.is_forked());
        let other = ForkMark { page: None, process: process::id() + 1 };
        assert!(other.is_forked());
    }
}
