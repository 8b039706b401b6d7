//! `tidewater cluster …`: one broker's own state by the Kafka protocol and the admin port; the state of all brokers by
//! any admin port (`health` in a file of its own).

mod health;

use std::time::Duration;

use clap::{Args, Subcommand};
use indicatif::{ProgressBar, ProgressStyle};
use serde_json::Value;
use tokio::time::Instant;

use super::{Reading, Remote};
use crate::admin::cluster::documents::{BrokerRow, ClusterStatus, LaneRow, PartitionRow, PartitionState};
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
    match status.and_then(|found| found.map(|found| admin::read(&args.remote.admin, "/v1/cluster", found)).transpose())
    {
        Ok(Some(status)) => figures(&status)?,
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

/// What the admin port adds: names, counts, disk usage and archive lag.
fn figures(status: &ClusterStatus) -> Result<(), CliError> {
    output::line(&format!("name        {}", status.name))?;
    output::line(&format!("bucket      {}", status.bucket))?;
    output::line(&format!("bucket is   {}", status.bucket_state))?;
    output::line(&format!("topics      {}", status.topics))?;
    output::line(&format!("partitions  {}", status.partitions))?;
    output::line(&format!("connections {}", status.connections))?;
    output::line(&format!(
        "disk        {} of {} used, {} left for producers",
        output::bytes(status.disk_used_bytes),
        output::bytes(status.disk_limit_bytes),
        output::bytes(status.disk_admissible_bytes)
    ))?;
    let behind = match status.archive_lag_bytes {
        0 => "all committed records are in the bucket".to_owned(),
        bytes => format!(
            "{} not in the bucket yet, the oldest for {}",
            output::bytes(bytes),
            output::millis(status.archive_lag_ms)
        ),
    };
    output::line(&format!("archive     {behind}"))
}

/// A cell of a table; `-` for none.
fn cell(value: Option<impl ToString>) -> String {
    value.map_or_else(|| "-".to_owned(), |value| value.to_string())
}

fn ids(nodes: &[i32]) -> String {
    nodes.iter().map(ToString::to_string).collect::<Vec<_>>().join(",")
}

/// A document of the admin port that every broker of this version has.
async fn get(addr: &str, path: &str) -> Result<Value, CliError> {
    let found = admin::get(addr, path).await?;
    found.ok_or_else(|| CliError::Refused(format!("the broker at {addr} has no {path}; it may be of an older version")))
}

async fn brokers(args: Reading) -> Result<(), CliError> {
    const PATH: &str = "/v1/cluster/brokers";
    let found = get(&args.remote.admin, PATH).await?;
    if args.json {
        return output::json(&found);
    }
    let header = ["BROKER", "KAFKA", "RPC", "RACK", "STATE", "LEADS", "REPLICAS", "DISK USED", "DISK LEFT", "RTT"];
    let mut table = output::table(&header);
    let mut notes = Vec::new();
    for row in admin::read::<Vec<BrokerRow>>(&args.remote.admin, PATH, found)? {
        let state = match (row.reachable, row.controller, &row.rebuild) {
            (true, true, _) => "controller".to_owned(),
            (true, false, Some(rebuild)) => format!("rebuilding {}/{}", rebuild.replicas_done, rebuild.replicas),
            (true, false, None) => "up".to_owned(),
            (false, ..) => "away".to_owned(),
        };
        notes.extend(row.reason.map(|why| format!("broker {}: {why}", row.id)));
        table.add_row([
            row.id.to_string(),
            row.kafka,
            cell(row.rpc),
            cell(row.rack),
            state,
            row.lanes_led.to_string(),
            row.replicas.to_string(),
            cell(row.disk_used_bytes.map(output::bytes)),
            cell(row.disk_admissible_bytes.map(output::bytes)),
            cell(row.rtt_us.map(|us| format!("{:.1}ms", us as f64 / 1000.0))),
        ]);
    }
    output::print(&table)?;
    notes.iter().try_for_each(|note| output::line(note))
}

/// The partitions, of one topic or of all: as the admin port gives them, and as this version reads them.
async fn partition_rows(admin: &str, topic: Option<&str>) -> Result<Vec<(Value, PartitionRow)>, CliError> {
    let path = match topic {
        Some(topic) => format!("/v1/cluster/partitions?topic={topic}"),
        None => "/v1/cluster/partitions".to_owned(),
    };
    let found = admin::get(admin, &path).await?;
    let found = found.ok_or_else(|| match topic {
        Some(topic) => crate::client::ClientError::UnknownTopic(topic.to_owned()).into(),
        None => CliError::Refused("the broker does not list partitions; it may be of an older version".to_owned()),
    })?;
    let documents: Vec<Value> = admin::read(admin, &path, found)?;
    documents.into_iter().map(|document| Ok((document.clone(), admin::read(admin, &path, document)?))).collect()
}

async fn partitions(args: PartitionsArgs) -> Result<(), CliError> {
    let mut rows = partition_rows(&args.reading.remote.admin, args.topic.as_deref()).await?;
    if args.unhealthy {
        rows.retain(|(_, row)| row.state != PartitionState::Healthy);
    }
    if args.reading.json {
        return output::json(&rows.into_iter().map(|(document, _)| document).collect::<Vec<_>>());
    }
    if rows.is_empty() && args.unhealthy {
        return output::line("all partitions are healthy");
    }
    let mut table = output::table(&["TOPIC", "PARTITION", "LANE", "LEADER", "EPOCH", "REPLICAS", "IN SYNC", "STATE"]);
    for (_, row) in rows {
        table.add_row([
            row.topic,
            row.partition.to_string(),
            row.lane.to_string(),
            cell(row.leader),
            row.leader_epoch.to_string(),
            ids(&row.replicas),
            ids(&row.in_sync),
            row.state.to_string(),
        ]);
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
    let split = of.rsplit_once(':').and_then(|(topic, partition)| Some((topic, partition.parse::<i32>().ok()?)));
    let Some((topic, partition)) = split else {
        return Err(CliError::Usage(format!("{of:?} is neither a lane's number nor TOPIC:PARTITION")));
    };
    let mut rows = partition_rows(admin, Some(topic)).await?.into_iter();
    let lane = rows.find_map(|(_, row)| (row.partition == partition).then_some(row.lane));
    lane.ok_or_else(|| CliError::Refused(format!("topic {topic} has no partition {partition}")))
}

async fn grow(args: GrowArgs) -> Result<(), CliError> {
    const LANES: &str = "/v1/cluster/lanes";
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
        let lanes: Vec<LaneRow> = admin::read(admin, LANES, get(admin, LANES).await?)?;
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
    fn of(lanes: &[LaneRow], factor: u16) -> Self {
        let mut progress = Self::default();
        for lane in lanes {
            let in_sync = lane.in_sync.iter().filter(|node| lane.voters.contains(node)).count() as u64;
            progress.wanted += u64::from(factor);
            progress.in_sync += in_sync.min(u64::from(factor));
            progress.behind += lane.followers.iter().map(|follower| follower.behind_entries).sum::<u64>();
        }
        progress
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::admin::cluster::facts::FollowerFacts;

    #[test]
    fn a_cluster_has_grown_when_every_replica_votes_and_is_in_sync() {
        let all = vec![1, 2, 3];
        let grown = LaneRow { voters: all.clone(), in_sync: all, ..LaneRow::default() };
        let follower = FollowerFacts { node: 2, behind_entries: 70, silent_ms: None };
        let growing = LaneRow { voters: vec![1], in_sync: vec![1], followers: vec![follower], ..LaneRow::default() };
        let progress = Progress::of(&[grown, growing], 3);
        assert_eq!(progress, Progress { wanted: 6, in_sync: 4, behind: 70 });
    }

    #[test]
    fn a_field_that_a_document_lacks_is_named() {
        let mut document = json!({
            "topic": "orders", "partition": 0, "lane": 1, "leader": null, "leader_epoch": 5, "replicas": [2, 3, 1],
            "in_sync": [], "state": "under_replicated", "new": true
        });
        let row: PartitionRow = admin::read("here:9644", "/v1/cluster/partitions", document.clone()).expect("reads");
        assert_eq!(
            (row.leader, row.state.to_string(), ids(&row.replicas)),
            (None, "under replicated".into(), "2,3,1".into())
        );
        document.as_object_mut().expect("an object").remove("in_sync");
        let error =
            admin::read::<PartitionRow>("here:9644", "/v1/cluster/partitions", document).expect_err("is missing");
        let said = error.to_string();
        assert!(said.contains("here:9644") && said.contains("missing field `in_sync`"), "{said}");
    }
}
