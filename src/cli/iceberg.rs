//! `tidewater iceberg …`: the tables of topics, over the admin port, since the Kafka protocol has no tables.

use std::io::IsTerminal;
use std::time::Duration;

use clap::{Args, Subcommand};
use indicatif::{ProgressBar, ProgressStyle};
use serde_json::{Value, json};
use tidewater_storage::model::TimestampMs;

use adopt::AdoptArgs;
use backfill::BackfillArgs;
use check_catalog::CheckCatalogArgs;
use rewind::RewindArgs;

use super::Reading;
use crate::admin::TableStatus;
use crate::console::{CliError, admin, output};
use crate::lakehouse::{Compaction, DeadLettersState};

mod adopt;
mod backfill;
mod check_catalog;
mod rewind;

const TABLES: &str = "/v1/iceberg";
/// Between looks at a run.
const LOOK: Duration = Duration::from_millis(200);
/// Looks that may fail in a row.
const FAILED_LOOKS_MAX: u32 = 60;

#[derive(Debug, Subcommand)]
pub(super) enum IcebergCommand {
    /// The tables: lag, data files, small files, the last compaction
    Status(StatusArgs),
    /// Write small data files of a table again as few large ones, now
    Compact(CompactArgs),
    /// Expire the snapshots that the table's settings no longer keep, now, and delete their files
    Expire(TableArgs),
    /// Go on in a table that another program made: its rows stay, the topic's records are added to it
    Adopt(AdoptArgs),
    /// Write a table no longer and give it up: the topic has none from then on, the table stays with all rows and is an
    /// engine's
    Detach(TableArgs),
    /// Wait, with a progress bar, until a table has everything that its topic has now
    Backfill(BackfillArgs),
    /// Take a table and its dead letters back to an earlier point; it is filled again from there, as schemas and
    /// settings are now
    Rewind(RewindArgs),
    /// Try an external catalog with a scratch table: whether the tables of topics can be there; needs no broker
    CheckCatalog(CheckCatalogArgs),
}

#[derive(Debug, Args)]
pub(super) struct StatusArgs {
    /// Only of this topic, with more about it
    topic: Option<String>,
    #[command(flatten)]
    reading: Reading,
}

#[derive(Debug, Args)]
pub(super) struct CompactArgs {
    /// A topic, or its table
    #[arg(value_name = "TOPIC|TABLE")]
    topic: String,
    /// Return at once; `iceberg status` shows how far it is
    #[arg(long)]
    no_wait: bool,
    #[command(flatten)]
    reading: Reading,
}

#[derive(Debug, Args)]
pub(super) struct TableArgs {
    /// A topic, or its table
    #[arg(value_name = "TOPIC|TABLE")]
    topic: String,
    #[command(flatten)]
    reading: Reading,
}

pub(super) async fn run(command: IcebergCommand) -> Result<(), CliError> {
    match command {
        IcebergCommand::Status(StatusArgs { topic: None, reading }) => list(reading).await,
        IcebergCommand::Status(StatusArgs { topic: Some(topic), reading }) => describe(&topic, &reading).await,
        IcebergCommand::Compact(args) => compact(args).await,
        IcebergCommand::Expire(args) => expire(args).await,
        IcebergCommand::Adopt(args) => adopt::run(args).await,
        IcebergCommand::Detach(args) => detach(args).await,
        IcebergCommand::Backfill(args) => backfill::run(args).await,
        IcebergCommand::Rewind(args) => rewind::run(args).await,
        IcebergCommand::CheckCatalog(args) => check_catalog::run(args).await,
    }
}

/// The document at a path below [`TABLES`]; a topic without a table is refused.
async fn get(addr: &str, topic: &str) -> Result<Value, CliError> {
    let found = admin::get(addr, &format!("{TABLES}/{topic}")).await?;
    found.ok_or_else(|| CliError::Refused(format!("topic {topic} does not exist, or has no table")))
}

async fn table(addr: &str, topic: &str) -> Result<TableStatus, CliError> {
    admin::read(addr, TABLES, get(addr, topic).await?)
}

