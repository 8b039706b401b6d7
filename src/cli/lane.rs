//! `tidewater lane …`: over the admin port, for Kafka's protocol knows no lanes.

use std::time::Duration;

use clap::{Args, Subcommand};
use serde_json::Value;
use tokio::time::Instant;

use super::error::CliError;
use super::{Reading, admin_http, output};

/// How long `resume` watches what becomes of the lane: it may look at the bucket three times with ten seconds between.
const WATCH: Duration = Duration::from_secs(40);
const WATCH_PAUSE: Duration = Duration::from_millis(200);

#[derive(Debug, Subcommand)]
pub(super) enum LaneCommand {
    /// How the archiving of each lane is doing, and why it stands still
    List(Reading),
    /// Let a lane archive again whose archiving has stopped
    Resume(ResumeArgs),
}

#[derive(Debug, Args)]
pub(super) struct ResumeArgs {
    /// The lane, as lane list shows it
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
    match admin_http::get(admin, "/v1/lanes").await? {
        Some(Value::Array(lanes)) => Ok(lanes),
        _ => Err(CliError::Admin { addr: admin.to_owned(), why: "it does not know of lanes".to_owned() }),
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
        return output::line("no lane archives yet; tidewater cluster info tells how the bucket is");
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

/// Says so, and watches until the lane has looked at the bucket: a reason that is still there stops it again.
async fn resume(args: ResumeArgs) -> Result<(), CliError> {
    let ResumeArgs { lane, reading } = args;
    let admin = &reading.remote.admin;
    let answer = admin_http::post(admin, &format!("/v1/lanes/{lane}/resume")).await?;
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
    let why = text(&now, "reason").unwrap_or("it looks at the bucket still");
    match state {
        "archiving" => Ok(()),
        "stopped" => Err(CliError::Refused(format!("lane {lane} has stopped again: {why}"))),
        _ => Err(CliError::Refused(format!(
            "lane {lane} goes on but does not archive yet: {why}; see tidewater lane list"
        ))),
    }
}

/// The lane once it archives or has stopped, or as it is when patience ends.
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
