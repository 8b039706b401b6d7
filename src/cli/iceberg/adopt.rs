//! `tidewater iceberg adopt`: a topic goes on in a table that another program made, over the admin port.
//!
//! The topic already has the table's name in its settings, so that the sink waits in front of it. The ends of the log
//! come from the leaders, over Kafka, before the table is changed: `latest` is what producers had written by then.

use std::collections::BTreeMap;

use clap::Args;
use serde_json::{Value, json};

use super::TABLES;
use crate::cli::Reading;
use crate::client::{Client, OffsetQuery};
use crate::console::{CliError, admin, output};
use crate::lakehouse::AdoptedTable;

#[derive(Debug, Args)]
pub(in crate::cli) struct AdoptArgs {
    /// A topic with iceberg.mode, and with iceberg.table naming the table
    topic: String,
    /// The table that is meant, whose columns and properties are changed
    #[arg(long, value_name = "NAMESPACE.TABLE")]
    table: String,
    /// The first records that go into it: earliest, latest, or an offset of a partition, which may be repeated (the
    /// others are as latest). Without it: where the table ended, if the topic wrote it before and gave it up, else
    /// latest
    #[arg(long, value_name = "earliest|latest|PARTITION:OFFSET", value_parser = from)]
    from: Vec<From>,
    /// Show what would be done, and change nothing
    #[arg(long, alias = "dry-run")]
    plan: bool,
    #[command(flatten)]
    reading: Reading,
}

/// A value of `--from`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum From {
    Earliest,
    Latest,
    Offset(i32, u64),
}

fn from(text: &str) -> Result<From, String> {
    let bad = || format!("{text:?}: write earliest, latest, or a partition, a colon and an offset, as 0:1500");
    match text {
        "earliest" => return Ok(From::Earliest),
        "latest" => return Ok(From::Latest),
        _ => {}
    }
    let (partition, offset) = text.split_once(':').ok_or_else(bad)?;
    let partition = partition.parse().ok().filter(|partition| *partition >= 0).ok_or_else(bad)?;
    Ok(From::Offset(partition, offset.parse().map_err(|_| bad())?))
}

/// The members `start` and `offsets` of the request's body; `ends`: of the topic's partitions.
fn begin(from: &[From], mut ends: BTreeMap<i32, u64>) -> Result<(&'static str, BTreeMap<i32, u64>), CliError> {
    match from {
        [] => return Ok(("resume", ends)),
        [From::Earliest] => return Ok(("earliest", BTreeMap::new())),
        [From::Latest] => return Ok(("offsets", ends)),
        _ => {}
    }
    let mut named = BTreeMap::new();
    for from in from {
        let From::Offset(partition, offset) = *from else {
            return Err(CliError::Usage("--from earliest and latest are for all partitions: name no others".into()));
        };
        let Some(end) = ends.get(&partition) else {
            return Err(CliError::Usage(format!("the topic has no partition {partition}")));
        };
        if offset > *end {
            return Err(CliError::Usage(format!("partition {partition} ends at {end}, before {offset}")));
        }
        if named.insert(partition, offset).is_some() {
            return Err(CliError::Usage(format!("--from names partition {partition} twice")));
        }
    }
    ends.extend(named);
    Ok(("offsets", ends))
}

async fn ends(bootstrap: &str, topic: &str) -> Result<BTreeMap<i32, u64>, CliError> {
    let mut client = Client::connect(bootstrap).await?;
    let all: Vec<i32> = client.topic(topic).await?.partitions.iter().map(|partition| partition.partition).collect();
    let ends = client.list_offsets(topic, &all, OffsetQuery::Latest).await?;
    let known = |(partition, end): (i32, Option<u64>)| {
        let missing = format!("partition {partition} of topic {topic} has no leader that answers");
        end.map(|end| (partition, end)).ok_or(CliError::Refused(missing))
    };
    ends.into_iter().map(known).collect()
}

pub(super) async fn run(args: AdoptArgs) -> Result<(), CliError> {
    let AdoptArgs { topic, table, from, plan, reading } = args;
    let (start, offsets) = begin(&from, ends(&reading.remote.bootstrap, &topic).await?)?;
    let (addr, path) = (&reading.remote.admin, format!("{TABLES}/{topic}/adopt"));
    let body: Value = json!({ "table": table, "start": start, "offsets": offsets, "plan": plan });
    let answer = admin::post_json_within(addr, &path, &body, admin::LONG).await?;
    if reading.json {
        return output::json(&answer);
    }
    let done: AdoptedTable = admin::read(addr, &path, answer)?;
    if done.was_adopted {
        return output::line(&format!("{} is the table of {topic} already; nothing was changed", done.table));
    }
    let line = |label: &str, value: String| output::line(&format!("{label:<14}{value}"));
    line("table", done.table.clone())?;
    line("rows", done.rows.map_or("-".to_owned(), output::count))?;
    line("snapshots", format!("{}; from now on its own settings say how long they stay", done.snapshots))?;
    line("partitions", done.partition_spec)?;
    line("columns", list(&done.columns))?;
    line("added", list(&done.added_columns))?;
    if let Some(dead) = done.dead_letters {
        line("dead letters", dead)?;
    }
    let begin = done.offsets.iter().map(|(partition, offset)| format!("{partition}:{offset}")).collect::<Vec<_>>();
    line("from", if begin.is_empty() { "the start of the log".to_owned() } else { begin.join(" ") })?;
    match done.plan {
        true => output::line("nothing was changed"),
        false => output::line(&format!(
            "{topic} goes on in {}; tidewater iceberg detach {topic} gives it up again",
            done.table
        )),
    }
}

fn list(names: &[String]) -> String {
    if names.is_empty() { "none".to_owned() } else { names.join(", ") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_topic_goes_on_where_it_is_said_and_not_beyond_its_end() {
        let ends = || BTreeMap::from([(0, 10), (1, 20)]);
        assert_eq!(begin(&[], ends()).expect("taken"), ("resume", ends()));
        assert_eq!(begin(&[From::Earliest], ends()).expect("taken"), ("earliest", BTreeMap::new()));
        assert_eq!(begin(&[From::Latest], ends()).expect("taken"), ("offsets", ends()));
        let named = begin(&[From::Offset(1, 5)], ends()).expect("taken");
        assert_eq!(named, ("offsets", BTreeMap::from([(0, 10), (1, 5)])));
        for bad in [
            &[From::Latest, From::Offset(0, 1)][..],
            &[From::Offset(0, 11)],
            &[From::Offset(2, 0)],
            &[From::Offset(0, 1), From::Offset(0, 2)],
        ] {
            assert!(begin(bad, ends()).is_err(), "{bad:?}");
        }
        assert_eq!(from("0:7"), Ok(From::Offset(0, 7)));
        assert!(from("newest").is_err() && from("-1:0").is_err() && from("0:x").is_err());
    }
}
