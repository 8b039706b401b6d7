//! `tidewater group …`.

use clap::{Args, Subcommand};
use serde::Serialize;

use super::error::CliError;
use super::{Reading, output, seek};
use crate::client::{Client, GroupInfo, OffsetQuery};

#[derive(Debug, Subcommand)]
pub(super) enum GroupCommand {
    /// All groups
    List(Reading),
    /// Members, offsets and lag of a group
    Describe(DescribeArgs),
    /// Move the offsets of a group without members
    Seek(seek::SeekArgs),
    /// Delete groups without members, offsets and all
    Delete(DeleteArgs),
}

#[derive(Debug, Args)]
pub(super) struct DescribeArgs {
    /// The group
    group: String,
    #[command(flatten)]
    reading: Reading,
}

#[derive(Debug, Args)]
pub(super) struct DeleteArgs {
    /// The groups
    #[arg(required = true)]
    groups: Vec<String>,
    #[command(flatten)]
    reading: Reading,
}

pub(super) async fn run(command: GroupCommand) -> Result<(), CliError> {
    match command {
        GroupCommand::List(args) => list(args).await,
        GroupCommand::Describe(args) => describe(args).await,
        GroupCommand::Seek(args) => seek::run(args).await,
        GroupCommand::Delete(args) => delete(args).await,
    }
}

async fn delete(args: DeleteArgs) -> Result<(), CliError> {
    let mut client = Client::connect(&args.reading.remote.bootstrap).await?;
    let (mut deleted, mut failed) = (Vec::new(), None);
    for group in &args.groups {
        if let Err(error) = client.delete_group(group).await {
            failed = Some(error);
            break;
        }
        deleted.push(group);
    }
    if args.reading.json {
        output::json(&serde_json::json!({ "deleted": deleted }))?;
    } else {
        deleted.iter().try_for_each(|group| output::line(&format!("deleted group {group}")))?;
    }
    failed.map_or(Ok(()), |error| Err(error.into()))
}

async fn list(args: Reading) -> Result<(), CliError> {
    let groups = Client::connect(&args.remote.bootstrap).await?.groups().await?;
    if args.json {
        return output::json(&groups);
    }
    let mut table = output::table(&["GROUP", "STATE", "TYPE"]);
    for group in &groups {
        table.add_row([&group.group, &group.state, &group.protocol_type]);
    }
    output::print(&table)
}

/// How far a group has come in a partition.
#[derive(Debug, Serialize)]
struct Progress {
    topic: String,
    partition: i32,
    committed: u64,
    end: Option<u64>,
    lag: Option<u64>,
    member: Option<String>,
}

async fn describe(args: DescribeArgs) -> Result<(), CliError> {
    let mut client = Client::connect(&args.reading.remote.bootstrap).await?;
    let info = client.group(&args.group).await?;
    if info.state == "Dead" {
        let why = format!("group {} does not exist; `tidewater group list` shows those that do", args.group);
        return Err(CliError::Refused(why));
    }
    let progress = progress(&mut client, &args.group, &info).await?;
    if args.reading.json {
        return output::json(&serde_json::json!({ "group": info, "offsets": progress }));
    }
    output::line(&format!("group     {}", info.group))?;
    output::line(&format!("state     {}", info.state))?;
    if !info.protocol.is_empty() {
        output::line(&format!("protocol  {} ({})", info.protocol, info.protocol_type))?;
    }
    if !info.members.is_empty() {
        let mut table = output::table(&["MEMBER", "CLIENT", "HOST", "INSTANCE", "PARTITIONS"]);
        for member in &info.members {
            let held = member.assigned.iter().map(|(topic, partitions)| format!("{topic}:{partitions:?}"));
            let held = held.collect::<Vec<_>>().join(" ");
            let instance = member.instance.as_deref().unwrap_or("-");
            table.add_row([&member.id, &member.client_id, &member.host, instance, &held]);
        }
        output::line("")?;
        output::print(&table)?;
    }
    if !progress.is_empty() {
        let mut table = output::table(&["TOPIC", "PARTITION", "COMMITTED", "END", "LAG", "MEMBER"]);
        for row in &progress {
            let number = |n: Option<u64>| n.map_or("-".to_owned(), |n| n.to_string());
            table.add_row([
                row.topic.clone(),
                row.partition.to_string(),
                row.committed.to_string(),
                number(row.end),
                number(row.lag),
                row.member.clone().unwrap_or_else(|| "-".to_owned()),
            ]);
        }
        output::line("")?;
        output::print(&table)?;
    }
    Ok(())
}

async fn progress(client: &mut Client, group: &str, info: &GroupInfo) -> Result<Vec<Progress>, CliError> {
    let offsets = client.group_offsets(group).await?;
    let mut rows = Vec::with_capacity(offsets.len());
    for of_topic in offsets.chunk_by(|a, b| a.topic == b.topic) {
        let Some(first) = of_topic.first() else { continue };
        let partitions = of_topic.iter().map(|offset| offset.partition).collect::<Vec<_>>();
        // A topic may have been deleted since: its ends are unknown then, the commits still shown.
        let ends = match client.list_offsets(&first.topic, &partitions, OffsetQuery::Latest).await {
            Err(error) if !error.is_unknown_topic() => return Err(error.into()),
            found => found.unwrap_or_default(),
        };
        for offset in of_topic {
            let end = ends.iter().find(|(n, _)| *n == offset.partition).and_then(|(_, end)| *end);
            let holds = |held: &(String, Vec<i32>)| held.0 == offset.topic && held.1.contains(&offset.partition);
            let member = info.members.iter().find(|member| member.assigned.iter().any(holds));
            rows.push(Progress {
                topic: offset.topic.clone(),
                partition: offset.partition,
                committed: offset.offset,
                end,
                lag: end.map(|end| end.saturating_sub(offset.offset)),
                member: member.map(|member| member.id.clone()),
            });
        }
    }
    Ok(rows)
}
