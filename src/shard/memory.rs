//! What the allocator does with memory that was given back.
//!
//! Batches are received into memory of their own, stay for as long as the recent memory keeps them and go in the order
//! in which they came. glibc would hand such large pieces back to the system and fetch them again, a page fault for
//! every 4 KiB and each page filled with zeroes first: more than checking, copying and writing the bytes costs together.
//! So it is told to keep what it has. How much that is, the caps of requests, queues and recent memory say.
//! Node-wide, once.

use std::sync::Once;

/// Pieces from this size on come straight from the system: the largest that glibc allows. Bytes.
#[cfg(target_env = "gnu")]
const MAP_FROM: i32 = 32 << 20;
/// Free memory at an arena's end that is kept. Bytes.
#[cfg(target_env = "gnu")]
const KEEP: i32 = 512 << 20;
/// How much an arena grows at once, and what of a part of it must be free before the part is given back. Addresses, not
/// memory: what is not touched costs nothing. Bytes.
#[cfg(target_env = "gnu")]
const GROW: i32 = 64 << 20;

/// Tells the allocator to keep what it has. Other allocators than glibc's go their own way.
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
                tracing::debug!(parameter, value, "the allocator does not take a setting");
            }
        }
    });
}
