//! What a commit costs as a table grows old: a hundred rows each, ten seconds apart, until there were ten thousand.
//!
//! Once with the defaults, by which old snapshots go, and once with a table whose owner keeps them for a year.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Instant;

use iceberg::spec::TableMetadata;
use tidewater_iceberg::catalog::Catalog as _;

use crate::report::{Samples, Table, micros};
use crate::table::values::Kind;
use crate::table::{Filling, Log};
use crate::{Run, machine};

const ROWS_EACH: u64 = 100;
/// Commits that are measured together.
const WINDOW: u64 = 100;
const YEAR_MS: u64 = 365 * 86_400_000;

pub fn run(run: &Run) {
    let table = Table::new(&[
        "snapshots stay",
        "commits so far",
        "p50",
        "p99",
        "processor each",
        "snapshots",
        "metadata file",
        "÷ the first",
    ]);
    for (stay, properties) in [
        ("by default", HashMap::new()),
        ("a year", HashMap::from([("history.expire.max-snapshot-age-ms".to_owned(), YEAR_MS.to_string())])),
    ] {
        let dir = run.dir("commits");
        let marks: &[u64] = run.pick(&[100, 1_000, 3_000, 10_000], &[20, 100]);
        let commits = *marks.last().expect("there are marks");
        let log = Arc::new(Log::new(Kind::KeyValue, commits * ROWS_EACH * 6 / 5));
        let each = usize::try_from(log.value_bytes() * 5 / 6 / commits).expect("small");
        let mut filling = Filling::begin(Kind::KeyValue, dir.path(), &log, |config| {
            config.turn_bytes = each;
            config.properties.extend(properties);
        });
        filling.every_ms = 10_000;
        let (mut first, mut done) = (None, 0);
        for mark in marks {
            while done + WINDOW.min(*mark) < *mark {
                filling.commit();
                done += 1;
            }
            let cpu = machine::cpu_of(std::process::id());
            let mut took = Samples::default();
            while done < *mark {
                let start = Instant::now();
                filling.commit();
                took.add(start.elapsed(), 0);
                done += 1;
            }
            took.cpu = machine::cpu_of(std::process::id()).saturating_sub(cpu);
            let loaded = filling.runtime.block_on(filling.catalog.load(&filling.config.table)).expect("loads");
            let p50 = took.percentile(50);
            let first = *first.get_or_insert(p50);
            table.row(&[
                stay.to_owned(),
                mark.to_string(),
                micros(p50),
                micros(took.percentile(99)),
                micros(took.cpu_each()),
                loaded.metadata.snapshots().len().to_string(),
                format!("{:.1} MB", bytes(&loaded.metadata) / 1e6),
                format!("**{:.2}**", p50.as_secs_f64() / first.as_secs_f64()),
            ]);
        }
    }
}

/// Of the metadata as JSON.
fn bytes(metadata: &TableMetadata) -> f64 {
    serde_json::to_vec(metadata).expect("JSON").len() as f64
}
