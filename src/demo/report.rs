//! The result: the comparison of log, bucket and table (pure), its printed table, and commands to try next.

use std::collections::BTreeMap;

use super::broker::DemoBroker;
use super::content::Checksum;
use super::read::Read;
use super::table::Table;
use super::write::Written;
use super::{Bounds, count, output, typed};
use crate::console::CliError;

#[derive(Clone, Debug, Default)]
pub(super) struct Outcome {
    /// The log before this run wrote.
    pub(super) before: Bounds,
    pub(super) written: BTreeMap<i32, Written>,
    /// The log after it.
    pub(super) log: Bounds,
    pub(super) read: BTreeMap<i32, Read>,
    /// `None` in a build without tables.
    pub(super) table: Option<Table>,
}

impl Outcome {
    /// Every difference between what was written, log, bucket and table, as text.
    pub(super) fn differences(&self) -> Vec<String> {
        let mut found = Vec::new();
        for (n, (start, end)) in &self.log {
            let (before, written) = (self.before.get(n).copied().unwrap_or_default(), self.written(*n));
            if before.1 != written.start || written.end != *end {
                found.push(format!(
                    "partition {n}: the log ended at {}, [{}, {}) was acknowledged, it ends at {end}",
                    before.1, written.start, written.end
                ));
            }
            let read = self.read.get(n).copied().unwrap_or_default();
            if read.records != end.saturating_sub(*start) || read.holes > 0 {
                let log = end.saturating_sub(*start);
                found.push(format!(
                    "partition {n}: the log has {log} records, {} were read, {} at an unexpected offset",
                    read.records, read.holes
                ));
            }
            if read.sum != written.sum {
                found.push(format!(
                    "partition {n}: checksum {:016x} was written, {:016x} came back",
                    written.sum.0, read.sum.0
                ));
            }
        }
        if let Some(table) = &self.table {
            self.table_differences(table, &mut found);
        }
        found
    }

    fn table_differences(&self, table: &Table, found: &mut Vec<String>) {
        for (n, (start, end)) in &self.log {
            let next = table.offsets.get(n).copied().unwrap_or(0);
            if next != *end {
                found.push(format!("partition {n}: the log ends at {end}, the table at {next}"));
            }
            let (rows, written) = (table.found.rows.get(n).copied().unwrap_or_default(), self.written(*n));
            // Retention removes records from the log and keeps their rows in the table.
            if !(end.saturating_sub(*start)..=*end).contains(&rows.count) {
                found.push(format!("partition {n}: the log holds [{start}, {end}), the table {} rows", rows.count));
            }
            if rows.sum != written.sum {
                found.push(format!(
                    "partition {n}: checksum {:016x} was written, {:016x} is in the table",
                    written.sum.0, rows.sum.0
                ));
            }
        }
        let rows: u64 = table.found.rows.values().map(|rows| rows.count).sum();
        if rows != table.rows {
            found.push(format!("the table's snapshot says {} rows, its files hold {rows}", table.rows));
        }
        let (least, most) = (count(&self.log), self.log.values().map(|(_, end)| end).sum::<u64>());
        if !(least..=most).contains(&table.rows) {
            let log = if least == most { most.to_string() } else { format!("{least} of {most} ever written") };
            found.push(format!("the log holds {log} records, the table {} rows", table.rows));
        }
        found.extend(table.skipped.iter().map(|range| format!("left out of the table: {range}")));
    }

    fn written(&self, partition: i32) -> Written {
        self.written.get(&partition).copied().unwrap_or_default()
    }
}

/// Prints the comparison.
pub(super) fn print(outcome: &Outcome) -> Result<(), CliError> {
    let header =
        ["PARTITION", "WRITTEN NOW", "IN THE LOG", "READ BACK", "TABLE ROWS", "SUM WRITTEN", "SUM READ", "SUM TABLE"];
    let mut table = output::table(&header);
    let number = |n: u64| output::count(n);
    let sum = |sum: Checksum| format!("{:016x}", sum.0);
    for (n, (start, end)) in &outcome.log {
        let (written, read) = (outcome.written(*n), outcome.read.get(n).copied().unwrap_or_default());
        let rows = outcome.table.as_ref().map(|table| table.found.rows.get(n).copied().unwrap_or_default());
        table.add_row([
            n.to_string(),
            number(written.end.saturating_sub(written.start)),
            number(end.saturating_sub(*start)),
            number(read.records),
            rows.map_or("-".into(), |rows| number(rows.count)),
            sum(written.sum),
            sum(read.sum),
            rows.map_or("-".into(), |rows| sum(rows.sum)),
        ]);
    }
    let written = outcome.written.values().map(|w| w.end.saturating_sub(w.start)).sum();
    let read = outcome.read.values().map(|r| r.records).sum();
    let rows = outcome.table.as_ref().map_or("no table in this build".into(), |t| number(t.rows));
    let log = number(count(&outcome.log));
    table.add_row(["all".into(), number(written), log.clone(), number(read), rows]);
    output::line("")?;
    output::print(&table)?;
    output::line("")?;
    if outcome.differences().is_empty() {
        let what = if outcome.table.is_some() { "log, bucket and table" } else { "log and bucket" };
        output::line(&format!("{what} hold the same {log} records"))?;
    }
    Ok(())
}

