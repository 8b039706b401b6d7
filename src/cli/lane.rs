//! `tidewater lane …`: over the admin port, since the Kafka protocol has no lanes.

use std::time::Duration;

use clap::{Args, Subcommand};
use serde_json::Value;
use tokio::time::Instant;

use super::Reading;
use crate::admin::lanes::{LaneState, LaneStatus};
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

const LANES: &str = "/v1/lanes";

/// The lanes: as the admin port gives them, and as this version reads them.
async fn lanes(admin: &str) -> Result<(Value, Vec<LaneStatus>), CliError> {
    let found = admin::get(admin, LANES).await?;
    let why = || CliError::Admin { addr: admin.to_owned(), why: "it does not list lanes".to_owned() };
    let document = found.ok_or_else(why)?;
    let lanes = admin::read(admin, LANES, document.clone())?;
    Ok((document, lanes))
}

async fn list(args: Reading) -> Result<(), CliError> {
    let (document, lanes) = lanes(&args.remote.admin).await?;
    if args.json {
        return output::json(&document);
    }
    if lanes.is_empty() {
        return output::line("no lane archives now; tidewater cluster info shows the state of the bucket");
    }
    let mut table = output::table(&["LANE", "SHARD", "STATE", "LAST BUNDLE", "UNREADABLE", "REASON"]);
    for lane in lanes {
        table.add_row([
            lane.lane.to_string(),
            lane.shard.to_string(),
            lane.state.to_string(),
            lane.last_bundle.map_or("-".to_owned(), |bundle| bundle.to_string()),
            lane.unreadable_partitions.to_string(),
            lane.reason.unwrap_or_else(|| "-".to_owned()),
        ]);
    }
    output::print(&table)
}

/// Resumes the lane and watches until it has looked at the bucket: if the reason is still there, it stops again.
async fn resume(args: ResumeArgs) -> Result<(), CliError> {
    let ResumeArgs { lane, reading } = args;
    let admin = &reading.remote.admin;
    let answer = admin::post(admin, &format!("{LANES}/{lane}/resume")).await?;
    let Some(had) = answer.get("had_stopped").and_then(Value::as_str) else {
        if reading.json {
            return output::json(&answer);
        }
        return output::line(&format!("lane {lane} was not stopped"));
    };
    let now = watch(admin, lane).await?;
    if reading.json {
        output::json(&serde_json::json!({ "lane": lane, "had_stopped": had, "now": now }))?;
    } else if now.state == LaneState::Archiving {
        output::line(&format!("lane {lane} archives again; it had stopped: {had}"))?;
    }
    let why = now.reason.as_deref().unwrap_or("it is still looking at the bucket");
    match now.state {
        LaneState::Archiving => Ok(()),
        LaneState::Stopped => Err(CliError::Refused(format!("lane {lane} has stopped again: {why}"))),
        LaneState::Looking | LaneState::Failing => Err(CliError::Refused(format!(
            "lane {lane} is resumed but does not archive yet: {why}; see tidewater lane list"
        ))),
    }
}

/// The lane's row once it archives or has stopped, or its last row after [`WATCH`].
async fn watch(admin: &str, lane: u32) -> Result<LaneStatus, CliError> {
    let until = Instant::now() + WATCH;
    loop {
        let (_, rows) = lanes(admin).await?;
        let now = rows.into_iter().find(|row| row.lane == lane);
        let is_late = Instant::now() >= until;
        match now {
            Some(now) if is_late || matches!(now.state, LaneState::Archiving | LaneState::Stopped) => return Ok(now),
            None if is_late => {
                let why = format!("lane {lane} is resumed, but the broker at {admin} archives it no longer");
                return Err(CliError::Refused(why));
            }
            _ => tokio::time::sleep(WATCH_PAUSE).await,
        }
    }
}
