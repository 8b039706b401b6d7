//! Settings of the allocator: it keeps freed memory instead of returning it to the system.
//!
//! Each batch is received into its own memory and freed when it leaves the recent batches, in the order of arrival. By
//! default glibc returns such large pieces to the system and requests them again, with a page fault for every 4 KiB and
//! each page filled with zeroes: more than checking, copying and writing the bytes costs together. The caps of
//! requests, queues and recent batches bound the memory that is kept. Node-wide, set once.

use std::sync::Once;

/// Pieces from this many bytes on come directly from the system: the highest value that glibc accepts.
#[cfg(target_env = "gnu")]
const MAP_FROM: i32 = 32 << 20;
/// Free bytes at an arena's end that are kept.
#[cfg(target_env = "gnu")]
const KEEP: i32 = 512 << 20;
/// Bytes by which an arena grows, and that must be free in a part of it before the part is returned. These are
/// addresses, not memory: untouched pages cost nothing.
#[cfg(target_env = "gnu")]
const GROW: i32 = 64 << 20;

/// Makes glibc's allocator keep freed memory. Does nothing with another allocator.
pub(super) fn keep() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        #[cfg(target_env = "gnu")]
        for (parameter, value) in
            [(libc::M_MMAP_THRESHOLD, MAP_FROM), (libc::M_TRIM_THRESHOLD, KEEP), (libc::M_TOP_PAD, GROW)]
        {
            // SAFETY: mallopt takes two numbers and sets one of the allocator's under its lock; an unknown parameter or
            // a value out of range changes nothing.
            #[allow(unsafe_code)]
            let set = unsafe { libc::mallopt(parameter, value) };
            if set == 0 {
                tracing::debug!(parameter, value, "the allocator refuses a setting");
            }
        }
    });
}
