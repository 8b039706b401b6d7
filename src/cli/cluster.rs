//! `tidewater cluster …`: one broker's own state by the Kafka protocol and the admin port; the state of all brokers by
//! any admin port (`health` in a file of its own).

mod health;

use std::time::Duration;

use clap::{Args, Subcommand};
use indicatif::{ProgressBar, ProgressStyle};
use serde_json::Value;
use tokio::time::Instant;

use super::{Reading, Remote};
use crate::client::Client;
use crate::console::{CliError, admin, output};

/// Between two looks at a cluster that grows.
const GROW_PAUSE: Duration = Duration::from_millis(500);

#[derive(Debug, Subcommand)]
pub(super) enum ClusterCommand {
    /// Id, brokers, bucket
    Info(Reading),
    /// What is wrong with the cluster, and what to do; exit code 1 unless it is healthy
    Health(health::HealthArgs),
    /// The brokers: addresses, racks, leaders, disk
    Brokers(Reading),
    /// The partitions: leader, replicas, which of them are in sync
    Partitions(PartitionsArgs),
    /// Have another broker lead a lane, or the lane of a partition
    TransferLeadership(TransferArgs),
    /// Give all lanes more replicas, once there are enough brokers; the cluster serves meanwhile
    Grow(GrowArgs),
}

#[derive(Debug, Args)]
pub(super) struct PartitionsArgs {
    /// Only of this topic
    topic: Option<String>,
    /// Only those that are not healthy
    #[arg(long)]
    unhealthy: bool,
    #[command(flatten)]
    reading: Reading,
}

#[derive(Debug, Args)]
pub(super) struct TransferArgs {
    /// A lane's number, or TOPIC:PARTITION; all partitions of a lane move together
    #[arg(value_name = "LANE|TOPIC:PARTITION")]
    lane: String,
    /// The broker that shall lead
    #[arg(value_name = "BROKER")]
    to: i32,
    #[command(flatten)]
    reading: Reading,
}

#[derive(Debug, Args)]
pub(super) struct GrowArgs {
    /// Replicas of every partition: 3 or 5
    #[arg(long, short, default_value_t = 3, value_name = "N")]
    replication_factor: u16,
    /// Return at once; `cluster health` shows when it is done
    #[arg(long)]
    no_wait: bool,
    #[command(flatten)]
    remote: Remote,
}

pub(super) async fn run(command: ClusterCommand) -> Result<(), CliError> {
    match command {
        ClusterCommand::Info(args) => info(args).await,
        ClusterCommand::Health(args) => health::run(args).await,
        ClusterCommand::Brokers(args) => brokers(args).await,
        ClusterCommand::Partitions(args) => partitions(args).await,
        ClusterCommand::TransferLeadership(args) => transfer(args).await,
        ClusterCommand::Grow(args) => grow(args).await,
    }
}

async fn info(args: Reading) -> Result<(), CliError> {
    let cluster = Client::connect(&args.remote.bootstrap).await?.cluster().await?;
    // Kafka's answer alone is a success; the admin port adds the rest if it can be reached.
    let status = admin::get(&args.remote.admin, "/v1/cluster").await;
    if args.json {
        let (status, error) = admin::answer_or_error(status);
        return output::json(&serde_json::json!({ "kafka": cluster, "admin": status, "admin_error": error }));
    }
    output::line(&format!("cluster     {}", cluster.cluster_id))?;
    match status {
        Ok(Some(status)) => {
            for (label, key) in [
                ("name", "name"),
                ("bucket", "bucket"),
                ("bucket is", "bucket_state"),
                ("topics", "topics"),
                ("partitions", "partitions"),
            ] {
                let value = status.get(key).map(|v| v.as_str().map_or_else(|| v.to_string(), ToOwned::to_owned));
                output::line(&format!("{label:<11} {}", value.unwrap_or_default()))?;
            }
            figures(&status)?;
        }
        Ok(None) => {}
        Err(error) => eprintln!("tidewater: {error}"),
    }
    for broker in &cluster.brokers {
        let role = if broker.id == cluster.controller { " (controller)" } else { "" };
        let rack = broker.rack.as_ref().map(|rack| format!(" rack {rack}")).unwrap_or_default();
        output::line(&format!("broker {:<4} {}:{}{rack}{role}", broker.id, broker.host, broker.port))?;
    }
    Ok(())
}

