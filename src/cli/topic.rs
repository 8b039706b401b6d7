//! `tidewater topic …`, except describe, produce and consume, which have their own files.

use std::str::FromStr;

use clap::{Args, Subcommand};
use kafka_protocol::ResponseError;
use serde::Serialize;

use super::copy::CopyRequest;
use super::seek::{of, within};
use super::{Reading, Remote, consume, copy, describe, produce};
use crate::client::{Client, ClientError, NewTopic, OffsetQuery, TopicInfo};
use crate::config::spelling;
use crate::config::topic::{SETTINGS, setting as setting_named};
use crate::console::{CliError, output};
use crate::node::restore::CutChoice;

#[derive(Debug, Subcommand)]
pub(super) enum TopicCommand {
    /// Create a topic
    Create(CreateArgs),
    /// All topics
    List(ListArgs),
    /// Settings, offsets, archive and table of a topic
    Describe(describe::DescribeArgs),
    /// Change settings or add partitions
    Alter(AlterArgs),
    /// Delete topics
    Delete(DeleteArgs),
    /// Write lines of standard input or a file as records
    Produce(produce::ProduceArgs),
    /// Read records
    Consume(consume::ConsumeArgs),
    /// Delete records before an offset
    Trim(TrimArgs),
    /// Make a topic that begins with the archived records of another one, and goes its own way from there
    Fork(ForkArgs),
}

#[derive(Debug, Args)]
pub(super) struct CreateArgs {
    /// The topic
    topic: String,
    /// Partitions [default: the broker's num.partitions]
    #[arg(long, short)]
    partitions: Option<i32>,
    /// Replicas of each partition, each on another broker: 1, 3 or 5 [default: the cluster's
    /// default.replication.factor]
    #[arg(long, short, value_name = "N")]
    replication_factor: Option<i16>,
    /// A setting, as name=value; may be repeated
    #[arg(long = "set", short = 's', value_name = "NAME=VALUE", value_parser = setting)]
    set: Vec<(String, String)>,
    #[command(flatten)]
    remote: Remote,
}

#[derive(Debug, Args)]
pub(super) struct ListArgs {
    /// Show the broker's internal topics too
    #[arg(long)]
    internal: bool,
    #[command(flatten)]
    reading: Reading,
}

#[derive(Debug, Args)]
pub(super) struct AlterArgs {
    /// The topic
    topic: String,
    /// Set a setting, as name=value; may be repeated
    #[arg(long = "set", short = 's', value_name = "NAME=VALUE", value_parser = setting)]
    set: Vec<(String, String)>,
    /// Reset a setting to its default; may be repeated
    #[arg(long = "unset", short = 'u', value_name = "NAME")]
    unset: Vec<String>,
    /// Raise the number of partitions to this
    #[arg(long, short)]
    partitions: Option<i32>,
    #[command(flatten)]
    remote: Remote,
}

#[derive(Debug, Args)]
pub(super) struct DeleteArgs {
    /// The topics
    #[arg(required = true)]
    topics: Vec<String>,
    #[command(flatten)]
    remote: Remote,
}

#[derive(Debug, Args)]
pub(super) struct TrimArgs {
    /// The topic
    topic: String,
    #[command(flatten)]
    aim: Aim,
}

#[derive(Debug, Args)]
pub(super) struct ForkArgs {
    /// The topic
    topic: String,
    /// The name of the new topic
    #[arg(long = "as", value_name = "NAME")]
    name: String,
    /// Begin with what was archived up to the newest cut at or before this time (2026-11-29T10:00:00Z), or up to the
    /// newest of all (newest). Without it, with all that is archived now
    #[arg(long, value_name = "TIME", value_parser = super::restore::choice)]
    at: Option<CutChoice>,
    /// Return when the copy has begun: the brokers make it
    #[arg(long)]
    no_wait: bool,
    #[command(flatten)]
    reading: Reading,
}

/// The target of `topic trim` and `group seek`.
#[derive(Debug, Args)]
pub(super) struct Aim {
    /// Only this partition of the one topic
    #[arg(long)]
    pub(super) partition: Option<i32>,
    /// earliest, latest, an offset, or @ and a time in ms
    #[arg(long, value_name = "WHERE")]
    pub(super) to: Target,
    /// Show what would be done and change nothing
    #[arg(long, alias = "plan")]
    pub(super) dry_run: bool,
    #[command(flatten)]
    pub(super) reading: Reading,
}

