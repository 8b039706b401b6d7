//! `tidewater iceberg backfill`: waits until a table has everything that its topic had when the command began.
//!
//! A table begins at the start of its topic's log, however old that is, so there is nothing to be set up: this command
//! shows how far it is, and has the last records committed without the wait that `iceberg.target.lag.ms` allows. The
//! ends of the log come from the leaders, over Kafka; a broker that commits to a table knows only what is archived.

use std::collections::BTreeMap;
use std::io::IsTerminal;
use std::time::Duration;

use clap::Args;
use indicatif::{ProgressBar, ProgressStyle};
use serde_json::{Value, json};
use tokio::time::Instant;

use super::{FAILED_LOOKS_MAX, TABLES};
use crate::admin::TableStatus;
use crate::cli::Reading;
use crate::client::{Client, OffsetQuery};
use crate::console::{CliError, admin, output};

/// Between looks, each of which has the broker commit what it has.
const LOOK: Duration = Duration::from_secs(1);
/// A table that is paused and does not move for this long is given up.
const PATIENCE: Duration = Duration::from_secs(60);

#[derive(Debug, Args)]
pub(in crate::cli) struct BackfillArgs {
    /// A topic, or its table
    #[arg(value_name = "TOPIC|TABLE")]
    topic: String,
    /// Show how far the table is and return at once
    #[arg(long)]
    no_wait: bool,
    #[command(flatten)]
    reading: Reading,
}

/// The records of one partition, of which the table is to have all.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Span {
    partition: i32,
    start: u64,
    end: u64,
}

/// How far a table is in the records that it is to have.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Standing {
    done: u64,
    total: u64,
    /// Partition, the table's next offset, the end.
    partitions: Vec<(i32, u64, u64)>,
}

impl Standing {
    fn of(spans: &[Span], table: &BTreeMap<i32, u64>) -> Self {
        let mut standing = Self::default();
        for span in spans {
            let held = table.get(&span.partition).copied().unwrap_or(span.start).max(span.start);
            standing.done += held.min(span.end) - span.start;
            standing.total += span.end - span.start;
            standing.partitions.push((span.partition, held, span.end));
        }
        standing
    }

    fn left(&self) -> u64 {
        self.total - self.done
    }
}

/// The topic's table, which is woken.
async fn wake(addr: &str, topic: &str) -> Result<TableStatus, CliError> {
    let path = format!("{TABLES}/{topic}/backfill");
    admin::read(addr, &path, admin::post(addr, &path).await?)
}

fn offsets(status: &TableStatus) -> BTreeMap<i32, u64> {
    status.partitions.iter().map(|partition| (partition.partition, partition.offset)).collect()
}

/// What each partition has now.
async fn spans(bootstrap: &str, topic: &str) -> Result<Vec<Span>, CliError> {
    let mut client = Client::connect(bootstrap).await?;
    let all: Vec<i32> = client.topic(topic).await?.partitions.iter().map(|partition| partition.partition).collect();
    let starts: BTreeMap<i32, _> = client.list_offsets(topic, &all, OffsetQuery::Earliest).await?.into_iter().collect();
    let ends: BTreeMap<i32, _> = client.list_offsets(topic, &all, OffsetQuery::Latest).await?.into_iter().collect();
    let known = |offsets: &BTreeMap<i32, Option<u64>>, partition: i32| offsets.get(&partition).copied().flatten();
    let span = |partition| {
        let missing =
            || CliError::Refused(format!("partition {partition} of topic {topic} has no leader that answers"));
        let end = known(&ends, partition).ok_or_else(missing)?;
        let start = known(&starts, partition).ok_or_else(missing)?.min(end);
        Ok(Span { partition, start, end })
    };
    all.into_iter().map(span).collect()
}

/// Bytes of a record as it is stored, on average; `None` where the broker does not know.
async fn record_bytes(addr: &str, topic: &str) -> Option<f64> {
    let status = admin::get(addr, &format!("/v1/topics/{topic}")).await.ok()??;
    let (mut bytes, mut records) = (0, 0);
    for partition in status.get("partitions")?.as_array()? {
        let number = |key: &str| partition.get(key).and_then(Value::as_u64).unwrap_or(0);
        bytes += number("archived_bytes");
        records += number("archived_end_offset").saturating_sub(number("log_start_offset"));
    }
    #[allow(clippy::cast_precision_loss, reason = "an estimate")]
    (records > 0 && bytes > 0).then(|| bytes as f64 / records as f64)
}

fn bytes_of(records: u64, each: Option<f64>) -> Option<u64> {
    #[allow(
        clippy::cast_precision_loss,
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "an estimate"
    )]
    each.map(|each| (records as f64 * each) as u64)
}