/// Connections, disk usage and archive lag.
fn figures(status: &Value) -> Result<(), CliError> {
    let size = |key: &str| output::bytes(number(status, key).unwrap_or_default());
    output::line(&format!("connections {}", number(status, "connections").unwrap_or_default()))?;
    output::line(&format!(
        "disk        {} of {} used, {} left for producers",
        size("disk_used_bytes"),
        size("disk_limit_bytes"),
        size("disk_admissible_bytes")
    ))?;
    let behind = match number(status, "archive_lag_bytes") {
        None | Some(0) => "all committed records are in the bucket".to_owned(),
        Some(bytes) => format!(
            "{} not in the bucket yet, the oldest for {}",
            output::bytes(bytes),
            output::millis(number(status, "archive_lag_ms").unwrap_or_default())
        ),
    };
    output::line(&format!("archive     {behind}"))
}

fn number(value: &Value, key: &str) -> Option<u64> {
    value.get(key).and_then(Value::as_u64)
}

fn text<'a>(value: &'a Value, key: &str) -> Option<&'a str> {
    value.get(key).and_then(Value::as_str)
}

/// A field for a table; `-` for none.
fn shown(value: &Value, key: &str) -> String {
    match value.get(key) {
        None | Some(Value::Null) => "-".to_owned(),
        Some(Value::String(text)) => text.clone(),
        Some(Value::Array(list)) => list.iter().map(ToString::to_string).collect::<Vec<_>>().join(","),
        Some(other) => other.to_string(),
    }
}

fn rows(value: Value) -> Vec<Value> {
    if let Value::Array(rows) = value { rows } else { Vec::new() }
}

/// A document of the admin port that every broker of this version has.
async fn get(addr: &str, path: &str) -> Result<Value, CliError> {
    let found = admin::get(addr, path).await?;
    found.ok_or_else(|| CliError::Refused(format!("the broker at {addr} has no {path}; it may be of an older version")))
}

async fn brokers(args: Reading) -> Result<(), CliError> {
    let brokers = get(&args.remote.admin, "/v1/cluster/brokers").await?;
    if args.json {
        return output::json(&brokers);
    }
    let header = ["BROKER", "KAFKA", "RPC", "RACK", "STATE", "LEADS", "REPLICAS", "DISK USED", "DISK LEFT", "RTT"];
    let mut table = output::table(&header);
    let mut notes = Vec::new();
    for row in rows(brokers) {
        let size = |key: &str| number(&row, key).map_or("-".to_owned(), output::bytes);
        let is = |key: &str| row.get(key).and_then(Value::as_bool) == Some(true);
        let rebuild = row.get("rebuild").filter(|rebuild| !rebuild.is_null());
        let state = match (is("reachable"), is("controller"), rebuild) {
            (true, true, _) => "controller".to_owned(),
            (true, false, Some(rebuild)) => {
                format!("rebuilding {}/{}", shown(rebuild, "replicas_done"), shown(rebuild, "replicas"))
            }
            (true, false, None) => "up".to_owned(),
            (false, ..) => "away".to_owned(),
        };
        let rtt = number(&row, "rtt_us").map_or("-".to_owned(), |us| format!("{:.1}ms", us as f64 / 1000.0));
        notes.extend(text(&row, "reason").map(|why| format!("broker {}: {why}", shown(&row, "id"))));
        table.add_row([
            shown(&row, "id"),
            shown(&row, "kafka"),
            shown(&row, "rpc"),
            shown(&row, "rack"),
            state,
            shown(&row, "lanes_led"),
            shown(&row, "replicas"),
            size("disk_used_bytes"),
            size("disk_admissible_bytes"),
            rtt,
        ]);
    }
    output::print(&table)?;
    notes.iter().try_for_each(|note| output::line(note))
}

async fn partitions(args: PartitionsArgs) -> Result<(), CliError> {
    let path = match &args.topic {
        Some(topic) => format!("/v1/cluster/partitions?topic={topic}"),
        None => "/v1/cluster/partitions".to_owned(),
    };
    let found = admin::get(&args.reading.remote.admin, &path).await?;
    let found = found.ok_or_else(|| match &args.topic {
        Some(topic) => crate::client::ClientError::UnknownTopic(topic.clone()).into(),
        None => CliError::Refused("the broker does not list partitions; it may be of an older version".to_owned()),
    })?;
    let mut rows = rows(found);
    if args.unhealthy {
        rows.retain(|row| text(row, "state") != Some("healthy"));
    }
    if args.reading.json {
        return output::json(&rows);
    }
    if rows.is_empty() && args.unhealthy {
        return output::line("all partitions are healthy");
    }
    let keys = ["topic", "partition", "lane", "leader", "leader_epoch", "replicas", "in_sync", "state"];
    let mut table = output::table(&["TOPIC", "PARTITION", "LANE", "LEADER", "EPOCH", "REPLICAS", "IN SYNC", "STATE"]);
    for row in &rows {
        table.add_row(keys.map(|key| shown(row, key).replace('_', if key == "state" { " " } else { "_" })));
    }
    output::print(&table)
}

