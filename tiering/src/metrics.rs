//! What this crate counts, by name: one table, read by the root's `/metrics`.

use crate::store::{RequestKind, StoreStats};

/// One figure.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Figure {
    /// Prometheus name.
    pub name: &'static str,
    /// What it says.
    pub help: &'static str,
    /// A label and its value.
    pub label: Option<(&'static str, &'static str)>,
    /// The value; all of these only grow.
    pub value: u64,
}

/// Requests and bytes of a store.
#[must_use]
pub fn store_figures(stats: &StoreStats) -> Vec<Figure> {
    let by_kind = |name, help, value: fn(&StoreStats, RequestKind) -> u64| {
        RequestKind::ALL.map(|kind| Figure {
            name,
            help,
            label: Some(("kind", kind.label())),
            value: value(stats, kind),
        })
    };
    let mut figures = Vec::new();
    figures.extend(by_kind(
        "tidewater_store_requests_total",
        "Requests to the object store, each attempt",
        StoreStats::requests,
    ));
    figures.extend(by_kind(
        "tidewater_store_failures_total",
        "Requests that the object store did not answer",
        StoreStats::failures,
    ));
    let total = |name, help, value| Figure { name, help, label: None, value };
    figures.push(total("tidewater_store_bytes_sent_total", "Body bytes sent to the object store", stats.bytes_sent()));
    figures.push(total(
        "tidewater_store_bytes_received_total",
        "Body bytes received from the object store",
        stats.bytes_received(),
    ));
    figures
}
