//! The Schema Registry of this broker: what it was asked, how long registrations wait for the bucket, what it holds.

use super::samples::{Sheet, and, label};
use crate::schema_registry::SchemaRegistry;

pub(super) fn fill(sheet: &mut Sheet, registry: &SchemaRegistry) {
    let counts = registry.counts();
    let kinds = [("query", &counts.queries), ("command", &counts.commands)];
    let rows = kinds.iter().flat_map(|(kind, requests)| {
        let row = |(outcome, count)| (and(label("kind", *kind), "outcome", outcome), count);
        requests.by_outcome().map(row)
    });
    sheet.counters(
        "tidewater_schema_registry_requests",
        "Requests to the port of the Schema Registry; refused: the request is at fault, failed: the registry is",
        rows.collect(),
    );
    sheet.amount(
        "tidewater_schema_registry_archive_wait_seconds",
        "Time that registrations have waited until the bucket held their record; divide by the waits",
        counts.waits.seconds(),
    );
    sheet.counter(
        "tidewater_schema_registry_archive_waits",
        "Registrations that have waited for the bucket, on the broker that leads _schemas",
        counts.waits.waits(),
    );
    sheet.counter(
        "tidewater_schema_registry_archive_late",
        "Those of them that were answered with an error because the bucket did not hold their record in time",
        counts.waits.late(),
    );
    let (subjects, versions) = registry.sizes();
    sheet.gauge("tidewater_schema_registry_subjects", "Subjects that this broker's copy has", subjects as f64);
    sheet.gauge(
        "tidewater_schema_registry_versions",
        "Versions of subjects that this broker's copy has",
        versions as f64,
    );
}