pub(super) async fn run(args: BackfillArgs) -> Result<(), CliError> {
    let addr = &args.reading.remote.admin;
    let first = wake(addr, &args.topic).await?;
    let topic = first.topic.clone();
    let spans = spans(&args.reading.remote.bootstrap, &topic).await?;
    let each = record_bytes(addr, &topic).await;
    let standing = Standing::of(&spans, &offsets(&first));
    if args.no_wait {
        return show(&first, &standing, each, args.reading.json);
    }
    let begun = Instant::now();
    let last = wait(addr, &topic, &spans, each).await?;
    // The first look may have come before the sink's first.
    let written = last.done.saturating_sub(standing.done);
    let seconds = begun.elapsed().as_secs_f64();
    if args.reading.json {
        let mut document = document(&first, &last, each);
        document["written"] = json!(written);
        document["seconds"] = json!(seconds);
        return output::json(&document);
    }
    let rate = bytes_of(written, each).map_or_else(String::new, |bytes| format!(", about {}", output::bytes(bytes)));
    output::line(&format!(
        "the table of {topic} has all {} records that the topic had; {} were written in {seconds:.1} s{rate}",
        output::count(last.total),
        output::count(written)
    ))
}

fn document(status: &TableStatus, standing: &Standing, each: Option<f64>) -> Value {
    let partitions = standing.partitions.iter().map(|(partition, offset, end)| {
        json!({ "partition": partition, "table_offset": offset, "end": end, "left": end.saturating_sub(*offset) })
    });
    json!({
        "topic": status.topic, "table": status.table, "paused": status.paused,
        "records": standing.total, "left": standing.left(), "left_bytes": bytes_of(standing.left(), each),
        "partitions": partitions.collect::<Vec<_>>(),
    })
}

fn show(status: &TableStatus, standing: &Standing, each: Option<f64>, as_json: bool) -> Result<(), CliError> {
    if as_json {
        return output::json(&document(status, standing, each));
    }
    let mut rows = output::table(&["PARTITION", "TABLE OFFSET", "END", "LEFT"]);
    for (partition, offset, end) in &standing.partitions {
        let left = output::count(end.saturating_sub(*offset));
        rows.add_row([partition.to_string(), offset.to_string(), end.to_string(), left]);
    }
    output::print(&rows)?;
    let bytes =
        bytes_of(standing.left(), each).map_or_else(String::new, |bytes| format!(", about {}", output::bytes(bytes)));
    output::line(&format!(
        "{} of {} records left{bytes}",
        output::count(standing.left()),
        output::count(standing.total)
    ))?;
    status.paused.as_ref().map_or(Ok(()), |why| output::line(&format!("paused: {why}")))
}

/// Waits until the table has all of `spans`.
async fn wait(addr: &str, topic: &str, spans: &[Span], each: Option<f64>) -> Result<Standing, CliError> {
    let style =
        ProgressStyle::with_template("  {msg:30} {bar:30} {human_pos}/{human_len} records, {per_sec}, {eta} left");
    let bar = if std::io::stderr().is_terminal() { ProgressBar::new(0) } else { ProgressBar::hidden() };
    let bar = bar.with_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()));
    let (mut moved, mut before, mut failed) = (Instant::now(), None, 0);
    let ended = loop {
        match wake(addr, topic).await {
            Ok(status) => {
                failed = 0;
                let now = Standing::of(spans, &offsets(&status));
                if now.left() == 0 {
                    break Ok(now);
                }
                bar.set_length(now.total);
                if before.is_none() {
                    // What was there already says nothing about the rate.
                    bar.set_position(now.done);
                    bar.reset_eta();
                }
                bar.set_position(now.done);
                let bytes = bytes_of(now.left(), each).map(|bytes| format!(", {} left", output::bytes(bytes)));
                bar.set_message(format!("{topic}{}", bytes.unwrap_or_default()));
                if before.replace(now.done) != Some(now.done) {
                    moved = Instant::now();
                }
                if let Some(why) = status.paused.filter(|_| moved.elapsed() > PATIENCE) {
                    break Err(CliError::Refused(format!("the table of {topic} makes no progress: {why}")));
                }
            }
            Err(error) if failed >= FAILED_LOOKS_MAX => break Err(error),
            Err(_) => failed += 1,
        }
        tokio::time::sleep(LOOK).await;
    };
    bar.finish_and_clear();
    ended
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_table_has_all_when_each_partition_reaches_its_end() {
        let span = |partition, start, end| Span { partition, start, end };
        let spans = [span(0, 100, 200), span(1, 0, 50), span(2, 7, 7)];
        let nothing = Standing::of(&spans, &BTreeMap::new());
        assert_eq!((nothing.done, nothing.total, nothing.left()), (0, 150, 150));
        // Behind the log's start, as after retention, and beyond the end, as records come.
        let some = Standing::of(&spans, &[(0, 40), (1, 60)].into());
        assert_eq!((some.done, some.left()), (50, 100));
        assert_eq!(some.partitions, [(0, 100, 200), (1, 60, 50), (2, 7, 7)]);
        assert_eq!(Standing::of(&spans, &[(0, 200), (1, 50)].into()).left(), 0);
    }
}
