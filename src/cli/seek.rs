//! `tidewater group seek`: moves the offsets of a group without members, as `kafka-consumer-groups --reset-offsets`
//! does.
//!
//! An offset outside a partition's log is moved to its nearer end. A group with members is refused before anything is
//! written: its consumers would overwrite what is set here.

use clap::Args;
use serde::Serialize;

use super::topic::Aim;
use crate::client::{Client, OffsetQuery};
use crate::console::{CliError, output};

#[derive(Debug, Args)]
pub(super) struct SeekArgs {
    /// The group; it is created if it does not exist and --topic is given
    group: String,
    /// Only this topic; may be repeated [default: all topics that the group has offsets of]
    #[arg(long)]
    topic: Vec<String>,
    #[command(flatten)]
    aim: Aim,
}

#[derive(Debug, PartialEq, Eq, Serialize)]
struct Move {
    topic: String,
    partition: i32,
    before: Option<u64>,
    offset: u64,
}

pub(super) async fn run(args: SeekArgs) -> Result<(), CliError> {
    if args.aim.partition.is_some() && args.topic.len() != 1 {
        return Err(CliError::Usage("--partition needs its topic: name it with --topic".into()));
    }
    let mut client = Client::connect(&args.aim.reading.remote.bootstrap).await?;
    let state = client.group(&args.group).await?.state;
    if !matches!(state.as_str(), "Empty" | "Dead") {
        return Err(CliError::Refused(format!(
            "group {} is {state}: its offsets can be moved only while it has no members; stop its consumers first",
            args.group
        )));
    }
    let moves = plan(&mut client, &args).await?;
    if moves.is_empty() {
        return Err(CliError::Refused(format!("group {} has no offsets: name a topic with --topic", args.group)));
    }
    if !args.aim.dry_run {
        for of_topic in moves.chunk_by(|a, b| a.topic == b.topic) {
            let Some(first) = of_topic.first() else { continue };
            let to = of_topic.iter().map(|it| (it.partition, it.offset)).collect::<Vec<_>>();
            client.commit(&args.group, &first.topic, &to).await?;
        }
    }
    show(&args, &moves)
}

async fn plan(client: &mut Client, args: &SeekArgs) -> Result<Vec<Move>, CliError> {
    let held = client.group_offsets(&args.group).await?;
    let mut topics = args.topic.clone();
    if topics.is_empty() {
        topics.extend(held.iter().map(|offset| offset.topic.clone()));
    }
    topics.sort_unstable();
    topics.dedup();
    let mut moves = Vec::new();
    for topic in topics {
        let wanted = args.aim.to.resolve(client, &topic, args.aim.partition).await?;
        let partitions = wanted.iter().map(|(n, _)| *n).collect::<Vec<_>>();
        let starts = client.list_offsets(&topic, &partitions, OffsetQuery::Earliest).await?;
        let ends = client.list_offsets(&topic, &partitions, OffsetQuery::Latest).await?;
        for (partition, offset) in wanted {
            let before = held.iter().find(|o| o.topic == topic && o.partition == partition).map(|o| o.offset);
            let offset = within(offset, of(&starts, partition), of(&ends, partition));
            moves.push(Move { topic: topic.clone(), partition, before, offset });
        }
    }
    Ok(moves)
}

pub(super) fn of(offsets: &[(i32, Option<u64>)], partition: i32) -> Option<u64> {
    offsets.iter().find(|(n, _)| *n == partition).and_then(|(_, offset)| *offset)
}

/// `offset`, moved to the nearer end if it is outside the log.
pub(super) fn within(offset: u64, start: Option<u64>, end: Option<u64>) -> u64 {
    offset.min(end.unwrap_or(u64::MAX)).max(start.unwrap_or(0))
}

fn show(args: &SeekArgs, moves: &[Move]) -> Result<(), CliError> {
    if args.aim.reading.json {
        return output::json(&moves);
    }
    let mut table = output::table(&["TOPIC", "PARTITION", "BEFORE", "OFFSET"]);
    for it in moves {
        let before = it.before.map_or("-".to_owned(), |before| before.to_string());
        table.add_row([it.topic.clone(), it.partition.to_string(), before, it.offset.to_string()]);
    }
    output::print(&table)?;
    if args.aim.dry_run { output::line("nothing was changed (--dry-run)") } else { Ok(()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn offsets_stay_within_the_log() {
        assert_eq!(within(5, Some(10), Some(20)), 10);
        assert_eq!(within(15, Some(10), Some(20)), 15);
        assert_eq!(within(25, Some(10), Some(20)), 20);
        assert_eq!(within(25, None, None), 25);
    }
}
