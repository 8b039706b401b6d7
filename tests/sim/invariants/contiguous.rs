//! From the log start to the end there is no hole.

use crate::history::Past;

pub(crate) fn check(partition: i32, past: &Past) {
    let mut end = None;
    for (base, seen) in &past.seen {
        // Readers may have missed what was deleted before they came.
        let open = *base > past.log_start;
        assert!(!open || end.is_none_or(|end| end == *base), "p{partition}: a hole between {end:?} and {base}");
        end = Some(seen.offsets.end);
    }
    let end = end.unwrap_or_default();
    assert!(end >= past.acked_end, "p{partition}: the log ends at {end}, {} was acknowledged", past.acked_end);
    assert!(past.log_start >= past.trim_done && past.log_start <= past.trim_asked, "p{partition}: {}", past.log_start);
}
