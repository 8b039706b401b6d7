//! `tidewater group …`.

use clap::{Args, Subcommand};
use serde::Serialize;

use super::{Reading, seek};
use crate::client::{Client, ClientError, GroupInfo, GroupOffset, OffsetQuery};
use crate::console::{CliError, output};

#[derive(Debug, Subcommand)]
pub(super) enum GroupCommand {
    /// All groups
    List(Reading),
    /// Members, offsets and lag of a group
    Describe(DescribeArgs),
    /// Move the offsets of a group without members
    Seek(seek::SeekArgs),
    /// Delete groups without members, with their offsets
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
#[derive(Debug, PartialEq, Eq, Serialize)]
struct Progress {
    topic: String,
    partition: i32,
    committed: u64,
    /// Log start; `None`, as for the next three, if the topic or partition does not exist any more.
    start: Option<u64>,
    end: Option<u64>,
    /// `end` less `committed`, lost records included.
    lag: Option<u64>,
    /// Offsets from `committed` to the log start: deleted before the group read them.
    lost: Option<u64>,
    member: Option<String>,
}

impl Progress {
    fn new(offset: &GroupOffset, start: Option<u64>, end: Option<u64>, member: Option<String>) -> Self {
        let GroupOffset { topic, partition, offset: committed, .. } = offset;
        Self {
            topic: topic.clone(),
            partition: *partition,
            committed: *committed,
            start,
            end,
            lag: end.map(|end| end.saturating_sub(*committed)),
            lost: start.map(|start| start.saturating_sub(*committed)),
            member,
        }
    }
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
        let mut table = output::table(&["TOPIC", "PARTITION", "COMMITTED", "START", "END", "LAG", "LOST", "MEMBER"]);
        for row in &progress {
            let number = |n: Option<u64>| n.map_or("-".to_owned(), |n| n.to_string());
            table.add_row([
                row.topic.clone(),
                row.partition.to_string(),
                row.committed.to_string(),
                number(row.start),
                number(row.end),
                number(row.lag),
                number(row.lost),
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
        let starts = known(client.list_offsets(&first.topic, &partitions, OffsetQuery::Earliest).await)?;
        let ends = known(client.list_offsets(&first.topic, &partitions, OffsetQuery::Latest).await)?;
        for offset in of_topic {
            let holds = |held: &(String, Vec<i32>)| held.0 == offset.topic && held.1.contains(&offset.partition);
            let member = info.members.iter().find(|member| member.assigned.iter().any(holds));
            let (start, end) = (seek::of(&starts, offset.partition), seek::of(&ends, offset.partition));
            rows.push(Progress::new(offset, start, end, member.map(|member| member.id.clone())));
        }
    }
    Ok(rows)
}

/// Offsets of a topic that may have been deleted since the group committed: none then.
fn known(found: Result<Vec<(i32, Option<u64>)>, ClientError>) -> Result<Vec<(i32, Option<u64>)>, ClientError> {
    match found {
        Err(error) if error.is_unknown_topic() => Ok(Vec::new()),
        found => found,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn records_deleted_before_the_group_read_them_are_shown_as_lost() {
        let offset = GroupOffset { topic: "t".to_owned(), partition: 0, offset: 10, metadata: String::new() };
        let row = |start, end| {
            let row = Progress::new(&offset, start, end, None);
            (row.lag, row.lost)
        };
        assert_eq!(row(Some(25), Some(40)), (Some(30), Some(15)));
        assert_eq!(row(Some(5), Some(40)), (Some(30), Some(0)));
        assert_eq!(row(None, None), (None, None));
    }
}