/// Commands to try next, with this broker's addresses.
pub(super) fn next_steps(broker: &DemoBroker, topic: &str) -> Vec<String> {
    let DemoBroker { kafka, admin, bucket, .. } = broker;
    let mut lines = vec![
        String::new(),
        "The broker serves on; Ctrl-C stops it. Commands to try:".into(),
        String::new(),
        "# Kafka: the first five orders, from the bucket".into(),
        format!("kcat -C -b {kafka} -t {topic} -o beginning -c 5"),
        format!("tidewater topic consume {topic} --from earliest --count 5 --bootstrap {kafka} --admin {admin}"),
        "# the topic's state, and all counters of the broker".into(),
        format!("tidewater topic describe {topic} --bootstrap {kafka} --admin {admin}"),
        format!("curl http://{admin}/metrics"),
    ];
    let Some(catalog) = &broker.catalog else { return lines };
    lines.extend([
        String::new(),
        "# DuckDB".into(),
        "INSTALL iceberg; LOAD iceberg; INSTALL httpfs; LOAD httpfs;".into(),
    ]);
    if bucket.starts_with("s3://") {
        lines.push(
            "CREATE SECRET (TYPE s3, PROVIDER config, KEY_ID '<key>', SECRET '<secret>', REGION '<region>');".into(),
        );
    }
    lines.extend([
        format!("ATTACH 'tidewater' AS lake (TYPE iceberg, ENDPOINT 'http://{catalog}', AUTHORIZATION_TYPE 'none');"),
        format!(
            "SELECT decode(value)->>'$.item' AS item, count(*), sum((decode(value)->>'$.cents')::BIGINT) FROM lake.topics.{topic} GROUP BY ALL;"
        ),
        format!("SELECT item, sum(quantity * price), count(coupon) FROM lake.topics.{} GROUP BY ALL;", typed::TOPIC),
        format!("SELECT tidewater.offset, reason FROM lake.topics.\"{}~dlq\";", typed::TOPIC),
        String::new(),
        "# Trino: etc/catalog/lake.properties".into(),
        "connector.name=iceberg".into(),
        "iceberg.catalog.type=rest".into(),
        format!("iceberg.rest-catalog.uri=http://{catalog}"),
    ]);
    lines.extend(trino_store(bucket).iter().map(|line| (*line).to_owned()));
    lines.extend([
        "# then".into(),
        format!(
            "SELECT json_extract_scalar(from_utf8(value), '$.item') AS item, count(*) FROM lake.topics.{topic} GROUP BY 1;"
        ),
    ]);
    lines
}

/// Properties with which Trino reads the bucket's files.
fn trino_store(bucket: &str) -> &'static [&'static str] {
    match bucket.split_once("://").map_or("", |(scheme, _)| scheme) {
        "file" => &["fs.native-local.enabled=true", "local.location=/"],
        "s3" => &[
            "fs.native-s3.enabled=true",
            "s3.region=<region>",
            "# for a store that is not AWS: s3.endpoint=<url>, s3.path-style-access=true, s3.aws-access-key, s3.aws-secret-key",
        ],
        "gs" => &["fs.native-gcs.enabled=true"],
        "az" => &["fs.native-azure.enabled=true"],
        _ => &[],
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::demo::table::{Found, Rows};

    fn table(rows: u64) -> Table {
        let found = Found { files: 1, rows: BTreeMap::from([(0, Rows { count: rows, sum: Checksum(7) })]) };
        Table { rows, found, offsets: BTreeMap::from([(0, 15)]), skipped: Vec::new() }
    }

    fn good() -> Outcome {
        let sum = Checksum(7);
        Outcome {
            before: Bounds::from([(0, (0, 5))]),
            written: BTreeMap::from([(0, Written { start: 5, end: 15, sum })]),
            log: Bounds::from([(0, (0, 15))]),
            read: BTreeMap::from([(0, Read { records: 15, holes: 0, sum })]),
            table: Some(table(15)),
        }
    }

    #[test]
    fn equal_sides_have_no_difference() {
        assert_eq!(good().differences(), Vec::<String>::new());
        assert!(Outcome { table: None, ..good() }.differences().is_empty());
    }

    #[test]
    fn every_difference_is_reported() {
        let mut lost = good();
        lost.read.insert(0, Read { records: 14, holes: 1, sum: Checksum(8) });
        assert_eq!(lost.differences().len(), 2);
        let mut twice = good();
        twice.log.insert(0, (0, 16));
        assert_eq!(twice.differences().len(), 5);
        let mut rows = good();
        rows.table = Some(Table { skipped: vec!["0: [1, 2)".into()], ..table(16) });
        assert_eq!(rows.differences().len(), 3);
        let mut lying = good();
        lying.table = Some(Table { rows: 15, ..table(14) });
        assert_eq!(lying.differences().len(), 2);
    }

    #[test]
    fn rows_outlive_retention() {
        let mut aged = good();
        aged.log.insert(0, (10, 15));
        aged.read.insert(0, Read { records: 5, holes: 0, sum: Checksum(7) });
        assert!(aged.differences().is_empty());
    }
}