async fn list(reading: Reading) -> Result<(), CliError> {
    let addr = &reading.remote.admin;
    let found = admin::get(addr, TABLES).await?;
    let older = || CliError::Refused(format!("the broker at {addr} lists no tables; it may be of an older version"));
    let document = found.ok_or_else(older)?;
    if reading.json {
        return output::json(&document);
    }
    let tables: Vec<TableStatus> = admin::read(addr, TABLES, document)?;
    if tables.is_empty() {
        return output::line("no topic has a table; set iceberg.mode with tidewater topic alter to make one");
    }
    let mut rows = output::table(&["TOPIC", "BROKER", "LAG", "FILES", "BYTES", "SMALL", "DUE", "LAST COMPACTION"]);
    for table in tables {
        let files = table.files.clone().filter(|files| files.seen);
        let count = |read: fn(&Compaction) -> u64| files.as_ref().map_or("-".to_owned(), |f| output::count(read(f)));
        rows.add_row([
            table.topic,
            table.broker.map_or("-".to_owned(), |id| id.to_string()),
            table.lag_records.map_or("-".to_owned(), output::count),
            count(|files| files.files),
            files.as_ref().map_or("-".to_owned(), |files| output::bytes(files.bytes)),
            count(|files| files.small_files),
            count(|files| files.due_files),
            files.as_ref().map_or("-".to_owned(), last),
        ]);
    }
    output::print(&rows)
}

/// When a table was last compacted, for a table of tables.
fn last(files: &Compaction) -> String {
    files.last.map_or("-".to_owned(), |last| output::when(TimestampMs(last.at_ms)))
}

async fn describe(topic: &str, reading: &Reading) -> Result<(), CliError> {
    let addr = &reading.remote.admin;
    if reading.json {
        return output::json(&get(addr, topic).await?);
    }
    let status = table(addr, topic).await?;
    let line = |label: &str, value: String| output::line(&format!("{label:<14}{value}"));
    line("topic", status.topic.clone())?;
    line("table", status.table.clone().unwrap_or_else(|| "-".to_owned()))?;
    line("broker", status.broker.map_or("none commits to it now".to_owned(), |id| id.to_string()))?;
    line("mode", modes(&status))?;
    if let Some(why) = &status.paused {
        line("paused", why.clone())?;
    }
    if let Some(order) = status.sort_order {
        line("sorted by", order)?;
    }
    status.lacking.into_iter().try_for_each(|why| line("lacking", why))?;
    if let Some(dead) = status.dead_letters {
        line("dead letters", dead_letters(&dead))?;
    }
    line("compaction", if status.compaction { "on" } else { "off (iceberg.compaction)" }.to_owned())?;
    let Some(files) = status.files.filter(|files| files.seen) else {
        return line("files", "not counted yet; the broker that commits to the table knows them".to_owned());
    };
    line("lag", format!("{} records", status.lag_records.map_or("-".to_owned(), output::count)))?;
    line("files", format!("{}, {}", output::count(files.files), output::bytes(files.bytes)))?;
    line(
        "small",
        format!(
            "{} below three quarters of {}: {} are due, {} are of an hour that is not over or too new",
            output::count(files.small_files),
            output::bytes(files.target_bytes),
            output::count(files.due_files),
            output::count(files.waiting_files)
        ),
    )?;
    if let Some(last) = files.last {
        line("compacted", summary_of(last.files_in, last.files_out, last.bytes_in, last.bytes_out))?;
        line("", format!("at {}", output::when(TimestampMs(last.at_ms))))?;
    }
    match files.reason {
        Some(why) => line("left", why),
        None => Ok(()),
    }
}

/// `iceberg.mode`, and `iceberg.key.mode` beside it.
fn modes(status: &TableStatus) -> String {
    match status.key_mode.as_str() {
        // Of a broker of an older version.
        "" => "-".to_owned(),
        "binary" => status.mode.clone(),
        key => format!("{}, keys {key}", status.mode),
    }
}

fn dead_letters(dead: &DeadLettersState) -> String {
    let rows = dead.rows.unwrap_or(0);
    let mut text = format!("{} in {}", output::count(rows), dead.table);
    if let Some(last) = &dead.last {
        text.push_str(&format!("; the last: partition {} offset {}: {}", last.partition, last.offset, last.reason));
    }
    text
}

fn summary_of(files_in: u64, files_out: u64, bytes_in: u64, bytes_out: u64) -> String {
    format!(
        "{} files of {} became {} of {}",
        output::count(files_in),
        output::bytes(bytes_in),
        output::count(files_out),
        output::bytes(bytes_out)
    )
}