async fn transfer(args: TransferArgs) -> Result<(), CliError> {
    let admin = &args.reading.remote.admin;
    let lane = match args.lane.parse::<u32>() {
        Ok(lane) => lane,
        Err(_) => lane_of(admin, &args.lane).await?,
    };
    let done = admin::post(admin, &format!("/v1/cluster/lanes/{lane}/leader/{}", args.to)).await?;
    if args.reading.json {
        return output::json(&done);
    }
    output::line(&format!("broker {} leads lane {lane}", args.to))
}

/// The lane of `TOPIC:PARTITION`.
async fn lane_of(admin: &str, of: &str) -> Result<u32, CliError> {
    let split = of.rsplit_once(':').and_then(|(topic, partition)| Some((topic, partition.parse::<u64>().ok()?)));
    let Some((topic, partition)) = split else {
        return Err(CliError::Usage(format!("{of:?} is neither a lane's number nor TOPIC:PARTITION")));
    };
    let found = admin::get(admin, &format!("/v1/cluster/partitions?topic={topic}")).await?;
    let found = found.ok_or_else(|| crate::client::ClientError::UnknownTopic(topic.to_owned()))?;
    let row = rows(found).into_iter().find(|row| number(row, "partition") == Some(partition));
    let lane = row.and_then(|row| number(&row, "lane")).and_then(|lane| u32::try_from(lane).ok());
    lane.ok_or_else(|| CliError::Refused(format!("topic {topic} has no partition {partition}")))
}

async fn grow(args: GrowArgs) -> Result<(), CliError> {
    let admin = &args.remote.admin;
    let factor = args.replication_factor;
    admin::post(admin, &format!("/v1/cluster/grow/{factor}")).await?;
    if args.no_wait {
        return output::line(&format!("lanes are given {factor} replicas; see tidewater cluster health"));
    }
    let begun = Instant::now();
    let bar = ProgressBar::new(0);
    bar.set_style(
        ProgressStyle::with_template("{bar:30} {pos}/{len} replicas in sync, {msg}").expect("the template is right"),
    );
    loop {
        let lanes = rows(get(admin, "/v1/cluster/lanes").await?);
        let progress = Progress::of(&lanes, factor);
        bar.set_length(progress.wanted);
        bar.set_position(progress.in_sync);
        bar.set_message(format!("{} entries to copy", output::count(progress.behind)));
        if progress.wanted > 0 && progress.in_sync >= progress.wanted {
            break;
        }
        tokio::time::sleep(GROW_PAUSE).await;
    }
    bar.finish_and_clear();
    let took = output::millis(u64::try_from(begun.elapsed().as_millis()).unwrap_or(u64::MAX));
    output::line(&format!("every lane has {factor} replicas in sync, after {took}"))
}

/// How far a cluster has grown.
#[derive(Debug, Default, PartialEq, Eq)]
struct Progress {
    /// Replicas that all lanes shall have together.
    wanted: u64,
    /// Those that vote and are in sync.
    in_sync: u64,
    /// Entries that followers lack, in all lanes.
    behind: u64,
}

impl Progress {
    fn of(lanes: &[Value], factor: u16) -> Self {
        let mut progress = Self::default();
        for lane in lanes {
            let list = |key: &str| rows(lane.get(key).cloned().unwrap_or_default());
            let voters = list("voters");
            let in_sync = list("in_sync").iter().filter(|node| voters.contains(node)).count() as u64;
            progress.wanted += u64::from(factor);
            progress.in_sync += in_sync.min(u64::from(factor));
            progress.behind += list("followers").iter().filter_map(|of| number(of, "behind_entries")).sum::<u64>();
        }
        progress
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_cluster_has_grown_when_every_replica_votes_and_is_in_sync() {
        let grown = json!({ "voters": [1, 2, 3], "in_sync": [1, 2, 3], "followers": [] });
        let growing = json!({ "voters": [1], "in_sync": [1], "followers": [{ "node": 2, "behind_entries": 70 }] });
        let progress = Progress::of(&[grown, growing], 3);
        assert_eq!(progress, Progress { wanted: 6, in_sync: 4, behind: 70 });
    }

    #[test]
    fn cells_are_read_without_json() {
        let row = json!({ "replicas": [2, 3, 1], "leader": null, "topic": "orders" });
        assert_eq!(["replicas", "leader", "topic", "none"].map(|key| shown(&row, key)), ["2,3,1", "-", "orders", "-"]);
    }
}
