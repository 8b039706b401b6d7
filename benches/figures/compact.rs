//! Compaction: what it costs to write small files again, beside what Parquet alone costs for the same rows, and how
//! often a byte is written until its file is as large as it should be.
//!
//! By hour: one run, as a broker makes it once the hour is over. Unpartitioned: rounds of commits with a run after
//! each.

use std::sync::Arc;
use std::time::Duration;

use tidewater_iceberg::commit::{Bounds, TableOwner};
use tidewater_iceberg::compact::{Compactor, TableFilesSeen};
use tidewater_iceberg::names::Names;
use tidewater_iceberg::partition::spec::PartitionChoice;
use tidewater_storage::env::clock::wall;

use crate::report::{Table, mb_per_s, ratio};
use crate::table::values::Kind;
use crate::table::{Filling, Log, parquet_alone};
use crate::{Run, machine};

/// Rounds, and commits of each.
const ROUNDS: u64 = 8;
const COMMITS: u64 = 12;

/// What all runs together have done.
#[derive(Default)]
struct Compacted {
    bytes: u64,
    rows: u64,
    cpu: Duration,
    /// The table after the last.
    seen: TableFilesSeen,
}

pub fn run(run: &Run) {
    let table = Table::new(&[
        "values",
        "partitions",
        "rows",
        "files of the sink",
        "files in the end",
        "rows per core second",
        "Parquet per core second",
        "Parquet alone, of the same rows",
        "ratio",
        "bytes written again ÷ bytes of the table (aim 3)",
    ]);
    for (kind, by_hour) in [(Kind::KeyValue, true), (Kind::Avro, true), (Kind::Avro, false)] {
        let dir = run.dir("compact");
        let rows: u64 = run.pick(960_000, 48_000);
        let log = Arc::new(Log::new(kind, rows));
        let each = usize::try_from(log.value_bytes() / (ROUNDS * COMMITS)).expect("fits");
        let mut filling = Filling::begin(kind, dir.path(), &log, |config| {
            config.turn_bytes = each;
            if !by_hour {
                config.partition = PartitionChoice::parse("()").expect("a spec");
            }
        });
        let mut all = Compacted::default();
        while filling.rows < rows {
            for _ in 0..COMMITS {
                if filling.rows < rows {
                    filling.commit();
                }
            }
            if !by_hour || filling.rows == rows {
                compact(&filling, &mut all);
            }
        }
        let alone = parquet_alone(dir.path(), kind);
        assert_eq!(alone.rows, rows + all.rows, "snapshots keep the files that were replaced");
        let per_core = |amount: u64, cpu: Duration| amount as f64 / cpu.as_secs_f64().max(0.01);
        let (own, raw) = (per_core(all.bytes, all.cpu), per_core(alone.bytes, alone.cpu));
        table.row(&[
            kind.name().to_owned(),
            if by_hour { "by hour" } else { "none" }.to_owned(),
            rows.to_string(),
            filling.files.to_string(),
            all.seen.files.to_string(),
            format!("{:.0}", per_core(all.rows, all.cpu)),
            mb_per_s(own),
            mb_per_s(raw),
            ratio(own, raw),
            format!("**{:.2}**", all.bytes as f64 / all.seen.bytes as f64),
        ]);
    }
}

/// Writes small files of the table again until none is left to be.
fn compact(filling: &Filling, all: &mut Compacted) {
    let config = &filling.config;
    let owner = TableOwner { cluster: config.cluster, topic: config.topic_id, epoch: config.epoch };
    let bounds = Bounds { compact_quiet_ms: 0, ..Bounds::default() };
    let catalog = Arc::clone(&filling.catalog) as _;
    let mut compactor = Compactor::new(catalog, config.table.clone(), owner, Names::random(), bounds);
    let cpu = machine::cpu_of(std::process::id());
    loop {
        let done = filling.runtime.block_on(compactor.run(wall(), |_| {})).expect("the table can be compacted");
        assert!(done.obstacle.is_none() && done.left.is_empty(), "{done:?}");
        (all.bytes, all.rows) = (all.bytes + done.bytes_out, all.rows + done.rows);
        if !done.more {
            break;
        }
    }
    all.cpu += machine::cpu_of(std::process::id()).saturating_sub(cpu);
    all.seen = filling.runtime.block_on(compactor.look(wall())).expect("the table can be read");
}