async fn compact(args: CompactArgs) -> Result<(), CliError> {
    let CompactArgs { topic, no_wait, reading } = args;
    let addr = &reading.remote.admin;
    let begun = admin::post(addr, &format!("{TABLES}/{topic}/compact")).await?;
    let before: TableStatus = admin::read(addr, TABLES, begun.clone())?;
    if no_wait {
        return match reading.json {
            true => output::json(&begun),
            false => output::line(&format!("compaction of the table of {topic} is asked for")),
        };
    }
    let Some(before) = before.files else {
        return Err(CliError::Refused(format!(
            "the broker that answered does not commit to the table of {topic}; give --admin of the one that tidewater iceberg \
             status shows in BROKER"
        )));
    };
    let after = wait(addr, &topic, &before).await?;
    let since = |after: u64, before: u64| after.checked_sub(before).ok_or_else(|| started_again(&topic));
    let (files_in, files_out) = (since(after.files_in, before.files_in)?, since(after.files_out, before.files_out)?);
    let (bytes_in, bytes_out) = (since(after.bytes_in, before.bytes_in)?, since(after.bytes_out, before.bytes_out)?);
    if reading.json {
        return output::json(&json!({
            "topic": topic, "files_in": files_in, "files_out": files_out, "bytes_in": bytes_in, "bytes_out": bytes_out,
            "table": after,
        }));
    }
    match (files_in, after.reason) {
        (0, Some(why)) => Err(CliError::Refused(format!("the table of {topic} was not compacted: {why}"))),
        (0, None) => output::line(&format!(
            "nothing to compact: {} small files, of which {} are too new or of an hour that is not over",
            output::count(after.small_files),
            output::count(after.waiting_files)
        )),
        (_, why) => {
            output::line(&summary_of(files_in, files_out, bytes_in, bytes_out))?;
            why.map_or(Ok(()), |why| output::line(&format!("left as they are: {why}")))
        }
    }
}

/// The broker counts from its start, and forgets what it was asked before.
fn started_again(topic: &str) -> CliError {
    CliError::Refused(format!(
        "the broker that compacts the table of {topic} was started again meanwhile; see tidewater iceberg status \
         {topic}, and ask again"
    ))
}

/// Waits until one more of the runs that were asked for is done than `before`.
async fn wait(addr: &str, topic: &str, before: &Compaction) -> Result<Compaction, CliError> {
    let style = ProgressStyle::with_template("  {msg:32} {bar:40} {bytes}/{total_bytes}");
    let bar = if std::io::stderr().is_terminal() { ProgressBar::new(0) } else { ProgressBar::hidden() };
    let bar = bar.with_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()));
    bar.set_message(format!("small files of {topic}"));
    let mut failed = 0;
    loop {
        match table(addr, topic).await {
            Ok(TableStatus { files: None, .. }) => {
                bar.finish_and_clear();
                let why = format!("another broker commits to the table of {topic} now; ask again there");
                return Err(CliError::Refused(why));
            }
            Ok(TableStatus { files: Some(files), .. }) => {
                failed = 0;
                if files.since_ms != before.since_ms {
                    bar.finish_and_clear();
                    return Err(started_again(topic));
                }
                if files.ordered > before.ordered {
                    bar.finish_and_clear();
                    return Ok(files);
                }
                if let Some(progress) = files.progress {
                    bar.set_length(progress.bytes);
                    bar.set_position(progress.bytes_read);
                }
            }
            Err(error) if failed >= FAILED_LOOKS_MAX => {
                bar.finish_and_clear();
                return Err(error);
            }
            Err(_) => failed += 1,
        }
        tokio::time::sleep(LOOK).await;
    }
}

async fn expire(args: TableArgs) -> Result<(), CliError> {
    let TableArgs { topic, reading } = args;
    let path = format!("{TABLES}/{topic}/expire");
    let done = admin::post_json_within(&reading.remote.admin, &path, &json!({}), admin::LONG).await?;
    if reading.json {
        return output::json(&done);
    }
    let expired = done.get("expired_snapshots").and_then(Value::as_u64);
    let expired = expired.ok_or_else(|| CliError::Refused("the broker does not say how many expired".to_owned()))?;
    output::line(&format!("{} snapshots of the table of {topic} expired", output::count(expired)))
}

async fn detach(args: TableArgs) -> Result<(), CliError> {
    let TableArgs { topic, reading } = args;
    let path = format!("{TABLES}/{topic}/detach");
    let done = admin::post_json_within(&reading.remote.admin, &path, &json!({}), admin::LONG).await?;
    if reading.json {
        return output::json(&done);
    }
    let name = |key: &str| done.get(key).and_then(Value::as_str);
    let table =
        name("table").ok_or_else(|| CliError::Refused("the broker does not say which table it was".to_owned()))?;
    output::line(&format!("{table} was given up: Tidewater writes it no longer, and iceberg.mode is disabled"))?;
    name("dead_letters").map_or(Ok(()), |dead| output::line(&format!("{dead} was given up as well")))
}
