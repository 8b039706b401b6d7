//! `tidewater iceberg rewind`: takes a table back, over the admin port.
//!
//! An operator knows when a mistake began (`--at`), which record was the first one (`--to`, as dead letters name it),
//! or that the log ends earlier than the table (`--to log`). A snapshot's id is a time.

use clap::Args;
use serde_json::{Value, json};
use tidewater_storage::model::TimestampMs;

use super::TABLES;
use crate::cli::Reading;
use crate::console::{CliError, admin, output};
use crate::lakehouse::{LeavingRows, RewoundTables};

#[derive(Debug, Args)]
pub(in crate::cli) struct RewindArgs {
    /// A topic, or its table
    #[arg(value_name = "TOPIC|TABLE")]
    topic: String,
    /// How the table was then: the offsets of its newest snapshot at or before this time, such as 2026-11-29T10:00:00Z
    #[arg(long, value_name = "TIME", value_parser = time, required_unless_present = "to", conflicts_with = "to")]
    at: Option<TimestampMs>,
    /// The first offset of a partition to be written again, such as that of a dead letter; may be repeated, and the
    /// other partitions stay. Or log: what the log does not have leaves the table, after a restore of the cluster
    #[arg(long, value_name = "PARTITION:OFFSET|log", value_parser = back_to)]
    to: Vec<BackTo>,
    /// Show what would leave the table and be written again, and change nothing
    #[arg(long, alias = "dry-run")]
    plan: bool,
    /// Also where the log no longer has the records: their rows are lost
    #[arg(long)]
    force: bool,
    #[command(flatten)]
    reading: Reading,
}

/// A value of `--to`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum BackTo {
    Log,
    Offset(i32, u64),
}

fn back_to(text: &str) -> Result<BackTo, String> {
    let bad = || format!("{text:?}: write a partition, a colon and an offset, as 0:1500, or log");
    if text == "log" {
        return Ok(BackTo::Log);
    }
    let (partition, offset) = text.split_once(':').ok_or_else(bad)?;
    let partition = partition.parse().ok().filter(|partition| *partition >= 0).ok_or_else(bad)?;
    Ok(BackTo::Offset(partition, offset.parse().map_err(|_| bad())?))
}

fn time(text: &str) -> Result<TimestampMs, String> {
    let time: jiff::Timestamp =
        text.parse().map_err(|_| format!("{text:?} is not a time like 2026-11-29T10:00:00Z"))?;
    Ok(TimestampMs(time.as_millisecond()))
}

/// The body of the request.
fn rewind_body(args: &RewindArgs) -> Result<Value, CliError> {
    let mut body = json!({ "plan": args.plan, "force": args.force });
    let mut offsets = serde_json::Map::new();
    for to in &args.to {
        match to {
            BackTo::Log if args.to.len() > 1 => {
                return Err(CliError::Usage("--to log is for all partitions: name no others".into()));
            }
            BackTo::Log => body["to_log"] = json!(true),
            BackTo::Offset(partition, offset) => {
                if offsets.insert(partition.to_string(), json!(offset)).is_some() {
                    return Err(CliError::Usage(format!("--to names partition {partition} twice")));
                }
            }
        }
    }
    if !offsets.is_empty() {
        body["offsets"] = Value::Object(offsets);
    }
    if let Some(at) = args.at {
        body["at_ms"] = json!(at.0);
    }
    Ok(body)
}

pub(super) async fn run(args: RewindArgs) -> Result<(), CliError> {
    let (addr, path) = (&args.reading.remote.admin, format!("{TABLES}/{}/rewind", args.topic));
    let answer = admin::post_json_within(addr, &path, &rewind_body(&args)?, admin::LONG).await?;
    if args.reading.json {
        return output::json(&answer);
    }
    let done: RewoundTables = admin::read(addr, &path, answer)?;
    if done.partitions.is_empty() {
        return output::line(&format!("nothing to do: {} has nothing beyond that", done.table));
    }
    if let Some(at) = done.snapshot_at_ms {
        let snapshot = done.snapshot.map_or_else(String::new, |id| format!(" {id}"));
        output::line(&format!("to snapshot{snapshot} of {}", output::when(TimestampMs(at))))?;
    }
    let mut rows = output::table(&["PARTITION", "FROM OFFSET", "BACK TO", "WRITTEN AGAIN", "LOST"]);
    for step in &done.partitions {
        let again = step.from.saturating_sub(step.to).saturating_sub(step.lost);
        let offsets = [step.from, step.to].map(|offset| offset.to_string());
        let [from, to] = offsets;
        rows.add_row([step.partition.to_string(), from, to, output::count(again), output::count(step.lost)]);
    }
    output::print(&rows)?;
    let verb = if done.plan { "would leave" } else { "left" };
    output::line(&leaving(&done.table, verb, &done.leaving))?;
    if let (Some(dead), Some(found)) = (&done.dead_letters, &done.dead_letters_leaving) {
        output::line(&leaving(dead, verb, found))?;
    }
    match done.plan {
        true => output::line("nothing was changed"),
        false => output::line(&format!(
            "{} is filled again; tidewater iceberg status {} shows its lag",
            done.table, done.topic
        )),
    }
}

fn leaving(table: &str, verb: &str, found: &LeavingRows) -> String {
    let LeavingRows { rows, files, rewritten_files, bytes } = *found;
    let of = format!("{} files of {}", output::count(files), output::bytes(bytes));
    let again = match rewritten_files {
        0 => String::new(),
        n => format!(", {} of which are written again with the rows that stay", output::count(n)),
    };
    format!("{} rows {verb} {table}, in {of}{again}", output::count(rows))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn where_a_table_goes_back_to_is_an_offset_of_a_partition_or_the_log() {
        assert_eq!(back_to("3:1500"), Ok(BackTo::Offset(3, 1500)));
        assert_eq!(back_to("log"), Ok(BackTo::Log));
        for bad in ["", "3", "3:", ":5", "-1:5", "1:-5", "latest", "1:2:3"] {
            assert!(back_to(bad).is_err(), "{bad}");
        }
        assert!(time("2026-11-29T10:00:00Z").is_ok() && time("yesterday").is_err());
    }
}
