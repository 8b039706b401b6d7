//! The Iceberg catalog of this broker: requests to the bucket that it signs for engines.

use super::samples::{Sheet, label};
use crate::net::sign_counts::SignCounts;

pub(super) fn fill(sheet: &mut Sheet, signs: &SignCounts) {
    sheet.counters(
        "tidewater_catalog_sign_requests",
        "Requests of engines to have a request to the bucket signed; refused: it is not within the table or not \
         allowed, failed: the catalog or the broker's credentials did not answer",
        signs.by_outcome().into_iter().map(|(outcome, count)| (label("outcome", outcome), count)).collect(),
    );
}