/// The start of a partition after a trim.
#[derive(Debug, Serialize)]
struct Start {
    topic: String,
    partition: i32,
    log_start_offset: u64,
}

fn setting(text: &str) -> Result<(String, String), String> {
    let (name, value) = text.split_once('=').ok_or_else(|| format!("{text:?}: write NAME=VALUE"))?;
    Ok((name.trim().to_owned(), value.trim().to_owned()))
}

/// An offset as the command line names it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Target {
    Earliest,
    Latest,
    Offset(u64),
    Time(i64),
}

impl FromStr for Target {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let bad = || format!("{text:?}: write earliest, latest, an offset, or @ and a time in ms since 1970");
        match text {
            "earliest" | "beginning" => Ok(Self::Earliest),
            "latest" | "end" => Ok(Self::Latest),
            _ => match text.strip_prefix('@') {
                Some(ms) => ms.parse().map(Self::Time).map_err(|_| bad()),
                None => text.parse().map(Self::Offset).map_err(|_| bad()),
            },
        }
    }
}

impl Target {
    /// The offset in each partition of `topic`, or only in `only`; for a time after the last record, the end.
    pub(super) async fn resolve(
        self,
        client: &mut Client,
        topic: &str,
        only: Option<i32>,
    ) -> Result<Vec<(i32, u64)>, CliError> {
        let partitions = chosen(&client.topic(topic).await?, only)?;
        let query = match self {
            Self::Offset(offset) => return Ok(partitions.into_iter().map(|n| (n, offset)).collect()),
            Self::Earliest => OffsetQuery::Earliest,
            Self::Latest => OffsetQuery::Latest,
            Self::Time(ms) => OffsetQuery::AtTime(ms),
        };
        let found = client.list_offsets(topic, &partitions, query).await?;
        let ends = match found.iter().any(|(_, offset)| offset.is_none()) {
            true => client.list_offsets(topic, &partitions, OffsetQuery::Latest).await?,
            false => Vec::new(),
        };
        let end = |n: i32| ends.iter().find(|(m, _)| *m == n).and_then(|(_, end)| *end).unwrap_or(0);
        Ok(found.into_iter().map(|(n, offset)| (n, offset.unwrap_or_else(|| end(n)))).collect())
    }
}

/// All partitions of a topic, or `only`.
pub(super) fn chosen(topic: &TopicInfo, only: Option<i32>) -> Result<Vec<i32>, CliError> {
    let all = topic.partitions.iter().map(|partition| partition.partition).collect::<Vec<_>>();
    match only {
        None => Ok(all),
        Some(n) if all.contains(&n) => Ok(vec![n]),
        Some(partition) => {
            let last = all.last().copied().unwrap_or(-1);
            Err(ClientError::UnknownPartition { topic: topic.name.clone(), partition, last }.into())
        }
    }
}

pub(super) async fn run(command: TopicCommand) -> Result<(), CliError> {
    match command {
        TopicCommand::Create(args) => create(args).await,
        TopicCommand::List(args) => list(args).await,
        TopicCommand::Describe(args) => describe::run(args).await,
        TopicCommand::Alter(args) => alter(args).await,
        TopicCommand::Delete(args) => delete(args).await,
        TopicCommand::Produce(args) => produce::run(args).await,
        TopicCommand::Consume(args) => consume::run(args).await,
        TopicCommand::Fork(args) => fork(args).await,
        TopicCommand::Trim(args) => trim(args).await,
    }
}

async fn create(args: CreateArgs) -> Result<(), CliError> {
    let mut client = Client::connect(&args.remote.bootstrap).await?;
    let topic = NewTopic {
        name: args.topic.clone(),
        partitions: args.partitions,
        replication_factor: args.replication_factor,
        configs: args.set,
    };
    client.create_topic(&topic).await.map_err(|error| meant(error, topic.configs.iter().map(|(name, _)| name)))?;
    output::line(&format!("created topic {}", args.topic))
}

