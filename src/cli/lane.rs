//! `tidewater lane …`: over the admin port, since the Kafka protocol has no lanes.

use std::time::Duration;

use clap::{Args, Subcommand};
use serde_json::Value;
use tokio::time::Instant;

use super::Reading;
use crate::console::{CliError, admin, output};

/// How long `resume` watches the lane, which may look at the bucket three times with ten seconds between.
const WATCH: Duration = Duration::from_secs(40);
const WATCH_PAUSE: Duration = Duration::from_millis(200);

#[derive(Debug, Subcommand)]
pub(super) enum LaneCommand {
    /// State of each lane's archiving, with the reason if it fails or has stopped
    List(Reading),
    /// Resume the archiving of a stopped lane
    Resume(ResumeArgs),
}

#[derive(Debug, Args)]
pub(super) struct ResumeArgs {
    /// The lane's number in lane list
    lane: u32,
    #[command(flatten)]
    reading: Reading,
}

pub(super) async fn run(command: LaneCommand) -> Result<(), CliError> {
    match command {
        LaneCommand::List(args) => list(args).await,
        LaneCommand::Resume(args) => resume(args).await,
    }
}

async fn lanes(admin: &str) -> Result<Vec<Value>, CliError> {
    match admin::get(admin, "/v1/lanes").await? {
        Some(Value::Array(lanes)) => Ok(lanes),
        _ => Err(CliError::Admin { addr: admin.to_owned(), why: "it does not list lanes".to_owned() }),
    }
}

fn text<'a>(lane: &'a Value, key: &str) -> Option<&'a str> {
    lane.get(key).and_then(Value::as_str)
}

async fn list(args: Reading) -> Result<(), CliError> {
    let lanes = lanes(&args.remote.admin).await?;
    if args.json {
        return output::json(&lanes);
    }
    if lanes.is_empty() {
        return output::line("no lane archives yet; tidewater cluster info shows the state of the bucket");
    }
    let mut table = output::table(&["LANE", "SHARD", "STATE", "LAST BUNDLE", "UNREADABLE", "REASON"]);
    for lane in &lanes {
        let number = |key: &str| lane.get(key).and_then(Value::as_u64).map_or("-".to_owned(), |n| n.to_string());
        let word = |key: &str| text(lane, key).unwrap_or("-").to_owned();
        let cells = [
            number("lane"),
            number("shard"),
            word("state"),
            number("last_bundle"),
            number("unreadable_partitions"),
            word("reason"),
        ];
        table.add_row(cells);
    }
    output::print(&table)
}

/// Resumes the lane and watches until it has looked at the bucket: if the reason is still there, it stops again.
async fn resume(args: ResumeArgs) -> Result<(), CliError> {
    let ResumeArgs { lane, reading } = args;
    let admin = &reading.remote.admin;
    let answer = admin::post(admin, &format!("/v1/lanes/{lane}/resume")).await?;
    let Some(had) = text(&answer, "had_stopped") else {
        if reading.json {
            return output::json(&answer);
        }
        return output::line(&format!("lane {lane} was not stopped"));
    };
    let now = watch(admin, lane).await?;
    let state = text(&now, "state").unwrap_or_default();
    if reading.json {
        output::json(&serde_json::json!({ "lane": lane, "had_stopped": had, "now": now }))?;
    } else if state == "archiving" {
        output::line(&format!("lane {lane} archives again; it had stopped: {had}"))?;
    }
    let why = text(&now, "reason").unwrap_or("it is still looking at the bucket");
    match state {
        "archiving" => Ok(()),
        "stopped" => Err(CliError::Refused(format!("lane {lane} has stopped again: {why}"))),
        _ => Err(CliError::Refused(format!(
            "lane {lane} is resumed but does not archive yet: {why}; see tidewater lane list"
        ))),
    }
}

/// The lane's row once it archives or has stopped, or its last row after [`WATCH`].
async fn watch(admin: &str, lane: u32) -> Result<Value, CliError> {
    let until = Instant::now() + WATCH;
    loop {
        let found =
            lanes(admin).await?.into_iter().find(|row| row.get("lane").and_then(Value::as_u64) == Some(lane.into()));
        let now = found.unwrap_or_default();
        if matches!(text(&now, "state"), Some("archiving" | "stopped")) || Instant::now() >= until {
            return Ok(now);
        }
        tokio::time::sleep(WATCH_PAUSE).await;
    }
}
