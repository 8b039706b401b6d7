//! Log start, archived end and end of a partition never move back, over any crashes.

use tidewater::partition::state::replica::Replica;

use crate::history::History;

pub(crate) fn check(history: &History, replica: &Replica) {
    check_as(history, replica.id.index.0, replica);
}

/// As [`check`], of the partition that the history knows by this number.
pub(crate) fn check_as(history: &History, partition: i32, replica: &Replica) {
    let (start, end, archived) = (replica.log_start(), replica.high_watermark(), replica.manifest().archived_end);
    history.with(partition, |past| {
        assert!(start >= past.log_start, "p{partition}: the log start fell from {} to {start}", past.log_start);
        assert!(end >= past.high_watermark, "p{partition}: the end fell from {} to {end}", past.high_watermark);
        assert!(
            end >= past.acked_end,
            "p{partition}: the end {end} is below what was acknowledged, {}",
            past.acked_end
        );
        assert!(
            archived >= past.archived_end,
            "p{partition}: the archive fell from {} to {archived}",
            past.archived_end
        );
        (past.log_start, past.high_watermark, past.archived_end) = (start, end, archived);
    });
}
