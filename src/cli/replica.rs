//! `tidewater replica …`: other clusters whose buckets this one follows (sources). Over the admin port, since the Kafka
//! protocol has no sources.

use clap::{Args, Subcommand};
use serde_json::{Value, json};

use super::Reading;
use crate::console::{CliError, admin, output};

#[derive(Debug, Subcommand)]
pub(super) enum ReplicaCommand {
    /// Follow another cluster's bucket: its topics can be read here, under their names and offsets
    Create(CreateArgs),
    /// The sources of this cluster
    List(Reading),
    /// A source: lag, topics, lanes
    Describe(NamedArgs),
    /// Follow a source no longer; its topics and the groups' offsets in them go, its bucket stays as it is
    Delete(NamedArgs),
}

#[derive(Debug, Args)]
pub(super) struct CreateArgs {
    /// The source's bucket: s3://bucket/prefix, gs://…, az://…, file:///directory. The brokers read it, with their
    /// credentials
    #[arg(long, value_name = "URL")]
    from: String,
    /// Topics to follow, comma-separated; * stands for any characters, ? for one
    #[arg(long, default_value = "*", value_name = "PATTERN")]
    topics: String,
    /// The source's --cluster-name
    #[arg(long, default_value = "tidewater", value_name = "NAME")]
    cluster_name: String,
    /// The source's name here; without it, its cluster name
    #[arg(long, value_name = "NAME")]
    name: Option<String>,
    #[command(flatten)]
    reading: Reading,
}

#[derive(Debug, Args)]
pub(super) struct NamedArgs {
    /// The source's name in replica list
    name: String,
    #[command(flatten)]
    reading: Reading,
}

pub(super) async fn run(command: ReplicaCommand) -> Result<(), CliError> {
    match command {
        ReplicaCommand::Create(args) => create(args).await,
        ReplicaCommand::List(args) => list(args).await,
        ReplicaCommand::Describe(args) => describe(args).await,
        ReplicaCommand::Delete(args) => delete(args).await,
    }
}

async fn create(args: CreateArgs) -> Result<(), CliError> {
    let name = args.name.unwrap_or_else(|| args.cluster_name.clone());
    let asked = json!({ "name": name, "from": args.from, "cluster_name": args.cluster_name, "topics": args.topics });
    let made = admin::post_json(&args.reading.remote.admin, "/v1/replicas", &asked).await?;
    if args.reading.json {
        return output::json(&made);
    }
    let count = |key: &str| number(&made, key).map_or("0".to_owned(), output::count);
    output::line(&format!(
        "source {name} is followed: {} topics with {} partitions match {:?}",
        count("topics"),
        count("partitions"),
        args.topics
    ))?;
    output::line(&format!("see tidewater replica describe {name}"))
}

async fn list(args: Reading) -> Result<(), CliError> {
    let found = admin::get(&args.remote.admin, "/v1/replicas").await?;
    let Some(Value::Array(sources)) = found else { return Err(older(&args.remote.admin)) };
    if args.json {
        return output::json(&sources);
    }
    if sources.is_empty() {
        return output::line("no source is followed; tidewater replica create --from URL follows one");
    }
    let mut table = output::table(&["SOURCE", "FROM", "CLUSTER", "STATE", "TOPICS", "PARTITIONS", "LAG", "REASON"]);
    for source in &sources {
        table.add_row([
            shown(source, "name"),
            shown(source, "from"),
            shown(source, "cluster_name"),
            shown(source, "state"),
            shown(source, "topics"),
            shown(source, "partitions"),
            number(source, "lag_ms").map_or("-".to_owned(), output::millis),
            shown(source, "reason"),
        ]);
    }
    output::print(&table)
}

async fn describe(args: NamedArgs) -> Result<(), CliError> {
    let (name, admin) = (&args.name, &args.reading.remote.admin);
    let found = admin::get(admin, &format!("/v1/replicas/{name}")).await?;
    let found = found.ok_or_else(|| CliError::Refused(no_source(name)))?;
    if args.reading.json {
        return output::json(&found);
    }
    let source = found.get("source").cloned().unwrap_or_default();
    let line = |label: &str, value: String| output::line(&format!("{label:<12}{value}"));
    line("source", shown(&source, "name"))?;
    line("from", format!("{}, cluster {}", shown(&source, "from"), shown(&source, "cluster_name")))?;
    line("cluster id", format!("{}, epoch {}", shown(&source, "cluster"), shown(&source, "epoch")))?;
    line("follows", format!("{} ({} topics)", shown(&source, "pattern"), shown(&source, "topics")))?;
    line("state", shown(&source, "state"))?;
    if let Some(reason) = source.get("reason").and_then(Value::as_str) {
        line("", reason.to_owned())?;
    }
    line("lag", number(&source, "lag_ms").map_or("-".to_owned(), output::millis))?;
    line("records", number(&source, "records").map_or("-".to_owned(), output::count))?;
    line(
        "requests",
        format!("{} an hour", number(&source, "requests_per_hour").map_or("-".to_owned(), output::count)),
    )?;
    let mut table = output::table(&["TOPIC", "PARTITIONS", "RECORDS", "NOTE"]);
    for topic in rows(&found, "topics") {
        let records = number(topic, "records").map_or("-".to_owned(), output::count);
        table.add_row([shown(topic, "name"), shown(topic, "partitions"), records, shown(topic, "note")]);
    }
    output::line("")?;
    output::print(&table)?;
    let mut table = output::table(&["LANE", "BROKER", "BUNDLE", "LAG", "STATE", "REASON"]);
    for lane in rows(&found, "lanes") {
        table.add_row([
            shown(lane, "lane"),
            shown(lane, "broker"),
            shown(lane, "bundle"),
            number(lane, "lag_ms").map_or("-".to_owned(), output::millis),
            shown(lane, "state"),
            shown(lane, "reason"),
        ]);
    }
    output::line("")?;
    output::print(&table)
}

async fn delete(args: NamedArgs) -> Result<(), CliError> {
    let (name, admin) = (&args.name, &args.reading.remote.admin);
    let gone = admin::delete(admin, &format!("/v1/replicas/{name}")).await?;
    let gone = gone.ok_or_else(|| CliError::Refused(no_source(name)))?;
    if args.reading.json {
        return output::json(&gone);
    }
    output::line(&format!("source {name} is no longer followed"))
}

fn no_source(name: &str) -> String {
    format!("no source is named {name}; see tidewater replica list")
}

fn older(admin: &str) -> CliError {
    CliError::Refused(format!("the broker at {admin} knows no sources; it may be of an older version"))
}

fn number(value: &Value, key: &str) -> Option<u64> {
    value.get(key).and_then(Value::as_u64)
}

/// A field for a table; `-` for none.
fn shown(value: &Value, key: &str) -> String {
    match value.get(key) {
        None | Some(Value::Null) => "-".to_owned(),
        Some(Value::String(text)) => text.clone(),
        Some(other) => other.to_string(),
    }
}

fn rows<'a>(value: &'a Value, key: &str) -> &'a [Value] {
    value.get(key).and_then(Value::as_array).map_or(&[], Vec::as_slice)
}