/// `error`; if it refuses settings, with a hint for the first unknown name.
fn meant<'a>(error: ClientError, names: impl Iterator<Item = &'a String>) -> CliError {
    let refused = error.code() == Some(ResponseError::InvalidConfig.code());
    let unknown = names.filter(|_| refused).find(|name| setting_named(name).is_none());
    let hint = unknown.map(|name| spelling::hint(name, SETTINGS.iter().map(|setting| setting.name)));
    match hint.filter(|hint| !hint.is_empty()) {
        Some(hint) => CliError::Refused(format!("{error}{hint}")),
        None => error.into(),
    }
}

async fn list(args: ListArgs) -> Result<(), CliError> {
    let mut topics = Client::connect(&args.reading.remote.bootstrap).await?.topics().await?;
    topics.retain(|topic| args.internal || !topic.internal);
    if args.reading.json {
        return output::json(&topics);
    }
    let mut table = output::table(&["TOPIC", "PARTITIONS", "ID"]);
    for topic in &topics {
        table.add_row([&topic.name, &topic.partitions.len().to_string(), &topic.id]);
    }
    output::print(&table)
}

async fn alter(args: AlterArgs) -> Result<(), CliError> {
    let mut client = Client::connect(&args.remote.bootstrap).await?;
    let set = args.set.into_iter().map(|(name, value)| (name, Some(value)));
    let changes = set.chain(args.unset.into_iter().map(|name| (name, None))).collect::<Vec<_>>();
    if changes.is_empty() && args.partitions.is_none() {
        return Err(CliError::Usage("nothing to alter: give --set NAME=VALUE, --unset NAME or --partitions N".into()));
    }
    if !changes.is_empty() {
        let altered = client.alter_configs(&args.topic, &changes).await;
        altered.map_err(|error| meant(error, changes.iter().map(|(name, _)| name)))?;
    }
    if let Some(total) = args.partitions {
        client.add_partitions(&args.topic, total).await?;
    }
    output::line(&format!("altered topic {}", args.topic))
}

async fn delete(args: DeleteArgs) -> Result<(), CliError> {
    let mut client = Client::connect(&args.remote.bootstrap).await?;
    for topic in &args.topics {
        client.delete_topic(topic).await?;
        output::line(&format!("deleted topic {topic}"))?;
    }
    Ok(())
}

async fn fork(args: ForkArgs) -> Result<(), CliError> {
    let ForkArgs { topic, name, at, no_wait, reading } = args;
    let (admin, json) = (reading.remote.admin, reading.json);
    copy::run(CopyRequest { from: None, topic, name: Some(name), at, plan: false, wait: !no_wait, json, admin }).await
}

/// The starts that a trim to `to` would give: not before the present start, and not beyond the end.
async fn planned(client: &mut Client, topic: &str, to: Vec<(i32, u64)>) -> Result<Vec<(i32, u64)>, CliError> {
    let partitions = to.iter().map(|(n, _)| *n).collect::<Vec<_>>();
    let starts = client.list_offsets(topic, &partitions, OffsetQuery::Earliest).await?;
    let ends = client.list_offsets(topic, &partitions, OffsetQuery::Latest).await?;
    let start = |(n, offset)| match of(&ends, n) {
        Some(end) if offset > end => Err(CliError::Refused(format!(
            "{topic}/{n} ends at {end}: it cannot start at {offset}; --to latest deletes all records"
        ))),
        _ => Ok((n, within(offset, of(&starts, n), None))),
    };
    to.into_iter().map(start).collect()
}

async fn trim(TrimArgs { topic, aim }: TrimArgs) -> Result<(), CliError> {
    let mut client = Client::connect(&aim.reading.remote.bootstrap).await?;
    let to = aim.to.resolve(&mut client, &topic, aim.partition).await?;
    let starts = match aim.dry_run {
        true => planned(&mut client, &topic, to).await?,
        false => client.delete_records(&topic, &to).await?,
    };
    let start = |(partition, log_start_offset)| Start { topic: topic.clone(), partition, log_start_offset };
    let starts = starts.into_iter().map(start).collect::<Vec<_>>();
    if aim.reading.json {
        return output::json(&starts);
    }
    let verb = if aim.dry_run { "would start" } else { "now starts" };
    for Start { topic, partition, log_start_offset } in &starts {
        output::line(&format!("{topic}/{partition} {verb} at {log_start_offset}"))?;
    }
    Ok(())
}
